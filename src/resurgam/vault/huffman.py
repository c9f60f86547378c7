"""Zstandard frames of Huffman's coding alone, made in memory that is there already, and opened into such.

Exponents hold nothing that repeats. A compressor that looks for repeats all the same takes a third longer, and what few it finds
make the frame larger and slower to open. The library can leave that out: literals are compressed whatever the strategy says
(``ZSTD_c_literalCompressionMode``), and the search steps over more than a block holds (``ZSTD_c_targetLength``). Of the two
bindings in python-zstandard the one made with cffi hands that on, and lets frames be made and opened in memory of one's own.

Where it cannot be imported, the usual binding does with the search as far off as it can turn it. Both make frames that any decoder
reads, and each reads the other's.

Source: zstd.h of Zstandard 1.5, "advanced compression API" and "experimental API".
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Protocol

import numpy as np
import zstandard

from resurgam.vault.frames import Plane, decompressed, mine, refuse, unreadable

_PARAMETERS = {
    "ZSTD_c_compressionLevel": 1,
    "ZSTD_c_strategy": 1,  # ZSTD_fast
    "ZSTD_c_targetLength": 128 << 10,  # a whole block
    "ZSTD_c_literalCompressionMode": 1,  # ZSTD_ps_enable
}
_CALLS = (
    "ZSTD_CCtx_setParameter",
    "ZSTD_compress2",
    "ZSTD_decompressDCtx",
)


class Coder(Protocol):
    """One thread's way to make such frames and to open any."""

    def compress_into(self, plane: Plane, room: Plane) -> int:
        """Make a frame of ``plane`` at the beginning of ``room``; its length, or 0 where ``room`` is too small for it."""

    def decompress_into(self, frame: memoryview, out: Plane) -> None:
        """Fill ``out`` with the content of one frame that says, and proves, to hold as much. Raises IntegrityError."""


class Direct:
    """Through the binding made with cffi."""

    def __init__(self, binding: Any) -> None:
        self._ffi, self._lib = binding.ffi, binding.lib
        self._making = self._ffi.gc(self._lib.ZSTD_createCCtx(), self._lib.ZSTD_freeCCtx)
        self._opening = self._ffi.gc(self._lib.ZSTD_createDCtx(), self._lib.ZSTD_freeDCtx)
        if not (self._making and self._opening):
            raise MemoryError("no memory for a Zstandard context")
        for name, value in _PARAMETERS.items():
            failed = self._lib.ZSTD_CCtx_setParameter(self._making, getattr(self._lib, name), value)
            assert not self._lib.ZSTD_isError(failed), name

    def compress_into(self, plane: Plane, room: Plane) -> int:
        """See Coder."""
        into, source = self._ffi.from_buffer(room, require_writable=True), self._ffi.from_buffer(plane)
        made = self._lib.ZSTD_compress2(self._making, into, len(room), source, len(plane))
        return int(made) if made <= len(room) else 0  # an error is a number beyond any size

    def decompress_into(self, frame: memoryview, out: Plane) -> None:
        """See Coder."""
        source, length = self._ffi.from_buffer(frame), len(frame)
        try:
            holds = zstandard.frame_content_size(frame)
        except zstandard.ZstdError as error:
            raise unreadable(str(error)) from error
        if holds != len(out):
            refuse("a frame's content size is not the expected one")
        if not _ends(frame):
            refuse("a frame does not end where it should")
        into = self._ffi.from_buffer(out, require_writable=True)
        made = self._lib.ZSTD_decompressDCtx(self._opening, into, len(out), source, length)
        if made > len(out):
            raise unreadable(self._ffi.string(self._lib.ZSTD_getErrorName(made)).decode())
        if made != len(out):
            refuse("a frame ends early")


class Usual:
    """Through python-zstandard as it comes."""

    def compress_into(self, plane: Plane, room: Plane) -> int:
        """See Coder."""
        frame = mine.entropy.compress(plane.data)
        if len(frame) > len(room):
            return 0
        room[: len(frame)] = np.frombuffer(frame, np.uint8)
        return len(frame)

    def decompress_into(self, frame: memoryview, out: Plane) -> None:
        """See Coder."""
        out[:] = np.frombuffer(decompressed(frame, len(out)), np.uint8)


def _ends(frame: memoryview) -> bool:
    """Whether ``frame`` ends with the last block of the frame that it begins with (RFC 8878, 3.1.1). The library could tell, but
    each call of it lets go of the GIL and waits for it, which takes longer."""
    at, last = zstandard.frame_header_size(frame), 0
    while not last and at + 3 <= len(frame):
        head = int.from_bytes(frame[at : at + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        at += 3 + (1 if kind == 1 else size)  # of a byte that repeats, that byte alone is there
    return bool(last) and at + 4 * zstandard.get_frame_parameters(frame).has_checksum == len(frame)


def coder() -> Coder:
    """This thread's."""
    there: Coder | None = getattr(mine, "coder", None)
    if there is None:
        binding = _binding()
        there = mine.coder = Direct(binding) if binding is not None else Usual()
    return there


@cache
def _binding() -> Any:
    """The binding made with cffi, None where there is none that can do all that is asked of it."""
    try:
        binding = importlib.import_module("zstandard._cffi")
    except ImportError:
        return None
    return binding if all(hasattr(binding.lib, name) for name in (*_CALLS, *_PARAMETERS)) else None
