"""A device whose kernels cannot be used says so once, and the extra installs what they import."""

import functools
import importlib.metadata
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vashista_theory.attention import PagedKV, Policy, SummarySpec, kernels, vashista_attention
from vashista_theory.attention.kernels import api

ROOT = Path(__file__).parents[3]
CORE = {"jax", "equinox", "jaxtyping", "numpy"}
TOKENS = np.ones((1, 1, 4, 8), np.float32)
QUERY = np.ones((1, 1, 8), np.float32)


@pytest.fixture
def gpu(monkeypatch):
    """As if a GPU were JAX's default device; what is computed still runs where the arrays are."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    api._tell.cache_clear()
    yield
    api._tell.cache_clear()


def decode() -> None:
    spec = SummarySpec(ball=False, sketch_bits=None)
    cache = PagedKV.from_tokens(TOKENS, TOKENS, page_size=2, spec=spec)
    vashista_attention(QUERY, cache, Policy.dense())


def attend() -> None:
    pool = TOKENS.reshape(1, 2, 2, 8)
    ones = np.ones((1, 1, 1), np.int32)
    kernels.attend_pages(QUERY, pool, pool, ones, ones[0])


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("call", [decode, attend])
def test_a_library_that_is_missing_is_told_once(call, monkeypatch) -> None:
    real = api.importlib.import_module

    def without_absl(name: str):
        if name.endswith("gpu.stages"):
            raise ModuleNotFoundError("No module named 'absl'", name="absl")
        return real(name)

    monkeypatch.setattr(api.importlib, "import_module", without_absl)
    with pytest.warns(RuntimeWarning, match=r"'absl'.*vashista-theory\[cuda\]") as told:
        call()
    assert len(told) == 1
    assert "runs in plain JAX" in str(told[0].message)
    call()  # in silence: warnings are errors here


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("call", [decode, attend])
def test_a_shape_that_no_kernel_takes_is_told_once(call) -> None:
    pytest.importorskip("absl", reason="JAX's Mosaic GPU needs absl-py")
    # Outside jit nothing is traced for a device that the arrays are not on.
    with pytest.warns(RuntimeWarning, match=r"'mosaic_gpu': keys are float32") as told:
        jax.jit(call)()
    assert len(told) == 1
    jax.jit(functools.partial(call))()  # traced anew


@pytest.mark.parametrize("call", [decode, attend])
def test_nothing_is_told_where_there_is_no_such_device(call) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


def installed_by(requirement: str, seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """Names of the distributions that a requirement brings; those not installed by name alone."""
    asked = Requirement(requirement)
    name, extras = canonicalize_name(asked.name), frozenset(asked.extras)
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    try:
        needed = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return {name}
    found = {name}
    for line in needed:
        marker = Requirement(line).marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
            found |= installed_by(line, seen)
    return found


WITHOUT = """
import importlib, sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))  # None: importing it fails
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize(("module", "extra"), [("gpu.stages", "cuda"), ("tpu.stages", "tpu")])
def test_an_extra_installs_all_that_its_kernels_import(module: str, extra: str) -> None:
    if extra == "cuda":
        pytest.importorskip("absl", reason="JAX's Mosaic GPU needs absl-py")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [d for d in project["dependencies"] if Requirement(d).name in CORE]
    assert len(asked) == len(CORE)
    seen: set[tuple[str, frozenset[str]]] = set()
    brought: set[str] = set()
    for requirement in [*asked, *project["optional-dependencies"][extra]]:
        brought |= installed_by(requirement, seen)
    absent = [
        name
        for name, distributions in importlib.metadata.packages_distributions().items()
        if not brought & set(map(canonicalize_name, distributions)) and name != "vashista_theory"
    ]
    assert "scipy" not in absent, "JAX's own"
    assert "pytest" in absent
    loaded = [sys.executable, "-c", WITHOUT, f"vashista_theory.attention.kernels.{module}"]
    done = subprocess.run([*loaded, *absent], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
