"""Where the rows of columns lie in Lance files, of which LanceDB's tables consist, told by what stands at a file's end.

    pages of columns, each a few buffers · global buffers · of each column what its pages are · where that is · footer

Values of one width, as vectors have, are written row by row, packed by nothing: a page of them is one buffer (or has one beside
that of what is null) as long as its rows are wide, all together. That is how they are found; how a page says that its values are
encoded is not asked. What is text, or short, is packed by pages; of it is told
where long buffers begin, so that pages that a compaction copies as they are are cut as they were.

As in ``tensors``, no byte depends on what a file claims. What is read of it is bounded, and whatever is not as the format says
makes it a file like any other, which is cut by its content.

Format: https://lance.org/format/file/ (version 2; file2.proto).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import islice

from resurgam.model.safetensors import Read, bytes_from
from resurgam.vault.columns import LEAST, LONGEST, Column
from resurgam.vault.protobuf import Malformed, fields, integers
from resurgam.vault.tensors import Dtype

LEAST_COLUMN = 64 << 10  # shorter ones go together with what lies around them
_MAGIC = b"LANC"
# Of what each column is, where that is said, and where the global buffers are; numbers of these and of columns; the version.
_FOOTER = struct.Struct("<QQQIIHH4s")
_PLACE = struct.Struct("<QQ")  # offset and length
_VERSIONS = {(0, 3), *((2, minor) for minor in range(8))}
# Bytes of what pages are, beside any file, and beside one that is 256 times as long: to walk through a byte of them takes longer
# than to store it.
_LEAST, _MOST = 128 << 10, 8 << 20
_BUFFERS = 1 << 17  # that are kept, of two bytes of a footer each: as many as a file of hundreds of gigabytes has
_SCHEMA = 64 << 10
# A type's length, and its name, as the schema has it.
_VECTOR = re.compile(rb"([\x10-\x7f])(fixed_size_list:(float|halffloat):)(\d+)")
_FLOATS = {b"float": (Dtype.F32, 4), b"halffloat": (Dtype.F16, 2)}

# Fields of file2.proto.
_PAGES = 2
_OFFSETS, _SIZES, _LENGTH = 1, 2, 3


def lance_columns(size: int, read: Read) -> list[Column] | None:
    """The rows of one width in a Lance file of ``size`` bytes, and its other long buffers, in order of offset; None where it is no
    such file, lies, or has no such rows."""
    tail = bytes_from(read, size - _FOOTER.size, _FOOTER.size) if size >= 2 * _FOOTER.size else b""
    if tail[-len(_MAGIC) :] != _MAGIC:
        return None
    try:
        columns = _columns(_FOOTER.unpack(tail), size - _FOOTER.size, read)
    except (Malformed, struct.error):
        return None
    return columns if any(column.width for column in columns) else None


def _columns(footer: tuple[int, ...], end: int, read: Read) -> list[Column]:
    """By what the footer, which begins at ``end``, says. Raises Malformed, struct.error."""
    start, places, globals_, buffers, columns, major, minor, _ = footer
    bound = min(max(_LEAST, end >> 8), _MOST)
    if (major, minor) not in _VERSIONS or not start <= places <= globals_ <= end or end - start > bound:
        raise Malformed("a footer that does not fit")
    metadata = memoryview(bytes_from(read, start, end - start))
    widths = _widths(metadata[globals_ - start :], end, read) if buffers else {}
    left = places - start  # however often they name the same bytes, no more are walked through
    found: list[Column] = []
    for number in range(min(columns, (globals_ - places) // _PLACE.size)):
        offset, length = _PLACE.unpack_from(metadata, places - start + number * _PLACE.size)
        left -= length
        if left < 0 or offset < start or offset + length > places:
            raise Malformed("a column that lies elsewhere")
        for field, page in fields(metadata[offset - start :][:length]):
            if field == _PAGES and isinstance(page, memoryview):
                found += _buffers_of(page, widths)
            if len(found) > _BUFFERS:
                raise Malformed("more buffers than any file has")
    return _in_order(sorted(found), start)


def _widths(places: memoryview, end: int, read: Read) -> dict[int, Dtype]:
    """The widths of rows of floats, by the schema, which is the first global buffer."""
    offset, length = _PLACE.unpack_from(places)
    schema = bytes_from(read, offset, min(length, _SCHEMA)) if offset < end else b""
    found = {}
    for name in _VECTOR.finditer(schema):
        dtype, size = _FLOATS[name[3]]
        digits = name[4][: max(name[1][0] - len(name[2]), 1)]  # what follows may look like another
        found[int(digits[:9]) * size] = dtype
    return found


def _buffers_of(page: memoryview, widths: dict[int, Dtype]) -> Iterator[Column]:
    offsets: list[int] = []
    sizes: list[int] = []
    rows = 0
    for field, value in fields(page):
        if field == _OFFSETS:
            offsets += islice(integers(value), _BUFFERS + 1)
        elif field == _SIZES:
            sizes += islice(integers(value), _BUFFERS + 1)
        elif field == _LENGTH and isinstance(value, int):
            rows = value
        if max(len(offsets), len(sizes)) > _BUFFERS:
            raise Malformed("more buffers than any page has")
    for offset, size in zip(offsets, sizes, strict=False):
        width = size // rows if rows and not size % rows else 0
        if LEAST <= width <= LONGEST:
            yield Column(offset, size, width, widths.get(width, Dtype.BYTES))
        else:
            yield Column(offset, size, 0, Dtype.BYTES)


def _in_order(found: list[Column], end: int) -> list[Column]:
    """Those worth it; rows that follow each other are one. None may lie on another, or beyond ``end``. Raises Malformed."""
    columns: list[Column] = []
    at = 0
    for column in found:
        if not at <= column.offset <= column.offset + column.length <= end:
            raise Malformed("rows that do not lie side by side")
        follows = columns and at == column.offset and 0 < column.width == columns[-1].width
        before = columns.pop() if follows else column._replace(length=0)
        columns.append(before._replace(length=before.length + column.length))
        at = column.offset + column.length
    return [column for column in columns if column.length >= LEAST_COLUMN]
