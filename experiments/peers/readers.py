"""Who reads the prompts: the rows of the tables, and what each of them makes of one prompt."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.peers import ours
from experiments.peers.answers import Asked, Read
from experiments.peers.presses import RECONSTRUCTING, Pressed
from vashista_theory.evaluation import LanguageModel, policies

CONTROL = "nothing pressed"
"""Dense by kvpress's way of reading: what differs from dense here differs by rounding alone."""


class Reader(NamedTuple):
    """One row.

    Attributes:
        name: Of a policy of the evaluation, or of a press.
        tokens: Read at each step, or kept of the prompt, by a kv head; 0 for all.
        question: For a press, whether it sees the question before it chooses; None for ours.
    """

    name: str
    tokens: int = 0
    question: bool | None = None

    @property
    def label(self) -> str:
        """Unique."""
        seen = {None: "", True: ", question seen", False: ", question not seen"}[self.question]
        return f"{self.name}@{self.tokens}{seen}"

    @property
    def chooses(self) -> str:
        """When and by what."""
        if self.name in (ours.DENSE, CONTROL):
            return "nothing: reads all"
        if self.question is None:
            return "at decode time, anew at each step"
        return f"compresses the prompt, question {'seen' if self.question else 'not seen'}"


def readers(tokens: tuple[int, ...], presses: tuple[str, ...]) -> list[Reader]:
    """All rows, dense first."""
    found = [Reader(ours.DENSE), Reader(CONTROL)]
    for number in tokens:
        found += [Reader(name, number) for name in ours.CHOOSING]
        for press in presses:
            seen = (False,) if press == RECONSTRUCTING else (True, False)
            found += [Reader(press, number, one) for one in seen]
    return found


def read_all(
    model: LanguageModel, pressed: Pressed, prompt: Asked, wanted: list[Reader]
) -> Iterator[Read | str]:
    """What each reader makes of a prompt, in their order; why it could not, in words."""
    prefix = model.prefill(prompt.context, room=prompt.room)
    whole, first = pressed.prefill(np.concatenate([prompt.context, prompt.question]))
    context = [layer.until(prompt.context.size) for layer in whole]
    budgets = tuple(one.tokens for one in wanted if one.name == RECONSTRUCTING)
    rebuilt: dict[int, Any] = {}
    if budgets:
        left = pressed.reconstructed(prompt.context, budgets)
        rebuilt = dict(zip(budgets, left, strict=True))
    for one in wanted:
        if one.name == CONTROL:
            yield pressed.read(pressed.unpressed(whole), prompt, first=first)
        elif one.question is None:
            policy = policies.get(one.name)
            yield ours.read(model, prefix, prompt, policy, one.tokens)
        elif one.name == RECONSTRUCTING:
            try:
                yield pressed.read(rebuilt[one.tokens], prompt)
            except ValueError as error:  # kvpress found no key that every query passes over
                yield str(error)
        elif one.question:
            yield pressed.read(pressed.press(one.name, whole, one.tokens), prompt, first=first)
        else:
            yield pressed.read(pressed.press(one.name, context, one.tokens), prompt)
