"""A process that opens, at once, each store whose path comes by a line of its standard input."""

import sys
from pathlib import Path

from tests.runs import problem

if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            said = str(problem.open_store(Path(line.rstrip("\n"))).missing())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is to be read
            said = f"{type(error).__name__}: {error}"
        print(said, flush=True)
