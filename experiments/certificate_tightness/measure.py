"""How many pages the certificate makes one read, how often it cries wolf, and how well pages rank.

Aims, on captured heads: `certified` at 1 % and 5 % of dropped mass, with sketches of 4, 6 and 8
bits, reads within 10 % of the pages that an earlier measurement of the same heads found; no answer
is ever called certified that dropped more; a 2-bit sketch ranks pages so well that the best 4, 8
and 16 of them keep within 0.01 of the mass that the best possible ones keep, at about the bytes of
a bfloat16 box (1 bit: at about half).

Pages, alarms and ranking are what `vashista_attention` does and reports, in float64. Grids that
the library does not have (shared scales) are studied in numpy; their table says so.

Examples:
  python -m experiments certificate_tightness --force
  python -m experiments certificate_tightness --heads FILE --results FOLDER
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.certificate_tightness import alarms, sketch_study
from experiments.certificate_tightness.rows import grouped_rows, page_rows, router_rows
from experiments.framework.outcome import Measured
from experiments.shared.page_masses import PAGE, truth
from experiments.shared.readings import KINDS, AllReadings, Reader, Readings
from vashista_theory import runs
from vashista_theory.attention import Policy
from vashista_theory.hull.heads import load_heads


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        heads: A heads file (.npz); by default the sample inside the package.
        tolerances: Dropped mass allowed.
        budgets: Pages that the policies of a fixed number read.
        ranked: Pages kept where routers are compared.
        heads_sha256: Names the content of `heads`.
        quick: Two layers, two positions and one summary, for tests.
    """

    heads: Path | None = None
    tolerances: tuple[float, ...] = (0.05, 0.01)
    budgets: tuple[int, ...] = (8, 16)
    ranked: tuple[int, ...] = (4, 8, 16)
    heads_sha256: str | None = field(init=False, default=None)
    quick: bool = False

    def __post_init__(self) -> None:
        if not all(0 < t < 1 for t in self.tolerances) or not self.tolerances:
            raise ValueError(f"tolerances are {self.tolerances}; between 0 and 1, at least one")
        if not self.budgets or min(self.budgets) < 2 or not self.ranked or min(self.ranked) < 1:
            raise ValueError(
                "expected budgets of at least 2 pages (the first and the last are always read) "
                f"and ranked of at least 1, got {self.budgets} and {self.ranked}"
            )
        if self.heads is not None:
            # A file that cannot be used is refused before anything is computed.
            if load_heads(self.heads).positions.min() < 2 * PAGE:
                raise ValueError(f"{self.heads}: every query must see more than {2 * PAGE} tokens")
            digest = hashlib.sha256(self.heads.read_bytes()).hexdigest()
            object.__setattr__(self, "heads_sha256", digest)

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(self.heads, self.tolerances[:1], self.budgets[:1], (8,), quick=True)


@dataclass(frozen=True)
class _Task:
    """One policy to read with, and where its readings belong."""

    group: str
    key: tuple[str | int | float, ...]
    policy: Policy


def measure(config: Config) -> Measured:
    """Read the captured heads with every policy, and say what the proofs cost and miss."""
    measured = _measure(config)
    study = list(
        sketch_study.rows(
            measured.shared,
            config.tolerances,
            config.ranked,
            bits=(2, 4) if config.quick else sketch_study.BITS,
        )
    )
    earlier = config.heads is None and not config.quick
    areas, curves = alarms.roc_rows(measured, config.tolerances)
    held = measured.shared
    return Measured(
        {
            "pages read": list(page_rows(measured, config.tolerances, earlier=earlier)),
            "pages read by a group": grouped_rows(measured, config.tolerances),
            "alarms": alarms.alarm_rows(measured, config.tolerances),
            **{f"area under the ROC curve, {what}": rows for what, rows in areas.items()},
            "ROC curves": curves,
            "routers": router_rows(measured, config.ranked, earlier=earlier),
            "grids": study,
        },
        {
            **alarms.held(measured, config.tolerances),
            **_float32(measured),
            "group": held.group,
            "layers": held.keys.shape[0],
            "kv_heads": held.keys.shape[1],
            "positions": len(held.lengths),
            "longest": int(held.lengths[-1]),
        },
    )


def _float32(measured: AllReadings) -> dict[str, int]:
    """In how many cases float32 reads another number of pages."""
    pairs = [(found, measured.certified[key]) for key, found in measured.single.items()]
    if not pairs:
        return {}
    away = np.concatenate([np.ravel(single.pages - double.pages) for single, double in pairs])
    return {
        "float32_differs": int(np.count_nonzero(away)),
        "float32_compared": away.size,
        "float32_differs_most": int(np.abs(away).max()),
    }


def _measure(config: Config) -> AllReadings:
    heads = load_heads(config.heads)
    layers, positions = (np.arange(n) for n in (heads.layers.size, heads.positions.size))
    if config.quick:
        layers, positions = np.unique(layers[[0, -1]]), positions[-2:]
    shared = truth(heads, layers=layers, positions=positions)
    measured = AllReadings(shared, shared.one_head_each())
    work = dict(_tasks(config))
    total = sum(len(tasks) for tasks in work.values())
    mode = "none" if config.quick else "bar"
    with runs.Progress(total, description="Policies", mode=mode, unit="policies") as bar:
        for (name, how), tasks in work.items():
            held = measured.shared if how == "group" else measured.one
            dtype = "float32" if how == "float32" else "float64"
            reader = Reader(held, KINDS[name], dtype=dtype, optimise=not config.quick)
            for task in tasks:
                into: dict[tuple, Readings] = getattr(measured, task.group)
                into[task.key] = reader.read(task.policy)
                bar.advance()
    return measured


def _tasks(config: Config) -> Iterator[tuple[tuple[str, str], list[_Task]]]:
    """What to read, by summary and by how its cache is built."""
    names = ("4 bits",) if config.quick else tuple(KINDS)
    for name in names:
        judged_by = KINDS[name].judged_by
        only_ranks = KINDS[name].only_ranks
        proves = judged_by != "mean" and not only_ranks
        tasks = [
            _Task("ranked", (name, n), Policy(pages=n, summary=judged_by, sink=0, recent=0))
            for n in config.ranked
        ]
        if not only_ranks:
            tolerance = config.tolerances[0] if proves else None
            tasks += [
                _Task("kept", (name, n), Policy(pages=n, tolerance=tolerance, summary=judged_by))
                for n in config.budgets
            ]
        for t in config.tolerances if proves else ():
            tasks.append(
                _Task("certified", (name, t), Policy.certified(t, summary=judged_by, dense_below=0))
            )
            tasks += [
                _Task("dense", (name, n, t), Policy(n, t, judged_by, otherwise="dense"))
                for n in config.budgets
            ]
            if judged_by == "sketch" and not config.quick:
                free = Policy(None, t, judged_by, sink=0, recent=0, otherwise="widen")
                tasks.append(_Task("unforced", (name, t), free))
        yield (name, "head"), tasks
        if judged_by == "sketch" and proves:
            policies = {(name, t): Policy.certified(t, dense_below=0) for t in config.tolerances}
            yield (name, "group"), [_Task("grouped", *task) for task in policies.items()]
            if name == "4 bits" and not config.quick:
                yield (name, "float32"), [_Task("single", *task) for task in policies.items()]
