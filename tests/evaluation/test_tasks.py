"""Prompts are the same on every machine, hold their answer, and fit the context asked for."""

import re

import pytest

from vashista_theory.evaluation import tasks
from vashista_theory.evaluation.tasks import words

NAMES = tuple(tasks.tasks())
CONTEXT = 1500


def count(text: str) -> int:
    """Words, digits and signs one by one: like a real tokenizer, longer together than apart."""
    return len(re.findall(r"[A-Za-z]+|\d|[^\sA-Za-z\d]|\n", text))


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_one_prompt(name: str) -> None:
    task = tasks.get(name)
    assert task.prompt(3, CONTEXT, count) == task.prompt(3, CONTEXT, count)
    assert task.prompt(3, CONTEXT, count).answer != task.prompt(4, CONTEXT, count).answer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_prompt_fills_the_context_and_not_more(name: str, seed: int) -> None:
    prompt = tasks.get(name).prompt(seed, CONTEXT, count)
    longest = max((prompt.answer, *prompt.distractors), key=count)
    used = count(prompt.context + prompt.question + longest)
    assert used <= CONTEXT
    # The longest paragraph of the prose has 1,200 characters, about 250 words and signs.
    assert used > 0.7 * CONTEXT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_answer_is_in_the_context_and_distractors_only_where_said(name: str, seed: int) -> None:
    task = tasks.get(name)
    prompt = task.prompt(seed, CONTEXT, count)
    for part in (
        re.split(r",\s+| and ", prompt.answer.strip())
        if "several" in name
        else [prompt.answer.strip()]
    ):
        assert part in prompt.context
    assert len(set(prompt.distractors)) == 4
    assert prompt.answer not in prompt.distractors
    for wrong in prompt.distractors:
        numbers = re.findall(r"\d{5,7}", wrong)
        parts = numbers or [wrong.strip()]
        assert all(part in prompt.context for part in parts) is task.from_context


def test_needles_are_where_their_depth_says() -> None:
    for seed in range(8):
        prompt = tasks.get("needle-noise").prompt(seed, CONTEXT, count)
        place = prompt.context.index(prompt.answer.strip()) / len(prompt.context)
        # The number stands at the end of its sentence, 45 of some 6,000 characters.
        assert abs(place - prompt.depth) < 0.02
    depths = sorted(
        tasks.get("needle-noise").prompt(seed, CONTEXT, count).depth for seed in range(8)
    )
    # Eight seeds have a needle in every sixth of the context.
    assert {int(depth * 6) for depth in depths} == set(range(6))


def test_a_handed_on_value_is_found_by_following_the_chain() -> None:
    prompt = tasks.get("variable-tracking").prompt(1, CONTEXT, count)
    said = dict(re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", prompt.context))
    (asked,) = re.findall(r"value of VAR (\w+)\?", prompt.question)
    steps = 0
    while asked in said:
        asked, steps = said[asked], steps + 1
    assert (asked, steps) == (prompt.answer.strip(), 3)
    places = [prompt.context.index(f"VAR {name} =") for name in said]
    assert len(set(places)) == 15


def test_a_table_has_one_line_a_name() -> None:
    prompt = tasks.get("key-value").prompt(2, CONTEXT, count)
    table = dict(line.split(": ") for line in prompt.context.splitlines())
    assert len(table) == len(prompt.context.splitlines()) > 100
    asked = prompt.question.splitlines()[-1].removesuffix(":")
    assert table[asked] == prompt.answer.strip()


def test_the_frequent_word_is_the_most_frequent() -> None:
    prompt = tasks.get("frequent-words").prompt(0, CONTEXT, count)
    said = prompt.context.split()
    frequent = max(set(said), key=said.count)
    assert frequent == prompt.answer.strip()
    assert all(said.count(wrong.strip()) < said.count(frequent) for wrong in prompt.distractors)


def test_a_copy_goes_on_where_the_cue_ends() -> None:
    prompt = tasks.get("copying").prompt(0, CONTEXT, count)
    cue = prompt.question.removeprefix("\n\nAs said above: ")
    assert cue + prompt.answer in prompt.context
    assert len(prompt.answer.split()) == 16


@pytest.mark.parametrize("name", NAMES)
def test_too_short_a_context_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"20 tokens are too few .* Ask for a longer context"):
        tasks.get(name).prompt(0, 20, count)


def test_an_unknown_task_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'copying'"):
        tasks.get("copy")


def test_prose_has_no_end_and_no_odd_paragraph() -> None:
    import numpy as np

    filler = words.prose(np.random.default_rng(0))
    taken = [next(filler) for _ in range(2 * len(words.standard_paragraphs()) + 1)]
    assert set(taken) == set(words.standard_paragraphs())
    assert all(80 <= len(paragraph) <= 1200 and "\n" not in paragraph for paragraph in taken)
