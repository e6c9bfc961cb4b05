"""A block of teacher-forced steps is the mechanism, one step at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import steps as cases
from tests.thinned import spread
from vashista_theory.attention import Policy
from vashista_theory.evaluation import block as blocks
from vashista_theory.evaluation import mechanism, policies

# 3 pages are complete at every step, the fifth becomes complete within the block.
TOKENS, STEPS, PAGES = 83, 22, 3

OURS = {
    "dense": Policy.dense(),
    "published": Policy.published(PAGES),
    "boxes": Policy(pages=PAGES, summary="box"),
    "budget": Policy(pages=PAGES, summary="sketch"),
    "certified-0.05": Policy.certified(0.05, dense_below=0),
    "certified-0.01": Policy.certified(0.01, dense_below=0),
}


@pytest.mark.parametrize("name", spread(OURS, 4))
def test_a_block_is_the_mechanism_step_by_step(name: str) -> None:
    problem = cases.numbers(0, TOKENS, STEPS)
    policy = policies.get(name)
    reading = cases.read(policy, problem, PAGES)
    expected = cases.one_at_a_time(*problem, OURS[name], policy.spec)
    for step, (output, info) in enumerate(expected):
        # Two orders of adding up to 83 terms in float64.
        np.testing.assert_allclose(reading.output[:, step], output, rtol=0, atol=1e-12)
        shape = (cases.KV_HEADS, cases.GROUP)
        log_mass = np.asarray(info.log_mass).reshape(shape)
        np.testing.assert_allclose(reading.log_mass[:, step], log_mass, rtol=0, atol=1e-12)
        pages = np.ceil(np.asarray(reading.tokens_read[:, step]) / cases.PAGE)
        np.testing.assert_array_equal(pages, np.asarray(info.pages_read).reshape(shape))
        if name.startswith("certified"):
            bound = np.asarray(info.dropped_mass_bound).reshape(shape)
            np.testing.assert_allclose(reading.bound[:, step], bound, rtol=1e-9, atol=1e-15)
            certified = np.asarray(info.certified).reshape(shape)
            np.testing.assert_array_equal(reading.certified[:, step], certified)


def test_two_levels_are_the_mechanism_step_by_step() -> None:
    # 20 superpages of 256 tokens: enough for a first level that leaves some closed.
    problem = cases.numbers(3, 20 * 256 + 7, 2)
    policy = policies.get("budget-two-levels")
    plain = Policy.budget(6, summary="sketch", dense_below=0)
    reading = cases.read(policy, problem, 6)
    for step, (output, _) in enumerate(cases.one_at_a_time(*problem, plain, policy.spec)):
        np.testing.assert_allclose(reading.output[:, step], output, rtol=0, atol=1e-12)


def test_reading_what_a_mask_keeps_is_softmax_over_it() -> None:
    queries, keys, values = cases.numbers(4, 40, 3)
    problem = cases.block(queries, keys, values, policies.get("dense").spec)
    mask = np.random.default_rng(5).random((cases.KV_HEADS, 3, 1, 3, 16)) < 0.5
    reading = blocks.read_mask(problem, jnp.asarray(mask))
    losses = blocks.loss(problem, reading)
    for head, step, one in np.ndindex(cases.KV_HEADS, 3, cases.GROUP):
        length = 40 - 3 + step + 1
        kept = mask[head, step, 0].ravel()[:length]
        masses = np.exp(keys[head, :length] @ queries[head, step, one] / np.sqrt(cases.D))
        where = head, step, one
        output = masses[kept] @ values[head, :length][kept] / masses[kept].sum()
        dense = masses @ values[head, :length] / masses.sum()
        dropped = masses[~kept].sum() / masses.sum()
        beyond = masses[1:][~kept[1:]].sum() / masses[1:].sum()
        error = np.linalg.norm(output - dense) / np.linalg.norm(dense)
        # Sums of 40 terms in float64.
        np.testing.assert_allclose(reading.output[where], output, rtol=0, atol=1e-13)
        np.testing.assert_allclose(reading.tokens_read[where], kept.sum())
        np.testing.assert_allclose(losses.dropped[where], dropped, rtol=0, atol=1e-13)
        np.testing.assert_allclose(losses.dropped_beyond_first[where], beyond, rtol=0, atol=1e-12)
        np.testing.assert_allclose(losses.error[where], error, rtol=1e-11)


def test_a_proof_is_never_below_the_truth() -> None:
    problem = cases.numbers(6, TOKENS, STEPS)
    spec = policies.get("certified-0.05").spec
    shown = cases.block(*problem, spec)
    for tolerance in (0.3, 1e-3):
        policy = Policy.certified(tolerance, dense_below=0)
        reading = jax.jit(mechanism.step_by_step, static_argnums=1)(shown, policy)
        dropped = np.asarray(blocks.loss(shown, reading).dropped)
        # The truth is the difference of two logarithms of up to 20: 1e-14 with room.
        assert np.all(dropped <= np.asarray(reading.bound) + 1e-14)
        assert np.all(np.asarray(reading.certified))
