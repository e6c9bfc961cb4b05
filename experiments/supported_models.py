"""Which language models read pages exactly, and which are refused: every decoder, two releases.

Every decoder of transformers' auto mapping for causal language models is made tiny, with random
weights, and called four ways with padding: without a cache, with one, with a prompt in pieces,
generating. Each way has to give the logits and the text of transformers' eager attention, or be
refused by name; anything else is a failure. Nothing is downloaded.

One interpreter has one release of transformers. The oldest supported one needs an environment:

    python -m venv .venv-oldest; .venv-oldest/bin/pip install -e ".[lm]" "transformers==4.56.0"

Examples:
  python -m experiments supported_models --oldest .venv-oldest/bin/python
  python -m experiments supported_models --families llama bloom --force
"""

import collections
import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.framework.outcome import Measured, NotMeasured, Outcome, sentences
from experiments.shared import process
from experiments.shared.model_comparison import TOLERANCE

BY_HAND = "needs an environment with the oldest release of transformers"

_COLUMNS = {
    "release": "of transformers",
    "family": "model type of transformers' configuration",
    "outcome": "exact, exact in part, refused, not tried, or wrong",
    "words": "which ways are refused, and by which words; why it was not tried",
    "difference": "largest of the logits from eager's, as a share of the largest logit",
}
# One of every outcome, quick to run.
QUICK = (
    "llama", "gpt2", "opt", "qwen3_moe", "bloom", "gemma2", "jetmoe", "musicgen", "bart", "mistral",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
        oldest: Interpreter of an environment with the oldest release of transformers; empty leaves
            its column out.
        families: Model types; all that a release knows by default.
        seed: Of weights and tokens.
        quick: Ten families of the release installed.
    """

    oldest: str = ""
    families: tuple[str, ...] = ()
    seed: int = 0
    quick: bool = False


def inputs() -> dict[str, str | None]:
    """What the result depends on beside the configuration: the libraries."""
    return {name: process.version(name) for name in ("transformers", "torch")}


def measure(config: Config) -> Measured:
    """Compare in a process for each release.

    Raises:
        NotMeasured: torch or transformers is missing here.
        ValueError: the interpreter of the oldest release cannot be run.
    """
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        raise NotMeasured(f'{" and ".join(missing)} missing; pip install "vashista-theory[lm]"')
    if config.oldest and shutil.which(config.oldest) is None:
        raise ValueError(
            f"oldest is {config.oldest!r}; expected an interpreter that can be run, such as "
            ".venv-oldest/bin/python of the environment that the module's help describes"
        )
    names = QUICK if config.quick and not config.families else config.families
    interpreters = [sys.executable, *([config.oldest] if config.oldest else [])]
    return measured(
        [
            process.run("experiments.shared.model_comparison", config.seed, *names, interpreter=one)
            for one in interpreters
        ]
    )


def measured(releases: list[Mapping[str, Any]]) -> Measured:
    """The rows of each release, the newest first."""
    rows = [
        {"release": release["versions"]["transformers"], **row}
        for release in releases
        for row in release["rows"]
    ]
    wrong = [
        f"{row['family']} of transformers {row['release']}: {row['words']}"
        for row in rows
        if row["outcome"] == "wrong"
    ]
    return Measured(tables={"families": rows}, failures=wrong)


def report(found: Measured) -> Outcome:
    """What became of every family, in words."""
    rows = found.tables["families"]
    values: dict[str, Any] = {}
    findings: list[str] = []
    releases = dict.fromkeys(str(row["release"]) for row in rows)
    for place, version in zip(("newest", "oldest"), releases, strict=False):
        own = [row for row in rows if row["release"] == version]
        counts = collections.Counter(str(row["outcome"]) for row in own)
        values |= {place: version, f"families_{place}": len(own)}
        values |= {f"{name.replace(' ', '_')}_{place}": counts[name] for name in _OUTCOMES}
        largest = max((float(row.get("difference") or 0.0) for row in own), default=0.0)
        findings.append(
            f"Of {len(own)} decoders that transformers {version} knows, "
            f"{counts['exact']} are exact, {counts['exact in part']} are exact where they are not "
            f"refused, {counts['refused']} are refused by name and {counts['not tried']} were not "
            f"tried. The largest difference from eager is {largest:.0e} of the largest logit."
        )
    return Outcome(
        tables=found.described({"families": _COLUMNS}),
        values=values,
        findings=findings,
        notes=sentences(
            f"""- Default configurations, made tiny, with a layer of each kind: what a family
              supports by other settings (windows, sinks, caps) may differ.
            - float32 on the CPU; two sequences of 16 tokens, one with padding on its left; random
              weights. Exact means within {TOLERANCE:.0e} of the largest logit.
            """
        ),
        failures=found.failures,
    )


_OUTCOMES = ("exact", "exact in part", "refused", "not tried", "wrong")
