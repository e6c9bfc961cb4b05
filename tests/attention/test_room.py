"""Room for more tokens, and what cannot be overlooked when there is none."""

import functools
import importlib.util
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vashista_theory import Result
from vashista_theory.attention import (
    PagedKV,
    Policy,
    PoolFullError,
    dense_attention,
    vashista_attention,
)

pytestmark = pytest.mark.usefixtures("as_users_run_it")

PAGE, D, HEADS = 4, 8, 2
ROOT = Path(__file__).parents[2]


def tokens(batch: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, batch, HEADS, count, D))


def held(cache: PagedKV, sequence: int) -> np.ndarray:
    row = np.asarray(cache.keys)[:, np.asarray(cache.page_table[sequence])]
    return row.reshape(HEADS, -1, D)[:, : int(cache.lengths[sequence])]


@settings(max_examples=6, deadline=None)
@given(start=st.integers(1, 9), room=st.integers(0, 9))
@pytest.mark.slow
def test_room_is_for_as_many_tokens_in_every_sequence(start: int, room: int) -> None:
    block = tokens(2, start + room + PAGE)
    cache = PagedKV.from_tokens(*block[:, :, :, :start], page_size=PAGE, room=room)
    if room:
        cache, _ = cache.append(*block[:, :, :, start : start + room])
    for sequence in range(2):
        np.testing.assert_array_equal(held(cache, sequence), block[0, sequence, :, : start + room])
    with pytest.raises(PoolFullError, match=r"sequence 0 would have \d+ tokens and has room"):
        cache.append(*block[:, :, :, start + room :])


