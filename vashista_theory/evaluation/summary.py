"""From datasets to the numbers of the report, each with its uncertainty."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from vashista_theory.evaluation.certificates import ROOM
from vashista_theory.evaluation.retrieval import wilson

EXACT_COUNTS, CHOICE_COUNTS = 0.8, 0.9
"""A task says something about sparse reading only where dense reading solves it."""

_REACH = 6144  # tokens; measured on a model of 135M parameters and 8,192 tokens of context
_RUN = 32  # neighbouring positions are alike: they are resampled together
_RESAMPLES = 1000
_PAGE = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityRow:
    """One policy on one text at one length.

    Attributes:
        text: Its name.
        context: Tokens.
        policy: Label, with its pages.
        positions: Predicted tokens.
        pages_read: Mean over layers, kv heads and positions.
        pages_median: Median, mean over stretches.
        pages_high: 90th percentile, mean over stretches.
        pages: Pages of the context.
        perplexity: e to the mean surprise.
        change: Relative to dense.
        interval: 95 % interval of that change: bootstrap over runs of 32 positions.
        divergence: Mean KL(dense ‖ policy), nats.
        agreement: Share of positions with dense's most likely token.
        dropped: Mean true dropped mass.
        dropped_beyond_first: The same among all tokens but the first.
        error: Mean relative error of the attention output.
        certified: Share of query heads proven within the tolerance.
    """

    text: str
    context: int
    policy: str
    positions: int
    pages_read: float
    pages_median: float
    pages_high: float
    pages: int
    perplexity: float
    change: float
    interval: tuple[float, float]
    divergence: float
    agreement: float
    dropped: float
    dropped_beyond_first: float
    error: float
    certified: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalRow:
    """One policy on one task at one length.

    Attributes:
        task: Its name.
        context: Tokens.
        reach: Beyond 6,144 tokens prompts are told apart by how far back the answer lies: "near"
            within that, "far" beyond, where small models lose it even dense. "" for all.
        policy: Label, with its pages.
        prompts: How many.
        exact: Share of exact answers, with Wilson's 95 % interval.
        exact_interval: That interval.
        chosen: Share of prompts whose answer beats every distractor; None if none was judged.
        chosen_interval: Wilson's 95 % interval, or None.
        token_accuracy: Mean share of the answer's tokens that are the most likely.
        log_probability: Mean log-probability of the answer, nats.
        pages_read: Mean pages.
        error: Mean relative error of the attention output.
        counts: Whether dense solves the task at this length.
    """

    task: str
    context: int
    reach: str
    policy: str
    prompts: int
    exact: float
    exact_interval: tuple[float, float]
    chosen: float | None
    chosen_interval: tuple[float, float] | None
    token_accuracy: float
    log_probability: float
    pages_read: float
    error: float
    counts: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class CertificateRow:
    """Certified reading of recorded queries at one length.

    Attributes:
        context: Tokens.
        tolerance: Dropped mass allowed.
        queries: Query–head pairs.
        violations: Of them, true dropped mass above the bound.
        certified: Share proven within the tolerance.
        read_all: Share that read every page.
        dropped: Mean true dropped mass.
        bound: Mean bound.
        pages_median: Pages read.
        pages_high: 90th percentile.
        pages: Pages of the context.
    """

    context: int
    tolerance: float
    queries: int
    violations: int
    certified: float
    read_all: float
    dropped: float
    bound: float
    pages_median: float
    pages_high: float
    pages: int


def perplexity_rows(dataset: xr.Dataset) -> tuple[PerplexityRow, ...]:
    """One row a text, length and policy."""
    rows: list[PerplexityRow] = []
    labels = [str(name) for name in dataset["policy"].values]
    for text, context in _groups(dataset, "text", "context"):
        group = _where(dataset, text=text, context=context)
        dense = group["surprise"].values[:, labels.index("dense")]
        for place, label in enumerate(labels):
            one = group.isel(policy=place)
            surprise = one["surprise"].values
            extra = (surprise - dense).astype(np.float64)
            numbers = {
                name: float(one[name].values.mean(dtype=np.float64))
                for name in (
                    *("pages_read", "pages_median", "pages_high", "divergence", "dropped"),
                    *("dropped_beyond_first", "error", "certified"),
                )
            }
            rows.append(
                PerplexityRow(
                    text=str(text),
                    context=int(context),
                    policy=label,
                    positions=surprise.size,
                    pages=-(-int(context) // _PAGE),
                    perplexity=float(np.exp(surprise.mean(dtype=np.float64))),
                    change=float(np.expm1(extra.mean())),
                    interval=_bootstrap(extra),
                    agreement=float(one["agrees"].values.mean()),
                    **numbers,
                )
            )
    return tuple(rows)


def retrieval_rows(dataset: xr.Dataset) -> tuple[RetrievalRow, ...]:
    """One row a task, length and policy."""
    rows: list[RetrievalRow] = []
    labels = [str(name) for name in dataset["policy"].values]
    reach = xr.DataArray(_reach(dataset), dims="instance")
    dataset = dataset.assign_coords(reach=reach)
    for task, context, near in _groups(dataset, "task", "context", "reach"):
        group = _where(dataset, task=task, context=context, reach=near)
        dense = group.isel(policy=labels.index("dense"))
        judged = bool((group["chosen"].values >= 0).all())
        solved = float(dense["exact"].values.mean()) >= EXACT_COUNTS or (
            judged and float(dense["chosen"].values.mean()) >= CHOICE_COUNTS
        )
        for place, label in enumerate(labels):
            one = group.isel(policy=place)
            exact, chosen = (one[name].values == 1 for name in ("exact", "chosen"))
            means = ("token_accuracy", "log_probability", "pages_read", "error")
            rows.append(
                RetrievalRow(
                    task=str(task),
                    context=int(context),
                    reach=str(near),
                    policy=label,
                    prompts=exact.size,
                    exact=float(exact.mean()),
                    exact_interval=wilson(int(exact.sum()), exact.size),
                    chosen=float(chosen.mean()) if judged else None,
                    chosen_interval=wilson(int(chosen.sum()), chosen.size) if judged else None,
                    counts=solved,
                    **{name: float(one[name].values.mean(dtype=np.float64)) for name in means},
                )
            )
    return tuple(rows)


def certificate_rows(dataset: xr.Dataset) -> tuple[CertificateRow, ...]:
    """One row a length and tolerance."""
    rows: list[CertificateRow] = []
    for context in np.unique(dataset["context"].values).tolist():
        group = _where(dataset, context=context)
        pages = -(-int(context) // _PAGE)
        for place, tolerance in enumerate(dataset["tolerance"].values.tolist()):
            one = group.isel(tolerance=place)
            dropped, bound = one["dropped"].values, one["bound"].values
            read = one["pages_read"].values
            rows.append(
                CertificateRow(
                    context=int(context),
                    tolerance=float(tolerance),
                    queries=dropped.size,
                    violations=int(np.sum(~(dropped <= bound + ROOM))),
                    certified=float((one["certified"].values == 1).mean()),
                    read_all=float((read >= pages - 1).mean()),
                    dropped=float(dropped.mean()),
                    bound=float(bound.mean()),
                    pages_median=float(np.median(read)),
                    pages_high=float(np.quantile(read, 0.9)),
                    pages=pages,
                )
            )
    return tuple(rows)


def _reach(dataset: xr.Dataset) -> np.ndarray:
    back = (1 - dataset["depth"].values) * dataset["tokens"].values
    told_apart = (dataset["context"].values > _REACH) & np.isfinite(back)
    return np.where(told_apart, np.where(back <= _REACH, "near", "far"), "")


def _groups(dataset: xr.Dataset, *names: str) -> list[tuple[Any, ...]]:
    columns = (dataset[name].values.tolist() for name in names)
    return list(dict.fromkeys(zip(*columns, strict=True)))


def _where(dataset: xr.Dataset, **values: object) -> xr.Dataset:
    kept = np.ones(dataset.sizes["instance"], bool)
    for name, value in values.items():
        kept &= dataset[name].values == value
    return dataset.isel(instance=np.flatnonzero(kept))


def _bootstrap(extra: np.ndarray) -> tuple[float, float]:
    """95 % interval of e^mean − 1 over runs of neighbouring positions, the same on every call."""
    runs = [
        piece.mean()
        for stretch in extra
        for piece in np.array_split(stretch, max(1, stretch.size // _RUN))
    ]
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(runs), size=(_RESAMPLES, len(runs)))
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return float(np.expm1(low)), float(np.expm1(high))
