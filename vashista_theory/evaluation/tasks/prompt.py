"""What a retrieval task is made of, and how a context is filled to a length."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Prompt:
    """One question about one context.

    Attributes:
        context: Read densely, once.
        question: Read under each policy; ends with the opening words of the answer.
        answer: What has to follow.
        distractors: Wrong answers of the same form.
        depth: Where in the context the answer lies (its earliest part), 0 at the start to 1;
            NaN where it is everywhere.
    """

    context: str
    question: str
    answer: str
    distractors: tuple[str, ...]
    depth: float


Make = Callable[[np.random.Generator, float, "Room"], Prompt]


@dataclass(frozen=True)
class Task:
    """A kind of prompt.

    Attributes:
        name: As on the command line.
        description: One line.
        make: From a stream of random numbers, a depth in [0, 1) and a room to a prompt.
        from_context: Whether distractors stand in the context too, as answers to other questions;
            otherwise they occur nowhere in it.
    """

    name: str
    description: str
    make: Make
    from_context: bool

    def prompt(self, seed: int, context: int, count: Callable[[str], int]) -> Prompt:
        """The prompt of a seed: the same each time, on every machine.

        Args:
            seed: Which one. Depths of consecutive seeds cover the context evenly.
            context: Tokens of context, question and answer together, at most.
            count: Tokens of a text.

        Raises:
            ValueError: The context is too short for the task.
        """
        rng = np.random.default_rng([seed, *self.name.encode()])
        return self.make(rng, _radical_inverse(seed + 1), Room(context, count))


class Laid(NamedTuple):
    """A context, and where what was put into it begins, as shares of its length."""

    text: str
    depths: list[float]


@dataclass(frozen=True)
class Room:
    """A number of tokens to fill.

    Attributes:
        tokens: Of the whole prompt.
        count: Tokens of a text.
    """

    tokens: int
    count: Callable[[str], int]

    def fill(
        self, filler: Iterator[str], placed: list[tuple[float, str]], *, between: str, after: str
    ) -> Laid:
        """Lay pieces out among filler so that the whole fits.

        Args:
            filler: Pieces of text, as many as needed; may run out.
            placed: What has to be in the text, each with the depth that it should have.
            between: Stands between any two pieces.
            after: Question and longest answer, for which room is left.

        Raises:
            ValueError: There is no room even for what has to be in it.
        """
        gap = max(0, self.count(between + "a") - self.count("a"))
        fixed = sum(self.count(piece) + gap for _, piece in placed)
        left = self.tokens - self.count(after) - fixed - 4
        if left < 0:
            raise ValueError(
                f"{self.tokens} tokens are too few for this task: {-left} more are needed for what "
                "has to be in the prompt. Ask for a longer context"
            )
        pieces: list[str] = []
        for piece in filler:
            left -= self.count(piece) + gap
            if left < 0:
                break
            pieces.append(piece)
        laid, size = self._lay(pieces, placed, between), self.tokens
        # Tokens of the parts add up to those of the whole but for a few at the seams.
        while self.count(laid.text + after) > size and pieces:
            pieces.pop()
            laid = self._lay(pieces, placed, between)
        return laid

    @staticmethod
    def _lay(pieces: list[str], placed: list[tuple[float, str]], between: str) -> Laid:
        order = sorted(placed, key=lambda item: item[0])
        parts: list[str] = []
        begun: dict[str, int] = {}
        for number in range(len(pieces) + 1):
            while order and order[0][0] * (len(pieces) + 1) < number + 1:
                _, piece = order.pop(0)
                begun[piece] = len(between.join(parts))
                parts.append(piece)
            if number < len(pieces):
                parts.append(pieces[number])
        text = between.join(parts)
        return Laid(text, [begun[piece] / max(1, len(text)) for _, piece in placed])


def _radical_inverse(number: int) -> float:
    """Binary digits mirrored at the point: 1/2, 1/4, 3/4, 1/8, … cover [0, 1) evenly."""
    result, share = 0.0, 0.5
    while number:
        result += share * (number & 1)
        number, share = number >> 1, share / 2
    return result
