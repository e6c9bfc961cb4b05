"""What each labelled display of Section 4 but for T8 says, on random keys in float64."""

from collections.abc import Callable, Iterator

import numpy as np

from tests.paper import statement
from tests.paper.statement import Control, read_wrong, times

Pairs = Iterator[tuple[float, float]]
SEEDS = 60


def about_softmax(
    label: str, *controls: Control
) -> Callable[[Callable[..., Pairs]], Callable[..., Pairs]]:
    def cases() -> Iterator[np.random.Generator]:
        return (np.random.default_rng(seed) for seed in range(SEEDS))

    return statement.statement(label, *controls, cases=cases)


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


@about_softmax("ineq:T6", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    n, d = int(rng.integers(2, 9)), int(rng.integers(1, 4))
    keys, query = rng.normal(size=(n, d)), rng.normal(size=d)
    epsilon, gamma = 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-1.5, 0.5)
    alpha = coupled(keys, query, gamma, epsilon)
    values = keys @ (alpha @ keys)
    bound = np.tanh(gamma * np.ptp(values) / ((40 if wrong else 4) * epsilon))
    yield variation(alpha, softmax(keys @ query / epsilon)), float(bound)


class _Pair:
    """The two keys of the proof, between which equality occurs for the value tanh z/4."""

    def __init__(self, rng: np.random.Generator, wrong: bool) -> None:
        self.epsilon, self.gamma = 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-1.5, 0.5)
        self.z = float(rng.uniform(0.1, 6.0))
        share = np.exp(self.z / 2) / (1 + np.exp(self.z / 2))
        low = -self.epsilon * self.z / self.gamma - (0.9 if wrong else 1.0) * share
        self.keys, self.query = np.array([[low + 1], [low]]), np.array([-self.epsilon * self.z / 2])
        self.alpha = np.array([share, 1 - share])
        self.mean = self.alpha @ self.keys


