"""What caches of the tests keep."""

from dataclasses import fields
from typing import Any

from vashista_theory.attention import SummarySpec

SWITCHES = {field.name: True for field in fields(SummarySpec) if isinstance(field.default, bool)}


def keeping_all(**changes: Any) -> SummarySpec:
    """Every summary that has a switch, those that are off by default too."""
    return SummarySpec(**{**SWITCHES, **changes})
