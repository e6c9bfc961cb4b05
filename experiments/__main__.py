"""Command line of the experiments.

Examples:
  python -m experiments --list
  python -m experiments bench_projection
  python -m experiments bench_projection --help
  python -m experiments bench_projection --sizes 1024 4096 --dimensions 64 --force
  python -m experiments all --quick
  python -m experiments update              compute what changed, nothing else
  python -m experiments update --dry-run    say what that would be
"""

import argparse
import dataclasses
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import jax

from experiments import _registry, _results, _update
from experiments._outcome import NotMeasured, Outcome
from vashista_theory import runs

OK, FAILED, BAD_USE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Job:
    """One experiment with its options, checked before anything is computed."""

    name: str
    module: ModuleType
    config: Any
    force: bool
    results: Path

    @property
    def path(self) -> Path:
        return _results.path_of(self.name, quick=self.config.quick, folder=self.results)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failure, 2 for bad use."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "--list"):
        if not words or words[0] != "--list":
            print(__doc__)
        for name in _registry.names():
            print(f"{name:24} {_registry.claim(name)}")
        return OK if words else BAD_USE
    name, options = words[0], words[1:]
    if name == "all":
        return _run_all(options)
    if name == "update":
        return _run_update(options)
    try:
        # An experiment for machines without tyro and rich reads its options by itself.
        if (own := _registry.own_command(name)) is not None:
            return own(options)
        job = _prepare(name, options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USE
    return _run(job)


def _prepare(name: str, options: list[str]) -> Job:
    """Import the experiment and read its options; the output is checked before any work."""
    import tyro

    module = _registry.load(name)
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("config", module.Config, dataclasses.field(default_factory=module.Config)),
            (
                "force",
                Annotated[bool, tyro.conf.arg(help="compute again although nothing changed")],
                dataclasses.field(default=False),
            ),
            (
                "results",
                Annotated[Path, tyro.conf.arg(help="folder for the result file")],
                dataclasses.field(default=_results.FOLDER),
            ),
        ],
    )
    given = tyro.cli(
        command,
        args=options,
        prog=f"python -m experiments {name}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    job = Job(name, module, given.config, given.force, given.results)
    runs.check_writable(job.path.parent)
    return job


def _run(job: Job) -> int:
    """Compute the experiment unless its result is already there, show it, return the exit code."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110)
    inputs = job.module.inputs() if hasattr(job.module, "inputs") else None
    key = _results.fingerprint(job.name, job.config, inputs)
    stored = _results.read_if_whole(job.path)
    if stored is not None and stored["fingerprint"] == key and not job.force:
        known = Outcome.from_json(stored["outcome"])
        known.show(console)
        made = stored["manifest"]
        print(
            f"\nNothing changed since this was computed ({made['started']}, {made['cpu']}, commit "
            f"{made['commit']}); --force computes it again."
        )
        return FAILED if known.failures else OK
    # Verification is in float64, at full precision of products, whatever the user's settings.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        manifest = runs.Manifest.start(job.config, seed=getattr(job.config, "seed", None))
        try:
            outcome = job.module.run(job.config)
        except NotMeasured as reason:
            print(f"not measured: {reason}")
            return OK
        manifest = manifest.finish()
    outcome.show(console)
    _results.write(job.path, name=job.name, key=key, manifest=manifest, result=outcome)
    print(f"\nWritten to {job.path} after {manifest.duration:.0f} s.")
    return FAILED if outcome.failures else OK


def _run_all(options: list[str]) -> int:
    """Run every experiment; one that fails does not stop the others."""
    parser = argparse.ArgumentParser(prog="python -m experiments all")
    parser.add_argument("--quick", action="store_true", help="a run of seconds each")
    parser.add_argument("--force", action="store_true", help="compute again what is unchanged")
    parser.add_argument("--results", type=Path, help="folder for the result files")
    given = parser.parse_args(options)
    failed: list[str] = []
    for name in _registry.names():
        print(f"\n=== {name}: {_registry.claim(name)}\n", flush=True)
        shared = ["--quick"] * given.quick + ["--force"] * given.force
        shared += ["--results", str(given.results)] if given.results else []
        try:
            own = _registry.own_command(name)
            code = _run(_prepare(name, shared)) if own is None else own(shared)
            if code != OK:
                failed.append(name)
        except Exception:  # noqa: BLE001 - each failure is shown and counted
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return FAILED if failed else OK


def _run_update(options: list[str]) -> int:
    """Compute what is stale or missing and does not need an idle machine, a device or hours."""
    parser = argparse.ArgumentParser(prog="python -m experiments update")
    parser.add_argument("--dry-run", action="store_true", help="say what would be computed")
    given = parser.parse_args(options)

    def compute(name: str, config: Any) -> int:
        job = Job(name, _registry.load(name), config, force=False, results=_results.FOLDER)
        try:
            return _run(job)
        except Exception:  # noqa: BLE001 - each failure is shown and counted
            traceback.print_exc()
            return FAILED

    failed = _update.update(compute, dry_run=given.dry_run)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return FAILED if failed else OK


if __name__ == "__main__":
    sys.exit(main())
