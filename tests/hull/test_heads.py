"""The packaged sample is the one described, and damaged heads files are refused by name."""

import hashlib
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vashista_theory.hull.heads import load_heads
from vashista_theory.hull.instances import make


@pytest.fixture(scope="module")
def sample():
    return load_heads()


@pytest.fixture
def tiny() -> dict:
    rng = np.random.default_rng(0)
    return {
        "queries": rng.normal(size=(2, 4, 3, 5)).astype(np.float16),
        "keys": rng.normal(size=(2, 2, 7, 5)).astype(np.float16),
        "values": rng.normal(size=(2, 2, 7, 5)).astype(np.float16),
        "layers": np.array([0, 9]),
        "positions": np.array([4, 5, 6]),
        "scale": np.float64(5**-0.5),
        "provenance": np.array('{"model": "none"}'),
    }


def test_sample_matches_its_provenance(sample):
    for name in ("queries", "keys", "values"):
        array = getattr(sample, name)
        assert list(array.shape) == sample.provenance["shapes"][name]
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        assert digest == sample.provenance["sha256"][name]
        assert array.dtype == np.float16
    assert sample.provenance["licence"] == "Apache-2.0"
    assert sample.scale == 64**-0.5
    assert sample.count == 504


def test_attend_sees_the_past_of_the_shared_key_head(sample):
    query, keys, values = sample.attend(2, 7, 0)
    # Head 7 of 9 over 3 key heads reads key head 7 // 3 = 2; position 1016 sees 1017 keys.
    np.testing.assert_array_equal(query, sample.queries[2, 7, 0])
    np.testing.assert_array_equal(keys, sample.keys[2, 2, :1017])
    np.testing.assert_array_equal(values, sample.values[2, 2, :1017])
    assert query.dtype == keys.dtype == values.dtype == np.float64
    np.testing.assert_array_equal(sample.attend(-1, -1, -1)[1], sample.keys[6, 2])
    with pytest.raises(ValueError, match="head = 9 is out of range: this file has 9"):
        sample.attend(0, 9, 0)


def test_family_visits_every_query_once_last_position_first(sample):
    places = [sample.locate(index) for index in range(sample.count)]
    assert len(set(places)) == 504
    assert all(position == 7 for _, _, position in places[:63])
    instance = make("heads", seed=10)
    assert {key: instance.parameters[key] for key in ("layer", "head", "position")} == {
        "layer": 5,
        "head": 1,
        "position": 1023,
    }
    assert instance.parameters["temperature"] == 8.0
    np.testing.assert_array_equal(instance.keys, sample.attend(1, 1, 7)[1])


def test_own_file_is_read(tmp_path: Path, tiny: dict):
    np.savez(tmp_path / "own.npz", **tiny)
    heads = load_heads(tmp_path / "own.npz")
    assert heads.provenance == {"model": "none"}
    np.testing.assert_array_equal(heads.attend(1, 3, 0)[1], tiny["keys"][1, 1, :5])
    assert make("heads", seed=0, path=str(tmp_path / "own.npz")).keys.shape == (7, 5)


def _drop(data: dict):
    del data["keys"], data["scale"]


def _nan(data: dict):
    data["values"][0, 0, 0, 0] = np.nan


def _set(name: str, value):
    def change(data: dict):
        data[name] = value

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop, "it lacks keys, scale"),
        (_nan, "values has 1 entries that are NaN"),
        (_set("queries", np.zeros((2, 4, 5))), "queries has shape \\(2, 4, 5\\)"),
        (_set("queries", np.zeros((2, 4, 3, 6))), "disagree in L or D"),
        (_set("queries", np.zeros((2, 3, 3, 5))), "3 query heads cannot share 2"),
        (_set("values", np.zeros((2, 2, 6, 5))), "values have shape"),
        (_set("keys", np.zeros((2, 2, 7, 5), complex)), "keys is complex128"),
        (_set("layers", np.zeros(2)), "layers is float64"),
        (_set("positions", np.array([4, 5, 7])), "not all among the 7 tokens"),
        (_set("scale", np.float64(-1.0)), "not one positive number"),
        (_set("provenance", np.array("no json")), "provenance is not JSON"),
        (_set("provenance", np.array("[1]")), "not a JSON object"),
        (_set("provenance", np.array("")), "provenance is not JSON \\(it is empty\\)"),
        (_set("provenance", np.array("[" * 10**5)), "provenance is not JSON"),
        (_set("provenance", np.array('{"a": ' + "9" * 5000 + "}")), "provenance is not JSON"),
        (_set("layers", np.array([{}, {}], dtype=object)), "not an .npz archive"),
    ],
)
def test_damaged_content_is_refused(tmp_path: Path, tiny: dict, damage, message: str):
    damage(tiny)
    file = tmp_path / "own.npz"
    np.savez(file, **tiny)
    with pytest.raises(ValueError, match=message) as caught:
        load_heads(file)
    assert str(file) in str(caught.value)
    assert "Remedy" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 500, -30])
def test_truncated_files_are_refused(tmp_path: Path, tiny: dict, keep: int):
    file = tmp_path / "own.npz"
    np.savez_compressed(file, **tiny)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"truncated or not an \.npz archive"):
        load_heads(file)


def test_flipped_bytes_and_other_files_are_refused(tmp_path: Path, tiny: dict):
    file = tmp_path / "own.npz"
    np.savez_compressed(file, **tiny)
    content = bytearray(file.read_bytes())
    content[200] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or not"):
        load_heads(file)
    np.save(tmp_path / "one.npy", np.eye(3))
    with pytest.raises(ValueError, match="one array"):
        load_heads(tmp_path / "one.npy")
    with pytest.raises(ValueError, match="there is no such file"):
        load_heads(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="Remedy"):
        load_heads(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 2, 7, 5)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f8'}",
        "[",
        "(" * 5000,
        "9" * 5000,
        "{'descr': [('a', '<f8'), ('a', '<f8')], 'fortran_order': False, 'shape': ()}",
    ],
    ids=lambda header: header[:70],
)
def test_hostile_array_headers_are_refused(tmp_path: Path, tiny: dict, header: str):
    file = tmp_path / "own.npz"
    np.savez(file, **{name: value for name, value in tiny.items() if name != "keys"})
    content = header.encode() + b"\n"
    with zipfile.ZipFile(file, "a") as archive:
        start = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(content))
        archive.writestr("keys.npy", start + content + bytes(800))
    with pytest.raises(ValueError, match=r"heads file .*Remedy") as caught:
        load_heads(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "own.npz")
    with pytest.raises(ValueError, match="not a regular file"):
        load_heads(tmp_path / "own.npz")
