"""The table of what each back end can do, made from what the back ends themselves say.

``python -m tests.attention.kernels.capability_table`` writes it anew.
"""

from pathlib import Path

from vashista_theory.attention.kernels import IMPLEMENTATIONS, capabilities
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS, shapes
from vashista_theory.attention.kernels.spec import STAGES

WRITTEN = Path(__file__).with_name("capabilities.md")


def capability_table() -> str:
    said = {}
    for implementation in IMPLEMENTATIONS:
        for stage in STAGES:
            said[implementation, stage] = []
    for found in capabilities(shapes()):
        said[found.implementation, found.stage].append(found.why_not)
    lines = [
        "# What each kernel can do",
        "",
        "Written by `python -m tests.attention.kernels.capability_table` from what the back ends",
        "say to `arg_specs`; a test compares. A number names a reason below.",
    ]
    reasons: list[str] = []
    for stage in STAGES:
        lines += ["", f"## {stage}", "", f"| call | {' | '.join(IMPLEMENTATIONS)} |"]
        lines.append("|---" * (1 + len(IMPLEMENTATIONS)) + "|")
        for i, call in enumerate(ARG_SPECS):
            cells = []
            for implementation in IMPLEMENTATIONS:
                why_not = said[implementation, stage][i]
                if why_not is not None and why_not not in reasons:
                    reasons.append(why_not)
                cells.append("yes" if why_not is None else f"no ({reasons.index(why_not) + 1})")
            lines.append(f"| `{call.name}` | {' | '.join(cells)} |")
    lines += ["", "## Reasons", ""]
    lines += [f"{i}. {reason}" for i, reason in enumerate(reasons, start=1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    WRITTEN.write_text(capability_table(), encoding="utf-8")
