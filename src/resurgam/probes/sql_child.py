"""Asks an SQLite database one SELECT without writing a byte, not even beside it. A program of its own: see ``probes.sql``.

Standard input: ``{"path": …, "sql": …}``. Standard output: ``{"answers": {"rows": [[…], …]}}``; exit code 1 with a sentence
on standard error where there is no answer. It imports only the standard library, since it runs without any other.

How to read without a trace (SQLite's "Write-Ahead Logging", section "Read-Only Databases", and "URI Filenames"):

* rollback journal: ``mode=ro``.
* WAL, with ``-wal`` and ``-shm`` there: ``mode=ro`` alone would still write read marks into the ``-shm``; with
  ``readonly_shm=1`` it maps it read-only, or builds the index in memory where nobody keeps the ``-shm`` up to date.
* WAL, with no ``-wal`` or an empty one: the file is the whole truth. ``immutable=1`` keeps SQLite from creating both
  beside it; since it also takes no locks, the answer holds only if the file stood still meanwhile, else it is asked again.
* WAL, with a ``-wal`` and no ``-shm``: nobody has it open; both are copied and the copy is asked. The copy lies among the
  temporary files that the Runner gives, in a folder that is cleared away also when both were killed (``resurgam.private``).

What JSON cannot say is encoded: bytes, and text that is not UTF-8, as ``{"$bytes": hex}``; infinities as strings.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from urllib.parse import quote

BUSY = 10.0  # seconds to wait for a writer that holds the database
TRIES = 5  # of a file that changes while it is read
MAX_ANSWER = 16 << 20  # characters of encoded rows
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}


class Refused(Exception):
    """There is no answer, for a reason that SQLite does not give."""


def main() -> int:
    """Answer the request on standard input; returns the exit code."""
    request = json.load(sys.stdin)
    try:
        answer = rows(request["path"], request["sql"])
    except (sqlite3.Error, sqlite3.Warning, OSError, Refused) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(f'{{"answers":{{"rows":[{",".join(answer)}]}}}}\n'.encode())
    return 0


def rows(path: str, sql: str) -> list[str]:
    """The encoded rows of ``sql``, read while the database stood still or under SQLite's own locks."""
    path = os.path.realpath(path)  # SQLite looks for -wal and -shm beside the file itself
    for _ in range(TRIES):
        before = _state(path)
        try:
            with _opened(path) as (database, locked):
                answer = _asked(database, sql)
        except (sqlite3.DatabaseError, FileNotFoundError):  # a log may vanish while it is copied
            if _state(path) == before:
                raise
            continue
        if locked or _state(path) == before:
            return answer
    raise Refused(f"the database changed {TRIES} times while it was read")


def _state(path: str) -> tuple[object, ...]:
    main = os.stat(path)
    stamp = (main.st_ino, main.st_size, main.st_mtime_ns, main.st_ctime_ns)
    return (*stamp, _size(path + "-wal"), os.path.exists(path + "-shm"))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[sqlite3.Connection, bool]]:
    """A connection that leaves no trace, and whether SQLite's locks keep what it reads consistent."""
    with contextlib.ExitStack() as stack:
        options, locked = "mode=ro", True
        if _is_wal(path):
            if os.path.exists(path + "-wal") and os.path.exists(path + "-shm"):
                options = "mode=ro&readonly_shm=1"
            elif _size(path + "-wal"):
                path, locked = _copied(path, stack.enter_context(tempfile.TemporaryDirectory())), False
            else:
                options, locked = "mode=ro&immutable=1", False
        uri = f"file:{quote(os.fsencode(path))}?{options}"
        database = stack.enter_context(contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY)))
        yield database, locked


def _is_wal(path: str) -> bool:
    """Bytes 18 and 19 of the header are 2 in WAL mode ("Database File Format", section 1.3.3)."""
    with open(path, "rb") as file:
        return file.read(20)[18:] == b"\x02\x02"


def _copied(path: str, folder: str) -> str:
    copy = os.path.join(folder, "copy.db")
    shutil.copyfile(path, copy)
    shutil.copyfile(path + "-wal", copy + "-wal")
    return copy


def _asked(database: sqlite3.Connection, sql: str) -> list[str]:
    refused: list[str] = []

    def allow(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if (
            action in _ALLOWED
            or (action == sqlite3.SQLITE_FUNCTION and second != "load_extension")
            # What virtual tables such as FTS5 do inside, and no statement of ours could: read-only it stays.
            or (action == sqlite3.SQLITE_PRAGMA and first == "data_version" and second is None)
            or (action == sqlite3.SQLITE_UPDATE and first == "sqlite_master")
        ):
            return sqlite3.SQLITE_OK
        refused.append(first or "")
        return sqlite3.SQLITE_DENY

    database.text_factory = _text
    database.set_authorizer(allow)
    answer, size = [], 0
    try:
        for row in database.execute(sql):
            answer.append(json.dumps([_encoded(value) for value in row], ensure_ascii=False))
            size += len(answer[-1])
            if size > MAX_ANSWER:
                raise Refused(f"the answer has more than {MAX_ANSWER >> 20} MiB: ask for less, or for a digest")
    except sqlite3.DatabaseError as error:
        if refused:
            raise Refused(f"only SELECT may be asked ({error})") from error
        raise
    return answer


def _text(raw: bytes) -> object:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _encoded(value: object) -> object:
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


if __name__ == "__main__":
    sys.exit(main())
