"""One large text on its way into the vault, laid out from old chunks where lines came, went or changed (``passages``).

chunk --> its id is known? --> as it is
      --> most of its passages were there --> parts of old chunks, and its new passages into a new one (``gathering``)
      --> else: a chunk of its own
"""

from __future__ import annotations

from collections.abc import Sequence

from resurgam.drivers.base import Blob
from resurgam.vault.blockmemory import BlockMemory
from resurgam.vault.chunking import Dtype
from resurgam.vault.gathering import Gathering
from resurgam.vault.index import Index
from resurgam.vault.passages import PassageReader, laid_out, lines_of, new_of
from resurgam.vault.patching import PATCHED_FROM
from resurgam.vault.sink import DomainKeys, Sink
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
        self._index, self._old, self._noted = index, old, noted
        self._reader = PassageReader(keys.block_key, lines)
        self._gathering = Gathering(sink, keys)

    def take(self, chunk: bytes, data: memoryview) -> bool:
        """Store what ``data`` needs to be patched, which has the id ``chunk``; False where it is to be a chunk, or is one."""
        old = self._old
        passages = (old.passages(chunk) if old else None) or self._reader.read(data)
        self._noted.note(chunk, passages)
        if old is None or self._index.knows(chunk):
            return False
        parts = laid_out(passages, old.find(passages))
        if parts is None:
            return False
        self._gathering.take(chunk, parts, new_of(parts, data), Dtype.BYTES)
        return True

    def end(self, extents: Sequence[Extent]) -> dict[bytes, list[Extent]]:
        """No more chunks come; ``extents`` are all. Returns the parts of those that were patched, by their ids."""
        patched = self._gathering.end()
        self._noted.finish(extents, patched)
        return patched

    def close(self) -> None:
        """Nothing is held."""
