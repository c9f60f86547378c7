"""The memory that an intake reads into: made once, handed round, never more of it than this."""

from __future__ import annotations

import mmap
import queue
import threading

from resurgam.vault.pack import new_buffer

SHARED_MAX = 1 << 20
SPAN = 4 << 20
WINDOW = 8 << 20


class Buffers:
    """Memory for reading: windows for content cutting, and chunks that small files share, travel from reader to thread and
    back; a span's stays in its thread.

    Three kinds, since a queued one must never keep a thread that stores another kind from its memory. There are so many and
    no more: a reader that is faster than the threads waits.
    """

    def __init__(self, windows: int) -> None:
        self.windows: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self.shared: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self.shared_memory = [mmap.mmap(-1, SHARED_MAX) for _ in range(windows)]  # all of it; shared with children, too
        for memory in self.shared_memory:
            self.windows.put(new_buffer(WINDOW))
            self.shared.put(memory)
        self._local = threading.local()

    def span(self) -> mmap.mmap:
        """This thread's own buffer."""
        if not hasattr(self._local, "buffer"):
            self._local.buffer = new_buffer(SPAN)
        buffer: mmap.mmap = self._local.buffer
        return buffer
