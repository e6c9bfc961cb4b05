r"""What does a longer context ask of a draw, and does the read still know its error (T8)?

A language model reads ends of texts at several lengths; every layer's last queries, keys and values
are kept. Of each head: the share t of the mass that the tail holds when so many tokens are drawn,
the tokens ν drawn from it, the dispersion χ of the sketch, and so the error √V/Z that T8 predicts,
computed in NumPy and float64. Beside it the mechanism itself (`Policy.sampled`, a fresh key for
every draw): its error, and how often that error is above the estimate that the read reports.
Needs the extra lm; the model and two of the texts are fetched by package.

Examples:
  python -m experiments sampled_contexts
  python -m experiments sampled_contexts --text pydoc-topics --contexts 1024 2048
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.framework.outcome import Measured, NotMeasured, Outcome, Rows, sentences
from experiments.shared import drawing
from experiments.shared.recorded import PAGE, SURE, Layer, best_tokens, layer_of
from vashista_theory import runs
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.evaluation import texts
from vashista_theory.evaluation.language_model import LanguageModel
from vashista_theory.evaluation.run import load_model

BY_HAND = "reads three texts with a language model, some minutes"

BITS = 2
_STRIDE = 64
_QUANTITIES = {
    "tail": "t, share of the mass that the tail holds; medians over layers, heads and queries",
    "drawn": "ν, tokens drawn from the tail",
    "dispersion": "χ(u) of the sketch, u mass × distance",
    "predicted": "√V/Z over the length of the output (T8)",
    "error": "relative error of the mechanism's output, draws included",
    "best_tokens": "that of the tokens of most mass",
}
_CALIBRATION = {
    "rows": "layers, heads and queries",
    "ratio": "error over its estimate, median over rows and draws",
    "ratio_high": "the same, 95th percentile",
    "below_2": "share of errors below twice the estimate",
}
_COLUMNS = {
    "contexts": {"context": "tokens", **_QUANTITIES, **_CALIBRATION},
    "texts": {"text": "name", "context": "tokens", **_QUANTITIES, **_CALIBRATION},
    "layers": {"context": "tokens", "layer": "number", **_QUANTITIES},
}


@dataclass(frozen=True)
class Config:
    """What to read.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        text: Names or files.
        contexts: Lengths, in tokens, multiples of 16.
        queries: Positions of a text, 64 apart, from its end.
        tokens: Tokens a kv head on average, sink and recent ones included.
        draws: Draws for each query.
        seed: Of all draws.
        quick: One text at the first length, every tenth layer.
    """

    model: str = "smollm2-135m"
    text: tuple[str, ...] = ("pydoc-topics", "moby-dick", "sotu")
    contexts: tuple[int, ...] = (1024, 2048, 4096, 8192)
    queries: int = 4
    tokens: int = 256
    draws: int = 4
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if min(self.queries, self.draws) < 1 or not self.text:
            raise ValueError("expected a text, a query and a draw at least")
        if self.tokens <= SURE:
            raise ValueError(
                f"tokens is {self.tokens}; expected more than {SURE}, of which some are "
                "left to draw"
            )
        span = _STRIDE * self.queries + self.tokens
        if not self.contexts or any(c % PAGE or c <= span for c in self.contexts):
            raise ValueError(
                f"contexts are {self.contexts}; expected multiples of {PAGE} above {span}, the "
                "tokens that queries span and that are read"
            )

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(
            self.model, self.text[:1], self.contexts[:1], 2, self.tokens, 2, self.seed, quick=True
        )

    @property
    def every(self) -> int:
        """Which layers are looked at: each so many."""
        return 10 if self.quick else 1


def measure(config: Config) -> Measured:
    """Read every text at every length."""
    try:
        model = load_model(config.model)
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    plan = [(context, text) for context in config.contexts for text in config.text]
    found: dict[tuple[int, str], list[dict[str, np.ndarray]]] = {}
    with runs.Progress(
        len(plan), description="Texts", mode="none" if config.quick else "bar", unit="texts"
    ) as bar:
        for number, (context, text) in enumerate(plan):
            found[context, text] = [
                read(layer, config, jax.random.fold_in(jax.random.key(config.seed), number))
                for layer in recorded(model, text, context, config)
            ]
            bar.advance()

    def at(context: int) -> list[list[dict[str, np.ndarray]]]:
        return [found[context, text] for text in config.text]

    return Measured(
        {
            "contexts": [
                {
                    "context": context,
                    **_row(_joined([layer for text in at(context) for layer in text])),
                }
                for context in config.contexts
            ],
            "texts": [
                {"text": text, "context": context, **_row(_joined(parts))}
                for (context, text), parts in found.items()
            ],
            "layers": [
                {"context": context, "layer": index, **_medians(_joined(parts))}
                for context in config.contexts
                for index, *parts in zip(
                    range(model.layers)[:: config.every],
                    *at(context),
                    strict=True,
                )
            ],
        }
    )


def recorded(model: LanguageModel, text: str, context: int, config: Config) -> Iterator[Layer]:
    """The layers of the model at the end of a stretch of a text."""
    (tokens,) = texts.segments(
        texts.load(text), model.encode, count=1, tokens=max(config.contexts), name=text
    )
    span = _STRIDE * (config.queries - 1) + 1
    lengths = context - span + 1 + np.arange(0, span, _STRIDE)
    for one in model.record(tokens[-context:], span)[:: config.every]:
        queries = one.queries[:, ::_STRIDE]
        yield layer_of(queries, one.keys, one.values, lengths, one.scale)


def read(layer: Layer, config: Config, key: jax.Array) -> dict[str, np.ndarray]:
    """What T8 says of a layer, and what the mechanism does; (position, head), or with draws."""
    said = drawing.predict(layer, drawing.by_sketch(layer, config.tokens))
    copies = len(layer.lengths)
    keys, values = (np.repeat(a[None], copies, axis=0) for a in (layer.keys, layer.values))
    spec = SummarySpec(ball=False, sketch_bits=BITS)
    cache = PagedKV.from_tokens(keys, values, lengths=layer.lengths, page_size=PAGE, spec=spec)
    policy = Policy.sampled(config.tokens, dense_below=0)
    size = np.linalg.norm(layer.output, axis=2)
    errors, estimates = [], []
    for draw in range(config.draws):
        output, info = vashista_attention(
            layer.queries, cache, policy, scale=layer.scale, key=jax.random.fold_in(key, draw)
        )
        errors.append(layer.relative(np.asarray(output)))
        estimates.append(np.asarray(info.error_estimate) / size)
    return {
        "tail": said.tail,
        "drawn": said.drawn,
        "dispersion": said.dispersion,
        "predicted": said.deviation,
        "error": np.stack(errors),
        "estimate": np.stack(estimates),
        "best_tokens": layer.relative(
            layer.output_by(best_tokens(layer, layer.shares, config.tokens))
        ),
    }


def _joined(parts: Any) -> dict[str, np.ndarray]:
    return {name: np.concatenate([one[name] for one in parts], None) for name in parts[0]}


def _medians(of: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.median(of[name])) for name in _QUANTITIES}


def _row(of: dict[str, np.ndarray]) -> dict[str, float]:
    # Where all tokens of the tail are sure, error and estimate are rounding.
    drawn = of["estimate"] > 0
    ratios = of["error"][drawn] / of["estimate"][drawn]
    return {
        "rows": of["tail"].size,
        **_medians(of),
        "ratio": float(np.median(ratios)),
        "ratio_high": float(np.quantile(ratios, 0.95)),
        "below_2": float(np.mean(ratios < 2)),
    }


def exponent(rows: Rows, name: str) -> float:
    """Slope of the logarithm of a column in the logarithm of the context, by least squares."""
    lengths = np.log([row["context"] for row in rows])
    return float(np.polyfit(lengths, np.log([row[name] for row in rows]), 1)[0])


def report(found: Measured) -> Outcome:
    """How the tail grows, and whether the estimate holds."""
    rows = found.tables["contexts"]
    slopes = {
        f"exponent of {name}": exponent(rows, name)
        for name in ("tail", "predicted", "error", "best_tokens")
        if len(rows) > 1
    }
    return Outcome(
        tables=found.described(_COLUMNS, hidden=("layers",)),
        values={
            **slopes,
            "tokens": found.configuration["tokens"],
            "highest ratio": max(float(row["ratio_high"]) for row in found.tables["texts"]),
        },
        findings=list(_said(rows, slopes)),
        notes=sentences(
            f"""- One stretch of each text, of which the shorter contexts are the end; the last
              queries, {_STRIDE} tokens apart; the first page of {PAGE} tokens and the last are
              always read.
            - T8 in NumPy: keys of two bits on a grid between the corners of their page's box, each
              kv head draws as many on average. The mechanism lets those of a layer share them.
            """
        ),
        failures=found.failures,
    )


def _said(rows: Rows, slopes: dict[str, float]) -> Iterator[str]:
    for row in rows:
        yield (
            f"{row['context']:,} tokens: t = {row['tail']:.2g}, ν = {row['drawn']:.0f}, χ = "
            f"{row['dispersion']:.2g} and √V/Z = {row['predicted']:.2g} in the median; error "
            f"{row['error']:.2g} (best tokens {row['best_tokens']:.2g}), over its estimate "
            f"{row['ratio']:.2f} in the median and {row['ratio_high']:.2f} at the 95th percentile."
        )
    if slopes:
        yield (
            f"Exponents in the length: tail {slopes['exponent of tail']:.2f}, error "
            f"{slopes['exponent of error']:.2f}, of the best tokens "
            f"{slopes['exponent of best_tokens']:.2f}."
        )
