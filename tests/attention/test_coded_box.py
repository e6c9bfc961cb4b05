"""Coded boxes hold the box they code, are little larger, and read the same in every precision."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vashista_theory.attention import coded_box
from vashista_theory.attention.summaries import (
    SummarySpec,
    corners,
    empty_summaries,
    summarise_pages,
)


@given(
    seed=st.integers(0, 2**20),
    bits=st.sampled_from(coded_box.CORNER_BITS),
    shift=st.sampled_from([0.0, 1e-30, 0.3, -7.0, 1e3, -1e6]),
    spread=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e4]),
    width=st.sampled_from([0.0, 1e-6, 1.0, 50.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_box_is_inside_and_every_precision_decodes_the_same(
    seed, bits, shift, spread, width, dtype
):
    rng = np.random.default_rng(seed)
    lower = (shift + spread * rng.normal(size=(6, 16))).astype(dtype)
    upper = (lower + width * spread * rng.uniform(size=lower.shape)).astype(dtype)
    coded = coded_box.encode(jnp.asarray(lower), jnp.asarray(upper), bits)
    assert coded.nbytes == 6 * coded_box.coded_bytes(bits, 16)
    single = coded_box.decode(coded, jnp.float32)
    double = coded_box.decode(coded, jnp.float64)
    for one, two in zip(single, double, strict=True):
        np.testing.assert_array_equal(np.asarray(one, np.float64), two)
    assert np.all(np.asarray(double[0]) <= lower)
    assert np.all(np.asarray(double[1]) >= upper)


@pytest.mark.parametrize(("bits", "places", "widths"), [(8, 255, 256), (4, 31, 8)])
def test_corners_move_by_a_grid_step_at_most(bits, places, widths):
    rng = np.random.default_rng(0)
    lower = rng.normal(size=(50, 64)) * 3
    upper = lower + rng.uniform(size=lower.shape)
    found = coded_box.decode(
        coded_box.encode(jnp.asarray(lower), jnp.asarray(upper), bits), jnp.float64
    )
    # The start may lie 2^-8 of the least coordinate below it; both steps round up by 2^-7 at most.
    start = np.abs(lower).max(-1, keepdims=True) * 2.0**-8
    step = (np.ptp(lower, axis=-1, keepdims=True) + start) / places * (1 + 2.0**-7)
    unit = ((upper - lower).max(-1, keepdims=True) + step) / widths * (1 + 2.0**-7)
    assert np.all(lower - np.asarray(found[0]) <= step * 1.001)
    assert np.all(np.asarray(found[1]) - upper <= unit * 1.001)


def test_a_box_by_hand():
    # Start −1, places 16 in steps of 1/16 need 17 of 31: the step is 2/31 rounded up to bfloat16.
    lower, upper = jnp.array([[-1.0, 1.0]]), jnp.array([[-1.0, 2.0]])
    coded = coded_box.encode(lower, upper, 4)
    step = 0.06494140625  # 2/31 = 0.064516…, the next number with eight binary digits is 133/2048
    low, high = coded_box.decode(coded, jnp.float64)
    assert float(low[0, 1]) == -1 + 30 * step
    unit = 0.1318359375  # (2 − 0.948…)/8 = 0.13147…, the next is 135/1024
    np.testing.assert_array_equal(high - low, [[unit, 8 * unit]])


def test_bytes_held_are_those_of_the_formula():
    for bits, row in ((8, 2 * 64 + 6), (4, 64 + 6)):
        spec = SummarySpec(ball=False, sketch_bits=None, corner_bits=bits)
        assert spec.bytes_by_part(16, 64)["box"] == row
        assert empty_summaries(spec, (3,), 16, 64).box.nbytes == 3 * row


def test_a_sketch_lies_on_the_grid_of_the_coded_box():
    rng = np.random.default_rng(1)
    keys = rng.normal(size=(1, 4, 16, 64))
    spec = SummarySpec(sketch_bits=8, corner_bits=4, dtype="float64")
    pages = summarise_pages(jnp.asarray(keys), jnp.asarray(keys), spec)
    lower, upper = (np.asarray(a)[..., None, :] for a in corners(pages.box, jnp.float64))
    rebuilt = lower + np.swapaxes(np.asarray(pages.codes), -1, -2) * (upper - lower) / 255
    assert np.all(np.abs(rebuilt - keys) <= (upper - lower) / 510 * (1 + 1e-12))
    error = np.linalg.norm(rebuilt - keys, axis=-1)
    assert np.all(np.asarray(pages.residual) >= error * (1 - 1e-12))
