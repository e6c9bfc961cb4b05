"""The answer about whole heads: sentences first, then a table, then the page of one query."""

import dataclasses
import io
import math
import statistics
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vashista_theory._diagnose.number_format import number
from vashista_theory._diagnose.page import WIDTH, Diagnosis, as_renderable
from vashista_theory._diagnose.record import Asked, HeadReading
from vashista_theory._words import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_HEADS = 40
_BEYOND = 3.0
"""A measured error of so many times its own estimate, a standard deviation, is no chance."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer(Diagnosis):
    """Whether heads can be read sparsely: a verdict, numbers by head, and the page of one query.

    `print` it; `to_json` for programs; `figure` for a picture. The attributes of `Diagnosis` are
    those of the query shown.

    Attributes:
        sparse: Whether a read of so many tokens is expected to do: no head's worst expected error
            is above the tolerance, and none was measured far beyond its estimate. None where the
            context fits into those tokens, so that nothing would be gained.
        sentences: The verdict.
        heads: By query head, layer by layer.
        asked: Context, tokens, tolerance.
        shown: Layer, head and position of the query that the page is about, the last one given; it
            sees the keys up to that position.
        notes: How the arrays were understood.
    """

    sparse: bool | None
    sentences: tuple[str, ...]
    heads: tuple[HeadReading, ...]
    asked: Asked
    shown: tuple[int, int, int]
    notes: tuple[str, ...]

    def figure(self) -> "Figure":
        """A picture by head: expected error, pages of a proof, distance to the regime."""
        from vashista_theory._diagnose.figure import draw

        return draw(self.heads, self.asked)

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=WIDTH, color_system=None).print(answer_as_renderable(self))
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def is_sparse(heads: tuple[HeadReading, ...], asked: Asked) -> bool | None:
    """What `Answer.sparse` says."""
    if asked.context <= asked.tokens:
        return None
    within = all(head.worst_estimate <= asked.tolerance for head in heads)
    return within and not _beyond(heads, asked)


def _beyond(heads: tuple[HeadReading, ...], asked: Asked) -> list[HeadReading]:
    """Heads whose reads were further off than their estimates allow for."""
    large = (head for head in heads if head.error > asked.tolerance)
    return [head for head in large if head.error > _BEYOND * head.worst_estimate]


def sentences(heads: tuple[HeadReading, ...], asked: Asked) -> tuple[str, ...]:
    """The verdict."""
    pages = _percent(statistics.fmean(head.pages_to_prove for head in heads))
    proof = (
        f"To prove that a read drops at most {_percent(asked.tolerance)} of the softmax takes "
        f"{pages} of the pages."
    )
    said = _whole(asked) if asked.context <= asked.tokens else _sampled(heads, asked)
    return (*said, proof, _regime(heads))


def _whole(asked: Asked) -> list[str]:
    said = (
        f"Nothing to gain: the {count(asked.context, 'token')} of this context fit into the "
        f"{asked.tokens:,} that a sampled read takes, so everything is read."
    )
    return [said]


def _sampled(heads: tuple[HeadReading, ...], asked: Asked) -> list[str]:
    more = sum(head.worst_estimate > asked.tolerance for head in heads) / len(heads)
    middle = statistics.median(head.estimate for head in heads)
    measured = statistics.median(head.error for head in heads)
    safe = f"For {_percent(1 - more)} of the heads"
    if more == 1:
        safe = "No, too few tokens are read"
    elif is_sparse(heads, asked):
        safe = "Yes, a sparse read is expected to do"
    elif not more:
        safe = "No, reads are further off than they expect to be"
    unit = "" if asked.with_values else " of the length of a value (none were given: random ones)"
    queries = count(asked.queries, "query")
    expected = (
        f"{safe}: reading {asked.tokens:,} of {asked.context:,} tokens is expected to be "
        f"{_percent(middle)}{unit} off, by its own estimate (measured: {_percent(measured)}; "
        f"medians of {count(len(heads), 'head')}, {queries} each)."
    )
    doubts = _doubts(heads, asked)
    within = f"to stay within {_percent(asked.tolerance)}"
    if not more:
        return [expected, *doubts, f"No head needs more {within}."]
    enough = max(head.tokens_needed for head in heads)
    needed = (
        f"{_percent(more)} of the heads need more {within}; about {enough:,} tokens would do for "
        "the worst."
    )
    return [expected, *doubts, needed]


def _doubts(heads: tuple[HeadReading, ...], asked: Asked) -> list[str]:
    """Where the numbers of the first sentence are not what they seem."""
    said: list[str] = []
    if beyond := _beyond(heads, asked):
        said.append(
            f"Do not trust the estimate of {count(len(beyond), 'head')}: the measured error is "
            f"more than {_BEYOND:.0f} times the largest estimate."
        )
    noise = [head for head in heads if head.worst_estimate >= 1]
    if noise:
        said.append(
            f"An expected error of 100 % or more ({count(len(noise), 'head')}) means that such a "
            "read gives noise instead of the output."
        )
    return said


def _regime(heads: tuple[HeadReading, ...]) -> str:
    looked = [head for head in heads if head.regime]
    inside = [head for head in looked if head.regime in ("inside", "unproved")]
    hull = [head for head in looked if head.regime == "no gap"]
    outside = [head.colder for head in looked if head.regime == "outside"]
    said = "The theorem's regime (1 % leakage): "
    if len(inside) == len(looked):
        proved = all(head.regime == "inside" for head in inside)
        return said + ("yes." if proved else "yes, though not proved for every head.")
    share = "no" if not inside else f"for {_percent(len(inside) / len(looked))} of the heads"
    if not outside:
        return f"{said}{share}: the query lies inside the hull of its keys, and there is no gap."
    middle, low, high = statistics.median(outside), min(outside), max(outside)
    times = f"{number(_two(middle))} times lower" + (" for the others" if inside else "")
    if low < high:
        times += f" (median; {number(_two(low))} to {number(_two(high))})"
    if hull:
        times += f"; {count(len(hull), 'head')} have a query inside the hull, without a gap"
    return f"{said}{share}; ε would have to be {times}."


def _two(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}") if math.isfinite(value) else value


def _percent(share: float) -> str:
    if math.isinf(share):
        return "∞"
    value = 100 * share
    if 0 < value < 1e-3:
        return "<0.001 %"
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"


def answer_as_renderable(found: Answer) -> RenderableType:
    """The answer for a `rich` console."""
    layer, head, position = found.shown
    parts: list[RenderableType] = [Text(" ".join(found.sentences), style="bold")]
    parts += [Text(note, style="dim") for note in found.notes]
    budget = f"  errors are those of reading {found.asked.tokens:,} tokens"
    parts += [Text.assemble(("\nBy head", "bold"), (budget, "dim")), _heads(found)]
    where = f"layer {layer}, head {head}, its last query (sees the keys 0 to {position:,})"
    parts.append(Text(f"\nThe hardest head to read, closely: {where}"))
    return Group(*parts, as_renderable(found))


def _heads(found: Answer) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    columns = (
        "layer", "head", "expected", "worst", "measured", "tokens", "would do", "pages", "90 % in",
        "ε too high",
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="right")
    shown = sorted(found.heads, key=lambda head: -head.worst_estimate)[:_SHOWN_HEADS]
    for head in sorted(shown, key=lambda head: (head.layer, head.head)):
        high = head.worst_estimate > found.asked.tolerance
        table.add_row(
            str(head.layer),
            str(head.head),
            _percent(head.estimate),
            _percent(head.worst_estimate),
            _percent(head.error),
            f"{head.tokens_read:,.0f}",
            f"{head.tokens_needed:,}",
            _percent(head.pages_to_prove),
            count(head.support, "key"),
            _colder(head),
            style="yellow" if high else "",
        )
    hidden = len(found.heads) - len(shown)
    least = "" if hidden <= 0 else f"and {count(hidden, 'head')} with smaller estimates (--json)\n"
    asked, unit = found.asked, "of the output" if found.asked.with_values else "of a value"
    share = _percent(asked.tolerance)
    legend = (
        f"expected, worst: median and largest error, relative to the length {unit}, as reads tell "
        "(T8)\nmeasured: distance from dense attention, the same median\n"
        f"tokens: read on average; each is drawn or not by chance, so about {asked.tokens:,}\n"
        f"would do: tokens that would bring the worst to {share}; the whole context at most\n"
        f"pages: share that proves {share} dropped (T7); 90 % in: keys with 90 % of the softmax\n"
        "ε too high: by this factor, for 1 % leakage off the exposed face (last query)"
    )
    return Padding(Group(table, Text(least + legend, style="dim")), (0, 0, 0, 2))


def _colder(head: HeadReading) -> str:
    if head.regime == "no gap":
        return "no gap"
    if not head.regime:
        return ""
    return "in regime" if head.regime in ("inside", "unproved") else number(_two(head.colder))
