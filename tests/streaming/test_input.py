"""What users pass: files of several kinds, wrong things, broken files; and what they see."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import vashista_theory as vt

KEYS = np.random.default_rng(0).normal(size=(3000, 12))
QUERY = np.full(12, 2.0)


def on_disk(kind: str, folder: Path) -> Any:
    if kind == "npy":
        np.save(folder / "keys.npy", KEYS)
        return np.load(folder / "keys.npy", mmap_mode="r")
    if kind == "zarr":
        array = zarr.create_array(
            folder / "keys.zarr", shape=KEYS.shape, chunks=(128, 12), dtype=KEYS.dtype
        )
        array[:] = KEYS
        return zarr.open_array(folder / "keys.zarr", mode="r")
    return KEYS.tolist()


@pytest.mark.parametrize("kind", ["npy", "zarr", "list"])
def test_kinds_of_arrays(kind: str, tmp_path: Path) -> None:
    reference = vt.project(KEYS, QUERY)
    sink = np.lib.format.open_memmap(tmp_path / "multipliers.npy", "w+", np.float64, (len(KEYS),))
    found = vt.project_blocks(on_disk(kind, tmp_path), QUERY, multipliers=sink, block_rows=1000)
    np.testing.assert_allclose(found.point, reference.point, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(found.face, np.flatnonzero(reference.face))
    sink.flush()
    stored = np.load(tmp_path / "multipliers.npy")
    np.testing.assert_allclose(stored, reference.multipliers, rtol=0, atol=1e-13)


def test_multipliers_of_a_query_inside_are_zero() -> None:
    sink = np.full(len(KEYS), np.nan)
    found = vt.project_blocks(KEYS, KEYS.mean(axis=0), multipliers=sink, block_rows=700)
    assert found.result == vt.Result.inside_hull
    assert np.isnan(found.gap)
    assert not sink.any()


def test_blocks_are_whole_chunks(tmp_path: Path) -> None:
    class Counted:
        shape, dtype, chunks = KEYS.shape, KEYS.dtype, (128, 12)
        read: list[slice] = []  # noqa: RUF012 - of this one test

        def __getitem__(self, rows: slice) -> np.ndarray:
            self.read.append(rows)
            return KEYS[rows]

    source = Counted()
    vt.project_blocks(source, QUERY, workers=1)
    starts = {rows.start for rows in source.read}
    assert all(start % 128 == 0 for start in starts)
    assert not list(tmp_path.iterdir())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a path": ({"keys": "keys.npy"}, "'keys.npy'.*mmap_mode"),
    "one axis": ({"keys": KEYS[0]}, r"expected keys \(n, d\).*\(12,\)"),
    "no keys": ({"keys": KEYS[:0]}, r"at least 1, got shape \(0, 12\)"),
    "complex": ({"keys": KEYS + 1j}, "complex128; real numbers"),
    "query too short": ({"query": QUERY[:5]}, r"d = 12.*\(12,\).*got \(5,\)"),
    "query with NaN": (
        {"query": np.where(np.arange(12) == 3, np.nan, QUERY)},
        r"query\[3\] is nan",
    ),
    "no rows": ({"block_rows": 0}, "`block_rows`.*at least 1, got 0"),
    "no workers": ({"workers": 0}, "`workers`.*got 0"),
    "no passes": ({"max_passes": 0}, "`max_passes`.*got 0"),
    "tolerance": ({"tolerance": -1.0}, "`tolerance`.*positive.*-1.0"),
    "progress": ({"progress": "loud"}, "'loud'; expected 'bar', 'log' or 'none'"),
    "rows unknown": ({"initial_rows": [3000]}, "`initial_rows`.*from 0 to 2999"),
    "sink too short": ({"multipliers": np.zeros(7)}, r"`multipliers`.*\(3000,\).*\(7,\)"),
    "sink of integers": ({"multipliers": np.zeros(3000, int)}, "writable float array"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_arguments(case: str) -> None:
    changed, words = BAD[case]
    arguments = {"keys": KEYS, "query": QUERY, **changed}
    with pytest.raises(ValueError, match=words):
        vt.project_blocks(arguments.pop("keys"), arguments.pop("query"), **arguments)


@pytest.mark.parametrize("row", [0, 1717, 2999])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_by_its_row(row: int, value: float) -> None:
    keys = KEYS.copy()
    keys[row, 5] = value
    with pytest.raises(ValueError, match=rf"keys\[{row}, 5\] is {value}"):
        vt.project_blocks(keys, QUERY, block_rows=500)


def test_lengths_that_overflow_are_named_by_their_row() -> None:
    keys = KEYS.copy()
    keys[1234] = 1e200
    with pytest.raises(ValueError, match=r"keys\[1234\] overflows.*power of two"):
        vt.project_blocks(keys, QUERY, block_rows=500)


def test_rows_that_cannot_be_read_are_named() -> None:
    class Broken:
        shape, dtype = KEYS.shape, KEYS.dtype

        def __getitem__(self, rows: slice) -> np.ndarray:
            if rows.start >= 1000:
                raise OSError(5, "Input/output error")
            return KEYS[rows]

    with pytest.raises(OSError, match=r"rows 1000 to 1499.*Input/output"):
        vt.project_blocks(Broken(), QUERY, block_rows=500, workers=1)


def test_project_loads_no_large_file_unasked(tmp_path: Path) -> None:
    # 1.07 GiB, of which no byte is written.
    keys = np.memmap(tmp_path / "keys", np.float64, "w+", shape=(12_000_000, 12))
    for call in (vt.project, vt.project_many):
        with pytest.raises(ValueError, match=r"on disk of 1.1 GiB.*project_blocks"):
            call(keys, QUERY)
    vt.project(keys[:3000], QUERY, throw=False)  # a small part is read as ever


def test_project_loads_no_large_store_unasked(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "keys.zarr", shape=(12_000_000, 12), chunks=(10**6, 12), dtype=np.float64
    )
    # In a process of its own, where annotations are not enforced: users have none enforced either.
    code = (
        "import sys, zarr, vashista_theory as vt\n"
        "vt.project(zarr.open_array(sys.argv[1], mode='r'), [2.0] * 12)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "keys.zarr")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "on disk of 1.1 GiB" in done.stderr
    assert "project_blocks" in done.stderr


def test_progress_shows_rate_and_what_remains(capsys: pytest.CaptureFixture[str]) -> None:
    found = vt.project_blocks(KEYS, QUERY, block_rows=100, progress="log")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "pass 1: 0.000288 GB in" in shown.err
    assert "GB/s" in shown.err
    assert "passes left" in shown.err
    assert "nothing is nearer" in shown.err
    assert shown.err.count("GB/s") == len(found.history)
    vt.project_blocks(KEYS, QUERY)
    assert capsys.readouterr().err == ""
