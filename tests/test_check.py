"""The checker: accepts what is certified, runs where nothing is installed, refuses all else."""

import importlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vashista_theory as vt
from experiments.shared import array_forgeries, tampering
from vashista_theory import check
from vashista_theory.hull import instances

SHAPE = {"n": 24, "d": 12}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Saved certificates of every outcome with their inputs."""
    problems = {
        "generic": instances.make("gaussian", **SHAPE),
        "copies": instances.make("duplicates", **SHAPE),
        "inside": instances.make("inside", **SHAPE),
        "degenerate": instances.make("degenerate", variant="positive_power"),
    }
    square = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0], [1, 1, -2]], float)
    pairs = {name: (made.keys, made.query) for name, made in problems.items()}
    pairs["dependent"] = (square, np.array([0.5, 1.0, 1.0]))
    paths = {}
    for name, (keys, query) in pairs.items():
        folder = tmp_path_factory.mktemp(name)
        np.save(folder / "keys.npy", keys)
        np.save(folder / "query.npy", query)
        vt.certify(keys, query).save(folder / "certificate.json")
        paths[name] = [str(folder / f) for f in ("certificate.json", "keys.npy", "query.npy")]
    return paths


OUTCOMES = {
    "generic": "successful",
    "copies": "successful",
    "inside": "inside_hull",
    "degenerate": "degenerate_face",
    "dependent": "successful",
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_certificates_are_accepted(
    name: str, cases: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(cases[name]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"accepted: {OUTCOMES[name]}")
    assert ("tangent too" in said) is (name in {"generic", "copies"})


def test_it_runs_by_itself(cases: dict[str, list[str]]) -> None:
    # -I and -S: no environment, no installed package.
    command = [sys.executable, "-I", "-S", "-W", "error", check.__file__, *cases["generic"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("accepted")
    # One file that a referee reads in ten minutes; a quarter of it is about damaged files.
    assert len(Path(check.__file__).read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("kind", [*tampering.CHANGES, *tampering.INPUTS])
def test_tampering_is_refused(
    name: str,
    kind: str,
    cases: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    paths = list(cases[name])
    for attempt in range(3):
        if kind in tampering.CHANGES:
            content = json.loads(Path(cases[name][0]).read_text())
            paths[0] = str(tmp_path / f"{attempt}.json")
            Path(paths[0]).write_text(json.dumps(tampering.tampered(kind, content, rng)))
        else:
            which = 1 + tampering.INPUTS.index(kind)
            paths[which] = str(tmp_path / f"{attempt}.npy")
            np.save(paths[which], tampering.nudged(np.load(cases[name][which]), rng))
        assert check.main(paths) == 1
        said = capsys.readouterr().err
        assert said.startswith("refused: ")
        assert len(said.splitlines()) == 1


def test_a_false_tangent_and_a_false_margin_are_refused(
    cases: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(name: str, change: Callable[[dict], None]) -> str:
        content = json.loads(Path(cases[name][0]).read_text())
        change(content)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(content))
        assert check.main([str(path), *cases[name][1:]]) == 1
        return capsys.readouterr().err

    def beside(content: dict) -> None:
        high = float.fromhex(content["tangent"][0][1])
        start = np.nextafter(high, np.inf)
        content["tangent"][0] = [float(start).hex(), float(start + 1).hex()]

    assert "the tangent is outside" in refused("generic", beside)
    flat = refused("degenerate", lambda c: c.update(margin=["0x0"] * 3))
    assert "the margin does not separate" in flat
    # Support ⊊ face, and no margin: this would pass off a degenerate face as a strict one.
    assert "not strict" in refused("degenerate", lambda c: c.update(outcome="successful"))


def test_float32_and_fortran_order_are_the_same_numbers(tmp_path: Path) -> None:
    made = instances.make("gaussian", **SHAPE)
    keys, query = made.keys.astype(np.float32), made.query.astype(np.float32)
    vt.certify(keys, query).save(tmp_path / "c.json")
    np.save(tmp_path / "k.npy", np.asfortranarray(keys.astype(">f8")))
    np.save(tmp_path / "q.npy", query)
    assert check.main([str(tmp_path / name) for name in ("c.json", "k.npy", "q.npy")]) == 0


@pytest.mark.parametrize(
    ("which", "content", "said"),
    [
        (0, b"", "is damaged or no certificate"),
        (0, b"{", "is damaged or no certificate"),
        (0, b"{}", "is damaged or no certificate (KeyError: 'format')"),
        (0, b"[1, 2]", "is damaged or no certificate"),
        (0, b"\xff\xfe", "is damaged or no certificate"),
        (0, b'{"format": "other"}', "it has an unknown format"),
        (1, b"not an array", "is not a .npy file"),
        (1, b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'", "is damaged or holds no plain real numbers"),
        (2, b"PK\x03\x04 an archive", "is not a .npy file"),
    ],
)
def test_damaged_files(
    which: int,
    content: bytes,
    said: str,
    cases: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = list(cases["generic"])
    paths[which] = str(tmp_path / "damaged")
    Path(paths[which]).write_bytes(content)
    assert check.main(paths) == 1
    message = capsys.readouterr().err
    assert said in message
    assert len(message.splitlines()) == 1


def test_other_inputs_missing_files_and_bad_use(
    cases: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([cases["generic"][0], *cases["copies"][1:]]) == 1
    assert "it is for other inputs (hash)" in capsys.readouterr().err
    assert check.main([cases["generic"][0], *cases["degenerate"][1:]]) == 1
    assert "it is for keys of (24, 12)" in capsys.readouterr().err
    assert check.main([str(tmp_path / "nowhere.json"), *cases["generic"][1:]]) == 2
    assert "No such file" in capsys.readouterr().err
    assert check.main([]) == 2
    assert "CERTIFICATE KEYS.npy QUERY.npy" in capsys.readouterr().out
    assert check.main(["--help"]) == 0
    np.save(tmp_path / "nan.npy", np.full((24, 12), np.nan))
    assert check.main([cases["generic"][0], str(tmp_path / "nan.npy"), cases["generic"][2]]) == 1
    assert "holds a NaN" in capsys.readouterr().err


def test_nothing_is_saved_without_a_proof_or_a_folder(tmp_path: Path) -> None:
    made = instances.make("gaussian", **SHAPE)
    found = vt.certify(made.keys, made.query)
    with pytest.raises(OSError, match="choose a path in a folder that can be written"):
        found.save(tmp_path / "missing" / "certificate.json")
    assert list(tmp_path.iterdir()) == []
    unproved = type(found)(**{**vars(found), "outcome": "ambiguous_face", "witness": None})
    with pytest.raises(ValueError, match="nothing to save"):
        unproved.save(tmp_path / "certificate.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "order", [(1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (0, 0, 2), (0, 1, 0)]
)
def test_files_in_another_order_are_bad_use(
    order: tuple[int, ...], cases: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([cases["generic"][i] for i in order]) == 2
    said = capsys.readouterr().err
    assert "CERTIFICATE KEYS.npy QUERY.npy" in said or "come first" in said
    assert len(said.splitlines()) == 1


def test_what_is_no_file_is_bad_use_at_once(
    cases: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    for place in (str(tmp_path / "pipe"), str(tmp_path), "/dev/zero"):
        for which in range(3):
            paths = list(cases["generic"])
            paths[which] = place
            assert check.main(paths) == 2
            assert "is not a file" in capsys.readouterr().err


# ------------------------------------------------------- .npy, held against what NumPy reads of it


def _read_by_numpy(data: bytes) -> np.ndarray | None:
    """The array, if NumPy finds one of plain finite numbers and nothing behind it."""
    file = io.BytesIO(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            array = np.load(file, allow_pickle=False)
        except Exception:  # noqa: BLE001 - NumPy promises no kind
            return None
    plain = isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and not file.read(1)
    return array if plain and np.isfinite(array).all() else None


def _read_by_us(data: bytes, shape: tuple[int, ...], folder: Path) -> list[float] | None:
    path = folder / "array.npy"
    path.write_bytes(data)
    try:
        return check.read_npy(str(path), "keys", shape)
    except check.Refused:
        return None


@settings(max_examples=150)
@given(
    dtype=st.sampled_from([*"dfeqihbQIHB", ">d", ">f", ">e", ">q", ">i", ">h", ">Q"]),
    shape=st.one_of(st.tuples(st.integers(1, 4), st.integers(1, 4)), st.tuples(st.integers(1, 6))),
    fortran=st.booleans(),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    data=st.binary(min_size=128, max_size=128),
)
def test_arrays_are_read_as_numpy_reads_them(
    dtype: str, shape: tuple[int, ...], fortran: bool, version: tuple[int, int], data: bytes
) -> None:
    array = np.frombuffer(data, dtype)[: math.prod(shape)].reshape(shape)
    array = np.where(np.isfinite(array), array, 1).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    with tempfile.TemporaryDirectory() as folder:
        found = _read_by_us(file.getvalue(), shape, Path(folder))
    exact = [int(value) if array.dtype.kind in "iu" else float(value) for value in array.ravel()]
    if all(int(float(value)) == value for value in exact if isinstance(value, int)):
        assert found == exact
    else:
        assert found is None


def test_a_forged_array_is_read_as_numpy_reads_it_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = np.array([[1.0, -2.5], [0.0, 3.0], [1e-3, 7.0]])
    kept = 0
    for _ in range(60):
        for way in array_forgeries.WAYS.values():
            data = way(array, rng)
            theirs = _read_by_numpy(data)
            for shape in {array.shape, (2, 3), (6,)} | (
                {theirs.shape} if theirs is not None else set()
            ):
                ours = _read_by_us(data, shape, tmp_path)
                if ours is None:
                    continue
                assert theirs is not None
                assert theirs.shape == shape
                assert ours == theirs.astype(float).ravel().tolist()
                kept += 1
    assert kept > 60


@pytest.mark.parametrize("place", range(3))
def test_a_file_of_a_terabyte_is_refused_at_once(
    place: int, cases: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = list(cases["generic"])
    huge = tmp_path / "huge"
    huge.write_bytes(Path(paths[place]).read_bytes())
    os.truncate(huge, 1 << 40)
    paths[place] = str(huge)
    started = time.perf_counter()
    assert check.main(paths) == 1
    assert time.perf_counter() - started < 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# ----------------------------------------------------------------- what is saved, and what is said


def _certified(keys: np.ndarray, query: np.ndarray) -> vt.Certificate:
    """Without the float solver: no proposal is needed, and compiling takes longer."""
    certify = importlib.import_module("vashista_theory.hull.rigorous.certify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify, "_proposal", lambda *_: {})
        return vt.certify(keys, query)


@settings(max_examples=120)
@given(
    numbers=st.lists(
        st.builds(
            lambda sign, digits, exponent: sign * math.ldexp(digits, exponent),
            st.sampled_from([-1, 1]),
            st.sampled_from([0, 1, 1, 3, 2**52 + 12345]),
            st.one_of(st.integers(-8, 8), st.integers(-1074, 960)),
        ),
        min_size=15,
        max_size=15,
    ),
    rows=st.integers(1, 4),
)
def test_whatever_is_certified_is_saved_and_accepted(numbers: list[float], rows: int) -> None:
    """Over the whole range of float64, where squares, tilts and small weights leave it."""
    query, keys = np.array(numbers[:3]), np.array(numbers[3:]).reshape(4, 3)[:rows]
    found = _certified(keys, query)
    assert found.proved
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / name for name in ("certificate.json", "keys.npy", "query.npy")]
        found.save(paths[0])
        np.save(paths[1], keys)
        np.save(paths[2], query)
        assert check.main([str(path) for path in paths]) == 0


def test_nothing_is_saved_that_is_too_large_for_the_checker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _certified(np.array([[0.0, 1.0], [1.0, 3.0]]), np.array([0.1, 0.2]))
    for limit in ("MOST_DIGITS", "MOST_BYTES", "MOST_NUMBERS"):
        with monkeypatch.context() as patch:
            patch.setattr(check, limit, 2)
            with pytest.raises(ValueError, match="the checker would not accept it"):
                found.save(tmp_path / "certificate.json")
    assert list(tmp_path.iterdir()) == []


def test_a_tangent_is_checked_whole_or_not_claimed(
    cases: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(Path(cases["generic"][0]).read_text())
    whole = content["tangent"]
    path = tmp_path / "changed.json"
    for tangent in (whole[:1], whole[:-1], [*whole, whole[0]], [], [whole], whole[0], 0, False, ""):
        path.write_text(json.dumps({**content, "tangent": tangent}))
        assert check.main([str(path), *cases["generic"][1:]]) == 1
    path.write_text(json.dumps({**content, "tangent": None}))
    capsys.readouterr()
    assert check.main([str(path), *cases["generic"][1:]]) == 0
    assert "tangent not covered" in capsys.readouterr().out
