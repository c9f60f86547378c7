"""The leaf pages of a table in an SQLite image: which rows stand in which bytes, found without decoding a row.

A table with rowids is a B-tree (sqlite.org/fileformat2.html sections 1.6 and 1.7). Its rows are cells of leaf pages, in the
order of their rowids; what does not fit continues in a chain of overflow pages. So the rows of one leaf depend on that page
and on the pages of its cells' chains, and on the schema; nothing else of the image. That is a piece (``pieces``):

    interior pages    read at every survey, one in some hundred leaves; they say which leaves there are, and their order
    a leaf            parsed when a block of its own or of its chains changed, or when it was not this table's before
    the rows          asked of SQLite itself, by the range of rowids: values are never decoded here

Numbers are read for many pages at once. Whatever is not as the format says ends the survey: then the table is read whole.

    leaf page       0x0d · first free block, 2 · cells, 2 · content, 2 · free bytes, 1 · a pointer of 2 bytes per cell
    its cell        bytes of payload (varint) · rowid (varint) · as much of the payload as stays · first overflow page, 4
    interior page   0x05 · the same · last child, 4 · pointers; a cell: child, 4 · rowid (varint)
    overflow page   next page, 4, or 0 · payload
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.drivers.base import read_fully
from resurgam.drivers.pieces import BLOCK, Flags, Numbers, Survey
from resurgam.drivers.sqlite_image import Image
from resurgam.drivers.sqlite_open import explain
from resurgam.drivers.sqlite_rows import Batch, Table, quote, scan
from resurgam.model.codec import to_msgpack

_FORMAT = 1  # of what a survey and a row's values are; another one, and nothing of before is believed
_LEAF, _INTERIOR = 13, 5
_DEEPEST = 20  # no B-tree of 2^32 pages is
_WINDOW = 2 << 20  # bytes in memory at a time
_GAP = BLOCK  # bytes between two wanted pages that are read along, which is cheaper than asking twice
_MOST_PAGES = 1 << 24  # of an image: the first word of each may have to be held
_UNKNOWN = 0xFFFF_FFFF

Bytes = NDArray[np.uint8]


class _NotUnderstood(Exception):
    """The image is not as the format says."""


class Cells(NamedTuple):
    """The cells of some leaves: the page of each by its place among them, and where its payload goes on."""

    leaf: Numbers
    rowid: Numbers
    overflow: Numbers  # first page of the chain, 0 where there is none
    chain: Numbers  # pages of the chain


class Leaves:
    """The pieces of one table. Made by :func:`leaves_of`."""

    def __init__(
        self, connection: sqlite3.Connection, path: str, image: Image, table: Table, root: int, rowid: str
    ) -> None:
        self._connection, self._path, self._image = connection, path, image
        self._table, self._root = table, root
        self._select = f"{table.select} NOT INDEXED WHERE {rowid} BETWEEN ? AND ? ORDER BY {rowid}"
        self._page_size = image.page_size
        self._pages = image.size // image.page_size
        head = memoryview(bytearray(100))
        read_fully(image, 0, head)
        self._usable = image.page_size - head[20]  # the rest of each page is an extension's
        self._next = np.empty(0, np.uint32)
        self._room = np.empty(_WINDOW, np.uint8)
        self.settings = self._settings(bytes(head[44:48]) + bytes(head[56:60]))

    def _settings(self, head: bytes) -> bytes:
        """With the schema format and the encoding from the header: both say how values are read."""
        name = self._table.stored_as
        (sql,) = self._connection.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)
        ).fetchone()
        table = self._table
        parts = (
            _FORMAT,
            sqlite3.sqlite_version,
            head,
            self._page_size,
            self._usable,
            self._select,
            list(table.key),
            sql,
        )
        return hashlib.sha256(to_msgpack(parts)).digest()

    def survey(self, before: Survey | None, changed: Flags) -> tuple[Survey, Numbers] | None:
        """See ``Pieces``."""
        if self._pages > _MOST_PAGES:
            return None
        try:
            leaves = self._leaves()
            origin = np.full(len(leaves), -1, np.int64)
            if before is not None:
                origin = before.places_of(leaves)
                old = origin >= 0
                origin[old] = np.where(before.touched(changed)[origin[old]], -1, origin[old])
            survey = _joined(leaves, origin, before, self._parsed(leaves[origin < 0]))
        except _NotUnderstood:
            return None
        finally:
            self._next = np.empty(0, np.uint32)
        if (survey.first[1:] <= survey.last[:-1]).any():
            return None
        return survey, origin

    def read(self, first: int, last: int) -> Iterator[Batch]:
        """See ``Pieces``. Raises IntegrityError where the database is damaged."""
        try:
            yield from scan(self._connection, self._select, (first, last))
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def _leaves(self) -> Numbers:
        """The pages of all leaves, in order."""
        level = np.array([self._root], np.int64)
        for _ in range(_DEEPEST):
            if self._kind(level[0]) == _LEAF:
                if len(_distinct(level)) != len(level):
                    raise _NotUnderstood
                return level
            level = self._children(level)
        raise _NotUnderstood

    def _kind(self, page: np.int64) -> int:
        return int(next(self._read(np.array([page])))[1][0])

    def _children(self, interior: Numbers) -> Numbers:
        """The pages below some interior pages, in order: those of the cells, then the last child of each."""
        order = np.argsort(interior, kind="stable")
        children: list[Numbers] = [np.empty(0, np.int64)] * len(interior)
        for part, flat, begin in self._read(interior[order]):
            counts, page, at = _cells(flat, begin, _INTERIOR, 12)
            last = _word(flat, begin + 8)
            below = np.split(_word(flat, begin[page] + at), np.cumsum(counts)[:-1])
            for place, cells, one in zip(order[part].tolist(), below, last, strict=True):
                children[place] = np.append(cells, one)
        return np.concatenate(children)

    def _parsed(self, leaves: Numbers) -> Survey:
        """The survey of ``leaves``, in their order."""
        order = np.argsort(leaves, kind="stable")
        rows, first, last = (np.empty(len(leaves), np.int64) for _ in range(3))
        owners, blocks = [np.arange(len(leaves))], [self._block(leaves)]
        for part, flat, begin in self._read(leaves[order]):
            places = order[part]
            cells = self._parse(flat, begin)
            starts = np.searchsorted(cells.leaf, np.arange(len(places) + 1))
            rows[places] = np.diff(starts)
            first[places], last[places] = cells.rowid[starts[:-1]], cells.rowid[starts[1:] - 1]
            rising = cells.rowid[1:] > cells.rowid[:-1]
            rising[starts[1:-1] - 1] = True  # from one leaf to the next is the survey's to see
            if not rising.all():
                raise _NotUnderstood
            for owner, pages in self._chains(cells):
                owners.append(places[owner])
                blocks.append(self._block(pages))
        edges, pool = _grouped(np.concatenate(owners), np.concatenate(blocks), len(leaves))
        return Survey(leaves, rows, first, last, edges, pool)

    def _parse(self, flat: Bytes, begin: Numbers) -> Cells:
        counts, page, offset = _cells(flat, begin, _LEAF, 8)
        if not counts.all():
            raise _NotUnderstood  # only an empty table has an empty leaf
        at = begin[page] + offset
        payload, length = _varints(flat, at)
        rowid, more = _varints(flat, at + length)
        usable = self._usable
        most, least = usable - 35, (usable - 12) * 32 // 255 - 23
        spilled = least + (payload - least) % (usable - 4)
        local = np.where(payload <= most, payload, np.where(spilled <= most, spilled, least))
        if (payload < 0).any():
            raise _NotUnderstood
        chain = -(-(payload - local) // (usable - 4))
        if len(chain) and chain.max() > self._pages:
            raise _NotUnderstood
        overflow = np.where(chain > 0, _word(flat, at + length + more + local), 0)
        return Cells(page, rowid, overflow, chain)

    def _chains(self, cells: Cells) -> Iterator[tuple[Numbers, Numbers]]:
        """(leaf, page) of every overflow page, a link of all chains at a time."""
        going = cells.chain > 0
        leaf, page, left = cells.leaf[going], cells.overflow[going], cells.chain[going]
        while len(page):
            yield leaf, self._inside(page)
            going = left > 1
            leaf, left = leaf[going], left[going] - 1
            page = self._followers(page[going])

    def _followers(self, pages: Numbers) -> Numbers:
        """The page that each overflow page says comes next. A block is read once: chains run through neighbouring pages."""
        if not len(self._next) and len(pages):
            self._next = np.full(self._pages + 1, _UNKNOWN, np.uint32)
        step = max(1, BLOCK // self._page_size)
        unknown = pages[self._next[pages] == _UNKNOWN] if len(pages) else pages
        for block in _distinct((unknown - 1) // step).tolist():
            wanted = np.arange(block * step + 1, min((block + 1) * step, self._pages) + 1)
            for part, flat, begin in self._read(wanted):
                self._next[wanted[part]] = _word(flat, begin)
        return self._next[pages].astype(np.int64) if len(pages) else pages

    def _inside(self, pages: Numbers) -> Numbers:
        if len(pages) and (pages.min() < 1 or pages.max() > self._pages):
            raise _NotUnderstood
        return pages

    def _block(self, pages: Numbers) -> Numbers:
        """The block of each page; a page is never larger than one."""
        return (pages - 1) * self._page_size // BLOCK

    def _read(self, pages: Numbers) -> Iterator[tuple[slice, Bytes, Numbers]]:
        """Ascending ``pages``, a part of them at a time: which, some bytes, and where in those each page begins. The bytes are good
        until the next part is asked for. Near pages are read together, with what lies between."""
        self._inside(pages)
        size, room = self._page_size, self._room
        most = len(room) // size
        cuts = np.flatnonzero(np.diff(pages) * size > _GAP) + 1
        first, used, begin = 0, 0, np.empty(len(pages), np.int64)
        for start, end in pairwise([0, *cuts.tolist(), len(pages)]):
            while start < end:
                if used == most:
                    yield slice(first, start), room, begin[first:start]
                    first, used = start, 0
                low = int(pages[start])
                stop = min(end, int(np.searchsorted(pages, low + most - used)))
                count = int(pages[stop - 1]) - low + 1
                begin[start:stop] = (pages[start:stop] - low + used) * size
                part = room[used * size : (used + count) * size]
                if read_fully(self._image, (low - 1) * size, part.data) < len(part):
                    raise _NotUnderstood
                start, used = stop, used + count
        yield slice(first, len(pages)), room, begin[first:]


def leaves_of(connection: sqlite3.Connection, path: str, image: Image, table: Table) -> Leaves | None:
    """The pieces of ``table``; None where it is small, has no rowids, or all their names are taken by columns."""
    statement = "SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ?"
    (root,) = connection.execute(statement, (table.stored_as,)).fetchone()
    kind = memoryview(bytearray(1))
    read_fully(image, (root - 1) * image.page_size, kind)
    if kind[0] != _INTERIOR or root == 1:
        return None
    taken = {str(c[1]).lower() for c in connection.execute(f"PRAGMA table_xinfo({quote(table.stored_as)})")}
    rowid = next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), None)
    return Leaves(connection, path, image, table, root, rowid) if rowid else None


def _cells(flat: Bytes, begin: Numbers, kind: int, header: int) -> tuple[Numbers, Numbers, Numbers]:
    """How many cells each page has; then of every cell its page's place, and its offset there."""
    counts = flat[begin + 3].astype(np.int64) << 8 | flat[begin + 4]
    if (flat[begin] != kind).any():
        raise _NotUnderstood
    page = np.repeat(np.arange(len(begin)), counts)
    number = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = begin[page] + header + 2 * number
    return counts, page, flat.take(at, mode="clip").astype(np.int64) << 8 | flat.take(at + 1, mode="clip")


