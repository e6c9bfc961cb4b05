"""What the command line says to a request that it does not meet."""

import re

import pytest

from vashista_theory.sweep.__main__ import main


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message, without boxes and line breaks; exit code and silence elsewhere are checked."""
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", said.err).split())
