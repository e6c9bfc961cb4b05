r"""Statements and proofs of the paper, as Markdown: a formula stands in the paper alone.

``<!-- statement thm:T1 -->`` in a page becomes the theorem (lemma, proposition, example) of that
label with its proof folded, and the file that tries each of its formulas in numbers;
``<!-- paragraph Projection -->`` becomes a paragraph of the section on objects, and
``<!-- before thm:T8 -->`` the paragraph before a statement, which says what its letters mean.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("objects", "theorems", "softmax")
_NAMES = {
    "theorem": "Theorem",
    "lemma": "Lemma",
    "proposition": "Proposition",
    "example": "Example",
}
_ENVIRONMENT = re.compile(
    r"\\begin\{(?P<kind>theorem|lemma|proposition|example)\}(?:\[(?P<title>(?:[^][]|\[[^]]*\])*)\])?"
    r"\\label\{(?P<label>[^}]*)\}(?P<body>.*?)\\end\{(?P=kind)\}"
    r"(?:\s*\\begin\{proof\}(?P<proof>.*?)\\end\{proof\})?",
    re.DOTALL,
)
_DISPLAY = re.compile(r"\\begin\{(equation|gather)\}(.*?)\\end\{\1\}", re.DOTALL)
_LABEL = re.compile(r"\\label\{([^}]*)\}")
_MACRO = re.compile(r"\\newcommand\{(\\\w+)\}(?:\[\d\])?\{(.*)\}$", re.MULTILINE)
_OPERATOR = re.compile(r"\\DeclareMathOperator(\*?)\{(\\\w+)\}\{(.*)\}$", re.MULTILINE)


def macros() -> dict[str, str]:
    """The commands for mathematics that the paper defines, for KaTeX."""
    source = (ROOT / "paper" / "main.tex").read_text(encoding="utf-8")
    found = {name: body for name, body in _MACRO.findall(source) if "\\ifmmode" not in body}
    for star, name, body in _OPERATOR.findall(source):
        found[name] = rf"\operatorname{star}{{{body}}}"
    return found


def fill(markdown: str) -> str:
    """Write the statements that a page asks for.

    Raises:
        KeyError: the paper has none of that label, or no such paragraph.
    """
    sections = _sections()
    stated = {
        found["label"]: found for text in sections.values() for found in _ENVIRONMENT.finditer(text)
    }
    names = {label: _name(found) for label, found in stated.items()}
    paragraphs = dict(
        re.findall(
            r"\\paragraph\{(.*?)\.?\}(.*?)(?=\\paragraph|\\begin\{(?:theorem|lemma|prop)|\Z)",
            sections["objects"],
            re.DOTALL,
        )
    )
    markdown = re.sub(
        r"<!-- paragraph (.*?) -->",
        lambda asked: _text(paragraphs[asked[1]], names),
        markdown,
    )
    markdown = re.sub(
        r"<!-- before (\S+) -->",
        lambda asked: _text(_paragraph_before(stated[asked[1]]), names),
        markdown,
    )
    return re.sub(
        r"<!-- statement (\S+) -->",
        lambda asked: _statement(stated[asked[1]], names),
        markdown,
    )


def _paragraph_before(found: re.Match[str]) -> str:
    return found.string[: found.start()].rstrip().rpartition("\n\n")[2]


def tests() -> dict[str, str]:
    """Label of a formula → the file that tries it in numbers."""
    return {
        label: path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests" / "paper").glob("statements_*.py"))
        for label in re.findall(r'"((?:ineq|id|lim):\w+)[",]', path.read_text(encoding="utf-8"))
    }


def _sections() -> dict[str, str]:
    folder = ROOT / "paper" / "sections"
    return {
        name: re.sub(r"(?<!\\)%.*", "", (folder / f"{name}.tex").read_text(encoding="utf-8"))
        for name in SECTIONS
    }


def _tag(label: str) -> str:
    name = label.partition(":")[2]
    apart = {
        "id:star": "★",
        "ineq:gap": "gap≤",
        "ineq:T8": "T8size",
        "id:T8bias": "T8bias=",
        "lim:T4": "T4→",
        "lim:T5": "T5→",
    }
    return apart.get(label, name)


def _name(found: re.Match[str]) -> str:
    title = (found["title"] or "").partition(",")[0].replace("$", "")
    if found["kind"] == "theorem":
        return {r"\star": "(★)"}.get(title, title.replace("'", "′"))
    return f"{found['kind'].capitalize()} “{_tag(found['label'])}”"


def _statement(found: re.Match[str], names: dict[str, str]) -> str:
    title = _text(found["title"] or "", names).strip()
    heading = title if found["kind"] == "theorem" else _name(found)
    if title and heading != title:
        heading += f": {title}"
    body = _text(found["body"], names)
    heading = _plain(heading)
    parts = [f'!!! abstract "{heading}"\n\n{_indented(body)}']
    if found["proof"]:
        parts.append(f'??? note "Proof"\n\n{_indented(_text(found["proof"], names))}')
    labels = _LABEL.findall(found["body"]) + _LABEL.findall(found["proof"] or "")
    where: dict[str, list[str]] = {}
    tried = tests()
    for label in labels:
        where.setdefault(tried[label], []).append(_tag(label))
    if where:
        said = "; ".join(f"({'), ('.join(tags)}) by `{path}`" for path, tags in where.items())
        parts.append(f"Tried in numbers, and a falsified form seen to fail: {said}.")
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    r"""Titles hold no mathematics that a tab could not show."""
    for tex, said in ((r"\star", "★"), (r"\eps", "ε"), ("^*", "*"), (r"\ ", " "), ("'", "′")):
        text = text.replace(tex, said)
    return re.sub(r"\\\((.*?)\\\)", r"\1", text)


def _text(text: str, names: dict[str, str]) -> str:
    shown: list[str] = []

    def keep(tex: str, *, display: bool) -> str:
        shown.append(f"\n\n\\[{tex}\\]\n\n" if display else f"\\({tex}\\)")
        return f"\0{len(shown) - 1}\0"

    def displayed(found: re.Match[str]) -> str:
        rows = [found[2]] if found[1] == "equation" else re.split(r"\\\\(?![a-z])", found[2])
        return "".join(keep(_row(row), display=True) for row in rows)

    text = _DISPLAY.sub(displayed, text)
    text = re.sub(r"\\(?:ref|eqref)\{([^}]*)\}", lambda f: _reference(f[1], names), text)
    text = re.sub(r"\$(.+?)\$", lambda f: keep(_inline(f[1]), display=False), text, flags=re.DOTALL)
    for pattern, said in (
        (r"(?:Theorem|Lemma|Proposition|Example)~(?=Theorem|Lemma|Prop|Example|T\d|\(★)", ""),
        (r"\\emph\{([^}]*)\}", r"*\1*"),
        (r"\\hfill|\\subsection\*\{[^}]*\}\n", ""),
        (r"\s*\\cite[tp]?\{[^}]*\}", ""),
        (r"\\paragraph\{([^}]*)\}", r"\n\n**\1**"),
        (r"~", "\N{NO-BREAK SPACE}"),
        (r"---?", "–"),
        (r"(?m)^[ \t]+", ""),
    ):
        text = re.sub(pattern, said, text)
    while "\0" in text:
        text = re.sub(r"\0(\d+)\0", lambda f: shown[int(f[1])], text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _row(row: str) -> str:
    label = _LABEL.search(row)
    tex = " ".join(_LABEL.sub("", row).split()).rstrip()
    return f"{tex} \\tag{{{_tag(label[1])}}}" if label else tex


def _inline(tex: str) -> str:
    return " ".join(tex.split())


def _reference(label: str, names: dict[str, str]) -> str:
    if label in names:
        return names[label]
    if label.startswith(("ineq:", "id:", "lim:")):
        return f"({_tag(label)})"
    return label.partition(":")[2]


def _indented(text: str) -> str:
    return re.sub(r"(?m)^(?=.)", "    ", text)
