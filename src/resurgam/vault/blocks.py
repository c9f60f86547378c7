"""Database pages in blocks: noise as it is, all else in a frame (codec 5, whose layout stands in ``codecs``).

A row of a database is often text beside a vector. One frame over both finds nothing in the vector, and codes its bytes with the
text's. Half of the bytes of noise have their highest bit set, of text in any one alphabet few or nearly all: blocks are told apart
by counting.

Many pieces are coded by one call for each step. A thread that lets go of the interpreter's lock waits for it longer than coding
64 KiB takes: two threads that let go of it a dozen times for each piece worked in turn (docs/adr/0016).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.vault.frames import Buffer, Plane, compressed, decompressed, expanded, mine, refuse

BLOCK = 256  # shorter ones find more of a vector of 1,536 bytes, and cost more to count; 512 store 1.5 % more
COUNTED = 4  # every so manyth word of a block; to count all of them stores as much, and takes four times as long
NOISE = (16, 48)  # of 64 counted bytes, those with the highest bit set in noise: 32, give or take 4 (one deviation)
SAMPLE = 4  # blocks of what looks like noise
TEXT_AFTER_ALL = 0.85  # what a sample of floats shrinks to is 0.92 and more, of two alphabets in turn 0.5
_BLOCK = np.dtype(("V", BLOCK))
_HIGHEST, _ONES = np.uint64(0x8080_8080_8080_8080), np.uint64(0x0101_0101_0101_0101)
assert BLOCK // COUNTED == 64, "eight words of a block are counted"

Which = NDArray[np.bool_]
_WHOLE = np.zeros(0, np.bool_), 0  # the map of what is one frame


class Coded(NamedTuple):
    """A piece's encoded form; or, where its blocks are not ``apart``, one frame of all of it."""

    apart: bool
    data: Buffer


def encoded(span: memoryview, length: int, level: int) -> list[Coded]:
    """Each piece of ``length`` bytes, of which ``span`` consists, by that ``level`` of zstd. Where there are several, ``length`` is
    a multiple of BLOCK."""
    count, blocks = len(span) // length, length // BLOCK
    noise = _noise(span[: count * blocks * BLOCK]).reshape(count, blocks)
    every = np.frombuffer(span, _BLOCK, count * blocks)
    kept, others = _pieces("kept", every, noise), _pieces("others", every, ~noise)
    others[-1] = _with_tail(others[-1], span[count * blocks * BLOCK :])
    maps = np.packbits(noise, axis=1, bitorder="little")
    apart = _are_noise(kept)
    sources = [others[n] if apart[n] else span[n * length : (n + 1) * length] for n in range(count)]
    return [
        Coded(apart[n], b"".join((maps[n].data, kept[n], frame)) if apart[n] else frame)
        for n, frame in enumerate(compressed(level, sources))
    ]


def come_back(coded: Sequence[Coded], span: memoryview, length: int) -> list[bool]:
    """Whether each of ``coded`` decodes to its piece of ``span``. Raises IntegrityError where one does not decode."""
    maps = [map_of(memoryview(data), length) if apart else _WHOLE for apart, data in coded]
    frames = [memoryview(one.data)[end:] for one, (_, end) in zip(coded, maps, strict=True)]
    contents = expanded(frames, [length - _kept(noise, end) for noise, end in maps])
    pieces = (span[at : at + length] for at in range(0, len(span), length))
    return [
        _is(piece, one, content, noise, end)
        for piece, one, content, (noise, end) in zip(pieces, coded, contents, maps, strict=True)
    ]


def decode_into(encoded: memoryview, raw: Plane) -> None:
    """Fill ``raw``, which has the raw length. Raises IntegrityError."""
    noise, end = map_of(encoded, len(raw))
    rest = decompressed(encoded[end:], len(raw) - _kept(noise, end))
    _merge(noise, encoded[:end], rest, raw)


def map_of(encoded: memoryview, length: int) -> tuple[Which, int]:
    """Which blocks of ``length`` raw bytes stand as they are, and where they end in ``encoded``. Raises IntegrityError."""
    count = length // BLOCK
    start = -(-count // 8)
    bits = int.from_bytes(encoded[:start], "little")
    if len(encoded) < start or bits >> count:
        refuse("its map of blocks does not fit its length")
    end = start + BLOCK * bits.bit_count()
    if end >= len(encoded):
        refuse("its blocks end early")
    return np.unpackbits(np.frombuffer(encoded, np.uint8, start), count=count, bitorder="little").view(np.bool_), end


def _kept(noise: Which, end: int) -> int:
    """The bytes of the blocks that stand as they are and end there, behind the map of all."""
    return end - (len(noise) + 7) // 8


def _noise(blocks: memoryview) -> Which:
    """Which of some blocks look like noise."""
    words = np.frombuffer(blocks, np.uint64)[::COUNTED]
    bits = mine.scratch("bits", words.nbytes).view(np.uint64)
    np.bitwise_and(words, _HIGHEST, out=bits)
    high = _sums_of_eight(np.bitwise_count(bits))
    found: Which = (high > NOISE[0]) & (high < NOISE[1])
    return found


def _sums_of_eight(counts: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The sum of each eight neighbours, which is below 256: multiplied so, the highest byte of a word is the sum of all."""
    sums: NDArray[np.uint64] = counts.view(np.uint64) * _ONES >> np.uint64(56)
    return sums


def _pieces(use: str, blocks: NDArray[np.void], which: Which) -> list[memoryview]:
    """Those of ``blocks`` that ``which`` (a row for each piece) names, joined by pieces, in this thread's memory."""
    places = which.ravel().nonzero()[0]
    joined = mine.scratch(use, len(places) * BLOCK)
    np.take(blocks, places, out=joined.view(_BLOCK), mode="clip")
    ends = (np.cumsum(np.count_nonzero(which, axis=1)) * BLOCK).tolist()
    return [joined[start:end].data for start, end in pairwise([0, *ends])]


def _with_tail(others: memoryview, tail: memoryview) -> memoryview:
    return memoryview(b"".join((others, tail))) if tail else others


def _are_noise(kept: list[memoryview]) -> list[bool]:
    """Of each piece, whether it has blocks to keep, and some of them show that they are what they look like."""
    samples = [blocks[: SAMPLE * BLOCK] for blocks in kept]
    shrunk = compressed(1, samples)
    return [
        bool(sample) and len(frame) >= TEXT_AFTER_ALL * len(sample)
        for sample, frame in zip(samples, shrunk, strict=True)
    ]


def _is(raw: memoryview, one: Coded, content: Buffer, noise: Which, end: int) -> bool:
    """Whether ``one``, of which the frame holds ``content``, is ``raw``. Compared at once, which keeps the interpreter's lock."""
    back = mine.whole(len(raw))
    if one.apart:
        _merge(noise, memoryview(one.data)[:end], content, np.frombuffer(back, np.uint8))
    elif len(content) == len(raw):
        back[:] = content
    else:
        return False
    return back == raw


def _merge(noise: Which, kept: memoryview, rest: Buffer, raw: Plane) -> None:
    """Fill ``raw`` with the blocks of ``kept``, where they stand behind their map, and of ``rest``, which has the tail behind."""
    count, start = len(noise), (len(noise) + 7) // 8
    blocks, others = raw[: count * BLOCK].view(_BLOCK), count - (len(kept) - start) // BLOCK
    blocks[noise] = np.frombuffer(kept[start:], _BLOCK)
    blocks[~noise] = np.frombuffer(rest, _BLOCK, others)
    raw[count * BLOCK :] = np.frombuffer(rest, np.uint8, offset=others * BLOCK)
