"""Children that make something of memory that is handed to them, while this process fills the next.

    parent     fill memory 0, hand it over, fill memory 1, hand it over, ...
    child      read which memory, make its result, tell; whichever child is free takes the next
    a thread   take the result; memory 0 is free again

Unlike those of ``makers``, whose parts are known from the start, they are fed one by one. All memory was shared before the fork;
what goes through the two pipes is a number and a length. A child ends when the pipe that feeds it does, and a third pipe tells
how it did (``workers``).
"""

from __future__ import annotations

import mmap
import os
import selectors
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from resurgam.vault import workers

Make = Callable[[memoryview, memoryview], int]  # of what was handed over; fills the other, returns how much of it
_TURN = struct.Struct("<II")  # which memory, length; less than a pipe takes at once, so that none is ever cut in two

T = TypeVar("T")


class Crew(Generic[T]):
    """See :func:`crew`."""

    def __init__(
        self,
        memories: Sequence[mmap.mmap],
        make: Make,
        room: int,
        take: Callable[[memoryview, memoryview], T],
        free: Callable[[mmap.mmap], None],
        count: int,
    ) -> None:
        """Raises OSError where this host allows no more processes."""
        self._memories, self._take, self._free = list(memories), take, free
        self._made = [mmap.mmap(-1, room) for _ in self._memories]
        self._lock = threading.Lock()
        self._under_way: dict[int, tuple[int, Future[T]]] = {}  # by the memory's number: length, and what comes of it
        self._error: BaseException | None = None
        self._children: dict[int, int] = {}
        hear, self._feed = os.pipe()
        self._told, tell = os.pipe()
        try:
            for _ in range(count):
                ended, process = workers.fork(partial(self._help, make, hear, tell))
                self._children[ended] = process
        except OSError:
            workers.end(self._children)
            os.close(self._feed)
            os.close(self._told)
            raise
        finally:
            os.close(hear)
            os.close(tell)
        self._thread = threading.Thread(target=self._attend, name="crew")
        self._thread.start()

    def hand(self, memory: mmap.mmap, length: int) -> Future[T]:
        """What ``take`` will make of the first ``length`` bytes of ``memory`` and of their result; ``free`` gets the memory then.

        Raises what went wrong with an earlier one."""
        number = next(n for n, one in enumerate(self._memories) if one is memory)
        future: Future[T] = Future()
        with self._lock:
            if self._error is not None:
                self._free(memory)
                raise self._error
            self._under_way[number] = length, future
        with suppress(BrokenPipeError):  # they have all ended: the thread tells how
            os.write(self._feed, _TURN.pack(number, length))
        return future

    def end(self) -> None:
        """Wait for what was handed over, and leave no child and no thread."""
        os.close(self._feed)
        self._thread.join()
        workers.end(self._children)
        os.close(self._told)

    def _help(self, make: Make, hear: int, tell: int) -> None:
        """In a child."""
        os.close(self._feed)  # else its end would not be heard
        os.close(self._told)
        while turn := os.read(hear, _TURN.size):
            number, length = _TURN.unpack(turn)
            with (
                memoryview(self._memories[number]) as memory,
                memory[:length] as data,
                memoryview(self._made[number]) as out,
            ):
                made = make(data, out)
            os.write(tell, _TURN.pack(number, made))

    def _attend(self) -> None:
        """In a thread, until the last child has ended: take results. Any error is told to all who wait, and who come."""
        try:
            with selectors.DefaultSelector() as waiting:
                for pipe in (self._told, *self._children):
                    waiting.register(pipe, selectors.EVENT_READ)
                while waiting.get_map():
                    for key, _ in waiting.select():
                        if not (self._take_one() if key.fd == self._told else self._hear_out(key.fd)):
                            waiting.unregister(key.fd)
        except BaseException as error:  # noqa: BLE001 - raised by whoever asks for a result
            self._fail(error)

    def _take_one(self) -> bool:
        """False after the last result."""
        turn = os.read(self._told, _TURN.size)
        if not turn:
            return False
        number, made = _TURN.unpack(turn)
        length, future = self._under_way[number]
        with (
            memoryview(self._memories[number]) as memory,
            memory[:length] as data,
            memoryview(self._made[number]) as whole,
            whole[:made] as result,
        ):
            taken = self._take(data, result)
        with self._lock:
            del self._under_way[number]
        self._free(self._memories[number])
        future.set_result(taken)
        return True

    def _hear_out(self, ended: int) -> bool:
        """False, since a child ends once. Raises what it raised."""
        workers.require_well(b"".join(iter(partial(os.read, ended, 1 << 16), b"")))
        return False

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            lost, self._under_way = self._under_way, {}
        for number, (_, future) in lost.items():
            self._free(self._memories[number])
            future.set_exception(error)


def crew(
    memories: Sequence[mmap.mmap],
    make: Make,
    room: int,
    take: Callable[[memoryview, memoryview], T],
    free: Callable[[mmap.mmap], None],
) -> Crew[T] | None:
    """Children that call ``make`` with what is handed to them in one of ``memories`` and with ``room`` bytes to fill, of which it
    returns how many it has.

    None where this process may not be copied, or it would be of no use.
    """
    count = min(workers.PROCESSES, workers.processors())
    if count > 1 and workers.alone():
        with suppress(OSError):
            return Crew(memories, make, room, take, free, count)
    return None
