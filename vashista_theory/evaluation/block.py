"""A block of decode steps of one layer: what a policy is shown, and reading by a mask.

Teacher forcing knows all tokens beforehand, so decode steps of a layer can be computed together:
step i sees the first `lengths[i]` tokens, as a fork of the sequence of that length would. Pages
complete at that length are judged by their summaries; a partial last page is always read.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from vashista_theory.attention import PagedKV
from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.page_bounds import as_query, page_bounds
from vashista_theory.attention.bounds.summaries import Summaries, Summary, corners
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.routing import Layout, group_priority, layout, select_pages


class DecodeBlock(NamedTuple):
    """Q decode steps of one layer and one sequence, on K kv heads of G query heads each.

    Attributes:
        queries: After the rotary embedding.
        keys: The whole sequence, by pages; tokens beyond a step's length are not for it to see.
        values: Like the keys.
        lengths: Tokens that each step sees, its own included.
        scale: Factor on the scores.
        cache: The same sequence with the summaries of its pages.
        layer: Number of the layer, for policies that draw at random or treat layers apart.
    """

    queries: Float[Array, "K Q G D"]
    keys: Float[Array, "K P S D"]
    values: Float[Array, "K P S D"]
    lengths: Int[Array, " Q"]
    scale: Float[Array, ""]
    cache: PagedKV
    layer: Int[Array, ""]

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        return self.keys.shape[2]

    @property
    def visible(self) -> Bool[Array, "Q P S"]:
        """Which tokens each step may see."""
        places = jnp.arange(self.keys.shape[1] * self.page_size, dtype=self.lengths.dtype)
        seen = places[None, :] < self.lengths[:, None]
        return seen.reshape(-1, *self.keys.shape[1:3])

    def logits(self) -> Float[Array, "K Q G P S"]:
        """Scaled scores of every key, −inf where it is not visible. Only oracles route by them."""
        exact = jax.lax.Precision.HIGHEST
        scores = jnp.einsum("kqgd,kpsd->kqgps", self.queries, self.keys, precision=exact)
        return jnp.where(self.visible[None, :, None], self.scale * scores, -jnp.inf)

    def page_scores(self, summary: Summary) -> Float[Array, "K Q G P"]:
        """What the mechanism orders pages by, from one kind of summary; for full pages only."""
        heads, steps, group, d = self.queries.shape
        if summary == "sketch":
            return jax.nn.logsumexp(self.sketch_logits(), axis=-1)
        query = as_query(self.queries.reshape(heads, steps * group, d), self.scale)
        spec, size = self.cache.spec, self.page_size
        bounds = page_bounds(query, self._summaries(), spec, summary, size, proof=False)
        return bounds.priority.reshape(heads, steps, group, -1)

    def _summaries(self) -> Summaries:
        table = self.cache.page_table[0]
        return jax.tree.map(lambda held: held[:, table], self.cache.summaries)

    def sketch_logits(self) -> Float[Array, "K Q G P S"]:
        """Logits of the sketched keys; right for full pages only."""
        # The mechanism scores codes dimension by dimension, which pays for one step. Many steps
        # share one rebuilt key: the same numbers, by a matrix product.
        pages = self._summaries()
        if pages.box is None or pages.codes is None:
            raise ValueError("this policy routes by a sketch, but the cache keeps none.")
        bits, packed = self.cache.spec.sketch_bits or 8, self.cache.spec.packed
        codes: UInt8[Array, ...] = pages.codes
        lower, upper = corners(pages.box, self.queries.dtype)
        full = sketch.unpack(codes, bits) if packed else codes
        keys = sketch.dequantise(full, lower, upper, bits)
        exact = jax.lax.Precision.HIGHEST
        return self.scale * jnp.einsum("kqgd,kpsd->kqgps", self.queries, keys, precision=exact)


class Reading(NamedTuple):
    """What a policy read for each step, and what that proves.

    Attributes:
        output: Of the attention.
        tokens_read: Keys read for each query head.
        log_mass: Log of the softmax mass read, in nats.
        bound: Proven bound on the mass left out; NaN where nothing is proved.
        certified: Whether that bound is within the policy's tolerance.
        first: Whether the first token was read: it alone holds much of the mass (a sink).
    """

    output: Float[Array, "K Q G D"]
    tokens_read: Float[Array, "K Q G"]
    log_mass: Float[Array, "K Q G"]
    bound: Float[Array, "K Q G"]
    certified: Bool[Array, "K Q G"]
    first: Bool[Array, "K Q G"]


def check_reading(name: str, reading: object, block: DecodeBlock) -> Reading:
    """What a policy returned, if it is a reading of this block.

    Raises:
        ValueError: naming the policy, what it returned and what was expected.
    """
    if not isinstance(reading, Reading):
        raise ValueError(
            f"policy {name!r} returned {_shown(reading)}; a vashista_theory.evaluation.Reading is "
            "expected, such as `read_mask(block, mask)` gives."
        )
    heads, steps, group, size = block.queries.shape
    for field, held in reading._asdict().items():
        expected = (heads, steps, group, size) if field == "output" else (heads, steps, group)
        if np.shape(held) != expected:
            axes = (
                "(kv heads, steps, group, size)"
                if field == "output"
                else "(kv heads, steps, group)"
            )
            raise ValueError(
                f"policy {name!r}: `{field}` of its reading is {_shown(held)}; shape {expected} is "
                f"expected, {axes}."
            )
    return reading


def check_scores(name: str, scores: object, block: DecodeBlock) -> Float[Array, "K Q G P"]:
    """What a function that scores pages returned, if it is one number for each page.

    Raises:
        ValueError: naming the policy, what it returned and what was expected.
    """
    expected = (*block.queries.shape[:3], block.keys.shape[1])
    if not isinstance(scores, jax.Array | np.ndarray) or scores.shape != expected:
        raise ValueError(
            f"policy {name!r} returned {_shown(scores)}; an array of shape {expected} is expected: "
            "a score for each (kv head, step, query head of the group, page), as "
            "`block.logits()[..., 0]` has."
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(
            f"policy {name!r} returned scores in {scores.dtype}; floating-point numbers are "
            f"expected. Convert them, for example by `.astype({block.queries.dtype})`."
        )
    return jnp.asarray(scores)


def _shown(value: object) -> str:
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array of shape {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"


def read_mask(block: DecodeBlock, mask: Shaped[Array, "K Q g P s"]) -> Reading:
    """Softmax attention over the keys that a mask keeps; what is not visible is never read.

    Args:
        block: The steps.
        mask: Which keys to read; axes of heads and of tokens may have length 1.
    """
    return read_weighted(block, jnp.where(mask, 0.0, -jnp.inf).astype(block.keys.dtype))


def read_weighted(block: DecodeBlock, log_weights: Float[Array, "K Q g P s"]) -> Reading:
    """Softmax attention over keys that count more or less than once (T8).

    Args:
        block: The steps.
        log_weights: Added to the logit of each key, −inf for one that is not read: log(1/π) where
            it was drawn with probability π. Axes of heads and of tokens may have length 1.
    """
    read = (log_weights > -jnp.inf) & block.visible[None, :, None]
    logits = jnp.where(read, block.logits() + jnp.where(read, log_weights, 0.0), -jnp.inf)
    heads, steps, group = logits.shape[:3]
    flat = logits.reshape(heads, steps, group, -1)
    top = jnp.max(flat, axis=-1, keepdims=True)
    anchor = jnp.where(jnp.isfinite(top), top, 0.0)
    weights = jnp.exp(flat - anchor)
    mass = jnp.sum(weights, axis=-1)
    values = block.values.reshape(heads, -1, block.values.shape[-1])
    exact = jax.lax.Precision.HIGHEST
    output = jnp.einsum("kqgt,ktd->kqgd", weights, values, precision=exact)
    output = output / jnp.where(mass > 0, mass, 1.0)[..., None]
    log_mass = jnp.where(mass > 0, anchor[..., 0] + jnp.log(mass), -jnp.inf)
    tokens = jnp.sum(read, axis=(-2, -1), dtype=jnp.int32).astype(mass.dtype)
    nothing = jnp.full_like(mass, jnp.nan)
    return Reading(
        output,
        jnp.broadcast_to(tokens, mass.shape),
        log_mass,
        nothing,
        jnp.zeros(mass.shape, bool),
        jnp.broadcast_to(read[..., 0, 0], mass.shape),
    )


def best_pages(
    block: DecodeBlock, scores: Float[Array, "K Q G P"], policy: Policy
) -> Bool[Array, "K Q 1 P 1"]:
    """The pages a fixed number of which a policy reads: forced ones, then the best by group.

    Args:
        block: The steps.
        scores: Log-masses or what stands for them; each head's shares are added over its group.
        policy: Its `pages`, `sink` and `recent` count.
    """
    heads, steps, group, pages = scores.shape
    places = _layout(block, policy)
    rows = scores.reshape(heads * steps, group, pages)
    priority = group_priority(rows, places.full & ~places.forced)
    index, chosen = select_pages(priority, places, policy.pages or pages)
    row = jnp.arange(heads * steps, dtype=jnp.int32)[:, None]
    kept = jnp.zeros((heads * steps, pages), bool)
    kept = kept.at[row, jnp.where(chosen, index, pages)].set(True, mode="drop")
    return kept.reshape(heads, steps, 1, pages, 1)


def _layout(block: DecodeBlock, policy: Policy) -> Layout:
    heads, steps = block.queries.shape[:2]
    numbers = jnp.arange(block.keys.shape[1], dtype=jnp.int32)
    numbers = jnp.broadcast_to(numbers[None, :], (heads * steps, numbers.shape[0]))
    lengths = jnp.tile(block.lengths.astype(jnp.int32), heads)
    return layout(numbers, lengths, block.page_size, policy)


class Loss(NamedTuple):
    """What a reading lost against dense attention of the same queries.

    Attributes:
        dropped: Share of the softmax mass that was not read.
        dropped_beyond_first: The same among all tokens but the first.
        error: ‖output − dense output‖ / ‖dense output‖.
    """

    dropped: Float[Array, "K Q G"]
    dropped_beyond_first: Float[Array, "K Q G"]
    error: Float[Array, "K Q G"]


def loss(block: DecodeBlock, reading: Reading) -> Loss:
    """Compare a reading with dense attention of the same block."""
    everything = jnp.ones((1, 1, 1, 1, 1), bool)
    dense = read_mask(block, everything)
    dropped = jnp.maximum(-jnp.expm1(reading.log_mass - dense.log_mass), 0.0)
    first = jnp.exp(block.logits()[..., 0, 0] - dense.log_mass)
    missed = jnp.where(reading.first, 0.0, first)
    rest = jnp.maximum(1.0 - first, float(jnp.finfo(first.dtype).tiny))
    beyond = jnp.clip((dropped - missed) / rest, 0.0, 1.0)
    length = jnp.linalg.norm(dense.output, axis=-1)
    away = jnp.linalg.norm(reading.output - dense.output, axis=-1)
    return Loss(dropped, beyond, away / jnp.where(length > 0, length, 1.0))


def unknown(reading: Reading) -> Loss:
    """In place of a loss that was not asked for: NaN."""
    nothing = jnp.full_like(reading.log_mass, jnp.nan)
    return Loss(nothing, nothing, nothing)
