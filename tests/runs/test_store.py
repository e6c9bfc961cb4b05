"""A store holds what was computed, bit for bit, and notices what was damaged."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.runs import problem
from vashista_theory import runs
from vashista_theory.runs import _arrays

DATA = "data.zarr"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    runs.run_blocks(problem.open_store(path), problem.compute, progress="none")
    return path


def redo(path: Path) -> runs.BlockStore:
    """Open again, compute what is missing, and check the result against the storeless one."""
    store = problem.open_store(path)
    runs.run_blocks(store, problem.compute, progress="none")
    problem.assert_identical(store.load(), problem.expected())
    return store


def test_values_and_coordinates_are_kept_bit_for_bit(filled: Path) -> None:
    problem.assert_identical(runs.load_dataset(filled), problem.expected())
    assert runs.load_dataset(filled).attrs == {"title": "a test"}


def test_a_finished_store_has_nothing_missing(filled: Path) -> None:
    store = problem.open_store(filled)
    assert store.missing() == []
    assert store.faults == ()


def test_other_programs_read_it_without_a_warning(filled: Path) -> None:
    # pytest turns warnings into errors here
    xr.open_zarr(filled / DATA, chunks=None).load()


def test_order_does_not_matter(tmp_path: Path) -> None:
    store = problem.open_store(tmp_path / "store")
    for block in (5, 0, 3, 1, 4, 2):
        store.write(block, problem.compute(block))
    problem.assert_identical(store.load(), problem.expected())


@pytest.mark.parametrize("variable", ["gap", "leakage", "steps", "degenerate", "status"])
def test_a_flipped_byte_is_noticed_and_redone(filled: Path, variable: str) -> None:
    chunk = sorted(p for p in (filled / DATA / variable / "c").rglob("*") if p.is_file())[1]
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0x10
    chunk.write_bytes(content)
    store = problem.open_store(filled)
    assert store.missing() == [1]
    assert "block 1 is damaged" in str(store.faults[0])
    redo(filled)


def test_bytes_all_over_a_chunk_are_covered(filled: Path) -> None:
    chunk = filled / DATA / "leakage" / "c" / "1" / "0"
    original = chunk.read_bytes()
    for position in range(0, len(original), 13):
        content = bytearray(original)
        content[position] ^= 0x01
        chunk.write_bytes(content)
        try:
            same = runs.load_dataset(filled).leakage.values.tobytes()
        except Exception:  # noqa: BLE001 - the codec noticed by itself
            same = b""
        wanted = problem.expected().leakage.values.tobytes()
        store_missing = problem.open_store(filled).missing()
        # A flip that changes no value (in the codec's own header) needs no repair.
        assert (store_missing == [1]) == (same != wanted), position
        redo(filled)


def test_a_deleted_chunk_is_noticed_and_redone(filled: Path) -> None:
    (filled / DATA / "steps" / "c" / "0" / "3").unlink()
    assert problem.open_store(filled).missing() == [3]
    redo(filled)


def test_a_truncated_chunk_is_noticed_and_redone(filled: Path) -> None:
    chunk = filled / DATA / "gap" / "c" / "2"
    chunk.write_bytes(chunk.read_bytes()[:-4])
    assert problem.open_store(filled).missing() == [2]
    redo(filled)


@pytest.mark.parametrize(
    "content", ["", '{"block": 4', "[]", '{"block": 3, "sha256": "x"}', '{"block": 4}']
)
def test_a_damaged_marker_is_noticed_and_redone(filled: Path, content: str) -> None:
    (filled / "finished" / "00004.json").write_text(content)
    store = problem.open_store(filled)
    assert store.missing() == [4]
    assert store.faults[0].block == 4
    redo(filled)


def test_data_without_a_marker_is_not_finished(filled: Path) -> None:
    (filled / "finished" / "00000.json").unlink()
    store = problem.open_store(filled)
    assert store.missing() == [0]
    assert store.faults == ()
    redo(filled)


def test_a_damaged_coordinate_is_restored(filled: Path) -> None:
    chunk = filled / DATA / "epsilon" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-2])
    redo(filled)


def overtaken(monkeypatch: pytest.MonkeyPatch, other: Callable[[], object]) -> None:
    """Let another process do something while the next store is being made."""
    create = _arrays.create

    def slowly(*arguments: object) -> None:
        monkeypatch.setattr(_arrays, "create", create)
        other()
        create(*arguments)

    monkeypatch.setattr(_arrays, "create", slowly)


def test_a_store_that_another_process_made_meanwhile_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    overtaken(monkeypatch, lambda: problem.open_store(path).write(3, problem.compute(3)))
    assert problem.open_store(path).missing() == [0, 1, 2, 4, 5]
    redo(path)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_store_that_another_process_made_meanwhile_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    other = problem.CONFIGURATION | {"seed": 8}
    overtaken(monkeypatch, lambda: runs.open_store(path, problem.template(), other, block_size=4))
    with pytest.raises(ValueError, match=r"seed: stored 8, asked for 7"):
        problem.open_store(path)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_processes_that_create_one_store_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.runs.creators"]
    creators = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    try:
        said = [[one.stdout.readline()] for one in creators if one.stdout]
        for number in range(6):
            path = tmp_path / f"{number}"
            if number % 2:
                path.mkdir()  # an empty folder is used as well
            for one in creators:
                assert one.stdin is not None
                one.stdin.write(f"{path}\n")
            for one, lines in zip(creators, said, strict=True):
                assert one.stdout is not None
                lines.append(one.stdout.readline())
    finally:
        for one in creators:
            one.communicate()
    assert said == [["ready\n", *["[0, 1, 2, 3, 4, 5]\n"] * 6]] * 3
    assert len(list(tmp_path.iterdir())) == 6


def test_a_store_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    redo(tmp_path / "link")
    redo(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()


def test_another_configuration_is_refused_with_what_differs(filled: Path) -> None:
    other = problem.CONFIGURATION | {"seed": 8, "extra": True}
    before = {p: p.read_bytes() for p in filled.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="another configuration") as error:
        runs.open_store(filled, problem.template(), other, block_size=problem.BLOCK_SIZE)
    message = str(error.value)
    assert "seed: stored 7, asked for 8" in message
    assert "extra: not stored, asked for true" in message
    assert "families" not in message
    assert before == {p: p.read_bytes() for p in filled.rglob("*") if p.is_file()}


def test_other_blocks_or_coordinates_are_refused(filled: Path) -> None:
    with pytest.raises(ValueError, match=r"layout\.block_size: stored 4, asked for 5"):
        runs.open_store(filled, problem.template(), problem.CONFIGURATION, block_size=5)
    moved = problem.template().assign_coords(epsilon=[1e-3, 1e-2, 0.2])
    with pytest.raises(ValueError, match=r"fixed_values_sha256\.epsilon"):
        runs.open_store(filled, moved, problem.CONFIGURATION, block_size=problem.BLOCK_SIZE)


def test_what_differs_takes_a_few_words(filled: Path) -> None:
    # Another configuration gives other coordinates, and checksums and sizes of them, too.
    moved = problem.template().isel(instance=slice(0, 20)).assign_coords(epsilon=[1e-3, 0.1, 1.0])
    other = problem.CONFIGURATION | {"families": ["gaussian", "ring"], "heads_sha256": "ab" * 32}
    with pytest.raises(ValueError, match="another configuration") as error:
        runs.open_store(filled, moved, other, block_size=problem.BLOCK_SIZE)
    message = str(error.value)
    assert 'families: stored with "sphere", asked for with "ring"' in message
    assert 'heads_sha256: not stored, asked for "abababab…"' in message
    assert "layout" not in message
    assert len(message.replace(str(filled), "")) < 300


@pytest.mark.parametrize("missing", [[], [1, 4], list(range(problem.BLOCKS))])
def test_finished_rows_of_a_store_that_is_not_complete(tmp_path: Path, missing: list[int]) -> None:
    store = problem.open_store(tmp_path)
    done = [block for block in range(problem.BLOCKS) if block not in missing]
    runs.run_blocks(store, problem.compute, done, progress="none")
    found = runs.load_dataset(tmp_path, finished_only=True)
    rows = [i for block in done for i in range(problem.INSTANCES)[store.block_slice(block)]]
    problem.assert_identical(found, problem.expected().isel(instance=np.array(rows, int)))
    assert found.attrs["finished"] == f"{len(rows)} of {problem.INSTANCES} instances"
    assert (found["status"] != "not computed").all()
    if missing:
        with pytest.raises(RuntimeError, match=r"is not complete: .*finished_only=True"):
            runs.load_dataset(tmp_path)


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a store"):
        problem.open_store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(FileExistsError, match="is a file"):
        problem.open_store(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_store_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(json.dumps({"format": "something else"}))
    with pytest.raises(FileExistsError, match="not a store"):
        problem.open_store(tmp_path)


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert problem.open_store(tmp_path).missing() == list(range(problem.BLOCKS))


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    # A path below a regular file cannot be written even by the superuser.
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write results.*is a file, not a folder"):
        problem.open_store(tmp_path / "file" / "deeper" / "store")


def test_an_incomplete_store_says_so_when_loaded(tmp_path: Path) -> None:
    store = problem.open_store(tmp_path)
    store.write(0, problem.compute(0))
    with pytest.raises(RuntimeError, match="5 of 6 blocks are missing"):
        store.load()
    partial = store.load(allow_missing=True)
    assert partial.status.values[:5].tolist() == ["block 0"] * 4 + ["not computed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_vars("gap"), "the block has variables"),
        (lambda d: d.assign(gap=d.gap.astype(np.float32)), "gap has .* type float32"),
        (lambda d: d.isel(instance=slice(2)), "shape"),
        (lambda d: d.assign(leakage=d.leakage.T), "leakage has dimensions"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(tmp_path: Path, change, message) -> None:
    store = problem.open_store(tmp_path)
    with pytest.raises(ValueError, match=message):
        store.write(1, change(problem.compute(1)))
    assert 1 in store.missing()


def test_blocks_that_do_not_exist(tmp_path: Path) -> None:
    store = problem.open_store(tmp_path)
    with pytest.raises(ValueError, match="block 6 does not exist; expected 0 to 5"):
        store.write(6, problem.compute(0))
    with pytest.raises(ValueError, match="block_size is 0"):
        runs.open_store(tmp_path / "x", problem.template(), {}, block_size=0)
    with pytest.raises(ValueError, match="dimension 'head'"):
        runs.open_store(tmp_path / "x", problem.template(), {}, block_size=1, dimension="head")


def test_annotations_are_attributes_of_the_dataset(filled: Path) -> None:
    problem.open_store(filled).annotate({"seed": 7, "commit": "abc"})
    attributes = runs.load_dataset(filled).attrs
    assert attributes == {"title": "a test", "seed": 7, "commit": "abc"}


def test_loading_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a block store"):
        runs.load_dataset(tmp_path / "nothing")
