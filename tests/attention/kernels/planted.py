"""Device bodies with one place changed, to see whether the tests notice."""

import re
from pathlib import Path
from types import ModuleType


def with_bug(module: ModuleType, pattern: str, replacement: str) -> ModuleType:
    """A copy of the module in which one place, and no other, is different."""
    path = Path(str(module.__file__))
    source, found = re.subn(pattern, replacement, path.read_text("utf-8"))
    assert found == 1, f"{pattern} stands {found} times in {path.name}"
    copy = ModuleType(f"{path.stem}_with_a_bug")
    exec(compile(source, str(path), "exec"), copy.__dict__)
    return copy
