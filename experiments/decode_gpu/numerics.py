"""Everything that is timed, held against float64 on the same chip first, at small shapes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.decode_gpu import data, dense, ours
from experiments.decode_gpu import torch_dense as torch_
from experiments.decode_gpu.data import PAGE, Geometry
from experiments.decode_gpu.timing import CannotRunError, reason_of
from vashista_theory.attention import PagedKV, Policy
from vashista_theory.attention.kernels import api, reference, spec

# Relative error of an output: weights and output rounded to the type, a few units.
_ALLOWED = {"bfloat16": 0.02, "float32": 1e-4}
_TOLERANCE = 0.05  # dropped mass
_NATS = 0.02  # of a score or a log-mass, whose products are exact and whose sums are float32


def check(
    shapes: Sequence[Geometry], *, implementations: Sequence[str | None]
) -> list[dict[str, Any]]:
    """One row a comparison: what, the error, what is allowed, and the verdict."""
    return [row for shape in shapes for row in _check(shape, implementations)]


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong; something that cannot run is not."""
    return [f"{row['what']} ({row['shape']})" for row in rows if row["verdict"] == "WRONG"]


def _check(shape: Geometry, implementations: Sequence[str | None]) -> list[dict[str, Any]]:
    held = data.source(shape.head_size, data.queries_needed(shape, 2), 1)
    keys, values = data.real_pools(shape, held, 2.0, 1)
    query = data.real_queries(shape, held, 2)[1]
    exact, mass = _exact(shape, query, keys, values)
    rows: list[dict[str, Any]] = []

    def compare(what: str, found: Callable[[], Any], wanted: Any, allowed: float) -> None:
        try:
            error = _relative(found(), wanted)
            verdict = "right" if error <= allowed else "WRONG"
        except Exception as failure:  # noqa: BLE001 - a library's refusals have no common class
            error, verdict = None, f"cannot run: {reason_of(failure)}"
            if isinstance(failure, CannotRunError):
                verdict = f"cannot run: {failure}"
        rows.append(
            {
                "what": what,
                "shape": shape.key,
                "error": error,
                "allowed": allowed,
                "verdict": verdict,
            }
        )

    allowed = _ALLOWED[shape.dtype]
    for name, call in _dense_calls(shape, query, keys, values).items():
        compare(name, call, exact, allowed)
    published = dense.published(shape, keys, values, pages=shape.pages)
    # Over every page only its sharpness, 1.2 in place of D^(-1/2), tells it from dense attention.
    sharper, _ = _exact(shape, query, keys, values, scale=1.2)
    compare(
        "published", lambda: jax.jit(published.call)(query, published.operands)[0], sharper, allowed
    )
    cache = data.cache_of(shape, keys, values)
    _check_front(shape, cache, query, exact, mass, compare)
    for implementation in implementations:
        _check_stages(shape, cache, query, (exact, mass), compare, implementation)
    return rows


