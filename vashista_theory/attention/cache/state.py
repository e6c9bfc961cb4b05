"""The arrays of a paged cache, which its bookkeeping changes and its methods offer."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vashista_theory.attention.bounds.rounding import work_dtype
from vashista_theory.attention.bounds.sketch import Rounding
from vashista_theory.attention.bounds.summaries import Summaries, SummarySpec


class CacheArrays(eqx.Module):
    """What a `PagedKV` is made of, as described there."""

    keys: Float[Array, "Hkv N S D"]
    values: Float[Array, "Hkv N S D"]
    page_table: Int[Array, "B P"]
    lengths: Int[Array, " B"]
    reference_counts: Int[Array, " N"]
    free_pages: Int[Array, " N"]
    free_count: Int[Array, ""]
    summaries: Summaries
    superpages: Summaries
    spec: SummarySpec = eqx.field(static=True)
    rounding: Rounding | None = None

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.page_table.shape[0]

    @property
    def dtype(self) -> Any:
        """Type of the keys and values."""
        return self.keys.dtype

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        return self.keys.shape[2]

    @property
    def kv_heads(self) -> int:
        """Key-value heads."""
        return self.keys.shape[0]

    @property
    def head_size(self) -> int:
        """Coordinates of a key."""
        return self.keys.shape[3]

    @property
    def pages_per_sequence(self) -> int:
        """Pages of the longest sequence there is room for."""
        return self.page_table.shape[1]

    @property
    def work_dtype(self) -> Any:
        """Precision in which scores and bounds are computed."""
        return work_dtype(self.keys.dtype, jnp.dtype(self.spec.dtype))
