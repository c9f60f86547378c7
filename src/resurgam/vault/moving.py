"""Pieces of a database that was compacted, laid out from where their cells lay before (``segments``).

    unit of pages --> its segments, noted for the next capture
                  --> pieces that are new --> segments that the last capture noted, anywhere --> parts of old chunks
                                          --> all between them, headers and what was added   --> into a new one

A piece is laid out from parts as any that was patched (``patches``): it has the id that its bytes would have, and whoever restores
it compares (P1). One that would be made of too many chunks is made of those that have most of it, so that a restore stays quick.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from resurgam.vault.blockmemory import Noted, Remembered
from resurgam.vault.patches import MOST_PARTS, MOST_SOURCES, NEW, SHARE, Flags, Moved, Words, between
from resurgam.vault.segments import Bytes, Knowing, Lookup, Numbers, Pages, Segments, Shapes, joined
from resurgam.vault.snapshots import Extent

# That the pieces of a unit are laid out from. Tables that grew side by side lie apart when they were compacted, and a restore
# decodes every chunk of which there is a page.
MOST_CHUNKS = 32


class Run(NamedTuple):
    """What lies together, now and before: where it begins in its unit, its length, where it lay in the file, and in which chunk."""

    start: int
    length: int
    was: int
    chunk: bytes


def _between(shapes: Callable[[], Shapes], low: int, high: int) -> Shapes:
    return shapes().between(low, high)


def _nothing() -> Shapes:
    return Shapes(*(np.empty(0, np.int64),) * 2, *(np.empty(0, np.uint64),) * 2)


class Unit(NamedTuple):
    """Pages whose blocks are digested together, and how to get at the shapes of their segments."""

    data: memoryview
    shapes: Callable[[], Shapes] = _nothing


class Moving:
    """Of one database of ``pages``. ``old`` is what the host remembers of it, if anything; ``noted`` gets what the next capture is
    to know; ``key`` is that of the blocks' digests."""

    def __init__(self, pages: Pages, key: bytes, old: Remembered | None, noted: Noted) -> None:
        self._pages, self._old, self._noted = pages, old, noted
        self._knowing = Knowing(key)
        self._segments: Segments | None = None
        self._lookup: Lookup | None = None

    @property
    def knows(self) -> bool:
        """Whether the last capture noted segments."""
        return self._old is not None and self._old.has_segments

    def note(self, offset: int, unit: Unit, encrypted: Words) -> None:
        """The segments of ``unit`` at ``offset``, so much of which was ``encrypted`` for its blocks' digests."""
        shapes = unit.shapes().between(0, encrypted.nbytes - 16)
        self._noted.note_segments(self._knowing.noted(shapes, encrypted, offset))

    def keep(self, offset: int, length: int) -> None:
        """What was noted of ``length`` bytes at ``offset`` holds."""
        self._noted.note_segments(self._before().between(offset, offset + length))

    def note_some(self, offset: int, length: int, changed: Flags, data: Bytes, encrypted: Words) -> None:
        """The segments of pieces of ``length`` bytes at ``offset``, of which these ``changed``: of them, ``data``, joined, was so
        ``encrypted``; of the others holds what was noted."""
        new = self._knowing.noted(self._knowing.shapes(data, self._pages), encrypted, 0)
        apart = offset + length * (np.flatnonzero(changed) - np.arange(np.count_nonzero(changed)))
        new = new._replace(starts=new.starts + apart[new.starts // length])
        old = self._before().between(offset, offset + length * len(changed))
        kept = old.where(~changed[(old.starts - offset) // length])
        self._noted.note_segments(joined([kept, new]))

    def units(self, span: memoryview, length: int) -> Iterator[Unit]:
        """Those of ``length`` bytes of which ``span`` consists; the last may be shorter. All are cut at once, which takes half as
        long, when the first is asked for."""
        shapes = cache(partial(self._knowing.shapes, np.frombuffer(span, np.uint8), self._pages))
        for low in range(0, len(span), length):
            high = min(low + length, len(span))
            yield Unit(span[low:high], partial(_between, shapes, low, high))

    def found(self, unit: Unit, length: int) -> Sequence[Run]:
        """What of the pieces of ``length`` bytes of ``unit`` was in the file before, in order."""
        if not self.knows:
            return []
        if self._lookup is None:
            self._lookup = Lookup(self._before())
        found = self._knowing.found(unit.shapes(), np.frombuffer(unit.data, np.uint8), self._lookup)
        return _of_few([run for place in _runs(*found, length) for run in self._by_chunks(*place)], MOST_CHUNKS)

    def _by_chunks(self, start: int, length: int, was: int) -> Iterator[Run]:
        for chunk, _, size in self._extents(was, length):
            yield Run(start, size, was, chunk)
            start, was = start + size, was + size

    def plan(self, found: Sequence[Run], unit: Unit, low: int, high: int) -> Moved | None:
        """How the piece from ``low`` to ``high`` of ``unit`` is laid out; None where it is better stored whole."""
        first, end = (bisect_left(found, at, key=itemgetter(0)) for at in (low, high))
        runs = _of_few(found[first:end], MOST_SOURCES)
        moved = _laid(runs, unit.data, low, high)
        return moved if len(moved.data) <= SHARE * (high - low) and len(moved.were) <= MOST_PARTS else None

    def parts(self, moved: Moved) -> list[Extent]:
        """The parts of a piece: what is new from the chunk NEW, all else from where it lies."""
        found: list[Extent] = []
        new = 0
        for were, length in zip(moved.were.tolist(), moved.lengths.tolist(), strict=True):
            if were < 0:
                found.append((NEW, new, length))
                new += length
            else:
                found += self._extents(were, length)
        return found

    def _before(self) -> Segments:
        if self._segments is None:
            assert self._old is not None
            self._segments = self._old.segments()
        return self._segments

    def _extents(self, start: int, length: int) -> list[Extent]:
        """What of chunks makes up ``length`` bytes of the file as it was."""
        assert self._old is not None
        found: list[Extent] = []
        while length:
            number, begin = self._old.around(start)
            parts = self._old.parts(number)
            size = min(length, begin + self._old.length(number) - start)
            found += between(parts, list(accumulate(part[2] for part in parts)), start - begin, start - begin + size)
            start, length = start + size, length - size
        return found


def _runs(starts: Numbers, lengths: Numbers, were: Numbers, piece: int) -> Iterator[tuple[int, int, int]]:
    """Segments that follow each other in a piece, now and before, as one: where it begins, its length, and where it lay."""
    if len(starts):
        apart = (starts[1:] != starts[:-1] + lengths[:-1]) | (were[1:] != were[:-1] + lengths[:-1])
        first = np.concatenate([[0], np.flatnonzero(apart | (starts[1:] % piece == 0)) + 1])
        sums = np.add.reduceat(lengths, first)
        yield from zip(starts[first].tolist(), sums.tolist(), were[first].tolist(), strict=True)


def _of_few(runs: Sequence[Run], most: int) -> Sequence[Run]:
    """Those that lie in the ``most`` chunks in which most lies."""
    sources = Counter[bytes]()
    for run in runs:
        sources[run.chunk] += run.length
    if len(sources) <= most:
        return runs
    kept = {chunk for chunk, _ in sources.most_common(most)}
    return [run for run in runs if run.chunk in kept]


def _laid(runs: Sequence[Run], unit: memoryview, low: int, high: int) -> Moved:
    """What lies between ``runs`` is new."""
    parts: list[tuple[int, int]] = []
    new: list[memoryview] = []
    at = low
    for start, length, was, _ in [*runs, Run(high, 0, 0, NEW)]:
        if start > at:
            parts.append((-1, start - at))
            new.append(unit[at:start])
        if length:
            parts.append((was, length))
        at = start + length
    table = np.array(parts, np.int64).reshape(-1, 2)
    return Moved(table[:, 0], table[:, 1], b"".join(new))
