"""The steps of Wolfe's method that every loop of the solver rests on."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given

from experiments.projection_attack import exact
from experiments.projection_attack.families import FAMILIES
from experiments.projection_attack.judge import judge
from experiments.projection_attack.measure import ask
from vashista_theory.hull import kkt
from vashista_theory.hull.corral import step_towards
from vashista_theory.hull.frame import frame_at

SLOTS = 5
WEIGHTS = st.sampled_from([0.0, 1e-300, 1e-17, 0.25, 0.5, 1.0]) | st.floats(0, 1)
WANTED = WEIGHTS | st.floats(-1e300, 1e300) | st.just(-np.inf) | st.just(np.nan)


def stepped(weights, wanted, falling):
    with jax.enable_x64(True):
        return jax.jit(step_towards)(*map(jnp.asarray, (weights, wanted, falling)))


@given(
    hnp.arrays(np.float64, SLOTS, elements=WEIGHTS),
    hnp.arrays(np.float64, SLOTS, elements=WANTED),
    hnp.arrays(np.bool_, SLOTS).filter(np.any),
)
def test_the_slot_that_stops_a_step_is_one_that_falls(weights, wanted, falling):
    # Whoever drops it has one key fewer, so that a loop of drops ends.
    assert falling[int(stepped(weights, wanted, falling)[1])]


@given(
    hnp.arrays(np.float64, SLOTS, elements=WEIGHTS),
    hnp.arrays(np.float64, SLOTS, elements=st.floats(-1, 1)),
)
def test_no_weight_that_falls_becomes_negative(weights, wanted):
    falling = wanted <= 0
    assume(falling.any())
    new, slot = stepped(weights, wanted, falling)
    # Of 1, a rounding or two: weight + (weight / (weight − wanted)) (wanted − weight).
    assert np.all(np.asarray(new)[falling] >= -1e-15)
    moved = weights[falling] > wanted[falling]
    if np.all(moved):
        assert abs(float(new[slot])) <= 1e-15


def test_a_problem_whose_solution_once_did_not_end():
    # A weight that was rounding, and that the affine optimum wanted as it was.
    keys, query = FAMILIES["signed_zeros"].make(0, 7, np.dtype("float64"))
    answer = ask("project_blocks", keys, query, small_blocks=True)
    assert not isinstance(answer, str), answer
    verdict = judge(exact.project(keys.tolist(), query.tolist()), answer)
    assert not verdict.wrong, verdict


def test_no_tolerance_is_below_that_of_a_key_at_the_point_itself():
    """There the reach is 0 and 2 u |r|·|p − o| is left, for a point two units from its origin."""
    keys, query = jnp.asarray([[1.0, 0], [5, 0], [3, 0]]), jnp.asarray([1.5, 2.0])
    frame = frame_at(keys, query)[0]
    offset = frame.shifted(keys[2:])[0]
    place = kkt.Place(frame, offset, frame.target - offset, jnp.zeros(2))
    found = kkt.price(keys, place, jnp.asarray([2, -1, -1], jnp.int32)).tolerances
    level = 2.0**-52 * float(jnp.abs(place.residual) @ jnp.abs(offset))
    assert level > 0
    assert np.all(np.asarray(found) >= level)
    assert float(found[2]) <= 4 * level
