"""Tile sizes of the Hopper kernels: refused by name when bad, chosen by the shape when not given.

One class for each kernel that has something to choose.
"""

from dataclasses import dataclass

from vashista_theory.attention.kernels.spec import AttendShape, ScoreShape
from vashista_theory.attention.kernels.tile_checks import check_multiple
from vashista_theory.attention.kernels.token_spec import AttendTokensShape

GPU_ROWS = 64
"""Query rows of a tile: what one group of threads of a Hopper GPU multiplies."""
GPU_MOST_COLUMNS = 128
"""Columns of the output whose sums fit in registers beside the scores."""
GPU_REDUCTION_BYTES = 2048
"""What the kernel lets the compiler keep for sums across warps."""

# An H100's, by the description of the target that the compile check hands to the compiler.
_MULTIPROCESSORS = 132
_SHARED_OF_MULTIPROCESSOR = 233_472  # bytes
_SHARED_OF_BLOCK = 232_448  # bytes
_SHARED_RESERVED = 1024  # bytes that each block of threads costs beside its own
_MOST_STAGES = 4
_MOST_RESIDENT = 2  # blocks of threads on a multiprocessor; registers allow no more at D = 128


def _check_stages(stages: int) -> None:
    if stages < 2:
        raise ValueError(
            f"stages is {stages}; at least 2 are expected (one is used while the next is copied)."
        )


@dataclass(frozen=True)
class GpuAttendConfig:
    """How the Hopper kernel of `attend_pages` cuts its work.

    Attributes:
        block_tokens: Tokens multiplied at once.
        stages: Blocks of tokens held at once; one is multiplied, the others are on their way.
        splits: Shares that the pages of each row are cut into.
    """

    block_tokens: int
    stages: int
    splits: int

    def __post_init__(self) -> None:
        if self.block_tokens not in (64, 128):
            raise ValueError(
                f"block_tokens is {self.block_tokens}; 64 or 128 is expected (the tensor cores "
                "take 64 rows, and the scores of more than 128 spill)."
            )
        _check_stages(self.stages)
        check_multiple("splits", self.splits, 1, "shares of the pages")

    def shared_bytes(self, head_size: int, query_parts: int = 1) -> int:
        """Shared memory of a block of threads, bytes."""
        columns = min(head_size, GPU_MOST_COLUMNS)
        query = query_parts * GPU_ROWS * head_size * 2
        weights = GPU_ROWS * self.block_tokens * 2
        ring = self.stages * self.block_tokens * (head_size + columns) * 2
        staging = GPU_ROWS * (columns + 2) * 4  # of the result, where the ring was
        barriers = 8 * (1 + 2 * self.stages)
        return query + weights + max(ring, staging) + GPU_REDUCTION_BYTES + barriers

    def check(self, shape: AttendShape) -> None:
        """Raise a ValueError that names the tile, what it would take and what there is."""
        if self.block_tokens % shape.page_size:
            raise ValueError(
                f"block_tokens is {self.block_tokens}, which pages of {shape.page_size} tokens do "
                "not fill. Use a multiple of the page size."
            )
        needed = self.shared_bytes(shape.head_size, gpu_query_parts(shape))
        if needed > _SHARED_OF_BLOCK:
            raise ValueError(
                f"stages is {self.stages}: with {self.block_tokens} tokens of {shape.head_size} "
                f"dimensions they take {needed} bytes of the {_SHARED_OF_BLOCK} there are. Use "
                f"stages={gpu_attend_config(shape).stages}, block_tokens=64."
            )
        if self.splits > (most := _gpu_blocks(shape, self.block_tokens)):
            raise ValueError(
                f"splits is {self.splits}, but a row has at most {most} blocks of "
                f"{self.block_tokens} tokens. Use splits={most} or fewer."
            )


def gpu_query_parts(shape: AttendShape) -> int:
    """Parts of 16 bits that a query is cut into: three bfloat16 hold the 24 bits of a float32."""
    return 1 if shape.query_dtype == shape.pool_dtype else 3


