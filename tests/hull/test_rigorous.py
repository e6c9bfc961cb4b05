"""Certificates: known answers, an oracle in mpmath, bounds that hold, limits that are admitted."""

import importlib
import math
import subprocess
import sys
from fractions import Fraction

import mpmath
import numpy as np
import pytest

import vashista_theory as vt
from tests.hull.problems import PROBLEMS, Problem
from tests.hull.strategies import family_problems
from tests.thinned import spread
from vashista_theory.hull import instances
from vashista_theory.hull.rigorous import support as supports
from vashista_theory.hull.rigorous.balls import Enclosure

# The package's `certify` is the function; the module of that name is meant here.
certifying = importlib.import_module("vashista_theory.hull.rigorous.certify")

WIDTH = 4 * 2.0**-52
"""Relative width of an enclosure: the two ends are rounded outward by a unit each, and the square
root of an exact square is not seen to be exact."""

ROUNDED = {"relative boundary of a triangle", "scale 1e-8", "scales mixed", "tiny face, far keys"}
"""Problems whose decimal numbers are not binary ones."""


@pytest.fixture
def no_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float solver proposes nothing: the proved search has to find everything itself.

    It also saves `project` a compilation for every shape.
    """
    monkeypatch.setattr(certifying, "_proposal", lambda *_: {})


@pytest.mark.usefixtures("no_proposal")
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_known_answers(problem: Problem) -> None:
    found = vt.certify(problem.keys, problem.query)
    inside = math.isnan(problem.gap)
    expected = "degenerate_face" if problem.degenerate else "successful"
    assert found.outcome == ("inside_hull" if inside else expected)
    assert found.proved
    assert bool(found.result == getattr(vt.Result, found.outcome))
    np.testing.assert_array_equal(found.face, problem.face)
    if inside:
        assert math.isnan(found.gap_lower)
        assert found.residual_norm == (0.0, 0.0)
        assert math.isnan(found.log_leakage_bound(0.1))
        return
    if math.isinf(problem.gap):
        assert found.gap_lower == found.gap_upper == math.inf
        assert found.log_leakage_bound(0.1) == -math.inf
        assert found.largest_safe_epsilon(-3.0) == math.inf
    else:
        # Decimal numbers rounded to binary move the gap by roundings of the products it sums.
        room = 4 * 2.0**-52 * problem.gap if problem.name in ROUNDED or problem.gap < 1 else 0.0
        assert found.gap_lower - room <= problem.gap <= found.gap_upper + room
        assert found.gap_upper - found.gap_lower <= WIDTH * found.gap_upper
    # Again for decimal numbers: their rounding, relative to the point's own size.
    assert np.all(found.point.distance(problem.point) <= 1e-15 * np.abs(problem.point).max())


def test_the_reference_instance() -> None:
    made = instances.make("gaussian")
    found = vt.certify(made.keys, made.query)
    assert found.outcome == "successful"
    assert found.reason == ""
    # theory.md's values, measured in float64: 1e-13 and 1e-8 are the digits it gives.
    assert abs(found.gap_lower - 0.28012510083585) < 1e-13
    assert found.face.sum() == 14
    weights = found.weights.lower[found.face]
    assert abs(weights.min() - 0.01266756) < 1e-8
    assert abs(np.linalg.norm(found.tangent.middle) - 0.45110816) < 1e-8
    # The bounds of the floating-point code, written apart from these.
    stability = vt.face_stability(vt.project(made.keys, made.query))
    for epsilon in (1e-3, 1e-2, 0.1, 1.0):
        ours, floats = found.displacement_bound(epsilon), stability.displacement_bound(epsilon)
        assert abs(ours - float(floats)) <= 1e-12 * ours
        ours, floats = found.log_leakage_bound(epsilon), stability.log_leakage_bound(epsilon)
        assert abs(ours - float(floats)) <= 1e-11 * max(1.0, abs(ours))
    several = found.displacement_bound([1e-3, 1e-2])
    assert several.tolist() == [found.displacement_bound(1e-3), found.displacement_bound(1e-2)]


def oracle(keys: np.ndarray, query: np.ndarray, face: np.ndarray) -> dict[str, mpmath.mpf]:
    """Everything at 60 digits from the face alone, which must be affinely independent."""
    rational = [[Fraction(float(x)) for x in row] for row in keys]
    relative = mpmath.matrix(
        [[_mp(x - Fraction(float(o))) for x, o in zip(row, query, strict=True)] for row in rational]
    )
    on = np.flatnonzero(face).tolist()
    n, d, m = len(rational), len(query), len(on)
    rows = mpmath.matrix([[relative[i, k] for k in range(d)] for i in on])
    gram = rows * rows.T
    system = mpmath.matrix(m + 1, m + 1)
    for i in range(m):
        for j in range(m):
            system[i, j] = gram[i, j]
        system[i, m] = system[m, i] = 1
    right = mpmath.matrix(m + 1, 1)
    right[m] = 1
    solution = mpmath.lu_solve(system, right)
    alpha = [solution[i] for i in range(m)]
    step = rows.T * mpmath.matrix(alpha)
    level = -solution[m]
    products = relative * step
    multipliers = [products[i] - level for i in range(n)]
    off = [multipliers[i] for i in range(n) if i not in on]
    edges = mpmath.matrix([[rows[i, k] - rows[0, k] for k in range(d)] for i in range(1, m)])
    logs = mpmath.matrix([mpmath.log(a / alpha[0]) for a in alpha[1:]])
    tangent = edges.T * mpmath.lu_solve(edges * edges.T, logs) if m > 1 else mpmath.matrix(d, 1)
    return {
        "gap": min(off),
        "residual": mpmath.sqrt(level),
        "entropy": -sum(a * mpmath.log(a) for a in alpha),
        "weights": alpha,
        "point": [step[k] + mpmath.mpf(float(query[k])) for k in range(d)],
        "tangent": [tangent[k] for k in range(d)],
        "multipliers": multipliers,
    }


def _mp(value: Fraction) -> mpmath.mpf:
    return mpmath.mpf(value.numerator) / value.denominator


def holds(enclosure: Enclosure, values: list[mpmath.mpf]) -> bool:
    lower, upper = np.atleast_1d(enclosure.lower), np.atleast_1d(enclosure.upper)
    # The oracle itself is good to 1e-40 or so in units of the largest value.
    room = mpmath.mpf(10) ** -40 * max(map(abs, values))
    return all(
        mpmath.mpf(float(low)) - room <= value <= mpmath.mpf(float(high)) + room
        for low, value, high in zip(lower, values, upper, strict=True)
    )


@pytest.mark.parametrize("family", ["gaussian", "sphere", "planted", "near_degenerate"])
@pytest.mark.parametrize("seed", [0, 1])
def test_enclosures_hold_what_mpmath_finds(family: str, seed: int) -> None:
    made = instances.make(family, seed=seed, n=24, d=12)
    found = vt.certify(made.keys, made.query)
    if found.outcome == "inside_hull":
        pytest.fail("the instances are chosen with the query outside")
    with mpmath.workdps(60):
        true = oracle(made.keys, made.query, found.face)
        assert holds(Enclosure(found.gap_lower, found.gap_upper), [true["gap"]])
        assert holds(found.residual_norm, [true["residual"]])
        assert holds(found.entropy, [true["entropy"]])
        assert holds(found.point, true["point"])
        assert holds(found.tangent, true["tangent"])
        weights = [found.weights.lower[found.face], found.weights.upper[found.face]]
        assert holds(Enclosure(*weights), true["weights"])
        off = ~found.face
        multipliers = [m for m, is_off in zip(true["multipliers"], off, strict=True) if is_off]
        ends = Enclosure(found.multipliers.lower[off], found.multipliers.upper[off])
        assert holds(ends, multipliers)
        assert min(multipliers) > 0
    assert found.entropy.upper - found.entropy.lower <= WIDTH * found.entropy.upper


@pytest.mark.usefixtures("no_proposal")
def test_maximum_entropy_on_a_dependent_face() -> None:
    # Keys −2 … 2 on a line under a query over ½: α_x ∝ t^x with Σ x t^x = ½ Σ t^x.
    keys = np.array([[float(x), 0.0] for x in range(-2, 3)])
    found = vt.certify(keys, np.array([0.5, 1.0]))
    assert found.outcome == "successful"
    with mpmath.workdps(40):
        log_t = mpmath.findroot(
            lambda s: sum((x - mpmath.mpf("0.5")) * mpmath.exp(s * x) for x in range(-2, 3)), 0.1
        )
        logs = mpmath.log(sum(mpmath.exp(log_t * x) for x in range(-2, 3)))
        assert holds(found.entropy, [logs - log_t / 2])
        assert holds(found.tangent, [log_t, mpmath.mpf(0)])


@pytest.mark.parametrize("weights", [{}, {3: 1.0}, {0: 0.5, 1: 0.5}, {0: 0.2, 1: 0.3, 2: 0.5}])
def test_a_wrong_proposal_is_corrected(
    weights: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Query over the first edge: p* = (1, 0), r = (0, 2), μ = 2·1 and 2·2 for the keys below it.
    keys = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, -1.0], [3.0, -2.0]])
    monkeypatch.setattr(certifying, "_proposal", lambda *_: weights)
    found = vt.certify(keys, [1.0, 2.0])
    assert found.outcome == "successful"
    assert found.face.tolist() == [True, True, False, False]
    assert found.gap_lower <= 2.0 <= found.gap_upper


def test_rounded_degeneracy_is_seen_and_said() -> None:
    # Degenerate in real numbers; the binary numbers they are rounded to expose a part of the face.
    made = instances.make("degenerate", n=24, d=12)
    found = vt.certify(made.keys, made.query)
    assert found.outcome == "successful"
    assert not np.any(found.face & ~made.known.face)
    assert found.gap_lower < 1e-13 or found.weights.lower[found.face].min() < 1e-13
    assert "rounding level" in found.reason


@pytest.mark.parametrize("name", spread(["planted-0", "degenerate-0-variant=positive_power"], 1))
def test_relaxations_keep_to_the_bounds(name: str) -> None:
    problem = next(p for p in family_problems() if p.name == name)
    found = vt.certify(problem.keys, problem.query)
    epsilons = problem.scale * np.geomspace(1e-4, 10, 33)
    relaxation = vt.relax(vt.project(problem.keys, problem.query, throw=False), epsilons)
    displacement = np.asarray(relaxation.displacement)
    # A float displacement is off by some roundings of the length √scale.
    room = 64 * 2.0**-52 * math.sqrt(problem.scale)
    assert np.all(displacement <= found.displacement_bound(epsilons) + room)
    leakage = np.asarray(relaxation.log_off_face_mass)
    assert np.all(leakage <= found.log_leakage_bound(epsilons) + 1e-9 * np.abs(leakage))
    for log_mass in (-1.0, -5.0, -50.0):
        safe = found.largest_safe_epsilon(log_mass)
        assert 0 < safe < math.inf
        below = safe * np.geomspace(1e-3, 1, 33)
        relaxed = vt.relax(vt.project(problem.keys, problem.query, throw=False), below)
        assert np.all(np.asarray(relaxed.log_off_face_mass) <= log_mass)


@pytest.mark.usefixtures("no_proposal")
@pytest.mark.parametrize("exponent", [-900, 600])
def test_units_do_not_matter(exponent: int) -> None:
    keys, query = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, -2.0]]), np.array([1.0, 3.0])
    plain = vt.certify(keys, query)
    scaled = vt.certify(np.ldexp(keys, exponent), np.ldexp(query, exponent))
    assert scaled.outcome == plain.outcome == "successful"
    np.testing.assert_array_equal(scaled.face, plain.face)
    assert scaled.entropy == plain.entropy
    length = math.ldexp(3.0, exponent)
    assert scaled.residual_norm.lower <= length <= scaled.residual_norm.upper
    assert scaled.residual_norm.upper - scaled.residual_norm.lower <= WIDTH * length


@pytest.mark.usefixtures("no_proposal")
def test_what_is_not_proved_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    # An exact tie needs rational arithmetic; without it there is no face, no guess, no file.
    monkeypatch.setattr(supports, "LARGEST_EXACT", 1)
    found = vt.certify(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, -2.0]]), [1.25, 3.0])
    assert found.outcome == "ambiguous_face"
    assert not found.proved
    assert "rational arithmetic" in found.reason
    assert not found.face.any()
    assert found.displacement_bound(0.1) == math.inf
    assert found.log_leakage_bound(0.1) == 0.0
    assert found.largest_safe_epsilon(-1.0) == 0.0


@pytest.mark.parametrize(
    ("keys", "query", "said"),
    [
        ([[math.nan, 0.0]], [0.0, 1.0], r"`keys` must be finite, but keys\[0, 0\] is nan"),
        ([[0.0, 0.0]], [math.inf, 1.0], r"`query` must be finite"),
        ([[0.0, 0.0]], [1.0], r"do not belong"),
        (np.zeros((0, 2)), [1.0, 1.0], r"is empty"),
        (np.array([[2**53 + 1, 0]]), [1.0, 1.0], r"integers that float64 cannot hold"),
        (np.full((1, 2), np.longdouble(1) / 3), [1.0, 1.0], r"float64 cannot hold it exactly"),
        (np.zeros((1, 2), complex), [1.0, 1.0], r"real numbers are expected"),
    ],
)
def test_bad_input(keys: object, query: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vt.certify(keys, query)


@pytest.mark.usefixtures("no_proposal")
def test_bad_temperatures() -> None:
    found = vt.certify([[0.0], [-1.0]], [1.0])
    for epsilon in (0.0, -1.0, math.nan, math.inf, [[1.0]]):
        with pytest.raises(ValueError, match="`epsilon` must be"):
            found.displacement_bound(epsilon)
    with pytest.raises(ValueError, match="logarithm of a mass"):
        found.largest_safe_epsilon(math.nan)


def test_without_python_flint_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['flint'] = None\n"
        "import vashista_theory as vt\n"
        "try: vt.certify\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout
    assert "vashista-theory[rigorous]" in done.stdout
