"""The page of statements has all of the paper's, and no TeX that a browser would show raw."""

import re

import pytest

from docs import statements

PAGE = (statements.ROOT / "docs" / "statements.md").read_text(encoding="utf-8")
FILLED = statements.fill(PAGE)
MATHEMATICS = re.compile(r"\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL)


def test_every_statement_of_the_paper_is_on_the_page() -> None:
    stated = [
        label
        for name in statements.SECTIONS
        for label in re.findall(
            r"\\begin\{(?:theorem|lemma|proposition|example)\}(?:\[.*?\])?\\label\{([^}]*)\}",
            (statements.ROOT / "paper" / "sections" / f"{name}.tex").read_text(encoding="utf-8"),
        )
    ]
    assert len(stated) > 10
    assert re.findall(r"<!-- statement (\S+) -->", PAGE) == stated


def test_nothing_but_mathematics_is_tex() -> None:
    rest = MATHEMATICS.sub("", FILLED)
    assert not re.findall(r"[\\$\0].{0,40}", rest)
    assert "<!-- statement" not in FILLED
    assert "<!-- paragraph" not in FILLED


def test_every_formula_names_its_test() -> None:
    tags = re.findall(r"\\tag\{([^}]*)\}", FILLED)
    assert len(tags) == len(set(tags))
    said = " ".join(re.findall(r"^Tried in numbers.*$", FILLED, re.MULTILINE))
    in_paragraphs = {"fixedpoint"}
    assert len(tags) > 30
    assert not [tag for tag in tags if f"({tag})" not in said and tag not in in_paragraphs]


def test_every_command_is_known_to_what_renders_it() -> None:
    katex = (statements.ROOT / "docs" / "vendored" / "katex" / "katex.min.js").read_text("utf-8")
    used = {c for tex in MATHEMATICS.findall(FILLED) for c in re.findall(r"\\[a-zA-Z]+", tex)}
    assert len(used) > 50
    known = {c for c in used if re.search(rf'"\\{re.escape(c)}"', katex)}
    grammar = {r"\left", r"\right", r"\begin", r"\end", r"\tag"}
    assert used - known - statements.macros().keys() <= grammar


def test_commands_are_those_of_the_paper() -> None:
    found = statements.macros()
    assert found["\\eps"] == r"\varepsilon"
    assert found["\\argmin"] == r"\operatorname*{arg\,min}"


def test_a_statement_that_is_not_there_is_noticed() -> None:
    with pytest.raises(KeyError, match="thm:T99"):
        statements.fill("<!-- statement thm:T99 -->")
