"""What changed in several pieces of a file, gathered into new chunks of up to ``FULL`` bytes.

A patched piece needs a few new bytes (``patches``, ``passages``), too few for a chunk of their own. The id of a new chunk is known
when it is full, so where the parts of a piece lie is known at the end only.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from resurgam.vault.chunking import Dtype
from resurgam.vault.frames import Buffer
from resurgam.vault.pack import Kind
from resurgam.vault.patches import NEW
from resurgam.vault.sink import DomainKeys, Sink
from resurgam.vault.snapshots import Extent

FULL = 1 << 20


@dataclass(slots=True)
class _Gathered:
    """A chunk to be. Of each piece, its id and its parts, and where its new bytes begin here."""

    data: bytearray = field(default_factory=bytearray)
    pieces: list[tuple[bytes, Sequence[Extent], int]] = field(default_factory=list)


class Gathering:
    """The patched pieces of one file. Thread-safe."""

    def __init__(self, sink: Sink, keys: DomainKeys) -> None:
        self._sink, self._keys = sink, keys
        self._lock = threading.Lock()
        self._gathered: dict[Dtype, _Gathered] = {}
        self._patched: dict[bytes, list[Extent]] = {}

    def take(self, piece: bytes, parts: Sequence[Extent], data: Buffer, dtype: Dtype) -> None:
        """The piece with the id ``piece`` is laid out from ``parts``, of which those of the chunk NEW are in ``data``, in order."""
        full = None
        with self._lock:
            gathered = self._gathered.setdefault(dtype, _Gathered())
            gathered.pieces.append((piece, parts, len(gathered.data)))
            gathered.data += data
            if len(gathered.data) >= FULL:
                full = self._gathered.pop(dtype)
        if full is not None:
            self._store(full, dtype)

    def lay(self, piece: bytes, parts: list[Extent]) -> None:
        """The same, of chunks that have their names."""
        with self._lock:
            self._patched[piece] = parts

    def end(self) -> dict[bytes, list[Extent]]:
        """No more pieces come. Returns the parts of all of them, by their ids."""
        for dtype, gathered in self._gathered.items():
            self._store(gathered, dtype)
        self._gathered.clear()
        return self._patched

    def _store(self, gathered: _Gathered, dtype: Dtype) -> None:
        new = self._sink.put(self._keys, Kind.DATA, memoryview(gathered.data), dtype) if gathered.data else NEW
        for piece, parts, start in gathered.pieces:
            self.lay(piece, [(new, start + at, n) if chunk == NEW else (chunk, at, n) for chunk, at, n in parts])
