"""From which batch and length on is sparse decoding faster inside a language model?

One decode step of the whole model, batch by length: transformers' own attention (sdpa with a
dynamic and with a static cache, eager) and this mechanism by each policy. A text is read once for
each length; every sequence of a batch then gets a copy of its keys and values of its own, so that
all of them are read from memory. The ways take turns, round by round, and each is held against the
fastest of transformers' own in the same cell. These run in a process whose threads wait as torch
has them wait, the policies in one with GOMP_SPINCOUNT=20000: each as suits it best. Needs the
extra lm. Resumable by cell: a run that was stopped goes on from the store.

Examples:
  python -m experiments decode_in_model
  python -m experiments decode_in_model --batches 1 --contexts 8192
"""

import statistics
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.decode_in_model import timed
from experiments.decode_in_model.ways import OWN
from experiments.framework.outcome import Cell, Measured, NotMeasured
from experiments.shared import process
from vashista_theory import runs
from vashista_theory.attention import Policy

BY_HAND = "needs a language model, and times want an idle machine"


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        batches: Sequences.
        contexts: Tokens of each at the last step that is timed.
        tokens: That a sampled read takes.
        pages: Pages of 16 tokens that a fixed budget reads.
        tolerance: Softmax mass that the certified policy may drop.
        steps: Timed steps of each way in a round.
        rounds: Turns that each way has.
        store: Folder of what is timed already; a run that was stopped goes on from it.
        quick: One short context, two sequences.
    """

    model: str = "smollm2-135m"
    batches: tuple[int, ...] = (1, 4, 8)
    contexts: tuple[int, ...] = (1024, 4096, 8192)
    tokens: int = 256
    pages: int = 64
    tolerance: float = 0.05
    steps: int = 6
    rounds: int = 3
    store: Path = Path("vashista_decoding")
    quick: bool = False

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        place = self.store / "quick"
        return Config(self.model, (2,), (96,), 48, 4, self.tolerance, 2, 1, place, quick=True)

    @property
    def new_tokens(self) -> int:
        """Tokens that a sequence grows by while a way has its turn, timed or not."""
        return self.steps + 2

    def check(self, limit: int) -> None:
        """Raise unless the model was made for such contexts, and they leave room for the steps."""
        for context in self.contexts:
            if not self.new_tokens < context <= limit:
                raise ValueError(
                    f"contexts has {context}: expected more than the {self.new_tokens} tokens that "
                    f"are read, and at most the {limit} that the model was made for"
                )

    def policies(self) -> dict[str, Policy]:
        """By the name to show."""
        low = 0 if self.quick else 1024
        return {
            "dense": Policy.dense(),
            f"sampled, {self.tokens} tokens": Policy.sampled(self.tokens, dense_below=low),
            f"budget, {self.pages} pages": Policy.budget(self.pages),
            f"certified, {self.tolerance:g}": Policy.certified(self.tolerance, dense_below=low),
        }


def measure(config: Config) -> Measured:
    """Time every cell of the plane that is missing."""
    config = config.reduced() if config.quick else config
    plan = [(batch, n) for n in sorted(config.contexts) for batch in sorted(config.batches)]
    with timed.processes() as workers:
        try:
            asked = config.model, max(config.contexts)
            loads = [worker.submit(timed.load, *asked) for worker in workers.values()]
            (limit, token), _ = (load.result() for load in loads)
        except ImportError as error:
            raise NotMeasured(str(error)) from None
        config.check(limit)
        runs.refuse_beyond_memory(
            f"batches has {max(config.batches)} and contexts {max(config.contexts)}",
            (max(config.batches) + 2) * max(config.contexts) * token,
            "Time fewer sequences, or shorter ones.",
        )
        store = _open(config, plan)

        def block(number: int) -> xr.Dataset:
            return _cell(workers, *plan[number], config)

        runs.run_blocks(store, block, description="Cells of the plane", progress="bar")
    return Measured({"steps": list(_rows(store.load()))})


def _open(config: Config, plan: list[tuple[int, int]]) -> runs.BlockStore:
    """What was timed already with the same libraries on the same machine."""
    now = runs.Manifest.start(config)
    identity = {
        "model": config.model,
        "steps": (config.rounds, config.steps),
        "machine": (now.cpu, now.device),
        "waiting": timed.WAITING,
        "software": {
            name: process.version(name) for name in ("torch", "transformers", "jax", "numba")
        },
    }
    names = [*OWN, *config.policies()]
    shape = len(plan), len(names)
    times = np.full((*shape, config.rounds * config.steps), np.nan)
    template = xr.Dataset(
        {
            "seconds": (("instance", "read_by", "step"), times),
            "first": (("instance", "read_by"), np.full(shape, np.nan)),
            "tokens_read": (("instance", "read_by"), np.full(shape, np.nan)),
        },
        coords={
            "batch": ("instance", [batch for batch, _ in plan]),
            "context": ("instance", [context for _, context in plan]),
            "read_by": names,
        },
    )
    place = config.store / runs.fingerprint([identity, plan, names])[:12]
    return runs.open_store(place, template, identity, block_size=1)


def _cell(
    workers: Mapping[str, ProcessPoolExecutor], batch: int, context: int, config: Config
) -> xr.Dataset:
    """Every way in turn, as many rounds as asked for."""
    times: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    tokens: dict[str, float] = {}
    filled = context - config.new_tokens
    for _ in range(config.rounds):
        for name, worker in workers.items():
            policies = {} if name == "own" else config.policies()
            turns = worker.submit(timed.turns, policies, batch, filled, config.steps).result()
            for way, turn in turns.items():
                times.setdefault(way, []).extend(turn.seconds)
                first.setdefault(way, turn.first)
                tokens.setdefault(way, turn.tokens_read)
    order = [*OWN, *config.policies()]
    found = {"first": first, "tokens_read": tokens}
    variables: dict[str, Any] = {
        name: (("instance", "read_by"), np.array([[one[way] for way in order]]))
        for name, one in found.items()
    }
    seconds = np.array([[times[way] for way in order]])
    return xr.Dataset(variables | {"seconds": (("instance", "read_by", "step"), seconds)})


def _rows(found: xr.Dataset) -> Iterator[dict[str, Cell]]:
    for number in range(found.sizes["instance"]):
        cell = found.isel(instance=number)
        batch, context = int(cell["batch"]), int(cell["context"])
        taken = {
            str(name): cell["seconds"].sel(read_by=name).values for name in cell["read_by"].values
        }
        best = min(statistics.median(taken[name].tolist()) for name in OWN)
        for name, seconds in taken.items():
            yield _row(batch, context, name, seconds.tolist(), best) | {
                "tokens_read": float(cell["tokens_read"].sel(read_by=name)),
                "first_s": float(cell["first"].sel(read_by=name)),
            }


def _row(batch: int, context: int, name: str, taken: list[float], best: float) -> dict[str, Cell]:
    low, middle, high = np.percentile(taken, (25, 50, 75))
    return {
        "batch": batch,
        "context": context,
        "read_by": name,
        "step_ms": 1e3 * middle,
        "step_ms_low": 1e3 * low,
        "step_ms_high": 1e3 * high,
        "tokens_per_second": batch / middle,
        "times_best": best / middle,
    }
