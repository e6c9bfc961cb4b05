"""Sampled reads on kernels: the draws and the report of plain JAX, to rounding."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.attention.step.test_kernel_backend import QUICK_TO_COMPILE, stages_asked_for, stand_in
from vashista_theory import Result
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.attention.kernels import api

KV_HEADS, D, PAGE, WIDTH = 2, 8, 4, 32
LENGTHS = np.array([0, 1, 3 * PAGE, PAGE * WIDTH, 21 * PAGE + 2])
TOKENS = 40
POLICIES = {
    "sampled": Policy.sampled(TOKENS, dense_below=0),
    "tolerance": Policy.sampled(TOKENS, tolerance=0.05, dense_below=0),
    "confidence": Policy.sampled(TOKENS, confidence=0.999, sink=0, dense_below=0),
}


def make(group: int, seed: int) -> tuple[np.ndarray, PagedKV]:
    rng = np.random.default_rng(seed)
    shape = (len(LENGTHS), KV_HEADS, PAGE * WIDTH, D)
    keys, values = rng.normal(size=(2, *shape)).astype(np.float32)
    query = rng.normal(size=(len(LENGTHS), KV_HEADS * group, D)).astype(np.float32)
    return query, fill(keys, values + 3.0)


@functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
def fill(keys, values) -> PagedKV:
    spec = SummarySpec(sketch_bits=2)
    return PagedKV.from_tokens(
        keys, values, lengths=jnp.asarray(LENGTHS), page_size=PAGE, spec=spec
    )


@functools.partial(jax.jit, static_argnums=(2, 3), compiler_options=QUICK_TO_COMPILE)
def decode(query, cache, policy, implementation=None):
    return vashista_attention(query, cache, policy, implementation=implementation)


def check_same(pair, plain_pair) -> None:
    (found, info), (expected, plain) = pair, plain_pair
    # Sums of the same few tokens in float32, in another order; values are about 3 large.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    for name in ("tokens_read", "pages_read", "certified", "fell_back", "bytes_read"):
        np.testing.assert_array_equal(getattr(info, name), getattr(plain, name), err_msg=name)
    np.testing.assert_allclose(info.log_mass, plain.log_mass, rtol=2e-6, atol=2e-5)
    # The estimate is a length: values and output are in it to the rounding of numbers of size 6.
    np.testing.assert_allclose(info.error_estimate, plain.error_estimate, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(info.error_bound, plain.error_bound, rtol=5e-3, atol=1e-6)
    assert bool(info.result == Result.successful)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        pytest.param(name, group, marks=() if (name, group) == ("sampled", 3) else pytest.mark.slow)
        for name in POLICIES
        for group in (1, 3)
    ],
)
def test_draws_and_report_are_those_of_plain_jax(name, group):
    @hypothesis.settings(max_examples=6)
    @hypothesis.given(seed=st.integers(0, 2**20))
    def check(seed):
        query, cache = make(group, seed)
        check_same(
            decode(query, cache, POLICIES[name], "xla"), decode(query, cache, POLICIES[name])
        )

    check()


def test_the_estimate_of_equal_values_is_no_rounding_of_them():
    """Values far from 0 and all alike: no read errs, and a difference of squares would say 1e-2."""
    query, _ = make(3, 0)
    alike = jnp.full((len(LENGTHS), KV_HEADS, PAGE * WIDTH, D), 1000.0, jnp.float32)
    keys = np.random.default_rng(1).normal(size=alike.shape).astype(np.float32)
    _, info = decode(query, fill(keys, alike), POLICIES["sampled"], "xla")
    # Means of the same number 1000 differ from it by roundings of 6e-5, in 8 dimensions.
    assert np.all(np.asarray(info.error_estimate) <= 1e-3)


@pytest.mark.slow
def test_a_back_end_that_cannot_read_tokens_leaves_them_to_plain_jax(monkeypatch):
    query, cache = make(4, 3)
    policy = POLICIES["sampled"]
    expected = decode(query, cache, policy)
    portable = api.load("xla").stages
    stand_in("attend alone", {"attend": portable["attend"]}, monkeypatch)

    def step():
        return vashista_attention(query, cache, policy)

    asked = stages_asked_for(step, monkeypatch)
    assert set(asked) == {"attend"}
    check_same(step(), expected)


def test_a_sampled_step_is_a_few_kernels(monkeypatch):
    query, cache = make(2, 3)

    def step():
        return vashista_attention(query, cache, POLICIES["sampled"], implementation="xla")

    # Sure pages, and the rows that drew more than there is room for.
    assert stages_asked_for(step, monkeypatch) == {
        "attend": 2,
        "attend_tokens": 1,
        "score_tokens": 1,
    }
