"""Mistakes that people make, at the command line and in Python: one message names the remedy."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vashista_theory as vt
from vashista_theory import plots
from vashista_theory.__main__ import main
from vashista_theory.attention import PagedKV, Policy, vashista_attention

# As many users see it: the run-time type checks of the tests are not theirs.
pytestmark = pytest.mark.usefixtures("as_users_run_it")

RNG = np.random.default_rng(0)
KEYS, QUERIES = RNG.normal(size=(2, 40, 8)), RNG.normal(size=(4, 3, 8))
TEXT = "0.1,0.2\n0.3,0.4\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user has lying about; the command runs there."""
    monkeypatch.chdir(tmp_path)
    arrays = {
        "k": KEYS, "q": QUERIES, "kd": KEYS.swapaxes(1, 2), "kt": KEYS.swapaxes(0, 1),
        "nan": np.where(KEYS > 2, np.nan, KEYS), "complex": KEYS + 1j, "one": KEYS[0, :, 0],
        "text": np.array([["a", "b"]]),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    Path("k.csv").write_text(TEXT)
    Path("cut.npy").write_bytes(Path("k.npy").read_bytes()[:-8])
    np.savez("unnamed.npz", KEYS, QUERIES)
    np.savez("typo.npz", keys=KEYS, querys=QUERIES)
    np.savez("good.npz", keys=KEYS, queries=QUERIES)
    np.savez("scale.npz", keys=KEYS, queries=QUERIES, scale=np.ones(3))
    return tmp_path


COMMANDS: dict[str, str] = {
    # vashista diagnose
    "diagnose absent.npy q.npy": "there is no such file",
    "diagnose k.csv q.npy": "Write one array with numpy.save",
    "diagnose cut.npy q.npy": "Write it again with numpy.save",
    "diagnose k.npy": "the queries are missing. Give KEYS.npy QUERIES.npy",
    "diagnose q.npy k.npy": "swapped: keys come first",
    "diagnose kd.npy q.npy": "pass keys.swapaxes(-2, -1)",
    "diagnose kt.npy q.npy": "pass array.swapaxes(-3, -2)",
    "diagnose k.npy q.npy kt.npy": "pass values.swapaxes(-3, -2)",
    "diagnose one.npy k.npy": "look swapped",
    "diagnose nan.npy q.npy": "Remove these rows or mask them",
    "diagnose complex.npy q.npy": "Convert it, for example",
    "diagnose text.npy q.npy": "real numbers are expected",
    "diagnose unnamed.npz": "numpy.savez(path, keys=..., queries=..., values=...)",
    "diagnose typo.npz": "holds keys, querys; expected arrays named keys and queries",
    "diagnose scale.npz": "not one number",
    "diagnose good.npz q.npy": "give it alone",
    "diagnose sample --scale 2": "leave out --scale",
    "diagnose k.npy q.npy --scale -1": "Leave it out for 1/sqrt(d)",
    "diagnose k.npy q.npy --tokens 8": "use 33 or more",
    "diagnose k.npy q.npy --tolerance 5": "such as 0.05 for 5 %",
    "diagnose k.npy q.npy --figure picture.bmp": "a name that ends in .png",
    "diagnose k.npy q.npy --figure absent/a.png": "there is no folder absent. Make it first",
    "diagnose k.npy q.npy --causal perhaps": "auto",
    "diagnose k.npy q.npy --causal yes --tokens many": "many",
    # vashista sweep
    "sweep --families gausian --output o": "did you mean 'gaussian'?",
    "sweep --n -3 --output o": "expected an integer of at least 1",
    "sweep --epsilon-min 0 --output o": "must be positive",
    "sweep --epsilon-min 20 --output o": "above epsilon_max",
    "sweep --families heads --heads absent.npz --output o": "absent.npz",
    "sweep --families heads --heads good.npz --output o": "lacks values",
    "sweep --quick --output k.npy": "is a file",
    "sweep --quick --output .": "Choose a new or empty output folder",
    "sweep --threads 0 --output o": "threads is 0",
    "sweep --format xml": "xml",
    # vashista check
    "check certificate.json k.npy": "CERTIFICATE",
    "check k.npy k.npy q.npy": "give CERTIFICATE KEYS.npy QUERY.npy",
    "check absent.json k.npy q.npy": "absent.json",
    # vashista evaluate
    "evaluate --policy budgt": "budget",
    "evaluate --tasks needle": "needle-prose",
    "evaluate --pages 1": "pages is 1",
    "evaluate --contexts 2048 2048": "none of them twice",
    "evaluate --positions 4096": "some of which have to come before",
    "evaluate --text none --tasks none": "leave --text out",
    "evaluate --tolerances 2": "between 0 and 1",
    "evaluate --prompts 0": "prompts is 0",
    # vashista models
    "models fetch smollm": "smollm2-135m",
    "models capture --output heads": "name it heads.npz",
    "models capture --output absent/heads.npz": "folder that exists",
    "models capture --output h.npz --layers 0 0": "each once",
    "models capture --output h.npz --layers -1": "layers",
    "models capture --output h.npz --positions 2000": "1 to 1024 queries can be kept",
    "models capture": "output",
    "models generate --format xml": "xml",
    # vashista
    "swep": "sweep",
    "": "vashista COMMAND",
}


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.usefixtures("folder")
def test_a_command_line_names_the_remedy(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(line.split())
    except SystemExit as end:  # tyro's way out
        code = end.code
    said = capsys.readouterr()
    assert code == 2
    assert COMMANDS[line] in " ".join("".join(said).replace("│", " ").split())
    assert "Traceback" not in "".join(said)


def cache() -> PagedKV:
    return PagedKV.from_tokens(KEYS[None], KEYS[None])


def full() -> PagedKV:
    return PagedKV.from_tokens(KEYS[None, :, :32], KEYS[None, :, :32])


QUERY = QUERIES[None, :, 0]
CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "keys and query of unlike size": (lambda: vt.project(KEYS[0], QUERY[0, 0, :5]), "same lengths"),
    "keys and query swapped": (lambda: vt.diagnose(QUERY[0, 0], KEYS[0]), "look swapped"),
    "relax of keys": (lambda: vt.relax(KEYS[0], 0.1), "relax(vashista_theory.project(keys, query)"),
    "stability of keys": (lambda: vt.face_stability(KEYS[0]), "vashista_theory.project(keys"),
    "diagnose under jit": (
        lambda: jax.jit(lambda q: vt.diagnose(KEYS[0], q).gap)(QUERY[0, 0]), "Call it outside",
    ),
    "diagnose of keys alone": (lambda: vt.diagnose(KEYS[0]), "a query is missing"),
    "ragged keys": (lambda: vt.project([[1.0, 2.0], [3.0]], [1.0, 2.0]), "rectangular"),
    "keys as text": (lambda: vt.project([["a", "b"]], [1.0, 2.0]), "real numbers are expected"),
    "heads file absent": (lambda: vt.heads.load_heads("absent.npz"), "leave the path out"),
    "leakage of a query in the hull": (
        lambda: plots.leakage_of(np.eye(3) - 1 / 3, np.zeros(3)), "diagnose(keys, query)",
    ),
    "values of another shape": (
        lambda: PagedKV.from_tokens(KEYS[None], KEYS[None, :, :3]), "one shape and one type",
    ),
    "keys without batch": (lambda: PagedKV.from_tokens(KEYS, KEYS), "expected (B, Hkv, T, D)"),
    "empty cache without pages": (
        lambda: PagedKV.create(batch=1, kv_heads=2, head_size=8, pages=0), "positive integer",
    ),
    "room and pages": (
        lambda: PagedKV.from_tokens(KEYS[None], KEYS[None], room=4, pages=9), "the one or the",
    ),
    "token that does not fit": (
        lambda: full().append(KEYS[None, :, 0], KEYS[None, :, 0]), "room=tokens",
    ),
    "token in another type": (
        lambda: cache().append(KEYS[None, :, 0].astype("f4"), KEYS[None, :, 0].astype("f4")),
        ".astype('float64')",
    ),
    "queries that cannot share heads": (
        lambda: vashista_attention(QUERY[:, :3], cache(), Policy.dense()), "multiple of Hkv",
    ),
    "query without batch": (
        lambda: vashista_attention(QUERY[0], cache(), Policy.dense()), "expects (1, H, 8)",
    ),
    "policy as text": (lambda: vashista_attention(QUERY, cache(), "dense"), "Policy.dense()"),
    "keys where a cache belongs": (
        lambda: vashista_attention(QUERY, KEYS, Policy.dense()), "PagedKV",
    ),
    "a key for a policy that draws nothing": (
        lambda: vashista_attention(QUERY, cache(), Policy.dense(), key=jax.random.key(0)),
        "Use Policy.sampled()",
    ),
    "fewer tokens than are always read": (
        lambda: vashista_attention(QUERY, cache(), Policy.sampled(16)), "Use tokens=33 or more",
    ),
    "tolerance in per cent": (lambda: Policy.certified(5), "for example 0.05"),
    "summary misspelt": (lambda: Policy(summary="boxes"), "expected one of"),
    "a derivative": (
        lambda: jax.grad(lambda q: jnp.sum(vashista_attention(q, cache(), Policy.dense())[0]))(
            jnp.asarray(QUERY)
        ),
        "dense_attention",
    ),
    "an unknown name": (lambda: vt.attention.PagedKV.from_token, "from_token"),
    "a sweep of no family": (lambda: vt.sweep.SweepConfig(families=("cube",)), "known:"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_names_the_remedy(name: str) -> None:
    call, words = CALLS[name]
    with pytest.raises((ValueError, RuntimeError, AttributeError)) as refused:
        call()
    assert words in " ".join(str(refused.value).split())


def test_there_are_sixty_and_more() -> None:
    assert len(COMMANDS) + len(CALLS) >= 60
