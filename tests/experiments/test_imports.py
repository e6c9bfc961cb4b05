"""Which modules code reaches, in packages by hand and at random; and what counts of them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.framework.imports import Graph

FRONT = """
import importlib
from typing import TYPE_CHECKING
from pack.light import quick as quick
from pack import room as room
if TYPE_CHECKING:
    from pack.heavy import slow as slow
def __getattr__(name):
    return getattr(importlib.import_module("pack.heavy"), name)
def own(): pass
"""
PACKAGE = {
    "pack/__init__.py": FRONT,
    "pack/light.py": "from pack._base import f\ndef quick(): return f()\n",
    "pack/heavy.py": "def slow(): pass\n",
    "pack/_base.py": "def f(): pass\n",
    "pack/alone.py": "",
    "pack/room/__init__.py": "from pack.room.run import run as run\nfrom pack.room import listed\n",
    "pack/room/run.py": "def run(): from pack.heavy import slow\n",
    "pack/room/listed.py": "REGISTER = 1\n",
    "pack/room/choose.py": "import importlib as i\n"
    "def pick(n): i.import_module(f'pack.room.{n}')\n",
    "pack/hall/__init__.py": "import importlib as i\nfrom pack.hall.run import run as run\n"
    "for n in names(): i.import_module(f'pack.hall.{n}')\n",
    "pack/hall/run.py": "def run(): pass\n",
    "pack/hall/found.py": "REGISTER = 1\n",
}
LIGHT, HEAVY = {"light", "_base"}, {"heavy"}
LISTED = {"room/listed"}
WHOLE = {"__init__", *LIGHT, *HEAVY, "room/__init__", "room/run", *LISTED}


def graph(folder: Path, files: dict[str, str]) -> Graph:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Graph(folder, ("pack", "task"))


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import pack as p\np.quick()", LIGHT),
        ("import pack as p\np.slow()", HEAVY),
        ("from pack import slow\nslow()", HEAVY),
        ("import pack\npack.room.run()", {"room/run", *HEAVY, *LISTED}),
        ("from pack import room\nroom.run()", {"room/run", *HEAVY, *LISTED}),
        ("from pack.room.run import run", {"room/run", *HEAVY, *LISTED}),
        ("def f():\n    from pack import heavy\n    heavy.slow()", HEAVY),
        ("COMMAND = ['-m', 'pack.heavy']", HEAVY),
        ("import pack as p\nf(p)", WHOLE),
        ("from pack import own\nown()", WHOLE),
        ("from pack.room.choose import pick",
         {"room/choose", "room/__init__", "room/run", *HEAVY, *LISTED}),
        ("from pack.hall import run\nrun()", {"hall/run", "hall/found"}),
        ("import json, numpy as np\nnp.linalg", set()),
    ],
)  # fmt: skip
def test_by_hand(tmp_path: Path, source: str, modules: set[str]) -> None:
    found = graph(tmp_path, PACKAGE | {"task.py": source}).reached("task")
    assert found.keys() == {"task.py", *(f"pack/{name}.py" for name in modules)}


@given(data=st.data(), size=st.integers(2, 7))
def test_what_is_reached_is_the_closure_of_the_imports(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    """Random packages whose modules use each other, by name or through a lazy front."""
    arrows = {
        i: data.draw(st.sets(st.integers(0, size - 1).filter(lambda j, i=i: j != i)))
        for i in range(size)
    }
    lines = [f"    from pack.m{i} import f{i} as f{i}" for i in range(size)]
    front = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n" + "\n".join(lines) + "\n"
    uses = (
        "from pack.m{0} import f{0}\nf{0}",
        "import pack as p\np.f{0}",
        "from pack import f{0}\nf{0}",
    )
    files = {"pack/__init__.py": front, "task.py": "import pack\npack.f0()"}
    for i, targets in arrows.items():
        body = [data.draw(st.sampled_from(uses)).format(j) for j in sorted(targets)]
        files[f"pack/m{i}.py"] = "\n".join([*body, f"def f{i}(): pass"]) + "\n"
    wanted, new = {0}, {0}
    while new:
        new = {j for i in new for j in arrows[i]} - wanted
        wanted |= new
    found = graph(tmp_path_factory.mktemp("packages"), files).reached("task")
    assert found.keys() == {"task.py", *(f"pack/m{i}.py" for i in wanted)}


CODE = '''"""Prose."""
import pack as p
COLUMNS = {"a": "what"}
BY_HAND = "hours"
SCALE = 2

def measure(x):
    """More."""
    return SCALE * _part(x)

def _part(x): return p.quick()

def report(x): return _say(COLUMNS, p.slow, SCALE)

def _say(*x): return "said"
'''


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        ('"""More."""', '"""Else."""', False),
        ("SCALE = 2\n", "SCALE = 2  # twice\n\n", False),
        ('"what"', '"which"', False),
        ('"hours"', '"days"', False),
        ('"said"', '"told"', False),
        ("SCALE = 2", "SCALE = 3", True),
        ("p.quick()", "p.quick(1)", True),
        ("import pack as p", "import pack.light as p", True),
        ("return SCALE *", "return _say() *", True),
    ],
)
def test_what_only_the_report_needs_does_not_count(
    tmp_path: Path, before: str, after: str, counts: bool
) -> None:
    said = frozenset({"report", "BY_HAND"})
    assert before in CODE
    one, other = (
        graph(tmp_path / name, PACKAGE | {"task.py": text}).reached("task", unless_for=said)
        for name, text in (("one", CODE), ("other", CODE.replace(before, after)))
    )
    assert "pack/heavy.py" not in one
    assert (one != other) is counts
