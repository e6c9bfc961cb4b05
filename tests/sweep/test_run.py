"""What a sweep stores, and that stopping it changes nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

from tests.runs.interrupted import kill_after
from tests.runs.problem import assert_identical
from tests.sweep import small
from vashista_theory.hull.instances import make
from vashista_theory.hull.oracle import project_qp, relax_exponential_cone
from vashista_theory.runs import load_dataset
from vashista_theory.sweep import measure, run
from vashista_theory.sweep.run import prepare

ROOT = Path(__file__).resolve().parents[2]


def _no_measurement(*_: object, **__: object) -> None:
    raise AssertionError("a finished instance was computed again")


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path, heads_file: Path, dataset: xr.Dataset) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.sweep.small", str(folder), str(heads_file)]
    finished = folder / "store" / "finished"
    kill_after(2, command, finished)
    before = {path: path.stat().st_mtime_ns for path in finished.glob("0*.json")}
    assert len(before) < 8

    # Other numbers of threads, and the tests' own JAX settings, may not matter either.
    resumed = run(small.config(folder, heads_file, threads=2))
    assert_identical(resumed, dataset)
    assert resumed.attrs["resumed"] == "true"
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow  # the default sweep two and a half times
def test_default_sweep_killed_and_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vashista_theory.sweep", "--progress", "none", "--output"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], cwd=ROOT, check=True)
    kill_after(4, [*command, str(killed)], killed / "store" / "finished")
    finished = {p: p.stat().st_mtime_ns for p in (killed / "store" / "finished").glob("0*.json")}
    assert len(finished) < 17
    subprocess.run([*command, str(killed)], cwd=ROOT, check=True)
    assert_identical(load_dataset(killed / "store"), load_dataset(whole / "store"))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_finished_sweep_computes_nothing(
    output: Path, heads_file: Path, dataset: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package's `run` is the function, so the module goes by its full name.
    monkeypatch.setattr(sys.modules["vashista_theory.sweep.run"], "measure", _no_measurement)
    assert_identical(run(small.config(output, heads_file)), dataset)


def test_damaged_block_is_computed_again(
    output: Path, heads_file: Path, dataset: xr.Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(output, folder)
    chunks = (folder / "store" / "data.zarr" / "log_off_face_mass" / "c").rglob("*")
    chunk = next(path for path in chunks if path.is_file())
    chunk.write_bytes(b"noise" * 20)
    assert_identical(run(small.config(folder, heads_file)), dataset)


def test_another_configuration_is_refused_with_both_shown(output: Path, heads_file: Path) -> None:
    with pytest.raises(ValueError, match=r"seed: stored 0, asked for 1"):
        run(small.config(output, heads_file, seed=1))


def test_precision_is_local(
    output: Path, heads_file: Path, dataset: xr.Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "float32"
    shutil.copytree(output, folder)
    (folder / "store" / "finished" / "00000.json").unlink()
    with jax.enable_x64(False):
        resumed = run(small.config(folder, heads_file))
        assert jax.numpy.asarray(1.0).dtype == np.float32
    assert_identical(resumed, dataset)


def test_attributes(dataset: xr.Dataset) -> None:
    assert dataset.attrs["seed"] == 0
    assert dataset.attrs["precision"] == "float64"
    assert dataset.attrs["device"].startswith("cpu")
    assert "jax" in json.loads(dataset.attrs["versions"])
    assert json.loads(dataset.attrs["configuration"])["n"] == small.N


def test_known_answers(dataset: xr.Dataset) -> None:
    """Planted gaps, weights and ρ come out; the grid is in units of the scale."""
    families = dataset["family"].values
    near = dataset.isel(instance=families == "near_degenerate")
    for row, (seed, text) in enumerate(
        zip(near["seed"].values, near["parameters"].values, strict=True)
    ):
        parameters = json.loads(text)
        known = make(
            "near_degenerate", seed=int(seed), n=small.N, d=small.D,
            min_weight=parameters["min_weight"], gap=parameters["gap"],
        ).known  # fmt: skip
        # 1e-12 of the scale, which is about 30 here; tangents also lose 1/min_weight = 1e6.
        np.testing.assert_allclose(near["gap"].values[row], known.gap, atol=1e-11)
        np.testing.assert_allclose(near["min_weight"].values[row], known.min_weight, rtol=1e-8)
        np.testing.assert_allclose(
            near["tangent_norm"].values[row], np.linalg.norm(known.tangent), rtol=1e-8
        )
    degenerate = dataset.isel(instance=families == "degenerate")
    np.testing.assert_allclose(
        degenerate["degeneracy_distance"].values, [0.5, 1.0, 2.0, 0.5], rtol=1e-10
    )
    assert dataset["inside"].values[families == "inside"].all()
    assert dataset["degenerate"].values.sum() == 4
    grid = dataset["kind"].values == "grid"
    np.testing.assert_allclose(
        dataset["epsilon"].values[:, grid],
        dataset["scale"].values[:, None] * dataset["ratio"].values[grid][None],
        rtol=1e-15,
    )


def test_extra_temperatures(dataset: xr.Dataset) -> None:
    heads = dataset["family"].values == "heads"
    model = dataset["epsilon"].values[:, dataset["kind"].values == "model"][:, 0]
    np.testing.assert_allclose(model[heads], np.sqrt(small.D))
    assert np.isnan(model[~heads]).all()
    edge = dataset["epsilon"].values[:, dataset["kind"].values == "published"][:, 0]
    said = np.isfinite(edge)
    np.testing.assert_array_equal(edge[said], dataset["published_range"].values[said])


def test_one_percent_is_one_percent(dataset: xr.Dataset) -> None:
    """The ε of 1 % leakage, by cvxpy."""
    heads = dataset.isel(instance=dataset["family"].values == "heads")
    for seed, text, epsilon, safe in zip(
        heads["seed"].values,
        heads["parameters"].values,
        heads["leak_epsilon"].values,
        heads["safe_epsilon"].values,
        strict=True,
    ):
        instance = make("heads", seed=int(seed), path=json.loads(text)["path"])
        face = project_qp(instance.keys, instance.query).face
        weights = relax_exponential_cone(instance.keys, instance.query, float(epsilon)).weights
        assert abs(weights[~face].sum() - 0.01) < 1e-5  # the cone solver's own accuracy
        assert safe < epsilon


def test_cvxpy_agrees_on_the_sample(dataset: xr.Dataset) -> None:
    distance = dataset["oracle_distance"].values
    assert (~np.isnan(distance)).sum() == len(small.FAMILIES)
    assert np.nanmax(distance) < 1e-6  # an interior-point method on a degenerate face: √1e-12


def test_a_store_name_is_not_taken_from_foreign_folders(tmp_path: Path, heads_file: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        prepare(small.config(tmp_path, heads_file))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_option_that_this_compiler_does_not_know_is_left_out(monkeypatch) -> None:
    known = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(measure, "_HURRIED", {**known, "xla_no_such_option": True})
    measure._known_options.cache_clear()
    try:
        assert measure._known_options() == known
    finally:
        measure._known_options.cache_clear()
