r"""How far from the truth are the published constants, and where do they hold at all?

T1′ is the published form with the range it leaves unsaid: α_i ≤ e^{−h} e^{−μ_i/(2ε)} off the face
(θ = ½, the published e^{−Δ/(2ε)}) for ε ≤ κ²/(4(log n − h)). It is compared with the sharp T3
along Δ/ε, summed over the keys off the face, and T1 with T2 for the displacement. The slack is the
logarithm to base 10 of bound over truth: decades given away.

T1′ is about one weight, the published claim about the whole mass m off the face. T1′ gives
m ≤ (n − |F|) e^{−h} e^{−Δ/(2ε)}; without the factor it fails inside the range too: with the key 0
once, the key −1/R n − 1 times and the query R on a line, Δ = 1, h = 0, κ = R, and m solves
m/(1 − m) = (n − 1) e^{−(1 + m/R²)/ε}.

Outside its range T1′ can fail, and the form with factor 1 and no prefactor, α_i ≤ e^{−μ_i/ε}, is
false: both are shown on the three keys (−1, 0), (1, 0), (X, −1) with the query (0.9, 1). There
p* = (0.9, 0) has weights 0.05 and 0.95, Δ = μ₃ = 1, w₀ = (½ log 19, 0), h = 0.199 nats, so
α₃ e^{1/ε} tends to e^{½ log 19 · (X − 0.9) − h}: e^{13.2} for X = 10, without limit in X.

Examples:
  python -m experiments published_constants
  python -m experiments published_constants --instances 4 --heads 14
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.framework.outcome import Measured
from experiments.shared import hulls
from experiments.shared.hulls import DECADE, Followed, Problem
from vashista_theory.hull import instances
from vashista_theory.hull.instances import Instance

_FAMILIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gaussian", {"n": 256, "d": 16}),
    ("sphere", {}),
    ("planted", {"gap": 0.5}),
    ("far_query", {}),
    ("duplicates", {}),
    ("near_degenerate", {"min_weight": 1e-2, "gap": 0.1}),
)
_RATIOS = np.geomspace(0.1, 1e3, 41)
_TABLED = (1.0, 10.0, 100.0, 1000.0)
_REACHES = (3.0, 10.0, 30.0, 100.0)
_CROWD, _CROWD_REACH, _CROWD_EPSILON = 100, 10.0, 0.5
_COUNTER_RATIOS = np.geomspace(0.01, 1e4, 241)


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
        instances: Of each synthetic family.
        heads: Recorded heads of the packaged sample.
        seed: First seed of every family.
        quick: Two families, no heads, for tests.
    """

    instances: int = 8
    heads: int = 63
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        hulls.check_counts(self.heads, instances=self.instances, least=0)


class Compared(NamedTuple):
    """One instance along Δ/ε.

    Attributes:
        family: Where it is from.
        given: The instance, projected.
        along: What was followed.
        limit: The largest ε of T1′'s range.
        published: Decades by which the worst weight exceeds T1′, by ε; at most 0 where it holds.
        factor_one: The same for the form with factor 1.
        mass: Decades by which the mass off the face exceeds e^{−Δ/(2ε)}.
    """

    family: str
    given: Problem
    along: Followed
    limit: float
    published: np.ndarray
    factor_one: np.ndarray
    mass: np.ndarray


def measure(config: Config) -> Measured:
    """Compare the bounds along Δ/ε, and break what is false."""
    compared = list(_compare(config))
    counter = [_counterexample(reach) for reach in _REACHES]
    names = list(dict.fromkeys(c.family for c in compared))
    by_family = {name: [c for c in compared if c.family == name] for name in names}
    slack = [row for name, found in by_family.items() for row in _slack_rows(name, found)]
    ranges = [_range_row(name, found) for name, found in by_family.items()]
    failed = [_failure_row(name, found) for name, found in by_family.items()]
    groups = {
        "synthetic": [c for c in compared if c.family != "heads"],
        "real heads": by_family.get("heads", []),
    }
    curves = [row for group, found in groups.items() if found for row in _curves(group, found)]
    unsolved = sum(not c.along.solved.all() for c in compared)
    return Measured(
        {
            "slack": slack,
            "range": ranges,
            "failures": failed,
            "counterexample": counter,
            "curves": curves,
        },
        _values(groups, failed, counter),
        failures=[
            f"T1′ fails in its range in {row['family']}" for row in failed if row["inside_failed"]
        ]
        + ([f"{unsolved} relaxations did not converge"] if unsolved else []),
    )


def _compare(config: Config) -> Iterable[Compared]:
    families = _FAMILIES[1:3] if config.quick else _FAMILIES
    heads = 0 if config.quick else config.heads
    count = min(config.instances, 2) if config.quick else config.instances
    made: list[tuple[str, Instance]] = [
        (name, instances.make(name, seed=config.seed + k, **parameters))
        for name, parameters in families
        for k in range(count)
    ]
    made += [("heads", one) for one in hulls.spread_heads(heads)] if heads else []
    for family, instance in made:
        given = hulls.problem(instance)
        if given.generic:
            yield compare(family, given, given.gap / _RATIOS)


