"""Chunks to fewer bytes and back. Numbers and layouts are final: later releases add numbers and never change bytes.

    number  name         encoded form
    ------  -----------  -----------------------------------------------------------------------------
    0       RAW          the raw bytes
    1       ZSTD         one Zstandard frame (RFC 8878) of the raw bytes
    2       BF16_PLANES  planes, 2 bytes an element: bfloat16
    3       F32_PLANES   planes, 4 bytes an element: IEEE 754 binary32
    4       F16_PLANES   planes, 2 bytes an element: IEEE 754 binary16; same layout as 2
    5       BLOCKS       blocks of 256 bytes, some as they are, all others in one Zstandard frame

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

Why: a row of a database is often text beside a vector. One frame over both finds nothing in the vector, and codes its bytes with
the text's. Half of the bytes of noise have their highest bit set, of text in any one alphabet few or nearly all: blocks are told
apart by counting.

Which codec: the smallest of those worth trying, tried on samples first. A codec never makes a chunk larger, and what does
not compress costs a few microseconds. All heavy work lets go of the GIL; contexts belong to the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple, NoReturn

import numpy as np
import zstandard
from numpy.typing import NDArray

from resurgam.errors import IntegrityError, NewerFormat
from resurgam.vault.tensors import Dtype

Buffer = bytes | bytearray | memoryview
Plane = NDArray[np.uint8]

LEVEL = 3  # of zstd; 1 is 1.3 to 1.4 times as fast and stores 5 to 8 % more of text
PAGES_LEVEL = (
    1  # 64 KiB of a database is too little for higher ones to find much: 3 stores 2 % less and takes 1.4 times as long
)
MAX_SCRATCH = 4 << 20  # larger working memory is not kept
PROBED = 256 << 10  # shorter chunks are simply tried: probing pieces of 64 KiB cost a tenth of the speed
SAMPLE = 4 << 10
SAMPLES = 8  # spread over a chunk; 2 of them lost 3 % of all savings on mixed files, 8 lose 0.3 %
PLANE_SAMPLES = 2  # a plane of one tensor is alike throughout
SHRINKS = 0.97
BLOCK = 256  # shorter ones find more of a vector of 1,536 bytes, and cost more to count; 512 store 1.5 % more
NOISE = (
    BLOCK // 4,
    BLOCK - BLOCK // 4,
)  # bytes with the highest bit set, in a block of noise: 128, give or take 8 (one standard deviation)
NOISE_SAMPLE = 4  # blocks of what looks like noise
TEXT_AFTER_ALL = 0.85  # floats at their mantissas' mercy reach 0.92, two alphabets in turn 0.5
REPEATS = 0.6  # floats that zstd alone brings below this hold repeated values: see whether it beats the planes


class Codec(IntEnum):
    """The numbers of the format; see the module's docstring."""

    RAW = 0
    ZSTD = 1
    BF16_PLANES = 2
    F32_PLANES = 3
    F16_PLANES = 4
    BLOCKS = 5


class Encoded(NamedTuple):
    """What is to be stored. ``exact`` is False where an encoder or decoder failed its own check and RAW was taken instead:
    nothing is lost, but this machine or a library miscomputes, and somebody should be told."""

    codec: Codec
    data: Buffer
    exact: bool


_HIGHEST = np.uint64(0x8080_8080_8080_8080)
_PLANES = {Dtype.BF16: Codec.BF16_PLANES, Dtype.F16: Codec.F16_PLANES, Dtype.F32: Codec.F32_PLANES}
_WIDTH = {Codec.BF16_PLANES: 2, Codec.F16_PLANES: 2, Codec.F32_PLANES: 4}


