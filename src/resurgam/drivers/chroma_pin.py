"""The freeze of a Chroma folder: its SQLite database and its HNSW files as they belong together, copied privately.

Chroma writes in this order: (1) the operation into ``embeddings_queue``, one transaction; (2) its metadata, another; (3) its vector
into memory; and when ``sync_threshold`` operations have come together (4) the HNSW files, outside any transaction, the label map
last; (5) ``max_seq_id``, which says how far the files go; (6) the queue is purged up to there. So the queue covers every gap, if
database and files are taken at one moment between two persists::

    copy       the HNSW files, ahead: most have not changed for long
    W          BEGIN IMMEDIATE: writers wait in their busy timeout, nobody can commit
    look       a persist under way (files newer than the label map, or than the last commit)? let go, look again
    copy       what of the files changed since, then the database (``sqlite_pin``)
    look       the files changed meanwhile? let go, begin again
    W          held until all components are frozen, then ROLLBACK

The copies lie in nameless files and die with the process.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

from resurgam.clock import SystemClock
from resurgam.drivers import sqlite_pin
from resurgam.drivers.chroma_index import HEADER, LABELS, read_header
from resurgam.drivers.copying import copy_range
from resurgam.drivers.sqlite_open import SIDE_FILES, explain_os
from resurgam.drivers.sqlite_pin import Writers
from resurgam.errors import IntegrityError, LimitExceeded
from resurgam.model.codec import to_msgpack
from resurgam.private import private_file

DATABASE_FILE = "chroma.sqlite3"
SEGMENT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RECENT = 1.0  # seconds after which unfinished files are what a crash left, not a persist under way
_CERTAIN = 0.05  # seconds of rest after which equal times promise equal bytes
SETTLED = 2.0  # as in sqlite_pin: stamps are kept for the next capture only from files that rested this long
_NAP = 0.003
_clock = SystemClock()


class Status(NamedTuple):
    """What tells one state of a file or folder from another; ``mode`` and owner are put back by a restore."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, path: str) -> Status:
        """Of what stands at ``path``, links not followed."""
        found = os.lstat(path)
        return cls(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns,
            found.st_mode, found.st_uid, found.st_gid,
        )  # fmt: skip

    def rested(self, seconds: float) -> bool:
        """Whether its bytes stand still for ``seconds``."""
        return _clock.now().timestamp() - self.modified / 1e9 > seconds


Listing = dict[tuple[str, str], Status]  # (segment, file name) of every file in the folders of segments


class Piece(NamedTuple):
    """A file's private copy: where in the spool it begins, and of which state it is. Not ``certain`` where the file changed just
    before: its times may not show that it changes again."""

    start: int
    status: Status
    certain: bool


class Spool:
    """One nameless file that holds the copies of many, each beginning on a page."""

    def __init__(self, closing: ExitStack) -> None:
        with private_file() as (self.descriptor, _):
            closing.callback(os.close, self.descriptor)
        self._end = 0

    def add(self, path: str, size: int, still_allowed: Callable[[], None]) -> int:
        """Copy the first ``size`` bytes of the file at ``path``; returns where they begin."""
        start = self._end
        self._end += -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        os.ftruncate(self.descriptor, self._end)  # what is mapped must exist, also where a file became shorter
        with open(path, "rb", buffering=0) as file:
            copy_range(file.fileno(), self.descriptor, size, start, still_allowed)
        return start


class Slice:
    """A Source: a file's bytes in the spool, which stand still."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size = descriptor, start, size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        view = buffer[: max(0, min(len(buffer), self._size - offset))]
        return os.preadv(self._descriptor, [view], self._start + offset) if view else 0

    def settled(self) -> bool:
        """A private copy does not change."""
        return True

    def close(self) -> None:
        """Nothing to do: the pin owns the spool."""


class ChromaPin:
    """A frozen folder. ``database`` pins its SQLite part, ``pieces`` are its HNSW files; ``identity`` and ``stamp`` are as in
    :class:`sqlite_pin.Pin`. ``folders`` are the states of the folder itself (``.``) and of the segments', by name."""

    def __init__(
        self, folder: str, database: sqlite_pin.Pin, spool: Spool, pieces: dict[tuple[str, str], Piece]
    ) -> None:
        self.folder = folder
        self.database = database
        self.pieces = dict(sorted(pieces.items()))
        self.status = Status.of(os.path.join(folder, DATABASE_FILE))
        self.folders = {name: Status.of(os.path.join(folder, name)) for name in (".", *sorted({s for s, _ in pieces}))}
        self.left_out = left_out(folder)
        self.holders = 1
        self.closing = ExitStack()
        self._spool = spool
        parts = to_msgpack([(*key, *piece.status) for key, piece in self.pieces.items()])
        self.identity = hashlib.sha256(database.identity + parts).digest()
        settled = database.stamp is not None and all(p.status.rested(SETTLED) for p in pieces.values())
        self.stamp = self.identity if settled else None

    def source(self, key: tuple[str, str]) -> Slice:
        """The bytes of one file of a segment."""
        piece = self.pieces[key]
        return Slice(self._spool.descriptor, piece.start, piece.status.size)

    def segment(self, segment: str) -> dict[str, memoryview]:
        """The files of ``segment`` by name, mapped; empty where it has none."""
        return {name: self._mapped(piece) for (owner, name), piece in self.pieces.items() if owner == segment}

    def _mapped(self, piece: Piece) -> memoryview:
        if not piece.status.size:
            return memoryview(b"")
        return memoryview(mmap.mmap(self._spool.descriptor, piece.status.size, offset=piece.start, prot=mmap.PROT_READ))

    def close(self) -> None:
        """Let the state go. Repeatable."""
        self.closing.close()


