"""How a decode step reaches the cache, whether by plain JAX, by kernels or on many devices."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from vashista_theory.attention.bounds.page_bounds import PageBounds, Query
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.candidates import Candidates
from vashista_theory.attention.step.drawing import Drawn, Listed
from vashista_theory.attention.step.routing import Layout
from vashista_theory.attention.step.softmax_sums import Gathered, Partial, Pools


class TokenScores(NamedTuple):
    """What this device can tell of tokens of its full pages: of all, or of some pages of each row.

    Attributes:
        pools: Where its pages lie.
        pages: Their logical numbers, in the order of the page table of `pools`; or those of some
            pages of each row, −1 for none.
        logits: Of the sketched keys; anything in a page that is not full.
        errors: How far those of the keys may be from them; None where no proof was asked for.
        value_bounds: Bound on the length of each value; anything in a page that is not full.
    """

    pools: Pools
    pages: Int[Array, "*n P"]
    logits: Float[Array, "R G P S"]
    errors: Float[Array, "R G P S"] | None
    value_bounds: Float[Array, "R P S"]


class TokensRead(NamedTuple):
    """What reading drawn tokens of this device gave.

    Attributes:
        sums: Softmax sums, each token counted 1/π times.
        variance: What these tokens add to V̂/Ẑ² (T8), given the output and the log-mass of all that
            was read.
    """

    sums: Partial
    variance: Callable[[Float[Array, "R G D"], Float[Array, "R G"]], Float[Array, "R G"]]


@runtime_checkable
class Backend(Protocol):
    """What depends on where the pages are; pages are always named by their logical number."""

    def all_pages(self, query: Query, cache: PagedKV, pools: Pools, policy: Policy) -> Candidates:
        """Every page of every row, with its bounds."""
        ...

    def some_pages(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R U"]
    ) -> Candidates:
        """Some pages of each row, with their bounds; −1 for none."""
        ...

    def superpage_bounds(
        self, query: Query, cache: PagedKV, policy: Policy
    ) -> tuple[PageBounds, Float[Array, "R C"]]:
        """Bounds of every superpage that has a summary, and on the length of its values."""
        ...

    def select_pages(
        self, priority: Float[Array, "R P"], places: Layout, count: int
    ) -> tuple[Int[Array, "R K"], Bool[Array, "R K"]]:
        """Indices of the `count` best pages, ascending, forced ones first; and which are pages."""
        ...

    def read_pages(
        self, query: Query, pools: Pools, pages: Int[Array, "R K"], chosen: Bool[Array, "R K"]
    ) -> Partial:
        """Softmax sums over the chosen ones of some pages of each row.

        They come first in the list, and one that is not full comes last of them.
        """
        ...

    def read_range(
        self,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R P"],
        lower: Int[Array, " R"],
        upper: Int[Array, " R"],
        sums: Partial,
    ) -> Partial:
        """Sums so far, and those over places [lower, upper) of a list of full pages, by row."""
        ...

    def read_everything(self, query: Query, pools: Pools) -> Partial:
        """Softmax sums over all pages of every row."""
        ...

    def gather_pages(
        self, pools: Pools, pages: Int[Array, "R K"], chosen: Bool[Array, "R K"], dtype: jnp.dtype
    ) -> Gathered:
        """Keys and values of the chosen pages themselves."""
        ...

    def token_scores(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy
    ) -> TokenScores:
        """Sketched scores of the tokens of this device."""
        ...

    def some_token_scores(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R P"]
    ) -> TokenScores:
        """Sketched scores of the tokens of some pages of each row, those that lie on this device.

        Pages are full, −1 for none; so are those of other devices in what is returned.
        """
        ...

    def draw(
        self,
        query: Query,
        cache: PagedKV,
        pools: Pools,
        ends: tuple[Int[Array, " R"], Int[Array, " R"]],
        sure: Float[Array, "R G"],
        keys: UInt32[Array, "R 2"],
        expected: Int[Array, " R"],
        room: int,
    ) -> Drawn | None:
        """Tokens drawn at once from pages [first, last) of each row, which are full.

        None, unless a back end overrides it, where nothing is better than step by step
        (`step.sampling`); with several devices, sums of all of them lie between the steps.

        Args:
            query: What is asked.
            cache: With a sketch.
            pools: Of it.
            ends: The first page of the tail of each row, and the one behind its last.
            sure: Log-mass of what is read anyway.
            keys: What random numbers are made from.
            expected: Tokens to draw, on average over the kv heads of a sequence.
            room: How many of each row can be listed.
        """
        del query, cache, pools, ends, sure, keys, expected, room
        return None

    def read_tokens(
        self, query: Query, pools: Pools, listed: Listed, log_pi: Float[Array, "R C"]
    ) -> TokensRead:
        """Softmax sums over drawn tokens of this device, weighted by 1/π.

        Those that exist come first in the list; their pages are full.
        """
        ...

    def every_device(self, numbers: Shaped[Array, "*n"]) -> Shaped[Array, "devices *n"]:
        """What each device has, on all of them, along a new axis in front."""
        ...

    def merge_devices(self, own: Partial) -> Partial:
        """Softmax sums over what all devices have read."""
        ...

    def all_agree(self, flags: Bool[Array, "*n"]) -> Bool[Array, "*n"]:
        """Whether a flag is set on every device."""
        ...
