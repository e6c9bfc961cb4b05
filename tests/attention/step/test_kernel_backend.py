"""The mechanism on kernels: the report of plain JAX, and bounds that hold in float64."""

import dataclasses
import functools
from collections import Counter
from typing import NamedTuple

import equinox as eqx
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.attention.bounds.test_page_bounds import hard_keys, true_log_masses
from tests.attention.dense_reference import attend
from tests.attention.kernels.absent_devices import absent_device
from vashista_theory import Result
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.attention.bounds.summaries import summarise_pages
from vashista_theory.attention.kernels import api, spec
from vashista_theory.attention.kernels.tpu import stages as mosaic_tpu
from vashista_theory.attention.step.kernel_bounds import bounds_from

KV_HEADS, D, PAGE, WIDTH = 2, 8, 4, 80
ROOM = PAGE * WIDTH
LENGTHS = np.array([0, 1, PAGE - 1, PAGE, PAGE + 1, ROOM, 37 * PAGE + 2])
SCALE = D**-0.5
# Most of the time of these tests is the compiler's.
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0}
EPS = float(np.finfo(np.float32).eps)

POLICIES = {
    "budget": Policy(pages=8, summary="box", superpages=1),
    "budget proved": Policy(pages=8, tolerance=0.05, superpages=1),
    "published": Policy.published(8),
    "ball": Policy(pages=6, summary="ball", sink=0, recent=0),
    "box proved": Policy(pages=8, tolerance=0.05, summary="box", recent=3),
    "certified": Policy.certified(0.05, dense_below=0),
    "else dense": Policy(pages=20, tolerance=0.02, otherwise="dense", recent=0),
    "dense": Policy.dense(),
}
# Each is compiled twice. Every size of a group and every kernel are among the quick ones.
QUICK = [("published", 3), ("dense", 3), ("certified", 1), ("budget proved", 4)]
SLOW = [(name, group) for name in POLICIES for group in (1, 3, 4) if (name, group) not in QUICK]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
# The kernels' stages that a step of each policy asks for, with all its pages in one list.
STAGES = {
    "budget": {"score": 2, "select": 2, "attend": 1},
    # Superpages are proved by box and mean together, for which there is no kernel.
    "budget proved": {"score": 1, "select": 2, "attend": 1},
    "published": {"score": 1, "select": 1, "attend": 1},
    "ball": {"score": 1, "select": 1, "attend": 1},
    "box proved": {"select": 1, "attend": 1},
    # Pages always read; as many as cannot be spared; the body of the loop that widens.
    "certified": {"score": 1, "attend": 3},
    "else dense": {"score": 1, "attend": 3},
    "dense": {"attend": 1},
}


class Problem(NamedTuple):
    query: np.ndarray
    cache: PagedKV
    keys: np.ndarray
    values: np.ndarray


def make(group: int, seed: int, kind: str = "plain", dtype: str = "float32") -> Problem:
    rng = np.random.default_rng(seed)
    shape = (len(LENGTHS), KV_HEADS, ROOM, D)
    keys = hard_keys(rng, kind, shape) * (rng.choice([0.3, 1.0, 3.0]) if kind == "plain" else 1.0)
    keys, values = np.asarray(keys, dtype), np.asarray(rng.normal(size=shape), dtype)
    query = np.asarray(rng.normal(size=(len(LENGTHS), KV_HEADS * group, D)), dtype)
    return Problem(query, fill(keys, values), keys, values)


@functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
def fill(keys, values) -> PagedKV:
    return PagedKV.from_tokens(keys, values, lengths=jnp.asarray(LENGTHS), page_size=PAGE)


@functools.partial(jax.jit, static_argnums=(2, 3), compiler_options=QUICK_TO_COMPILE)
def decode(query, cache, policy, implementation=None):
    return vashista_attention(query, cache, policy, implementation=implementation)


def check_sound(problem: Problem, output, info) -> None:
    """Dropped mass and error stay inside the reported bounds, by attention in float64."""
    names = ("log_mass", "dropped_mass_bound", "dropped_mass_lower", "error_bound")
    read, upper, lower, farthest = (np.asarray(getattr(info, n), np.float64) for n in names)
    for b, length in enumerate(LENGTHS):
        for h in range(problem.query.shape[1]):
            if length == 0:
                continue
            kv = h * KV_HEADS // problem.query.shape[1]
            keys, values = (
                a[b, kv, :length].astype(np.float64) for a in (problem.keys, problem.values)
            )
            query = problem.query[b, h].astype(np.float64)
            exact = attend(query, keys, values, SCALE)
            logits = SCALE * keys @ query
            log_mass = np.logaddexp.reduce(logits)
            # Logits and sums of the read are in float32.
            reach = SCALE * np.abs(keys) @ np.abs(query)
            noise = EPS * (4 * D * reach.max() + 8 * abs(log_mass) + 64)
            dropped = -np.expm1(read[b, h] - log_mass)
            assert lower[b, h] - noise <= dropped <= upper[b, h] + noise
            error = np.linalg.norm(np.asarray(output, np.float64)[b, h] - exact.output)
            longest = np.linalg.norm(values, axis=-1).max()
            assert error <= farthest[b, h] + 4 * noise * longest


