"""The LaTeX of the paper, comments aside."""

import functools
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "paper"


@functools.cache
def sections() -> dict[str, str]:
    """Text of main.tex and of every section, by file name, without comments."""
    paths = [FOLDER / "main.tex", *sorted((FOLDER / "sections").glob("*.tex"))]
    return {p.name: re.sub(r"(?<!\\)%.*", "", p.read_text(encoding="utf-8")) for p in paths}
