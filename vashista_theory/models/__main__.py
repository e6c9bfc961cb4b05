"""``python -m vashista_theory.models``: fetch weights, capture heads, generate text."""

import tyro
from rich.console import Console

from vashista_theory import _streams
from vashista_theory.models.commands import Capture, Fetch, Generate
from vashista_theory.models.fetching import FetchError

DESCRIPTION = """Language models: fetch weights, capture heads, generate text.

Examples:
  python -m vashista_theory.models fetch smollm2-135m
  python -m vashista_theory.models generate                 a 4k prompt, by several policies
  python -m vashista_theory.models generate --model ./my-model --text book.txt --prompt-tokens 2048
  python -m vashista_theory.models capture --output heads.npz --layers 0 15 29

Weights are kept in $VASHISTA_CACHE, by default ~/.cache/vashista-theory.
Exit code: 0; 2 for a request that cannot be met.
"""

BAD_USE, INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"fetch": Fetch, "capture": Capture, "generate": Generate},
        args=arguments,
        prog="python -m vashista_theory.models",
        description=DESCRIPTION,
    )
    try:
        command.run(Console())
    except (ValueError, OSError, ImportError, FetchError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return BAD_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    _streams.run(main)
