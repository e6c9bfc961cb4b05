"""T8's formulas against every possible draw of a few tokens, and against mpmath."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vashista_theory as vt
from vashista_theory.attention.bounds import sampling

D = 3
log_inclusion_probability = jax.jit(sampling.log_inclusion_probability)
exact_variance = jax.jit(sampling.exact_variance)
estimated_variance = jax.jit(sampling.estimated_variance)
sketch_dispersion = jax.jit(sampling.sketch_dispersion)
size_bound = jax.jit(sampling.size_bound)
tail_moments = jax.jit(sampling.tail_moments)
bennett_radius = jax.jit(sampling.bennett_radius, static_argnums=2)
confident_error = jax.jit(sampling.confident_error, static_argnums=1)
KINDS = ("plain", "one holds all", "far proxies", "duplicates", "mixed values", "tiny values")


def problem(seed: int, kind: str, n: int):
    """Log-masses, log-proxies and values; nobody promises that the two masses are alike."""
    rng = np.random.default_rng(seed)
    log_mass = rng.choice([0.3, 3.0]) * rng.normal(size=n)
    log_proxy = log_mass + rng.uniform(-1, 1, size=n)
    values = rng.normal(size=(n, D))
    if kind == "one holds all":
        log_mass[0] += 30.0
        log_proxy[0] += rng.choice([0.0, 30.0])  # the sketch may have missed it
    elif kind == "far proxies":
        log_proxy = log_mass + 12 * rng.choice([-1.0, 1.0], size=n)
    elif kind == "duplicates":
        log_mass[:], log_proxy[:], values[:] = log_mass[0], log_proxy[0], values[0]
        values[0] += 1.0
    elif kind == "mixed values":
        values *= np.exp(4 * rng.normal(size=(n, 1)))
    elif kind == "tiny values":
        values *= 1e-12
    return log_mass, log_proxy, values


def every_draw(pi):
    """(2^n, n) of all possible draws, and the probability of each."""
    drawn = np.array(list(itertools.product([False, True], repeat=len(pi))))
    return drawn, np.prod(np.where(drawn, pi, 1 - pi), axis=1)


def reads(mass, values, drawn, weight):
    """Ẑ, N̂ of every draw, with a weight for each token that was drawn."""
    counted = drawn * weight * mass
    return counted.sum(axis=1), counted @ values


CASES = given(
    seed=st.integers(0, 2**20),
    kind=st.sampled_from(KINDS),
    n=st.sampled_from([1, 2, 7]),
    share=st.floats(0.1, 1.5),
)


@CASES
def test_mean_and_variance_over_all_possible_draws(seed, kind, n, share):
    log_mass, log_proxy, values = problem(seed, kind, n)
    threshold = np.exp(log_proxy).max() * share
    log_pi = log_inclusion_probability(jnp.asarray(log_proxy), jnp.log(threshold))
    pi = np.minimum(1.0, np.exp(log_proxy) / threshold)
    np.testing.assert_allclose(np.exp(log_pi), pi, rtol=1e-13)
    mass = np.exp(log_mass - log_mass.max())
    mass /= mass.sum()
    output = mass @ values
    drawn, chance = every_draw(pi)
    size = np.abs(values).max()
    total, moment = reads(mass, values, drawn, 1 / pi)
    # The sums run over 2^n products whose weights 1/π can be large.
    noise = 1e-13 * (1 / pi).max()
    assert abs(chance @ total - 1.0) <= noise
    np.testing.assert_allclose(chance @ moment, output, atol=noise * size, rtol=0)
    difference = moment - total[:, None] * output
    second = chance @ (difference**2).sum(axis=1)
    distance = np.linalg.norm(values - output, axis=1)
    logs = jnp.asarray(np.log(mass)), log_pi
    found = float(exact_variance(*logs, jnp.asarray(distance)))
    assert found == pytest.approx(second, rel=1e-9, abs=noise * size**2)
    # The estimate, with distances from o itself, has that mean.
    seen = jnp.asarray(np.where(drawn, np.log(mass), -np.inf))
    distances = jnp.asarray(np.broadcast_to(distance, drawn.shape))
    estimates = np.asarray(estimated_variance(seen, logs[1][None], distances))
    assert chance @ estimates == pytest.approx(second, rel=1e-9, abs=noise * size**2)


@pytest.mark.parametrize("flaw", ["missing weight", "biased weight", "reused draw"])
def test_flawed_draws_are_seen(flaw):
    """The control: what the test above rests on does notice a wrong estimator."""
    log_mass, log_proxy, values = problem(5, "plain", 6)
    pi = np.minimum(1.0, np.exp(log_proxy) / np.exp(log_proxy).max() / 0.9)
    mass = np.exp(log_mass) / np.exp(log_mass).sum()
    drawn, chance = every_draw(pi)
    weight = {"missing weight": np.ones(6), "biased weight": pi**-0.9}.get(flaw, 1 / pi)
    if flaw == "reused draw":  # one number for all tokens, as a key used for each of them
        steps = np.sort(np.append(pi, [0.0, 1.0]))
        drawn = steps[:-1, None] < pi[None, :]
        chance = np.diff(steps)
    total, moment = reads(mass, values, drawn, weight)
    output = mass @ values
    difference = moment - total[:, None] * output
    distance = np.linalg.norm(values - output, axis=1)
    exact = ((mass**2) * (1 / pi - 1) * distance**2).sum()
    second = chance @ (difference**2).sum(axis=1)
    unbiased = abs(chance @ total - 1) < 1e-3
    assert not (unbiased and second == pytest.approx(exact, rel=1e-2))


@CASES
def test_size_bound_holds_with_and_without_the_worst_error_of_the_sketch(seed, kind, n, share):
    log_mass, log_proxy, values = problem(seed, kind, n)
    threshold = np.exp(log_proxy).max() * share
    pi = np.minimum(1.0, np.exp(log_proxy) / threshold)
    tail = pi < 1
    if not tail.any():
        return
    mass = np.exp(log_mass - log_mass.max())
    mass /= mass.sum()
    distance = np.linalg.norm(values - mass @ values, axis=1)
    exact = np.sqrt(((mass**2) * (1 / pi - 1) * distance**2).sum())
    rho = float(
        sketch_dispersion(
            jnp.asarray(np.where(tail, np.log(mass), -np.inf)), jnp.asarray(log_proxy)
        )
    )
    proxy = np.exp(log_proxy)[tail]
    expected = (mass[tail] ** 2 / proxy).sum() * proxy.sum() / mass[tail].sum() ** 2
    assert rho == pytest.approx(expected, rel=1e-10)
    worst = np.ptp((log_mass - log_proxy)[tail]) / 2  # proxies may all be off by one factor
    assert 1 - 1e-12 <= rho <= np.cosh(worst) ** 2 * (1 + 1e-12)
    sizes = distance[tail].max(), mass[tail].sum(), rho, pi[tail].sum()
    bound = float(size_bound(*map(jnp.asarray, sizes)))
    assert exact <= bound * (1 + 1e-12)


def exact_radius(variance: float, largest: float, failure: float):
    """The least r with 2 exp(−(V/B²) h(Br/V)) ≤ failure, by bisection in 60 digits."""
    with mp.workdps(60):
        v, b = mp.mpf(variance), mp.mpf(largest)
        level = mp.log(mp.mpf(2) / mp.mpf(failure))
        if v == 0:
            return mp.mpf(0)
        gauss = mp.sqrt(2 * v * level)
        if b == 0:
            return gauss

        def excess(r):
            u = b * r / v
            return v / b**2 * ((1 + u) * mp.log(1 + u) - u) - level

        low, high = gauss, gauss + b * level
        for _ in range(120):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return high


@given(
    log_variance=st.floats(-30, 30),
    log_largest=st.floats(-30, 30),
    failure=st.sampled_from([0.5, 0.1, 1e-3, 1e-6, 1e-12]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_bennett_radius_is_the_least_and_never_below(log_variance, log_largest, failure, dtype):
    v, b = dtype(np.exp(log_variance)), dtype(np.exp(log_largest))
    found = float(bennett_radius(jnp.asarray(v), jnp.asarray(b), failure))
    exact = exact_radius(float(v), float(b), failure)
    assert exact <= found <= exact * (1 + 512 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bennett_radius_at_its_ends(dtype):
    one, zero, info = dtype(1.0), dtype(0.0), np.finfo(dtype)

    def radius(v, b):
        return float(bennett_radius(jnp.asarray(v), jnp.asarray(b), 1e-3))

    gauss = np.sqrt(2 * np.log(2e3))
    assert radius(one, zero) == pytest.approx(gauss, rel=1e-5)
    assert radius(one, dtype(info.tiny)) == pytest.approx(gauss, rel=1e-5)
    assert radius(zero, one) == radius(zero, zero) == 0.0
    falling = [radius(dtype(10.0**-k), one) for k in (0, 5, 10, 20, 30)]
    assert np.all(np.diff(falling) < 0)
    assert 0 < radius(dtype(info.tiny), one) < falling[-1] + 0.2
    assert radius(dtype(np.inf), one) == np.inf
    wide = radius(dtype(info.max), one)
    assert np.isfinite(wide)
    assert wide >= np.sqrt(2 * np.log(2e3)) * np.sqrt(float(info.max))


@given(seed=st.integers(0, 2**20), kind=st.sampled_from(KINDS), pages=st.sampled_from([1, 5]))
def test_upper_ends_are_above_variance_and_terms_for_every_output(seed, kind, pages):
    size = 4
    log_mass, log_proxy, values = problem(seed, kind, pages * size)
    rng = np.random.default_rng(seed)
    above = log_mass + rng.uniform(0, 2, size=log_mass.shape)
    pi = np.minimum(1.0, np.exp(log_proxy) / np.exp(log_proxy).max() / rng.uniform(0.3, 1.2))
    lengths = np.linalg.norm(values, axis=1).reshape(pages, size)
    by_page = lengths.max(axis=1, keepdims=True)
    for dtype, known in itertools.product((np.float32, np.float64), (lengths, by_page)):
        found = tail_moments(
            jnp.asarray(above.reshape(pages, size), dtype),
            jnp.asarray(np.log(pi).reshape(pages, size), dtype),
            jnp.asarray(np.nextafter(known.astype(dtype), dtype(np.inf))),
        )
        for output in (np.zeros(D), values[0], 3 * values.sum(axis=0)):
            distance = np.linalg.norm(values - output, axis=1)
            exact = (np.exp(2 * log_mass) * (1 / pi - 1) * distance**2).sum()
            terms = np.exp(log_mass) * np.maximum(1, 1 / pi - 1) * distance * (pi < 1)
            y = np.linalg.norm(output)
            one, first, second = np.asarray(found.sums, np.float64)
            greatest, weighted = np.asarray(found.greatest, np.float64)
            # The last factor: 1/π − 1 of the reference cancels where π is nearly 1.
            assert second + 2 * y * first + y**2 * one >= exact * (1 - 1e-9)
            assert weighted + y * greatest >= terms.max() * (1 - 1e-12)
            # Not more than its definition either: no value is further away than ν + y.
            factor = np.exp(above) * np.maximum(1, 1 / pi - 1) * (pi < 1)
            given = np.broadcast_to(known, lengths.shape).ravel()
            most = (factor * given).max() + y * factor.max()
            # Twice too large was not seen before; the room for rounding of float32 is below 1e-4.
            assert weighted + y * greatest <= most * (1 + 1e-3)


def test_values_that_no_number_bounds_make_the_error_unbounded_and_never_nan():
    log_mass = jnp.log(jnp.asarray([[0.2, 0.3], [0.1, 0.4]], jnp.float32))
    surely = jnp.asarray([[0.0, -1.0], [0.0, 0.0]], jnp.float32)
    endless = jnp.asarray([[1.0, 2.0], [jnp.inf, jnp.nan]], jnp.float32)
    found = tail_moments(log_mass, surely, endless)
    assert np.isfinite(found.sums).all() & np.isfinite(found.greatest).all()
    error = confident_error(found, 1e-3, jnp.float32(1.0), jnp.float32(jnp.inf))
    assert not np.isnan(error)
    found = tail_moments(log_mass, jnp.flip(surely - 1), endless.at[1, 1].set(3.0))
    assert confident_error(found, 1e-3, jnp.float32(1.0), jnp.float32(jnp.inf)) == np.inf
    nothing = tail_moments(log_mass, 0 * surely, endless)
    assert confident_error(nothing, 1e-3, jnp.float32(1.0), jnp.float32(jnp.inf)) == 0


def test_confident_error_is_the_least_consistent_length():
    """The length of the unknown output is bounded by the radius that it enters itself."""
    moments = sampling.TailMoments(jnp.asarray([1e-4, 2e-4, 4e-4]), jnp.asarray([1e-3, 2e-3]))
    norm, longest = jnp.asarray(0.5), jnp.asarray(50.0)
    found = float(confident_error(moments, 1e-3, norm, longest))

    def radius(y):
        v = 4e-4 + 2 * y * 2e-4 + y**2 * 1e-4
        return float(exact_radius(v, 2e-3 + y * 1e-3, 1e-3))

    y = 50.0
    for _ in range(200):
        y = min(y, 0.5 + radius(y))
    assert radius(y) <= found <= 1.05 * radius(y)
    nothing = sampling.TailMoments(jnp.zeros(3), jnp.zeros(2))
    assert float(confident_error(nothing, 1e-3, norm, longest)) == 0.0
    wild = sampling.TailMoments(jnp.full(3, jnp.inf), jnp.full(2, jnp.inf))
    assert float(confident_error(wild, 1e-3, norm, longest)) == pytest.approx(50.5)


@pytest.mark.parametrize("which", [0, 1])
def test_bennett_is_asked_about_no_less_than_the_exact_moments(which, monkeypatch):
    """V(y) and B(y) are rounded upward, in float32 too: held against exact fractions."""
    monkeypatch.setattr(sampling, "bennett_radius", lambda *asked: asked[which])
    rng = np.random.default_rng(0)
    sums, greatest = (rng.uniform(0, 0.1, size=(400, k)).astype(np.float32) for k in (3, 2))
    y = rng.uniform(1, 2, size=400).astype(np.float32)
    # As long as the sampled output may be: the length stays y, and the radius is the least.
    moments = sampling.TailMoments(jnp.asarray(sums), jnp.asarray(greatest))
    found = sampling.confident_error(moments, 0.1, jnp.asarray(y), jnp.asarray(y))
    for row in range(400):
        one, first, second, least, steep, length, bound = (
            Fraction(float(x)) for x in (*sums[row], *greatest[row], y[row], np.asarray(found)[row])
        )
        variance = second + 2 * length * first + length**2 * one
        exact = (variance, steep + length * least)[which]
        assert exact <= bound <= exact * (1 + Fraction(2.0**-18))


@given(seed=st.integers(0, 50), exponent=st.floats(-3, -1), drawn=st.sampled_from([2, 8, 32]))
def test_the_gap_of_the_face_multiplies_the_sample(seed, exponent, drawn):
    """T3 × T8: with the face sure, the error is at most R e^(T3) √(ρ/m)."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(64, 4))
    query = 3 * rng.normal(size=4)
    projection = vt.project(keys, query)
    stability = vt.face_stability(projection)
    epsilon = 10.0**exponent * float(stability.gap)
    log_mass = np.asarray(vt.relax(projection, epsilon).log_weights)
    tail = ~np.asarray(projection.face)
    values = rng.normal(size=(64, D))
    log_proxy = log_mass + rng.uniform(-1, 1, size=64)
    threshold = np.logaddexp.reduce(log_proxy[tail]) - np.log(drawn)
    log_pi = np.where(tail, np.minimum(log_proxy - threshold, 0.0), 0.0)
    distance = np.linalg.norm(values - np.exp(log_mass) @ values, axis=1)
    # The tail can hold e^(−1000) of the mass: measured by its own.
    own = np.logaddexp.reduce(log_mass[tail])
    masses = jnp.asarray(np.where(tail, log_mass - own, -np.inf))
    variance = exact_variance(masses, jnp.asarray(log_pi), jnp.asarray(distance))
    rho = sketch_dispersion(masses, jnp.asarray(log_proxy))
    m = np.exp(log_pi[tail]).sum()
    radius = distance[tail].max()
    leak = float(stability.log_leakage_bound(epsilon))
    log_error = 0.5 * np.log(float(variance) or np.exp(-700)) + own
    log_bound = np.log(float(size_bound(*map(jnp.asarray, (radius, 1.0, rho, m))))) + leak
    assert log_error <= log_bound
    assert leak <= -0.5 * float(stability.gap) / epsilon + 10  # and it is exponentially small


