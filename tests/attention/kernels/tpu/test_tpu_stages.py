"""The TPU back end without a TPU: interpreted on a CPU, and lowered."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from experiments.compile_check import calls
from tests.attention.kernels import problems
from tests.attention.kernels.absent_devices import absent_device
from tests.attention.kernels.conformance import SMALL, tolerance
from tests.attention.kernels.planted import with_bug
from tests.attention.kernels.together import Together
from tests.thinned import diagonal, spread
from vashista_theory.attention.kernels import reference, spec
from vashista_theory.attention.kernels.tpu import attend_kernel as mosaic_tpu_kernel
from vashista_theory.attention.kernels.tpu import score as mosaic_tpu_score
from vashista_theory.attention.kernels.tpu import select_kernel as mosaic_tpu_select
from vashista_theory.attention.kernels.tpu import stages as mosaic_tpu
from vashista_theory.attention.kernels.tpu.tiles import TpuAttendConfig, TpuScoreConfig

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


class TestMosaicTpu(Together):
    implementation = "mosaic_tpu"
    examples = 2
    cannot: ClassVar = {
        "attend": {"llama3_8b_float16"},
        "attend_tokens": {"llama3_8b_float16"},
    }

    def run(self, stage, call):
        if stage == "attend":
            return mosaic_tpu.attend(call, TILES, interpret=True)
        return getattr(mosaic_tpu, stage)(call, None, interpret=True)

    # The others are among the arg_specs.
    @pytest.mark.parametrize(("bits", "packed"), [(1, True), (4, False), (6, True)])
    def test_score_by_sketches(self, bits, packed):
        super().test_score_by_sketches(bits, packed)

    # An interpreter takes seconds for one.
    @pytest.mark.parametrize("name", spread(SMALL, 3))
    def test_score_tokens_agrees_with_the_reference(self, name):
        super().test_score_tokens_agrees_with_the_reference(name)

    @pytest.mark.parametrize("name", spread(SMALL, 3))
    def test_score_agrees_and_bounds(self, name):
        super().test_score_agrees_and_bounds(name)

    @pytest.mark.parametrize("name", spread(SMALL, 3))
    def test_attend_agrees_with_the_reference(self, name):
        super().test_attend_agrees_with_the_reference(name)

    @pytest.mark.parametrize("name", spread(SMALL, 3))
    def test_attend_tokens_agrees_with_the_reference(self, name):
        super().test_attend_tokens_agrees_with_the_reference(name)


def attend_problem() -> spec.AttendCall:
    shape = spec.AttendShape(1, 2, 1, 64, 16, 7, "float32", 6, "float32")
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


def score_problem(kind: str, bits: int | None = None, *, packed: bool = True) -> spec.ScoreCall:
    """A pool of 130 pages, the last two of which are alone in their block."""
    shape = spec.ScoreShape(
        kind=kind,
        bits=bits,
        packed=packed,
        batch=2,
        heads=4,
        kv_heads=2,
        head_size=64,
        page_size=16,
        pool_pages=130,
        pages=129,
        query_dtype="float32",
        stored="bfloat16",
    )
    return problems.score_problem(shape, [129 * 16 + 5, 33])[0]


def check_scores(call: spec.ScoreCall, found: spec.PageScores) -> None:
    exact = reference.score(call)
    np.testing.assert_allclose(found.estimate, exact.second, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(found.upper, exact.first, rtol=1e-3, atol=1e-3)
    full = np.isfinite(exact.first)
    assert np.all(np.asarray(found.upper, np.float64)[full] >= exact.first[full])


def select_problem() -> spec.SelectCall:
    """Ties at the threshold in more than one block of lanes, and a row with too little in it."""
    priority = np.zeros((3, 3, 300), np.float32)
    priority[0, 0, 5::7], priority[0, 1, ::2], priority[1, 1] = 2.0, -1.0, -np.inf
    priority[1, 1, [7, 299]] = np.inf, -3.0
    priority[2, 2, ::3] = np.nan
    priority[2, 0, ::2], priority[2, 0, 1::2] = 1.0, np.nextafter(np.float32(1), np.float32(2))
    return spec.select_call(jnp.asarray(priority), 140)


@pytest.mark.parametrize(("kind", "mode"), diagonal(("box", "ball", "sketch"), MODES, 5))
def test_score_is_right_in_every_interpreter(kind, mode):
    call = score_problem(kind, 2 if kind == "sketch" else None)
    check_scores(call, mosaic_tpu.score(call, None, interpret=MODES[mode]))
    assert "races" not in mode or not races_found()


@pytest.mark.parametrize("mode", MODES)
def test_select_is_right_in_every_interpreter(mode):
    call = select_problem()
    found, exact = mosaic_tpu.select(call, interpret=MODES[mode]), reference.select(call)
    np.testing.assert_array_equal(found.pages, exact.first)
    np.testing.assert_array_equal(found.number, exact.second)
    assert "races" not in mode or not races_found()


@pytest.mark.parametrize(
    "tiles", [TpuScoreConfig(128, 1), TpuScoreConfig(128, 2), TpuScoreConfig(256, 1)]
)
def test_tiles_change_no_score(tiles):
    call = score_problem("ball")
    check_scores(call, mosaic_tpu.score(call, tiles, interpret=True))


def test_heads_that_cannot_be_dealt_are_refused():
    call = score_problem("ball")
    with pytest.raises(ValueError, match=r"heads_at_once is 3, .* the 2 kv heads"):
        mosaic_tpu.score(call, TpuScoreConfig(128, 3), interpret=True)


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


# ---------------------------------------------------------------- planted bugs without copies

SCORE_BUGS = {
    "the wrong half of a box": (
        "box",
        r"pair_from_bits\(held, ",
        "pair_from_bits(held >> jnp.uint32(8), ",
    ),
    "boxes of no width": ("box", r"upper, upper - lower\n    query", "upper, 0 * lower\n    query"),
    "the radius adds nothing": ("ball", r"middle \+ reach \+ slack", "middle + slack"),
    "codes of the wrong plane": ("sketch", r"int32\(plane \* held\)", "int32((1 - plane) * held)"),
    "a step too long": ("sketch", r"1\.0 / \(2\*\*bits - 1\)", "1.0 / 2**bits"),
    "errors are the greater ones": ("sketch", r"minimum\(by_dimension", "maximum(by_dimension"),
    "the last tokens are left out": ("sketch", r"shape\[0\] // TOKENS_AT_ONCE", "shape[0] // 16"),
    "the sum does not fade": ("sketch", r"mass \* jnp\.exp\(top - new_top\)", "mass"),
    "residuals of the first tokens": ("sketch", r"residual\[t : t \+ 1\]", "residual[:1]"),
    "the wrong head": ("ball", r"first\[0\] \+ h, \*\(n", "h * 0, *(n"),
    "pages of another sequence": ("box", r"physical\[:, None, :\]", "physical[::-1, None, :]"),
}


@pytest.mark.parametrize("bug", spread(SCORE_BUGS, 3))
def test_a_planted_bug_in_scores_is_caught(bug, monkeypatch):
    kind, *change = SCORE_BUGS[bug]
    wrapper = mosaic_tpu_score
    if bug in ("the wrong head", "pages of another sequence"):
        wrapper = with_bug(wrapper, *change)
    else:
        monkeypatch.setattr(wrapper, "body", with_bug(wrapper.body, *change))
    call = score_problem(kind, 4 if kind == "sketch" else None)
    # Traced anew: a planted bug must not meet a kernel that was compiled before.
    found = wrapper._score.__wrapped__(call.shape, TpuScoreConfig(128), True, *call[1:])
    with pytest.raises(AssertionError):
        check_scores(call, found)


# Not among them, because the interpreter fills lanes behind a row with NaN, which is never chosen:
# that those lanes count.
SELECT_BUGS = {
    "one bit is not tried": (r"jnp\.int32\(31\), refine", "jnp.int32(30), refine"),
    "ties are not limited": (r"equal_up_to <= room", "equal_up_to <= np.float32(2**20)"),
    "ties in an earlier block are forgotten": (r"equals \+ _running", "_running"),
    "nothing is chosen too": (r"order > NOTHING\), ones", "order >= NOTHING), ones"),
    "a lane does not count itself": (r"row <= column", "row < column"),
    "the place after": (r"chosen <= bound", "chosen < bound"),
    "places behind the last are not cleared": (r"jnp\.where\(exists, found, 0\.0\)", "found"),
}


@pytest.mark.parametrize("bug", spread(SELECT_BUGS, 2))
def test_a_planted_bug_in_selection_is_caught(bug):
    call = select_problem()
    found = with_bug(mosaic_tpu_select, *SELECT_BUGS[bug]).select(call, interpret=True)
    exact = reference.select(call)
    right = np.array_equal(found.pages, exact.first) and np.array_equal(found.number, exact.second)
    assert not right


# ---------------------------------------------------------------- lowering

KERNELS = [one for one in calls.kernels("tpu", list(SMALL)) if one.why_not is None]
OTHERS = [one for one in KERNELS if one.labels["shape"] in ("gemma2_9b", "smollm2_135m")]


@pytest.mark.parametrize(
    ("kernel", "device"),
    [pytest.param(*one.values, "v5e", marks=one.marks) for one in spread(KERNELS, 10)]
    + [
        pytest.param(one, device, marks=pytest.mark.slow)
        for one in OTHERS
        for device in ("v4", "v5p", "v6e")
    ],
    ids=lambda one: one if isinstance(one, str) else " ".join(one.labels.values()),
)
def test_lowers_at_full_size(kernel, device):
    with absent_device(device):
        text = calls.lower_call(kernel, "tpu").as_text()
    assert "tpu_custom_call" in text
