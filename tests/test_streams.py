"""Who ends a command line, by leaving early (`| head`) or by a signal, ends it quietly.

The exit codes are the shell's: 141, 130 and 143.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.thinned import spread
from vashista_theory import _streams
from vashista_theory.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PROGRAMS = [ROOT / "vashista_theory/__main__.py"]
PROGRAMS += [
    ROOT / "vashista_theory" / f"{name.replace('.', '/')}.py" for name, _ in COMMANDS.values()
]
PROGRAMS += [ROOT / "experiments/__main__.py", ROOT / "figures/__main__.py"]

WAYS = {
    "at the end": "print('x')",
    "at once": "print('x', flush=True); raise SystemExit('went on')",
    "much": "print('x' * 10**6); raise SystemExit('went on')",
    "lines": "for _ in range(10**5): print('x')",
    "rich": "from rich.console import Console; Console().print('x'); raise SystemExit('went on')",
    "caught": """
    try:
        print('x', flush=True)
    except Exception as error:
        raise SystemExit('caught') from error""",
}


def _left(*command: str, both: bool = False) -> tuple[int, str]:
    """Exit code and errors of a Python program whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    errors = writing if both else subprocess.PIPE
    ran = subprocess.run(
        [sys.executable, *command], stdout=writing, stderr=errors, cwd=ROOT, check=False, text=True
    )
    os.close(writing)
    return ran.returncode, ran.stderr or ""


@pytest.mark.parametrize("way", spread(WAYS, 3))
def test_whatever_a_command_writes_with(way: str) -> None:
    code = (
        "from vashista_theory import _streams\n"
        f"def main():\n    {WAYS[way].strip()}\n    return 0\n_streams.run(main)"
    )
    assert _left("-c", code) == (_streams.READER_LEFT, "")


def test_errors_that_nobody_reads() -> None:
    assert _left("-m", "vashista_theory", "swep", both=True)[0] == _streams.READER_LEFT


@pytest.mark.parametrize("command", [["models", "--help"], ["diagnose", "--help"]])
def test_a_command_of_the_package(command: list[str]) -> None:
    assert _left("-m", "vashista_theory", *command) == (_streams.READER_LEFT, "")


def test_the_checker_which_shares_no_code() -> None:
    ended_by_the_signal = -13  # SIGPIPE, as subprocess reports it
    program = str(ROOT / "vashista_theory/check.py")
    assert _left("-c", "0") == (0, "")
    assert _left(program, "--help")[0] == ended_by_the_signal


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_program_starts_so(program: Path) -> None:
    _, _, start = program.read_text().partition('if __name__ == "__main__":')
    assert "start()" in start or "s.run(main)" in start or "SIGPIPE" in start


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("caught", [True, False])
def test_a_signal_interrupts_without_a_traceback(
    number: signal.Signals, code: int, caught: bool
) -> None:
    waits = "print('ready', flush=True); time.sleep(60)"
    body = f"try: {waits}\n except KeyboardInterrupt:\n  print('kept'); return 130" * caught
    text = (
        "import time\nfrom vashista_theory import _streams\n"
        f"def main():\n {body or waits}\n_streams.run(main)"
    )
    ran = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert ran.stdout is not None
    assert ran.stdout.readline() == "ready\n"
    ran.send_signal(number)
    out, errors = ran.communicate()
    assert (ran.returncode, out, errors) == (code, "kept\n" * caught, "")


def test_what_is_read_is_whole() -> None:
    code = "from vashista_theory import _streams\n_streams.run(lambda: print('é' * 10**5) or 3)"
    ran = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], capture_output=True, cwd=ROOT, check=False
    )
    assert (ran.returncode, ran.stdout.decode()) == (3, "é" * 10**5 + "\n")
