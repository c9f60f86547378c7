"""Thrift's compact protocol, as far as finding numbers in it takes: who reads walks through fields, and skips what is not wanted.

Nothing is built in memory, and nothing is believed. Each step moves forward by a byte at least, lengths beyond the end and depths
beyond ``DEPTH`` are :class:`Malformed`, so hostile bytes cost no more time than they are long.

Format: "Thrift compact protocol", https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

DEPTH = 32
_VARINT = 63  # bits of the longest that is read: sizes and places are no longer
_LONG_LIST = 15


class Kind(IntEnum):
    """The types of fields and elements."""

    TRUE = 1
    FALSE = 2
    BYTE = 3
    I16 = 4
    I32 = 5
    I64 = 6
    DOUBLE = 7
    BINARY = 8
    LIST = 9
    SET = 10
    MAP = 11
    STRUCT = 12
    UUID = 13


_FIXED = {Kind.TRUE: 0, Kind.FALSE: 0, Kind.BYTE: 1, Kind.DOUBLE: 8, Kind.UUID: 16}
_VARINTS = frozenset({Kind.I16, Kind.I32, Kind.I64})


class Malformed(ValueError):
    """The bytes are no such structure, or end within it."""


class Compact:
    """A place in ``data``, from which values are read one after the other. Every method may raise Malformed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of the structure that begins here. Its value must be read, or skipped, before the next."""
        number = 0
        while header := self._byte():
            delta = header >> 4
            number = number + delta if delta else self.integer()
            yield number, header & 15

    def elements(self) -> tuple[int, int]:
        """How many elements the list has that begins here, and their type; they follow."""
        header = self._byte()
        count = header >> 4
        return self._varint() if count == _LONG_LIST else count, header & 15

    def integer(self) -> int:
        """A number of any width."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value of this type."""
        if kind in _VARINTS:
            self._varint()
        elif kind in _FIXED:
            self._pass(_FIXED[Kind(kind)])
        elif kind == Kind.BINARY:
            self._pass(self._varint())
        elif depth == DEPTH:
            raise Malformed("nested too deeply")
        elif kind == Kind.STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in (Kind.LIST, Kind.SET):
            count, inner = self.elements()
            for _ in range(count):
                self._skip_element(inner, depth)
        elif kind == Kind.MAP:
            self._skip_map(depth)
        else:
            raise Malformed(f"type {kind}")

    def _skip_map(self, depth: int) -> None:
        if count := self._varint():
            kinds = self._byte()
            for _ in range(count):
                self._skip_element(kinds >> 4, depth)
                self._skip_element(kinds & 15, depth)

    def _skip_element(self, kind: int, depth: int) -> None:
        """A boolean among others is a byte; as a field its type says it."""
        self.skip(Kind.BYTE if kind in (Kind.TRUE, Kind.FALSE) else kind, depth + 1)

    def _byte(self) -> int:
        if self.at >= len(self._data):
            raise Malformed("ends early")
        value = self._data[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while shift < _VARINT:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise Malformed("a number that is too long")

    def _pass(self, length: int) -> None:
        self.at += length
        if self.at > len(self._data):
            raise Malformed("ends early")
