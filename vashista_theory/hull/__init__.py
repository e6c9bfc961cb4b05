"""The theorem: projection on the hull of the keys, its relaxation, and every bound explicit."""
