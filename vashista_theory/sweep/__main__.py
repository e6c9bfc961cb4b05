"""``python -m vashista_theory.sweep``: verify the theorem and say what was found."""

import tyro
from rich.console import Console

from vashista_theory import _streams
from vashista_theory.runs import ClusterError, DamagedStoreError, write_atomically
from vashista_theory.sweep import report as reports
from vashista_theory.sweep.config import SweepConfig
from vashista_theory.sweep.run import draw, execute, prepare

DESCRIPTION = """Verify the face-stability theorem on families of hulls and on attention heads.

Examples:
  python -m vashista_theory.sweep                        everything; stopped, it resumes
  python -m vashista_theory.sweep --quick --output try   a look in seconds
  python -m vashista_theory.sweep --families gaussian heads --instances 20 --output more
  python -m vashista_theory.sweep --families heads --heads MINE.npz --output mine
  python -m vashista_theory.sweep --format json > report.json
  python -m vashista_theory.sweep --workers 8            on processes of a local Dask cluster
  python -m vashista_theory.sweep --scheduler tcp://10.0.0.5:8786 --store s3://bucket/sweep

Exit code: 0 if every bound held, 1 for a violation, 2 for a request that cannot be met
or a store or cluster that failed; 130 or 143 if it was stopped, by Ctrl-C or SIGTERM.
"""

VIOLATION, BAD_USE, INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        config = tyro.cli(
            SweepConfig,
            args=arguments,
            prog="python -m vashista_theory.sweep",
            description=DESCRIPTION,
        )
        prepared = prepare(config)
    except (ValueError, OSError, ImportError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False)
        return BAD_USE
    config = prepared.config
    try:
        dataset = execute(prepared)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ClusterError, DamagedStoreError, ImportError, OSError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False)
        return BAD_USE
    report = reports.summarise(dataset)
    text = reports.as_json(report, dataset)
    write_atomically(config.output / "report.json", text + "\n")
    drawn = draw(dataset, config.output) if config.figures else []
    if config.format == "json":
        print(text)
    else:
        reports.show(report, Console())
        print(f"\nData: {prepared.store.data}   Report: {config.output / 'report.json'}")
        if drawn:
            print(f"Figures: {', '.join(path.name for path in drawn)} in {drawn[0].parent}")
    return report.exit_code


if __name__ == "__main__":
    _streams.run(main)
