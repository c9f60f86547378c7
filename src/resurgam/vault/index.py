"""The index: chunk id to place. Flat arrays sorted by id, never an object per chunk.

A segment is what one writing session added: a table of packs, then its entries sorted by id. It is sealed with the index
key and signed by its writer. An index is a few tables, each larger than the one after it:

    base      what the host remembers of nearly all segments, mapped from a file (``vault.indexcache``), never copied
    tables    segments since, and this session's finished packs, in memory; two of like size are merged, so that n chunks are
              sorted log n times, and adding a few to many costs what the few do (P11)
    recent    ids of chunks that are on their way into a pack

A chunk counts where its whole frame fits into what is there of its pack: the base keeps what segments said, and ``room`` says for
each of its packs how much of that is true now.

A writer reuses only what its own key has signed: a stolen capture host could else publish garbage under a known id
(design 4). A reader uses every segment that a capture or verifier key has signed, and finds garbage out by the chunk id.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.errors import IntegrityError
from resurgam.vault.pack import ENTRY, FRAME, ID

_SEGMENT = struct.Struct("<II")
_REST = struct.Struct("<IIIIB")  # what follows the id in an ENTRY: pack, offset, stored, raw, kind
_SIZE = ENTRY.itemsize
_FEW = 8  # ids that are sooner looked up one by one
_AT_ONCE = 1 << 18  # ids that are looked up together: more gain no time, and take memory
_RECENT = 1 << 16  # chunks held in the small set before they are merged: a few MB
_RATIO = 4  # a table is merged with the one before, where that is not this much larger

Entries = NDArray[np.void]
Prefixes = NDArray[np.uint64]
Rows = NDArray[np.int64]


class Place(NamedTuple):
    """Where a chunk lies: ``stored`` encrypted bytes after the 80-byte header at ``offset`` of pack ``pack``."""

    pack: str
    offset: int
    stored: int
    raw: int
    kind: int


def encode_segment(packs: Iterable[tuple[str, Entries]]) -> bytes:
    """The plain bytes of a segment over finished packs: counts, pack digests, entries sorted by id."""
    names: list[bytes] = []
    parts: list[Entries] = []
    for name, entries in packs:
        part = entries.copy()
        part["pack"] = len(names)
        names.append(bytes.fromhex(name))
        parts.append(part)
    merged = np.concatenate(parts) if parts else np.empty(0, dtype=ENTRY)
    merged = merged[np.argsort(_ids(merged), kind="stable")] if len(merged) else merged
    return _SEGMENT.pack(len(names), len(merged)) + b"".join(names) + merged.tobytes()


def decode_segment(data: bytes, what: str) -> tuple[list[str], Entries]:
    """Pack names and entries of a segment's plain bytes. Raises IntegrityError."""
    packs, count = _SEGMENT.unpack_from(data) if len(data) >= _SEGMENT.size else (0, 0)
    start = _SEGMENT.size + packs * ID
    whole = len(data) == start + count * ENTRY.itemsize
    entries = np.frombuffer(data, dtype=ENTRY, count=count, offset=start) if whole else np.empty(0, dtype=ENTRY)
    if not whole or (count and int(entries["pack"].max()) >= packs):
        raise IntegrityError(
            f"Index segment {what} does not have the length, or the packs, that it says.",
            untouched="Nothing was changed.",
            next_step="Move it out of the vault's index/ folder: the index is rebuilt from packs.",
        )
    return [data[at : at + ID].hex() for at in range(_SEGMENT.size, start, ID)], entries


