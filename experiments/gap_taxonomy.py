r"""Which gap bounds which mass? Projection, score and boundary gap, on hulls and real heads.

Three numbers go by the name of gap. Each bounds a mass, but not the same one.

* **Projection gap** Δ = min_{i ∉ F} ⟨q − p*, p* − k_i⟩. By T3 it bounds the mass off the face of
  the entropic *projection* at ε, and by nothing stated here that of softmax.
* **Score gap** g, the best logit less the second. Softmax is the linear problem (T6), whose face is
  the best key, so g is *its* gap: each of the n − 1 other weights is at most e^{−g} times the best
  one, hence the mass off the best key is at most c/(1 + c) with c = (n − 1) e^{−g}.
* **Boundary gap** b, the k-th logit less the (k + 1)-th. Let Z and U be the sums of exponentials of
  the best k logits and of the others. Every term of Z is at least e^{s_k}, every term of U at most
  e^{s_k − b}, so U/Z ≤ c with c = (n − k)/k · e^{−b}, and the mass off the best k, U/(U + Z), is
  at most c/(1 + c). With b = 0 that is the trivial (n − k)/n. k = 1 gives the score gap.

A bound is called *useful* where it proves at most 5 % dropped, and *not void* where c < 1 (for
Δ: where the logarithm of T3 is negative): less than half, or less than all, is then proved.

Measured at the model's temperature ε = √d = 8 (logits ⟨q, k⟩/8), on recorded heads and on
synthetic hulls of their size: Gaussian keys under queries of three lengths, keys on a sphere whose
radius is a typical key's, and a planted face with a large gap.

Examples:
  python -m experiments gap_taxonomy
  python -m experiments gap_taxonomy --pages 8 --instances 10
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.framework.outcome import Measured, Outcome, sentences
from experiments.shared import hulls
from experiments.shared.hulls import DECADE
from vashista_theory.hull import instances
from vashista_theory.hull.instances import Instance

_PAGE = 16
_USEFUL = 0.05
_KINDS = ("projection", "score", "boundary")
_SHOWN = {"projection": "projection gap", "score": "score gap", "boundary": "boundary gap"}
_MEANS = {
    "projection": "projection, off the face",
    "score": "softmax, off the best key",
    "boundary": "softmax, off the best k",
}
_COLDER = (10.0, 100.0)

_GAPS = {
    "source": "of the instances",
    "kind": "of gap",
    "bounds": "the mass it bounds",
    "instances": "how many",
    "gap": "gap over temperature, median",
    "mass": "the true mass, median",
    "bound": "its bound, at most 1, median",
    "slack": "decades between the two, median",
    "not_void": "share where the bound says anything (c < 1; T3 below 1)",
    "useful": "share where it proves at most 5 % dropped",
    "could": "share where at most 5 % is dropped in truth",
    "own": "Spearman correlation of the gap with the mass it bounds; a good gap is near −1",
    "kept": "Spearman correlation of the gap with the softmax mass off the best k keys",
}
_POINTS = {
    "source": "of the instance",
    "kind": "of gap",
    "gap": "gap over temperature",
    "mass": "the true mass",
    "bound": "its bound, at most 1",
}


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
        instances: Of each synthetic source.
        heads: Recorded heads of the packaged sample, at its last position.
        pages: Pages of 16 tokens that a sparse read keeps: k = 16 · pages.
        seed: First seed.
        quick: One small synthetic source, for tests.
    """

    instances: int = 24
    heads: int = 63
    pages: int = 16
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if min(self.instances, self.heads, self.pages) < 1:
            raise ValueError(f"counts must be at least 1; got {self}")


class Gaps(NamedTuple):
    """One instance: three gaps over the temperature, three masses, three logarithmic bounds."""

    gap: dict[str, float]
    log_mass: dict[str, float]
    log_bound: dict[str, float]
    not_void: dict[str, bool]


def measure(config: Config) -> Measured:
    """Measure the three gaps, what each bounds, and the truth."""
    found = {
        name: [gaps_of(m, k=_PAGE * config.pages, epsilon=e) for m, e in made]
        for name, made in _sources(config).items()
    }
    rows = [row for name, gaps in found.items() for row in _rows(name, gaps)]
    points = [point for name, gaps in found.items() for point in _points(name, gaps)]
    violated = [
        f"{_SHOWN[kind]}: a bound is exceeded on {name}"
        for name, gaps in found.items()
        for kind in _KINDS
        if any(g.log_mass[kind] > g.log_bound[kind] + 1e-9 for g in gaps)
    ]
    return Measured({"gaps": rows, "points": points}, failures=violated)


