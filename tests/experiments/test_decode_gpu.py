"""The GPU benchmark runs without one as a dry run, needs four libraries, and measures honestly."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.decode_gpu import data, dense, ours, report, timing
from experiments.decode_gpu import measure as decode_gpu
from experiments.decode_gpu.data import Geometry
from experiments.decode_gpu.measure import BAD_USE, FAILED, OK
from experiments.decode_gpu.store import Unfinished
from experiments.framework import results
from experiments.shared.published_times import PUBLISHED
from vashista_theory.attention import PagedKV, Policy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _little_optimised() -> Iterator[None]:
    """These tests compile much and compute little."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# What a GPU machine often lacks; importing any of them fails as if it were not installed.
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        absent = {"cvxpy", "tyro", "rich", "zarr", "xarray", "matplotlib", "dask", "torch"}
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def without_extras(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        # A dry run is nearly all compilation.
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )


@pytest.mark.slow
def test_a_dry_run_needs_four_libraries_and_writes_no_result(tmp_path: Path) -> None:
    arguments = ["decode_gpu", "--quick", "--results", str(tmp_path)]
    done = without_extras(f"from experiments.__main__ import main\nsys.exit(main({arguments!r}))")
    assert done.returncode == OK, done.stderr
    assert "DRY RUN" in done.stdout
    assert "WRONG" not in done.stdout
    for step in ("dense", "published algorithm", "budget", "certified"):
        assert f" {step} " in done.stdout
    assert "torch is not installed" in done.stdout, "a baseline that cannot run says why"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_a_gpu_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode_gpu.machine, "gpu", lambda: None)
    monkeypatch.setattr(decode_gpu.machine, "leave_room_for_torch", lambda: None)
    assert decode_gpu.main(["--results", str(tmp_path / "none")]) == OK
    assert capsys.readouterr().out.startswith("not measured")
    assert not (tmp_path / "none").exists()
    assert decode_gpu.main(["--queries", "1"]) == BAD_USE


def a_block(shape: Geometry) -> dict[str, Any]:
    row = dict.fromkeys(report.COLUMNS["decode"])
    row |= {"batch": shape.batch, "heads": 32, "kv_heads": shape.kv_heads}
    row |= {"tokens": shape.tokens, "keys": "real heads", "step": "dense", "how": "made up"}
    row |= {"counted_us": 1.0, "p99_us": 1.0, "gb_per_s": 1.0, "share_of_copy": 1.0}
    return {"decode": [row], "stages": [], "not measured": []}


@pytest.fixture
def on_a_made_up_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Geometry]:
    """The command with everything that measures replaced; returns the blocks it asks for."""
    asked: list[Geometry] = []

    def run(shape: Geometry, plan: Any) -> dict[str, Any]:
        del plan
        asked.append(shape)
        return a_block(shape)

    monkeypatch.setattr(decode_gpu.machine, "gpu", lambda: jax.devices()[0])
    monkeypatch.setattr(decode_gpu.machine, "leave_room_for_torch", lambda: None)
    monkeypatch.setattr(decode_gpu, "_machine", lambda *_: ({"device": "none"}, {"copy": 1.0}))
    monkeypatch.setattr(decode_gpu.numerics, "check", lambda *_, **__: [])
    monkeypatch.setattr(decode_gpu.blocks, "run", run)
    return asked


def test_finished_blocks_are_kept_and_the_last_makes_the_result(
    tmp_path: Path, on_a_made_up_gpu: list[Geometry]
) -> None:
    there = ["--results", str(tmp_path)]
    result = tmp_path / "decode_gpu.json"
    assert decode_gpu.main(["--only", "8192", *there]) == OK
    assert {shape.tokens for shape in on_a_made_up_gpu} == {8192}
    assert not result.exists(), "a part is no result"
    begun = len(on_a_made_up_gpu)
    assert decode_gpu.main(there) == OK
    whole = decode_gpu.Config().shapes()
    assert len(on_a_made_up_gpu) == len(whole) > begun, "each block once"
    content = json.loads(result.read_text())
    assert len(content["measured"]["tables"]["decode"]) == len(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["decode_gpu.json"]


def test_finishing_early_names_what_is_missing(
    tmp_path: Path, on_a_made_up_gpu: list[Geometry]
) -> None:
    there = ["--results", str(tmp_path)]
    decode_gpu.main(["--only", "8192", *there])
    assert decode_gpu.main(["--finish", *there]) == OK
    said = results.outcome("decode_gpu", folder=tmp_path).findings
    assert "B16 H32 Hkv32 T131072" in said[-1]
    assert {shape.tokens for shape in on_a_made_up_gpu} == {8192}


@pytest.mark.usefixtures("on_a_made_up_gpu")
def test_wrong_numbers_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"what": "attend", "shape": "any", "error": 1.0, "allowed": 0.1, "verdict": "WRONG"}
    monkeypatch.setattr(decode_gpu.numerics, "check", lambda *_, **__: [row])
    assert decode_gpu.main(["--results", str(tmp_path)]) == FAILED
    assert "attend" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_measurements_of_two_devices_are_not_mixed(tmp_path: Path) -> None:
    Unfinished(tmp_path / "kept.json", key="a", device="one").add("block", {}, seconds=2.0)
    with pytest.raises(ValueError, match="must not be mixed"):
        Unfinished(tmp_path / "kept.json", key="a", device="another").load(afresh=False)
    same = Unfinished(tmp_path / "kept.json", key="a", device="one")
    same.load(afresh=False)
    assert list(same.blocks) == ["block"]
    same.add("another", {}, seconds=3.0)
    again = Unfinished(tmp_path / "kept.json", key="a", device="one")
    again.load(afresh=False)
    assert again.seconds == 5.0, "the calls add up"


