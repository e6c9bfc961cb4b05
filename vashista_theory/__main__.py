"""``python -m vashista_theory``, installed as ``vashista``: every command line of the package."""

import importlib
import sys

from vashista_theory import _streams

COMMANDS = {
    "sweep": ("sweep.__main__", "verify the theorem on families of hulls and on attention heads"),
    "diagnose": (
        "diagnose",
        "can heads be read sparsely? the answer first, then the numbers",
    ),
    "check": ("check", "verify a certificate with the standard library alone"),
    "evaluate": ("evaluation.__main__", "sparse reads in a language model, held against dense"),
    "models": ("models.__main__", "fetch weights, capture attention heads, generate text"),
}
"""Command → its module, and what it does."""

USAGE = f"""usage: vashista COMMAND [arguments]
   or: python -m vashista_theory COMMAND [arguments]

Commands:
{chr(10).join(f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items())}

Examples:
  vashista sweep --quick --output try
  vashista diagnose KEYS.npy QUERIES.npy VALUES.npy
  vashista check CERTIFICATE.json KEYS.npy QUERY.npy
  vashista evaluate --help
  vashista models fetch smollm2-135m

`vashista COMMAND --help` says more about each.
"""

BAD_USE = 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code, or 2 for a command that does not exist."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if given else BAD_USE
    if given[0] not in COMMANDS:
        print(f"error: no command {given[0]!r}.\n\n{USAGE}", end="", file=sys.stderr)
        return BAD_USE
    module, _ = COMMANDS[given[0]]
    return importlib.import_module(f"vashista_theory.{module}").main(given[1:])


def start() -> None:
    """What `vashista` runs."""
    _streams.run(main)


if __name__ == "__main__":
    start()
