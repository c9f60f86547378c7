"""Children to whom memory is handed: every result belongs to what was handed over, and what goes wrong in one is raised here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resurgam.vault import workers

# The test runner has threads of its own, and whoever has some is not copied: so each case is a process.
HANDED = """
import mmap, os, queue, signal, threading
from resurgam.vault import crew, workers

workers.processors = lambda: 3
here = os.getpid()
memories = [mmap.mmap(-1, 4096) for _ in range(4)]
free = queue.SimpleQueue()
for memory in memories:
    free.put(memory)

def make(data, out):
    if len(data) == {bad}:
        {act}
    out[: len(data)] = bytes(data)[::-1]
    return len(data)

def take(data, result):
    {take}
    return bytes(result) == bytes(data)[::-1] and bytes(result)

work = crew.crew(memories, make, 4096, take, free.put)
assert work is not None
try:
    results = []
    for number in range(300):
        memory = free.get(timeout=30)
        memory[: number + 1] = number.to_bytes(2, "little") * ((number + 1) // 2) + bytes((number + 1) % 2)
        results.append((number, work.hand(memory, number + 1)))
    right = [number.to_bytes(2, "little")[::-1] * ((number + 1) // 2) for number, _ in results]
    print(all(future.result(30).lstrip(bytes(1)) == one.lstrip(bytes(1)) for (_, future), one in zip(results, right)))
except Exception as error:
    print(type(error).__name__, getattr(error, "message", ""), sep="|")
finally:
    work.end()
free.put(None)
print(len(set(map(id, iter(lambda: free.get(timeout=30), None)))), "free")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left,", len(os.listdir("/proc/self/fd")), "files,", threading.active_count(), "thread")
"""

# A capture of small files where copies may be made, or not; the second one into the same vault knows half of them.
CAPTURE = """
import sys
from random import Random
from resurgam.vault import sharing, workers
from tests.support import World

{before}
def small(seed):
    rng = Random(seed)
    return {{b"f%03d" % n: rng.randbytes(9_000) if n % 3 else b"words and words " * rng.randrange(900) for n in range(300)}}

made = []
crew = sharing.crew
sharing.crew = lambda *args: made.append(crew(*args)) or made[-1]
world = World(sys.argv[1])
point = None
try:
    for seed in (1, 2):
        world.live.files.update({{b"d%d/" % seed + name: data for name, data in small(seed).items()}})
        point = world.capture()
    assert world.restored(point) == world.contents()
    print("restored")
except Exception as error:
    print(type(error).__name__, getattr(error, "message", ""), sep="|")
print([one is not None for one in made][:1])
"""

LEFT = "no child is left, 4 files, 1 thread"  # the folder that is listed is the fourth

pytestmark = pytest.mark.skipif(
    not os.path.isdir(workers._TASKS), reason="copies are made where /proc tells of threads"
)


def said(script: str, *arguments: str) -> list[str]:
    """What a process printed, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # else numpy's threads forbid a copy
    )
    assert not done.stderr
    return done.stdout.splitlines()


def handed(act: str = "pass", bad: int = -1, take: str = "pass") -> list[str]:
    """What the first process above printed."""
    return said(HANDED.format(bad=bad, act=act, take=take))


def test_each_result_is_of_what_was_handed_over() -> None:
    """P1: far more parts than memories, each of which is used again only when its result was taken."""
    assert handed() == ["True", "4 free", LEFT]


def test_an_error_of_a_child_is_raised_here() -> None:
    """P12: by its class and its words; whoever waits for memory gets it."""
    error = (
        "from resurgam.errors import IntegrityError; raise IntegrityError('torn', untouched='all', next_step='look')"
    )
    assert handed(error, bad=100) == ["IntegrityError|torn", "4 free", LEFT]


def test_a_child_that_is_killed_is_an_error() -> None:
    """P12: nobody waits for ever for what it had taken, while its siblings go on."""
    error, free, left = handed("os.kill(os.getpid(), signal.SIGKILL)", bad=100)
    assert error.startswith("ResurgamError|A process that shared the work was ended")
    assert (free, left) == ("4 free", LEFT)


def test_an_error_while_taking_ends_the_work() -> None:
    """A store that is full stops it now."""
    assert handed(take="raise OSError(28, 'full')") == ["OSError|", "4 free", LEFT]


def test_children_end_with_their_parent() -> None:
    """Who waits to be handed something hears that nobody will."""
    script = HANDED.format(bad=60, act="os.kill(here, signal.SIGKILL)", take="pass")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL  # and all that held its output have ended


@pytest.mark.parametrize("processors", [1, 2])
def test_files_come_back_whoever_coded_them(tmp_path: Path, processors: int) -> None:
    """P1: by children, and where there can be none."""
    script = CAPTURE.format(before=f"workers.processors = lambda: {processors}")
    assert said(script, str(tmp_path)) == ["restored", f"[{processors > 1}]"]


def test_memory_that_is_not_shared_is_found_at_once(tmp_path: Path) -> None:
    """P12: a child that reads other bytes than this process wrote is an error of the capture, not of a restore."""
    private = """
import queue
from resurgam.vault import pack, writer

class Private(writer.Buffers):
    def __init__(self, windows):
        super().__init__(windows)
        self.shared_memory, self.shared = [pack.new_buffer(1 << 20) for _ in range(windows)], queue.SimpleQueue()
        for memory in self.shared_memory:
            self.shared.put(memory)

writer.Buffers = Private
workers.processors = lambda: 2
"""
    error, _ = said(CAPTURE.format(before=private), str(tmp_path))
    assert error.startswith("IntegrityError|A process that shared the work read other bytes")
