"""What an evaluation measures, where it goes, and which requests are refused before any work."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vashista_theory._checks import is_positive
from vashista_theory.evaluation import policies as registry
from vashista_theory.evaluation import tasks as known_tasks
from vashista_theory.evaluation.texts import STANDARD
from vashista_theory.runs import check_choice, check_integer, check_request, take_as_declared
from vashista_theory.runs.progress import Mode

_SEVERAL = ("policy", "imports", "pages", "contexts", "text", "tasks", "tolerances")
NOTHING = "none"
"""Asks for no text, or for no task."""

QUICK_POLICIES = (
    "dense", registry.CONTROL, "published", "boxes", "budget", "sampled", "certified-0.05",
)  # fmt: skip
_QUICK: dict[str, Any] = {
    "policy": QUICK_POLICIES,
    "contexts": (2048,),
    "tasks": ("needle-noise", "needle-prose"),
    "prompts": 10,
    "segments": 2,
    "audited": 8,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Quality of a language model that reads its past sparsely, against the same model dense.

    Three measurements, each resumable: perplexity and divergence from dense over texts, retrieval
    tasks, and certificates counted against the truth.
    """

    model: str = "smollm2-135m"
    """A packaged name, a GGUF file, a Hugging Face folder or a hub id."""
    policy: tuple[str, ...] = ()
    """Policies by name; by default all of them. dense and the sliding window are always there."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files of your own with policies: every `Policy` that one defines, by its name there,
    and every function that it registers by `vashista_theory.evaluation.page_policy`. All are
    compared unless policies are named."""
    pages: tuple[int, ...] = (16,)
    """Pages of 16 tokens that policies of a fixed number read; several give several rows."""
    contexts: tuple[int, ...] = (2048,)
    """Context lengths, in tokens."""
    text: tuple[str, ...] = (STANDARD,)
    """Texts for perplexity: pydoc-topics, pydoc-modules, python-code, moby-dick, sotu, or files of
    your own; none for none."""
    segments: int = 4
    """Stretches of each text, evenly spread."""
    positions: int = 256
    """Last positions of a stretch, which are predicted under each policy; the rest is dense."""
    tasks: tuple[str, ...] = tuple(known_tasks.tasks())
    """Retrieval tasks by name; none for none."""
    prompts: int = 30
    """Prompts a task and context length."""
    choices: bool = True
    """Whether wrong answers are judged too, for the choice among five; without them retrieval is
    exact answers alone, in two thirds of the time."""
    audited: int = 32
    """Last positions of each stretch whose certificates are held against the truth; 0 for none."""
    tolerances: tuple[float, ...] = (0.05, 0.01)
    """Dropped mass that those certificates allow."""
    seed: int = 0
    """First seed of the prompts."""
    workers: int | None = None
    """Processes of a local Dask cluster that compute the blocks, each on one thread."""
    scheduler: str | None = None
    """A running Dask scheduler instead, such as tcp://10.0.0.5:8786."""
    output: Path = Path("vashista_evaluation")
    """Folder for stores and report; new, empty, or of the same evaluation: measurements can be
    added to it, and none of them left out."""
    store: str | None = None
    """Where the stores go if not there: a path or URL that all workers reach (s3://bucket/x)."""
    format: Literal["table", "json"] = "table"
    """What is printed at the end: tables for people, JSON for programs."""
    progress: Mode = "bar"
    """A bar with the remaining time, a line now and then, or nothing."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Dense, six policies and your own, 2,048 tokens, two needles of 10 prompts: minutes on two
    cores."""

    def __post_init__(self) -> None:
        take_as_declared(self, paths=("output",), several=_SEVERAL)
        object.__setattr__(self, "imports", tuple(map(Path, self.imports)))
        self._take_none_for_nothing()
        for name, least in (
            ("segments", 1), ("positions", 1), ("prompts", 1), ("audited", 0), ("seed", 0),
        ):  # fmt: skip
            check_integer(name, getattr(self, name), least)
        check_request(self.workers, self.scheduler)
        check_choice("format", self.format, ("table", "json"))
        check_choice("progress", self.progress, ("bar", "log", "none"))
        registry.register_own(self.imports)  # before policies are looked up by name
        for name, least in (("pages", 2), ("contexts", 64)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; expected at least one, none of them twice")
            for value in values:
                check_integer(name, value, least)
        for tolerance in self.tolerances:
            if not is_positive(tolerance) or tolerance >= 1:
                raise ValueError(
                    f"tolerances has {tolerance!r}; a mass between 0 and 1 is expected"
                )
        for name in self.policy:
            registry.get(name)
        for name in self.tasks:
            known_tasks.get(name)
        for name in ("policy", "tasks", "text", "tolerances"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one twice: {', '.join(map(str, values))}")
        if self.text and self.positions >= min(self.contexts) - 1:
            raise ValueError(
                f"positions is {self.positions}, but the shortest context has "
                f"{min(self.contexts)} tokens, some of which have to come before"
            )
        if not self.text and not self.tasks:
            raise ValueError(
                "neither a text nor a task was asked for: name one of either, or leave --text out"
            )

    def _take_none_for_nothing(self) -> None:
        for name in ("text", "tasks"):
            if getattr(self, name) == (NOTHING,):
                object.__setattr__(self, name, ())

    def resolved(self) -> "EvaluationConfig":
        """With every default that depends on other fields filled in; idempotent.

        `quick` sets only what is left at its default.
        """
        changes: dict[str, Any] = {}
        if self.quick:
            defaults = {field.name: field.default for field in dataclasses.fields(self)}
            changes = {k: v for k, v in _QUICK.items() if getattr(self, k) == defaults[k]}
        if "policy" in changes:
            changes["policy"] += registry.register_own(self.imports)
        named = changes.get("policy", self.policy) or tuple(registry.policies())
        changes["policy"] = tuple(dict.fromkeys(("dense", registry.CONTROL, *named)))
        changes["contexts"] = tuple(sorted(changes.get("contexts", self.contexts)))
        return dataclasses.replace(self, quick=False, **changes)

    def readers(self) -> dict[str, tuple[registry.NamedPolicy, int]]:
        """Rows of the tables: policies with their pages, by label such as "budget@16"."""
        rows: dict[str, tuple[registry.NamedPolicy, int]] = {}
        for name in self.policy:
            policy = registry.get(name)
            if policy.counts_pages:
                rows |= {f"{name}@{pages}": (policy, pages) for pages in self.pages}
            else:
                rows[name] = (policy, min(self.pages))
        return rows
