"""From a declared name to what stands in a result, as LaTeX."""

import difflib
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.framework import results
from experiments.framework.outcome import Cell, Outcome, Table
from vashista_theory import runs

FOLDER = Path(__file__).resolve().parent
GENERATED = FOLDER / "generated"
NOT_MEASURED = r"\notmeasured{}"

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ̂": r"$\hat\Delta$",
    "p*": "$p^*$",
    "10^": r"10\textasciicircum{}",
}
_SYMBOLS = {
    "Δ": r"\Delta",
    "ε": r"\eps",
    "δ": r"\delta",
    "κ": r"\kappa",
    "ρ": r"\rho",
    "τ": r"\tau",
    "α": r"\alpha",
    "μ": r"\mu",
    "σ": r"\sigma",
    "θ": r"\theta",
    "γ": r"\gamma",
    "β": r"\beta",
    "λ": r"\lambda",
    "π": r"\pi",
    "φ": r"\varphi",
    "ω": r"\omega",
    "Ω": r"\Omega",
    "Λ": r"\Lambda",
    "Σ": r"\Sigma",
    "★": r"\star",
    "√": r"\sqrt{\,}",
    "‖": r"\Vert",
    "⟨": r"\langle",
    "⟩": r"\rangle",
    "−": "-",
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "≤": r"\le",
    "≥": r"\ge",
    "≈": r"\approx",
    "∞": r"\infty",
    "→": r"\to",
    "∉": r"\notin",
    "∈": r"\in",
    "′": "'",
    "½": r"\tfrac12",
    "²": r"{}^2",
    "³": r"{}^3",
    "†": r"\dagger",
    "¼": r"\tfrac14",
    "⁻": r"{}^{-}",
    "⁹": r"{}^9",
    "⁶": r"{}^6",
    "₀": r"{}_0",
    "ᵢ": r"{}_i",
    "∖": r"\setminus",
}
_PLAIN = "–—…“”‘’§°µ"  # LaTeX's own encodings know them
_POWER = r"e\^\((?P<power>(?:[^()]|\([^()]*\))*)\)"  # e^(...), with brackets once inside
_PERCENT = r"(?P<percent>(?<=\d) ?%)"


class SourceError(ValueError):
    """What a name asks of a result is not there; the message says what is."""


def declared(path: Path) -> dict[str, Any]:
    """The content of a TOML file of names.

    Raises:
        SourceError: It is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"{path.name} is not TOML: {error}") from error


def outcome_or_none(name: str, folder: Path | None = None) -> Outcome | None:
    """A stored outcome; None if it was not computed yet.

    Raises:
        SourceError: Its file is damaged.
    """
    try:
        return results.outcome(name, folder=folder)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SourceError(str(error)) from error


def pick(mapping: Mapping[str, Any], key: str, *, what: str) -> Any:
    """What a mapping holds under a key.

    Raises:
        SourceError: with the names nearest to the unknown one.
    """
    if key not in mapping:
        near = difflib.get_close_matches(key, mapping, n=4, cutoff=0.4) or sorted(mapping)[:8]
        raise SourceError(f"{what} has no {key!r}; it has {', '.join(near) or 'nothing'}")
    return mapping[key]


def rows_where(table: Table, where: Mapping[str, Cell], *, what: str) -> list[Mapping[str, Cell]]:
    """The rows whose cells are those given; a list of cells means any of them."""
    for column in where:
        pick(table.columns, column, what=what)
    choices = {c: v if isinstance(v, list) else [v] for c, v in where.items()}
    return [row for row in table.rows if all(row.get(c) in v for c, v in choices.items())]


def resolve(found: Outcome, spec: Mapping[str, Any], *, what: str) -> Cell:
    """The single value that a declaration names: of `values`, a cell of a table, or findings.

    `last` takes the last of several findings; an `optional` one may be missing, for it is of a part
    that a run can leave out.

    Raises:
        SourceError: no such value, table or column, or not exactly one row.
    """
    if "finding" in spec:
        said = [line for line in found.findings if line.startswith(spec["finding"])]
        if said:
            return said[-1] if spec.get("last") else " ".join(said)
        if spec.get("optional"):
            return None
        raise SourceError(f"{what}: no finding begins with {spec['finding']!r}")
    if "value" in spec:
        return pick(found.values, spec["value"], what=f"{what}: values")
    table = pick(found.tables, pick(spec, "table", what=what), what=f"{what}: the result")
    column = pick(spec, "column", what=what)
    pick(table.columns, column, what=f"{what}: table {spec['table']!r}")
    where = spec.get("where", {})
    rows = rows_where(table, where, what=f"{what}: table {spec['table']!r}")
    if len(rows) != 1:
        raise SourceError(f"{what}: {len(rows)} rows of {spec['table']!r} have {where}, not one")
    return rows[0].get(column)


def as_latex(value: Cell, form: str, *, what: str) -> str:
    """A value in a format of Python's `format`, as LaTeX; None is not measured."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, str):
        return escape(value)
    try:
        text = format(value, form)
    except (ValueError, TypeError) as error:
        raise SourceError(f"{what}: {value!r} has no format {form!r}: {error}") from error
    number = re.fullmatch(r"([+-]?[\d.,]+|[+-]?inf|nan)(?:e([+-]?\d+))?(%?)", text)
    if number is None:
        return escape(text)
    digits, power, percent = number.groups()
    digits = digits.replace(",", "{,}").replace("inf", r"\infty")
    if power is not None:
        digits += rf"\times10^{{{int(power)}}}"
    return rf"\ensuremath{{{digits}}}" + (r"\,\%" if percent else "")


def escape(text: str) -> str:
    """Plain text, with the symbols that results use, as LaTeX.

    Raises:
        SourceError: a symbol that would stop LaTeX.
    """
    symbols = (re.escape(s) for s in sorted(_SPECIAL | _SYMBOLS, key=len, reverse=True))
    pattern = "|".join((_POWER, _PERCENT, *symbols))

    for symbol in sorted(set(re.sub(pattern, "", text))):
        if not (
            symbol.isascii() or symbol in _PLAIN or unicodedata.name(symbol, "")[:5] == "LATIN"
        ):
            raise SourceError(f"{symbol!r} in {text!r} has no LaTeX: add it to paper/_sources.py")

    def replace(match: re.Match[str]) -> str:
        if match["power"] is not None:
            return rf"\ensuremath{{e^{{{escape(match['power'])}}}}}"
        if match["percent"] is not None:
            return r"\,\%"
        symbol = match.group()
        return _SPECIAL.get(symbol) or rf"\ensuremath{{{_SYMBOLS[symbol]}}}"

    return re.sub(pattern, replace, text)


def write(path: Path, lines: Iterable[str]) -> None:
    """Write a generated file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_atomically(path, "\n".join(lines) + "\n")
