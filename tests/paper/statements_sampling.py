"""What each labelled display about sampled reads says; expectations over every possible draw."""

import itertools
from collections.abc import Iterator

import numpy as np

from tests.paper.statement import read_wrong, times
from tests.paper.statements_softmax import Pairs, about_softmax

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

    @classmethod
    def rare(cls, rng: np.random.Generator) -> "Reads":
        """Sure tokens, and equal ones of little mass that are rarely drawn: bounds are reached."""
        mass = np.array([1.0, 1.0, *[1e-5] * (TOKENS - 2)])
        values = np.where(mass[:, None] == 1, 0.0, rng.normal(size=(1, 3)))
        return cls(mass, mass, 1e-3, values)

    @classmethod
    def some(cls, rng: np.random.Generator) -> "Reads":
        return cls.rare(rng) if rng.random() < 0.2 else cls.at_random(rng)

    @property
    def number(self) -> float:
        return float(self.pi[self.tail].sum())

    @property
    def away(self) -> np.ndarray:
        return np.linalg.norm(self.values - self.output, axis=1)

    @property
    def errors(self) -> np.ndarray:
        """ô − o of every draw, where something is always read."""
        return (self.weights @ self.values) / self.weights.sum(axis=1)[:, None] - self.output


@about_softmax("id:T8", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    reads = Reads.at_random(rng, power=0.9 if wrong else 1.0)
    total = reads.weights.sum(axis=1)
    for weights, sum_, z in zip(reads.weights, reads.sums, total, strict=True):
        if z > 0:
            error = weights @ reads.values / z - reads.output
            yield from zip(error.tolist(), (sum_ / z).tolist(), strict=True)


@about_softmax("id:T8, the mass", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    reads = Reads.at_random(rng, power=0.9 if wrong else 1.0)
    yield float(reads.mean(reads.weights.sum(axis=1))), float(reads.mass.sum())


@about_softmax("id:T8, the sum", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    reads = Reads.at_random(rng, power=0.9 if wrong else 1.0)
    centred = (reads.draws / reads.pi**reads.power - 1) @ (reads.drift * reads.tail[:, None])
    yield from ((value, 0.0) for value in reads.mean(centred).tolist())


@about_softmax("id:T8variance", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    reads = Reads.at_random(rng)
    squares = (reads.sums**2).sum(axis=1)
    lost = ((1 / reads.pi) * (reads.drift**2).sum(axis=1))[reads.tail].sum()  # without the − 1
    yield float(reads.mean(squares)), float(lost) if wrong else reads.variance


def _spread(numbers: np.ndarray, proxy: np.ndarray) -> float:
    return float((numbers**2 / proxy).sum() * proxy.sum() / numbers.sum() ** 2)


@about_softmax("ineq:T8", times("0.99"))
def _(rng: np.random.Generator) -> Pairs:
    reads = Reads.some(rng)
    mass, proxy = reads.mass[reads.tail], reads.proxy[reads.tail]
    share = mass.sum() / reads.mass.sum()
    bound = reads.away[reads.tail].max() * share * np.sqrt(_spread(mass, proxy) / reads.number)
    yield float(np.sqrt(reads.variance) / reads.mass.sum()), float(bound)


@about_softmax("ineq:T8, with distances", times("0.99"))
def _(rng: np.random.Generator) -> Pairs:
    reads = Reads.some(rng)
    products = (reads.mass * reads.away)[reads.tail]
    bound = products.sum() * np.sqrt(_spread(products, reads.proxy[reads.tail]) / reads.number)
    yield float(np.sqrt(reads.variance)), float(bound)


def _followed(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers and their proxies on a tail: masses, products, any others, and two of each."""
    reads = Reads.some(rng)
    for numbers in (reads.mass, reads.mass * reads.away, rng.uniform(0.1, 1, size=TOKENS)):
        yield numbers[reads.tail], reads.proxy[reads.tail]
    # Half of the numbers above their proxies by a factor, half below: as far off as ζ allows.
    off = np.exp(rng.uniform(0.1, 2))
    yield np.array([1.0, 1.0]), np.array([off, 1 / off])


@about_softmax("ineq:T8spread", times("0.99"))
def _(rng: np.random.Generator) -> Pairs:
    yield from ((1.0, _spread(*of)) for of in _followed(rng))


@about_softmax("ineq:T8spread, by the logarithms", times("0.99"), read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    for u, proxy in _followed(rng):
        zeta = 0.5 * np.ptp(np.log(proxy / u)) * (0.9 if wrong else 1.0)
        yield _spread(u, proxy), float(np.cosh(zeta) ** 2)


@about_softmax("id:T8bias", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    reads = Reads.at_random(rng)
    total = reads.weights.sum(axis=1)
    errors = reads.errors
    bias = -reads.mean((total - reads.mass.sum())[:, None] * errors) / reads.mass.sum()
    bias = 0 * bias if wrong else bias  # as if it were unbiased
    yield from zip(reads.mean(errors).tolist(), bias.tolist(), strict=True)


def _one_heavy_token_that_may_be_missed() -> Reads:
    values = np.array([[0.0], [1.0]])
    return Reads(np.array([0.01, 1.0]), np.array([1.0, 0.3]), 1.0, values)


def _missed_or_not(rng: np.random.Generator) -> tuple[Reads, float]:
    """A read, and the mass of its sure tokens."""
    planted = rng.random() < 0.25
    reads = _one_heavy_token_that_may_be_missed() if planted else Reads.some(rng)
    return reads, float(reads.mass[~reads.tail].sum())


@about_softmax("ineq:T8bias", read_wrong, times("0.98"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    reads, sure = _missed_or_not(rng)
    mass, proxy, all_mass = reads.mass[reads.tail], reads.proxy[reads.tail], reads.mass.sum()
    # As if the mass in the denominator were never below the whole.
    least = all_mass if wrong else sure
    per_token = _spread(mass, proxy) / reads.number
    bound = reads.away[reads.tail].max() * (mass.sum() / all_mass) ** 2 * per_token
    yield float(np.linalg.norm(reads.mean(reads.errors))), float(bound * all_mass / least)


@about_softmax("ineq:T8bias, the square", read_wrong, times("0.98"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    reads, sure = _missed_or_not(rng)
    least = reads.mass.sum() if wrong else sure
    yield float(reads.mean((reads.errors**2).sum(axis=1))), float(reads.variance / least**2)


@about_softmax("id:T8stages", read_wrong)
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
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


@about_softmax("ineq:T8tail", read_wrong, times("0.55"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
    reads = Reads.at_random(rng)
    variance, length = reads.variance, np.linalg.norm(reads.sums, axis=1)
    steps = np.maximum(1, 1 / reads.pi - 1) * np.linalg.norm(reads.drift, axis=1)
    largest = steps[reads.tail].max() * (0.1 if wrong else 1.0)
    variance *= 0.05 if wrong else rng.uniform(1, 2)
    for r in np.sqrt(variance) * np.array([0.01, 0.5, 1, 2, 3, 5]):
        u = largest * r / variance
        exponent = variance / largest**2 * ((1 + u) * np.log1p(u) - u)
        yield float(reads.chance[length >= r].sum()), float(2 * np.exp(-exponent))


@about_softmax("inline: the radius increases with the longest term", times("0.99"))
def _(rng: np.random.Generator) -> Pairs:
    y = np.exp(rng.uniform(-6, 6))
    yield float(y * np.log1p(y)), float(2 * ((1 + y) * np.log1p(y) - y))


@about_softmax("ineq:T8group", read_wrong, times("0.99"))
def _(rng: np.random.Generator, wrong: bool = False) -> Pairs:
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
