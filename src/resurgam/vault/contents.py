"""One large file that is cut by its content, window by window: read in order, cut here, stored in threads."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Protocol

from resurgam.drivers.base import Source, read_fully
from resurgam.vault.buffers import WINDOW, Buffers
from resurgam.vault.pace import Pace
from resurgam.vault.snapshots import Extent

# Gets an offset, what lies there, and the lengths of the chunks that it was cut into.
Store = Callable[[int, memoryview, list[int]], list[Extent]]


class Cutter(Protocol):
    """What says where chunks end, as ``chunking.ContentCutter`` does."""

    def cut(self, buffer: memoryview, *, final: bool) -> list[int]:
        """The lengths of the chunks at the beginning of ``buffer``, which follows what was cut before."""
        ...


def content_spans(
    source: Source,
    size: int,
    cutter: Cutter,
    buffers: Buffers,
    pace: Pace,
    progress: Callable[[int], None],
    pool: Executor,
    store: Store,
) -> Iterator[Future[list[Extent]]]:
    """The extents to be of ``size`` bytes. ``store``, in threads of ``pool``, gets its bytes."""
    offset, carried, final = 0, b"", False
    while not final:
        buffer = buffers.windows.get()
        room = min(WINDOW - len(carried), size - offset)
        pace.spend(room)
        try:
            with memoryview(buffer) as view:
                view[: len(carried)] = carried
                done = read_fully(source, offset, view[len(carried) : len(carried) + room])
                offset += done
                final = done < room or offset == size
                filled = len(carried) + done
                lengths = cutter.cut(view[:filled], final=final)
                carried = bytes(view[sum(lengths) : filled])
        except BaseException:  # a file that closed meanwhile is left out: those after it need the buffer
            buffers.windows.put(buffer)
            raise
        progress(done)
        yield pool.submit(_store_cut, buffer, offset - filled, lengths, buffers, store)


def _store_cut(buffer: mmap.mmap, offset: int, lengths: list[int], buffers: Buffers, store: Store) -> list[Extent]:
    """Store the chunks that were cut from the beginning of ``buffer``, and give the buffer back."""
    try:
        with memoryview(buffer) as view:
            return store(offset, view[: sum(lengths)], lengths)
    finally:
        buffers.windows.put(buffer)
