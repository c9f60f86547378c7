"""Files of numbers as tensors: named, with dtype and shape, their bytes read piece by piece and measured.

A parser (``tensor_formats``) turns a file's bytes into a :class:`Model`: tensors and what else the header says. It reads only,
by position, through a :class:`Window`; it never executes, unpickles or trusts what it reads, and whatever is not as its format
says becomes :class:`Malformed`, whose text is for people.

A tensor is measured by two numbers: the BLAKE3 of its bytes, and its L2 norm in float64. The norm is made of partial sums over
pieces of fixed size, added exactly (``math.fsum``), and rounded to 12 digits, so that equal bytes give equal norms anywhere.

Dtypes have the words of safetensors (``F32``, ``BF16``, ``I64``, ``BOOL``); quantized ones those of ggml (``Q4_K``).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from resurgam.drivers.base import Source, read_fully
from resurgam.model.codec import to_json

PIECE = 4 << 20  # bytes of a tensor in memory at a time
MAX_AT_ONCE = 64 << 20  # bytes that a header may ask for in one go
MAX_TENSORS = 1_000_000

Floats = npt.NDArray[np.float64]
Decode = Callable[[bytes], Floats]

_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8", "C128": "<c16",
}  # fmt: skip
BITS = {word: 8 * np.dtype(code).itemsize for word, code in _NUMPY.items()} | {
    "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "I4": 4, "U4": 4,
}  # fmt: skip


class Malformed(Exception):
    """A file is not what its format says. The text tells people what is wrong; it begins in lower case."""


class Window:
    """The bytes of one file, read by position, never beyond its end."""

    def __init__(self, source: Source, size: int) -> None:
        self._source, self.size = source, size

    def at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``. Raises Malformed where they are not there, or are too many to hold."""
        self.require(offset, length)
        if length > MAX_AT_ONCE:
            raise Malformed(f"asks for {length} bytes at once")
        buffer = bytearray(length)
        if read_fully(self._source, offset, memoryview(buffer)) != length:
            raise Malformed("ends early")
        return bytes(buffer)

    def require(self, offset: int, length: int) -> None:
        """Raises Malformed unless ``length`` bytes from ``offset`` lie in the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Malformed(f"claims bytes {offset} to {offset + length} of a file of {self.size}")

    def pieces(self, offset: int, length: int, unit: int = 1) -> Iterator[bytes]:
        """The bytes from ``offset`` in pieces of about PIECE, each a multiple of ``unit``."""
        self.require(offset, length)
        step = max(PIECE // unit, 1) * unit
        for start in range(offset, offset + length, step):
            yield self.at(start, min(step, offset + length - start))

    def head(self, length: int) -> bytes:
        """The first ``length`` bytes, or as many as there are."""
        return self.at(0, min(length, self.size))

    def file(self) -> io.BufferedReader:
        """The same bytes as a file, for libraries that want one."""
        return io.BufferedReader(_File(self), 1 << 16)


class _File(io.RawIOBase):
    def __init__(self, window: Window) -> None:
        self._window, self._at = window, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._window.size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._window.at(self._at, max(0, min(len(buffer), self._window.size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Tensor(NamedTuple):
    """One tensor. ``pieces`` reads its ``size`` bytes anew at each call, each piece whole numbers; ``decode`` turns a piece into
    numbers, and is None where they have no norm here."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    pieces: Callable[[], Iterator[bytes]]
    decode: Decode | None

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class Measure(NamedTuple):
    """``digest`` is the BLAKE3 of the bytes in hex, ``norm`` the L2 norm, None where there is none (or it is not finite)."""

    digest: str
    norm: float | None


