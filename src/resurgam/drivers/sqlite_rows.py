"""What an SQLite database says: its tables as Rows, a digest of its content, and answers to queries.

Tables come in the order of their names, rows as SQLite stores them. Virtual tables hold nothing themselves; the
shadow tables in which their modules keep their data are ordinary tables and come like any other. Columns that are
computed on reading (VIRTUAL generated ones) are left out, STORED ones are there.

Text is decoded as UTF-8 by the C code of ``sqlite3``. The first value that is not UTF-8 makes the connection fall back to
:func:`text_or_bytes`, called per value, for the rest of its life; the table goes on where it was.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import msgspec
from blake3 import blake3

from resurgam.drivers.base import Rows
from resurgam.drivers.pieces import Pieces
from resurgam.drivers.sqlite_open import explain, primary_code
from resurgam.errors import ManifestError
from resurgam.model.codec import to_msgpack
from resurgam.model.system import Json

DATABASE = b"database"  # the Blob of which all Rows are a view
BATCH_ROWS = 1000
BATCH_BYTES = 256 << 10  # what is made of rows is still in the processor's cache when it is digested
_SAMPLE = 16
_AHEAD = 2  # batches that wait to be digested
_SORT_TERMS = 2000  # SQLite's own limit (SQLITE_MAX_COLUMN)
_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})
_READ_ONLY = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})

Batch = list[tuple[Json, ...]]


class Table(NamedTuple):
    """An ordinary table: its stored columns, and the columns of its key (empty: none that holds)."""

    name: str
    stored_as: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def select(self) -> str:
        """Reads all rows in the order in which they are stored."""
        return f"SELECT {', '.join(map(quote, self.columns))} FROM {quote(self.stored_as)}"  # noqa: S608 - quoted


# The schema as a keyed table, so that a new trigger or view shows in a diff; without the root pages, which are places.
SCHEMA = Table("sqlite_schema", "sqlite_master", ("type", "name", "tbl_name", "sql"), ("type", "name"))


def quote(name: str) -> str:
    """``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text_or_bytes(value: bytes) -> str | bytes:
    """Text as str, or as bytes where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def read_tables(connection: sqlite3.Connection) -> list[Table]:
    """The ordinary tables, by name. Raises sqlite3.Error where the schema cannot be understood."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name"
    ).fetchall()
    return [_table(connection, name) for (name,) in names]


def _table(connection: sqlite3.Connection, name: str) -> Table:
    # (cid, name, type, notnull, default, pk, hidden); hidden: 2 is computed on reading, 3 is stored
    columns = [c for c in connection.execute(f"PRAGMA table_xinfo({quote(name)})") if c[6] in {0, 3}]
    key = [c for c in sorted(columns, key=lambda c: c[5]) if c[5]]
    nullable = [c[1] for c in key if not c[3] and c[2].upper() != "INTEGER"]
    if nullable:  # SQLite lets NULLs into such keys, any number of them (lang_createtable.html section 3.5)
        nulls = " OR ".join(f"{quote(column)} IS NULL" for column in nullable)
        statement = f"SELECT EXISTS (SELECT 1 FROM {quote(name)} WHERE {nulls})"  # noqa: S608 - quoted
        if connection.execute(statement).fetchone()[0]:
            key = []
    return Table(name, name, tuple(c[1] for c in columns), tuple(c[1] for c in key))


def rows_of(connection: sqlite3.Connection, path: str, table: Table, pieces: Pieces | None = None) -> Rows:
    """The table as a view of the image. Its batches raise IntegrityError where the database is damaged."""

    def batches() -> Iterator[Batch]:
        try:
            yield from scan(connection, table.select)
        except sqlite3.Error as error:
            raise explain(error, path) from error

    return Rows(
        name=table.name, columns=table.columns, key=table.key, batches=batches(), view_of=DATABASE, pieces=pieces
    )


def scan(connection: sqlite3.Connection, statement: str, parameters: tuple[int, ...] = ()) -> Iterator[Batch]:
    """The rows of ``statement``, whose order is its plan's, in batches of at most BATCH_ROWS and about BATCH_BYTES."""
    size, done = _SAMPLE, 0
    cursor = connection.execute(statement, parameters)
    try:
        while True:
            try:
                batch: Batch = cursor.fetchmany(size)
            except sqlite3.OperationalError as error:
                if not _is_undecodable(error) or connection.text_factory is text_or_bytes:
                    raise
                connection.text_factory = text_or_bytes
                cursor.close()
                cursor = connection.execute(f"{statement} LIMIT -1 OFFSET {done}", parameters)
                continue
            if not batch:
                return
            yield batch
            done += len(batch)
            size = _next_size(batch, size)
    finally:
        cursor.close()