class Table:
    """Entries sorted by id over the packs that they name (digests, joined), in memory or mapped; never changed. ``room`` says of
    each pack how many of its bytes count, 0 where none do; None where all entries count."""

    def __init__(self, packs: bytes, prefixes: Prefixes, entries: Entries, room: NDArray[np.uint64] | None = None):
        self.packs, self.prefixes, self.entries, self.room = packs, prefixes, entries, room
        self._bytes = entries.view(np.uint8).data

    def __len__(self) -> int:
        return len(self.entries)

    def at(self, chunk: bytes) -> Iterator[int]:
        """The rows of ``chunk``, mostly one or none."""
        prefixes = self.prefixes
        prefix = int.from_bytes(chunk[:8], "big")
        row = int(prefixes.searchsorted(np.uint64(prefix)))
        while row < len(prefixes) and prefixes[row] == prefix:
            if self._bytes[row * _SIZE : row * _SIZE + ID] == chunk and self._counts(row):
                yield row
            row += 1

    def rows(self, ids: NDArray[np.uint8]) -> Rows:
        """The rows of many ids, one in each line of ``ids``; -1 where there is none."""
        prefixes = prefixes_of(ids)
        rows = self.prefixes.searchsorted(prefixes).astype(np.int64)
        found = np.full(len(ids), -1, np.int64)
        open_ = np.arange(len(ids))
        while len(open_):  # as often as entries begin alike: nearly always twice
            open_ = open_[rows[open_] < len(self)]
            open_ = open_[self.prefixes[rows[open_]] == prefixes[open_]]
            here = self.entries[rows[open_]]
            same = (raw_of(here)[:, :ID] == ids[open_]).all(axis=1) & self._fit(here)
            found[open_[same]] = rows[open_[same]]
            open_ = open_[~same]
            rows[open_] += 1
        return found

    def place(self, row: int) -> Place:
        """What a row says."""
        pack, offset, stored, raw, kind = _REST.unpack_from(self._bytes, row * _SIZE + ID)
        return Place(self.packs[pack * ID : (pack + 1) * ID].hex(), offset, stored, raw, kind)

    def counting(self, step: int = 1 << 20) -> Iterator[Entries]:
        """The entries that count, some at a time."""
        for start in range(0, len(self), step):
            entries = self.entries[start : start + step]
            yield entries if self.room is None else entries[self._fit(entries)]

    def _counts(self, row: int) -> bool:
        if self.room is None:
            return True
        pack, offset, stored, _, _ = _REST.unpack_from(self._bytes, row * _SIZE + ID)
        return bool(offset + stored + FRAME <= self.room[pack])

    def _fit(self, entries: Entries) -> NDArray[np.bool_]:
        if self.room is None:
            return np.ones(len(entries), np.bool_)
        fit: NDArray[np.bool_] = ends_of(entries) <= self.room[entries["pack"]]
        return fit


