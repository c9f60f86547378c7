"""Where the pages lie in Parquet files, so that a file that was written again shares those that are as they were.

    "PAR1", row groups of column chunks of pages, indexes, footer, its length, "PAR1"

The footer names the column chunks, and each page says its own length before it begins. A page is packed (snappy, zstd, ...): one
changed value makes another page of it, of another length, and leaves all others as they are. So a file is cut where pages begin,
not where packed bytes happen to look like a cut, and a changed page costs itself.

Small pages and small column chunks go together, about ``GROUP`` bytes of them. Which of them ends such a group is said by its own
last bytes, the likelier the longer it is; so one that came or went leaves the groups behind it as they were. What fills a group
alone has one of its own, and a long column chunk begins a new one.

What is not packed is better cut by its content, since rows that move take their bytes with them: then the answer is None, as for
everything that is not as the format says. As in ``tensors``, no byte depends on what a file claims. What is read of it is bounded:
no footer that is long beside its file (its column chunks are then too short to be cut apart), and so many pages, and bytes of their
headers, for so many bytes: to walk through a byte of Thrift takes longer than to store it.

Format: https://github.com/apache/parquet-format (README, "File format"; parquet.thrift).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from resurgam.model.safetensors import Read, bytes_from
from resurgam.vault.tensors import Dtype, Extent
from resurgam.vault.thrift import Compact, Kind, Malformed

GROUP = 128 << 10
_MAGIC = b"PAR1"
_END = 8  # the footer's length and the magic
_FOOTER, _LONG_FOOTER = (
    64 << 10,
    8 << 20,
)  # the shorter is read beside any file, up to the longer beside one 256 times as long
_HEADER, _LONG_HEADER = 256, 64 << 10  # of a page; a long one holds long statistics
_LEAST_PAGE = 4 << 10  # where pages are shorter than this on average, they are not told apart
_HEADERS = 64  # nor where more than one byte of so many is of their headers
_TAIL = 32
_UNCOMPRESSED = 0

# Fields of parquet.thrift.
_ROW_GROUPS = 4
_COLUMNS = 1
_META_DATA = 3
_CODEC, _LENGTH, _DATA_PAGE, _DICTIONARY_PAGE = 4, 7, 9, 11
_COMPRESSED_PAGE_SIZE = 3


class _Run(NamedTuple):
    """The pages of one column in one row group."""

    offset: int
    length: int
    packed: bool


class _Unit(NamedTuple):
    """What is never cut apart, but for its own length, up to ``end``. A long column chunk, or the footer, ``begins`` with it."""

    end: int
    begins: bool


def parquet_extents(head: memoryview, size: int, read: Read) -> Iterator[Extent] | None:
    """Groups of pages of a Parquet file, which tile it; None where it is none, lies, or is not packed."""
    if bytes(head[:4]) != _MAGIC or size < 2 * _END:
        return None
    end = bytes_from(read, size - _END, _END)
    footer = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or footer > size - 2 * _END or footer > min(max(_FOOTER, size >> 8), _LONG_FOOTER):
        return None
    try:
        runs = _runs(bytes_from(read, size - _END - footer, footer))
    except Malformed:
        return None
    place = packed = 0
    for run in runs:
        if run.offset < place or run.length <= 0:
            return None
        place = run.offset + run.length
        packed += run.packed * run.length
    if not runs or place > size - _END - footer or 2 * packed < place:
        return None
    return _groups(_units(runs, size, read), read)


def _runs(footer: bytes) -> list[_Run]:
    """The column chunks that a footer names, in order of offset. Raises Malformed."""
    data = Compact(footer)
    return sorted(
        _run(data)
        for _ in _structures(data, _ROW_GROUPS)
        for _ in _structures(data, _COLUMNS)
        for _ in _structure(data, _META_DATA)
    )


def _structures(data: Compact, wanted: int) -> Iterator[None]:
    """Stands before each structure of the list that is field ``wanted`` of the structure that begins here."""
    for number, kind in data.fields():
        if number == wanted and kind == Kind.LIST:
            count, inner = data.elements()
            if inner != Kind.STRUCT:
                raise Malformed(f"a list of type {inner}")
            for _ in range(count):
                yield
        else:
            data.skip(kind)


def _structure(data: Compact, wanted: int) -> Iterator[None]:
    """Stands before the structure that is field ``wanted`` of the one that begins here."""
    for number, kind in data.fields():
        if number == wanted and kind == Kind.STRUCT:
            yield
        else:
            data.skip(kind)


def _run(data: Compact) -> _Run:
    found = _integers(data)
    try:
        first = min(place for place in (found.get(_DICTIONARY_PAGE), found[_DATA_PAGE]) if place)
        return _Run(first, found[_LENGTH], found[_CODEC] != _UNCOMPRESSED)
    except (KeyError, ValueError) as error:
        raise Malformed("a column chunk without a place") from error


def _integers(data: Compact) -> dict[int, int]:
    """The numbers among the fields of the structure that begins here."""
    found: dict[int, int] = {}
    for number, kind in data.fields():
        if kind in (Kind.I32, Kind.I64):
            found[number] = data.integer()
        else:
            data.skip(kind)
    return found


def _units(runs: list[_Run], size: int, read: Read) -> Iterator[_Unit]:
    """Pages of long column chunks, short column chunks, and all that lies between."""
    place = 0
    for run in runs:
        if run.offset - place > len(_MAGIC):
            yield _Unit(run.offset, begins=False)
        place = run.offset + run.length
        begins = run.length > GROUP
        for end in _page_ends(run.offset, place, read) if begins else (place,):
            yield _Unit(end, begins)
            begins = False
    yield _Unit(size, begins=True)


def _page_ends(start: int, end: int, read: Read) -> Iterator[int]:
    """Where the pages of a column chunk end, as far as their headers are what they should be."""
    left = (end - start) // _HEADERS
    for _ in range((end - start) // _LEAST_PAGE):
        header, length = _page_at(start, left, read)
        left -= header
        start += header + length
        if not header or start >= end:
            break
        yield start
    yield end


def _page_at(start: int, most: int, read: Read) -> tuple[int, int]:
    """The lengths of the header at ``start``, up to ``most``, and of the page behind it; 0 where there is none."""
    for length in (_HEADER, _LONG_HEADER):
        data = Compact(bytes_from(read, start, min(length, most)))
        try:
            page = _integers(data).get(_COMPRESSED_PAGE_SIZE, -1)
        except Malformed:
            continue
        return (data.at, page) if page >= 0 else (0, 0)
    return 0, 0


def _groups(units: Iterator[_Unit], read: Read) -> Iterator[Extent]:
    start = place = 0
    for end, begins in units:
        long = end - place >= GROUP
        if start < place and (begins or long):  # it shall not change with what stands before it
            yield Extent(start, place - start, Dtype.PACKED)
            start = place
        if long or _ends_group(place, end, read):
            yield Extent(start, end - start, Dtype.PACKED)
            start = end
        place = end
    if start < place:
        yield Extent(start, place - start, Dtype.PACKED)


def _ends_group(start: int, end: int, read: Read) -> bool:
    """Whether a group ends with the bytes from ``start`` to ``end``: as often as they are a part of one."""
    tail = min(_TAIL, end - start)
    return zlib.crc32(bytes_from(read, end - tail, tail)) < (end - start << 32) // GROUP
