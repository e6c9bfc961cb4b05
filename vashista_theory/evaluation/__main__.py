"""``python -m vashista_theory.evaluation``: quality of sparse reading, measured on a real model."""

import tyro
from rich.console import Console

from vashista_theory import _streams
from vashista_theory.evaluation import report as reports
from vashista_theory.evaluation.config import EvaluationConfig
from vashista_theory.evaluation.run import execute, prepare
from vashista_theory.models import FetchError, ModelFileError
from vashista_theory.runs import ClusterError, DamagedStoreError, write_atomically

DESCRIPTION = """Quality of a language model that reads its past sparsely, against itself dense.

Examples:
  python -m vashista_theory.evaluation --quick            minutes; fetches a 135M model (93 MB)
  python -m vashista_theory.evaluation --contexts 2048 4096 8192 --pages 16 32 64 --output full
  python -m vashista_theory.evaluation --policy boxes budget --tasks needle-prose --text moby-dick
  python -m vashista_theory.evaluation --model MINE.gguf --text MINE.txt --tasks --output mine
  python -m vashista_theory.evaluation --import mine.py --policy mine budget
  python -m vashista_theory.evaluation --workers 2     processes of one thread each (extra cluster)
  python -m vashista_theory.evaluation --format json > report.json

Stopped at any moment, the same command goes on. Needs the extra lm:
pip install "vashista-theory[lm]".

Exit code: 0, 1 if a certificate was ever wrong, 2 for a request that cannot be met; 130 or 143 if
it was stopped, by Ctrl-C or SIGTERM.
"""

BAD_USE, INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        config = tyro.cli(
            EvaluationConfig,
            args=arguments,
            prog="python -m vashista_theory.evaluation",
            description=DESCRIPTION,
        )
        prepared = prepare(config)
    except (ValueError, OSError, FetchError, ModelFileError, ImportError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False)
        return BAD_USE
    try:
        datasets = execute(prepared)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ClusterError, DamagedStoreError, ImportError, OSError, ValueError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False)
        return BAD_USE
    report = reports.summarise(datasets)
    text = reports.as_json(report, datasets)
    output = prepared.config.output
    write_atomically(output / "report.json", text + "\n")
    if prepared.config.format == "json":
        print(text)
    else:
        reports.show(report, Console())
        place = prepared.config.store or output
        print(f"\nData: {place}/*/data.zarr   Report: {output / 'report.json'}")
    return report.exit_code


if __name__ == "__main__":
    _streams.run(main)
