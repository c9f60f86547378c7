"""Chunks to fewer bytes and back. Numbers and layouts are final: later releases add numbers and never change bytes.

    number  name         encoded form
    ------  -----------  -----------------------------------------------------------------------------
    0       RAW          the raw bytes
    1       ZSTD         one Zstandard frame (RFC 8878) of the raw bytes
    2       BF16_PLANES  planes, 2 bytes an element: bfloat16
    3       F32_PLANES   planes, 4 bytes an element: IEEE 754 binary32
    4       F16_PLANES   planes, 2 bytes an element: IEEE 754 binary16; same layout as 2
    5       BLOCKS       blocks of 256 bytes, some as they are, all others in one Zstandard frame
    6       PALETTE      blocks of elements of 2 or 4 bytes, each with a table of its few values; see ``palettes``

A Zstandard frame MUST carry its content size and be the last thing in its place (a reader sizes its buffer by it, and refuses
to expand further); it needs no dictionary and no checksum. Any encoded form but RAW MUST be shorter than the raw bytes.

Planes. The raw bytes are n little-endian elements of w bytes and a tail of raw length mod w bytes. With ``top`` the upper 16
bits of an element (all of it for w = 2)::

    plane  bytes  per element
    -----  -----  ---------------------------------------------------------------------------
    0      n      bits 7..14 of top: the exponent (of binary16, the exponent and 3 bits of the mantissa)
    1      n      bit 15 of top (the sign) in bit 7, bits 0..6 of top in bits 0..6
    2      2 n    the lower 16 bits, little-endian; only for w = 4

    offset      bytes       what
    ----------  ----------  -----------------------------------------------------------------------
    0           4 p         the stored length of each of the p planes (2 or 3), 32 bits, little-endian
    4 p         their sum   the stored planes in order: a plane itself where its stored length is its own length,
                            else a Zstandard frame of it, which is shorter
    then        tail        the tail as it is

Why: the exponents of trained weights and embeddings take some 2.6 bits of 8, all other bits are noise. Huffman coding of the
exponents alone reaches that, so the plane goes through Zstandard with its matching turned off, and the noise goes nowhere.

Blocks. The raw bytes are n blocks of 256 bytes and a tail of raw length mod 256 bytes::

    offset      bytes            what
    ----------  ---------------  -----------------------------------------------------------------------
    0           (n + 7) div 8    bit i mod 8 (the lowest is 0) of byte i div 8: whether block i stands as it is; no other bit is set
    then        256 per set bit  those blocks in order
    then        to the end       a Zstandard frame of all other blocks in order, and of the tail

Why, and how blocks are told apart: ``blocks``.

Which codec: the smallest of those worth trying, tried on samples first. How hard Zstandard tries is the manifest's to say
(``vault.compression``; docs/adr/0026-compression.md) and leaves no trace but length. A codec never makes a chunk larger, and
what does not compress costs a few microseconds. All heavy work lets go of the GIL; contexts belong to the thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from resurgam.errors import IntegrityError, NewerFormat
from resurgam.model.system import Compression
from resurgam.vault import blocks, palettes, planes
from resurgam.vault.frames import SHRINKS, Buffer, Plane, decompressed, mine, refuse, samples_shrink
from resurgam.vault.tensors import Dtype

PROBED = 256 << 10  # shorter chunks are simply tried: probing pieces of 64 KiB cost a tenth of the speed
SAMPLES = 8  # spread over a chunk; 2 of them lost 3 % of all savings on mixed files, 8 lose 0.3 %
REPEATS = 0.6  # floats that zstd alone brings below this hold repeated values: see whether it beats the planes


class Codec(IntEnum):
    """The numbers of the format; see the module's docstring."""

    RAW = 0
    ZSTD = 1
    BF16_PLANES = 2
    F32_PLANES = 3
    F16_PLANES = 4
    BLOCKS = 5
    PALETTE = 6


class Levels(NamedTuple):
    """The levels of zstd for database pages, and for all other contents that it may shrink."""

    contents: int
    pages: int


# Contents: 1 is 1.3 to 1.6 times as fast as 3, and stores 3 to 11 % more; 8 takes 4 times as long and stores 3 to 14 % less. Pages:
# 3 stores 1 to 5 % less than 1, 8 up to 13 %. Beyond that speeds fall to a few MB a second (docs/adr/0026-compression.md).
LEVELS: dict[str, Levels] = {
    Compression.FAST: Levels(1, 1),
    Compression.BALANCED: Levels(3, 1),
    Compression.SMALL: Levels(8, 8),
}
BALANCED = LEVELS[Compression.BALANCED]


class Encoded(NamedTuple):
    """What is to be stored. ``exact`` is False where an encoder or decoder failed its own check and RAW was taken instead:
    nothing is lost, but this machine or a library miscomputes, and somebody should be told."""

    codec: Codec
    data: Buffer
    exact: bool


_LAST = max(Codec)  # once: it goes through all of them
_PLANES = {Dtype.BF16: Codec.BF16_PLANES, Dtype.F16: Codec.F16_PLANES, Dtype.F32: Codec.F32_PLANES}
_PAGE = {False: Codec.ZSTD, True: Codec.BLOCKS}  # by whether noise stands apart
_WIDTH = {Codec.BF16_PLANES: 2, Codec.F16_PLANES: 2, Codec.F32_PLANES: 4}


