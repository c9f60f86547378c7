"""One large file of columns on its way into the vault, laid out from old chunks where its rows lay elsewhere (``columns``).

chunk of rows --> its id is known? --> as it is, as where rows were only put together with others
              --> most of its rows were there, in whatever file --> parts of old chunks, its new rows in one more (``gathering``)
              --> else: a chunk of its own
chunk of anything else --> a chunk of its own

As all that is patched, a chunk so laid out has the id that it would have as one, and whoever restores it compares (P1).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

import numpy as np

from resurgam.drivers.base import Blob
from resurgam.model.safetensors import Read
from resurgam.vault.blockmemory import BlockMemory
from resurgam.vault.chunking import Dtype
from resurgam.vault.columnmemory import ChunkRows, NotedColumns, RememberedColumns
from resurgam.vault.columns import Column, ColumnCutter, RowReader
from resurgam.vault.gathering import Gathering
from resurgam.vault.index import Index
from resurgam.vault.lance import lance_columns
from resurgam.vault.pack import Kind
from resurgam.vault.passages import laid_out, new_of
from resurgam.vault.patches import MOST_SOURCES
from resurgam.vault.sink import DomainKeys, Sink, padded
from resurgam.vault.snapshots import Extent


def column_patching_of(
    memory: BlockMemory, blob: Blob, read: Read, sink: Sink, index: Index, keys: DomainKeys
) -> ColumnPatching | None:
    """How ``blob`` is patched, which ``read`` reads and which is no file of another structure; None where it has no columns."""
    columns = lance_columns(blob.size, read)
    if columns is None:
        return None
    # P1: nothing is built on what a prune may have taken.
    old = memory.remembered_columns(lambda one: index.knows_all(one.chunks()))
    return ColumnPatching(sink, index, keys, old, memory.noting_columns(blob.path), columns, blob.size)


class ColumnPatching:
    """Patches one file of ``size`` bytes with ``columns``. ``old`` is what the host remembers of the component's columns; ``noted``
    gets what the next capture is to know."""

    def __init__(
        self,
        sink: Sink,
        index: Index,
        keys: DomainKeys,
        old: RememberedColumns,
        noted: NotedColumns,
        columns: Sequence[Column],
        size: int,
    ) -> None:
        self._sink, self._index, self._keys = sink, index, keys
        self._old, self._noted = old, noted
        self._columns, self._starts = columns, [column.offset for column in columns]
        self.cutter = ColumnCutter(columns, size, keys.cut_seed)
        self._reader = RowReader(keys.block_key)
        self._gathering = Gathering(sink, keys)

    def store(self, offset: int, view: memoryview, lengths: list[int]) -> list[Extent]:
        """In a thread: store the chunks of such ``lengths`` of which ``view`` at ``offset`` consists, or what they need to be
        patched."""
        extents: list[Extent] = []
        at = 0
        for length in lengths:
            piece, column = padded(view[at : at + length]), self._column_at(offset + at)
            chunk = self._keys.id_of(Kind.DATA, piece)
            if column is None or not column.width or length % column.width:
                self._sink.put_as(self._keys, Kind.DATA, chunk, piece, Dtype.BYTES)
            else:
                self._store_rows(chunk, piece, column)
            extents.append((chunk, 0, length))
            at += length
        return extents

    def _store_rows(self, chunk: bytes, piece: memoryview, column: Column) -> None:
        rows = self._old.rows(chunk)
        if rows is None or rows.width != column.width:
            rows = ChunkRows(column.width, self._reader.digests(piece, column.width))
        self._noted.note(chunk, rows)
        parts = self._parts(rows) if not self._index.knows(chunk) else None
        if parts is None:
            self._sink.put_as(self._keys, Kind.DATA, chunk, piece, column.dtype)
        else:
            self._gathering.take(chunk, parts, new_of(parts, piece), column.dtype)

    def _parts(self, rows: ChunkRows) -> list[Extent] | None:
        """What a chunk of ``rows`` is laid out from; None where it is better stored whole."""
        were = self._old.find(rows.digests)
        follows = np.where(were[:-1] < 0, were[1:] < 0, were[1:] == were[:-1] + rows.width)
        turns = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(were)]
        lengths = np.diff(turns).astype(np.uint32) * np.uint32(rows.width)
        places = zip(were[turns[:-1]].tolist(), lengths.tolist(), strict=True)
        known = [self._old.extents(was, length) if was >= 0 else [] for was, length in places]
        return laid_out(lengths, of_few(known))

    def _column_at(self, offset: int) -> Column | None:
        number = bisect_right(self._starts, offset) - 1
        column = self._columns[number] if number >= 0 else None
        return column if column is not None and offset < column.offset + column.length else None

    def end(self, extents: Sequence[Extent]) -> dict[bytes, list[Extent]]:
        """No more chunks come; ``extents`` are all. Returns the parts of those that were patched, by their ids."""
        patched = self._gathering.end()
        self._noted.finish(extents, patched)
        return patched

    def close(self) -> None:
        """Nothing is held."""


def of_few(known: list[list[Extent]]) -> list[list[Extent]]:
    """Those runs of rows that lie in the MOST_SOURCES chunks in which most lies; the others count as new."""
    sources = Counter[bytes]()
    for extents in known:
        for chunk, _, length in extents:
            sources[chunk] += length
    kept = {chunk for chunk, _ in sources.most_common(MOST_SOURCES)}
    return [extents if all(chunk in kept for chunk, _, _ in extents) else [] for extents in known]
