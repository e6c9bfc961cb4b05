"""When a latency counts as predictable."""

TAIL = 1.25
"""p99 over p50 at most so many times that of dense, whose work is the same for every query, so that
its ratio is the machine's own."""