def _gpu_blocks(shape: AttendShape, block_tokens: int) -> int:
    """Blocks of tokens of the longest row."""
    return -(-shape.listed * shape.page_size // block_tokens)


def gpu_attend_config(shape: AttendShape) -> GpuAttendConfig:
    """Blocks of 64 tokens, two blocks of threads on each multiprocessor where they fit.

    Then the splits for which waves of threads times blocks of a share, plus one for its start and
    end, are fewest. That is arithmetic, for an H100 and full rows; it was not tuned on a device.
    """

    def resident(stages: int) -> int:
        tiles = GpuAttendConfig(64, stages, 1)
        needed = tiles.shared_bytes(shape.head_size, gpu_query_parts(shape))
        fit = _SHARED_OF_MULTIPROCESSOR // (needed + _SHARED_RESERVED)
        return min(fit, _MOST_RESIDENT)

    stages = max(range(2, _MOST_STAGES + 1), key=lambda s: (resident(s), s))
    slots = _MULTIPROCESSORS * resident(stages)
    rows = shape.batch * shape.kv_heads * -(-shape.head_size // GPU_MOST_COLUMNS)
    return GpuAttendConfig(64, stages, _fewest_waves(slots, rows, _gpu_blocks(shape, 64)))


def _fewest_waves(slots: int, rows: int, blocks: int) -> int:
    """Splits of rows of so many blocks for which waves of `slots` blocks of threads end first."""

    def time(splits: int) -> int:
        return -(-rows * splits // slots) * (-(-blocks // splits) + 1)

    most = min(blocks, max(1, 2 * slots // rows))
    return min(range(1, most + 1), key=time)


GPU_TOKENS = 32
"""Single tokens attended to at once: a lane of a warp each."""
GPU_TOKENS_HEADS = 4
"""Query heads of a block of threads that attends to them: a warp each."""


@dataclass(frozen=True)
class GpuTokensConfig:
    """How the Hopper kernel of `attend_tokens` cuts its work.

    Attributes:
        stages: Blocks of 32 tokens held at once; one is read, the others are on their way.
        splits: Shares that the tokens of each row are cut into.
    """

    stages: int
    splits: int

    def __post_init__(self) -> None:
        _check_stages(self.stages)
        check_multiple("splits", self.splits, 1, "shares of the tokens")

    def shared_bytes(self, shape: AttendTokensShape) -> int:
        """Shared memory of a block of threads, bytes."""
        width, d = 4 if shape.pool_dtype == "float32" else 2, shape.head_size
        ring = [GPU_TOKENS * d * width, GPU_TOKENS * d * width, 2 * GPU_TOKENS * 4]
        of_heads = GPU_TOKENS_HEADS * 4
        parts = [self.stages * slot for slot in ring]
        parts += [of_heads * d, of_heads * GPU_TOKENS, 2 * of_heads * GPU_TOKENS, 5 * of_heads]
        parts += [3 * of_heads * d, 3 * of_heads, 8 * (1 + self.stages)]
        # Each part starts at a multiple of 1,024 bytes.
        return sum(-(-part // 1024) * 1024 for part in parts) + GPU_REDUCTION_BYTES

    def check(self, shape: AttendTokensShape) -> None:
        """Raise a ValueError that names the tile, what it would take and what there is."""
        if (needed := self.shared_bytes(shape)) > _SHARED_OF_BLOCK:
            raise ValueError(
                f"stages is {self.stages}: blocks of {GPU_TOKENS} tokens take {needed} bytes of "
                f"the {_SHARED_OF_BLOCK} there are. Use "
                f"stages={gpu_tokens_config(shape).stages}."
            )
        if self.splits > (most := -(-shape.listed // GPU_TOKENS)):
            raise ValueError(
                f"splits is {self.splits}, but a row has at most {most} blocks of {GPU_TOKENS} "
                f"tokens. Use splits={most} or fewer."
            )


def gpu_tokens_config(shape: AttendTokensShape) -> GpuTokensConfig:
    """As many blocks of threads on a multiprocessor as fit, and then as many stages.

    Splits as for `attend_pages`, and as there that is arithmetic, not tuned on a device.
    """

    def resident(stages: int) -> int:
        needed = GpuTokensConfig(stages, 1).shared_bytes(shape) + _SHARED_RESERVED
        return min(_SHARED_OF_MULTIPROCESSOR // needed, _MOST_RESIDENT)

    stages = max(range(2, _MOST_STAGES + 1), key=lambda s: (resident(s), s))
    rows = shape.batch * shape.kv_heads * -(-shape.group // GPU_TOKENS_HEADS)
    blocks = -(-shape.listed // GPU_TOKENS)
    return GpuTokensConfig(stages, _fewest_waves(_MULTIPROCESSORS * resident(stages), rows, blocks))


_JUDGED_LANES = (4, 8)
_JUDGED_WORDS = 512  # words of 4 tokens (sketch) that the threads of a warpgroup hold at once


@dataclass(frozen=True)
class GpuScoreConfig:
    """How the Hopper kernel of `score_pages` cuts its work.

    Attributes:
        lanes: Threads that share the dimensions of a page; with more of them fewer pages are judged
            at once.
        stages: Tiles of pages held at once; one is judged, the others are on their way.
        splits: Shares that the pages of each sequence are cut into.
    """

    lanes: int
    stages: int
    splits: int

    def __post_init__(self) -> None:
        if self.lanes not in _JUDGED_LANES:
            raise ValueError(f"lanes is {self.lanes}; one of {_JUDGED_LANES} is expected.")
        _check_stages(self.stages)
        check_multiple("splits", self.splits, 1, "shares of the pages")

    def tile(self, shape: ScoreShape) -> int:
        """Pages judged at once."""
        if shape.kind == "sketch":
            return _JUDGED_WORDS * 4 // (self.lanes * shape.page_size)
        return 128 // self.lanes

    def shared_bytes(self, shape: ScoreShape) -> int:
        """Shared memory of a block of threads, bytes."""
        tile, d = self.tile(shape), shape.head_size
        slots = {
            "box": (tile * d * 4,),
            "ball": (tile * d * 2, tile * 4),
            "sketch": (
                tile * d * 4,
                tile * shape.page_size * _code_bytes(shape),
                tile * shape.page_size * 4,
            ),
        }[shape.kind]
        staged = [(shape.group + 3) * tile * 4] * (3 if shape.kind == "sketch" else 2)
        if shape.by_token:
            slots, staged = slots[:2], [staged[0] * shape.page_size]
        changed = (4 * tile * shape.page_size * 4, 9 * tile * 4) if shape.kind == "sketch" else ()
        parts = [self.stages * slot for slot in slots]
        parts += [(shape.group + 3) * d * 4, *staged, *changed, 8 * (1 + self.stages)]
        # Each part starts at a multiple of 1,024 bytes.
        return sum(-(-part // 1024) * 1024 for part in parts) + GPU_REDUCTION_BYTES

    def check(self, shape: ScoreShape) -> None:
        """Raise a ValueError that names the tile, what it would take and what there is."""
        if shape.kind != "sketch" and self.lanes != 4:
            raise ValueError(
                f"lanes is {self.lanes}; a {shape.kind} is judged by 4, so that tiles fill the "
                "rows that the copy engine writes."
            )
        if (needed := self.shared_bytes(shape)) > _SHARED_OF_BLOCK:
            raise ValueError(
                f"stages is {self.stages}: tiles of {self.tile(shape)} pages take {needed} bytes "
                f"of the {_SHARED_OF_BLOCK} there are. Use fewer stages, or lanes=8 for a sketch."
            )
        if self.splits > (most := -(-shape.pages // self.tile(shape))):
            raise ValueError(
                f"splits is {self.splits}, but a sequence has at most {most} tiles of "
                f"{self.tile(shape)} pages. Use splits={most} or fewer."
            )


def _code_bytes(shape: ScoreShape) -> int:
    """Bytes of the codes of one token."""
    bits = shape.bits or 8
    return shape.head_size * (bits if shape.packed else 8) // 8


def gpu_score_config(shape: ScoreShape) -> GpuScoreConfig | None:
    """Tiles with which most blocks of threads fit on a multiprocessor; None if none do.

    Then splits so that every multiprocessor has as many blocks as fit, and each at least four tiles
    to hide the first copy behind. That is arithmetic, for an H100 and full rows; it was not tuned
    on a device.
    """

    def resident(config: GpuScoreConfig) -> int:
        needed = config.shared_bytes(shape) + _SHARED_RESERVED
        return min(_SHARED_OF_MULTIPROCESSOR // needed, _MOST_RESIDENT)

    lanes = _JUDGED_LANES if shape.kind == "sketch" else (4,)
    ways = [GpuScoreConfig(n, s, 1) for n in lanes for s in range(2, _MOST_STAGES + 1)]
    ways = [way for way in ways if way.shared_bytes(shape) <= _SHARED_OF_BLOCK]
    if not ways:
        return None
    best = max(ways, key=lambda way: (resident(way), -way.lanes, way.stages))
    tiles = -(-shape.pages // best.tile(shape))
    rows = shape.batch * shape.kv_heads
    splits = -(-_MULTIPROCESSORS * resident(best) // rows)
    return GpuScoreConfig(best.lanes, best.stages, max(1, min(splits, tiles // 4)))
