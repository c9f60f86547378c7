"""Floating-point numbers as planes: codecs 2, 3 and 4, whose bytes ``codecs`` describes. From 1 MiB of weights to its planes:

    elements --> exponents --> Huffman's coding --> [ lengths | frame |                       ]
             --> signs and mantissas --> a sample says: noise --> [ ... | as they are | ...   ]   where they belong

All of it lies in memory that a thread uses again and again, and each plane is made in its place: where memory is slow and new
memory dear, a copy costs as much as the coding. What is no noise (repeated values, zeros) is coded plane by plane instead, with
matching; that is rare, and may take its time.

Steps by steps of numpy: ``out=`` with ``casting="unsafe"`` keeps the low bits of each result.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.vault.frames import SHRINKS, Buffer, Plane, mine, refuse, samples_shrink
from resurgam.vault.huffman import coder

SAMPLES = 2  # a plane of one tensor is alike throughout
# Bytes that are looked at together. A quarter of that would stay in a processor's cache, and takes a tenth less time in one
# thread; in two it takes more, since each call lets go of the GIL, and has to wait for it.
_STEP = 1 << 20
_SPARE = 64 << 10  # more than the lengths, and what a frame that does not shrink is longer than its plane

Words = NDArray[np.uint16]
Elements = NDArray[Any]  # of 16 or 32 bits


class Coded(NamedTuple):
    """An encoded form, good until this thread encodes again; ``noise``: nothing but the exponents is to be had."""

    data: Buffer
    noise: bool


def encode(raw: memoryview, width: int, level: int) -> Coded:
    """``raw`` as planes of elements of ``width`` bytes. ``level`` is zstd's for planes that shrink."""
    elements = np.frombuffer(raw, f"<u{width}", len(raw) // width)
    count = len(elements)
    top = _top(elements)
    exponents = mine.scratch("exponents", count)
    np.right_shift(top, 7, out=exponents, casting="unsafe")
    lengths = [0, count, 2 * count][: width // 2 + 1]
    room = mine.encoded(len(raw) + _SPARE)
    head = 4 * len(lengths)
    lengths[0] = coder().compress_into(exponents, room[head:])
    if not 0 < lengths[0] < count:
        lengths[0] = count
        room[head : head + count] = exponents
    at = head + lengths[0]
    for fill, length in zip((partial(_rest, top), partial(_low, elements)), lengths[1:], strict=False):
        plane = room[at : at + length]
        fill(plane)
        if samples_shrink(plane.data, SAMPLES, SHRINKS):
            return Coded(_apart(raw, elements, exponents, level), noise=False)
        at += length
    tail = raw[elements.nbytes :]
    room[:head] = np.array(lengths, "<u4").view(np.uint8)
    room[at : at + len(tail)] = np.frombuffer(tail, np.uint8)
    return Coded(room[: at + len(tail)].data, noise=True)


def decode_into(encoded: memoryview, raw: Plane, width: int) -> None:
    """Fill ``raw``, which has the raw length. Raises IntegrityError where ``encoded`` is no such form of so many bytes."""
    planes, tail = _planes(encoded, len(raw), width)
    whole = len(raw) - len(tail)
    for step, part in _steps(planes, width):
        _join(part, raw[:whole][step], width)
    raw[whole:] = np.frombuffer(tail, np.uint8)


def comes_back(encoded: memoryview, raw: memoryview, width: int) -> bool:
    """Whether ``encoded`` stands for ``raw``, decoded and compared step by step. Raises IntegrityError as ``decode_into``."""
    planes, tail = _planes(encoded, len(raw), width)
    there = np.frombuffer(raw, np.uint8, len(raw) - len(tail))
    for step, part in _steps(planes, width):
        back = mine.scratch("back", len(there[step]))
        _join(part, back, width)
        if not same(there[step], back):
            return False
    return bool(raw[len(there) :] == tail)


def same(one: Plane, other: Plane) -> bool:
    """Whether two arrays of one length hold the same bytes, eight at a time and without the GIL."""
    words = len(one) & ~7
    return bool(
        np.array_equal(one[:words].view(np.uint64), other[:words].view(np.uint64))
        and np.array_equal(one[words:], other[words:])
    )


def _apart(raw: memoryview, elements: Elements, exponents: Plane, level: int) -> bytes:
    """The encoded form of elements, each plane as short as it gets."""
    count, top = len(elements), _top(elements)
    planes = [exponents, mine.scratch("rest", count)]
    _rest(top, planes[1])
    if elements.itemsize == 4:
        planes.append(mine.scratch("low", 2 * count))
        _low(elements, planes[2])
    stored: list[Buffer] = []
    for number, plane in enumerate(planes):
        frame = b""
        if number == 0:
            frame = mine.entropy.compress(plane.data)
        elif samples_shrink(plane.data, SAMPLES, SHRINKS):
            frame = mine.level(level).compress(plane.data)
        stored.append(frame if 0 < len(frame) < len(plane) else plane.data)
    header = [len(part).to_bytes(4, "little") for part in stored]
    return b"".join([*header, *stored, raw[elements.nbytes :]])


def _planes(encoded: memoryview, length: int, width: int) -> tuple[list[Plane], memoryview]:
    """The planes in full, and the tail, of what stands for ``length`` bytes."""
    count = length // width
    lengths = [count, count, 2 * count][: width // 2 + 1]
    at = 4 * len(lengths)
    header = encoded[:at]
    stored = [int.from_bytes(header[place : place + 4], "little") for place in range(0, at, 4)]
    if at + sum(stored) + length - count * width != len(encoded):
        refuse("its planes do not add up to its length")
    planes = []
    for number, (have, whole) in enumerate(zip(stored, lengths, strict=True)):
        if have > whole:
            refuse("a stored plane is longer than the plane")
        plane = np.frombuffer(encoded, np.uint8, have, at)
        if have < whole:
            plane = mine.scratch(f"opened {number}", whole)
            coder().decompress_into(encoded[at : at + have], plane)
        planes.append(plane)
        at += have
    return planes, encoded[at:]


def _steps(planes: list[Plane], width: int) -> Iterator[tuple[slice, list[Plane]]]:
    """Where in the raw bytes each step lies, and what it is joined from."""
    size = _STEP // width
    for low in range(0, len(planes[0]), size):
        high = min(low + size, len(planes[0]))
        one, two = slice(low, high), slice(2 * low, 2 * high)
        yield slice(width * low, width * high), [planes[0][one], planes[1][one], *(low[two] for low in planes[2:])]


def _top(elements: Elements) -> Words:
    """The upper 16 bits of each."""
    if elements.itemsize == 2:
        return elements
    top = mine.scratch("top", 2 * len(elements)).view("<u2")
    np.right_shift(elements, 16, out=top, casting="unsafe")
    return top


def _rest(top: Words, out: Plane) -> None:
    """Sign and mantissa, s and m: of 256 x + x, where x is s0000000 0mmmmmmm, the upper byte is smmmmmmm."""
    size = _STEP // 2
    some = mine.scratch("some", _STEP).view("<u2")
    for low in range(0, len(top), size):
        part = top[low : low + size]
        words = some[: len(part)]
        np.bitwise_and(part, 0x807F, out=words)
        np.multiply(words, 257, out=words)
        np.right_shift(words, 8, out=out[low : low + size], casting="unsafe")


def _low(elements: Elements, out: Plane) -> None:
    np.copyto(out.view("<u2"), elements, casting="unsafe")


def _join(planes: list[Plane], out: Plane, width: int) -> None:
    """The inverse of all that: fills ``out``, a step of whole elements."""
    exponents, rest = planes[:2]
    elements = out.view(f"<u{width}")
    top = elements if width == 2 else mine.scratch("joined", _STEP // 2).view("<u2")[: len(rest)]
    some = mine.scratch("some", _STEP).view("<u2")[: len(rest)]
    np.copyto(top, rest.view(np.int8), casting="unsafe")  # copies the sign into the whole upper byte
    np.bitwise_and(top, 0x807F, out=top)
    np.multiply(exponents, 128, out=some, dtype=np.uint16, casting="unsafe")
    np.bitwise_or(top, some, out=top)
    if width == 4:
        np.left_shift(top, 16, out=elements, dtype=np.uint32, casting="unsafe")
        np.bitwise_or(elements, planes[2].view("<u2"), out=elements)
