"""Running an evaluation: check the request, load the model, compute what is missing."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from vashista_theory import models
from vashista_theory.evaluation import certificates, perplexity, plan, policies, tasks
from vashista_theory.evaluation.config import EvaluationConfig
from vashista_theory.evaluation.language_model import LanguageModel
from vashista_theory.evaluation.retrieval import Reader
from vashista_theory.runs import (
    BlockStore,
    Location,
    Manifest,
    check_writable,
    if_asked,
    is_store,
    open_store,
    run_blocks,
)


class Loaded(NamedTuple):
    """What the blocks of an evaluation are computed from."""

    config: EvaluationConfig
    model: LanguageModel
    tokens: dict[tuple[str, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An evaluation that was accepted, its model loaded and its stores open."""

    loaded: Loaded
    stores: dict[str, BlockStore]

    @property
    def config(self) -> EvaluationConfig:
        """With every default filled in."""
        return self.loaded.config


def prepare(
    config: EvaluationConfig, *, load: Callable[[str], LanguageModel] | None = None
) -> Prepared:
    """Check everything that can be refused, load the model, and open the stores.

    Args:
        config: What to measure.
        load: From the model's name to the model; by default `vashista_theory.models.load`.

    Raises:
        ValueError: A context beyond the model's, a text that is too short, more than memory holds,
            a store of another evaluation, or a folder that holds measurements which this one
            leaves out.
        OSError: The output cannot be written, or holds something else.
    """
    config = config.resolved()
    plan.refuse_beyond_memory(config)  # the model is loaded in vain otherwise
    _refuse_foreign(config)
    _refuse_to_leave_out(config)
    check_writable(config.output)
    model = (load or load_model)(config.model)
    if max(config.contexts) > model.context:
        raise ValueError(
            f"contexts has {max(config.contexts)}, but {model.name} was made for {model.context} "
            "tokens at most"
        )
    plan.refuse_beyond_memory(config, model.layers, model.heads)
    templates: dict[str, Callable[[], xr.Dataset]] = {
        plan.PERPLEXITY: lambda: plan.perplexity_template(config, model.layers),
        plan.RETRIEVAL: lambda: plan.retrieval_template(config),
        plan.CERTIFICATES: lambda: plan.certificates_template(config, model.layers, model.heads),
    }
    tokens = plan.tokens_of(config, model)
    stores: dict[str, BlockStore] = {}
    for name in plan.measurements(config):
        identity = plan.identity(config, name)
        stores[name] = open_store(_place(config, name), templates[name](), identity, block_size=1)
    return Prepared(Loaded(config, model, tokens), stores)


def execute(prepared: Prepared) -> dict[str, xr.Dataset]:
    """Compute what is missing and return the datasets by measurement.

    Raises:
        ClusterError: The cluster that was asked for cannot be used, or not any longer.
        OSError: A store cannot be written.
    """
    missing = {name: store for name, store in prepared.stores.items() if store.missing()}
    if missing:
        _compute(prepared.loaded, missing)
    return {name: store.load() for name, store in prepared.stores.items()}


def _compute(loaded: Loaded, missing: dict[str, BlockStore]) -> None:
    config, texts = loaded.config, plan.named_texts(loaded.config)
    with if_asked(config.workers, config.scheduler) as cluster:
        for name, store in missing.items():
            identity = plan.identity(config, name)
            manifest = Manifest.start(identity, seed=config.seed, precision="float32")
            here = functools.partial(_COMPUTE[name], loaded)
            run_blocks(
                store,
                here if cluster is None else Blocks(config, name, texts),
                cluster=cluster,
                progress=config.progress,
                description=name.capitalize(),
            )
            store.annotate(manifest.finish().attributes() | {"model": loaded.model.name})


@dataclasses.dataclass(frozen=True)
class Blocks:
    """From a block's number to its variables, in any process that can load the model.

    Attributes:
        config: The evaluation.
        measurement: Which of its stores.
        texts: Its texts by name, or by name and checksum (`plan.named_texts`).
    """

    config: EvaluationConfig
    measurement: str
    texts: tuple[str, ...]

    def __call__(self, number: int) -> xr.Dataset:
        """Every variable of one block."""
        return _COMPUTE[self.measurement](_loaded_once(self.config, self.texts), number)


@functools.lru_cache(maxsize=1)
def _loaded_once(config: EvaluationConfig, texts: tuple[str, ...]) -> Loaded:
    if plan.named_texts(config) != texts:
        raise OSError(
            f"a text of {', '.join(config.text)} has changed, or is another file on this worker "
            "than where the evaluation was started; give files that are the same for all of them"
        )
    # A process of its own knows no policies of the user's yet.
    policies.register_own(config.imports)
    # A process computes many blocks, and the model is larger than any of them.
    model = load_model(config.model)
    return Loaded(config, model, plan.tokens_of(config, model))


