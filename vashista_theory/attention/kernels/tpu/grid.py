"""How every TPU kernel is put on its grid, in one place."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Shaped

LANES = 128


def on_grid(
    body: Callable[..., None],
    grid: tuple[int, ...],
    *,
    name: str,
    scalars: Sequence[Shaped[Array, "..."]] = (),
    arrays: Sequence[tuple[pl.BlockSpec, Shaped[Array, "..."]]],
    results: Sequence[tuple[pl.BlockSpec, jax.ShapeDtypeStruct]],
    scratch: Sequence[Any] = (),
    interpret: Any = False,
) -> Sequence[Shaped[Array, "..."]]:
    """Run a device body at every place of a grid, in any order.

    Args:
        body: Takes references to scalars, arrays, results and scratch, in this order.
        grid: Its places do not depend on one another, so a chip's cores may share them.
        name: What profilers show.
        scalars: Copied to scalar memory before the first place.
        arrays: What is read, and the block of it that each place gets.
        results: What is written, likewise.
        scratch: Memory that lasts as long as a place.
        interpret: Not on a TPU: what `pallas_call` takes.
    """
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=grid,
            in_specs=[block for block, _ in arrays],
            out_specs=[block for block, _ in results],
            scratch_shapes=list(scratch),
        ),
        out_shape=[shape for _, shape in results],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * len(grid)),
        interpret=interpret,
        name=name,
    )(*scalars, *(array for _, array in arrays))


def whole_registers(rows: int, dtype: str) -> int:
    """The least number of rows, not below this one, that fills registers of the type."""
    tile = 16 if dtype == "bfloat16" else 8
    return -(-rows // tile) * tile
