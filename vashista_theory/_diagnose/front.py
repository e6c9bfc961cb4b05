"""What users call: one query and its keys, or whole heads."""

import dataclasses
import math
from collections.abc import Callable
from typing import overload

import jax

from vashista_theory._checks import (
    as_array,
    as_float64,
    as_numbers,
    check_finite,
    is_integer,
    is_traced,
)
from vashista_theory._diagnose.answer import Answer, is_sparse, sentences
from vashista_theory._diagnose.given import Given, from_arrays, from_heads
from vashista_theory._diagnose.heads import PAGE, one_query, policy_of, read_layer, regimes
from vashista_theory._diagnose.measure import measure
from vashista_theory._diagnose.page import Diagnosis
from vashista_theory._diagnose.record import Asked, HeadReading
from vashista_theory._types import ArrayLike
from vashista_theory.hull.heads import Heads
from vashista_theory.hull.problem import as_problem


def _silent(doing: str, done: int, total: int) -> None: ...


@overload
def diagnose(
    keys: ArrayLike,
    query: ArrayLike,
    values: None = None,
    *,
    scale: float | None = None,
    tokens: int | None = None,
    tolerance: float | None = None,
    causal: bool | None = None,
    progress: Callable[[str, int, int], object] = _silent,
) -> Diagnosis: ...
@overload
def diagnose(
    keys: ArrayLike,
    query: ArrayLike,
    values: ArrayLike,
    *,
    scale: float | None = None,
    tokens: int | None = None,
    tolerance: float | None = None,
    causal: bool | None = None,
    progress: Callable[[str, int, int], object] = _silent,
) -> Answer: ...
@overload
def diagnose(
    keys: Heads,
    *,
    tokens: int | None = None,
    tolerance: float | None = None,
    progress: Callable[[str, int, int], object] = _silent,
) -> Answer: ...
def diagnose(
    keys: ArrayLike | Heads,
    query: ArrayLike | None = None,
    values: ArrayLike | None = None,
    *,
    scale: float | None = None,
    tokens: int | None = None,
    tolerance: float | None = None,
    causal: bool | None = None,
    progress: Callable[[str, int, int], object] = _silent,
) -> Diagnosis:
    """Whether heads can be read sparsely, and everything known about one query; `print` it.

    Of one query (d,) and its keys (n, d) alone it is a page: projection, face, gap, the bounds of
    the theorem and ordinary attention beside them. Given more queries, heads, values, `tokens` or
    `tolerance` it is an `Answer`: first whether a read of so few tokens is expected to do, which
    heads need more, how many pages a proof takes and how far the theorem's regime is; then a table
    by head; then the page of the query that is hardest to read.

    Computed in float64 whatever the input's type, with x64 switched on for this call alone.

    Args:
        keys: (n, d) array-like of real numbers; (Hkv, n, d) for the heads of a layer, or
            (L, Hkv, n, d) for layers. Or a `vt.heads.load_heads(...)`, alone.
        query: For keys (n, d) one query (d,) or several of that head, (Q, d). For keys (Hkv, n, d)
            one query of each head, (H, d), or several, (H, Q, d), H a multiple of Hkv; for layers
            (L, H, Q, d).
        values: like the keys. Without them random ones of equal length stand in where an error
            needs some, and errors are in units of that length.
        scale: the model's factor s on the scores, so that its own temperature is ε = 1/s;
            1/√d if left out, as in ordinary attention.
        tokens: that a sampled read takes for each key head; 256 if left out.
        tolerance: relative error, and dropped softmax mass, in (0, 1); 0.05 if left out.
        causal: whether the queries are those of the last tokens, each seeing the keys up to its
            own; if left out, yes where there are as many queries as keys.
        progress: told what is being done, how much of it is and how much there is.

    Returns:
        A `Diagnosis`, or an `Answer`, which is one too. A query inside the hull or a degenerate
        face is diagnosed, not refused.

    Raises:
        ValueError: shapes (with a guess at what was meant), types, NaN or infinite entries, a
            scale, number of tokens or tolerance out of range, or tracers.
    """
    if isinstance(keys, Heads):
        if query is not None or values is not None or scale is not None or causal is not None:
            raise ValueError(
                "recorded heads bring their own queries, values, scale and positions: pass them "
                "alone, `diagnose(heads)`."
            )
        return _heads(from_heads(keys), tokens, tolerance, progress)
    if query is None:
        raise ValueError(
            "`query` is None, so a query is missing: `diagnose(keys, query)`, or `diagnose(heads)` "
            "with recorded heads from `vt.heads.load_heads(path)`."
        )
    if is_traced(keys, query, values, scale):
        raise ValueError(
            "`diagnose` writes a page about concrete numbers and cannot run under jax.jit, vmap "
            "or grad. Call it outside, or use `project` and `face_stability`, which are traceable."
        )
    shapes = [as_array(a, n).shape for a, n in ((keys, "keys"), (query, "query"))]
    _refuse_swapped(*shapes)
    more = any(a is not None for a in (values, tokens, tolerance, causal))
    if more or len(shapes[0]) > 2 or (len(shapes[0]) == 2 and len(shapes[1]) > 1):
        factor = _checked_scale(scale, dimensions=max(shapes[0][-1:], default=1))
        given = from_arrays(keys, query, values, scale=factor, causal=causal)
        return _heads(given, tokens, tolerance, progress)
    # Of the constants of a jitted function this is a constant too.
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        keys_, query_ = as_problem(as_float64(keys, "keys"), as_float64(query, "query"))
        check_finite(keys_, "keys")
        check_finite(query_, "query")
        factor = _checked_scale(scale, dimensions=query_.shape[0])
        return measure(keys_, query_, factor, _names_of_types(keys, query))


