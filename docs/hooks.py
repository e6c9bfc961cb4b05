"""What the site takes from elsewhere: the README as home page, notebooks, figures, mathematics."""

import re
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_MATH = re.compile(r"^(?P<pad> *)\.\. math::(?P<body>.*(?:\n(?P=pad) +\S.*)*)", re.MULTILINE)
_BEYOND = re.compile(r"\[([^\]]+)\]\((?!https?://|docs/|#)[^)]+\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the home page, the notebooks, and the figures that were drawn."""
    files.append(File.generated(config, "index.md", content=_home()))
    notebooks = []
    for path in sorted((ROOT / "notebooks").glob("*")):
        if path.suffix in (".py", ".md") and "jupytext:" in path.read_text(encoding="utf-8"):
            page = f"notebooks/{path.stem}.md"
            files.append(File.generated(config, page, content=_notebook(path)))
            notebooks.append(f"- [{_title(path.stem)}]({page})")
    drawn = []
    for path in sorted((ROOT / "figures" / "output").glob("*.png")):
        image = f"images/figures/{path.name}"
        files.append(File.generated(config, image, abs_src_path=str(path)))
        drawn.append(f"## {_title(path.stem)}\n\n![{_title(path.stem)}]({image})")
    config["extra"]["lists"] = {
        "notebooks": "\n".join(notebooks) or "There are none in this checkout.",
        "figures": "\n\n".join(drawn) or "None was drawn before this site was built: make figures.",
    }
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in the lists of notebooks and figures."""
    del page, files
    for name, text in config["extra"]["lists"].items():
        markdown = markdown.replace(f"<!-- {name} -->", text)
    return markdown


def on_config(config: Any) -> Any:
    """Let docstrings write ``.. math::`` as reStructuredText does."""
    extension = str(ROOT / "docs" / "hooks.py")
    options = config["plugins"]["mkdocstrings"].config["handlers"]["python"]["options"]
    options.setdefault("extensions", []).append(f"{extension}:Mathematics")
    return config


def _home() -> str:
    """The README with its links turned towards the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = _BEYOND.sub(r"`\1`", text)  # files that the site does not have
    return re.sub(r"\]\(docs/", "](", text)


def _notebook(path: Path) -> str:
    cells = jupytext.read(path).cells
    return "\n\n".join(
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in cells
        if cell.cell_type != "raw"
    )


def _title(stem: str) -> str:
    return re.sub(r"^\d+\s*", "", stem.replace("_", " ").replace("-", " ")).capitalize()


def _as_markdown(text: str) -> str:
    def display(found: re.Match[str]) -> str:
        body = " ".join(line.strip() for line in found["body"].strip().splitlines())
        return f"{found['pad']}\\[{body}\\]"

    text = _MATH.sub(display, text)
    text = re.sub(r":math:`([^`]+)`", r"\\(\1\\)", text)
    return re.sub(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`", r"`\1`", text)


try:
    import griffe

    class Mathematics(griffe.Extension):
        """Rewrites mathematics and references of docstrings."""

        def on_object(self, *, obj: Any, **kwargs: Any) -> None:
            """Called for every object once it is read."""
            del kwargs
            if obj.docstring:
                obj.docstring.value = _as_markdown(obj.docstring.value)
except ImportError:  # the extra `docs` has it
    pass
