"""What a host remembers of the blocks of a large file, so that the next capture stores those that changed (P11).

One file for each file, in a folder for each component (of texts: ``textmemory``, of columns: ``columnmemory``; of databases one
more: ``segmentmemory``). It can
be deleted any time (P3); then what changed is stored in whole pieces once, as at first. One that is damaged or of another vault,
domain or file is as good as none::

    offset  bytes          what
    0       8              RSGBLKS1
    8       8              u64 where the record begins
    16      16             BLAKE3 of the record
    32      8 per block    digests (``patches``); those of a piece from block ceil(its offset / block) on
    then    to the end     the record, MessagePack

A digest that fell over makes its block count as changed; so only the record has a digest of its own. Digests are written from
threads and from copies of this process while the capture runs, each in its own place, and the head comes last: a file that was not
finished is not believed. ``commit`` puts the finished ones in place, after the point is sealed.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from resurgam.model.codec import msgpack_decoder
from resurgam.vault.columnmemory import NotedColumns, RememberedColumns, RememberedFile, remembered_file
from resurgam.vault.host import told
from resurgam.vault.pack import ID
from resurgam.vault.patches import Digests, Flags, count_of
from resurgam.vault.segmentmemory import SUFFIX, NotedSegments, remembered_segments
from resurgam.vault.segments import Segments
from resurgam.vault.snapshots import Extent
from resurgam.vault.textmemory import NotedText, RememberedText, remembered_text

_MAGIC = b"RSGBLKS1"
_HEAD = struct.Struct("<8sQ16s")
_NEW = ".new"


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """``ids`` and ``lengths`` (u32) of the pieces, joined; ``patched`` are the parts of those that are no chunks. ``mark`` is
    that of the segments that were noted with it, if any."""

    owner: str
    path: bytes
    block: int
    ids: bytes
    lengths: bytes
    patched: dict[bytes, list[Extent]]
    mark: bytes = b""


class Remembered:
    """A file as the last capture left it."""

    def __init__(self, record: _Record, digests: Digests, place: str) -> None:
        self.block = record.block
        self._place = place
        self._record, self._digests = record, digests
        self._lengths = np.frombuffer(record.lengths, "<u4")
        self._offsets = np.cumsum(self._lengths, dtype=np.int64) - self._lengths

    def chunks(self) -> bytes:
        """The ids of all chunks that its pieces lie in, joined."""
        ids, patched = self._record.ids, self._record.patched
        every = (ids[at : at + ID] for at in range(0, len(ids), ID))
        return b"".join(dict.fromkeys(one for piece in every for one in _sources(piece, patched)))

    def extents(self) -> list[Extent]:
        """Its pieces, each as if it were a chunk."""
        return [(self.chunk(number), 0, self.length(number)) for number in range(len(self._lengths))]

    def at(self, offset: int) -> int | None:
        """The number of the piece that begins there."""
        number = int(self._offsets.searchsorted(offset))
        return number if number < len(self._offsets) and self._offsets[number] == offset else None

    def compared(self, offset: int, length: int, chunks: Sequence[bytes]) -> tuple[NDArray[np.int64], Flags]:
        """Of pieces of ``length`` bytes from ``offset`` on, whose ids are ``chunks``: the number of the piece that began there, -1
        where none did, and whether it had the same id."""
        places = offset + length * np.arange(len(chunks))
        numbers = self._offsets.searchsorted(places)
        numbers[self._offsets.take(numbers, mode="clip") != places] = -1
        now = np.frombuffer(b"".join(chunks), np.uint64).reshape(-1, ID // 8)
        before = np.frombuffer(self._record.ids, np.uint64).reshape(-1, ID // 8)
        return numbers, (before[numbers] == now).all(axis=1) & (numbers >= 0)

    def is_chunk(self, chunk: bytes) -> bool:
        """Whether a piece with this id is a chunk of its own, not laid out of others."""
        return chunk not in self._record.patched

    def around(self, offset: int) -> tuple[int, int]:
        """The number of the piece in which ``offset`` lies, and where it begins."""
        number = int(self._offsets.searchsorted(offset, "right")) - 1
        return number, int(self._offsets[number])

    @property
    def has_segments(self) -> bool:
        """Whether its segments were noted with it."""
        return bool(self._record.mark)

    def segments(self) -> Segments:
        """Those that were noted, as far as they can be read."""
        return remembered_segments(self._place + SUFFIX, self._record.mark)

    def chunk(self, number: int) -> bytes:
        """The id that a piece has or would have."""
        return self._record.ids[number * ID : (number + 1) * ID]

    def place(self, number: int) -> tuple[int, int]:
        """Where a piece begins, and its length."""
        return int(self._offsets[number]), int(self._lengths[number])

    def length(self, number: int) -> int:
        """The length of a piece."""
        return int(self._lengths[number])

    def parts(self, number: int) -> Sequence[Extent]:
        """What it is laid out from."""
        chunk = self.chunk(number)
        return self._record.patched.get(chunk) or [(chunk, 0, self.length(number))]

    def digests(self, offset: int, length: int) -> Digests:
        """Those of the whole blocks of ``length`` bytes from the beginning of a piece."""
        first = count_of(offset, self.block)
        return self._digests[first : first + length // self.block]


class Noted:
    """What is noted of a file while it is captured."""

    def __init__(self, place: str, owner: str, path: bytes, block: int, *, segments: bool) -> None:
        self.block = block
        self.place = place
        self._owner, self._path = owner, path
        self._file = os.open(place + _NEW, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._segments = NotedSegments(place + SUFFIX + _NEW) if segments else None
        self.finished = False

    def note(self, offset: int, digests: Digests) -> None:
        """Those of the whole blocks from the beginning of a piece."""
        with told(self.place):
            os.pwrite(self._file, digests.data, _HEAD.size + 8 * count_of(offset, self.block))

    def note_segments(self, segments: Segments) -> None:
        """Some of them."""
        assert self._segments is not None
        self._segments.note(segments)

    def finish(self, extents: Sequence[Extent], patched: Mapping[bytes, list[Extent]]) -> None:
        """All pieces are noted; ``extents`` are their ids and lengths, as of whole chunks."""
        lengths = np.fromiter((length for _, _, length in extents), "<u4", len(extents))
        ids = b"".join(chunk for chunk, _, _ in extents)
        mark = self._segments.mark if self._segments else b""
        record = _Record(self._owner, self._path, self.block, ids, lengths.tobytes(), dict(patched), mark)
        data = msgspec.msgpack.encode(record)
        at = _HEAD.size + 8 * count_of(int(lengths.sum(dtype=np.int64)), self.block)
        with told(self.place):
            os.ftruncate(self._file, at)
            os.pwrite(self._file, data, at)
            os.pwrite(self._file, _HEAD.pack(_MAGIC, at, blake3(data).digest(16)), 0)
        self.close()
        self.finished = True

    def close(self) -> None:
        """Note no more; repeatable."""
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)
        if self._segments is not None:
            self._segments.close()


class BlockMemory:
    """The memory of one component, in ``folder``. ``believe`` is False where everything is to be stored whole (``--paranoid``)."""

    def __init__(self, folder: str, vault: str, domain: str, *, believe: bool = True) -> None:
        self._folder, self._owner, self._believe = folder, f"{vault} {domain}", believe
        self._noted: dict[str, Noted | NotedText | NotedColumns] = {}
        self._seen: set[str] = set()
        self._columns: RememberedColumns | None = None

    def remembered(self, path: bytes) -> Remembered | None:
        """The file ``path`` as it was at the last capture."""
        if not self._believe:
            return None
        with suppress(OSError, ValueError, struct.error, msgspec.DecodeError), open(self._place(path), "rb") as file:
            head = file.read(_HEAD.size)
            magic, at, check = _HEAD.unpack(head)
            file.seek(at)
            data = file.read()
            if magic != _MAGIC or blake3(data).digest(16) != check:
                return None
            record = msgpack_decoder(_Record).decode(data)
            if (record.owner, record.path) != (self._owner, path):
                return None
            whole = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            return Remembered(
                record, np.frombuffer(whole, "<u8", (at - _HEAD.size) // 8, _HEAD.size), self._place(path)
            )
        return None

    def noting(self, path: bytes, block: int, *, segments: bool = False) -> Noted:
        """Begin to note the file ``path``, with its ``segments`` or without; what was noted of it before is dropped."""
        place = self._begun(path)
        with told(place):
            noted = self._noted[place] = Noted(place, self._owner, path, block, segments=segments)
        return noted

    def remembered_text(self, path: bytes) -> RememberedText | None:
        """The text ``path`` as it was at the last capture."""
        return remembered_text(self._place(path), self._owner, path) if self._believe else None

    def noting_text(self, path: bytes, lines: int) -> NotedText:
        """Begin to note the text ``path``; what was noted of it before is dropped."""
        place = self._begun(path)
        noted = self._noted[place] = NotedText(place, self._owner, path, lines)
        return noted

    def remembered_columns(self, wanted: Callable[[RememberedFile], bool]) -> RememberedColumns:
        """All columns of the component as they were at the last capture, of files that are ``wanted``; read once."""
        if self._columns is None:
            there = os.listdir(self._folder) if self._believe and os.path.isdir(self._folder) else []
            places = (os.path.join(self._folder, name) for name in sorted(there) if "." not in name)
            found = (remembered_file(place, self._owner) for place in places)
            self._columns = RememberedColumns([one for one in found if one is not None and wanted(one)])
        return self._columns

    def noting_columns(self, path: bytes) -> NotedColumns:
        """Begin to note the columns of the file ``path``; what was noted of it before is dropped."""
        place = self._begun(path)
        noted = self._noted[place] = NotedColumns(place, self._owner)
        return noted

    def _begun(self, path: bytes) -> str:
        place = self._place(path)
        if place in self._noted:
            self._noted.pop(place).close()
        with told(self._folder):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
        return place

    def seen(self, path: bytes) -> None:
        """The file is as it was: what is known of it stays."""
        self._seen.add(self._place(path))

    def commit(self) -> None:
        """The component was captured whole: what was noted of it counts, and of files that are gone nothing."""
        with told(self._folder):
            for place, noted in self._noted.items():
                noted.close()
                if noted.finished:
                    with suppress(FileNotFoundError):  # of a file without segments
                        os.replace(place + SUFFIX + _NEW, place + SUFFIX)
                    os.replace(place + _NEW, place)
                    self._seen.add(place)
            self._noted.clear()
            if os.path.isdir(self._folder):
                for name in os.listdir(self._folder):
                    if os.path.join(self._folder, name.removesuffix(SUFFIX)) not in self._seen:
                        os.unlink(os.path.join(self._folder, name))

    def close(self) -> None:
        """Leave nothing half written."""
        with told(self._folder):
            for place, noted in self._noted.items():
                noted.close()
                for kind in ("", SUFFIX):
                    with suppress(FileNotFoundError):
                        os.unlink(place + kind + _NEW)
        self._noted.clear()

    def _place(self, path: bytes) -> str:
        return os.path.join(self._folder, blake3(path).hexdigest(16))


def _sources(piece: bytes, patched: Mapping[bytes, list[Extent]]) -> Sequence[bytes]:
    return [chunk for chunk, _, _ in patched[piece]] if piece in patched else (piece,)
