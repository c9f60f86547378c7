"""What a neighbour notices of a capture: ``python -m bench.neighbour``.

The neighbour is a process that asks an SQLite database for a row by its key, reads 4 KiB past the page cache from a random place of
a file, writes 4 KiB and flushes them, then rests a moment, and so on. It notes how long each took. Beside it, by turns and in an
order drawn anew each round, run nothing, a capture, a gentle one, a limited one, and restic; each into an empty repository, of
the same data, of which nothing lies in the page cache. Printed are the median, the 99th percentile and the longest wait of each
condition and kind, over all rounds, and how long the backup took for it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import NamedTuple

from bench import data
from bench.measure import files
from bench.tools import Restic, Resurgam, Tool

ROWS, PLACES = 100_000, 256 << 20
BLOCK = 4096
REST = 0.002  # seconds between two rounds of requests: a neighbour that is used, and not one that is busy
ALONE = 5.0
KINDS = ("query", "read", "flushed write")


@dataclass(frozen=True)
class Gentle(Resurgam):
    """Ours with more words for ``capture``."""

    words: tuple[str, ...] = ()

    def backup(self, own: str, source: str) -> list[str]:
        """See Tool."""
        return [*super().backup(own, source), *self.words]


CONDITIONS: dict[str, Tool | None] = {
    "alone": None,
    "resurgam": Gentle(words=("--no-gentle",)),
    "resurgam, gentle": Gentle(words=("--gentle",)),
    "resurgam, limited": Gentle(words=("--gentle", "--limit-read", "50", "--limit-cpu", "50%")),
    "restic auto": Restic("auto"),
}


class Window(NamedTuple):
    """What ran beside the neighbour from when to when, by the monotonic clock that all processes share."""

    condition: str
    start: float
    end: float


def main(arguments: list[str] | None = None) -> int:
    """Run the bench, or with ``--be`` the neighbour in that folder, until its standard input ends."""
    given = _options(arguments)
    if given.be:
        be(given.be)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-neighbour-", dir=given.work) as work:
        making = f"from bench import data; data.make({given.set!r}, {given.scale}, {f'{work}/data'!r})"
        subprocess.run([sys.executable, "-c", making], check=True)
        data.use(f"{work}/data", "v1")
        furnish(f"{work}/neighbour")
        argv = [sys.executable, "-m", "bench.neighbour", "--be", f"{work}/neighbour"]
        with open(f"{work}/noted", "wb") as noted:
            neighbour = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=noted)
            try:
                windows = _run(work, given.rounds, random.Random(given.seed))
            finally:
                neighbour.communicate(timeout=60)
        with open(f"{work}/noted", "rb") as noted:
            print(table(windows, json.load(noted)))
    return 0


def _run(work: str, rounds: int, order: random.Random) -> list[Window]:
    """Each condition once a round."""
    windows = []
    for number in range(rounds):
        for condition in order.sample(sorted(CONDITIONS), len(CONDITIONS)):
            print(f"round {number + 1}: {condition}", file=sys.stderr, flush=True)
            tool = CONDITIONS[condition]
            windows.append(_beside(condition, tool, work) if tool is not None else _alone(condition))
    return windows


def _alone(condition: str) -> Window:
    start = time.monotonic()
    time.sleep(ALONE)
    return Window(condition, start, time.monotonic())


def _beside(condition: str, tool: Tool, work: str) -> Window:
    own, source = f"{work}/own", f"{work}/data/source"
    os.mkdir(own)
    environment = tool.environment(own)
    subprocess.run(tool.prepare(own, source), env=environment, cwd=own, check=True, capture_output=True)
    forget(source)
    start = time.monotonic()
    subprocess.run(tool.backup(own, source), env=environment, cwd=own, check=True, capture_output=True)
    end = time.monotonic()
    shutil.rmtree(own)
    os.sync()
    return Window(condition, start, end)


def forget(folder: str) -> None:
    """Have nothing of ``folder`` in the page cache, and nothing dirty."""
    os.sync()
    for path in files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def table(windows: list[Window], noted: list[tuple[float, int, float]]) -> str:
    """Milliseconds by condition and kind, and the backup's seconds."""
    lines = [
        f"{'beside':<20}{'seconds':>9}{'asked':>8}" + "".join(f"{f'{kind}: 50 %   99 %    most':>36}" for kind in KINDS)
    ]
    for condition in CONDITIONS:
        own = [window for window in windows if window.condition == condition]
        took = sorted(window.end - window.start for window in own)[len(own) // 2]
        inside = [one for one in noted if any(window.start <= one[0] <= window.end for window in own)]
        line = f"{condition:<20}{took:>9.1f}{len(inside):>8}"
        for kind in range(len(KINDS)):
            waits = sorted(1e3 * seconds for _, which, seconds in inside if which == kind)
            shown = (waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1])
            line += "".join(f"{wait:>{width}.2f}" for wait, width in zip(shown, (22, 7, 7), strict=True))
        lines.append(line)
    return "\n".join(lines)


# --- the neighbour ---------------------------------------------------------------------------------------------------


def furnish(folder: str) -> None:
    """What it works on: a database, and a file of PLACES bytes."""
    os.mkdir(folder)
    rng = random.Random(1)
    database = sqlite3.connect(f"{folder}/database")
    database.execute("create table item (id integer primary key, body blob)")
    database.executemany("insert into item (body) values (?)", ((rng.randbytes(300),) for _ in range(ROWS)))
    database.commit()
    database.close()
    with open(f"{folder}/places", "wb") as file:
        file.writelines(rng.randbytes(1 << 20) for _ in range(PLACES >> 20))


def be(folder: str) -> None:
    """Ask until nobody listens any more; then tell when each request was made, of which kind, and what it took."""
    rng, noted = random.Random(2), list[tuple[float, int, float]]()
    database = sqlite3.connect(f"{folder}/database")
    places = os.open(f"{folder}/places", os.O_RDONLY | os.O_DIRECT)
    written = os.open(f"{folder}/written", os.O_RDWR | os.O_CREAT)
    room, block = mmap.mmap(-1, BLOCK), rng.randbytes(BLOCK)
    os.set_blocking(sys.stdin.fileno(), False)

    def query() -> None:
        database.execute("select body from item where id = ?", (1 + rng.randrange(ROWS),)).fetchone()

    def read() -> None:
        os.preadv(places, [room], BLOCK * rng.randrange(PLACES // BLOCK))

    def flushed_write() -> None:
        os.pwrite(written, block, BLOCK * rng.randrange(1000))
        os.fdatasync(written)

    while not _ended():
        for kind, act in enumerate((query, read, flushed_write)):
            began = time.monotonic()
            act()
            noted.append((began, kind, time.monotonic() - began))
        time.sleep(REST)
    json.dump(noted, sys.stdout)


def _ended() -> bool:
    """Whether standard input has."""
    try:
        return not os.read(sys.stdin.fileno(), 1)
    except BlockingIOError:
        return False


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.neighbour", description="What a neighbour notices of a capture."
    )
    parser.add_argument("--set", default="sqlite", help="which of the bench's sets is backed up (default sqlite)")
    parser.add_argument("--scale", type=float, default=0.25, help="its size")
    parser.add_argument("--rounds", type=int, default=5, help="how often each condition has its turn")
    parser.add_argument("--seed", type=int, default=1, help="of the order of turns")
    parser.add_argument("--work", default=None, help="where all of it lies: on one disk")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