def _sources(config: Config) -> dict[str, list[tuple[Instance, float]]]:
    if config.quick:
        small = [instances.make("gaussian", seed=config.seed + k, n=400, d=8) for k in range(3)]
        return {"Gaussian, small": [(made, 8.0**0.5) for made in small]}
    seeds = range(config.seed, config.seed + config.instances)
    gaussian = {
        f"Gaussian, query × {scale:g}": [
            (instances.make("gaussian", seed=seed, query_scale=scale), 8.0) for seed in seeds
        ]
        for scale in (1.0, 4.0, 16.0)
    }
    # A sphere of radius 8, a Gaussian key's typical length, is the unit one at ε/64.
    sphere = [(instances.make("sphere", seed=s, n=1024, d=64), 8.0 / 64) for s in seeds]
    planted = [(instances.make("planted", seed=s, n=1024, d=64, gap=40.0), 8.0) for s in seeds]
    heads = hulls.spread_heads(config.heads)
    real = [(made, float(made.parameters["temperature"])) for made in heads]
    colder = {
        f"real heads, ε/{by:g}": [(made, epsilon / by) for made, epsilon in real] for by in _COLDER
    }
    synthetic = {**gaussian, "sphere": sphere, "planted, Δ/ε = 5": planted}
    return {**synthetic, "real heads": real, **colder}


def log_ratio_bound(log_c: float) -> float:
    """log(c/(1 + c)): what U/Z ≤ c says of U/(U + Z)."""
    return float(log_c - np.logaddexp(0.0, log_c))


def gaps_of(made: Instance, *, k: int, epsilon: float) -> Gaps:
    """The three gaps of one instance at one temperature.

    Args:
        made: The instance; its logits are ⟨q, k_i⟩/ε.
        k: Keys that a sparse read keeps; fewer than there are.
        epsilon: The temperature.
    """
    n = made.keys.shape[0]
    if not 0 < k < n:
        raise ValueError(f"k is {k} with {n} keys; expected at least 1 and fewer than the keys")
    given = hulls.problem(made)
    followed = hulls.follow(given, np.array([epsilon]))
    logits = np.sort(made.keys @ made.query / epsilon)[::-1]
    total = np.logaddexp.reduce(logits)
    gap = {
        "projection": given.gap / epsilon,
        "score": float(logits[0] - logits[1]),
        "boundary": float(logits[k - 1] - logits[k]),
    }
    log_c = {"score": np.log(n - 1) - gap["score"]}
    log_c["boundary"] = np.log((n - k) / k) - gap["boundary"]
    t3 = float(followed.t3[0])
    return Gaps(
        gap,
        {
            "projection": float(followed.log_mass[0]),
            "score": float(np.logaddexp.reduce(logits[1:]) - total),
            "boundary": float(np.logaddexp.reduce(logits[k:]) - total),
        },
        {
            "projection": min(t3, 0.0),
            **{name: log_ratio_bound(float(c)) for name, c in log_c.items()},
        },
        {"projection": t3 < 0, **{name: bool(c < 0) for name, c in log_c.items()}},
    )


def _rows(source: str, found: list[Gaps]) -> Iterable[dict[str, Any]]:
    for kind in _KINDS:
        usable = [g for g in found if np.isfinite(g.gap[kind]) and np.isfinite(g.log_mass[kind])]
        if not usable:
            continue
        gap, mass, bound = (
            np.array([getattr(g, name)[kind] for g in usable])
            for name in ("gap", "log_mass", "log_bound")
        )
        kept = np.array([g.log_mass["boundary"] for g in usable])
        yield {
            "source": source,
            "kind": _SHOWN[kind],
            "bounds": _MEANS[kind],
            "instances": len(usable),
            "gap": float(np.median(gap)),
            "mass": float(np.median(np.exp(mass))),
            "bound": float(np.median(np.exp(bound))),
            "slack": float(np.median(bound - mass) / DECADE),
            "not_void": float(np.mean([g.not_void[kind] for g in usable])),
            "useful": float(np.mean(np.exp(bound) <= _USEFUL)),
            "could": float(np.mean(np.exp(mass) <= _USEFUL)),
            "own": _spearman(gap, mass),
            "kept": _spearman(gap, kept),
        }


def _spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    if np.unique(one).size < 3 or np.unique(other).size < 3:
        return None
    return float(stats.spearmanr(one, other).statistic)


