"""What a host remembers of its last capture: which blobs were unchanged need not be read again. Can be deleted any time (P3).

One file per component, sorted by key, so that it is read alongside the driver's listing in constant memory. A key is path, NUL
and stamp; a path holds no NUL, which is less than any other byte, so keys sort as paths do. What is kept of a blob is its entry as
it stands in the snapshot's page, to be put into the next one as it is.

The file is a sequence of batches, each with its length and digest: a damaged or foreign one is as good as none, from where the
damage begins. A bit that fell over here would else become a point that restores wrongly.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Generator, Sequence
from itertools import chain
from typing import BinaryIO

import msgspec
from blake3 import blake3

from resurgam.drivers.base import Blob
from resurgam.model.codec import from_msgpack, msgpack_decoder, to_msgpack
from resurgam.model.point import Finding
from resurgam.vault.host import told
from resurgam.vault.pages import Put
from resurgam.vault.snapshots import INLINE, Entry, Extent, Patched, store_runs
from resurgam.vault.tables import Table

_MAGIC = b"RSGKNOWN"
_LENGTH = struct.Struct("<I")
_BATCH = 512
_BATCH_BYTES = 1 << 20  # of chunk ids: large blobs make a batch end early
_CHECK = 16
_NONE = msgspec.Raw(to_msgpack([]))


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A blob as the last capture left it. ``chunks`` are the ids of all its chunks and of the pages that list them, joined;
    ``entry`` is its Entry as MessagePack; ``ends`` says whether a leaf ends after it; ``many`` are its pieces, by the ids that
    they have or would have as chunks, where they lie in pages of their own, which the host cannot read back from the vault (P9);
    not decoded, for of a blob that stands as it stood nobody asks."""

    key: bytes
    size: int
    chunks: bytes
    entry: bytes
    ends: bool
    many: msgspec.Raw = _NONE
    view: View | None = None

    @property
    def path(self) -> bytes:
        """The blob's path."""
        return self.key[: self.key.index(b"\0")]

    def pieces(self) -> list[Extent]:
        """Those that it was cut into."""
        return msgpack_decoder(list[Extent]).decode(self.many) or self._decoded().extents

    def again(self, blob: Blob, view: View | None) -> Known:
        """The same, of a ``blob`` of the same bytes."""
        entry = msgspec.structs.replace(self._decoded(), meta=dict(blob.meta))
        return msgspec.structs.replace(self, entry=to_msgpack(entry), view=view)

    def _decoded(self) -> Entry:
        return from_msgpack(self.entry, Entry, what="what this host remembers of its last capture")


class View(msgspec.Struct, frozen=True, array_like=True):
    """What was decoded from a blob: its tables, the ids of all their pages, and what was found."""

    tables: list[Table]
    pages: list[bytes]
    findings: list[Finding]


def key_of(blob: Blob) -> bytes:
    """What a blob is remembered under."""
    return blob.path + b"\0" + (blob.stamp or b"")


def known_of(
    blob: Blob, digest: bytes, extents: list[Extent], patched: Patched, ends: bool, view: View | None, put: Put
) -> Known:
    """What there is to know of a blob that was read. Long lists of chunks, and what is ``patched``, are ``put`` into pages."""
    size, chunks = sum(length for _, _, length in extents), b"".join([chunk for chunk, _, _ in extents])
    if patched:  # each chunk once, since neighbours are made of the same ones
        pieces = ([part[0] for part in patched.get(chunk, ())] or [chunk] for chunk, _, _ in extents)
        chunks = b"".join(dict.fromkeys(chain.from_iterable(pieces)))
    if len(extents) <= INLINE and not patched:
        entry = Entry(blob.path, size, digest, dict(blob.meta), extents, [])
        return Known(key_of(blob), size, chunks, to_msgpack(entry), ends, _NONE, view)
    runs = store_runs(extents, put, patched)
    entry = Entry(blob.path, size, digest, dict(blob.meta), [], runs)
    return Known(key_of(blob), size, chunks + b"".join(runs), to_msgpack(entry), ends, _raw(extents), view)


def _raw(extents: list[Extent]) -> msgspec.Raw:
    return msgspec.Raw(to_msgpack(extents))


class FilesCache:
    """Reads the last capture's file and writes the next one's beside it; ``commit`` puts it in place."""

    def __init__(self, path: str, vault: str, domain: str) -> None:
        self._path = path
        self._owner = f"{vault} {domain}".encode()  # whose chunks they are: those of another domain are of no use
        self._old = self._read()
        self._near: dict[bytes, Known] = {}
        self._until: bytes | None = b""  # the last key in ``_near``; None after the last batch
        self._new: BinaryIO | None = None
        self._batch: list[Known] = []
        self._bytes = 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing is remembered that ``known`` has not passed."""
        if self._until == b"":
            self._read_on(b"")
        return self._until is None and not self._near

    def known(self, keys: Sequence[bytes]) -> list[Known | None]:
        """What is remembered of each key. They ascend, and none is below the first one of the call before."""
        while self._until is not None and self._until < keys[-1]:
            self._read_on(keys[0])
        return list(map(self._near.get, keys))

    def _read_on(self, first: bytes) -> None:
        """The next batch, in the place of what lies below the key ``first``."""
        batch = next(self._old, None)
        self._until = batch[-1].key if batch else None
        self._near = {key: known for key, known in self._near.items() if key >= first}
        self._near.update((known.key, known) for known in batch or ())

    def remember(self, known: Known) -> None:
        """Keep ``known`` for the next capture. Keys come in ascending order."""
        self._batch.append(known)
        self._bytes += len(known.chunks)
        if len(self._batch) >= _BATCH or self._bytes >= _BATCH_BYTES:
            self._write()

    def commit(self) -> None:
        """The component was captured whole: the new file becomes the file."""
        self._write()
        assert self._new is not None
        with told(self._path):
            self._new.close()
            os.replace(self._path + ".new", self._path)
        self._old.close()

    def close(self) -> None:
        """Leave the old file as it was, unless ``commit`` came before."""
        self._old.close()
        if self._new is not None and not self._new.closed:
            self._new.close()
            os.unlink(self._path + ".new")

    def _write(self) -> None:
        data = msgspec.msgpack.encode(self._batch)
        with told(self._path):
            if self._new is None:
                self._new = open(self._path + ".new", "wb")  # noqa: SIM115
                self._new.write(self._head())
            self._new.write(_LENGTH.pack(len(data)) + blake3(data).digest(_CHECK))
            self._new.write(data)
        self._batch, self._bytes = [], 0

    def _head(self) -> bytes:
        return _MAGIC + _LENGTH.pack(len(self._owner)) + self._owner

    def _read(self) -> Generator[list[Known]]:
        try:
            with open(self._path, "rb") as file:
                if file.read(len(self._head())) != self._head():
                    return
                most = os.fstat(file.fileno()).st_size  # a length that is damaged must take no memory
                while length := file.read(_LENGTH.size):
                    check = file.read(_CHECK)
                    data = file.read(min(_LENGTH.unpack(length)[0], most))
                    if blake3(data).digest(_CHECK) != check:
                        return
                    yield msgpack_decoder(list[Known]).decode(data)
        except (OSError, struct.error, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            return
