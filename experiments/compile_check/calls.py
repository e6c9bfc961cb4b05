"""Calls of every kernel at every arg_spec, as shapes alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.kernels import api, spec, token_spec
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS, ArgSpec


@dataclass(frozen=True)
class Kernel:
    """One stage of one back end at one shape.

    Attributes:
        labels: Back end, stage, name of the arg_spec, and its tiles.
        why_not: Why it refuses, or None.
    """

    labels: dict[str, Any]
    way: spec.StageKernel
    shape: spec.Shape
    why_not: str | None

    @property
    def argument_bytes(self) -> int:
        """What the arguments take."""
        leaves = jax.tree.leaves(_abstract(self.shape)[1:])
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def kernels(platform: str, names: list[str]) -> Iterator[Kernel]:
    """Every kernel that runs on the platform.

    XLA's own path is no kernel, and Numba compiles for the machine that it runs on.
    """
    for implementation in api.IMPLEMENTATIONS:
        if implementation in ("xla", "numba"):
            continue
        found = api.load(implementation)
        if platform not in found.platforms:
            continue
        for stage, way in found.stages.items():
            for one in (one for one in ARG_SPECS if one.name in names):
                shape = shape_of(one, stage)
                labels = {"kernel": f"{implementation} {stage}", "shape": one.name}
                yield Kernel(labels, way, shape, way.why_not(shape))


def shape_of(one: ArgSpec, stage: spec.Stage) -> spec.Shape:
    """The static part of an arg_spec's call."""
    return getattr(one, stage)()


def lower_call(kernel: Kernel, platform: str, sharding: Any = None) -> Any:
    """Lower a kernel for a platform, inside the target's context."""
    call = _abstract(kernel.shape)

    def run(*arrays: Any) -> Any:
        return kernel.way.run(type(call)(kernel.shape, *arrays), None)

    options = {} if sharding is None else {"in_shardings": sharding, "out_shardings": sharding}
    traced = jax.jit(run, **options).trace(*call[1:])
    return traced.lower(lowering_platforms=(platform,))


def compile_call(kernel: Kernel, platform: str, sharding: Any) -> int:
    """Compile a kernel; bytes of memory it takes beside its arguments and results."""
    # As users run it: the experiments' float64 and full precision of products are not theirs.
    with jax.enable_x64(False):
        compiled = lower_call(kernel, platform, sharding).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def _abstract(shape: spec.Shape) -> Any:
    """The call with shapes in place of arrays."""
    of = jax.ShapeDtypeStruct
    if isinstance(shape, spec.AttendShape):
        rows = (shape.batch, shape.kv_heads)
        pool = (shape.kv_heads, shape.pool_pages, shape.page_size, shape.head_size)
        return spec.AttendCall(
            shape,
            of((shape.batch, shape.heads, shape.head_size), shape.query_dtype),
            of(pool, shape.pool_dtype),
            of(pool, shape.pool_dtype),
            of((*rows, shape.listed), jnp.int32),
            of(rows, jnp.int32),
            of((), jnp.float32),
        )
    if isinstance(shape, token_spec.AttendTokensShape):
        return _abstract_attend_tokens(shape)
    if isinstance(shape, spec.ScoreShape):
        return spec.ScoreCall(
            shape,
            of((shape.batch, shape.heads, shape.head_size), shape.query_dtype),
            _summary_parts(shape),
            of((shape.batch, shape.pages), jnp.int32),
            of((shape.batch,), jnp.int32),
            of((), jnp.float32),
        )
    assert isinstance(shape, spec.SelectShape)
    return spec.SelectCall(shape, of((shape.batch, shape.kv_heads, shape.pages), jnp.float32))


def _abstract_attend_tokens(shape: token_spec.AttendTokensShape) -> token_spec.AttendTokensCall:
    of, rows = jax.ShapeDtypeStruct, (shape.batch, shape.kv_heads)
    pool = (shape.kv_heads, shape.pool_pages, shape.page_size, shape.head_size)
    return token_spec.AttendTokensCall(
        shape,
        of((shape.batch, shape.heads, shape.head_size), shape.query_dtype),
        of(pool, shape.pool_dtype),
        of(pool, shape.pool_dtype),
        of((*rows, shape.listed), jnp.int32),
        of(rows, jnp.int32),
        of((*rows, shape.listed), jnp.float32),
        of((), jnp.float32),
    )


def _summary_parts(shape: spec.ScoreShape) -> spec.SummaryParts:
    """The parts of the summaries that its kind reads, as a cache holds them."""
    of, half = jax.ShapeDtypeStruct, shape.stored == "bfloat16"
    pool, d = (shape.kv_heads, shape.pool_pages), shape.head_size
    number = jnp.uint16 if half else jnp.float32
    if shape.kind == "ball":
        return spec.SummaryParts(mean=of((*pool, d), number), radius=of(pool, number))
    box = of((*pool, d), jnp.uint32) if half else of((*pool, 2, d), jnp.float32)
    if shape.kind == "box" or shape.bits is None:
        return spec.SummaryParts(box=box)
    code_bytes = sketch.row_bytes(shape.bits, d, packed=shape.packed)
    codes = of((*pool, code_bytes, shape.page_size), jnp.uint8)
    residual = None if shape.by_token else of((*pool, shape.page_size), number)
    return spec.SummaryParts(box=box, codes=codes, residual=residual)
