"""The paper quotes results and never types them; what it cites and refers to exists."""

import re
from pathlib import Path

import pytest

from experiments.framework import registry
from experiments.framework import results as stored
from experiments.framework.outcome import Measured, Outcome, Table
from figures import _style as figure_style
from paper import _sources, check_log, macros, tables
from tests.paper import sources
from vashista_theory import runs

PAPER = sources.FOLDER
# Experiments and figures that the text makes room for; until they exist they read "not measured".
AWAITED: set[str] = set()
AWAITED_FIGURES: set[str] = set()
SECTIONS = sorted(path.name for path in (PAPER / "sections").glob("*.tex"))

# What looks like a measurement: a decimal, a per cent, a power of ten, a number of thousands, a
# number with a unit or a "times".
LITERAL = re.compile(
    r"""
    \d+\.\d+ | \d+\s*\\,?\s*\\?% | 10\^\{?-?\d+ | \d{1,3}(?:\{,\}|,)\d{3}
    | \d+[\s~]*(?:ms|s|µs|GB|MB|MiB|kB|GiB|nats|decades|tokens|times|fold|megabytes|per[ ]cent)\b
    """,
    re.VERBOSE,
)
ALLOWED = {
    "50, 90 and 99 per cent": "of the mass, by which support is defined",
    "90 per cent": "the same",
    r"\eps=10^{-2}$,": "where the ratio of T5 is read: a choice of the experiment",
    r"$10^{-8}$ and $10^{-40}$": "the same",
    r"$\tau=5$ per cent": "a tolerance: a choice of the experiment",
    "exact in 80 per cent": "when a task counts: a choice of the experiment",
    "dense does so in 90 per cent": "the same",
    "256 tokens": "drawn: a choice of the experiment",
    "with 512 tokens": "the same",
    "with 64 tokens": "the same",
    "256 drawn tokens": "the same",
    "the last 128 tokens": "predicted: a choice of the experiment",
    "at 512 tokens": "a length of context: a choice of the experiment",
}
_COMMANDS = re.compile(
    r"\\(?:V|code|cite[tp]?|ref|eqref|label|generatedfigure|generatedtable|input)"
    r"(?:\[[^]]*\])*\{[^}]*\}"
)


def prose(text: str) -> str:
    """The text without commands that hold no number for the reader."""
    return _COMMANDS.sub(" ", re.sub(r"[\d.]+\\linewidth", " ", text))


def literals(text: str) -> list[str]:
    """Numbers in a text that look measured and are not allowed."""
    for allowed in ALLOWED:
        text = text.replace(allowed, " ")
    return [match.group() for match in LITERAL.finditer(prose(text))]


@pytest.mark.parametrize("name", SECTIONS)
def test_no_measurement_is_typed(name: str) -> None:
    assert literals(sources.sections()[name]) == []


@pytest.mark.parametrize(
    "typed",
    [
        "it is 3.2 times as fast",
        "in 40 ms",
        r"kept 91\,\% of it",
        "within $10^{-9}$",
        "of 259,200 pairs",
        r"of $259{,}200$",
        "a 7 times smaller",
    ],
)
def test_a_typed_measurement_is_seen(typed: str) -> None:
    assert literals(f"We found that {typed}, and more.")
    assert not literals(r"We found that it is \V{some.3.2} times so \cite{x2.0}.")


@pytest.mark.parametrize("allowed", ALLOWED)
def test_every_exception_is_needed(allowed: str) -> None:
    assert any(allowed in text for text in sources.sections().values())


def quoted() -> set[str]:
    return {n for t in sources.sections().values() for n in re.findall(r"\\V\{([^}#]+)\}", t)}


def test_every_number_is_declared_and_every_declaration_used() -> None:
    declared = {name for name, _, _ in macros.declarations()}
    assert quoted() == declared


def test_every_number_and_table_comes_from_an_experiment() -> None:
    known = AWAITED.union(registry.names())
    for name, result, _ in macros.declarations():
        assert result in known, f"{name} quotes {result!r}, which is no experiment"
    for name, spec in _sources.declared(tables.DECLARED).items():
        assert spec["result"] in known, f"table {name}"


