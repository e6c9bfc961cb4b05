"""Command line of the diagnosis: an answer about heads from .npy and .npz files.

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

import tyro
from rich.console import Console

from vashista_theory import _streams
from vashista_theory._diagnose import Answer, diagnose
from vashista_theory._diagnose.answer import answer_as_renderable
from vashista_theory._diagnose.files import Arrays, load
from vashista_theory._diagnose.page import WIDTH
from vashista_theory._files import whole_file

OK, UNSOLVED, BAD_USE = 0, 1, 2
DRAWN = (".png", ".pdf", ".svg")

_EXAMPLES = """\
Can these heads be read sparsely? First the answer in a few sentences: how far off a read of few
tokens is expected to be, which heads need more, how many pages a proof takes, whether the theorem's
regime is reached. Then a table by head, then everything known about the query that is hardest.

Examples:
  vashista diagnose KEYS.npy QUERIES.npy VALUES.npy     one head or more; values may be left out
  vashista diagnose KEYS.npy QUERY.npy --scale 0.125
  vashista diagnose MINE.npz --figure answer.png        arrays keys, queries, values, scale
  vashista diagnose HEADS.npz                           what `vashista models capture` wrote
  vashista diagnose sample                              heads of a language model, in the package
  vashista diagnose KEYS.npy QUERIES.npy --json > answer.json

Shapes: keys (T, D), (Hkv, T, D) or (L, Hkv, T, D); queries (D,), (Q, D), (H, D), (H, Q, D) or
(L, H, Q, D), H a multiple of Hkv; values like the keys.

Exit code: 0; 1 if a projection could not be solved to rounding (the page says why); 2 for
bad use.
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """Arguments of the command line."""

    keys: Annotated[
        Path,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="KEYS", help=".npy; or .npz with all arrays, a heads file, `sample`"),
    ]
    queries: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="QUERIES", help=".npy")
    ] = None
    values: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="VALUES", help=".npy; optional")
    ] = None
    scale: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="S",
            help="the model's factor on the scores; its temperature is 1/S; 1/sqrt(d) if left out",
        ),
    ] = None
    tokens: Annotated[
        int, tyro.conf.arg(metavar="N", help="that a sampled read takes for each key head")
    ] = 256
    tolerance: Annotated[
        float, tyro.conf.arg(metavar="X", help="relative error, and dropped softmax mass")
    ] = 0.05
    causal: Annotated[
        Literal["auto", "yes", "no"],
        tyro.conf.arg(help="queries see the keys up to their own; auto: if as many as the keys"),
    ] = "auto"
    figure: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help="a picture by head (.png, .pdf or .svg)")
    ] = None
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="JSON for programs")] = (
        False
    )
    format: Annotated[
        Literal["text", "json"], tyro.conf.arg(help="a page for people, or JSON for programs")
    ] = "text"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = tyro.cli(Command, args=arguments, prog="vashista diagnose", description=_EXAMPLES)
    try:
        _check_figure(given.figure)
        found = _answer(given, load(given.keys, given.queries, given.values))
        if given.figure is not None:
            _draw(found, given.figure)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USE
    _show(found, "json" if given.json else given.format)
    unsolved = found.solution.result in ("stagnated", "max_steps_reached")
    return UNSOLVED if unsolved else OK


def _answer(given: Command, arrays: Arrays) -> Answer:
    asked: dict[str, Any] = {"tokens": given.tokens, "tolerance": given.tolerance}
    with Console(stderr=True).status("") as status:

        def progress(doing: str, done: int, total: int) -> None:
            first = " (compiling first)" if done == 0 else f" {done} of {total}"
            status.update(f"{doing}{first}")

        causal = {"auto": None, "yes": True, "no": False}[given.causal]
        if arrays.heads is not None:
            _refuse_for_heads(given)
            return diagnose(arrays.heads, progress=progress, **asked)
        scale = arrays.scale if given.scale is None else given.scale
        found = diagnose(
            arrays.keys,
            arrays.queries,
            arrays.values,
            scale=scale,
            causal=causal,
            progress=progress,
            **asked,
        )
    assert isinstance(found, Answer), "tokens and tolerance ask for one"
    return found


def _refuse_for_heads(given: Command) -> None:
    if given.scale is not None or given.causal != "auto":
        raise ValueError(
            f"{given.keys} is a heads file, which brings its own scale and positions: leave out "
            "--scale and --causal."
        )


def _check_figure(path: Path | None) -> None:
    """Before anything is computed."""
    if path is None:
        return
    if path.suffix.lower() not in DRAWN:
        raise ValueError(f"--figure {path}: a name that ends in {', '.join(DRAWN)} is expected.")
    if not path.parent.is_dir():
        raise ValueError(f"--figure {path}: there is no folder {path.parent}. Make it first.")


def _draw(found: Answer, path: Path) -> None:
    import matplotlib as mpl

    from vashista_theory.plots import STYLE

    with mpl.rc_context(STYLE), whole_file(path) as file:
        found.figure().savefig(file, format=path.suffix.lower()[1:])
    print(f"Figure: {path}", file=sys.stderr)


def _show(found: Answer, format_: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without Greek letters shows question marks rather than a traceback.
        sys.stdout.reconfigure(errors="replace")
    if format_ == "json":
        print(found.to_json())
        return
    if not sys.stdout.isatty():
        print(found)
        return
    console = Console()
    console.width = min(console.width, WIDTH)
    console.print(answer_as_renderable(found))


class _CallableModule(ModuleType):
    def __call__(self, *arrays: Any, **options: Any) -> Any:
        return diagnose(*arrays, **options)


def _make_callable(module: Any) -> None:
    module.__class__ = _CallableModule


_make_callable(sys.modules[__name__])

if __name__ == "__main__":
    _streams.run(main)
