"""Where the numbers lie in files of numbers: safetensors and ``.npy``, told by their first bytes, never by their names.

A reader looks at a file's head and answers with extents that tile the whole file, or with None: "not mine, or not as its
format says". None is no error. The file is then cut by its content like any other, and not one byte depends on what a
header claims: a lying header costs compression, never data.

Nothing here imports the formats' own libraries and nothing executes what it reads: an ``.npy`` header is Python source
text, of which only the words ``'descr': '<f4'`` are looked for.

Formats: safetensors, "Format" in https://github.com/huggingface/safetensors; npy 1.0 to 3.0, ``numpy.lib.format``.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from resurgam.model.safetensors import Read, read_header


class Dtype(IntEnum):
    """What a run of bytes is made of, little-endian: a hint for the choice of codec, never needed to read it back."""

    BYTES = 0
    BF16 = 1
    F16 = 2
    F32 = 3
    PAGES = 4  # of a database: text, numbers and gaps side by side
    PACKED = 5  # mostly compressed already, where they come from


class Extent(NamedTuple):
    """A run of bytes of one kind, from ``offset``, ``length`` bytes long."""

    offset: int
    length: int
    dtype: Dtype


_TENSOR_DTYPES = {"BF16": Dtype.BF16, "F16": Dtype.F16, "F32": Dtype.F32}
_ARRAY_DTYPES = {b"<f2": Dtype.F16, b"<f4": Dtype.F32}
_ARRAY_MAGIC = b"\x93NUMPY"
_ARRAY_HEADER_LENGTH = {1: 2, 2: 4, 3: 4}  # major version: bytes of the length field, at offset 8
_ARRAY_DESCR = re.compile(rb"""['"]descr['"]\s*:\s*['"]([^'"]{1,8})['"]""")


def safetensors_extents(head: memoryview, size: int, read: Read) -> list[Extent] | None:
    """The header and each tensor of a safetensors file in order of offset; None where it is none or lies."""
    header = read_header(head, size, read)
    if header is None:
        return None
    data = header.data
    extents = [Extent(0, data, Dtype.BYTES)]
    end = data
    for tensor in sorted(header.entries.values(), key=lambda entry: entry.data_offsets):
        begin, stop = (data + offset for offset in tensor.data_offsets)
        if not end <= begin <= stop <= size:
            return None
        if end < begin:
            extents.append(Extent(end, begin - end, Dtype.BYTES))
        if begin < stop:
            extents.append(Extent(begin, stop - begin, _TENSOR_DTYPES.get(tensor.dtype, Dtype.BYTES)))
        end = stop
    if end < size:
        extents.append(Extent(end, size - end, Dtype.BYTES))
    return extents


def npy_extents(head: memoryview, size: int) -> list[Extent] | None:
    """The header and the data of an ``.npy`` file; None where it is none."""
    if bytes(head[:6]) != _ARRAY_MAGIC or len(head) < 12:
        return None
    width = _ARRAY_HEADER_LENGTH.get(head[6])
    if width is None:
        return None
    data = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    if data > min(size, len(head)):
        return None
    found = _ARRAY_DESCR.search(head[8 + width : data])
    dtype = _ARRAY_DTYPES.get(found[1], Dtype.BYTES) if found else Dtype.BYTES
    extents = [Extent(0, data, Dtype.BYTES)]
    if data < size:
        extents.append(Extent(data, size - data, dtype))
    return extents
