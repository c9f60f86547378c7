"""The index: chunk id to place. Flat arrays sorted by id, never an object per chunk.

A segment is what one writing session added: a table of packs, then its entries sorted by id. It is sealed with the index
key and signed by its writer. Segments are merged in memory when a vault is opened; a session's own chunks stand in a small
table first and are merged into the arrays as they grow in number.

A writer reuses only what its own key has signed: a stolen capture host could else publish garbage under a known id
(design 4). A reader uses every segment that a capture or verifier key has signed, and finds garbage out by the chunk id.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.errors import IntegrityError
from resurgam.vault.pack import ENTRY, ID

_SEGMENT = struct.Struct("<II")
_FEW = 8  # ids that are sooner looked up one by one
_RECENT = 1 << 16  # chunks held in the small table before they are merged: a few MB

Entries = NDArray[np.void]


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


class Index:
    """All known chunks. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packs: list[str] = []
        self._entries: Entries = np.empty(0, dtype=ENTRY)
        self._prefixes: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._recent: set[bytes] = set()
        self._finished: list[tuple[list[str], Entries]] = []

    def __len__(self) -> int:
        return len(self._entries) + len(self._recent)

    @property
    def packs(self) -> list[str]:
        """The names (hex) of all packs that the index knows."""
        return list(self._packs)

    def add(self, segments: Iterable[tuple[list[str], Entries]]) -> None:
        """Merge decoded segments."""
        with self._lock:
            self._merge(segments)

    def add_pack(self, name: str, entries: Entries) -> None:
        """A pack of this session that is durable now. Merged when enough have come that sorting again is worth it."""
        with self._lock:
            self._finished.append(([name], entries))
            if len(self._recent) > max(_RECENT, len(self._entries) // 8):
                self._settle()

    def settle(self) -> None:
        """Merge all durable packs of this session, so that ``find`` sees their chunks."""
        with self._lock:
            self._settle()

    def claim(self, chunk: bytes) -> bool:
        """Whether ``chunk`` is new; it is known from now on, so exactly one caller stores it."""
        with self._lock:
            if chunk in self._recent or self._row(chunk) >= 0:
                return False
            self._recent.add(chunk)
            return True

    def knows(self, chunk: bytes) -> bool:
        """Whether ``chunk`` lies in a pack or is about to."""
        with self._lock:
            return chunk in self._recent or self._row(chunk) >= 0

    def knows_all(self, chunks: bytes) -> bool:
        """Whether ``knows`` of each of ``chunks``, ids joined. At once, for a large blob has tens of thousands."""
        if len(chunks) <= _FEW * ID:
            return all(self.knows(chunks[at : at + ID]) for at in range(0, len(chunks), ID))
        ids = np.frombuffer(chunks, np.uint8).reshape(-1, ID)
        found, _ = self.find_all(ids)
        return all(self.knows(ids[row].tobytes()) for row in np.flatnonzero(~found).tolist())

    def find(self, chunk: bytes) -> Place | None:
        """Where ``chunk`` lies, or None."""
        with self._lock:
            row = self._row(chunk)
            return self._place(row) if row >= 0 else None

    def places(self, chunk: bytes) -> list[Place]:
        """Everywhere that ``chunk`` lies, as ``find`` first: two writers may have stored the same."""
        with self._lock:
            row, found = self._row(chunk), []
            while 0 <= row < len(self._prefixes) and self._prefixes[row] == _prefix(chunk):
                if _id_at(self._entries, row) == chunk:
                    found.append(self._place(row))
                row += 1
            return found

    def find_all(self, ids: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], Entries]:
        """Of each of ``ids`` (n times 32 bytes) whether it lies in a pack; and the entries of those that do, in their order,
        each with the ordinal of its pack in ``packs``."""
        with self._lock:
            rows = self._prefixes.searchsorted(_prefixes_of(ids)).astype(np.int64)
            inside = rows < len(self._prefixes)
            found = np.zeros(len(ids), np.bool_)
            found[inside] = (_raw(self._entries)[rows[inside], :ID] == ids[inside]).all(axis=1)
            for at in np.flatnonzero(inside & ~found).tolist():  # absent, or beside another of the same first bytes
                rows[at] = self._row(ids[at].tobytes())
                found[at] = rows[at] >= 0
            return found, self._entries[rows[found]]

    def totals(self) -> tuple[int, int, int]:
        """Number of chunks, their raw bytes, their stored bytes."""
        raw = int(self._entries["raw"].sum(dtype=np.uint64)) if len(self._entries) else 0
        stored = int(self._entries["stored"].sum(dtype=np.uint64)) if len(self._entries) else 0
        return len(self._entries), raw, stored

    def _settle(self) -> None:
        finished, self._finished = self._finished, []
        self._merge(finished)
        for _, entries in finished:
            self._recent.difference_update(_bytes_of(entries))

    def _merge(self, segments: Iterable[tuple[list[str], Entries]]) -> None:
        parts = [self._entries]
        for names, entries in segments:
            part = entries.copy()
            part["pack"] += len(self._packs)
            self._packs.extend(names)
            parts.append(part)
        merged = np.concatenate(parts)
        prefixes = _prefixes(merged)
        order = np.argsort(prefixes, kind="stable")
        self._entries, self._prefixes = merged[order], prefixes[order]

    def _place(self, row: int) -> Place:
        entry = self._entries[row]
        name = self._packs[int(entry["pack"])]
        return Place(name, int(entry["offset"]), int(entry["stored"]), int(entry["raw"]), int(entry["kind"]))

    def _row(self, chunk: bytes) -> int:
        prefix = _prefix(chunk)
        row = int(self._prefixes.searchsorted(prefix))
        while row < len(self._prefixes) and self._prefixes[row] == prefix:
            if _id_at(self._entries, row) == chunk:
                return row
            row += 1
        return -1


def _raw(entries: Entries) -> NDArray[np.uint8]:
    return np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), ENTRY.itemsize)


def _prefix(chunk: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(chunk[:8], "big"))


def _prefixes(entries: Entries) -> NDArray[np.uint64]:
    return _prefixes_of(_raw(entries)) if len(entries) else np.empty(0, dtype=np.uint64)


def _prefixes_of(ids: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first eight bytes of each row, as numbers that sort as they do."""
    return np.ascontiguousarray(ids[:, :8]).view(">u8").ravel().astype(np.uint64)


def _ids(entries: Entries) -> NDArray[np.void]:
    return np.ascontiguousarray(_raw(entries)[:, :ID]).view("V32").ravel()


def _id_at(entries: Entries, row: int) -> bytes:
    return entries[row : row + 1].tobytes()[:ID]


def _bytes_of(entries: Entries) -> list[bytes]:
    raw = np.ascontiguousarray(_raw(entries)[:, :ID]).tobytes()
    return [raw[i : i + ID] for i in range(0, len(raw), ID)]
