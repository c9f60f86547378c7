"""How fast the driver sqlite is, on some 300 MB: `pytest -s -m soak tests/drivers/test_sqlite_speed.py` prints the figures."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from resurgam.drivers.base import Blob, Rows
from resurgam.drivers.sqlite import SqliteDriver
from resurgam.model.system import Component

DOCUMENTS, EVENTS = 110_000, 1_000_000


def documents(count: int) -> Iterable[tuple[object, ...]]:
    """Text and an embedding."""
    rng = random.Random(1)
    for number in range(count):
        yield number, f"title {number}", "word " * rng.randrange(50, 150), rng.randbytes(1536)


def build(path: Path, mode: str) -> None:
    """In WAL mode some 25 MB of it stand in the log only."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, title TEXT, body TEXT, vector BLOB)")
        db.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, document INTEGER, at REAL, kind TEXT)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO documents VALUES (?, ?, ?, ?)", documents(DOCUMENTS))
        db.executemany(
            "INSERT INTO events VALUES (?, ?, ?, 'opened')", ((i, i % DOCUMENTS, i / 3) for i in range(EVENTS))
        )
        db.execute("COMMIT")
        db.execute(f"PRAGMA journal_mode = {mode}")


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    """The floors are a tenth of what two idle cores give, so that only a changed design falls below them."""
    path = tmp_path / "a.db"
    build(path, mode)
    driver, what = SqliteDriver(), Component(name="a", driver="sqlite", location=str(path), options={"check": "none"})
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("UPDATE documents SET title = 'another' WHERE id % 20 = 0")
        start = time.perf_counter()
        with driver.freeze(what) as at:
            pass
        lines = [f"{mode}: freeze {1000 * (time.perf_counter() - start):.1f} ms"]
        speeds: dict[str, float] = {}
        buffer = memoryview(bytearray(8 << 20))
        for item in driver.read(what, at):
            start = time.perf_counter()
            if isinstance(item, Blob):
                done = 0
                while done < item.size:
                    done += item.source.read_into(done, buffer)
                speeds["image MB/s"] = done / (time.perf_counter() - start) / 1e6
            elif isinstance(item, Rows) and item.name != "sqlite_schema":
                rows = sum(map(len, item.batches))
                speeds[f"{item.name} rows/s"] = rows / (time.perf_counter() - start)
        driver.release(what, at)
    start = time.perf_counter()
    driver.fingerprint(what)
    speeds["fingerprint MB/s"] = path.stat().st_size / (time.perf_counter() - start) / 1e6
    with capsys.disabled():
        print("\n" + ", ".join(lines + [f"{name} {speed:,.0f}" for name, speed in speeds.items()]))
    assert speeds["image MB/s"] > 200
    assert speeds["documents rows/s"] > 50_000
    assert speeds["events rows/s"] > 100_000
