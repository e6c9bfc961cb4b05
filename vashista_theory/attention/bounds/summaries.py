"""What is kept of a page so that a query can judge it unread.

Every stored number errs outward: boxes and radii only grow, and the error of a rounded mean is
stored beside it. So a bound computed from a summary is never below the true score, whatever the
type the summary is stored in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped, UInt8

from vashista_theory._checks import is_integer
from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.bits import (
    as_bits,
    from_bits,
    pair_as_bits,
    pair_from_bits,
    widened,
)
from vashista_theory.attention.bounds.rounding import (
    norm_from_above,
    round_down,
    round_to,
    round_up,
    work_dtype,
)

PAGES_PER_SUPERPAGE = 16
Summary = Literal["mean", "box", "ball", "sketch"]
"""What pages can be judged by; `KINDS` says what each reads."""
_STORAGE = ("bfloat16", "float32", "float64")
_LENGTHS = 255  # steps of the length of a value


@dataclass(frozen=True)
class SummarySpec:
    """Which summaries a cache keeps.

    Attributes:
        box: The least and the greatest key by dimension.
        ball: The page mean and the radius around it.
        sketch_bits: Bits a dimension of the key sketch, on a grid between the corners of the box:
            8, 6 or 4 to certify, 2 or 1 to route; None for no sketch. A byte for the length of each
            value is kept with it, for drawing tokens.
        packed: Whether codes below 8 bits share bytes. One byte a code is faster to read where
            memory is not the limit.
        dtype: Storage of everything but the codes.
    """

    box: bool = True
    ball: bool = True
    sketch_bits: int | None = 4
    packed: bool = True
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        bits = self.sketch_bits
        if bits is not None and not (is_integer(bits, least=1) and bits in sketch.BITS):
            raise ValueError(f"sketch_bits is {bits!r}; expected one of {sketch.BITS}, or None.")
        if self.sketch_bits is not None and not self.box:
            raise ValueError("a sketch needs its grid: keep the box, or set sketch_bits=None.")
        if self.dtype not in _STORAGE:
            raise ValueError(f"dtype is {self.dtype!r}; summaries are stored as one of {_STORAGE}.")

    def bytes_by_field(self, page_size: int, d: int) -> dict[str, int]:
        """Bytes that one page of one head costs, by the fields of `Summaries`."""
        width, bits = jnp.dtype(self.dtype).itemsize, self.sketch_bits
        fields = {"value_bound": width}
        if self.box:
            fields["box"] = 2 * d * width
        if self.ball:
            fields |= {"mean": d * width, "mean_error": width, "radius": width}
        if bits is not None:
            fields["codes"] = page_size * sketch.row_bytes(bits, d, packed=self.packed)
            fields["residual"] = page_size * width
            fields["value_codes"] = page_size
        return fields

    def bytes_by_part(self, page_size: int, d: int) -> dict[str, int]:
        """Bytes that one page of one head costs, by what `SummarySpec` has a switch for."""
        fields = self.bytes_by_field(page_size, d)
        parts = {name: fields[name] for name in ("value_bound", "box") if name in fields}
        if self.ball:
            parts["ball"] = fields["mean"] + fields["mean_error"] + fields["radius"]
        if self.sketch_bits is not None:
            parts["sketch"] = sum(fields[name] for name in ("codes", "residual", "value_codes"))
        return parts


@dataclass(frozen=True)
class Kind:
    """What judging pages by one kind of summary reads.

    Attributes:
        estimate: Fields of `Summaries` that an estimate needs.
        proof: Further fields that a proof reads, where they are kept.
        needs: The argument of `SummarySpec` that keeps them.
    """

    estimate: tuple[str, ...]
    proof: tuple[str, ...]
    needs: str

    def fields(self, *, proof: bool) -> tuple[str, ...]:
        """Fields of `Summaries` that are read, the bound on values not among them."""
        return self.estimate + (self.proof if proof else ())

    def kept_by(self, spec: SummarySpec) -> bool:
        """Whether a cache of this specification can be judged so."""
        return bool(getattr(spec, self.needs.partition("=")[0]))


DRAWING = ("value_bound", "value_codes")
"""Further fields of `Summaries` that a draw of tokens reads beside their sketch."""
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "mean": Kind(("mean", "mean_error"), (), "ball=True"),
        "box": Kind(("box",), ("mean", "mean_error"), "box=True"),
        "ball": Kind(("mean", "mean_error", "radius"), (), "ball=True"),
        "sketch": Kind(("box", "codes"), ("residual",), "sketch_bits=4"),
    }
)


class Summaries(eqx.Module):
    """Summaries of pages (or superpages) along the leading axes; None where not kept.

    Numbers in bfloat16 are held as bits (uint16): read them with `from_bits`, the box with
    `corners`.

    Attributes:
        box: Least key by dimension, rounded down, and greatest, rounded up, as one array: (*n, d)
            for a pair of bfloat16, (*n, 2, d) for wider numbers.
        mean: Mean key, rounded to nearest.
        mean_error: Bound on the distance of `mean` from the exact mean.
        radius: Bound on the distance of any key from `mean`.
        codes: Sketch of each key, dimension by dimension, tokens side by side.
        residual: Bound on the distance of each key from its sketch.
        value_bound: Bound on the length of any value.
        value_codes: Bound on the length of each value in 255ths of `value_bound`, kept with a
            sketch; read them with `value_lengths`.
    """

    box: Shaped[Array, "..."] | None
    mean: Shaped[Array, "*n d"] | None
    mean_error: Shaped[Array, "*n"] | None
    radius: Shaped[Array, "*n"] | None
    codes: UInt8[Array, "*n c s"] | None
    residual: Shaped[Array, "*n s"] | None
    value_bound: Shaped[Array, "*n"]
    value_codes: UInt8[Array, "*n s"] | None


def value_lengths(
    bound: Shaped[Array, "*n"], codes: UInt8[Array, "*n s"], dtype: DTypeLike
) -> Float[Array, "*n s"]:
    """Bounds on the length of each value, from `value_bound` and `value_codes`."""
    part = codes.astype(dtype) * (1.0 / _LENGTHS)
    longest = from_bits(bound, dtype)[..., None]
    lengths = longest * part * (1.0 + 4 * unit_roundoff(dtype))
    return jnp.where(jnp.isfinite(longest), lengths, longest)  # not 0 times infinity


def corners(
    box: Shaped[Array, "..."], dtype: DTypeLike
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Lower and upper corner (*n, d) of boxes as they are held."""
    return pair_from_bits(box, dtype)


