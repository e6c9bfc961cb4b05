"""Policies by name: what each reads of the past. One registry; a policy of your own is one more.

A policy of a fixed number of pages is a function from a `DecodeBlock` to a score for each page::

    from vashista_theory.evaluation import DecodeBlock, page_policy

    @page_policy("first-key", sink=1, recent=1)
    def first_key(block: DecodeBlock) -> Array:
        "Pages by the score of their first key."
        return block.logits()[..., 0]  # (kv heads, steps, group, pages)

In a file of yours, ``--import FILE`` makes it known to the command line as any other. It reads as
many pages as they do: those always read count, and the query heads of a group share one choice.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vashista_theory.attention import Policy, SummarySpec
from vashista_theory.evaluation.block import (
    DecodeBlock,
    Reading,
    best_pages,
    check_scores,
    read_mask,
)
from vashista_theory.evaluation.lookup import find
from vashista_theory.evaluation.mechanism import read_by
from vashista_theory.models.own_policies import run_file

Scores = Callable[[DecodeBlock], Array]
Reader = Callable[[DecodeBlock, int], Reading]

_PACKAGE = __name__.partition(".")[0]
CONTROL = "sink-recent"
"""The sliding window that stands beside every perplexity."""

_CERTIFY, _ROUTE = SummarySpec(), SummarySpec(ball=False, sketch_bits=2)


@dataclass(frozen=True)
class NamedPolicy:
    """A policy of the registry.

    Attributes:
        name: As on the command line.
        description: One line.
        read: From a block and a number of pages to what was read.
        spec: Summaries that the cache has to keep for it.
        counts_pages: Whether it reads the number of pages it is told; otherwise it decides itself.
        scores: What its pages are scored by, if it is a function of a user's.
    """

    name: str
    description: str
    read: Reader
    spec: SummarySpec = _CERTIFY
    counts_pages: bool = True
    scores: Scores | None = None

    def code(self) -> str | None:
        """Names the code of a user's own function, so that results are of this one; else None.

        What that function calls is not in it.
        """
        function = self.scores or self.read
        if (getattr(function, "__module__", None) or "").partition(".")[0] == _PACKAGE:
            return None
        return hashlib.sha256(_written(getattr(function, "__code__", None))).hexdigest()


def _written(code: Any) -> bytes:
    """What a function does, wherever it stands in its file."""
    if isinstance(code, frozenset):  # in another order in every process
        return repr(sorted(map(repr, code))).encode()
    if not isinstance(code, CodeType):
        return repr(code).encode()
    inner = [_written(constant) for constant in code.co_consts]
    return b"\0".join([code.co_code, repr(code.co_names).encode(), *inner])


_REGISTRY: dict[str, NamedPolicy] = {}


def register(policy: NamedPolicy) -> NamedPolicy:
    """Make a policy known by its name.

    Raises:
        ValueError: The name is taken.
    """
    if policy.name in _REGISTRY:
        raise ValueError(f"there is a policy {policy.name!r} already; choose another name")
    _REGISTRY[policy.name] = policy
    return policy


def policies() -> dict[str, NamedPolicy]:
    """All policies by name."""
    return dict(_REGISTRY)


def get(name: str) -> NamedPolicy:
    """The policy of a name.

    Raises:
        ValueError: There is none; the message has the nearest one and all of them, and how one
            of a user's own becomes known.
    """
    own = (
        "A policy of your own is known once its file is named: --import FILE, in Python "
        "imports=(FILE,); a Policy called mine_8 there is mine-8."
    )
    return find("policy", name, _REGISTRY, own)


def page_policy(
    name: str, *, sink: int = 1, recent: int = 1, spec: SummarySpec = _CERTIFY
) -> Callable[[Scores], Scores]:
    """Register a function that scores pages: the best ones are read.

    Args:
        name: For the command line.
        sink: First pages that are always read.
        recent: Last pages that are always read; a partial last page always is.
        spec: Summaries that the cache has to keep.
    """

    def decorate(scores: Scores) -> Scores:
        def read(block: DecodeBlock, pages: int) -> Reading:
            chosen = Policy(pages=max(pages, sink + max(1, recent)), sink=sink, recent=recent)
            found = check_scores(name, scores(block), block)
            return read_mask(block, best_pages(block, found, chosen))

        described = (scores.__doc__ or "").strip().partition("\n")[0]
        register(NamedPolicy(name, described, read, spec, scores=scores))
        return scores

    return decorate


def register_own(paths: Iterable[Path]) -> tuple[str, ...]:
    """Run files of a user's, and register every `Policy` that they define by its name there.

    What a file registers itself, by `page_policy` or `register`, is known as well. Again it does
    nothing.

    Returns:
        Names of all policies of these files.

    Raises:
        ValueError: A file cannot be run, has no policy, or one whose name is taken.
    """
    return tuple(name for path in paths for name in _register_file(path))


def _register_file(path: Path) -> tuple[str, ...]:
    before = set(_REGISTRY)
    try:
        file = run_file(path)
        if file.path in _own:
            return _own[file.path]
        for name, policy in file.policies().items():
            _mechanism(name, f"{name} of {path.name}", lambda _, p=policy: p, counts_pages=False)
        if before == set(_REGISTRY):
            raise ValueError(
                f"--import {path} has no policy: define a vashista_theory.attention.Policy by name "
                "in it, or register a function by vashista_theory.evaluation.page_policy."
            )
    except ValueError:
        for name in set(_REGISTRY) - before:
            del _REGISTRY[name]
        raise
    _own[file.path] = tuple(name for name in _REGISTRY if name not in before)
    return _own[file.path]


_own: dict[Path, tuple[str, ...]] = {}


def _mechanism(
    name: str,
    description: str,
    make: Callable[[int], Policy],
    *,
    spec: SummarySpec = _CERTIFY,
    counts_pages: bool = True,
) -> None:
    def read(block: DecodeBlock, pages: int) -> Reading:
        return read_by(block, make(pages))

    register(NamedPolicy(name, description, read, spec, counts_pages))


def certified(tolerance: float) -> NamedPolicy:
    """The mechanism that reads until at most `tolerance` of the mass is proven dropped."""
    policy = Policy.certified(tolerance, dense_below=0)
    return NamedPolicy(
        f"certified-{tolerance:g}",
        f"as many pages as prove that at most {tolerance:.0%} of the mass is dropped (4-bit keys)",
        lambda block, _: read_by(block, policy),
        counts_pages=False,
    )


# ---------------------------------------------------------------- ceiling and floor

_mechanism("dense", "everything", lambda _: Policy.dense(), counts_pages=False)


@page_policy("oracle-pages", sink=0, recent=1)
def oracle_pages(block: DecodeBlock) -> Float[Array, "K Q G P"]:
    """The pages that hold the most mass of the group; needs all keys."""
    return jax.nn.logsumexp(block.logits(), axis=-1)


def _window(block: DecodeBlock, pages: int) -> Reading:
    always = Policy(pages=max(2, pages), sink=1, recent=max(1, pages - 1))
    heads, steps, group = block.queries.shape[:3]
    scores = jnp.zeros((heads, steps, group, block.keys.shape[1]), block.queries.dtype)
    return read_mask(block, best_pages(block, scores, always))


register(NamedPolicy(CONTROL, "the first page and the last ones: a sliding window", _window))


@page_policy("random", sink=1, recent=1)
def random_pages(block: DecodeBlock) -> Float[Array, "K Q G P"]:
    """Pages drawn at random, anew at each step, layer and kv head; the first and last are read."""
    heads, steps, group = block.queries.shape[:3]
    drawn = random_numbers(block, block.keys.shape[1])
    return jnp.broadcast_to(drawn[:, :, None], (heads, steps, group, drawn.shape[-1]))


def random_numbers(block: DecodeBlock, count: int) -> Float[Array, "K Q n"]:
    """Numbers from 0 to 1 for each kv head and step, others at each layer and length."""
    heads = block.keys.shape[0]
    start = jax.random.fold_in(jax.random.key(0), block.layer)

    def draw(length: Array) -> Array:
        key = jax.random.fold_in(start, length)
        return jax.random.uniform(key, (heads, count), block.queries.dtype)

    return jnp.moveaxis(jax.vmap(draw)(block.lengths), 0, 1)


# ---------------------------------------------------------------- routing by summaries

_mechanism("published", "best page means, nothing forced but the last page", Policy.published)
_mechanism(
    "boxes",
    "best greatest score in the page's box (Quest), chosen for the group; first and last page read",
    lambda pages: Policy(pages=pages, summary="box"),
)
_mechanism(
    "budget",
    "ours: best log-mass of 2-bit keys; first and last page read",
    lambda pages: Policy(pages=pages, summary="sketch"),
    spec=_ROUTE,
)
_mechanism(
    "budget-two-levels",
    "ours: `Policy.budget`, 2-bit keys of the pages of the best superpages by box",
    # Others read so many pages of a short context too.
    lambda pages: Policy.budget(pages, dense_below=0),
    spec=_ROUTE,
)
for _tolerance in (0.05, 0.01):
    register(certified(_tolerance))
