"""Large files written past the page cache, and told in order while they are at hand.

A restore moved each byte three times over: from where it was decoded into the page cache, which takes fresh memory for it, from
there to the disk, and from the page cache back, since the driver takes the digest of what it wrote. That was more than half of all
processor time. So batches of neighbours are decoded into memory that is used again and again, and go to the disk from there::

    memory       |<- shift ->|piece|piece|   piece   |         as far from a block's beginning as in the file
    file      ...|  4096  |  4096  |  4096  |  4096  |...
                          |<---- direct ---->|                  whole blocks past the page cache
              through the page cache       the same             what a batch has of a block that it shares with the next one

Batches are written in any order, by several threads; each is told when all before it have been (``tell``), so that a digest of the
file is that of what was decoded and authenticated, and a later look at the file compares it with what the disk has.

Pieces of zeros are left out, and stay holes. A file system that knows no direct writes gets ordinary ones (open(2), O_DIRECT). The
price: who reads the file next reads the disk. So it is done only for those who say that they will not read it again.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from resurgam.drivers.base import Tell, write_fully
from resurgam.stores import disk
from resurgam.vault.pack import ALIGN, new_buffer

ROOM = 4 << 20  # bytes of a batch, but for a piece that is longer
_KEPT = 4  # rooms; as many as threads that use them at once

# Gives bytes: those of the memory that it is given, if it has made them there.
Give = Callable[[memoryview], memoryview]
Piece = tuple[int, int, Give]  # where in the file, how long, and what gives its bytes


class Rooms:
    """Memory for batches, in whole blocks: fresh memory would cost as much as what is done in it. Thread-safe."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    @contextmanager
    def room(self, length: int) -> Iterator[memoryview]:
        """``length`` bytes at least, that begin a block."""
        memory = self._taken() if length <= ROOM + ALIGN else new_buffer(length)
        try:
            yield memoryview(memory)
        finally:
            if len(memory) == ROOM + ALIGN and len(self._free) < _KEPT:
                self._free.append(memory)

    def _taken(self) -> mmap.mmap:
        with suppress(IndexError):
            return self._free.pop()
        return new_buffer(ROOM + ALIGN)


class Pour:
    """Writes batches into the file ``descriptor`` and tells them in the order of their numbers; to be closed. Thread-safe."""

    def __init__(self, descriptor: int, rooms: Rooms, tell: Tell) -> None:
        self._descriptor, self._rooms, self._tell = descriptor, rooms, tell
        self._handle = disk.open_direct(descriptor)
        self._direct = self._handle is not None
        self._changed = threading.Condition()
        self._told = 0  # batches
        self._failed = False

    def write(self, number: int, pieces: Sequence[Piece]) -> None:
        """Write the batch of ``number``: ``pieces`` that follow each other. Batches are begun in the order of their numbers. Raises
        what gives the pieces raises, and what writing raises."""
        begin, length = pieces[0][0], sum(piece[1] for piece in pieces)
        base = begin - begin % ALIGN
        try:
            with self._rooms.room(begin - base + length) as room:
                for start, stop in _full(_filled(room, base, pieces)):
                    self._write(room[start - base : stop - base], start)
                self._tell_in_turn(number, room[begin - base :][:length])
        except BaseException:
            with self._changed:
                self._failed = True  # nobody waits for what will not come
                self._changed.notify_all()
            raise

    def settle(self) -> None:
        """Send to the disk what lies in the page cache; of direct writes that is next to nothing."""
        if not self._direct:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle, self._direct = None, False

    def _tell_in_turn(self, number: int, data: memoryview) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._told == number)
            if self._failed:
                return
        self._tell(data)
        with self._changed:
            self._told += 1
            self._changed.notify_all()

    def _write(self, data: memoryview, at: int) -> None:
        """``data``, which lies as far from a block's beginning as in the file: whole blocks directly, its ends otherwise."""
        first = min(-at % ALIGN, len(data))
        blocks = (len(data) - first) // ALIGN * ALIGN
        write_fully(self._descriptor, data[:first], at)
        done = first + self._write_blocks(data[first : first + blocks], at + first)
        write_fully(self._descriptor, data[done:], at + done)

    def _write_blocks(self, data: memoryview, at: int) -> int:
        """How many bytes of ``data`` went directly."""
        done = 0
        while self._direct and done < len(data) and self._handle is not None:
            try:
                done += os.pwrite(self._handle, data[done:], at + done)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False  # not on this file system
        return done


def _filled(room: memoryview, base: int, pieces: Sequence[Piece]) -> Iterator[tuple[int, int, bool]]:
    """Bring ``pieces`` into ``room``; of each where it begins and ends in the file, and whether any of its bytes is not zero."""
    for start, length, give in pieces:
        place = room[start - base :][:length]
        if (piece := give(place)).obj is not place.obj:
            place[:] = piece
        yield start, start + length, any_byte(place)


def _full(filled: Iterator[tuple[int, int, bool]]) -> list[tuple[int, int]]:
    """Where what is not zero begins and ends, neighbours together."""
    runs: list[tuple[int, int]] = []
    for start, stop, full in filled:
        if full and runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        elif full:
            runs.append((start, stop))
    return runs


def any_byte(data: memoryview) -> bool:
    """Whether any byte is not zero; the first ones nearly always tell."""
    return any(data[:16]) or data.tobytes().count(0) != len(data)
