"""One command line for all: what it lists exists, and what it does not list is refused."""

import importlib
import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from vashista_theory.__main__ import BAD_USE, COMMANDS, USAGE, main, start

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "check":
        assert main([name, "--help"]) == 0
    else:
        with pytest.raises(SystemExit) as end:  # tyro's way out
            main([name, "--help"])
        assert end.value.code == 0
    assert "Examples:" in capsys.readouterr().out or name == "check"
    assert f"vashista {name}" in USAGE


@pytest.mark.parametrize("arguments", [[], ["swep"], ["--sweep"], ["certify"]])
def test_what_is_no_command_is_refused_with_the_list(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == BAD_USE
    said = "".join(capsys.readouterr())
    assert USAGE in said
    assert not arguments or repr(arguments[0]) in said


def test_the_installed_script_is_this_one() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["vashista"].partition(":")
    assert getattr(importlib.import_module(module), function) is start
