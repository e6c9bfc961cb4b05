"""The displays of the paper as statements, tried in numbers, each beside ways to falsify it.

A statement takes a case and returns pairs: left ≤ right for an inequality, left = right for an
identity. A display of several clauses is several statements: `label` and `label, which clause`;
what stands in a sentence is `inline: what`.
Each control of a statement falsifies it, by its case, its formula or its constant, and then some
pair must fail. A constant's control says how much smaller it could not be: how sharp the cases are.
"""

import dataclasses
from collections.abc import Callable, Iterable

from mpmath import mpf

Pair = tuple[mpf, mpf] | tuple[float, float]
Pairs = Iterable[Pair]
Control = Callable[[Callable[..., Pairs], object], Pairs]


@dataclasses.dataclass(frozen=True)
class Statement:
    """A clause of a labelled display: what it says, of which cases, and ways to make it false."""

    says: Callable[..., Pairs]
    cases: Callable[[], Iterable[object]]
    controls: tuple[Control, ...]


STATEMENTS: dict[str, Statement] = {}


def statement(
    label: str, *controls: Control, cases: Callable[[], Iterable[object]]
) -> Callable[[Callable[..., Pairs]], Callable[..., Pairs]]:
    """Register what is decorated as the clause `label`, with at least one control."""

    def register(says: Callable[..., Pairs]) -> Callable[..., Pairs]:
        assert label not in STATEMENTS, label
        assert controls, label
        STATEMENTS[label] = Statement(says, cases, controls)
        return says

    return register


def times(factor: str) -> Control:
    """Right sides so many times as large."""
    return lambda says, case: ((a, type(b)(factor) * b) for a, b in says(case))


def plus(term: str) -> Control:
    """Right sides with a term added, for those that are logarithms."""
    return lambda says, case: ((a, type(b)(term) + b) for a, b in says(case))


def of_changed(change: Callable[[object], object]) -> Control:
    """The same formula of another case."""
    return lambda says, case: says(change(case))


def read_wrong(says: Callable[..., Pairs], case: object) -> Pairs:
    """The formula with one hypothesis or one operation broken, which the statement itself knows."""
    return says(case, wrong=True)
