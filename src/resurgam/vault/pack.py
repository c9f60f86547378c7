"""Packs: the files in which chunks lie. This module knows the bytes (``docs/format.md`` section 4) and no store.

    header   64 bytes   magic, format, vault, and where the pack may lie (``model.placement``)
    frames              one per chunk: an 80-byte header in the clear, then the chunk encrypted
    zeros               up to the alignment
    trailer             what lies where, sealed with the index key and signed
    footer   64 bytes   where the trailer is

A frame says all that is needed to decrypt it except the key, and its place is not part of what is authenticated, so a
frame stays valid when it is copied into another pack. Every frame and the trailer can be found without any key, so an
index can be rebuilt from packs alone. A pack is a multiple of 4096 bytes, so that it can be written past the page cache;
its name is the BLAKE3 of its bytes, so that anyone can audit it.

Keys: a chunk is encrypted with AES-256-GCM under its session's key, except chunk lists (``Kind.LIST``), which the pruner
must read: their session id is zero and their key is derived from the index secret and the chunk id.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from resurgam.errors import IntegrityError, LimitExceeded, NewerFormat
from resurgam.model.placement import ANYWHERE, NOWHERE, WORD, Placement

FORMAT = 1
PACK_SIZE = 32 << 20
ALIGN = 4096
TAG = 16
ID = 32
SESSION = 16
NONCE = 12
NO_SESSION = bytes(SESSION)  # the index key instead of a session's
# Bytes of a chunk of contents. Of one byte, the id would be the key of another kind's ids (``sink.ChunkKeys``).
SHORTEST = 2
# Bytes of a chunk of contents, and of a piece: of those that this release cuts, the largest have 2 MiB.
LARGEST = 16 << 20
LARGEST_PAGE = 256 << 20  # bytes of a chunk of any other kind; the largest are documents

_HEADER = struct.Struct("<8sHH4x16s32s")
_FRAME = struct.Struct("<4sBBBxII32s16s12sI")
_FOOTER = struct.Struct("<QIH42x8s")
HEADER = _HEADER.size
FRAME = _FRAME.size
FOOTER = _FOOTER.size
_COLD = 1  # the header's one flag
_WORDS = re.compile(rf"\+|{WORD}(\+{WORD})*")
_PACK_MAGIC = b"RSGMPACK"
_FOOT_MAGIC = b"RSGMFOOT"
FRAME_MAGIC = b"RSGc"
assert (HEADER, FRAME, FOOTER) == (64, 80, 64)  # the format's own figures


class Kind(IntEnum):
    """What a chunk is. The number is authenticated with the bytes, so none can stand in for another. 7 to 255 are
    reserved for later releases."""

    DATA = 1  # bytes of items
    RUN = 2  # the chunks of one large blob, in order
    TREE = 3  # entries of a snapshot, or pages of entries
    ROWS = 4  # keys and digests of rows, or pages of those
    DOCUMENT = 5  # JSON: particulars of a point, evidence of a verdict
    LIST = 6  # chunk ids that a snapshot needs; opens with the index key


# One chunk in a trailer and in an index segment; little-endian, 52 bytes.
ENTRY = np.dtype(
    [
        ("id", "S32"),  # padded bytes: read through ``ids_of``, since numpy drops trailing zeros of S items
        ("pack", "<u4"),  # ordinal in the segment's table of packs; 0 in a trailer
        ("offset", "<u4"),
        ("stored", "<u4"),
        ("raw", "<u4"),
        ("kind", "u1"),
        ("codec", "u1"),
        ("zero", "<u2"),
    ]
)
assert ENTRY.itemsize == 52


class Frame(NamedTuple):
    """A frame's header. ``stored`` counts the encrypted bytes with their tag, ``raw`` the chunk's own."""

    kind: int
    codec: int
    stored: int
    raw: int
    id: bytes
    session: bytes
    nonce: bytes


def frame_header(frame: Frame) -> bytes:
    """The 80 bytes of a frame's header; the last four are the CRC-32 of the rest, for scanners without a key."""
    head = _FRAME.pack(
        FRAME_MAGIC, FORMAT, frame.kind, frame.codec, frame.stored, frame.raw, frame.id, frame.session, frame.nonce, 0
    )
    return head[:-4] + zlib.crc32(head[:-4]).to_bytes(4, "little")


