"""The driver sqlite sits the exam of all drivers, in both journal modes."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from resurgam.drivers.base import Driver
from resurgam.drivers.sqlite import SqliteDriver
from resurgam.model.system import Component
from resurgam.testing.driver_kit import DriverExam

PAIR_WRITER = """
import select, sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
number = 0
while True:
    number += 1
    value = b"%08d" % number * 4096
    db.execute("BEGIN IMMEDIATE")
    for key in ("left", "right"):
        db.execute("INSERT OR REPLACE INTO data VALUES (?, ?)", (key, value))
    db.execute("COMMIT")
    if number == 1:
        print("writing", flush=True)
    if select.select([sys.stdin], [], [], 0)[0]:
        break
"""


class TestWal(DriverExam):
    """Pinned by a read transaction."""

    journal_mode: ClassVar[str] = "WAL"

    @pytest.fixture
    def driver(self) -> Driver:
        """A new one for each test: pins live in it."""
        return SqliteDriver()

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        """Where the exam seeds its source."""
        return Component(name="data", driver="sqlite", location=str(tmp_path / "live.db"))

    @pytest.fixture
    def target(self, tmp_path: Path) -> Component:
        """Where it restores to."""
        return Component(name="data", driver="sqlite", location=str(tmp_path / "restored" / "copy.db"))

    def connect(self, component: Component) -> sqlite3.Connection:
        """A plain client."""
        return sqlite3.connect(component.location, timeout=30, isolation_level=None)

    def seed(self, component: Component, data: dict[str, bytes]) -> None:
        """One table, key to value."""
        os.makedirs(os.path.dirname(component.location), exist_ok=True)
        with closing(self.connect(component)) as db:
            db.execute(f"PRAGMA journal_mode = {self.journal_mode}")
            db.execute("BEGIN")
            db.execute("CREATE TABLE IF NOT EXISTS data (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
            db.execute("DELETE FROM data")
            db.executemany("INSERT INTO data VALUES (?, ?)", data.items())
            db.execute("COMMIT")

    def peek(self, component: Component) -> dict[str, bytes]:
        """What a plain client finds."""
        with closing(self.connect(component)) as db:
            return dict(db.execute("SELECT key, value FROM data"))

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        """What a plain client writes."""
        with closing(self.connect(component)) as db:
            if value is None:
                db.execute("DELETE FROM data WHERE key = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO data VALUES (?, ?)", (key, value))

    def pair_writer(self, component: Component) -> list[str]:
        """Both keys in one transaction."""
        return [sys.executable, "-c", PAIR_WRITER, component.location]


class TestRollbackJournal(TestWal):
    """Copied inside the freeze."""

    journal_mode: ClassVar[str] = "DELETE"