def empty_summaries(
    spec: SummarySpec, leading: tuple[int, ...], page_size: int | None, d: int
) -> Summaries:
    """Zeros of the right shapes; without a page size (superpages) no sketch."""
    dtype = as_bits(jnp.zeros((), spec.dtype)).dtype
    bits = None if page_size is None else spec.sketch_bits

    def numbers(kept: bool, *shape: int) -> Array | None:
        return jnp.zeros((*leading, *shape), dtype) if kept else None

    corner = jnp.zeros((*leading, d), spec.dtype)
    code_bytes = 0 if bits is None else sketch.row_bytes(bits, d, packed=spec.packed)
    return Summaries(
        box=pair_as_bits(corner, corner) if spec.box else None,
        mean=numbers(spec.ball, d),
        mean_error=numbers(spec.ball),
        radius=numbers(spec.ball),
        codes=None
        if bits is None
        else jnp.zeros((*leading, code_bytes, page_size or 0), jnp.uint8),
        residual=numbers(bits is not None, page_size or 0),
        value_bound=jnp.zeros(leading, dtype),
        value_codes=None if bits is None else jnp.zeros((*leading, page_size or 0), jnp.uint8),
    )


def summarise_pages(
    keys: Float[Array, "*n s d"],
    values: Float[Array, "*n s d"],
    spec: SummarySpec,
    rounding: sketch.Rounding | None = None,
) -> Summaries:
    """Summarise full pages; with a rounding the first axis is that of the kv heads."""
    storage = jnp.dtype(spec.dtype)
    work = work_dtype(keys.dtype, storage)
    keys, values = widened(keys, work), widened(values, work)
    box = mean = mean_error = radius = codes = residual = value_codes = None
    lengths = norm_from_above(values)
    longest = round_up(jnp.max(lengths, axis=-1), storage)
    if spec.box:
        least, greatest = jnp.min(keys, axis=-2), jnp.max(keys, axis=-2)
        box = pair_as_bits(round_down(least, storage), round_up(greatest, storage))
    if spec.ball:
        computed = jnp.mean(keys, axis=-2)
        kept = round_to(computed, storage)
        mean = kept.astype(storage)
        summing = 2 * (keys.shape[-2] + 2) * unit_roundoff(work)
        largest = norm_from_above(jnp.max(jnp.abs(keys), axis=-2))
        mean_error = round_up(norm_from_above(kept - computed) + summing * largest, storage)
        away = jnp.max(norm_from_above(keys - kept[..., None, :]), axis=-1)
        radius = round_up(away, storage)
    if spec.sketch_bits is not None and box is not None:
        grid = corners(box, work)
        if rounding is not None and sketch.aimed(spec.sketch_bits):
            full = sketch.quantise_in_turn(keys, *grid, spec.sketch_bits, rounding)
        else:
            full = sketch.quantise(keys, *grid, spec.sketch_bits)
        rebuilt = sketch.dequantise(full, *grid, spec.sketch_bits)
        farthest = norm_from_above(jnp.maximum(jnp.abs(grid[0]), jnp.abs(grid[1])))
        computing = 4 * unit_roundoff(work) * farthest
        residual = round_up(norm_from_above(keys - rebuilt) + computing[..., None], storage)
        codes = sketch.pack(full, spec.sketch_bits) if spec.packed else full
        value_codes = _length_codes(lengths, longest.astype(work))
    kept = Summaries(box, mean, mean_error, radius, codes, residual, longest, value_codes)
    return jax.tree.map(as_bits, kept)


