"""Attention sinks and soft-capped logits: exact where all is read, and every bound sound elsewhere.

The reference is NumPy in extended precision: logits c·tanh(s/c), and one key of value 0 a head.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from tests.thinned import spread
from vashista_theory.attention import PagedKV, Policy, vashista_attention

D, SIZE, TOKENS, HEADS, KV_HEADS, BATCH = 8, 4, 203, 4, 2, 2
SCALE = 0.7
SINKS = {"none": None, "sinks": np.array([-30.0, 2.0, 5.0, 40.0])}
CAPS = {"plain": None, "capped": 3.0, "barely": 500.0}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Dense attention of one problem.

    Attributes:
        output: (B, H, D), with cap and sinks.
        mass: (B, H) summed e^logit of the keys.
        sink: (H,) e^sink.
        logits: (B, H, T).
    """

    output: np.ndarray
    mass: np.ndarray
    sink: np.ndarray
    logits: np.ndarray


def problem(seed: int, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    keys, values = rng.normal(size=(2, BATCH, KV_HEADS, TOKENS, D))
    query = 2.0 * rng.normal(size=(BATCH, HEADS, D))
    return query.astype(dtype), keys.astype(dtype), (values + 1.0).astype(dtype)


def reference(query: Any, keys: Any, values: Any, sinks: Any, cap: float | None) -> Reference:
    wide = [np.repeat(a.astype(np.longdouble), HEADS // KV_HEADS, axis=1) for a in (keys, values)]
    logits = SCALE * np.einsum("bhd,bhtd->bht", query.astype(np.longdouble), wide[0])
    if cap is not None:
        logits = cap * np.tanh(logits / cap)
    sink = np.zeros(HEADS) if sinks is None else np.exp(sinks.astype(np.longdouble))
    weights = np.exp(logits)
    mass = weights.sum(axis=-1)
    total = mass + sink
    output = np.einsum("bht,bhtd->bhd", weights, wide[1]) / total[..., None]
    return Reference(output, mass, sink, logits)


POLICIES = {
    "dense": Policy.dense(),
    **{f"5 pages by {name}": Policy(pages=5, summary=name) for name in ("sketch", "box", "mean")},
    **{
        f"12 pages by {name}, proved": Policy(pages=12, summary=name, tolerance=0.3)
        for name in ("sketch", "box", "ball")
    },
    "superpages": Policy(pages=8, summary="box", superpages=2, tolerance=0.3),
    "widened": Policy(pages=None, tolerance=0.05, otherwise="widen"),
    "dense if not proved": Policy(pages=8, tolerance=0.05, otherwise="dense"),
}


@pytest.mark.parametrize(
    ("sinks", "cap", "dtype"),
    [
        ("sinks", "capped", np.float32),
        pytest.param("sinks", "plain", np.float64, marks=pytest.mark.slow),
        pytest.param("none", "capped", np.float64, marks=pytest.mark.slow),
        pytest.param("sinks", "capped", np.float64, marks=pytest.mark.slow),
        pytest.param("sinks", "barely", np.float64, marks=pytest.mark.slow),
        pytest.param("none", "capped", np.float32, marks=pytest.mark.slow),
    ],
)
def test_pages(sinks: str, cap: str, dtype: Any) -> None:
    query, keys, values = problem(3, dtype)
    dense = reference(query, keys, values, SINKS[sinks], CAPS[cap])
    cache = PagedKV.from_tokens(keys, values, page_size=SIZE)
    given = {"scale": SCALE, "sinks": SINKS[sinks], "softcap": CAPS[cap]}
    if dtype == np.float32 and given["sinks"] is not None:
        given["sinks"] = given["sinks"].astype(np.float32)
    # Outputs are of order 1 and sums of 203 terms: a few hundred roundings.
    rounding = 500 * float(np.finfo(dtype).eps)
    for name, policy in POLICIES.items():
        output, info = vashista_attention(query, cache, policy, **given)
        info = jax.tree.map(np.asarray, info)
        error = np.linalg.norm(np.asarray(output, np.longdouble) - dense.output, axis=-1)
        read = np.exp(np.asarray(info.log_mass, np.longdouble))
        total = dense.mass + dense.sink
        dropped = (dense.mass - read) / total
        if name == "dense":
            assert np.all(error <= rounding), (name, error)
            assert np.all(abs(dropped) <= rounding), name
            continue
        if policy.tolerance is None:
            continue
        assert np.all(error <= info.error_bound + rounding), (name, error, info.error_bound)
        assert np.all(dropped <= info.dropped_mass_bound + rounding), name
        assert np.all(dropped >= info.dropped_mass_lower - rounding), name
        assert np.all(info.dropped_mass_bound[info.certified] <= policy.tolerance), name
        if policy.otherwise == "widen":
            assert np.all(info.certified), name
        # Whatever lies within the gap of the best key was read, were it positive.
        within = dense.logits > dense.logits.max(axis=-1, keepdims=True) - SCALE * np.where(
            np.isfinite(info.gap), info.gap, 0.0
        )[..., None] * (1 - 1e-6)
        assert np.all(within.sum(axis=-1) <= info.tokens_read), name


@pytest.mark.slow
def test_a_sink_makes_a_proof_easier() -> None:
    # It is mass that is always read.
    query, keys, values = problem(4)
    cache = PagedKV.from_tokens(keys, values, page_size=SIZE)
    pages = [
        int(vashista_attention(query, cache, POLICIES["widened"], sinks=sinks)[1].pages_read.max())
        for sinks in (None, np.full(HEADS, 30.0))
    ]
    assert pages[1] == 2 < pages[0]


@pytest.mark.parametrize("cap", spread(["capped", "plain"], 1))
@pytest.mark.parametrize("sinks", spread(reversed(SINKS), 1))
def test_drawn_tokens(sinks: str, cap: str) -> None:
    query, keys, values = problem(5)
    dense = reference(query, keys, values, SINKS[sinks], CAPS[cap])
    cache = PagedKV.from_tokens(keys, values, page_size=SIZE)
    policy = Policy.sampled(60, confidence=1 - 1e-6, dense_below=0)
    draws = 400

    def step(key: Any) -> Any:
        output, info = vashista_attention(
            query, cache, policy, scale=SCALE, key=key, sinks=SINKS[sinks], softcap=CAPS[cap]
        )
        return output, info.log_mass, info.error_estimate, info.error_bound

    keys_ = jax.random.split(jax.random.key(0), draws)
    output, log_mass, estimate, bound = map(np.asarray, jax.lax.map(jax.jit(step), keys_))
    error = np.linalg.norm(output - np.asarray(dense.output, float), axis=-1)
    assert np.all(error <= bound), "it fails once in a million draws"
    # Of everything, the sink included: a head that it holds all of does not mind what is drawn.
    total = np.asarray(dense.mass + dense.sink, float)
    shift = (np.exp(log_mass) - np.asarray(dense.mass, float)) / total
    spread = shift.std(axis=0) / np.sqrt(draws)
    assert np.all(abs(shift.mean(axis=0)) <= 5 * spread + 1e-9), "unbiased, to five deviations"
    # Estimated and true variance, each of 400 draws, agree within a factor of two (about 7 % of
    # standard error each, and the estimate's own bias of order 1/m for 60 tokens).
    true, told = (np.sqrt((a**2).mean(axis=0)) for a in (error, estimate))
    assert np.all((true <= 2 * told + 1e-9) & (told <= 2 * true + 1e-9)), true / told


def test_kernels_know_sinks_and_no_caps() -> None:
    query, keys, values = problem(6, np.float32)
    cache = PagedKV.from_tokens(keys, values, page_size=SIZE)
    sinks = np.array([-3.0, 2.0, 5.0, 9.0], np.float32)
    for policy in (Policy.dense(), Policy(pages=5)):
        plain, _ = vashista_attention(query, cache, policy, sinks=sinks, implementation="jax")
        kernels, _ = vashista_attention(query, cache, policy, sinks=sinks, implementation="xla")
        np.testing.assert_allclose(kernels, plain, atol=1e-5)  # float32 sums in another order
    with pytest.raises(NotImplementedError, match="cannot cap logits"):
        vashista_attention(query, cache, Policy.dense(), softcap=3.0, implementation="xla")


def test_a_sequence_without_tokens() -> None:
    cache = PagedKV.create(batch=1, kv_heads=1, head_size=D, pages=4, pages_per_sequence=4)
    output, info = vashista_attention(
        np.ones((1, 2, D), np.float32), cache, Policy.dense(), sinks=np.zeros(2, np.float32)
    )
    np.testing.assert_array_equal(output, 0.0)
    np.testing.assert_array_equal(info.log_mass, -np.inf)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sinks": np.zeros(3)}, "one logit a query head"),
        ({"sinks": np.full(HEADS, np.nan)}, "NaN"),
        ({"sinks": np.zeros(HEADS), "coupling": 1.0}, "no softmax"),
        ({"softcap": 3.0, "coupling": 1.0}, "no softmax"),
        ({"softcap": -1.0}, "softcap is -1.0"),
    ],
)
def test_refusals(given: dict[str, Any], words: str) -> None:
    query, keys, values = problem(7)
    cache = PagedKV.from_tokens(keys, values, page_size=SIZE)
    with pytest.raises(ValueError, match=words):
        vashista_attention(query, cache, Policy.dense(), **given)
