"""What a host remembers of the rows of an image, so that the next capture decodes what changed and no more (P11).

One file per component: of each image the ids of its blocks, of each table how its rows lay in them (``pieces.Survey``) and
what became of them (``tables.Pairs``). It can be deleted any time (P3); then everything is decoded, and the same pages come out. A
part that is damaged, of another vault, or of other keys is not believed: a bit that fell over here would else become a row in a
diff that nobody has written.

What is remembered is bounded, ``MOST`` rows in all; the tables after that are read whole at every capture.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise

import msgspec
import numpy as np
from blake3 import blake3

from resurgam.drivers.base import Rows
from resurgam.drivers.pieces import BLOCK, Flags, Numbers, Survey
from resurgam.model.codec import msgpack_decoder
from resurgam.model.system import Json
from resurgam.vault.host import told
from resurgam.vault.pages import Put
from resurgam.vault.snapshots import Extent
from resurgam.vault.tables import DIGEST, Pairs, Table, keys_and_digests, store_pairs, store_rows

MOST = 4 << 20  # rows: some 100 MB in memory, of this capture and of the one before
_MAGIC = b"RSGROWS1"
_PART = struct.Struct("<Q")
_CHECK = 16
_ID = 32
_NO_BLOCKS = b""

Name = tuple[bytes, str]  # the image, the table
Batch = list[tuple[Json, ...]]


class _Remembered(msgspec.Struct, frozen=True, array_like=True):
    """A table of ``image`` as it was taken: ``settings`` is keyed, the columns of the survey are 64-bit little-endian."""

    image: bytes
    name: str
    settings: bytes
    survey: list[bytes]
    pairs: Pairs


class _Image(msgspec.Struct, frozen=True, array_like=True):
    """The ids of an image's blocks, joined."""

    path: bytes
    blocks: bytes


