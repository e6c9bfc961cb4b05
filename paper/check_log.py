"""Fails if the LaTeX log has what a reader would see: overfull boxes, undefined references.

Examples:
  python check_log.py main.log main.blg
"""

import re
import sys
from pathlib import Path

_WIDEST = 1.0  # pt; below that the eye sees nothing
_OVERFULL = re.compile(r"Overfull \\[hv]box \(([\d.]+)pt too (?:wide|high)\).*")
_WARNING = re.compile(
    r"^(?:LaTeX|Package \S+|Class \S+|pdfTeX|LaTeX Font) [Ww]arning.*|^Warning--.*"
    r"|.*undefined references.*"
)
# Nothing to see: hyperref leaves out of bookmarks what is not text.
_HARMLESS = ("Token not allowed in a PDF string",)


def problems(log: str) -> list[str]:
    """Lines of a log that must not be."""
    found = [m.group() for m in _OVERFULL.finditer(log) if float(m.group(1)) > _WIDEST]
    lines = (line.strip() for line in log.splitlines())
    return found + [
        line for line in lines if _WARNING.match(line) and not any(h in line for h in _HARMLESS)
    ]


def main(paths: list[str]) -> int:
    """Print the problems of the given logs; returns the exit code."""
    found = [
        f"{path}: {line}"
        for path in paths
        for line in problems(Path(path).read_text(encoding="utf-8", errors="replace"))
    ]
    print("\n".join(found) or "the logs are clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
