"""Every labelled display of the paper, tried in numbers under its label.

Hulls are planted, their relaxations solved in 50 digits; nothing of the package takes part.
"""

import re

import numpy as np
import pytest
from mpmath import mp, mpf

from tests.paper import sources, statements_limits, statements_sampling, statements_softmax
from tests.paper.statements_hull import STATEMENTS as ABOUT_HULLS

assert statements_limits  # their statements are registered on import
assert statements_sampling

ABOUT_SOFTMAX = statements_softmax.STATEMENTS
_LABELLED = re.compile(r"\\label\{((?:ineq|id|lim):[^}]*)\}")
# 50 digits, ten lost to sums and to weights that cancel.
_ROUNDING = mpf(10) ** -38


def _holds(label: str, left: mpf, right: mpf) -> bool:
    room = _ROUNDING * (1 + abs(left) + abs(right))
    return abs(left - right) <= room if label.startswith("id:") else left <= right + room


def _holds_in_float64(label: str, left: float, right: float) -> bool:
    # A few dozen operations on numbers of the size of the two sides.
    room = 1e-11 * (1 + abs(left) + abs(right))
    return abs(left - right) <= room if label.startswith("id:") else left <= right + room


@pytest.mark.parametrize("label", ABOUT_HULLS)
def test_a_statement_about_hulls_holds(label: str) -> None:
    stated = ABOUT_HULLS[label]
    pairs = 0
    for case in stated.cases():
        for left, right in stated.says(case):
            at = f"{label} on {case.hull.name!r} at ε = {mp.nstr(case.epsilon, 3)}"
            assert _holds(label, left, right), f"{at}: {mp.nstr(left, 20)}, {mp.nstr(right, 20)}"
            pairs += 1
    assert pairs >= 2


@pytest.mark.parametrize("label", ABOUT_HULLS)
def test_a_falsified_statement_about_hulls_fails(label: str) -> None:
    stated = ABOUT_HULLS[label]
    for case in stated.cases():
        wrong = stated.control(case)
        if not all(_holds(label, *pair) for pair in stated.says(wrong)):
            return
    pytest.fail(f"{label}: the control is accepted everywhere, so the test sees nothing")


@pytest.mark.parametrize("label", ABOUT_SOFTMAX)
def test_a_statement_about_softmax_holds(label: str) -> None:
    for seed in range(60):
        for left, right in ABOUT_SOFTMAX[label](np.random.default_rng(seed), wrong=False):
            assert _holds_in_float64(label, left, right), f"{label}, seed {seed}: {left}, {right}"


@pytest.mark.parametrize("label", ABOUT_SOFTMAX)
def test_a_falsified_statement_about_softmax_fails(label: str) -> None:
    clauses = statements_softmax.CLAUSES[label]
    seen = {
        number % clauses
        for seed in range(60)
        for number, pair in enumerate(ABOUT_SOFTMAX[label](np.random.default_rng(seed), wrong=True))
        if not _holds_in_float64(label, *pair)
    }
    assert seen == set(range(clauses))


def test_the_linear_bounds_fail_without_strict_complementarity() -> None:
    # T2 read at the tangent of the smallest face, where SC fails: the linear law is broken.
    for case in statements_limits.degenerate():
        with mp.workdps(400):
            slope = case.epsilon * planted_norm(case.tangent)
            off = [mp.exp(x) for i, x in enumerate(case.logits(case.tangent)) if i in case.hull.off]
            claimed = slope + mp.sqrt(case.epsilon * mp.fsum(off) / mp.e)
            assert planted_norm(case.delta) > 2 * claimed


def planted_norm(x: list[mpf]) -> mpf:
    return mp.sqrt(mp.fsum(c * c for c in x))


def test_every_labelled_display_has_a_test_and_the_other_way_round() -> None:
    labels = [label for text in sources.sections().values() for label in _LABELLED.findall(text)]
    assert len(labels) == len(set(labels))
    assert set(labels) == set(ABOUT_HULLS) | set(ABOUT_SOFTMAX)


_DISPLAY = re.compile(r"\\begin\{(equation|gather|align)(\*?)\}(.*?)\\end\{\1\2\}", re.DOTALL)


def test_no_display_claims_anything_without_a_label() -> None:
    for name, text in sources.sections().items():
        assert r"\[" not in re.sub(r"\\\\\[", "", text), f"{name}: a display without a number"
        for kind, star, body in _DISPLAY.findall(text):
            rows = re.split(r"\\\\(?![a-z])", body) if kind != "equation" else [body]
            assert not star, f"{name}: an unnumbered display"
            for row in rows:
                assert _LABELLED.search(row), f"{name}: a display without a label: {row.strip()}"