def test_nothing_that_stays_is_taken_out_of_the_loop() -> None:
    pool = jnp.ones((64, 8), jnp.float32)
    table = jnp.arange(64, dtype=jnp.int32)[::-1]
    queries = jnp.ones((4, 8), jnp.float32)

    def call(query: jax.Array, held: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.sin(held[0][held[1]]) @ query, {}

    jax.config.update("jax_disable_most_optimizations", False)  # hoisting is what is looked for

    def before_the_loop(loop: Any) -> str:
        """What the compiled entry computes besides the loop itself."""
        text = loop.lower(queries, (pool, table)).compile().as_text()
        return text[text.index("ENTRY") :]

    def bare(inputs: jax.Array, held: Any) -> Any:
        start = jnp.zeros(64, jnp.float32)
        return jax.lax.scan(lambda _, q: (call(q, held)[0], None), start, inputs)

    kept = before_the_loop(jax.jit(lambda i, o: timing._loop(call, i, o)))
    assert "sine" not in kept
    assert "gather" not in kept
    hoisted = before_the_loop(jax.jit(bare))
    assert "sine" in hoisted or "gather" in hoisted, "otherwise this test proves nothing"
    jax.config.update("jax_disable_most_optimizations", True)


def test_the_loop_copies_no_pool() -> None:
    # At 128k tokens the pools alone are 34 GB: one copy would not fit, and would be timed.
    pool = jnp.ones((4096, 64), jnp.float32)
    queries = jnp.ones((4, 64), jnp.float32)
    call = lambda query, held: (held[jnp.sum(query).astype(jnp.int32)], {})  # noqa: E731
    compiled = timing._loop.lower(call, queries, pool).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < pool.nbytes / 8


def test_a_step_that_cannot_run_gives_its_reason() -> None:
    def call(query: jax.Array, held: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        raise NotImplementedError("no such tile")

    step = timing.Step(call, ())
    with pytest.raises(timing.CannotRunError, match="no such tile"):
        timing.measure(step, jnp.ones((2, 3)), seconds=0.01)


def test_times_and_reports_of_a_step() -> None:
    step = timing.Step(lambda q, _: (q * 2.0, {"bytes": jnp.sum(q)}), ())
    queries = jnp.asarray([[1.0], [3.0]], jnp.float32)
    found = timing.measure(step, queries, seconds=0.01, repeats=2, longest=2)
    assert found.low_us <= found.us <= found.high_us
    assert found.p50_us <= found.p90_us <= found.p99_us
    assert found.extras["bytes"] == pytest.approx(2.0)
    scratch = jnp.arange(1024, dtype=jnp.uint32)
    assert timing.cold_us(step, queries, scratch, seconds=0.01, longest=2) >= 0.0


def test_the_isometry_keeps_scores_and_what_lowers_them() -> None:
    small, large = data.source(64, 4, 3), data.source(128, 4, 3)

    def logits(held: Any) -> np.ndarray:
        d = held.keys.shape[-1]
        return np.einsum("hqd,hpsd->hqps", held.queries, held.keys) * d**-0.5

    assert logits(large) == pytest.approx(logits(small), abs=1e-3)
    lowered = [
        np.einsum("hqd,hd->hq", held.queries, held.away) * held.keys.shape[-1] ** -0.5
        for held in (small, large)
    ]
    assert lowered[1] == pytest.approx(lowered[0], abs=1e-4)


SMALL = Geometry(2, 4, 2, 512, head_size=64, dtype="float32")


@pytest.fixture(scope="module")
def small_cache() -> PagedKV:
    return data.cache_of(SMALL, *data.normal_pools(SMALL, 0))


def test_a_cache_built_in_chunks_is_the_one_of_the_package(small_cache: PagedKV) -> None:
    found, keys, values = small_cache, small_cache.keys, small_cache.values
    table = np.arange(64, dtype=np.int32).reshape(2, 32)
    lengths = np.array([512, 512], np.int32)
    wanted = PagedKV.from_pages(keys, values, table, lengths, spec=data.SPEC)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_not_proved_is_read_densely(small_cache: PagedKV) -> None:
    held = ours.fold(small_cache)
    query = data.normal_queries(SMALL, 1, 5)[0]
    step = ours.certified(SMALL, held, listed=2, tolerance=0.05, implementation="xla")
    output, extras = jax.jit(step.call)(query, held)
    assert float(extras["certified"]) == 0.0
    assert float(extras["share_read"]) == 1.0
    whole = dense.head_major(SMALL, small_cache.keys, small_cache.values)
    np.testing.assert_allclose(output, whole.call(query, whole.operands)[0], atol=1e-5)


def test_aims_say_met_and_missed() -> None:
    def row(step: str, kv_heads: int, tokens: int, **cells: Any) -> dict[str, Any]:
        where = {"batch": 16, "kv_heads": kv_heads, "tokens": tokens, "keys": "real heads"}
        return {**where, "step": step, "how": "made up", "counted_us": 1.0, **cells}

    rows = [
        row("budget", 32, 131072, times_dense=21.0),
        row("budget", 8, 131072, times_dense=11.0),
        row("certified", 8, 131072, over_floor=1.2),
        row("budget", 8, 8192, times_dense=0.9),
    ]
    stage = {"batch": 16, "kv_heads": 8, "tokens": 131072, "stage": "attend"}
    stages = [
        {**stage, "implementation": "fast", "share_of_copy": 0.8},
        {**stage, "implementation": "slow", "share_of_copy": 0.1},
    ]
    said = report.aims(rows, stages)
    assert any(s.startswith("Met: budget at 131,072 tokens with 32 kv heads") for s in said)
    assert any(s.startswith("Missed: budget at 131,072 tokens with 8 kv heads") for s in said)
    assert any(s.startswith("Met: certified at 131,072 tokens with 8") for s in said)
    assert any(s.startswith("Missed: budget at 8,192 tokens with 8 kv heads") for s in said)
    assert any(s.startswith("Met: attend") and "fast" in s for s in said), "the slower is beside"
    assert any(s.startswith("Not measured: budget from 65,536") for s in said)


def test_published_times_are_those_of_the_record() -> None:
    assert PUBLISHED[131072] == (13.666, 24.720)
    ratios = [dense_ms / sparse for dense_ms, sparse in PUBLISHED.values()]
    assert round(min(ratios), 3) == 0.037
    assert round(max(ratios), 3) == 0.553


def test_bytes_by_arithmetic() -> None:
    at = Geometry(16, 32, 8, 131072)
    assert at.dense_bytes == 8589934592.0
    # facts: superpages, children of 32 and 64 pages take 46 µs at 3 TB/s.
    assert ours.budget_bytes(at, 64, 32) / 3e12 == pytest.approx(46e-6, rel=0.05)


def test_every_step_fits_its_shapes_at_the_longest_contexts() -> None:
    # Traced only: a mistake here would cost a person with a GPU the whole run.
    shape = Geometry(16, 32, 8, 131072)
    pool = jax.ShapeDtypeStruct((8, shape.batch * shape.pages, 16, 128), jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((shape.batch, shape.tokens, 8, 128), jnp.bfloat16)
    query = jax.ShapeDtypeStruct((shape.batch, shape.heads, 128), jnp.bfloat16)

    def traced(make: Callable[..., timing.Step], *operands: Any) -> None:
        def call(query: jax.Array, *operands: Any) -> Any:
            step = make(*operands)
            return step.call(query, step.operands)[0]

        assert jax.eval_shape(call, query, *operands).shape == query.shape

    cache = jax.eval_shape(lambda k, v: data.cache_of(shape, k, v), pool, pool)
    traced(lambda k, v: dense.head_major(shape, k, v), pool, pool)
    traced(lambda k, v: dense.published(shape, k, v, pages=64), pool, pool)
    with (  # the library's own code is not written for the strict settings of these tests
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        traced(lambda k, v: dense.shipped_paged(shape, k, v, interpret=True), pool, pool)
        for grouped in (False, True):
            ways = {"implementation": "xla", "group_as_queries": grouped}
            traced(lambda k, v, ways=ways: dense.library(shape, k, v, **ways), tokens, tokens)
    stages = {"pages": 64, "superpages": 34, "implementation": None}
    traced(lambda c: ours.budget(shape, ours.fold(c), **stages), cache)
    proof = {"listed": 512, "tolerance": 0.05, "implementation": None}
    traced(lambda c: ours.certified(shape, ours.fold(c), **proof), cache)
    traced(lambda c: ours.front(c, Policy.budget(64, summary="box")), cache)
