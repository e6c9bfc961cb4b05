# pyright: reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportIncompatibleMethodOverride=false
"""One layer of a paged cache: keys and values of its tokens in pages, and attention to them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from jaxtyping import Array, Float, Int
from transformers.cache_utils import DynamicLayer

from vashista_theory._results import Result, is_successful
from vashista_theory.attention import DecodeInfo, PagedKV, Policy, SummarySpec
from vashista_theory.attention.bounds.sketch import EXPECTED_QUERIES, aimed
from vashista_theory.models import refusals, settings, steps, watching
from vashista_theory.models.bridge import (
    as_argument,
    as_numbers,
    as_stored,
    expected_queries,
    precision,
    to_jax,
    to_torch,
)
from vashista_theory.models.dense_chunk import attend_chunk, merge, unless_whole
from vashista_theory.models.kept_layer import check_crop
from vashista_theory.models.own_attention import PLAIN, Given

_LEAST_PAGES = 64


def _precisely(method: Callable[..., Any]) -> Any:
    """Run a method of a layer with JAX in the mode that the layer's numbers need."""

    @functools.wraps(method)
    def wrapper(self: "PagedLayer", *args: Any, **options: Any) -> Any:
        with precision(self.dtype or args[0].dtype):
            return method(self, *args, **options)

    return wrapper


@dataclasses.dataclass(frozen=True)
class _Step:
    """A decode step whose outcome nobody has looked at yet, and what the layer was before it."""

    result: Result
    info: DecodeInfo | None
    log: settings.DecodeLog | None
    seen: int
    valid: torch.Tensor | None
    held: Int[np.ndarray, " B"]


