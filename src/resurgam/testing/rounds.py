"""A store that is far away: every call takes one round, and calls that wait together share it.

What a distant store costs is not the number of its requests but how many of them wait for one another. So a call is held until no
other has come for ``quiet`` seconds; then all that wait go on at once, and that was one round. However fast or loaded the
machine is, ``rounds`` is the number of requests that stood one behind the other: the time that a store at a distance of
50 ms takes is 50 ms for each. (On a machine that stalls for longer than ``quiet`` a round may count as two, never two as one.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from resurgam.stores.base import Buffer, Entry, Store
from resurgam.testing.faults import Wrapped

T = TypeVar("T")


class RoundStore(Wrapped):
    """Counts ``rounds``; ``history`` has the calls of each, ``most`` how many there were at most in one."""

    def __init__(self, inner: Store, quiet: float = 0.03) -> None:
        super().__init__(inner)
        self._quiet = quiet
        self._changed = threading.Condition()
        self._open: list[str] = []  # calls that wait for the round to end
        self.history: list[list[str]] = []

    @property
    def rounds(self) -> int:
        """Rounds that have ended."""
        return len(self.history)

    @property
    def calls(self) -> int:
        """Calls in all of them."""
        return sum(map(len, self.history))

    @property
    def most(self) -> int:
        """The most calls that shared one."""
        return max(map(len, self.history), default=0)

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, at the end of a round."""
        self._late(f"put {name}", lambda: self.inner.put(name, data))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one, at the end of a round."""
        return self._late(f"get {name} {offset} {length}", lambda: self.inner.get(name, offset, length))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one, at the end of a round."""
        return self._late(f"read {name} {offset} {len(buffer)}", lambda: self.inner.read_into(name, offset, buffer))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the inner one, at the end of a round."""
        return iter(self._late(f"list {prefix}", lambda: [*self.inner.list(prefix)]))

    def delete(self, name: str) -> None:
        """As the inner one, at the end of a round."""
        self._late(f"delete {name}", lambda: self.inner.delete(name))

    def _late(self, call: str, work: Callable[[], T]) -> T:
        with self._changed:
            mine = self._open
            mine.append(call)
            if len(mine) == 1:  # the first of a round waits until no more come, and ends it
                seen = 0
                while len(mine) > seen:
                    seen = len(mine)
                    self._changed.wait_for(lambda: False, self._quiet)
                self.history.append(mine)
                self._open = []
                self._changed.notify_all()
            else:
                self._changed.wait_for(lambda: self._open is not mine)
        return work()
