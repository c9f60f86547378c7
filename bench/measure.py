"""One timed process, and the state of the machine before it.

The clock runs from the start of the process to the return of ``sync -f`` on the file system that it wrote to. So every
tool has the same durability whatever it flushes itself: when the clock stops, all it wrote is on disk. Everything dirty is
flushed before the clock starts, and what is going to be read has been read once (it lies in the page cache).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_STEP = 1 << 20


class Cost(NamedTuple):
    """What one run took: seconds, processor seconds (user and system, of the process and its children), bytes."""

    wall: float
    cpu: float
    memory: int


class Failed(Exception):
    """A tool ended with an exit code other than 0."""


def run(command: Sequence[str], environment: Mapping[str, str], folder: str, *, log: str) -> Cost:
    """Run ``command`` in ``folder``, on whose file system it writes; its output goes to the file ``log``.

    The peak memory is that of the largest process. Linux counts what the parent held when it started the child into the
    child's peak, which is why this program imports nothing big. Raises Failed.
    """
    os.sync()
    with open(log, "wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        subprocess.run(["sync", "-f", folder], check=True)
        wall = time.perf_counter() - began
    if process.returncode != 0:
        with open(log, encoding="utf-8", errors="replace") as text:
            raise Failed(f"{' '.join(command)} ended with {process.returncode}:\n{text.read()[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def warm(folder: str) -> None:
    """Read every file below ``folder`` once."""
    buffer = bytearray(_STEP)
    for path in files(folder):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def size(folder: str) -> int:
    """The bytes of all files below ``folder``."""
    return sum(os.lstat(path).st_size for path in files(folder))


def files(folder: str) -> list[str]:
    """The paths of all files below ``folder``, sorted."""
    return sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)


def same(one: str, other: str) -> bool:
    """Whether two files, or all files in two folders, have the same names and bytes."""
    if os.path.isdir(one):
        names = [os.path.relpath(path, one) for path in files(one)]
        return names == [os.path.relpath(path, other) for path in files(other)] and all(
            same(os.path.join(one, name), os.path.join(other, name)) for name in names
        )
    with open(one, "rb") as left, open(other, "rb") as right:
        while True:
            ours, theirs = left.read(_STEP), right.read(_STEP)
            if ours != theirs:
                return False
            if not ours:
                return True
