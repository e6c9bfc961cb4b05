"""Policies against pages counted by hand, and a registry that says what it does not know."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from tests.evaluation import steps as cases
from vashista_theory.attention import Policy, SummarySpec
from vashista_theory.evaluation import block as blocks
from vashista_theory.evaluation import policies


def shown(weights: list[float], *, pages: int) -> blocks.DecodeBlock:
    """One step on one head whose token i has softmax mass proportional to `weights[i]`.

    Values are the unit vectors' first coordinates, so the output names what was read.
    """
    tokens = len(weights)
    keys = np.zeros((1, tokens, 2))
    keys[0, :, 0] = np.log(weights)
    values = np.zeros((1, tokens, 2))
    values[0, :, 0] = np.arange(tokens)
    queries = np.zeros((1, 1, 1, 2))
    queries[..., 0] = np.sqrt(2.0)  # the scale is 1/√2
    assert -(-tokens // 16) == pages
    spec = SummarySpec(sketch_bits=8, dtype="float64")
    cache = cases.PagedKV.from_tokens(keys[None], values[None], spec=spec)
    table = np.asarray(cache.page_table[0])
    lengths = jnp.asarray([tokens], jnp.int32)
    held = (cache.keys[:, table], cache.values[:, table])
    layer = jnp.zeros((), jnp.int32)
    scale = jnp.asarray(2.0**-0.5)
    return blocks.DecodeBlock(jnp.asarray(queries), *held, lengths, scale, cache, layer)


def tokens_read(name: str, weights: list[float], count: int) -> float:
    """Sum of the weights that a policy read: tells which pages they were."""
    problem = shown(weights, pages=-(-len(weights) // 16))
    reading = jax.jit(policies.get(name).read, static_argnums=1)(problem, count)
    return float(np.exp(np.asarray(reading.log_mass)).sum())


# Six pages of 16 tokens. Page 0: 16 × 1; page 1: one token of 100, the rest 0.01; page 2: 16 × 5
# (mass 80); page 3: 16 × 0.1; page 4: 16 × 4 with one of 50 (mass 110); page 5, the last: 16 × 2.
PAGE_WEIGHTS = (
    [1.0] * 16,
    [100.0] + [0.01] * 15,
    [5.0] * 16,
    [0.1] * 16,
    [50.0] + [4.0] * 15,
    [2.0] * 16,
)
WEIGHTS = [weight for page in PAGE_WEIGHTS for weight in page]
MASS = [sum(page) for page in PAGE_WEIGHTS]


@pytest.mark.parametrize(
    ("name", "count", "pages"),
    [
        ("dense", 3, (0, 1, 2, 3, 4, 5)),
        # The last page is always read, then the greatest masses: 110, 100.15, 80.
        ("oracle-pages", 3, (1, 4, 5)),
        ("sink-recent", 3, (0, 4, 5)),
        ("sink-recent", 4, (0, 3, 4, 5)),
        # Means of the logarithms: page 2 log 5 = 1.61, page 4 (log 50 + 15 log 4)/16 = 1.54.
        ("published", 3, (2, 4, 5)),
        # Greatest scores: log 100 in page 1, log 50 in page 4. First and last page are forced.
        ("boxes", 3, (0, 1, 5)),
        ("boxes", 4, (0, 1, 4, 5)),
        # Like the oracle, but with the first page forced; 8 bits tell 110 from 100.15.
        ("budget", 3, (0, 4, 5)),
        ("budget", 4, (0, 1, 4, 5)),
    ],
)
def test_pages_read(name: str, count: int, pages: tuple[int, ...]) -> None:
    expected = sum(MASS[page] for page in pages)
    # An 8-bit sketch moves no mass, it only ranks: what is read is read exactly.
    np.testing.assert_allclose(tokens_read(name, WEIGHTS, count), expected, rtol=1e-12)


def test_the_token_oracle_takes_the_best_tokens_wherever_they_are() -> None:
    # 2 pages are 32 tokens: 100, 50, 16 fives, and 14 of the fours (which tie: all 15 are read).
    expected = 100 + 50 + 16 * 5 + 15 * 4
    np.testing.assert_allclose(tokens_read("oracle-tokens", WEIGHTS, 2), expected, rtol=1e-12)


def test_a_certificate_reads_until_the_rest_is_small() -> None:
    # The masses add up to 339.75, 1 % of which is 3.4: page 3 (1.6) may stay unread, nothing else.
    read = tokens_read("certified-0.01", WEIGHTS, 2)
    np.testing.assert_allclose(read, sum(MASS) - MASS[3], rtol=1e-12)


def test_random_pages_are_as_many_and_differ_by_step_and_layer() -> None:
    queries, keys, values = cases.numbers(0, 320, 6)
    problem = cases.block(queries, keys, values, SummarySpec())
    policy = policies.get("random")
    read = jax.jit(policy.read, static_argnums=1)
    first = np.asarray(read(problem, 5).log_mass)
    again = np.asarray(read(problem, 5).log_mass)
    layer = jnp.ones((), jnp.int32)
    other = np.asarray(read(problem._replace(layer=layer), 5).log_mass)
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)
    pages = np.ceil(np.asarray(read(problem, 5).tokens_read) / 16)
    np.testing.assert_array_equal(pages, 5)


COUNTED = [
    name
    for name, policy in policies.policies().items()
    if policy.counts_pages and not name.startswith("sampled")  # so many on average
]


@pytest.mark.parametrize("name", COUNTED)
def test_policies_of_a_number_of_pages_read_no_more(name: str) -> None:
    problem = cases.numbers(1, 400, 5)
    policy = policies.get(name)
    reading = cases.read(policy, problem, 7)
    tokens = np.asarray(reading.tokens_read)
    assert np.all(np.ceil(tokens / 16) == 7)
    # Query heads of a group share one choice.
    assert np.all(tokens == tokens[..., :1])


def test_a_policy_of_ones_own_takes_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_REGISTRY", policies.policies())

    @policies.page_policy("first-key", sink=0, recent=1)
    def first_key(block: blocks.DecodeBlock) -> Array:
        """Pages by the score of their first key."""
        return block.logits()[..., 0]

    assert policies.get("first-key").description == "Pages by the score of their first key."
    # First tokens: 1, 100, 5, 0.1, 50, 2. The last page is forced.
    np.testing.assert_allclose(
        tokens_read("first-key", WEIGHTS, 3), MASS[1] + MASS[4] + MASS[5], rtol=1e-12
    )
    with pytest.raises(ValueError, match="already"):
        policies.register(policies.get("boxes"))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda block: block.logits(), "an array of shape (2, 3, 3, 4, 16)"),
        (lambda block: block.logits()[:, :, 0, :, 0], "an array of shape (2, 3, 4)"),
        (lambda _: None, "returned None"),
        (lambda _: 1.0, "returned a float"),
        (lambda block: block.logits()[..., 0] > 0, "scores in bool"),
    ],
)
def test_scores_of_another_kind_are_named(
    returned: Callable[[blocks.DecodeBlock], Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policies, "_REGISTRY", policies.policies())
    policies.page_policy("mine")(returned)
    problem = cases.block(*cases.numbers(0, 60, 3), SummarySpec())
    with pytest.raises(ValueError, match="policy 'mine' returned") as refused:
        policies.get("mine").read(problem, 3)
    said = str(refused.value)
    assert words in said
    assert "shape (2, 3, 3, 4) is expected" in said or "floating-point" in said


@pytest.mark.usefixtures("as_users_run_it")
def test_a_reading_of_another_kind_is_named() -> None:
    problem = cases.block(*cases.numbers(0, 60, 3), SummarySpec())
    right = policies.get("boxes").read(problem, 3)
    assert blocks.check_reading("mine", right, problem) is right
    for wrong, words in (
        (right.output, "returned an array of shape (2, 3, 3, 8)"),
        (right._replace(output=right.output[0]), "`output` of its reading is an array of shape (3"),
        (right._replace(bound=0.0), "`bound` of its reading is a float; shape (2, 3, 3)"),
    ):
        with pytest.raises(ValueError, match="policy 'mine'") as refused:
            blocks.check_reading("mine", wrong, problem)
        assert words in str(refused.value)


def test_a_policy_of_ones_own_that_is_not_known_yet() -> None:
    with pytest.raises(ValueError, match=r"'mine_8' is unknown.*--import FILE.*is mine-8\."):
        policies.get("mine_8")


def test_an_unknown_policy_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'box' is unknown; did you mean 'boxes'\?.*oracle-pages"):
        policies.get("box")


class TestSingleTokens:
    """Policies that read tokens: hand-counted, and the mechanism where it is the mechanism's."""

    # Pages 0 and 3 are always read; of pages 1 and 2 one token weighs 60, the others 0.5.
    weights = [1.0] * 16 + [60.0] + [0.5] * 31 + [2.0] * 16
    sure = 16 * 1.0 + 16 * 2.0

    @pytest.mark.parametrize("name", ["sketched-tokens", "double-sparsity"])
    def test_the_best_tokens_beside_those_always_read(self, name: str) -> None:
        weights = list(self.weights)
        weights[40] = 30.0
        # 48 tokens are 32 that are always read and 16 more: 60, 30, and fourteen of 30 that tie.
        # Ties are all read.
        expected = self.sure + 60 + 30 + 30 * 0.5
        np.testing.assert_allclose(tokens_read(name, weights, 3), expected, rtol=1e-12)

    def test_half_a_uniform_sample_is_weighted_by_its_share(self) -> None:
        # 3 pages are 48 tokens: 32 always read, of the other 16 half by mass, half by chance.
        weights = [1.0] * 16 + [100.0 + i for i in range(8)] + [3.0] * 40 + [2.0] * 16
        assert len(weights) == 80
        reading = jax.jit(policies.get("half-uniform").read, static_argnums=1)(
            shown(weights, pages=5), 3
        )
        assert float(reading.tokens_read[0, 0, 0]) == 48
        # 8 of 40 equal tokens, each counted five times, are worth all 40.
        np.testing.assert_allclose(np.exp(reading.log_mass), sum(weights), rtol=1e-12)

    def test_drawn_tokens_are_the_mechanism_step_by_step(self) -> None:
        problem = cases.numbers(2, 400, 4)
        policy = policies.get("sampled")
        reading = cases.read(policy, problem, 7)
        ours = Policy.sampled(7 * cases.PAGE, dense_below=0)
        expected = cases.one_at_a_time(*problem, ours, policy.spec)
        for step, (output, info) in enumerate(expected):
            np.testing.assert_allclose(reading.output[:, step], output, rtol=0, atol=1e-12)
            tokens = np.asarray(info.tokens_read).reshape(cases.KV_HEADS, cases.GROUP)
            np.testing.assert_array_equal(reading.tokens_read[:, step], tokens)


def test_weights_count_a_key_so_many_times() -> None:
    queries, keys, values = cases.numbers(7, 32, 1)
    problem = cases.block(queries, keys, values, policies.get("dense").spec)
    times = np.random.default_rng(8).integers(0, 3, (cases.KV_HEADS, 1, 1, 2, 16))
    with np.errstate(divide="ignore"):
        reading = blocks.read_weighted(problem, jnp.asarray(np.log(times)))
    for head, one in np.ndindex(cases.KV_HEADS, cases.GROUP):
        often = times[head].ravel()
        masses = often * np.exp(keys[head] @ queries[head, 0, one] / np.sqrt(cases.D))
        output = masses @ values[head] / masses.sum()
        np.testing.assert_allclose(reading.output[head, 0, one], output, rtol=0, atol=1e-13)
        np.testing.assert_allclose(reading.log_mass[head, 0, one], np.log(masses.sum()), rtol=1e-13)
        assert int(reading.tokens_read[head, 0, one]) == (times[head] > 0).sum()
