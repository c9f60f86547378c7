"""Protocol Buffers' wire format, as far as finding numbers in it takes: fields one after the other, and nothing else.

Nothing is believed: each step moves forward by a byte at least, and what ends beyond the message is :class:`Malformed`, so hostile
bytes cost no more time than they are long. What lies in a message is told as bytes, for whoever knows that it is another one.

Format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
_LONGEST = 10  # bytes of a varint


class Malformed(ValueError):
    """The bytes are no such message, or end within it."""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of the message ``data``: an integer, or bytes. Raises Malformed."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        value: int | memoryview
        if kind == _VARINT:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == _LENGTH else (_FIXED.get(kind, len(data)), at)
            if size > len(data) - at:
                raise Malformed("a field that ends beyond its message")
            value = data[at : at + size]
            at += size
        yield key >> 3, value


def integers(value: int | memoryview) -> Iterator[int]:
    """Those of one occurrence of a repeated field: itself, or all that are packed in it. Raises Malformed."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for shift, byte in enumerate(data[at : at + _LONGEST]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise Malformed("a number without an end")
