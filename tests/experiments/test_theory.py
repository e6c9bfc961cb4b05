"""The experiments of the theory: arithmetic by hand, counterexamples by mpmath, quick runs."""

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest

from experiments import degenerate_regime, gap_taxonomy, regime_map, theorem_constants
from experiments.certificate_vacuity import measure as certificate_vacuity
from experiments.certificate_vacuity.report import vacuous_from
from experiments.framework import results
from experiments.published_constants import measure as published_constants
from experiments.shared import hulls
from experiments.shared.page_masses import PAGE
from tests.experiments.quick_runs import quick
from vashista_theory.hull import instances
from vashista_theory.hull.instances import Instance


def three_keys_by_mpmath(reach: float, epsilon: float) -> np.ndarray:
    """Log-weights of the three keys at one temperature: the dual in 60 digits, by Newton."""
    with mpmath.workdps(60):
        keys = [(mpmath.mpf(-1), 0), (mpmath.mpf(1), 0), (mpmath.mpf(reach), mpmath.mpf(-1))]
        query, eps = (mpmath.mpf("0.9"), mpmath.mpf(1)), mpmath.mpf(epsilon)

        def weights(x: mpmath.mpf, y: mpmath.mpf) -> list:
            logits = [((query[0] - x) * a + (query[1] - y) * b) / eps for a, b in keys]
            top = max(logits)
            total = sum(mpmath.exp(v - top) for v in logits)
            return [v - top - mpmath.log(total) for v in logits]

        def residual(x: mpmath.mpf, y: mpmath.mpf) -> tuple:
            alpha = [mpmath.exp(v) for v in weights(x, y)]
            return (
                x - sum(a * k[0] for a, k in zip(alpha, keys, strict=True)),
                y - sum(a * k[1] for a, k in zip(alpha, keys, strict=True)),
            )

        start = (mpmath.mpf("0.9") - eps * mpmath.log(19) / 2, mpmath.mpf(0))
        found = mpmath.findroot(residual, start, tol=1e-40)
        return np.array([float(v) for v in weights(found[0], found[1])])


def test_the_counterexample_by_mpmath_and_by_hand() -> None:
    epsilon = np.array([1 / 10, 1 / 30, 1 / 300])
    given = hulls.problem(published_constants.three_keys(10.0))
    assert given.gap == pytest.approx(1.0, abs=1e-14)
    along = hulls.follow(given, epsilon)
    for at, one in enumerate(epsilon):
        exact = three_keys_by_mpmath(10.0, float(one))
        # The logarithm holds μ/ε = 300: some thousand roundings of that.
        assert along.log_weights[at] == pytest.approx(exact, abs=1e-10)
    # ½ log 19 · 9.1 − h = 13.3972 − 0.1985.
    assert published_constants.predicted_excess(10.0) == pytest.approx(13.1987, abs=1e-4)
    limit = along.log_weights[-1, 2] + 1 / epsilon[-1]
    # It differs by the first-order term in ε, ⟨C⁺w₀, v⟩ε = 1.472/0.19 · 9.1/300 = 0.235.
    assert limit == pytest.approx(published_constants.predicted_excess(10.0) - 0.235, abs=0.02)


def test_the_published_form_fails_beyond_its_range_and_not_in_it() -> None:
    given = hulls.problem(published_constants.three_keys(10.0))
    # κ = 1/‖(9.1, −1)‖, so the range ends at κ²/(4(log 3 − h)) = 1/302.
    limit = float(given.stability.published_range())
    assert 1 / limit == pytest.approx(83.81 * 4 * (math.log(3) - 0.198515), rel=1e-4)
    one = published_constants.compare("three keys", given, np.array([1 / 15, limit, limit / 10]))
    assert one.published[0] > 0.9
    assert one.published[1] < 0
    assert one.published[2] < 0
    assert np.all(one.factor_one > 0)