def test_what_is_declared_stands_in_the_results() -> None:
    # Raises where a result exists and lacks what is asked of it.
    assert set(macros.numbers()) == {name for name, _, _ in macros.declarations()}
    for name, spec in _sources.declared(tables.DECLARED).items():
        assert tables.tabular(name, spec)[-1].startswith(r"\end{tabular")


def test_tables_and_figures_that_are_shown_are_known() -> None:
    text = "".join(t for n, t in sources.sections().items() if n != "main.tex")
    shown = set(re.findall(r"\\generatedtable\{(\w+)\}", text))
    assert shown == set(_sources.declared(tables.DECLARED))
    figures = set(re.findall(r"\\generatedfigure(?:\[[^]]*\])?\{(\w+)\}", text))
    assert figures <= AWAITED_FIGURES.union(figure_style.names())


def test_experiments_that_are_named_exist() -> None:
    known = AWAITED.union(registry.names())
    for name, text in sources.sections().items():
        for code in re.findall(r"\\code\{([a-z_\\]+)\}", text):
            assert code.replace("\\_", "_") in known, f"{name} names {code}"


def test_every_reference_is_cited_and_every_citation_known() -> None:
    bib = (PAPER / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", bib, re.MULTILINE)
    text = "".join(sources.sections().values())
    cited = {k.strip() for c in re.findall(r"\\cite[tp]?\{([^}]+)\}", text) for k in c.split(",")}
    assert len(keys) == len(set(keys))
    assert set(keys) == cited
    for entry in re.split(r"\n(?=@)", bib.strip()):
        assert re.search(r"author=\{.+?\}, title=\{.+?\}, .*year=\{\d{4}\}", entry), entry


def test_every_reference_to_a_label_has_one() -> None:
    text = "".join(sources.sections().values())
    labels = re.findall(r"\\label\{([^}]+)\}", text)
    assert len(labels) == len(set(labels))
    assert set(re.findall(r"\\(?:eq)?ref\{([^}#]+)\}", text)) <= set(labels)


# ---------------------------------------------------------------- the generators


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    table = Table(
        {"context": "tokens", "time": "ms"},
        [{"context": 512, "time": 1.25}, {"context": 1024, "time": None}],
    )
    made = Outcome(
        tables={"times": table},
        values={"ratio": 0.25, "count": 12345, "tiny": 1.26e-16, "name": "50 % of ε_i"},
        findings=["It holds.", "It is fast."],
    )
    manifest, nothing = runs.Manifest.start({}).finish(), Measured()
    path = tmp_path / "generation.json"
    stored.write(path, name="generation", fingerprint={}, manifest=manifest, measured=nothing)
    monkeypatch.setattr(registry, "reporter", lambda _: lambda _: made)
    return tmp_path


def _numbers(tmp_path: Path, results: Path, declared: str) -> dict[str, str]:
    path = tmp_path / "numbers.toml"
    path.write_text(declared, encoding="utf-8")
    return macros.numbers(path, results=results)


def test_numbers_are_read_and_set(tmp_path: Path, results: Path) -> None:
    found = _numbers(
        tmp_path,
        results,
        """
        [generation]
        a = { value = "ratio", format = ".0%" }
        b = { value = "count", format = ",d" }
        c = { value = "tiny", format = ".1e" }
        d = { value = "name" }
        e = { table = "times", column = "time", where = { context = 512 }, format = ".2f" }
        f = { table = "times", column = "time", where = { context = 1024 }, format = ".2f" }
        g = { finding = "It is" }
        g2 = { finding = "It", last = true }
        g3 = { finding = "Never", optional = true }
        [latency]
        h = { value = "anything" }
        """,
    )
    assert found == {
        "a": r"\ensuremath{25}\,\%",
        "b": r"\ensuremath{12{,}345}",
        "c": r"\ensuremath{1.3\times10^{-16}}",
        "d": r"50\,\% of \ensuremath{\eps}\_i",
        "e": r"\ensuremath{1.25}",
        "f": _sources.NOT_MEASURED,
        "g": "It is fast.",
        "g2": "It is fast.",
        "g3": _sources.NOT_MEASURED,
        "h": _sources.NOT_MEASURED,
    }


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ('a = { value = "ratios" }', "a .*no 'ratios'; it has ratio"),
        ('a = { table = "time", column = "time" }', "no 'time'; it has times"),
        ('a = { table = "times", column = "tim" }', "no 'tim'; it has time"),
        ('a = { table = "times", column = "time" }', "2 rows .* not one"),
        ('a = { table = "times", column = "time", where = { x = 1 } }', "no 'x'"),
        ('a = { value = "ratio", format = "d" }', "0.25 has no format 'd'"),
        ('a = { finding = "Never" }', "no finding begins with 'Never'"),
        ("a = { format = 'd' }", "no 'table'"),
        ("a = {", "not TOML"),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, results: Path, declared: str, complaint: str
) -> None:
    with pytest.raises(_sources.SourceError, match=complaint):
        _numbers(tmp_path, results, f"[generation]\n{declared}\n")


