"""Bases: which file on this host a model's tensors are best stored as differences to.

The capture host cannot read the vault (P9). But a fine-tune lies beside the model it came from, and a checkpoint beside the one
before; both were captured, and the host still holds their bytes. So the host remembers which files have tensors of the same names,
and which chunks their pieces became (``blockmemory``)::

    a new file of tensors --> files whose tensors have the same names: those of this capture first, then the last one's
        --> the one that a sample of both is most alike to
        --> each piece beside the piece of the same tensor: same name, shape and dtype, same place in it
              that piece is a chunk of the vault, and the bytes read now have its id --> the delta, if it is worth it (``deltas``)

A base is always a whole chunk, never a delta itself: the id of what was stored as a delta is no chunk's. The entry names both, and
so does the point's list of chunks: whatever keeps, copies, checks or prunes chunks keeps a base as long as a point rests on it.

What is remembered is one small file for each component, which can be deleted any time (P3); it is read only when a file of tensors
comes that the host did not know (P11).
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import numpy as np
from blake3 import blake3

from resurgam.drivers.base import Source, read_fully
from resurgam.errors import IntegrityError, NotFound, ResurgamError
from resurgam.model.codec import msgpack_decoder
from resurgam.model.safetensors import Entry as Tensor
from resurgam.model.safetensors import Header, read_header
from resurgam.vault import deltas
from resurgam.vault.blockmemory import BlockMemory
from resurgam.vault.chunking import Piece
from resurgam.vault.host import told
from resurgam.vault.index import Index
from resurgam.vault.pace import Pace, Paced
from resurgam.vault.pack import Kind
from resurgam.vault.sink import DomainKeys
from resurgam.vault.snapshots import Extent
from resurgam.vault.tensors import Dtype

# Of a piece: a larger delta is not worth being tied to a base. A quarter below what its bytes take alone.
WORTH = {Dtype.BF16: 0.5, Dtype.F16: 0.63, Dtype.F32: 0.62, Dtype.BYTES: 0.75}
MOST = 8  # files of one family that are remembered, or asked of those of one capture: the last ones
_SAMPLE = 64 << 10
_SAMPLES = 3
_CHECK = 16
# Whatever is wrong with another file, the one that is captured is stored all the same, whole.
_TROUBLES = (ResurgamError, OSError)

Pieces = Callable[[], Sequence[Extent]]
Reopen = Callable[[bytes], Source]


class _Remembered(msgspec.Struct, frozen=True, array_like=True):
    """``families``: by the digest of their tensors' names, the paths of files, the last captured last."""

    owner: str
    families: dict[bytes, list[bytes]]


class Model:
    """A file of tensors: where each lies, and which pieces it was cut into."""

    def __init__(self, header: Header, pieces: Sequence[Extent]) -> None:
        self.tensors, self._data = header.entries, header.data
        order = sorted((tensor.data_offsets, name) for name, tensor in header.entries.items())
        self._starts = [header.data + offsets[0] for offsets, _ in order]
        self._names = [name for _, name in order]
        self._pieces: dict[int, Extent] = {}
        at = 0
        for piece in pieces:
            self._pieces[at] = piece
            at += piece[2]

    def start(self, name: str) -> int:
        """Where a tensor begins in the file."""
        return self._data + self.tensors[name].data_offsets[0]

    def tensor_at(self, offset: int) -> str | None:
        """The name of the tensor in which ``offset`` lies; None in the header."""
        number = bisect_right(self._starts, offset) - 1
        return self._names[number] if number >= 0 else None

    def chunk_at(self, offset: int, length: int) -> bytes | None:
        """The id of the piece that begins there and is so long."""
        chunk, _, have = self._pieces.get(offset, (None, 0, 0))
        return chunk if have == length else None


