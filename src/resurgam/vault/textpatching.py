"""One large text on its way into the vault, laid out from old chunks where lines came, went or changed (``passages``).

chunk --> its id is known? --> as it is
      --> most of its passages were there --> parts of old chunks, and its new passages into a new one (``gathering``)
      --> else: a chunk of its own
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

from resurgam.drivers.base import Blob
from resurgam.vault.blockmemory import BlockMemory
from resurgam.vault.chunking import Dtype
from resurgam.vault.gathering import Gathering
from resurgam.vault.index import Index
from resurgam.vault.pack import SHORTEST, Kind
from resurgam.vault.passages import PassageReader, Passages, laid_out, lines_of, new_of
from resurgam.vault.patching import PATCHED_FROM
from resurgam.vault.sink import DomainKeys, Sink, padded
from resurgam.vault.snapshots import Extent
from resurgam.vault.textmemory import NotedText, RememberedText


def text_patching_of(
    memory: BlockMemory, blob: Blob, head: memoryview, sink: Sink, index: Index, keys: DomainKeys
) -> TextPatching | None:
    """How ``blob``, which begins with ``head`` and is cut by its content, is patched; None where it is not worth it."""
    lines = lines_of(head) if blob.size >= PATCHED_FROM else None
    if lines is None:
        return None
    old = memory.remembered_text(blob.path)
    if old is not None and not index.knows_all(old.chunks()):  # P1: nothing is built on what a prune may have taken
        old = None
    lines = old.lines if old is not None else lines
    return TextPatching(sink, index, keys, old, memory.noting_text(blob.path, lines), lines)


class TextPatching:
    """Patches one text. ``old`` is what the host remembers of it, if anything; ``noted`` gets what the next capture is to know."""

    def __init__(
        self, sink: Sink, index: Index, keys: DomainKeys, old: RememberedText | None, noted: NotedText, lines: int
    ) -> None:
        self._sink, self._index, self._keys = sink, index, keys
        self._old, self._noted = old, noted
        self._reader = PassageReader(keys.block_key, lines)
        self._gathering = Gathering(sink, keys)

    def store(self, _offset: int, view: memoryview, lengths: list[int]) -> list[Extent]:
        """In a thread: store the chunks of such ``lengths`` of which ``view`` consists, or what they need to be patched."""
        pieces = [view[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]
        chunks = [self._keys.id_of(Kind.DATA, padded(piece)) for piece in pieces]
        for piece, chunk, passages in zip(pieces, chunks, self._passages(view, lengths, chunks), strict=True):
            self._noted.note(chunk, passages)
            if not self._patch(chunk, passages, piece):
                self._sink.put_as(self._keys, Kind.DATA, chunk, padded(piece), Dtype.BYTES)
        return [(chunk, 0, length) for chunk, length in zip(chunks, lengths, strict=True)]

    def _passages(self, view: memoryview, lengths: list[int], chunks: list[bytes]) -> Iterator[Passages]:
        """Those of each chunk: the remembered ones, or else as they are read."""
        old = self._old
        at = 0
        for known, run in groupby(zip(chunks, lengths, strict=True), lambda one: old is not None and old.has(one[0])):
            ids, sizes = zip(*run, strict=True)
            end = at + sum(sizes)
            yield from map(old.passages, ids) if old is not None and known else self._reader.read(view[at:end], sizes)
            at = end

    def _patch(self, chunk: bytes, passages: Passages, piece: memoryview) -> bool:
        """Store what ``piece`` needs to be patched; False where it is to be a chunk, or is one."""
        if self._old is None or self._index.knows(chunk) or len(piece) < SHORTEST:
            return False
        parts = laid_out(passages.lengths, self._old.find(passages))
        if parts is None:
            return False
        self._gathering.take(chunk, parts, new_of(parts, piece), Dtype.BYTES)
        return True

    def end(self, extents: Sequence[Extent]) -> dict[bytes, list[Extent]]:
        """No more chunks come; ``extents`` are all. Returns the parts of those that were patched, by their ids."""
        patched = self._gathering.end()
        self._noted.finish(extents, patched)
        return patched

    def close(self) -> None:
        """Nothing is held."""
