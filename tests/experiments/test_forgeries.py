"""No forgery deceives the checker, by a judge that shares nothing with it and is judged itself."""

import importlib
import itertools
import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from experiments.shared import forgeries, forgery_judge, hull_truth
from vashista_theory import check

# Worked by hand: p* = (.4, 0, 0) on the edge of keys 0 and 1, weights .6 and .4, r* = (0, 0, 1), so
# multipliers are minus the third coordinates; along the edge e^{w₀} = .4 / .6. All are binary
# fractions but .4 and what is compared in digits.
EDGE = np.array([[0, 0, 0], [1, 0, 0], [0.25, 1, -0.75], [0.5, 0.25, -0.5], [0.25, 0.5, -0.625]])
SQUARE = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0], [1, 1, -2]], float)


def about(value: Decimal, digits: float) -> bool:
    return abs(float(value) - digits) < 1e-15  # a rounding or two of numbers below 1


def test_the_truth_of_an_edge() -> None:
    found = hull_truth.truth(EDGE, np.array([0.375, 0, 1]))
    assert found[:5] == ("successful", [0, 1], Fraction(1, 2), Fraction(1), (Fraction(3, 8), 0, 0))
    assert about(found.entropy, -(0.625 * math.log(0.625) + 0.375 * math.log(0.375)))
    assert about(found.tangent[0], math.log(0.375 / 0.625))
    assert found.tangent[1:] == [0, 0]


def test_the_truth_of_other_cases() -> None:
    flat = EDGE.copy()
    flat[2, 2] = 0  # on the supporting plane, without weight
    found = hull_truth.truth(flat, np.array([0.375, 0, 1]))
    assert found[:3] == ("degenerate_face", [0, 1, 2], Fraction(1, 2))
    # Above the middle of a square: four equal weights, h = log 4, no tilt; four dependent keys.
    found = hull_truth.truth(SQUARE, np.array([1.0, 1, 3]))
    assert found[:4] == ("successful", [0, 1, 2, 3], Fraction(6), Fraction(9))
    assert about(found.entropy / 2, math.log(4) / 2)
    assert max(map(abs, found.tangent)) < Decimal(10) ** -60
    # Inside: every key is on the face, and nothing is left over.
    found = hull_truth.truth(SQUARE, np.array([1.0, 1, -1]))
    assert found[:4] == ("inside_hull", [0, 1, 2, 3, 4], None, 0)
    # Two copies of a key count twice: weights 1/4, 1/4 and 1/2 at the middle.
    found = hull_truth.truth(np.array([[0.0], [0.0], [1.0]]), np.array([0.5]))
    assert about(found.entropy, 1.5 * math.log(2))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[forgeries.Genuine]:
    """Certified without the float solver: its proposals spare steps, and compiling takes longer."""
    certify = importlib.import_module("vashista_theory.hull.rigorous.certify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify, "_proposal", lambda *_: {})
        return forgeries.genuine(tmp_path_factory.mktemp("genuine"))


def test_genuine_certificates_are_accepted_and_true(
    bases: list[forgeries.Genuine], tmp_path: Path
) -> None:
    outcomes = set()
    for base in bases:
        forgery = forgeries.Forgery("none", tuple(forgeries._made(base)))
        trial = forgery_judge.tried(forgery, tmp_path)
        assert trial.accepted, trial.said
        assert not trial.fault
        outcomes.add(base.content["outcome"])
    assert outcomes == {"successful", "degenerate_face", "inside_hull"}


def test_the_judge_sees_what_is_false(bases: list[forgeries.Genuine]) -> None:
    """Every statement, moved off the truth by a last place, against a checker that accepts all."""
    seen = set()
    for base in bases:
        content = base.content
        face, n = content["face"], content["keys"]
        said = f"accepted: {len(face)} of {n} keys on the face; tangent too"
        if content["outcome"] != "successful":
            said = said.replace(" too", " not covered")

        def verdict(base: forgeries.Genuine = base, said: str = said, **changed: object) -> str:
            text = json.dumps({**base.content, **changed}).encode()
            arrays = forgeries._saved(base.keys), forgeries._saved(base.query)
            return forgery_judge.deceives(forgeries.Forgery("none", (text, *arrays)), said)

        assert verdict() == ""
        if n > 1:
            assert "face" in verdict(face=face[1:] if len(face) > 1 else [face[0], n - 1])
        assert "face" in verdict(outcome="other")
        for name, end in itertools.product(("gap", "residual_norm", "entropy"), (0, 1)):
            if content[name] is None or "inf" in content[name]:
                continue
            low, high = map(float.fromhex, content[name])
            if low in (high, 0):
                continue
            # Both ends beyond one of the true ones.
            beyond = math.nextafter(high, math.inf) if end else math.nextafter(low, -math.inf)
            assert name.replace("_", " ") in verdict(**{name: [beyond.hex()] * 2})
            seen.add(name)
        low, high = map(float.fromhex, content["point"][0])
        moved = [math.nextafter(high, math.inf).hex()] * 2
        assert "point" in verdict(point=[moved, *content["point"][1:]])
        if content["tangent"]:
            low, high = map(float.fromhex, content["tangent"][0])
            moved = [math.nextafter(high, math.inf).hex(), (abs(high) + 1).hex()]
            assert "tangent" in verdict(tangent=[moved, *content["tangent"][1:]])
            seen.add("tangent")
    assert seen == {"gap", "residual_norm", "entropy", "tangent"}


def _hold(trials: list[forgery_judge.Trial]) -> None:
    rows, faults = forgery_judge.summary(trials)
    assert faults == []
    assert {row["forged"] for row in rows} == set(forgeries.KINDS)
    assert sum(row["refused"] + row["still_true"] for row in rows) == len(trials)


def test_two_hundred_forgeries(bases: list[forgeries.Genuine], tmp_path: Path) -> None:
    made = forgeries.forgeries(bases, 203, 0)
    _hold([forgery_judge.tried(forgery, tmp_path) for forgery in made])


@pytest.mark.slow
def test_two_thousand_forgeries(tmp_path: Path) -> None:
    _hold(forgery_judge.trials(2000, 1, tmp_path))


def test_a_checker_that_believes_is_caught(
    bases: list[forgeries.Genuine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check left out of the checker lets a forgery pass, and the judge sees it."""
    monkeypatch.setattr(check, "_enclosed", lambda *_, **__: None)
    made = list(forgeries.forgeries(bases, 203, 0))
    trials = [forgery_judge.tried(forgery, tmp_path) for forgery in made]
    assert sum(trial.accepted and bool(trial.fault) for trial in trials) > 5
