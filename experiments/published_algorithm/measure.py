"""What the published algorithm computes: softmax of 1.2 times the raw score on pages of best mean.

The published decode step is re-implemented and run on captured heads. Asked: whether the weights of
its exponentiated-gradient solver are softmax(1.2⟨q, k⟩), how far that is from the entropic
projection it is named for and from the model's own attention, what its routing on page means keeps
of the mass at equal pages, where the error of its output comes from, how its cost grows with the
context, and what its own recorded times say beside dense attention. It computes no gap and no
multiplier, so there is nothing of the kind to compare.

Example: python -m experiments published_algorithm --force
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.framework.outcome import Measured
from experiments.published_algorithm import algorithm as published
from experiments.shared.page_masses import PAGE, Truth, mass_kept, truth
from experiments.shared.readings import KINDS, Reader
from vashista_theory import project, relax
from vashista_theory.attention import Policy
from vashista_theory.hull.heads import Heads, load_heads

_ROUTERS = {"page means": "mean", "boxes": "box", "2-bit keys": "2 bits", "4-bit keys": "4 bits"}


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        pages: Pages of 64 that are read where routers are compared.
        quick: Two layers, two positions, one number of pages, for tests.
    """

    pages: tuple[int, ...] = (4, 8, 16)
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.pages or min(self.pages) < 1:
            raise ValueError(f"pages is {self.pages}; numbers of at least 1 are expected")


def measure(config: Config) -> Measured:
    """Replicate the published step on the captured heads, and account for what it loses."""
    heads = load_heads()
    layers, positions = (np.arange(count) for count in (heads.layers.size, heads.positions.size))
    budgets = config.pages
    if config.quick:
        layers, positions, budgets = layers[[0, -1]], positions[-2:], budgets[1:2] or budgets[:1]
    held = truth(heads, layers=layers, positions=positions)
    return Measured(
        {
            "solver": _solver(heads, layers, positions),
            "solver and hull": _hull(heads, layers),
            "errors": _errors(heads, layers, positions, budgets),
            "routing": _routing(held, budgets, optimise=not config.quick),
        },
        {
            "scale": heads.scale,
            "layers": len(layers),
            "heads": heads.queries.shape[1],
            "positions": len(positions),
            "longest": int(held.lengths[-1]),
        },
    )


def _queries(heads: Heads, layers: np.ndarray, positions: np.ndarray) -> list[tuple[int, int, int]]:
    return [
        (int(layer), head, int(position))
        for position in positions
        for layer in layers
        for head in range(heads.queries.shape[1])
    ]


def _solver(heads: Heads, layers: np.ndarray, positions: np.ndarray) -> list[dict[str, Any]]:
    """The solver's weights against the softmax in closed form, in two types."""
    rows = []
    for dtype in (np.float64, np.float32):
        worst, apart = 0.0, 0.0
        places = _queries(heads, layers, positions)
        for place in places:
            query, keys, _ = heads.attend(*place)
            scores = keys @ query
            scores = np.sort(scores)[::-1][: published.CANDIDATES].astype(dtype)
            found = published.exponentiated_gradient(scores).astype(float)
            closed = published.softmax(published.SHARPNESS * scores.astype(float))
            worst = max(worst, float(np.abs(found - closed).max()))
            apart = max(apart, 0.5 * float(np.abs(found - closed).sum()))
        rows.append(
            {
                "computed_in": np.dtype(dtype).name,
                "queries": len(places),
                "deviation": worst,
                "variation": apart,
            }
        )
    return rows


