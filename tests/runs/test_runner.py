"""Interrupting, killing and spreading the work changes nothing in the result."""

import io
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import xarray as xr

from tests.runs import problem
from tests.runs.interrupted import kill_after, started
from tests.thinned import spread
from vashista_theory import runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("threads", spread([3, 1], 1))
def test_killed_midway_and_resumed(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "store"
    command = [sys.executable, "-m", "tests.runs.problem", str(path), str(threads)]
    kill_after(2, command, path / "finished")

    store = problem.open_store(path)
    missing = store.missing()
    assert 0 < len(missing) < problem.BLOCKS
    computed: list[int] = []

    def compute(block: int) -> xr.Dataset:
        computed.append(block)
        return problem.compute(block)

    runs.run_blocks(store, compute, progress="none")
    assert computed == missing  # nothing finished is computed again
    problem.assert_identical(store.load(), problem.expected())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_does_not_matter(tmp_path: Path, threads: int) -> None:
    store = problem.open_store(tmp_path)
    runs.run_blocks(store, problem.compute, threads=threads, progress="none")
    problem.assert_identical(store.load(), problem.expected())


def test_threads_run_at_the_same_time(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=30)

    def compute(block: int) -> xr.Dataset:
        together.wait()  # passes only if two blocks are in work at once
        return problem.compute(block)

    runs.run_blocks(problem.open_store(tmp_path), compute, threads=2, progress="none")


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_keeps_finished_blocks_and_says_how_to_resume(
    tmp_path: Path, threads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store = problem.open_store(tmp_path)

    def compute(block: int) -> xr.Dataset:
        if block == 3:
            raise KeyboardInterrupt
        return problem.compute(block)

    with pytest.raises(KeyboardInterrupt):
        runs.run_blocks(store, compute, threads=threads, progress="none")
    said = capsys.readouterr().err
    assert "of 6 blocks are finished" in said
    assert "Run the same command again" in said
    reopened = problem.open_store(tmp_path)
    assert reopened.missing() == store.missing()
    assert set(range(3)).isdisjoint(reopened.missing())


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_block_is_raised(tmp_path: Path, threads: int) -> None:
    def compute(block: int) -> xr.Dataset:
        raise ArithmeticError(f"in block {block}")

    with pytest.raises(ArithmeticError, match="in block"):
        runs.run_blocks(problem.open_store(tmp_path), compute, threads=threads, progress="none")


def test_only_the_blocks_asked_for(tmp_path: Path) -> None:
    store = problem.open_store(tmp_path)
    runs.run_blocks(store, problem.compute, [1, 4], progress="none")
    assert store.missing() == [0, 2, 3, 5]


def test_damage_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.run_blocks(problem.open_store(tmp_path), problem.compute, progress="none")
    (tmp_path / "finished" / "00002.json").write_text("")
    runs.run_blocks(problem.open_store(tmp_path), problem.compute, progress="none")
    assert "block 2 is damaged (its marker cannot be read)" in capsys.readouterr().err


def test_no_threads(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threads is 0"):
        runs.run_blocks(problem.open_store(tmp_path), problem.compute, threads=0)


def test_progress_is_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with runs.Progress(4, description="Work", done=1, interval=0.0, stream=stream) as progress:
        for _ in range(3):
            progress.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Work: 2 of 4 blocks after")
    assert "left" in lines[0]
    assert lines[-1].startswith("Work: 4 of 4 blocks")
    assert "\x1b" not in stream.getvalue()


def test_compiling_is_no_part_of_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("vashista_theory.runs.progress.time.monotonic", lambda: now)
    stream = io.StringIO()
    with runs.Progress(10, description="Work", interval=0.0, at_once=2, stream=stream) as progress:
        for now in (60.0, 61.0, 65.0, 69.0):  # noqa: B007 - what the clock says
            progress.advance()
    said = stream.getvalue().splitlines()
    # Nine are left and the one took a minute, compiling included.
    assert said[0] == "Work: 1 of 10 blocks after 60 s, at most about 540 s left"
    # Those after the first two took 4 s each.
    assert said[2] == "Work: 3 of 10 blocks after 65 s, about 28 s left"
    assert said[3] == "Work: 4 of 10 blocks after 69 s, about 24 s left"


_PROGRAM = """
import sys, time
from pathlib import Path
from tests.runs import problem
from vashista_theory import runs

def slow(block):
    time.sleep(0.2)
    return problem.compute(block)

def main():
    runs.run_blocks(problem.open_store(Path(sys.argv[1])), slow, threads=2, progress="none")
    return 0

runs.run(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_ended_says_how_to_resume(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = started(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        tmp_path / "finished",
        blocks=1,
        stderr=subprocess.PIPE,
    )
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code
    assert b"of 6 blocks are finished" in said
    assert b"Run the same command again" in said
    assert b"Traceback" not in said


@pytest.mark.parametrize(("unit", "said"), [("blocks", "block"), ("families", "family")])
def test_progress_of_one_is_no_plural(unit: str, said: str) -> None:
    stream = io.StringIO()
    with runs.Progress(1, description="Work", unit=unit, stream=stream) as progress:
        progress.advance()
    assert stream.getvalue().startswith(f"Work: 1 of 1 {said} after")


def test_progress_between_lines_is_silent() -> None:
    stream = io.StringIO()
    with runs.Progress(100, description="Work", interval=60.0, stream=stream) as progress:
        for _ in range(100):
            progress.advance()
    assert len(stream.getvalue().splitlines()) == 1  # the last one


def test_progress_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with runs.Progress(2, description="Work", stream=stream) as progress:
        progress.advance()
        progress.note("block 1 [is] odd")
        progress.advance()
    assert "2/2" in stream.getvalue()
    assert "block 1 [is] odd" in stream.getvalue()


def test_unknown_progress() -> None:
    with pytest.raises(ValueError, match="progress is 'loud'"):
        runs.Progress(1, description="Work", mode="loud")