def segments(folder: str) -> list[str]:
    """The folders that are named as segments are, sorted. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if SEGMENT.fullmatch(e.name) and e.is_dir(follow_symlinks=False))


def list_segments(folder: str) -> Listing:
    """Every regular file in the folders of segments. Raises OSError."""
    return {
        (segment, name): status
        for segment in segments(folder)
        for name in sorted(os.listdir(os.path.join(folder, segment)))
        if stat.S_ISREG((status := Status.of(os.path.join(folder, segment, name))).mode)
    }


def left_out(folder: str) -> list[bytes]:
    """What lies in ``folder`` and is none of Chroma's: paths below it, sorted. Raises OSError."""
    own = {DATABASE_FILE, *(DATABASE_FILE + ending for ending in SIDE_FILES), *(mine := segments(folder))}
    inside = {f"{segment}/{name}" for segment in mine for name in os.listdir(os.path.join(folder, segment))}
    known = {f"{segment}/{name}" for segment, name in list_segments(folder)}
    return sorted(map(os.fsencode, ({*os.listdir(folder)} - own) | (inside - known)))


def take_pin(folder: str, limit: float) -> tuple[Writers, ChromaPin]:
    """Freeze ``folder``; its writers wait until the caller lets them go. ``limit``: seconds to find the moment, and to copy.

    Raises LimitExceeded, Busy, Denied, NotFound, IntegrityError, StoreFull.
    """
    path = os.path.join(folder, DATABASE_FILE)
    until = _clock.monotonic() + limit
    nap = threading.Event()
    with ExitStack() as closing:
        try:
            copies = _Copies(folder, Spool(closing))
            copies.refresh(copies.listing(), lambda: None)
            while (left := until - _clock.monotonic()) > 0:
                writers = Writers(path, left)
                try:
                    if (database := _take(path, copies, writers)) is not None:
                        closing.callback(database.close)
                        pin = ChromaPin(folder, database, copies.spool, copies.pieces)
                        pin.closing = closing.pop_all()
                        return writers, pin
                except BaseException:
                    writers.let_go()
                    raise
                writers.let_go()
                nap.wait(_NAP)
        except OSError as error:
            raise explain_os(error, error.filename if isinstance(error.filename, str) else folder) from error
    raise LimitExceeded(
        f"The vector indexes in {folder} were written all the time for {limit:g} s.",
        untouched="The source was let go; nothing was written.",
        next_step="Raise hnsw:sync_threshold, capture at a quieter hour, or raise the component's option freeze_limit.",
    )


def _take(path: str, copies: _Copies, writers: Writers) -> sqlite_pin.Pin | None:
    """The database's pin, with ``copies`` that belong to it; None where an index was being written."""
    found = copies.listing()
    if found is None or _being_persisted(copies.folder, found, _last_commit(path)):
        return None
    if not copies.refresh(found, writers.require_held):
        return None
    database = sqlite_pin.take_pin(path, writers)
    if copies.listing() == found:
        return database
    database.close()
    return None


class _Copies:
    """The copies of a folder's HNSW files in the spool."""

    def __init__(self, folder: str, spool: Spool) -> None:
        self.folder = folder
        self.spool = spool
        self.pieces: dict[tuple[str, str], Piece] = {}

    def listing(self) -> Listing | None:
        """The files as they stand; None where one vanished meanwhile (a collection is being deleted)."""
        try:
            return list_segments(self.folder)
        except FileNotFoundError:
            if not os.path.isdir(self.folder):
                raise
            return None

    def refresh(self, found: Listing | None, still_allowed: Callable[[], None]) -> bool:
        """Copy what has no copy of just that state; False where a file vanished before it was copied."""
        wanted = found or {}
        for key in self.pieces.keys() - wanted.keys():
            del self.pieces[key]
        for key, status in wanted.items():
            held = self.pieces.get(key)
            if held is not None and held.certain and held.status == status:
                continue
            certain = status.rested(_CERTAIN)
            try:
                start = self.spool.add(os.path.join(self.folder, *key), status.size, still_allowed)
            except FileNotFoundError:
                return False
            self.pieces[key] = Piece(start, status, certain)
        return found is not None


def _being_persisted(folder: str, found: Listing, committed: int) -> bool:
    """Whether some index is between the first byte of a persist and the commit that tells of it.

    Chroma writes the label map last, and then commits; what rested for a while is what a crash left, and no reason to wait.
    """
    for segment in {segment for segment, _ in found}:
        files = {name: status for (owner, name), status in found.items() if owner == segment}
        if all(status.rested(_RECENT) for status in files.values()):
            continue
        labels = files.pop(LABELS, None)
        if labels is None:
            if HEADER in files and not _is_empty(os.path.join(folder, segment, HEADER)):
                return True
        elif labels.modified >= committed or any(status.modified > labels.modified for status in files.values()):
            return True
    return False


def _is_empty(header: str) -> bool:
    """Whether an index is new: nothing was persisted into it yet."""
    try:
        with open(header, "rb") as file:
            return not read_header(file.read()).elements
    except (FileNotFoundError, IntegrityError):
        return False


def _last_commit(path: str) -> int:
    """When a transaction last reached the database or its log, in ns."""
    times = [os.stat(path).st_mtime_ns]
    with suppress(FileNotFoundError):
        times.append(os.stat(path + "-wal").st_mtime_ns)
    return max(times)