def _hull(heads: Heads, layers: np.ndarray) -> list[dict[str, Any]]:
    """The solver's weights beside the entropic projection at its temperature, by layer."""
    rows = []
    for layer in layers:
        found: list[dict[str, float]] = []
        for head in range(heads.queries.shape[1]):
            query, keys, _ = heads.attend(int(layer), head, -1)
            decoded = published.decode(
                query, keys, pages=published.PAGES, candidates=published.CANDIDATES, page=PAGE
            )
            some = keys[decoded.tokens]
            projection = project(some, query)
            entropic = np.exp(relax(projection, 1 / published.SHARPNESS).log_weights)
            dense = published.softmax(heads.scale * keys @ query)
            found.append(
                {
                    "variation": 0.5 * float(np.abs(decoded.weights - entropic).sum()),
                    "top_published": float(decoded.weights.max()),
                    "top_entropic": float(entropic.max()),
                    "top_dense": float(dense.max()),
                    "face": float(np.sum(projection.face)),
                    "moved": float(np.linalg.norm(some.T @ decoded.weights - projection.point)),
                    "moved_entropic": float(np.linalg.norm(some.T @ entropic - projection.point)),
                }
            )
        median = {name: float(np.median([one[name] for one in found])) for name in found[0]}
        rows.append({"layer": int(heads.layers[layer]), **median})
    return rows


def _errors(
    heads: Heads, layers: np.ndarray, positions: np.ndarray, budgets: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Errors of the output by cause: each alone, and together as published."""
    found: dict[tuple[str, int | None], list[tuple[float, float]]] = {}
    for place in _queries(heads, layers, positions):
        query, keys, values = heads.attend(*place)
        raw = keys @ query
        dense = published.softmax(heads.scale * raw)
        output = dense @ values

        def note(cause: str, pages: int | None, tokens: Any, weights: np.ndarray) -> None:
            off = np.linalg.norm(weights @ values[tokens] - output) / np.linalg.norm(output)  # noqa: B023
            kept = float(dense[tokens].sum())  # noqa: B023
            found.setdefault((cause, pages), []).append((float(off), kept))

        everything = slice(None)
        note("1.2 on raw scores", None, everything, published.softmax(published.SHARPNESS * raw))
        kinder = published.softmax(published.SHARPNESS * heads.scale * raw)
        note("1.2 on scaled scores", None, everything, kinder)
        for pages in (*budgets, published.PAGES):
            step = published.decode(
                query, keys, pages=pages, candidates=published.CANDIDATES, page=PAGE
            )
            note("as published", pages, step.tokens, step.weights)
            of_pages = np.flatnonzero(np.isin(np.arange(len(keys)) // PAGE, step.pages))
            for cause, tokens in (("routing", of_pages), ("routing and K_c", step.tokens)):
                note(cause, pages, tokens, published.softmax(heads.scale * raw[tokens]))
    return [
        {
            "cause": cause,
            "pages": pages,
            "kept": float(np.mean([kept for _, kept in pairs])),
            **_statistics(np.array([off for off, _ in pairs])),
        }
        for (cause, pages), pairs in found.items()
    ]


def _routing(held: Truth, budgets: tuple[int, ...], *, optimise: bool) -> list[dict[str, Any]]:
    """Mass kept and error at equal pages by the library's routers, and by the best possible."""
    one = held.one_head_each()
    rows: list[dict[str, Any]] = []
    for pages in budgets:
        kept = mass_kept(held.mass, held.mass, pages)
        rows.append({"judged_by": "best possible", "pages": pages, **_kept(kept)})
    for name, kind in _ROUTERS.items():
        reader = Reader(one, KINDS[kind], optimise=optimise)
        for pages in budgets:
            policy = Policy(pages=pages, summary=KINDS[kind].judged_by, sink=0, recent=0)
            found = reader.read(policy)
            rows.append(
                {
                    "judged_by": name,
                    "pages": pages,
                    **_kept(1 - found.dropped),
                    **_statistics(found.relative_error),
                }
            )
    return rows


def _kept(mass: np.ndarray) -> dict[str, float]:
    return {"kept": float(mass.mean()), "kept_tenth": float(np.percentile(mass, 10))}


def _statistics(errors: np.ndarray) -> dict[str, float]:
    return {
        "median": float(np.median(errors)),
        "mean": float(errors.mean()),
        "p90": float(np.percentile(errors, 90)),
    }
