"""Coupled attention (T6) against the relaxation, its own fixed point, cvxpy, mpmath and softmax."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vashista_theory as vt
from tests.attention.dense_reference import attend
from tests.thinned import spread
from vashista_theory import Result
from vashista_theory._numerics import default_tolerance
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.attention.step.coupled import coupled_weights

U = np.finfo(np.float64).eps
SPEC = SummarySpec(sketch_bits=None)
BARE = SummarySpec(box=False, ball=False, sketch_bits=None)  # quicker to compile
# Batch, kv heads, group, D, page size, lengths. Most time here goes into compiling, the reference
# foremost: it sees 40 keys of 16 coordinates wherever the shape does not matter.
SHAPES = (
    (1, 1, 1, 16, 4, (40,)),
    (3, 2, 3, 16, 4, (1, 0, 40)),
    (2, 1, 8, 16, 16, (40, 40)),
)


def draw(shape, seed, *, spec=BARE):
    batch, kv_heads, group, d, page, lengths = shape
    rng = np.random.default_rng(seed)
    keys, values = rng.normal(size=(2, batch, kv_heads, max(lengths), d))
    query = 1.5 * rng.normal(size=(batch, kv_heads * group, d))
    cache = PagedKV.from_tokens(keys, values, lengths=np.array(lengths), page_size=page, spec=spec)
    return cache, keys, values, query


def with_values(cache, keys, values):
    """The same cache with other values, on pages of its own."""
    return PagedKV.from_tokens(
        keys, values, lengths=np.asarray(cache.lengths), page_size=cache.page_size, spec=cache.spec
    )


def seen_by_heads(shape, query, *blocks):
    """Every query with its sequence, head and the tokens of each block that it sees."""
    batch, _, group, _, _, lengths = shape
    for b in range(batch):
        for h in range(query.shape[1]):
            yield b, h, *(block[b, h // group, : lengths[b]] for block in blocks)


@functools.cache
def _relaxer():
    def relaxed(keys, query, epsilon):
        return vt.relax(vt.project(keys, query, throw=False), epsilon, throw=False).log_weights

    return jax.jit(relaxed)


def relaxed_weights(keys, query, epsilon):
    if len(keys) == 1:
        return np.ones(1)
    return np.exp(np.asarray(_relaxer()(keys, query, jnp.asarray(epsilon, jnp.float64))))


def fixed_point_residual(point, keys, query, scale, coupling):
    r"""‖F(p)‖ of :math:`F(p) = p - K^\top softmax(s K (q - \gamma p))`.

    The derivative of F is I plus a positive semidefinite matrix, so ‖p − p*‖ ≤ ‖F(p)‖.
    """
    weights = attend(query - coupling * point, keys, keys, scale).weights
    return np.linalg.norm(point - weights @ keys)


def rounding_of_logits(keys, query, scale, coupling):
    """What rounding can do to a logit: sums of d products of these lengths."""
    longest = np.linalg.norm(keys, axis=1).max()
    reach = np.linalg.norm(query) + coupling * longest
    return 16 * keys.shape[1] * U * (1.0 + scale * longest * reach)


def check_nothing_is_certified(info):
    bounds = ("dropped_mass_bound", "dropped_mass_lower", "dropped_mass_estimate", "error_bound")
    for name in (*bounds, "gap", "log_mass"):
        assert np.all(np.isnan(getattr(info, name))), name
    assert not np.any(info.certified)
    assert not np.any(info.fell_back)
    assert bool(info.result == Result.successful)


@pytest.mark.parametrize("shape", spread(SHAPES, 2), ids=str)
@pytest.mark.parametrize("scale", spread([None, 2.0], 1))
def test_coupling_one_is_the_relaxation_of_the_projection(shape, scale):
    cache, keys, values, query = draw(shape, 0)
    output, info = vashista_attention(query, cache, Policy.dense(), scale=scale, coupling=1.0)
    softmax, _ = vashista_attention(query, cache, Policy.dense(), scale=scale)
    epsilon = shape[3] ** 0.5 if scale is None else 1 / scale
    for b, h, seen, carried in seen_by_heads(shape, query, keys, values):
        if len(seen) == 0:
            assert not np.any(output[b, h])
            continue
        expected = relaxed_weights(seen, query[b, h], epsilon) @ carried
        # The tolerance; 1e-13 is what is seen.
        np.testing.assert_allclose(output[b, h], expected, rtol=0, atol=1e-10)
        # Seen to notice: softmax is another function.
        assert len(seen) == 1 or np.abs(softmax[b, h] - expected).max() > 1e-3
    check_nothing_is_certified(info)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(pages=10, tolerance=0.1, summary="box", sink=1, recent=1),
        Policy(pages=10, summary="ball", sink=0, recent=0, superpages=1),
    ],
    ids=["one level", "two levels"],
)
def test_a_fixed_number_of_pages_is_the_relaxation_on_the_keys_read(policy):
    shape = (2, 2, 2, 16, 4, (256, 160))  # four superpages, and forty keys read
    cache, keys, values, query = draw(shape, 1, spec=SPEC)
    output, info = vashista_attention(query, cache, policy, coupling=1.0)
    check_nothing_is_certified(info)
    tokens, shares = np.arange(256), []
    for first in range(0, 256, 64):  # values that mark a page each, as many as there is room for
        marks = np.zeros_like(values)
        marked = tokens[first : first + 64]
        marks[:, :, marked, (marked - first) // 4] = 1.0
        found = vashista_attention(query, with_values(cache, keys, marks), policy, coupling=1.0)
        shares.append(found[0])
    # At scale 1/4 no weight underflows: a page with no share was not read.
    chosen = np.concatenate(shares, axis=-1) > 0
    np.testing.assert_array_equal(chosen.sum(-1), info.pages_read)
    assert np.all(chosen.sum(-1) == policy.pages)
    for b, h, seen, carried in seen_by_heads(shape, query, keys, values):
        read = chosen[b, h][np.arange(len(seen)) // 4]
        expected = relaxed_weights(seen[read], query[b, h], 4.0) @ carried[read]
        np.testing.assert_allclose(output[b, h], expected, rtol=0, atol=1e-10)


def test_other_couplings_solve_their_fixed_point_and_the_scaled_projection():
    shape, scale, coupling = SHAPES[1], 0.4, 0.3
    cache, keys, values, query = draw(shape, 2)
    attended = functools.partial(
        vashista_attention, query, policy=Policy.dense(), scale=scale, coupling=coupling
    )
    output, points = attended(cache)[0], np.asarray(attended(with_values(cache, keys, keys))[0])
    for b, h, seen, carried in seen_by_heads(shape, query, keys, values):
        if len(seen):
            residual = fixed_point_residual(points[b, h], seen, query[b, h], scale, coupling)
            longest = np.linalg.norm(seen, axis=1).max()
            noise = rounding_of_logits(seen, query[b, h], scale, coupling)
            assert residual <= noise * longest
            # T6: the projection problem for q/γ at temperature ε/γ.
            epsilon = 1 / (scale * coupling)
            weights = relaxed_weights(seen, query[b, h] / coupling, epsilon)
            np.testing.assert_allclose(output[b, h], weights @ carried, rtol=0, atol=1e-10)


def test_agrees_with_fifty_digits_and_with_an_exponential_cone_program():
    cache, keys, _, query = draw((1, 1, 1, 2, 2, (3,)), 4)
    with_keys = with_values(cache, keys, keys)
    found, _ = vashista_attention(query, with_keys, Policy.dense(), scale=3.0, coupling=2.0)
    point, rows, asked = np.asarray(found[0, 0]), keys[0, 0], query[0, 0]

    def condition(*p):
        towards = [a - 2 * x for a, x in zip(asked, p, strict=True)]
        masses = [mpmath.exp(3 * mpmath.fdot(towards, row)) for row in rows]
        total = mpmath.fsum(masses)
        return [p[i] - mpmath.fdot(masses, rows[:, i]) / total for i in range(2)]

    with mpmath.workdps(50):
        exact = mpmath.findroot(condition, point.tolist())
        # Logits of size 10, so 10 roundings and a few more.
        np.testing.assert_allclose(point, [float(x) for x in exact], rtol=0, atol=32 * U)
    cone = vt.oracle.relax_exponential_cone(rows, asked / 2, 1 / 6)
    # The oracle's own accuracy is 3e-8 times the largest distance of a key from q/γ.
    reach = np.linalg.norm(rows - asked / 2, axis=1).max()
    np.testing.assert_allclose(point, cone.point, rtol=0, atol=3e-8 * reach)


@functools.cache
def _solver():
    """α at many couplings, compiled once: the public function compiles for each."""
    return jax.jit(jax.vmap(lambda *a: coupled_weights(*a)[0], in_axes=(None, None, None, None, 0)))


def weights_at(couplings, query, keys, scale):
    counted = jnp.ones(len(keys), bool)
    arrays = (jnp.asarray(query), jnp.asarray(keys), counted, jnp.asarray(scale))
    return np.asarray(_solver()(*arrays, jnp.asarray(couplings)))


def test_small_couplings_tend_to_softmax_at_rate_gamma():
    rng, scale = np.random.default_rng(5), 0.25
    keys, query = rng.normal(size=(16, 16)), 1.5 * rng.normal(size=16)
    softmax = attend(query, keys, keys, scale).weights
    couplings = 10.0 ** np.array([3, 2, 1, 0, -1, -2, -3, -4, -5])
    weights = weights_at(couplings, query, keys, scale)
    distances = 0.5 * np.abs(weights - softmax).sum(1)
    bounds = np.tanh(couplings * scale * np.ptp(weights @ keys @ keys.T, axis=1) / 4)
    assert np.all(distances <= bounds + 16 * U)
    small = couplings < 0.5
    slope = np.polyfit(np.log(couplings[small]), np.log(distances[small]), 1)[0]
    # TV = aγ + O(γ²) with a stiffness of about 5: a few per cent of curvature at γ = 0.1.
    assert abs(slope - 1) < 0.02
    assert abs(distances[-1] / distances[-2] - 0.1) < 1e-4


def test_the_bound_on_the_distance_to_softmax_is_attained():
    """Keys 1 and 0: α₁ = σ(l − δ) with δ = γsα₁, and l = δ/2 makes TV = σ(δ/2) − σ(−δ/2)."""
    scale, coupling = 2.0, 1.5

    def sigma(x):
        return 1 / (1 + np.exp(-x))

    first = 0.5
    for _ in range(200):
        first = 0.5 * (first + sigma(-coupling * scale * first / 2))
    query, keys = np.array([coupling * first / 2]), np.array([[1.0], [0.0]])
    found = weights_at([coupling], query, keys, scale)[0]
    softmax = attend(query, keys, keys, scale).weights
    distance = 0.5 * np.abs(found - softmax).sum()
    assert abs(distance - np.tanh(coupling * scale * first / 4)) <= 8 * U


KINDS = ("plain", "duplicates", "coincident", "line", "offset", "far query")


@given(
    seed=st.integers(0, 2**20),
    kind=st.sampled_from(KINDS),
    size=st.sampled_from([1e-8, 1.0, 1e8]),
    stiffness=st.sampled_from([1e-8, 1e-2, 1.0, 1e2, 1e4]),
    lengths=st.lists(st.integers(0, 40), min_size=3, max_size=3),
)
def test_nasty_input_solves_its_fixed_point(seed, kind, size, stiffness, lengths):
    shape = (*SHAPES[1][:5], tuple(lengths))
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(3, 2, 40, 16))
    query = rng.normal(size=(3, 6, 16))
    if kind == "duplicates":
        keys[:, :, ::2] = keys[:, :, :1]
    elif kind == "coincident":
        keys[:] = keys[:, :, :1]
    elif kind == "line":
        keys[:] = keys[:, :, :1] * rng.normal(size=(3, 2, 40, 1))
    elif kind == "offset":
        keys += 1e3
        query += 1e3
    elif kind == "far query":
        query *= 1e3
    keys, query = size * keys, size * query
    scale = stiffness / (16 * size**2)
    cache = PagedKV.from_tokens(
        keys, np.ones_like(keys), lengths=np.array(lengths), page_size=4, spec=BARE
    )
    attended = functools.partial(
        vashista_attention, query, policy=Policy.dense(), scale=scale, coupling=1.0
    )
    total, info = attended(cache)
    points = np.asarray(attended(with_values(cache, keys, keys))[0])
    assert bool(info.result == Result.successful)
    for b, h, seen in seen_by_heads(shape, query, keys):
        # A sum of 40 weights whose logarithms were rounded.
        np.testing.assert_allclose(total[b, h], float(len(seen) > 0), rtol=0, atol=1e-12)
        if len(seen) == 0:
            assert not np.any(points[b, h])
            continue
        noise = rounding_of_logits(seen, query[b, h], scale, 1.0)
        residual = fixed_point_residual(points[b, h], seen, query[b, h], scale, 1.0)
        longest = np.linalg.norm(seen, axis=1).max()
        # α moves by a factor e^noise, p by that share of the longest key; p itself is solved to
        # the default tolerance, and F has a slope of at most 1 + sγ‖k‖².
        slope = 1 + scale * longest**2
        assert residual <= (noise + default_tolerance(np.float64) * slope) * longest


def test_low_temperatures_are_found_and_failures_are_told():
    """Newton's method from zero gave a total variation of 0.9 here and called it successful."""
    cache, keys, _, query = draw(SHAPES[0], 6)
    cache = with_values(cache, keys, keys)
    single = with_values(cache, *(2 * [keys.astype(np.float32)]))
    for scale in (1e2, 1e4, 1e6):
        expected = relaxed_weights(keys[0, 0], query[0, 0], 1 / scale) @ keys[0, 0]
        attended = functools.partial(
            vashista_attention, policy=Policy.dense(), scale=scale, coupling=1.0
        )
        point, info = attended(query, cache)
        assert bool(info.result == Result.successful)
        # Roundings of the logits, divided by what a logit of 1 weighs: s L² of them.
        accuracy = 4 * U * scale * 36
        np.testing.assert_allclose(point[0, 0], expected, rtol=0, atol=accuracy)
        coarse, info = attended(query.astype(np.float32), single)
        error = np.linalg.norm(np.asarray(coarse[0, 0], np.float64) - expected)
        # Half of the digits of float32 in units of the spread (6), or it says so.
        assert error <= 6 * 2 * 2**-11.5 or bool(info.result == Result.stagnated)
    assert bool(info.result == Result.stagnated)