@dataclass(slots=True)
class Model:
    """One file. ``metadata`` is what the header says beside tensors, as text; ``notes`` what people should know of it;
    ``elsewhere`` names files that hold tensors of this one, with the bytes that they must have."""

    format: str
    tensors: list[Tensor] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    elsewhere: dict[str, int] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> None:
        """Raises Malformed for more tensors than a model has."""
        if len(self.tensors) >= MAX_TENSORS:
            raise Malformed(f"has more than {MAX_TENSORS} tensors")
        self.tensors.append(tensor)

    def require_names_once(self) -> None:
        """Raises Malformed where two tensors have one name."""
        seen: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in seen:
                raise Malformed(f"has two tensors named {tensor.name!r}")
            seen.add(tensor.name)


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor. Raises Malformed for an unknown dtype and a shape that is none."""
    if dtype not in BITS:
        raise Malformed(f"has a dtype that is not known here: {dtype!r}")
    if any(length < 0 for length in shape):
        raise Malformed(f"has a shape that cannot be: {shape}")
    return -(-BITS[dtype] * math.prod(shape) // 8)


def stretch(window: Window, name: str, dtype: str, shape: tuple[int, ...], offset: int, size: int) -> Tensor:
    """A tensor that lies in the file as it is. Raises Malformed where it does not, or its shape asks for another size."""
    window.require(offset, size)
    if size_of(dtype, shape) != size:
        raise Malformed(f"gives {size} bytes to {name!r}, which is {dtype} {list(shape)}")
    return Tensor(name, dtype, shape, size, lambda: window.pieces(offset, size), decoder(dtype))


def decoder(dtype: str) -> Decode | None:
    """Turns bytes of ``dtype`` into numbers; None for small floats and packed integers."""
    if dtype == "BF16":  # the upper half of a float32
        return lambda data: (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    code = _NUMPY.get(dtype)
    if code is None:
        return None
    if code in {"<c8", "<c16"}:
        return lambda data: np.abs(np.frombuffer(data, code)).astype(np.float64)
    return lambda data: np.frombuffer(data, code).astype(np.float64)


def measure(tensor: Tensor) -> Measure:
    """Read the tensor once. Raises Malformed where its bytes are not there."""
    digest, squares, done = blake3(), [], 0
    for piece in tensor.pieces():
        digest.update(piece)
        done += len(piece)
        if tensor.decode is not None:
            squares.append(_sum_of_squares(tensor.decode(piece)))
    if done != tensor.size:
        raise Malformed(f"has {done} of the {tensor.size} bytes of {tensor.name!r}")
    return Measure(digest.hexdigest(), _root(squares) if tensor.decode is not None else None)


def _sum_of_squares(numbers: Floats) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.add.reduce(numbers * numbers))


def _root(squares: list[float]) -> float | None:
    if not all(map(math.isfinite, squares)):
        return None
    return float(f"{math.sqrt(math.fsum(squares)):.12g}")


class Change(NamedTuple):
    """How one tensor differs: ``sign`` is ``+``, ``-`` or ``~``. ``distance`` is the L2 norm of the difference where both have
    one shape and numbers, else None."""

    name: str
    sign: str
    before: Measure | None
    after: Measure | None
    distance: float | None


def changes(before: Model, after: Model) -> Iterator[Change]:
    """The tensors that differ, by name. Reads those that both have; holds one piece of each at a time."""
    old = {tensor.name: tensor for tensor in before.tensors}
    new = {tensor.name: tensor for tensor in after.tensors}
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield Change(name, "-", measure(old[name]), None, None)
        elif name not in old:
            yield Change(name, "+", None, measure(new[name]), None)
        else:
            a, b = old[name], new[name]
            left, right = measure(a), measure(b)
            if (a.dtype, a.shape, left.digest) != (b.dtype, b.shape, right.digest):
                yield Change(name, "~", left, right, _distance(a, b))


def _distance(a: Tensor, b: Tensor) -> float | None:
    if a.decode is None or b.decode is None or (a.dtype, a.shape) != (b.dtype, b.shape):
        return None
    squares = [
        _sum_of_squares(a.decode(left) - b.decode(right)) for left, right in zip(a.pieces(), b.pieces(), strict=True)
    ]
    return _root(squares)


def as_text(value: object) -> str:
    """A header's value as text for people and queries: text as it is, all else as JSON."""
    return value if isinstance(value, str) else to_json(value).decode()
