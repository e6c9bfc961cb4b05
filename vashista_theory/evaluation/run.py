"""Running an evaluation: check the request, load the model, compute what is missing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from vashista_theory import models
from vashista_theory.evaluation import certificates, perplexity, plan, tasks
from vashista_theory.evaluation.config import EvaluationConfig
from vashista_theory.evaluation.language_model import LanguageModel
from vashista_theory.evaluation.retrieval import Reader
from vashista_theory.runs import BlockStore, Manifest, check_writable, open_store, run_blocks


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An evaluation that was accepted, its model loaded and its stores open."""

    config: EvaluationConfig
    model: LanguageModel
    tokens: dict[tuple[str, int], np.ndarray]
    stores: dict[str, BlockStore]


def prepare(
    config: EvaluationConfig,
    *,
    load: Callable[[str], LanguageModel] | None = None,
) -> Prepared:
    """Check everything that can be refused, load the model, and open the stores.

    Args:
        config: What to measure.
        load: From the model's name to the model; by default `vashista_theory.models.load`.

    Raises:
        ValueError: A context beyond the model's, a text that is too short, or a store of another
            evaluation.
        OSError: The output cannot be written, or holds something else.
    """
    config = config.resolved()
    _refuse_foreign(config)
    check_writable(config.output)
    model = (load or load_model)(config.model)
    if max(config.contexts) > model.context:
        raise ValueError(
            f"contexts has {max(config.contexts)}, but {model.name} was made for {model.context} "
            "tokens at most"
        )
    wanted: dict[str, xr.Dataset] = {}
    if config.text:
        wanted[plan.PERPLEXITY] = plan.perplexity_template(config, model.layers)
    if config.tasks:
        wanted[plan.RETRIEVAL] = plan.retrieval_template(config)
    if config.text and config.audited and config.tolerances:
        heads = model.heads
        wanted[plan.CERTIFICATES] = plan.certificates_template(config, model.layers, heads)
    tokens = plan.tokens_of(config, model)
    stores = {
        name: open_store(config.output / name, template, plan.identity(config, name), block_size=1)
        for name, template in wanted.items()
    }
    return Prepared(config, model, tokens, stores)


def execute(prepared: Prepared) -> dict[str, xr.Dataset]:
    """Compute what is missing and return the datasets by measurement."""
    compute = {
        plan.PERPLEXITY: _perplexity,
        plan.RETRIEVAL: _retrieval,
        plan.CERTIFICATES: _certificates,
    }
    for name, store in prepared.stores.items():
        if not store.missing():
            continue
        config = prepared.config
        identity = plan.identity(config, name)
        manifest = Manifest.start(identity, seed=config.seed, precision="float32")
        run_blocks(
            store,
            lambda number, one=compute[name]: one(prepared, number),
            progress=config.progress,
            description=name.capitalize(),
        )
        store.annotate(manifest.finish().attributes() | {"model": prepared.model.name})
    return {name: store.load() for name, store in prepared.stores.items()}


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
    """
    return execute(prepare(config or EvaluationConfig()))


def load_model(name: str) -> LanguageModel:
    """A model by name, file, folder or hub id, in float32."""
    loaded = models.load(name, attn_implementation="sdpa")
    return LanguageModel(loaded.model, loaded.tokenizer, name=name)


def _perplexity(prepared: Prepared, number: int) -> xr.Dataset:
    config, one = prepared.config, plan.stretches(prepared.config)[number]
    tokens = prepared.tokens[one.text, one.segment][-(one.context + 1) :]
    readers = list(config.readers().values())
    found = list(perplexity.predictions(prepared.model, tokens, config.positions, readers))
    template = prepared.stores[plan.PERPLEXITY]
    return _stacked(found, plan.perplexity_template(config, prepared.model.layers), template)


def _retrieval(prepared: Prepared, number: int) -> xr.Dataset:
    config, one = prepared.config, plan.questions(prepared.config)[number]
    model = prepared.model
    prompt = tasks.get(one.task).prompt(one.seed, one.context, lambda t: model.encode(t).size)
    reader = Reader(model, prompt)
    found = [reader.score(policy, pages) for policy, pages in config.readers().values()]
    stored = _stacked(found, plan.retrieval_template(config), prepared.stores[plan.RETRIEVAL])
    stored["depth"] = ("instance", np.array([prompt.depth], np.float32))
    stored["tokens"] = ("instance", np.array([reader.tokens], np.int64))
    return stored


def _certificates(prepared: Prepared, number: int) -> xr.Dataset:
    config, one = prepared.config, plan.stretches(prepared.config)[number]
    tokens = prepared.tokens[one.text, one.segment][-one.context :]
    recorded = prepared.model.record(tokens, config.audited)
    found = [certificates.audit(recorded, tolerance) for tolerance in config.tolerances]
    model = prepared.model
    template = plan.certificates_template(config, model.layers, model.heads)
    return _stacked(found, template, prepared.stores[plan.CERTIFICATES])


def _stacked(rows: list[Any], template: xr.Dataset, store: BlockStore) -> xr.Dataset:
    """One instance: the fields of the rows along the template's second dimension."""
    found: dict[str, Any] = {}
    for name, variable in template.data_vars.items():
        if hasattr(rows[0], str(name)) and variable.dims[0] == store.dimension:
            values = np.stack([np.asarray(getattr(row, str(name))) for row in rows])
            found[str(name)] = (variable.dims, values.astype(variable.dtype)[None])
    return xr.Dataset(found)


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