def test_a_symbol_that_would_stop_latex_is_named() -> None:
    assert _sources.escape("Peyré: Ω(Δ/ε) …") == (
        r"Peyré: \ensuremath{\Omega}(\ensuremath{\Delta}/\ensuremath{\eps}) …"
    )
    assert _sources.escape("e^(−Δ/(2ε)) at 5 %, in %") == (
        r"\ensuremath{e^{\ensuremath{-}\ensuremath{\Delta}/(2\ensuremath{\eps})}} at 5\,\%, in \%"
    )
    with pytest.raises(_sources.SourceError, match="'☃' in 'a ☃'"):
        _sources.escape("a ☃")


def test_a_name_is_declared_once(tmp_path: Path, results: Path) -> None:
    twice = '[generation]\na = { value = "ratio" }\n[latency]\na = { value = "x" }\n'
    with pytest.raises(_sources.SourceError, match="'a' is declared for generation and latency"):
        _numbers(tmp_path, results, twice)


def test_the_command_writes_numbers_or_says_what_is_wrong(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers.toml"
    path.write_text('[generation]\n"a.b" = { value = "ratio", format = ".2f" }\n', encoding="utf-8")
    assert macros.main(path, results=results, output=tmp_path / "made") == 0
    written = (tmp_path / "made" / "numbers.tex").read_text(encoding="utf-8")
    assert written.splitlines()[1:] == [
        r"\expandafter\def\csname number@a.b\endcsname{\ensuremath{0.25}}"
    ]
    path.write_text('[generation]\na = { value = "rate" }\n', encoding="utf-8")
    assert macros.main(path, results=results, output=tmp_path / "made") == 2
    assert "error: a (result 'generation')" in capsys.readouterr().err


def test_a_table_is_set(results: Path) -> None:
    columns = [
        {"key": "context", "heading": "tokens", "format": ",d"},
        {"key": "time", "heading": "ms", "format": ".2f"},
    ]
    spec = {"result": "generation", "table": "times", "columns": columns}
    lines = tables.tabular("t", spec, results=results)
    assert lines[4:6] == [
        r"\ensuremath{512} & \ensuremath{1.25} \\",
        r"\ensuremath{1{,}024} & -- \\",
    ]
    columns[0]["shown"] = {512: "few"}
    assert tables.tabular("t", spec, results=results)[4].startswith("few &")
    missing = tables.tabular("t", spec | {"result": "latency"}, results=results)
    assert missing[4] == r"\multicolumn{2}{c}{\notmeasured{}} \\"
    with pytest.raises(_sources.SourceError, match="no row"):
        tables.tabular("t", spec | {"where": {"context": 7}}, results=results)


def test_the_log_is_read() -> None:
    log = """Package: infwarerr 2019/12/03 v1.5 Providing info/warning/error messages (HO)
Overfull \\hbox (0.6pt too wide) in paragraph at lines 1--2
Overfull \\hbox (12.5pt too wide) in paragraph at lines 3--4
LaTeX Warning: Reference `x' on page 1 undefined on input line 2.
Package hyperref Warning: Token not allowed in a PDF string (Unicode):
Warning--empty journal in y
"""
    found = check_log.problems(log)
    assert [line.split("(")[0].strip() for line in found] == [
        "Overfull \\hbox",
        "LaTeX Warning: Reference `x' on page 1 undefined on input line 2.",
        "Warning--empty journal in y",
    ]
