"""The three measurements as labelled datasets: coordinates, variables, and what identifies them."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from vashista_theory import runs
from vashista_theory.evaluation import texts
from vashista_theory.evaluation.config import EvaluationConfig
from vashista_theory.evaluation.language_model import LanguageModel
from vashista_theory.models.own_policies import checksum
from vashista_theory.runs.manifest import package_versions

PERPLEXITY, RETRIEVAL, CERTIFICATES = "perplexity", "retrieval", "certificates"
_PIECES, _PIECE = 256, 4096  # of a file of weights, and bytes of each


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Some tokens of a text, and how many of them make the context."""

    text: str
    segment: int
    context: int


@dataclasses.dataclass(frozen=True)
class Question:
    """One prompt of a task."""

    task: str
    seed: int
    context: int


def stretches(config: EvaluationConfig) -> list[Stretch]:
    """Every text, context and stretch; shortest contexts first, so that a first look comes soon."""
    return [
        Stretch(text, segment, context)
        for context in config.contexts
        for text in config.text
        for segment in range(config.segments)
    ]


def questions(config: EvaluationConfig) -> list[Question]:
    """Every prompt, seed after seed, so that a run that was stopped has some of each task."""
    return [
        Question(task, config.seed + number, context)
        for context in config.contexts
        for number in range(config.prompts)
        for task in config.tasks
    ]


def tokens_of(config: EvaluationConfig, model: LanguageModel) -> dict[tuple[str, int], np.ndarray]:
    """Tokens of each stretch at the longest context; a shorter one takes the last of them.

    So the same positions are predicted at every context length.
    """
    found: dict[tuple[str, int], np.ndarray] = {}
    for name in config.text:
        cut = texts.segments(
            texts.load(name),
            model.encode,
            count=config.segments,
            tokens=max(config.contexts) + 1,
            name=name,
        )
        found |= {(name, number): tokens for number, tokens in enumerate(cut)}
    return found


def refuse_beyond_memory(config: EvaluationConfig, layers: int = 1, heads: int = 1) -> None:
    """Refuse an evaluation whose datasets could not be held, before they are built.

    Raises:
        ValueError: With what was asked for, and what it takes.
    """
    rows, contexts = len(config.readers()), len(config.contexts)
    stretched = contexts * len(config.text) * config.segments
    asked = contexts * config.prompts * len(config.tasks)
    # Bytes of the variables of the three templates below, and of what is planned.
    predicted = stretched * rows * (9 * config.positions + 16 * layers + 12)
    retrieved = asked * (26 * rows + 12)
    audited = 21 * stretched * len(config.tolerances) * layers * heads * config.audited
    runs.refuse_beyond_memory(
        f"an evaluation of {stretched:,} stretches of text (segments is {config.segments:,}) and "
        f"{asked:,} prompts (prompts is {config.prompts:,}) by {rows:,} readers",
        # Twice: what stands for "not computed", and what was.
        2 * (predicted + retrieved + audited) + 200 * (stretched + asked),
        "Ask for fewer segments, prompts, positions, audited positions, contexts or policies",
    )


def measurements(config: EvaluationConfig) -> tuple[str, ...]:
    """What is measured: a text takes perplexity, and certificates if some are audited."""
    audited = config.text and config.audited and config.tolerances
    asked = {PERPLEXITY: config.text, RETRIEVAL: config.tasks, CERTIFICATES: audited}
    return tuple(name for name, wanted in asked.items() if wanted)


def perplexity_template(config: EvaluationConfig, layers: int) -> xr.Dataset:
    """Instances are stretches; nothing is computed yet."""
    planned, rows = stretches(config), list(config.readers())
    shape = {"instance": len(planned), "policy": len(rows)}
    by_position, by_layer = {"position": config.positions}, {"layer": layers}
    return xr.Dataset(
        {
            **_empty(("surprise", "divergence"), shape | by_position),
            **_empty(("agrees",), shape | by_position, np.int8),
            **_empty(("pages_read", "dropped", "dropped_beyond_first", "error"), shape | by_layer),
            **_empty(("pages_median", "pages_high", "certified"), shape),
        },
        coords={"policy": rows, **_labels(planned)},
    )


