"""What the tests of the driver langgraph do again and again: run the agent, capture, look at rows and findings."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from resurgam.drivers.base import Rows
from resurgam.drivers.langgraph import LangGraphDriver
from resurgam.model.point import Finding
from resurgam.model.system import Component, Json
from resurgam.testing.carrying import Taken, take
from tests.drivers import langgraph_app

APP = [sys.executable, langgraph_app.__file__]


def app(*words: str | Path) -> list[Any]:
    """The agent in a process of its own: what it prints, a value for each line."""
    done = subprocess.run([*APP, *map(str, words)], stdout=subprocess.PIPE, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


def component(path: Path, **options: Json) -> Component:
    """The component over ``path``."""
    return Component(name="agent", driver="langgraph", location=str(path), options=options)


def restored(taken: Taken, place: Path) -> Path:
    """What a restore makes of it."""
    LangGraphDriver().write(taken.through_memory(), component(place))
    return place


def capture(path: Path, **options: Json) -> Taken:
    """One whole capture."""
    return take(LangGraphDriver(), component(path, **options))


def table(taken: Taken, name: str) -> list[dict[str, Any]]:
    """The rows of one table or view."""
    rows = next(item for item in taken.items if isinstance(item, Rows) and item.name == name)
    return [dict(zip(rows.columns, row, strict=True)) for batch in rows.batches for row in batch]


def found(taken: Taken, words: str) -> list[Finding]:
    """The findings that speak of ``words``."""
    return [finding for finding in taken.findings if words in finding.what]


def sql(path: Path, *statements: str) -> None:
    """What somebody does to the file past the library."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)
