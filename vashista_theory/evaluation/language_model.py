# pyright: reportMissingImports=false
"""A causal language model whose attention is replaced: dense prefill, then blocks under a policy.

The prefix is read densely and its keys and values are kept. A block of further tokens then runs
through the model layer by layer, each step seeing its own past under the policy: what decoding the
same tokens one at a time would compute, hidden states included. Keys and values of the block come
from those sparse states; only the prefix is dense.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vashista_theory.attention import PagedKV, SummarySpec
from vashista_theory.attention.bounds.sketch import EXPECTED_QUERIES
from vashista_theory.evaluation.block import (
    DecodeBlock,
    Loss,
    Reading,
    check_reading,
    loss,
    unknown,
)
from vashista_theory.evaluation.policies import NamedPolicy
from vashista_theory.models.refusals import check_unmixed, longest_context, unsupported

_NAME = "vashista_blocks"
_CHUNK = 64  # steps computed at once: their scores of 8k keys, 9 heads, are 19 MB
_BUCKET = 256  # capacities are multiples of it, so that few shapes are compiled

Attend = Callable[[int, np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
_attending: contextvars.ContextVar[Attend | None] = contextvars.ContextVar("_attending")


@dataclass(frozen=True)
class Layer:
    """Keys and values (K, T, D) of one layer, in room for more; its last queries (H, Q, D)."""

    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray


@dataclass(frozen=True)
class Recorded:
    """What one layer saw in a dense pass: the last queries (H, Q, D), all keys and values."""

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    scale: float


class Prefix:
    """What a model remembers of a text: keys and values by layer, and caches with summaries.

    Attributes:
        length: Tokens.
        capacity: Tokens there is room for.
    """

    def __init__(self, length: int, capacity: int, layers: list[Layer]) -> None:
        self.length, self.capacity = length, capacity
        self._layers = layers
        self._caches: dict[SummarySpec, list[PagedKV]] = {}

    @classmethod
    def of_caches(cls, length: int, capacity: int, spec: SummarySpec, caches: list[PagedKV]) -> Any:
        """A prefix that is known by its caches."""
        prefix = cls(length, capacity, [])
        prefix._caches[spec] = caches
        return prefix

    def caches(self, spec: SummarySpec) -> list[PagedKV]:
        """A cache by layer that keeps these summaries, made when first asked for."""
        if spec not in self._caches:
            if not self._layers:
                raise ValueError("a prefix that a policy went on with serves its summaries only")
            self._caches[spec] = [
                _fill(layer.keys, layer.values, layer.queries, np.int32(self.length), spec)
                for layer in self._layers
            ]
        return self._caches[spec]


@dataclass(frozen=True)
class BlockReport:
    """What a policy read over a block: arrays (layer, kv head, step, query head of the group).

    Attributes:
        tokens_read: Keys read.
        bound: Proven bound on the dropped mass; NaN where there is none.
        certified: Whether it is within the policy's tolerance.
        dropped: True dropped mass.
        dropped_beyond_first: The same among all tokens but the first.
        error: Relative distance of the output from the dense one of the same queries.
        lengths: Tokens that each step saw.
    """

    tokens_read: np.ndarray
    bound: np.ndarray
    certified: np.ndarray
    dropped: np.ndarray
    dropped_beyond_first: np.ndarray
    error: np.ndarray
    lengths: np.ndarray


class LanguageModel:
    """A transformers model and its tokenizer, evaluated in float32 on the CPU.

    Args:
        model: A causal language model that uses transformers' attention interface.
        tokenizer: From text to token numbers.
        name: For the records.

    Raises:
        UnsupportedModelError: Its attention is not plain causal softmax over everything before.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        self.name, self.tokenizer = name, tokenizer
        if not getattr(model, "_supports_attention_backend", False):
            raise unsupported(
                f"{type(model).__name__}: it does not use transformers' attention interface",
                "Evaluate a decoder that does.",
            )
        check_unmixed(model.config)
        self._model = model.eval()
        _register()
        model.config._attn_implementation = _NAME
        limit = longest_context(model.config)
        self.context = limit or int(model.config.max_position_embeddings)
        self.layers = int(model.config.num_hidden_layers)
        self.heads = int(model.config.num_attention_heads)

    def encode(self, text: str) -> np.ndarray:
        """Token numbers of a text, no special ones added."""
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), np.int64)

    def prefill(self, tokens: np.ndarray, *, room: int) -> Prefix:
        """Read a text densely and keep its keys and values.

        Args:
            tokens: (T,).
            room: Further tokens that there has to be room for.

        Raises:
            ValueError: It is empty, or longer than the model's context with that room.
        """
        self._check_length(tokens, room)
        capacity = -(-(tokens.size + room) // _BUCKET) * _BUCKET
        padding = ((0, 0), (0, capacity - tokens.size), (0, 0))
        few = ((0, 0), (0, max(0, EXPECTED_QUERIES - tokens.size)), (0, 0))
        layers = [
            Layer(np.pad(one.keys, padding), np.pad(one.values, padding), np.pad(one.queries, few))
            for one in self.record(tokens, EXPECTED_QUERIES)
        ]
        return Prefix(tokens.size, capacity, layers)

    def record(self, tokens: np.ndarray, queries: int) -> list[Recorded]:
        """Read a text densely and keep, by layer, its last queries and all keys and values."""
        self._check_length(tokens, 0)
        layers: dict[int, Recorded] = {}

        def keep(layer: int, *arrays: np.ndarray, scale: float) -> None:
            query, key, value = arrays
            layers[layer] = Recorded(query[:, -queries:], key, value, scale)

        with _torch_off(), _attend_by(_Prefill(keep)):
            self._forward(tokens, 0, logits=False)
        return [layers[i] for i in sorted(layers)]

    def _check_length(self, tokens: np.ndarray, room: int) -> None:
        if tokens.size == 0 or tokens.size + room > self.context:
            raise ValueError(
                f"a text of {tokens.size} tokens and {room} more cannot be read by {self.name}: "
                f"expected at least one, and {self.context} at most, its context"
            )

    def decode(
        self,
        prefix: Prefix,
        tokens: np.ndarray,
        policy: NamedPolicy,
        pages: int,
        *,
        compare: bool = True,
    ) -> tuple[np.ndarray, BlockReport, Prefix]:
        """Teacher-forced decoding of a block of tokens under a policy.

        Args:
            prefix: What came before; it is left as it is.
            tokens: (M,), given to the model one after another.
            policy: What each step reads.
            pages: Pages that a policy of a fixed number reads.
            compare: Whether each layer is also read densely, to know what was lost; otherwise the
                report has NaN for it.

        Returns:
            Logits (M, vocabulary) of the token after each one, what was read, and the prefix with
            the block behind it, for this policy's summaries only.
        """
        if prefix.length + tokens.size > min(prefix.capacity, self.context):
            raise ValueError(
                f"{tokens.size} tokens after {prefix.length} do not fit: there is room for "
                f"{prefix.capacity}, and the model's context is {self.context}"
            )
        runner = _BlockRunner(prefix, tokens.size, policy, pages, compare)
        with _torch_off(), _attend_by(runner):
            logits = self._forward(tokens, prefix.length, logits=True)
        length = prefix.length + tokens.size
        after = Prefix.of_caches(length, prefix.capacity, policy.spec, runner.caches)
        return logits, runner.report(), after

    def _forward(self, tokens: np.ndarray, start: int, *, logits: bool) -> np.ndarray:
        import torch

        inputs = torch.from_numpy(tokens)[None]
        places = torch.arange(start, start + tokens.size)[None]
        body = self._model if logits else self._model.base_model
        found = body(input_ids=inputs, position_ids=places, use_cache=False)
        return found.logits[0].float().numpy() if logits else np.empty(0)


class _Prefill:
    """Marks a dense pass whose keys and values are kept."""

    def __init__(self, keep: Callable[..., None]) -> None:
        self.keep = keep


class _BlockRunner:
    """Attention of one block, layer after layer."""

    def __init__(
        self, prefix: Prefix, steps: int, policy: NamedPolicy, pages: int, compare: bool
    ) -> None:
        self._before = prefix.caches(policy.spec)
        self._policy, self._pages, self._steps, self._compare = policy, pages, steps, compare
        self._padded = max(8, 1 << (steps - 1).bit_length())
        self.caches: list[PagedKV] = []
        self._found: list[tuple[Reading, Loss]] = []
        self._start = prefix.length

    def __call__(
        self, layer: int, query: np.ndarray, key: np.ndarray, value: np.ndarray, scale: float
    ) -> np.ndarray:
        padding = ((0, 0), (0, self._padded - self._steps), (0, 0))
        reading, lost, cache = _read_block(
            self._before[layer],
            *(np.pad(array, padding) for array in (query, key, value)),
            np.int32(self._steps),
            np.float32(scale),
            np.int32(layer),
            self._policy,
            self._pages,
            self._compare,
        )
        self.caches.append(cache)
        steps = self._steps
        self._found.append(jax.tree.map(lambda a: np.asarray(a)[:, :steps], (reading, lost)))
        output = np.asarray(self._found[-1][0].output)
        return np.moveaxis(output, 2, 1).reshape(query.shape)

    def report(self) -> BlockReport:
        readings, losses = zip(*self._found, strict=True)
        parts = {
            name: np.stack([getattr(one, name) for one in found])
            for found, names in (
                (readings, ("tokens_read", "bound", "certified")),
                (losses, ("dropped", "dropped_beyond_first", "error")),
            )
            for name in names
        }
        lengths = self._start + 1 + np.arange(self._steps)
        return BlockReport(lengths=lengths, **parts)


@functools.partial(jax.jit, static_argnames="spec")
def _fill(
    keys: Float[Array, "K T D"],
    values: Float[Array, "K T D"],
    queries: Float[Array, "H Q D"],
    length: Int[Array, ""],
    spec: SummarySpec,
) -> PagedKV:
    return PagedKV.from_tokens(
        keys[None], values[None], lengths=length[None], spec=spec, queries=queries[None]
    )


@functools.partial(jax.jit, static_argnames=("policy", "pages", "compare"))
def _read_block(
    cache: PagedKV,
    query: Float[Array, "H M D"],
    key: Float[Array, "K M D"],
    value: Float[Array, "K M D"],
    steps: Int[Array, ""],
    scale: Float[Array, ""],
    layer: Int[Array, ""],
    policy: NamedPolicy,
    pages: int,
    compare: bool,
) -> tuple[Reading, Loss, PagedKV]:
    """Append the block to the cache, and read it step by step under the policy, by chunks."""
    start = cache.lengths[0]
    cache, _ = cache.append(key[None], value[None], counts=steps[None], throw=False)
    table = cache.page_table[0]
    keys, values = cache.keys[:, table], cache.values[:, table]
    padded = query.shape[1]
    chunk = min(_CHUNK, padded)
    # Steps that only pad see what the last real one sees.
    lengths = start + 1 + jnp.minimum(jnp.arange(padded, dtype=jnp.int32), steps - 1)
    grouped = query.reshape(key.shape[0], -1, padded // chunk, chunk, query.shape[-1])

    def one(part: tuple[Array, Array]) -> tuple[Reading, Loss]:
        queries, seen = part
        block = DecodeBlock(jnp.swapaxes(queries, 1, 2), keys, values, seen, scale, cache, layer)
        reading = check_reading(policy.name, policy.read(block, pages), block)
        return reading, loss(block, reading) if compare else unknown(reading)

    parts = (jnp.moveaxis(grouped, 2, 0), lengths.reshape(-1, chunk))
    found = jax.lax.map(one, parts)
    joined = jax.tree.map(
        lambda a: jnp.moveaxis(a, 0, 1).reshape(a.shape[1], padded, *a.shape[3:]), found
    )
    return (*joined, cache)


@contextlib.contextmanager
def _attend_by(attend: Any) -> Generator[None]:
    token = _attending.set(attend)
    try:
        yield
    finally:
        _attending.reset(token)


@contextlib.contextmanager
def _torch_off() -> Generator[None]:
    import torch

    with torch.inference_mode():
        yield


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _interface)


def _interface(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **options: Any
) -> tuple[Any, None]:
    """What transformers calls in place of its attention: tensors (1, heads, tokens, D)."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from vashista_theory.models.own_attention import check_own_attention

    del attention_mask  # causal, one sequence: checked when the model was taken
    for option in ("sliding_window", "softcap", "s_aux"):
        if options.get(option) is not None:
            raise unsupported(
                f"{option} in {type(module).__name__} here", "Evaluate another model."
            )
    check_own_attention(module, query, key, options.get("scaling"))
    attend: Any = _attending.get(None)
    layer, scale = int(module.layer_idx), options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    arrays = [tensor[0].float().numpy() for tensor in (query, key, value)]
    if isinstance(attend, _Prefill):
        attend.keep(layer, *arrays, scale=scale)
        return sdpa_attention_forward(module, query, key, value, None, scaling=scale)
    if attend is None:
        raise RuntimeError("this model belongs to an evaluation; load another one to generate")
    output = attend(layer, *arrays, scale)
    return torch.from_numpy(np.ascontiguousarray(output)).transpose(0, 1)[None].to(query), None
