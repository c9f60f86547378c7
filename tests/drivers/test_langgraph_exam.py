"""The driver langgraph sits the exam of all drivers: the data are memories, put and read by LangGraph's own store."""

from __future__ import annotations

import base64
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.store.base import PutOp
from langgraph.store.sqlite import SqliteStore

from resurgam.drivers.base import Driver
from resurgam.drivers.langgraph import LangGraphDriver
from resurgam.model.system import Component
from resurgam.testing.driver_kit import DriverExam

NAMESPACE = ("exam", "data")

PAIR_WRITER = """
import base64, select, sqlite3, sys
from langgraph.store.base import PutOp
from langgraph.store.sqlite import SqliteStore
db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
store = SqliteStore(db)
store.setup()
number = 0
while True:
    number += 1
    value = {"data": base64.b64encode(b"%08d" % number * 4096).decode()}
    store.batch([PutOp(("exam", "data"), key, value) for key in ("left", "right")])
    if number == 1:
        print("writing", flush=True)
    if select.select([sys.stdin], [], [], 0)[0]:
        break
db.close()
"""


@contextmanager
def opened(component: Component) -> Iterator[SqliteStore]:
    """The real store, with the saver's tables beside its own."""
    with closing(sqlite3.connect(component.location, timeout=30, isolation_level=None)) as db:
        SqliteSaver(db).setup()
        store = SqliteStore(db)
        store.setup()
        yield store


class TestLangGraph(DriverExam):
    """Memories as the exam's data."""

    @pytest.fixture
    def driver(self) -> Driver:
        """A new one for each test: pins live in it."""
        return LangGraphDriver()

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        """Where the exam seeds its source."""
        return Component(name="agent", driver="langgraph", location=str(tmp_path / "live.db"))

    @pytest.fixture
    def target(self, tmp_path: Path) -> Component:
        """Where it restores to."""
        return Component(name="agent", driver="langgraph", location=str(tmp_path / "restored" / "copy.db"))

    def seed(self, component: Component, data: dict[str, bytes]) -> None:
        """One memory for each key."""
        os.makedirs(os.path.dirname(component.location), exist_ok=True)
        with opened(component) as store:
            old = [item.key for item in store.search(NAMESPACE, limit=100_000)]
            store.batch([PutOp(NAMESPACE, key, None) for key in old if key not in data])
            for key, value in data.items():
                store.put(NAMESPACE, key, _memory(value))

    def peek(self, component: Component) -> dict[str, bytes]:
        """What the store finds."""
        with opened(component) as store:
            found = store.search(NAMESPACE, limit=100_000)
            return {item.key: base64.b64decode(item.value["data"]) for item in found}

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        """What an agent does."""
        with opened(component) as store:
            store.batch([PutOp(NAMESPACE, key, None if value is None else _memory(value))])

    def pair_writer(self, component: Component) -> list[str]:
        """Both keys in one batch, which is one transaction of the store."""
        return [sys.executable, "-c", PAIR_WRITER, component.location]


class TestWithTtl(TestLangGraph):
    """The same where a restore is to move dates: memories without an end are as exact as ever."""

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        """As above, with a policy."""
        return Component(
            name="agent", driver="langgraph", location=str(tmp_path / "live.db"), options={"ttl": "freeze"}
        )

    @pytest.fixture
    def target(self, tmp_path: Path) -> Component:
        """As above, with a policy."""
        return Component(
            name="agent", driver="langgraph", location=str(tmp_path / "restored" / "copy.db"), options={"ttl": "freeze"}
        )


def _memory(value: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(value).decode()}
