"""The tables of LangGraph's SQLite saver and store: which of them are here, and how far they are migrated.

Two libraries' tables may share one file (langgraph-checkpoint-sqlite, ``checkpoint/sqlite`` and ``store/sqlite/base.py``):

    checkpoints, writes                the saver; no version is kept, ``writes.task_path`` is added when it is missing
    store, store_migrations            the store; ``v`` numbers the migrations: 2 adds ``expires_at``, 3 ``ttl_minutes``
    store_vectors, vector_migrations   the store's search index, where one is configured

The store runs each migration and notes its number in two steps. Who dies between them leaves a table that the library can
neither use nor finish migrating, as its next start adds a column that is there; so columns are held against numbers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from resurgam.drivers.sqlite_rows import quote
from resurgam.model.point import Finding, Severity

COLUMNS = {
    "checkpoints": ("thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type", "checkpoint", "metadata"),
    "writes": ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "value"),
    "store": ("prefix", "key", "value", "created_at", "updated_at"),
    "store_vectors": ("prefix", "key", "field_name", "embedding"),
}  # fmt: skip
_ADDED = {2: "expires_at", 3: "ttl_minutes"}  # by migration of the store
_STORE_KNOWN, _VECTORS_KNOWN = 4, 0  # the newest migrations that this release knows


class Layout(NamedTuple):
    """``tables``: LangGraph's tables that are here, with their columns; ``names``: every table and view of the file. A
    migration of -1 is none; None says that the table of migrations is missing too."""

    tables: dict[str, tuple[str, ...]]
    names: frozenset[str]
    store: int | None
    vectors: int | None

    @property
    def has_saver(self) -> bool:
        """Whether checkpoints and writes can be read."""
        return not any(self.missing(name) for name in ("checkpoints", "writes"))

    @property
    def has_store(self) -> bool:
        """Whether memories can be read."""
        return not self.missing("store")

    @property
    def expires(self) -> bool:
        """Whether memories may have a time at which they end."""
        return self.has_store and {"expires_at", "ttl_minutes"} <= set(self.tables["store"])

    def missing(self, table: str) -> list[str]:
        """The columns that ``table`` always has and that are not here."""
        return [column for column in COLUMNS[table] if column not in self.tables.get(table, ())]


def read_layout(connection: sqlite3.Connection) -> Layout:
    """What is here. Raises sqlite3.Error."""
    names = frozenset(
        str(name).lower()
        for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type IN ('table', 'view')")
    )
    tables = {name: _columns(connection, name) for name in COLUMNS if name in names}
    return Layout(
        tables,
        names,
        _version(connection, "store_migrations", names),
        _version(connection, "vector_migrations", names),
    )


def _columns(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    return tuple(str(column[1]) for column in connection.execute(f"PRAGMA main.table_xinfo({quote(table)})"))


def _version(connection: sqlite3.Connection, table: str, names: frozenset[str]) -> int | None:
    if table not in names or "v" not in _columns(connection, table):
        return None
    newest = connection.execute(f"SELECT max(v) FROM main.{quote(table)}").fetchone()[0]  # noqa: S608 - our own names
    return newest if isinstance(newest, int) else -1


def check_layout(layout: Layout, component: str) -> Iterator[Finding]:
    """Tables that are missing, half migrated, older, or newer than this release knows."""

    def found(severity: Severity, what: str) -> Finding:
        return Finding(severity=severity, what=what, component=component)

    tables = layout.tables
    if "checkpoints" not in tables and "store" not in tables:
        yield found(Severity.WARNING, "There are no tables of LangGraph in this database.")
    if ("checkpoints" in tables) != ("writes" in tables):
        only = "checkpoints" if "checkpoints" in tables else "writes"
        yield found(Severity.BROKEN, f"Of the saver's tables only {only} is there.")
    for name in tables:
        if missing := layout.missing(name):
            yield found(Severity.BROKEN, f"Table {name} is half migrated: it lacks {', '.join(missing)}.")
    if "writes" in tables and "task_path" not in tables["writes"]:
        yield found(Severity.NOTE, "Table writes is of an older library, which the application's own will migrate.")
    for severity, what in (*_store_findings(layout), *_vector_findings(layout)):
        yield found(severity, what)


def _store_findings(layout: Layout) -> Iterator[tuple[Severity, str]]:
    version = -1 if layout.store is None else layout.store
    if "store" not in layout.tables:
        if version >= 0:
            yield Severity.BROKEN, f"The store's migrations stand at {version}, but table store is missing."
        return
    if version > _STORE_KNOWN:
        yield Severity.WARNING, _newer("store", version, _STORE_KNOWN)
    for number, column in _ADDED.items():
        if (column in layout.tables["store"]) != (version >= number):
            there = "is there" if column in layout.tables["store"] else "is missing"
            yield Severity.BROKEN, f"Table store is half migrated: migrations stand at {version}, but {column} {there}."
            return
    if version < _STORE_KNOWN:
        yield Severity.NOTE, f"The store's migrations stand at {version}; the application's library goes on from there."


def _vector_findings(layout: Layout) -> Iterator[tuple[Severity, str]]:
    version = -1 if layout.vectors is None else layout.vectors
    if version > _VECTORS_KNOWN:
        yield Severity.WARNING, _newer("store_vectors", version, _VECTORS_KNOWN)
    if version >= 0 and "store_vectors" not in layout.tables:
        yield Severity.BROKEN, f"The migrations of vectors stand at {version}, but table store_vectors is missing."


def _newer(table: str, version: int, known: int) -> str:
    return f"Table {table} was migrated to {version} by a newer library; this release knows {known}. Its rows are kept."
