"""The code on README and site: every block runs, as the site shows it; what fails is noticed."""

import re
from pathlib import Path

import pytest

from docs import page_code

ROOT = Path(__file__).parents[2]
PAGES = {
    "index.md": ROOT / "README.md",
    **{path.relative_to(ROOT / "docs").as_posix(): path for path in (ROOT / "docs").rglob("*.md")},
}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in sorted(PAGES.items())}
WITH_CODE = [n for n, text in TEXTS.items() if any(b.runs for b in page_code.blocks(text))]


# The whole build of the site runs every page too, and stops at one that fails.
@pytest.mark.parametrize(
    "name", [n if n == "index.md" else pytest.param(n, marks=pytest.mark.slow) for n in WITH_CODE]
)
def test_every_block_of_a_page_runs(name: str) -> None:
    # From the cache only where these very blocks ran with this very code.
    outcomes = page_code.stored(TEXTS[name], name)
    for block, outcome in zip(page_code.blocks(TEXTS[name]), outcomes, strict=True):
        assert (outcome is not None) is block.runs
        assert outcome is None or "nan" not in outcome.printed


def test_no_block_of_python_is_overlooked() -> None:
    for name, text in TEXTS.items():
        fences = len(re.findall(r"^ *```(?:python|py)\b", text, re.MULTILINE))
        found = [block for block in page_code.blocks(text) if block.language == "python"]
        assert len(found) == fences, f"{name}: a block that is not recognised"


def test_what_is_not_run_says_why() -> None:
    for name, text in TEXTS.items():
        for block in page_code.blocks(text):
            if block.language == "python" and not block.runs:
                assert re.search(r"<!-- not run: \w.{9,} -->", block.marks), name


def test_what_a_block_printed_and_drew_is_kept() -> None:
    page = """
```python
x = 2
```
<!-- run -->
```sh
echo from the shell
```
<!-- not run: it would never end -->
```python
while True: pass
```
```python
print(x + 1)
import matplotlib.pyplot as plt
plt.figure(figsize=(1, 1)).savefig("drawn.png")
```
<!-- needs: no_such_module -->
```python
import no_such_module
```
"""
    first, shell, endless, last, missing = page_code.run(page)
    assert first == page_code.Outcome()
    assert shell == page_code.Outcome("from the shell\n")
    assert endless is None
    assert last is not None
    assert last.printed == "3\n"
    assert last.pictures[0].startswith(b"\x89PNG")
    assert missing == page_code.Outcome(missing=("no_such_module",))


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```python\nimport warnings; warnings.warn('beware')\n```", "beware"),
        ("<!-- run -->\n```sh\nexit 3\n```", "exit code 3"),
    ],
)
def test_a_block_that_fails_is_noticed(block: str, said: str) -> None:
    with pytest.raises(page_code.ExampleError, match=said):
        page_code.run(block)
