"""How the sqlite driver opens a database, and what SQLite's result codes mean to the caller.

Two rules of SQLite on POSIX shape this file (sqlite.org/lockingv3.html, sqlite.org/howtocorrupt.html section 2.2):

* Closing *any* descriptor of a file drops *all* locks that the process holds on it. So the bytes of a database that
  one of our own connections may have locked are read through :class:`Held`: one descriptor per file in the whole process,
  closed only when nobody in the driver needs the file any more.
* A read-only connection to a WAL database creates ``-wal`` and ``-shm`` where there are none. :func:`reading` avoids that:
  a WAL database without both is complete in its one file and is opened as immutable.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Self

from resurgam.errors import Busy, Denied, IntegrityError, NotFound, ResurgamError, StoreFull, Unreachable

MAGIC = b"SQLite format 3\x00"
WAL_FORMAT = 2  # bytes 18 and 19 of the header (sqlite.org/fileformat2.html, section 1.3)
SIDE_FILES = ("-wal", "-shm", "-journal")

_UNCHANGED = "Nothing was changed."
BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DENIED_CODES = frozenset({sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN})


def connect(path: str, parameters: str) -> sqlite3.Connection:
    """A connection in autocommit mode that never waits by itself; ``parameters`` are those of SQLite's URI file names.

    The connection may be used by other threads: SQLite serialises them.
    """
    uri = f"file://{urllib.parse.quote(os.fsencode(path))}?{parameters}"
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)


@contextmanager
def reading(path: str, collations: Sequence[str] = ()) -> Iterator[sqlite3.Connection]:
    """One read snapshot of the database as it is now, leaving no file beside it where that can be avoided.

    ``collations`` get a stand-in, without which some tables cannot even be scanned. It does not sort as the real one does.

    Raises what :func:`explain` and :func:`explain_os` make of the world.
    """
    require_database(path)
    with opened(path, _reading_parameters(path), collations) as connection:
        yield connection


@contextmanager
def opened(path: str, parameters: str, collations: Sequence[str] = ()) -> Iterator[sqlite3.Connection]:
    """A connection inside a read transaction, closed on every way out; SQLite's errors become ours."""
    try:
        connection = connect(path, parameters)
        try:
            connection.execute("PRAGMA busy_timeout = 5000")
            for name in collations:
                connection.create_collation(name, _compare)
            begin_read(connection)
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _compare(left: str, right: str) -> int:
    return (left > right) - (left < right)


def begin_read(connection: sqlite3.Connection) -> None:
    """Start a read transaction and touch the schema, which is what really pins SQLite's snapshot."""
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def read_header(path: str) -> bytes:
    """The first 100 bytes of the file; fewer where it is shorter. The file may be newer in its WAL."""
    with Held.open(path) as held:
        try:
            return os.pread(held.descriptor, 100, 0)
        except OSError as error:
            raise explain_os(error, path) from error


def require_database(path: str) -> None:
    """Refuse what is not there, may not be read, or is no database. An empty file is SQLite's empty database.

    SQLite itself would make a database out of a name without a file.
    """
    header = read_header(path)
    if header and not header.startswith(MAGIC):
        raise not_a_database(path)


def is_wal(header: bytes) -> bool:
    """Whether the database is in WAL mode, as its header says."""
    return len(header) > 19 and header[18] == WAL_FORMAT and header[19] == WAL_FORMAT


def _reading_parameters(path: str) -> str:
    alone = not os.path.exists(path + "-shm") and _size(path + "-wal") == 0
    return "immutable=1" if alone and is_wal(read_header(path)) else "mode=ro"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


