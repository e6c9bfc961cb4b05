"""What the site takes from elsewhere, and what the code on its pages printed."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `mkdocs` does not look in the folder it is started in

from docs import page_code, statements, told_notebooks  # noqa: E402

_BEYOND = re.compile(r"\[([^\]]+)\]\((?!https?://|docs/|#)[^)]+\)")
_FIGURE = re.compile(r"<!-- figure (\w+) -->")


def on_files(files: Files, config: Any) -> Files:
    """Add the home page, the notebooks, and the figures that were drawn."""
    _run_everything()
    files.append(File.generated(config, "index.md", content=_home()))
    macros = f"window.paperMacros = {json.dumps(statements.macros())};\n"
    files.append(File.generated(config, "javascripts/paper_macros.js", content=macros))
    notebooks = []
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        page = f"notebooks/{path.stem}.md"
        text, pictures = told_notebooks.told(path)
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
        files.append(File.generated(config, page, content=text))
        notebooks.append(f"- [{_title(path)}]({page})")
    drawn = sorted((ROOT / "figures" / "output").glob("*.png"))
    for path in drawn:
        files.append(File.generated(config, f"images/figures/{path.name}", abs_src_path=str(path)))
    config["extra"]["lists"] = {
        "notebooks": "\n".join(notebooks),
        "figures": "\n\n".join(f"## {_words(p.stem)}\n\n<!-- figure {p.stem} -->" for p in drawn)
        or "None was drawn before this site was built: make figures.",
    }
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in lists, statements and figures, and what the code of the page printed."""
    for name, text in config["extra"]["lists"].items():
        markdown = markdown.replace(f"<!-- {name} -->", text)
    source = page.file.src_uri
    up = "../" * source.count("/")
    markdown = _FIGURE.sub(lambda found: _figure(found[1], up), markdown)
    markdown = statements.fill(markdown)
    if source.startswith(("notebooks/", "api/")):
        return markdown
    pieces, last = [], 0
    outcomes = page_code.stored(markdown, source)
    found = zip(page_code.blocks(markdown), outcomes, strict=True)
    for number, (block, outcome) in enumerate(found):
        pieces.append(markdown[last : block.end])
        last = block.end
        if outcome is not None:
            names = [f"{Path(source).stem}-{number}-{k}.png" for k in range(len(outcome.pictures))]
            for name, content in zip(names, outcome.pictures, strict=True):
                place = f"{source.rpartition('/')[0]}/images/{name}".lstrip("/")
                files.append(File.generated(config, place, content=content))
            pieces.append(_output(outcome, names))
    return "".join([*pieces, markdown[last:]])


def _run_everything() -> None:
    """Fill the cache, two at a time: what follows finds all outcomes there."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = ["index.md", *(path.relative_to(ROOT / "docs").as_posix() for path in paths[1:])]
    with ThreadPoolExecutor(2) as pool:
        notebooks = pool.map(told_notebooks.told, sorted((ROOT / "notebooks").glob("*.py")))
        texts = [path.read_text(encoding="utf-8") for path in paths]
        pages = pool.map(page_code.stored, texts, names)
        list(notebooks), list(pages)


def _output(outcome: page_code.Outcome, pictures: list[str]) -> str:
    if outcome.missing:
        said = f"Not run when this site was built: {', '.join(outcome.missing)} was not installed."
        return f'\n\n<div class="output" markdown>\n\n{said}\n\n</div>\n'
    parts = [f"![What the code above drew](images/{name})" for name in pictures]
    if outcome.printed.strip():
        lines = (line.rstrip() for line in outcome.printed.rstrip().splitlines())
        parts.insert(0, "```text\n" + "\n".join(lines) + "\n```")
    shown = "\n\n".join(parts)
    return f'\n\n<div class="output" markdown>\n\n{shown}\n\n</div>\n' if parts else ""


def _figure(name: str, up: str) -> str:
    source = (ROOT / "figures" / f"{name}.py").read_text(encoding="utf-8")
    says = re.search(r'^r?"""(.*?)[.?]?(?:"""|\n)', source)
    result = re.search(r'^RESULT = "(\w+)"', source, re.MULTILINE)
    assert says is not None
    assert result is not None
    made = f"`python -m experiments {result[1]}`, `python -m figures {name}`"
    if not (ROOT / "figures" / "output" / f"{name}.png").is_file():
        return f"*{says[1]}: not drawn, for want of a result* ({made})."
    return f"![{says[1]}]({up}images/figures/{name}.png)\n\n*{says[1]}* ({made})."


def _home() -> str:
    """The README with its links turned towards the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = _BEYOND.sub(r"`\1`", text)  # files that the site does not have
    return re.sub(r"\]\(docs/", "](", text)


def _title(notebook: Path) -> str:
    return jupytext.read(notebook).cells[0].source.splitlines()[0].lstrip("# ")


def _words(stem: str) -> str:
    return stem.replace("_", " ").capitalize()
