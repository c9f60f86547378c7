"""Pages of trees from far away: what was read around one is kept for those that will be asked for next, by whichever thread.

The pages of a session lie together, a leaf before the page that names it, so whoever comes from a root goes backwards through
a pack and then along it. A request to a distant store costs as much as a megabyte more in its answer; so each brings ``AROUND``
bytes: those that end with the page that is wanted, or those that begin with it where what lies before it is here already.

Who goes through a snapshot, who looks ahead of them, and whoever asks for the point's particulars want pages of the same few
packs, often at the same time. So two requests for one pack wait for each other, and the second finds its page in what the first
has brought.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from resurgam.stores.abreast import timed
from resurgam.stores.base import Store

AROUND = 1 << 20  # bytes of one request, but for a page that is longer
KEPT = 16  # answers that are kept: 16 MB, and a longer page once in a while
_LOCKS = 64

Answer = tuple[str, int, memoryview]  # pack, where in it, the bytes


class Around:
    """What was read of the packs in ``store`` around their pages. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Answer] = OrderedDict()
        self._reading = [threading.Lock() for _ in range(_LOCKS)]  # a pack is asked for one answer at a time

    def read(self, pack: str, offset: int, length: int) -> memoryview:
        """``length`` bytes of ``pack`` from ``offset`` on; fewer where it ends before. Raises NotFound, Denied, Unreachable."""
        with self._reading[int(pack[:2], 16) % _LOCKS]:
            if (found := self._found(pack, offset, length)) is not None:
                return found
            start = offset if self._follows(pack, offset) else max(offset + min(length - AROUND, 0), 0)
            memory = memoryview(bytearray(max(length, AROUND)))
            with timed(self._store):
                data = memory[: self._store.read_into(f"packs/{pack[:2]}/{pack}", start, memory)]
            with self._lock:
                self._kept[pack, start] = (pack, start, data)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return data[offset - start :][:length]

    def _found(self, pack: str, offset: int, length: int) -> memoryview | None:
        with self._lock:
            for key, (other, start, data) in self._kept.items():
                if other == pack and start <= offset and offset + length <= start + len(data):
                    self._kept.move_to_end(key)
                    return data[offset - start :][:length]
        return None

    def _follows(self, pack: str, offset: int) -> bool:
        """Whether what lies just before ``offset`` is here."""
        with self._lock:
            return any(
                other == pack and start <= offset <= start + len(data) for other, start, data in self._kept.values()
            )
