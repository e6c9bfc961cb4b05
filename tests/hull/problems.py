"""Nasty projection problems with answers worked out by hand.

Notation of each comment: r = q − p*, μ_i = ⟨r, p* − k_i⟩, Δ = min of the positive ones. Answers
are exact for the decimal numbers written; float64 input is those numbers rounded.
"""

import math
from typing import NamedTuple

import numpy as np

NAN, INF = math.nan, math.inf


class Problem(NamedTuple):
    name: str
    keys: np.ndarray
    query: np.ndarray
    point: np.ndarray
    face: np.ndarray  # bool
    gap: float  # NaN inside or on the hull, +inf if the face is everything
    degenerate: bool = False  # strict complementarity fails


def _problem(
    name: str,
    keys: list[list[float]],
    query: list[float],
    *,
    point: list[float],
    face: list[int],
    gap: float,
    degenerate: bool = False,
) -> Problem:
    array = np.array(keys, np.float64)
    return Problem(
        name,
        array,
        np.array(query, np.float64),
        np.array(point, np.float64),
        np.isin(np.arange(len(array)), face),
        gap,
        degenerate,
    )


SQUARE = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]

PROBLEMS = (
    # One key is the whole hull: p* = k, r = (3, 4) − (0, 0), μ = 0, nothing is off the face.
    _problem("one key", [[0.0, 0.0]], [3.0, 4.0], point=[0.0, 0.0], face=[0], gap=INF),
    # The only key is the query: r = 0.
    _problem("one key, the query", [[3.0, 4.0]], [3.0, 4.0], point=[3.0, 4.0], face=[0], gap=NAN),
    # Segment from (0,0) to (4,0), query above its quarter point: r = (0, 2), both μ = 0.
    _problem(
        "two keys, inside the segment",
        [[0.0, 0.0], [4.0, 0.0]],
        [1.0, 2.0],
        point=[1.0, 0.0],
        face=[0, 1],
        gap=INF,
    ),
    # Same segment, query beyond its left end: r = (−3, 1), μ_2 = ⟨r, (−4, 0)⟩ = 12.
    _problem(
        "two keys, beyond an end",
        [[0.0, 0.0], [4.0, 0.0]],
        [-3.0, 1.0],
        point=[0.0, 0.0],
        face=[0],
        gap=12.0,
    ),
    # Same segment, query above its left end: r = (0, 1), μ = 0 on both, but the weight is (1, 0):
    # p* is a relative boundary point of its exposed face.
    _problem(
        "two keys, above an end",
        [[0.0, 0.0], [4.0, 0.0]],
        [0.0, 1.0],
        point=[0.0, 0.0],
        face=[0, 1],
        gap=INF,
        degenerate=True,
    ),
    # All keys coincide: one point, r = (1, 1, 1), all μ = 0.
    _problem(
        "coincident keys",
        [[1.0, 2.0, 3.0]] * 5,
        [2.0, 3.0, 4.0],
        point=[1.0, 2.0, 3.0],
        face=[0, 1, 2, 3, 4],
        gap=INF,
    ),
    # Triangle (0,0), (2,0), (0,−3), each twice; query (1, 5) above the first edge: r = (0, 5),
    # μ = 5 · 3 = 15 for (0, −3).
    _problem(
        "duplicate keys",
        [[0.0, 0.0], [2.0, 0.0], [0.0, -3.0]] * 2,
        [1.0, 5.0],
        point=[1.0, 0.0],
        face=[0, 1, 3, 4],
        gap=15.0,
    ),
    # Five keys on the x axis at −2…2, query over 0.5: r = (0, 1) and every μ = 0.
    _problem(
        "collinear keys, query beside the line",
        [[float(x), 0.0] for x in range(-2, 3)],
        [0.5, 1.0],
        point=[0.5, 0.0],
        face=[0, 1, 2, 3, 4],
        gap=INF,
    ),
    # Same keys, query on the line beyond 2: r = (3, 0), μ at x is 3(2 − x): 12, 9, 6, 3, 0.
    _problem(
        "collinear keys, query on the line",
        [[float(x), 0.0] for x in range(-2, 3)],
        [5.0, 0.0],
        point=[2.0, 0.0],
        face=[4],
        gap=3.0,
    ),
    # Square, query a vertex: r = 0, so every key is exposed and p* is on their hull's boundary.
    _problem(
        "query on a vertex",
        SQUARE,
        [1.0, 1.0],
        point=[1.0, 1.0],
        face=[0, 1, 2, 3],
        gap=NAN,
        degenerate=True,
    ),
    # Square, query inside its right edge: r = 0, likewise.
    _problem(
        "query on a face",
        SQUARE,
        [1.0, 0.25],
        point=[1.0, 0.25],
        face=[0, 1, 2, 3],
        gap=NAN,
        degenerate=True,
    ),
    # Square, query inside.
    _problem("query inside", SQUARE, [0.25, -0.5], point=[0.25, -0.5], face=[0, 1, 2, 3], gap=NAN),
    # Square, query right of the right edge: r = (1, 0), μ = ⟨(1, 0), (1 − x, ·)⟩ = 2 on the left.
    _problem("query beside an edge", SQUARE, [2.0, 0.5], point=[1.0, 0.5], face=[1, 2], gap=2.0),
    # Square, query straight out of a vertex: r = (2, 1), μ = 2(1 − x) + (1 − y): 6, 2, 0, 4.
    _problem("query beyond a vertex", SQUARE, [3.0, 2.0], point=[1.0, 1.0], face=[2], gap=2.0),
    # Square, query level with the vertex (1, 1): r = (1, 0) exposes the right edge, but p* is its
    # end: strict complementarity fails. μ = 2 on the left.
    _problem(
        "query level with a vertex",
        SQUARE,
        [2.0, 1.0],
        point=[1.0, 1.0],
        face=[1, 2],
        gap=2.0,
        degenerate=True,
    ),
    # Square, query at (2e6, 1e6): r = (2e6 − 1, 1e6 − 1), μ = 2r_x at the left upper corner,
    # 2r_y = 1999998 at the right lower one.
    _problem("query far away", SQUARE, [2e6, 1e6], point=[1.0, 1.0], face=[2], gap=1999998.0),
    # Segment from (−1, 0) to (1, 0) and (0, −1e-9) below: q = (.5, 1), r = (0, 1), μ_3 = 1e-9.
    _problem(
        "gap of 1e-9",
        [[-1.0, 0.0], [1.0, 0.0], [0.0, -1e-9]],
        [0.5, 1.0],
        point=[0.5, 0.0],
        face=[0, 1],
        gap=1e-9,
    ),
    # n < d: e_1, e_2 in five dimensions, query e_3 + e_4: the nearest point of the segment is its
    # middle (both at equal distance), r = q − p*, ⟨r, k_1⟩ = ⟨r, k_2⟩ = −½, so both μ = 0.
    _problem(
        "fewer keys than dimensions",
        [[1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]],
        [0.0, 0.0, 1.0, 1.0, 0.0],
        point=[0.5, 0.5, 0.0, 0.0, 0.0],
        face=[0, 1],
        gap=INF,
    ),
    # The square's edge problem in units of 1e-8: lengths × 1e-8, μ × 1e-16.
    _problem(
        "scale 1e-8",
        [[1e-8 * x, 1e-8 * y] for x, y in SQUARE],
        [2e-8, 0.5e-8],
        point=[1e-8, 0.5e-8],
        face=[1, 2],
        gap=2e-16,
    ),
    # The same × 1e8.
    _problem(
        "scale 1e8",
        [[1e8 * x, 1e8 * y] for x, y in SQUARE],
        [2e8, 0.5e8],
        point=[1e8, 0.5e8],
        face=[1, 2],
        gap=2e16,
    ),
    # Segment from (−1, 0) to (1, 0) beside keys at depth 1e-4 and 1e4: q = (.25, 1), r = (0, 1),
    # μ = minus the second coordinate. scale = ‖(1e4, −1e4) − q‖² ≈ 2e8, Δ/scale = 5e-13.
    _problem(
        "scales mixed",
        [[-1.0, 0.0], [1.0, 0.0], [0.5, -1e-4], [1e4, -1e4]],
        [0.25, 1.0],
        point=[0.25, 0.0],
        face=[0, 1],
        gap=1e-4,
    ),
    # A tiny edge of 2e-4 (x = ±1e-4) over keys 1e4 below: q = (5e-5, 1), r = (0, 1), Δ = 1e4.
    _problem(
        "tiny face, far keys",
        [[-1e-4, 0.0], [1e-4, 0.0], [1e4, -1e4], [-1e4, -2e4]],
        [5e-5, 1.0],
        point=[5e-5, 0.0],
        face=[0, 1],
        gap=1e4,
    ),
    # Theory's first example without strict complementarity: keys (0,0,0), (1,0,0), (.3,1,0) on
    # the plane z = 0 under q = (.4, 0, 1); r = (0, 0, 1), μ = −z. p* = (.4,0,0) on the first edge.
    _problem(
        "relative boundary of a triangle",
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.3, 1.0, 0.0], [0.5, 0.2, -0.4], [0.2, 0.5, -0.7]],
        [0.4, 0.0, 1.0],
        point=[0.4, 0.0, 0.0],
        face=[0, 1, 2],
        gap=0.4,
        degenerate=True,
    ),
    # More keys than any face needs: a unit square at z = 0, its centre as a fifth key, and one
    # key below; q over the centre: r = (0, 0, 1), the five share the face, μ_6 = 3.
    _problem(
        "affinely dependent face",
        [
            [0.0, 0.0, 0.0],
            [1.0, 0.0, 0.0],
            [1.0, 1.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.5, 0.5, 0.0],
            [9.0, 9.0, -3.0],
        ],
        [0.5, 0.5, 1.0],
        point=[0.5, 0.5, 0.0],
        face=[0, 1, 2, 3, 4],
        gap=3.0,
    ),
    # Two keys tie at the gap: (±1, 0) exposed from above, (0, −2) and (7, −2) both have μ = 2.
    _problem(
        "tie at the gap",
        [[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [7.0, -2.0]],
        [0.5, 1.0],
        point=[0.5, 0.0],
        face=[0, 1],
        gap=2.0,
    ),
)