def compare(family: str, given: Problem, epsilon: np.ndarray) -> Compared:
    """Follow one instance, and hold every weight off the face against the two forms."""
    along = hulls.follow(given, epsilon)
    off = ~np.asarray(given.projection.face)
    weights = along.log_weights[:, off]
    multipliers = np.asarray(given.projection.multipliers)[off]
    factor_one = -multipliers[None] / epsilon[:, None]
    published = np.asarray(given.stability.log_published_bound(epsilon))[:, off]

    def worst(bound: np.ndarray) -> np.ndarray:
        return np.max(weights - bound - hulls.allowance(given, epsilon[:, None], bound), axis=1)

    limit = float(given.stability.published_range())
    claimed = -given.gap / (2 * epsilon)
    mass = along.log_mass - claimed - hulls.allowance(given, epsilon, claimed)
    return Compared(
        family,
        given,
        along,
        limit,
        worst(published) / DECADE,
        worst(factor_one) / DECADE,
        mass / DECADE,
    )


def _clipped(log_bound: np.ndarray, log_truth: np.ndarray) -> np.ndarray:
    """Decades between a bound on a mass, at most 1, and the mass."""
    return (np.minimum(log_bound, 0.0) - log_truth) / DECADE


def _slacks(one: Compared) -> dict[str, np.ndarray]:
    along = one.along
    return {
        "published": _clipped(along.published, along.log_mass),
        "t1": _clipped(along.t1, along.log_mass),
        "t3": _clipped(along.t3, along.log_mass),
        "moved_t1": (along.moved_t1 - along.log_moved) / DECADE,
        "moved_t2": (along.moved_t2 - along.log_moved) / DECADE,
    }


def _slack_rows(name: str, found: list[Compared]) -> Iterable[dict[str, Any]]:
    for wanted in _TABLED:
        at = int(np.argmin(np.abs(np.log(_RATIOS / wanted))))
        row: dict[str, Any] = {"family": name, "ratio": float(_RATIOS[at])}
        row["log10_mass"] = float(np.median([c.along.log_mass[at] for c in found]) / DECADE)
        for form in _slacks(found[0]):
            row[form] = hulls.spread(_slacks(c)[form][at] for c in found)["median"]
        row["in_range"] = float(np.mean([c.along.epsilon[at] <= c.limit for c in found]))
        yield row


def _range_row(name: str, found: list[Compared]) -> dict[str, Any]:
    starts = hulls.spread(c.given.gap / c.limit for c in found)
    row = {"family": name, "instances": len(found), "starts": starts["median"]}
    row |= {"starts_low": starts["low"], "starts_high": starts["high"]}
    row["log10_mass"] = hulls.spread(_mass_at_the_end(c) for c in found)["median"]
    safe = (float(c.given.stability.largest_safe_epsilon(float(np.log(0.01)))) for c in found)
    limits = [c.limit for c in found]
    ratios = (epsilon / limit for epsilon, limit in zip(safe, limits, strict=True))
    row["over_safe"] = hulls.spread(ratios)["median"]
    model = [float(c.given.instance.parameters.get("temperature", np.nan)) for c in found]
    over_model = (m / limit for m, limit in zip(model, limits, strict=True))
    row["over_model"] = hulls.spread(over_model)["median"]
    return row


def _mass_at_the_end(one: Compared) -> float:
    """log₁₀ of the true leakage at the largest ε of T1′'s range."""
    found = hulls.follow(one.given, np.full(_RATIOS.size, one.limit))
    return float(found.log_mass[0] / DECADE)


def _failure_row(name: str, found: list[Compared]) -> dict[str, Any]:
    inside = np.concatenate([c.along.epsilon <= c.limit for c in found])
    published = np.concatenate([c.published for c in found])
    factor_one = np.concatenate([c.factor_one for c in found])
    beyond = published[~inside]
    mass = np.concatenate([c.mass for c in found])
    return {
        "family": name,
        "inside": int(inside.sum()),
        "inside_failed": int((published[inside] > 0).sum()),
        "beyond": int(beyond.size),
        "beyond_failed": int((beyond > 0).sum()),
        "beyond_worst": float(beyond.max()) if (beyond > 0).any() else None,
        "inside_mass_failed": int((mass[inside] > 0).sum()),
        "beyond_mass_failed": int((mass[~inside] > 0).sum()),
        "factor_one": int(factor_one.size),
        "factor_one_failed": int((factor_one > 0).sum()),
        "factor_one_worst": float(factor_one.max()) if (factor_one > 0).any() else None,
    }


def three_keys(reach: float) -> Instance:
    """The counterexample: (−1, 0), (1, 0), (reach, −1) and the query (0.9, 1)."""
    keys = np.array([[-1.0, 0.0], [1.0, 0.0], [reach, -1.0]])
    return Instance(keys, np.array([0.9, 1.0]), "three keys", 0)


