"""The code of a page: found, run block by block, and what each block printed and drew.

Blocks of Python share one interpreter and an empty folder, in the order of the page. A comment
before a block says what is different about it::

    <!-- run -->                      a block of shell commands that is run too
    <!-- not run: needs a cluster --> a block of Python that is not, and why
    <!-- needs: torch -->             a block that is run where these modules can be imported
    <!-- prepare: model -->           what the folder holds beforehand: see `PREPARATIONS`

Run as a script, it is the interpreter of one page: blocks in, outcomes out, as JSON.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".docs_cache"
# For writing prose: nothing is run, and what a page last printed is shown, however old.
DRAFT = os.environ.get("VASHISTA_DRAFT") == "1"
PREPARATIONS = {"model": Path(__file__).with_name("tiny_model.py")}
_BLOCK = re.compile(
    r"^(?P<marks>(?:<!-- [^>]* -->\n)*)```(?P<language>python|sh)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_PREPARE = re.compile(r"<!-- prepare: (\w+) -->")


class ExampleError(RuntimeError):
    """A block of a page failed; the message has its code and the traceback."""


@dataclass(frozen=True)
class Block:
    """One block of code: where its text ends in the page, and what to do with it."""

    end: int
    language: str
    code: str
    marks: str

    @property
    def runs(self) -> bool:
        """Whether it is run at all."""
        asked = "<!-- run -->" in self.marks
        return asked if self.language == "sh" else "<!-- not run: " not in self.marks

    @property
    def needs(self) -> list[str]:
        """Modules without which it is left out."""
        found = re.search(r"<!-- needs: ([\w, .]+) -->", self.marks)
        return [name.strip() for name in found[1].split(",")] if found else []


@dataclass(frozen=True)
class Outcome:
    """What a block printed and the pictures that it saved; `missing` if it was left out."""

    printed: str = ""
    pictures: tuple[bytes, ...] = ()
    missing: tuple[str, ...] = ()


def blocks(markdown: str) -> list[Block]:
    """Every block of Python and shell of a page, in order."""
    return [
        Block(found.end(), found["language"], found["code"], found["marks"])
        for found in _BLOCK.finditer(markdown)
    ]


def run(markdown: str) -> list[Outcome | None]:
    """Run a page; for each block its outcome, None for one that is not run.

    Raises:
        ExampleError: a block failed, or gave a warning.
    """
    found = blocks(markdown)
    asked = [
        {"language": block.language, "code": block.code, "needs": block.needs}
        for block in found
        if block.runs
    ]
    if not asked:
        return [None] * len(found)
    prepare = [str(PREPARATIONS[name]) for name in _PREPARE.findall(markdown)]
    with tempfile.TemporaryDirectory(prefix="page") as folder:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        done = subprocess.run(
            [sys.executable, "-W", "error", str(Path(__file__).resolve())],
            input=json.dumps({"blocks": asked, "prepare": prepare}),
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise ExampleError(done.stderr[-6000:])
    told = iter(json.loads(done.stdout.splitlines()[-1]))
    return [_outcome(next(told)) if block.runs else None for block in found]


def stored(markdown: str, name: str) -> list[Outcome | None]:
    """As `run`, from the cache if neither the page's blocks nor the package changed since."""
    path = CACHE / f"{name.replace('/', '-')}.json"
    found = blocks(markdown)
    here = [module for block in found for module in block.needs if is_there(module)]
    mark = fingerprint(str([(block.marks, block.code) for block in found] + here))
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["mark"] == mark or (DRAFT and len(kept["outcomes"]) == len(found)):
            return [None if told is None else _outcome(told) for told in kept["outcomes"]]
    if DRAFT:
        return [None] * len(found)
    made = run(markdown)
    told = [
        outcome
        and {
            "printed": outcome.printed,
            "pictures": [picture.hex() for picture in outcome.pictures],
            "missing": outcome.missing,
        }
        for outcome in made
    ]
    CACHE.mkdir(exist_ok=True)
    path.write_text(json.dumps({"mark": mark, "outcomes": told}), encoding="utf-8")
    return made


def fingerprint(text: str) -> str:
    """Of a text, of all code that it may run, and of the results that this may read."""
    total = hashlib.sha256(text.encode())
    total.update(Path(__file__).with_name("tiny_model.py").read_bytes())
    for folder in ("vashista_theory", "experiments", "figures"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            total.update(path.read_bytes())
    for path in sorted((ROOT / "experiments" / "results").glob("*.json")):
        total.update(path.read_bytes())
    return total.hexdigest()


def _outcome(told: dict[str, Any]) -> Outcome:
    pictures = tuple(bytes.fromhex(picture) for picture in told["pictures"])
    return Outcome(told["printed"], pictures, tuple(told["missing"]))


def is_there(name: str) -> bool:
    """Whether a module can be imported."""
    return importlib.util.find_spec(name) is not None


def _run_shell(code: str) -> str:
    done = subprocess.run(
        ["bash", "-ec", code], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise ExampleError(f"{code}exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _run_block(block: dict[str, Any], names: dict[str, Any], seen: set[Path]) -> dict[str, Any]:
    missing = [name for name in block["needs"] if not is_there(name)]
    if missing:
        return {"printed": "", "pictures": [], "missing": missing}
    printed = io.StringIO()
    if block["language"] == "sh":
        printed.write(_run_shell(block["code"]))
    else:
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], "<the block above>", "exec"), names)
    pictures = sorted(set(Path().glob("*.png")) - seen)
    seen.update(pictures)
    return {
        "printed": printed.getvalue(),
        "pictures": [path.read_bytes().hex() for path in pictures],
        "missing": [],
    }


def _interpret() -> int:
    asked = json.load(sys.stdin)
    sys.path.insert(0, str(ROOT))
    if all(is_there(name) for name in ("torch", "transformers")):
        for script in asked["prepare"]:
            subprocess.run([sys.executable, script], check=True, stdout=subprocess.DEVNULL)
    names: dict[str, Any] = {"__name__": "__main__"}
    seen: set[Path] = set()
    outcomes = []
    for block in asked["blocks"]:
        try:
            outcomes.append(_run_block(block, names, seen))
        except Exception:  # noqa: BLE001  # whatever a block does wrong is shown with the block
            print(f"{block['code']}\n{traceback.format_exc()}", file=sys.stderr)
            return 1
    print(json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(_interpret())
