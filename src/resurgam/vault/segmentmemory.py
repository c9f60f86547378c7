"""What a host remembers of the segments of a database (``segments``), beside what it remembers of its blocks (``blockmemory``).

A file of its own, since nobody knows beforehand how many there are. Threads and copies of this process append to it, a unit at a
time, in no order. It counts only with the very memory of blocks that names its mark, and what is damaged in it is passed over::

    RSGSEGS1, 16 random bytes, which are the mark, then of each unit:
        u32 bytes that follow · 16 bytes of their BLAKE3 · starts and lengths of segments (i64), edges, inner (u64), each joined
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from blake3 import blake3

from resurgam.vault.host import told
from resurgam.vault.segments import Segments, joined

SUFFIX = ".segments"
_MAGIC = b"RSGSEGS1"
_MARK = 16
_HEAD = struct.Struct("<I16s")


class NotedSegments:
    """What is noted of a database while it is captured, in a file at ``place``."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.mark = os.urandom(_MARK)
        with told(place):
            self._file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            os.write(self._file, _MAGIC + self.mark)

    def note(self, segments: Segments) -> None:
        """Some segments, from any thread or copy of this process."""
        data = segments.tobytes()
        with told(self._place):
            # One call, for others append too; where the disk takes a part of it only, the rest is missed by its digest.
            os.write(self._file, _HEAD.pack(len(data), blake3(data).digest(16)) + data)

    def close(self) -> None:
        """Note no more; repeatable."""
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)


def remembered_segments(place: str, mark: bytes) -> Segments:
    """All that was noted at ``place`` under ``mark``; none where something else was, or nothing."""
    data = b""
    with suppress(OSError), open(place, "rb") as file:
        data = file.read()
    view = memoryview(data)  # there may be 50 MB of it
    parts = [Segments.frombytes(b"")]
    at = len(_MAGIC) + _MARK if data.startswith(_MAGIC + mark) else len(data)
    while at + _HEAD.size <= len(data):
        length, check = _HEAD.unpack_from(data, at)
        part = view[at + _HEAD.size : at + _HEAD.size + length]
        if len(part) % 32 or blake3(part).digest(16) != check:
            break
        parts.append(Segments.frombytes(part))
        at += _HEAD.size + length
    return joined(parts)
