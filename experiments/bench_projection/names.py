"""What our own calls, and the floor, are called in the rows."""

OURS, EAGER = "project (jit)", "project"
FLOOR, START = "one pass K u", "project (jit), 8 keys"
