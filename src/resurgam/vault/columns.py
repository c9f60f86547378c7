"""Columns: rows of one width that lie one behind the other in a file, and move as wholes when a store is compacted.

A store of vectors writes them in files of columns, and compaction writes what is left of some files into a new one::

    before      [ row 0 ][ row 1 ][ row 2 ][ row 3 ][ row 4 ]     in one file, or in several
    now         [ row 0 ][ row 2 ][ row 3 ][ row 4 ]              in another, among other rows

So such a file is cut between rows, where these say so themselves (:class:`ColumnCutter`): rows that stay together are cut as they
were, in whatever file and wherever in it they lie. All else is cut by its content, from where a buffer of it begins. And each row
is known again by 128 bits that a host keeps of it (:class:`RowReader`)::

    digest(row) = sums of the lower and of the upper halves of AES(key, 16 bytes xor the mask of their place in a row)

which is PMAC's first step, as in ``patches``, under keys and masks of a row's width: so it is the same wherever the row lies. Both
sums agree for two rows that differ with a chance of 2^-128, so all may be compared with all (docs/adr/0025-columns.md).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from resurgam.vault.chunking import AVERAGE_CHUNK, MAX_CHUNK, MIN_CHUNK, ContentCutter
from resurgam.vault.frames import mine
from resurgam.vault.tensors import Dtype

LEAST, LONGEST = 128, 64 << 10  # bytes of a row: what is kept of a shorter one would be an eighth of it and more
_BLOCK = 16
_STEP = 256 << 10
_WIDTHS = 64  # whose masks are kept: a file may say that it has tens of thousands, of 64 KiB each

Digests = NDArray[np.uint64]  # two of each row
Words = NDArray[np.uint64]


class Column(NamedTuple):
    """Rows of ``width`` bytes from ``offset`` on, ``length`` bytes together, and what they are made of; without a width, bytes that
    move as a whole, if at all."""

    offset: int
    length: int
    width: int
    dtype: Dtype


class ColumnCutter:
    """Cuts a file of ``size`` bytes where ``columns`` begin and end, between rows, and by its content elsewhere (``chunking``). One
    per thread."""

    def __init__(self, columns: Sequence[Column], size: int, seed: int) -> None:
        self._ends: list[int] = []
        self._widths: list[int] = []
        for column in (*columns, Column(size, 0, 0, Dtype.BYTES)):
            self._ends += [column.offset, column.offset + column.length]
            self._widths += [0, column.width]
        self._content = ContentCutter(seed)
        self._factor = np.uint64(seed << 1 | 1)
        self._at = 0

    def cut(self, buffer: memoryview, *, final: bool) -> list[int]:
        """As ``ContentCutter.cut``, of the bytes that follow those that were cut last."""
        lengths: list[int] = []
        at = 0
        while at < len(buffer):
            number = min(bisect_right(self._ends, self._at), len(self._ends) - 1)
            room = buffer[at : at + self._ends[number] - self._at] if self._at < self._ends[number] else buffer[at:]
            ended = final or self._at + len(room) == self._ends[number]
            width = self._widths[number]
            some = list(self._rows(room, width, ended)) if width else self._content.cut(room, final=ended)
            done = sum(some)
            lengths += some
            at, self._at = at + done, self._at + done
            if done < len(room):
                break  # where that chunk ends, more bytes will say
        return lengths

    def _rows(self, rows: memoryview, width: int, ended: bool) -> Iterator[int]:
        """The lengths of chunks of whole rows; the last one is whatever is left where the column has ``ended``."""
        count = len(rows) // width
        least, most = max(MIN_CHUNK // width, 1), max(MAX_CHUNK // width, 1)
        chosen = self._chosen(rows, width, count)
        start = 0
        while start < count:
            place = int(np.searchsorted(chosen, start + least))
            end = min(int(chosen[place]) if place < len(chosen) else count + 1, start + most)
            if end > count:
                break
            yield (end - start) * width
            start = end
        if ended and start * width < len(rows):
            yield len(rows) - start * width

    def _chosen(self, rows: memoryview, width: int, count: int) -> NDArray[np.int64]:
        """After which of the rows a chunk may end: told by eight bytes from its beginning and from its midst."""
        if not count:  # what is there of a first row may end before its midst
            return np.empty(0, np.int64)
        first, middle = (
            np.ndarray((count,), "<u8", rows, at, (width,)).astype(np.uint64) for at in (0, width // 2 & ~7)
        )
        mixed = (first ^ middle * self._factor) * self._factor
        mixed ^= mixed >> np.uint64(32)
        mixed *= self._factor
        return np.flatnonzero(mixed <= np.uint64(((1 << 64) - 1) * width // AVERAGE_CHUNK)) + 1


class RowReader:
    """Makes the digests of rows, under ``key`` (32 bytes, the domain's block key). Thread-safe."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._under = lru_cache(_WIDTHS)(self._made)

    def digests(self, rows: memoryview, width: int) -> Digests:
        """Of each whole row of ``width`` bytes in ``rows``."""
        count, step = len(rows) // width, max(_STEP // width, 1)
        found = np.empty((count, 2), np.uint64)
        for first in range(0, count, step):
            many = min(step, count - first)
            self._digest(rows[first * width :][: many * width], width, found[first : first + many])
        return found

    def _digest(self, rows: memoryview, width: int, out: Digests) -> None:
        """Of some, that stay in the processor's cache meanwhile."""
        count, padded = len(out), -(-width // _BLOCK) * _BLOCK
        cipher, masks = self._under(width)
        masked, made = mine.scratch("rows", count * padded), mine.scratch("columns", count * padded + _BLOCK)
        words = masked.view(np.uint64).reshape(count, -1)
        if padded == width:
            np.bitwise_xor(np.frombuffer(rows, np.uint64).reshape(count, -1), masks, out=words)
        else:
            every = masked.reshape(count, padded)
            every[:, :width] = np.frombuffer(rows, np.uint8).reshape(count, width)
            every[:, width:] = 0
            words ^= masks
        cipher.encryptor().update_into(masked.data, made.data)
        halves = made[: count * padded].view(np.uint64).reshape(count, -1)
        for half in (0, 1):
            np.einsum("ij->i", halves[:, half::2], out=out[:, half])

    def _made(self, width: int) -> tuple[Cipher[modes.ECB], Words]:
        """The cipher for rows of ``width``, and what each 16 bytes of one are masked with."""
        derived = blake3(b"rows of columns" + width.to_bytes(4, "little"), key=self._key).digest(
            16 + -(-width // _BLOCK) * _BLOCK
        )
        cipher = Cipher(algorithms.AES(derived[:16]), modes.ECB())  # noqa: S305 - of single blocks, as a permutation
        return cipher, np.frombuffer(derived[16:], np.uint64)
