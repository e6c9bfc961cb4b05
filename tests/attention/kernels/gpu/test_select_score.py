"""Score and select on Hopper, in Mosaic GPU's interpreter."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("absl", reason="JAX's Mosaic GPU needs absl-py")

from jax.experimental.pallas import mosaic_gpu as plgpu

from tests.attention.kernels import problems
from tests.attention.kernels.conformance import SMALL, Scores, Selects
from tests.attention.kernels.planted import NoticedError, noticing, with_bug
from tests.attention.kernels.token_conformance import ScoresTokens
from vashista_theory.attention.kernels import api, reference, spec
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS
from vashista_theory.attention.kernels.gpu import stages as mosaic_gpu
from vashista_theory.attention.kernels.gpu.tiles import GpuScoreConfig, gpu_score_config


def need_interpreter() -> None:
    if not hasattr(plgpu, "force_gpu_interpret_mode"):
        pytest.skip(f"JAX {jax.__version__} cannot interpret Mosaic GPU; 0.11 can")


def interpret(run: Callable[..., Any], *arrays: Any, races: bool = False) -> Any:
    need_interpreter()
    with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=races)):
        return jax.block_until_ready(run(*arrays))


@functools.cache
def compiled(shape: spec.Shape) -> Callable[..., Any]:
    """The interpreter compiled for a shape, which takes longer than a run of it."""
    if isinstance(shape, spec.ScoreShape):
        score = mosaic_gpu.score_tokens if shape.by_token else mosaic_gpu.score
        return jax.jit(lambda *a: score(spec.ScoreCall(shape, *a), None, interpreted=True))
    assert isinstance(shape, spec.SelectShape)
    return jax.jit(lambda *a: mosaic_gpu.select(spec.SelectCall(shape, *a)))


class Interpreted:
    implementation = "mosaic_gpu"
    examples = 1

    def run(self, stage, call):
        del stage
        return interpret(compiled(call.shape), *call[1:])


class TestSelects(Interpreted, Selects):
    pass


# The interpreter takes ten seconds for a call: the whole suite is slow.
@pytest.mark.slow
class TestScores(Interpreted, Scores):
    pass


@pytest.mark.slow
class TestScoresTokens(Interpreted, ScoresTokens):
    pass


@pytest.mark.parametrize("name", ["llama3_8b_float16", "ragged_page64", "smollm2_135m"])
def test_a_ball_a_box_and_a_sketch(name: str) -> None:
    small = SMALL[name]
    TestScores().check_score(*problems.score_problem(small.score(), small.lengths))


def test_every_token_by_two_bits() -> None:
    small = SMALL["smollm2_135m"]
    call, _ = problems.score_problem(small.score_tokens(), small.lengths)
    TestScoresTokens().check_score_tokens(call)


# ---------------------------------------------------------------- score


def sketch_call(page_size: int = 16, lengths: tuple[int, ...] = (83 * 16, 35)) -> spec.ScoreCall:
    """Three tiles of pages in the first row, and none but two pages in the second."""
    small = replace(SMALL["llama3_8b"], kv_heads=1, heads=3, head_size=64, page_size=page_size)
    small = replace(small, lengths=lengths)
    return problems.score_problem(small.score(), small.lengths)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page_size", "tiles"),
    [(16, (8, 2, 2)), (32, (4, 3, 1)), (64, (8, 2, 2))],
)
def test_tiles_change_nothing_but_rounding(page_size: int, tiles: tuple[int, int, int]) -> None:
    call = sketch_call(page_size, (27 * page_size + 5, page_size))
    run = functools.partial(mosaic_gpu.score, config=GpuScoreConfig(*tiles), interpreted=True)
    found, exact = interpret(run, call), reference.score(call)
    np.testing.assert_allclose(found.estimate, exact.second, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(found.upper, exact.first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("tiles", "says"),
    [((3, 2, 1), "lanes is 3"), ((4, 1, 1), "stages is 1"), ((4, 2, 0), "splits is 0")],
)
def test_bad_tiles_are_named(tiles: tuple[int, int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GpuScoreConfig(*tiles)


@pytest.mark.parametrize(
    ("name", "tiles", "says"),
    [
        ("published_8kv", (8, 2, 1), "lanes is 8; a box is judged by 4"),
        ("qwen2_7b", (4, 4, 1), "stages is 4: tiles of 32 pages take"),
        ("llama3_8b", (4, 2, 9), "splits is 9, .* at most 1 tiles"),
    ],
)
def test_tiles_that_do_not_fit_a_call_are_named(name: str, tiles: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GpuScoreConfig(*tiles).check(SMALL[name].score())


@pytest.mark.parametrize("one", ARG_SPECS, ids=lambda one: one.name)
def test_chosen_tiles_fit(one) -> None:
    shape = one.score()
    tiles = gpu_score_config(shape)
    assert tiles is not None
    tiles.check(shape)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"head_size": 96}, "head size is 96"),
        ({"stored": "float32"}, "summaries are stored in float32"),
        ({"heads": 65, "kv_heads": 1}, "65 query heads"),
        ({"kind": "sketch", "bits": 4, "page_size": 8}, "a sketch of 8 tokens"),
        ({"kind": "sketch", "bits": 6}, "6 bits, whose codes lie across bytes"),
    ],
)
def test_refusals_name_the_value(changes: dict, says: str) -> None:
    shape = replace(SMALL["published_8kv"].score(), **changes)
    reason = mosaic_gpu.why_not_score(shape)
    assert reason is not None
    assert says in reason


# ---------------------------------------------------------------- select


def select_call(pages: int, count: int, seed: int = 0) -> spec.SelectCall:
    """Many ties, and every special number."""
    rng = np.random.default_rng(seed)
    numbers = np.asarray([-np.inf, np.inf, np.nan, 0.0, -0.0, 1.0, -1.0, 1e-40, -3e38])
    priority = numbers[rng.integers(0, len(numbers), (1, 1, pages))]
    return spec.select_call(jnp.asarray(priority, jnp.float32), count)


def check_select(call: spec.SelectCall) -> None:
    found, exact = interpret(compiled(call.shape), *call[1:]), reference.select(call)
    np.testing.assert_array_equal(found.pages, exact.first)
    np.testing.assert_array_equal(found.number, exact.second)


def test_more_entries_than_a_block_of_threads_takes() -> None:
    # Three segments of 8,192; the best of all are sought among the best of each.
    check_select(select_call(20_000, 100))


def test_lists_of_several_blocks() -> None:
    check_select(select_call(5_000, 1_500))


def test_too_many_of_too_many_are_refused() -> None:
    call = select_call(8_193, 4_097)
    with pytest.raises(NotImplementedError, match=r"4097 of 8193 entries; .* at most 4096"):
        api.select_pages(call.priority, 4_097, implementation="mosaic_gpu")


# ---------------------------------------------------------------- planted bugs

OF_RING = {
    "no wait for summaries": (r"plgpu\.barrier_wait\(arrived\.at\[slot\]\)", "pass"),
    "a live slot is overwritten": (r"ahead = g\.stages - 1", "ahead = g.stages"),
    "a share is skipped": (r"lax\.div\(\(split \+ 1\) \* tiles", "lax.div(split * tiles"),
}
OF_JUDGE = {
    "a page that is not full counts": (r"page < counted", "page <= counted"),
    "one plane of codes for all": (r"plane \* \(g\.d // g\.planes\)", "0 * (g.d // g.planes)"),
    "errors are left out": (r"score \+ error", "score"),
    "one token of a word for all": (r"residual_sm\.at\[token\]", "residual_sm.at[0]"),
}
OF_SELECT = {
    "ties come twice": (r"order > threshold\)", "order >= threshold)"),
    "the last tie is left out": (r"<= room\.astype", "< room.astype"),
    "a row counts itself": (r"place\(square, 1\) < place", "place(square, 1) <= place"),
    "nothing is chosen": (r"& \(order > nothing\)", ""),
}


def is_noticed(run: Callable[[], Any], exact: reference.Reference, precision: float) -> bool:
    """Whether the interpreter finds a race, or the numbers are wrong."""
    try:
        with noticing():
            found = interpret(run, races=True)
    except NoticedError:
        return True
    pairs = zip(found, (exact.first, exact.second), strict=True)
    return not all(np.allclose(one, right, rtol=precision, atol=precision) for one, right in pairs)


def score_is_wrong() -> bool:
    call = sketch_call()
    run = functools.partial(mosaic_gpu.score, call, GpuScoreConfig(8, 2, 2), interpreted=True)
    return is_noticed(run, reference.score(call), 2e-3)


def select_is_wrong() -> bool:
    """Of any call: few of many ties, most of them, and more than there are."""

    def is_wrong(call: spec.SelectCall) -> bool:
        return is_noticed(lambda: mosaic_gpu.select(call), reference.select(call), 0)

    return any(is_wrong(select_call(200, count)) for count in (30, 90, 190))


@pytest.mark.slow
def test_the_tests_of_bugs_pass_without_one() -> None:
    assert not score_is_wrong()
    assert not select_is_wrong()


@pytest.mark.slow
@pytest.mark.parametrize("bug", OF_RING)
def test_a_planted_bug_of_the_ring_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = with_bug(mosaic_gpu.sm90_score, *OF_RING[bug])
    monkeypatch.setattr(mosaic_gpu.sm90_score, "score_tiles", changed.score_tiles)
    assert score_is_wrong()


@pytest.mark.slow
@pytest.mark.parametrize("bug", OF_JUDGE)
def test_a_planted_bug_of_the_judge_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = with_bug(mosaic_gpu.judge, *OF_JUDGE[bug])
    monkeypatch.setattr(mosaic_gpu.judge, "judge_tile", changed.judge_tile)
    assert score_is_wrong()


@pytest.mark.parametrize("bug", OF_SELECT)
def test_a_planted_bug_of_select_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = with_bug(mosaic_gpu.sm90_select, *OF_SELECT[bug])
    monkeypatch.setattr(mosaic_gpu.sm90_select, "select_segments", changed.select_segments)
    assert select_is_wrong()
