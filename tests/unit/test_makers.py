"""Results of children: every one arrives once and whole, and what goes wrong in a child is raised here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from resurgam.vault import workers

# The test runner has threads of its own, and whoever has some is not copied: so each case is a process.
CASE = """
import os, signal, sys, time
from resurgam.errors import IntegrityError
from resurgam.vault import makers, workers

workers.processors = lambda: 3
here = os.getpid()

def make(part, room):
    if part == {bad}:
        {act}
    data = bytes([part % 251]) * part
    room[:part] = data
    return part

def each(number, result):
    {each}
    assert bytes(result) == bytes([number % 251]) * number, number
    seen.append(number)

seen = []
try:
    work = makers.makers(range(200), make, 4096)
    assert work is not None
    work.take(each)
    print(sorted(seen) == list(range(200)), seen == sorted(seen))
except Exception as error:
    print(type(error).__name__, getattr(error, "message", ""), len(seen) < 200, sep="|")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left,", len(os.listdir("/proc/self/fd")), "files")
"""

pytestmark = pytest.mark.skipif(
    not os.path.isdir(workers._TASKS), reason="copies are made where /proc tells of threads"
)


def case(act: str = "pass", bad: int = -1, each: str = "pass") -> list[str]:
    """What the process above printed, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", CASE.format(bad=bad, act=act, each=each)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_every_result_arrives_once(capfd: pytest.CaptureFixture[str]) -> None:
    """More parts than places: a place is used again only when its result was taken."""
    del capfd
    said, left = case()
    assert said.startswith("True")
    assert left == "no child is left, 4 files", "the folder that is listed is the fourth"


def test_an_error_of_a_child_is_raised_here() -> None:
    """P12: by its class and its words."""
    said, left = case('raise IntegrityError("torn", untouched="all", next_step="look")', bad=100)
    assert said == "IntegrityError|torn|True"
    assert left.startswith("no child is left")


def test_a_child_that_is_killed_is_an_error() -> None:
    """P12: what it had not made yet is never taken for made."""
    said, left = case("os.kill(os.getpid(), signal.SIGKILL)", bad=100)
    assert said.startswith("ResurgamError|")
    assert said.endswith("|True")
    assert left.startswith("no child is left")


def test_an_error_while_taking_ends_the_children() -> None:
    """A store that is full stops the work now."""
    said, left = case(each="raise OSError(28, 'full')")
    assert said == "OSError||True"
    assert left == "no child is left, 4 files"


def test_children_end_with_their_parent() -> None:
    """Who waits for a place hears that nobody will give one."""
    act = "os.kill(here, signal.SIGKILL)"
    done = subprocess.run(
        [sys.executable, "-c", CASE.format(bad=60, act=act, each="pass")], capture_output=True, check=False, timeout=60
    )  # until all that hold its output have ended
    assert done.returncode == -signal.SIGKILL