def predicted_excess(reach: float) -> float:
    """Limit of log(α₃ e^{1/ε}) by hand: ½ log 19 · (X − 0.9) − h, nats."""
    entropy = -(0.05 * np.log(0.05) + 0.95 * np.log(0.95))
    return float(0.5 * np.log(19.0) * (reach - 0.9) - entropy)


def crowd(keys: int, reach: float) -> Instance:
    """On a line: 0 once, −1/reach for all other keys, and the query `reach`."""
    line = np.full((keys, 1), -1.0 / reach)
    line[0] = 0.0
    return Instance(line, np.array([reach]), "a crowd on a line", 0)


def crowd_mass(keys: int, reach: float, epsilon: float) -> float:
    """The mass off its face by hand: the root of log(m/(1 − m)) = log(n − 1) − (1 + m/R²)/ε."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if (
            np.log(middle) - np.log1p(-middle)
            < np.log(keys - 1) - (1 + middle / reach**2) / epsilon
        ):
            low = middle
        else:
            high = middle
    return low


def _crowded() -> dict[str, float]:
    """A mass above the published rate, well inside the range of T1′."""
    given = hulls.problem(crowd(_CROWD, _CROWD_REACH))
    one = compare("a crowd on a line", given, np.full(_RATIOS.size, _CROWD_EPSILON))
    return {
        "crowd_keys": _CROWD,
        "crowd_reach": _CROWD_REACH,
        "crowd_epsilon": _CROWD_EPSILON,
        "crowd_range": one.limit,
        "crowd_mass": float(np.exp(one.along.log_mass[0])),
        "crowd_by_hand": crowd_mass(_CROWD, _CROWD_REACH, _CROWD_EPSILON),
        "crowd_claimed": float(np.exp(-given.gap / (2 * _CROWD_EPSILON))),
        "crowd_weight_excess": float(one.published[0]),
    }


def _counterexample(reach: float) -> dict[str, Any]:
    given = hulls.problem(three_keys(reach))
    one = compare("three keys", given, given.gap / _COUNTER_RATIOS)
    third = one.along.log_weights[:, 2]
    fails = _COUNTER_RATIOS[one.published > 0]
    return {
        "reach": reach,
        "predicted": predicted_excess(reach),
        "measured": float(third[-1] + 1.0 / one.along.epsilon[-1]),
        "starts": given.gap / one.limit,
        "excess": float(one.published.max()),
        "at": float(_COUNTER_RATIOS[one.published.argmax()]),
        "fails_until": float(fails.max()) if fails.size else None,
    }


def _curves(group: str, found: list[Compared]) -> Iterable[dict[str, Any]]:
    for form in _slacks(found[0]):
        stacked = np.array([_slacks(c)[form] for c in found])
        for at, ratio in enumerate(_RATIOS):
            yield {
                "group": group,
                "form": form,
                "ratio": float(ratio),
                **hulls.spread(stacked[:, at]),
            }


def _values(
    groups: dict[str, list[Compared]], failed: list[dict[str, Any]], counter: list[dict[str, Any]]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for group, found in groups.items():
        if not found:
            continue
        short = "heads" if group == "real heads" else "synthetic"
        values[f"{short}_instances"] = len(found)
        for ratio in (10, 100):
            at = int(np.argmin(np.abs(np.log(_RATIOS / ratio))))
            for form in ("published", "t1", "t3", "moved_t1", "moved_t2"):
                median = hulls.spread(_slacks(c)[form][at] for c in found)["median"]
                values[f"{short}_{form}_decades_{ratio}"] = median
        values[f"{short}_range_starts"] = hulls.spread(c.given.gap / c.limit for c in found)[
            "median"
        ]
        values[f"{short}_log10_mass_at_range"] = hulls.spread(_mass_at_the_end(c) for c in found)[
            "median"
        ]
        model = [
            float(c.given.instance.parameters.get("temperature", np.nan)) / c.limit for c in found
        ]
        values[f"{short}_model_over_range"] = hulls.spread(model)["median"]
    totals = (
        "inside", "inside_failed", "inside_mass_failed", "beyond", "beyond_failed",
        "beyond_mass_failed", "factor_one",
    )  # fmt: skip
    values |= {f"pairs_{name}": sum(row[name] for row in failed) for name in totals}
    values["pairs_factor_one_failed"] = sum(row["factor_one_failed"] for row in failed)
    ten = next(row for row in counter if row["reach"] == 10.0)
    far = counter[-1]
    return (
        values
        | _crowded()
        | {
            "counterexample_predicted": ten["predicted"],
            "counterexample_measured": ten["measured"],
            "counterexample_error": max(abs(r["measured"] - r["predicted"]) for r in counter),
            "counterexample_range_starts": ten["starts"],
            "counterexample_published_excess": ten["excess"],
            "counterexample_published_at": ten["at"],
            "counterexample_far_reach": far["reach"],
            "counterexample_far_excess": far["excess"],
        }
    )