@dataclass(slots=True)
class Held:
    """A descriptor of a file that SQLite may have locked in this process; shared, and closed with its last holder."""

    descriptor: int
    key: tuple[int, int]
    holders: int = 1
    spares: list[int] = field(default_factory=list)

    _open: ClassVar[dict[tuple[int, int], Held]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def open(cls, path: str) -> Held:
        """Hold the file at ``path``. Raises NotFound, Denied, Unreachable."""
        try:
            with cls._lock:
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                    raise IsADirectoryError(path)
                known = cls._open.get((status.st_dev, status.st_ino))
                if known is not None:  # never open a second one: it would have to be closed
                    known.holders += 1
                    return known
                return cls._first(path)
        except OSError as error:
            raise explain_os(error, path) from error

    @classmethod
    def _first(cls, path: str) -> Held:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino)
        known = cls._open.get(key)
        if known is not None:  # the path was switched to a file we hold between stat and open
            known.spares.append(descriptor)
            known.holders += 1
            return known
        held = cls._open[key] = cls(descriptor, key)
        return held

    def close(self) -> None:
        """Let go; once per :meth:`open`, and after the connection whose locks it must not drop."""
        with Held._lock:
            self.holders -= 1
            if not self.holders:
                del Held._open[self.key]
                for descriptor in (self.descriptor, *self.spares):
                    os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None where the error is Python's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def explain(error: sqlite3.Error, path: str) -> ResurgamError:
    """What SQLite's error means to the caller, with the next step (P12)."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_NOTADB:
        return not_a_database(path)
    if code == sqlite3.SQLITE_CORRUPT:
        return IntegrityError(
            f"{path} is damaged: {error}.",
            untouched=_UNCHANGED,
            next_step="Restore it from an earlier point, or save what is left with `sqlite3 FILE .recover`.",
        )
    if code in BUSY_CODES:
        return Busy(
            f"{path} is locked exclusively by another process.",
            untouched=_UNCHANGED,
            next_step="Wait for it or stop it (`fuser FILE` names it), then run the same command again.",
        )
    if code in _DENIED_CODES:
        return Denied(
            f"{path} may not be opened for this: {error}.",
            untouched=_UNCHANGED,
            next_step="Give this user read and write permission on the file, its -wal and -shm, and on its folder.",
        )
    if code == sqlite3.SQLITE_FULL:
        return no_space(path)
    if code == sqlite3.SQLITE_IOERR:
        return Unreachable(
            f"{path} cannot be read: {error}.",
            untouched=_UNCHANGED,
            next_step="Check the disk (`dmesg`) and run the same command again.",
        )
    # An error without a code is Python's own and may quote values of the database: it is not repeated here.
    return IntegrityError(
        f"{path} cannot be understood: {'its text is not readable' if code is None else error}.",
        untouched=_UNCHANGED,
        next_step="Open it with the `sqlite3` shell and run `PRAGMA integrity_check`.",
    )


def explain_os(error: OSError, path: str) -> ResurgamError:
    """What the operating system's error means to the caller."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"There is no file {path}.", untouched=_UNCHANGED, next_step="Check the component's location.")
    if isinstance(error, IsADirectoryError):
        return NotFound(
            f"{path} is a folder or a device, not a database file.",
            untouched=_UNCHANGED,
            next_step="Name the file itself, or use the driver `files` for the folder.",
        )
    if isinstance(error, PermissionError):
        return Denied(
            f"{path} may not be read or written by this user.",
            untouched=_UNCHANGED,
            next_step="Give this user read and write permission on the file and its folder.",
        )
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return no_space(path)
    return Unreachable(
        f"{path} cannot be used: {error.strerror}.",
        untouched=_UNCHANGED,
        next_step="Check the disk and run the same command again.",
    )


def not_a_database(path: str) -> IntegrityError:
    """The file does not begin as SQLite's files do."""
    return IntegrityError(
        f"{path} is not an SQLite database, or it is encrypted.",
        untouched=_UNCHANGED,
        next_step="Check the component's location. An encrypted database can only be captured by the driver `files`, "
        "with its application stopped.",
    )


def no_space(path: str) -> StoreFull:
    """The disk of ``path`` is full."""
    return StoreFull(
        f"No space is left for {path}.",
        untouched="What was there before is unchanged.",
        next_step="Free some space there and run the same command again.",
    )