def parse_frame(data: bytes | memoryview) -> Frame:
    """The frame whose header begins ``data``. Raises IntegrityError, NewerFormat."""
    if len(data) < FRAME:
        raise _damaged("a frame is cut off")
    magic, version, kind, codec, stored, raw, chunk, session, nonce, crc = _FRAME.unpack_from(data)
    if magic != FRAME_MAGIC or crc != zlib.crc32(data[: FRAME - 4]):
        raise _damaged("no frame stands where the index says one does")
    if version > FORMAT:
        raise NewerFormat(
            f"A chunk has format {version}; this release reads up to {FORMAT}.",
            untouched="Nothing was changed.",
            next_step="Upgrade Resurgam.",
        )
    return Frame(kind, codec, stored, raw, chunk, session, nonce)


def require_bounded(kind: int, stored: int, raw: int) -> None:
    """Raises IntegrityError where a chunk claims more bytes than one can have: what a stolen capture host signs must not make a
    reader allocate them (P9). Ask it before anything is read, decrypted or decoded into memory of those lengths."""
    if raw > (LARGEST if kind == Kind.DATA else LARGEST_PAGE) or stored > raw + TAG:
        raise _damaged(f"a chunk claims {raw} bytes, stored as {stored}, and none can have as many")


def require_storable(kind: int, raw: int) -> None:
    """Raises LimitExceeded where nobody would read a chunk of ``raw`` bytes."""
    if raw > (LARGEST if kind == Kind.DATA else LARGEST_PAGE):
        raise LimitExceeded(
            f"A {Kind(kind).name} of {raw} bytes is to be stored, and a reader takes no more than {LARGEST_PAGE}.",
            untouched="It was not stored.",
            next_step="Look for what has grown: the answers of a probe, the manifest, or what a driver says of one item.",
        )


def associated(vault: bytes, header: bytes | memoryview) -> bytes:
    """What is authenticated beside the bytes: the vault, and the frame's header without its checksum (design 4)."""
    return vault + bytes(header[: FRAME - 4])


def decrypt(key: AESGCM, vault: bytes, data: memoryview, frame: Frame, room: memoryview | None = None) -> memoryview:
    """The encoded chunk of the frame that begins ``data``, in the first bytes of ``room`` where there is one. Raises
    IntegrityError when a bit differs, or the frame claims more than a chunk can have."""
    require_bounded(frame.kind, frame.stored, frame.raw)
    sealed = data[FRAME : FRAME + frame.stored]
    if len(sealed) != frame.stored or frame.stored < TAG:
        raise _damaged("a chunk is cut off")
    size = frame.stored - TAG
    out = memoryview(bytearray(size)) if room is None else room[:size]
    try:
        key.decrypt_into(frame.nonce, sealed, associated(vault, data[:FRAME]), out)
    except InvalidTag as error:
        raise _damaged(f"chunk {frame.id.hex()[:16]} does not authenticate") from error
    return out