def _length_codes(
    lengths: Float[Array, "*n s"], longest: Float[Array, "*n"]
) -> UInt8[Array, "*n s"]:
    """Lengths in 255ths of the longest, rounded up; 255 for what is no number."""
    most = longest[..., None]
    part = lengths / jnp.where(most > 0, most, 1.0) * (1.0 + 4 * unit_roundoff(lengths.dtype))
    codes = jnp.ceil(jnp.where(jnp.isfinite(part), part, 1.0) * _LENGTHS)
    return jnp.clip(codes, 0, _LENGTHS).astype(jnp.uint8)


def summarise_superpages(pages: Summaries, page_axis: int) -> Summaries:
    """Combine the summaries of the pages along `page_axis` (negative, of `value_bound`)."""
    storage = jnp.dtype(
        "bfloat16" if pages.value_bound.dtype == jnp.uint16 else pages.value_bound.dtype
    )
    box = mean = mean_error = radius = None
    if pages.box is not None:
        least, greatest = corners(pages.box, work_dtype(storage))
        least = jnp.min(least, axis=page_axis - 1)
        greatest = jnp.max(greatest, axis=page_axis - 1)
        box = pair_as_bits(round_down(least, storage), round_up(greatest, storage))
    held = (pages.mean, pages.mean_error, pages.radius, pages.value_bound)
    means, errors, radii, values = jax.tree.map(lambda a: from_bits(a, storage), held)
    if means is not None:
        work = work_dtype(storage)
        means = means.astype(work)
        computed = jnp.mean(means, axis=page_axis - 1)
        kept = round_to(computed, storage)
        mean = kept.astype(storage)
        summing = 2 * (means.shape[page_axis - 1] + 2) * unit_roundoff(work)
        largest = norm_from_above(jnp.max(jnp.abs(means), axis=page_axis - 1))
        mean_error = round_up(
            jnp.max(errors.astype(work), axis=page_axis)
            + norm_from_above(kept - computed)
            + summing * largest,
            storage,
        )
        away = norm_from_above(means - jnp.expand_dims(kept, page_axis - 1))
        u = unit_roundoff(work)
        away = (away + radii.astype(work)) * (1.0 + 2 * u)
        radius = round_up(jnp.max(away, axis=page_axis), storage)
    longest = jnp.max(values, axis=page_axis)
    return jax.tree.map(
        as_bits, Summaries(box, mean, mean_error, radius, None, None, longest, None)
    )


def without_sketch(summaries: Summaries) -> Summaries:
    """The same summaries less the codes, for what never reads them."""
    kept = (summaries.box, summaries.mean, summaries.mean_error, summaries.radius)
    return Summaries(*kept, None, None, summaries.value_bound, None)


def stored_bytes(summaries: Summaries) -> int:
    """Bytes of the arrays, as held."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(summaries))
