"""kvpress's readers: the prompt is read once and cut down for good; answers read what is left.

A press scores a layer's keys and values when the prompt has been read and keeps the best. So one
dense reading of the prompt serves them all: what their own hooks would be given is captured, and
given to each of them. KVzip alone reads the prompt again, by its own procedure, and marks what it
leaves out, which kvpress's attention then does not see.
"""

import contextlib
import importlib
import importlib.metadata
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.peers.answers import Asked, Read

SCORERS = ("SnapKV", "TOVA", "ExpectedAttention", "StreamingLLM")
RECONSTRUCTING = "KVzip"
PRESSES = (*SCORERS, RECONSTRUCTING)


def supported() -> str:
    """The releases of transformers that the kvpress installed asks for, such as >=4.56.0,<5.3.

    Raises:
        ImportError: kvpress cannot be imported.
    """
    try:
        importlib.import_module("kvpress")
        asked = importlib.metadata.requires("kvpress") or []
    except ImportError as error:
        raise ImportError(
            f'peers need kvpress ({error}); pip install -e ".[lm,peers]" in an environment of its '
            "own, since kvpress allows older releases of transformers only"
        ) from error
    (found,) = (one for one in asked if one.partition(";")[0].startswith("transformers"))
    parts = found.partition(";")[0].removeprefix("transformers").strip(" ()").split(",")
    return ",".join(sorted(parts, reverse=True))


class Layer(NamedTuple):
    """What a press is given of a layer: its module, inputs, keys and values (1, K, T, D)."""

    module: Any
    hidden: Any
    keys: Any
    values: Any
    arguments: dict[str, Any]

    def until(self, length: int) -> "Layer":
        """The same when only the first tokens had been read: attention looks back alone."""
        cosine, sine = self.arguments["position_embeddings"]
        arguments = self.arguments | {
            "position_embeddings": (cosine[:, :length], sine[:, :length]),
            "hidden_states": self.hidden[:, :length],
        }
        return Layer(
            self.module,
            self.hidden[:, :length],
            self.keys[:, :, :length],
            self.values[:, :, :length],
            arguments,
        )


class Past(NamedTuple):
    """What is left of a prompt: keys and values by layer, and how many tokens came before.

    Attributes:
        layers: Keys and values (1, K, n, D).
        length: Tokens read, whether kept or not: the place of the next one.
        kept: Tokens that a kv head may read, mean over layers and heads.
        masks: For KVzip, what each layer leaves out: numbers of kv heads and of tokens.
    """

    layers: list[tuple[Any, Any]]
    length: int
    kept: float
    masks: list[tuple[Any, Any]] | None = None


