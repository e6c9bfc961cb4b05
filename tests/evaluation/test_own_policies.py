"""A policy in a user's own file is compared from the command line, as any other."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.evaluation import tiny
from vashista_theory.evaluation import plan, policies
from vashista_theory.evaluation.__main__ import main
from vashista_theory.evaluation.config import EvaluationConfig
from vashista_theory.models.commands import Generate

OWN = '''
"""Two policies of my own: pages by their first key, and the mechanism with more recent pages."""

from jax import Array

from vashista_theory.attention import Policy
from vashista_theory.evaluation import DecodeBlock, page_policy


@page_policy("first-key", sink=1, recent=1)
def first_key(block: DecodeBlock) -> Array:
    "Pages by the score of their first key."
    return block.logits()[..., 0]


more_recent = Policy(pages=6, sink=1, recent=4)
'''


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    before = dict(policies._REGISTRY)
    yield path
    policies._REGISTRY.clear()
    policies._REGISTRY.update(before)


def test_compared_from_the_command_line(own: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("It was a bright cold day in April, and the clocks were striking. " * 20)
    arguments = [
        *("--model", str(tiny.save(tmp_path / "model")), "--output", str(tmp_path / "out")),
        *("--import", str(own), "--policy", "first-key", "more-recent", "budget", "--pages", "6"),
        *("--contexts", "200", "--positions", "8", "--segments", "1", "--text", str(text)),
        *("--tasks", "--audited", "0", "--progress", "none"),
    ]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    words = json.dumps(report)
    for row in ("first-key@6", "more-recent", "budget@6", "dense"):
        assert row in words
    with pytest.raises(ValueError, match=r"'first_key' is unknown; did you mean 'first-key'\?"):
        EvaluationConfig(imports=(own,), policy=("first_key",))
    config = EvaluationConfig(imports=(own,), policy=("first-key",))
    digest = hashlib.sha256(OWN.encode()).hexdigest()
    assert plan.identity(config, plan.PERPLEXITY)["imports"] == [f"mine.py {digest}"]
    own.write_text(OWN.replace("[..., 0]", "[..., 1]"))
    with pytest.raises(SystemExit):  # not gone on with by another file
        main(arguments)


def test_policies_to_generate_by(own: Path) -> None:
    made = Generate(imports=(own,)).policies()
    assert made["more-recent"].recent == 4
    assert "all pages" in made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing = 1", "has no policy"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("from vashista_theory.attention import Policy\nbudget = Policy()", "budget"),
    ],
)
def test_what_is_refused(own: Path, text: str, words: str) -> None:
    own.write_text(text)
    before = policies.policies()
    with pytest.raises(ValueError, match=words):
        EvaluationConfig(imports=(own,))
    assert policies.policies() == before
