"""Segments: what of a database moves as a whole when it is compacted, and how it is known again.

``VACUUM`` lays each page anew, and a cell (a row, or as much of it as stays on its page) comes to lie elsewhere with the bytes that
it had. So a unit of pages is cut where cells begin, whatever else there is stays together::

    leaf page          [ header, pointers, free ][ cell ][ cell, its overflow page | 4 ][ cell ]
    any other page     [ all of it ]       or [ 4 ][ the rest ], where it may be an overflow page that names another

Nothing depends on whether that is right: segments are any parts of a file that do not overlap. Those of ``LEAST`` bytes and more
are noted with 128 bits: where the new segment has the same, at any place, it is the same bytes (docs/adr/0024-segments.md)::

    edge    of its first and its last 16 bytes and its length: sum of halves of AES(key', 16 bytes xor mask), wherever it lies
    inner   of all whole 16 bytes in their place: the very words whose sums are the digests of blocks (``patches``), added up from
            here to there; and the other halves of the edge's

The first is looked up; where it is found, the second is made of the new bytes as if they lay in the old place, where the mask of
each 16 bytes is known. So a first capture encrypts 32 bytes more for each segment, and adds.

Format of pages: sqlite.org/fileformat2.html section 1.6.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from resurgam.vault.patches import UNIT, Flags, blocks_under, tweaks

HEAD = 100  # bytes with which a database begins
LEAST = 128  # bytes; what is shorter is stored anew
FINE = 1 << 29  # bytes of a database; of a larger one, so many times as long segments are noted, to bound memory
_INDEX, _TABLE = 10, 13  # leaf pages
_HEADER = 8  # of a leaf page, before the pointers to its cells
_BLOCK = 16
_ODD = np.uint64(0x9E37_79B9_7F4A_7C15)
_ANY16 = np.dtype(("V", _BLOCK))

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class Pages(NamedTuple):
    """How a database is laid out: bytes of a page, how many of them are SQLite's, and from which length on segments are noted."""

    size: int
    usable: int
    least: int

    @classmethod
    def of(cls, head: memoryview, size: int) -> Self:
        """By the first HEAD bytes of the file of ``size`` bytes."""
        page = int.from_bytes(head[16:18], "big")
        page = 1 << 16 if page == 1 else page
        return cls(page, page - head[20], LEAST * -(-size // FINE))


class Segments(NamedTuple):
    """Some segments of a file in order: where they begin, their lengths, and what they are known by."""

    starts: Numbers
    lengths: Numbers
    edges: Words
    inner: Words

    def tobytes(self) -> bytes:
        """All columns, joined."""
        return b"".join(column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes() for column in self)

    @classmethod
    def frombytes(cls, data: bytes | memoryview) -> Self:
        """What ``tobytes`` gave."""
        count = len(data) // 32
        signed = np.frombuffer(data, "<i8", 2 * count).reshape(2, count)
        others = np.frombuffer(data, "<u8", 2 * count, 16 * count).reshape(2, count)
        return cls(signed[0], signed[1], others[0], others[1])

    def where(self, flags: Flags) -> Segments:
        """Those whose flag is set."""
        return Segments(self.starts[flags], self.lengths[flags], self.edges[flags], self.inner[flags])

    def between(self, low: int, high: int) -> Segments:
        """Those from ``low`` to ``high``."""
        part = slice(*np.searchsorted(self.starts, (low, high)).tolist())
        return Segments(self.starts[part], self.lengths[part], self.edges[part], self.inner[part])


class Shapes(NamedTuple):
    """Segments of some bytes, before it is known what is within: their edges, and the rest of what those were made of."""

    starts: Numbers
    lengths: Numbers
    edges: Words
    rest: Words

    def between(self, low: int, high: int) -> Shapes:
        """Those from ``low`` to ``high``, as if it began there."""
        part = slice(*np.searchsorted(self.starts, (low, high)).tolist())
        return Shapes(self.starts[part] - low, self.lengths[part], self.edges[part], self.rest[part])


def joined(parts: list[Segments]) -> Segments:
    """All of ``parts`` as one, in the order of the file."""
    starts, lengths, edges, inner = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(starts, kind="stable")
    return Segments(starts[order], lengths[order], edges[order], inner[order])


def cut(unit: Bytes, pages: Pages) -> tuple[Numbers, Numbers]:
    """Where the segments of whole pages begin that are worth noting, in order, and their lengths."""
    size = pages.size
    count = len(unit) // size
    every = unit[: count * size].reshape(count, size)
    heads = np.ascontiguousarray(every[:, :_HEADER])
    begin = np.arange(0, count * size, size)
    cells = heads[:, 3].astype(np.int64) << 8 | heads[:, 4]
    # Where cells are small on average, the page is one segment.
    leaf = ((heads[:, 0] == _TABLE) | (heads[:, 0] == _INDEX)) & (cells > 0) & (cells * LEAST <= size)
    pointing = begin[~leaf & (heads.view(np.uint32)[:, 0] != 0)] + 4
    begin_of, cells = begin[leaf], cells[leaf]
    owners = np.repeat(begin_of, cells)
    at = np.repeat(begin_of + _HEADER - 2 * (np.cumsum(cells) - cells), cells) + 2 * np.arange(len(owners))
    starts = owners + (unit[at].astype(np.int64) << 8 | unit[at + 1])
    inside = starts < owners + size - 1
    starts, owners = starts[inside], owners[inside]
    bounds = np.concatenate([begin, pointing, starts, _overflows(unit, starts, owners, pages)])
    bounds.sort()
    lengths = np.empty_like(bounds)
    np.subtract(bounds[1:], bounds[:-1], out=lengths[:-1])
    lengths[-1:] = count * size - bounds[-1:]
    worth = lengths >= pages.least
    return bounds[worth], lengths[worth]


def _overflows(unit: Bytes, starts: Numbers, owners: Numbers, pages: Pages) -> Numbers:
    """Where cells at ``starts`` name the page on which they go on: 4 bytes that are another number in another place."""
    first, second = unit[starts], unit[starts + 1]
    # No cell goes on elsewhere that is shorter than the shortest that may: the first bytes of its length tell.
    long = (first >= 0x80) & ((second >= 0x80) | (first - 0x80 >= _most(pages, _INDEX) >> 7))
    if not long.any():
        return starts[:0]
    starts, owners, first, second = starts[long], owners[long], first[long], second[long]
    payload, after = (first.astype(np.int64) & 0x7F) << 7 | second & 0x7F, starts + 2
    if (longer := second >= 0x80).any():
        payload[longer], after[longer] = _varints(unit, starts[longer])
    table = unit[owners] == _TABLE
    most = np.where(table, _most(pages, _TABLE), _most(pages, _INDEX))
    over = payload > most
    payload, after, most, table, owners = payload[over], after[over], most[over], table[over], owners[over]
    rowid = _past(unit, after)
    least = (pages.usable - 12) * 32 // 255 - 23
    spilled = least + (payload - least) % (pages.usable - 4)
    end = np.where(table, rowid, after) + np.where(spilled <= most, spilled, least)
    end = end[end + 4 <= owners + pages.size]
    return np.concatenate([end, end + 4])


def _most(pages: Pages, kind: int) -> int:
    """The longest payload that stays on a leaf page."""
    return pages.usable - 35 if kind == _TABLE else (pages.usable - 12) * 64 // 255 - 23


def _past(unit: Bytes, at: Numbers) -> Numbers:
    """Where varints end."""
    end = at.copy()
    for _ in range(8):
        longer = unit.take(end, mode="clip") >= 0x80
        if not longer.any():
            break
        end += longer
    return end + 1


def _varints(unit: Bytes, at: Numbers) -> tuple[Numbers, Numbers]:
    """The values of varints (of the first eight bytes, which is more than any length needs), and where they end."""
    value, end, going = np.zeros(len(at), np.int64), at.copy(), np.ones(len(at), np.bool_)
    for _ in range(9):
        byte = unit.take(end, mode="clip").astype(np.int64)
        np.copyto(value, value << 7 | byte & 0x7F, where=going)
        end += going
        going &= byte >= 0x80
        if not going.any():
            break
    return value & ((1 << 62) - 1), end


class Knowing:
    """Makes what segments are known by, under ``key`` (32 bytes, that of the blocks' digests)."""

    def __init__(self, key: bytes) -> None:
        derived = blake3(b"edges of segments", key=key).digest(16 + 2 * _BLOCK)
        self._edge = blocks_under(derived[:16])
        self._inner = blocks_under(key[:16])
        self._masks = np.frombuffer(derived[16:], np.uint64)
        self._key = key

    def shapes(self, data: Bytes, pages: Pages) -> Shapes:
        """The segments of ``data``."""
        starts, lengths = cut(data, pages)
        return Shapes(starts, lengths, *self._edges(data, starts, lengths))

    def noted(self, shapes: Shapes, encrypted: Words, offset: int) -> Segments:
        """The segments of a unit at ``offset``, a multiple of UNIT, with these ``shapes``. ``encrypted`` was made of it for its
        blocks' digests, and has two words more."""
        starts, lengths, edges, rest = shapes
        if not len(starts):
            return Segments(starts, lengths, edges, rest)
        bounds = np.stack([(starts + 15) // _BLOCK * 2, (starts + lengths) // _BLOCK * 2], axis=1).ravel()
        return Segments(starts + offset, lengths, edges, np.add.reduceat(encrypted, bounds)[::2] + rest)

    def found(self, shapes: Shapes, unit: Bytes, old: Lookup) -> tuple[Numbers, Numbers, Numbers]:
        """Those segments of ``unit`` that are in ``old``: where they begin, their lengths, and where they lay."""
        starts, lengths, edges, rest = shapes
        which = old.like(edges)
        there = which >= 0
        there[there] = lengths[there] == old.segments.lengths[which[there]]
        starts, lengths, which = starts[there], lengths[there], which[there]
        if not len(starts):
            return starts, starts, starts
        were = old.segments.starts[which]
        same = self._inner_at(unit, starts, lengths, were % UNIT) + rest[there] == old.segments.inner[which]
        return starts[same], lengths[same], were[same]

    def _edges(self, unit: Bytes, starts: Numbers, lengths: Numbers) -> tuple[Words, Words]:
        if not len(starts):
            return np.empty(0, np.uint64), np.empty(0, np.uint64)
        every = _each16(unit)
        ends = np.empty((len(starts), 2), _ANY16)
        ends[:, 0], ends[:, 1] = every[starts], every[starts + lengths - _BLOCK]
        words = ends.view(np.uint64).reshape(-1, 4) ^ self._masks
        made = np.frombuffer(self._edge.encryptor().update(words.data.cast("B")), np.uint64).reshape(-1, 4)
        return made[:, 0] + made[:, 2] + lengths.astype(np.uint64) * _ODD, made[:, 1] + made[:, 3]

    def _inner_at(self, unit: Bytes, starts: Numbers, lengths: Numbers, places: Numbers) -> Words:
        """The sums over whole blocks of segments of ``unit``, as if each lay at its place of ``places`` in another unit."""
        first = (places + _BLOCK - 1) // _BLOCK
        counts = (places + lengths) // _BLOCK - first
        ends = np.cumsum(counts)
        within = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        blocks = _each16(unit)[np.repeat(starts + first * _BLOCK - places, counts) + _BLOCK * within]
        masks = tweaks(self._key)[np.repeat(first, counts) + within]
        words = blocks.view(np.uint64).reshape(-1, 2) ^ masks
        made = np.frombuffer(self._inner.encryptor().update(words.data.cast("B")), np.uint64).reshape(-1, 2) ^ masks
        sums: Words = np.add.reduceat(made.ravel(), 2 * (ends - counts))
        return sums


class Lookup:
    """Segments of the last capture, found by their edges."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        # Sorted as plain numbers, the last bits of each being its place: a quarter of the time of a stable order.
        self._places = np.uint64((1 << len(segments.edges).bit_length()) - 1)
        self._sorted = np.sort(segments.edges & ~self._places | np.arange(len(segments.edges), dtype=np.uint64))

    def like(self, edges: Words) -> Numbers:
        """The number of one segment with each of ``edges``, -1 where there is none. Of several it is the one that stands before the
        segment that was found for the next: pages that moved together are found together."""
        if not len(self._sorted) or not len(edges):
            return np.full(len(edges), -1, np.int64)
        place = np.minimum(np.searchsorted(self._sorted, edges & ~self._places), len(self._sorted) - 1)
        first = (self._sorted[place] & self._places).astype(np.int64)
        which: Numbers = np.where(self.segments.edges[first] == edges, first, -1)
        before = np.maximum(which[1:] - 1, 0)
        which[:-1] = np.where(self.segments.edges[before] == edges[:-1], before, which[:-1])
        return which


def _each16(unit: Bytes) -> NDArray[np.void]:
    """The 16 bytes from each byte on."""
    return np.ndarray((len(unit) - _BLOCK + 1,), _ANY16, unit.data, 0, (1,))