def retrieval_template(config: EvaluationConfig) -> xr.Dataset:
    """Instances are prompts."""
    planned, rows = questions(config), list(config.readers())
    shape = {"instance": len(planned), "policy": len(rows)}
    numbers = ("token_accuracy", "log_probability", "margin", "pages_read", "dropped", "error")
    return xr.Dataset(
        {
            **_empty(("exact", "chosen"), shape, np.int8),
            **_empty(numbers, shape),
            **_empty(("depth",), {"instance": len(planned)}),
            **_empty(("tokens",), {"instance": len(planned)}, np.int64),
        },
        coords={"policy": rows, **_labels(planned)},
    )


def certificates_template(config: EvaluationConfig, layers: int, heads: int) -> xr.Dataset:
    """Instances are stretches; every query of every head is kept."""
    planned = stretches(config)
    shape = {
        "instance": len(planned),
        "tolerance": len(config.tolerances),
        "layer": layers,
        "head": heads,
        "query": config.audited,
    }
    return xr.Dataset(
        {
            **_empty(("dropped", "bound"), shape, np.float64),
            **_empty(("pages_read",), shape, np.float32),
            **_empty(("certified",), shape, np.int8),
        },
        coords={"tolerance": np.asarray(config.tolerances), **_labels(planned)},
    )


def _labels(planned: Sequence[Stretch | Question]) -> dict[str, tuple[str, list[Any]]]:
    """The fields of what is planned as coordinates of the instances."""
    return {
        field.name: ("instance", [getattr(one, field.name) for one in planned])
        for field in dataclasses.fields(planned[0])
    }


def identity(config: EvaluationConfig, measurement: str) -> dict[str, Any]:
    """What the values of a measurement depend on; the rest of the configuration may change."""
    common = ("model", "contexts")
    stretch = ("text", "segments")
    fields = {
        PERPLEXITY: (*common, *stretch, "positions"),
        RETRIEVAL: (*common, "tasks", "prompts", "seed", *(() if config.choices else ("choices",))),
        CERTIFICATES: (*common, *stretch, "audited", "tolerances"),
    }[measurement]
    found: dict[str, Any] = {name: getattr(config, name) for name in fields}
    found["model"] = _named_model(config.model)
    found["text"] = list(named_texts(config)) if "text" in found else []
    if measurement != CERTIFICATES:
        found["policy"] = list(config.readers())
        if config.imports:
            found["imports"] = [f"{path.name} {checksum(path)}" for path in config.imports]
        own = {policy.name: policy.code() for policy, _ in config.readers().values()}
        if any(own.values()):
            found["own"] = {name: code for name, code in own.items() if code is not None}
    software = package_versions(("jax", "torch", "transformers"))
    return {"measurement": measurement, **found, "software": software}


def named_texts(config: EvaluationConfig) -> tuple[str, ...]:
    """The texts, a user's file with the checksum of its content."""
    return tuple(_named(name) for name in config.text)


def _named_model(model: str) -> str:
    """A model; one on this machine with a checksum of what its files hold."""
    place = Path(model)
    if not place.exists():
        return model
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            digest.update(_sample_of(path))
    return f"{model} {digest.hexdigest()}"


def _sample_of(path: Path) -> bytes:
    """The content of a small file; of a large one, pieces from all over it: weights are large."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE:
            return file.read()
        found: list[bytes] = []
        for number in range(_PIECES):
            file.seek(number * (size - _PIECE) // (_PIECES - 1))
            found.append(file.read(_PIECE))
        return b"".join(found)


def _named(text: str) -> str:
    # A user's file is known by its content, wherever it lies.
    if text in texts.names():
        return text
    return f"{Path(text).name} {hashlib.sha256(texts.load(text).encode()).hexdigest()}"


def _empty(
    names: tuple[str, ...], sizes: dict[str, int], dtype: Any = np.float32
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    missing = np.nan if np.issubdtype(dtype, np.floating) else -1
    shape = tuple(sizes.values())
    return {name: (tuple(sizes), np.full(shape, missing, dtype)) for name in names}
