"""What has to be true of the text of every notebook; `.ci/run` executes them."""

import ast
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest

from experiments.framework import registry
from figures import _style

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
LONGEST_FUNCTION = 10
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> str:
    """The code cells, joined; what IPython alone understands becomes a comment."""
    cells = jupytext.read(path).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.sub(r"^%", "#%", code, flags=re.MULTILINE)


def functions(code: str) -> Iterator[tuple[str, int]]:
    """Every function with its number of lines, the `def` included."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def private_names(code: str) -> set[str]:
    """Names with a leading underscore that the code imports or reaches for."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                reached = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names):
                reached = [module or "", *(alias.name for alias in names)]
            case ast.Attribute(attr=attribute):
                reached = [attribute]
            case _:
                continue
        parts = {part for name in reached for part in name.split(".")}
        found |= {part for part in parts if re.match(r"_(?!_)", part)}
    return found


def test_all_are_there_in_order() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == [f"0{number}_" for number in range(1, 8)]


@each
def test_it_is_a_paired_notebook_that_starts_with_its_title(path: Path) -> None:
    notebook = jupytext.read(path)
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(rf"# {int(path.name[:2])}\. \S", notebook.cells[0].source)


@each
def test_no_function_is_long(path: Path) -> None:
    assert not {name: n for name, n in functions(code_of(path)) if n > LONGEST_FUNCTION}


@each
def test_it_uses_public_names_only(path: Path) -> None:
    assert not private_names(code_of(path))


@each
def test_it_narrates(path: Path) -> None:
    # No stretch of more than three code cells without a word between them.
    kinds = [cell.cell_type for cell in jupytext.read(path).cells]
    assert "code code code code" not in " ".join(kinds)


def commands(text: str) -> list[tuple[str, str | None]]:
    """Modules that the text runs, in words or by `run("-m", ...)`, each with its first argument."""
    written = re.findall(r"python -m ([\w.]+)(?: (\w+))?", text)
    called = re.findall(r'run\("-m", "([\w.]+)"(?:, "(\w+)")?', text)
    return [(module, argument or None) for module, argument in written + called]


def is_known(module: str, argument: str | None) -> bool:
    """Whether the command line exists, and has what is asked of it."""
    names = {"experiments": registry.names(), "figures": _style.names()}.get(module)
    if names is not None:
        return argument in (None, "all", "NAME", *names)
    return importlib.util.find_spec(module) is not None


@each
def test_the_commands_it_names_exist(path: Path) -> None:
    assert not [command for command in commands(path.read_text("utf-8")) if not is_known(*command)]


def test_no_outputs_are_stored() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: no list of tracked files")
    listed = subprocess.run(
        ["git", "ls-files", "*.ipynb"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not listed.stdout


def test_what_is_forbidden_is_noticed() -> None:
    long = "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION
    assert list(functions(long)) == [("f", LONGEST_FUNCTION + 1)]
    code = "from a._b import c\nimport d._e\nx.y._z\nvt.__version__\n"
    assert private_names(code) == {"_b", "_e", "_z"}
    named = "`python -m experiments no_such`, python -m no_such_module"
    text = f'{named} run("-m", "figures", "theorem")'
    assert [is_known(*command) for command in commands(text)] == [False, False, True]
