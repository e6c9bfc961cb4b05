"""A proved face seen in real units, in balls accurate beyond float64."""

from functools import reduce
from typing import Any

from vashista_theory.hull.rigorous.balls import DIGITS, Ball, flint, power_of_two
from vashista_theory.hull.rigorous.bounds import OffFace
from vashista_theory.hull.rigorous.problem import ExactProblem
from vashista_theory.hull.rigorous.search import Proved

LADDER = (192, 384, 768, 1536, 3072, 6144)
ROUNDING_LEVEL = 2.0**-44
"""Relative to the scale, or to the whole weight: what rounding the input can make or undo."""


class View:
    """Lengths in the input's own unit.

    Attributes:
        precision: bits at which gap and residual are known to `DIGITS`.
        unit: the problem's unit of length.
        multipliers: μ by row, exactly zero on the face.
        residual_norm: ‖r*‖.
        point: p*.
        gap: Δ, None if every key is on the face.
    """

    def __init__(self, problem: ExactProblem, proved: Proved) -> None:
        self._problem = problem
        self._off = sorted(set(range(problem.size)) - set(proved.face))
        self.precision, raw, level, self._step = self._measured(proved)
        with flint.ctx.workprec(self.precision):
            self.unit = power_of_two(problem.exponent)
            area = power_of_two(2 * problem.exponent)
            self._level, self._raw = level, raw
            self.multipliers = [flint.arb(0)] * problem.size
            for row in self._off:
                self.multipliers[row] = raw[row] * area
            off = [self.multipliers[row] for row in self._off]
            self.gap: Ball | None = reduce(lambda a, b: a.min(b), off) if off else None
            self.residual_norm = level.sqrt() * self.unit
            moved = zip(problem.query, self._step.entries(), strict=True)
            self.point = [(q + p) * self.unit for q, p in moved]
            squares = [sum(x * x for x in row) for row in problem.rows.tolist()]
            self._squares: list[Any] = squares
            self._negligible = flint.arb(ROUNDING_LEVEL) * max(squares) * area

    def _measured(self, proved: Proved) -> tuple[int, list[Ball], Ball, Any]:
        support = proved.support
        for precision in LADDER:
            with flint.ctx.workprec(precision):
                raw = support.multipliers(self._problem.rows, precision)
                level = support.balls(precision)[1]
                least = min((raw[row].lower() for row in self._off), default=flint.arb(1))
                sharp = all(raw[row].rel_accuracy_bits() >= DIGITS for row in self._off)
                if least > 0 and sharp and level.rel_accuracy_bits() >= DIGITS:
                    return precision, raw, level, support.step(precision)
        precision = LADDER[-1]
        with flint.ctx.workprec(precision):
            step = flint.arb_mat(self._problem.dimension, 1, support.exact_step)
            level = flint.arb(support.exact[1])
            products = (flint.arb_mat(self._problem.rows) * step).entries()
            return precision, [product - level for product in products], level, step

    def off_face(self, tangent: list[Ball] | None) -> list[OffFace]:
        """The keys off the face; `tangent` is w₀ in the problem's own unit."""
        tilts: list[Ball | None] = [None] * self._problem.size
        if tangent is not None:
            column = flint.arb_mat(len(tangent), 1, tangent)
            at_point = (self._step.transpose() * column)[0, 0]
            products = (flint.arb_mat(self._problem.rows) * column).entries()
            tilts = [product - at_point for product in products]
        zero = flint.arb(0)
        found: list[OffFace] = []
        for row in self._off:
            # ‖x − P‖² = ‖x‖² − 2⟨x, P⟩ + λ, and ⟨x, P⟩ = μ + λ.
            squared = zero.max(self._squares[row] - 2 * self._raw[row] - self._level)
            length = squared.sqrt() * self.unit
            copies = self._problem.counts[row]
            found.append(OffFace(self.multipliers[row], length, tilts[row], copies))
        return found

    def at_rounding_level(self, weights: list[Ball]) -> bool:
        """Whether another rounding of the input could have another face."""
        close = self.gap is not None and bool(self.gap < self._negligible)
        return close or any(bool(weight < flint.arb(ROUNDING_LEVEL)) for weight in weights)