def test_a_mass_above_the_published_rate_inside_the_range() -> None:
    given = hulls.problem(published_constants.crowd(100, 10.0))
    epsilon = np.full(41, 0.5)  # as many as in the experiment
    one = published_constants.compare("crowd", given, epsilon)
    assert given.gap == pytest.approx(1.0, abs=1e-12)
    assert one.limit == pytest.approx(100 / (4 * math.log(100)), rel=1e-12)  # κ = 10, h = 0
    assert epsilon[0] < one.limit
    # 99 e^(−2 (1 + m/100)) = 13.15 for m = 0.929, and 13.15/14.15 = 0.929.
    mass = math.exp(one.along.log_mass[0])
    assert mass == pytest.approx(0.9293, abs=1e-4)
    assert mass == pytest.approx(published_constants.crowd_mass(100, 10.0, 0.5), rel=1e-9)
    assert one.mass[0] == pytest.approx(math.log10(mass / math.exp(-1)), abs=1e-6)
    assert one.published[0] < 0, "each weight obeys T1′"
    assert mass <= 99 * math.exp(-1), "and so the mass, with the factor n − |F|"


def test_the_closed_form_of_the_degenerate_examples() -> None:
    given = hulls.problem(instances.make("degenerate", variant="positive_power"))
    epsilon = np.geomspace(1e-1, 1e-13, 61)  # as in the experiment, which has compiled it
    low = epsilon <= 1e-6
    solved = np.exp(hulls.follow(given, epsilon).log_moved[low])
    # It leaves out terms of the order of the boundary key's mass, which is about 20 ε.
    assert solved == pytest.approx(degenerate_regime.closed_form(given, epsilon[low]), rel=1e-4)
    # t + log t = log(1e40) + log(2/3)·(−0.1) − 0.6730 = 91.471, so t = 86.99, over log(1e40).
    far = degenerate_regime.closed_form(given, np.array([1e-40]))[0] * 1e40
    assert far / math.log(1e40) == pytest.approx(0.9445, abs=1e-3)


