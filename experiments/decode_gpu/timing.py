"""Decode steps timed so that neither launches nor caches of the chip decide.

A step runs in one launch over many queries, each its own: `lax.scan` inside one jit. What would not
change from step to step must not be taken out of the loop (XLA would gather a page table once for
all of them), so the cache passes an optimisation barrier with the query. Beside it each query is
sent alone from the host, for the percentiles; those times hold what a launch costs.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Call = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


class CannotRunError(Exception):
    """Why something cannot run here, in words for the table."""


class Step(NamedTuple):
    """One decode step.

    Attributes:
        call: Takes what changes with the query and the operands; returns the output, and numbers
            to be averaged over the queries.
        operands: What stays: pools, summaries, page tables.
    """

    call: Call
    operands: Any


@dataclass(frozen=True)
class Measured:
    """Times in microseconds.

    Attributes:
        us: Median over `repeats` loops of the time of one step in a loop.
        low_us: Fastest loop.
        high_us: Slowest loop.
        steps: Steps of one loop, each with a query of its own.
        p50_us: Percentiles of single steps sent from the host, one query each, launch included.
        queries: How many of those.
        extras: Means over the queries of what the step reported.
    """

    us: float
    low_us: float
    high_us: float
    steps: int
    repeats: int
    p50_us: float
    p90_us: float
    p99_us: float
    queries: int
    extras: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As cells of a table, the reported numbers left out."""
        names = ("us", "low_us", "high_us", "steps", "p50_us", "p90_us", "p99_us", "queries")
        return {name: getattr(self, name) for name in names}


def measure(
    step: Step, inputs: Any, *, seconds: float, repeats: int = 5, longest: int = 200
) -> Measured:
    """Time a step over distinct queries.

    Args:
        step: What to time.
        inputs: A pytree of arrays, one entry of the first axis a query.
        seconds: For the loops, and again for the single steps; a slow step takes fewer of both.
        repeats: Loops.
        longest: Steps of a loop at most.

    Raises:
        CannotRunError: It cannot be compiled or does not fit the memory.
    """
    given = _unstacked(inputs)
    try:
        return _measure(step, inputs, given, seconds, repeats, longest)
    except CannotRunError:
        raise
    except Exception as error:
        raise CannotRunError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The first line of an error, short enough for a table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _measure(
    step: Step, inputs: Any, given: list[Any], seconds: float, repeats: int, longest: int
) -> Measured:
    single = jax.jit(step.call)
    jax.block_until_ready(single(given[0], step.operands))
    one = _seconds(single, given[1 % len(given)], step.operands)
    steps = int(np.clip(seconds / (repeats + 1) / one, 2, longest))
    loops, extras = [], []
    for repeat in range(-1, repeats):
        places = (np.arange(steps) + (repeat + 1) * steps) % len(given)
        some = jax.tree.map(lambda a, places=places: a[places], inputs)
        start = time.perf_counter()
        _, found = jax.block_until_ready(_loop(step.call, some, step.operands))
        if repeat >= 0:  # the first one compiles
            loops.append(time.perf_counter() - start)
            extras.append({name: float(jnp.mean(a)) for name, a in found.items()})
    count = int(np.clip(seconds / one, 2, len(given)))
    alone = [_seconds(single, query, step.operands) for query in given[:count]]
    in_loop = 1e6 * np.array(loops) / steps
    p50, p90, p99 = (1e6 * float(np.percentile(alone, p)) for p in (50, 90, 99))
    return Measured(
        us=float(np.median(in_loop)),
        low_us=float(in_loop.min()),
        high_us=float(in_loop.max()),
        steps=steps,
        repeats=repeats,
        p50_us=p50,
        p90_us=p90,
        p99_us=p99,
        queries=count,
        extras={name: float(np.mean([e[name] for e in extras])) for name in extras[0]},
    )


def _unstacked(inputs: Any) -> list[Any]:
    leaves, tree = jax.tree.flatten(inputs)
    rows = [list(leaf) for leaf in leaves]  # slicing on the device, before any clock runs
    return [jax.tree.unflatten(tree, row) for row in zip(*rows, strict=True)]


def _seconds(call: Callable[..., Any], query: Any, operands: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(query, operands))
    return time.perf_counter() - start


@functools.partial(jax.jit, static_argnums=0)
def _loop(call: Call, inputs: Any, operands: Any) -> tuple[Any, dict[str, jax.Array]]:
    first = jax.tree.map(lambda a: a[0], inputs)
    kept = jax.eval_shape(lambda i, o: call(i, o)[0], first, operands)
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), kept)

    def body(_: Any, given: Any) -> tuple[Any, dict[str, jax.Array]]:
        return call(*jax.lax.optimization_barrier((given, operands)))

    return jax.lax.scan(body, start, inputs)


def empty_loop_us(inputs: Any, *, seconds: float) -> float:
    """What a step of a loop costs that only looks at its query, microseconds."""
    step = Step(lambda given, _: (jax.tree.map(lambda a: a + a.dtype.type(1), given), {}), ())
    return measure(step, inputs, seconds=seconds, repeats=3).us


def cold_us(step: Step, inputs: Any, scratch: jax.Array, *, seconds: float, longest: int) -> float:
    """Time of a step in a loop that evicts the chip's caches after each, microseconds.

    In a model other layers do that. What reading `scratch` takes is measured alone and subtracted.

    Args:
        step: What to time.
        inputs: As in `measure`.
        scratch: A buffer several times as large as the last cache.
        seconds: For each of the two loops.
        longest: Steps of a loop at most.
    """

    def evict(_: Any, held: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.sum(held, dtype=jnp.uint32), {}

    def both(given: Any, held: Any) -> tuple[Any, dict[str, jax.Array]]:
        output, extras = step.call(given, held[0])
        return (output, evict(given, held[1])[0]), extras

    whole = measure(Step(both, (step.operands, scratch)), inputs, seconds=seconds, longest=longest)
    alone = measure(Step(evict, scratch), inputs, seconds=seconds, longest=longest)
    return max(0.0, whole.us - alone.us)