def test_pages_leave_one_sequence_the_whole_pool_as_create_does() -> None:
    block = tokens(1, 40)
    cache = PagedKV.from_tokens(*block[:, :, :, :5], page_size=PAGE, pages=10)
    assert cache.pages_per_sequence == 10
    cache, _ = cache.append(*block[:, :, :, 5:])
    np.testing.assert_array_equal(held(cache, 0), block[0, 0])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"room": -1}, "`room` is -1; a number of tokens"),
        ({"room": 2.5}, "`room` is 2.5"),
        ({"room": True}, "`room` is True"),
        ({"room": 4, "pages": 9}, "give the one or the others"),
        ({"room": 4, "pages_per_sequence": 9}, "give the one or the others"),
        ({"room": 2**31}, "`room` is 2147483648"),
        ({"pages": "9"}, "`pages` is '9'; a positive integer"),
    ],
)
def test_room_that_makes_no_sense_is_named(more: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        PagedKV.from_tokens(*tokens(2, 5), page_size=PAGE, **more)
    assert words in str(refused.value)


def test_what_did_not_fit_raises_and_hands_the_cache_back() -> None:
    block = tokens(2, 9)
    cache = PagedKV.from_tokens(*block[:, :, :, :8], page_size=PAGE)
    with pytest.raises(PoolFullError, match="Nothing was changed") as refused:
        cache.append(*block[:, :, :, 8])
    back = refused.value.cache
    np.testing.assert_array_equal(held(back, 1), block[0, 1, :, :8])
    back, _ = back.grow(pages=6, pages_per_sequence=3).append(*block[:, :, :, 8])
    np.testing.assert_array_equal(held(back, 1), block[0, 1])


def test_a_pool_that_is_used_up_says_so() -> None:
    block = tokens(2, 8)
    cache = PagedKV.from_tokens(*block, page_size=PAGE, pages=4)
    with pytest.raises(PoolFullError, match="the pool has too few free pages"):
        cache.append(*block[:, :, :, 0])


def test_under_jit_it_raises_when_it_runs() -> None:
    block = tokens(1, 5)

    @eqx.filter_jit
    def grown(cache: PagedKV, token: np.ndarray) -> PagedKV:
        return cache.append(*token)[0]

    roomy = PagedKV.from_tokens(*block[:, :, :, :4], page_size=PAGE, room=1)
    np.testing.assert_array_equal(held(grown(roomy, block[:, :, :, 4]), 0), block[0, 0])
    full = PagedKV.from_tokens(*block[:, :, :, :4], page_size=PAGE)
    with pytest.raises(RuntimeError, match="no free page left"):
        jax.block_until_ready(grown(full, block[:, :, :, 4]).lengths)


def test_a_donated_cache_that_overflows_is_not_called_unchanged() -> None:
    block = tokens(1, 5)

    @functools.partial(jax.jit, donate_argnums=0)
    def grown(cache: PagedKV, token: np.ndarray) -> PagedKV:
        return cache.append(*token)[0]

    @functools.partial(jax.jit, donate_argnums=0)
    def tried(cache: PagedKV, token: np.ndarray) -> tuple[PagedKV, Result]:
        return cache.append(*token, throw=False)

    full = PagedKV.from_tokens(*block[:, :, :, :4], page_size=PAGE)
    with pytest.raises(RuntimeError, match=r"donated .* is gone .* `throw=False`") as refused:
        jax.block_until_ready(grown(full, block[:, :, :, 4]).lengths)
    assert "cache is unchanged" not in str(refused.value)
    # What the message says: this one is gone, and without an error there is one to go on with.
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(full.keys)
    back, result = tried(
        PagedKV.from_tokens(*block[:, :, :, :4], page_size=PAGE), block[:, :, :, 4]
    )
    assert result == Result.pool_full
    np.testing.assert_array_equal(held(back, 0), block[0, 0, :, :4])


@pytest.mark.parametrize("argument", ["query", "keys", "scale"])
@pytest.mark.parametrize("policy", [Policy.dense(), Policy.budget(4), Policy.sampled(64)])
def test_a_derivative_is_refused_by_name(argument: str, policy: Policy) -> None:
    keys, values = tokens(1, 80)
    cache = PagedKV.from_tokens(keys, values, page_size=PAGE)

    def loss(x: jax.Array) -> jax.Array:
        asked = {"query": jnp.ones((1, HEADS, D)), "scale": 0.5, "keys": cache.keys, argument: x}
        read = eqx.tree_at(lambda c: c.keys, cache, asked["keys"])
        output, _ = vashista_attention(asked["query"], read, policy, scale=asked["scale"])
        return jnp.sum(output)

    start = {"query": jnp.ones((1, HEADS, D)), "keys": cache.keys, "scale": jnp.asarray(0.5)}
    with pytest.raises(NotImplementedError, match=r"no derivative.*dense_attention"):
        jax.grad(loss)(start[argument])


def test_the_dense_form_named_there_can_be_differentiated() -> None:
    keys, values = tokens(1, 24)
    query = jnp.ones((1, HEADS, D))

    def loss(q: jax.Array) -> jax.Array:
        return jnp.sum(dense_attention(q, keys, values)[0, 0, 0])

    slope = jax.grad(loss)(query)[0, 0, 0]
    step = 1e-6
    moved = [loss(query.at[0, 0, 0].add(sign * step)) for sign in (1, -1)]
    # Central differences of numbers of order 1: step² and rounding / step, both below 1e-9.
    assert float(slope) == pytest.approx(float(moved[0] - moved[1]) / (2 * step), abs=1e-8)


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def layer(state: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return 2.0 * state, jnp.flip(state, axis=-1), state + 1.0


def by_hand(keys: np.ndarray, values: np.ndarray, state: np.ndarray, steps: int) -> np.ndarray:
    outputs = []
    for _ in range(steps):
        query, key, value = 2.0 * state, state[..., ::-1], state + 1.0
        keys = np.concatenate([keys, key[:, :, None]], axis=2)
        values = np.concatenate([values, value[:, :, None]], axis=2)
        logits = np.einsum("bhd,bhtd->bht", query, keys) / np.sqrt(D)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        state = np.einsum("bht,bhtd->bhd", weights / weights.sum(axis=-1, keepdims=True), values)
        outputs.append(state)
    return np.stack(outputs)


def test_the_decode_loop_of_the_documentation_is_dense_attention_token_by_token() -> None:
    decode = example("decode_loop").decode
    keys, values = tokens(2, 21)
    state = np.random.default_rng(1).normal(size=(2, HEADS, D))
    expected = by_hand(keys, values, state, steps=9)
    cache = PagedKV.from_tokens(keys, values, page_size=PAGE, room=9)
    options = {"layer": layer, "steps": 9, "policy": Policy.dense()}
    after, outputs, reports = decode(cache, state, **options)
    # Nine steps of some hundred roundings each, every one passed on to the next.
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(after.lengths, [30, 30])
    np.testing.assert_array_equal(reports.tokens_read[:, 0, 0], np.arange(22, 31))
    assert cache.keys.is_deleted(), "the cache was donated"
    small = PagedKV.from_tokens(keys, values, page_size=PAGE, room=3)
    with pytest.raises(RuntimeError, match="no free page left"):
        jax.block_until_ready(decode(small, state, **options)[1])
