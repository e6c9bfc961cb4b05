"""The keys kept in memory: the support of the current point and the most promising others."""

from dataclasses import dataclass

import jax
import numpy as np

from vashista_theory.hull.projection import project
from vashista_theory.streaming.pricing import Optimum, Seen


def capacity(d: int) -> int:
    """Keys of a working set: several times the d + 1 of a support, 0.5 MiB at d = 64."""
    return max(1024, 4 * (d + 1))


@dataclass(frozen=True)
class WorkingSet:
    """Keys in memory, most promising first, and the projection on their hull.

    Attributes:
        index: rows they come from, distinct.
        rows: those keys, float64.
        optimum: the nearest point of their hull.
    """

    index: np.ndarray
    rows: np.ndarray
    optimum: Optimum

    def enter(self, seen: Seen) -> "WorkingSet | None":
        """Let violators enter and solve; None where all of them are in the set already."""
        size = capacity(self.rows.shape[1])
        violation = -self.optimum.multipliers(seen.candidates)
        violation[np.isin(seen.violators, self.index)] = -np.inf
        worst = np.argsort(-violation, kind="stable")[: size // 2]
        worst = worst[np.isfinite(violation[worst])]
        index, rows = seen.violators[worst], seen.candidates[worst]
        if not len(index):
            return None
        room = size - len(index)
        return solve(
            np.concatenate([self.index[:room], index]),
            np.concatenate([self.rows[:room], rows]),
            self.optimum.query,
            self.optimum.index,
        )

    def is_nearer_than(self, other: "WorkingSet") -> bool:
        """Whether its point is nearer to the query, from the way between the two points."""
        new, old, unit = self.optimum, other.optimum, other.optimum.unit
        way = (new.place.frame.origin - old.place.frame.origin) / unit
        way = way + (new.place.offset * (new.unit / unit) - old.place.offset)
        return bool(way @ (old.residual + new.residual * (new.unit / unit)) > 0)


def solve(
    index: np.ndarray, rows: np.ndarray, query: np.ndarray, support: np.ndarray
) -> WorkingSet:
    """Project on the hull of a few keys, starting from a support among them.

    The set is filled up with copies, which change no hull, so that one shape is compiled for each
    d. Copies of all keys alike: `project` takes its unit of length from evenly spaced rows.
    """
    count, size = len(index), capacity(rows.shape[1])
    copied = np.arange(size) * count // size
    start = np.isin(index, support)[copied] & (np.diff(copied, prepend=-1) > 0)
    # The caller's setting is not touched: inside, float64 whatever it is.
    with jax.enable_x64(True):
        found = project(rows[copied], query, initial_face=start, throw=False)
        weights = np.asarray(found.weights)
        multipliers = np.asarray(found.multipliers)
    own, least = np.zeros(count), np.zeros(count)
    np.add.at(own, copied, weights)
    least[copied] = multipliers
    carrying = own > 0
    order = np.lexsort((least, ~carrying))
    optimum = Optimum(query, index[carrying], rows[carrying], own[carrying])
    return WorkingSet(index[order], rows[order], optimum)
