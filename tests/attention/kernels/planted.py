"""Device bodies with one place changed, to see whether the tests notice."""

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax

_INTERPRETER = "jax._src.pallas.mosaic_gpu.interpret.interpret_pallas_call"
# A race, or a barrier that nobody waited for.
_NOTICED = ("RACE DETECTED", "no threads observed")


class NoticedError(Exception):
    """The interpreter of Mosaic GPU has found fault with a kernel."""


@contextlib.contextmanager
def noticing() -> Iterator[None]:
    """Raise a `NoticedError` where the interpreter finds a race, and make it usable again.

    Raises:
        NoticedError: said by the interpreter.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # Not public, and without it one failure fails all that follows.
        importlib.import_module(_INTERPRETER).reset_gpu_interpret_mode_state()
        if not any(words in str(error) for words in _NOTICED):
            raise
        raise NoticedError from error


def with_bug(module: ModuleType, pattern: str, replacement: str) -> ModuleType:
    """A copy of the module in which one place, and no other, is different."""
    path = Path(str(module.__file__))
    source, found = re.subn(pattern, replacement, path.read_text("utf-8"))
    assert found == 1, f"{pattern} stands {found} times in {path.name}"
    copy = ModuleType(f"{path.stem}_with_a_bug")
    exec(compile(source, str(path), "exec"), copy.__dict__)
    return copy
