"""Lance files as the format describes them (version 2), of buffers that a test chooses."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIGN = 64


class Page(NamedTuple):
    """A page of ``rows`` rows of a column, whose bytes are in ``buffers``."""

    rows: int
    buffers: Sequence[bytes]


class Places(NamedTuple):
    """What a footer says."""

    start: int
    columns_at: int
    buffers_at: int
    buffers: int
    columns: int
    major: int = 2
    minor: int = 2

    def packed(self) -> bytes:
        """As it stands at the end of a file."""
        return struct.pack("<QQQIIHH4s", *self, b"LANC")


def varint(number: int) -> bytes:
    """A number on the wire."""
    low = number & 0x7F
    return bytes([low]) if number < 0x80 else bytes([low | 0x80]) + varint(number >> 7)


def field(number: int, value: int | bytes) -> bytes:
    """A field on the wire."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def lance_file(columns: Sequence[Sequence[Page]], schema: str = "fixed_size_list:float:384") -> bytes:
    """A file of such columns, one page of each after the other, as a writer has them that writes batches."""
    data = bytearray()
    metadata = [field(1, b"\x0a\x02\x0a\x00") for _ in columns]
    for number in range(max(map(len, columns), default=0)):
        for place, column in enumerate(columns):
            if number < len(column):
                metadata[place] += field(2, _page(column[number], data))
    schema_at = len(data)
    data += b"\x0a" + field(5, schema.encode()) + field(6, 1)
    schema_size, start = len(data) - schema_at, len(data)
    places = b""
    for one in metadata:
        places += struct.pack("<QQ", len(data), len(one))
        data += one
    columns_at = len(data)
    data += places
    footer = Places(start, columns_at, len(data), 1, len(columns))
    return bytes(data) + struct.pack("<QQ", schema_at, schema_size) + footer.packed()


def _page(page: Page, data: bytearray) -> bytes:
    offsets = b""
    for buffer in page.buffers:
        data += bytes(-len(data) % ALIGN)
        offsets += varint(len(data))
        data += buffer
    return (
        field(1, offsets)
        + field(2, b"".join(varint(len(buffer)) for buffer in page.buffers))
        + field(3, page.rows)
        + field(4, b"\x12\x03\x0a\x01x")
    )


def vectors(count: int, dimensions: int = 384, seed: int = 1) -> NDArray[np.float32]:
    """Rows of floats."""
    return np.random.default_rng(seed).standard_normal((count, dimensions), np.float32)


def table(rows: NDArray[np.float32], page: int, texts: bytes = b"") -> bytes:
    """A file of ``rows`` in pages of so many, beside a column whose pages hold ``texts``."""
    parts = [rows[at : at + page] for at in range(0, len(rows), page)]
    beside = [Page(len(part), [texts[number :: len(parts)]]) for number, part in enumerate(parts)]
    columns = [[Page(len(part), [part.tobytes()]) for part in parts]]
    return lance_file([beside, *columns] if texts else columns, f"fixed_size_list:float:{rows.shape[1]}")
