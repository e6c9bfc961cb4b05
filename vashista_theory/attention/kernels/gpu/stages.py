"""Hopper GPUs, by Mosaic GPU: which calls, with which tiles, and the merge of shares.

The device bodies are `attend_kernel`, `score_kernel`, `select_kernel` and `attend_tokens_kernel`.
The pages of a row are cut into shares so that even a single sequence keeps every multiprocessor
busy. What was attended to is merged here, by the log of the masses.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vashista_theory._numerics import softmax_shares
from vashista_theory.attention.bounds.bits import from_bits
from vashista_theory.attention.bounds.rounding import norm_from_above, round_to
from vashista_theory.attention.bounds.sampling import Spread
from vashista_theory.attention.kernels.gpu import attend_kernel as sm90
from vashista_theory.attention.kernels.gpu import attend_tokens_kernel as sm90_tokens
from vashista_theory.attention.kernels.gpu import score_kernel as sm90_score
from vashista_theory.attention.kernels.gpu import score_tile as judge
from vashista_theory.attention.kernels.gpu import select_kernel as sm90_select
from vashista_theory.attention.kernels.gpu.tiles import (
    GpuAttendConfig,
    GpuScoreConfig,
    GpuTokensConfig,
    gpu_attend_config,
    gpu_query_parts,
    gpu_score_config,
    gpu_tokens_config,
)
from vashista_theory.attention.kernels.spec import (
    AttendCall,
    Attended,
    AttendShape,
    Implementation,
    PageScores,
    ScoreCall,
    ScoreShape,
    SelectCall,
    Selected,
    SelectShape,
    StageKernel,
)
from vashista_theory.attention.kernels.token_spec import (
    AttendedTokens,
    AttendTokensCall,
    AttendTokensShape,
    doubt,
)

HEAD_SIZES = (64, 128, 256)
PAGE_SIZES = (16, 32, 64)
DTYPES = ("bfloat16", "float16")
MOST_JUDGES = 64
MOST_ENTRIES = sm90.ROWS * max(sm90_select.WIDTHS)
"""Entries that one block of threads selects from."""


def why_not_attend(shape: AttendShape) -> str | None:
    """Why the kernel cannot attend to such a call, or None if it can."""
    return _why_not_device() or _why_not_type(shape) or _why_not_size(shape)


def _why_not_device() -> str | None:
    if (found := _compute_capability()) is not None and not found.startswith("9."):
        return f"the GPU has compute capability {found}, and its instructions are those of 9.x"
    return None


def _why_not_type(shape: AttendShape) -> str | None:
    if shape.pool_dtype not in DTYPES:
        return f"keys are {shape.pool_dtype}, and its products take {' or '.join(DTYPES)}"
    known = {shape.pool_dtype, "float32" if shape.pool_dtype == "bfloat16" else shape.pool_dtype}
    if shape.query_dtype not in known:
        return (
            f"the query is {shape.query_dtype} and keys are {shape.pool_dtype}; it takes one type, "
            "or a float32 query of bfloat16 keys, cut into parts of their type (those of float16 "
            "would overflow)"
        )
    return None


def _why_not_size(shape: AttendShape) -> str | None:
    if shape.head_size not in HEAD_SIZES:
        return f"the head size is {shape.head_size}; it has {HEAD_SIZES}"
    if shape.page_size not in PAGE_SIZES:
        return f"pages have {shape.page_size} tokens; it has {PAGE_SIZES}"
    if shape.group > sm90.ROWS:
        return f"{shape.group} query heads share a kv head; it has room for {sm90.ROWS}"
    return None


def why_not_score(shape: ScoreShape) -> str | None:
    """Why the kernel cannot judge pages in such a call, or None if it can."""
    if shape.head_size not in HEAD_SIZES:
        return f"the head size is {shape.head_size}; it has {HEAD_SIZES}"
    if shape.stored != "bfloat16":
        return f"summaries are stored in {shape.stored}; it unpacks bfloat16"
    if shape.group > MOST_JUDGES:
        return f"{shape.group} query heads share a kv head; it has room for {MOST_JUDGES}"
    return _why_not_tiles(shape) or _why_not_device()


def _why_not_tiles(shape: ScoreShape) -> str | None:
    if shape.kind == "sketch" and shape.page_size not in PAGE_SIZES:
        return f"a sketch of {shape.page_size} tokens; it has {PAGE_SIZES}"
    if shape.kind == "sketch" and shape.packed and shape.bits == 6:
        return "a packed sketch of 6 bits, whose codes lie across bytes"
    if gpu_score_config(shape) is None:
        return (
            f"two tiles for {shape.group} query heads of size {shape.head_size} do not fit in "
            "shared memory"
        )
    return None


def why_not_select(shape: SelectShape) -> str | None:
    """Why the kernel cannot select in such a call, or None if it can."""
    if shape.pages > MOST_ENTRIES and 2 * shape.count > MOST_ENTRIES:
        return (
            f"{shape.count} of {shape.pages} entries; of more than {MOST_ENTRIES} it selects at "
            f"most {MOST_ENTRIES // 2}"
        )
    return _why_not_device()


def why_not_attend_tokens(shape: AttendTokensShape) -> str | None:
    """Why the kernel cannot attend to single tokens in such a call, or None if it can."""
    if shape.head_size not in HEAD_SIZES:
        return f"the head size is {shape.head_size}; it has {HEAD_SIZES}"
    return _why_not_device()


def _compute_capability() -> str | None:
    """That of the GPU at hand; None where there is none, as when compiling for another machine."""
    if jax.default_backend() != "gpu":
        return None
    return getattr(jax.local_devices()[0], "compute_capability", None)


def attend(call: AttendCall, config: GpuAttendConfig | None) -> Attended:
    """Attend to the listed pages.

    Raises:
        ValueError: if the tiles do not fit the call.
    """
    shape = call.shape
    tiles = gpu_attend_config(shape) if config is None else config
    tiles.check(shape)
    geometry = sm90.Geometry(
        batch=shape.batch,
        kv_heads=shape.kv_heads,
        rows=-(-shape.group // sm90.ROW_STEP) * sm90.ROW_STEP,
        d=shape.head_size,
        page_size=shape.page_size,
        listed=shape.listed,
        block_tokens=tiles.block_tokens,
        stages=tiles.stages,
        splits=tiles.splits,
        query_parts=gpu_query_parts(shape),
    )
    grouped = call.query.reshape(shape.batch, shape.kv_heads, shape.group, shape.head_size)
    spare = geometry.rows - shape.group
    query = jnp.pad(grouped, ((0, 0), (0, 0), (0, spare), (0, 0)))
    query = jnp.stack(_query_parts(query, geometry.query_parts, call.keys.dtype), axis=2)
    output, log_mass, top = sm90.attend_splits(
        query,
        call.keys,
        call.values,
        call.pages,
        call.tokens,
        call.scale.reshape(1),
        geometry=geometry,
    )
    used = slice(shape.group)
    merged = merge_shares(output[..., used, :], log_mass[..., used], top[..., used])
    flat = (shape.batch, shape.heads)
    return jax.tree.map(lambda a: a.reshape(*flat, *a.shape[3:]), merged)


def _query_parts(
    query: Float[Array, "*n"], count: int, dtype: jnp.dtype
) -> list[Float[Array, "*n"]]:
    """Numbers of that type that add up to the query, the greatest first."""
    parts: list[Float[Array, "*n"]] = []
    for _ in range(count):
        part = round_to(query, dtype)
        parts.append(part.astype(dtype))
        query = query - part
    return parts


def merge_shares(
    output: Float[Array, "n *b D"], log_mass: Float[Array, "n *b"], top: Float[Array, "n *b"]
) -> Attended:
    """Softmax over all shares from the softmax over each."""
    heaviest = jnp.max(log_mass, axis=0)
    weights = softmax_shares(log_mass, heaviest[None])
    mass = jnp.sum(weights, axis=0)
    none = mass == 0  # and not "not above 0", which would hide a NaN
    divisor = jnp.where(none, 1.0, mass)
    return Attended(
        jnp.sum(output * (weights / divisor[None])[..., None], axis=0),
        jnp.where(none, -jnp.inf, heaviest + jnp.log(divisor)),
        jnp.max(top, axis=0),
    )


def attend_tokens(call: AttendTokensCall, config: GpuTokensConfig | None) -> AttendedTokens:
    """Attend to the listed tokens.

    Raises:
        ValueError: if the tiles do not fit the call.
    """
    shape = call.shape
    tiles = gpu_tokens_config(shape) if config is None else config
    tiles.check(shape)
    blocks = -(-shape.listed // sm90_tokens.TOKENS)
    parts = -(-shape.group // sm90_tokens.HEADS)
    geometry = sm90_tokens.TokensGeometry(
        batch=shape.batch,
        kv_heads=shape.kv_heads,
        parts=parts,
        d=shape.head_size,
        listed=blocks * sm90_tokens.TOKENS,
        stages=tiles.stages,
        splits=tiles.splits,
    )
    rows = (shape.batch, shape.kv_heads)
    query = call.query.astype(jnp.float32).reshape(*rows, shape.group, shape.head_size)
    spare = parts * sm90_tokens.HEADS - shape.group
    query = jnp.pad(query, ((0, 0), (0, 0), (0, spare), (0, 0)))
    room = ((0, 0), (0, 0), (0, geometry.listed - shape.listed))
    counted = jnp.arange(geometry.listed, dtype=jnp.int32)[None, None, :] < call.tokens[..., None]
    log_weights = jnp.where(counted, jnp.pad(call.log_weights, room), 0.0)
    weights = jnp.stack([log_weights, doubt(log_weights)], axis=2)
    weights = jnp.swapaxes(weights.reshape(*rows, 2, blocks, -1), 2, 3)
    of_pool = (shape.kv_heads, -1, shape.head_size)
    vectors, sums = sm90_tokens.attend_tokens_splits(
        query.reshape(*rows, parts, sm90_tokens.HEADS, shape.head_size),
        call.keys.reshape(of_pool),
        call.values.reshape(of_pool),
        jnp.pad(call.places, room),
        call.tokens,
        weights,
        call.scale.reshape(1),
        geometry=geometry,
    )

    def by_head(found: Array, i: int) -> Array:
        of_group = found[:, :, :, :, i].reshape(tiles.splits, *rows, -1, *found.shape[6:])
        flat = (tiles.splits, shape.batch, shape.heads)
        return of_group[:, :, :, : shape.group].reshape(*flat, *found.shape[6:])

    output, mean, scatter = (by_head(vectors, i) for i in range(3))
    top, mass, total = (by_head(sums, i) for i in range(3))
    none, top = mass == 0, top * jnp.float32(math.log(2.0))
    divisor = jnp.where(none, 1.0, mass)
    log_mass = jnp.where(none, -jnp.inf, top + jnp.log(divisor))
    merged = merge_shares(output / divisor[..., None], log_mass, top)
    # Masses of the spread are in units of e^(2 top), each share's own.
    unit = softmax_shares(top, merged.top[None]) ** 2
    spread = Spread(total * unit, mean, jnp.sum(scatter, axis=-1) * unit).joined()
    return AttendedTokens(merged.output, merged.log_mass, merged.top, spread)


def score(
    call: ScoreCall, config: GpuScoreConfig | None, *, interpreted: bool = False
) -> PageScores:
    """Judge the full pages of each sequence.

    Args:
        call: Checked.
        config: Tiles, None to choose them.
        interpreted: Whether Mosaic GPU's interpreter runs it.

    Raises:
        ValueError: if the tiles do not fit the call.
    """
    shape = call.shape
    found, _ = _score_tiles(call, config, interpreted=interpreted)
    rows = (shape.batch, shape.heads, -1)
    return PageScores(*(scores.reshape(rows)[..., : shape.pages] for scores in found))


def score_tokens(
    call: ScoreCall, config: GpuScoreConfig | None, *, interpreted: bool = False
) -> Float[Array, "B H P S"]:
    """Score every token of the full pages of each sequence.

    Raises:
        ValueError: if the tiles do not fit the call.
    """
    shape = call.shape
    (found,), g = _score_tiles(call, config, interpreted=interpreted)
    logits = found.reshape(shape.batch, shape.kv_heads, g.tiles, shape.group, 4, g.tile, -1)
    # Heads of a group first, then pages, then words, then the tokens of a word.
    logits = jnp.transpose(logits, (0, 1, 3, 2, 5, 6, 4))
    logits = logits.reshape(shape.batch, shape.heads, -1, shape.page_size)
    return logits[:, :, : shape.pages]


def _score_tiles(
    call: ScoreCall, config: GpuScoreConfig | None, *, interpreted: bool
) -> tuple[tuple[Array, ...], judge.ScoreGeometry]:
    shape = call.shape
    tiles = gpu_score_config(shape) if config is None else config
    assert tiles is not None, "why_not_score refuses it"
    tiles.check(shape)
    geometry = _score_geometry(shape, tiles, interpreted=interpreted)
    query = call.query.astype(jnp.float32)
    query = query.reshape(shape.batch, shape.kv_heads, shape.group, shape.head_size)
    spare = -shape.group % judge.heads_at_once(shape.group)
    query = jnp.pad(query, ((0, 0), (0, 0), (0, spare), (0, 0)))
    found = sm90_score.score_tiles(
        query,
        norm_from_above(query),
        _parts(call, geometry),
        call.page_table,
        call.lengths,
        call.scale.reshape(1),
        geometry=geometry,
    )
    return found, geometry


def _parts(call: ScoreCall, g: judge.ScoreGeometry) -> tuple[Array, ...]:
    """The summaries as the kernel reads them; pools keep their bytes as they lie."""
    parts, shape = call.parts, call.shape
    if g.kind == "box":
        return (parts.part("box"),)
    # What is too small a piece for the copy engine is gathered here: a few hundredths of the rest.
    place = jnp.arange(shape.pages, dtype=jnp.int32)[None, :]
    full = place < call.lengths[:, None] // shape.page_size
    physical = jnp.where(full, call.page_table, 0)
    spare = g.tiles * g.tile - shape.pages
    physical = jnp.pad(physical, ((0, 0), (0, spare))).reshape(shape.batch, g.tiles, g.tile)

    def own(part: Array) -> Array:
        return jnp.swapaxes(from_bits(part[:, physical], jnp.float32), 0, 1)

    if g.kind == "ball":
        return parts.part("mean"), own(parts.part("radius"))
    codes = parts.part("codes")
    words = codes.reshape(*codes.shape[:2], g.words, 4)
    words = jax.lax.bitcast_convert_type(words, jnp.uint32)
    words = words.reshape(*codes.shape[:2], -1, sm90_score.ROW)
    if g.by_token:
        return parts.part("box"), words
    residual = own(parts.part("residual"))
    residual = residual.reshape(*residual.shape[:-1], -1, 4)
    return parts.part("box"), words, jnp.moveaxis(residual, -1, 3)


def _score_geometry(
    shape: ScoreShape, tiles: GpuScoreConfig, *, interpreted: bool
) -> judge.ScoreGeometry:
    return judge.ScoreGeometry(
        kind=shape.kind,
        bits=shape.bits or 0,
        planes=8 // (shape.bits or 8) if shape.packed else 1,
        batch=shape.batch,
        kv_heads=shape.kv_heads,
        group=shape.group,
        d=shape.head_size,
        page_size=shape.page_size,
        pages=shape.pages,
        tile=tiles.tile(shape),
        lanes=tiles.lanes,
        stages=tiles.stages,
        splits=tiles.splits,
        by_token=shape.by_token,
        interpreted=interpreted,
    )


def select(call: SelectCall, config: None = None) -> Selected:
    """The best entries of each row.

    Rows too long for one block of threads are cut into segments. The best of a row are among the
    best of its segments, in the same order: select again from those.
    """
    del config
    shape = call.shape
    rows = call.priority.reshape(-1, shape.pages)
    pages, number = _select_rows(rows, shape.count)
    leading = (shape.batch, shape.kv_heads)
    return Selected(pages.reshape(*leading, shape.count), number.reshape(leading))


def _select_rows(
    entries: Float[Array, "R P"], count: int
) -> tuple[Int[Array, "R K"], Int[Array, " R"]]:
    rows, length = entries.shape
    segments = -(-length // MOST_ENTRIES)
    of_segment = -(-length // segments)
    width = min(w for w in sm90_select.WIDTHS if sm90.ROWS * w >= of_segment)
    whole = sm90.ROWS * width
    kept = min(count, whole)
    spare = segments * whole - length
    padded = jnp.pad(entries, ((0, 0), (0, spare)), constant_values=-jnp.inf)
    geometry = sm90_select.SelectGeometry(rows, segments, width, kept)
    found, number = sm90_select.select_segments(
        padded.reshape(rows, segments, sm90.ROWS, width), geometry=geometry
    )
    found = found[..., :kept]
    if segments == 1:
        return found[:, 0], number[:, 0]
    first = jnp.arange(segments, dtype=jnp.int32) * jnp.int32(whole)
    candidates = (found + first[None, :, None]).reshape(rows, -1)
    exists = jnp.arange(kept, dtype=jnp.int32)[None, None, :] < number[..., None]
    values = jnp.take_along_axis(padded, candidates, axis=1)
    values = jnp.where(exists.reshape(rows, -1), values, -jnp.inf)
    best, number = _select_rows(values, count)
    exists = jnp.arange(count, dtype=jnp.int32)[None, :] < number[:, None]
    return jnp.where(exists, jnp.take_along_axis(candidates, best, axis=1), 0), number


IMPLEMENTATION = Implementation(
    name="mosaic_gpu",
    platforms=("cuda",),
    stages={
        "attend": StageKernel(attend, why_not_attend, GpuAttendConfig),
        "score": StageKernel(score, why_not_score, GpuScoreConfig),
        "select": StageKernel(select, why_not_select),
        "attend_tokens": StageKernel(attend_tokens, why_not_attend_tokens, GpuTokensConfig),
        "score_tokens": StageKernel(score_tokens, why_not_score, GpuScoreConfig),
    },
)
