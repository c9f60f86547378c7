"""SQL over rows that come from no SQL store: they are laid into a private database in memory, and that is asked.

A driver whose content is Rows (records of an index, tensors, packages) becomes one that ``Queries`` in one line::

    def query(self, component, at, statement):
        return ask(self._tables(component, at), statement, component.location)

Every table stands under its own name, with its own columns; values keep their SQLite types, so JSON in text is open to
``json_extract`` and ``json_each``. The tables are whole in memory while one statement is asked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

from resurgam.drivers.base import Rows
from resurgam.drivers.sqlite_rows import query, quote
from resurgam.model.system import Json


def ask(tables: Iterable[Rows], statement: str, location: str) -> Rows:
    """The rows of one SELECT over ``tables``. Raises ManifestError where it is anything else, or is wrong.

    ``location`` is what errors name. Tables that the statement does not name are laid in too.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        for table in tables:
            _lay(connection, table)
        answer = query(connection, location, statement)
    except BaseException:
        connection.close()
        raise
    answer.batches = _closing(connection, answer.batches)
    return answer


def _lay(connection: sqlite3.Connection, table: Rows) -> None:
    columns = ", ".join(map(quote, table.columns))
    connection.execute(f"CREATE TABLE {quote(table.name)} ({columns})")
    places = ", ".join("?" * len(table.columns))
    for batch in table.batches:
        connection.executemany(f"INSERT INTO {quote(table.name)} VALUES ({places})", batch)  # noqa: S608 - our own names


def _closing(
    connection: sqlite3.Connection, batches: Iterable[list[tuple[Json, ...]]]
) -> Iterator[list[tuple[Json, ...]]]:
    with closing(connection):
        yield from batches
