"""Strict settings for every test, in force before the package is first imported."""

import gc
import importlib.metadata
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import pytest
from hypothesis.database import DirectoryBasedExampleDatabase

# Every call is checked against its annotated shapes and types. Users do not pay for this: the
# hook lives here, not in the package. What Numba compiles has to be the functions themselves.
UNCHECKED = "vashista_theory.attention.kernels.cpu."


def checked_modules() -> list[str]:
    """The names of all modules but these; the name of a package stands for all below it."""
    spec = importlib.util.find_spec("vashista_theory")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    files = (file.relative_to(root.parent).with_suffix("") for file in root.rglob("*.py"))
    names = (".".join(file.parts).removesuffix(".__init__") + "." for file in files)
    apart = (name for name in names if not name.startswith(UNCHECKED))
    return [name[:-1] for name in apart if not UNCHECKED.startswith(name)]


jaxtyping.install_import_hook(checked_modules(), "beartype.beartype")

# Compiling is most of the time of the tests: without optimisation it takes a third. What users run
# is compiled as theirs by the sweep, the notebooks, and the full profile.
if os.environ.get("VASHISTA_PROFILE", "default") == "default":
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for processes that tests start
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag is fatal
        quick = "--xla_cpu_use_fusion_emitters=false"  # read at XLA's first use
        os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')}".strip()

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# A shell starts what runs in the background with Ctrl-C ignored; programs that tests start would
# inherit that, and tests interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Python looks for cycles after every 700 new objects, and traced programs are many objects that
# live: that was 6 % of the time of the tests, measured. What exists when they start is never
# looked at.
gc.set_threshold(100_000, 20, 20)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


# No deadline: the first example of a shape pays for its compilation.
hypothesis.settings.register_profile(
    "default", max_examples=12, deadline=None, derandomize=True, database=None
)
# A long run looks for new examples each time, and prints how to reproduce a failure. Remembering
# failures helps at a desk; CI starts from a fresh clone.
hypothesis.settings.register_profile(
    "full",
    max_examples=400,
    deadline=None,
    print_blob=True,
    database=None if "CI" in os.environ else DirectoryBasedExampleDatabase(".hypothesis/examples"),
)
hypothesis.settings.load_profile(os.environ.get("VASHISTA_PROFILE", "default"))


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the run-time type checks of the tests, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Linux lets a process have 65,530 memory maps unless told otherwise, and every compiled function
# takes some: beyond that XLA crashes. A run of all tests compiles that many.
_MANY_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def _room_to_compile() -> Iterator[None]:
    """Drop what earlier modules compiled before it is too much for the operating system."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()
