"""One file a figure: reads results, draws, never computes."""
