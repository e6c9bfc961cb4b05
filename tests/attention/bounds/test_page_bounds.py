"""Stored bounds are never below the true scores, in float64, whatever they are stored in."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attention.specs import keeping_all
from vashista_theory.attention.bounds.bits import from_bits, pair_as_bits, widened
from vashista_theory.attention.bounds.certificate import (
    dropped_mass_bound,
    dropped_mass_lower,
    output_error_bound,
)
from vashista_theory.attention.bounds.page_bounds import (
    PageBounds,
    as_query,
    ball_range,
    box_range,
    page_bounds,
)
from vashista_theory.attention.bounds.rounding import round_down, round_up
from vashista_theory.attention.bounds.sketch import pack, rows, unpack
from vashista_theory.attention.bounds.summaries import (
    KINDS,
    SummarySpec,
    summarise_pages,
    summarise_superpages,
    without_sketch,
)

D, SIZE = 16, 4


@given(
    st.lists(st.floats(-1e30, 1e30), min_size=5, max_size=5),
    st.sampled_from(["bfloat16", "float32", "float64"]),
)
def test_rounding_goes_the_stated_way_by_at_most_one_step(numbers, dtype):
    # Below the least normal number processors round to zero, which is not a bound's business.
    exact = np.array([x if abs(x) > 1e-30 else 0.0 for x in numbers])
    above = np.asarray(round_up(jnp.asarray(exact), dtype).astype(jnp.float64))
    below = np.asarray(round_down(jnp.asarray(exact), dtype).astype(jnp.float64))
    step = 2 * float(jnp.finfo(dtype).eps) * np.abs(exact)
    assert np.all(above >= exact)
    assert np.all(below <= exact)
    assert np.all(above - below <= 2 * step)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_widening_keeps_the_least_numbers_and_their_signs(dtype):
    """Below the normal numbers of float32 too: NumPy converts them exactly."""
    least = np.array([1.0, -1.0, 3.0, -77.0, 0.0]) * float(
        ml_dtypes.finfo(dtype).smallest_subnormal
    )
    numbers = np.concatenate([least, [1.5, -(2.0**-126), -np.inf, 3e38]]).astype(dtype)
    wide = np.asarray(widened(jnp.asarray(numbers), np.float64))
    np.testing.assert_array_equal(wide, numbers.astype(np.float64))


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_packing_is_undone(bits):
    codes = np.random.default_rng(0).integers(0, 2**bits, size=(3, 24, 5)).astype(np.uint8)
    packed = pack(jnp.asarray(codes), bits)
    assert packed.shape == (3, 24 * bits // 8, 5)
    np.testing.assert_array_equal(unpack(packed, bits), codes)
    for stored, held in ((packed, True), (jnp.asarray(codes), False)):
        np.testing.assert_array_equal(np.stack(rows(stored, bits, packed=held), axis=-2), codes)


def true_log_masses(query, keys, scale):
    logits = scale * np.einsum("rgd,rpsd->rgps", query, keys)
    top = logits.max(-1)
    return top + np.log(np.exp(logits - top[..., None]).sum(-1)), top


def hard_keys(rng, kind, shape):
    keys = rng.normal(size=shape)
    if kind == "same":
        keys[:] = keys[:, :, :1]
    elif kind == "far":
        keys += 1e3
    elif kind == "outlier":
        keys[..., 0, 0] *= 1e4
    elif kind == "tiny":  # scores vanish beside the logarithm of the number of keys
        keys *= 1e-9
    elif kind == "flat":
        keys[..., : shape[-1] // 2] = 0.1
    return keys


@given(
    seed=st.integers(0, 2**20),
    kind=st.sampled_from(["plain", "same", "far", "outlier", "flat", "tiny"]),
    bits=st.sampled_from([1, 4, 6, 8]),
    packed=st.booleans(),
    storage=st.sampled_from(["bfloat16", "float32", "float64"]),
    work=st.sampled_from([np.float32, np.float64]),
)
def test_page_masses_lie_between_their_bounds(seed, kind, bits, packed, storage, work):
    rng = np.random.default_rng(seed)
    keys = hard_keys(rng, kind, (2, 16, SIZE, D)).astype(work)
    values = rng.normal(size=keys.shape).astype(work)
    query = rng.normal(size=(2, 3, D)).astype(work)
    spec = keeping_all(sketch_bits=bits, packed=packed, dtype=storage)
    pages = summarise_pages(jnp.asarray(keys), jnp.asarray(values), spec)
    computed = np.float64 if storage == "float64" else work
    asked = as_query(jnp.asarray(query, computed), jnp.asarray(0.25, computed))
    exact = query.astype(np.float64), keys.astype(np.float64)
    for summary in KINDS:
        found = page_bounds(asked, pages, spec, summary, SIZE)
        assert_between(found, *true_log_masses(*exact, 0.25))
    lengths = np.linalg.norm(values.astype(np.float64), axis=-1).max(-1)
    assert np.all(np.asarray(from_bits(pages.value_bound, np.float64)) >= lengths)

    above = summarise_superpages(without_sketch(pages), -1)
    above = type(above)(*(None if a is None else a[:, None] for a in vars(above).values()))
    whole = true_log_masses(exact[0], exact[1].reshape(2, 1, -1, D), 0.25)
    for summary in KINDS:
        assert_between(page_bounds(asked, above, spec, summary, 16 * SIZE), *whole)


def assert_between(found: PageBounds, log_mass: np.ndarray, best: np.ndarray) -> None:
    # The reference itself is a float64 sum of 16 products.
    noise = 64 * np.finfo(np.float64).eps * (1 + np.abs(log_mass) + np.abs(best))
    assert np.all(np.asarray(found.lower, np.float64) <= log_mass + noise)
    assert np.all(np.asarray(found.upper, np.float64) >= log_mass - noise)
    assert np.all(np.asarray(found.best, np.float64) >= best - noise)


@pytest.mark.parametrize("d", [16, 512])
def test_a_key_alone_has_room_for_three_times_the_rounding_of_its_score(d):
    """As a box and as a ball of no size: d u ‖q‖ ‖k‖ is what a sum of d products may err by."""
    query = as_query(jnp.full((1, 1, d), 0.75, jnp.float32), jnp.float32(1))
    key = jnp.full((1, 1, d), 1.5, jnp.float32)
    exact = 1.125 * d
    rounding = d * 2.0**-24 * 1.125 * d
    ranges = (
        box_range(query, pair_as_bits(key, key)),
        ball_range(query, key, jnp.zeros((1, 1), jnp.float32)),
    )
    for least, greatest in ranges:
        for room in (exact - float(least[0, 0, 0]), float(greatest[0, 0, 0]) - exact):
            assert 3 * rounding <= room <= 6.5 * (d + 20) / d * rounding


def test_the_mean_of_a_superpage_is_as_far_off_as_it_says():
    """Means of pages that are exact, in float32: what is left is the rounding of their mean."""
    rng = np.random.default_rng(0)
    keys = jnp.asarray(rng.normal(size=(200, 16, SIZE, D)), jnp.float32)
    pages = summarise_pages(keys, keys, SummarySpec(dtype="float32", sketch_bits=None))
    fields = vars(pages) | {"mean_error": jnp.zeros_like(pages.mean_error)}
    above = summarise_superpages(type(pages)(**fields), -1)
    exact = np.asarray(from_bits(pages.mean, jnp.float32), np.float64).mean(axis=1)
    kept = np.asarray(from_bits(above.mean, jnp.float32), np.float64)
    away = np.linalg.norm(kept - exact, axis=-1)
    assert np.all(away <= np.asarray(from_bits(above.mean_error, jnp.float32), np.float64))
    assert np.any(away > 0)


@given(seed=st.integers(0, 2**20), pages=st.integers(1, 12), spread=st.sampled_from([0.1, 3.0]))
def test_error_bound_equals_the_maximum_over_all_page_masses(seed, pages, spread):
    rng = np.random.default_rng(seed)
    log_upper = spread * rng.normal(size=pages)
    log_read = spread * rng.normal()
    longest, output = rng.uniform(0.1, 3, size=pages), rng.uniform(0, 2)
    # At the maximum each page has mass 0 or its bound, farthest pages first.
    far = longest + output
    order = np.argsort(-far)
    mass = np.cumsum(np.exp(log_upper[order]))
    moment = np.cumsum(np.exp(log_upper[order]) * far[order])
    best = np.max(moment / (np.exp(log_read) + mass))
    found = output_error_bound(
        jnp.asarray(log_upper), jnp.asarray(log_read), jnp.asarray(longest), jnp.asarray(output)
    )
    assert float(found) >= best * (1 - 1e-12)
    assert float(found) <= best * 1.02  # five Newton steps; 2 % was never reached in 10⁴ draws


def test_what_was_read_may_be_less_or_more_by_its_slack():
    """One unread nat against one read, known to ± 1: between e⁻²/(1 + e⁻²) and 1/(1 + e⁻¹)."""
    zero, one = jnp.zeros(1), jnp.ones(1)
    greatest = dropped_mass_bound(zero, zero, one)
    least = dropped_mass_lower(zero[:, None], jnp.ones((1, 1), bool), zero, one)
    np.testing.assert_allclose(greatest, 1 / (1 + np.exp(-1)), rtol=1e-13)
    np.testing.assert_allclose(least, np.exp(-2) / (1 + np.exp(-2)), rtol=1e-13)