class Pressed:
    """A model whose prompts are pressed, in float32 on the CPU.

    Args:
        model: Of transformers, with its own attention.
        tokenizer: Of that model.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        supported()
        self._model, self._tokenizer = model.eval(), tokenizer
        self.head_size = int(next(self._layers()).head_dim)

    def prefill(self, tokens: np.ndarray) -> tuple[list[Layer], np.ndarray]:
        """Read a prompt densely: what presses are given, and the logits after its last token."""
        import torch
        from kvpress import BasePress
        from transformers import DynamicCache

        layers: list[Layer] = []

        class Capture(BasePress):
            def compress(
                self, module: Any, hidden: Any, keys: Any, values: Any, _: Any, arguments: Any
            ) -> tuple[Any, Any]:
                layers.append(Layer(module, hidden, keys, values, dict(arguments)))
                return keys, values

        with torch.inference_mode(), Capture()(self._model):
            ids = torch.from_numpy(tokens)[None]
            found = self._model(ids, past_key_values=DynamicCache(), logits_to_keep=1)
        return layers, found.logits[0].float().numpy()

    def press(self, name: str, layers: list[Layer], tokens: int) -> Past:
        """Cut a prompt down to so many tokens a kv head, by the press of that name."""
        import torch

        length = layers[0].keys.shape[2]
        press = _press(name, _ratio(tokens, length))
        with torch.inference_mode():
            press.post_init_from_model(self._model)
            left = [
                press.compress(one.module, one.hidden, one.keys, one.values, None, one.arguments)
                for one in layers
            ]
        kept = float(np.mean([keys.shape[2] for keys, _ in left]))
        return Past(left, length, kept)

    @staticmethod
    def unpressed(layers: list[Layer]) -> Past:
        """All of a prompt."""
        length = layers[0].keys.shape[2]
        return Past([(one.keys, one.values) for one in layers], length, float(length))

    def by_hooks(self, name: str, prompt: np.ndarray, tokens: int) -> Past:
        """The same by kvpress's own context manager, reading the prompt for this press alone."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        with torch.inference_mode(), _press(name, _ratio(tokens, prompt.size))(self._model):
            self._model.model(input_ids=torch.from_numpy(prompt)[None], past_key_values=cache)
        left = [(layer.keys, layer.values) for layer in cache.layers]
        return Past(left, prompt.size, float(np.mean([keys.shape[2] for keys, _ in left])))

    def reconstructed(self, context: np.ndarray, tokens: tuple[int, ...]) -> list[Past]:
        """What KVzip leaves of a context for each number of tokens, from one reconstruction."""
        import torch
        from kvpress import KVzipPress
        from transformers import DynamicCache

        modules = [layer.self_attn for layer in self._model.model.layers]
        found: list[list[tuple[Any, Any]]] = []

        class Several(KVzipPress):
            def compress_post(self, model: Any) -> None:
                for number in tokens:
                    self.compression_ratio = 1 - number / context.size
                    super().compress_post(model)
                    found.append([module.masked_key_indices[1:] for module in modules])

        cache = DynamicCache()
        with (
            torch.inference_mode(),
            self._named_by_a_folder(),
            Several(compression_ratio=0.5)(self._model),
        ):
            self._model.model(input_ids=torch.from_numpy(context)[None], past_key_values=cache)
        self._see_everything()
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        heads = layers[0][0].shape[1] * len(layers)
        return [
            Past(
                layers,
                context.size,
                context.size - sum(len(tokens) for _, tokens in masks) / heads,
                masks,
            )
            for masks in found
        ]

    def read(self, past: Past, prompt: Asked, *, first: np.ndarray | None = None) -> Read:
        """Answers read after what is left of a prompt.

        Args:
            past: What is left.
            prompt: Question and answers.
            first: Logits after the question where it is among what was pressed; otherwise the
                question is read now, and its keys and values are all kept.
        """
        import torch

        answers = [prompt.answer, *prompt.wrong]
        longest = max(one.size for one in answers) - 1
        with torch.inference_mode(), self._masked(past):
            if first is None:
                past, first = self._question(past, prompt.question)
            # What stands behind the end of a shorter one is seen by nothing before it.
            padded = np.stack([np.pad(one[:-1], (0, longest + 1 - one.size)) for one in answers])
            further, _ = self._forward(past, padded)
        rows = [
            np.concatenate([first, further[number, : one.size - 1]])
            for number, one in enumerate(answers)
        ]
        own = float(np.mean(np.arange(prompt.answer.size - 1) + 1))
        return Read(rows[0], rows[1:], past.kept, past.kept + own)

    def _question(self, past: Past, question: np.ndarray) -> tuple[Past, np.ndarray]:
        logits, layers = self._forward(past, question[None])
        length, kept = past.length + question.size, past.kept + question.size
        return Past(layers, length, kept, past.masks), logits[0, -1:]

    def _forward(self, past: Past, tokens: np.ndarray) -> tuple[np.ndarray, list[tuple[Any, Any]]]:
        """Logits (B, M, vocabulary) of B rows of tokens after one past, and what it is then."""
        import torch
        from transformers import DynamicCache

        cache, (rows, count) = DynamicCache(), tokens.shape
        for number, (keys, values) in enumerate(past.layers):
            cache.update(*(one.repeat(rows, 1, 1, 1) for one in (keys, values)), number)
        if past.masks is not None:
            for layer, (heads, places) in zip(self._layers(), past.masks, strict=True):
                row = torch.arange(rows).repeat_interleave(len(heads))
                layer.masked_key_indices = (row, heads.repeat(rows), places.repeat(rows))
        places = torch.arange(past.length, past.length + count)[None].expand(rows, -1)
        found = self._model(
            input_ids=torch.from_numpy(tokens), past_key_values=cache, position_ids=places
        )
        after = [(layer.keys, layer.values) for layer in cache.layers]
        return found.logits.float().numpy(), after

    def _layers(self) -> Iterator[Any]:
        return (layer.self_attn for layer in self._model.model.layers)

    @contextlib.contextmanager
    def _masked(self, past: Past) -> Generator[None]:
        try:
            yield
        finally:
            if past.masks is not None:
                self._see_everything()

    def _see_everything(self) -> None:
        for layer in self._layers():
            layer.masked_key_indices = None

    @contextlib.contextmanager
    def _named_by_a_folder(self) -> Generator[None]:
        """KVzip loads the tokenizer by name: of one without a template, as prompts have none."""
        name, template = self._model.config.name_or_path, self._tokenizer.chat_template
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            self._tokenizer.chat_template = None
            try:
                self._tokenizer.save_pretrained(Path(folder))
                self._model.config.save_pretrained(Path(folder))
                self._model.config.name_or_path = folder
                yield
            finally:
                self._model.config.name_or_path = name
                self._tokenizer.chat_template = template


def _press(name: str, ratio: float) -> Any:
    return getattr(importlib.import_module("kvpress"), f"{name}Press")(compression_ratio=ratio)


def _ratio(tokens: int, length: int) -> float:
    """The share to leave out so that so many tokens are kept, whichever way it is rounded."""
    if tokens >= length:
        raise ValueError(f"{tokens} tokens cannot be kept of {length}: expected fewer")
    return 1 - (tokens + 0.5) / length
