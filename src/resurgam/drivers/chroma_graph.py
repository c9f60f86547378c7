"""Whether the graph of an HNSW index can be walked: a search on a damaged one does not fail, it hangs or takes its process down.

Chroma 1.5.9 loads such files without a look. They come from crashes, and from two processes that write one folder. What is asked
(layouts: ``chroma_index``): every neighbour exists; it reaches the level on which it is one; labels are given once; the lists above
level 0, which lie one after another without an index, end where the file's lists end; and the entry point stands on the top level.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from resurgam.drivers.chroma_index import Header

_COUNT = struct.Struct("<I")
_LOW = 0xFFFF  # the count of neighbours; the other half of its word holds marks
_STEP = 8192

Words = npt.NDArray[np.uint32]


def damage(header: Header, table: npt.NDArray[np.uint8], links: memoryview) -> str | None:
    """What is wrong first, in words; None where nothing is. ``table`` has a row of bytes per element."""
    if not header.elements:
        return None
    labels = np.unique(np.ascontiguousarray(table[:, header.label_offset :]).view("<u8"))
    if len(labels) != header.elements:
        return "two elements have one label"
    if not _ground_is_sound(header, table):
        return "an element on level 0 leads to one that does not exist"
    upper = _read_upper(header, links)
    if upper is None:
        return "the lists above level 0 do not fit the file"
    levels, lists = upper
    for level, neighbours in lists:
        if len(neighbours) and (neighbours.max() >= header.elements or levels[neighbours].min() < level):
            return f"an element on level {level} leads to one that is not there"
    if header.entry >= header.elements or levels[header.entry] != max(header.top, 0):
        return "its entry point is not on the top level"
    return None


def _ground_is_sound(header: Header, table: npt.NDArray[np.uint8]) -> bool:
    places = np.arange(header.ground_links, dtype=np.uint32)
    for start in range(0, header.elements, _STEP):
        words = np.ascontiguousarray(table[start : start + _STEP, : header.data_offset]).view("<u4")
        counts = words[:, :1] & _LOW
        if counts.max() > header.ground_links or (words[:, 1:][places < counts] >= header.elements).any():
            return False
    return True


def _read_upper(header: Header, links: memoryview) -> tuple[npt.NDArray[np.int64], list[tuple[int, Words]]] | None:
    """The level of each element, and the neighbours in each list with its level; None where they do not fit the file."""
    size = 4 * header.upper_links + 4
    levels = np.zeros(header.elements, np.int64)
    lists: list[tuple[int, Words]] = []
    at = 0
    for element in range(header.elements):
        if at + 4 > len(links):
            return None
        (length,) = _COUNT.unpack_from(links, at)
        at += 4
        if length % size or length // size > max(header.top, 0) or at + length > len(links):
            return None
        for level in range(1, length // size + 1):
            words = np.frombuffer(links, "<u4", size // 4, at)
            count = int(words[0]) & _LOW
            if count > header.upper_links:
                return None
            lists.append((level, words[1 : count + 1]))
            at += size
        levels[element] = length // size
    return levels, lists
