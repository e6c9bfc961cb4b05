"""Is an answer of the projection ever wrong and called right? Nasty hulls in exact arithmetic.

Small instances of the kinds that break solvers (ties, near ties, flat and thin hulls, far keys, far
queries, far origins, the ends of the floats), in float64 and float32, are given to `project` and to
`project_blocks`. Each answer is held against the exact projection of the same floats, in integers.
What counts as wrong is defined in `experiments/projection_attack/judge.py`; a refusal is not wrong,
and is counted. One wrong answer is a failure of the experiment.

Examples:
  python -m experiments projection_attack
  python -m experiments projection_attack --quick
  python -m experiments projection_attack --instances 4000 --seed 1
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import vashista_theory as vt
from experiments.framework.outcome import Measured
from experiments.projection_attack import exact
from experiments.projection_attack.families import FAMILIES, Family
from experiments.projection_attack.judge import Answer, Verdict, judge
from vashista_theory import runs, streaming

FUNCTIONS = ("project", "project_blocks")
TYPES = ("float64", "float32")
_QUICK = 8
_SMALL_BLOCK = 3
_LISTED = 60

_REFUSED = frozenset({"nonfinite_input", "ValueError"})
_STAGNATED = frozenset({"stagnated", "max_steps_reached", "max_passes_reached"})


@dataclass(frozen=True)
class Config:
    """What to try.

    Attributes:
        instances: Of each family in each type.
        seed: Of all instances.
        quick: Eight instances of each.
    """

    instances: int = 400
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.instances < 1:
            raise ValueError(f"instances is {self.instances}; expected at least 1")


class Tried(NamedTuple):
    """One answer with its verdict."""

    family: Family
    kind: str
    function: str
    number: int
    verdict: Verdict


def measure(config: Config) -> Measured:
    """Ask for every instance, and judge every answer."""
    tried = list(_tried(config))
    rows = [
        _row(family, kind, function, [t for t in tried if t[:3] == (family, kind, function)])
        for family in FAMILIES.values()
        for kind in TYPES
        for function in FUNCTIONS
    ]
    wrong = [t for t in tried if t.verdict.wrong]
    return Measured(
        tables={"families": rows, "wrong": [_wrong_row(t) for t in wrong[:_LISTED]]},
        values=_values(tried),
        failures=[
            f"{count} wrong answers of {function} in {family} ({kind})"
            for (family, kind, function), count in Counter(
                (t.family.name, t.kind, t.function) for t in wrong
            ).items()
        ],
    )


def _tried(config: Config) -> Iterator[Tried]:
    count = _QUICK if config.quick else config.instances
    plan = [(family, kind) for family in FAMILIES.values() for kind in TYPES]
    with runs.Progress(
        len(plan), description="Attack", mode="none" if config.quick else "bar", unit="families"
    ) as display:
        for family, kind in plan:
            for number in range(count):
                keys, query = family.make(config.seed, number, np.dtype(kind))
                right = exact.project(keys.tolist(), query.tolist())
                for function in FUNCTIONS:
                    answer = ask(function, keys, query, small_blocks=number % 2 == 1)
                    verdict = Verdict(answer) if isinstance(answer, str) else judge(right, answer)
                    yield Tried(family, kind, function, number, verdict)
            display.advance()


def ask(
    function: str, keys: np.ndarray, query: np.ndarray, *, small_blocks: bool = False
) -> Answer | str:
    """The answer of one function, or "ValueError" where it refuses by raising that."""
    if function == "project":
        return Answer.of(vt.project(keys, query, throw=False))
    multipliers = np.empty(len(keys))
    try:
        answer = streaming.project_blocks(
            keys,
            query,
            block_rows=_SMALL_BLOCK if small_blocks else None,
            workers=1,
            multipliers=multipliers,
            throw=False,
        )
    except ValueError:
        return "ValueError"
    return Answer.of_blocks(answer, multipliers)


def _row(family: Family, kind: str, function: str, tried: list[Tried]) -> dict[str, Any]:
    verdicts = [t.verdict for t in tried]
    right = [v for v in verdicts if v.result == "successful" and not v.wrong]

    def share(results: frozenset[str]) -> float:
        return sum(v.result in results for v in verdicts) / len(verdicts)

    def worst(of: list[Verdict], name: str) -> float | None:
        return max((getattr(v, name) for v in of), default=None)

    short = worst([v for v in verdicts if np.isfinite(v.promise)], "promise")
    return {
        "family": family.name,
        "type": kind,
        "function": function,
        "instances": len(verdicts),
        "wrong": sum(bool(v.wrong) for v in verdicts),
        "inside": share(frozenset({"inside_hull"})),
        "ambiguous": share(frozenset({"ambiguous_face"})),
        "stagnated": share(_STAGNATED),
        "refused": share(_REFUSED),
        "by_design": family.undecidable,
        "point": worst(right, "point_error"),
        "backward": worst(right, "backward"),
        "gap": worst(right, "gap_error"),
        "short": short,
    }


def _wrong_row(tried: Tried) -> dict[str, Any]:
    verdict = tried.verdict
    return {
        "family": tried.family.name,
        "type": tried.kind,
        "function": tried.function,
        "number": tried.number,
        "result": verdict.result,
        "criteria": ", ".join(verdict.wrong),
        "point": _finite(verdict.point_error),
        "backward": _finite(verdict.backward),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _values(tried: list[Tried]) -> dict[str, Any]:
    decidable = [t for t in tried if not t.family.undecidable]
    right = [t.verdict for t in tried if t.verdict.result == "successful" and not t.verdict.wrong]
    return {
        "families": len(FAMILIES),
        "instances": len(tried) // len(FUNCTIONS),
        "answers": len(tried),
        "wrong": sum(bool(t.verdict.wrong) for t in tried),
        "undecided": sum(not t.verdict.decided for t in tried) / len(tried),
        "undecided_but_decidable": sum(not t.verdict.decided for t in decidable) / len(decidable),
        "backward": max((v.backward for v in right), default=None),
        "point": max((v.point_error for v in right), default=None),
    }
