"""Access to the cache through the kernels: what they can do of a step, plain JAX for the rest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vashista_theory.attention import kernel_judge, read, routing
from vashista_theory.attention._bits import from_bits
from vashista_theory.attention.access import ONE_DEVICE, Access
from vashista_theory.attention.cache import PagedKV
from vashista_theory.attention.certificate import Query
from vashista_theory.attention.kernel_choice import Kernels, physical_pages
from vashista_theory.attention.kernels import spec
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.read import Partial, Pools, merge
from vashista_theory.attention.rounding import norm_from_above
from vashista_theory.attention.summaries import Summaries, corners

_BLOCK = 256  # pages of a row that are read at once; a list of any length is read in blocks


def kernel_access(cache: PagedKV, dtype: DTypeLike, policy: Policy, kernels: Kernels) -> Access:
    """Access to a cache on one device by kernels.

    Args:
        cache: What is on the device.
        dtype: Type of the query as it was given; kernels multiply in it.
        policy: What is asked of the step.
        kernels: Whose.
    """
    if not kernels.names:
        return ONE_DEVICE
    one = _Kernels(cache, jnp.dtype(dtype), policy, kernels)
    judge = kernel_judge.KernelJudge(one.dtype, kernels)
    return ONE_DEVICE._replace(
        judge_all=judge.judge_all,
        judge_superpages=judge.judge_superpages,
        judge_pages=judge.judge_pages,
        select_pages=one.select_pages,
        read_pages=one.read_pages,
        read_range=one.read_range,
        read_everything=one.read_everything,
    )


class _Kernels(NamedTuple):
    """Selecting and reading; judging is in `kernel_judge.py`."""

    cache: PagedKV
    dtype: jnp.dtype
    policy: Policy
    kernels: Kernels

    def select_pages(
        self, priority: Float[Array, "R P"], places: routing.Layout, count: int
    ) -> tuple[Int[Array, "R K"], Bool[Array, "R K"]]:
        rows, width = priority.shape
        ranked = routing.ranking(priority, places)[:, None, :]
        call = spec.select_call(ranked, min(count, width))
        stage = self.kernels.stage("select", call.shape)
        if stage is None:
            return routing.select_pages(priority, places, count)
        found: spec.Selected = stage.run(call, None)
        index = found.pages.reshape(rows, call.shape.count)
        place = jnp.arange(call.shape.count, dtype=jnp.int32)
        return index, place[None, :] < found.number.reshape(rows, 1)

    def read_pages(
        self, query: Query, pools: Pools, pages: Int[Array, "R K"], wanted: Bool[Array, "R K"]
    ) -> Partial:
        stage = self._attend_stage(query, pools, pages.shape[1])
        if stage is None:
            return read.read_pages(query, pools, pages, wanted)
        size = pools.keys.shape[2]
        tokens = jnp.clip(pools.lengths[:, None] - pages * size, 0, size)
        tokens = jnp.sum(jnp.where(wanted, tokens, 0), axis=1, dtype=jnp.int32)
        return self._attend(stage, query, pools, pages, tokens)

    def read_range(
        self,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R P"],
        lower: Int[Array, " R"],
        upper: Int[Array, " R"],
        sums: Partial,
    ) -> Partial:
        block = min(_BLOCK, pages.shape[1])
        if self._attend_stage(query, pools, block) is None:
            return read.read_range(query, pools, pages, lower, upper, sums)

        def body(state: tuple[Array, Partial]) -> tuple[Array, Partial]:
            begin, sums = state
            places = begin[:, None] + jnp.arange(block, dtype=jnp.int32)[None, :]
            index = jnp.minimum(places, pages.shape[1] - 1)
            listed = jnp.take_along_axis(pages, index, axis=1)
            new = self.read_pages(query, pools, listed, places < upper[:, None])
            return jnp.minimum(begin + block, upper), merge(sums, new)

        # Plain JAX strings the ranges of all rows together, so that short ones waste nothing; a
        # kernel reads as many pages of each row as there are, and an idle row costs it nothing.
        return jax.lax.while_loop(lambda s: jnp.any(s[0] < upper), body, (lower, sums))[1]

    def read_everything(self, query: Query, pools: Pools) -> Partial:
        stage = self._attend_stage(query, pools, pools.table.shape[1])
        if stage is None:
            return ONE_DEVICE.read_everything(query, pools)
        places = jnp.arange(pools.table.shape[1], dtype=jnp.int32)
        pages = jnp.broadcast_to(places[None, :], pools.table.shape)
        return self._attend(stage, query, pools, pages, pools.lengths)

    def _shape(self, query: Query, pools: Pools, listed: int) -> spec.AttendShape:
        rows, group, d = query.vectors.shape
        heads, pool_pages, size, _ = pools.keys.shape
        return spec.AttendShape(
            batch=rows // heads,
            heads=heads * group,
            kv_heads=heads,
            head_size=d,
            page_size=size,
            pool_pages=pool_pages,
            listed=listed,
            query_dtype=str(self.dtype),
            pool_dtype=str(pools.keys.dtype),
        )

    def _attend_stage(self, query: Query, pools: Pools, listed: int) -> spec.StageOfBackend | None:
        return self.kernels.stage("attend", self._shape(query, pools, listed))

    def _attend(
        self,
        stage: spec.StageOfBackend,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R K"],
        tokens: Int[Array, " R"],
    ) -> Partial:
        """Softmax sums over the first tokens of a list of logical pages of each row."""
        rows, group, d = query.vectors.shape
        shape = self._shape(query, pools, pages.shape[1])
        by_row = (shape.batch, shape.kv_heads)
        physical = physical_pages(pools, pages)
        call = spec.attend_call(
            query.vectors.astype(self.dtype).reshape(shape.batch, shape.heads, d),
            pools.keys,
            pools.values,
            physical.reshape(*by_row, -1),
            tokens.reshape(by_row),
            query.scale,
        )
        found: spec.Attended = stage.run(call, None)
        log_mass, top = (a.reshape(rows, group) for a in (found.log_mass, found.top))
        # A kernel may leave out a score that overflowed to −inf.
        top = jnp.where((tokens > 0)[:, None] & ~jnp.isfinite(top), jnp.nan, top)
        mass = jnp.where(top == -jnp.inf, 0.0, jnp.exp(log_mass - top))
        output = found.output.reshape(rows, group, d) * mass[..., None]
        return Partial(top, mass, output, self._reach(pools, physical, tokens), tokens)

    def _reach(
        self, pools: Pools, physical: Int[Array, "R K"], tokens: Int[Array, " R"]
    ) -> Float[Array, " R"]:
        """Bound on the length of any key read, from the summaries of the pages.

        Kernels hand keys to matrix units and never look at them. A page that is not full has no
        summary, but then it is the last one, and is looked at.
        """
        rows, listed = physical.shape
        if self.policy.tolerance is None:  # nothing is proved, so nothing asks
            return jnp.full((rows,), jnp.inf, jnp.float32)
        size = pools.keys.shape[2]
        heads = pools.heads[:, None]
        full = jnp.arange(listed, dtype=jnp.int32)[None, :] < (tokens // size)[:, None]
        longest = jnp.where(full, _longest_key(self.cache.summaries, heads, physical), 0.0)
        last = jnp.clip(tokens // size, 0, listed - 1)[:, None]
        keys = pools.keys[heads, jnp.take_along_axis(physical, last, axis=1)][:, 0]
        counted = jnp.arange(size, dtype=jnp.int32)[None, :] < (tokens % size)[:, None]
        counted = counted & (tokens < listed * size)[:, None]
        keys = jnp.where(counted[..., None], keys.astype(jnp.float32), 0.0)
        return jnp.maximum(jnp.max(longest, axis=1), jnp.max(norm_from_above(keys), axis=1))


def _longest_key(
    summaries: Summaries, heads: Int[Array, "R 1"], pages: Int[Array, "R K"]
) -> Float[Array, "R K"]:
    """Bound on the length of any key of full pages, from the box or the ball."""
    if summaries.box is not None:
        lower, upper = corners(summaries.box[heads, pages], jnp.float32)
        return norm_from_above(jnp.maximum(jnp.abs(lower), jnp.abs(upper)))
    assert summaries.mean is not None, "a proof needs a box or a ball"
    assert summaries.radius is not None, "a ball has a radius"
    mean, radius = (
        from_bits(held[heads, pages], jnp.float32) for held in (summaries.mean, summaries.radius)
    )
    return (norm_from_above(mean) + radius) * (1.0 + 2.0**-20)
