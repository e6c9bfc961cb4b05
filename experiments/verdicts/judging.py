"""One claim and the rule that judges it from results: what `verdicts` is made of."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from experiments.framework.outcome import Outcome

HOLDS = "holds"
FAILS = "does not hold"
NOT_MEASURED = "not measured"
NO_THRESHOLD = "no threshold"
UNMOVED = "the same with any threshold halved or doubled"

REAL_HEADS = "real heads"
"""The keys of a decode step that count."""
TWO_STAGES = "two stages"
"""In the name of a layout: superpages are drawn first."""


class Judged(NamedTuple):
    """What a rule finds: one of the words above or `where`, and the numbers that decide it."""

    verdict: str
    evidence: str


class MissingError(LookupError):
    """A result, a value or a row that a rule needs is not there; the message says which."""


class Found:
    """One result, read by key.

    Args:
        name: Of the experiment.
        outcome: What it found.
    """

    def __init__(self, name: str, outcome: Outcome) -> None:
        self.name = name
        self.outcome = outcome

    def __getitem__(self, key: str) -> Any:
        if self.outcome.values.get(key) is None:
            raise MissingError(f"{self.name} has no value {key!r}")
        return self.outcome.values[key]

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self.outcome.values.get(key)

    def rows(self, table: str, **where: Any) -> list[Mapping[str, Any]]:
        """The rows of a table whose cells have these values, at least one."""
        if table not in self.outcome.tables:
            raise MissingError(f"{self.name} has no table {table!r}")
        rows = [
            row
            for row in self.outcome.tables[table].rows
            if all(row.get(column) == value for column, value in where.items())
        ]
        if not rows:
            raise MissingError(f"{self.name} has no row {where} in {table!r}")
        return rows


Rule = Callable[..., Judged]


@dataclass(frozen=True)
class Claim:
    """One claim of the abstract.

    Attributes:
        sentence: What is claimed, in short.
        statement: Its number in the theory, or a dash.
        module: Where the project has it, below `vashista_theory`.
        needs: Experiments whose results decide, in the order of the rule's arguments.
        rule: From those results to a verdict; its thresholds are its keyword arguments.
    """

    sentence: str
    statement: str
    module: str
    needs: Sequence[str]
    rule: Rule

    @property
    def thresholds(self) -> dict[str, float]:
        """Those of the rule, by name."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


class Claims:
    """A list of claims, filled by decorating rules."""

    def __init__(self) -> None:
        self.all: list[Claim] = []

    def add(
        self, sentence: str, statement: str, module: str, *needs: str
    ) -> Callable[[Rule], Rule]:
        """Register the rule of a claim."""

        def register(rule: Rule) -> Rule:
            self.all.append(Claim(sentence, statement, module, needs, rule))
            return rule

        return register


def where(condition: str) -> str:
    """The verdict of a claim that holds under a condition."""
    return f"{HOLDS} where {condition}"


def judge(claim: Claim, known: Callable[[str], Outcome | None], **thresholds: float) -> Judged:
    """Apply the rule of a claim, or say what is missing; thresholds given replace the rule's."""
    found: list[Found] = []
    for name in claim.needs:
        outcome = known(name)
        if outcome is None:
            return Judged(NOT_MEASURED, f"There is no result of {name}.")
        found.append(Found(name, outcome))
    try:
        return claim.rule(*found, **thresholds)
    except MissingError as missing:
        return Judged(NOT_MEASURED, f"The result of {missing}.")


def rule_of(claim: Claim, said: str) -> str:
    """The thresholds that decide a claim, with a dagger where `said`, its sensitivity, is one."""
    named = ", ".join(
        f"{name.replace('_', ' ')} {value:g}" for name, value in claim.thresholds.items()
    )
    return f"{named} †" if said not in ("", UNMOVED, NO_THRESHOLD) else named


def sensitivity(claim: Claim, known: Callable[[str], Outcome | None]) -> str:
    """What the verdict would be with one threshold halved or doubled, where it would be another."""
    verdict = judge(claim, known).verdict
    if verdict == NOT_MEASURED:
        return ""
    if not claim.thresholds:
        return NO_THRESHOLD
    moved = [
        f"{name.replace('_', ' ')} {scaled:g} in place of {value:g}: {other}"
        for name, value in claim.thresholds.items()
        for scaled in (value / 2, 2 * value)
        if (other := judge(claim, known, **{name: scaled}).verdict) != verdict
    ]
    return "; ".join(moved) if moved else UNMOVED


def listed(parts: Iterable[str]) -> str:
    """A, b and c."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
