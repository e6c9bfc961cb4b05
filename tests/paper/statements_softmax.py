"""What each labelled display of Section 4 says, on random keys in float64.

Each statement gives pairs left ≤ right, or left = right for an identity; with `wrong` it is read
with one hypothesis broken, and then some pair must fail: of a statement of several clauses, whose
pairs come in turn, some pair of each.
"""

from collections.abc import Callable, Iterator

import numpy as np

Pairs = Iterator[tuple[float, float]]
STATEMENTS: dict[str, Callable[[np.random.Generator, bool], Pairs]] = {}
CLAUSES: dict[str, int] = {}


def statement(
    label: str, *, clauses: int = 1
) -> Callable[[Callable[..., Pairs]], Callable[..., Pairs]]:
    def register(says: Callable[..., Pairs]) -> Callable[..., Pairs]:
        assert label not in STATEMENTS, label
        STATEMENTS[label], CLAUSES[label] = says, clauses
        return says

    return register


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def variation(a: np.ndarray, b: np.ndarray) -> float:
    return float(0.5 * np.abs(a - b).sum())


def coupled(keys: np.ndarray, query: np.ndarray, gamma: float, epsilon: float) -> np.ndarray:
    """The weights α ∝ exp(⟨q − γ p, k⟩/ε), by Newton on the strongly convex dual."""
    p = softmax(keys @ query / epsilon) @ keys
    for _ in range(100):
        alpha = softmax(keys @ (query - gamma * p) / epsilon)
        mean = alpha @ keys
        spread = (keys - mean).T @ ((keys - mean) * alpha[:, None])
        # The root of p − mean(p), whose Jacobian is I + γ cov/ε; damped where it is far away.
        step = np.linalg.solve(np.eye(len(p)) + gamma * spread / epsilon, mean - p)
        size = np.linalg.norm(mean - p)
        length = 1.0
        while length > 1e-9:
            q = p + length * step
            ahead = softmax(keys @ (query - gamma * q) / epsilon) @ keys
            if np.linalg.norm(ahead - q) < (1 - 0.1 * length) * size:
                break
            length /= 2
        p = p + length * step
        if np.linalg.norm(step) < 1e-14 * (1 + np.linalg.norm(p)):
            break
    return softmax(keys @ (query - gamma * p) / epsilon)


@statement("ineq:T6")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    n, d = int(rng.integers(2, 9)), int(rng.integers(1, 4))
    keys, query = rng.normal(size=(n, d)), rng.normal(size=d)
    epsilon, gamma = 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-1.5, 0.5)
    alpha = coupled(keys, query, gamma, epsilon)
    values = keys @ (alpha @ keys)
    bound = np.tanh(gamma * np.ptp(values) / ((40 if wrong else 4) * epsilon))
    yield variation(alpha, softmax(keys @ query / epsilon)), float(bound)
    # Equality, on the pair of keys of the proof.
    s = float(rng.uniform(0.1, 6.0))
    share = np.exp(s / 2) / (1 + np.exp(s / 2))
    low = -epsilon * s / gamma - share
    pair, query = np.array([[low + 1], [low]]), np.array([-epsilon * s / 2])
    swapped = np.array([share, 1 - share])
    fixed = softmax(pair @ (query - gamma * (swapped @ pair)) / epsilon)
    yield variation(fixed, swapped), 0.0
    reached = variation(swapped, softmax(pair @ query / epsilon))
    yield float(np.tanh(s / 4)), reached
    yield abs(gamma * np.ptp(pair @ (swapped @ pair)) / epsilon - s), 0.0


@statement("ineq:ratio")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    q = softmax(rng.normal(size=6))
    tilt = rng.normal(size=6) * 10 ** rng.uniform(-1, 1)
    p = softmax(np.log(q) + tilt)
    a, b, s = (p / q).min(), (p / q).max(), float(np.ptp(tilt)) * (0.2 if wrong else 1.0)
    middle = (b - 1) * (1 - a) / (b - a)
    yield variation(p, q), float(middle)
    shown = (np.exp(s) + 1 - np.exp(s) * a - 1 / a) / (np.exp(s) - 1)
    yield abs(float(middle - shown)), 0.0
    top = (np.exp(s / 2) - 1) ** 2 / (np.exp(s) - 1)
    yield float(shown), float(top)
    yield abs(float(top - np.tanh(s / 4))), 0.0