def run(config: EvaluationConfig | None = None) -> dict[str, xr.Dataset]:
    """Run an evaluation, or go on with one that was stopped.

    Args:
        config: By default `EvaluationConfig()`.

    Returns:
        Datasets by measurement: "perplexity" over stretches of text and policies, "retrieval"
        over prompts and policies, "certificates" over stretches, layers, heads and queries.

    Raises:
        ValueError: A request that cannot be met, or a store of another configuration.
        OSError: The output cannot be written, or holds something else.
        ClusterError: The cluster that was asked for cannot be used, or not any longer.
    """
    return execute(prepare(config or EvaluationConfig()))


def load_model(name: str) -> LanguageModel:
    """A model by name, file, folder or hub id, in float32."""
    loaded = models.load(name, attn_implementation="sdpa")
    return LanguageModel(loaded.model, loaded.tokenizer, name=name)


def _perplexity(loaded: Loaded, number: int) -> xr.Dataset:
    config, model, known = loaded
    one = plan.stretches(config)[number]
    tokens = known[one.text, one.segment][-(one.context + 1) :]
    readers = list(config.readers().values())
    found = list(perplexity.predictions(model, tokens, config.positions, readers))
    return _stacked(found, plan.perplexity_template(config, model.layers))


def _retrieval(loaded: Loaded, number: int) -> xr.Dataset:
    config, model, _ = loaded
    one = plan.questions(config)[number]
    prompt = tasks.get(one.task).prompt(one.seed, one.context, lambda t: model.encode(t).size)
    reader = Reader(model, prompt, choices=config.choices)
    found = [reader.score(policy, pages) for policy, pages in config.readers().values()]
    stored = _stacked(found, plan.retrieval_template(config))
    stored["depth"] = ("instance", np.array([prompt.depth], np.float32))
    stored["tokens"] = ("instance", np.array([reader.tokens], np.int64))
    return stored


def _certificates(loaded: Loaded, number: int) -> xr.Dataset:
    config, model, known = loaded
    one = plan.stretches(config)[number]
    recorded = model.record(known[one.text, one.segment][-one.context :], config.audited)
    found = [certificates.audit(recorded, tolerance) for tolerance in config.tolerances]
    return _stacked(found, plan.certificates_template(config, model.layers, model.heads))


_COMPUTE: dict[str, Callable[[Loaded, int], xr.Dataset]] = {
    plan.PERPLEXITY: _perplexity,
    plan.RETRIEVAL: _retrieval,
    plan.CERTIFICATES: _certificates,
}


def _stacked(rows: list[Any], template: xr.Dataset) -> xr.Dataset:
    """One instance: the fields of the rows along the template's second dimension."""
    found: dict[str, Any] = {}
    for name, variable in template.data_vars.items():
        if hasattr(rows[0], str(name)) and variable.dims[0] == "instance":
            values = np.stack([np.asarray(getattr(row, str(name))) for row in rows])
            found[str(name)] = (variable.dims, values.astype(variable.dtype)[None])
    return xr.Dataset(found)


def _place(config: EvaluationConfig, measurement: str) -> Location:
    """Where the store of a measurement lies."""
    if config.store is None:
        return config.output / measurement
    return f"{config.store.rstrip('/')}/{measurement}"


def _refuse_to_leave_out(config: EvaluationConfig) -> None:
    """A folder has one report: it would be written without what an earlier request measured."""
    asked = plan.measurements(config)
    left = [name for name in _COMPUTE if name not in asked and is_store(_place(config, name))]
    if left:
        raise ValueError(
            f"{config.output} holds {' and '.join(left)} of an earlier evaluation, which this "
            "request leaves out: the report would lose it, so nothing was changed. Ask for it "
            "again (--text, --tasks, --audited, --tolerances), or choose another output folder"
        )


def _refuse_foreign(config: EvaluationConfig) -> None:
    known = {plan.PERPLEXITY, plan.RETRIEVAL, plan.CERTIFICATES, "report.json"}
    if not config.output.is_dir():
        return
    strange = sorted(e.name for e in config.output.iterdir() if not e.name.startswith("."))
    if strange and not known & set(strange):
        raise FileExistsError(
            f"{config.output} holds files that are not from an evaluation ({strange[0]}, …); "
            "nothing was changed. Choose a new or empty output folder"
        )
