"""The bytes of one entry of a snapshot, on their way back: piece by piece for whoever reads, all at once into a file.

A file of any size is restored in batches of neighbours, several at a time:

    a small one, or one whose driver reads it again     in threads, or in copies of this process, through the page cache
    a large one whose driver does not                   in threads, past the page cache, told in order (``pouring``)
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from resurgam.drivers.base import Tell, write_fully
from resurgam.errors import IntegrityError
from resurgam.vault.pouring import ROOM, Pour, any_byte
from resurgam.vault.snapshots import Entry, Laid, pieces_of
from resurgam.vault.workers import shares, work_on

if TYPE_CHECKING:
    from resurgam.vault.reader import ChunkReader

BATCH = ROOM  # bytes of a file that are restored at a time
# Bytes of a file from which copies of this process restore it, or from which it is poured: either takes some milliseconds.
SHARED_FROM = 64 << 20
# Bytes of a piece, on the average, from which threads are as quick as copies of this process: they meet at the interpreter's lock
# for each piece.
LONG = 128 << 10

Placed = tuple[int, Laid]  # where in the file, and what


class VaultSource:
    """The bytes of one entry, as a Source that knows a parallel way into a file."""

    def __init__(self, reader: ChunkReader, entry: Entry) -> None:
        self._reader = reader
        self._entry = entry
        self._extents: list[Placed] | None = None

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        if offset >= self._entry.size:
            return 0
        with self._named():
            placed = self._placed()
            start, laid = placed[bisect_right(placed, offset, key=itemgetter(0)) - 1]
            data = self._reader.get_piece(laid)
        piece = data[offset - start :][: len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def copy_to(self, descriptor: int, tell: Tell | None = None) -> bool:
        """Write all bytes, several parts at a time; runs of zeros become holes. What is written goes to the disk meanwhile, so that
        whoever flushes the file afterwards has little left to wait for. See ``drivers.base.CopiesItself``."""
        with self._named():
            placed = self._placed()
            os.ftruncate(descriptor, self._entry.size)
            if len(placed) <= 2:
                self._write_all(descriptor, placed)
                return False
            # Which copies answer, and what came from which, is known to one process.
            large = self._entry.size >= SHARED_FROM
            processes = large and not self._reader.several
            if large and tell is not None and not (processes and self._in_short_pieces(placed) and shares()):
                self._pour(descriptor, placed, tell)
                return True
            write, flush = partial(self._write_all, descriptor), partial(os.fdatasync, descriptor)
            work_on(list(_batches(placed)), write, meanwhile=flush, processes=processes)
            return False

    def settled(self) -> bool:
        """What lies in a vault stands still."""
        return True

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _named(self) -> Iterator[None]:
        """P12: whoever is told that a chunk is lost is told of which item."""
        try:
            yield
        except IntegrityError as error:
            name = self._entry.path.decode("utf-8", "backslashreplace")
            raise IntegrityError(
                f"{name} cannot be restored. {error.message}", untouched=error.untouched, next_step=error.next_step
            ) from error

    def _in_short_pieces(self, placed: list[Placed]) -> bool:
        return self._entry.size < LONG * len(placed)

    def _pour(self, descriptor: int, placed: list[Placed], tell: Tell) -> None:
        with closing(Pour(descriptor, self._reader.rooms, tell)) as pour:

            def write(numbered: tuple[int, list[Placed]]) -> None:
                number, batch = numbered
                pour.write(number, [(start, laid.length, partial(self._piece, laid)) for start, laid in batch])

            work_on(list(enumerate(_batches(placed))), write, meanwhile=pour.settle)

    def _write_all(self, descriptor: int, batch: list[Placed]) -> None:
        """Neighbours together, small ones by way of this thread's memory, in which they are made where that can be."""
        run, begin, filled = self._reader.run(), 0, 0
        for start, laid in batch:
            small = laid.length <= len(run) // 2
            if filled and (not small or filled + laid.length > len(run)):
                write_fully(descriptor, run[:filled], begin)
                filled = 0
            place = run[filled : filled + laid.length] if small else None
            piece = self._piece(laid, place)
            if any_byte(piece) and place is not None:
                if piece.obj is not run.obj:
                    place[:] = piece
                begin = begin if filled else start
                filled += laid.length
                continue
            if filled:  # zeros stay a hole
                write_fully(descriptor, run[:filled], begin)
                filled = 0
            if place is None and any_byte(piece):
                write_fully(descriptor, piece, start)
        if filled:
            write_fully(descriptor, run[:filled], begin)

    def _piece(self, laid: Laid, room: memoryview | None = None) -> memoryview:
        """The bytes of a piece, good until this thread asks for others; or in ``room``, where they can be made there."""
        piece = self._reader.fetch_piece(laid, room)
        if len(piece) != laid.length:
            raise lost(laid.chunk, "it is shorter than its entry says")
        return piece

    def _placed(self) -> list[Placed]:
        if self._extents is None:
            placed, start = [], 0
            for piece in pieces_of(self._entry, self._reader.get):
                placed.append((start, piece))
                start += piece.length
            if start != self._entry.size:
                raise IntegrityError(
                    f"The chunks of {self._entry.path!r} add up to {start} bytes, not {self._entry.size}.",
                    untouched="Nothing was restored under this name.",
                    next_step="Run `resurgam vault check --read`, and restore from another point.",
                )
            self._extents = placed
        return self._extents


def _batches(placed: list[Placed]) -> Iterator[list[Placed]]:
    """Neighbours, up to BATCH bytes together."""
    batch: list[Placed] = []
    for start, laid in placed:
        if batch and start + laid.length - batch[0][0] > BATCH:
            yield batch
            batch = []
        batch.append((start, laid))
    if batch:
        yield batch


def lost(chunk: bytes, why: str) -> IntegrityError:
    """What is said where ``chunk`` cannot be had."""
    return IntegrityError(
        f"Chunk {chunk.hex()[:16]} cannot be read: {why}.",
        untouched="Nothing was restored from it.",
        next_step="`resurgam vault repair` says what is lost, and what can come back. Or restore from another point.",
    )
