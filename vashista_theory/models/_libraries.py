"""One sentence instead of a traceback where torch or transformers is missing or too old."""

import importlib
import re

from vashista_theory._version import install

OLDEST_TRANSFORMERS = (4, 56)

CPU_ALONE = (
    "on Linux that is about 5 GB with CUDA's libraries. For a CPU alone (about 1 GB) first: "
    "pip install torch --index-url https://download.pytorch.org/whl/cpu"
)
"""What the extra takes, and how to take less."""


def require_lm() -> None:
    """Raise unless torch and a transformers that has the interfaces used here can be imported.

    Raises:
        ImportError: naming the library, its version and the extra that installs it.
    """
    for name in ("torch", "transformers"):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"language models need {name} ({error}). Remedy: {install('lm')}; {CPU_ALONE}"
            ) from error
        if name == "transformers":
            version = str(getattr(module, "__version__", "0"))
            numbers = [int(n) for n in re.findall(r"\d+", version)[:2]]
            if tuple(numbers) < OLDEST_TRANSFORMERS:
                raise ImportError(
                    f"transformers is {version}, but its cache and attention interfaces are used "
                    "as they are since 4.56. Upgrade it: pip install --upgrade transformers"
                )
