"""The page about one query and its keys, from Python and from the command line."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import vashista_theory as vt
import vashista_theory.diagnose as command

ROOT = Path(__file__).parents[1]

# One shape, so that everything is compiled once. GENERIC by hand: the hull's nearest point to
# (.4, 0, 1) is (.4, 0, 0) on the edge of keys 0 and 1 with weights .6, .4; r* = (0, 0, 1), so the
# multipliers are minus the third coordinates and Δ = .4.
QUERY = np.array([0.4, 0.0, 1.0])
GENERIC = np.array([[0, 0, 0], [1, 0, 0], [0.3, 1, -0.9], [0.5, 0.2, -0.4], [0.2, 0.5, -0.7]])
EDGE_ENTROPY = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
# w₀ has e^{w₀ (1 − .4)} / e^{−.4 w₀} = .4 / .6 along the edge.
EDGE_TANGENT = abs(math.log(0.4 / 0.6))
# Theory's example without strict complementarity: key 2 on the supporting plane, ρ = 1.
DEGENERATE = np.array([[0, 0, 0], [1, 0, 0], [0.3, 1, 0], [0.5, 0.2, -0.4], [0.2, 0.5, -0.7]])
EXPOSED = GENERIC * np.array([1.0, 1.0, 0.0])
INSIDE = np.array([[1, 1, 1], [-1, 1, 1], [0, -1, 1], [0, 0, -2], [3, 3, 3.0]])
CASES = {
    "generic": (GENERIC, QUERY),
    "vertex": (GENERIC, np.array([-1.0, 0.0, 1.0])),
    "degenerate": (DEGENERATE, QUERY),
    "all exposed": (EXPOSED, np.array([0.45, 0.4, 1.0])),
    "all exposed, degenerate": (EXPOSED, QUERY),
    "coincident": (np.ones((5, 3)), QUERY),
    "inside": (INSIDE, np.zeros(3)),
    "on a key": (GENERIC, GENERIC[2]),
    "single key": (GENERIC[:1], QUERY),
    "single key, same": (GENERIC[:1], GENERIC[0]),
}


def entropic_weights(keys: np.ndarray, query: np.ndarray, epsilon: float) -> np.ndarray:
    """By SciPy on the naive dual min ε LSE(Ku/ε) + ½‖u‖² − ⟨q, u⟩; enough at moderate ε."""

    def gradient(u: np.ndarray) -> np.ndarray:
        return scipy.special.softmax(keys @ u / epsilon) @ keys + u - query

    found = scipy.optimize.root(gradient, query, tol=1e-14)
    # SciPy's flag asks for more digits than there are; what it found is judged by its gradient.
    assert np.linalg.norm(gradient(found.x)) < 1e-11
    return scipy.special.softmax(keys @ found.x / epsilon)


def leakage(epsilon: float) -> float:
    return float(entropic_weights(GENERIC, QUERY, epsilon)[2:].sum())


def test_the_worked_example() -> None:
    found = vt.diagnose(GENERIC, QUERY, scale=2.0)
    assert (found.n, found.d, found.result, found.advice) == (5, 3, "successful", "")
    assert found.face.index.tolist() == [0, 1]
    # A dozen roundings of numbers of order one.
    near = {"rel": 1e-13, "abs": 1e-14}
    assert found.face.optimal_weight == pytest.approx([0.6, 0.4], **near)
    assert found.gap == pytest.approx(0.4, **near)
    assert found.residual_norm == pytest.approx(1.0, **near)
    assert found.entropy == pytest.approx(EDGE_ENTROPY, **near)
    assert found.tangent_norm == pytest.approx(EDGE_TANGENT, **near)
    assert found.strict
    assert math.isnan(found.degeneracy_distance)
    assert found.solution.identity_defect < 1e-14
    assert found.epsilon == 0.5


def test_leakage_at_the_model_temperature_agrees_with_scipy() -> None:
    found = vt.diagnose(GENERIC, QUERY, scale=2.0)
    weights = entropic_weights(GENERIC, QUERY, 0.5)
    # The reference stops at a gradient of 1e-11.
    assert math.exp(found.log_leakage) == pytest.approx(weights[2:].sum(), rel=1e-9)
    assert found.face.entropic_weight == pytest.approx(weights[:2], rel=1e-9)
    row = found.temperatures.at_model
    moved = weights @ GENERIC - [0.4, 0, 0]
    log_moved = math.log(np.linalg.norm(moved))
    assert found.temperatures.log_displacement[row] == pytest.approx(log_moved, rel=1e-9)
    assert found.log_leakage <= found.log_leakage_bound
    assert found.regime == "outside"
    assert found.regime_verdict[0].startswith("No.")


def test_temperature_of_one_percent_agrees_with_a_root_finder() -> None:
    found = vt.diagnose(GENERIC, QUERY)
    root = scipy.optimize.brentq(lambda e: math.log(leakage(e) / 0.01), 0.05, 0.5, xtol=1e-12)
    # A factor of at most 1e7 refined thrice by 32: the last bracket is a factor 1 + 5e-4 or less.
    assert found.one_percent_epsilon == pytest.approx(root, rel=5e-4)
    assert found.safe_epsilon < found.one_percent_epsilon


def test_ordinary_attention_agrees_with_numpy() -> None:
    scale = 2.0
    found = vt.diagnose(GENERIC, QUERY, scale=scale)
    scores = GENERIC @ QUERY
    softmax = np.exp(scale * scores) / np.exp(scale * scores).sum()
    order = np.argsort(-scores)
    assert found.softmax.top.tolist() == [order[0]] == [1]
    # A few roundings of numbers of order one.
    near = {"rel": 1e-13}
    assert found.softmax.score_gap == pytest.approx(scores[order[0]] - scores[order[1]], **near)
    assert math.exp(found.softmax.log_leakage) == pytest.approx(1 - softmax[1], **near)
    assert found.softmax.mass_on_face == pytest.approx(softmax[[0, 1]].sum(), **near)
    assert found.face.softmax_weight == pytest.approx(softmax[[0, 1]], **near)
    assert found.face.score_rank.tolist() == [order.tolist().index(i) + 1 for i in (0, 1)]
    held = np.cumsum(softmax[order])
    assert found.softmax.support.for_90_percent == next(i + 1 for i in range(5) if held[i] >= 0.9)
    assert found.softmax.support.for_99_percent == next(i + 1 for i in range(5) if held[i] >= 0.99)
    distance = 0.5 * np.abs(softmax - entropic_weights(GENERIC, QUERY, 1 / scale)).sum()
    assert found.softmax.distance == pytest.approx(distance, rel=1e-9)
    assert distance <= found.softmax.distance_bound


@pytest.mark.parametrize(
    ("case", "result", "regime", "size"),
    [
        ("vertex", "successful", "outside", 1),
        ("degenerate", "degenerate_face", "outside", 3),
        ("all exposed", "successful", "inside", 5),
        ("all exposed, degenerate", "degenerate_face", "inside", 5),
        ("coincident", "successful", "inside", 5),
        ("inside", "inside_hull", "no gap", 5),
        pytest.param("single key", "successful", "inside", 1, marks=pytest.mark.slow),
        pytest.param("single key, same", "inside_hull", "no gap", 1, marks=pytest.mark.slow),
    ],
)
def test_special_cases_are_told_apart(case: str, result: str, regime: str, size: int) -> None:
    found = vt.diagnose(*CASES[case])
    assert (found.result, found.regime, len(found.face.index)) == (result, regime, size)


def test_a_degenerate_face_has_the_distance_of_t5() -> None:
    found = vt.diagnose(DEGENERATE, QUERY)
    assert not found.strict
    assert found.degeneracy_distance == pytest.approx(1.0, rel=1e-13)
    assert math.isnan(found.tangent_norm)
    assert "ρ = 1 (T5)" in str(found)


def test_colder_models_are_inside() -> None:
    warm = vt.diagnose(GENERIC, QUERY)
    between = math.sqrt(warm.safe_epsilon * warm.one_percent_epsilon)
    for epsilon, regime, word in [
        (0.99 * warm.safe_epsilon, "inside", "Yes."),
        (between, "unproved", "Nearly."),
        (1.01 * warm.one_percent_epsilon, "outside", "No."),
    ]:
        found = vt.diagnose(GENERIC, QUERY, scale=1 / epsilon)
        assert (found.regime, found.regime_verdict[0].split()[0]) == (regime, word)
        assert (leakage(epsilon) > 0.01) is (regime == "outside")


@pytest.mark.parametrize("case", CASES)
def test_every_page_fits_its_width_and_every_json_reads_back(case: str) -> None:
    found = vt.diagnose(*CASES[case])
    page = str(found)
    assert max(map(len, page.splitlines())) <= 100
    assert "nan" not in page.lower()
    assert "the theorem's regime" in page
    assert " ".join(found.regime_verdict[0].split()) in " ".join(page.split())
    read = json.loads(found.to_json())
    assert read["regime"] == found.regime
    assert float(read["gap"]) == pytest.approx(found.gap, nan_ok=True)
    assert read["face"]["index"] == found.face.index.tolist()


def test_the_reference_instance_and_a_real_head() -> None:
    rng = np.random.default_rng(0)
    keys, query = rng.normal(size=(1024, 64)), 1.5 * rng.normal(size=64)
    found = vt.diagnose(keys, query, scale=100.0)
    # To the digits published with the instance, the last of which may be cut off, not rounded.
    assert found.gap == pytest.approx(0.28012510083585, abs=1e-13)
    assert len(found.face.index) == 14
    assert found.face.optimal_weight[-1] == pytest.approx(0.01266756, abs=5e-9)
    assert found.tangent_norm == pytest.approx(0.45110816, abs=1e-8)
    assert found.log_leakage == pytest.approx(-30.48302, abs=5e-6)

    heads = vt.heads.load_heads()
    head_query, head_keys, _ = heads.attend(0, 0, -1)
    head = vt.diagnose(head_keys, head_query, scale=heads.scale)
    assert head.regime == "outside"
    assert head.log_leakage_bound == 0.0


def test_float32_arrays_are_taken_exactly() -> None:
    keys, query = GENERIC.astype(np.float32), QUERY.astype(np.float32)
    found = vt.diagnose(keys, query)
    exact = vt.diagnose(keys.astype(np.float64), query.astype(np.float64))
    assert (found.dtype, exact.dtype) == ("float32", "float64")
    assert found.gap == exact.gap
    assert vt.diagnose(GENERIC.tolist(), query).dtype == "float64 keys, float32 query"


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 1e-320])
def test_a_bad_scale_is_named(scale: float) -> None:
    with pytest.raises(ValueError, match=f"`scale` must be a positive number.*{scale!r}"):
        vt.diagnose(GENERIC, QUERY, scale=scale)


def test_bad_arrays_are_named() -> None:
    with pytest.raises(ValueError, match=r"keys\[1, 2\] is nan"):
        vt.diagnose(np.where(np.arange(15).reshape(5, 3) == 5, np.nan, GENERIC), QUERY)
    with pytest.raises(ValueError, match=r"\(5, 3\) and query of shape \(2,\)"):
        vt.diagnose(GENERIC, QUERY[:2])
    with pytest.raises(ValueError, match="overflow"):
        vt.diagnose(GENERIC * 1e200, QUERY)
    with pytest.raises(ValueError, match="cannot run under jax"):
        jax.jit(lambda query: vt.diagnose(GENERIC, query).gap)(QUERY)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.save(tmp_path / "keys.npy", GENERIC)
    np.save(tmp_path / "query.npy", QUERY)
    return tmp_path


def run(folder: Path, *options: str, keys: str = "keys.npy", query: str = "query.npy") -> int:
    return command.main([str(folder / keys), str(folder / query), *options])


def test_the_command_prints_the_page(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "--scale", "2") == 0
    shown = capsys.readouterr()
    # After the verdict and the table of its one head.
    assert shown.out.strip().endswith(str(vt.diagnose(GENERIC, QUERY, scale=2.0)).strip())
    assert shown.out.startswith("Nothing to gain: the 5 tokens")
    assert not shown.err


def test_the_command_prints_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "--format", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["gap"] == pytest.approx(0.4, rel=1e-13)
    assert shown["scale"] == 1 / math.sqrt(3)


def test_bad_files_give_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "text.npy").write_text("1 2 3")
    np.savez(files / "archive.npz", GENERIC)
    np.save(files / "objects.npy", np.array([{}]))
    np.save(files / "complex.npy", GENERIC + 1j)
    np.save(files / "nan.npy", GENERIC * np.nan)
    np.save(files / "flat.npy", GENERIC.ravel())
    np.save(files / "none.npy", GENERIC[:0])
    (files / "short.npy").write_bytes((files / "keys.npy").read_bytes()[:-9])
    (files / "header.npy").write_bytes((files / "keys.npy").read_bytes()[:20])
    (files / "empty.npy").write_bytes(b"")
    expected = {
        "absent.npy": "no such file",
        "": "cannot be read",
        "text.npy": "not a .npy file",
        "empty.npy": "not a .npy file",
        "archive.npz": "an archive, which brings the queries",
        "objects.npy": "not an array of plain numbers",
        "short.npy": "damaged",
        "header.npy": "damaged",
        "complex.npy": "complex128",
        "nan.npy": "must be finite",
        "flat.npy": "(15,)",
        "none.npy": "empty",
    }
    for name, words in expected.items():
        assert run(files, keys=name) == 2, name
        shown = capsys.readouterr()
        assert words in shown.err, name
        assert not shown.out
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1, "one message, no traceback"
    assert run(files, "--scale", "-1") == 2
    assert "`scale`" in capsys.readouterr().err


def fresh(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_module_runs_by_its_name(files: Path) -> None:
    done = fresh("-m", "vashista_theory.diagnose", str(files / "keys.npy"), str(files / "none.npy"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert fresh("-m", "vashista_theory.diagnose").returncode == 2
    helped = fresh("-m", "vashista_theory.diagnose", "--help")
    assert helped.returncode == 0
    assert "Examples:" in helped.stdout


@pytest.mark.parametrize(
    "first",
    [
        pytest.param("import vashista_theory.diagnose", marks=pytest.mark.slow),
        pytest.param(
            "import vashista_theory.diagnose; from vashista_theory import diagnose",
            marks=pytest.mark.slow,
        ),
        "vt.diagnose; import vashista_theory.diagnose",
        "from vashista_theory import diagnose; assert type(diagnose) is not type(vt)",
    ],
)
def test_function_and_module_share_their_name(first: str) -> None:
    # Refused before anything is compiled: this is about the name alone.
    refused = (
        "try:\n    vt.diagnose([[1.0, 2.0]], [3.0], scale=1)\n"
        "except ValueError as error:\n    assert 'do not belong together' in str(error)\n"
        "else:\n    raise AssertionError('not called')\n"
    )
    done = fresh(
        "-c",
        f"import importlib, vashista_theory as vt\n{first}\n{refused}"
        f"assert importlib.import_module('vashista_theory.diagnose').main\n{refused}",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_x64_is_on_for_the_call_alone() -> None:
    done = fresh(
        "-c",
        "import jax, vashista_theory as vt\n"
        "found = vt.diagnose([[0.1, 0.2]], [0.3, 0.4])\n"
        "assert not jax.config.jax_enable_x64\n"
        "assert abs(found.residual_norm - 0.08**0.5) < 1e-15, found.residual_norm\n",
    )
    assert done.returncode == 0, done.stderr
