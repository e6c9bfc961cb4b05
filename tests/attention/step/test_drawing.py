"""Drawing without a sort: random bits by counting, the threshold, and the list of the drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.random import threefry_2x32

from tests.attention.sampled_reference import by_values, shared_numbers
from tests.attention.sampled_reference import inclusion as included
from vashista_theory.attention.bounds import random_bits
from vashista_theory.attention.step import drawing

ALONE = lambda numbers: numbers[None]  # noqa: E731
KEY = np.array([[0x9E3779B9, 7]], np.uint32)
solve = jax.jit(drawing.inverse_threshold, static_argnums=2)
threefry = jax.jit(random_bits.threefry)
sequence_keys = jax.jit(random_bits.sequence_keys, static_argnums=1)
row_keys = jax.jit(random_bits.row_keys, static_argnums=(1, 2))
keys_from_content = jax.jit(random_bits.keys_from_content)
token_numbers = jax.jit(random_bits.token_numbers, static_argnums=2)
inclusion = jax.jit(drawing.inclusion)
list_drawn = jax.jit(drawing.list_drawn, static_argnums=1)
proxies_of = jax.jit(drawing.group_proxies, static_argnums=(3, 4))
weighted_by_values = jax.jit(drawing.weighted_by_values, static_argnums=3)
thresholds = jax.jit(drawing.thresholds, static_argnums=(2, 3))
within_limits = jax.jit(drawing.within_limits)


def test_threefry_is_that_of_jax():
    rng = np.random.default_rng(0)
    key, count = rng.integers(0, 2**32, size=2, dtype=np.uint32), np.arange(10, dtype=np.uint32)
    expected = np.asarray(threefry_2x32(jnp.asarray(key), jnp.asarray(count)))
    k0, k1, c0, c1 = (jnp.asarray(word) for word in (key[:1], key[1:], count[:5], count[5:]))
    first, second = threefry((k0, k1), (c0, c1))
    np.testing.assert_array_equal(np.concatenate([first, second]), expected)


def numbers_of(pages, size, keys=KEY):
    pages = jnp.asarray(pages, jnp.int32)
    return np.asarray(token_numbers(jnp.asarray(keys), pages, size))


def test_bits_follow_the_token_and_not_its_page():
    by_two = numbers_of(range(24), 2).reshape(-1)
    np.testing.assert_array_equal(numbers_of(range(3), 16).reshape(-1), by_two)
    np.testing.assert_array_equal(numbers_of(range(16), 3).reshape(-1), by_two)
    np.testing.assert_array_equal(numbers_of([5, 2], 4).reshape(-1)[4:], by_two[8:12])
    assert len(set(by_two)) == len(by_two)


def test_bits_of_rows_attempts_and_sequences_differ():
    sequences = sequence_keys(jnp.asarray([1, 2], jnp.uint32), 3)
    assert len({tuple(key) for key in np.asarray(sequences)}) == 3
    longer = sequence_keys(jnp.asarray([1, 2, 3, 4], jnp.uint32), 3)
    rows = [np.asarray(row_keys(sequences, 4, attempt)) for attempt in (0, 1)]
    found = {tuple(key) for key in np.concatenate([*rows, longer])}
    assert len(found) == 27


def test_numbers_are_uniform_and_independent():
    """2^18 numbers: bins by χ², neighbours, rows and both halves of a counter by correlation."""
    keys = np.array([[1, 2], [1, 3]], np.uint32)
    numbers = numbers_of(range(2**13), 16, keys).reshape(2, -1)
    assert numbers.min() >= 0
    assert numbers.max() < 2**24
    count = numbers.shape[1]
    for row in numbers:
        bins = np.bincount(row >> 16, minlength=256)
        chi = ((bins - count / 256) ** 2 / (count / 256)).sum()
        assert abs(chi - 255) < 5 * np.sqrt(2 * 255)
    u = numbers / 2.0**24 - 0.5
    pairs = [(u[0, :-1], u[0, 1:]), (u[0, ::2], u[0, 1::2]), (u[0], u[1]), (u[0, :-16], u[0, 16:])]
    for first, second in pairs:
        correlation = 12 * (first * second).mean()
        assert abs(correlation) < 5 / np.sqrt(len(first))


def test_mixing_is_that_of_murmurhash3():
    """Hashes of the empty message, published for three seeds, are what the last step makes."""
    mixed = random_bits._mixed(jnp.asarray([0, 1, 0xFFFFFFFF], jnp.uint32))
    np.testing.assert_array_equal(mixed, np.array([0, 0x514E28B7, 0x81F16F39], np.uint32))


def test_content_keys_depend_on_every_bit_and_on_nothing_else():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(3, 2, 8))
    lengths = np.array([5, 5, 9], np.int32)

    def keys(query, lengths, seed=0):
        found = keys_from_content(seed, jnp.asarray(lengths), jnp.asarray(query))
        return np.asarray(found)

    first = keys(query, lengths)
    np.testing.assert_array_equal(keys(query[1:2], lengths[1:2])[0], first[1])
    changed = query.copy()
    changed[1, 1, 7] = np.nextafter(np.float32(changed[1, 1, 7]), np.float32(9))
    swapped = query[:, ::-1]
    others = [keys(changed, lengths)[1], keys(query, lengths + 1)[1], keys(query, lengths, 1)[1],
              keys(swapped, lengths)[1]]  # fmt: skip
    assert len({tuple(key) for key in [*others, *first]}) == 7


def exact_inclusion(mass, m):
    """min(1, c·mass) that sums to m, by sorting."""
    mass = np.asarray(mass, np.float64)
    order = np.sort(mass)[::-1]
    rest = np.append(np.cumsum(order[::-1])[::-1], 0.0)
    if m >= len(mass):
        return np.ones_like(mass)
    for sure in range(m):
        c = (m - sure) / max(rest[sure], 1e-300)
        if c * order[sure] <= 1:
            return np.minimum(1.0, c * mass)
    return np.ones_like(mass)


PROXIES = ("uniform", "powers", "equal", "one", "few", "zeros")


@given(
    seed=st.integers(0, 2**20),
    kind=st.sampled_from(PROXIES),
    m=st.integers(1, 70),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_threshold_meets_the_number_asked_for(seed, kind, m, dtype):
    rng = np.random.default_rng(seed)
    mass = rng.uniform(size=60)
    if kind == "powers":
        mass = np.exp(-rng.exponential(8, size=60))
    elif kind == "equal":
        mass[:] = 0.3
    elif kind == "one":
        mass *= 1e-9
        mass[7] = 1.0
    elif kind == "few":
        mass[5:] *= 1e-6
    elif kind == "zeros":  # underflown
        mass[10:] = 0.0
    mass = mass.astype(dtype)
    tail = drawing.Tail(
        jnp.ones((1, 15), bool), jnp.asarray(mass.reshape(1, 15, 4)), jnp.asarray([60], jnp.int32)
    )
    asked = jnp.asarray([m], dtype)
    inverse = solve(tail, asked, ALONE)
    found = np.asarray(inclusion(tail, asked, inverse), np.float64).reshape(-1)
    grid = found * 2.0**24
    np.testing.assert_array_equal(grid, np.round(grid))
    assert found.min() >= 2.0**-24
    expected = exact_inclusion(mass, m)
    positive = int((mass > 0).sum())
    if m <= positive or m >= 60:
        slack = 60 * 2.0**-24 + m * 64 * np.finfo(dtype).eps
        assert abs(found.sum() - expected.sum()) <= slack
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2.0**-23)


def test_a_group_draws_by_shares_and_a_head_that_is_served_does_not_care():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 5, 4))
    logits[:, 1] += 1000.0  # a head with large logits has no more to say
    meant = np.ones((2, 5), bool)
    meant[1, 3:] = False
    sure = np.array([[0.0, 1000.0, 200.0], [-np.inf, 999.0, -np.inf]])
    found = np.asarray(proxies_of(*map(jnp.asarray, (logits, meant, sure)), ALONE))
    for row in range(2):
        kept = logits[row][:, meant[row]].reshape(3, -1)
        total = np.logaddexp(np.logaddexp.reduce(kept, axis=1), sure[row])
        shares = np.sqrt((np.exp(kept - total[:, None]) ** 2).sum(axis=0))
        mine = found[row][meant[row]].reshape(-1)
        np.testing.assert_allclose(mine / mine.sum(), shares / shares.sum(), rtol=1e-10)
        assert not found[row][~meant[row]].any()
    alone = np.asarray(proxies_of(*map(jnp.asarray, (logits[:, 1:2], meant, sure[:, 1:2])), ALONE))
    top = logits[0, 1].max()
    np.testing.assert_allclose(alone[0], np.exp(logits[0, 1] - top), rtol=1e-12)


@given(
    seed=st.integers(0, 2**20),
    m=st.integers(1, 30),
    depth=st.sampled_from([0.0, 1.0, 10.0, 60.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_heads_of_a_sequence_share_what_they_draw(seed, m, depth, dtype):
    """Two sequences of three heads with 24 tokens each, of the second a part is meant."""
    rng = np.random.default_rng(seed)
    mass = np.exp(-depth * rng.uniform(size=(6, 1, 1)) - rng.exponential(3, size=(6, 6, 4)))
    meant = np.ones((6, 6), bool)
    meant[3:, 4:] = False
    mass = np.where(meant[..., None], mass, 0.0).astype(dtype)
    tokens = 4 * meant.sum(axis=1)
    tail = drawing.Tail(*map(jnp.asarray, (meant, mass, tokens.astype(np.int32))))
    numbers, inverse = thresholds(tail, jnp.full(6, m, jnp.int32), ALONE, 3)
    probability = np.asarray(inclusion(tail, numbers, inverse), np.float64)
    slack = 24 * 2.0**-24 + 24 * 64 * np.finfo(dtype).eps
    for rows in (slice(0, 3), slice(3, 6)):
        there = int(tokens[rows][0])
        tails = [mass[r][meant[r]].astype(np.float64).ravel() for r in range(6)[rows]]
        expected = shared_numbers(tails, m) if m < there else np.full(3, float(there))
        np.testing.assert_allclose(numbers[rows], expected, rtol=2e-5)
        for r, number in zip(range(6)[rows], expected, strict=True):
            here = probability[r][meant[r]].sum()
            assert abs(here - number) <= slack + 2e-5 * number


@given(seed=st.integers(0, 2**20), heads=st.integers(1, 5), depth=st.floats(0.0, 30.0))
def test_limits_are_kept_and_the_total_is_met(seed, heads, depth):
    rng = np.random.default_rng(seed)
    numbers = np.exp(-depth * rng.uniform(size=(1, heads)))
    least, most = np.full((1, heads), 0.5), rng.uniform(0.6, 1.5, size=(1, heads))
    total = np.array([rng.uniform(0.3, 1.7) * heads])
    found = np.asarray(within_limits(*map(jnp.asarray, (numbers, least, most, total))))
    assert np.all((found >= least) & (found <= most))
    inside = np.clip(total, least.sum(), most.sum())
    np.testing.assert_allclose(found.sum(axis=1), inside, rtol=1e-12)
    free = (found > least * (1 + 1e-9)) & (found < most * (1 - 1e-9))
    factors = (found / numbers)[free]
    assert factors.size == 0 or np.ptp(factors) <= 1e-9 * factors.max()


@given(seed=st.integers(0, 2**20), share=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
@pytest.mark.parametrize("size", [1, 4, 16, 32, 37, 48, 64])
def test_the_list_holds_what_was_drawn_in_order(seed, share, size):
    drawn = np.random.default_rng(seed).uniform(size=(2, 9, size)) < share
    listed, by_page = list_drawn(jnp.asarray(drawn), 12)
    np.testing.assert_array_equal(by_page, drawn.sum(axis=2))
    for row in range(2):
        exists = np.asarray(listed.exists[row])
        pages, slots = np.asarray(listed.pages[row]), np.asarray(listed.slots[row])
        found = list(zip(pages[exists], slots[exists], strict=True))
        assert found == [tuple(place) for place in np.argwhere(drawn[row])[:12]]


def test_draws_have_the_probability_that_they_are_weighted_by():
    """Every token of 4,000 rows; a key used for all rows would show at once (the control)."""
    rows, chance = 4000, np.array([[2.0**-24, 0.01, 0.3], [0.9, 1.0 - 2.0**-24, 1.0]])
    probability = jnp.asarray(np.broadcast_to(chance, (rows, 2, 3)))
    tail = drawing.Tail(jnp.ones((rows, 2), bool), probability, jnp.full((rows,), 6, jnp.int32))
    keys = sequence_keys(jnp.asarray([3, 4], jnp.uint32), rows)
    pages = jnp.arange(2, dtype=jnp.int32)

    def shares(keys):
        return np.asarray(drawing.draw(tail, probability, keys, pages)).mean(axis=0)

    noise = 4.5 * np.sqrt(chance * (1 - chance) / rows) + 1e-3
    assert np.all(np.abs(shares(keys) - chance) <= noise)
    reused = shares(jnp.broadcast_to(keys[:1], keys.shape))
    assert not np.all(np.abs(reused - chance) <= noise)


@given(
    seed=st.integers(0, 2**20),
    spread=st.sampled_from([0.0, 0.5, 2.0, 40.0]),
    one=st.sampled_from([1.0, 1e-12, 1e12]),
)
def test_lengths_of_values_weigh_as_they_do_by_hand(seed, spread, one):
    """Every token stays in reach, and the proxies of a row add up to what they did."""
    rng = np.random.default_rng(seed)
    proxy = np.exp(2 * rng.normal(size=(2, 5, 4)))
    lengths = np.exp(spread * rng.normal(size=(2, 5, 4)))
    lengths[0, 2, 1] *= one
    meant = np.array([[True, True, True, False, True], [False, True, True, True, True]])
    proxy *= meant[..., None]
    given = (jnp.asarray(part) for part in (proxy, lengths, meant))
    found = np.asarray(weighted_by_values(*given, ALONE))
    part = lengths / np.where(meant[..., None], lengths, 0).max(axis=(1, 2), keepdims=True)
    by_hand = proxy * np.maximum(part, 1 / 16)
    by_hand *= (proxy.sum(axis=(1, 2)) / by_hand.sum(axis=(1, 2)))[:, None, None]
    np.testing.assert_allclose(found, by_hand, rtol=1e-12)
    assert np.all((found > 0) == (proxy > 0))
    assert np.all(found <= 16 * (1 + 1e-12) * proxy)


@pytest.mark.parametrize("length", [0.0, np.inf, np.nan])
def test_values_of_no_length_or_of_no_number_leave_the_proxies(length):
    proxy = jnp.asarray(np.random.default_rng(0).uniform(1, 2, size=(1, 2, 4)))
    lengths, meant = jnp.full((1, 2, 4), length), jnp.ones((1, 2), bool)
    found = weighted_by_values(proxy, lengths, meant, ALONE)
    np.testing.assert_allclose(found, proxy, rtol=1e-15)


def test_drawing_by_the_length_of_values_too_has_less_variance():
    """Lengths of values with a standard deviation of half a nat; twice that would gain more."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(40):
        share = np.exp(1.5 * rng.normal(size=256))
        share /= share.sum()
        values = rng.normal(size=(256, 16)) * np.exp(0.5 * rng.normal(size=(256, 1)))
        distance = np.linalg.norm(values - share @ values, axis=1)
        tail = np.ones(256, bool)
        proxies = share, by_values(share, values, tail, 4)
        by_mass, by_both = (
            (share**2 * (1 / included(proxy, 32) - 1) * distance**2).sum() for proxy in proxies
        )
        ratios.append(by_both / by_mass)
    # Lengths stand for distances from the output, which is short but not 0: hence the two per cent.
    assert np.max(ratios) < 1.02
    # E‖v‖²/(E‖v‖)² = e^(1/4) is what weighting gains where nothing is sure: 1/1.28, less some.
    assert np.median(ratios) < 0.85
