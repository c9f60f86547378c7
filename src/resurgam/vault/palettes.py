"""Floats that hold few distinct values: the form ``PALETTE`` of chunks (``codecs``, number 6).

What was quantised to 4 or 8 bits and widened again, as published weights often are, says one of 16 or 256 values in 2 or 4 bytes:
the same few in all of a tensor, or, where each row has a scale, its own few in each row. So a chunk is taken in blocks of 2^b
elements, and each block that holds up to 256 values becomes a table of these and a byte for each element. Where rows do not end
with blocks, some blocks hold too many; those stay as they are.

Encoded, numbers little-endian, of n elements of w bytes (and a tail of raw length mod w bytes) in m = ceil(n / 2^b) blocks::

    offset    bytes       what
    --------  ----------  ---------------------------------------------------------------------------------
    0         1           w, 2 or 4
    1         1           b, at most 30
    2         2           zero
    4         4           the stored length of the tables
    8         4           the stored length of the places
    12        2 m         of each block how many values its table has, 1 to 256; 0 for a block that stays as it is
    12 + 2 m  see above   the tables one after the other: values as unsigned integers of w bytes, ascending in each
    then      see above   the places: of each element in a block with a table, one byte, which of its values it is
    then      to the end  the blocks that stay as they are, in order, then the tail

Tables and places are as they are where the stored length is their own, else a Zstandard frame of them, which is shorter.

Since tables ascend, the same step of a quantiser has about the same place in each of them, whatever the row's scale; so one Huffman
code (Zstandard without matching) serves all places of a chunk, and takes less than 4 or 8 bits where the weights are bell-shaped.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.vault.frames import Buffer, Plane, decompressed, mine, refuse

MOST = 256  # values that a table can have
_HEAD = struct.Struct("<BBHII")
_BITS = (30, 12, 10, 7)  # sizes of blocks that are tried; smaller ones would be more table than places
_SAMPLE = 512  # elements; of trained weights they hold some 400 values, of int8 some 150
_LONG_SAMPLE = 16 << 10
_WORTH = 0.62  # of trained weights in bfloat16 planes leave 0.66

_PLACES, _NOWHERE = np.arange(MOST, dtype=np.uint8), np.empty(0, np.uint8)

Values = NDArray[np.unsignedinteger[Any]]


class _Coded(NamedTuple):
    """A block: its values in ascending order, and of each element which it is; or, where it has too many, itself."""

    table: Values
    places: Plane
    kept: Values


def encode(raw: memoryview, width: int) -> bytes | None:
    """``raw`` as PALETTE of elements of ``width`` bytes; None where a sample says that little would be gained."""
    elements = np.frombuffer(raw, f"<u{width}", len(raw) // width)
    bits = _block_bits(elements)
    if bits is None:
        return None
    coded = [_coded(block) for block in _blocks(elements, bits)]
    counts = np.array([len(one.table) for one in coded], "<u2").tobytes()
    tables = b"".join([one.table.tobytes() for one in coded])
    places = b"".join([one.places.tobytes() for one in coded])
    stored = [_shorter(mine.level(1).compress(tables), tables), _shorter(mine.entropy.compress(places), places)]
    head = _HEAD.pack(width, bits, 0, *map(len, stored))
    kept = [one.kept.tobytes() for one in coded]
    return b"".join([head, counts, *stored, *kept, raw[elements.nbytes :]])


def decode_into(encoded: memoryview, raw: Plane) -> None:
    """Fill ``raw``, which has the raw length. Raises IntegrityError where ``encoded`` is no such form of so many bytes."""
    if len(encoded) < _HEAD.size:
        refuse("a palette is cut off")
    width, bits, zero, tables_stored, places_stored = _HEAD.unpack_from(encoded)
    if width not in (2, 4) or bits > max(_BITS) or zero:
        refuse("it is no palette of this format")
    elements = raw[: len(raw) // width * width].view(f"<u{width}")
    at = _HEAD.size + 2 * -(-len(elements) >> bits)
    if at > len(encoded):
        refuse("a palette is cut off")
    blocks = _blocks(elements, bits)
    counts = np.frombuffer(encoded[_HEAD.size : at], "<u2").tolist()
    if max(counts, default=0) > MOST:
        refuse("a palette has too many values")
    coded = sum(len(block) for block, count in zip(blocks, counts, strict=True) if count)
    if sum(counts) > coded:
        refuse("a palette has more values than elements")
    tables = np.frombuffer(_stored(encoded, at, tables_stored, width * sum(counts)), f"<u{width}")
    places = np.frombuffer(_stored(encoded, at + tables_stored, places_stored, coded), np.uint8)
    rest = encoded[at + tables_stored + places_stored :]
    if len(rest) != len(raw) - width * coded:
        refuse("a palette does not add up to its length")
    first = place = taken = 0
    for block, count in zip(blocks, counts, strict=True):
        if count:
            chosen = places[place : place + len(block)]
            if chosen.max() >= count:
                refuse("a palette has no such value")
            np.take(tables[first : first + count], chosen, out=block)
            first, place = first + count, place + len(block)
        else:
            block[:] = np.frombuffer(rest[taken : taken + block.nbytes], block.dtype)
            taken += block.nbytes
    raw[elements.nbytes :] = np.frombuffer(rest[taken:], np.uint8)


def _block_bits(elements: Values) -> int | None:
    """The size of blocks at which a sample takes the fewest bytes; None where it holds too many values, or one alone."""
    middle = len(elements) // 2
    if not 1 < len(np.unique(elements[middle : middle + _SAMPLE])) <= MOST:
        return None
    start = max(0, middle - _LONG_SAMPLE // 2) >> 12 << 12  # blocks begin where those of all elements do
    sample = elements[start : start + _LONG_SAMPLE]
    costs = {bits: _cost([_coded(block) for block in _blocks(sample, bits)]) for bits in _BITS}
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] < sample.nbytes * _WORTH else None


def _cost(coded: list[_Coded]) -> float:
    """Bytes that some blocks will take, by the entropy of their places."""
    often = np.bincount(np.concatenate([one.places for one in coded]))
    often = often[often > 0]
    places = float((often * np.log2(often.sum() / often)).sum()) / 8
    return places + sum(one.table.nbytes + one.kept.nbytes + 2 for one in coded)


def _blocks(elements: Values, bits: int) -> list[Values]:
    return [elements[start : start + (1 << bits)] for start in range(0, len(elements), 1 << bits)]


def _coded(block: Values) -> _Coded:
    ordered = np.sort(block)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    table = ordered[first]
    if len(table) > MOST:
        return _Coded(block[:0], _NOWHERE, block)
    if block.itemsize > 2:
        return _Coded(table, table.searchsorted(block).astype(np.uint8), block[:0])
    which = mine.scratch("which", 1 << 16)
    which[table] = _PLACES[: len(table)]
    return _Coded(table, which[block], block[:0])


def _shorter(frame: bytes, plain: Buffer | Plane) -> bytes:
    return frame if 0 < len(frame) < len(plain) else bytes(plain)


def _stored(encoded: memoryview, at: int, stored: int, length: int) -> Buffer:
    part = encoded[at : at + stored]
    if len(part) != stored or stored > length:
        refuse("a part of a palette is not as long as it says")
    return part if stored == length else decompressed(part, length)
