"""How cost grows with size where nothing or one thing changed (P11): ``python -m bench.curves``.

Worlds of growing size are made by the functions behind the commands. In each size the same things are done, each in a process of
its own, and of each is told: seconds, processor seconds, the largest resident set, and what the vault was asked (requests, a
listing counting as one for each 1,000 names, as buckets page them; bytes read and written).

    files     small files, in folders of 1,000; one of them is edited
    rows      rows of one table of an SQLite database; one of them is updated
    points    a vault with so many points of a tiny system (``bench.vault_scale``: real records)
    chunks    a vault of so many chunks in 100 points (likewise)

``grows`` is the exponent between the smallest size and the largest: 0 does not grow, 1 is proportional to size. Seconds are the
verb's, without the start of Python. Worlds stay in ``--work`` and are used again, where it is given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from typing import Any

from bench.vault_scale.making import SYSTEM, Size, make
from resurgam.capture.run import capture
from resurgam.cli.context import Context
from resurgam.cli.status import standing
from resurgam.drivers.registry import driver_for
from resurgam.stores.base import Buffer, Entry
from resurgam.stores.local import LocalStore
from resurgam.testing.faults import Wrapped
from resurgam.vault.compare import compare_points
from resurgam.vault.known import states
from resurgam.vault.lives import lives
from resurgam.vault.repository import Repository

PAGE = 1000  # names in one page of a bucket's listing
SIZES = {
    "files": (10_000, 100_000, 1_000_000),
    "rows": (10_000, 100_000, 1_000_000, 10_000_000),
    "points": (100, 1_000, 10_000),
    "chunks": (10_000, 100_000, 1_000_000, 10_000_000),
}
STEPS = ("first", "unchanged", "edit", "changed", "diff", "show", "show an id", "points", "status")
_WALL, _CPU = "seconds", "processor"
_COLUMNS = (_WALL, _CPU, "peak", "requests", "read", "written")
_MANIFEST = """\
resurgam: 1
system: {system}
vault: {{path: vault, keys: keys}}
components:
  data: {{driver: {driver}, location: {location}}}
"""


class Counted(Wrapped):
    """A store that counts what is asked of it."""

    requests = read = written = 0

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """See Store."""
        whole = data if isinstance(data, Buffer) else b"".join(data)
        self.requests, self.written = self.requests + 1, self.written + len(whole)
        super().put(name, whole)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store."""
        found = super().get(name, offset, length)
        self.requests, self.read = self.requests + 1, self.read + len(found)
        return found

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """See Store."""
        count = super().read_into(name, offset, buffer)
        self.requests, self.read = self.requests + 1, self.read + count
        return count

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See Store."""
        for number, entry in enumerate(super().list(prefix)):
            self.requests += number % PAGE == 0 and number > 0
            yield entry
        self.requests += 1


# Worlds -----------------------------------------------------------------------------------------------------------------


def build(world: str, size: int, folder: str) -> None:
    """Make a world, all but its first point; of synthetic vaults, with all points."""
    os.makedirs(folder)
    synthetic = world in ("points", "chunks")
    if synthetic:
        make(folder, Size(size, 100) if world == "chunks" else Size(10 * size, size), 1)
        os.makedirs(f"{folder}/data")
        _write(f"{folder}/data/one", b"one file")
    elif world == "files":
        for number in range(size):
            if number % PAGE == 0:
                os.makedirs(f"{folder}/data/{number // PAGE:05}")
            _write(
                f"{folder}/data/{number // PAGE:05}/{number:08}", b"file %d of many, and no two are alike\n" % number
            )
    else:
        _rows(f"{folder}/data.db", size)
    if not synthetic:
        os.makedirs(f"{folder}/vault")
    manifest = _MANIFEST.format(
        system=SYSTEM,
        driver="sqlite" if world == "rows" else "files",
        location="data.db" if world == "rows" else "data",
    )
    _write(f"{folder}/resurgam.yaml", manifest.encode())


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _rows(path: str, count: int) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
        rows = ((number, f"note {number} of many, and no two are alike") for number in range(count))
        database.executemany("INSERT INTO notes VALUES (?, ?)", rows)


# Steps ------------------------------------------------------------------------------------------------------------------


def step(what: str, folder: str) -> dict[str, float]:
    """Do it, in this process, and say what it took."""
    if what == "edit":
        return _edit(folder)
    os.environ["RESURGAM_STATE"] = f"{folder}/state"
    context = Context(f"{folder}/resurgam.yaml")
    if not os.path.exists(f"{folder}/keys"):
        Repository.create(LocalStore(f"{folder}/vault"), f"{folder}/keys", SYSTEM, context.clock)
    store = Counted(LocalStore(f"{folder}/vault"))
    context.__dict__["store"] = store
    _ = context.system
    wall, cpu = time.perf_counter(), _processor()
    _DO[what](context)
    took = {_WALL: time.perf_counter() - wall, _CPU: _processor() - cpu, "peak": _peak()}
    return took | {"requests": store.requests, "read": store.read, "written": store.written}


def _capture(context: Context) -> None:
    capture(context.system, driver_for, lambda _system: (), context.repository, context.host, context.clock)


def _diff(context: Context) -> None:
    ids = _last(context)
    repository = context.repository
    bodies = [repository.sealed(point).body for point in ids]
    found = list(compare_points(bodies[0], bodies[1], repository))
    assert len(found) == 1, found


def _show(context: Context, words: str = "latest") -> None:
    sealed = context.point(words)
    context.repository.particulars(sealed.body)
    context.repository.records_of(sealed)
    assert lives(context.repository, sealed)


def _show_id(context: Context) -> None:
    _show(context, _last(context)[-1][:8])


def _points(context: Context) -> None:
    found = states(context.repository, context.repository.points(SYSTEM))
    assert all(state.damaged is None for state in found.values())


def _status(context: Context) -> None:
    assert standing(context, None).points


def _last(context: Context) -> list[str]:
    """The ids of the last two points of this host, without asking the vault."""
    with os.scandir(f"{os.path.dirname(context.manifest)}/vault/points") as found:
        newest = sorted((entry.stat().st_mtime_ns, entry.name) for entry in found)[-2:]
    return [name for _, name in newest]


_DO: dict[str, Callable[[Context], None]] = {
    "first": _capture,
    "unchanged": _capture,
    "changed": _capture,
    "diff": _diff,
    "show": _show,
    "show an id": _show_id,
    "points": _points,
    "status": _status,
}


def _edit(folder: str) -> dict[str, float]:
    if os.path.exists(f"{folder}/data.db"):
        with closing(sqlite3.connect(f"{folder}/data.db")) as database, database:
            database.execute("UPDATE notes SET body = ? WHERE id = 7", (f"edited at {time.time_ns()}",))
        return {}
    folders = sorted(os.listdir(f"{folder}/data"))
    name = f"{folder}/data/{folders[0]}"
    _write(name if os.path.isfile(name) else f"{name}/00000007", b"edited at %d" % time.time_ns())
    return {}


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak() -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024.0 for line in status if line.startswith("VmHWM"))


# The bench --------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run the bench, or with ``--step`` one step of it."""
    given = _options(arguments)
    if given.step:
        print(json.dumps(step(given.step, given.work)))
        return 0
    found: list[dict[str, Any]] = []
    with nullcontext(given.work) if given.work else tempfile.TemporaryDirectory(prefix="bench-curves-") as work:
        for world in given.world or SIZES:
            for size in given.size or SIZES[world]:
                found += _measure(world, size, f"{work}/{world}-{size}", given.repeat)
                if not given.work:
                    shutil.rmtree(f"{work}/{world}-{size}")
    if given.json:
        json.dump(found, sys.stdout, indent=1)
    else:
        print("\n".join(told(found)))
    return 0


