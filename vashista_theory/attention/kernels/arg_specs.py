"""One list of shapes for tests, compile checks and benchmarks, each with its source."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.kernels.spec import (
    AttendShape,
    Kind,
    ScoreShape,
    SelectShape,
    Shape,
    Stage,
)
from vashista_theory.attention.kernels.token_spec import AttendTokensShape, DrawShape


@dataclass(frozen=True)
class ArgSpec:
    """A decode step as someone runs it.

    Attributes:
        source: Where the numbers come from.
        lengths: Tokens of each sequence of the batch.
        listed: Pages that each kv head reads.
        kind: What pages are judged by.
        bits: Bits of the sketch, None for the other kinds.
    """

    name: str
    source: str
    heads: int
    kv_heads: int
    head_size: int
    lengths: tuple[int, ...]
    page_size: int = 16
    listed: int = 64
    dtype: str = "bfloat16"
    kind: Kind = "box"
    bits: int | None = None

    @property
    def batch(self) -> int:
        """Sequences."""
        return len(self.lengths)

    @property
    def pages(self) -> int:
        """Pages of the longest sequence."""
        return max(1, -(-max(self.lengths) // self.page_size))

    @property
    def pool_pages(self) -> int:
        """Pages of all sequences."""
        return max(1, sum(-(-length // self.page_size) for length in self.lengths))

    def attend(self) -> AttendShape:
        """The call of `attend_pages`."""
        listed = min(self.listed, self.pages)
        return AttendShape(**self._query_shape(), listed=listed, pool_dtype=self.dtype)

    def attend_tokens(self) -> AttendTokensShape:
        """The call of `attend_tokens`, with room for as many tokens as the pages would be."""
        shape = self.attend()
        listed = shape.listed * shape.page_size
        return AttendTokensShape(**self._query_shape(), listed=listed, pool_dtype=self.dtype)

    def _query_shape(self) -> dict[str, Any]:
        names = ("batch", "heads", "kv_heads", "head_size", "page_size", "pool_pages")
        return {name: getattr(self, name) for name in names} | {"query_dtype": self.dtype}

    def score(self) -> ScoreShape:
        """The call of `score_pages`."""
        return ScoreShape(
            **self._query_shape(),
            kind=self.kind,
            bits=self.bits,
            packed=True,
            pages=self.pages,
            stored="bfloat16",
        )

    def score_tokens(self) -> ScoreShape:
        """The call of `score_tokens`, by two bits where pages are judged by no sketch."""
        return replace(self.score(), kind="sketch", bits=self.bits or 2, by_token=True)

    def draw_tokens(self) -> DrawShape:
        """A draw of as many tokens as the pages would be, by four bits where there is no sketch."""
        bits = self.bits or 4
        return DrawShape(
            **self._query_shape(),
            pages=self.pages,
            listed=self.attend_tokens().listed,
            code_bytes=sketch.row_bytes(bits, self.head_size, packed=True),
            levels=sketch.levels(bits),
            stored="bfloat16",
        )

    def select(self) -> SelectShape:
        """The call of `select_pages`."""
        return SelectShape(self.batch, self.kv_heads, self.pages, min(self.listed, self.pages))

    def small(self) -> "ArgSpec":
        """The same heads, page and types with so little context that an interpreter is quick.

        At most two kv heads, two sequences and about ten pages, the last of them as full as it was.
        """
        kv_heads = min(self.kv_heads, 2)
        lengths = tuple(
            min(length, 9 * self.page_size + length % self.page_size)
            for length in (self.lengths[0], min(self.lengths))[: self.batch]
        )
        return replace(
            self,
            heads=self.heads // self.kv_heads * kv_heads,
            kv_heads=kv_heads,
            lengths=lengths,
            listed=min(self.listed, 5),
        )


_PUBLISHED = "geometry of the published reference implementation, H100, T = 8k to 128k"
_LLAMA = "Llama 3 8B, arXiv:2407.21783, table 3"
_QWEN = "Qwen2.5 7B, arXiv:2412.15115, table 1"
_GEMMA = "Gemma 2 9B, arXiv:2408.00118, table 1"
_SMOL = "SmolLM2-135M, its config.json"

ARG_SPECS = (
    ArgSpec("published_32kv", _PUBLISHED, 32, 32, 128, (131_072,) * 16),
    ArgSpec("published_8kv", _PUBLISHED, 32, 8, 128, (131_072,) * 16),
    ArgSpec("published_8k", _PUBLISHED, 32, 8, 128, (8_192,) * 16),
    ArgSpec("one_long", "one sequence of a million tokens", 32, 8, 128, (1_048_576,)),
    ArgSpec("llama3_8b", _LLAMA, 32, 8, 128, (8_192,) * 8, kind="sketch", bits=4),
    ArgSpec("llama3_8b_page32", _LLAMA, 32, 8, 128, (32_000,) * 4, page_size=32, listed=32),
    ArgSpec("llama3_8b_float16", _LLAMA, 32, 8, 128, (8_191,) * 4, dtype="float16", kind="ball"),
    ArgSpec("qwen2_7b", _QWEN, 28, 4, 128, (32_768,) * 8, kind="sketch", bits=8),
    ArgSpec("gemma2_9b", _GEMMA, 16, 8, 256, (8_192,) * 4, page_size=64, listed=16),
    ArgSpec("smollm2_135m", _SMOL, 9, 3, 64, (8_190, 17), dtype="float32", kind="sketch", bits=2),
    ArgSpec(
        "ragged",
        "a serving batch: idle places, one token, page edges, short and long requests",
        *(32, 8, 128),
        lengths=(131_071, 0, 1, 16, 15, 4_097, 700, 33_000),
        kind="sketch",
        bits=4,
    ),
    ArgSpec("ragged_page64", "the same in pages of 64", 8, 8, 64, (9_999, 0, 64, 63), page_size=64),
)


def shapes(specs: Sequence[ArgSpec] = ARG_SPECS) -> dict[Stage, list[Shape]]:
    """The calls of all stages."""
    return {
        "attend": [spec.attend() for spec in specs],
        "score": [spec.score() for spec in specs],
        "select": [spec.select() for spec in specs],
        "attend_tokens": [spec.attend_tokens() for spec in specs],
        "score_tokens": [spec.score_tokens() for spec in specs],
        "draw_tokens": [spec.draw_tokens() for spec in specs],
    }
