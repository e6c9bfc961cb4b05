"""One decode step on a GPU against the fastest dense form: time, bytes, distance to the floor.

One command, one machine, everything in one run: the memory's copy bandwidth; numerics against
float64 on the chip (wrong numbers end it with exit code 1); then at every geometry and length the
dense baselines, the published algorithm, and ours by policy through the public front and through
the three kernel stages. It needs jax, equinox, jaxtyping and numpy; torch and FlashInfer are
baselines where they are installed. Without a GPU it says "not measured" and writes nothing.

Every finished block is kept, so the command may be stopped and given again:

  python -m experiments decode_gpu                    everything, or what is still missing
  python -m experiments decode_gpu --only 131072      the blocks of that length
  python -m experiments decode_gpu --minutes 9        begin no block after nine minutes
  python -m experiments decode_gpu --finish           write the result with what there is
  python -m experiments decode_gpu --quick            a dry run of the code on a CPU, no result
"""

import argparse
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.decode_gpu import blocks, machine, numerics, report, timing
from experiments.decode_gpu.data import Geometry
from experiments.decode_gpu.store import Unfinished
from experiments.framework import results, staleness
from experiments.framework.outcome import Measured
from vashista_theory import runs
from vashista_theory.attention.kernels import api

NAME = "decode_gpu"
OK, FAILED, BAD_USE = 0, 1, 2
BY_HAND = "needs a GPU"
_BATCH = 16


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        tokens: Lengths at batch 16, the published geometry with 32 and with 8 kv heads.
        long: Lengths at batch 1 with 8 kv heads.
        queries: Distinct queries of each step.
        seconds: For the loops of a step, and again for its single launches.
        longest: Steps of a loop at most.
        pages: That budget and published read.
        tolerance: Dropped mass of certified.
        worst_to: Longest context of the worst case, normal keys.
        seed: Of pages and queries.
        quick: A dry run on the CPU.
    """

    tokens: tuple[int, ...] = (8192, 16384, 32768, 65536, 131072)
    long: tuple[int, ...] = (8192, 65536, 131072, 262144, 524288, 1048576)
    queries: int = 1000
    seconds: float = 1.0
    longest: int = 200
    pages: int = 64
    tolerance: float = 0.05
    worst_to: int = 131072
    seed: int = 0
    quick: bool = False

    def reduced(self) -> "Config":
        """The configuration of a dry run."""
        return replace(self, tokens=(512,), long=(), queries=2, seconds=0.01, longest=2, worst_to=0)

    def shapes(self) -> list[Geometry]:
        """Every block, the short ones first."""
        if self.quick:
            return [Geometry(1, 2, 1, tokens, head_size=64) for tokens in self.tokens]
        one = [Geometry(1, 32, 8, t) for t in self.long]
        many = [Geometry(_BATCH, 32, kv, t) for t in self.tokens for kv in (8, 32)]
        return sorted(one + many, key=lambda shape: shape.dense_bytes)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for wrong numbers, 2 for bad use."""
    given = _parser().parse_args(arguments)
    if given.queries < 2 or given.seconds <= 0:
        print("error: --queries of at least 2 and --seconds above 0 are expected", file=sys.stderr)
        return BAD_USE
    machine.leave_room_for_torch()
    config = Config(queries=given.queries, seconds=given.seconds, quick=given.quick)
    config = config.reduced() if config.quick else config
    device = jax.devices("cpu")[0] if config.quick else machine.gpu()
    if device is None:
        print("not measured: JAX finds no GPU here, and decode_gpu needs one")
        return OK
    folder = given.results or results.FOLDER
    try:
        runs.check_writable(folder / "quick" if config.quick else folder)
        with jax.enable_x64(False), jax.default_device(device):
            return _run(config, device, given, folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a dry run on a CPU; no result")
    parser.add_argument("--force", action="store_true", help="forget what is kept, begin anew")
    parser.add_argument("--only", type=int, nargs="+", metavar="TOKENS", help="these lengths")
    parser.add_argument("--minutes", type=float, help="begin no block after so many minutes")
    parser.add_argument("--finish", action="store_true", help="write a result of what there is")
    parser.add_argument("--queries", type=int, default=Config.queries, help="distinct queries")
    parser.add_argument("--seconds", type=float, default=Config.seconds, help="for each step")
    parser.add_argument("--results", type=Path, help="folder for the result file")
    return parser


def _run(config: Config, device: Any, given: argparse.Namespace, folder: Path) -> int:
    start = time.perf_counter()
    key = staleness.fingerprint(NAME, config)
    path = results.path_of(NAME, quick=config.quick, folder=folder)
    stored = results.read_if_whole(path)
    manifest = runs.Manifest.start(config, seed=config.seed, precision="bfloat16")
    dirty = bool(manifest.dirty)
    if stored and not given.force and not staleness.reasons(stored, key, accept_dirty=dirty):
        print(f"Nothing changed since {path.name} was measured; --force measures again.")
        print(report.as_text(results.rendered(NAME, stored)))
        return OK
    kept = Unfinished(
        path.with_suffix(".unfinished.json"), key=runs.fingerprint(key), device=device.device_kind
    )
    kept.load(afresh=given.force)
    if config.quick:
        print("DRY RUN on the CPU: it shows that the code runs. Its times mean nothing.")
    described, speed = _machine(config, device)
    rows = _numerics(config)
    if wrong := numerics.failures(rows):
        print(f"WRONG against float64, nothing is measured: {'; '.join(wrong)}", file=sys.stderr)
        return FAILED
    shapes = config.shapes()
    plan = _plan(config, device, speed)
    for shape in shapes:
        if shape.key in kept.blocks or (given.only and shape.tokens not in given.only):
            continue
        if given.finish or (given.minutes and time.perf_counter() - start > 60 * given.minutes):
            continue
        print(f"{shape.key}, dense {shape.dense_bytes / 1e9:.2f} GB", flush=True)
        kept.add(shape.key, blocks.run(shape, plan), seconds=time.perf_counter() - start)
    missing = [shape.key for shape in shapes if shape.key not in kept.blocks]
    if missing and not (given.finish and kept.blocks):
        print(
            f"{len(shapes) - len(missing)} of {len(shapes)} blocks are kept in {kept.path.name}; "
            "give the command again for the rest, or --finish to write what there is."
        )
        return OK
    found = measured(kept.blocks, machine=described, numerics=rows, missing=missing)
    print(report.as_text(report.report(found)))
    if config.quick:
        print("DRY RUN: no result was written.")
    else:
        seconds = kept.seconds + time.perf_counter() - start
        manifest = replace(manifest, duration=seconds)
        results.write(path, name=NAME, fingerprint=key, manifest=manifest, measured=found)
        print(f"\nWritten to {path}.")
    kept.remove()
    return OK


def measured(
    kept: dict[str, dict[str, Any]],
    *,
    machine: dict[str, Any],
    numerics: list[dict[str, Any]],
    missing: list[str],
) -> Measured:
    """The blocks that there are, joined."""
    tables: dict[str, list[dict[str, Any]]] = {
        name: [row for block in kept.values() for row in block[name]]
        for name in ("decode", "stages", "not measured")
    }
    tables |= {"numerics": numerics, "missing blocks": [{"block": key} for key in missing]}
    return Measured(tables, {f"machine {name}": value for name, value in machine.items()})


def _machine(config: Config, device: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """The machine as found, its bandwidth measured first."""
    described = machine.describe(device)
    size, rounds = (2**22, 2) if config.quick else (2**32, 20)
    speed = machine.bandwidths(size, rounds=rounds)
    described |= {f"{name} GB/s": value / 1e9 for name, value in speed.items()}
    empty = timing.empty_loop_us(jnp.ones((100, 16, 32, 128), jnp.bfloat16), seconds=0.05)
    described["empty step of a loop, us"] = empty
    for name, value in described.items():
        print(f"  {name}: {value}")
    return described, speed


def _numerics(config: Config) -> list[dict[str, Any]]:
    shapes = [Geometry(2, 8, 2, 2048), Geometry(2, 4, 4, 2048)]
    if config.quick:
        shapes = [Geometry(1, 2, 1, 512, head_size=64, dtype="float32")]
    rows = numerics.check(shapes, implementations=_implementations())
    for row in rows:
        print(f"  {row['verdict']}: {row['what']} ({row['shape']}), error {row['error']}")
    return rows


def _implementations() -> tuple[str | None, ...]:
    """The best, and the portable one beside it where there is a choice."""
    return (None,) if api.IMPLEMENTATIONS == ("xla",) else (None, "xla")


def _plan(config: Config, device: Any, speed: dict[str, float]) -> blocks.Plan:
    wanted = {name: value for name, value in asdict(config).items() if name in _OF_PLAN}
    return blocks.Plan(
        **wanted,
        memory=machine.memory_bytes(device),
        bandwidth=speed["copy"],
        # So little that in a dry run only the smallest step is also timed with caches evicted.
        evict_below=2e3 if config.quick else 1e9,
        scratch=2**20 if config.quick else 2**28,
        implementations=_implementations(),
        fronts=("budget", "certified") if config.quick else blocks.FRONTS,
        platform="cpu" if device.platform == "cpu" else "cuda",
        say=lambda line: print(line, flush=True),
    )


_OF_PLAN = {"queries", "seconds", "longest", "pages", "tolerance", "worst_to", "seed"}


if __name__ == "__main__":
    sys.exit(main())