@statement("id:drop")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    a = softmax(3 * rng.normal(size=12))
    values = rng.normal(size=(12, 4))
    read = np.arange(12) < rng.integers(1, 12)
    renormalised = np.where(read, a, 0.0) / a[read].sum()
    mass = a[~read].sum() * (2 if wrong else 1)
    yield variation(renormalised, a), float(mass)
    kept = a[read] @ values[read] / a[read].sum()
    left = a[~read] @ values[~read] / a[~read].sum()
    error = renormalised @ values - a @ values
    yield from zip(error.tolist(), (mass * (kept - left)).tolist(), strict=True)


class _Pages:
    """Three unread pages and one that is read, with what is stored of them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.keys = rng.normal(size=(4, 8, 5)) * rng.uniform(0.2, 2) + rng.normal(size=(4, 1, 5))
        self.query = rng.normal(size=5)
        self.scale = float(rng.uniform(0.1, 1.5))
        self.logits = self.scale * self.keys @ self.query
        self.masses = np.exp(self.logits).sum(axis=1)
        self.low, self.high = self.keys.min(axis=1), self.keys.max(axis=1)
        self.mean = self.keys.mean(axis=1)
        self.radius = np.linalg.norm(self.keys - self.mean[:, None], axis=2).max(axis=1)
        self.length = float(np.linalg.norm(self.query))

    def range(self) -> tuple[np.ndarray, np.ndarray]:
        box = np.stack([self.query * self.low, self.query * self.high])
        low, high = box.min(axis=0).sum(axis=1), box.max(axis=0).sum(axis=1)
        centre, half = self.mean @ self.query, self.length * self.radius
        return (
            self.scale * np.maximum(low, centre - half),
            self.scale * np.minimum(high, centre + half),
        )

    def dropped(self) -> float:
        return float(self.masses[1:].sum() / self.masses.sum())


@statement("ineq:T7")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    pages = _Pages(rng)
    upper = pages.masses[1:] * (0.5 if wrong else rng.uniform(1, 3, size=3))
    yield pages.dropped(), float(upper.sum() / (upper.sum() + pages.masses[0]))


@statement("ineq:T7box")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    pages = _Pages(rng)
    best = pages.range()[0 if wrong else 1]
    yield from zip(pages.masses.tolist(), (8 * np.exp(best)).tolist(), strict=True)


@statement("ineq:T7chord")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    pages = _Pages(rng)
    low, high = pages.range()
    mean = pages.scale * pages.mean @ pages.query
    t = (mean - low) / (high - low) * (0.2 if wrong else 1.0)
    bound = 8 * ((1 - t) * np.exp(low) + t * np.exp(high))
    yield from zip(pages.masses.tolist(), bound.tolist(), strict=True)
    if not wrong:
        yield from zip(bound.tolist(), (8 * np.exp(high)).tolist(), strict=True)


@statement("ineq:T7ball")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    pages = _Pages(rng)
    half = pages.scale * pages.length * pages.radius * (0.2 if wrong else 1.0)
    bound = 8 * np.exp(pages.scale * pages.mean @ pages.query) * np.cosh(half)
    yield from zip(pages.masses.tolist(), bound.tolist(), strict=True)


@statement("ineq:T7bits")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    pages = _Pages(rng)
    for bits in (1, 2, 4, 8):
        step = (pages.high - pages.low)[:, None] / (2**bits - 1)
        codes = np.round((pages.keys - pages.low[:, None]) / step)
        coded = pages.low[:, None] + codes * step
        by_step = 0.5 * (step * np.abs(pages.query)).sum(axis=2)
        by_length = pages.length * np.linalg.norm(pages.keys - coded, axis=2)
        error = np.minimum(by_step, by_length)
        true_error = np.abs((pages.keys - coded) @ pages.query)
        yield from zip(true_error.ravel().tolist(), error.ravel().tolist(), strict=True)
        scores = coded @ pages.query + (-error if wrong else error)
        bound = np.exp(pages.scale * scores).sum(axis=1)
        yield from zip(pages.masses.tolist(), bound.tolist(), strict=True)


@statement("ineq:T7below")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    pages = _Pages(rng)
    lower = 8 * np.exp(pages.scale * pages.mean @ pages.query)[1:].sum() * (20 if wrong else 1)
    yield float(lower / (lower + pages.masses[0])), pages.dropped()