def _measure(world: str, size: int, folder: str, repeat: int) -> list[dict[str, Any]]:
    if not os.path.exists(f"{folder}/resurgam.yaml"):
        shutil.rmtree(folder, ignore_errors=True)
        build(world, size, folder)
    found = []
    for what in STEPS:
        again = repeat if what not in ("first", "edit", "changed") else 1
        rows = [_run(what, folder) for _ in range(again)]
        if rows[0]:
            best = min(rows, key=lambda row: row[_CPU])
            found.append({"world": world, "size": size, "what": what} | best)
            print(_line(found[-1]), file=sys.stderr, flush=True)
    return found


def _run(what: str, folder: str) -> dict[str, float]:
    subprocess.run(["sync"], check=True)
    command = [sys.executable, "-m", "bench.curves", "--step", what, "--work", folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    said: dict[str, float] = json.loads(done.stdout)
    return said


def told(found: list[dict[str, Any]]) -> Iterator[str]:
    """A table for each world, with a bar for each figure (of processor seconds, by its logarithm) and how the verb grows."""
    for world in dict.fromkeys(row["world"] for row in found):
        yield f"\n{world:<9}{'':<12}{'seconds':>9} {'processor':>10} {'peak':>7} {'requests':>9} {'read':>9} {'written':>9}"
        rows = [row for row in found if row["world"] == world]
        for what in dict.fromkeys(row["what"] for row in rows):
            of = [row for row in rows if row["what"] == what]
            yield f"  {what}, grows {growth(of, _CPU):.2f} in processor seconds, {growth(of, 'requests'):.2f} in requests"
            yield from (f"{_line(row)}  {_bar(row[_CPU])}" for row in of)


def growth(rows: list[dict[str, Any]], what: str) -> float:
    """The exponent by which a figure grows from the smallest size to the largest; 0 of a single size."""
    small, large = (pick(rows, key=lambda row: row["size"]) for pick in (min, max))
    if small["size"] == large["size"] or not small[what] or not large[what]:
        return 0.0
    return math.log(large[what] / small[what]) / math.log(large["size"] / small["size"])


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['size']:>10,} {row['what']:<10}{row[_WALL]:>9.3f} {row[_CPU]:>10.3f} {row['peak'] / 1e6:>4.0f} MB "
        f"{row['requests']:>9,.0f} {row['read'] / 1e3:>6.0f} kB {row['written'] / 1e3:>6.0f} kB"
    )


def _bar(seconds: float) -> str:
    """From a millisecond on, four characters for each factor of ten."""
    return "#" * max(0, round(4 * math.log10(max(seconds, 1e-3) * 1e3)))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.curves", description="How cost grows with size.")
    parser.add_argument("--world", choices=SIZES, nargs="+", help="only these (all four)")
    parser.add_argument("--size", type=int, nargs="+", help="these sizes instead of 10^4 to 10^7 (10^6 files)")
    parser.add_argument(
        "--repeat", type=int, default=3, help="runs of what changes nothing, the best counts (%(default)s)"
    )
    parser.add_argument("--work", type=os.path.abspath, help="make the worlds there, keep them, and use them again")
    parser.add_argument("--json", action="store_true", help="everything as JSON instead of the table")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