def test_gaps_by_hand() -> None:
    # On a line with the query beyond the end: p* = 2, r* = 1, Δ = 1, logits 6, 3, 0 at ε = 1.
    made = Instance(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), np.array([3.0, 0.0]), "", 0)
    found = gap_taxonomy.gaps_of(made, k=2, epsilon=1.0)
    assert found.gap == pytest.approx({"projection": 1.0, "score": 3.0, "boundary": 3.0})
    total = math.exp(6) + math.exp(3) + 1
    assert found.log_mass["score"] == pytest.approx(math.log((math.exp(3) + 1) / total))
    assert found.log_mass["boundary"] == pytest.approx(-math.log(total))
    # c = 2e⁻³ and ½e⁻³.
    for kind, c in (("score", 2 * math.exp(-3)), ("boundary", 0.5 * math.exp(-3))):
        assert found.log_bound[kind] == pytest.approx(math.log(c / (1 + c)))
        assert found.log_mass[kind] < found.log_bound[kind]
        assert found.not_void[kind]
    with pytest.raises(ValueError, match="k is 3 with 3 keys"):
        gap_taxonomy.gaps_of(made, k=3, epsilon=1.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_bounds_of_the_score_gaps_hold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    logits = np.sort(rng.normal(scale=10 ** rng.uniform(-2, 2), size=n))[::-1]
    k = int(rng.integers(1, n))
    total = np.logaddexp.reduce(logits)
    c = math.log((n - k) / k) - (logits[k - 1] - logits[k])
    # Sums of 40 exponentials in float64.
    allowed = gap_taxonomy.log_ratio_bound(c) + 1e-12
    assert np.logaddexp.reduce(logits[k:]) - total <= allowed
    # Attained where all inside and all outside are equal.
    level = np.where(np.arange(n) < k, 2.0, -1.0)
    attained = np.logaddexp.reduce(level[k:]) - np.logaddexp.reduce(level)
    bound = gap_taxonomy.log_ratio_bound(math.log((n - k) / k) - 3.0)
    assert attained == pytest.approx(bound, abs=1e-12)


def test_from_which_length_on() -> None:
    assert vacuous_from([(256, True), (512, False), (1024, True), (2048, True)]) == 1024
    assert vacuous_from([(256, True), (512, False)]) is None
    assert vacuous_from([(256, True), (512, True)]) == 256


def test_the_bounds_of_pages_are_bounds() -> None:
    rng = np.random.default_rng(0)
    # Eighteen pages: one chunk and a part of another.
    keys, queries = rng.normal(size=(18, PAGE, 64)), 4 * rng.normal(size=(3, 64))
    truth = np.logaddexp.reduce(np.einsum("qd,psd->qps", queries, keys) / 8, axis=-1)
    for name, slack in (("box", math.inf), ("8 bits", 0.2)):
        upper = certificate_vacuity.bounded(keys, queries, 1 / 8, name)
        assert upper.shape == truth.shape
        assert np.all(upper >= truth)
        assert np.max(upper - truth) < slack


@pytest.mark.slow  # compiles the sweep
def test_quick_run_of_the_theorem(tmp_path: Path) -> None:
    outcome = quick("theorem_constants", tmp_path)
    values = outcome.values
    assert values["checks"] > 100
    assert values["violations"] == 0
    assert values["rate_median"] == pytest.approx(1, abs=0.01)
    (row,) = outcome.tables["reference values"].rows
    # The construction knows ‖w₀‖; the first-order remainder at the least ε is some 1e-5.
    assert row["tangent_norm"] == pytest.approx(row["tangent_known"], rel=1e-9)
    assert row["slope"] == pytest.approx(row["tangent_known"], rel=1e-4)
    assert row["gap"] == pytest.approx(0.5, abs=1e-12)
    assert row["constant_measured"] == pytest.approx(row["constant"], abs=0.05)
    for line in outcome.tables["leakage"].rows:
        assert line["log_mass"] <= line["t3"] + 1e-9


@pytest.mark.slow  # compiles two shapes at many temperatures
def test_quick_run_of_the_published_form(tmp_path: Path) -> None:
    outcome = quick("published_constants", tmp_path)
    values = outcome.values
    assert values["pairs_inside_failed"] == 0
    assert values["counterexample_measured"] == pytest.approx(13.2, abs=0.05)
    assert values["synthetic_t3_decades_100"] < 3 < values["synthetic_published_decades_100"]


def test_quick_run_of_the_degenerate_regime(tmp_path: Path) -> None:
    outcome = quick("degenerate_regime", tmp_path)
    rows = {row["instance"]: row for row in outcome.tables["laws"].rows}
    for row in rows.values():
        assert row["rho"] == pytest.approx(row["rho_known"], rel=1e-9)
        assert row["slope"] == pytest.approx(1, abs=0.01)
        assert row["linear_slope"] < 0.97
    # Read off a logarithmic grid of ε, 0.2 decades apart.
    assert outcome.values["ratio_1e2"] == pytest.approx(0.63, abs=0.01)
    assert outcome.values["ratio_1e8"] == pytest.approx(0.82, abs=0.01)
    powers = {(row["instance"], row["key"]): row["measured"] for row in
              outcome.tables["powers"].rows}  # fmt: skip
    assert powers["positive_power", 3] == pytest.approx(0.2, abs=0.01)
    assert powers["negative_power", 3] == pytest.approx(-0.2, abs=0.01)


@pytest.mark.slow  # compiles hulls of two shapes, and pages
def test_quick_runs_of_gaps_and_lengths(tmp_path: Path) -> None:
    gaps = quick("gap_taxonomy", tmp_path)
    assert {row["kind"] for row in gaps.tables["gaps"].rows} == {
        "projection gap", "score gap", "boundary gap"
    }  # fmt: skip
    lengths = quick("certificate_vacuity", tmp_path)
    pages = {
        (row["tokens"], row["certificate"]): row["share"] for row in lengths.tables["pages"].rows
    }
    for tokens in (256, 512):
        assert (
            pages[tokens, "best possible"] <= pages[tokens, "4 bits"] <= pages[tokens, "box"] == 1
        )
    assert lengths.values["iid_box_vacuous_from"] == 256


@pytest.mark.slow  # compiles the sweep for recorded heads
def test_quick_run_of_the_regime_map(tmp_path: Path) -> None:
    outcome = quick("regime_map", tmp_path)
    first = outcome.tables["heads"].rows[0]
    # Layer 0, head 0 of the packaged sample, by the projection alone.
    given = hulls.problem(instances.make("heads", seed=0))
    assert (first["layer"], first["head"]) == (0, 0)
    assert first["gap_ratio"] == pytest.approx(given.gap / 8)
    leak = hulls.follow(given, np.array([first["leak_epsilon"]])).log_mass[0]
    # Bracketed on grids, then interpolated in the logarithm.
    assert math.exp(leak) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (lambda: theorem_constants.Config(heads=64), "1 to 63 heads"),
        (lambda: published_constants.Config(instances=0), "at least 1"),
        (lambda: degenerate_regime.Config(instances=0), "at least 1"),
        (lambda: gap_taxonomy.Config(pages=0), "at least 1"),
        (lambda: certificate_vacuity.Config(longest=1000), "power of 2"),
        (lambda: regime_map.Config(heads=0), "1 to 63"),
    ],
)
def test_configurations_that_make_no_sense(config, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config()


def test_the_committed_theorem_has_the_reference_values() -> None:
    outcome = results.outcome("theorem_constants")
    row = outcome.tables["reference values"].rows[0]
    # Of the reference instance, found by an independent prototype.
    assert row["gap"] == pytest.approx(0.28012510083585, abs=1e-13)
    assert row["face"] == 14
    assert row["tangent_norm"] == pytest.approx(0.45110816, abs=1e-8)
    values = outcome.values
    assert values["violations"] == 0
    assert values["checks"] == sum(
        values[f"checks_{s}"] for s in ("identity", "t1", "t1_published", "t2", "t3")
    )
    assert abs(values["rate_median"] - 1) < 1e-3
    shares = [row["share"] for row in outcome.tables["status"].rows]
    assert sum(shares) == pytest.approx(1)
    for line in outcome.tables["leakage"].rows:
        assert line["log_mass"] <= line["t3"] + 1e-9
    for line in outcome.tables["displacement"].rows:
        assert line["share"] <= line["share_t2"] * (1 + 1e-12)


def test_the_committed_map_adds_up() -> None:
    outcome = results.outcome("regime_map")
    rows, values = outcome.tables["heads"].rows, outcome.values
    assert len({(row["layer"], row["head"]) for row in rows}) == len(rows) == 63
    for row in rows:
        assert row["gap_ratio"] == pytest.approx(row["gap"] / 8)
        assert row["factor"] == pytest.approx(8 / row["leak_epsilon"])
        assert row["leakage"] <= row["bound"]
        assert row["safe_epsilon"] <= row["leak_epsilon"] * (1 + 1e-6)
    assert values["gap_ratio_median"] == pytest.approx(np.median([r["gap_ratio"] for r in rows]))
    assert values["in_regime"] == sum(row["gap"] >= 8 for row in rows)
    survey = results.outcome("head_survey").tables["hull at the model's temperature"].rows
    quoted = {row["tokens"]: row["gap_ratio"] for row in outcome.tables["longer contexts"].rows}
    assert quoted == {row["context"]: row["gap_ratio"] for row in survey}


def test_the_committed_bounds_lie_above_the_truth() -> None:
    for row in results.outcome("gap_taxonomy").tables["points"].rows:
        # Both were exponentiated and rounded.
        assert row["mass"] <= row["bound"] * (1 + 1e-9)
    published = results.outcome("published_constants")
    assert published.values["pairs_inside_failed"] == 0
    for row in published.tables["counterexample"].rows:
        reach = row["reach"]
        by_hand = 0.5 * math.log(19) * (reach - 0.9) - 0.198515
        assert row["predicted"] == pytest.approx(by_hand, abs=1e-5)
        # First order in ε = 1e-4: ⟨C⁺w₀, v⟩ ε = 7.75 (X − 0.9) 1e-4.
        assert row["predicted"] - row["measured"] == pytest.approx(
            1.4722 / 0.19 * (reach - 0.9) * 1e-4, rel=0.02
        )
    pages = results.outcome("certificate_vacuity").tables["pages"].rows
    best = {
        (r["source"], r["tokens"]): r["share"] for r in pages if r["certificate"] == "best possible"
    }
    assert all(row["share"] >= best[row["source"], row["tokens"]] for row in pages)
    assert all(row["slack"] >= 0 for row in pages)
