"""What has to be true of the repository itself."""

import ast
import inspect
import re
import subprocess
from pathlib import Path

import jaxtyping
import pytest

import vashista_theory

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 400
LONGEST_DEVICE_KERNEL = 600
# Absolute paths that exist on one machine only. A URL or a relative path may hold such a folder.
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:work|root|home|tmp|Users|opt|mnt|var/tmp)/\w")
PUBLIC_ONLY = ("experiments", "figures", "notebooks", "paper")


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: no list of tracked files")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """The text of a file; empty for a binary one."""
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8")


def shell_commands(markdown: str) -> list[str]:
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line]


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("open('/" + "work/data.npz')", True),
        ("PATH=/" + "root/venv/bin", True),
        ("see /" + "tmp/x", True),
        ("https://example.org/" + "work/page", False),
        ("notebooks/" + "tmp/x", False),
        ("w / root / n", False),
    ],
)
def test_a_machine_path_is_told_from_others(text: str, bad: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is bad


def test_no_merge_is_left_half_done() -> None:
    marker = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert not [str(path) for path in tracked_files() if marker.search(text_of(path))]


def test_files_stay_short() -> None:
    kernels = ROOT / "vashista_theory" / "attention" / "kernels"
    too_long = {}
    for path in tracked_files():
        if path.suffix != ".py":
            continue
        device_kernel = path.parent in (kernels / "gpu", kernels / "tpu")
        name, length = str(path.relative_to(ROOT)), len(text_of(path).splitlines())
        if length > (LONGEST_DEVICE_KERNEL if device_kernel else LONGEST_FILE):
            too_long[name] = length
    assert not too_long


def test_every_public_name_has_a_docstring() -> None:
    public = {
        name: value
        for name in dir(vashista_theory)
        # The import hook of the tests leaves `jaxtyping` behind in every module.
        if not name.startswith("_") and (value := getattr(vashista_theory, name)) is not jaxtyping
    }
    undocumented = []
    for name, value in public.items():
        doc = inspect.getdoc(value) or ""
        # A dataclass without a docstring gets its signature for one.
        if not doc.strip() or doc.startswith(f"{name}("):
            undocumented.append(name)
    assert public
    assert not undocumented


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    readme = shell_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    in_ci = re.findall(r"^README_\w+='(.*)'$", script, re.MULTILINE)
    assert in_ci == [command for command in readme if command.startswith("pip install")]
    assert len(in_ci) == 2
    for name in ("README_SWEEP", "README_TESTS"):
        for half in ("%% && *", "#* && "):
            assert re.search(
                rf'^eval "(run_pytest )?\$\{{{name}{re.escape(half)}}}"$', script, re.MULTILINE
            )


def private_parts(source: str) -> list[str]:
    """Private names of package and experiments that `source` imports, or reaches by a front."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                reached = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names):
                reached = [f"{module}.{alias.name}" for alias in names]
            case ast.Attribute(value=ast.Name(id="vt" | "vashista_theory"), attr=attribute):
                reached = [f"vashista_theory.{attribute}"]
            case _:
                continue
        found += [
            name
            for name in reached
            if name.startswith(("vashista_theory.", "experiments."))
            and any(re.match(r"_(?!_)", part) for part in name.split("."))
        ]
    return found


def test_what_skips_without_torch_is_run_where_it_is() -> None:
    """`.ci/run` runs whole files that skip, and single tests by their mark."""
    skipping = 0
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = text_of(path)
        inside = len(re.findall(r'^ +.*importorskip\("torch', text, re.MULTILINE))
        skipping += inside
        assert text.count("mark.torch") >= inside, f"{path}: @pytest.mark.torch is missing"
    assert skipping


def test_experiments_figures_and_notebooks_use_public_names() -> None:
    used = {
        str(path.relative_to(ROOT)): names
        for path in tracked_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PUBLIC_ONLY
        if (names := private_parts(text_of(path)))
    }
    assert not used


def test_private_names_are_noticed() -> None:
    source = "import vashista_theory as vt\nfrom vashista_theory._numerics import f\nvt._types\n"
    assert private_parts(source) == ["vashista_theory._numerics.f", "vashista_theory._types"]
    assert private_parts("from vashista_theory import __version__") == []
