"""The stages of a sparse decode step, by the best back end there is.

Arrays in, arrays out: nothing here knows of policies, certificates or caches. Score the pages of a
context by their summaries, select the best, attend to them. Of single tokens: `token_api`.
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array

from vashista_theory._types import ArrayLike
from vashista_theory._version import install
from vashista_theory.attention.bounds.summaries import Summaries
from vashista_theory.attention.kernels import spec
from vashista_theory.attention.kernels.spec import (
    Attended,
    Implementation,
    PageScores,
    Selected,
    Stage,
    StageKernel,
    SummaryParts,
)

_NAMES = "mosaic_gpu", "mosaic_tpu", "numba", "xla"
_MODULES = dict(zip(_NAMES, ("gpu.stages", "tpu.stages", "cpu.stages", "portable"), strict=True))
IMPLEMENTATIONS = tuple(_MODULES)
"""By name; the first that can is taken. Each has a module here with an `IMPLEMENTATION`."""
STEP_IMPLEMENTATIONS = ("jax", *IMPLEMENTATIONS)
"""What a decode step can be told to use: plain JAX without these stages, or one of them."""

_EXTRAS = {"mosaic_gpu": "cuda", "mosaic_tpu": "tpu", "numba": "cpu"}
_ACCELERATORS = ("cuda", "rocm", "tpu")

_Result = TypeVar("_Result")


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
    return run_stage("attend", call, implementation, config)


def score_pages(
    query: ArrayLike,
    summaries: Summaries | SummaryParts,
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
    return run_stage("score", call, implementation, config)


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
    return run_stage("select", spec.select_call(priority, count), implementation, None)


class Capability(NamedTuple):
    """Whether a back end can do a call, and if not, why."""

    implementation: str
    stage: Stage
    shape: spec.Shape
    why_not: str | None


def load(implementation: str) -> Implementation:
    """The implementation of that name.

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
        module = importlib.import_module(f"{__package__}.{_MODULES[implementation]}")
    except ImportError as error:
        named = _EXTRAS.get(implementation)
        extra = "" if named is None else f": {install(named)}"
        raise NotImplementedError(
            f"{implementation!r} cannot be loaded: {error}. Install what it misses"
            f"{extra}, or use implementation=None."
        ) from error
    return module.IMPLEMENTATION


def capabilities(shapes: Mapping[Stage, Sequence[spec.Shape]]) -> Iterator[Capability]:
    """What each one says to each shape. Nothing is computed; one that is missing says so."""
    for name in IMPLEMENTATIONS:
        try:
            loaded, missing = load(name), None
        except NotImplementedError as error:
            loaded, missing = None, str(error)
        for stage, asked in shapes.items():
            for shape in asked:
                reason = missing if loaded is None else _why_not(loaded, stage, shape)
                yield Capability(name, stage, shape, reason)


def _why_not(loaded: Implementation, stage: Stage, shape: spec.Shape) -> str | None:
    if stage not in loaded.stages:
        return f"it has no {stage} stage"
    return loaded.stages[stage].why_not(shape)


class Choice(NamedTuple):
    """Whose kernels a computation takes.

    Attributes:
        names: Implementations, the first that can is taken; none for plain JAX.
        platform: Where they run, by XLA's name; elsewhere there are no kernels. None if the
            implementation was named: then it has to do every stage there is a kernel for.
    """

    names: tuple[str, ...] = ()
    platform: str | None = None

    def kernel(self, stage: Stage, shape: spec.Shape) -> StageKernel | None:
        """What does such a call, None for plain JAX.

        Raises:
            NotImplementedError: if an implementation was named and cannot.
        """
        if self.names and self.platform is None:
            return kernel_of(stage, shape, self.names[0])
        kernel = self.kernel_if_any(stage, shape)
        if kernel is None:
            self.tell_why_not(stage, shape)
        return kernel

    def kernel_if_any(self, stage: Stage, shape: spec.Shape) -> StageKernel | None:
        """The first that can do such a call, None if none can."""
        return next(kernels_that_can(stage, shape, self.names), None)

    def tell_why_not(self, stage: Stage, shape: spec.Shape) -> None:
        """Warn once, if there is a device, that its kernels cannot attend to such a call.

        Scoring and selecting may do without: reading is most of a step.
        """
        if stage in ("attend", "attend_tokens") and self.platform is not None:
            reasons = [f"{name!r}: {_why_not(load(name), stage, shape)}" for name in self.names]
            _tell(self.platform, f"{'; '.join(reasons)}.")

    def run(self, compute: "Callable[[Choice], Callable[..., _Result]]", *arrays: Any) -> _Result:
        """Apply `compute(self)` to arrays, and `compute(PLAIN)` to those of another platform."""
        if self.platform is None:
            return compute(self)(*arrays)
        # Arrays may lie on another platform than the default one (a TPU machine has a CPU too).
        ways = {self.platform: compute(self), "default": compute(PLAIN)}
        return jax.lax.platform_dependent(*arrays, **ways)