class _Thread(threading.local):
    """What a thread keeps from chunk to chunk. A Zstandard context is not for two threads at once, and costs more to make
    than a small chunk costs to compress."""

    def __init__(self) -> None:
        self._scratch: dict[str, Plane] = {}
        self.levels: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()
        entropy_only = zstandard.ZstdCompressionParameters.from_level(
            1, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, target_length=0
        )
        self.entropy = zstandard.ZstdCompressor(compression_params=entropy_only)

    def level(self, level: int) -> zstandard.ZstdCompressor:
        """This thread's compressor of ``level``."""
        if level not in self.levels:
            self.levels[level] = zstandard.ZstdCompressor(level=level)
        return self.levels[level]

    def scratch(self, use: str, length: int) -> Plane:
        """``length`` bytes, good until this thread asks again for the same ``use``. Fresh memory would cost more in page
        faults than the arithmetic done in it."""
        if length > MAX_SCRATCH:
            return np.empty(length, np.uint8)
        if use not in self._scratch or len(self._scratch[use]) < length:
            self._scratch[use] = np.empty(length, np.uint8)
        return self._scratch[use][:length]

    def back(self, length: int) -> Plane:
        """Where planes are joined again."""
        return self.scratch("back", length)


_thread = _Thread()


def encode(raw: memoryview, dtype: Dtype, level: int = LEVEL) -> tuple[Codec, Buffer]:
    """The smallest form of ``raw`` among those worth trying for ``dtype``; RAW (``raw`` itself, no copy) where none is smaller.

    Any ``dtype`` and any length come back exactly; a wrong hint costs compression only. ``level`` is zstd's, but for
    database pages.
    """
    raw = raw.cast("B")
    best: tuple[Codec, Buffer] = (Codec.RAW, raw)
    for codec, encoded in _candidates(raw, dtype, level):
        if len(encoded) < len(best[1]):
            best = (codec, encoded)
    return best


def encode_verified(raw: memoryview, dtype: Dtype, level: int = LEVEL) -> Encoded:
    """As ``encode``, then decoded and compared: what is handed out for storing is known to come back exactly (P12)."""
    codec, data = encode(raw, dtype, level)
    if codec is Codec.RAW:
        return Encoded(codec, data, exact=True)
    try:
        exact = _equal(raw, _decode(codec, memoryview(data), raw.nbytes, _thread.back))
    except IntegrityError:
        exact = False
    return Encoded(codec, data, exact=True) if exact else Encoded(Codec.RAW, raw, exact=False)


def decode(codec: int, encoded: Buffer, raw_length: int, *, lasting: bool = True) -> Buffer:
    """The ``raw_length`` bytes that ``encoded`` stands for; allocates a small multiple of that at most.

    Raises NewerFormat for a codec that this release does not know, IntegrityError where the bytes are not such an encoded
    form of exactly that length. RAW is returned as it is, without a copy. What is not ``lasting`` is good until this thread
    encodes or decodes again.
    """
    room = _fresh if lasting else _thread.back
    return _decode(codec, memoryview(encoded).cast("B"), raw_length, room)


def _decode(codec: int, encoded: memoryview, raw_length: int, room: Callable[[int], Plane]) -> Buffer:
    """As ``decode``; ``room`` gives the memory into which planes are joined."""
    if codec == Codec.RAW:
        if len(encoded) != raw_length:
            _refuse("its length is not the raw length")
        return encoded
    if not 0 <= codec <= max(Codec):
        raise NewerFormat(
            f"A chunk is stored with codec {codec}; this release knows 0 to {max(Codec)}.",
            untouched="Nothing was changed.",
            next_step="Upgrade Resurgam and run the same command again.",
        )
    if len(encoded) >= raw_length:
        _refuse("an encoded form is shorter than its raw bytes")
    if codec == Codec.ZSTD:
        return _decompress(encoded, raw_length)
    raw = room(raw_length)
    if codec == Codec.BLOCKS:
        _decode_blocks(encoded, raw)
    else:
        _decode_planes(encoded, raw, _WIDTH[Codec(codec)])
    return raw.data


