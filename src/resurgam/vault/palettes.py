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

_PLACES = np.arange(MOST, dtype=np.uint8)
_FEW, _LONG_ROW = 32, 1024  # of blocks with so few values and no longer than this, many are compared at once
_FACTORS = (
    1,
    0x9E3779B1,
    0x85EBCA6B,
    0xC2B2AE35,
    0x27D4EB2F,
)  # a value of 4 bytes times one of these, in its upper half

Values = NDArray[np.unsignedinteger[Any]]


class _Coded(NamedTuple):
    """Some blocks: of each how many values it has, 0 where too many; those values in ascending order; of each element which it is;
    and the blocks that have too many, as they are."""

    counts: NDArray[np.intp]
    tables: Values
    places: Plane
    kept: Values


def encode(raw: memoryview, width: int) -> bytes | None:
    """``raw`` as PALETTE of elements of ``width`` bytes; None where a sample says that little would be gained."""
    elements = np.frombuffer(raw, f"<u{width}", len(raw) // width)
    bits = _block_bits(elements)
    if bits is None:
        return None
    coded = [_coded(rows) for rows in _rows(elements, bits)]
    counts = b"".join([one.counts.astype("<u2").tobytes() for one in coded])
    tables = b"".join([one.tables.tobytes() for one in coded])
    places = b"".join([one.places.tobytes() for one in coded])
    level = 6 if bits == _BITS[-1] else 1  # of blocks so short, tables are a ninth of all
    stored = [_shorter(mine.level(level).compress(tables), tables), _shorter(mine.entropy.compress(places), places)]
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
    if not 1 < _distinct(elements[middle : middle + _SAMPLE]) <= MOST:
        return None
    start = max(0, middle - _LONG_SAMPLE // 2) >> 12 << 12  # blocks begin where those of all elements do
    sample = elements[start : start + _LONG_SAMPLE]
    costs = {bits: _cost(_rows(sample, bits)) for bits in _BITS}
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] < sample.nbytes * _WORTH else None


def _distinct(values: Values) -> int:
    """How many there are; np.unique takes five times as long for so few."""
    ordered = np.sort(values)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + min(len(values), 1)


def _cost(parts: list[Values]) -> float:
    """Bytes that some blocks will take, by the entropy of their places."""
    often = np.zeros(MOST)
    size = 0
    for rows in parts:
        _, firsts, counts = _ordered(rows)
        fits = counts <= MOST
        some = np.repeat(fits, counts)
        ranks = np.arange(len(firsts)) - np.repeat(np.cumsum(counts) - counts, counts)
        often += np.bincount(ranks[some], np.diff(firsts, append=rows.size)[some], MOST)
        size += int(counts[fits].sum()) * rows.itemsize + rows[~fits].nbytes + 2 * len(rows)
    often = often[often > 0]
    return float((often * np.log2(often.sum() / often)).sum()) / 8 + size


def _rows(elements: Values, bits: int) -> list[Values]:
    """The blocks, as rows: those of full length, and one that is shorter."""
    length = min(1 << bits, max(len(elements), 1))
    whole = len(elements) // length * length
    return [part for part in (elements[:whole].reshape(-1, length), elements[whole:].reshape(1, -1)) if part.size]


def _blocks(elements: Values, bits: int) -> list[Values]:
    return [elements[start : start + (1 << bits)] for start in range(0, len(elements), 1 << bits)]


def _ordered(rows: Values) -> tuple[Values, NDArray[np.intp], NDArray[np.intp]]:
    """The elements of all blocks one after the other, each block in ascending order; the numbers of those that come for the first
    time in their block; and how many these are in each."""
    ordered = np.sort(rows, axis=1)
    first = np.ones(rows.shape, np.bool_)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=first[:, 1:])
    firsts = np.flatnonzero(first)
    ends = firsts.searchsorted(np.arange(1, len(rows) + 1) * rows.shape[1])
    return ordered.ravel(), firsts, np.diff(ends, prepend=0)


def _coded(rows: Values) -> _Coded:
    ordered, firsts, counts = _ordered(rows)
    fits = counts <= MOST
    kept = rows[~fits]
    if len(kept):
        rows, firsts = rows[fits], firsts[np.repeat(fits, counts)]
    tables = ordered[firsts]
    places = np.zeros(rows.shape, np.uint8)
    if len(rows) > 1 and rows.shape[1] <= _LONG_ROW and counts[fits].max() <= _FEW:
        _compare(rows, tables, counts[fits], places)
    else:
        ends = np.cumsum(counts[fits]).tolist()
        for row, start, end, out in zip(rows, [0, *ends], ends, places, strict=False):
            _look_up(row, tables[start:end], out)
    return _Coded(np.where(fits, counts, 0), tables, places.ravel(), kept.ravel())


def _compare(rows: Values, tables: Values, counts: NDArray[np.intp], places: Plane) -> None:
    """Fill ``places`` of many short blocks with few values, all at once: as often as a value is larger than one of its table."""
    starts = np.cumsum(counts) - counts
    larger = np.empty(rows.shape, np.bool_)
    for step in range(int(counts.max()) - 1):
        there = step < counts
        least = np.where(there, tables[np.where(there, starts + step, 0)], np.iinfo(rows.dtype).max)
        np.greater(rows, least[:, None].astype(rows.dtype), out=larger)
        np.add(places, larger.view(np.uint8), out=places)


def _look_up(row: Values, table: Values, out: Plane) -> None:
    """Fill ``out`` with the places of one block, through 16 bits of each value that tell those of its table apart."""
    factor = 1 if row.itemsize == 2 else next((one for one in _FACTORS if _apart(_slots(table, one))), None)
    if factor is None:
        out[:] = table.searchsorted(row)
        return
    which = mine.scratch("which", 1 << 16)
    which[_slots(table, factor)] = _PLACES[: len(table)]
    np.take(which, _slots(row, factor), out=out, mode="clip")


def _slots(values: Values, factor: int) -> Values:
    if values.itemsize == 2:
        return values
    slots: Values = (values * np.uint32(factor) >> 16).astype(np.uint16)
    return slots


def _apart(slots: Values) -> bool:
    return len(np.unique(slots)) == len(slots)


def _shorter(frame: bytes, plain: Buffer | Plane) -> bytes:
    return frame if 0 < len(frame) < len(plain) else bytes(plain)


def _stored(encoded: memoryview, at: int, stored: int, length: int) -> Buffer:
    part = encoded[at : at + stored]
    if len(part) != stored or stored > length:
        refuse("a part of a palette is not as long as it says")
    return part if stored == length else decompressed(part, length)
