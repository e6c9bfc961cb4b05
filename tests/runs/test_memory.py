"""What could not be held is refused by its number, before it is built."""

import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.test_run import config as evaluation_config
from vashista_theory import runs
from vashista_theory.evaluation import plan as evaluation_plan
from vashista_theory.runs import memory as module
from vashista_theory.sweep import SweepConfig
from vashista_theory.sweep import plan as sweep_plan


def test_the_least_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(module.os, "sysconf", limits.__getitem__)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    monkeypatch.setattr(module, "_CGROUP_LIMITS", (str(tmp_path / "max"),))
    assert module.memory() == 4_096_000
    (tmp_path / "max").write_text("max\n")
    assert module.memory() == 4_096_000
    (tmp_path / "max").write_text("3000000\n")
    assert module.memory() == 3_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2_000_000, 5_000_000))
    assert module.memory() == 2_000_000


def test_the_refusal_names_numbers_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "memory", lambda: 2_500_000_000)
    runs.refuse_beyond_memory("n is 3", 2_500_000_000, "Ask for less")
    with pytest.raises(ValueError, match=r"^n is 3: .* 12.3 TB of .* 2.5 GB. Ask for less$"):
        runs.refuse_beyond_memory("n is 3", 12_345_678_901_234, "Ask for less")
    monkeypatch.setattr(module, "memory", lambda: None)  # where no system tells, none is refused
    runs.refuse_beyond_memory("n is 3", 10**30, "Ask for less")


def estimate(monkeypatch: pytest.MonkeyPatch, refuse: Any, *arguments: Any) -> int:
    """The largest number of bytes that a plan asks for."""
    asked: list[int] = []
    note = lambda _, needed, __: asked.append(needed)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(sweep_plan, "refuse_beyond_memory", note)
        patch.setattr(runs, "refuse_beyond_memory", note)
        refuse(*arguments)
    return max(asked)


FAMILIES = ("gaussian", "near_degenerate", "heads", "simplex", "degenerate")


@given(
    instances=st.integers(1, 9),
    side=st.integers(1, 5),
    heads=st.integers(1, 9),
    fine=st.integers(1, 9),
    families=st.lists(st.sampled_from(FAMILIES), min_size=1, unique=True),
)
def test_a_sweep_is_counted_as_it_is_built(
    instances: int, side: int, heads: int, fine: int, families: list[str]
) -> None:
    """By arithmetic alone, and between what the dataset takes and eight times that."""
    config = SweepConfig(
        families=tuple(families),
        instances=instances,
        regime_side=side,
        head_instances=heads,
        temperatures_per_decade=fine,
    ).resolved()
    planned = sweep_plan.tasks(config)
    assert len(planned) == sum(sweep_plan._count(config, family) for family in families)
    assert config.grid_size() == config.ratios().size
    template = sweep_plan.template(config, planned)
    with pytest.MonkeyPatch.context() as patch:
        needed = estimate(patch, sweep_plan._refuse_beyond_memory, config)
    held = sum(variable.nbytes for variable in template.data_vars.values())
    # Twice for the second copy; twice more for texts and tasks, of which there are as many bytes
    # where the grid is coarsest.
    assert held < needed < 8 * held + 10**7


@pytest.mark.parametrize("changes", [{"segments": 9}, {"prompts": 70}, {"audited": 60}])
def test_an_evaluation_is_counted_as_it_is_built(
    changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, layers, heads = evaluation_config(tmp_path, **changes).resolved(), 5, 6
    held = sum(
        variable.nbytes
        for template in (
            evaluation_plan.perplexity_template(config, layers),
            evaluation_plan.retrieval_template(config),
            evaluation_plan.certificates_template(config, layers, heads),
        )
        for variable in template.data_vars.values()
    )
    refuse = evaluation_plan.refuse_beyond_memory
    planned = len(evaluation_plan.stretches(config)) + len(evaluation_plan.questions(config))
    assert estimate(monkeypatch, refuse, config, layers, heads) == 2 * held + 200 * planned


def test_nothing_is_built_of_what_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def built(*_: object, **__: object) -> None:
        raise AssertionError("a part of the plan was built")

    monkeypatch.setattr(sweep_plan, "Task", built)
    monkeypatch.setattr(sweep_plan.np, "geomspace", built)
    with pytest.raises(ValueError, match="1,000,000,000 instances"):
        sweep_plan.tasks(SweepConfig(families=("gaussian",), instances=10**9))
    for name in ("stretches", "questions"):
        monkeypatch.setattr(evaluation_plan, name, built)
    with pytest.raises(ValueError, match="segments is 10,000,000,000"):
        evaluation_plan.refuse_beyond_memory(evaluation_config(tmp_path, segments=10**10))