def _next_size(batch: Batch, size: int) -> int:
    """At most twice as many as before, so that rows that suddenly grow cannot fill the memory."""
    sample = batch[:: len(batch) // _SAMPLE + 1]
    width = sum(len(value) for row in sample for value in row if isinstance(value, str | bytes)) // len(sample)
    return max(1, min(2 * size, BATCH_ROWS, BATCH_BYTES // (width + 1)))


def _is_undecodable(error: sqlite3.OperationalError) -> bool:
    return primary_code(error) is None and "decode to UTF-8" in str(error)


def foreign_collations(connection: sqlite3.Connection) -> list[str]:
    """Collations that the schema names and this SQLite lacks: an application's own."""
    return [name for _, name in connection.execute("PRAGMA collation_list") if name not in _COLLATIONS]


def fingerprint(connection: sqlite3.Connection) -> str:
    """Hex digest of settings, schema and rows; it does not depend on pages, rowids without a name, or vacuums.

    BLAKE3 over MessagePack. The rows of a table stand in the order of its key, else of all their values; each table is a
    digest of its own, as its rows run into one array without a length. Raises sqlite3.Error.
    """
    connection.text_factory = text_or_bytes
    pragmas = [
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id", "encoding")
    ]
    schema = connection.execute(f"{SCHEMA.select} ORDER BY type, name").fetchall()
    connection.text_factory = str
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as pool:
        tables = [[t.name, list(t.columns), _table_digest(connection, t, pool)] for t in read_tables(connection)]
    return blake3(to_msgpack([pragmas, schema, tables])).hexdigest()


def _table_digest(connection: sqlite3.Connection, table: Table, pool: ThreadPoolExecutor) -> bytes:
    """Digested in ``pool``, of one thread, while SQLite reads on."""
    terms = [
        f"{quote(column)} COLLATE BINARY" for column in table.key or table.columns
    ]  # no application's own collation
    if not table.key:
        terms += [
            f"typeof({quote(column)})" for column in table.columns
        ]  # 1 and 1.0 compare as equal, but are two things
    encoder = msgspec.msgpack.Encoder()
    digest = blake3()

    def add(batch: Batch) -> None:
        encoded = memoryview(encoder.encode(batch))
        digest.update(encoded[1 if len(batch) < 16 else 3 :])  # without the array's head: batches leave no trace

    under_way: deque[Future[None]] = deque()
    for batch in scan(connection, f"{table.select} ORDER BY {', '.join(terms[:_SORT_TERMS])}"):
        under_way.append(pool.submit(add, batch))
        if len(under_way) > _AHEAD:
            under_way.popleft().result()
    for one in under_way:
        one.result()
    return digest.digest()


def query(connection: sqlite3.Connection, path: str, statement: str) -> Rows:
    """The rows of one SELECT. Raises ManifestError where it is anything else, or is wrong."""
    connection.set_authorizer(_authorize)
    try:
        cursor = connection.execute(statement)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _refused(statement, path, error) from error
    finally:
        connection.set_authorizer(None)
    if cursor.description is None:
        raise _refused(statement, path, None)

    def batches() -> Iterator[Batch]:
        try:
            while batch := cursor.fetchmany(BATCH_ROWS):
                yield batch
        except sqlite3.Error as error:
            raise _refused(statement, path, error) from error
        finally:
            cursor.close()

    columns = tuple(str(column[0]) for column in cursor.description)
    return Rows(name="query", columns=columns, key=(), batches=batches())


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Reading only. FTS5 asks for PRAGMA data_version by itself; load_extension is a function by name."""
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if first == "data_version" else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_UPDATE:  # a virtual table declaring its columns; SQLite itself refuses a real one
        return sqlite3.SQLITE_OK if first == "sqlite_master" else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second == "load_extension":
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READ_ONLY else sqlite3.SQLITE_DENY


def _refused(statement: str, path: str, error: Exception | None) -> ManifestError:
    known = error is not None and (not isinstance(error, sqlite3.Error) or primary_code(error) is not None)
    return ManifestError(
        f"The statement `{statement}` cannot be asked of {path}: {error if known else 'it yields no readable rows'}.",
        untouched="Nothing was changed.",
        next_step="Write one SELECT (or WITH … SELECT) over the tables of this database.",
    )
