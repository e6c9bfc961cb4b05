"""Every labelled display of the paper, tried in numbers under its label.

Hulls are planted, their relaxations solved in 50 digits; nothing of the package takes part.
"""

import re

import pytest
from mpmath import mp, mpf

from tests.paper import sources, statements_limits, statements_sampling, statements_softmax
from tests.paper.planted import norm
from tests.paper.statement import STATEMENTS, Control, Pair

assert statements_softmax  # the statements of each are registered on import
assert statements_sampling

_LABELLED = re.compile(r"\\label\{((?:ineq|id|lim):[^}]*)\}")
# 50 digits, ten lost to sums and to weights that cancel.
_ROUNDING = mpf(10) ** -38
# A few dozen operations in float64 on numbers of the size of the two sides.
_ROUNDING_IN_FLOAT64 = 1e-11
CONTROLS = [(label, k) for label, of in STATEMENTS.items() for k in range(len(of.controls))]


def _holds(label: str, pair: Pair) -> bool:
    left, right = pair
    rounding = _ROUNDING if isinstance(left, mpf) else _ROUNDING_IN_FLOAT64
    room = rounding * (1 + abs(left) + abs(right))
    return abs(left - right) <= room if label.startswith("id:") else left <= right + room


@pytest.mark.parametrize("label", STATEMENTS)
def test_a_statement_holds(label: str) -> None:
    stated, pairs = STATEMENTS[label], 0
    for number, case in enumerate(stated.cases()):
        for pair in stated.says(case):
            sides = " and ".join(mp.nstr(mpf(side), 20) for side in pair)
            assert _holds(label, pair), f"{label}, case {number} {case}: {sides}"
            pairs += 1
    assert pairs >= 2


@pytest.mark.parametrize(("label", "number"), CONTROLS)
def test_a_falsified_statement_fails(label: str, number: int) -> None:
    stated = STATEMENTS[label]
    control: Control = stated.controls[number]
    if not any(
        not _holds(label, pair) for case in stated.cases() for pair in control(stated.says, case)
    ):
        pytest.fail(f"{label}: the control is accepted everywhere, so the test sees nothing")


def test_the_linear_bounds_fail_without_strict_complementarity() -> None:
    # T2 read at the tangent of the smallest face, where SC fails: the linear law is broken.
    for case in statements_limits.degenerate():
        with mp.workdps(400):
            slope = case.epsilon * norm(case.tangent)
            off = [mp.exp(x) for i, x in enumerate(case.logits(case.tangent)) if i in case.hull.off]
            claimed = slope + mp.sqrt(case.epsilon * mp.fsum(off) / mp.e)
            assert norm(case.delta) > 2 * claimed


def test_every_labelled_display_has_a_test_and_the_other_way_round() -> None:
    labels = [label for text in sources.sections().values() for label in _LABELLED.findall(text)]
    assert len(labels) == len(set(labels))
    displayed = {label.split(",")[0] for label in STATEMENTS if not label.startswith("inline:")}
    assert set(labels) == displayed


_DISPLAY = re.compile(r"\\begin\{(equation|gather|align)(\*?)\}(.*?)\\end\{\1\2\}", re.DOTALL)


def test_no_display_claims_anything_without_a_label() -> None:
    for name, text in sources.sections().items():
        assert r"\[" not in re.sub(r"\\\\\[", "", text), f"{name}: a display without a number"
        for kind, star, body in _DISPLAY.findall(text):
            rows = re.split(r"\\\\(?![a-z])", body) if kind != "equation" else [body]
            assert not star, f"{name}: an unnumbered display"
            for row in rows:
                assert _LABELLED.search(row), f"{name}: a display without a label: {row.strip()}"
