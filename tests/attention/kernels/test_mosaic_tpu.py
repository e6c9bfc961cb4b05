"""The TPU back end without a TPU: interpreted on a CPU, and lowered."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.attention.kernels import problems
from tests.attention.kernels.absent_devices import lowered
from tests.attention.kernels.conformance import SMALL, Attends, Scores, tolerance
from vashista_theory.attention.kernels import mosaic_tpu, mosaic_tpu_kernel, reference, spec
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS
from vashista_theory.attention.kernels.config import TpuAttendConfig

LATE = pltpu.InterpretParams()  # copies arrive when waited for; memory is NaN until then
EARLY = pltpu.InterpretParams(dma_execution_mode="eager")  # over what may still be read
RACES = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)
EARLY_RACES = dataclasses.replace(RACES, dma_execution_mode="eager")
MODES = {
    "late": LATE,
    "early": EARLY,
    "races": RACES,
    "early races": EARLY_RACES,
    "plain": True,
}
# Two pages a block: lists of five pages take turns in both slots, and the last block is partial.
TILES = TpuAttendConfig(pages_per_block=2)


class TestMosaicTpu(Attends, Scores):
    implementation = "mosaic_tpu"
    examples = 4
    cannot: ClassVar = {
        "attend": {"llama3_8b_float16"},
        "score": {"llama3_8b", "llama3_8b_float16", "qwen2_7b", "smollm2_135m", "ragged"},
    }

    def run(self, stage, call):
        if stage == "attend":
            return mosaic_tpu.attend(call, TILES, interpret=True)
        return mosaic_tpu.score(call, None, interpret=True)


def attend_problem() -> spec.AttendCall:
    shape = spec.AttendShape(1, 2, 1, 64, 16, 7, 6, "float32", "float32")
    # Three blocks of two pages, the last page of which is not in use and leads nowhere.
    return problems.attend_call(shape, [[4 * 16 + 3]])


def attend_anew(call: spec.AttendCall, mode) -> spec.Attended:
    """Traced anew: a planted bug must not meet a kernel that was compiled before."""
    return mosaic_tpu._attend.__wrapped__(call.shape, TILES, mode, *call[1:])


def is_right(call: spec.AttendCall, found: spec.Attended) -> bool:
    exact = reference.attend(call).first
    return bool(np.all(np.abs(np.asarray(found.output) - exact) < 5 * tolerance("float32")))


def races_found() -> bool:
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

    return interpreter.races is not None and interpreter.races.races_found


def has_race(call: spec.AttendCall, mode) -> bool:
    try:
        jax.block_until_ready(attend_anew(call, mode))
    except RuntimeError as error:  # JAX 0.11 and newer raise; before that there is a flag
        assert "race" in str(error).lower()  # noqa: PT017
        return True
    return races_found()


@pytest.mark.parametrize("mode", MODES)
def test_attend_is_right_in_every_interpreter(mode):
    call = attend_problem()
    assert is_right(call, attend_anew(call, MODES[mode]))
    assert "races" not in mode or not races_found()


@pytest.mark.parametrize("mode", MODES)
def test_score_is_right_in_every_interpreter(mode):
    small = SMALL["published_8kv"]
    call, _ = problems.score_problem(small.score(), small.lengths)
    found, exact = mosaic_tpu.score(call, None, interpret=MODES[mode]), reference.score(call)
    np.testing.assert_allclose(found.estimate, exact.second, rtol=1e-5, atol=2e-5)
    assert "races" not in mode or not races_found()


class _NeverWaits:
    def __init__(self, copy):
        self.start = copy.start

    def wait(self):
        pass


@pytest.fixture
def missing_wait(monkeypatch):
    make = pltpu.make_async_copy
    monkeypatch.setattr(pltpu, "make_async_copy", lambda *a: _NeverWaits(make(*a)))


@pytest.fixture
def one_slot_for_all(monkeypatch):
    monkeypatch.setattr(mosaic_tpu_kernel, "slot_of", lambda index: index * 0)


@pytest.mark.usefixtures("missing_wait")
def test_a_missing_wait_shows_as_nan():
    call = attend_problem()
    assert np.all(np.isnan(attend_anew(call, LATE).output))


@pytest.mark.usefixtures("missing_wait")
def test_a_missing_wait_shows_as_a_race():
    # Late it never runs at all.
    assert has_race(attend_problem(), EARLY_RACES)


@pytest.mark.usefixtures("one_slot_for_all")
def test_a_copy_over_a_block_in_use_is_wrong_when_copies_are_early():
    call = attend_problem()
    assert not is_right(call, attend_anew(call, EARLY))


@pytest.mark.usefixtures("one_slot_for_all")
def test_a_copy_over_a_block_in_use_shows_as_a_race():
    # JAX 0.10 sees it when copies are late, newer versions when they are early.
    assert any(has_race(attend_problem(), mode) for mode in (RACES, EARLY_RACES))


def test_a_page_outside_the_pool_is_an_error():
    call = attend_problem()
    bad = call._replace(pages=call.pages.at[0, 0, 2].set(call.shape.pool_pages))
    with pytest.raises(Exception, match=r"(?i)out.of.bounds"):
        jax.block_until_ready(attend_anew(bad, LATE))
    with pytest.raises(IndexError, match="outside the pool"):
        reference.attend(bad)


@pytest.mark.parametrize("device", ["v4", "v5e", "v5p", "v6e"])
@pytest.mark.parametrize("name", ["published_32kv", "gemma2_9b", "smollm2_135m", "ragged"])
def test_lowers_at_full_size(name, device):
    full = next(found for found in ARG_SPECS if found.name == name)
    attended, scored = full.attend(), dataclasses.replace(full, kind="box", bits=None).score()

    def step(query, pool, pages, tokens, scale, box, table, lengths):
        call = spec.AttendCall(attended, query, pool, pool, pages, tokens, scale)
        judged = spec.ScoreCall(scored, query, spec.Held(box=box), table, lengths, scale)
        return mosaic_tpu.attend(call, None), mosaic_tpu.score(judged, None)

    batch, heads, kv, d = full.batch, full.heads, full.kv_heads, full.head_size
    sizes = [
        ((batch, heads, d), full.dtype),
        ((kv, full.pool_pages, full.page_size, d), full.dtype),
        ((batch, kv, attended.listed), "int32"),
        ((batch, kv), "int32"),
        ((), "float32"),
        ((kv, full.pool_pages, d), "uint32"),
        ((batch, full.pages), "int32"),
        ((batch,), "int32"),
    ]
    arguments = [jax.ShapeDtypeStruct(size, jnp.dtype(dtype)) for size, dtype in sizes]
    text = lowered(step, arguments, "tpu", device)
    assert text.count("tpu_custom_call") == 2
