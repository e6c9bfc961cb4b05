"""Key sketches on other grids than the library's, in numpy: what sharing their scales costs.

The library's grid lies between the corners of the page's own box, which costs as much as a box
router reads. A grid shared by a superpage of 16 pages, or by the whole context, costs almost
nothing. Between the two: the page's corners themselves in a few bits, on the grid of the
superpage's box. Everything sound: corners err outward, each key's error is stored beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.shared.page_masses import PAGE, Truth, mass_kept, pages_needed
from vashista_theory.attention.bounds.rounding import round_down, round_up

BITS = (1, 2, 3, 4, 6, 8)
SUPERPAGE = 16


@dataclass(frozen=True)
class Grid:
    """Where the grid points of a dimension lie.

    Attributes:
        pages: Pages that share the corners of their common box; None for all of the context.
        corner_bits: Bits of a page's own corners on the grid of that box; None for no corners of
            its own.
        centred: Grid points in the middle of equal cells, instead of the first and the last on
            the corners.
    """

    pages: int | None = 1
    corner_bits: int | None = None
    centred: bool = False

    def bytes_a_page(self, bits: int, d: int, pages: int) -> float:
        """Codes and grid; corners of a shared box are bfloat16."""
        shared = 4 * d / (self.pages or pages)
        own = 0 if self.corner_bits is None else 2 * d * self.corner_bits / 8
        return PAGE * d * bits / 8 + own + shared


GRIDS = {
    "page": Grid(),
    "page, centred": Grid(centred=True),
    "corners in 8 bits": Grid(SUPERPAGE, corner_bits=8),
    "corners in 4 bits": Grid(SUPERPAGE, corner_bits=4),
    "superpage": Grid(SUPERPAGE),
    "context": Grid(None),
}


@dataclass(frozen=True)
class Sketched:
    """Log-masses of pages as a sketch has them, (head, page), for one query of each head.

    Attributes:
        estimate: Of the sketched keys.
        by_token: Bound with an error for each key.
        by_page: Bound with one error a page, that of its worst key.
    """

    estimate: np.ndarray
    by_token: np.ndarray
    by_page: np.ndarray


def sketched(
    keys: np.ndarray, queries: np.ndarray, grid: Grid, bits: int, *, scale: float
) -> Sketched:
    """Judge full pages of one kv head by a sketch.

    Args:
        keys: (page, PAGE, D).
        queries: (head, D).
        grid: Where the grid points lie.
        bits: Bits a dimension.
        scale: Factor on the scores.
    """
    lower, upper = _corners(keys, grid)
    levels = 2**bits
    step = (upper - lower) / (levels if grid.centred else levels - 1)
    first = lower + step / 2 if grid.centred else lower
    place = (keys - first[:, None]) / np.where(step > 0, step, 1.0)[:, None]
    rebuilt = first[:, None] + step[:, None] * np.clip(np.rint(place), 0, levels - 1)
    error = _bfloat16(np.linalg.norm(keys - rebuilt, axis=-1), up=True)
    logits = scale * np.einsum("hd,psd->hps", queries, rebuilt)
    norms = np.linalg.norm(queries, axis=-1)[:, None, None]
    by_dimension = scale / 2 * np.einsum("hd,pd->hp", np.abs(queries), step)[..., None]
    if bits <= 2:  # as in the library, whose codes of so few bits need not be the nearest
        by_dimension = np.full_like(by_dimension, np.inf)
    slack = np.minimum(by_dimension, scale * norms * error)
    worst = np.minimum(by_dimension, scale * norms * error.max(axis=1, keepdims=True))
    estimate = np.logaddexp.reduce(logits, axis=-1)
    return Sketched(
        estimate, np.logaddexp.reduce(logits + slack, axis=-1), estimate + worst[..., 0]
    )


def _corners(keys: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Corners of each page's grid, as stored."""
    starts = np.arange(0, keys.shape[0], grid.pages or keys.shape[0])
    own = keys.min(axis=1), keys.max(axis=1)
    block = np.arange(keys.shape[0]) // (grid.pages or keys.shape[0])
    low = _bfloat16(np.minimum.reduceat(own[0], starts), up=False)[block]
    high = _bfloat16(np.maximum.reduceat(own[1], starts), up=True)[block]
    if grid.corner_bits is None:
        return low, high
    last = 2**grid.corner_bits - 1
    step = (high - low) / last
    safe = np.where(step > 0, step, 1.0)
    codes = np.floor((own[0] - low) / safe), np.ceil((own[1] - low) / safe)
    return low + step * codes[0], low + step * np.minimum(codes[1], last)