def _word(flat: Bytes, at: Numbers) -> Numbers:
    """The big-endian 32-bit numbers at some places."""
    value = np.zeros(len(at), np.int64)
    for byte in range(4):
        value = value << 8 | flat.take(at + byte, mode="clip")
    return value


def _varints(flat: Bytes, at: Numbers) -> tuple[Numbers, Numbers]:
    """The varints at some places, as signed 64-bit numbers, and their lengths."""
    value, length = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
    going = np.ones(len(at), np.bool_)
    for byte in range(9):
        data = flat.take(at + byte, mode="clip").astype(np.int64)
        longer = value << 8 | data if byte == 8 else value << 7 | data & 0x7F
        value = np.where(going, longer, value)
        length += going
        going &= data >= 0x80
        if not going.any():
            break
    return value, length


def _distinct(values: Numbers) -> Numbers:
    """Each of ``values`` once, ascending. Sorted, for they are nearly in order: to hash them (``np.unique``) takes longer."""
    ordered = np.sort(values, kind="stable")
    first = np.diff(ordered, prepend=ordered[:1] - 1) != 0
    distinct: Numbers = ordered[first]
    return distinct


def _grouped(owners: Numbers, blocks: Numbers, count: int) -> tuple[Numbers, Numbers]:
    """The blocks of each of ``count`` owners, each once: where they start, and all of them."""
    pairs = _distinct(owners << 32 | blocks)
    return np.searchsorted(pairs >> 32, np.arange(count + 1)), pairs & _UNKNOWN


def _joined(leaves: Numbers, origin: Numbers, before: Survey | None, fresh: Survey) -> Survey:
    """One survey of ``leaves``: those with an ``origin`` as they stood ``before``, the others in turn from ``fresh``."""
    if before is None:
        return fresh
    kept = origin >= 0

    def column(old: Numbers, new: Numbers) -> Numbers:
        result = np.empty(len(leaves), np.int64)
        result[kept], result[~kept] = old[origin[kept]], new
        return result

    pool = np.concatenate([before.blocks, fresh.blocks])
    start = column(before.starts[:-1], fresh.starts[:-1] + len(before.blocks))
    size = column(np.diff(before.starts), np.diff(fresh.starts))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
    blocks = pool[np.arange(starts[-1]) + np.repeat(start - starts[:-1], size)]
    rows, first, last = (
        column(old, new)
        for old, new in ((before.rows, fresh.rows), (before.first, fresh.first), (before.last, fresh.last))
    )
    return Survey(leaves, rows, first, last, starts, blocks)
