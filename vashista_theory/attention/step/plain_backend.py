"""Everything on the device at hand, in plain JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vashista_theory._numerics import finite_or_zero
from vashista_theory.attention.bounds.bits import from_bits, widened
from vashista_theory.attention.bounds.page_bounds import (
    PageBounds,
    Query,
    page_bounds,
    sketched_tokens,
)
from vashista_theory.attention.bounds.sampling import estimated_variance
from vashista_theory.attention.bounds.summaries import PAGES_PER_SUPERPAGE, Summaries
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step import routing
from vashista_theory.attention.step.backend import Backend, TokenScores, TokensRead
from vashista_theory.attention.step.candidates import (
    Candidates,
    as_candidates,
    lengths_of_values,
    parts,
    pick,
)
from vashista_theory.attention.step.drawing import Listed
from vashista_theory.attention.step.softmax_sums import (
    Gathered,
    Partial,
    Pools,
    attend_gathered,
    logits_of,
    merge,
    nothing_read,
    physical_pages,
    sums_of,
)

_CHUNK = 256  # pages: their keys and values, 2 MiB at D = 64 in float32, stay in the cache
_NEAR = 2**19  # bytes of keys and values that a core has next to it; twice as many are slower


class PlainBackend(Backend):
    """Plain JAX, which can do everything on every device.

    It never asks itself for what a subclass does otherwise: that is left to it when it cannot.
    """

    def all_pages(self, query: Query, cache: PagedKV, pools: Pools, policy: Policy) -> Candidates:
        """Judge every page of every row."""
        pages = pools.every_page()
        sequences, width = cache.page_table.shape
        # One sequence that fills most of its pool is judged where its summaries lie, which saves a
        # copy of all sketches; only what was found is put in the sequence's order.
        if sequences > 1 or cache.keys.shape[1] > 2 * width:
            return PlainBackend.some_pages(self, query, cache, pools, policy, pages)
        in_pool = _bounds(query, cache.summaries, cache, policy, cache.page_size)
        bounds = jax.tree.map(
            lambda a: jnp.take_along_axis(a, pools.table[:, None, :], axis=2), in_pool
        )
        values = jnp.take_along_axis(cache.summaries.value_bound, pools.table, axis=1)
        return as_candidates(query, cache, pools, policy, pages, bounds, values)

    def some_pages(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R U"]
    ) -> Candidates:
        """Judge some logical pages of each row; −1 for none."""
        physical = jnp.take_along_axis(pools.table, jnp.maximum(pages, 0), axis=1)
        heads = pools.heads[:, None]
        # The barrier makes XLA fetch whole pages, not one number after another as it is needed.
        summaries = jax.lax.optimization_barrier(
            jax.tree.map(lambda part: pick(part, heads, physical), parts(cache.summaries, policy))
        )
        bounds = _bounds(query, summaries, cache, policy, cache.page_size)
        return as_candidates(query, cache, pools, policy, pages, bounds, summaries.value_bound)

    def superpage_bounds(
        self, query: Query, cache: PagedKV, policy: Policy
    ) -> tuple[PageBounds, Float[Array, "R C"]]:
        """Bounds of every superpage that has a summary, and on the length of its values."""
        rows = cache.batch * cache.kv_heads
        summaries = jax.tree.map(lambda part: part.reshape(rows, *part.shape[2:]), cache.superpages)
        bounds = _bounds(query, summaries, cache, policy, PAGES_PER_SUPERPAGE * cache.page_size)
        return bounds, from_bits(summaries.value_bound, query.vectors.dtype)

    def select_pages(
        self, priority: Float[Array, "R P"], places: routing.Layout, count: int
    ) -> tuple[Int[Array, "R K"], Bool[Array, "R K"]]:
        """Indices of the `count` best pages, by a sort."""
        return routing.select_pages(priority, places, count)

    def gather_pages(
        self, pools: Pools, pages: Int[Array, "R K"], chosen: Bool[Array, "R K"], dtype: jnp.dtype
    ) -> Gathered:
        """Fetch logical pages of each row; what is not chosen or does not exist counts nothing."""
        place = jnp.clip(pages, 0, pools.table.shape[1] - 1)
        physical = jnp.take_along_axis(pools.table, place, axis=1)
        return _gather(pools, pools.heads, pools.lengths, physical, pages, chosen, dtype)

    def read_pages(
        self, query: Query, pools: Pools, pages: Int[Array, "R K"], chosen: Bool[Array, "R K"]
    ) -> Partial:
        """Softmax sums over logical pages of each row."""
        gathered = self.gather_pages(pools, pages, chosen, query.vectors.dtype)
        return attend_gathered(query, gathered)

    def read_range(
        self,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R P"],
        lower: Int[Array, " R"],
        upper: Int[Array, " R"],
        sums: Partial,
    ) -> Partial:
        """Add pages `lower` to `upper` of each row's list to the sums.

        The ranges of all rows are strung together and cut into chunks of equal size, so that rows
        of unequal length waste nothing.
        """
        ends = jnp.cumsum(upper - lower, dtype=jnp.int32)
        chunk = min(_CHUNK, pages.size)

        def read(state: tuple[Array, Partial]) -> tuple[Array, Partial]:
            place, sums = state
            places = place + jnp.arange(chunk, dtype=jnp.int32)
            rows = jnp.sum(places[:, None] >= ends[None, :], axis=1, dtype=jnp.int32)
            rows = jnp.minimum(rows, ends.shape[0] - 1)
            meant = places < ends[-1]
            index = jnp.where(meant, upper[rows] - (ends[rows] - places), 0)
            new = _read_listed(query, pools, rows, pages[rows, index], meant)
            return place + chunk, merge(sums, new)

        return jax.lax.while_loop(lambda s: s[0] < ends[-1], read, (jnp.int32(0), sums))[1]

    def read_everything(self, query: Query, pools: Pools) -> Partial:
        """Softmax sums over all keys of every row, a few pages at a time.

        On a CPU so few that keys and values of all rows stay next to the core between the fetch and
        the two products; and so that hardly more is read than there is.
        """
        size, rows, width = pools.keys.shape[2], *pools.table.shape
        needed = jnp.max(-(-pools.lengths // size))

        def read(chunk: int) -> Partial:
            def body(state: tuple[Array, Partial]) -> tuple[Array, Partial]:
                place, sums = state
                pages = place + jnp.arange(chunk, dtype=jnp.int32)
                pages = jnp.broadcast_to(pages[None, :], (rows, chunk))
                new = PlainBackend.read_pages(self, query, pools, pages, pages < width)
                return place + chunk, merge(sums, new)

            start = (jnp.int32(0), nothing_read(query))
            return jax.lax.while_loop(lambda s: s[0] < needed, body, start)[1]

        page_bytes = 2 * rows * size * pools.keys.shape[3] * pools.keys.dtype.itemsize
        few = max(8, 1 << max(1, _NEAR // page_bytes).bit_length() - 1)
        return jax.lax.platform_dependent(
            cpu=lambda: read(min(few, width)), default=lambda: read(min(_CHUNK, width))
        )

    def token_scores(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy
    ) -> TokenScores:
        """Score the sketch of every key: where it lies if one sequence fills most of the pool."""
        sequences, width = cache.page_table.shape
        in_place = sequences == 1 and cache.keys.shape[1] <= 2 * width
        held = parts(cache.summaries, policy)
        physical = jnp.clip(pools.table, 0, cache.keys.shape[1] - 1)
        if not in_place:
            heads = pools.heads[:, None]
            # The barrier makes XLA fetch whole pages, not one number after another.
            held = jax.lax.optimization_barrier(
                jax.tree.map(lambda part: pick(part, heads, physical), held)
            )
        logits, errors = sketched_tokens(query, held, cache.spec, proof=policy.proves)
        if in_place:
            place = physical[:, None, :, None]
            logits = jnp.take_along_axis(logits, place, axis=2)
            errors = None if errors is None else jnp.take_along_axis(errors, place, axis=2)
        values = lengths_of_values(
            cache.summaries, pools.heads[:, None], physical, query.vectors.dtype
        )
        return TokenScores(pools, pools.every_page()[0], logits, errors, values)

    def some_token_scores(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R P"]
    ) -> TokenScores:
        """Score the sketch of the tokens of some logical pages of each row; −1 for none."""
        held = parts(cache.summaries, policy)
        heads, physical = pools.heads[:, None], physical_pages(pools, pages)
        # The barrier makes XLA fetch whole pages, not one number after another.
        held = jax.lax.optimization_barrier(
            jax.tree.map(lambda part: pick(part, heads, physical), held)
        )
        logits, errors = sketched_tokens(query, held, cache.spec, proof=policy.proves)
        values = lengths_of_values(cache.summaries, heads, physical, query.vectors.dtype)
        return TokenScores(pools, pages, logits, errors, values)

    def read_tokens(
        self, query: Query, pools: Pools, listed: Listed, log_pi: Float[Array, "R C"]
    ) -> TokensRead:
        """Softmax sums over drawn tokens, and the error by their distances from the output."""
        gathered = gather_tokens(pools, listed, query.vectors.dtype)
        logits, log_pi = logits_of(query, gathered), log_pi[:, None, :]

        def variance(output: Float[Array, "R G D"], log_mass: Float[Array, "R G"]) -> Array:
            relative = logits - finite_or_zero(log_mass)[..., None]
            return estimated_variance(relative, log_pi, _distances(output, gathered))

        return TokensRead(sums_of(logits - log_pi, gathered), variance)

    def every_device(self, numbers: Shaped[Array, "*n"]) -> Shaped[Array, "1 *n"]:
        """There is one device."""
        return numbers[None]

    def merge_devices(self, own: Partial) -> Partial:
        """There is one device."""
        return own

    def all_agree(self, flags: Bool[Array, "*n"]) -> Bool[Array, "*n"]:
        """There is one device."""
        return flags


def _bounds(
    query: Query, summaries: Summaries, cache: PagedKV, policy: Policy, tokens: int
) -> PageBounds:
    summary = policy.summary or "box"
    proof = policy.proves
    return page_bounds(query, summaries, cache.spec, summary, tokens, proof=proof)


def _gather(
    pools: Pools,
    heads: Int[Array, " R"],
    lengths: Int[Array, " R"],
    physical: Int[Array, "R K"],
    pages: Int[Array, "R K"],
    chosen: Bool[Array, "R K"],
    dtype: jnp.dtype,
) -> Gathered:
    size, d = pools.keys.shape[2:]
    tokens = pages[..., None] * size + jnp.arange(size, dtype=pages.dtype)[None, None, :]
    counted = chosen[..., None] & (pages >= 0)[..., None] & (tokens < lengths[:, None, None])

    def fetch(pool: Array) -> Array:
        # As one flat run a page: XLA then copies pages, not vectors.
        flat = pool.reshape(*pool.shape[:2], -1)[heads[:, None], physical]
        return widened(flat.reshape(pages.shape[0], -1, d), dtype)

    counted = counted.reshape(pages.shape[0], -1)
    return Gathered(fetch(pools.keys), fetch(pools.values), counted)


def physical_places(pools: Pools, listed: Listed) -> Int[Array, "R C"]:
    """Where single tokens lie: page × page size + place in the page; never outside the pool."""
    return physical_pages(pools, listed.pages) * pools.keys.shape[2] + listed.slots


def gather_tokens(pools: Pools, listed: Listed, dtype: jnp.dtype) -> Gathered:
    """Keys and values of single tokens."""
    place = physical_places(pools, listed)

    def fetch(pool: Array) -> Array:
        flat = pool.reshape(pool.shape[0], -1, pool.shape[3])
        return widened(flat[pools.heads[:, None], place], dtype)

    return Gathered(fetch(pools.keys), fetch(pools.values), listed.exists)


def _distances(output: Float[Array, "R G D"], gathered: Gathered) -> Float[Array, "R G C"]:
    """How far the values lie from each head's output, without the cancellation of a square."""

    def of_head(one: Float[Array, "R D"]) -> Float[Array, "R C"]:
        return jnp.sqrt(jnp.sum((gathered.values - one[:, None, :]) ** 2, axis=-1))

    heads = [of_head(output[:, g]) for g in range(output.shape[1])]
    return jnp.where(gathered.counted[:, None, :], jnp.stack(heads, axis=1), 0.0)


