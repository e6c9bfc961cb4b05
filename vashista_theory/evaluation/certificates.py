"""The guarantee counted on real text: is the true dropped mass ever above its bound?

Queries and keys are those of the model, dense and in float32; the mechanism then runs on them in
float64, so that truth and bound can be told apart to twelve digits.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vashista_theory.attention import PagedKV, Policy
from vashista_theory.evaluation.block import DecodeBlock, Reading, read_mask
from vashista_theory.evaluation.language_model import Recorded
from vashista_theory.evaluation.mechanism import step_by_step

ROOM = 1e-12
"""A mass is the difference of two logarithms of about 50 with relative error 1e-16 each; a hundred
times that is room."""


class Audit(NamedTuple):
    """Bound and truth, each (layer, head, query).

    Attributes:
        dropped: True dropped mass.
        bound: The mechanism's bound on it.
        pages_read: Pages.
        certified: Whether the bound is within the tolerance.
    """

    dropped: np.ndarray
    bound: np.ndarray
    pages_read: np.ndarray
    certified: np.ndarray

    @property
    def violations(self) -> int:
        """Queries whose true dropped mass exceeds the bound."""
        return int(np.sum(self.dropped > self.bound + ROOM))


def audit(recorded: list[Recorded], tolerance: float, *, page_size: int = 16) -> Audit:
    """Read recorded queries by `Policy.certified`, head by head and layer by layer.

    Args:
        recorded: By layer; the queries are those of the last positions.
        tolerance: Dropped mass allowed.
        page_size: Tokens a page.
    """
    queries, tokens = recorded[0].queries.shape[1], recorded[0].keys.shape[1]
    policy = Policy.certified(tolerance, dense_below=0)
    lengths = tokens - queries + 1 + np.arange(queries)
    found: list[Any] = []
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        for one in recorded:
            exact = (np.asarray(a, np.float64) for a in (one.queries, one.keys, one.values))
            arguments = (*exact, lengths.astype(np.int32), np.float64(one.scale))
            found.append(jax.device_get(_audit(*arguments, policy, page_size)))
    dropped, reading = (np.stack(part) for part in zip(*found, strict=True))
    return Audit(dropped, reading[:, 0], reading[:, 1] / page_size, reading[:, 2] > 0)


@functools.partial(jax.jit, static_argnames=("policy", "page_size"))
def _audit(
    queries: Float[Array, "H Q D"],
    keys: Float[Array, "K T D"],
    values: Float[Array, "K T D"],
    lengths: Int[Array, " Q"],
    scale: Float[Array, ""],
    policy: Policy,
    page_size: int,
) -> tuple[Float[Array, "H Q"], Float[Array, "3 H Q"]]:
    heads, steps, d = queries.shape
    pages = -(-keys.shape[1] // page_size)
    padding = ((0, 0), (0, pages * page_size - keys.shape[1]), (0, 0))
    held = [jnp.pad(a, padding) for a in (keys, values)]
    length = jnp.full((1,), keys.shape[1], jnp.int32)
    cache = PagedKV.from_tokens(held[0][None], held[1][None], lengths=length, page_size=page_size)
    table = cache.page_table[0]
    grouped = jnp.swapaxes(queries.reshape(keys.shape[0], -1, steps, d), 1, 2)
    block = DecodeBlock(
        grouped,
        cache.keys[:, table],
        cache.values[:, table],
        lengths,
        scale,
        cache,
        jnp.zeros((), jnp.int32),
    )
    reading: Reading = step_by_step(block, policy)
    everything = read_mask(block, jnp.ones((1, 1, 1, 1, 1), bool))
    dropped = jnp.maximum(-jnp.expm1(reading.log_mass - everything.log_mass), 0.0)

    def by_head(array: Float[Array, "K Q G"]) -> Float[Array, "H Q"]:
        return jnp.swapaxes(array, 1, 2).reshape(heads, steps)

    # A partial page counts as one.
    tokens = jnp.ceil(reading.tokens_read / page_size) * page_size
    certified = reading.certified.astype(dropped.dtype)
    said = jnp.stack([by_head(a) for a in (reading.bound, tokens, certified)])
    return by_head(dropped), said
