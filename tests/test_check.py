"""The checker: accepts what is certified, runs where nothing is installed, refuses all else."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vashista_theory as vt
from experiments.shared import tampering
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
    assert len(Path(check.__file__).read_text(encoding="utf-8").splitlines()) < 200


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
