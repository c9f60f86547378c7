"""Which format a file has, told by its first bytes, and by its name where these say nothing (ONNX); and safetensors itself."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable

import msgspec
from blake3 import blake3

from resurgam.drivers.tensor import BITS, Malformed, Model, Window, as_text, stretch
from resurgam.drivers.tensor_gguf import MAGIC as GGUF
from resurgam.drivers.tensor_gguf import read_gguf
from resurgam.drivers.tensor_npy import MAGIC as NPY
from resurgam.drivers.tensor_npy import read_npy
from resurgam.drivers.tensor_onnx import read_onnx
from resurgam.drivers.tensor_zip import read_zip
from resurgam.model.safetensors import MAX_HEADER, read_header

SUFFIXES = (b".safetensors", b".gguf", b".onnx", b".npy", b".npz", b".pt", b".pth", b".ckpt")
_HEAD = 4096
_ZIP = b"PK\x03\x04"
_OUTSIDE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    OverflowError,
    IndexError,
    msgspec.MsgspecError,
)  # fmt: skip - what libraries raise for bytes that are not as their format says


def read_model(name: bytes, window: Window) -> Model | None:
    """The file as tensors; None where it is no model. Raises Malformed where it is one, and not as its format says."""
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), b"")
    reader = _reader(suffix, window.head(_HEAD))
    if reader is None:
        if suffix:
            raise Malformed(_why_not(suffix, window))
        return None
    try:
        return reader(window)
    except _OUTSIDE as error:
        raise Malformed(f"cannot be read: {error}") from error


def _reader(suffix: bytes, head: bytes) -> Callable[[Window], Model | None] | None:
    if head.startswith(NPY):
        return read_npy
    if head.startswith(GGUF):
        return read_gguf
    if head.startswith(_ZIP):
        return read_zip
    if suffix == b".safetensors" or (head[8:9] == b"{" and b'"data_offsets"' in head):
        return read_safetensors
    return read_onnx if suffix == b".onnx" else None


def _why_not(suffix: bytes, window: Window) -> str:
    if not window.size:
        return "is empty"
    if suffix in {b".pt", b".pth", b".ckpt"}:
        return "is a plain pickle or another format, which is never unpickled; save it as safetensors"
    return f"does not begin as a {suffix[1:].decode()} file"


def read_safetensors(window: Window) -> Model:
    """Raises Malformed where offsets overlap, leave gaps or reach out, as the format's own library does."""
    head = window.head(_HEAD)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > window.size - 8:
        raise Malformed(f"claims a header of {length} bytes in a file of {window.size}")
    if length > MAX_HEADER:
        raise Malformed(f"has a header of {length} bytes; up to {MAX_HEADER} are read")

    def read(offset: int, buffer: memoryview) -> int:
        data = window.at(offset, min(len(buffer), window.size - offset))
        buffer[: len(data)] = data
        return len(data)

    header = read_header(memoryview(head), window.size, read)
    if header is None:
        raise Malformed("has a header that is no JSON of the format")
    model = Model("safetensors", metadata={"header": blake3(header.text).hexdigest()})
    if header.metadata is not None:
        for key, value in msgspec.json.decode(header.metadata, type=dict[str, msgspec.Raw]).items():
            model.metadata[key] = as_text(msgspec.json.decode(value))
    end = 0
    for name, entry in sorted(header.entries.items(), key=lambda pair: pair[1].data_offsets):
        begin, stop = entry.data_offsets
        if begin != end or stop < begin:
            raise Malformed(f"has tensors that overlap or leave gaps, at {name!r}")
        shape = msgspec.convert(entry.shape, tuple[int, ...])
        if entry.dtype not in BITS:
            raise Malformed(f"has a dtype that is not known here: {entry.dtype!r}")
        model.add(stretch(window, name, entry.dtype, shape, header.data + begin, stop - begin))
        end = stop
    if header.data + end != window.size:
        raise Malformed(f"has {window.size - header.data - end} bytes that belong to no tensor")
    return model