class PagedLayer(DynamicLayer):
    """One layer's pages. `update` announces tokens; attention, which has the mask, appends them.

    Attributes:
        index: Of the layer.
        siblings: All layers of the cache.
        interrupted: Whether a call failed of which windows or states may have seen tokens.
        pages: Keys and values; None before the first token.
        dtype: Torch's type of them.
        seen: Tokens the model has seen, padding included.
        valid: (B, seen), which of them were not padding; None when none was.
        held: Tokens in the pages of each sequence: their lengths, known without asking JAX.
    """

    is_compileable = False

    def __init__(
        self,
        index: int,
        config: Any,
        *,
        policy: Policy | None,
        spec: SummarySpec | None,
        page_size: int | None,
        room: int,
        siblings: list[Any],
    ) -> None:
        super().__init__()
        present = settings.current()
        self.index, self.siblings = index, siblings
        self._config, self._policy, self._room = config, policy, room
        self._spec = present.spec if spec is None else spec
        self._page_size = present.page_size if page_size is None else page_size
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.pages: PagedKV | None = None
        self.dtype: torch.dtype | None = None
        self.seen = 0
        self.interrupted = False
        self.valid: torch.Tensor | None = None
        self.held: Int[np.ndarray, " B"] = np.zeros(0, np.int32)
        self._unsettled: _Step | None = None
        self.is_initialized = False

    def lazy_initialization(self, key_states: Any, value_states: Any = None) -> None:  # noqa: ARG002
        """Pages are made when the mask is known."""
        self.is_initialized = True

    @torch.compiler.disable
    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Announce new tokens (B, Hkv, T, D). The attention function stores and reads them.

        Raises:
            UnsupportedModelError: if no model that uses this cache is being called, other layers
                hold other tokens, or the model has no position for the new ones.
        """
        call = watching.current()
        if call is None:
            raise refusals.unsupported(
                "a paged cache read by another attention implementation",
                "Keys and values are in its pages, not in torch: read it with the model, and the "
                "implementation, that filled it, or start with a new cache.",
            )
        if self.interrupted:
            raise refusals.unsupported(
                "a cache of windows or states after a call that was interrupted: they may have "
                "seen its tokens",
                "Start with a new cache.",
            )
        tokens = key_states.shape[2]
        held = sorted({layer.seen for layer in self.siblings if hasattr(layer, "seen")})
        if self.seen > held[0] or held[-1] > self.seen + tokens:
            raise refusals.unsupported(
                f"a cache whose layers hold {' or '.join(map(str, held))} tokens: an earlier call "
                "was interrupted, or the model gives one layer tokens twice",
                f"Start with a new cache, or cut this one back by `crop` to {held[0]} tokens.",
            )
        refusals.check_context(self.seen + tokens, self._config)
        call.announce(self, key_states, value_states)
        return key_states, value_states

    @_precisely
    def attend(
        self,
        query: Float[torch.Tensor, "B H T D"],
        key: Float[torch.Tensor, "B Hkv T D"],
        value: Float[torch.Tensor, "B Hkv T D"],
        mask: torch.Tensor | None,
        scale: float,
        given: Given = PLAIN,
    ) -> Float[torch.Tensor, "B T H D"]:
        """Append the tokens announced and attend to everything before: sparsely if it is one.

        Several tokens on a cache that is not empty (a prompt in pieces) attend densely, like any
        prompt. What became of a single token is said by `failure`, once the model was called.

        Raises:
            UnsupportedModelError: for a mask with a row that shows tokens which are not stored, or
                hides some.
            ValueError: for several tokens whose numbers are not finite.
        """
        past = self._past(query.shape[0])
        rows, new = self._read(mask, query.shape[0], query.shape[2], query.device)
        query, key, value = as_stored(self.dtype, query, key, value)
        sinks = None if given.sinks is None else as_numbers(given.sinks)
        if query.shape[2] == 1:
            counts = self._counts(new, query.shape[0], 1)
            self._make_room(counts)
            policy = self._policy or settings.current().policy
            arrays = (as_argument(query), as_argument(key), as_argument(value))
            log = settings.current_log()
            self.pages, output, info, result = steps.decode(
                self._past(query.shape[0]),
                *arrays,
                counts,
                scale,
                sinks,
                given.cap,
                policy,
                report=log is not None,
            )
            self._unsettled = _Step(result, info, log, self.seen, self.valid, self.held)
            self._remember(new, counts, 1)
            return to_torch(output)
        output, log_mass, result = steps.read_all(past, to_jax(query), scale, given.cap)
        self._check(result)
        recent = attend_chunk(query, key, value, rows, scale, given.cap)
        self.store(key, value, mask, query)
        parts = [(to_torch(output), to_torch(log_mass)), recent]
        if given.sinks is not None:
            beside = given.sinks.to(recent[1]).expand(recent[1].shape)
            parts.append((torch.zeros_like(recent[0]), beside))
        return merge(*parts)

    @_precisely
    def store(self, key: Any, value: Any, mask: torch.Tensor | None, query: torch.Tensor) -> None:
        """Append tokens (B, Hkv, T, D), each sequence without its padding.

        Their last queries are what sketches are rounded for: those of a prompt, or of a later piece
        that has as many.
        """
        batch, _, tokens, _ = key.shape
        _, new = self._read(mask, batch, tokens, key.device)
        key, value = as_stored(self.dtype, key, value)
        if new is not None:
            order = torch.argsort(~new, dim=1, stable=True)[:, None, :, None].expand(key.shape)
            key, value = key.gather(2, order), value.gather(2, order)
        # Lengths are rounded up so that not every length of a prompt is compiled anew.
        spare = steps.rounded_up(tokens, self._page_size) - tokens
        key, value = (torch.nn.functional.pad(a, (0, 0, 0, spare)) for a in (key, value))
        keys, values = to_jax(key), to_jax(value)
        counts = self._counts(new, batch, tokens)
        if self.pages is None:
            with jax.default_device(next(iter(keys.devices()))):
                self.pages = self._empty(keys)
            self.dtype = key.dtype
            self.held = np.zeros(batch, np.int32)
        least = 2 if self.pages.rounding is None else EXPECTED_QUERIES
        if aimed(self.pages.spec.sketch_bits) and tokens >= least:
            self.pages = self.pages.for_queries(expected_queries(query, new))
        self._make_room(counts)
        self.pages, result = steps.append(self._past(batch), keys, values, counts)
        self._check(result)
        self._remember(new, counts, tokens)

    def failure(self) -> str | None:
        """What is wrong with the last decode step, None for nothing."""
        step = self._unsettled
        if step is None or is_successful(step.result):
            return None
        return self._failure(step.result, step.seen)

    def settle(self, config: Any, *, keep: bool) -> None:
        """Report the last decode step, or undo it."""
        step, self._unsettled = self._unsettled, None
        if step is None:
            return
        if keep and step.log is not None and step.info is not None:
            step.log.add(self.index, step.info, -(-self.held // self._page_size), config)
        if not keep:
            self.seen, self.valid, self.held = step.seen, step.valid, step.held
            with precision(self.dtype):
                self.pages = steps.truncate(self._past(self.held.size), self.held)

    def _empty(self, keys: Float[Array, "B T Hkv D"]) -> PagedKV:
        batch, tokens, heads, d = keys.shape
        width = self._pages_for(max(tokens, self._room))
        return PagedKV.create(
            batch=batch,
            kv_heads=heads,
            head_size=d,
            pages=batch * width,
            pages_per_sequence=width,
            page_size=self._page_size,
            dtype=keys.dtype,
            spec=self._spec,
        )

    def _past(self, batch: int) -> PagedKV:
        if self.pages is None:
            raise RuntimeError("nothing was stored yet")
        if self.pages.batch != batch:
            raise ValueError(
                f"the cache holds {self.pages.batch} sequences, the model was called with {batch}. "
                "Use the cache with the batch that filled it."
            )
        return self.pages

    def _make_room(self, counts: Int[np.ndarray, " B"]) -> None:
        pages = self.pages
        assert pages is not None
        longest = int(np.max(self.held + counts))
        width = pages.pages_per_sequence
        if longest > width * self._page_size:
            width = self._pages_for(longest)
        count = max(pages.keys.shape[1], pages.batch * width)
        if (count, width) != (pages.keys.shape[1], pages.pages_per_sequence):
            self.pages = pages.grow(pages=count, pages_per_sequence=width)

    def _pages_for(self, tokens: int) -> int:
        return steps.rounded_up(-(-tokens // self._page_size) + 1, _LEAST_PAGES)

    def _read(
        self, mask: torch.Tensor | None, batch: int, tokens: int, device: Any
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What a mask says of the last T tokens.

        Returns:
            Which of them each of their rows sees, (1 or B, T, T); None for itself and those before.
            Which of them are not padding, (B, T); None for all of them.
        """
        if mask is None:
            if self.valid is not None:
                raise refusals.unsupported(
                    "a cache with padding and a call without its mask",
                    "Pass the `attention_mask` of the whole batch at each call.",
                )
            return None, None
        keys = self.seen + tokens
        fits = mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[2] in (1, tokens)
        if mask.dtype != torch.bool or not fits or mask.shape[3] < keys:
            raise refusals.unsupported(
                f"masks of one's own ({mask.dtype} of shape {tuple(mask.shape)} for {tokens} "
                f"queries on {keys} keys)",
                "Pass a mask of padding (B, T).",
            )
        rows = mask[:, 0, :, :keys].to(device).expand(-1, tokens, -1)
        past, recent = rows[..., : self.seen], rows[..., self.seen :]
        unchanged = past.all() if self.valid is None else (past == self.valid[:, None]).all()
        if not unchanged:
            raise refusals.unsupported(
                f"a mask that hides tokens the cache holds, or shows others (layer {self.index})",
                "Pass the `attention_mask` that the prompt had, with a column for each new token.",
            )
        # The last query sees every token that is not padding, under causality as without.
        new = recent[:, -1].expand(batch, -1)
        return recent, None if new.all() and self.valid is None else new

    def _remember(
        self, new: torch.Tensor | None, counts: Int[np.ndarray, " B"], tokens: int
    ) -> None:
        self.held = self.held + counts
        if new is not None:
            before = self.valid
            if before is None:
                before = torch.ones((counts.size, self.seen), dtype=torch.bool, device=new.device)
            self.valid = torch.cat([before, new], dim=1)
        self.seen += tokens

    def _counts(self, new: torch.Tensor | None, batch: int, tokens: int) -> Int[np.ndarray, " B"]:
        if new is None:
            return np.full(batch, tokens, np.int32)
        return new.sum(dim=1).cpu().numpy().astype(np.int32)

    def _check(self, result: Result) -> None:
        if not is_successful(result):
            raise ValueError(self._failure(result, self.seen))

    def _failure(self, result: Result, token: int) -> str:
        return f"decoding layer {self.index} failed at token {token}: {Result[result]}"

    def get_seq_length(self, *_: Any) -> int:
        """Tokens seen, padding included."""
        return self.seen

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Length and offset of the keys that a mask has to cover."""
        new = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.seen + int(new), 0

    def crop(self, *lengths: int, **named: int) -> None:
        """Keep the first n tokens, or drop the last n if given as −n.

        The argument has no name of its own: transformers changed it.
        """
        (max_length,) = (*lengths, *named.values())
        kept = self.seen + max_length if max_length <= 0 else min(max_length, self.seen)
        if self.pages is None or kept == self.seen:
            return
        check_crop(self.siblings)
        if kept < 0:
            raise ValueError(f"cannot drop {-max_length} tokens: there are {self.seen}.")
        if self.valid is not None:
            self.valid = unless_whole(self.valid[:, :kept])
        counts = self._counts(self.valid, self.pages.batch, kept)
        with precision(self.dtype):
            self.pages = steps.truncate(self.pages, counts)
        self.held = np.minimum(self.held, counts)
        self.seen = kept

    def reorder_cache(self, beam_idx: Any) -> None:
        """Let row i continue what row ``beam_idx[i]`` was; pages are shared, not copied."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence; the copies share its pages."""
        if self.pages is not None:
            self.batch_select_indices(torch.arange(self.pages.batch).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Any) -> None:
        """Keep the sequences named, in that order."""
        if self.pages is None:
            return
        if indices.dtype == torch.bool:
            indices = torch.nonzero(indices)[:, 0]
        with precision(self.dtype):
            chosen = indices.cpu().numpy().astype(np.int32)
            self.pages = steps.select(self.pages, chosen)
        self.held = self.held[chosen]
        if self.valid is not None:
            self.valid = unless_whole(self.valid[indices.to(self.valid.device)])

    def offload(self) -> None:
        """Refused: where the pages are is JAX's business."""
        raise refusals.unsupported("offloaded caches", "Use the default cache_implementation.")

    def prefetch(self) -> None:
        """Refused, like `offload`."""
        self.offload()
