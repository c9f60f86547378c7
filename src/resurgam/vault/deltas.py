"""Deltas: what turns one chunk into another of the same length, when both are numbers and few or little of them differ.

A fine-tune, the next checkpoint: the same tensors, and most elements moved by a few units in the last place. As integers of the
same bits, neighbours among floats are neighbours among integers, so the difference of the integers is small whatever the exponents
are (an XOR is not: it shows carries). It is folded so that small ones of either sign are small (zigzag: 0, -1, 1, -2 become 0, 1,
2, 3), and its bytes are parted by weight; the upper ones are then nearly all zero, and Huffman coding alone takes care of the rest.

A delta is a chunk of its own, named by its own bytes: whoever looks for the contents never finds it. The entry that uses it says
of what (``snapshots.Laid``), and which id must come out. Numbers are little-endian::

    offset  bytes  what
    ------  -----  ----------------------------------------------------------------------------
    0       1      format, 1
    1       1      coding: 1 all elements, 2 the changed ones
    2       1      w, the bytes of an element: 1, 2 or 4
    3       1      the number of streams s: w, or with coding 2 one more
    4       4      the length of the contents, which is the length of the base
    8       8 s    of each stream its length, and its stored length
    then           the streams: as they are where both lengths are equal, else one Zstandard frame each, which is shorter
    then    tail   the last (length mod w) bytes of the contents

With coding 1 the streams are the w planes of the differences of all elements; with coding 2 the gaps come first, then the planes of
the differences of those elements that differ. Plane i holds bits 8 i to 8 i + 7 of each difference, contents minus base modulo
2^(8 w), in zigzag. A gap is the number of elements left alone before the next changed one: each byte of 255 skips 255 elements; a
smaller byte skips so many, and the element after them has changed.

Which coding: the smaller one. Whether a delta is worth its base is for ``bases`` to say.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.errors import NewerFormat
from resurgam.vault.frames import Buffer, Plane, decompressed, mine, refuse
from resurgam.vault.tensors import Dtype

FORMAT = 1
WIDTHS = {Dtype.BYTES: 1, Dtype.BF16: 2, Dtype.F16: 2, Dtype.F32: 4}
_ALL, _CHANGED = 1, 2
_HEAD = struct.Struct("<BBBBI")
_STREAM = struct.Struct("<II")
_FEW = 0.6  # share of changed elements above which naming them has never been the smaller form
_SKIP = 255

Numbers = NDArray[np.unsignedinteger[Any]]


class Delta(NamedTuple):
    """A delta as it was read: how it makes so many bytes of as many."""

    coding: int
    width: int
    length: int
    streams: list[Buffer]
    tail: memoryview


def encode(raw: memoryview, base: memoryview, width: int) -> bytes:
    """The delta that makes ``raw``, elements of ``width`` bytes, of ``base``, which is as long."""
    assert len(raw) == len(base), "a delta is between chunks of one length"
    count = len(raw) // width
    difference = mine.scratch("difference", count * width).view(f"<u{width}")
    np.subtract(_numbers(raw, width), _numbers(base, width), out=difference)
    coding, streams = _ALL, _planes(difference)
    if np.count_nonzero(difference) <= _FEW * count:
        places = np.flatnonzero(difference)
        few = [_stream(_gaps(places)), *_planes(difference[places])]
        if sum(len(stored) for _, stored in few) < sum(len(stored) for _, stored in streams):
            coding, streams = _CHANGED, few
    head = _HEAD.pack(FORMAT, coding, width, len(streams), len(raw))
    lengths = [_STREAM.pack(length, len(stored)) for length, stored in streams]
    return b"".join([head, *lengths, *(stored for _, stored in streams), raw[count * width :]])


def read(document: Buffer, most: int) -> Delta:
    """The delta that ``document`` is, of contents of ``most`` bytes at most. Raises IntegrityError, NewerFormat. Allocates no more
    than the contents are long, and half as much again."""
    data = memoryview(document).cast("B")
    if len(data) < _HEAD.size:
        refuse("a delta is cut off")
    if data[0] > FORMAT:
        raise _newer(data[0])
    _, coding, width, count, length = _HEAD.unpack_from(data)
    if not data[0] or coding not in (_ALL, _CHANGED) or width not in (1, 2, 4) or count != width + (coding == _CHANGED):
        refuse("it is no delta of this format")
    if length > most:
        refuse("a delta is of longer contents than its base")
    at = _HEAD.size + count * _STREAM.size
    if at > len(data):
        refuse("a delta is cut off")
    streams: list[Buffer] = []
    for whole, stored in _STREAM.iter_unpack(data[_HEAD.size : at]):
        if stored > whole or whole > length // width:
            refuse("a stream of a delta is longer than it can be")
        part = data[at : at + stored]
        streams.append(part if stored == whole else decompressed(part, whole))
        at += stored
    if len(data) - at != length % width or any(len(plane) != len(streams[-1]) for plane in streams[-width:]):
        refuse("a delta does not add up to its length")
    return Delta(coding, width, length, streams, data[at:])


def apply(delta: Delta, base: memoryview, out: Plane) -> None:
    """Fill ``out`` with what ``delta`` makes of ``base``. Raises IntegrityError where it does not fit."""
    if len(base) != delta.length or len(out) != delta.length:
        refuse("a delta's base is not as long as its contents")
    width, old = delta.width, _numbers(base, delta.width)
    elements = out[: old.nbytes].view(f"<u{width}")
    difference = _joined(delta.streams[-width:], width)
    if delta.coding == _CHANGED:
        places = _places(np.frombuffer(delta.streams[0], np.uint8))
        if len(places) != len(difference) or (len(places) and places[-1] >= len(old)):
            refuse("a delta names elements that are not there")
        np.copyto(elements, old)
        elements[places] += difference
    elif len(difference) != len(old):
        refuse("a delta is of another length than its base")
    else:
        np.add(old, difference, out=elements)
    out[old.nbytes :] = np.frombuffer(delta.tail, np.uint8)


def room(length: int) -> Plane:
    """Memory for what a delta makes; good until this thread asks again."""
    return mine.scratch("made", length)


def _numbers(data: memoryview, width: int) -> Numbers:
    return np.frombuffer(data, f"<u{width}", len(data) // width)


def _planes(difference: Numbers) -> list[tuple[int, Buffer]]:
    """The planes of the differences, each with its length, as they are stored."""
    width, bits = difference.itemsize, 8 * difference.itemsize
    signed = difference.view(f"<i{width}")
    folded = mine.scratch("folded", difference.nbytes).view(signed.dtype)
    np.right_shift(signed, bits - 1, out=folded)
    doubled = mine.scratch("doubled", difference.nbytes).view(signed.dtype)
    np.left_shift(signed, 1, out=doubled)
    np.bitwise_xor(folded, doubled, out=folded)
    plane = mine.scratch("plane", len(difference))
    planes = []
    for number in range(width):
        np.right_shift(folded.view(difference.dtype), 8 * number, out=plane, casting="unsafe")
        planes.append(_stream(plane))
    return planes


def _joined(planes: list[Buffer], width: int) -> Numbers:
    """The inverse of ``_planes``."""
    kind = np.dtype(f"<u{width}")
    folded = np.zeros(len(planes[0]), kind)
    for number, plane in enumerate(planes):
        folded |= np.frombuffer(plane, np.uint8).astype(kind) << kind.type(8 * number)
    one = kind.type(1)
    whole: Numbers = (folded >> one) ^ (kind.type(0) - (folded & one))
    return whole


def _gaps(places: NDArray[np.intp]) -> Plane:
    """Ascending places as gaps; see the module's docstring."""
    gaps = np.diff(places, prepend=-1) - 1
    skips, rest = np.divmod(gaps, _SKIP)
    stream = np.full(len(gaps) + int(skips.sum()), _SKIP, np.uint8)
    stream[np.cumsum(skips + 1) - 1] = rest
    return stream


def _places(stream: Plane) -> NDArray[np.int64]:
    """The inverse of ``_gaps``."""
    ends = stream < _SKIP
    return (np.cumsum(stream, dtype=np.int64) + np.cumsum(ends) - 1)[ends]


def _stream(plain: Plane) -> tuple[int, Buffer]:
    """Its length, and what is stored of it; good for as long as anyone holds it."""
    frame = mine.entropy.compress(plain.data)
    return len(plain), frame if 0 < len(frame) < len(plain) else plain.tobytes()


def _newer(number: int) -> NewerFormat:
    return NewerFormat(
        f"A delta has format {number}; this release reads up to {FORMAT}.",
        untouched="Nothing was changed.",
        next_step="Upgrade Resurgam and run the same command again.",
    )
