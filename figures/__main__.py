"""Command line of the figures.

Examples:
  python -m figures decode_scaling
  python -m figures all
  python -m figures all --results FOLDER --output FOLDER
"""

import argparse
import sys
from pathlib import Path

from figures import _style as style
from vashista_theory import runs

OK, BAD_USE = 0, 2


def main(arguments: list[str] | None = None) -> int:
    """Draw; what was not measured is said in one line, and is no failure."""
    parser = argparse.ArgumentParser(
        prog="python -m figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=f"all, or one of {', '.join(style.names())}")
    parser.add_argument("--results", type=Path, help="folder of the result files")
    parser.add_argument("--output", type=Path, default=style.OUTPUT, help="folder for the figures")
    given = parser.parse_args(arguments)
    wanted = style.names() if given.name == "all" else [given.name]
    try:
        for name in wanted:
            made = style.make(name, results=given.results, output=given.output)
            print(made if isinstance(made, str) else f"{name}: {made.png}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USE
    return OK


if __name__ == "__main__":
    runs.run(main)
