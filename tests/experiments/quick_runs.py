"""A quick run by the command line, read back as everybody reads it."""

from pathlib import Path

from experiments.__main__ import OK, main
from experiments.framework import results
from experiments.framework.outcome import Outcome


def quick(name: str, folder: Path, *options: str, code: int = OK) -> Outcome:
    """What the result of a quick run says; its file is below `folder`."""
    assert main([name, "--quick", "--results", str(folder), *options]) == code
    stored = results.read(results.path_of(name, quick=True, folder=folder))
    assert stored is not None
    return results.rendered(name, stored)
