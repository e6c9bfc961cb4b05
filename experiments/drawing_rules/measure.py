"""By which rule should tokens be drawn, and is the error the one that T8 predicts (T8)?

The packaged heads of a language model (contexts of 1k tokens) are read with so many tokens a kv
head on average: drawn by a two-bit sketch with the lengths of the values and without, half of them
the best and half uniformly (vAttention's split), by locality-sensitive hashing (MagicPIG), by the
true masses, and by true mass times distance, than which no independent draw is better; beside the
best tokens by the sketch and by the true masses, and all tokens with keys of two and four bits. All
in NumPy and float64, from T8's formulas and not from the library: a second implementation.

For the mechanism's rule T8 computes a standard deviation √V/Z from the probabilities, and bounds it
by each head's share of the tail t, dispersion χ and tokens drawn ν; the error of many draws is held
against the former, head by head.

Examples:
  python -m experiments drawing_rules
  python -m experiments drawing_rules --tokens 128 256 --draws 16
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.drawing_rules import hashing
from experiments.drawing_rules.rules import RULES
from experiments.framework.outcome import Measured
from experiments.shared import drawing
from experiments.shared.recorded import SURE, Layer, best_tokens, read_layer
from vashista_theory import runs
from vashista_theory.hull.heads import load_heads

MECHANISM = "sketched mass × length"
HASHED = "locality-sensitive hashing"


@dataclass(frozen=True)
class Config:
    """What to read.

    Attributes:
        tokens: Tokens a kv head on average, sink and recent ones included.
        draws: Draws by each rule; the mechanism's own is drawn four times as often.
        seed: Of all draws.
        quick: One layer and one number of tokens, for tests.
    """

    tokens: tuple[int, ...] = (64, 128, 256, 512)
    draws: int = 16
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise ValueError(f"draws is {self.draws}; expected at least 2")
        if not self.tokens or min(self.tokens) <= SURE:
            raise ValueError(
                f"tokens is {self.tokens}; expected numbers above {SURE}, of which some "
                "are left to draw"
            )

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config((128,), 8, self.seed, quick=True)


def measure(config: Config) -> Measured:
    """Read every layer by every rule."""
    heads = load_heads()
    indices = range(1) if config.quick else range(len(heads.layers))
    errors: dict[tuple[str, int], list[np.ndarray]] = {}
    predicted: dict[int, list[dict[str, np.ndarray]]] = {}
    hashes: dict[int, list[int]] = {}
    rng = np.random.default_rng(config.seed)
    with runs.Progress(
        len(indices), description="Layers", mode="none" if config.quick else "bar", unit="layers"
    ) as bar:
        for index in indices:
            layer = read_layer(heads, index)
            for name, error in _whole(layer):
                errors.setdefault((name, layer.keys.shape[1]), []).append(error)
            for tokens in config.tokens:
                for name, error in (*_selected(layer, tokens), *_drawn(layer, tokens, config, rng)):
                    errors.setdefault((name, tokens), []).append(error)
                error, found = _hashed(layer, tokens, config, rng)
                errors.setdefault((HASHED, tokens), []).append(error)
                hashes.setdefault(tokens, []).append(found)
                predicted.setdefault(tokens, []).append(_predicted(layer, tokens, config, rng))
            bar.advance()
    layers = heads.layers[: len(indices)]
    return Measured(
        {
            "errors": [_error_row(*key, np.concatenate(e, None)) for key, e in errors.items()],
            "all heads": [
                {
                    "tokens": tokens,
                    **_summary({name: np.stack([one[name] for one in found]) for name in found[0]}),
                }
                for tokens, found in predicted.items()
            ],
            "heads": [
                {"tokens": tokens, "layer": int(number), "head": head, **_of_head(one, head)}
                for tokens, found in predicted.items()
                for number, one in zip(layers, found, strict=True)
                for head in range(one["tail"].shape[1])
            ],
        },
        {f"hash bits, {tokens} tokens": str(sorted(set(k))) for tokens, k in hashes.items()},
    )


def _whole(layer: Layer) -> Iterator[tuple[str, np.ndarray]]:
    """All tokens, with rounded keys."""
    for bits in (2, 4):
        shares = layer.shares_over(drawing.rounded(layer.keys, bits))
        found = layer.output_by(np.ones_like(shares), shares)
        yield f"all tokens, keys of {bits} bits", layer.relative(found)


def _selected(layer: Layer, tokens: int) -> Iterator[tuple[str, np.ndarray]]:
    """The best so many for each group."""
    sketched = layer.shares_over(drawing.rounded(layer.keys, 2))
    for name, shares in (("sketch", sketched), ("true mass", layer.shares)):
        kept = best_tokens(layer, shares, tokens)
        yield f"best tokens by {name}", layer.relative(layer.output_by(kept))


def _drawn(
    layer: Layer, tokens: int, config: Config, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    for name, rule in RULES.items():
        chance = rule(layer, tokens)
        draws = [drawing.draw(layer, chance, rng) for _ in range(config.draws)]
        yield name, np.stack([layer.relative(layer.output_by(one)) for one in draws])


def _hashed(
    layer: Layer, tokens: int, config: Config, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Errors with the number of bits that serves the layer best, and that number."""
    found: list[tuple[np.ndarray, int]] = []
    for bits in hashing.BITS:
        tables = hashing.tables_for(layer, bits, tokens)
        if tables is None:
            continue
        draws = [hashing.draw(layer, bits, tables, rng) for _ in range(max(2, config.draws // 4))]
        errors = np.stack([layer.relative(layer.output_by(one)) for one in draws])
        found.append((errors, bits))
    return min(found, key=lambda one: float(np.median(one[0])))


def _predicted(
    layer: Layer, tokens: int, config: Config, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What T8 says of each head under the mechanism's rule, and what many draws give."""
    chance = RULES[MECHANISM](layer, tokens)
    said = drawing.predict(layer, chance)
    squares = [
        layer.relative(layer.output_by(drawing.draw(layer, chance, rng))) ** 2
        for _ in range(4 * config.draws)
    ]
    best = drawing.predict(layer, drawing.by_mass_and_distance(layer, tokens))
    return {
        "tail": said.tail,
        "drawn": said.drawn,
        "dispersion": said.dispersion,
        "predicted": said.deviation,
        "bound": said.bound,
        "measured": np.sqrt(np.mean(squares, axis=0)),
        "best": best.deviation,
    }


def _error_row(rule: str, tokens: int, errors: np.ndarray) -> dict[str, Any]:
    return {
        "rule": rule,
        "tokens": tokens,
        "median": float(np.median(errors)),
        "mean": float(np.mean(errors)),
        "tenth": float(np.quantile(errors, 0.9)),
    }


def _summary(of: dict[str, np.ndarray]) -> dict[str, Any]:
    """Medians over rows, and how well the prediction and what was measured agree."""
    some = of["predicted"] > 0
    ratio = of["measured"][some] / of["predicted"][some]
    low, middle, high = np.quantile(ratio, [0.05, 0.5, 0.95])
    logs = np.log([of[name][some] for name in ("predicted", "measured")])
    return {
        **{name: float(np.median(numbers)) for name, numbers in of.items()},
        "ratio_low": float(low),
        "ratio": float(middle),
        "ratio_high": float(high),
        "correlation": float(np.corrcoef(logs)[0, 1]),
    }


def _of_head(of: dict[str, np.ndarray], head: int) -> dict[str, Any]:
    """Over the positions of one head: roots of mean squares of errors, means of the others."""
    means = ("tail", "drawn", "dispersion")
    return {
        name: float(np.mean(column) if name in means else np.sqrt(np.mean(column**2)))
        for name, column in ((name, numbers[:, head]) for name, numbers in of.items())
    }
