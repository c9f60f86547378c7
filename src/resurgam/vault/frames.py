"""Zstandard frames, and what a thread keeps to make and to open them."""

from __future__ import annotations

import threading
from typing import Any, NoReturn

import numpy as np
import zstandard
from numpy.typing import NDArray

from resurgam.errors import IntegrityError

Buffer = bytes | bytearray | memoryview
Plane = NDArray[np.uint8]

MAX_SCRATCH = 4 << 20  # larger working memory is not kept
SAMPLE = 4 << 10
SHRINKS = 0.97


class Mine(threading.local):
    """What a thread keeps from chunk to chunk. A Zstandard context is not for two threads at once, and costs more to make
    than a small chunk costs to compress."""

    def __init__(self) -> None:
        self._scratch: dict[str, Plane] = {}
        self._whole = bytearray()
        self.levels: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()
        entropy_only = zstandard.ZstdCompressionParameters.from_level(
            1, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, target_length=0
        )
        self.entropy = zstandard.ZstdCompressor(compression_params=entropy_only)
        self.coder: Any = None  # of ``huffman``
        self.place: memoryview | None = None  # where what is coded next is wanted

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

    def whole(self, length: int) -> bytearray:
        """``length`` bytes, good until the next call, that compare with a buffer without a copy, as no array does."""
        if len(self._whole) != length:
            self._whole = bytearray(length)
        return self._whole

    def encoded(self, length: int) -> Plane:
        """Where an encoded form is made that takes ``length`` bytes at most: at its ``place``, if there is as much room."""
        if self.place is not None and len(self.place) >= length:
            return np.frombuffer(self.place, np.uint8)
        return self.scratch("encoded", length)

    def back(self, length: int) -> Plane:
        """Where planes are joined again."""
        return self.scratch("back", length)


mine = Mine()


def compressed(level: int, sources: list[memoryview]) -> list[Buffer]:
    """A frame of each of ``sources``, in one call; zstandard takes no empty ones together."""
    compressor = mine.level(level)
    full: list[Buffer] = [source for source in sources if source]
    made: Any = compressor.multi_compress_to_buffer(full) if full else ()
    frames = (memoryview(made[number]) for number in range(len(made)))
    return [next(frames) if source else compressor.compress(source) for source in sources]


def expanded(frames: list[memoryview], lengths: list[int]) -> list[Buffer]:
    """What some frames hold, in one call; zstandard takes none together that hold nothing (it writes beyond its memory then).
    Raises IntegrityError where one is no frame, or says that it holds another length."""
    full: list[Buffer] = [frame for frame, length in zip(frames, lengths, strict=True) if length]
    try:
        if [zstandard.frame_content_size(frame) for frame in frames] != lengths:
            refuse("a frame's content size is not the expected one")
        made: Any = mine.decompressor.multi_decompress_to_buffer(full) if full else ()
    except zstandard.ZstdError as error:
        raise unreadable(str(error)) from error
    contents = (memoryview(made[number]) for number in range(len(made)))
    return [next(contents) if length else decompressed(frame, 0) for frame, length in zip(frames, lengths, strict=True)]


def samples_shrink(data: memoryview, samples: int, below: float) -> bool:
    """Whether any of some samples of ``data`` (all of it, where it is short) compresses below that share of its size."""
    compress = mine.level(1).compress
    if len(data) <= samples * SAMPLE:
        return len(compress(data)) < below * len(data)
    step = (len(data) - SAMPLE) // (samples - 1)
    return any(len(compress(data[at : at + SAMPLE])) < below * SAMPLE for at in range(0, step * samples, step))


def decompressed(frame: memoryview, length: int) -> bytes:
    """The content of one Zstandard frame that says, and proves, to hold ``length`` bytes."""
    try:
        if zstandard.frame_content_size(frame) != length:
            refuse("a frame's content size is not the expected one")
        content = mine.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise unreadable(str(error)) from error
    if len(content) != length:
        refuse("a frame ends early")
    return content


def refuse(why: str) -> NoReturn:
    """Raise ``unreadable``."""
    raise unreadable(why)


def unreadable(why: str) -> IntegrityError:
    """What is said of bytes that are no encoded form."""
    return IntegrityError(
        f"A chunk's stored bytes cannot be decoded: {why}.",
        untouched="Nothing was changed.",
        next_step="Run `resurgam vault check` to see what else is damaged.",
    )
