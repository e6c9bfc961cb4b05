r"""The optimality conditions on one support, in balls first and in rationals where balls tie.

For affinely independent rows x_s = k_s − q, the point of their affine hull nearest to the query is

.. math:: G\alpha = \lambda 1, \quad 1^\top\alpha = 1, \quad G_{st} = \langle x_s, x_t\rangle,
          \quad \lambda = \|r\|^2,

and every key has the multiplier :math:`\mu_i = \langle x_i, X^\top\alpha\rangle - \lambda`. If α is
positive and no μ is negative, that point is p*.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from vashista_theory.hull.rigorous.balls import (
    PRECISIONS,
    Ball,
    Rational,
    certain_sign,
    exact_sign,
    flint,
)
from vashista_theory.hull.rigorous.problem import ExactProblem

LARGEST_EXACT = 300
"""Rows of a support beyond which rational arithmetic is not tried: a minute and more a solve."""


class Undecided(Exception):  # noqa: N818 - no error: it is an answer
    """Neither balls nor affordable rational arithmetic settle a sign; the message says which."""


class Support:
    """Affinely independent rows, with the KKT system on them.

    Attributes:
        problem: whose rows they are.
        indices: of the rows.
    """

    def __init__(self, problem: ExactProblem, indices: Sequence[int]) -> None:
        self.problem = problem
        self.indices = list(indices)
        rows = problem.gather(self.indices)
        gram, size = rows * rows.transpose(), len(self.indices)
        self._rows = rows
        entries = [[gram[i, j] for j in range(size)] + [1] for i in range(size)]
        self._system = flint.fmpz_mat([*entries, [1] * size + [0]])
        self._right = flint.fmpz_mat(size + 1, 1, [0] * size + [1])
        self._solved: dict[int, tuple[list[Ball], Ball]] = {}

    def balls(self, precision: int) -> tuple[list[Ball], Ball]:
        """α and λ in balls; NaN where the precision cannot tell the system from a singular one."""
        if precision not in self._solved:
            with flint.ctx.workprec(precision):
                system, right = flint.arb_mat(self._system), flint.arb_mat(self._right)
                entries = system.solve(right, nonstop=True).entries()
                self._solved[precision] = entries[:-1], -entries[-1]
        return self._solved[precision]

    @cached_property
    def exact(self) -> tuple[list[Rational], Rational]:
        """α and λ exactly.

        Raises:
            ZeroDivisionError: the rows are affinely dependent.
            Undecided: there are too many of them.
        """
        if len(self.indices) > LARGEST_EXACT:
            raise Undecided(
                f"a tie on a face of {len(self.indices)} distinct keys (rational arithmetic is "
                f"tried up to {LARGEST_EXACT})"
            )
        entries = self._system.solve(self._right).entries()
        return entries[:-1], -entries[-1]

    @cached_property
    def exact_step(self) -> list[Rational]:
        """P = p* − q exactly."""
        return (flint.fmpq_mat([self.exact[0]]) * flint.fmpq_mat(self._rows)).entries()

    def step(self, precision: int) -> Any:
        """P = p − q in balls, as a column."""
        with flint.ctx.workprec(precision):
            alpha = flint.arb_mat([self.balls(precision)[0]])
            return (alpha * flint.arb_mat(self._rows)).transpose()

    def multipliers(self, rows: Any, precision: int) -> list[Ball]:
        """Multipliers of rows (a `fmpz_mat`) in balls."""
        with flint.ctx.workprec(precision):
            level = self.balls(precision)[1]
            products = flint.arb_mat(rows) * self.step(precision)
            return [product - level for product in products.entries()]

    def exact_multiplier(self, index: int) -> Rational:
        """The multiplier of one row, exactly."""
        row = self.problem.row(index)
        return sum((p * x for p, x in zip(self.exact_step, row, strict=True)), -self.exact[1])

    @cached_property
    def level_sign(self) -> int:
        """Sign of λ: 0 proves that the query lies in the affine hull of the support."""
        if len(self.indices) == self.problem.dimension + 1:
            return 0
        return _settle(lambda bits: self.balls(bits)[1], lambda: self.exact[1])

    @cached_property
    def weight_signs(self) -> list[int]:
        """Signs of α."""
        return [
            _settle(lambda bits, i=i: self.balls(bits)[0][i], lambda i=i: self.exact[0][i])
            for i in range(len(self.indices))
        ]

    @cached_property
    def multiplier_signs(self) -> Int[np.ndarray, " rows"]:
        """Signs of the multipliers of all rows; 0 on the support by construction."""
        signs = np.zeros(self.problem.size, np.int64)
        open_ = sorted(set(range(self.problem.size)) - set(self.indices))
        rows = self.problem.rows if len(open_) > 64 else None
        for precision in PRECISIONS:
            if not open_:
                break
            if rows is None:
                values = self.multipliers(self.problem.gather(open_), precision)
            else:
                everything = self.multipliers(rows, precision)
                values = [everything[index] for index in open_]
            found = [certain_sign(value) for value in values]
            for index, sign in zip(open_, found, strict=True):
                signs[index] = sign or 0
            open_ = [index for index, sign in zip(open_, found, strict=True) if sign is None]
            rows = rows if len(open_) > self.problem.size // 4 else None
        for index in open_:
            signs[index] = exact_sign(self.exact_multiplier(index))
        return signs


def _settle(ball: Callable[[int], Ball], exact: Callable[[], Rational]) -> int:
    for precision in PRECISIONS:
        sign = certain_sign(ball(precision))
        if sign is not None:
            return sign
    return exact_sign(exact())
