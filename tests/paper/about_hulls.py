"""Statements about planted hulls: the cases they are read on, and ways to falsify a case."""

import dataclasses
from collections.abc import Callable, Iterable
from itertools import chain

from mpmath import mpf

from tests.paper import planted, statement
from tests.paper.planted import Case, combine, relax
from tests.paper.statement import Control, Pairs, of_changed


def strict_cases() -> Iterable[Case]:
    return chain(planted.cases(), planted.extreme_cases())


def about_hulls(
    label: str, *controls: Control, cases: Callable[[], Iterable[Case]] = strict_cases
) -> Callable[[Callable[[Case], Pairs]], Callable[[Case], Pairs]]:
    return statement.statement(label, *controls, cases=cases)


def every_case() -> Iterable[Case]:
    return chain(strict_cases(), planted.degenerate_cases())


@of_changed
def hotter(case: Case) -> Case:
    """The weights of twenty times the temperature."""
    other = relax(case.hull, 20 * case.epsilon)
    return dataclasses.replace(case, alpha=other.alpha, delta=other.delta)


@of_changed
def farther(case: Case) -> Case:
    """A displacement ten times as long."""
    return dataclasses.replace(case, delta=[10 * x for x in case.delta])


@of_changed
def heavier(case: Case) -> Case:
    """Weights that know nothing of the keys."""
    n = len(case.alpha)
    alpha = [mpf(1) / n] * n
    return dataclasses.replace(case, alpha=alpha, delta=combine(alpha, case.v))


@of_changed
def less_entropy(case: Case) -> Case:
    return dataclasses.replace(case, h=case.h - 1)


@of_changed
def other_tangent(case: Case) -> Case:
    return dataclasses.replace(case, tangent=[x + 2 for x in case.tangent])
