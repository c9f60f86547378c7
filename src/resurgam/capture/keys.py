"""Sets of keys that need not fit into memory: two private tables on disk, and what stands in the one and not in the other.

A key is a whole row. Rows are compared as SQLite compares values: 1 equals 1.0, text never equals bytes, NULL equals NULL. The
tables lie in a nameless temporary database, which SQLite itself keeps in its cache while it is small, spills beyond, and
sorts in runs on disk (https://www.sqlite.org/tempfiles.html); it has no name, so a killed process leaves nothing behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from resurgam.drivers.base import Rows
from resurgam.errors import IntegrityError, StoreFull
from resurgam.model.system import Json

CACHE = 32 << 10  # KiB of memory for both sets and their sorting

Key = tuple[Json, ...]


class Keys:
    """The two sets. Made by :func:`keys`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns = {"here": 0, "there": 0}

    def fill(self, side: str, rows: Rows) -> None:
        """Put every row of ``rows`` on ``side``, which is ``here`` or ``there``."""
        self._columns[side] = len(rows.columns)
        names = ", ".join(f"c{number}" for number in range(len(rows.columns)))
        self._connection.execute(f"CREATE TABLE {side} ({names})")
        places = ", ".join("?" * len(rows.columns))
        for batch in rows.batches:
            self._connection.executemany(f"INSERT INTO {side} VALUES ({places})", batch)  # noqa: S608 - our own names

    @property
    def widths(self) -> tuple[int, int]:
        """How many columns the keys have, here and there."""
        return self._columns["here"], self._columns["there"]

    def count(self, side: str) -> int:
        """How many different keys are on ``side``."""
        ((count,),) = self._connection.execute(f"SELECT count(*) FROM (SELECT DISTINCT * FROM {side})")  # noqa: S608
        return int(count)

    def only(self, side: str, examples: int) -> tuple[int, tuple[Key, ...]]:
        """How many different keys stand on ``side`` alone, and the first of them in order."""
        other = "there" if side == "here" else "here"
        order = ", ".join(str(number + 1) for number in range(self._columns[side]))
        # With an order, SQLite merges two sorted runs; without one it would build an index of each side.
        found = self._connection.execute(f"SELECT * FROM {side} EXCEPT SELECT * FROM {other} ORDER BY {order}")  # noqa: S608
        shown = tuple(found.fetchmany(examples))
        return len(shown) + sum(1 for _ in found), shown


@contextmanager
def keys() -> Iterator[Keys]:
    """Two empty sets. Raises StoreFull where the disk for temporary files is, IntegrityError where values are no keys."""
    connection = sqlite3.connect("", isolation_level=None)
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE", f"cache_size = -{CACHE}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        yield Keys(connection)
    except sqlite3.OperationalError as error:
        raise StoreFull(
            f"The keys to compare cannot be kept in a temporary file: {error}.",
            untouched="The source was let go.",
            next_step="Free some space where temporary files are, or name another place in SQLITE_TMPDIR.",
        ) from error
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
        raise IntegrityError(
            f"Values that cannot be compared: {error}.",
            untouched="The source was let go.",
            next_step="Let the queries yield text, bytes, or numbers of at most 64 bits.",
        ) from error
    finally:
        connection.close()
