"""The three stages of a sparse decode step, by the best back end there is.

Arrays in, arrays out: nothing here knows of policies, certificates or caches. Score the pages of a
context by their summaries, select the best, attend to them.
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from vashista_theory._types import ArrayLike
from vashista_theory.attention.kernels import spec
from vashista_theory.attention.kernels.spec import (
    Attended,
    Backend,
    Held,
    PageScores,
    Selected,
    Stage,
    StageOfBackend,
)
from vashista_theory.attention.summaries import Summaries

IMPLEMENTATIONS = ("mosaic_gpu", "mosaic_tpu", "xla")
"""Back ends, the first that can is taken; each is a module of this package with a `BACKEND`."""

_MODULES = __name__.rpartition(".")[0]
_EXTRAS = {"mosaic_gpu": "cuda", "mosaic_tpu": "tpu"}
_ACCELERATORS = ("cuda", "rocm", "tpu")


def attend_pages(
    query: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    pages: ArrayLike,
    tokens: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    implementation: str | None = None,
    config: Any = None,
) -> Attended:
    """Softmax attention of one query a head over listed pages.

    Args:
        query: (B, H, D); query heads share kv heads in equal consecutive groups.
        keys: (Hkv, N, S, D), a pool of N pages of S keys; bfloat16, float16 or float32, accumulated
            in float32.
        values: A pool of the same shape and type.
        pages: (B, Hkv, K) int32, physical pages that each kv head reads, in the order of their
            tokens; only the last one in use may be partial. Entries behind it may hold anything. An
            entry in use must lie in the pool: that depends on numbers, so it is not checked here.
        tokens: (B, Hkv) int32, valid tokens in the listed pages put together, at most K S; 0 reads
            nothing.
        scale: Positive factor on the scores, D^(−1/2) by default.
        implementation: One of `IMPLEMENTATIONS`, or None for the best there is on this device.
        config: Tiles for that implementation; None chooses them by the shape.

    Returns:
        The output, zero where nothing was read, and the log of the softmax mass, in nats.

    Raises:
        ValueError: for arguments that no back end can take.
        NotImplementedError: if `implementation` cannot do this; None never raises it.
    """
    call = spec.attend_call(query, keys, values, pages, tokens, scale)
    return _run("attend", call, implementation, config)


def score_pages(
    query: ArrayLike,
    summaries: Summaries | Held,
    page_table: ArrayLike,
    lengths: ArrayLike,
    *,
    kind: str,
    page_size: int,
    bits: int | None = None,
    packed: bool = True,
    scale: ArrayLike | None = None,
    implementation: str | None = None,
    config: Any = None,
) -> PageScores:
    """Log-mass of every full page of each sequence, from above and as estimated.

    Args:
        query: (B, H, D), one query a head.
        summaries: Of all pages of the pool, (Hkv, N, ...), as a cache keeps them.
        page_table: (B, P) int32, physical pages of each sequence, in order.
        lengths: (B,) int32, tokens of each sequence.
        kind: What pages are judged by: "box", "ball" or "sketch".
        page_size: Tokens of a page. A box or ball of 16 pages is judged by 16 times as many.
        bits: Bits a dimension of the sketch.
        packed: Whether codes of the sketch below 8 bits share bytes.
        scale: Positive factor on the scores, D^(−1/2) by default.
        implementation: One of `IMPLEMENTATIONS`, or None for the best there is on this device.
        config: Tiles for that implementation; None chooses them by the shape.

    Returns:
        Both in nats, −inf for a page that is not full. The upper bound holds in exact arithmetic:
        it carries the rounding of its own evaluation.

    Raises:
        ValueError: for arguments that no back end can take.
        NotImplementedError: if `implementation` cannot do this; None never raises it.
    """
    call = spec.score_call(
        query,
        summaries,
        page_table,
        lengths,
        kind=kind,
        page_size=page_size,
        bits=bits,
        packed=packed,
        scale=scale,
    )
    return _run("score", call, implementation, config)


def select_pages(priority: ArrayLike, count: int, *, implementation: str | None = None) -> Selected:
    """The best entries of each row, without a sort where a sort is slow.

    Args:
        priority: (B, Hkv, P) float32, what to choose by. −inf and NaN are never chosen,
            +inf always first.
        count: How many, at most P. Of equal entries those with the lower index are taken.
        implementation: One of `IMPLEMENTATIONS`, or None for the best there is on this device.

    Returns:
        Indices in ascending order, and how many there are.

    Raises:
        ValueError: for arguments that no back end can take.
        NotImplementedError: if `implementation` cannot do this; None never raises it.
    """
    return _run("select", spec.select_call(priority, count), implementation, None)


class Capability(NamedTuple):
    """Whether a back end can do a call, and if not, why."""

    implementation: str
    stage: Stage
    shape: spec.Shape
    why_not: str | None


def backend(implementation: str) -> Backend:
    """The back end of that name.

    Raises:
        ValueError: if there is none.
        NotImplementedError: if it needs a library that is not installed.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}; expected one of {IMPLEMENTATIONS}, or None for "
            "the best there is."
        )
    try:
        module = importlib.import_module(f"{_MODULES}.{implementation}")
    except ImportError as error:
        named = _EXTRAS.get(implementation)
        extra = "" if named is None else f' (pip install "vashista-theory[{named}]")'
        raise NotImplementedError(
            f"{implementation!r} cannot be loaded: {error}. Install what it misses"
            f"{extra}, or use implementation=None."
        ) from error
    return module.BACKEND


