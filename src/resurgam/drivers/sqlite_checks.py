"""What SQLite itself says about the soundness of a pinned database, as findings.

``quick_check`` runs on the pinned snapshot: it reads all pages and proves that they form B-trees, that values have
legal types and NOT NULL and CHECK hold. It does not compare indexes with tables, and no check of SQLite sees a *wrong
value*: that is what probes are for (P4).

A full-text index can only be checked by a statement that asks for the write lock. It is never asked of the source: small
images are rebuilt in a private file and asked there, above ``FTS_LIMIT`` a NOTE says that it was left out.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator

from resurgam.drivers.base import Blob
from resurgam.drivers.sqlite_image import Image
from resurgam.drivers.sqlite_open import connect, primary_code
from resurgam.drivers.sqlite_rows import DATABASE, quote
from resurgam.model.point import Finding, Severity
from resurgam.private import private_file, room

FTS_LIMIT = 64 << 20
_EXAMPLES = 20  # Finding.keys holds no more
_FTS = frozenset({"fts3", "fts4", "fts5"})
_MODULE = re.compile(r"\bUSING\s+[\"'`\[]?(\w+)", re.IGNORECASE)


def quick_check(connection: sqlite3.Connection, component: str) -> Finding | None:
    """None where SQLite finds nothing wrong; BROKEN with its words, or a WARNING that it could not be asked."""
    try:
        said = [str(line) for (line,) in connection.execute("PRAGMA quick_check(20)")]
    except sqlite3.Error as error:
        severity = Severity.BROKEN if primary_code(error) == sqlite3.SQLITE_CORRUPT else Severity.WARNING
        return Finding(severity=severity, what=f"PRAGMA quick_check did not finish: {error}.", component=component)
    if said == ["ok"]:
        return None
    what = f"PRAGMA quick_check finds damage: {said[0]}."
    return Finding(severity=Severity.BROKEN, what=what, component=component, keys=tuple(said[:_EXAMPLES]))


def check_virtual_tables(connection: sqlite3.Connection, image: Image, component: str) -> Iterator[Finding]:
    """Findings about full-text indexes, and about modules that this SQLite does not have."""
    known = {name for (name,) in connection.execute("PRAGMA module_list")}
    indexes = []
    for name, module in virtual_tables(connection):
        if module not in known:
            what = f"Table {name} needs the module {module}, which is not here: its data is captured, its soundness not checked."
            yield Finding(severity=Severity.NOTE, what=what, component=component)
        elif module in _FTS:
            indexes.append(name)
    if not indexes:
        return
    if image.size > FTS_LIMIT:
        what = f"Full-text indexes were not checked: the database is larger than {FTS_LIMIT >> 20} MiB."
        yield Finding(severity=Severity.NOTE, what=what, component=component, keys=tuple(indexes[:_EXAMPLES]))
        return
    yield from _check_indexes(image, indexes, component)


def virtual_tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """(name, module) of every virtual table."""
    statement = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND coalesce(rootpage, 0) = 0 ORDER BY name"
    return [(name, _module(sql or "", name)) for name, sql in connection.execute(statement)]


def _module(sql: str, name: str) -> str:
    """The module's name; the table's own name, which stands before it, may hold anything."""
    found = _MODULE.search(sql, max(0, sql.find(name)) + len(name))
    return found[1].lower() if found else "?"


def _check_indexes(image: Image, indexes: list[str], component: str) -> Iterator[Finding]:
    """Ask each index in a private copy, whose name is gone before the first question."""
    with private_file() as (descriptor, path):
        try:
            with room():
                Blob(DATABASE, image.size, image).copy_to(descriptor)
            os.pwrite(descriptor, b"\x01\x01", 18)  # rollback mode: the copy needs no -wal and -shm
        finally:
            os.close(descriptor)
        copy = connect(path, "mode=rw")
        try:
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            copy.close()
            raise
    try:
        for name in indexes:
            yield from _check_index(copy, name, component)
    finally:
        copy.close()


def _check_index(copy: sqlite3.Connection, name: str, component: str) -> Iterator[Finding]:
    try:
        copy.execute(f"INSERT INTO {quote(name)}({quote(name)}) VALUES ('integrity-check')")  # noqa: S608 - quoted
    except sqlite3.Error as error:
        if primary_code(error) == sqlite3.SQLITE_CORRUPT:
            what = f"The full-text index {name} does not match its content."
            yield Finding(severity=Severity.BROKEN, what=what, component=component)
        else:
            what = f"The full-text index {name} could not be checked: {error}."
            yield Finding(severity=Severity.NOTE, what=what, component=component)