def encode(raw: memoryview, dtype: Dtype, levels: Levels = BALANCED) -> tuple[Codec, Buffer]:
    """The smallest form of ``raw`` among those worth trying for ``dtype``; RAW (``raw`` itself, no copy) where none is smaller.
    Good until this thread encodes again.

    Any ``dtype`` and any length come back exactly; a wrong hint costs compression only.
    """
    raw = raw.cast("B")
    if dtype is Dtype.PAGES and raw:
        (coded,) = blocks.encoded(raw, len(raw), levels.pages)
        return (_PAGE[coded.apart], coded.data) if len(coded.data) < len(raw) else (Codec.RAW, raw)
    best: tuple[Codec, Buffer] = (Codec.RAW, raw)
    for codec, encoded in _candidates(raw, dtype, levels.contents):
        if len(encoded) < len(best[1]):
            best = (codec, encoded)
    return best


def encode_verified(raw: memoryview, dtype: Dtype, levels: Levels = BALANCED) -> Encoded:
    """As ``encode``, then decoded and compared: what is handed out for storing is known to come back exactly (P12)."""
    codec, data = encode(raw, dtype, levels)
    if codec is Codec.RAW:
        return Encoded(codec, data, exact=True)
    try:
        exact = _comes_back(codec, memoryview(data), raw.cast("B"))
    except IntegrityError:
        exact = False
    return Encoded(codec, data, exact=True) if exact else Encoded(Codec.RAW, raw, exact=False)


def _comes_back(codec: Codec, encoded: memoryview, raw: memoryview) -> bool:
    if codec in _WIDTH:
        return planes.comes_back(encoded, raw, _WIDTH[codec])
    return _equal(raw, _decode(codec, encoded, len(raw), mine.back))


def encode_pages(span: memoryview, length: int, levels: Levels = BALANCED) -> list[Encoded]:
    """As ``encode_verified`` of each piece of ``length`` bytes, of which ``span`` of database pages consists. Where there are
    several, ``length`` is a multiple of ``blocks.BLOCK``."""
    pieces = [span[at : at + length] for at in range(0, len(span), length)]
    coded = blocks.encoded(span, length, levels.pages) if pieces else []
    try:
        exact = blocks.come_back(coded, span, length)
    except IntegrityError:  # which of them, is found one by one
        return [encode_verified(piece, Dtype.PAGES, levels) for piece in pieces]
    return [
        Encoded(_PAGE[one.apart], one.data, exact=True)
        if right and len(one.data) < length
        else Encoded(Codec.RAW, piece, exact=right)
        for piece, one, right in zip(pieces, coded, exact, strict=True)
    ]


def decode(
    codec: int, encoded: Buffer, raw_length: int, *, lasting: bool = True, into: memoryview | None = None
) -> Buffer:
    """The ``raw_length`` bytes that ``encoded`` stands for; allocates a small multiple of that at most.

    Raises NewerFormat for a codec that this release does not know, IntegrityError where the bytes are not such an encoded
    form of exactly that length. RAW is returned as it is, without a copy. What is not ``lasting`` is good until this thread
    encodes or decodes again. What would be made in memory of its own is made in ``into``, of ``raw_length``
    bytes, where that is given.
    """
    room = _fresh if lasting else mine.back
    if into is None:
        return _decode(codec, memoryview(encoded).cast("B"), raw_length, room)
    made = np.frombuffer(into, np.uint8)
    data = _decode(codec, memoryview(encoded).cast("B"), raw_length, lambda _: made)
    return into if getattr(data, "obj", None) is made else data


def _decode(codec: int, encoded: memoryview, raw_length: int, room: Callable[[int], Plane]) -> Buffer:
    """As ``decode``; ``room`` gives the memory into which planes are joined."""
    if codec == Codec.RAW:
        if len(encoded) != raw_length:
            refuse("its length is not the raw length")
        return encoded
    if not 0 <= codec <= _LAST:
        raise NewerFormat(
            f"A chunk is stored with codec {codec}; this release knows 0 to {_LAST}.",
            untouched="Nothing was changed.",
            next_step="Upgrade Resurgam and run the same command again.",
        )
    if len(encoded) >= raw_length:
        refuse("an encoded form is shorter than its raw bytes")
    if codec == Codec.ZSTD:
        return decompressed(encoded, raw_length)
    raw = room(raw_length)
    if codec == Codec.BLOCKS:
        blocks.decode_into(encoded, raw)
    elif codec == Codec.PALETTE:
        palettes.decode_into(encoded, raw)
    else:
        planes.decode_into(encoded, raw, _WIDTH[Codec(codec)])
    return raw.data


def _candidates(raw: memoryview, dtype: Dtype, level: int) -> Iterator[tuple[Codec, Buffer]]:
    if dtype in _PLANES:
        codec = _PLANES[dtype]
        if (few := palettes.encode(raw, _WIDTH[codec])) is not None:
            yield Codec.PALETTE, few
            if not samples_shrink(raw, SAMPLES, len(few) / len(raw)):
                return
        apart = planes.encode(raw, _WIDTH[codec], level)
        yield codec, apart.data
        if apart.noise or not samples_shrink(raw, planes.SAMPLES, REPEATS):
            return
    elif (dtype is Dtype.PACKED or len(raw) >= PROBED) and not samples_shrink(raw, SAMPLES, SHRINKS):
        return
    yield Codec.ZSTD, mine.level(level).compress(raw)


def _equal(raw: memoryview, back: Buffer) -> bool:
    """Whether two buffers hold the same bytes."""
    return raw.nbytes == len(back) and planes.same(np.frombuffer(raw, np.uint8), np.frombuffer(back, np.uint8))


def _fresh(length: int) -> Plane:
    return np.empty(length, np.uint8)
