"""The stages on Hopper GPUs, by Mosaic GPU."""