def _read_listed(
    query: Query,
    pools: Pools,
    rows: Int[Array, " K"],
    pages: Int[Array, " K"],
    chosen: Bool[Array, " K"],
) -> Partial:
    """Softmax sums over a list of logical pages of any rows, added up by row."""
    each = Query(query.vectors[rows], query.norms[rows], query.scale, query.cap)
    physical = pools.table[rows, jnp.clip(pages, 0, pools.table.shape[1] - 1)]
    one = (physical[:, None], pages[:, None], chosen[:, None], query.vectors.dtype)
    each_page = attend_gathered(each, _gather(pools, pools.heads[rows], pools.lengths[rows], *one))
    own = rows[None, :] == jnp.arange(query.norms.shape[0], dtype=jnp.int32)[:, None]
    top = jnp.max(jnp.where(own[..., None], each_page.top[None], -jnp.inf), axis=1)
    mass, output = each_page.relative_to(top[rows])
    ours = own.astype(mass.dtype)
    exact = jax.lax.Precision.HIGHEST
    return Partial(
        top,
        jnp.einsum("rk,kg->rg", ours, mass, precision=exact),
        jnp.einsum("rk,kgd->rgd", ours, output, precision=exact),
        jnp.max(jnp.where(own, each_page.reach[None], 0.0), axis=1),
        jnp.sum(jnp.where(own, each_page.tokens[None], 0), axis=1, dtype=jnp.int32),
    )
