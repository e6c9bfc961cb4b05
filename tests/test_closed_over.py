"""Constants of a transformed function are arrays like others: the same answers, the same errors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vashista_theory as vt
from tests.thinned import spread
from vashista_theory.attention import (
    PagedKV,
    Policy,
    SummarySpec,
    calibrate,
    dense_attention,
    vashista_attention,
)

RNG = np.random.default_rng(0)
KEYS, POINT = RNG.normal(size=(12, 2)), np.array([3.0, -2.5])
TOKENS, QUERY = RNG.normal(size=(1, 2, 8, 4)), RNG.normal(size=(1, 4, 4))
SPEC = SummarySpec(ball=False, sketch_bits=None)


def filled(keys: Any = TOKENS, values: Any = TOKENS, **sizes: Any) -> PagedKV:
    return PagedKV.from_tokens(keys, values, page_size=2, spec=SPEC, **sizes)


CACHE = filled()
STABILITY = vt.face_stability(vt.project(KEYS, POINT))
BUDGET = Policy(pages=2, summary="box")

USES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "project": (lambda k, q: vt.project(k, q).gap, (KEYS, POINT)),
    "project_many": (
        lambda k, q: vt.project_many(k, q).gap,
        (np.stack([KEYS] * 8), np.stack([POINT] * 8)),
    ),
    "relax": (
        lambda e: vt.relax(STABILITY.projection, e).log_off_face_mass, (np.array([0.1, 0.5]),)
    ),
    "bounds": (STABILITY.log_leakage_bound, (np.array([0.1, 0.5]),)),
    "certify": (lambda k, q: vt.certify(k, q).gap_lower, (KEYS[:4], POINT)),
    "look": (lambda k, q: vt.explore.look(k, q).gap, (KEYS, POINT)),
    "oracle": (lambda k, q: vt.oracle.project_qp(k, q).point, (KEYS, POINT)),
    "from_tokens": (lambda k, v: filled(k, v).keys, (TOKENS, TOKENS)),
    "from_tokens, ragged": (
        lambda k, n: filled(k, k, lengths=n).reference_counts, (TOKENS, np.array([5]))
    ),
    "from_pages": (
        lambda k, t: PagedKV.from_pages(k, k, t, np.array([3]), spec=SPEC).keys,
        (TOKENS[0, :, None], np.array([[0]])),
    ),
    "append": (
        lambda k: filled(pages=8, pages_per_sequence=8).append(k, k)[0].keys, (TOKENS,)
    ),
    "cut": (lambda n: CACHE.truncate(n).select([0, 0]).reference_counts, (np.array([3]),)),
    "fork": (
        lambda k: filled(k, k).fork(0, 1, length=3).lengths,
        (np.concatenate([TOKENS, TOKENS]),),
    ),
    "vashista_attention": (lambda q: vashista_attention(q, CACHE, BUDGET)[0], (QUERY,)),
    "dense_attention": (dense_attention, (QUERY, TOKENS, TOKENS)),
    "calibrate": (
        lambda q: len(str(calibrate(CACHE, q, 0.5, share=0.5))), (np.stack([QUERY] * 3),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", spread(USES, 5))
def test_answers_are_those_outside(name: str) -> None:
    call, arrays = USES[name]
    expected = np.asarray(call(*arrays), np.float64)

    held = [jnp.asarray(array) for array in arrays]
    found = {"jit": jax.jit(lambda x: x * jnp.asarray(call(*held), jnp.float64))(1.0)}
    if name not in ("look", "calibrate", "project_many"):  # long to compile, and made of others
        mapped = jax.vmap(lambda x: x * jnp.asarray(call(*held), jnp.float64))
        found["vmap"] = mapped(jnp.ones(2))[0]
    if name in ("from_tokens", "append", "vashista_attention"):
        plain = jax.jit(lambda x: x * jnp.asarray(call(*arrays), jnp.float64))
        found["jit, of NumPy"] = plain(1.0)
    for way, answer in found.items():
        # Compiled as part of something larger, sums may be added in another order.
        np.testing.assert_allclose(answer, expected, rtol=1e-12, err_msg=way)


@pytest.mark.parametrize("name", ["from_tokens", "append", "from_pages", "vashista_attention"])
def test_a_nan_in_a_constant_is_named_when_traced(name: str) -> None:
    call, arrays = USES[name]
    bad = jnp.asarray(arrays[0]).at[(0,) * arrays[0].ndim].set(jnp.nan)
    for constant in (bad, np.asarray(bad)):
        with pytest.raises(ValueError, match=r"must be finite, but (keys|query)\[0, 0, 0.*nan"):
            jax.jit(lambda x, c=constant: x * call(c, *arrays[1:]))(1.0)


def test_a_cache_may_be_a_constant_too() -> None:
    outside = vashista_attention(QUERY, CACHE, BUDGET)[0]
    inside = jax.jit(lambda q: vashista_attention(q, CACHE, BUDGET)[0])(QUERY)
    np.testing.assert_allclose(inside, outside, rtol=1e-12)

    def step(cache: PagedKV, _: Any) -> tuple[PagedKV, Any]:
        return cache.append(jnp.asarray(TOKENS[:, :, 0]), jnp.asarray(TOKENS[:, :, 0]))[0], None

    cache, _ = jax.lax.scan(step, filled(pages=8, pages_per_sequence=8), jnp.arange(3))
    assert cache.lengths.tolist() == [11]


def test_what_reads_files_says_that_it_cannot() -> None:
    keys, point = jnp.asarray(KEYS), jnp.asarray(POINT)
    with pytest.raises(ValueError, match=r"cannot be traced; use `vt.project`"):
        jax.jit(lambda x: x * vt.project_blocks(keys, point).gap)(1.0)
