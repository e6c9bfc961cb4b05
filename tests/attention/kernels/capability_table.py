"""The table of what each back end can do, made from what the back ends themselves say.

``python -m tests.attention.kernels.capability_table`` writes it anew.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.kernels import IMPLEMENTATIONS, capabilities
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS, shapes
from vashista_theory.attention.kernels.spec import (
    DTYPES,
    STAGES,
    AttendShape,
    ScoreShape,
    Shape,
    Stage,
)

BASE = "published_8kv"  # of which the variants are
WRITTEN = Path(__file__).with_name("capabilities.md")


def capability_table() -> str:
    reasons: list[str] = []
    asked = {
        stage: {f"`{call.name}`": shape for call, shape in zip(ARG_SPECS, found, strict=True)}
        for stage, found in shapes().items()
    }
    lines = [
        "# What each kernel can do",
        "",
        "Written by `python -m tests.attention.kernels.capability_table` from what the back ends",
        "say to `arg_specs`, and to variants of one of them; a test compares. A number names a",
        "reason below.",
    ]
    for stage in STAGES:
        lines += ["", f"## {stage}", *_rows("call", stage, asked[stage], reasons)]
    lines += ["", f"## score, by summary (`{BASE}`)"]
    lines += _rows("summary", "score", dict(_summaries(asked["score"][f"`{BASE}`"])), reasons)
    lines += ["", f"## attend, by type and size (`{BASE}`)"]
    lines += _rows("call", "attend", dict(_sizes(asked["attend"][f"`{BASE}`"])), reasons)
    lines += ["", "## Reasons", ""]
    lines += [f"{i}. {reason}" for i, reason in enumerate(reasons, start=1)]
    return "\n".join(lines) + "\n"


def _rows(
    title: str, stage: Stage, asked: Mapping[str, Shape], reasons: list[str]
) -> Iterator[str]:
    said = {name: [] for name in IMPLEMENTATIONS}
    for found in capabilities({stage: list(asked.values())}):
        said[found.implementation].append(found.why_not)
    yield ""
    yield f"| {title} | {' | '.join(IMPLEMENTATIONS)} |"
    yield "|---" * (1 + len(IMPLEMENTATIONS)) + "|"
    for name, *answers in zip(asked, *said.values(), strict=True):
        cells = []
        for why_not in answers:
            if why_not is not None and why_not not in reasons:
                reasons.append(why_not)
            cells.append("yes" if why_not is None else f"no ({reasons.index(why_not) + 1})")
        yield f"| {name} | {' | '.join(cells)} |"


def _summaries(base: ScoreShape) -> Iterator[tuple[str, ScoreShape]]:
    """Every kind of summary, as it can be held."""
    plain = replace(base, kind="box", bits=None, packed=True)
    for stored in ("bfloat16", "float32"):
        yield f"box, {stored}", replace(plain, stored=stored)
        yield f"ball, {stored}", replace(plain, kind="ball", stored=stored)
    for bits in sketch.BITS:
        for packed in (True, False) if bits < 8 else (True,):
            held = "" if bits == 8 else ", packed" if packed else ", a byte each"
            shape = replace(plain, kind="sketch", bits=bits, packed=packed)
            yield f"sketch, {bits} bits{held}", shape
    four = replace(plain, kind="sketch", bits=4)
    yield "sketch, 4 bits, float32", replace(four, stored="float32")


def _sizes(base: AttendShape) -> Iterator[tuple[str, AttendShape]]:
    """Every pair of types, every head size, every page size."""
    for pool in DTYPES:
        for query in DTYPES:
            name = f"{query} query, {pool} keys"
            yield name, replace(base, query_dtype=query, pool_dtype=pool)
    for size in (64, 128, 256):
        yield f"head size {size}", replace(base, head_size=size)
    for size in (16, 32, 64):
        yield f"pages of {size}", replace(base, page_size=size)


if __name__ == "__main__":
    WRITTEN.write_text(capability_table(), encoding="utf-8")
