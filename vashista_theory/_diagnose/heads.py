"""What a sparse read of each head costs, by the mechanism itself, and how far the theorem is."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vashista_theory._diagnose.given import Given
from vashista_theory._diagnose.leaking import PATH, first_leaking, search_grid
from vashista_theory._diagnose.record import HeadReading, Support
from vashista_theory._diagnose.verdict import TOLERATED_LOG_MASS
from vashista_theory._results import Result
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.hull.projection import project
from vashista_theory.hull.relaxation import relax
from vashista_theory.hull.stability import face_stability

PAGE = 16
"""Tokens a page."""

MOST_HEADS = 32
"""Heads of which the theorem's regime is looked at; some tenths of a second each."""


@dataclasses.dataclass(frozen=True)
class _Reads:
    """Of one layer, by query head and query."""

    estimate: Float[np.ndarray, "H Q"]
    error: Float[np.ndarray, "H Q"]
    tokens: Float[np.ndarray, "H Q"]
    pages: Float[np.ndarray, "H Q"]
    support: Float[np.ndarray, "H Q"]


def read_layer(given: Given, index: int, *, tokens: int, tolerance: float) -> list[HeadReading]:
    """Read every query of a layer by drawn tokens and by proof, and measure what that missed."""
    queries, keys, values = given.layer(index)
    stand_in = values is None
    v = _unit_values(keys) if values is None else values
    reads = _read(given, queries, keys, v, tokens=tokens, tolerance=tolerance, unit=stand_in)
    held = given.positions + 1
    always = float(policy_of(tokens).always * PAGE)
    found: list[HeadReading] = []
    for head in range(queries.shape[0]):
        worst = int(np.argmax(reads.estimate[head]))
        drawn = max(reads.tokens[head, worst] - always, 1.0)
        # T8: the error falls with the square root of the number drawn.
        wanted = always + drawn * (reads.estimate[head, worst] / tolerance) ** 2
        found.append(
            HeadReading(
                layer=given.layers[index],
                head=head,
                estimate=float(np.median(reads.estimate[head])),
                worst_estimate=float(reads.estimate[head, worst]),
                error=float(np.median(reads.error[head])),
                tokens_read=float(np.mean(reads.tokens[head])),
                tokens_needed=int(min(max(wanted, tokens), held.max())),
                pages_to_prove=float(np.mean(reads.pages[head] / -(-held // PAGE))),
                support=int(np.median(reads.support[head])),
            )
        )
    return found


def policy_of(tokens: int) -> Policy:
    """The sampled read that an answer speaks of, at every length."""
    return Policy.sampled(tokens, dense_below=0)


def _read(
    given: Given,
    queries: Float[np.ndarray, "H Q D"],
    keys: Float[np.ndarray, "Hkv T D"],
    values: Float[np.ndarray, "Hkv T D"],
    *,
    tokens: int,
    tolerance: float,
    unit: bool,
) -> _Reads:
    """With `unit`, errors are in units of the length of a value, else of the output's."""
    # One byte a code: head sizes are whatever a user has.
    cache = PagedKV.from_tokens(
        keys[None], values[None], page_size=PAGE, spec=SummarySpec(packed=False)
    )
    heads, count, _ = queries.shape
    found = _Reads(*(np.zeros((heads, count)) for _ in dataclasses.fields(_Reads)))
    for row, position in enumerate(given.positions):
        context = cache.truncate(jnp.asarray([int(position) + 1]))
        query = queries[None, :, row]
        output, drawn = vashista_attention(query, context, policy_of(tokens), scale=given.scale)
        _, proof = vashista_attention(
            query, context, Policy.certified(tolerance, dense_below=0), scale=given.scale
        )
        for result in (drawn.result, proof.result):
            if not bool(result == Result.successful):
                raise ValueError(f"reading these heads failed: {Result[result]}")
        dense, shares = _dense(queries[:, row], keys, values, given, int(position) + 1)
        # Of the exact output: one that is mostly error is about as long as the error, so that
        # divided by its own length no estimate would be much above 100 %.
        length = np.ones(heads) if unit else np.linalg.norm(dense, axis=-1)
        found.estimate[:, row] = _over(np.asarray(drawn.error_estimate[0]), length)
        missed = np.linalg.norm(np.asarray(output[0]) - dense, axis=-1)
        found.error[:, row] = _over(missed, length)
        found.tokens[:, row] = np.asarray(drawn.tokens_read[0])
        found.pages[:, row] = np.asarray(proof.pages_read[0])
        found.support[:, row] = [Support.of(one).for_90_percent for one in shares]
    return found


def _dense(
    queries: Float[np.ndarray, "H D"],
    keys: Float[np.ndarray, "Hkv T D"],
    values: Float[np.ndarray, "Hkv T D"],
    given: Given,
    seen: int,
) -> tuple[Float[np.ndarray, "H D"], list[Float[np.ndarray, " t"]]]:
    """Ordinary attention of each head, and its weights."""
    outputs: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for head, query in enumerate(queries):
        kv = head // given.group
        logits = given.scale * (keys[kv, :seen] @ query)
        shares = np.exp(logits - logits.max())
        weights.append(shares / shares.sum())
        outputs.append(weights[-1] @ values[kv, :seen])
    return np.stack(outputs), weights


def _over(errors: Float[np.ndarray, " H"], lengths: Float[np.ndarray, " H"]) -> np.ndarray:
    """Relative errors; no error of an output of no length is none."""
    ratio = errors / np.where(lengths > 0, lengths, 1.0)
    return np.where(lengths > 0, ratio, np.where(errors > 0, math.inf, 0.0))


def _unit_values(keys: Float[np.ndarray, "Hkv T D"]) -> Float[np.ndarray, "Hkv T D"]:
    """Values of length 1 in random directions, where a user has none."""
    signs = np.random.default_rng(0).integers(0, 2, size=keys.shape)
    return (2.0 * signs - 1.0) / math.sqrt(keys.shape[-1])


def regimes(
    given: Given, *, progress: Callable[[int, int], object]
) -> dict[tuple[int, int], tuple[str, float]]:
    """By layer index and head, at the last query: the theorem's regime, and how much colder.

    Of many heads, `MOST_HEADS` evenly spread ones.
    """
    layers, heads = given.queries.shape[:2]
    count = min(layers * heads, MOST_HEADS)
    chosen = (np.arange(1, count + 1) * layers * heads) // count - 1
    found: dict[tuple[int, int], tuple[str, float]] = {}
    for done, number in enumerate(chosen):
        at = divmod(int(number), heads)
        keys, query = one_query(given, *at, -1)
        found[at] = _regime(keys, query, 1.0 / given.scale)
        progress(done + 1, count)
    return found


def one_query(
    given: Given, layer: int, head: int, row: int
) -> tuple[Float[np.ndarray, "t D"], Float[np.ndarray, " D"]]:
    """A query, by index of its layer, and the keys it sees."""
    seen = int(given.positions[row]) + 1
    keys = given.keys[layer, head // given.group, :seen]
    return np.asarray(keys, np.float64), np.asarray(given.queries[layer, head, row], np.float64)


def _regime(
    keys: Float[np.ndarray, "t D"], query: Float[np.ndarray, " D"], epsilon: float
) -> tuple[str, float]:
    projection = project(keys, query, throw=False)
    stability = face_stability(projection)
    gap = float(stability.gap)
    if math.isnan(gap):
        return "no gap", math.nan
    safe = float(stability.largest_safe_epsilon(TOLERATED_LOG_MASS))
    path = np.concatenate([[epsilon], search_grid(projection, safe, PATH - 1)])
    if math.isinf(gap) or epsilon <= safe:
        return "inside", 0.0 if math.isinf(safe) else epsilon / safe
    relaxation = relax(projection, path, throw=False)
    wanted = first_leaking(projection, safe, relaxation, refinements=0)
    held = float(relaxation.log_off_face_mass[0]) <= TOLERATED_LOG_MASS
    return "unproved" if held else "outside", epsilon / wanted if wanted > 0 else math.inf
