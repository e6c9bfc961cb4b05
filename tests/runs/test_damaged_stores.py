"""Two hundred damaged stores: none is taken for what it was, each refusal is one line."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr

from tests.evaluation.test_run import config as evaluation
from tests.runs import damages, problem
from tests.sweep import small as sweep
from vashista_theory import runs
from vashista_theory.evaluation import plan as evaluation_plan
from vashista_theory.sweep import plan as sweep_plan

COUNT, FEW, PROGRAMS = 200, 24, ("problem", "sweep", "evaluation")
REFUSALS = (runs.DamagedStoreError, FileExistsError, FileNotFoundError, RuntimeError, ValueError)
HUNG = 600  # seconds: what waits for a pipe waits for ever, and is ended with words


class Kind(NamedTuple):
    """A store of one of the programs, filled with random numbers of the right types."""

    template: xr.Dataset
    identity: Any
    block_size: int
    whole: xr.Dataset

    def open(self, path: Path) -> runs.BlockStore:
        return runs.open_store(path, self.template, self.identity, block_size=self.block_size)

    def block(self, number: int) -> xr.Dataset:
        size = self.block_size
        names = [n for n, v in self.whole.data_vars.items() if "instance" in v.dims]
        chosen = self.whole[names].isel(instance=slice(number * size, (number + 1) * size))
        return chosen.drop_vars(list(chosen.coords))


def filled(template: xr.Dataset, identity: Any, block_size: int, seed: int) -> Kind:
    rng, whole = np.random.default_rng(seed), template.copy(deep=True)
    for name, variable in whole.data_vars.items():
        if "instance" not in variable.dims:
            continue
        if variable.dtype.kind in "UOT":
            text = [f"{name} {value}" for value in rng.integers(0, 10**6, variable.size)]
            values = np.array(text).reshape(variable.shape)
        else:
            values = rng.integers(0, 100, variable.shape).astype(variable.dtype)
        whole[name] = (variable.dims, values, variable.attrs)
    return Kind(template, identity, block_size, whole)


def kind_of(name: str, seed: int, folder: Path) -> Kind:
    if name == "sweep":
        heads = sweep.write_heads(folder / "heads.npz")
        few: dict[str, Any] = {"families": ("gaussian", "heads"), "temperatures_per_decade": 1}
        config = sweep.config(folder, heads, seed=seed, **few).resolved()
        template = sweep_plan.template(config, sweep_plan.tasks(config))
        return filled(template, sweep_plan.identity(config), config.block_size, seed)
    if name == "evaluation":
        config = evaluation(folder, segments=3, seed=seed).resolved()
        template = evaluation_plan.perplexity_template(config, 2)
        identity = {"seed": seed, "software": {}}
        return filled(template, identity, 1, seed)
    return filled(problem.template(), {"seed": seed}, problem.BLOCK_SIZE, seed)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Kind, Path, Path]]:
    """For each program: what it stores, its store, and one of another configuration."""
    found: list[tuple[Kind, Path, Path]] = []
    for program in PROGRAMS:
        folder = tmp_path_factory.mktemp(program)
        kinds = [kind_of(program, seed, folder) for seed in (1, 2)]
        for seed, kind in enumerate(kinds):
            store = kind.open(folder / str(seed))
            runs.run_blocks(store, kind.block, progress="none")
            kind.whole.attrs |= {"seed": seed, "commit": "abc"}
            store.annotate(kind.whole.attrs)
            problem.assert_identical(runs.load_dataset(folder / str(seed)), kind.whole)
        found.append((kinds[0], folder / "0", folder / "1"))
    return found


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    def hung(*_: object) -> None:
        raise TimeoutError(f"still waiting after {HUNG} s: a damaged store hangs")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HUNG)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refusal(error: BaseException, path: Path) -> str:
    said = str(error)
    assert "\n" not in said, said
    assert str(path) in said, said
    return said


def assert_whole(found: xr.Dataset, wanted: xr.Dataset) -> None:
    problem.assert_identical(found, wanted)
    assert found.attrs == wanted.attrs
    for name in wanted.variables:
        assert found[name].attrs == wanted[name].attrs, name


def outcome(kind: Kind, store: Path, other: Path, seed: int, to: Path) -> tuple[str, str]:
    """What reading and resuming a damaged copy say; the data are right where they are given."""
    path = Path(shutil.copytree(store, to / "store"))
    outside = {p: p.read_bytes() for p in sorted(other.rglob("*")) if p.is_file()}
    way = damages.damage(seed, path, other)
    said = [way]
    for attempt in ("read", "resume"):
        try:
            if attempt == "resume":
                runs.run_blocks(kind.open(path), kind.block, progress="none")
            found = runs.load_dataset(path)
        except REFUSALS as error:
            said.append(refusal(error, path))
            continue
        assert_whole(found, kind.whole)
        said.append("right")
    assert outside == {p: p.read_bytes() for p in sorted(other.rglob("*")) if p.is_file()}
    return said[1], said[2]


@pytest.mark.parametrize(
    "seed",
    [pytest.param(k, marks=[pytest.mark.slow] if k >= FEW else []) for k in range(COUNT)],
)
def test_none_is_taken_for_what_it_was(
    stores: list[tuple[Kind, Path, Path]], tmp_path: Path, seed: int
) -> None:
    outcome(*stores[seed % len(PROGRAMS)], seed, tmp_path)
