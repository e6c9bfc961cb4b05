"""What each labelled display about sampled reads says; expectations over every possible draw."""

import itertools

import numpy as np

from tests.paper.statements_softmax import Pairs, statement

TOKENS = 7
DRAWS = np.array(list(itertools.product([0, 1], repeat=TOKENS)), float)


class _Reads:
    """Seven tokens, of which some are sure, and every draw with its probability."""

    def __init__(self, rng: np.random.Generator, power: float = 1.0) -> None:
        self.mass = np.exp(rng.normal(size=TOKENS) * rng.uniform(0.1, 2))
        self.proxy = self.mass * np.exp(rng.uniform(-1, 1, size=TOKENS))
        self.threshold = np.sort(self.proxy)[int(rng.integers(2, TOKENS))]
        self.pi = np.minimum(1, self.proxy / self.threshold)
        self.tail = self.pi < 1
        self.values = rng.normal(size=(TOKENS, 3)) + rng.normal(size=3)
        self.output = self.mass @ self.values / self.mass.sum()
        chance = np.where(DRAWS == 1, self.pi, 1 - self.pi).prod(axis=1)
        self.draws, self.chance = DRAWS[chance > 0], chance[chance > 0]
        self.weights = self.draws * self.mass / self.pi**power
        self.terms = (self.draws / self.pi - 1)[:, self.tail, None] * self.drift[self.tail]
        self.sums = self.terms.sum(axis=1)

    @property
    def drift(self) -> np.ndarray:
        return self.mass[:, None] * (self.values - self.output)

    @property
    def variance(self) -> float:
        return float(((1 / self.pi - 1) * (self.drift**2).sum(axis=1))[self.tail].sum())

    def mean(self, numbers: np.ndarray) -> np.ndarray:
        return self.chance @ numbers


@statement("id:T8")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = _Reads(rng, power=0.9 if wrong else 1.0)
    total = reads.weights.sum(axis=1)
    for weights, sum_, z in zip(reads.weights, reads.sums, total, strict=True):
        if z > 0:
            error = weights @ reads.values / z - reads.output
            yield from zip(error.tolist(), (sum_ / z).tolist(), strict=True)
    yield float(reads.mean(total)), float(reads.mass.sum())
    yield from ((value, 0.0) for value in reads.mean(reads.sums).tolist())


@statement("id:T8variance")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = _Reads(rng)
    squares = (reads.sums**2).sum(axis=1)
    lost = ((1 / reads.pi) * (reads.drift**2).sum(axis=1))[reads.tail].sum()  # without the − 1
    yield float(reads.mean(squares)), float(lost) if wrong else reads.variance


@statement("ineq:T8")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = _Reads(rng)
    mass, proxy = reads.mass[reads.tail], reads.proxy[reads.tail]
    far = np.linalg.norm(reads.values - reads.output, axis=1)[reads.tail].max()
    spread = (mass**2 / proxy).sum() * proxy.sum() / mass.sum() ** 2
    share, number = mass.sum() / reads.mass.sum(), reads.pi[reads.tail].sum()
    bound = far * share * np.sqrt(spread / number) * (0.3 if wrong else 1.0)
    yield float(np.sqrt(reads.variance) / reads.mass.sum()), float(bound)
    yield 1.0, float(spread)
    yield float(spread), float(np.exp(2 * np.abs(np.log(mass / proxy)).max()))


@statement("ineq:T8tail")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = _Reads(rng)
    variance, length = reads.variance, np.linalg.norm(reads.sums, axis=1)
    steps = np.maximum(1, 1 / reads.pi - 1) * np.linalg.norm(reads.drift, axis=1)
    largest = steps[reads.tail].max() * (0.1 if wrong else 1.0)
    variance *= 0.05 if wrong else rng.uniform(1, 2)
    for r in np.sqrt(variance) * np.array([0.5, 1, 2, 3, 5]):
        u = largest * r / variance
        exponent = variance / largest**2 * ((1 + u) * np.log1p(u) - u)
        yield float(reads.chance[length >= r].sum()), float(2 * np.exp(-exponent))


@statement("ineq:T8group")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    masses = np.exp(1.5 * rng.normal(size=(3, TOKENS)))
    squares = ((masses / masses.sum(axis=1, keepdims=True)) ** 2).sum(axis=0)
    size = squares if wrong else np.sqrt(squares)
    best = np.minimum(1, size / np.sort(size)[int(rng.integers(1, TOKENS))])
    for _ in range(30):
        # Any other probabilities of the same sum: a little is moved between two tokens.
        moved = best.copy()
        give, take = rng.permutation(TOKENS)[:2]
        moved[give] -= (amount := rng.uniform(0, min(best[give], 1 - best[take])) * 0.999)
        moved[take] += amount
        yield float((squares * (1 / best - 1)).sum()), float((squares * (1 / moved - 1)).sum())
