"""The header of a safetensors file: eight bytes of length, little-endian, then JSON that names each tensor and its place.

Two floors read it: the vault to cut a file where its tensors end, the driver ``models`` to say which tensors changed. Nothing
here judges what a header claims beyond its form; whoever relies on shapes and places checks them.

Format: section "Format" of https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from resurgam.model.codec import json_decoder
from resurgam.model.system import Json

Read = Callable[[int, memoryview], int]
"""``read(offset, buffer)`` fills ``buffer`` from ``offset`` and returns the bytes read; 0 at the end."""

MAX_HEADER = 16 << 20  # some 130,000 tensors; what is longer is not held in memory


class Entry(msgspec.Struct):
    """One tensor as its header has it. ``shape`` is any JSON value; ``data_offsets`` count from the end of the header."""

    dtype: str
    data_offsets: tuple[int, int]
    shape: Json = ()


class Header(NamedTuple):
    """``data`` is the offset at which the tensors' bytes begin; ``text`` the JSON as it stands."""

    data: int
    entries: dict[str, Entry]
    metadata: msgspec.Raw | None
    text: bytes | memoryview


def read_header(head: memoryview, size: int, read: Read) -> Header | None:
    """The header of a file of ``size`` bytes that begins with ``head``; None where it has none of this form."""
    if len(head) < 9 or head[8] != ord("{"):
        return None
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER or 8 + length > size:
        return None
    text = _bytes_at(8, length, head, read)
    if text is None:
        return None
    try:
        raw = json_decoder(dict[str, msgspec.Raw]).decode(text)
        metadata = raw.pop("__metadata__", None)
        entries = {name: json_decoder(Entry).decode(entry) for name, entry in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return Header(8 + length, entries, metadata, text)


def _bytes_at(offset: int, length: int, head: memoryview, read: Read) -> bytes | memoryview | None:
    """``length`` bytes from ``offset``, from the head where it reaches so far; None where the file ends before."""
    if offset + length <= len(head):
        return head[offset : offset + length]
    found = bytes_from(read, offset, length)
    return found if len(found) == length else None


def bytes_from(read: Read, offset: int, length: int) -> bytes:
    """``length`` bytes from ``offset``; fewer where the file ends early."""
    buffer = bytearray(length)
    done = 0
    while done < length and (step := read(offset + done, memoryview(buffer)[done:])):
        done += step
    return bytes(buffer[:done])
