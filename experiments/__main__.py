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
from typing import Annotated, Any

import jax

from experiments.framework import clock, registry, results, staleness, update
from experiments.framework.outcome import NotMeasured
from vashista_theory import runs

OK, FAILED, BAD_USE = 0, 1, 2
_NOT_A_RESULT = (
    "\nSource files differ from the commit: this is for looking at. A result to commit is computed "
    "from a clean tree; `update` does not accept this one."
)
_COMMIT_FIRST = (
    "error: source files differ from the commit, and a result belongs to one: nothing was "
    "computed. Commit them, then give the command again"
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One experiment with its options, checked before anything is computed."""

    name: str
    module: Any
    config: Any
    force: bool
    results: Path

    @property
    def path(self) -> Path:
        return results.path_of(self.name, quick=self.config.quick, folder=self.results)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failure, 2 for bad use."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "--list"):
        if not words or words[0] != "--list":
            print(__doc__)
        for name in registry.names():
            print(f"{name:24} {registry.claim(name)}")
        return OK if words else BAD_USE
    name, options = words[0], words[1:]
    if name == "all":
        return _run_all(options)
    if name == "update":
        return _run_update(options)
    try:
        # An experiment for machines without tyro and rich reads its options by itself.
        if (own := registry.own_command(name)) is not None:
            return own(options)
        job = _prepare(name, options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USE
    return _run(job)


def _prepare(name: str, options: list[str]) -> Job:
    """Import the experiment and read its options; the output is checked before any work."""
    import tyro

    module = registry.load(name)
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
                dataclasses.field(default=results.FOLDER),
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
    config = given.config
    if config.quick and hasattr(config, "reduced"):
        config = config.reduced()
    job = Job(name, module, config, given.force, given.results)
    runs.check_writable(job.path.parent)
    return job


def _run(job: Job) -> int:
    """Compute the experiment unless its result is already there, show it, return the exit code."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110)
    key = staleness.fingerprint(job.name, job.config)
    # Verification is in float64, at full precision of products, whatever the user's settings.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        manifest = runs.Manifest.start(job.config, seed=getattr(job.config, "seed", None))
        stored = results.read_if_whole(job.path)
        dirty = bool(manifest.dirty)
        if stored and not job.force and not staleness.reasons(stored, key, accept_dirty=dirty):
            made = stored["manifest"]
            last = (
                f"Nothing changed since this was computed ({made['started']}, {made['cpu']}, "
                f"commit {made['commit']}); --force computes it again."
            )
        else:
            config, note = _resumable(job.config, key)
            try:
                with clock.counted(note) as seconds:
                    found = job.module.measure(config)
            except NotMeasured as reason:
                print(f"not measured: {reason}")
                return OK
            manifest = dataclasses.replace(manifest, duration=seconds())
            stored = results.write(
                job.path, name=job.name, fingerprint=key, manifest=manifest, measured=found
            )
            last = f"Written to {job.path} after {seconds():.0f} s." + _NOT_A_RESULT * dirty
    outcome = results.rendered(job.name, stored)
    outcome.show(console)
    print(f"\n{last}")
    return FAILED if outcome.failures else OK


def _resumable(config: Any, key: dict[str, Any]) -> tuple[Any, Path | None]:
    """The configuration with a store for this code alone, and where its seconds are noted."""
    if not hasattr(config, "store"):
        return config, None
    store = config.store / runs.fingerprint([key["configuration"], key["modules"]])[:12]
    return dataclasses.replace(config, store=store), store / "seconds.json"


def _run_all(options: list[str]) -> int:
    """Run every experiment; one that fails does not stop the others."""
    parser = argparse.ArgumentParser(prog="python -m experiments all")
    parser.add_argument("--quick", action="store_true", help="a run of seconds each")
    parser.add_argument("--force", action="store_true", help="compute again what is unchanged")
    parser.add_argument("--results", type=Path, help="folder for the result files")
    given = parser.parse_args(options)
    failed: list[str] = []
    for name in registry.names():
        print(f"\n=== {name}: {registry.claim(name)}\n", flush=True)
        shared = ["--quick"] * given.quick + ["--force"] * given.force
        shared += ["--results", str(given.results)] if given.results else []
        try:
            own = registry.own_command(name)
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
    dirty = runs.Manifest.start(None).dirty

    def compute(name: str, config: Any) -> int:
        if dirty:
            print(_COMMIT_FIRST, file=sys.stderr)
            sys.exit(BAD_USE)
        job = Job(name, registry.load(name), config, force=False, results=results.FOLDER)
        try:
            return _run(job)
        except Exception:  # noqa: BLE001 - each failure is shown and counted
            traceback.print_exc()
            return FAILED

    failed = update.update(compute, dry_run=given.dry_run)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return FAILED if failed else OK


if __name__ == "__main__":
    runs.run(main)