def test_under_jit_and_in_float32():
    shape = SHAPES[0]
    cache, keys, values, query = draw(shape, 7)
    attended = functools.partial(vashista_attention, policy=Policy.dense(), coupling=1.0)
    eager, _ = attended(query, cache)
    traced, info = jax.jit(attended)(query, cache)
    assert bool(info.result == Result.successful)
    # The same program inlined in another: XLA may fuse it differently.
    np.testing.assert_allclose(traced, eager, rtol=0, atol=1e-13)
    single = with_values(cache, keys.astype(np.float32), values.astype(np.float32))
    coarse, info = jax.jit(attended)(jnp.asarray(query, jnp.float32), single)
    assert coarse.dtype == jnp.float32
    assert bool(info.result == Result.successful)
    # Logits of size ≤ 16 by sums of 16 products in float32, times values of size ≤ 4.
    np.testing.assert_allclose(coarse, eager, rtol=0, atol=16 * 16 * 4 * 2.0**-24)
    # The square of the spread underflows; equal logits weigh all values alike.
    tiny = with_values(cache, keys.astype(np.float32) * 1e-25, values.astype(np.float32))
    mean, info = attended(jnp.asarray(query, jnp.float32), tiny)
    assert bool(info.result == Result.successful)
    np.testing.assert_allclose(mean[0, 0], values[0, 0].mean(0), rtol=0, atol=40 * 2.0**-24)
