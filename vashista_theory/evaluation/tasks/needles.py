"""Numbers hidden in a text, under names: one, several, several at a time (RULER's needles)."""

import functools
from collections.abc import Callable, Iterator

import numpy as np

from vashista_theory.evaluation.tasks import words
from vashista_theory.evaluation.tasks.prompt import Prompt, Room, Task

Filler = Callable[[np.random.Generator], Iterator[str]]
WRONG = 4
"""Distractors a prompt: choosing at random is right one time in five."""


def _needle(name: str, number: str) -> str:
    return f"The special number for {name} is {number}."


def single(rng: np.random.Generator, depth: float, room: Room, *, filler: Filler) -> Prompt:
    """One number under one name."""
    (name,) = words.names(rng, 1)
    number, *wrong = words.numbers(rng, 1 + WRONG)
    question = (
        f"\n\nQuestion: What is the special number for {name}?\n"
        f"Answer: The special number for {name} is"
    )
    laid = room.fill(
        filler(rng),
        [(depth, _needle(name, number))],
        between=" " if filler is words.noise else "\n\n",
        after=f"{question} {number}",
    )
    return Prompt(laid.text, question, f" {number}", _each(wrong), laid.depths[0])


def several_keys(rng: np.random.Generator, depth: float, room: Room) -> Prompt:
    """Five numbers under five names; one is asked for, the others are the distractors."""
    keys, values = words.names(rng, 1 + WRONG), words.numbers(rng, 1 + WRONG)
    question = (
        f"\n\nQuestion: What is the special number for {keys[0]}?\n"
        f"Answer: The special number for {keys[0]} is"
    )
    depths = [depth, *rng.random(WRONG).tolist()]
    placed = [
        (at, _needle(*pair))
        for at, pair in zip(depths, zip(keys, values, strict=True), strict=True)
    ]
    laid = room.fill(words.prose(rng), placed, between="\n\n", after=f"{question} {values[0]}")
    return Prompt(laid.text, question, f" {values[0]}", _each(values[1:]), laid.depths[0])


def several_values(rng: np.random.Generator, depth: float, room: Room) -> Prompt:
    """Three numbers under one name, all asked for; a distractor has one number that is nowhere."""
    (name,) = words.names(rng, 1)
    values, wrong = words.numbers(rng, 3), words.numbers(rng, 12)
    wrong = [number for number in wrong if number not in values][:WRONG]
    depths = sorted([depth, *rng.random(2).tolist()])
    placed = [(at, _needle(name, value)) for at, value in zip(depths, values, strict=True)]
    question = (
        f"\n\nQuestion: What are the three special numbers for {name}, in order?\n"
        f"Answer: The three special numbers for {name} are"
    )
    answer = _listed(values)
    laid = room.fill(words.prose(rng), placed, between="\n\n", after=question + answer)
    distractors = tuple(
        _listed([number if place == i % 3 else value for place, value in enumerate(values)])
        for i, number in enumerate(wrong)
    )
    return Prompt(laid.text, question, answer, distractors, min(laid.depths))


def several_queries(rng: np.random.Generator, depth: float, room: Room) -> Prompt:
    """Four numbers under four names, two asked for together; distractors mix the four up."""
    keys, values = words.names(rng, 4), words.numbers(rng, 4)
    depths = [depth, *rng.random(3).tolist()]
    placed = [
        (at, _needle(*pair))
        for at, pair in zip(depths, zip(keys, values, strict=True), strict=True)
    ]
    question = (
        f"\n\nQuestion: What are the special numbers for {keys[0]} and for {keys[1]}?\n"
        f"Answer: The special numbers for {keys[0]} and for {keys[1]} are"
    )
    answer = f" {values[0]} and {values[1]}"
    laid = room.fill(words.prose(rng), placed, between="\n\n", after=question + answer)
    mixed = ((1, 0), (0, 2), (3, 1), (2, 3))
    distractors = tuple(f" {values[i]} and {values[j]}" for i, j in mixed)
    return Prompt(laid.text, question, answer, distractors, min(laid.depths[:2]))


def _listed(values: list[str]) -> str:
    return f" {values[0]}, {values[1]} and {values[2]}"


def _each(wrong: list[str]) -> tuple[str, ...]:
    return tuple(f" {number}" for number in wrong)


TASKS = (
    Task(
        "needle-noise",
        "a 7-digit number under a name, in repeated short sentences",
        functools.partial(single, filler=words.noise),
        from_context=False,
    ),
    Task(
        "needle-prose",
        "a 7-digit number under a name, in technical prose",
        functools.partial(single, filler=words.prose),
        from_context=False,
    ),
    Task("several-keys", "one of five numbers, by its name", several_keys, from_context=True),
    Task("several-values", "all three numbers under one name", several_values, from_context=False),
    Task("several-queries", "two of four numbers at once", several_queries, from_context=True),
)
