"""What each labelled display about sampled reads says; expectations over every possible draw."""

import itertools

import numpy as np

from tests.paper.statements_softmax import Pairs, statement

TOKENS = 7


class Reads:
    """A few tokens, of which some are sure, and every draw with its probability."""

    def __init__(
        self,
        mass: np.ndarray,
        proxy: np.ndarray,
        threshold: float,
        values: np.ndarray,
        power: float = 1.0,
    ) -> None:
        self.mass, self.proxy, self.values = mass, proxy, values
        self.pi = np.minimum(1, self.proxy / threshold)
        self.tail = self.pi < 1
        self.output = self.mass @ self.values / self.mass.sum()
        every = np.array(list(itertools.product([0, 1], repeat=mass.size)), float)
        chance = np.where(every == 1, self.pi, 1 - self.pi).prod(axis=1)
        self.draws, self.chance = every[chance > 0], chance[chance > 0]
        self.power = power
        self.weights = self.draws * self.mass / self.pi**power
        self.terms = (self.draws / self.pi - 1)[:, self.tail, None] * self.drift[self.tail]
        self.sums = self.terms.sum(axis=1)

    @classmethod
    def at_random(cls, rng: np.random.Generator, power: float = 1.0) -> "Reads":
        """Seven tokens whose proxies are off by a factor e at most."""
        mass = np.exp(rng.normal(size=TOKENS) * rng.uniform(0.1, 2))
        proxy = mass * np.exp(rng.uniform(-1, 1, size=TOKENS))
        threshold = float(np.sort(proxy)[int(rng.integers(2, TOKENS))])
        values = rng.normal(size=(TOKENS, 3)) + rng.normal(size=3)
        return cls(mass, proxy, threshold, values, power)

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
    reads = Reads.at_random(rng, power=0.9 if wrong else 1.0)
    total = reads.weights.sum(axis=1)
    for weights, sum_, z in zip(reads.weights, reads.sums, total, strict=True):
        if z > 0:
            error = weights @ reads.values / z - reads.output
            yield from zip(error.tolist(), (sum_ / z).tolist(), strict=True)
    yield float(reads.mean(total)), float(reads.mass.sum())
    centred = (reads.draws / reads.pi**reads.power - 1) @ (reads.drift * reads.tail[:, None])
    yield from ((value, 0.0) for value in reads.mean(centred).tolist())


@statement("id:T8variance")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = Reads.at_random(rng)
    squares = (reads.sums**2).sum(axis=1)
    lost = ((1 / reads.pi) * (reads.drift**2).sum(axis=1))[reads.tail].sum()  # without the − 1
    yield float(reads.mean(squares)), float(lost) if wrong else reads.variance


def _spread(numbers: np.ndarray, proxy: np.ndarray) -> float:
    return float((numbers**2 / proxy).sum() * proxy.sum() / numbers.sum() ** 2)


@statement("ineq:T8", clauses=2)
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = Reads.at_random(rng)
    mass, proxy = reads.mass[reads.tail], reads.proxy[reads.tail]
    away = np.linalg.norm(reads.values - reads.output, axis=1)[reads.tail]
    number = reads.pi[reads.tail].sum() * (2.0 if wrong else 1.0)  # twice as many as there are
    size = np.sqrt(reads.variance)
    share = mass.sum() / reads.mass.sum()
    bound = away.max() * share * np.sqrt(_spread(mass, proxy) / number)
    yield float(size / reads.mass.sum()), float(bound)
    products = mass * away
    yield float(size), float(products.sum() * np.sqrt(_spread(products, proxy) / number))


@statement("ineq:T8spread", clauses=2)
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = Reads.at_random(rng)
    away = np.linalg.norm(reads.values - reads.output, axis=1)
    for numbers in (reads.mass, reads.mass * away, rng.uniform(0.1, 1, size=TOKENS)):
        u, proxy = numbers[reads.tail], reads.proxy[reads.tail]
        # As if the tail had one token less.
        yield 1.0, _spread(u, proxy) * (1 - proxy.max() / proxy.sum() if wrong else 1.0)
        zeta = 0.5 * np.ptp(np.log(proxy / u)) * (0.7 if wrong else 1.0)
        yield _spread(u, proxy), float(np.cosh(zeta) ** 2)


@statement("id:T8bias")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = Reads.at_random(rng)
    total = reads.weights.sum(axis=1)
    errors = (reads.weights @ reads.values) / total[:, None] - reads.output
    bias = -reads.mean((total - reads.mass.sum())[:, None] * errors) / reads.mass.sum()
    bias = 0 * bias if wrong else bias  # as if it were unbiased
    yield from zip(reads.mean(errors).tolist(), bias.tolist(), strict=True)


def _one_heavy_token_that_may_be_missed() -> Reads:
    values = np.array([[0.0], [1.0]])
    return Reads(np.array([0.01, 1.0]), np.array([1.0, 0.3]), 1.0, values)


@statement("ineq:T8bias", clauses=2)
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    planted = rng.random() < 0.25
    reads = _one_heavy_token_that_may_be_missed() if planted else Reads.at_random(rng)
    mass, proxy = reads.mass[reads.tail], reads.proxy[reads.tail]
    total, all_mass = reads.weights.sum(axis=1), reads.mass.sum()
    # As if the mass in the denominator were never below the whole.
    least = all_mass if wrong else reads.mass[~reads.tail].sum()
    errors = (reads.weights @ reads.values) / total[:, None] - reads.output
    away = np.linalg.norm(reads.values - reads.output, axis=1)[reads.tail].max()
    per_token = _spread(mass, proxy) / reads.pi[reads.tail].sum()
    bound = away * (mass.sum() / all_mass) ** 2 * per_token * all_mass / least
    yield float(np.linalg.norm(reads.mean(errors))), float(bound)
    yield float(reads.mean((errors**2).sum(axis=1))), float(reads.variance / least**2)


@statement("id:T8stages")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    runs, size = 3, 2
    drift = rng.normal(size=(runs, size, 3))
    of_run, proxy = rng.uniform(0.2, 1, size=runs), rng.uniform(0.1, 1, size=(runs, size))
    between = ((1 / of_run - 1) * (drift.sum(axis=1) ** 2).sum(axis=1)).sum()
    square = inside = 0.0
    for opened in itertools.product([0, 1], repeat=runs):
        there = np.array(opened, float)
        chance = np.where(there == 1, of_run, 1 - of_run).prod()
        # The threshold depends on which runs were drawn.
        of_token = np.minimum(1, proxy / of_run[:, None] / (0.5 + there.sum()))
        within = ((1 / of_token - 1) * (drift**2).sum(axis=2)).sum(axis=1)
        inside += chance * (there / of_run ** (1 if wrong else 2) * within).sum()
        for taken in itertools.product([0, 1], repeat=runs * size):
            drawn = np.array(taken, float).reshape(runs, size)
            odds = np.where(drawn == 1, of_token, 1 - of_token).prod()
            factor = (there / of_run)[:, None] * drawn / of_token - 1
            square += chance * odds * (np.tensordot(factor, drift, axes=2) ** 2).sum()
    yield float(square), float(inside + between)


@statement("ineq:T8tail")
def _(rng: np.random.Generator, wrong: bool) -> Pairs:
    reads = Reads.at_random(rng)
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
