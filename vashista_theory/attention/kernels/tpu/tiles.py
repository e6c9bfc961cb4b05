"""Tile sizes of the TPU kernels: refused by name when bad, chosen by the shape when not given.

One class for each kernel that has something to choose.
"""

from dataclasses import dataclass

from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.kernels.spec import AttendShape, ScoreShape, SelectShape
from vashista_theory.attention.kernels.tile_checks import check_multiple
from vashista_theory.attention.kernels.token_spec import AttendTokensShape

TPU_MEMORY = 12 * 2**20
"""Bytes beside a TPU's vector units that are counted on; since v4 a core has 16 MiB or more."""
_SCORES_HELD = 32 * 2**20  # bytes of scores, most of which are thrown away
_MOST_UNROLLED = 32  # copies written out in the body for each block of pages


@dataclass(frozen=True)
class TpuAttendConfig:
    """How the TPU kernel of `attend_pages` cuts its work.

    Attributes:
        pages_per_block: Pages copied and multiplied at once; two blocks are held, one of them on
            its way.
    """

    pages_per_block: int

    def __post_init__(self) -> None:
        check_multiple("pages_per_block", self.pages_per_block, 1, "whole pages are copied")
        if self.pages_per_block > _MOST_UNROLLED:
            raise ValueError(
                f"pages_per_block is {self.pages_per_block}; at most {_MOST_UNROLLED} copies are "
                "written out in the body of the kernel."
            )

    def check(self, shape: AttendShape) -> None:
        """Raise a ValueError that names the tile, what it would take and what there is."""
        if (needed := _attend_bytes(self.pages_per_block, shape)) > TPU_MEMORY:
            raise ValueError(
                f"pages_per_block is {self.pages_per_block}: two blocks of such pages and their "
                f"scores take {needed} bytes of the {TPU_MEMORY} there are. Use "
                f"pages_per_block={tpu_attend_config(shape).pages_per_block}."
            )


def _attend_bytes(pages_per_block: int, shape: AttendShape) -> int:
    width = 2 if shape.pool_dtype == "bfloat16" else 4
    lanes = _whole(shape.head_size, 128)
    tokens = pages_per_block * shape.page_size
    # Keys and values, two of each; a float32 copy of both for the product; the scores.
    return tokens * lanes * (4 * width + 8) + 4 * tokens * max(8, shape.group) * 4


def tpu_attend_config(shape: AttendShape) -> TpuAttendConfig:
    """Blocks of 256 tokens: long enough to keep the copies busy, and two fit in any memory."""
    pages = max(1, min(256 // shape.page_size, shape.listed, _MOST_UNROLLED))
    while pages > 1 and _attend_bytes(pages, shape) > TPU_MEMORY:
        pages //= 2
    return TpuAttendConfig(pages_per_block=pages)


def tpu_attend_tokens_bytes(shape: AttendTokensShape) -> int:
    """What all tokens of a kv head, and the scores of its query heads, take in a core."""
    width = 2 if shape.pool_dtype == "bfloat16" else 4
    tokens, lanes = _whole(shape.listed, 128), _whole(shape.head_size, 128)
    # Keys and values, two of each; a float32 copy of both and a distance; scores, masses, weights.
    return tokens * lanes * (4 * width + 12) + 8 * tokens * max(8, shape.group) * 4


@dataclass(frozen=True)
class TpuScoreConfig:
    """How the TPU kernels of `score_pages` cut their work.

    Attributes:
        pages_per_block: Pages of the pool that are judged at once, by all queries of a kv head.
        heads_at_once: Kv heads whose scores of the whole pool are held before each sequence's own
            are picked from them.
    """

    pages_per_block: int
    heads_at_once: int = 1

    def __post_init__(self) -> None:
        check_multiple("pages_per_block", self.pages_per_block, 128, "scores fill whole lanes")
        check_multiple("heads_at_once", self.heads_at_once, 1, "whole heads are scored")

    def check(self, shape: ScoreShape) -> None:
        """Raise a ValueError that names the tile, what it would take and what there is."""
        if (needed := _score_bytes(self.pages_per_block, shape)) > TPU_MEMORY:
            raise ValueError(
                f"pages_per_block is {self.pages_per_block}: summaries and scores of so many pages "
                f"take {needed} bytes of the {TPU_MEMORY} there are. Use "
                f"pages_per_block={tpu_score_config(shape).pages_per_block}."
            )
        if shape.kv_heads % self.heads_at_once:
            raise ValueError(
                f"heads_at_once is {self.heads_at_once}, which does not divide the "
                f"{shape.kv_heads} kv heads. Use "
                f"heads_at_once={tpu_score_config(shape).heads_at_once}."
            )


def _whole(count: int, of: int) -> int:
    return -(-count // of) * of


def _score_bytes(pages_per_block: int, shape: ScoreShape) -> int:
    # By token each sequence's own queries meet its pages, else those of all.
    together = shape.group if shape.by_token else shape.batch * shape.group
    rows, d = _whole(together, 8), shape.head_size
    lanes = _whole(d, 128)
    numbers = {"bfloat16": 1, "float32": 2}[shape.stored] * (1 if shape.kind == "ball" else 2)
    # What is held twice and in float32 once more, two outputs twice, products and their sums.
    each = lanes * (4 * numbers + 4 * 2) + 4 * rows * (4 + 5)
    if shape.kind == "sketch":
        code_bytes = sketch.row_bytes(shape.bits or 8, d, packed=shape.packed)
        # Codes twice, in rows of 32; residuals; step and width; keys and logits of eight tokens;
        # a third output twice.
        each += 2 * code_bytes * _whole(shape.page_size, 32) + 3 * 4 * shape.page_size
        each += 4 * d * (2 + 8) + 4 * rows * (8 + 4 + 2)
        each += 2 * 4 * rows * shape.page_size * shape.by_token
    return pages_per_block * each + 2 * rows * lanes * 4


def tpu_least_score_bytes(shape: ScoreShape) -> int:
    """What the smallest block takes, bytes."""
    return _score_bytes(128, shape)


def tpu_score_config(shape: ScoreShape) -> TpuScoreConfig:
    """The largest block up to 1,024 pages that fits, and as many heads as 32 MiB of scores are."""
    pages = min(1024, _whole(shape.pool_pages, 128))
    while pages > 128 and _score_bytes(pages, shape) > TPU_MEMORY:
        pages = max(128, pages // 2 // 128 * 128)
    outputs = 3 if shape.kind == "sketch" else 2
    of_head = outputs * 4 * _whole(shape.batch * shape.group, 8) * shape.pool_pages
    heads = [n for n in range(1, shape.kv_heads + 1) if shape.kv_heads % n == 0]
    fitting = [n for n in heads if n * of_head <= _SCORES_HELD]
    return TpuScoreConfig(pages_per_block=pages, heads_at_once=max(fitting, default=1))


def tpu_select_bytes(shape: SelectShape) -> int:
    """What eight rows of the TPU kernel of `select_pages` take, bytes."""
    # Priorities twice, their order, how many were chosen, and a mask; places twice.
    return 8 * 4 * (5 * _whole(shape.pages, 128) + 2 * _whole(shape.count, 128))