class PackBuilder:
    """A pack in memory while it is filled, of pages (``meta``) or of data. Not thread-safe: one thread fills it at a time.

    ``add`` returns the place for the encrypted bytes, so that the cipher writes straight into the pack.
    """

    def __init__(self, vault: bytes, buffer: mmap.mmap, placement: Placement = ANYWHERE, meta: bool = False) -> None:
        self._buffer = buffer
        self.placement, self.meta = placement, meta
        self.view = memoryview(buffer)
        self._entries: list[tuple[bytes, int, int, int, int, int, int, int]] = []
        self.end = HEADER
        _HEADER.pack_into(buffer, 0, _PACK_MAGIC, FORMAT, placement.cold * _COLD, vault, _residency(placement))

    def __len__(self) -> int:
        return len(self._entries)

    def has_room(self, stored: int) -> bool:
        """Whether a chunk of ``stored`` encrypted bytes still fits, with its trailer entry and the footer."""
        trailer = (len(self._entries) + 1) * ENTRY.itemsize + 512
        return self.end + FRAME + stored + trailer + FOOTER + ALIGN <= len(self.view)

    def add(self, frame: Frame) -> tuple[bytes, memoryview]:
        """Append ``frame``'s header; returns the header and where its ``stored`` encrypted bytes go."""
        header = frame_header(frame)
        start = self.end
        self.view[start : start + FRAME] = header
        self._entries.append((frame.id, 0, start, frame.stored, frame.raw, frame.kind, frame.codec, 0))
        self.end = start + FRAME + frame.stored
        return header, self.view[start + FRAME : self.end]

    def entries(self) -> np.ndarray:
        """What lies in the pack, as an array of ENTRY."""
        return np.array(self._entries, dtype=ENTRY)

    def finish(self, trailer: bytes) -> tuple[str, memoryview]:
        """Close the pack with its sealed and signed ``trailer``; returns its name's hex digest and its bytes."""
        size = -(-(self.end + len(trailer) + FOOTER) // ALIGN) * ALIGN
        start = size - FOOTER - len(trailer)
        self.view[self.end : start] = bytes(start - self.end)
        self.view[start : size - FOOTER] = trailer
        _FOOTER.pack_into(self._buffer, size - FOOTER, start, len(trailer), FORMAT, _FOOT_MAGIC)
        data = self.view[:size]
        return blake3(data).hexdigest(), data

    def release(self) -> mmap.mmap:
        """Give the memory back; the builder is of no use afterwards."""
        return self._buffer


def placement_of(data: bytes | memoryview, vault: bytes) -> Placement:
    """Where a pack that begins with ``data`` may lie; NOWHERE where it does not say so any more. It says that itself, so that
    whoever copies packs needs no key; its name is the digest of that, too."""
    if len(data) < HEADER:
        return NOWHERE
    magic, _version, flags, of, word = _HEADER.unpack_from(data)
    residency = word.rstrip(b"\0").decode("ascii", "replace")
    sound = (magic, of) == (_PACK_MAGIC, vault) and (not residency or _WORDS.fullmatch(residency))
    return Placement(residency, bool(flags & _COLD)) if sound else NOWHERE


def _residency(placement: Placement) -> bytes:
    """Its word; several whose names do not fit may go nowhere either way."""
    word = placement.residency.encode("ascii")
    return word if len(word) <= 32 else NOWHERE.residency.encode("ascii")


def new_buffer(size: int = PACK_SIZE) -> mmap.mmap:
    """Page-aligned memory that takes no room before it is used, in huge pages where the system has them: with small ones
    the kernel spends a seventh of a capture on faulting them in and pinning them for direct writes."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def trailer_place(footer: bytes, pack: str) -> tuple[int, int]:
    """Offset and length of the trailer, from a pack's last 64 bytes. Raises IntegrityError, NewerFormat."""
    if len(footer) != FOOTER:
        raise _damaged(f"pack {pack[:16]} is cut off")
    start, length, version, magic = _FOOTER.unpack(footer)
    if magic != _FOOT_MAGIC:
        raise _damaged(f"pack {pack[:16]} has no footer")
    if version > FORMAT:
        raise NewerFormat(f"Pack {pack[:16]} has format {version}.", next_step="Upgrade Resurgam.")
    return start, length


def frames(data: memoryview) -> Iterator[tuple[int, Frame]]:
    """All frames of a whole pack with their offsets, found without a key and without the trailer."""
    offset = HEADER
    while offset + FRAME <= len(data) and data[offset : offset + 4] == FRAME_MAGIC:
        frame = parse_frame(data[offset:])
        yield offset, frame
        offset += FRAME + frame.stored


def scan(data: memoryview) -> Iterator[tuple[int, Frame]]:
    """As ``frames``, going on behind damage: whatever has a whole header, and lies in ``data`` with all of its bytes."""
    offset, base, rest = HEADER, 0, b""
    while offset + FRAME <= len(data):
        if data[offset : offset + 4] == FRAME_MAGIC:
            with suppress(IntegrityError, NewerFormat):
                frame = parse_frame(data[offset : offset + FRAME])
                if offset + FRAME + frame.stored <= len(data):
                    yield offset, frame
                    offset += FRAME + frame.stored
                    continue
            offset += 1
        if not rest:
            base, rest = offset, bytes(data[offset:])
        if (at := rest.find(FRAME_MAGIC, offset - base)) < 0:
            return
        offset = base + at


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(
        f"The vault is damaged: {what}.",
        untouched="Nothing was changed.",
        next_step="`resurgam vault repair` says what is lost, and what can come back. Or restore from another point.",
    )
