"""Work that is shared among threads or copies of this process: all of it is done, and what goes wrong is told once, by its name."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from resurgam.errors import IntegrityError, ResurgamError
from resurgam.vault import workers
from resurgam.vault.workers import work_on

# The test runner has threads of its own, and whoever has some is not copied: so each case is a process.
CASE = """
import os, signal, sys, time
from resurgam.errors import IntegrityError, ResurgamError
from resurgam.vault import workers

workers.processors = lambda: 2
place, here = sys.argv[1], os.getpid()
ticks = []

def work(part):
    if part == {bad}:
        {act}
    with open(os.path.join(place, str(part)), "w") as file:
        file.write(str(os.getpid()))

def tick():
    ticks.append(1)
    {tick}

try:
    workers.work_on(range(20), work, meanwhile=tick, processes=True)
except BaseException as error:
    print(type(error).__name__, *(getattr(error, name, "") for name in ("message", "untouched", "next_step")), sep="|")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left,", "ticked" if ticks else "never ticked")
"""

pytestmark = pytest.mark.skipif(
    not os.path.isdir(workers._TASKS), reason="copies are made where /proc tells of threads"
)


def case(place: Path, act: str = "pass", bad: int = -1, tick: str = "pass") -> list[str]:
    """What the process above printed, line by line."""
    command = [sys.executable, "-c", CASE.format(bad=bad, act=act, tick=tick), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    return done.stdout.splitlines()


def test_all_parts_are_done_by_two_copies(tmp_path: Path) -> None:
    assert case(tmp_path) == ["no child is left, ticked"]
    workers_seen = {(tmp_path / str(part)).read_text() for part in range(20)}
    assert len(workers_seen) == 2
    assert str(os.getpid()) not in workers_seen


def test_an_error_is_the_same_one_here(tmp_path: Path) -> None:
    """P12: what was wrong, what was left untouched and what to do next come over from the child."""
    said, left = case(tmp_path, 'raise IntegrityError("torn", untouched="all", next_step="look")', bad=7)
    assert said == "IntegrityError|torn|all|look"
    assert left.startswith("no child is left")


def test_a_mistake_of_ours_is_told_with_its_place(tmp_path: Path) -> None:
    said = case(tmp_path, 'raise KeyError("a mistake")', bad=3)
    assert said[0].startswith("RuntimeError")


def test_a_child_that_is_killed_is_an_error(tmp_path: Path) -> None:
    """P12: half of the work is never taken for the whole."""
    said, left = case(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", bad=5)
    assert said.startswith("ResurgamError|")
    assert "again" in said
    assert left.startswith("no child is left")


def test_a_host_that_allows_no_more_processes_has_threads(tmp_path: Path) -> None:
    """All is done nevertheless, and what was begun in a copy is begun anew."""
    code = CASE.replace("def tick", "forks, fork = [], os.fork\n\ndef few():\n    forks.append(1)\n    "
                        "if len(forks) > 1:\n        raise BlockingIOError(11, 'no more')\n    return fork()\n\n"
                        "os.fork = few\n\ndef tick")  # fmt: skip
    command = [sys.executable, "-c", code.format(bad=-1, act="pass", tick="pass"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["no child is left, ticked"]
    assert len(os.listdir(tmp_path)) == 20


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    """P5: what a dead process was writing does not go on growing."""
    act = "os.kill(here, signal.SIGKILL) if os.getpid() != here else None\n        time.sleep(0.2)"
    command = [sys.executable, "-c", CASE.format(bad=2, act=act, tick="pass"), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=60
    )  # until all that hold its output have ended
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) < 20


@pytest.mark.parametrize("processes", [True, False])
def test_who_has_threads_shares_among_threads(processes: bool) -> None:
    """A fork would leave what another thread has locked locked for ever."""
    seen: list[int] = []
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    try:
        work_on(range(50), seen.append, meanwhile=lambda: None, processes=processes)
    finally:
        ended.set()
        other.join()
    assert sorted(seen) == list(range(50))


def failing(error: type[BaseException]) -> Callable[[int], None]:
    def work(part: int) -> None:
        if part == 4:
            raise error("wrong")

    return work


@pytest.mark.parametrize("error", [IntegrityError, ResurgamError, OSError])
def test_threads_stop_at_the_first_error(error: type[BaseException]) -> None:
    with pytest.raises(error):
        work_on(range(50), failing(error), meanwhile=lambda: None)


@pytest.mark.parametrize("processes", [True, False])
def test_a_flush_that_fails_meanwhile_fails_the_work(tmp_path: Path, processes: bool) -> None:
    """P5: the kernel tells of a failed write once, to whoever flushes next; the flush at the end would hear nothing."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        work_on(range(50), lambda _: None, meanwhile=full, processes=processes)
    lines = case(tmp_path, "pass", tick="raise OSError(28, 'full')")
    assert lines[0].startswith("OSError")
    assert lines[1].startswith("no child is left")
