"""The freeze of an SQLite database: hold the writers for a moment, pin a state that stays readable after they go on.

    W   BEGIN IMMEDIATE      writers wait in their own busy timeout; nothing is written by us
        WAL:       R begins a read transaction, which pins the snapshot; 136 bytes of wal-index are read. Microseconds.
        rollback:  the file is copied privately (a reflink where the file system has them), R reads the copy.
    W   ROLLBACK             writers go on; R, its image and its rows stay as they were, until the pin is closed

A private copy loses its name as soon as it is open, so a killed capture leaves nothing behind. W also lets go by itself when
the limit is over, whoever holds the freeze open (the watchdog of design section 5).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from contextlib import ExitStack

from resurgam.clock import SystemClock
from resurgam.drivers.copying import copy_range
from resurgam.drivers.sqlite_image import Image, WalIndex, read_progress, read_wal_index
from resurgam.drivers.sqlite_open import (
    BUSY_CODES,
    Held,
    begin_read,
    connect,
    explain,
    explain_os,
    primary_code,
)
from resurgam.errors import Busy, LimitExceeded, ResurgamError
from resurgam.model.codec import to_msgpack
from resurgam.model.system import Json
from resurgam.private import private_file

_SETTLE_SECONDS = 2.0  # a file changed this recently may change again within the same time stamp
_clock = SystemClock()


class Writers:
    """The hold on the writers (W): ends with :meth:`let_go`, or by itself after ``limit`` seconds.

    Once the watchdog runs, nothing but :meth:`let_go` touches the connection: to close one in a thread while another is asking it
    something ends the process. So what must be asked, ``wal``, is asked before.
    """

    def __init__(self, path: str, limit: float) -> None:
        self._path = path
        self._limit = limit
        self._connection = connect(path, "mode=rw")
        self._lock = threading.Lock()
        self._expired = False
        self.wal = False
        try:
            self._wait()
        except BaseException:
            self._connection.close()
            raise
        self._until = _clock.monotonic() + limit
        self._timer = threading.Timer(limit, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def _wait(self) -> None:
        """Take the write lock between two transactions. SQLite's own busy handler naps up to 0.1 s, in which a busy
        writer always comes back first; short naps of varying length find the gap."""
        until = _clock.monotonic() + self._limit
        nap = threading.Event()
        for attempt in range(1 << 62):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self.wal = self._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
                return
            except sqlite3.Error as error:
                if primary_code(error) not in BUSY_CODES:
                    raise explain(error, self._path) from error
                if _clock.monotonic() >= until:
                    raise self._not_had() from error
            nap.wait(0.0003 * (1 + attempt % 7))

    def _not_had(self) -> Busy | LimitExceeded:
        """A writer at work can be waited out with more patience; an exclusive lock shuts readers out too."""
        try:
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            busy = explain(error, self._path)
            assert isinstance(busy, Busy), "only a lock is left to fail"
            return busy
        return LimitExceeded(
            f"No moment without a writer was found in {self._path} within {self._limit:g} s.",
            untouched="The source was let go; nothing was written.",
            next_step="Look for a transaction that is left open, or raise the component's option freeze_limit.",
        )

    def require_held(self) -> None:
        """Raises LimitExceeded when the watchdog has let the writers go."""
        if self._expired or _clock.monotonic() > self._until:
            raise LimitExceeded(
                f"The freeze of {self._path} did not end within {self._limit:g} s.",
                untouched="The source was let go; nothing was written.",
                next_step="Raise limits.freeze in the manifest, or the component's option freeze_limit."
                if self.wal
                else "Switch the database to WAL (`PRAGMA journal_mode = WAL`), which is frozen without a copy, or raise "
                "limits.freeze in the manifest or the component's option freeze_limit.",
            )

    def let_go(self) -> None:
        """Writers go on. Repeatable."""
        self._timer.cancel()
        with self._lock:
            self._connection.close()  # rolls back; nothing was written
        if threading.current_thread() is not self._timer:
            self._timer.join()  # nobody waits any more; a thread that stayed would forbid copies of this process

    def _expire(self) -> None:
        self._expired = True
        self.let_go()


class Pin:
    """A pinned state: ``image`` is its bytes, ``reader`` a connection in a read transaction on it.

    ``identity`` is a digest of what tells this state from every other one of this file; ``stamp`` is the same where it is
    safe to trust it next time, else None. ``lock`` guards the reader's authorizer. ``holders`` counts the freezes that share it.
    """

    def __init__(self, image: Image, reader: sqlite3.Connection, facts: dict[str, Json]) -> None:
        self.image = image
        self.reader = reader
        self.facts = facts
        self.identity = b""
        self.stamp: bytes | None = None
        self.lock = threading.Lock()
        self.holders = 1
        self.closing = ExitStack()

    def identify(self, parts: tuple[Json, ...], modified: float) -> None:
        """Set ``identity`` and ``stamp`` from what was seen under the freeze."""
        self.identity = hashlib.sha256(to_msgpack(parts)).digest()
        self.stamp = self.identity if _clock.now().timestamp() - modified > _SETTLE_SECONDS else None

    def close(self) -> None:
        """Let the state go: connections first, then the descriptors whose closing drops their locks. Repeatable."""
        self.image.forget()
        self.closing.close()


def take_pin(path: str, writers: Writers) -> Pin:
    """Pin the state that ``writers`` holds still. Raises LimitExceeded, and what the world does to it."""
    with ExitStack() as closing:
        try:
            held = closing.enter_context(Held.open(path))
            pin = _pin_wal(path, held, closing) if writers.wal else _pin_copy(held, writers, closing)
            writers.require_held()
        except (sqlite3.Error, OSError, ResurgamError) as error:
            writers.require_held()  # what others did since the watchdog let them go is not the database's fault
            if isinstance(error, sqlite3.Error):
                raise explain(error, path) from error
            if isinstance(error, OSError):
                raise explain_os(error, path) from error
            raise
        pin.closing = closing.pop_all()
        return pin


def _pin_wal(path: str, held: Held, closing: ExitStack) -> Pin:
    index_file = closing.enter_context(Held.open(path + "-shm"))
    # A reader that could write would checkpoint when it is the last to close. It may where there was nothing to
    # checkpoint: then it leaves no -wal and -shm behind. Else it must leave the source as it found it.
    parameters = "mode=ro" if os.stat(path + "-wal").st_size else "mode=rw"
    reader = _reader(path, parameters, closing)
    # Only after R began: what is not backfilled now was not when R chose its lock.
    index = read_wal_index(index_file.descriptor)
    status = os.fstat(held.descriptor)
    wal: tuple[int, WalIndex] | None = None
    if index.backfilled < index.frames:
        descriptor = os.open(path + "-wal", os.O_RDONLY | os.O_CLOEXEC)
        closing.callback(os.close, descriptor)  # no lock is ever taken on -wal itself
        wal = descriptor, index
    page_size, size = _size(reader)

    def still_pinned() -> bool:
        """With a WAL: it was not restarted, and no frame after R's last one went into the file. Else: the file stands still."""
        if not reader.in_transaction:
            return False
        if wal is None:
            now = os.fstat(held.descriptor)
            return (now.st_mtime_ns, now.st_size) == (status.st_mtime_ns, status.st_size)
        salts, backfilled = read_progress(index_file.descriptor)
        return salts == index.salts and backfilled <= index.frames

    pin = Pin(Image(held.descriptor, size, page_size, wal, still_pinned), reader, _facts(status, "wal", page_size))
    pin.identify((*_identity(held, status), index.salts, index.frames, *index.checksum, size), status.st_mtime)
    return pin


