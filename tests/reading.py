"""Bytes as what reads files has them."""

from __future__ import annotations

from resurgam.model.safetensors import Read


def reader(data: bytes, most: int = 50_000) -> Read:
    """``read(offset, buffer)`` over bytes, at most so many of them at a time."""

    def read(offset: int, buffer: memoryview) -> int:
        part = data[offset : offset + min(len(buffer), most)]
        buffer[: len(part)] = part
        return len(part)

    return read