def capabilities(shapes: Mapping[Stage, Sequence[spec.Shape]]) -> Iterator[Capability]:
    """What each back end says to each shape. Nothing is computed; one that is missing says so."""
    for name in IMPLEMENTATIONS:
        try:
            found, missing = backend(name), None
        except NotImplementedError as error:
            found, missing = None, str(error)
        for stage, asked in shapes.items():
            for shape in asked:
                reason = missing if found is None else _why_not(found, stage, shape)
                yield Capability(name, stage, shape, reason)


def _why_not(found: Backend, stage: Stage, shape: spec.Shape) -> str | None:
    if stage not in found.stages:
        return f"it has no {stage} stage"
    return found.stages[stage].why_not(shape)


def _run(stage: Stage, call: Any, implementation: str | None, config: Any) -> Any:
    if implementation is not None:
        return _forced(stage, call, implementation, config)
    if config is not None:
        raise ValueError(
            f"config is {config!r}, but no implementation is named, and tiles fit only their own. "
            f"Pass implementation=, one of {IMPLEMENTATIONS}."
        )
    platform = platform_here()
    ways = device_backends(platform)
    portable = _runner(backend("xla").stages[stage])
    if not ways:
        return portable(call)

    def best(call: Any) -> Any:
        for name in ways:
            try:
                return _forced(stage, call, name, None)
            except NotImplementedError:
                continue
        tell_why_not(stage, call.shape, platform, ways)
        return portable(call)

    # An array may live on another platform than the default one (a TPU machine has a CPU too).
    shape, arrays = call.shape, call[1:]
    return jax.lax.platform_dependent(
        *arrays,
        **{platform: lambda *arrays: best(type(call)(shape, *arrays))},
        default=lambda *arrays: portable(type(call)(shape, *arrays)),
    )


def platform_here() -> str:
    """XLA's name of the default platform."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def device_backends(platform: str) -> tuple[str, ...]:
    """Back ends with kernels of their own for a platform, in the order in which they are asked.

    Where there is such a device and none can be loaded, one warning says why.
    """
    found: list[str] = []
    missing: list[str] = []
    for name in IMPLEMENTATIONS:
        try:
            if name != "xla" and platform in backend(name).platforms:
                found.append(name)
        except NotImplementedError as error:
            missing.append(str(error))
    if not found:
        _tell(platform, " ".join(missing) or "no back end has any for it.")
    return tuple(found)


def tell_why_not(
    stage: Stage, shape: spec.Shape, platform: str, implementations: Sequence[str]
) -> None:
    """Warn once, if there is a device, that its kernels cannot attend to such a call.

    Scoring and selecting may do without: reading is most of a step.
    """
    if stage == "attend":
        reasons = [f"{name!r}: {_why_not(backend(name), stage, shape)}" for name in implementations]
        _tell(platform, f"{'; '.join(reasons)}.")


@functools.cache
def _tell(platform: str, reason: str) -> None:
    if platform in _ACCELERATORS:
        warnings.warn(
            f"There is a {platform} device, but none of its kernels can be used, so attention runs "
            f"in plain JAX: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


def stage_that_can(
    stage: Stage, shape: spec.Shape, implementations: Sequence[str]
) -> StageOfBackend | None:
    """The stage of the first of some back ends that can do such a call, None if none of them can.

    It is run by ``stage.run(call, None)``.
    """
    for name in implementations:
        found = _loaded(name)
        if found is not None and _why_not(found, stage, shape) is None:
            return found.stages[stage]
    return None


def stage_of(stage: Stage, shape: spec.Shape, implementation: str) -> StageOfBackend:
    """The stage of a back end.

    Raises:
        NotImplementedError: if it cannot do such a call.
    """
    found = backend(implementation)
    if (reason := _why_not(found, stage, shape)) is not None:
        raise NotImplementedError(
            f"{implementation!r} cannot {stage} this: {reason}. Use another implementation, or "
            "None for the best that can."
        )
    return found.stages[stage]


def _loaded(name: str) -> Backend | None:
    try:
        return backend(name)
    except NotImplementedError:
        return None


def _runner(way: StageOfBackend, config: Any = None) -> Callable[[Any], Any]:
    return lambda call: way.run(call, config)


def _forced(stage: Stage, call: Any, implementation: str, config: Any) -> Any:
    way = stage_of(stage, call.shape, implementation)
    if config is not None and not (way.config_type and isinstance(config, way.config_type)):
        expected = way.config_type.__name__ if way.config_type else "None: it has no tiles"
        raise ValueError(
            f"config is {config!r}; to {stage} by {implementation!r} takes {expected}."
        )
    return way.run(call, config)