def _points(source: str, found: list[Gaps]) -> Iterable[dict[str, Any]]:
    for g in found:
        for kind in _KINDS:
            if np.isfinite(g.gap[kind]) and np.isfinite(g.log_mass[kind]):
                yield {
                    "source": source,
                    "kind": _SHOWN[kind],
                    "gap": g.gap[kind],
                    "mass": float(np.exp(g.log_mass[kind])),
                    "bound": float(np.exp(g.log_bound[kind])),
                }


def report(found: Measured) -> Outcome:
    """What each gap proves, and how well it orders."""
    rows, pages = found.tables["gaps"], found.configuration["pages"]
    values = _values(rows, pages)
    return Outcome(
        tables=found.described({"gaps": _GAPS, "points": _POINTS}, hidden=["points"]),
        values=values,
        findings=_findings(values, rows),
        notes=sentences(
            f"""- k = {_PAGE * pages} keys ({pages} pages of {_PAGE}); gaps are over the
              temperature: Δ/ε, and differences of logits. Instances whose projection has no finite
              gap are left out of the projection gap's rows.
            - Spearman's correlation with the mass off the best k keys asks the practical question:
              does the gap order the queries by what a sparse read of k keys loses?
            """
        ),
        failures=found.failures,
    )


def _values(rows: Any, pages: int) -> dict[str, Any]:
    values: dict[str, Any] = {"kept_keys": _PAGE * pages}
    groups = {
        "heads": lambda source: source == "real heads",
        "synthetic": lambda source: not source.startswith("real heads"),
        **{
            f"heads_colder_{by:g}": lambda source, by=by: source == f"real heads, ε/{by:g}"
            for by in _COLDER
        },
    }
    for group, belongs in groups.items():
        for kind in _KINDS:
            mine = [row for row in rows if row["kind"] == _SHOWN[kind] and belongs(row["source"])]
            if not mine:
                continue
            weights = [row["instances"] for row in mine]
            for name in ("not_void", "useful", "could"):
                share = float(np.average([row[name] for row in mine], weights=weights))
                values[f"{group}_{kind}_{name}"] = share
            if group == "heads":
                values |= {
                    f"heads_{kind}_{name}": mine[0][name]
                    for name in ("gap", "mass", "bound", "slack", "own", "kept")
                }
    return values


def _findings(values: dict[str, Any], rows: Any) -> list[str]:
    said = []
    for group, name in (("heads", "Real heads"), ("synthetic", "Synthetic hulls")):
        if f"{group}_score_useful" not in values:
            continue
        parts = [
            f"the {_SHOWN[kind]} {100 * values[f'{group}_{kind}_useful']:.0f}% of the instances "
            f"(true in {100 * values[f'{group}_{kind}_could']:.0f}%)"
            for kind in _KINDS
            if f"{group}_{kind}_useful" in values
        ]
        said.append(f"{name} at ε = √d: at most 5% dropped is proved by {', '.join(parts)}.")
    for by in _COLDER:
        shares = [values.get(f"heads_colder_{by:g}_{kind}_useful") for kind in _KINDS]
        if None not in shares:
            parts = [
                f"the {_SHOWN[kind]} {100 * share:.0f}%"
                for kind, share in zip(_KINDS, shares, strict=True)
            ]
            said.append(
                f"At a temperature {by:g} times lower than the model's: {', '.join(parts)} of them."
            )
    if "heads_projection_own" in values:
        own = [f"{_SHOWN[k]} {values[f'heads_{k}_own']:+.2f}" for k in _KINDS]
        kept = [f"{_SHOWN[k]} {values[f'heads_{k}_kept']:+.2f}" for k in _KINDS]
        said += sentences(
            f"""- Rank correlation on real heads with the mass that each bounds: {", ".join(own)};
              with the softmax mass off the best {values["kept_keys"]} keys: {", ".join(kept)}.
            - The projection gap says nothing of softmax: its bound is on the leakage of the
              entropic projection, {values["heads_projection_mass"]:.2f} in the median head, where
              T3 says {values["heads_projection_bound"]:.2f}.
            - The boundary gap is {values["heads_boundary_gap"]:.3f} nats (median): between
              neighbours in the order of the scores there is nearly none, so its bound
              ({values["heads_boundary_bound"]:.2f}) is the trivial one, while
              {values["heads_boundary_mass"]:.3f} is dropped.
            """
        )
    worst = max((row for row in rows if row["own"] is not None), key=lambda row: row["own"])
    said.append(
        f"The weakest relation of a gap to its own mass: the {worst['kind']} on {worst['source']}, "
        f"correlation {worst['own']:+.2f}."
    )
    return said
