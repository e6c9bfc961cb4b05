"""Policies compared in turn: what each writes is what it writes alone."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.models import tiny
from vashista_theory.attention import Policy
from vashista_theory.models.generation import compare


def test_rounds_repeat_the_same_tokens_and_add_their_times() -> None:
    (model,) = tiny.models("llama", "sdpa")
    prompt = tiny.prompts(1, 40)["input_ids"][0].tolist()
    policies = {"all": Policy.dense(), "few": Policy(pages=2, summary="mean", sink=0)}
    once = compare(model, prompt, policies, new_tokens=5, rounds=1)
    told: list[str] = []
    twice = compare(model, prompt, policies, new_tokens=5, rounds=2, progress=told.append)
    assert [row.name for row in twice] == ["transformers (sdpa)", "all", "few"]
    assert [row.tokens for row in twice] == [row.tokens for row in once]
    assert twice[0].tokens == twice[1].tokens
    assert {len(row.step_seconds) for row in twice} == {2 * 3}
    # In turn: all of them in the first round, then all of them again.
    assert [line.split(": ")[1] for line in told[2:]] == 2 * [row.name for row in twice]
    low, high = twice[0].spread
    assert low <= twice[0].tokens_per_second <= high
