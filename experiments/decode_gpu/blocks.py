"""One geometry and one length measured as a whole: dense first, then what reads less."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.decode_gpu import data, dense, ours, timing
from experiments.decode_gpu import torch_dense as torch_
from experiments.decode_gpu.data import Geometry
from experiments.decode_gpu.timing import CannotRunError, Measured, Step
from experiments.shared import decode_data
from vashista_theory.attention import PagedKV, Policy

_ROOM = 1.12  # of what a phase holds: intermediate results, and a torch library beside JAX

PROVED = "certified, proof at this length"
FRONTS = ("budget", "published means", "certified", PROVED)


@dataclass(frozen=True)
class Plan:
    """How a block is measured.

    Attributes:
        queries: Distinct queries.
        seconds: For each step.
        longest: Steps of a loop at most.
        pages: That the budget and the published policy read.
        tolerance: Dropped mass of the certified policy.
        worst_to: Longest context of the worst case.
        memory: Bytes there are, None if unknown.
        bandwidth: Measured bytes a second of a copy.
        evict_below: Steps that read fewer bytes are also timed with the chip's caches evicted.
        scratch: Bytes read to evict the caches.
        implementations: Of the stages; None takes the best, others stand beside it.
        fronts: Policies that are timed through the public front.
        say: Told what is being measured.
    """

    queries: int
    seconds: float
    longest: int
    pages: int
    tolerance: float
    worst_to: int
    seed: int
    memory: int | None
    bandwidth: float
    evict_below: float
    scratch: int
    implementations: tuple[str | None, ...]
    fronts: tuple[str, ...]
    platform: str
    say: Callable[[str], None]


class Block:
    """Rows of one geometry, as they come."""

    def __init__(self, shape: Geometry, plan: Plan) -> None:
        self.shape, self.plan = shape, plan
        self.rows: list[dict[str, Any]] = []
        self.stages: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []
        self._scratch = jnp.arange(max(4, plan.scratch // 4), dtype=jnp.uint32)
        self._where = {
            "batch": shape.batch,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "tokens": shape.tokens,
        }

    def skip(self, step: str, reason: str) -> None:
        """Note what is not measured, and why."""
        self.plan.say(f"    {step}: not measured, {reason}")
        self.left_out.append({**self._where, "step": step, "reason": reason})

    def time(
        self,
        label: dict[str, Any],
        make: Callable[[], Step],
        inputs: Any,
        bytes_read: float | None,
        *,
        stage: bool = False,
    ) -> None:
        """Time a step, or note why it cannot run.

        Args:
            label: Of the row.
            make: Builds the step; may say why not.
            inputs: Distinct queries.
            bytes_read: None if the step reports its own.
            stage: Whether the row is one of a stage.
        """
        plan = self.plan
        try:
            step = make()
            found = timing.measure(step, inputs, seconds=plan.seconds, longest=plan.longest)
            read = found.extras.get("bytes", 0.0) if bytes_read is None else bytes_read
            cold = None
            if read < plan.evict_below:
                cold = timing.cold_us(
                    step, inputs, self._scratch, seconds=plan.seconds / 2, longest=plan.longest
                )
        except CannotRunError as error:
            self.skip(" | ".join(str(part) for part in label.values() if part), str(error))
            return
        self.add(label, found, read, cold, stage=stage)

    def add(
        self,
        label: dict[str, Any],
        found: Measured,
        read: float,
        cold: float | None,
        *,
        stage: bool = False,
    ) -> None:
        """A measured row, with its floor."""
        counted = found.us if cold is None else max(cold, 1e-3)
        floor = 1e6 * read / self.plan.bandwidth
        extras = {k: v for k, v in found.extras.items() if k in ("share_read", "certified")}
        row = {
            **self._where,
            **label,
            "counted_us": counted,
            "cold_us": cold,
            **found.row(),
            "gigabytes": read / 1e9,
            "gb_per_s": read / counted / 1e3,
            "share_of_copy": floor / counted,
            "floor_us": floor,
            "over_floor": counted / floor if floor else None,
            **extras,
        }
        (self.stages if stage else self.rows).append(row)
        self.plan.say(f"    {' | '.join(str(v) for v in label.values() if v)}: {counted:.1f} us")

    def as_dict(self) -> dict[str, Any]:
        """What is stored; times are set against the fastest dense step of this block."""
        dense_rows = [row for row in self.rows if row["step"] == "dense"]
        best = min((row["counted_us"] for row in dense_rows), default=None)
        for row in self.rows:
            row["times_dense"] = None if best is None else best / row["counted_us"]
        return {"decode": self.rows, "stages": self.stages, "not measured": self.left_out}


def run(shape: Geometry, plan: Plan) -> dict[str, Any]:
    """Measure a block."""
    block = Block(shape, plan)
    if _fits(block, shape.dense_bytes, "dense"):
        _token_major(block)
        gc.collect()
    if _fits(block, shape.dense_bytes, "everything on the paged pools"):
        _paged(block, "real heads")
        gc.collect()
        if shape.tokens <= plan.worst_to:
            _paged(block, "normal")
            gc.collect()
    return block.as_dict()


def _fits(block: Block, size: float, what: str) -> bool:
    memory = block.plan.memory
    if memory is None or _ROOM * size <= memory:
        return True
    block.skip(what, f"takes {size / 1e9:.1f} GB, of {memory / 1e9:.1f} GB that may be used")
    return False


def _token_major(block: Block) -> None:
    """Libraries that want tokens first get a cache of the same size of their own."""
    shape, plan = block.shape, block.plan
    keys, values = data.token_major(shape, plan.seed)
    queries = data.normal_queries(shape, plan.queries, plan.seed + 1)
    ways = [("cudnn", False), ("cudnn", True)] + [("xla", True)] * (plan.platform == "cpu")
    for way, grouped in ways:
        if grouped and shape.group == 1:
            continue
        how = f"jax.nn.dot_product_attention {way}{', group as queries' if grouped else ''}"
        block.time(
            {"keys": "normal", "step": "dense", "how": how},
            lambda way=way, grouped=grouped: dense.library(
                shape, keys, values, implementation=way, group_as_queries=grouped
            ),
            queries,
            shape.dense_bytes,
        )
    for how, measure in (("torch flash", torch_.sdpa), ("FlashInfer", torch_.flashinfer)):
        try:
            found = measure(shape, keys, values, queries, seconds=plan.seconds)
        except CannotRunError as error:
            block.skip(f"normal | dense | {how}", str(error))
            continue
        label = {"keys": "normal", "step": "dense", "how": how}
        block.add(label, found, shape.dense_bytes, None)


def _paged(block: Block, kind: str) -> None:
    shape, plan = block.shape, block.plan
    if kind == "normal":
        pools = data.normal_pools(shape, plan.seed)
        queries = data.normal_queries(shape, plan.queries, plan.seed + 1)
    else:
        held = data.source(shape.head_size, data.queries_needed(shape, plan.queries), plan.seed)
        nats = decode_data.thinning(held, shape.tokens, tolerance=plan.tolerance)
        pools = data.real_pools(shape, held, nats, plan.seed)
        queries = data.real_queries(shape, held, plan.queries)
    if kind != "normal":
        _baselines(block, kind, pools, queries)
        gc.collect()
    if not _fits(block, shape.dense_bytes + shape.summary_bytes, f"{kind} | ours"):
        return
    cache = data.cache_of(shape, *pools)
    policies = {
        "budget": Policy.budget(plan.pages, summary="box"),
        "published means": Policy.published(plan.pages),
        "certified": Policy.certified(plan.tolerance),
        PROVED: Policy.certified(plan.tolerance, dense_below=0),
    }
    for name, policy in policies.items():
        # What proves nothing costs the same on any keys; and beyond the length up to which
        # certified reads everything, it proves by itself.
        fixed = kind == "normal" and policy.tolerance is None
        same = name == PROVED and shape.tokens > policies["certified"].dense_below
        if fixed or same or name not in plan.fronts:
            continue
        label = {"keys": kind, "step": name, "how": "vashista_attention"}
        block.time(label, lambda policy=policy: ours.front(cache, policy), queries, None)
    _by_stages(block, kind, cache, queries)


def _baselines(block: Block, kind: str, pools: tuple[jax.Array, ...], queries: jax.Array) -> None:
    shape, plan = block.shape, block.plan
    makers: dict[str, Callable[[], Step]] = {
        "head-major einsum": lambda: dense.head_major(shape, *pools),
        "JAX's paged kernel": lambda: dense.shipped_paged(shape, *pools),
    }
    for how, make in makers.items():
        label = {"keys": kind, "step": "dense", "how": how}
        block.time(label, make, queries, shape.dense_bytes)
    block.time(
        {"keys": kind, "step": "published algorithm", "how": "re-implemented in JAX"},
        lambda: dense.published(shape, *pools, pages=plan.pages),
        queries,
        dense.published_bytes(shape, plan.pages),
    )


def _by_stages(block: Block, kind: str, cache: PagedKV, queries: jax.Array) -> None:
    shape, plan = block.shape, block.plan
    held = ours.fold(cache)
    policy = Policy.budget(plan.pages, summary="box")
    # As the policy opens them: those it asks for, and those of the first and the last page.
    opened = (policy.superpages or 0) + 2
    listed = _room(block, held, queries)
    for implementation in plan.implementations:
        named = ours.who_runs(shape, listed=plan.pages, platform=plan.platform)
        if implementation is not None:
            named = dict.fromkeys(named, implementation)
        how = "stages: " + ", ".join(f"{stage} {name}" for stage, name in named.items())
        block.time(
            {"keys": kind, "step": "certified", "how": how},
            lambda i=implementation: ours.certified(
                shape, held, listed=listed, tolerance=plan.tolerance, implementation=i
            ),
            queries,
            None,
        )
        if kind != "normal":
            block.time(
                {"keys": kind, "step": "budget", "how": how},
                lambda i=implementation: ours.budget(
                    shape, held, pages=plan.pages, superpages=opened, implementation=i
                ),
                queries,
                ours.budget_bytes(shape, plan.pages, opened),
            )
            _stages_alone(block, held, queries, opened, implementation, named)


def _room(block: Block, held: ours.Folded, queries: jax.Array) -> int:
    """Room in the certified page lists: a quarter more than any row of some queries needs."""
    shape, plan = block.shape, block.plan

    @jax.jit
    def needed(query: jax.Array, held: ours.Folded) -> jax.Array:
        priority, _ = ours.wanted_pages(shape, query, held, plan.tolerance, None)
        return jnp.max(jnp.sum(priority > -jnp.inf, axis=-1))

    try:
        some = max(int(needed(query, held)) for query in queries[: min(8, plan.queries)])
    except Exception as error:  # noqa: BLE001 - out of memory has no class of its own
        block.skip("pages a proof needs", timing.reason_of(error))
        return min(shape.pages, 8 * plan.pages)
    return min(shape.pages, -(-int(1.25 * some) // 64) * 64)


def _stages_alone(
    block: Block,
    held: ours.Folded,
    queries: jax.Array,
    opened: int,
    implementation: str | None,
    named: dict[str, str],
) -> None:
    shape, plan = block.shape, block.plan
    some = queries[: min(32, plan.queries)]
    tops = shape.pages // ours.SPAN
    boxes = ours.Step(
        lambda q, h: (ours.choose(shape, q, h, plan.pages, opened, implementation), {}), held
    )
    sketches = ours.Step(lambda q, h: (ours.sketch_scores(shape, q, h, implementation), {}), held)
    size = (min(8, plan.queries), shape.batch, shape.kv_heads, shape.pages)
    priorities = jax.random.normal(jax.random.key(3), size).astype(jnp.float32)
    wanted = min(plan.pages, shape.pages)
    select = ours.Step(
        lambda p, _: (ours.api.select_pages(p, wanted, implementation=implementation), {}), ()
    )
    attend = ours.Step(
        lambda given, h: (
            ours.api.attend_pages(
                given[0], h.keys, h.values, *given[1], implementation=implementation
            ),
            {},
        ),
        held,
    )
    chosen = jax.jit(lambda q, h: ours.choose(shape, q, h, plan.pages, opened, implementation))
    lists = [chosen(query, held) for query in some]
    lists = tuple(jnp.stack(part) for part in zip(*lists, strict=True))
    read_boxes = ours.score_bytes(shape, "box", tops + min(opened, tops) * ours.SPAN)
    stages: list[tuple[str, str, Step, Any, float]] = [
        ("score and select, boxes on two levels", "score box", boxes, some, read_boxes),
        (
            "score, sketch of every key",
            "score sketch",
            sketches,
            some,
            ours.score_bytes(shape, "sketch"),
        ),
        ("select", "select", select, priorities, float(4 * np.prod(size[1:]))),
        ("attend", "attend", attend, (some, lists), ours.attend_bytes(shape, wanted)),
    ]
    for what, stage, step, inputs, read in stages:
        label = {"stage": what, "implementation": named[stage]}
        block.time(label, lambda step=step: step, inputs, read, stage=True)