def _bfloat16(numbers: np.ndarray, *, up: bool) -> np.ndarray:
    rounding = round_up if up else round_down
    return np.asarray(rounding(jnp.asarray(numbers), jnp.bfloat16)).astype(float)


def rows(
    held: Truth,
    tolerances: tuple[float, ...],
    counts: tuple[int, ...],
    bits: tuple[int, ...] = BITS,
) -> Iterator[dict[str, Any]]:
    """One row a grid and number of bits, over all heads at the last position.

    Only full pages take part; `held` has the kv heads as the model has them.
    """
    full = int(held.lengths[-1]) // PAGE
    d = held.keys.shape[-1]
    share = held.mass[-1][..., :full] / held.mass[-1][..., :full].sum(axis=-1, keepdims=True)
    queries = held.queries[-1].reshape(*held.keys.shape[:2], held.group, d)
    mass = share.reshape(*queries.shape[:3], full)
    top = _log_total(held, queries, full)
    best = {count: mass_kept(mass, mass, count) for count in counts}
    middle = counts[len(counts) // 2]
    for name, grid in GRIDS.items():
        for width in bits:
            judged = [
                [
                    sketched(keys[:full], query, grid, width, scale=held.scale)
                    for keys, query in zip(*layer, strict=True)
                ]
                for layer in zip(held.keys, queries, strict=True)
            ]
            estimate, by_token, by_page = (
                np.array([[getattr(s, part) for s in layer] for layer in judged])
                for part in ("estimate", "by_token", "by_page")
            )
            cost = grid.bytes_a_page(width, d, full)
            row: dict[str, Any] = {"grid": name, "bits": width, "bytes": cost}
            kept = {count: mass_kept(estimate, mass, count) for count in counts}
            row |= {f"kept_{count}": float(found.mean()) for count, found in kept.items()}
            row[f"tenth_{middle}"] = float(np.percentile(kept[middle], 10))
            row["loss"] = max(float(np.mean(best[count] - kept[count])) for count in counts)
            for tolerance in tolerances:
                for part, bound in (("token", by_token), ("page", by_page)):
                    upper = np.exp(bound - top)[..., None, :]
                    needed = pages_needed(upper, mass[..., None, :], tolerance)
                    row[f"{part}_{100 * tolerance:g}"] = float(np.median(needed))
                    mean = "mean" if part == "token" else "mean_page"
                    row[f"{mean}_{100 * tolerance:g}"] = float(needed.mean())
                    if part == "token":
                        # bfloat16 keys and values, and two bytes for the error of each key.
                        page_bytes = 4.0 * PAGE * d
                        row[f"traffic_{100 * tolerance:g}"] = float(
                            (cost + 2 * PAGE) / page_bytes + needed.mean() / full
                        )
            yield row


def _log_total(held: Truth, queries: np.ndarray, full: int) -> np.ndarray:
    """Log of the summed exponentials of all keys in full pages, (layer, kv head, head, 1)."""
    logits = held.scale * np.einsum(
        "lghd,lgpsd->lghps", queries, held.keys[:, :, :full], optimize=True
    )
    return np.logaddexp.reduce(logits.reshape(*logits.shape[:3], -1), axis=-1)[..., None]
