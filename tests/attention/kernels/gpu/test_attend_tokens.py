"""Attending to single tokens on Hopper, in Mosaic GPU's interpreter."""

from typing import ClassVar

import jax
import pytest

pytest.importorskip("absl", reason="JAX's Mosaic GPU needs absl-py")

from jax.experimental.pallas import mosaic_gpu as plgpu

from tests.attention.kernels import problems
from tests.attention.kernels.conformance import SMALL
from tests.attention.kernels.planted import NoticedError, noticing, with_bug
from tests.attention.kernels.token_conformance import AttendsTokens
from vashista_theory.attention.kernels import token_spec
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS
from vashista_theory.attention.kernels.gpu import stages as mosaic_gpu
from vashista_theory.attention.kernels.gpu.tiles import GpuTokensConfig, gpu_tokens_config

# Keys that no row may see are infinite in these problems, and numpy remarks on their products.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")


class OnSimulatedGpu(AttendsTokens):
    implementation = "mosaic_gpu"
    examples = 2
    tiles: ClassVar[GpuTokensConfig | None] = None
    races: ClassVar[bool] = False

    def run(self, stage, call):
        del stage
        if not hasattr(plgpu, "force_gpu_interpret_mode"):
            pytest.skip(f"JAX {jax.__version__} cannot interpret Mosaic GPU; 0.11 can")
        with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=self.races)):
            return jax.block_until_ready(mosaic_gpu.attend_tokens(call, self.tiles))


# The interpreter takes ten seconds for a call: the whole suite is slow.
@pytest.mark.slow
class TestAttendsTokens(OnSimulatedGpu):
    pass


class WithRaces(OnSimulatedGpu):
    """Two shares of the tokens, and slots of the ring that are used again."""

    tiles = GpuTokensConfig(2, 2)
    races = True


def test_it_refuses_no_type_and_no_group() -> None:
    OnSimulatedGpu().test_attend_tokens_refuses_what_it_says_and_nothing_else()


def test_a_group_of_five_heads_of_size_64() -> None:
    # Two blocks of threads share the group, and two threads each dimension; the second kv head has
    # no token.
    shape = token_spec.AttendTokensShape(1, 10, 2, 64, 16, 4, "float32", 45, "bfloat16")
    OnSimulatedGpu().check_attend_tokens(problems.attend_tokens_call(shape, [[40, 0]]))


@pytest.mark.slow
def test_tiles_change_nothing_but_rounding() -> None:
    WithRaces().check_attend_tokens(long_call())


def long_call() -> token_spec.AttendTokensCall:
    """One row of five blocks, the last one partial."""
    shape = token_spec.AttendTokensShape(1, 2, 1, 64, 16, 12, "float32", 150, "float32")
    return problems.attend_tokens_call(shape, [[5 * 32 - 20]])


@pytest.mark.parametrize(("tiles", "says"), [((1, 1), "stages is 1"), ((2, 0), "splits is 0")])
def test_bad_tiles_are_named(tiles: tuple[int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GpuTokensConfig(*tiles)


@pytest.mark.parametrize(
    ("tiles", "says"),
    [((9, 1), r"stages is 9: .* Use stages="), ((2, 99), r"splits is 99, .* at most 3 blocks")],
)
def test_tiles_that_do_not_fit_a_call_are_named(tiles: tuple[int, int], says: str) -> None:
    shape = SMALL["published_8kv"].attend_tokens()
    with pytest.raises(ValueError, match=says):
        # 9 stages of two times 32 tokens of 512 bytes are 295 thousand bytes.
        GpuTokensConfig(*tiles).check(shape if tiles[1] > 1 else wide(shape))


def wide(shape: token_spec.AttendTokensShape) -> token_spec.AttendTokensShape:
    static = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    return token_spec.AttendTokensShape(**static | {"head_size": 256})


@pytest.mark.parametrize("one", ARG_SPECS, ids=lambda one: one.name)
def test_chosen_tiles_fit(one) -> None:
    shape = one.attend_tokens()
    gpu_tokens_config(shape).check(shape)


# ---------------------------------------------------------------- planted bugs

PLANTED = {
    "no wait for tokens": (r"plgpu\.barrier_wait\(arrived\.at\[slot\]\)", "pass"),
    "a live slot is overwritten": (r"ahead, width = g\.stages - 1", "ahead, width = g.stages"),
    "a share is skipped": (r"lax\.div\(\(split \+ 1\) \* blocks", "lax.div(split * blocks"),
    "tokens behind the last count": (
        r"jnp\.int32\(TOKENS\) < tokens",
        "jnp.int32(TOKENS) < tokens + jnp.int32(20)",
    ),
    "the sum does not fade": (r"mass \* fade \+", "mass +"),
    "the output does not fade": (r"output \* factors_sm\[_FADE, k\]", "output"),
    "weights are left out": (r" \+ of_token\(0\)", ""),
    "sure tokens are in doubt": (r"weights \* weights \* of_token\(1\)", "weights * weights"),
    "the scatter does not fade": (r"old \* factors_sm\[_FADE_TWICE, k\]", "old"),
    "the means of blocks are alike": (r" \+ away \* away \* factors_sm\[_BETWEEN, k\]", ""),
    "the mean stays that of the first block": (r"mean \+ away \* factors_sm\[_SHARE, k\]", "mean"),
}


def test_the_test_of_bugs_passes_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not noticed(("mass \\* fade \\+", "mass * fade +"), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert noticed(PLANTED[bug], monkeypatch)


def noticed(change: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the interpreter finds a race, or the numbers are wrong."""
    changed = with_bug(mosaic_gpu.sm90_tokens, *change)
    monkeypatch.setattr(
        mosaic_gpu.sm90_tokens, "attend_tokens_splits", changed.attend_tokens_splits
    )
    try:
        with noticing():
            WithRaces().check_attend_tokens(long_call())
    except (AssertionError, NoticedError):
        return True
    return False
