"""Where figures come from and go to: results in, PNG and PDF out, a note that ties the two.

A figure is a module with `RESULT`, the experiment it reads, and `draw`, which takes its outcome.
"""

import hashlib
import importlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.framework.results import outcome, path_of, read
from vashista_theory import runs
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE, STYLE, save

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER / "output"

COLOURS = {
    "dense": GREY,
    "published algorithm": PURPLE,
    "budget": BLUE,
    "sampled": GREEN,
    "certified": ORANGE,
    "floor": GREEN,
}


class NothingToDrawError(ValueError):
    """The result lacks the rows that a figure shows; the message says which."""


@dataclass(frozen=True)
class Drawn:
    """The files of one figure."""

    png: Path
    pdf: Path
    note: Path


def names() -> list[str]:
    """Names of all figures, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def make(name: str, *, results: Path | None, output: Path) -> Drawn | str:
    """Draw one figure, or say in one line why not.

    Args:
        name: One of `names()`.
        results: Folder of the result files; None for the project's own.
        output: Folder for the figure.

    Raises:
        ValueError: There is no such figure.
    """
    if name not in names():
        raise ValueError(f"there is no figure {name!r}; known: {', '.join(names())}")
    module = importlib.import_module(f"figures.{name}")
    source = path_of(module.RESULT, folder=results)
    if read(source) is None:
        return f"{name}: not measured (python -m experiments {module.RESULT} makes its result)"
    try:
        with mpl.rc_context(STYLE):
            figure = module.draw(outcome(module.RESULT, folder=results))
            return _save(figure, name, source, output)
    except NothingToDrawError as error:
        return f"{name}: not measured ({error})"


def _save(figure: Figure, name: str, source: Path, output: Path) -> Drawn:
    output.mkdir(parents=True, exist_ok=True)
    drawn = Drawn(*(output / f"{name}{end}" for end in (".png", ".pdf", ".json")))
    save(figure, output / name)
    note = {
        "figure": name,
        "result": source.name,
        "result_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "drawn_by": f"python -m figures {name}",
    }
    runs.write_atomically(drawn.note, json.dumps(note, indent=1) + "\n")
    return drawn


def panels(titles: Sequence[str], *, height: float = 2.5) -> tuple[Figure, list[Any]]:
    """A figure with panels side by side, each with its title."""
    figure = Figure(figsize=(COLUMN * max(1.0, 0.95 * len(titles)), height), layout="constrained")
    axes = [figure.add_subplot(1, len(titles), i + 1) for i in range(len(titles))]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
    return figure, axes


def measured(tables: Any) -> list[dict[str, Any]]:
    """The rows of the decode table; a dry run has no place in a figure."""
    rows = [dict(row) for row in tables["decode"].rows]
    if not rows:
        raise NothingToDrawError("the result has no decode rows")
    return rows


def fastest(rows: Sequence[dict[str, Any]], step: str) -> list[dict[str, Any]]:
    """The fastest way of a step at each length, on real keys where it was run on those."""
    best: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["step"] != step or (step != "dense" and row["keys"] != "real heads"):
            continue
        held = best.get(row["tokens"])
        if held is None or row["counted_us"] < held["counted_us"]:
            best[row["tokens"]] = row
    return [best[tokens] for tokens in sorted(best)]


def name_device(figure: Figure, found: Any) -> None:
    """Say above the panels what it was measured on, and that it is not whole where it is not."""
    device = found.values.get("machine device", "a device that is not named")
    partial = any("Not measured in this run" in line for line in found.findings)
    more = "; some blocks were not measured" if partial else ""
    figure.suptitle(f"measured on {device}{more}", fontsize=7, x=0.01, ha="left")


def apart(values: Iterable[float], *, by: float) -> list[float]:
    """Places for the labels of values, in their order: none nearer than `by` to the next below."""
    wanted = list(values)
    places = [0.0] * len(wanted)
    lowest = -math.inf
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i]):
        places[index] = max(wanted[index], lowest)
        lowest = places[index] + by
    return places


def tokens_axis(axis: Any, tokens: Sequence[int]) -> None:
    """Lengths of contexts on a logarithmic axis, in thousands."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(tokens), [f"{t // 1024}k" for t in tokens])
    axis.minorticks_off()
    axis.set_xlabel("tokens in the context")