def _heads(
    given: Given,
    tokens: int | None,
    tolerance: float | None,
    progress: Callable[[str, int, int], object],
) -> Answer:
    budget, allowed = _checked_budget(tokens), _checked_tolerance(tolerance)
    layers = len(given.layers)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        read: list[HeadReading] = []
        progress("Reading heads sparsely", 0, layers)
        for index in range(layers):
            read += read_layer(given, index, tokens=budget, tolerance=allowed)
            progress("Reading heads sparsely", index + 1, layers)
        progress("Projecting on hulls", 0, 1)
        known = regimes(given, progress=lambda i, n: progress("Projecting on hulls", i, n))
        per_layer = given.queries.shape[1]
        heads = tuple(
            dataclasses.replace(head, regime=regime, colder=colder)
            for number, head in enumerate(read)
            for regime, colder in [known.get(divmod(number, per_layer), ("", math.nan))]
        )
        worst = max(range(len(heads)), key=lambda i: heads[i].worst_estimate)
        layer, head = divmod(worst, per_layer)
        progress("Looking at one query closely", 0, 1)
        keys, query = one_query(given, layer, head, -1)
        page = measure(*as_problem(keys, query), given.scale, given.dtype)
    asked = Asked(
        context=int(given.positions[-1]) + 1,
        queries=len(given.positions),
        tokens=budget,
        tolerance=allowed,
        with_values=given.values is not None,
    )
    return Answer(
        **{field.name: getattr(page, field.name) for field in dataclasses.fields(Diagnosis)},
        sparse=is_sparse(heads, asked),
        sentences=sentences(heads, asked),
        heads=heads,
        asked=asked,
        shown=(given.layers[layer], head, int(given.positions[-1])),
        notes=given.notes,
    )


def _refuse_swapped(keys: tuple[int, ...], query: tuple[int, ...]) -> None:
    if len(keys) == 1 and len(query) > 1:
        raise ValueError(
            f"keys have shape {keys} and queries {query}: the two look swapped. Keys come first, "
            "(n, d), then the query, (d,)."
        )


def _checked_budget(tokens: int | None) -> int:
    if tokens is None:
        return 256
    if not is_integer(tokens, least=1, most=2**31 - 1):
        raise ValueError(f"`tokens` is {tokens!r}; a positive integer is expected, such as 256.")
    least = policy_of(2**20).always * PAGE + 1
    if tokens < least:
        raise ValueError(
            f"`tokens` is {tokens}, but the first and the last page of {PAGE} are always read, and "
            f"some must be drawn: use {least} or more."
        )
    return int(tokens)


def _checked_tolerance(tolerance: float | None) -> float:
    if tolerance is None:
        return 0.05
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not number or not 0 < tolerance < 1:
        raise ValueError(
            f"`tolerance` is {tolerance!r}; a share between 0 and 1 (both excluded) is expected, "
            "such as 0.05 for 5 %."
        )
    return float(tolerance)


def _names_of_types(keys: ArrayLike, query: ArrayLike) -> str:
    first, second = (str(as_numbers(a, n).dtype) for a, n in ((keys, "keys"), (query, "query")))
    return first if first == second else f"{first} keys, {second} query"


def _checked_scale(scale: float | None, *, dimensions: int) -> float:
    if scale is None:
        return 1.0 / math.sqrt(dimensions)
    try:
        factor = float(scale)
    except (TypeError, ValueError):
        factor = math.nan
    if not 0 < factor < math.inf or math.isinf(1.0 / factor):
        raise ValueError(
            f"`scale` must be a positive number, the factor on the scores, got {scale!r}. Leave it "
            "out for 1/sqrt(d)."
        )
    return factor
