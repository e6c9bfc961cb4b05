"""The stages on TPUs, by Pallas."""