@about_softmax("ineq:T6, equality", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    pair = _Pair(rng, wrong)
    fixed = softmax(pair.keys @ (pair.query - pair.gamma * pair.mean) / pair.epsilon)
    yield variation(fixed, pair.alpha), 0.0  # so these weights are the coupled ones
    bound = np.tanh(pair.gamma * np.ptp(pair.keys @ pair.mean) / (4 * pair.epsilon))
    reached = variation(pair.alpha, softmax(pair.keys @ pair.query / pair.epsilon))
    yield float(bound), reached


@about_softmax("ineq:T6, equality at every value", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    pair = _Pair(rng, wrong)
    yield abs(pair.gamma * float(np.ptp(pair.keys @ pair.mean)) / pair.epsilon - pair.z), 0.0


class _Ratios:
    """Two distributions, the ends of their ratio, and the range z of its logarithm."""

    def __init__(self, rng: np.random.Generator) -> None:
        n = int(rng.integers(2, 7))
        q = softmax(rng.normal(size=n))
        tilt = rng.normal(size=n) * 10 ** rng.uniform(-1, 1)
        p = softmax(np.log(q) + tilt)
        self.distance, self.z = variation(p, q), float(np.ptp(tilt))
        self.a, self.b = float((p / q).min()), float((p / q).max())

    @property
    def middle(self) -> float:
        return (self.b - 1) * (1 - self.a) / (self.b - self.a)

    def shown(self, z: float) -> float:
        return float((np.exp(z) + 1 - np.exp(z) * self.a - 1 / self.a) / (np.exp(z) - 1))


@about_softmax("ineq:ratio", times("0.99"))
def _(rng: np.random.Generator) -> Pairs:
    of = _Ratios(rng)
    yield of.distance, of.middle


@about_softmax("ineq:ratio, by the lower end", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    of = _Ratios(rng)
    yield abs(of.middle - of.shown(0.9 * of.z if wrong else of.z)), 0.0


@about_softmax("ineq:ratio, at the worst end", times("0.99"))
def _(rng: np.random.Generator) -> Pairs:
    of = _Ratios(rng)
    yield of.shown(of.z), float((np.exp(of.z / 2) - 1) ** 2 / (np.exp(of.z) - 1))


@about_softmax("ineq:ratio, as a tangent", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    z = _Ratios(rng).z
    top = (np.exp(z / 2) - 1) ** 2 / (np.exp(z) - 1)
    yield abs(float(top - np.tanh(z / (2 if wrong else 4)))), 0.0


class _Scores:
    """Logits of twelve keys, the best of them equal, and their softmax, sorted."""

    def __init__(self, rng: np.random.Generator) -> None:
        far = rng.random() < 0.3  # the rest in one place, so that the bounds are reached
        rest = np.zeros(12) if far else rng.normal(size=12) * 10 ** rng.uniform(-1, 1)
        best = int(rng.integers(1, 5))
        rest[:best] = rest.max() + rng.exponential(2.0)
        self.logits = np.sort(rest)[::-1]
        self.weights = softmax(self.logits)
        self.best = int((self.logits == self.logits[0]).sum())


@about_softmax("inline: mass off the arg max", times("0.9"), read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    of = _Scores(rng)
    gap = of.logits[0] - of.logits[of.best]
    among = 12 if wrong else of.best
    yield float(of.weights[of.best :].sum()), float((12 - of.best) * np.exp(-gap) / among)


@about_softmax("inline: mass off the best k", times("0.99"), read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    of = _Scores(rng)
    for k in range(1, 12):
        gap = (of.logits[0] if wrong else of.logits[k - 1]) - of.logits[k]
        yield float(of.weights[k:].sum()), float((12 - k) / (12 - k + k * np.exp(gap)))


class _Parts:
    """Weights and values of twelve tokens, of which some are read."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.a = softmax(3 * rng.normal(size=12))
        self.values = rng.normal(size=(12, 4))
        self.read = np.arange(12) < rng.integers(1, 12)
        self.renormalised = np.where(self.read, self.a, 0.0) / self.a[self.read].sum()
        self.mass = float(self.a[~self.read].sum())


@about_softmax("id:drop", times("2"))
def _(rng: np.random.Generator) -> Pairs:
    parts = _Parts(rng)
    yield variation(parts.renormalised, parts.a), parts.mass


@about_softmax("id:drop, of the output", times("2"))
def _(rng: np.random.Generator) -> Pairs:
    parts = _Parts(rng)
    a, values, read = parts.a, parts.values, parts.read
    means = [a[of] @ values[of] / a[of].sum() for of in (read, ~read)]
    error = parts.renormalised @ values - a @ values
    yield from zip(error.tolist(), (parts.mass * (means[0] - means[1])).tolist(), strict=True)


class _Pages:
    """Three unread pages and one that is read, with what is stored of them."""

    def __init__(self, rng: np.random.Generator) -> None:
        d = int(rng.choice([1, 5]))  # on a line boxes, balls and roundings are as tight as can be
        spread = 10 ** rng.uniform(-2, 0.3)
        around = rng.normal(size=(4, 8, d))
        if rng.random() < 0.3:  # keys at the two ends of their range, at each at least one
            one = np.arange(8)[:, None] == rng.integers(8)
            around = np.broadcast_to(np.where(one, -1.0, 1.0), around.shape)
        self.keys = spread * around + rng.normal(size=(4, 1, d))
        self.query = rng.normal(size=d)
        self.scale = float(rng.uniform(0.1, 1.5))
        self.logits = self.scale * self.keys @ self.query
        self.masses = np.exp(self.logits).sum(axis=1)
        self.low, self.high = self.keys.min(axis=1), self.keys.max(axis=1)
        self.mean = self.keys.mean(axis=1)
        self.radius = np.linalg.norm(self.keys - self.mean[:, None], axis=2).max(axis=1)
        self.length = float(np.linalg.norm(self.query))

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the logits by the greatest and least coordinates."""
        ends = self.scale * np.stack([self.query * self.low, self.query * self.high])
        return ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)

    @property
    def ball(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the logits by the distances from the mean."""
        centre, half = self.mean @ self.query, self.length * self.radius
        return self.scale * (centre - half), self.scale * (centre + half)

    def dropped(self) -> float:
        return float(self.masses[1:].sum() / self.masses.sum())


@about_softmax("ineq:T7", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    pages = _Pages(rng)
    upper = pages.masses[1:] * (0.5 if wrong else rng.uniform(1, 3, size=3))
    upper = pages.masses[1:] if rng.random() < 0.3 and not wrong else upper
    yield pages.dropped(), float(upper.sum() / (upper.sum() + pages.masses[0]))


@about_softmax("ineq:T7box", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    pages = _Pages(rng)
    yield from zip(pages.masses, 8 * np.exp(pages.box[0 if wrong else 1]), strict=True)


@about_softmax("ineq:T7box, of a ball", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    pages = _Pages(rng)
    yield from zip(pages.masses, 8 * np.exp(pages.ball[0 if wrong else 1]), strict=True)


def _chord(pages: _Pages, ends: tuple[np.ndarray, np.ndarray], share: float) -> np.ndarray:
    low, high = ends
    t = (pages.scale * pages.mean @ pages.query - low) / (high - low) * share
    return 8 * ((1 - t) * np.exp(low) + t * np.exp(high))


@about_softmax("ineq:T7chord", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    pages = _Pages(rng)
    for ends in (pages.box, pages.ball):
        bound = _chord(pages, ends, 0.2 if wrong else 1.0)
        yield from zip(pages.masses, bound, strict=True)


@about_softmax("ineq:T7ball", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    pages = _Pages(rng)
    half = pages.scale * pages.length * pages.radius * (0.2 if wrong else 1.0)
    bound = 8 * np.exp(pages.scale * pages.mean @ pages.query) * np.cosh(half)
    yield from zip(pages.masses.tolist(), bound.tolist(), strict=True)


class _Rounded:
    """Keys rounded to the nearest point of a grid, and by how much each score may err."""

    def __init__(self, pages: _Pages, bits: int) -> None:
        step = (pages.high - pages.low)[:, None] / (2**bits - 1)
        codes = np.round((pages.keys - pages.low[:, None]) / step)
        keys = pages.low[:, None] + codes * step
        self.scores = keys @ pages.query
        self.by_step = np.broadcast_to(
            0.5 * (step * np.abs(pages.query)).sum(axis=2), self.scores.shape
        )
        self.by_length = pages.length * np.linalg.norm(pages.keys - keys, axis=2)
        self.error = np.abs((pages.keys - keys) @ pages.query)

    @property
    def bound(self) -> np.ndarray:
        return np.minimum(self.by_step, self.by_length)


def _rounded(rng: np.random.Generator) -> Iterator[tuple[_Pages, _Rounded]]:
    pages = _Pages(rng)
    return ((pages, _Rounded(pages, bits)) for bits in (1, 2, 4, 8))


@about_softmax("ineq:T7bits", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    for pages, rounded in _rounded(rng):
        scores = rounded.scores + (-1 if wrong else 1) * rounded.bound
        bound = np.exp(pages.scale * scores).sum(axis=1)
        yield from zip(pages.masses.tolist(), bound.tolist(), strict=True)


@about_softmax("ineq:T7bits, half a step of the grid", times("0.98"))
def _(rng: np.random.Generator) -> Pairs:
    for _, rounded in _rounded(rng):
        yield from zip(rounded.error.flat, rounded.by_step.flat, strict=True)


@about_softmax("ineq:T7bits, the length of the rounding", times("0.99"))
def _(rng: np.random.Generator) -> Pairs:
    for _, rounded in _rounded(rng):
        yield from zip(rounded.error.flat, rounded.by_length.flat, strict=True)


@about_softmax("ineq:T7below", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    pages = _Pages(rng)
    lower = 8 * np.exp(pages.scale * pages.mean @ pages.query)[1:].sum() * (20 if wrong else 1)
    yield float(lower / (lower + pages.masses[0])), pages.dropped()
