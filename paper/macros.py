r"""Writes generated/numbers.tex: each number that the text quotes, from the result it stands in.

numbers.toml declares them. A section is a result of `experiments/`, a key the name in the text,
\\V{name}; it says which value, or which cell of a table, and in which format. A result that is not
there reads "not measured"; a result without that value is an error.

Examples:
  python -m paper.macros
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paper import _sources as sources

DECLARED = sources.FOLDER / "numbers.toml"


def declarations(path: Path = DECLARED) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name in the text, result and declaration of every number.

    Raises:
        SourceError: a name is declared twice.
    """
    seen: dict[str, str] = {}
    for result, numbers in sources.declared(path).items():
        for name, spec in numbers.items():
            if name in seen:
                raise sources.SourceError(f"{name!r} is declared for {seen[name]} and {result}")
            seen[name] = result
            yield name, result, spec


def numbers(path: Path = DECLARED, *, results: Path | None = None) -> dict[str, str]:
    """LaTeX of every declared number, by name."""
    found: dict[str, str] = {}
    for name, result, spec in declarations(path):
        outcome = sources.outcome_or_none(result, results)
        if outcome is None:
            found[name] = sources.NOT_MEASURED
            continue
        what = f"{name} (result {result!r})"
        value = sources.resolve(outcome, spec, what=what)
        found[name] = sources.as_latex(value, spec.get("format", ""), what=what)
    return found


def main(
    path: Path = DECLARED, *, results: Path | None = None, output: Path = sources.GENERATED
) -> int:
    """Write the file; returns the exit code."""
    try:
        found = numbers(path, results=results)
        missing = {r for name, r, _ in declarations(path) if found[name] == sources.NOT_MEASURED}
    except sources.SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = [
        rf"\expandafter\def\csname number@{name}\endcsname{{{tex}}}" for name, tex in found.items()
    ]
    sources.write(output / "numbers.tex", ["% by python -m paper.macros", *lines])
    print(f"{len(found)} numbers; not measured: {', '.join(sorted(missing)) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
