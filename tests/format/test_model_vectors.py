"""Palettes and deltas by hand, as ``docs/format.md`` tells them: what a release has written, every later one reads."""

from __future__ import annotations

import struct

import numpy as np

from resurgam.vault import deltas, palettes
from resurgam.vault.codecs import decode


def test_a_palette_of_two_blocks_the_second_as_it_is() -> None:
    """Six elements of two bytes in blocks of four: the first four take two values, the others stay; one byte is left over."""
    head = struct.pack("<BBHII", 2, 2, 0, 4, 4)
    counts = struct.pack("<HH", 2, 0)
    table, places = struct.pack("<HH", 0x3F80, 0xBF80), bytes([0, 1, 1, 0])
    encoded = head + counts + table + places + struct.pack("<HH", 7, 8) + b"!"
    raw = struct.pack("<6H", 0x3F80, 0xBF80, 0xBF80, 0x3F80, 7, 8) + b"!"
    # What is encoded is shorter than it stands for, so a block of many elements goes before it.
    many = struct.pack("<BBHII", 2, 30, 0, 4, 64) + struct.pack("<H", 2) + table + bytes([0, 1] * 32) + b"!"
    assert bytes(decode(6, many, 129)) == struct.pack("<HH", 0x3F80, 0xBF80) * 32 + b"!"

    out = np.empty(len(raw), np.uint8)
    palettes.decode_into(memoryview(encoded), out)
    assert out.tobytes() == raw


def test_a_delta_of_all_elements_and_one_of_the_changed_ones() -> None:
    """Differences in zigzag, their low bytes first: +1 is 2, -1 is 1, -128 is 255, +128 is 256."""
    base = np.arange(5, dtype="<u2").tobytes() + b"x"
    raw = (np.arange(5) + np.array([0, 1, -1, -128, 128])).astype("<u2").tobytes() + b"y"
    every = struct.pack("<BBBBI", 1, 1, 2, 2, 11) + struct.pack("<4I", 5, 5, 5, 5)
    every += bytes([0, 2, 1, 255, 0]) + bytes([0, 0, 0, 0, 1]) + b"y"
    # The gaps: the second element changed (one was left alone), and each after it (none was).
    some = struct.pack("<BBBBI", 1, 2, 2, 3, 11) + struct.pack("<6I", 4, 4, 4, 4, 4, 4)
    some += bytes([1, 0, 0, 0]) + bytes([2, 1, 255, 0]) + bytes([0, 0, 0, 1]) + b"y"
    for document in (every, some):
        out = np.empty(len(raw), np.uint8)
        deltas.apply(deltas.read(document, len(base)), memoryview(base), out)
        assert out.tobytes() == raw


def test_a_gap_of_more_than_a_byte_skips() -> None:
    """255 and 2: 257 elements are left alone, and the one after them changed by one."""
    base = bytes(300)
    document = struct.pack("<BBBBI", 1, 2, 1, 2, 300) + struct.pack("<4I", 2, 2, 1, 1) + bytes([255, 2, 2])
    out = np.empty(300, np.uint8)
    deltas.apply(deltas.read(document, len(base)), memoryview(base), out)
    assert np.flatnonzero(out).tolist() == [257]
    assert out[257] == 1
