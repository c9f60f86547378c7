"""Where a stream of bytes is cut into chunks, so that what did not change is cut as it was before.

Two ways. A file whose first bytes tell a structure is cut along it (:func:`structure_of`)::

    safetensors   header, then each tensor at 1 MiB from its own start   a changed or moved tensor touches only itself
    npy           header, then the data at 1 MiB                         the same, for one array
    SQLite        64 KiB, aligned                                        a changed page touches one chunk; any page size fits
    Parquet       where pages begin (``parquet``), if they are packed    a changed page touches only itself
    in place      1 MiB, where a driver says so (``Blob.in_place``)      a changed record touches one chunk

Everything else is cut where its content says so (:class:`ContentCutter`, FastCDC): an insertion moves the bytes behind it,
and the cuts move with them. Of JSON lines (:func:`has_lines`) each cut then moves on to the end of its line, and chunks are half
as long: who changes such a file puts lines in and takes lines out.

Cutting decides what chunks are shared, nothing else. Any tiling restores exactly, so a later release may cut otherwise,
and no part of a vault's format depends on this module.

What cut points tell: lengths of content-defined chunks are a fingerprint of the content. The seed makes the fingerprint
another one in each vault, so lists of known lengths do not fit. It is not a cipher. pyfastcdc XORs the seed into each of
the gear table's entries, of which only the lowest 48 bits reach the mask; and since sums carry upwards only, the bits can
be tried from the lowest on. Whoever has one long plaintext and its raw chunk lengths gets the seed within seconds, and can
then test other guesses. Raw lengths are seen by holders of the index key; others see encoded lengths, equal to the raw
ones where data does not compress (docs/adr/0004-chunking-and-codecs.md).

Algorithm: W. Xia et al., "The Design of Fast Content-Defined Chunking", IEEE TPDS 31(9), 2020.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyfastcdc import FastCDC

from resurgam.model.safetensors import Read
from resurgam.vault.parquet import parquet_extents
from resurgam.vault.tensors import Dtype as Dtype  # chunking is where other modules look for it
from resurgam.vault.tensors import Extent, npy_extents, safetensors_extents

HEAD = 4 << 20  # bytes of a file's beginning that structure_of asks for
TENSOR_STEP = 1 << 20
PAGE_STEP = 64 << 10  # the smallest size at which storing a changed row is cheap and the codecs still see enough
MIN_CHUNK = 128 << 10
AVERAGE_CHUNK = 512 << 10  # of the part above the minimum: chunks of plain text are some 600 KiB on average
MAX_CHUNK = 2 << 20
LINES = (64 << 10, 256 << 10, 1 << 20)  # minimum, average above it, and maximum, of JSON lines: 310 KiB on average
LONGEST_LINE = 256 << 10  # of the first one, or cuts would move by too much

_SQLITE_MAGIC = b"SQLite format 3\x00"
_LINE_END = re.compile(rb"\n")
_JSON_LINE = re.compile(rb"\s*(?:\{[^\n]*\}|\[[^\n]*\])[ \t\r]*\n[{[]")
_SQLITE_PAGE_SIZES = frozenset({1, *(1 << bits for bits in range(9, 16))})  # 1 stands for 65,536


class Piece(NamedTuple):
    """One chunk to be: ``length`` bytes from ``offset``, and a hint for the codec."""

    offset: int
    length: int
    dtype: Dtype


def structure_of(head: memoryview, size: int, read: Read, *, in_place: bool = False) -> Iterator[Piece] | None:
    """The pieces of a file of ``size`` bytes that begins with ``head`` (HEAD bytes, or all of a smaller file).

    Pieces come in order, none is empty, and together they are exactly [0, size). None: no structure is known, or the file
    is not what its magic says, and it is to be cut by content, unless a driver says that it changes ``in_place``. ``read`` is
    used only for a header longer than ``head``.
    Whether it is the one or the other is decided at once; the pieces themselves are made one at a time.
    """
    head = head.cast("B")
    if is_sqlite(head):
        return _tiles([Extent(0, size, Dtype.PAGES)], PAGE_STEP)
    extents = npy_extents(head, size) or safetensors_extents(head, size, read) or parquet_extents(head, size, read)
    if not extents and in_place:
        extents = [Extent(0, size, Dtype.BYTES)]
    return _tiles(extents, TENSOR_STEP) if extents else None


def is_sqlite(head: memoryview) -> bool:
    """Whether a file that begins with ``head`` is an SQLite database (magic, and a page size that exists)."""
    return bytes(head[:16]) == _SQLITE_MAGIC and int.from_bytes(head[16:18], "big") in _SQLITE_PAGE_SIZES


def has_lines(head: memoryview) -> bool:
    """Whether a file that begins with ``head`` looks like JSON lines: the first is an object or a list, and another begins."""
    return _JSON_LINE.match(head[:LONGEST_LINE]) is not None


def _tiles(extents: Iterable[Extent], step: int) -> Iterator[Piece]:
    for extent in extents:
        end = extent.offset + extent.length
        for offset in range(extent.offset, end, step):
            yield Piece(offset, min(step, end - offset), extent.dtype)


def cutter_of(head: memoryview, seed: int) -> ContentCutter:
    """What cuts a file by content that begins with ``head``, as ``structure_of`` had it."""
    if not has_lines(head):
        return ContentCutter(seed)
    minimum, average, maximum = LINES
    return ContentCutter(seed, minimum=minimum, average=average, maximum=maximum, lines=True)


class ContentCutter:
    """Keyed FastCDC; see the module's docstring for what the key is worth. One per thread.

    ``seed`` is the vault's cut seed of a domain, 0 < seed < 2**63 (0 would be the published table, known to everybody). With
    ``lines``, each cut moves on to the end of the line that it lies in, unless the chunk would become too long.
    """

    def __init__(
        self,
        seed: int,
        *,
        minimum: int = MIN_CHUNK,
        average: int = AVERAGE_CHUNK,
        maximum: int = MAX_CHUNK,
        lines: bool = False,
    ) -> None:
        if not 0 < seed < 1 << 63:
            raise ValueError("a cut seed lies between 1 and 2**63 - 1")
        self._maximum = maximum
        self._lines = lines
        self._cdc = FastCDC(average, min_size=minimum, max_size=maximum, seed=seed)

    def cut(self, buffer: memoryview, *, final: bool) -> list[int]:
        """The lengths of the chunks at the beginning of ``buffer``, which begins where a chunk begins.

        Unless ``final``, bytes after the last certain cut are left out: give them again at the beginning of the next
        buffer, with more behind them. A buffer of the maximum length or longer always yields a chunk, so cuts do not
        depend on how the stream was divided into buffers.
        """
        if self._lines:
            return list(self._line_cuts(buffer, final))
        lengths = [chunk.length for chunk in self._cdc.cut_buf(buffer)]
        if lengths and not final and lengths[-1] < self._maximum:
            lengths.pop()  # it ends where the buffer ends: more bytes could make it longer
        return lengths

    def _line_cuts(self, buffer: memoryview, final: bool) -> Iterator[int]:
        """As ``cut``; each chunk begins where the moved cut of the one before it lies, so the next is looked for from there."""
        start = 0
        while start < len(buffer):
            limit = start + self._maximum
            end = min(limit, len(buffer))
            cut = start + next(iter(self._cdc.cut_buf(buffer[start:end]))).length
            line = _LINE_END.search(buffer, cut - 1, end)
            if end < limit and not final and (cut == end or line is None):
                return  # it ends where the buffer ends: more bytes could make it longer
            if line is not None:
                cut = line.end()
            elif end < limit:
                cut = end  # the last line has no end
            yield cut - start
            start = cut
