"""Time travels too: what a restore does with memories that expire, as the component declares (option ``ttl``).

    keep      dates stand as they stood, byte for byte; what has passed by the restore ends at the store's next sweep
    freeze    as if no time had passed between cut and restore: each date moves by that time
    extend    each memory lives as long again as when it was written (``ttl_minutes`` from the restore on)
    drop      what has passed by the restore is deleted, with its vectors, and its bytes are overwritten

The change is made on a private file, before it is anything. :func:`veil` lets a fingerprint look past just what the policy may
change, so that it is equal before and after. The store writes a date as ``datetime`` prints it, or as SQLite does
(``YYYY-MM-DD HH:MM:SS``), both in UTC, and compares them as text with CURRENT_TIMESTAMP; a date keeps its form here.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from resurgam.drivers.langgraph_layout import Layout, read_layout
from resurgam.drivers.sqlite_open import WAL_FORMAT, connect, explain, is_wal
from resurgam.drivers.sqlite_rows import quote
from resurgam.errors import IntegrityError
from resurgam.model.system import Json

_LIKE_SQLITE = "%Y-%m-%d %H:%M:%S"
_FORMAT_AT = 18  # the header's two bytes that say WAL or not (sqlite.org/fileformat2.html, section 1.3)


class Ttl(StrEnum):
    """See the module's docstring."""

    KEEP = "keep"
    FREEZE = "freeze"
    EXTEND = "extend"
    DROP = "drop"


def apply(path: str, policy: Ttl, cut: datetime | None, now: datetime) -> None:
    """Carry ``policy`` out on the private file at ``path``, frozen at ``cut`` and restored ``now``.

    Nobody else may know the file: it is changed without a journal. Raises IntegrityError where it is damaged, or where the
    time of the cut is needed and not known.
    """
    with open(path, "r+b", buffering=0) as file:
        wal = is_wal(file.read(100))
        if wal:
            os.pwrite(file.fileno(), b"\x01\x01", _FORMAT_AT)  # so that no -wal and -shm come into being
        try:
            with closing(connect(path, "mode=rw")) as connection:
                _change(connection, policy, cut, now)
        except sqlite3.Error as error:
            raise explain(error, path) from error
        if wal:
            os.pwrite(file.fileno(), bytes([WAL_FORMAT, WAL_FORMAT]), _FORMAT_AT)


def _change(connection: sqlite3.Connection, policy: Ttl, cut: datetime | None, now: datetime) -> None:
    for setting in ("journal_mode = OFF", "synchronous = OFF", "secure_delete = ON", "foreign_keys = OFF"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    layout = read_layout(connection)
    if not layout.expires or not _count_expiring(connection):
        return
    connection.execute("BEGIN")
    if policy is Ttl.DROP:
        _drop(connection, layout, now)
    else:
        _move(connection, policy, cut, now)
    connection.execute("COMMIT")


def _count_expiring(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM store WHERE expires_at IS NOT NULL").fetchone()[0]
    return count


def _drop(connection: sqlite3.Connection, layout: Layout, now: datetime) -> None:
    passed = (now.astimezone(UTC).strftime(_LIKE_SQLITE),)
    if not layout.missing("store_vectors"):
        connection.execute(
            "DELETE FROM store_vectors WHERE (prefix, key) IN (SELECT prefix, key FROM store WHERE expires_at < ?)",
            passed,
        )
    connection.execute("DELETE FROM store WHERE expires_at < ?", passed)


def _move(connection: sqlite3.Connection, policy: Ttl, cut: datetime | None, now: datetime) -> None:
    def moved(expires_at: Json, minutes: Json) -> Json:
        if policy is Ttl.EXTEND and isinstance(minutes, int | float):
            return _printed(now + timedelta(minutes=minutes), like=expires_at)
        date = _read(expires_at)
        return expires_at if date is None else _printed(date + passed, like=expires_at)

    if cut is None:
        raise IntegrityError(
            "The time of the cut, from which expiring memories are moved, is missing.",
            untouched="Nothing was put at the target.",
            next_step="Set the component's option ttl to drop or keep, and restore again.",
        )
    passed = now - cut
    connection.create_function("moved", 2, moved)
    connection.execute("UPDATE store SET expires_at = moved(expires_at, ttl_minutes) WHERE expires_at IS NOT NULL")


def _read(text: object) -> datetime | None:
    """The date, or None where it is none: such a value stays as it is."""
    try:
        date = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _printed(date: datetime, like: object) -> str:
    date = date.astimezone(UTC)
    return date.isoformat(" ") if "+" in str(like) else date.strftime(_LIKE_SQLITE)


def veil(connection: sqlite3.Connection, layout: Layout, policy: Ttl) -> None:
    """Lay temporary views over the store's tables that leave out what ``policy`` may change. Raises sqlite3.Error.

    freeze, extend: the dates, but not whether there is one. drop: the memories that can expire, with their vectors.
    """
    if policy is Ttl.KEEP or not layout.expires:
        return
    columns = {name: [quote(column) for column in layout.tables[name]] for name in layout.tables}
    if policy is Ttl.DROP:
        _shadow(connection, "store", columns["store"], "expires_at IS NULL")
        if not layout.missing("store_vectors"):
            ends = "(prefix, key) NOT IN (SELECT prefix, key FROM main.store WHERE expires_at IS NOT NULL)"
            _shadow(connection, "store_vectors", columns["store_vectors"], ends)
        return
    shown = [f"({c} IS NOT NULL) AS {c}" if c == quote("expires_at") else c for c in columns["store"]]
    _shadow(connection, "store", shown, "TRUE")


def _shadow(connection: sqlite3.Connection, table: str, columns: list[str], where: str) -> None:
    connection.execute(
        f"CREATE TEMP VIEW {table} AS SELECT {', '.join(columns)} FROM main.{table} WHERE {where}"  # noqa: S608 - quoted
    )
