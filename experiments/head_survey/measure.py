"""Does the gap predict where sparse reading is safe? Support, hull and gaps of real heads.

Over layers, heads, positions, lengths and texts of a language model: how many tokens hold 90, 99
and 99.9 % of the mass and how that grows with the context; what the hull projection says at the
model's own temperature; and how well each diagnostic tells the queries apart that lose mass, or
output, when a fixed number of pages is read. Needs the extra lm; the model and two of the texts
are fetched by package.

Examples:
  python -m experiments head_survey
  python -m experiments head_survey --text pydoc-topics --contexts 512 1024 --results FOLDER
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.framework.outcome import Measured, NotMeasured
from experiments.head_survey.rows import measured
from vashista_theory import runs
from vashista_theory.evaluation import survey, texts
from vashista_theory.evaluation.language_model import LanguageModel
from vashista_theory.evaluation.run import load_model

BY_HAND = "reads three texts with a language model, an hour where nothing is stored"

_STRIDE = 64


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        text: Names or files.
        contexts: Lengths, in tokens.
        segments: Stretches of each text.
        queries: Positions of a stretch, 64 apart, from its end; the last is also projected.
        pages: Pages that the sparse read takes.
        store: Folder of what is measured already; a run that was stopped goes on from it.
        quick: One text at 512 tokens, two queries.
    """

    model: str = "smollm2-135m"
    text: tuple[str, ...] = ("pydoc-topics", "moby-dick", "sotu")
    contexts: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    segments: int = 2
    queries: int = 4
    pages: int = 16
    store: Path = Path("vashista_survey")
    quick: bool = False

    def __post_init__(self) -> None:
        if min(self.segments, self.queries, self.pages - 1) < 1 or not self.text:
            raise ValueError("expected a text, a segment, a query and two pages at least")
        if not self.contexts or min(self.contexts) <= _STRIDE * self.queries:
            raise ValueError(
                f"contexts are {self.contexts}; each must exceed {_STRIDE * self.queries} tokens, "
                f"which {self.queries} queries {_STRIDE} apart span"
            )

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        place = self.store / "quick"
        return Config(self.model, self.text[:1], self.contexts[:1], 1, 2, self.pages, place, True)


def measure(config: Config) -> Measured:
    """Measure every stretch, then ask each diagnostic what it would have known."""
    try:
        model = load_model(config.model)
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    return measured(surveyed(config, model))


def surveyed(config: Config, model: LanguageModel) -> xr.Dataset:
    """One instance a stretch; (layer, head, query) for each measure."""
    plan = [
        (text, segment, context)
        for context in config.contexts
        for text in config.text
        for segment in range(config.segments)
    ]
    names = ("model", "text", "contexts", "segments", "queries", "pages")
    identity = {name: getattr(config, name) for name in names}
    store = runs.open_store(
        config.store / f"{runs.fingerprint(identity)[:12]}",
        _template(config, model, plan),
        identity,
        block_size=1,
    )
    tokens = {
        (name, number): stretch
        for name in config.text
        for number, stretch in enumerate(
            texts.segments(
                texts.load(name),
                model.encode,
                count=config.segments,
                tokens=max(config.contexts),
                name=name,
            )
        )
    }

    def block(number: int) -> xr.Dataset:
        text, segment, context = plan[number]
        return _stretch(model, tokens[text, segment][-context:], config)

    runs.run_blocks(store, block, description="Survey", progress="bar")
    return store.load()


def _stretch(model: LanguageModel, tokens: np.ndarray, config: Config) -> xr.Dataset:
    span = _STRIDE * (config.queries - 1) + 1
    lengths = tokens.size - span + 1 + np.arange(0, span, _STRIDE)
    layers: list[dict[str, np.ndarray]] = []
    for one in model.record(tokens, span):
        asked = survey.Recorded(one.queries[:, ::_STRIDE], one.keys, one.values, one.scale)
        last = survey.Recorded(one.queries[:, -1:], one.keys, one.values, one.scale)
        spread = survey.support(asked, lengths, config.pages * 16)
        found = survey.hull(last, lengths[-1:])
        read = survey.sparse_read(asked, lengths, config.pages)
        fields = {f"read_{name}": value for name, value in read._asdict().items()}
        fields |= {f"hull_{name}": value[:, 0] for name, value in found._asdict().items()}
        fields |= {name: value for name, value in spread._asdict().items() if name != "tokens"}
        fields["tokens"] = np.moveaxis(spread.tokens, 0, -1)
        layers.append(fields)
    joined = {name: np.stack([layer[name] for layer in layers])[None] for name in layers[0]}
    return xr.Dataset(
        {name: (_dimensions(name), np.asarray(a, np.float64)) for name, a in joined.items()}
    )


def _dimensions(name: str) -> tuple[str, ...]:
    shape = ("instance", "layer", "head")
    if name.startswith("hull_"):
        return shape
    return (*shape, "query", "share") if name == "tokens" else (*shape, "query")


def _template(config: Config, model: LanguageModel, plan: list[tuple[str, int, int]]) -> xr.Dataset:
    sizes = {
        "instance": len(plan),
        "layer": model.layers,
        "head": model.heads,
        "query": config.queries,
        "share": len(survey.SHARES),
    }
    names = [f"read_{name}" for name in survey.SparseRead._fields]
    names += [f"hull_{name}" for name in survey.Hull._fields]
    names += list(survey.Support._fields)
    variables = {
        name: (dims, np.full([sizes[d] for d in dims], np.nan))
        for name in names
        for dims in [_dimensions(name)]
    }
    columns = zip(*plan, strict=True)
    labels = dict(zip(("text", "segment", "context"), columns, strict=True))
    return xr.Dataset(
        variables,
        coords={
            "share": list(survey.SHARES),
            **{name: ("instance", list(values)) for name, values in labels.items()},
        },
    )
