"""GGUF: a header of keys and values, a list of tensors, then their bytes, aligned.

Read here and not by the ``gguf`` package, which maps the whole file and trusts its counts; the package is asked only to turn
quantized blocks into numbers, for their norms.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; block sizes as in ``ggml_type_size`` of the same project.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from blake3 import blake3

from resurgam.drivers.tensor import MAX_TENSORS, Decode, Malformed, Model, Tensor, Window, as_text, decoder

MAGIC = b"GGUF"
_SHOWN = 64  # entries of an array that are kept as they are; longer ones (vocabularies) by their digest
_TEXT = 64 << 10
_MAX_STRING = 16 << 20
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TYPES = {  # number: (name, numbers in a block, bytes of a block)
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip


def read_gguf(window: Window) -> Model:
    """Raises Malformed."""
    file = _Reader(window)
    if file.take(4) != MAGIC:
        raise Malformed("does not begin as a GGUF file")
    version = file.number("I")
    if version not in {2, 3}:
        raise Malformed(f"is GGUF version {version}; versions 2 and 3 in little-endian order are known here")
    tensors, pairs = file.number("Q"), file.number("Q")
    model = Model("gguf", metadata={"gguf.version": str(version)})
    alignment = 32
    for _ in range(pairs):
        key = file.string()
        if key in model.metadata:
            raise Malformed(f"has the key {key!r} twice")
        value = file.value(file.number("I"))
        model.metadata[key] = as_text(value)
        if key == "general.alignment":
            alignment = value if isinstance(value, int) else 0
    if alignment <= 0 or alignment & (alignment - 1):
        raise Malformed("has an alignment that is no power of two")
    if tensors > MAX_TENSORS:
        raise Malformed(f"has more than {MAX_TENSORS} tensors")
    places = [file.place() for _ in range(tensors)]
    _add_tensors(window, model, places, -(-file.at // alignment) * alignment)
    return model


Place = tuple[str, tuple[int, ...], int, int]  # name, shape, type, offset from the data's begin


def _add_tensors(window: Window, model: Model, places: list[Place], data: int) -> None:
    end, missing = 0, False
    for name, shape, kind, offset in sorted(places, key=lambda place: place[3]):
        if kind not in _TYPES:
            raise Malformed(f"has a tensor type that is not known here: {kind}")
        dtype, numbers, block = _TYPES[kind]
        count = math.prod(shape)
        if (shape and shape[-1] % numbers) or offset < end:
            raise Malformed(f"has a tensor {name!r} that overlaps another, or ends within a block")
        size = count // numbers * block
        end = offset + size
        window.require(data + offset, size)
        decode = decoder(dtype) if numbers == 1 else _dequantizer(kind)
        missing |= decode is None
        model.add(Tensor(name, dtype, shape, size, _pieces(window, data + offset, size, block), decode))
    model.require_names_once()
    if missing and not _library():
        model.notes.append("has quantized tensors without a norm: run python -m pip install 'resurgam[models]'")


def _pieces(window: Window, offset: int, size: int, block: int) -> Any:
    def pieces() -> Iterator[bytes]:
        return window.pieces(offset, size, block)

    return pieces


def _library() -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        return None
    return gguf


def _dequantizer(kind: int) -> Decode | None:
    """Turns blocks of a quantized type into numbers; None where the library is missing or does not know how."""
    gguf = _library()
    if gguf is None:
        return None
    known = gguf.GGMLQuantizationType(kind)
    block = _TYPES[kind][2]

    def decode(data: bytes) -> Any:
        blocks = np.frombuffer(data, np.uint8).reshape(-1, block)
        return gguf.quants.dequantize(blocks, known).astype(np.float64).ravel()

    try:
        with np.errstate(all="ignore"):
            decode(bytes(block))
    except NotImplementedError:
        return None
    return decode


class _Reader:
    """Reads the header in order. Every count is checked by what it must take from the file."""

    def __init__(self, window: Window) -> None:
        self._file: io.BufferedReader = window.file()
        self.at, self._size = 0, window.size

    def take(self, length: int) -> bytes:
        if length > min(_MAX_STRING, self._size - self.at):
            raise Malformed("ends within its header")
        data = self._file.read(length)
        self.at += length
        return data

    def number(self, code: str) -> Any:
        form = struct.Struct("<" + code)
        return form.unpack(self.take(form.size))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "backslashreplace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            text = self.string()
            return text if len(text) <= _TEXT else f"text, {len(text)} letters, {blake3(text.encode()).hexdigest()}"
        if kind == _ARRAY:
            return self._array(self.number("I"), self.number("Q"))
        if kind not in _SCALARS:
            raise Malformed(f"has a value of a type that is not known here: {kind}")
        return _finite(self.number(_SCALARS[kind]))

    def _array(self, kind: int, count: int) -> Any:
        if kind == _ARRAY:
            raise Malformed("has arrays within arrays")
        if kind in _SCALARS and count > _SHOWN:
            digest, left = blake3(), count * struct.calcsize("<" + _SCALARS[kind])
            while left:
                data = self.take(min(left, 1 << 20))
                digest.update(data)
                left -= len(data)
            return f"array, {count} numbers, {digest.hexdigest()}"
        if count <= _SHOWN:
            return [self.value(kind) for _ in range(count)]
        digest = blake3()
        for _ in range(count):
            text = self.take(self.number("Q")) if kind == _STRING else b""
            if kind != _STRING:
                raise Malformed(f"has an array of a type that is not known here: {kind}")
            digest.update(len(text).to_bytes(8, "little") + text)
        return f"array, {count} texts, {digest.hexdigest()}"

    def place(self) -> Place:
        name, dimensions = self.string(), self.number("I")
        if dimensions > 8:
            raise Malformed(f"has a tensor of {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        return name, shape[::-1], self.number("I"), self.number("Q")  # ggml names the fastest dimension first


def _finite(value: Any) -> Any:
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
