"""Queries and keys for which something about sparse attention fails, each built for one reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vashista_theory import instances

TOKENS, D = 1024, 64
_HEIGHT, _QUERY = 8.0, 24.0  # of the face along the query's direction, and the query's length
DIAGNOSTICS = ("Δ/ε of the hull", "leakage bound", "Δ̂ of the mechanism", "estimate", "proven bound")


@dataclass(frozen=True)
class Case:
    """One instance with what the theory is expected to say of it.

    Attributes:
        why: What it shows.
        keys: (n, d).
        values: (n, d).
        query: (d,).
        outcome: The member of `Result` that `face_stability` is expected to report.
        face: Keys expected on the exposed face; None where the construction does not fix it.
        gap: Δ as constructed; None where the construction does not fix it.
    """

    why: str
    keys: np.ndarray
    values: np.ndarray
    query: np.ndarray
    outcome: str
    face: int | None = None
    gap: float | None = None


Build = Callable[[np.random.Generator], Case]


def clear_face(rng: np.random.Generator) -> Case:
    """Eight keys at one height over a cloud, p* in their middle; control."""
    keys, query, _ = _over_a_cloud(rng, size=8)
    why = "control: eight keys stand out and p* lies among them"
    return Case(why, keys, _values(rng), query, "successful", 8)


def duplicates(rng: np.random.Generator) -> Case:
    """The same eight keys, each twice."""
    keys, query, _ = _over_a_cloud(rng, size=8)
    keys[8:16] = keys[:8]
    why = "the weights are not unique, point and gap are"
    return Case(why, keys, _values(rng), query, "successful", 16)


def near_degenerate(rng: np.random.Generator) -> Case:
    """The same, and one key a millionth below the face, on another page."""
    keys, query, up = _over_a_cloud(rng, size=8)
    gap = 1e-6
    keys[512] += (_HEIGHT - gap / (_QUERY - _HEIGHT) - keys[512] @ up) * up
    why = "a key lies a millionth off the face"
    return Case(why, keys, _values(rng), query, "successful", 8, gap)


def degenerate(rng: np.random.Generator) -> Case:
    """p* is a key, and the rest of the face lies on one side of it."""
    keys, query, up = _over_a_cloud(rng, size=8)
    side = keys[1] - (keys[1] @ up) * up
    side /= np.linalg.norm(side)
    across = keys[:8] - keys[:8].mean(axis=0)
    across += (1 + np.abs(across @ side) - across @ side)[:, None] * side
    keys[:8] = _HEIGHT * up + across
    keys[0] = _HEIGHT * up
    why = "p* is on the edge of its face: no linear law (T5)"
    return Case(why, keys, _values(rng), query, "degenerate_face", 8)


def inside(rng: np.random.Generator) -> Case:
    """A query that is a positive combination of all keys."""
    made = instances.make("inside", seed=int(rng.integers(2**31)), n=TOKENS, d=D)
    why = "the query is in the hull: no residual, no face, no gap"
    return Case(why, made.keys, _values(rng), made.query, "inside_hull", TOKENS)


def normal_keys(rng: np.random.Generator) -> Case:
    """The reference instance: normal keys and a normal query."""
    made = instances.make("gaussian", seed=0, n=TOKENS, d=D)
    why = "no key stands out"
    return Case(why, made.keys, _values(rng), made.query, "successful", 14, 0.28012510083585)


def uniform(rng: np.random.Generator) -> Case:
    """A query of length near 0: all scores are equal, to a thousandth."""
    keys = rng.normal(size=(TOKENS, D))
    why = "a tiny query: every token gets the same weight"
    return Case(why, keys, _values(rng), 1e-3 * rng.normal(size=D), "inside_hull", TOKENS)


def equal_keys(rng: np.random.Generator) -> Case:
    """One key for all tokens."""
    keys = np.broadcast_to(rng.normal(size=D), (TOKENS, D)).copy()
    why = "all keys are one: the face is everything, the gap infinite, attention uniform"
    query = 1.5 * rng.normal(size=D)
    return Case(why, keys, _values(rng), query, "successful", TOKENS, np.inf)


def sink(rng: np.random.Generator) -> Case:
    """The first key takes 97 % of the mass, and its value is nothing."""
    keys, values = rng.normal(size=(TOKENS, D)), _values(rng)
    up = _direction(rng)
    query = 16.0 * up
    scores = keys[1:] @ query / D**0.5
    rest = scores.max() + np.log(np.exp(scores - scores.max()).sum())
    keys[0] += ((rest + np.log(0.97 / 0.03)) * D**0.5 / 16.0 - keys[0] @ up) * up
    values[0] = 0.0
    why = "the first key holds 97 % of the mass and an empty value"
    return Case(why, keys, values, query, "successful")


CASES: Mapping[str, Build] = {
    "clear face": clear_face,
    "duplicate keys": duplicates,
    "near-degenerate": near_degenerate,
    "degenerate face": degenerate,
    "query in the hull": inside,
    "normal keys": normal_keys,
    "uniform attention": uniform,
    "equal keys": equal_keys,
    "sink": sink,
}


def _values(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(TOKENS, D))


def _direction(rng: np.random.Generator) -> np.ndarray:
    up = rng.normal(size=D)
    return up / np.linalg.norm(up)


def _over_a_cloud(
    rng: np.random.Generator, *, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cloud whose first `size` keys lie at one height around the query's direction."""
    up = _direction(rng)
    keys = rng.normal(size=(TOKENS, D))
    across = keys[:size] - np.outer(keys[:size] @ up, up)
    keys[:size] = _HEIGHT * up + across - across.mean(axis=0)
    return keys, _QUERY * up, up
