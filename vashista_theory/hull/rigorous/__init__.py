"""Proof-carrying certificates: the projection and its bounds in ball and rational arithmetic.

The float solver proposes; nothing it says is believed. Needs python-flint (the extra `rigorous`).
"""

from vashista_theory.hull.rigorous.balls import Enclosure as Enclosure
from vashista_theory.hull.rigorous.certificate import Certificate as Certificate
from vashista_theory.hull.rigorous.certify import certify as certify
