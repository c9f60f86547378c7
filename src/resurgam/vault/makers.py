"""Children that make something of each of many parts, and hand it over in memory that they share with this process.

    parent   fork ............................ take a result ........ tell that its place is free
    child        part 0 -> place 0, part 2 -> place 1, wait for a free place, part 4 -> ...

Each child has every n-th part, or a share of its own making, and ``PLACES`` places for its results, so none is further ahead than
that. Through a pipe it tells which part lies where; when that pipe ends, another one tells how the child did (``workers``).
"""

from __future__ import annotations

import mmap
import os
import selectors
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from resurgam.vault import workers

PLACES = 2
_RESULT = struct.Struct("<QII")  # number of the part, which place, length

T = TypeVar("T")


class _Child(NamedTuple):
    """One child: its pipes, where it tells of results, of its end, and is told of free places; and its places."""

    process: int
    results: int
    ended: int
    free: int
    places: list[mmap.mmap]


class Makers(Generic[T]):
    """See :func:`makers`."""

    def __init__(self, shares: Sequence[Iterable[T]], make: Callable[[T, memoryview], int], room: int) -> None:
        """One child for each of ``shares``, which only that child goes through. Raises OSError where this host allows no more
        processes."""
        self._children: list[_Child] = []
        self._waiting = selectors.DefaultSelector()
        try:
            for number, parts in enumerate(shares):
                child = self._forked(parts, make, room)
                self._children.append(child)
                self._waiting.register(child.results, selectors.EVENT_READ, number)
        except OSError:
            self.end()
            raise

    @property
    def count(self) -> int:
        """How many children there are."""
        return len(self._children)

    def take(self, each: Callable[[int, memoryview], None]) -> None:
        """Call ``each`` with the number of every part and its result, in no order; that memory is used again afterwards.

        Raises the first error that a child or ``each`` raised. The children have ended then, in any case.
        """
        try:
            while self.take_some(each):
                pass
        finally:
            self.end()

    def take_some(self, each: Callable[[int, memoryview], None]) -> bool:
        """As ``take``, of what there is, or is to come first; False when there is no more. The children are ended by ``end``."""
        if not self._waiting.get_map():
            return False
        for key, _ in self._waiting.select():
            self._take_one(key.data, each)
        return True

    def take_from(self, number: int, each: Callable[[int, memoryview], None]) -> bool:
        """As ``take_some``, of the one child that has the share of this ``number``."""
        return self._children[number].results in self._waiting.get_map() and self._take_one(number, each)

    def end(self) -> None:
        """End what is still at work; repeatable."""
        children, self._children = self._children, []
        self._waiting.close()
        for child in children:
            os.close(child.results)
            os.close(child.free)
        workers.end({child.ended: child.process for child in children})

    def _take_one(self, number: int, each: Callable[[int, memoryview], None]) -> bool:
        """False after a child's last result. Raises what the child raised."""
        child = self._children[number]
        told = os.read(child.results, _RESULT.size)
        if not told:
            self._waiting.unregister(child.results)
            workers.require_well(b"".join(iter(partial(os.read, child.ended, 1 << 16), b"")))
            return False
        turn, place, length = _RESULT.unpack(told)
        with memoryview(child.places[place]) as whole, whole[:length] as result:
            each(number + turn * len(self._children), result)
        with suppress(BrokenPipeError):  # that was its last
            os.write(child.free, bytes([place]))
        return True

    def _forked(self, parts: Iterable[T], make: Callable[[T, memoryview], int], room: int) -> _Child:
        places = [mmap.mmap(-1, room) for _ in range(PLACES)]  # shared, since it is nobody's file
        pipes = [*os.pipe(), *os.pipe()]
        results, tell, hear, free = pipes
        others = [results, free, *(pipe for child in self._children for pipe in (child.results, child.free))]

        def work() -> None:
            for pipe in others:  # else its end would not be heard
                os.close(pipe)
            _make(parts, make, places, tell, hear)

        try:
            ended, process = workers.fork(work)
        except OSError:
            for pipe in (results, free):
                os.close(pipe)
            raise
        finally:
            for pipe in (tell, hear):
                os.close(pipe)
        return _Child(process, results, ended, free, places)


def makers(parts: Sequence[T], make: Callable[[T, memoryview], int], room: int) -> Makers[T] | None:
    """Children that call ``make`` with each of ``parts`` and with ``room`` bytes to fill, of which it returns how many it has.

    None where this process may not be copied, or it would be of no use.
    """
    return sharers(len(parts), lambda number, count: parts[number::count], make, room)


def sharers(
    most: int, share: Callable[[int, int], Iterable[T]], make: Callable[[T, memoryview], int], room: int
) -> Makers[T] | None:
    """As ``makers``, of at most ``most`` children: each goes through the ``share`` of its number among so many."""
    count = min(workers.PROCESSES, most, workers.processors())
    if count > 1 and workers.alone():
        with suppress(OSError):
            return Makers([share(number, count) for number in range(count)], make, room)
    return None


def _make(
    parts: Iterable[T], make: Callable[[T, memoryview], int], places: list[mmap.mmap], tell: int, hear: int
) -> None:
    """In a child: a result of each part into a place that is free."""
    free = list(range(len(places)))
    for turn, part in enumerate(parts):
        if not free:
            free = list(os.read(hear, len(places)))
        if not free:
            return  # the parent is gone
        place = free.pop()
        with memoryview(places[place]) as whole:
            length = make(part, whole)
        os.write(tell, _RESULT.pack(turn, place, length))