class RowMemory:
    """The memory of one component in ``path``. ``believe`` is False where everything is to be decoded (``--paranoid``)."""

    def __init__(self, path: str, vault: str, *, believe: bool = True) -> None:
        self._path = path
        self._head = _MAGIC + vault.encode() + b"\0"
        self._believe = believe
        self._loaded = False
        self._images: dict[bytes, bytes] = {}
        self._tables: dict[Name, _Remembered] = {}
        self._same: set[bytes] = set()
        self._compared: dict[
            bytes, bytes
        ] = {}  # the blocks of an image as they were when rows were taken over from before
        self._new_images: dict[bytes, Callable[[], list[Extent]]] = {}
        self._new_tables: dict[Name, _Remembered] = {}
        self._room = MOST

    def store(self, rows: Rows, row_key: bytes, put: Put, extents: Callable[[], list[Extent]]) -> Table:
        """As ``tables.store_rows``. ``extents`` waits for the chunks of the image that the rows are a view of."""
        if rows.pieces is None or rows.view_of is None:
            return store_rows(rows, row_key, put)
        self._load()
        settings = blake3(rows.pieces.settings, key=row_key).digest()
        name = rows.view_of, rows.name
        old = self._tables.get(name)
        if old is not None and old.settings != settings:
            old = None
        changed = self._changed(rows.view_of, extents()) if old is not None else np.ones(0, np.bool_)
        found = rows.pieces.survey(_survey(old), changed)
        if found is None or (count := int(found[0].rows.sum())) > self._room:
            return store_rows(rows, row_key, put)
        pairs = _taken(rows, row_key, *found, old)
        if pairs is None:
            return store_rows(rows, row_key, put)
        self._room -= count
        survey = [np.ascontiguousarray(column, "<i8").tobytes() for column in found[0]]
        self._new_tables[name] = _Remembered(rows.view_of, rows.name, settings, survey, pairs)
        return store_pairs(rows, pairs, put)

    def image(self, path: bytes, extents: Callable[[], list[Extent]]) -> None:
        """The image is in the vault as ``extents``, which are asked for where anything is to be remembered of it."""
        self._new_images[path] = extents

    def same(self, path: bytes) -> None:
        """The image is as it was, and none of its tables will come: what is known of them stays."""
        self._same.add(path)

    def commit(self) -> None:
        """The component was captured whole: remember it."""
        if not self._loaded:
            return  # no table came: what is known stays
        with told(self._path):
            with open(self._path + ".new", "wb") as file:
                file.write(self._head)
                for part in self._parts():
                    data = msgspec.msgpack.encode(part)
                    file.write(_PART.pack(len(data)) + blake3(data).digest(_CHECK))
                    file.write(data)
            os.replace(self._path + ".new", self._path)

    def close(self) -> None:
        """Leave nothing half written."""
        with told(self._path), suppress(FileNotFoundError):
            os.unlink(self._path + ".new")

    def _parts(self) -> list[_Image | _Remembered]:
        """What can be believed next time: an image that was read again after its rows were taken is none of it."""
        sound = {
            path: blocks
            for path, blocks in ((path, _blocks(extents())) for path, extents in self._new_images.items())
            if blocks and self._compared.get(path, blocks) == blocks
        }
        sound |= {path: blocks for path, blocks in self._images.items() if path in self._same}
        known = [table for (path, _), table in self._tables.items() if path in self._same]
        tables = [table for table in (*self._new_tables.values(), *known) if table.image in sound]
        return [*(_Image(path, blocks) for path, blocks in sound.items()), *tables]

    def _changed(self, path: bytes, extents: list[Extent]) -> Flags:
        now = self._compared[path] = _blocks(extents)
        one, other = (np.frombuffer(ids, np.uint64).reshape(-1, _ID // 8) for ids in (self._images.get(path, b""), now))
        both = min(len(one), len(other))
        flags = np.ones(max(len(one), len(other)), np.bool_)
        flags[:both] = (one[:both] != other[:both]).any(axis=1)
        return flags

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        if not self._believe:
            return
        with suppress(OSError, struct.error, msgspec.DecodeError, UnicodeDecodeError), open(self._path, "rb") as file:
            if file.read(len(self._head)) != self._head:
                return
            most = os.fstat(file.fileno()).st_size  # a length that is damaged must take no memory
            while length := file.read(_PART.size):
                check = file.read(_CHECK)
                data = file.read(min(_PART.unpack(length)[0], most))
                if blake3(data).digest(_CHECK) != check:
                    return
                self._learn(data)

    def _learn(self, data: bytes) -> None:
        fields: list[object] = msgspec.msgpack.decode(data)
        if len(fields) == len(_Image.__struct_fields__):
            image = msgspec.convert(fields, _Image)
            self._images[image.path] = image.blocks
        else:
            table = msgpack_decoder(_Remembered).decode(data)
            self._tables[table.image, table.name] = table


def _blocks(extents: list[Extent]) -> bytes:
    """The ids of the chunks where each is a block and none is missing, so that its place is known; else none."""
    whole = all(start == 0 and length == BLOCK for _, start, length in extents[:-1])
    if not whole or not extents or extents[-1][2] > BLOCK:
        return _NO_BLOCKS
    return b"".join(chunk for chunk, _, _ in extents)


def _survey(old: _Remembered | None) -> Survey | None:
    return None if old is None else Survey(*(np.frombuffer(column, "<i8") for column in old.survey))


def _taken(rows: Rows, row_key: bytes, survey: Survey, origin: Numbers, old: _Remembered | None) -> Pairs | None:
    """The pairs of all pieces: of those with an ``origin`` the old ones, of the others from the driver.

    None where the driver's rows are not as many as its survey says: then neither is to be believed.
    """
    assert rows.pieces is not None
    kept = _Slices(old) if old is not None else None
    parts: list[Pairs] = []
    together = np.where(origin[:-1] < 0, origin[1:] < 0, origin[1:] == origin[:-1] + 1)
    ends = np.flatnonzero(~together) + 1
    for start, end in pairwise([0, *ends.tolist(), len(origin)]):
        if kept is not None and origin[start] >= 0:
            parts.append(kept.of(int(origin[start]), int(origin[end - 1]) + 1))
            continue
        batches = rows.pieces.read(int(survey.first[start]), int(survey.last[end - 1]))
        fresh = _decoded(rows, batches, row_key)
        if len(fresh.digests) != DIGEST * int(survey.rows[start:end].sum()):
            return None
        parts.append(fresh)
    return Pairs(*(b"".join(column) for column in zip(*parts, strict=True)))


def _decoded(rows: Rows, batches: Iterator[Batch], row_key: bytes) -> Pairs:
    lengths, keys, digests = [], [], []
    for some_keys, some_digests in keys_and_digests(rows, batches, row_key):
        lengths.append(np.fromiter(map(len, some_keys), "<u4", len(some_keys)).tobytes())
        keys.append(b"".join(some_keys))
        digests.append(b"".join(some_digests))
    return Pairs(b"".join(lengths), b"".join(keys), b"".join(digests))


class _Slices:
    """The pairs of neighbouring pieces of a remembered table."""

    def __init__(self, old: _Remembered) -> None:
        self._pairs = old.pairs
        rows = np.frombuffer(old.survey[Survey._fields.index("rows")], "<i8")
        self._rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])
        lengths = np.cumsum(np.frombuffer(old.pairs.lengths, "<u4"), dtype=np.int64)
        self._keys = np.concatenate([np.zeros(1, np.int64), lengths])

    def of(self, start: int, end: int) -> Pairs:
        """From piece ``start`` up to piece ``end``."""
        low, high = int(self._rows[start]), int(self._rows[end])
        lengths, keys, digests = self._pairs
        return Pairs(
            lengths[4 * low : 4 * high],
            keys[int(self._keys[low]) : int(self._keys[high])],
            digests[DIGEST * low : DIGEST * high],
        )
