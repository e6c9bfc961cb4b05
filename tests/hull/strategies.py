"""Problems to try: every instance family at a few shapes, and adversarial ones by hypothesis.

JAX compiles once a shape, so the shapes are few and every list of temperatures has one length.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

import vashista_theory as vt
from vashista_theory.hull import instances

UNIT = 2.0**-52
LENGTH_OF_PATH = 33

SMALL_SHAPES = ((1, 2), (3, 6), (5, 3))
"""One key; more dimensions than keys; more keys than dimensions."""
if os.environ.get("VASHISTA_PROFILE") == "full":
    SMALL_SHAPES = (*SMALL_SHAPES, (2, 3))  # each shape is compiled


class Problem(NamedTuple):
    """A named pair of keys and query."""

    name: str
    keys: np.ndarray
    query: np.ndarray

    @property
    def scale(self) -> float:
        """max_i ‖k_i − q‖², the unit of the tolerances, computed here and not by the package."""
        return float(np.max(np.sum((self.keys - self.query[None]) ** 2, axis=1)))


class Solved(NamedTuple):
    """One problem with everything the package says about it along a path of temperatures."""

    problem: Problem
    projection: vt.Projection
    relaxation: vt.Relaxation
    stability: vt.FaceStability

    @property
    def epsilons(self) -> np.ndarray:
        return np.asarray(self.relaxation.epsilon)


def path(scale: float, *, top: float = 1e3, bottom: float = 1e-8) -> np.ndarray:
    """Temperatures from `top` to `bottom` times the scale, in descending order."""
    return np.geomspace(top, bottom, LENGTH_OF_PATH) * (scale if scale > 0 else 1.0)


def solve(problem: Problem) -> Solved:
    """Project, relax along the whole path, and analyse, raising for nothing."""
    projection = vt.project(problem.keys, problem.query, throw=False)
    relaxation = vt.relax(projection, path(problem.scale), throw=False)
    return Solved(problem, projection, relaxation, vt.face_stability(projection))


def _family(name: str, seed: int, n: int | None, d: int | None, **parameters: object) -> Problem:
    made = instances.make(name, seed=seed, n=n, d=d, **parameters)
    label = "-".join([name, str(seed), *(f"{k}={v}" for k, v in parameters.items())])
    return Problem(label, made.keys, made.query)


@lru_cache
def family_problems() -> tuple[Problem, ...]:
    """Instances of every registered family, at the smallest shape that is typical of each."""
    chosen: list[Problem] = []
    for name in ("gaussian", "sphere", "low_rank", "planted", "duplicates", "near_degenerate"):
        chosen += [_family(name, seed, 24, 12) for seed in range(2)]
    chosen += [
        _family("cross_polytope", 0, 24, 12, query_scale=1.0),
        _family("far_query", 0, 24, 12),
        _family("far_query", 1, 24, 12, coupling=1e-4),
        _family("inside", 0, 24, 12),
        _family("simplex", 0, 12, 12),
        _family("planted", 2, 24, 12, ties=3, gap=1e-3),
        _family("near_degenerate", 2, 24, 12, gap=1e-6, min_weight=1e-6),
        _family("degenerate", 0, 24, 12),
        _family("degenerate", 1, 24, 12, margin=0.2),
        *(
            _family("degenerate", 0, 5, 3, variant=v)
            for v in ("positive_power", "negative_power", "half_margin")
        ),
        _family("gaussian", 0, 1024, 64),
        _family("heads", 40, None, None),
        _family("heads", 3, None, None),
    ]
    named = {problem.name.split("-")[0] for problem in chosen}
    for name in instances.families():
        if name not in named:
            chosen.append(_family(name, 0, *instances.nearest_shape(name, n=24, d=12)))
    return tuple(chosen)


@lru_cache
def solved_families() -> tuple[Solved, ...]:
    """The family instances solved once for all test modules."""
    return tuple(solve(problem) for problem in family_problems())


def _lattice(shape: tuple[int, ...], reach: int) -> st.SearchStrategy[np.ndarray]:
    size = int(np.prod(shape))
    numbers = st.lists(st.integers(-reach, reach), min_size=size, max_size=size)
    return numbers.map(lambda values: np.array(values, float).reshape(shape))


def _gaussian(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    return st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).normal(size=shape))


Arrange = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _as_drawn(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return keys


def _coincident(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return keys[rng.integers(0, max(1, len(keys) // 2), size=len(keys))]


def _collinear(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    steps = rng.integers(-3, 4, size=len(keys)).astype(float)
    return keys[:1] + np.outer(steps, keys[-1] - keys[0])


def _mixed_scales(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return keys * 10.0 ** rng.integers(-6, 7, size=len(keys))[:, None]


def _nearly_flat(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flat = keys.copy()
    flat[:, -1] *= 10.0 ** rng.integers(-12, -3)
    return flat


def _vertex(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return keys[rng.integers(len(keys))].copy()


def _between_two(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    first, second = keys[rng.integers(len(keys), size=2)]
    return 0.5 * first + 0.5 * second


def _middle(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return keys.mean(axis=0)


def _near(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return keys.mean(axis=0) + np.abs(keys).max() * rng.normal(size=keys.shape[1])


def _far(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (1.0 + np.abs(keys).max()) * 1e6 * rng.normal(size=keys.shape[1])


def _origin(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    return np.zeros(keys.shape[1])


ARRANGEMENTS: tuple[Arrange, ...] = (
    _as_drawn, _coincident, _collinear, _mixed_scales, _nearly_flat
)  # fmt: skip
QUERIES: tuple[Arrange, ...] = (_vertex, _between_two, _middle, _near, _far, _origin)


@st.composite
def problems(draw: st.DrawFn, shapes: tuple[tuple[int, int], ...] = SMALL_SHAPES) -> Problem:
    """Adversarial problems: exact ties on a lattice or generic, arranged badly, query anywhere."""
    shape = draw(st.sampled_from(shapes))
    keys = draw(st.one_of(_lattice(shape, 2), _gaussian(shape)))
    arrange = draw(st.sampled_from(ARRANGEMENTS))
    place = draw(st.sampled_from(QUERIES))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    size = 10.0 ** draw(st.sampled_from((0, 0, 0, -8, 8)))
    keys = arrange(keys, rng)
    query = place(keys, rng)
    name = f"{arrange.__name__.strip('_')}/{place.__name__.strip('_')}"
    return Problem(name, size * keys, size * query)
