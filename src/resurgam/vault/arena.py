"""Memory for answers that are on their way or wait to be used: made once, and used again and again.

An answer of some megabytes in memory of its own is memory that the system has to find first, page by page, and that the allocator
keeps for the thread that asked: sixteen threads that fetched ahead held four hundred megabytes where forty were in use, and
finding them took as long as waiting for the store.

    |####|      |##########|   |######|              |        lent, and free

Lengths are rounded up to a ``grain``, so that a piece fits where one of nearly its length was. A piece is free again when nobody
looks at it any more, whoever that was: the last ``memoryview`` of it gives it back. Where no piece is long enough, memory of its
own is lent; who asks bounds how much there is in all.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

import numpy as np

from resurgam.vault.pack import new_buffer


class Arena:
    """``size`` bytes that take no room before they are used, lent by multiples of ``grain``. Thread-safe."""

    def __init__(self, size: int, grain: int = 1) -> None:
        self._memory, self._grain = new_buffer(size), grain
        self._lock = threading.Lock()
        self._free = [(0, size)]  # where a free piece begins and ends, in order; no two that touch
        # The last look at a piece may end anywhere, also while this thread holds the lock: it only leaves a note.
        self._returned: deque[tuple[int, int]] = deque()

    def lend(self, length: int) -> memoryview:
        """``length`` bytes, of whatever was there before."""
        with self._lock:
            while self._returned:
                self._take_back(*self._returned.popleft())
            taken = -(-length // self._grain) * self._grain
            at = self._found(taken)
        if at is None:
            return memoryview(bytearray(length))
        piece = np.frombuffer(self._memory, np.uint8, length, at)
        weakref.finalize(piece, self._returned.append, (at, at + taken)).atexit = False
        return memoryview(piece)  # type: ignore[arg-type] # which numpy's annotations do not say

    @property
    def lent(self) -> int:
        """Bytes that somebody looks at."""
        with self._lock:
            free = sum(end - start for start, end in [*self._free, *self._returned])
        return len(self._memory) - free

    def _found(self, length: int) -> int | None:
        """Where the first free piece begins that is long enough; it is not free any more."""
        for number, (start, end) in enumerate(self._free):
            if length and end - start >= length:
                self._free[number : number + 1] = [(start + length, end)] if end - start > length else []
                return start
        return None

    def _take_back(self, start: int, end: int) -> None:
        after = next((number for number, (begin, _) in enumerate(self._free) if begin >= end), len(self._free))
        before = after - 1
        if after < len(self._free) and self._free[after][0] == end:
            end = self._free.pop(after)[1]
        if before >= 0 and self._free[before][1] == start:
            start = self._free.pop(before)[0]
            after = before
        self._free.insert(after, (start, end))
