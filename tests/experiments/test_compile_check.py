"""The compile check: what it calls a failure, and that a machine without compilers says so."""

from pathlib import Path

import pytest

from experiments.__main__ import FAILED, OK, main
from experiments.compile_check import child
from experiments.compile_check import measure as compile_check
from experiments.compile_check.targets import TARGETS, Target
from tests.experiments.quick_runs import quick

PTXAS = """\
ptxas info    : Function properties for attend_pages_sm90_mosaic_gpu_kernel
    296 bytes stack frame, {} bytes spill stores, {} bytes spill loads
ptxas info    : Used 255 registers, used 2 barriers, 1 bytes smem
"""


def row(**changes: object) -> dict:
    found = {"target": "h100", "kernel": "mosaic_gpu attend", "shape": "s", "result": "compiled"}
    return found | {"registers": 200, "spilled_bytes": 0, "shared_bytes": 92_200} | changes


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "missing", lambda _: [])


def run(tmp_path: Path) -> int:
    return main(["compile_check", "--targets", "h100", "--quick", "--results", str(tmp_path)])


def test_without_compilers_it_says_so_and_stores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Target, "missing", lambda target: list(target.wheels))
    assert run(tmp_path) == OK
    said = capsys.readouterr().out
    assert said.startswith("not measured: no compiler for h100 is installed")
    assert "nvidia-cuda-nvcc" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.usefixtures("compilers")
@pytest.mark.parametrize(
    ("found", "code"),
    [
        (row(), OK),
        (row(result="refused: too few registers"), OK),
        (row(spilled_bytes=8), FAILED),
        (row(result="failed: ValueError: no"), FAILED),
    ],
)
def test_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: dict, code: int) -> None:
    monkeypatch.setattr(compile_check, "compile_for", lambda *_: [found])
    for _ in range(2):  # the second time it is read back from the file
        said = quick("compile_check", tmp_path, "--targets", "h100", code=code)
        assert said.tables["kernels"].rows == [found]
        assert bool(said.failures) == (code == FAILED)


def test_resources_are_read_from_the_compilers_words(tmp_path: Path) -> None:
    (tmp_path / "a.ptxas").write_text(PTXAS.format(468, 400))
    launch = "in (%c1) dynamic_shared_memory_size %c92200_i32 {"
    (tmp_path / "a.before_layout_inference.txt").write_text(launch)
    assert child._resources(tmp_path) == {
        "registers": 255,
        "spilled_bytes": 868,
        "shared_bytes": 92_200,
    }


def test_stored_result_has_no_failures_and_the_shared_memory_of_the_tiles() -> None:
    from experiments.framework import results
    from vashista_theory.attention.kernels.arg_specs import ARG_SPECS
    from vashista_theory.attention.kernels.gpu.tiles import gpu_attend_config

    stored = results.outcome("compile_check")
    assert not stored.failures
    shapes = {one.name: one.attend() for one in ARG_SPECS}
    for found in stored.tables["kernels"].rows:
        if found["kernel"] == "mosaic_gpu attend" and found["result"] == "compiled":
            shape = shapes[found["shape"]]
            tiles = gpu_attend_config(shape)
            assert found["shared_bytes"] == tiles.shared_bytes(shape.head_size)


def test_what_is_too_large_for_a_chip_is_said_of_the_chip() -> None:
    from experiments.compile_check.calls import kernels

    found = {one.labels["kernel"]: one for one in kernels("tpu", ["published_32kv"])}
    # 2 pools of 32 heads, 131,072 pages of 16 tokens and 128 dimensions of 2 bytes: 32 GiB.
    attend = found["mosaic_tpu attend"]
    said = child._too_large(attend, TARGETS["v5e"])
    assert said is not None
    assert said.startswith("too large for one TPU v5 lite, whatever the kernel")
    assert "32.0 GiB" in said
    assert "15.75 GiB" in said
    assert child._too_large(attend, TARGETS["v5p"]) is None
    assert child._too_large(found["mosaic_tpu score"], TARGETS["v5e"]) is None


def test_unknown_target_is_named() -> None:
    with pytest.raises(ValueError, match="expected some of h100, v4"):
        compile_check.Config(targets=("a100",))
    assert set(compile_check.Config().targets) == set(TARGETS)