def check_same(found, expected, info, plain) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    for name in ("pages_read", "certified", "fell_back", "bytes_read"):
        np.testing.assert_array_equal(getattr(info, name), getattr(plain, name), err_msg=name)
    np.testing.assert_allclose(info.log_mass, plain.log_mass, rtol=2e-6, atol=2e-5)
    estimate = "dropped_mass_estimate"
    np.testing.assert_allclose(getattr(info, estimate), getattr(plain, estimate), rtol=1e-3)
    # Bounds carry room for the rounding of their evaluation, in logits up to 3e-4 here, and back
    # ends evaluate in different orders.
    for name in ("dropped_mass_bound", "dropped_mass_lower", "error_bound"):
        pair = (getattr(one, name) for one in (info, plain))
        np.testing.assert_allclose(*pair, rtol=5e-3, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(info.gap, plain.gap, rtol=1e-3, atol=5e-3)
    assert bool(info.result == Result.successful)
    assert bool(plain.result == Result.successful)


@pytest.mark.parametrize(("name", "group"), CASES)
def test_the_report_is_that_of_plain_jax_and_its_bounds_hold(name, group):
    policy = POLICIES[name]

    @hypothesis.settings(max_examples=6)
    @hypothesis.given(
        seed=st.integers(0, 2**20),
        kind=st.sampled_from(["plain", "plain", "same", "far", "outlier"]),
    )
    def check(seed, kind):
        problem = make(group, seed, kind)
        found, info = decode(problem.query, problem.cache, policy, "xla")
        if policy.tolerance is not None:
            check_sound(problem, found, info)
        if kind == "plain":
            expected, plain = decode(problem.query, problem.cache, policy)
            check_same(found, expected, info, plain)

    check()


@hypothesis.settings(max_examples=15)
@hypothesis.given(
    summary=st.sampled_from(["box", "ball", "sketch"]),
    seed=st.integers(0, 2**20),
    hard=st.sampled_from(["plain", "same", "far", "outlier", "flat", "tiny"]),
)
def test_bounds_made_of_scores_bound_the_page(summary, seed, hard):
    rng = np.random.default_rng(seed)
    keys = hard_keys(rng, hard, (2, 16, PAGE, D)).astype(np.float32)
    query = rng.normal(size=(1, 6, D)).astype(np.float32)
    scores = api.score_pages(
        query,
        _summarise(keys),
        jnp.arange(16, dtype=jnp.int32)[None, :],
        jnp.asarray([16 * PAGE], jnp.int32),
        kind=summary,
        page_size=PAGE,
        bits=4 if summary == "sketch" else None,
    )
    found = bounds_from(scores, summary, summary, PAGE)
    log_mass, best = true_log_masses(
        query.reshape(2, 3, D).astype(np.float64), keys.astype(np.float64), SCALE
    )
    lower, upper, greatest = (
        np.asarray(bound, np.float64).reshape(log_mass.shape)
        for bound in (found.lower, found.upper, found.best)
    )
    # The scale of the kernels is D^(−1/2) in float32, which is not that of float64.
    noise = EPS * np.abs(best)
    assert np.all(lower <= log_mass + noise)
    assert np.all(upper >= log_mass - noise)
    assert np.all(greatest >= best - noise)


@functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
def _summarise(keys):
    return summarise_pages(keys, keys, SummarySpec())


def stand_in(name: str, stages: dict, monkeypatch) -> None:
    """Let `implementation=None` find a back end for this device."""
    found, real = spec.Implementation(name, ("cpu",), stages), api.load
    monkeypatch.setattr(api, "device_implementations", lambda _: (name,))
    monkeypatch.setattr(api, "load", lambda asked: found if asked == name else real(asked))


def stages_asked_for(step, monkeypatch) -> dict[str, int]:
    """How many kernels of each stage a step is made of; it must not have been traced before."""
    asked = Counter()

    def counted(stage, kernel):
        def run(call, config):
            asked[stage] += 1
            return kernel.run(call, config)

        return dataclasses.replace(kernel, run=run)

    def those(stage, *rest):
        return (counted(stage, kernel) for kernel in those_that_can(stage, *rest))

    those_that_can, named = api.kernels_that_can, api.kernel_of
    with monkeypatch.context() as patch:
        patch.setattr(api, "kernels_that_can", those)
        patch.setattr(api, "kernel_of", lambda stage, *rest: counted(stage, named(stage, *rest)))
        jax.eval_shape(step)
    return dict(asked)


@pytest.mark.parametrize("stages", [("attend",), ("score", "select")], ids="+".join)
def test_what_a_back_end_cannot_do_is_left_to_plain_jax(stages, monkeypatch):
    problem, policy = make(3, 0), POLICIES["published"]
    expected = decode(problem.query, problem.cache, policy)
    portable = api.load("xla").stages
    stand_in("+".join(stages), {name: portable[name] for name in stages}, monkeypatch)

    def step():
        return vashista_attention(problem.query, problem.cache, policy)

    assert stages_asked_for(step, monkeypatch) == dict.fromkeys(stages, 1)
    (found, info), (output, plain) = step(), expected
    check_same(found, output, info, plain)


@pytest.mark.parametrize(
    "name",
    [
        name if name in dict(QUICK) else pytest.param(name, marks=pytest.mark.slow)
        for name in POLICIES
    ],
)
def test_a_step_is_a_few_kernels(name, monkeypatch):
    shape = (len(LENGTHS), KV_HEADS, ROOM, D)

    def step():
        cache = fill.__wrapped__(*jnp.zeros((2, *shape), jnp.float32))
        # Groups of two are in no other test here.
        query = jnp.zeros((shape[0], 2 * KV_HEADS, D), jnp.float32)
        return vashista_attention(query, cache, POLICIES[name], implementation="xla")

    assert stages_asked_for(step, monkeypatch) == STAGES[name]


@pytest.mark.slow
def test_scores_and_reads_of_a_tpu_in_its_interpreter(monkeypatch):
    """Boxes of superpages and of pages, which the kernel takes in order, then pages in a list."""
    rng = np.random.default_rng(0)
    size, width, d = 16, 80, 64
    blocks = rng.normal(size=(2, 2, 2, size * width, d)).astype(np.float32)
    lengths = np.array([size * width, 70 * size + 5])
    cache = PagedKV.from_tokens(
        *blocks, lengths=lengths, page_size=size, spec=SummarySpec(ball=False, sketch_bits=None)
    )
    query = rng.normal(size=(2, 4, d)).astype(np.float32)
    policy = Policy(pages=6, summary="box", superpages=1)
    expected, plain = vashista_attention(query, cache, policy)
    interpreted = {
        name: dataclasses.replace(stage, run=functools.partial(stage.run, interpret=True))
        for name, stage in mosaic_tpu.IMPLEMENTATION.stages.items()
        if name in ("attend", "score")
    }
    stand_in("interpreted", interpreted, monkeypatch)
    found, info = vashista_attention(query, cache, policy)
    check_same(found, expected, info, plain)


# Kernels in the text of a step for a device that is not there; equal ones stand there once.
@pytest.mark.parametrize(
    ("name", "most"), [pytest.param("budget", 6, marks=pytest.mark.slow), ("certified", 5)]
)
@pytest.mark.parametrize(
    ("platform", "device", "call"),
    [
        ("gpu", "h100", "mosaic_gpu"),
        pytest.param("tpu", "v5e", "tpu_custom_call", marks=pytest.mark.slow),
    ],
)
def test_a_whole_step_lowers(name, most, platform, device, call, monkeypatch):
    if platform == "gpu":
        pytest.importorskip("absl", reason="JAX's Mosaic GPU needs absl-py")
    sizes = {"batch": 2, "kv_heads": 2, "head_size": 64, "pages": 256, "pages_per_sequence": 128}
    cache = jax.eval_shape(lambda: PagedKV.create(**sizes, dtype=jnp.bfloat16))
    query = jax.ShapeDtypeStruct((2, 8, 64), jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    step = jax.jit(functools.partial(vashista_attention, policy=POLICIES[name]))
    with absent_device(device):
        traced = step.trace(query, cache)
        text = traced.lower(lowering_platforms=("cuda" if platform == "gpu" else "tpu",)).as_text()
    assert 1 <= text.count(f"@{call}") <= most


def test_an_invalid_table_leads_nowhere():
    problem = make(3, 0)
    astray = eqx.tree_at(lambda c: c.page_table, problem.cache, problem.cache.page_table + 10**6)
    for name in ("published", "dense"):
        policy = POLICIES[name]
        _, info = decode(problem.query, astray, policy, "xla")
        assert bool(info.result == Result.invalid_page)


def test_what_is_named_and_cannot_says_so():
    problem, policy = make(3, 0), POLICIES["published"]
    double = problem.query.astype(np.float64)
    for changes, text in [
        ({"implementation": "mosaic_tpu"}, "'mosaic_tpu' runs on tpu, and this cache is on cpu"),
        ({"query": double, "implementation": "xla"}, "'xla' computes in float32, .* float64"),
    ]:
        given = {"query": problem.query, "cache": problem.cache, "policy": policy} | changes
        with pytest.raises(NotImplementedError, match=f"{text}.*implementation=None, or 'jax'"):
            vashista_attention(**given)
    # Where it will run is not known inside jit, but what it could do there is.
    named = functools.partial(vashista_attention, policy=policy, implementation="mosaic_tpu")
    with pytest.raises(NotImplementedError, match=r"'mosaic_tpu' cannot \w+ this"):
        jax.jit(named).trace(problem.query, problem.cache)


def test_plain_jax_by_its_name_is_what_a_cpu_without_kernels_takes(monkeypatch):
    monkeypatch.setattr(api, "device_implementations", lambda _: ())
    problem, policy = make(3, 0), POLICIES["published"]
    found = (
        vashista_attention(problem.query, problem.cache, policy, implementation=name)
        for name in (None, "jax")
    )
    for one, two in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(one, two)