PLAIN = Choice()


def best_here() -> Choice:
    """The kernels made for the default platform."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    names = device_implementations(platform)
    return Choice(names, platform) if names else PLAIN


def choose(implementation: str | None, work: DTypeLike, query: Array, keys: Array) -> Choice:
    """The kernels that a decode step takes.

    Args:
        implementation: One of `STEP_IMPLEMENTATIONS`, or None for the best there is.
        work: Type that scores are computed in.
        query: What is asked.
        keys: What is read; where that is, is known unless something is traced.

    Raises:
        NotImplementedError: if the implementation was named and cannot run.
    """
    single = jnp.dtype(work) == jnp.float32
    if implementation is None:
        return best_here() if single else PLAIN
    if implementation == "jax":
        return PLAIN
    remedy, platforms = "Use implementation=None, or 'jax'.", load(implementation).platforms
    if not single:
        raise NotImplementedError(
            f"{implementation!r} computes in float32, and this query and cache take {work}. "
            f"{remedy}"
        )
    traced = isinstance(query, Tracer) or isinstance(keys, Tracer)
    platform = None if traced else _platform_of(keys)
    if platform is not None and platform not in platforms:
        raise NotImplementedError(
            f"{implementation!r} runs on {' or '.join(platforms)}, and this cache is on "
            f"{platform}. {remedy}"
        )
    return Choice((implementation,))


def _platform_of(array: Array) -> str:
    platform: str = next(iter(array.devices())).platform
    return "cuda" if platform == "gpu" else platform


def device_implementations(platform: str) -> tuple[str, ...]:
    """Those with kernels of their own for a platform, in the order in which they are asked.

    Where there is such a device and none can be loaded, one warning says why.
    """
    able: list[str] = []
    missing: list[str] = []
    for name in IMPLEMENTATIONS:
        try:
            if name != "xla" and platform in load(name).platforms:
                able.append(name)
        except NotImplementedError as error:
            missing.append(str(error))
    if not able:
        _tell(platform, " ".join(missing) or "there is none for it.")
    return tuple(able)


@functools.cache
def _tell(platform: str, reason: str) -> None:
    if platform in _ACCELERATORS:
        warnings.warn(
            f"There is a {platform} device, but none of its kernels can be used, so attention runs "
            f"in plain JAX: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


def kernels_that_can(
    stage: Stage, shape: spec.Shape, implementations: Sequence[str]
) -> Iterator[StageKernel]:
    """The kernels of some implementations that can do such a call, in their order.

    One is run by ``kernel.run(call, None)``.
    """
    for name in implementations:
        loaded = _load_if_any(name)
        if loaded is not None and _why_not(loaded, stage, shape) is None:
            yield loaded.stages[stage]


def kernel_of(stage: Stage, shape: spec.Shape, implementation: str) -> StageKernel:
    """The kernel of one implementation.

    Raises:
        NotImplementedError: if it cannot do such a call.
    """
    loaded = load(implementation)
    if (reason := _why_not(loaded, stage, shape)) is not None:
        raise NotImplementedError(
            f"{implementation!r} cannot {stage} this: {reason}. Use another implementation, or "
            "None for the best that can."
        )
    return loaded.stages[stage]


def _load_if_any(name: str) -> Implementation | None:
    try:
        return load(name)
    except NotImplementedError:
        return None


def run_stage(stage: Stage, call: Any, implementation: str | None, config: Any) -> Any:
    """Do one call of a stage, by the implementation that was named or the first that can."""
    if implementation is not None:
        return _run_named(stage, call, implementation, config)
    if config is not None:
        raise ValueError(
            f"config is {config!r}, but no implementation is named, and tiles fit only their own. "
            f"Pass implementation=, one of {IMPLEMENTATIONS}."
        )
    shape = call.shape

    def compute(choice: Choice) -> Callable[..., Any]:
        def first_that_runs(*arrays: Any) -> Any:
            asked = type(call)(shape, *arrays)
            for kernel in kernels_that_can(stage, shape, choice.names):
                try:
                    return kernel.run(asked, None)
                except NotImplementedError:
                    continue
            choice.tell_why_not(stage, shape)
            return load("xla").stages[stage].run(asked, None)

        return first_that_runs

    return best_here().run(compute, *call[1:])


def _run_named(stage: Stage, call: Any, implementation: str, config: Any) -> Any:
    kernel = kernel_of(stage, call.shape, implementation)
    tiles = kernel.config_type
    if config is not None and not (tiles and isinstance(config, tiles)):
        expected = tiles.__name__ if tiles else "None: it has no tiles"
        raise ValueError(
            f"config is {config!r}; to {stage} by {implementation!r} takes {expected}."
        )
    return kernel.run(call, config)