class Index:
    """All known chunks. Thread-safe."""

    def __init__(self, base: Table | None = None) -> None:
        self._lock = threading.Lock()
        self._base = base
        self._tables: list[Table] = []
        self._recent: set[bytes] = set()
        self._finished: list[tuple[list[str], Entries]] = []

    def __len__(self) -> int:
        return sum(map(len, self.tables)) + len(self._recent)

    @property
    def packs(self) -> list[str]:
        """The names (hex) of all packs that the index knows, each as often as a segment names it."""
        joined = b"".join(table.packs for table in self.tables).hex()
        return [joined[at : at + 2 * ID] for at in range(0, len(joined), 2 * ID)]

    @property
    def tables(self) -> list[Table]:
        """What it consists of, but for chunks on their way."""
        return [*((self._base,) if self._base is not None else ()), *self._tables]

    def add(self, segments: Iterable[tuple[list[str], Entries]]) -> None:
        """Merge decoded segments."""
        with self._lock:
            self._merge(segments)

    def add_pack(self, name: str, entries: Entries) -> None:
        """A pack of this session that is durable now. Merged when enough have come that sorting is worth it."""
        with self._lock:
            self._finished.append(([name], entries))
            if len(self._recent) > _RECENT:
                self._settle()

    def settle(self) -> None:
        """Merge all durable packs of this session, so that ``find`` sees their chunks."""
        with self._lock:
            self._settle()

    def claim(self, chunk: bytes) -> bool:
        """Whether ``chunk`` is new; it is known from now on, so exactly one caller stores it."""
        with self._lock:
            if self._known(chunk):
                return False
            self._recent.add(chunk)
            return True

    def knows(self, chunk: bytes) -> bool:
        """Whether ``chunk`` lies in a pack or is about to."""
        with self._lock:
            return self._known(chunk)

    def knows_all(self, chunks: bytes) -> bool:
        """Whether ``knows`` of each of ``chunks``, ids joined. At once, for a large blob has tens of thousands."""
        if len(chunks) <= _FEW * ID:
            return all(self.knows(chunks[at : at + ID]) for at in range(0, len(chunks), ID))
        ids = np.frombuffer(chunks, np.uint8).reshape(-1, ID)
        return all(self._knows_all(ids[start : start + _AT_ONCE]) for start in range(0, len(ids), _AT_ONCE))

    def _knows_all(self, ids: NDArray[np.uint8]) -> bool:
        with self._lock:
            for table in self.tables:
                ids = ids[table.rows(ids) < 0]
        return all(self.knows(chunk.tobytes()) for chunk in ids)

    def find(self, chunk: bytes) -> Place | None:
        """Where ``chunk`` lies, or None."""
        with self._lock:
            for table in self.tables:
                for row in table.at(chunk):
                    return table.place(row)
        return None

    def places(self, chunk: bytes) -> list[Place]:
        """Everywhere that ``chunk`` lies, as ``find`` first: two writers may have stored the same."""
        with self._lock:
            return [table.place(row) for table in self.tables for row in table.at(chunk)]

    def find_all(self, ids: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], Entries]:
        """Of each of ``ids`` (n times 32 bytes) whether it lies in a pack; and the entries of those that do, in their order,
        each with the ordinal of its pack in ``packs``."""
        found, entries, packs = np.zeros(len(ids), np.bool_), np.empty(len(ids), ENTRY), 0
        with self._lock:
            for table in self.tables:
                missing = np.flatnonzero(~found)
                for start in range(0, len(missing), _AT_ONCE):
                    asked = missing[start : start + _AT_ONCE]
                    rows = table.rows(ids[asked])
                    here, known = asked[rows >= 0], table.entries[rows[rows >= 0]]
                    known["pack"] += packs
                    entries[here], found[here] = known, True
                packs += len(table.packs) // ID
        return found, entries if found.all() else entries[found]

    def totals(self) -> tuple[int, int, int]:
        """Number of chunks, their raw bytes, their stored bytes."""
        count = raw = stored = 0
        for table in self.tables:
            for entries in table.counting():
                count += len(entries)
                raw += int(entries["raw"].sum(dtype=np.uint64))
                stored += int(entries["stored"].sum(dtype=np.uint64))
        return count, raw, stored

    def _known(self, chunk: bytes) -> bool:
        return chunk in self._recent or any(True for table in self.tables for _ in table.at(chunk))

    def _settle(self) -> None:
        finished, self._finished = self._finished, []
        self._merge(finished)
        for _, entries in finished:
            self._recent.difference_update(_bytes_of(entries))

    def _merge(self, segments: Iterable[tuple[list[str], Entries]]) -> None:
        parts = [(b"".join(map(bytes.fromhex, names)), entries) for names, entries in segments]
        added = sum(len(entries) for _, entries in parts)
        while added and self._tables and len(self._tables[-1]) < _RATIO * added:
            last = self._tables.pop()
            parts.insert(0, (last.packs, last.entries))  # what came first is found first
            added += len(last)
        if added:
            self._tables.append(table_of(parts))


def table_of(parts: Iterable[tuple[bytes, Entries]]) -> Table:
    """One table of several, each with the digests of its packs, joined."""
    packs, moved = b"", []
    for names, entries in parts:
        part = entries.copy()
        part["pack"] += len(packs) // ID
        packs += names
        moved.append(part)
    return Table(packs, *in_order(np.concatenate(moved)))


def in_order(entries: Entries) -> tuple[Prefixes, Entries]:
    """``entries`` sorted by the first eight bytes of their ids, and those."""
    prefixes = prefixes_of(raw_of(entries))
    order = np.argsort(prefixes, kind="stable")
    return prefixes[order], entries[order]


def prefixes_of(raw: NDArray[np.uint8]) -> Prefixes:
    """The first eight bytes of each line as numbers that sort as the bytes do."""
    return np.ascontiguousarray(raw[:, :8]).view(">u8").ravel().astype(np.uint64)


def raw_of(entries: Entries) -> NDArray[np.uint8]:
    """The bytes of each entry as a line."""
    return np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), _SIZE)


def ends_of(entries: Entries) -> NDArray[np.uint64]:
    """Where in its pack each entry's frame ends."""
    ends: NDArray[np.uint64] = entries["offset"].astype(np.uint64) + entries["stored"] + FRAME
    return ends


def _ids(entries: Entries) -> NDArray[np.void]:
    return np.ascontiguousarray(raw_of(entries)[:, :ID]).view("V32").ravel()


def _bytes_of(entries: Entries) -> list[bytes]:
    raw = np.ascontiguousarray(raw_of(entries)[:, :ID]).tobytes()
    return [raw[i : i + ID] for i in range(0, len(raw), ID)]
