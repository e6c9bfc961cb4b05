"""The Hopper back end, in Mosaic GPU's interpreter and lowered for a device that is not there."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("absl", reason="JAX's Mosaic GPU needs absl-py")

from jax.experimental.pallas import mosaic_gpu as plgpu

from experiments.compile_check import calls
from tests.attention.kernels import problems
from tests.attention.kernels.absent_devices import absent_device
from tests.attention.kernels.conformance import SMALL, Attends, tolerance
from tests.attention.kernels.planted import NoticedError, noticing, with_bug
from tests.thinned import spread
from vashista_theory.attention.kernels import api, reference, spec
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS
from vashista_theory.attention.kernels.gpu import stages as mosaic_gpu
from vashista_theory.attention.kernels.gpu.tiles import GpuAttendConfig, gpu_attend_config

INTERPRETED = hasattr(plgpu, "force_gpu_interpret_mode")


# What stands behind the last token is infinite in these problems. Scores of such keys are computed
# and masked, and the interpreter's numpy remarks on it.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")


def need_interpreter() -> None:
    if not INTERPRETED:
        pytest.skip(f"JAX {jax.__version__} cannot interpret Mosaic GPU; 0.11 can")


def interpret(
    call: spec.AttendCall, config: GpuAttendConfig | None = None, *, races: bool = False
) -> spec.Attended:
    """Attend on a simulated GPU; noticing races takes it four times as long."""
    need_interpreter()
    with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=races)):
        return jax.block_until_ready(mosaic_gpu.attend(call, config))


@functools.cache
def compiled(shape: spec.AttendShape) -> Callable[..., spec.Attended]:
    """The interpreter compiled for a shape, which takes longer than a run of it."""
    return jax.jit(lambda *arrays: mosaic_gpu.attend(spec.AttendCall(shape, *arrays), None))


class TestMosaicGpu(Attends):
    implementation = "mosaic_gpu"
    examples = 2
    cannot: ClassVar[dict[str, set[str]]] = {"attend": {"smollm2_135m"}}

    def run(self, stage, call):
        del stage
        need_interpreter()
        with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams()):
            return jax.block_until_ready(compiled(call.shape)(*call[1:]))

    def test_attend_worked_by_hand(self):
        # The example of the suite in float16, which holds its numbers: keys ±e_1 with logits 1 and
        # −1, values ±1; tanh 1 = 0.761594, log(e + 1/e) = 1.126928. The weight e^−2 is rounded to
        # float16, by at most 3e-5, and the output by less than twice that.
        keys = np.zeros((1, 3, 16, 64), np.float16)
        values = np.zeros_like(keys)
        keys[0, 2, 0, 0], keys[0, 2, 1, 0] = 1.0, -1.0
        values[0, 2, 0], values[0, 2, 1] = 1.0, -1.0
        query = np.zeros((1, 1, 64), np.float16)
        query[0, 0, 0] = 8.0
        pages, tokens = np.array([[[2, -7]]], np.int32), np.array([[2]], np.int32)
        found = self.run("attend", spec.attend_call(query, keys, values, pages, tokens, None))
        np.testing.assert_allclose(found.output, 0.761594, atol=6e-5)
        np.testing.assert_allclose(found.log_mass, 1.126928, atol=1e-6)
        np.testing.assert_allclose(found.top, 1.0, atol=1e-6)


def small_call(name: str = "published_8kv") -> spec.AttendCall:
    return problems.attend_call(SMALL[name].attend(), problems.list_tokens(SMALL[name]))


def long_call() -> spec.AttendCall:
    """One row of five blocks, the last one partial: slots of the ring are used again."""
    shape = spec.AttendShape(1, 2, 1, 64, 32, 12, "bfloat16", 10, "bfloat16")
    return problems.attend_call(shape, [[5 * 64 - 40]])


def test_a_float32_query_keeps_its_digits() -> None:
    # Rounded to the pool's bfloat16 it would be off by 2^−9 of each product.
    shape = replace(SMALL["published_8kv"].attend(), query_dtype="float32")
    call = problems.attend_call(shape, problems.list_tokens(SMALL["published_8kv"]))
    found, exact = interpret(call), reference.attend(call)
    np.testing.assert_allclose(found.output, exact.first, atol=5 * tolerance("bfloat16"))
    np.testing.assert_allclose(found.log_mass, exact.second, rtol=2e-6, atol=2e-5)


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize(
    "tiles", [GpuAttendConfig(64, 2, 1), GpuAttendConfig(64, 3, 2), GpuAttendConfig(128, 2, 1)]
)
def test_tiles_change_nothing_but_rounding(tiles: GpuAttendConfig) -> None:
    call = small_call()
    found, exact = interpret(call, tiles), reference.attend(call)
    np.testing.assert_allclose(found.output, exact.first, atol=5 * tolerance("bfloat16"))
    np.testing.assert_allclose(found.log_mass, exact.second, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize(
    ("tiles", "says"),
    [
        ((96, 2, 1), "block_tokens is 96"),
        ((64, 1, 1), "stages is 1"),
        ((64, 2, 0), "splits is 0"),
    ],
)
def test_bad_tiles_are_named(tiles: tuple[int, int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GpuAttendConfig(*tiles)


@pytest.mark.parametrize(
    ("tiles", "says"),
    [((64, 8, 1), r"stages is 8: .* Use stages=2"), ((64, 2, 99), r"splits is 99, .* at most 2")],
)
def test_tiles_that_do_not_fit_a_call_are_named(tiles: tuple[int, int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GpuAttendConfig(*tiles).check(SMALL["published_8kv"].attend())


@pytest.mark.parametrize("one", ARG_SPECS, ids=lambda one: one.name)
def test_chosen_tiles_fit(one) -> None:
    shape = one.attend()
    gpu_attend_config(shape).check(shape)


def test_splits_fill_the_chip() -> None:
    # 16 sequences of 8 kv heads are 128 rows, for 132 multiprocessors with room for two blocks
    # each: two shares make 256 blocks of the 264 there is room for. With 32 kv heads the 512 rows
    # alone are two waves.
    chosen = {one.name: gpu_attend_config(one.attend()).splits for one in ARG_SPECS}
    assert chosen["published_8kv"] == 2
    assert chosen["published_32kv"] == 1
    # One sequence has 8 rows, and its 64 pages make 16 blocks of 64 tokens: a share each.
    assert chosen["one_long"] == 16


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"head_size": 96}, "head size is 96"),
        ({"page_size": 8}, "pages have 8 tokens"),
        ({"pool_dtype": "float32"}, "keys are float32"),
        ({"query_dtype": "float16"}, "query is float16 and keys are bfloat16"),
        (
            {"query_dtype": "float32", "pool_dtype": "float16"},
            "query is float32 and keys are float16",
        ),
        ({"heads": 65, "kv_heads": 1}, "65 query heads"),
    ],
)
def test_refusals_name_the_value(changes: dict, says: str) -> None:
    given = {"batch": 1, "heads": 2, "kv_heads": 2, "head_size": 64, "page_size": 16} | changes
    given = {"query_dtype": "bfloat16", "pool_dtype": "bfloat16"} | given
    shape = spec.AttendShape(pool_pages=3, listed=2, **given)
    call = problems.attend_call(shape, np.ones((1, shape.kv_heads), np.int32))
    with pytest.raises(NotImplementedError, match=says):
        api.attend_pages(*call[1:6], implementation="mosaic_gpu")


# ---------------------------------------------------------------- merge


def test_merge_worked_by_hand() -> None:
    # Masses 1 and 3 and an empty share: (1·2 + 3·6)/4 = 5, log 4. A row with nothing: 0, −inf.
    # Of the greatest logits 0 and 0.5 the greater one.
    log_mass = jnp.log(jnp.asarray([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]], jnp.float32))
    output = jnp.asarray([[[2.0], [0.0]], [[6.0], [0.0]], [[0.0], [0.0]]], jnp.float32)
    none = -np.inf
    top = jnp.asarray([[0.0, none], [0.5, none], [none, none]], jnp.float32)
    merged = mosaic_gpu.merge_shares(output, log_mass, top)
    np.testing.assert_allclose(merged.output, [[5.0], [0.0]], rtol=1e-6)
    np.testing.assert_allclose(merged.log_mass, [np.log(4.0), -np.inf], rtol=1e-6)
    np.testing.assert_array_equal(merged.top, [0.5, -np.inf])


# ---------------------------------------------------------------- lowering


KERNELS = [one for one in calls.kernels("cuda", list(SMALL)) if one.why_not is None]


@pytest.mark.parametrize("kernel", spread(KERNELS, 8), ids=lambda one: one.labels["shape"])
def test_lowers_for_hopper_without_one(kernel: calls.Kernel) -> None:
    with absent_device("h100"):
        text = calls.lower_call(kernel, "cuda").as_text()
    assert "mosaic_gpu" in text


# ---------------------------------------------------------------- planted bugs

# Not among them, because the interpreter cannot notice: no wait for the query (its products do not
# look for races, and its copies are never late), and entries behind the last page that are read
# (their tokens do not count, whatever page they lead to).
PLANTED = {
    "the wrong slot is read": (
        r"weights_sm, values_sm\.at\[slot\]",
        "weights_sm, values_sm.at[1 - slot]",
    ),
    "no wait for keys": (r"plgpu\.barrier_wait\(keys_here\.at\[slot\]\)", "pass"),
    "no wait for values": (r"plgpu\.barrier_wait\(values_here\.at\[slot\]\)", "pass"),
    "a live slot is overwritten": (r"ahead = g\.stages - 1", "ahead = g.stages"),
    "the token behind the last counts": (r"place \+ token < tokens", "place + token <= tokens"),
    "values behind the last token are kept": (r"token < valid", "token >= 0"),
    "the sum does not fade": (r"mass = mass \* fade", "mass = mass"),
    "a share is skipped": (r"lax\.div\(\(split \+ 1\) \* blocks", "lax.div(split * blocks"),
}


def test_the_test_of_bugs_passes_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not noticed(("mass = mass", "mass = mass"), monkeypatch)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert noticed(PLANTED[bug], monkeypatch)


def noticed(change: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the interpreter finds a race, or the numbers are wrong."""
    need_interpreter()
    changed = with_bug(mosaic_gpu.sm90, *change)
    monkeypatch.setattr(mosaic_gpu.sm90, "attend_splits", changed.attend_splits)
    call = long_call()
    exact = reference.attend(call)
    try:
        with noticing():
            found = interpret(call, GpuAttendConfig(64, 2, 1), races=True)
    except NoticedError:
        return True
    right = np.abs(np.asarray(found.output) - exact.first) <= 5 * tolerance("bfloat16")
    return not np.all(right)
