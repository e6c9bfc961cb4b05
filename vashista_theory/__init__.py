"""Theory verification for sparse attention: see the README."""
