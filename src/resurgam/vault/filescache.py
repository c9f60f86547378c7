"""What a host remembers of its last capture: which blobs were unchanged need not be read again. Can be deleted any time (P3).

One file per component, sorted by path, so that it is read alongside the driver's listing in constant memory. It is a sequence
of batches, each with its length and digest: a damaged or foreign file is as good as none, from where the damage begins. A bit
that fell over here would else become a point that restores wrongly.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Generator
from typing import BinaryIO

import msgspec
from blake3 import blake3

from resurgam.model.point import Finding
from resurgam.vault.host import told
from resurgam.vault.snapshots import Extent
from resurgam.vault.tables import Table

_MAGIC = b"RSGFILES"
_LENGTH = struct.Struct("<I")
_BATCH = 512
_BATCH_EXTENTS = 1 << 14  # large blobs make a batch end early: about 3 MB in memory
_CHECK = 16


class Known(msgspec.Struct, frozen=True, array_like=True):
    """A blob as the last capture left it, with all its extents: the host cannot read them back from the vault (P9)."""

    path: bytes
    stamp: bytes
    size: int
    digest: bytes
    extents: list[Extent]
    view: View | None = None


class View(msgspec.Struct, frozen=True, array_like=True):
    """What was decoded from a blob: its tables, the ids of all their pages, and what was found."""

    tables: list[Table]
    pages: list[bytes]
    findings: list[Finding]


class FilesCache:
    """Reads the last capture's file and writes the next one's beside it; ``commit`` puts it in place."""

    def __init__(self, path: str, vault: str) -> None:
        self._path = path
        self._vault = vault.encode()
        self._old = self._read()
        self._next: Known | None = next(self._old, None)
        self._new: BinaryIO | None = None
        self._batch: list[Known] = []
        self._extents = 0

    def known(self, path: bytes, stamp: bytes) -> Known | None:
        """What is remembered of ``path`` when its stamp is the same. Paths are asked in ascending order."""
        while self._next is not None and self._next.path < path:
            self._next = next(self._old, None)
        if self._next is not None and self._next.path == path and self._next.stamp == stamp:
            return self._next
        return None

    def remember(self, known: Known) -> None:
        """Keep ``known`` for the next capture. Paths come in ascending order."""
        self._batch.append(known)
        self._extents += len(known.extents)
        if len(self._batch) >= _BATCH or self._extents >= _BATCH_EXTENTS:
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
                self._new.write(_MAGIC + _LENGTH.pack(len(self._vault)) + self._vault)
            self._new.write(_LENGTH.pack(len(data)) + blake3(data).digest(_CHECK))
            self._new.write(data)
        self._batch, self._extents = [], 0

    def _read(self) -> Generator[Known]:
        try:
            with open(self._path, "rb") as file:
                head = _MAGIC + _LENGTH.pack(len(self._vault)) + self._vault
                if file.read(len(head)) != head:
                    return
                while length := file.read(_LENGTH.size):
                    check = file.read(_CHECK)
                    data = file.read(_LENGTH.unpack(length)[0])
                    if blake3(data).digest(_CHECK) != check:
                        return
                    yield from msgspec.msgpack.decode(data, type=list[Known])
        except (OSError, struct.error, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            return
