"""How the pages of a sequence are dealt to the devices of a mesh axis, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from vashista_theory.attention.bounds.summaries import PAGES_PER_SUPERPAGE


@dataclass(frozen=True)
class Dealing:
    """Superpages dealt in turn: logical page p lies on device (p // 16) mod n.

    So every device holds whole superpages, and how many tokens of a sequence it holds follows from
    the length of the sequence alone. Sequences that grow fill all devices evenly.
    """

    mesh: Mesh
    axis: str

    @property
    def count(self) -> int:
        """Devices along the axis."""
        return self.mesh.shape[self.axis]

    def on_each(self, function: Callable[..., Any], dealt: Any, *whole: Any) -> Any:
        """Run `function` on every device: on its part of `dealt`, and on all of `whole`.

        Args:
            function: Returns a pair of pytrees: what is dealt, and what is the same on all.
            dealt: Arrays with a leading axis of devices, which `function` does not see.
            whole: Arrays that every device sees.

        Returns:
            The same pair; what is dealt has a leading axis of devices again.
        """

        def body(dealt: Any, *whole: Any) -> Any:
            parts, common = function(jax.tree.map(lambda a: a[0], dealt), *whole)
            return jax.tree.map(lambda a: a[None], parts), common

        here, everywhere = PartitionSpec(self.axis), PartitionSpec()
        return jax.shard_map(
            body,
            mesh=self.mesh,
            in_specs=(here, *[everywhere] * len(whole)),
            out_specs=(here, everywhere),
            # What is computed from an `all_gather` is the same everywhere, but JAX types it as if
            # it were not; and the loops are shared with code that knows no devices.
            check_vma=False,
        )(dealt, *whole)

    def rank(self) -> Int[Array, ""]:
        """Number of this device along the axis."""
        return jax.lax.axis_index(self.axis).astype(jnp.int32)

    def is_mine(self, pages: Int[Array, "*n"]) -> Bool[Array, "*n"]:
        """Which logical pages lie on this device; none below 0."""
        return (pages >= 0) & (pages // PAGES_PER_SUPERPAGE % self.count == self.rank())

    def place(self, pages: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """Where their device counts these logical pages."""
        span = PAGES_PER_SUPERPAGE
        return pages // (span * self.count) * span + pages % span

    def page_at(self, places: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """Logical pages that lie at these places of this device: the inverse of `place`."""
        span = PAGES_PER_SUPERPAGE
        return (places // span * self.count + self.rank()) * span + places % span

    def pages_per_device(self, pages: int) -> int:
        """Places for the pages of a sequence on each device: whole superpages."""
        return -(-pages // (PAGES_PER_SUPERPAGE * self.count)) * PAGES_PER_SUPERPAGE

    def lengths_here(self, lengths: Int[Array, "*n"], page_size: int) -> Int[Array, "*n"]:
        """Tokens on this device of sequences of these lengths."""
        span, rank = PAGES_PER_SUPERPAGE * page_size, self.rank()
        superpages, rest = lengths // span, lengths % span
        whole = (superpages + self.count - 1 - rank) // self.count
        return whole * span + jnp.where(superpages % self.count == rank, rest, 0)

    def block_here(
        self, block: Float[Array, "B Hkv T D"], lengths: Int[Array, " B"], page_size: int
    ) -> Float[Array, "B Hkv L D"]:
        """The tokens of a block that go to this device, appended to sequences of these lengths."""
        span, tokens = PAGES_PER_SUPERPAGE * page_size, block.shape[2]
        rounds, rest = divmod(tokens, span * self.count)
        # Superpages of one device lie so far apart that a shorter run meets at most one's worth.
        most = rounds * span + min(rest, span)
        here = self.lengths_here(lengths, page_size)[:, None]
        here = here + jnp.arange(most, dtype=jnp.int32)[None, :]
        token = (here // span * self.count + self.rank()) * span + here % span
        index = jnp.clip(token - lengths[:, None], 0, tokens - 1)[:, None, :, None]
        return jnp.take_along_axis(block, index, axis=2)

    def gather(
        self, numbers: Shaped[Array, "*n P"], *, run: int, length: int
    ) -> Shaped[Array, "*n Q"]:
        """Put together what all devices have, in runs of `run` numbers in turn, on all of them."""
        parts = jax.lax.all_gather(numbers, self.axis)
        parts = parts.reshape(*parts.shape[:-1], -1, run)
        return jnp.moveaxis(parts, 0, -2).reshape(*numbers.shape[:-1], -1)[..., :length]

    def all_agree(self, flags: Bool[Array, "*n"]) -> Bool[Array, "*n"]:
        """Whether a flag is set on every device."""
        return jax.lax.pmin(flags.astype(jnp.int32), self.axis) == 1
