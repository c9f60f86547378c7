"""What a host remembers of the rows of a component's columns (``columns``), so that a compaction stores none of them again (P11).

Compaction writes other files under other names; so what is remembered of each file is a file of its own, beside those of
``blockmemory`` and of the same kind, but all of a component's are looked through together. Of n rows, numbers little-endian::

    offset     bytes       what
    0          8           RSGROWS1
    8          8           n
    16         16          BLAKE3 of the record
    32         16 n        digests (``columns``), in the order of the chunks
    32 + 16 n  to the end  the record, MessagePack

A digest that fell over is that of no row; so only the record has a digest of its own. It is 1 % of vectors of 384 floats. Rows are
noted by the ids of their chunks and written at the end, so they hold wherever these lie.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import NamedTuple

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from resurgam.model.codec import msgpack_decoder
from resurgam.vault.columns import Digests
from resurgam.vault.host import told
from resurgam.vault.pack import ID
from resurgam.vault.patches import between
from resurgam.vault.snapshots import Extent

MOST_ROWS = 1 << 21  # that are noted of one file, or looked through in all: 32 MB, and as much to find them by
_MAGIC = b"RSGROWS1"
_HEAD = struct.Struct("<8sQ16s")
_EACH = 16  # bytes of a row
_NEW = ".new"

Numbers = NDArray[np.int64]


class ChunkRows(NamedTuple):
    """Of a chunk of whole rows: how wide they are, and their digests."""

    width: int
    digests: Digests


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """``ids`` of the chunks, joined, how many rows each has, and how wide they are (u32); ``patched`` are the parts of those that
    are no chunks."""

    owner: str
    ids: bytes
    counts: bytes
    widths: bytes
    patched: dict[bytes, list[Extent]]


class RememberedFile:
    """The columns of one file as the last capture left them."""

    def __init__(self, record: _Record, digests: Digests) -> None:
        self.digests, self.patched = digests, record.patched
        self.ids = [record.ids[at : at + ID] for at in range(0, len(record.ids), ID)]
        self.counts, self.widths = (np.frombuffer(column, "<u4") for column in (record.counts, record.widths))

    def chunks(self) -> bytes:
        """The ids of all chunks that they lie in, joined."""
        sources = (source for chunk in self.ids for source, _, _ in self.patched.get(chunk, [(chunk, 0, 0)]))
        return b"".join(dict.fromkeys(sources))


class RememberedColumns:
    """Those of all ``files`` of a component, as if they lay one behind the other; of more than MOST_ROWS those of the smallest
    files, since such are put together."""

    def __init__(self, files: Sequence[RememberedFile]) -> None:
        files = sorted(files, key=lambda one: len(one.digests))
        sizes = accumulate(len(one.digests) for one in files)
        files = [one for one, size in zip(files, sizes, strict=True) if size <= MOST_ROWS]
        nothing = np.empty(0, np.int64)
        self._ids = [chunk for one in files for chunk in one.ids]
        self._numbers = {chunk: number for number, chunk in enumerate(self._ids)}
        self._patched = {chunk: parts for one in files for chunk, parts in one.patched.items()}
        self._widths = np.concatenate([nothing, *(one.widths for one in files)])
        counts = np.concatenate([nothing, *(one.counts for one in files)])
        self._rows = np.cumsum(counts) - counts  # of each chunk, the number of its first row
        self._lengths = counts * self._widths
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._digests = np.concatenate([np.empty((0, 2), np.uint64), *(one.digests for one in files)])
        self._order = np.argsort(self._digests[:, 0]).astype(np.uint32)
        self._sorted = self._digests[self._order, 0]

    def rows(self, chunk: bytes) -> ChunkRows | None:
        """Those of a chunk, if it has any."""
        number = self._numbers.get(chunk)
        if number is None:
            return None
        first, width = int(self._rows[number]), int(self._widths[number])
        return ChunkRows(width, self._digests[first : first + int(self._lengths[number]) // width])

    def find(self, digests: Digests) -> Numbers:
        """Where rows with such ``digests`` begin, -1 where there is none. Of several, each is the one behind that found for the row
        before: rows that moved together are found together."""
        if not len(self._sorted) or not len(digests):
            return np.full(len(digests), -1, np.int64)
        place = np.minimum(np.searchsorted(self._sorted, digests[:, 0]), len(self._sorted) - 1)
        which = self._order[place].astype(np.int64)
        behind = np.minimum(which[:-1] + 1, len(self._order) - 1)
        which[1:] = np.where((self._digests[behind] == digests[1:]).all(axis=1), behind, which[1:])
        same = (self._digests[which] == digests).all(axis=1)
        number = np.searchsorted(self._rows, which, "right") - 1
        starts: Numbers = self._starts[number] + (which - self._rows[number]) * self._widths[number]
        return np.where(same, starts, -1)

    def extents(self, start: int, length: int) -> list[Extent]:
        """What of chunks makes up ``length`` bytes of rows from ``start``."""
        found: list[Extent] = []
        while length:
            number = int(self._starts.searchsorted(start, "right")) - 1
            low = start - int(self._starts[number])
            size = min(length, int(self._lengths[number]) - low)
            chunk = self._ids[number]
            parts = self._patched.get(chunk) or [(chunk, 0, int(self._lengths[number]))]
            found += between(parts, list(accumulate(part[2] for part in parts)), low, low + size)
            start, length = start + size, length - size
        return found


class NotedColumns:
    """What is noted of a file while it is captured; in memory. Thread-safe."""

    def __init__(self, place: str, owner: str) -> None:
        self.finished = False
        self._place, self._owner = place, owner
        self._lock = threading.Lock()
        self._noted: dict[bytes, ChunkRows] = {}
        self._count = 0

    def note(self, chunk: bytes, rows: ChunkRows) -> None:
        """Those of a chunk."""
        with self._lock:
            if self._count + len(rows.digests) <= MOST_ROWS:
                self._noted[chunk] = rows
                self._count += len(rows.digests)

    def finish(self, extents: Sequence[Extent], patched: Mapping[bytes, list[Extent]]) -> None:
        """All chunks are noted; ``extents`` are they, in order, and ``patched`` the parts of those that are none."""
        ids = [chunk for chunk in dict.fromkeys(chunk for chunk, _, _ in extents) if chunk in self._noted]
        every = [self._noted[chunk] for chunk in ids]
        counts = np.fromiter((len(one.digests) for one in every), "<u4", len(every))
        widths = np.fromiter((one.width for one in every), "<u4", len(every))
        made_of = {chunk: parts for chunk, parts in patched.items() if chunk in self._noted}
        record = _Record(self._owner, b"".join(ids), counts.tobytes(), widths.tobytes(), made_of)
        data = msgspec.msgpack.encode(record)
        with (
            told(self._place),
            open(os.open(self._place + _NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
        ):
            file.write(_HEAD.pack(_MAGIC, int(counts.sum()), blake3(data).digest(16)))
            file.writelines(one.digests.astype("<u8").tobytes() for one in every)
            file.write(data)
        self.close()
        self.finished = True

    def close(self) -> None:
        """Note no more; repeatable."""
        self._noted = {}


def remembered_file(place: str, owner: str) -> RememberedFile | None:
    """What was noted at ``place`` and finished; None where it is not there, not whole, another's, or something else."""
    with suppress(OSError, ValueError, struct.error, msgspec.DecodeError), open(place, "rb") as file:
        magic, count, check = _HEAD.unpack(file.read(_HEAD.size))
        if magic != _MAGIC:
            return None
        data = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))[_HEAD.size :]
        record = bytes(data[_EACH * count :])
        if blake3(record).digest(16) != check:
            return None
        made = msgpack_decoder(_Record).decode(record)
        if made.owner == owner:
            return RememberedFile(made, np.frombuffer(data, "<u8", 2 * count).reshape(-1, 2))
    return None