def _candidates(raw: memoryview, dtype: Dtype, level: int) -> Iterator[tuple[Codec, Buffer]]:
    if dtype in _PLANES:
        codec = _PLANES[dtype]
        yield codec, _encode_planes(raw, _WIDTH[codec], level)
        if not _samples_shrink(raw, PLANE_SAMPLES, REPEATS):
            return
    elif dtype is Dtype.PAGES and (blocks := _encode_blocks(raw)) is not None:
        yield Codec.BLOCKS, blocks
        return
    elif len(raw) >= PROBED and not _samples_shrink(raw, SAMPLES, SHRINKS):
        return
    yield Codec.ZSTD, _thread.level(PAGES_LEVEL if dtype is Dtype.PAGES else level).compress(raw)


def _samples_shrink(data: memoryview, samples: int, below: float) -> bool:
    """Whether any of some samples of ``data`` (all of it, where it is short) compresses below that share of its size."""
    compress = _thread.level(1).compress
    if len(data) <= samples * SAMPLE:
        return len(compress(data)) < below * len(data)
    step = (len(data) - SAMPLE) // (samples - 1)
    return any(len(compress(data[at : at + SAMPLE])) < below * SAMPLE for at in range(0, step * samples, step))


def _equal(raw: memoryview, back: Buffer) -> bool:
    """Whether two buffers hold the same bytes, eight at a time and without the GIL."""
    if raw.nbytes != len(back):
        return False
    one, other = np.frombuffer(raw, np.uint8), np.frombuffer(back, np.uint8)
    words = len(one) & ~7
    return bool(
        np.array_equal(one[:words].view(np.uint64), other[:words].view(np.uint64))
        and np.array_equal(one[words:], other[words:])
    )


def _encode_planes(raw: memoryview, width: int, level: int) -> bytes:
    count = len(raw) // width
    stored: list[Buffer] = []
    for number, plane in enumerate(_split(raw, width, count)):
        frame = b""
        if number == 0:
            frame = _thread.entropy.compress(plane)
        elif _samples_shrink(plane, PLANE_SAMPLES, SHRINKS):
            frame = _thread.level(level).compress(plane)
        stored.append(frame if 0 < len(frame) < len(plane) else plane)
    header = [len(part).to_bytes(4, "little") for part in stored]
    return b"".join([*header, *stored, raw[count * width :]])


def _decode_planes(encoded: memoryview, raw: Plane, width: int) -> None:
    """Fill ``raw``, which has the raw length."""
    count = len(raw) // width
    lengths = [count, count] if width == 2 else [count, count, 2 * count]
    at = 4 * len(lengths)
    header = encoded[:at]
    stored = [int.from_bytes(header[place : place + 4], "little") for place in range(0, at, 4)]
    tail = len(raw) - count * width
    if at + sum(stored) + tail != len(encoded):
        _refuse("its planes do not add up to its length")
    planes = []
    for have, length in zip(stored, lengths, strict=True):
        if have > length:
            _refuse("a stored plane is longer than the plane")
        part = encoded[at : at + have]
        planes.append(np.frombuffer(part if have == length else _decompress(part, length), np.uint8))
        at += have
    _join(planes, raw[: count * width], width)
    raw[count * width :] = np.frombuffer(encoded[at:], np.uint8)


