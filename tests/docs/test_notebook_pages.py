"""A notebook becomes a page with what its cells printed and drew; docstrings become Markdown."""

from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
from nbclient.exceptions import CellExecutionError

from docs import page_code, told_notebooks

NOTEBOOK = """# %% [markdown]
# # 1. A title

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
print("printed", 1 + 1)
plt.figure(figsize=(1, 1)); plt.plot([1, 2]); plt.show()

# %%
{"shown": 3}
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page_code, "CACHE", tmp_path / "cache")
    written = tmp_path / "01_small.py"
    written.write_text(NOTEBOOK, encoding="utf-8")
    return written


def test_a_page_has_what_the_cells_print_and_draw(path: Path) -> None:
    text, pictures = told_notebooks.told(path)
    assert text.startswith("# 1. A title\n\n*Executed when this site was built")
    assert "```text\nprinted 2\n```" in text
    assert "```text\n{'shown': 3}\n```" in text
    ((name, content),) = pictures.items()
    assert f"]({name})" in text
    assert content.startswith(b"\x89PNG")
    # The second time nothing runs.
    assert told_notebooks.told(path) == (text, pictures)


def test_a_cell_that_fails_stops_the_build(path: Path) -> None:
    path.write_text(NOTEBOOK + "\n# %%\n1 / 0\n", encoding="utf-8")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        told_notebooks.told(path)


def test_mathematics_of_docstrings_is_marked() -> None:
    pytest.importorskip("griffe", reason="the extra `docs` is not installed")
    from docs import docstrings

    text = "Says.\n\n.. math:: a +\n    b\n\nand :math:`c`, see :func:`~vt.project`."
    assert docstrings.as_markdown(text) == "Says.\n\n\\[a + b\\]\n\nand \\(c\\), see `vt.project`."
