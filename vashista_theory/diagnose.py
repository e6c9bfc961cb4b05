"""Command line of the diagnosis: one query and its keys from .npy files, on one page.

`vashista_theory.diagnose` is two things that share a name: the public function, and this module,
which ``python -m vashista_theory.diagnose`` runs. Importing a submodule binds its name in the
package, over the function; so this module is callable and does what the function does. Whichever
was imported first, ``vt.diagnose(keys, query)`` works.
"""

import dataclasses
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from vashista_theory._array_files import read_npy
from vashista_theory._diagnose import Diagnosis, diagnose
from vashista_theory._types import ArrayLike

OK, UNSOLVED, BAD_USE = 0, 1, 2

_EXAMPLES = """\
Everything known about one query and its keys: projection, exposed face, gap, the bounds of the
face-stability theorem, ordinary attention beside them, and whether the model's own temperature
lies in the theorem's regime.

Examples:
  python -m vashista_theory.diagnose KEYS.npy QUERY.npy
  python -m vashista_theory.diagnose KEYS.npy QUERY.npy --scale 0.125
  python -m vashista_theory.diagnose KEYS.npy QUERY.npy --format json > page.json

A query of a real attention head, from the sample inside the package:
  python -c "import numpy as np, vashista_theory as vt; \\
      q, k, v = vt.heads.load_heads().attend(0, 0, -1); np.save('k', k); np.save('q', q)"
  python -m vashista_theory.diagnose k.npy q.npy

Exit code: 0; 1 if the projection could not be solved to rounding (the page says why); 2 for
bad use.
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """Arguments of the command line."""

    keys: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="KEYS.npy", help="(n, d) real numbers")
    ]
    query: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="QUERY.npy", help="(d,) real numbers")
    ]
    scale: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="S",
            help="the model's factor on the scores; its temperature is 1/S; 1/sqrt(d) if left out",
        ),
    ] = None
    format: Annotated[
        Literal["text", "json"], tyro.conf.arg(help="a page for people, or JSON for programs")
    ] = "text"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = tyro.cli(
        Command, args=arguments, prog="python -m vashista_theory.diagnose", description=_EXAMPLES
    )
    try:
        found = diagnose(_load(given.keys), _load(given.query), scale=given.scale)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USE
    _show(found, given.format)
    unsolved = found.solution.result in ("stagnated", "max_steps_reached")
    return UNSOLVED if unsolved else OK


def _load(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if not start.startswith(b"\x93NUMPY"):
            archive = " but an archive (.npz?)" if start.startswith(b"PK") else ""
            raise ValueError(f"{path}: not a .npy file{archive}. Write one array with numpy.save.")
        return read_npy(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(
            f"{path}: damaged, or not an array of plain numbers ({error}). Write it again with "
            "numpy.save."
        ) from None


def _show(found: Diagnosis, format_: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without Greek letters shows question marks rather than a traceback.
        sys.stdout.reconfigure(errors="replace")
    if format_ == "json":
        print(found.to_json())
        return
    if not sys.stdout.isatty():
        print(found)
        return
    from rich.console import Console

    from vashista_theory._diagnose.page import WIDTH, as_renderable

    console = Console()
    console.width = min(console.width, WIDTH)
    console.print(as_renderable(found))


class _CallableModule(ModuleType):
    def __call__(
        self, keys: ArrayLike, query: ArrayLike, *, scale: float | None = None
    ) -> Diagnosis:
        return diagnose(keys, query, scale=scale)


def _make_callable(module: Any) -> None:
    module.__class__ = _CallableModule


_make_callable(sys.modules[__name__])

if __name__ == "__main__":
    sys.exit(main())
