"""Docstrings write mathematics and references as reStructuredText does; the site is Markdown."""

import re
from typing import Any

import griffe

_MATH = re.compile(r"^(?P<pad> *)\.\. math::(?P<body>.*(?:\n(?P=pad) +\S.*)*)", re.MULTILINE)


class Mathematics(griffe.Extension):
    """Rewrites them."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Called for every object once all are read."""
        del kwargs
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring with ``.. math::`` and roles turned into what the site renders."""

    def display(found: re.Match[str]) -> str:
        body = " ".join(line.strip() for line in found["body"].strip().splitlines())
        return f"{found['pad']}\\[{body}\\]"

    text = _MATH.sub(display, text)
    text = re.sub(r":math:`([^`]+)`", r"\\(\1\\)", text)
    return re.sub(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`", r"`\1`", text)
