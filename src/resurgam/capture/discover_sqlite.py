"""What an SQLite database holds, learned without leaving a trace: its tables, their keys, and which must exist in which table.

A plain read-only connection may create ``-wal`` and ``-shm`` files beside a database in WAL mode, or rewrite an old ``-shm``.
So the file's header decides how it is opened (https://www.sqlite.org/uri.html, https://www.sqlite.org/walformat.html):

    rollback journal          mode=ro                    takes the ordinary shared lock
    WAL, with a -shm beside   mode=ro, readonly_shm=1    reads along with the writers through their own index
    WAL, without              immutable=1                nobody has it open; what only stands in a -wal is not seen
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple
from urllib.parse import quote

from resurgam.capture.discover_kinds import Kind
from resurgam.drivers.langgraph_layout import COLUMNS

MAGIC = b"SQLite format 3\0"
_SMALLEST = 512  # a database is a whole number of pages, and a page is at least this long
_READ_VERSION = 19  # the header's byte that is 2 in WAL mode
BUSY = 5.0  # seconds to wait for a writer's lock


class ForeignKey(NamedTuple):
    """The values of ``columns`` in ``table`` (where none of them is NULL) exist as ``parent_columns`` in ``parent``."""

    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


class Column(NamedTuple):
    """A column of a table. ``declared`` is the schema's type in upper case; ``is_key``: it alone is the primary key."""

    table: str
    name: str
    declared: str
    is_key: bool

    @property
    def is_integer(self) -> bool:
        """Whether the schema says so (https://www.sqlite.org/datatype3.html, section 3.1)."""
        return "INT" in self.declared


class Database(NamedTuple):
    """The ordinary tables, without SQLite's own and without what lies behind virtual ones; their columns; and the declared
    foreign keys."""

    tables: tuple[str, ...]
    columns: tuple[Column, ...]
    foreign_keys: tuple[ForeignKey, ...]

    def columns_of(self, table: str) -> list[Column]:
        """In the order of the schema."""
        return [column for column in self.columns if column.table == table]


def is_database(path: str, size: int) -> bool:
    """Whether the file begins like an SQLite database; its name does not matter. Raises OSError."""
    if size < _SMALLEST or size % _SMALLEST:
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def kind_of_database(path: str) -> Kind:
    """AGENT where LangGraph's saver or store has its tables in it, VECTORS where it is Chroma's, else DATABASE.

    Raises sqlite3.Error and OSError.
    """
    with opened(path) as db:
        tables = _tables(db)
        if {"collections", "segments", "embeddings", "embeddings_queue", "migrations"} <= set(tables):
            return Kind.VECTORS
        saver = all(_has(db, tables, name) for name in ("checkpoints", "writes"))
        return Kind.AGENT if saver or (_has(db, tables, "store") and "store_migrations" in tables) else Kind.DATABASE


def look_into(path: str) -> Database:
    """What the database at ``path`` holds. Raises sqlite3.Error and OSError."""
    with opened(path) as db:
        tables = _tables(db)
        columns = tuple(column for table in tables for column in _columns(db, table))
        return Database(tables, columns, tuple(key for table in tables for key in _foreign_keys(db, table, tables)))


@contextmanager
def opened(path: str) -> Iterator[sqlite3.Connection]:
    """The database for reading, as the module's docstring says. Text that is not UTF-8 comes with surrogates. Raises sqlite3.Error
    and OSError."""
    with closing(sqlite3.connect(_uri(path), uri=True, timeout=BUSY)) as db:
        db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        yield db


def quoted(identifier: str) -> str:
    """``identifier`` as SQL has it."""
    return '"' + identifier.replace('"', '""') + '"'


def _uri(path: str) -> str:
    with open(path, "rb") as file:
        header = file.read(_READ_VERSION + 1)
    how = "mode=ro"
    if header[_READ_VERSION:] == b"\x02":
        how += "&readonly_shm=1" if os.path.exists(path + "-shm") else "&immutable=1"
    return f"file:{quote(os.fsencode(os.path.abspath(path)))}?{how}"


def _tables(db: sqlite3.Connection) -> tuple[str, ...]:
    """A virtual table ``v`` keeps what it holds in tables named ``v_…``; both belong to its module, not to the owner."""
    rows = db.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
    ).fetchall()
    virtual = [name for name, sql in rows if sql.upper().startswith("CREATE VIRTUAL")]
    return tuple(
        sorted(name for name, _ in rows if name not in virtual and not name.startswith(tuple(f"{v}_" for v in virtual)))
    )


def _has(db: sqlite3.Connection, tables: tuple[str, ...], table: str) -> bool:
    """Whether LangGraph's table of that name is there, with the columns that it always has."""
    return table in tables and {column.name for column in _columns(db, table)} >= set(COLUMNS[table])


def _columns(db: sqlite3.Connection, table: str) -> list[Column]:
    found = db.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
    alone = sum(1 for row in found if row[5]) == 1
    return [Column(table, row[1], row[2].upper(), alone and bool(row[5])) for row in found]


def _foreign_keys(db: sqlite3.Connection, table: str, tables: tuple[str, ...]) -> Iterator[ForeignKey]:
    known = {name.lower(): name for name in tables}
    keys: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, _, parent, column, to, *_ in db.execute(f"PRAGMA foreign_key_list({quoted(table)})"):
        keys.setdefault(number, []).append((parent, column, to))
    for parts in keys.values():
        parent = known.get(parts[0][0].lower())
        if parent is None:
            continue
        to = tuple(part[2] for part in parts if part[2] is not None) or _primary_key(db, parent)
        if len(to) == len(parts):
            yield ForeignKey(table, tuple(part[1] for part in parts), parent, to)


def _primary_key(db: sqlite3.Connection, table: str) -> tuple[str, ...]:
    columns = db.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
    return tuple(name for place, name in sorted((row[5], row[1]) for row in columns) if place)
