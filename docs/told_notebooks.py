"""Notebooks as pages: executed when the site is built, in quick mode, with what they show."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient

from docs import page_code

WIDGET = "application/vnd.jupyter.widget-view+json"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_NOTE = (
    "*Executed when this site was built, in quick mode (fewer points, the same code); the notebook "
    "is `notebooks/{}`.*"
)


def told(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    pictures: dict[str, bytes] = {}
    parts = []
    for number, cell in enumerate(_executed(path)):
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
            if len(parts) == 1:
                parts.append(_NOTE.format(path.name))
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{cell['source']}\n```")
            shown = [
                piece
                for k, output in enumerate(cell["outputs"])
                if (piece := _output(output, f"{path.stem}-{number}-{k}.png", pictures))
            ]
            if shown:
                inside = "\n\n".join(shown)
                parts.append(f'<div class="output" markdown>\n\n{inside}\n\n</div>')
    return "\n\n".join(parts), pictures


def _executed(path: Path) -> list[dict[str, Any]]:
    source = path.read_text(encoding="utf-8")
    kept = page_code.CACHE / f"{path.stem}.ipynb.json"
    mark = page_code.fingerprint(source)
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["mark"] == mark or page_code.DRAFT:
            return found["cells"]
    notebook = jupytext.read(path)
    if page_code.DRAFT:
        return json.loads(json.dumps([{"outputs": [], **cell} for cell in notebook.cells]))
    settings = {
        "VASHISTA_QUICK": "1",
        "PYTHONPATH": os.pathsep.join([str(page_code.ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env={**os.environ, **settings})
    cells = json.loads(json.dumps(notebook.cells))
    page_code.CACHE.mkdir(exist_ok=True)
    kept.write_text(json.dumps({"mark": mark, "cells": cells}), encoding="utf-8")
    return cells


def _output(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return _text(output["text"]) if output["name"] == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![What the cell above drew]({name})"
    if WIDGET in data:
        return "Here JupyterLab shows the picture that can be dragged."
    if "text/markdown" in data:
        return str(data["text/markdown"])
    return _text(data.get("text/plain", ""))


def _text(said: str) -> str:
    plain = _ESCAPES.sub("", said).rstrip()
    return f"```text\n{plain}\n```" if plain.strip() else ""
