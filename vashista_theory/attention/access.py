"""How a decode step reaches the cache. The step itself is the same for one device and many."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory.attention.cache import PagedKV
from vashista_theory.attention.certificate import PageBounds, Query
from vashista_theory.attention.dense import read_everything
from vashista_theory.attention.judge import Judged, judge_all, judge_pages, judge_superpages
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.read import (
    Gathered,
    Partial,
    Pools,
    gather_pages,
    read_pages,
    read_range,
)
from vashista_theory.attention.routing import Layout, select_pages


class Access(NamedTuple):
    """What depends on where the pages are; pages are always named by their logical number.

    Attributes:
        judge_all: Judge every page of every row.
        judge_superpages: Bounds of every superpage that has a summary, and on its values.
        judge_pages: Judge some pages of each row; −1 for none.
        select_pages: The best of what was judged, by one choice a row.
        read_pages: Softmax sums over the wanted ones of some pages of each row. They come first in
            the list, and one that is not full comes last of them.
        read_range: Sums so far, and those over pages [lower, upper) of a list of full pages, by
            row.
        read_everything: Softmax sums over all pages of every row.
        gather_pages: Keys and values of some pages themselves.
        all_agree: Whether a flag is set on every device.
    """

    judge_all: Callable[[Query, PagedKV, Pools, Policy], Judged]
    judge_superpages: Callable[[Query, PagedKV, Policy], tuple[PageBounds, Float[Array, "R C"]]]
    judge_pages: Callable[[Query, PagedKV, Pools, Policy, Int[Array, "R U"]], Judged]
    select_pages: Callable[
        [Float[Array, "R P"], Layout, int], tuple[Int[Array, "R K"], Bool[Array, "R K"]]
    ]
    read_pages: Callable[[Query, Pools, Int[Array, "R K"], Bool[Array, "R K"]], Partial]
    read_range: Callable[
        [Query, Pools, Int[Array, "R K"], Int[Array, " R"], Int[Array, " R"], Partial], Partial
    ]
    read_everything: Callable[[Query, Pools], Partial]
    gather_pages: Callable[[Pools, Int[Array, "R K"], Bool[Array, "R K"], jnp.dtype], Gathered]
    all_agree: Callable[[Bool[Array, "*n"]], Bool[Array, "*n"]]


def _itself(flags: Bool[Array, "*n"]) -> Bool[Array, "*n"]:
    return flags


ONE_DEVICE = Access(
    judge_all,
    judge_superpages,
    judge_pages,
    select_pages,
    read_pages,
    read_range,
    read_everything,
    gather_pages,
    _itself,
)
"""Everything on the device at hand, in plain JAX."""
