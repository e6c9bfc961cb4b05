"""One enumeration of outcomes for the whole project; each value is the advice shown to the user."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from equinox._enum import EnumerationItem


class Result(eqx.Enumeration):
    """What a computation found.

    It prints its name; `.advice` names a failure's likely causes and the remedy. `inside_hull` and
    `degenerate_face` are facts about the input, not failures.
    """

    if TYPE_CHECKING:  # every other name in this class is an outcome

        @property
        def advice(self) -> str: ...

    successful = ""
    inside_hull = (
        "The query lies inside the hull of the keys or on it (r* = 0 to rounding): every "
        "multiplier is zero and there is no support gap. Entropic attention has no face to "
        "concentrate on at this query."
    )
    degenerate_face = (
        "Strict complementarity fails: p* lies on the relative boundary of the hull of its "
        "exposed face. The linear law is replaced by an epsilon*log(1/epsilon) law (T5); only T1 "
        "applies. An arbitrarily small change of the query removes the degeneracy."
    )
    ambiguous_face = (
        "A multiplier is too close to the rounding level to say whether its key is on the "
        "exposed face. Use float64 keys, or ask `vashista_theory.certify` for a proof."
    )
    max_steps_reached = (
        "The active-set method used all its steps. Raise `max_steps`, or start from a nearby "
        "face with `initial_face`."
    )
    max_passes_reached = (
        "Keys were still entering when the allowed passes over the blocks were used up. Raise "
        "`max_passes`, start from this answer with `initial_rows=answer.support`, or allow a "
        "larger `tolerance`; the distance to the projection is at most sqrt(duality_gap)."
    )
    stagnated = (
        "Rounding stopped the iteration before the requested accuracy. Use float64, a larger "
        "`tolerance`, or remove keys that differ by less than rounding; the residuals say how "
        "accurate the answer is."
    )
    nonfinite_input = (
        "The input holds a NaN or an infinity, or its squared lengths or scores overflow or "
        "underflow. Check the keys and the query with `numpy.isfinite`, and "
        "multiply or divide all of them by one power of two, which changes no digit."
    )
    pool_full = (
        "The page pool has no free page left, or a sequence no room left in its row of the page "
        "table; nothing was appended. Free a sequence, `grow` the cache, or build it with larger "
        "`pages` or `pages_per_sequence`, or with `room` in `from_tokens`. A cache that was "
        "donated to a compiled function is gone if that function raised: make room before, or "
        "pass `throw=False` to `append`, which returns the cache as it was, and look at its result."
    )
    invalid_page = (
        "A page table names a page outside the pool, or a length does not fit in its row of the "
        "table. Build page tables with the cache's own `append`, `fork` and `free`."
    )
    tie = (
        "Two candidates are exactly equally good, so the answer is not unique. Perturb the input "
        "or accept either."
    )


class Outcome(EnumerationItem):
    """A member of `Result`, or an array of them: prints its name rather than its advice."""

    def __repr__(self) -> str:
        return f"Result.{self}"

    def __str__(self) -> str:
        if self.is_traced():
            return "traced"
        names = np.array(list(Result._name_to_item))  # pyright: ignore[reportPrivateUsage]
        return str(names[np.asarray(self._value)])

    @property
    def name(self) -> str:
        """Such as "successful"."""
        return str(self)

    @property
    def advice(self) -> str:
        """Likely causes and the remedy; empty where it is successful."""
        return Result[self]


def _print_names() -> None:
    """Members become `Outcome`, those that equinox's `where` makes included."""
    members = Result._name_to_item  # pyright: ignore[reportPrivateUsage]
    members.update({name: Outcome(item._value, Result) for name, item in members.items()})
    choose = Result.where

    def where(pred: Any, a: Result, b: Result) -> Any:
        """`a` where `pred` holds, else `b`."""
        return Outcome(choose(pred, a, b)._value, Result)  # pyright: ignore[reportPrivateUsage]

    Result.where = staticmethod(where)


_print_names()


def is_successful(result: Result) -> bool:
    """Whether a concrete outcome is `successful`, read as a number: nothing is dispatched."""
    value, expected = (np.asarray(one._value) for one in (result, Result.successful))  # pyright: ignore[reportPrivateUsage]
    return bool(value == expected)


def name_of(result: Result) -> str:
    """The name of a concrete outcome, such as "successful"."""
    names = Result._name_to_item  # pyright: ignore[reportPrivateUsage]
    return next(name for name in names if bool(result == getattr(Result, name)))
