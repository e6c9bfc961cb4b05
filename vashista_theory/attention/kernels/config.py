"""Tile sizes: frozen, refused by name when they are bad, and chosen from the shape when not given.

One class for each device kernel that has something to choose.
"""

from dataclasses import dataclass

from vashista_theory.attention.kernels.spec import AttendShape, ScoreShape

_VMEM = 12 * 2**20  # bytes; every TPU since v4 has 16 MiB to a core or more
_MOST_UNROLLED = 32  # copies written out in the body for each block of pages


def _check_multiple(name: str, value: int, of: int, reason: str) -> None:
    if value < of or value % of:
        raise ValueError(f"{name} is {value}; a positive multiple of {of} is expected ({reason}).")


@dataclass(frozen=True)
class TpuAttendConfig:
    """How the TPU kernel of `attend_pages` cuts its work.

    Attributes:
        pages_per_block: Pages copied and multiplied at once; two blocks are held, one of them on
            its way.
    """

    pages_per_block: int

    def __post_init__(self) -> None:
        _check_multiple("pages_per_block", self.pages_per_block, 1, "whole pages are copied")
        if self.pages_per_block > _MOST_UNROLLED:
            raise ValueError(
                f"pages_per_block is {self.pages_per_block}; at most {_MOST_UNROLLED} copies are "
                "written out in the body of the kernel."
            )

    def check(self, shape: AttendShape) -> None:
        """Raise unless the tiles fit such a call.

        Raises:
            ValueError: naming the tile, what it would take and what there is.
        """
        if (needed := _attend_bytes(self.pages_per_block, shape)) > _VMEM:
            raise ValueError(
                f"pages_per_block is {self.pages_per_block}: two blocks of such pages and their "
                f"scores take {needed} bytes of the {_VMEM} there are. Use "
                f"pages_per_block={tpu_attend_config(shape).pages_per_block}."
            )


def _attend_bytes(pages_per_block: int, shape: AttendShape) -> int:
    width = 2 if shape.pool_dtype == "bfloat16" else 4
    lanes = -(-shape.head_size // 128) * 128
    tokens = pages_per_block * shape.page_size
    # Keys and values, two of each; a float32 copy of both for the product; the scores.
    return tokens * lanes * (4 * width + 8) + 4 * tokens * max(8, shape.group) * 4


def tpu_attend_config(shape: AttendShape) -> TpuAttendConfig:
    """Blocks of 256 tokens: long enough to keep the copies busy, and two fit in any memory."""
    wanted = max(1, min(256 // shape.page_size, shape.listed, _MOST_UNROLLED))
    while wanted > 1 and _attend_bytes(wanted, shape) > _VMEM:
        wanted //= 2
    return TpuAttendConfig(pages_per_block=wanted)


@dataclass(frozen=True)
class TpuScoreConfig:
    """How the TPU kernel of `score_pages` cuts its work.

    Attributes:
        pages_per_block: Pages of the pool that are judged at once, by all queries of a kv head.
    """

    pages_per_block: int

    def __post_init__(self) -> None:
        _check_multiple("pages_per_block", self.pages_per_block, 128, "scores fill whole lanes")

    def check(self, shape: ScoreShape) -> None:
        """Raise unless the tiles fit such a call.

        Raises:
            ValueError: naming the tile, what it would take and what there is.
        """
        if (needed := _score_bytes(self.pages_per_block, shape)) > _VMEM:
            raise ValueError(
                f"pages_per_block is {self.pages_per_block}: boxes and scores of so many pages "
                f"take {needed} bytes of the {_VMEM} there are. Use "
                f"pages_per_block={tpu_score_config(shape).pages_per_block}."
            )


def _score_bytes(pages_per_block: int, shape: ScoreShape) -> int:
    lanes = -(-shape.head_size // 128) * 128
    rows = shape.batch * shape.group
    # Boxes twice and both corners once in float32; two outputs, each twice; the products.
    return pages_per_block * 4 * (4 * lanes + 8 * rows) + 2 * rows * lanes * 4


def tpu_score_config(shape: ScoreShape) -> TpuScoreConfig:
    """The largest block up to 1,024 pages whose boxes and scores fit in memory."""
    wanted = min(1024, -(-shape.pool_pages // 128) * 128)
    while wanted > 128 and _score_bytes(wanted, shape) > _VMEM:
        wanted = max(128, wanted // 2 // 128 * 128)
    return TpuScoreConfig(pages_per_block=wanted)
