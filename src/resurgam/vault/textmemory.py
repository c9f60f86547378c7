"""What a host remembers of the passages of a large text, so that the next capture stores those that are new (P11).

A file beside those of ``blockmemory``, of the same kind: it can be deleted any time (P3), and one that is damaged or of another
vault, domain or file is as good as none. Of n passages, numbers little-endian::

    offset     bytes       what
    0          8           RSGTEXT1
    8          8           n
    16         16          BLAKE3 of all that follows
    32         8 n         digests (``passages``), in the order of the text
    32 + 8 n   4 n         lengths
    32 + 12 n  4 n         the numbers of the passages by ascending digest
    then       to the end  the record, MessagePack

Lengths say where a passage lies in its chunk, so a bit that fell over there would lay out a chunk that no restore can make:
therefore all is digested. It is a thousandth of the text. Passages are noted by the ids of their chunks and written at the end, so
they hold wherever these lie.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from resurgam.model.codec import msgpack_decoder
from resurgam.vault.host import told
from resurgam.vault.pack import ID
from resurgam.vault.passages import Passages
from resurgam.vault.patches import between
from resurgam.vault.snapshots import Extent

_MAGIC = b"RSGTEXT1"
_HEAD = struct.Struct("<8sQ16s")
_EACH = 16  # bytes of a passage
_NEW = ".new"


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """``ids`` of the chunks, joined, and how many passages each has (u32); ``lines`` as ``passages.lines_of`` has them; ``patched``
    are the parts of those that are no chunks."""

    owner: str
    path: bytes
    lines: int
    ids: bytes
    counts: bytes
    patched: dict[bytes, list[Extent]]


class RememberedText:
    """A text as the last capture left it."""

    def __init__(self, record: _Record, data: memoryview, count: int) -> None:
        """``data`` are the bytes of ``count`` passages."""
        self.lines = record.lines
        self._record = record
        self._ids = [record.ids[at : at + ID] for at in range(0, len(record.ids), ID)]
        self._digests = np.frombuffer(data, "<u8", count)
        self._lengths = np.frombuffer(data, "<u4", count, 8 * count)
        self._order = np.frombuffer(data, "<u4", count, 12 * count)
        self._ends = np.cumsum(np.frombuffer(record.counts, "<u4"), dtype=np.int64)
        self._starts = np.cumsum(self._lengths, dtype=np.int64) - self._lengths
        self._numbers: dict[bytes, int] = {chunk: number for number, chunk in enumerate(self._ids)}

    def chunks(self) -> bytes:
        """The ids of all chunks that it lies in, joined."""
        patched = self._record.patched
        sources = (source for chunk in self._ids for source, _, _ in patched.get(chunk, [(chunk, 0, 0)]))
        return b"".join(dict.fromkeys(sources))

    def has(self, chunk: bytes) -> bool:
        """Whether it is a chunk of this text."""
        return chunk in self._numbers

    def passages(self, chunk: bytes) -> Passages:
        """Those of one of its chunks."""
        number = self._numbers[chunk]
        first, end = self._first(number), int(self._ends[number])
        return Passages(self._digests[first:end], self._lengths[first:end])

    def find(self, passages: Passages) -> list[Sequence[Extent]]:
        """Where each of the ``passages`` lies; nothing for one that was not there."""
        places = np.searchsorted(self._digests, passages.digests, sorter=self._order)
        numbers = self._order[np.minimum(places, len(self._order) - 1)]
        same = (self._digests[numbers] == passages.digests) & (self._lengths[numbers] == passages.lengths)
        return [self._extents(number) if there else () for number, there in zip(numbers.tolist(), same, strict=True)]

    def _first(self, number: int) -> int:
        """The number of the first passage of a chunk."""
        return int(self._ends[number - 1]) if number else 0

    def _extents(self, number: int) -> Sequence[Extent]:
        at = int(self._ends.searchsorted(number, "right"))
        chunk, length = self._ids[at], int(self._lengths[number])
        low = int(self._starts[number] - self._starts[self._first(at)])
        parts = self._record.patched.get(chunk)
        if parts is None:
            return [(chunk, low, length)]
        return between(parts, list(accumulate(part[2] for part in parts)), low, low + length)


class NotedText:
    """What is noted of a text while it is captured; in memory, some 20 bytes a passage and 300 a chunk. Thread-safe."""

    def __init__(self, place: str, owner: str, path: bytes, lines: int) -> None:
        self.finished = False
        self._place, self._owner, self._path, self._lines = place, owner, path, lines
        self._lock = threading.Lock()
        self._noted: dict[bytes, Passages] = {}

    def note(self, chunk: bytes, passages: Passages) -> None:
        """Those of a chunk."""
        with self._lock:
            self._noted[chunk] = passages

    def finish(self, extents: Sequence[Extent], patched: Mapping[bytes, list[Extent]]) -> None:
        """All chunks are noted; ``extents`` are they, in order, and ``patched`` the parts of those that are none."""
        ids = [chunk for chunk in dict.fromkeys(chunk for chunk, _, _ in extents) if chunk in self._noted]
        every = [self._noted[chunk] for chunk in ids]
        digests: NDArray[np.uint64] = np.concatenate([np.empty(0, np.uint64), *(one.digests for one in every)])
        lengths: NDArray[np.uint32] = np.concatenate([np.empty(0, np.uint32), *(one.lengths for one in every)])
        counts = np.fromiter((len(one.lengths) for one in every), "<u4", len(every))
        record = _Record(self._owner, self._path, self._lines, b"".join(ids), counts.tobytes(), dict(patched))
        parts = (
            digests.astype("<u8").tobytes(),
            lengths.astype("<u4").tobytes(),
            digests.argsort().astype("<u4").tobytes(),
            msgspec.msgpack.encode(record),
        )
        check = blake3()
        for part in parts:
            check.update(part)
        with (
            told(self._place),
            open(os.open(self._place + _NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
        ):
            file.write(_HEAD.pack(_MAGIC, len(digests), check.digest(16)))
            file.writelines(parts)
        self.close()
        self.finished = True

    def close(self) -> None:
        """Note no more; repeatable."""
        self._noted = {}


def remembered_text(place: str, owner: str, path: bytes) -> RememberedText | None:
    """What was noted of ``path`` and finished; None where it is not there, not whole, or another's."""
    with suppress(OSError, ValueError, struct.error, msgspec.DecodeError), open(place, "rb") as file:
        magic, count, check = _HEAD.unpack(file.read(_HEAD.size))
        if magic != _MAGIC:
            return None
        data = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))[_HEAD.size :]
        if blake3(data).digest(16) != check or not count:
            return None
        record = msgpack_decoder(_Record).decode(data[_EACH * count :])
        if (record.owner, record.path) == (owner, path):
            return RememberedText(record, data, count)
    return None