def _encode_blocks(raw: memoryview) -> bytes | None:
    """None where no block is noise, or what looks like it is none."""
    count = len(raw) // BLOCK
    words = np.frombuffer(raw, np.uint64, count * BLOCK // 8)
    bits = _thread.scratch("bits", len(words) * 8).view(np.uint64)
    np.bitwise_and(words, _HIGHEST, out=bits)
    high = np.bitwise_count(bits).reshape(count, BLOCK // 8).sum(axis=1, dtype=np.uint16)
    noise = (high > NOISE[0]) & (high < NOISE[1])
    blocks = words.view(np.uint8).reshape(count, BLOCK)
    kept = blocks[noise]
    if not len(kept):
        return None
    sample = kept[:NOISE_SAMPLE].data
    if len(_thread.level(1).compress(sample)) < TEXT_AFTER_ALL * sample.nbytes:
        return None
    rest = np.concatenate((blocks[~noise].ravel(), np.frombuffer(raw[count * BLOCK :], np.uint8)))
    return b"".join(
        (np.packbits(noise, bitorder="little").data, kept.data, _thread.level(PAGES_LEVEL).compress(rest.data))
    )


def _decode_blocks(encoded: memoryview, raw: Plane) -> None:
    """Fill ``raw``, which has the raw length."""
    count = len(raw) // BLOCK
    start = -(-count // 8)
    bits = np.unpackbits(np.frombuffer(encoded[:start], np.uint8), bitorder="little")
    if len(bits) < count or bits[count:].any():
        _refuse("its map of blocks does not fit its length")
    noise = bits[:count].view(np.bool_)
    end = start + BLOCK * int(np.count_nonzero(noise))
    if end >= len(encoded):
        _refuse("its blocks end early")
    rest = np.frombuffer(_decompress(encoded[end:], len(raw) - (end - start)), np.uint8)
    blocks, tail = raw[: count * BLOCK].reshape(count, BLOCK), len(raw) - count * BLOCK
    blocks[noise] = np.frombuffer(encoded[start:end], np.uint8).reshape(-1, BLOCK)
    blocks[~noise] = rest[: len(rest) - tail].reshape(-1, BLOCK)
    raw[count * BLOCK :] = rest[len(rest) - tail :]


def _fresh(length: int) -> Plane:
    return np.empty(length, np.uint8)


# Below, ``out=`` with ``casting="unsafe"`` keeps the low bits of each result, in steps that stay in the processor's cache.


def _split(raw: memoryview, width: int, count: int) -> list[memoryview]:
    """The planes of the module's docstring."""
    exponent, rest, sign = (_thread.scratch(use, count) for use in ("exponent", "rest", "sign"))
    elements = np.frombuffer(raw, f"<u{width}", count)
    top, planes = elements, [exponent, rest]
    if width == 4:
        top, low = (_thread.scratch(use, 2 * count).view("<u2") for use in ("top", "low"))
        np.right_shift(elements, 16, out=top, casting="unsafe")
        np.copyto(low, elements, casting="unsafe")
        planes.append(low.view(np.uint8))
    np.right_shift(top, 7, out=exponent, casting="unsafe")
    np.right_shift(top, 8, out=sign, casting="unsafe")
    np.bitwise_and(sign, 0x80, out=sign)
    np.bitwise_and(top, 0x7F, out=rest, casting="unsafe")
    np.bitwise_or(rest, sign, out=rest)
    return [plane.data for plane in planes]


def _join(planes: list[Plane], out: Plane, width: int) -> None:
    """The inverse of ``_split``: fills ``out``, a whole number of elements."""
    exponent, rest = planes[:2]
    elements = out.view(f"<u{width}")
    top = elements if width == 2 else _thread.scratch("top", 2 * len(elements)).view("<u2")
    shifted = _thread.scratch("shifted", 2 * len(elements)).view("<u2")
    np.copyto(top, rest.view(np.int8), casting="unsafe")  # copies the sign into the whole upper byte
    np.bitwise_and(top, 0x807F, out=top)
    np.left_shift(exponent, 7, out=shifted, dtype=np.uint16, casting="unsafe")
    np.bitwise_or(top, shifted, out=top)
    if width == 4:
        np.left_shift(top, 16, out=elements, dtype=np.uint32, casting="unsafe")
        np.bitwise_or(elements, planes[2].view("<u2"), out=elements)


def _decompress(frame: memoryview, length: int) -> bytes:
    """The content of one Zstandard frame that says, and proves, to hold ``length`` bytes."""
    try:
        if zstandard.frame_content_size(frame) != length:
            _refuse("a frame's content size is not the expected one")
        content = _thread.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _unreadable(str(error)) from error
    if len(content) != length:
        _refuse("a frame ends early")
    return content


def _refuse(why: str) -> NoReturn:
    raise _unreadable(why)


def _unreadable(why: str) -> IntegrityError:
    return IntegrityError(
        f"A chunk's stored bytes cannot be decoded: {why}.",
        untouched="Nothing was changed.",
        next_step="Run `resurgam vault check` to see what else is damaged.",
    )