def _pin_copy(held: Held, writers: Writers, closing: ExitStack) -> Pin:
    status = os.fstat(held.descriptor)
    identity = _identity(held, status)
    with private_file() as (copy, copy_path):
        closing.callback(os.close, copy)
        copy_range(held.descriptor, copy, status.st_size, 0, writers.require_held)
        reader = _reader(copy_path, "immutable=1", closing)
    page_size, size = _size(reader)
    pin = Pin(Image(copy, size, page_size, None, lambda: True), reader, _facts(status, "delete", page_size))
    pin.identify((*identity, size), status.st_mtime)
    return pin


def _reader(path: str, parameters: str, closing: ExitStack) -> sqlite3.Connection:
    reader = connect(path, parameters)
    closing.callback(reader.close)
    reader.execute("PRAGMA busy_timeout = 1000")
    reader.execute("PRAGMA query_only = 1")
    begin_read(reader)
    return reader


def _size(reader: sqlite3.Connection) -> tuple[int, int]:
    """(page size, bytes of the image)."""
    page_size: int = reader.execute("PRAGMA page_size").fetchone()[0]
    pages: int = reader.execute("PRAGMA page_count").fetchone()[0]
    return page_size, page_size * pages


def _identity(held: Held, status: os.stat_result) -> tuple[Json, ...]:
    """What changes when the file does: also its change counter (header bytes 24 to 27)."""
    counter = os.pread(held.descriptor, 4, 24)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, counter


def _facts(status: os.stat_result, journal_mode: str, page_size: int) -> dict[str, Json]:
    """What ``write`` needs to put the file back as it was."""
    return {
        "journal_mode": journal_mode,
        "page_size": page_size,
        "mode": status.st_mode & 0o7777,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