def _dense_calls(
    shape: Geometry, query: jax.Array, keys: jax.Array, values: jax.Array
) -> dict[str, Callable[[], Any]]:
    size = (shape.kv_heads, shape.batch, shape.tokens, shape.head_size)
    first = [jnp.transpose(a.reshape(size), (1, 2, 0, 3)) for a in (keys, values)]

    def by(make: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            step = make()
            return jax.jit(step.call)(query, step.operands)[0]

        return call

    calls: dict[str, Callable[[], Any]] = {
        "head-major einsum": by(lambda: dense.head_major(shape, keys, values)),
        "JAX's paged kernel": by(lambda: dense.shipped_paged(shape, keys, values)),
        "torch flash": lambda: torch_.once(torch_.sdpa_call(shape, *first), query),
        "FlashInfer": lambda: torch_.once(torch_.flashinfer_call(shape, *first), query),
    }
    for way in ("xla", "cudnn"):
        for grouped in (False, True):
            name = f"dot_product_attention {way}{', group as queries' if grouped else ''}"
            calls[name] = by(
                lambda way=way, grouped=grouped: dense.library(
                    shape, *first, implementation=way, group_as_queries=grouped
                )
            )
    return calls


def _check_front(
    shape: Geometry,
    cache: PagedKV,
    query: jax.Array,
    exact: np.ndarray,
    mass: np.ndarray,
    compare: Callable[..., None],
) -> None:
    attend = jax.jit(ours.vashista_attention, static_argnums=2)

    def front(policy: Policy) -> Any:
        return attend(query, cache, policy)

    compare("front, dense", lambda: front(Policy.dense())[0], exact, _ALLOWED[shape.dtype])
    certified = Policy.certified(_TOLERANCE, dense_below=0)

    def dropped() -> float:
        info = front(certified)[1]
        if not bool(jnp.all(info.certified)):
            return float("inf")
        return float(np.max(1.0 - np.exp(np.asarray(info.log_mass, np.float64) - mass)))

    # An absolute number, so held against 1 in place of a norm.
    compare("front, certified: dropped mass", lambda: 1.0 + dropped(), 1.0, _TOLERANCE)


def _check_stages(
    shape: Geometry,
    cache: PagedKV,
    query: jax.Array,
    exact: tuple[np.ndarray, np.ndarray],
    compare: Callable[..., None],
    implementation: str | None,
) -> None:
    held = ours.fold(cache)
    label = f"by {implementation or 'the default'}"
    lengths = jnp.full(shape.batch, shape.tokens, jnp.int32)
    kinds: tuple[tuple[spec.Kind, int | None], ...] = (("box", None), ("sketch", 4))
    for kind, bits in kinds:
        given = {"kind": kind, "page_size": PAGE, "bits": bits}
        arguments = (query, held.whole, held.table, lengths)
        call = spec.score_call(*arguments, **given, packed=True, scale=None)
        wanted = reference.score(call)

        def found(arguments: Any = arguments, given: Any = given) -> Any:
            return api.score_pages(*arguments, **given, implementation=implementation)

        name = f"score {kind} {label}"
        compare(f"{name}: estimate", lambda f=found: f().estimate, wanted.second, _NATS)
        compare(
            f"{name}: never below the reference, hardly above",
            lambda f=found, w=wanted: _sound(np.asarray(f().upper, np.float64), w.first),
            1.0,
            _NATS,
        )
    priority = jax.random.normal(jax.random.key(2), (shape.batch, shape.kv_heads, shape.pages))
    priority = priority.astype(jnp.float32)
    chosen = reference.select(spec.select_call(priority, 16))
    compare(
        f"select {label}",
        lambda: api.select_pages(priority, 16, implementation=implementation).pages,
        chosen.first,
        0.0,
    )
    start = (jnp.arange(shape.batch, dtype=jnp.int32) * shape.pages)[:, None, None]
    pages = jnp.asarray(chosen.first) + start
    tokens = jnp.full(pages.shape[:2], 16 * PAGE - 3, jnp.int32)
    read = (query, held.keys, held.values, pages, tokens)
    attended = reference.attend(spec.attend_call(*read, None))
    compare(
        f"attend {label}",
        lambda: api.attend_pages(*read, implementation=implementation).output,
        attended.first,
        _ALLOWED[shape.dtype],
    )
    every = ours.budget(
        shape, held, pages=shape.pages, superpages=shape.pages, implementation=implementation
    )
    compare(
        f"budget stages {label}, all pages",
        lambda: jax.jit(every.call)(query, held)[0],
        exact[0],
        _ALLOWED[shape.dtype],
    )
    _check_certified(shape, held, query, exact[1], compare, implementation)


def _check_certified(
    shape: Geometry,
    held: ours.Folded,
    query: jax.Array,
    mass: np.ndarray,
    compare: Callable[..., None],
    implementation: str | None,
) -> None:
    """That the proof holds, by the pages it chose; and that the step reads just those."""
    label = f"certified stages by {implementation or 'the default'}"

    @jax.jit
    def wanted(query: jax.Array, held: ours.Folded) -> jax.Array:
        return ours.wanted_pages(shape, query, held, _TOLERANCE, implementation)[0]

    def chosen() -> tuple[reference.Reference, bool]:
        priority = wanted(query, held)
        best = reference.select(spec.select_call(priority, shape.pages))
        start = (np.arange(shape.batch, dtype=np.int32) * shape.pages)[:, None, None]
        pages = jnp.asarray(best.first + start, jnp.int32)
        tokens = jnp.asarray(best.second * PAGE, jnp.int32)
        call = spec.attend_call(query, held.keys, held.values, pages, tokens, None)
        return reference.attend(call), bool((best.second < shape.pages).any())

    read, sparse = chosen()
    worst = float(np.max(1.0 - np.exp(read.second - mass)))
    compare(f"{label}: dropped mass", lambda: 1.0 + worst, 1.0, _TOLERANCE)
    step = ours.certified(
        shape, held, listed=shape.pages, tolerance=_TOLERANCE, implementation=implementation
    )

    def output() -> Any:
        found, extras = jax.jit(step.call)(query, held)
        # Where a proof fails the step reads everything, which is right but not what is checked.
        return found if float(extras["certified"]) == 1.0 and sparse else np.full(found.shape, 1e9)

    compare(f"{label}: output", output, read.first, _ALLOWED[shape.dtype])


def _sound(found: np.ndarray, least: np.ndarray) -> float:
    """1 plus how far bounds lie above the reference; infinity where one lies below."""
    above = (found - least)[np.isfinite(least)]
    return 1.0 + float(above.max()) if above.min() >= -1e-6 else float("inf")


def _exact(
    shape: Geometry, query: jax.Array, keys: jax.Array, values: jax.Array, *, scale: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Dense attention and its log-mass in float64, on the host."""
    size = (shape.kv_heads, shape.batch, shape.tokens, shape.head_size)
    k, v = (np.asarray(a).astype(np.float64).reshape(size) for a in (keys, values))
    rows = np.asarray(query).astype(np.float64)
    rows = rows.reshape(shape.batch, shape.kv_heads, shape.group, shape.head_size)
    logits = np.einsum("bhgd,hbtd->bhgt", rows, k) * (scale or shape.head_size**-0.5)
    top = logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits - top)
    total = weights.sum(axis=-1, keepdims=True)
    output = np.einsum("bhgt,hbtd->bhgd", weights / total, v)
    flat = (shape.batch, shape.heads)
    return output.reshape(*flat, -1), (top + np.log(total)).reshape(flat)


def _relative(found: Any, wanted: Any) -> float:
    found = np.asarray(found).astype(np.float64)
    wanted = np.asarray(wanted).astype(np.float64)
    error = np.linalg.norm(found - wanted) / max(1e-30, float(np.linalg.norm(wanted)))
    return float(error) if np.isfinite(error) else float("inf")