def part_of(masses: np.ndarray, values: np.ndarray) -> sampling.Spread:
    """The spread of some tokens, by its definition in float64, as a kernel would hand it on."""
    mass = masses.sum()
    mean = masses @ values / (mass or 1.0)
    scatter = masses @ ((values - mean) ** 2).sum(axis=1)
    return sampling.Spread(*(jnp.asarray(x, jnp.float32)[None] for x in (mass, mean, scatter)))


@given(
    seed=st.integers(0, 2**20),
    offset=st.sampled_from([0.0, 10.0, 1e4]),
    parts=st.integers(1, 4),
    sure=st.booleans(),
)
def test_a_spread_in_parts_gives_the_estimated_variance_about_any_output(seed, offset, parts, sure):
    rng = np.random.default_rng(seed)
    masses = rng.exponential(size=(parts, 5)) ** 3
    masses[0] *= not sure  # a part whose tokens are all sure has no mass
    values = offset + rng.normal(size=(parts, 5, 3))
    output = offset + rng.normal(size=3)
    of_parts = [part_of(m, v) for m, v in zip(masses, values, strict=True)]
    joined = jax.tree.map(lambda *each: jnp.stack(each), *of_parts)
    found = joined.joined().about(jnp.asarray(output, jnp.float32)[None])[0]
    exact = (masses * ((values - output) ** 2).sum(axis=2)).sum()
    # Means and output are rounded to float32 at the size of the offset; what they differ by is of
    # size 1, and its square is off by twice that.
    away = np.finfo(np.float32).eps * (offset + 4.0)
    total = masses.sum()
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=32 * away * (total + exact) + 1e-12)