class Base:
    """A file on this host beside the one that is captured. Thread-safe; ``close`` it when no more pieces come."""

    def __init__(self, model: Model, of: Model, source: Source, index: Index, keys: DomainKeys) -> None:
        self._model, self._of, self._source, self._index, self._keys = model, of, source, index, keys
        self._memory = threading.local()

    def place(self, piece: Piece) -> int | None:
        """Where what corresponds to ``piece`` lies in the base: in the tensor of that name, shape and dtype, at the same place."""
        name = self._of.tensor_at(piece.offset)
        if name is None or piece.dtype not in WORTH:
            return None
        ours, theirs = self._of.tensors[name], self._model.tensors.get(name)
        if theirs is None or not _alike(ours, theirs):
            return None
        return self._model.start(name) + piece.offset - self._of.start(name)

    def sample(self, piece: Piece, data: memoryview) -> float:
        """What share of ``data``, the beginning of ``piece``, its delta takes; 1 where there is none."""
        place = self.place(piece)
        room = memoryview(bytearray(len(data)))
        if place is None or not data or read_fully(self._source, place, room) != len(data):
            return 1.0
        return len(deltas.encode(data, room, deltas.WIDTHS[piece.dtype])) / len(data)

    def delta(self, piece: Piece, data: memoryview) -> tuple[bytes, bytes] | None:
        """The chunk that is ``piece``'s base, and the delta that makes ``data`` of it; None where there is none worth it."""
        place = self.place(piece)
        chunk = self._model.chunk_at(place, len(data)) if place is not None else None
        if place is None or chunk is None or not self._index.knows(chunk):
            return None
        try:
            base = self._read(place, len(data))
        except _TROUBLES:
            return None  # gone by now
        if self._keys.id_of(Kind.DATA, base) != chunk:
            return None  # P1: it is not what was captured any more
        width, most = deltas.WIDTHS[piece.dtype], WORTH[piece.dtype]
        for at in {len(data) // 3 & ~7, 2 * len(data) // 3 & ~7}:
            part = slice(at, at + (16 << 10))
            if len(deltas.encode(data[part], base[part], width)) > most * len(data[part]):
                return None
        document = deltas.encode(data, base, width)
        return (chunk, document) if len(document) <= most * len(data) and _comes_back(document, base, data) else None

    def close(self) -> None:
        """Let the file go."""
        self._source.close()

    def _read(self, place: int, length: int) -> memoryview:
        room: memoryview | None = getattr(self._memory, "room", None)
        if room is None or len(room) < length:
            room = self._memory.room = memoryview(bytearray(length))
        return room[: read_fully(self._source, place, room[:length])]


class _Begun(NamedTuple):
    """A file of this capture."""

    path: bytes
    pieces: Pieces


class Bases:
    """Finds bases for the files of one component; ``reopen`` gives the bytes of a file as they are now, if the driver can. What is
    read for it is read at ``pace``."""

    def __init__(self, path: str, owner: str, blocks: BlockMemory, reopen: Reopen | None, pace: Pace) -> None:
        self._path, self._owner, self._blocks, self._reopen, self._pace = path, owner, blocks, reopen, pace
        self._begun: dict[bytes, list[_Begun]] = {}
        self._last: dict[bytes, list[bytes]] | None = None

    def base_of(
        self,
        path: bytes,
        source: Source,
        spans: Sequence[Sequence[Piece]],
        pieces: Pieces,
        index: Index,
        keys: DomainKeys,
    ) -> Base | None:
        """The best base for the file ``path`` of tensors, cut into ``spans``; None where it is none, or has no base. From now on it
        can be one for others; ``pieces`` waits for its own."""
        if self._reopen is None:
            return None
        source = Paced(source, self._pace)
        end = spans[-1][-1].offset + spans[-1][-1].length
        header = _header(source, end)
        if header is None:
            return None
        family = blake3("\0".join(sorted(header.entries)).encode()).digest(16)
        begun = self._begun.setdefault(family, [])
        ours = Model(header, ())
        samples = list(_sampled([piece for span in spans for piece in span], source))
        best: Base | None = None
        least = max(WORTH.values())
        for other, its_pieces in [*reversed(begun[-MOST:]), *self._remembered(family, path, begun)]:
            with suppress(*_TROUBLES):
                base = self._base(other, its_pieces(), ours, index, keys)
                cost = sum(base.sample(*sample) for sample in samples) / len(samples)
                worse = base if cost >= least else best
                if cost < least:
                    best, least = base, cost
                if worse is not None:
                    worse.close()
        begun.append(_Begun(path, pieces))
        return best

    def commit(self) -> None:
        """The component was captured whole: the next capture knows its files."""
        if not self._begun:
            return
        families = {family: list(paths) for family, paths in self._families().items()}
        for family, begun in self._begun.items():
            paths = [path for path in families.get(family, ()) if path not in {one.path for one in begun}]
            families[family] = [*filter(self._is_there, paths), *(one.path for one in begun)][-MOST:]
        data = msgspec.msgpack.encode(_Remembered(self._owner, families))
        with told(self._path):
            with open(self._path + ".new", "wb") as file:
                file.write(blake3(data).digest(_CHECK) + data)
            os.replace(self._path + ".new", self._path)

    def close(self) -> None:
        """Nothing is held."""

    def _base(self, path: bytes, pieces: Sequence[Extent], ours: Model, index: Index, keys: DomainKeys) -> Base:
        """Raises NotFound where no tensors lie under ``path`` any more."""
        assert self._reopen is not None
        source = Paced(self._reopen(path), self._pace)
        header = _header(source, sum(length for _, _, length in pieces))
        if header is None:
            source.close()
            raise NotFound(
                "It is no file of tensors now.", untouched="Nothing was read.", next_step="Nothing is to be done."
            )
        return Base(Model(header, pieces), ours, source, index, keys)

    def _remembered(self, family: bytes, path: bytes, begun: Sequence[_Begun]) -> Iterator[_Begun]:
        """Those of the last capture that did not come yet, the last ones first."""
        come = {path, *(one.path for one in begun)}
        for other in reversed(self._families().get(family, [])):
            if other not in come and (old := self._blocks.remembered(other)) is not None:
                yield _Begun(other, old.extents)

    def _families(self) -> dict[bytes, list[bytes]]:
        if self._last is None:
            self._last = {}
            with suppress(OSError, msgspec.DecodeError), open(self._path, "rb") as file:
                check, data = file.read(_CHECK), file.read()
                if blake3(data).digest(_CHECK) == check:
                    remembered = msgpack_decoder(_Remembered).decode(data)
                    self._last = remembered.families if remembered.owner == self._owner else {}
        return self._last

    def _is_there(self, path: bytes) -> bool:
        assert self._reopen is not None
        with suppress(*_TROUBLES):
            self._reopen(path).close()
            return True
        return False


def _header(source: Source, size: int) -> Header | None:
    # The length of the header and its first byte; the rest is read where they look right.
    head = memoryview(bytearray(9))
    header = read_header(head[: read_fully(source, 0, head)], size, source.read_into)
    return header if header is not None and header.entries else None


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _sampled(pieces: Sequence[Piece], source: Source) -> Iterator[tuple[Piece, memoryview]]:
    """The beginnings of some pieces, spread over the file; of large ones, since small tensors are alike in all models."""
    large = [piece for piece in pieces if piece.length >= _SAMPLE and piece.dtype in WORTH] or list(pieces)
    for number in range(_SAMPLES):
        piece = large[(2 * number + 1) * len(large) // (2 * _SAMPLES)]
        room = memoryview(bytearray(min(piece.length, _SAMPLE)))
        yield piece, room[: read_fully(source, piece.offset, room)]


def _comes_back(document: bytes, base: memoryview, data: memoryview) -> bool:
    """Whether ``document`` makes ``data`` of ``base``: what is handed out for storing is known to come back exactly (P12)."""
    out = deltas.room(len(data))
    try:
        deltas.apply(deltas.read(document, len(data)), base, out)
    except IntegrityError:
        return False
    return np.array_equal(out, np.frombuffer(data, np.uint8))
