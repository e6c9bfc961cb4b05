"""Tasks about the whole of a context: chains, tables, frequencies, verbatim copies."""

import math

import numpy as np

from vashista_theory.evaluation.tasks import words
from vashista_theory.evaluation.tasks.needles import WRONG
from vashista_theory.evaluation.tasks.prompt import Prompt, Room, Task

_CUE, _COPY = 12, 16  # words
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def variable_tracking(rng: np.random.Generator, depth: float, room: Room) -> Prompt:
    """A value handed on twice, among other chains; asked for under its last name."""
    chains = 1 + WRONG
    labels = _labels(rng, 3 * chains)
    values = words.numbers(rng, chains, digits=5)
    placed: list[tuple[float, str]] = []
    for chain, value in enumerate(values):
        first, second, third = labels[3 * chain : 3 * chain + 3]
        depths = sorted(rng.random(3).tolist())
        if chain == 0:
            depths = sorted([depth, *(depth + (1 - depth) * rng.random(2)).tolist()])
        said = (
            f"VAR {first} = {value}.",
            f"VAR {second} = VAR {first}.",
            f"VAR {third} = VAR {second}.",
        )
        placed += list(zip(depths, said, strict=True))
    asked = labels[2]
    question = f"\n\nQuestion: What is the value of VAR {asked}?\nAnswer: VAR {asked} ="
    laid = room.fill(words.noise(rng), placed, between=" ", after=f"{question} {values[0]}")
    wrong = tuple(f" {value}" for value in values[1:])
    return Prompt(laid.text, question, f" {values[0]}", wrong, laid.depths[0])


def key_value(rng: np.random.Generator, depth: float, room: Room) -> Prompt:
    """A table of names and numbers that fills the context; one line is asked for."""
    count = min(len(words.ADJECTIVES) * len(words.NOUNS), max(1 + WRONG, room.tokens // 6))
    keys, values = words.names(rng, count), words.numbers(rng, count, digits=5)
    lines = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
    question = f"\n\nThe value of {keys[0]} in the table above is\n{keys[0]}:"
    laid = room.fill(
        iter(lines[1 + WRONG :]),
        [(depth, lines[0]), *((at, line) for at, line in _spread(rng, lines[1 : 1 + WRONG]))],
        between="\n",
        after=f"{question} {values[0]}",
    )
    wrong = tuple(f" {value}" for value in values[1 : 1 + WRONG])
    return Prompt(laid.text, question, f" {values[0]}", wrong, laid.depths[0])


def frequent_words(rng: np.random.Generator, depth: float, room: Room) -> Prompt:
    """A long list of invented words; the most frequent one, 3 times as frequent as the others."""
    del depth  # it is everywhere
    invented = [_invented(rng) for _ in range(24)]
    frequent, *others = list(dict.fromkeys(invented))
    question = "\n\nQuestion: Which word is the most frequent in the list above?\nAnswer:"

    def endless() -> "list[str]":
        count = room.tokens  # more words than there is room for
        weights = np.array([3.0] + [1.0] * len(others))
        drawn = rng.choice(1 + len(others), size=count, p=weights / weights.sum())
        return [(frequent, *others)[i] for i in drawn.tolist()]

    longest = max((frequent, *others), key=room.count)
    laid = room.fill(
        iter(endless()),
        [(i / (1 + WRONG), word) for i, word in enumerate((frequent, *others[:WRONG]))],
        between=" ",
        after=f"{question} {longest}",
    )
    wrong = tuple(f" {word}" for word in others[:WRONG])
    return Prompt(laid.text, question, f" {frequent}", wrong, math.nan)


def copying(rng: np.random.Generator, depth: float, room: Room) -> Prompt:
    """Prose whose beginning of a passage is given again; the passage has to go on word by word."""
    filler = words.prose(rng)
    long: list[str] = []
    while len(long) < 1 + WRONG:
        paragraph = next(filler)
        if len(paragraph.split()) >= _CUE + _COPY and paragraph not in long:
            long.append(paragraph)
    passages = [_passage(rng, paragraph) for paragraph in long]
    (cue, answer), *wrong = passages
    question = f"\n\nAs said above: {cue}"
    laid = room.fill(
        filler,
        [(depth, long[0]), *_spread(rng, long[1:])],
        between="\n\n",
        after=question + max((answer, *(end for _, end in wrong)), key=room.count),
    )
    return Prompt(laid.text, question, answer, tuple(end for _, end in wrong), laid.depths[0])


def _passage(rng: np.random.Generator, paragraph: str) -> tuple[str, str]:
    said = paragraph.split(" ")
    start = int(rng.integers(len(said) - _CUE - _COPY + 1))
    cue, rest = said[start : start + _CUE], said[start + _CUE : start + _CUE + _COPY]
    return " ".join(cue), " " + " ".join(rest)


def _spread(rng: np.random.Generator, pieces: list[str]) -> list[tuple[float, str]]:
    return list(zip(rng.random(len(pieces)).tolist(), pieces, strict=True))


def _labels(rng: np.random.Generator, count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        letters = rng.integers(26, size=3).tolist()
        found["".join(_LETTERS[i].upper() for i in letters)] = None
    return list(found)


def _invented(rng: np.random.Generator) -> str:
    """Three syllables."""
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    pairs = zip(rng.integers(14, size=3).tolist(), rng.integers(5, size=3).tolist(), strict=True)
    return "".join(consonants[c] + vowels[v] for c, v in pairs)


TASKS = (
    Task(
        "variable-tracking",
        "a value handed on from variable to variable",
        variable_tracking,
        from_context=True,
    ),
    Task("key-value", "one line of a table that fills the context", key_value, from_context=True),
    Task("frequent-words", "the most frequent word of a list", frequent_words, from_context=True),
    Task("copying", "16 words of prose after a cue of 12", copying, from_context=True),
)
