"""What the published reference implementation recorded of its own speed."""

PUBLISHED_SOURCE = (
    "the published reference implementation's own recorded times: H100, batch 16, 32 heads, head "
    "size 128, bfloat16, pages of 16, 64 pages read, random keys"
)
PUBLISHED = {  # tokens: (dense, sparse), milliseconds a step
    8192: (0.800, 21.888),
    16384: (1.648, 22.059),
    32768: (3.362, 22.577),
    65536: (6.798, 23.382),
    131072: (13.666, 24.720),
}
