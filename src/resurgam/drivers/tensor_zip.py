"""Zip archives of numbers: ``.npz`` of NumPy, and what ``torch.save`` writes. Neither is unpickled.

A torch archive is a folder with ``data.pkl``, which says which tensor lies where, and ``data/KEY``, the storages. Several tensors
may share a storage; one may lie in it with strides. An ``.npz`` is one ``.npy`` per array.

A member is read as far as its directory says and no further, and all members together may unpack to UNPACKED times the file
and ROOM bytes; beyond that the file is seen as bytes only.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from typing import Any

from resurgam.drivers.tensor import (
    MAX_AT_ONCE,
    MAX_TENSORS,
    PIECE,
    Malformed,
    Model,
    Tensor,
    Window,
    as_text,
    decoder,
    size_of,
)
from resurgam.drivers.tensor_npy import read_array_header
from resurgam.drivers.tensor_pickle import Call, Name, Stored, read_pickle

UNPACKED, ROOM = 64, 1 << 30
_DEPTH, _SHOWN = 32, 1000
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64", "ComplexDoubleStorage": "C128",
}  # fmt: skip


def read_zip(window: Window) -> Model | None:
    """None for an archive of anything else. Raises Malformed."""
    archive = zipfile.ZipFile(window.file())  # holds no descriptor, so it lives as long as the tensors that read it
    members = archive.infolist()
    names = [member.filename for member in members]
    index = next((name for name in names if name == "data.pkl" or name.endswith("/data.pkl")), None)
    if index is None and not (names and all(name.endswith(".npy") for name in names)):
        return None
    if len(set(names)) != len(names):
        raise Malformed("is an archive with two members of one name")
    unpacked = sum(member.file_size for member in members)
    if unpacked > UNPACKED * window.size + ROOM:
        raise Malformed(f"would unpack to {unpacked} bytes")
    sizes = {member.filename: member.file_size for member in members}
    return _torch(archive, index.removesuffix("data.pkl"), sizes) if index is not None else _npz(archive, sizes)


def _npz(archive: zipfile.ZipFile, sizes: dict[str, int]) -> Model:
    model = Model("npz")
    for member, size in sizes.items():
        with archive.open(member) as array:
            dtype, shape, code = read_array_header(array)
            data = array.tell()
        if code != dtype:
            model.metadata[f"stored.{member.removesuffix('.npy')}"] = code
        if dtype == "object":
            model.notes.append(f"has an array of objects, {member!r}, which is seen as bytes only")
            continue
        if size_of(dtype, shape) != size - data:
            raise Malformed(f"gives {size - data} bytes to {member!r}, which is {dtype} {list(shape)}")
        model.add(_tensor(archive, member.removesuffix(".npy"), dtype, shape, member, data))
    model.require_names_once()
    return model


def _torch(archive: zipfile.ZipFile, folder: str, sizes: dict[str, int]) -> Model:
    model = Model("torch", metadata={"archive": folder.rstrip("/")})
    index = folder + "data.pkl"
    if sizes[index] > MAX_AT_ONCE:
        raise Malformed(f"has an index of {sizes[index]} bytes")
    said = read_pickle(archive.read(index))
    for name in ("byteorder", "version"):
        if 0 < sizes.get(folder + name, 0) < 100:
            model.metadata[name] = archive.read(folder + name).decode("ascii", "replace").strip()
    if model.metadata.get("byteorder", "little") != "little":
        raise Malformed("is written in big-endian order")
    search = _Search()
    for name, value in search.tensors(said, "", 0):
        model.add(_rebuilt(archive, name, value, folder, sizes))
    model.metadata |= search.plain
    if search.others:
        shown = ", ".join(sorted(search.others)[:5])
        model.notes.append(f"holds more than tensors ({shown}), which is seen as bytes only and never run")
    model.require_names_once()
    return model


class _Search:
    """Looks for tensors in what a pickle says. What else it meets: ``others`` by name, ``plain`` values by the way to each."""

    def __init__(self) -> None:
        self.others: set[str] = set()
        self.plain: dict[str, str] = {}
        self._left = MAX_TENSORS  # a pickle may hold one list many times over, and that in another one

    def tensors(self, value: Any, path: str, depth: int) -> Iterator[tuple[str, Call]]:
        """Each tensor's call with the way to it. Raises Malformed."""
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            raise Malformed("is nested too deep, or too often")
        if isinstance(value, Call):
            yield from self._call(value, path, depth)
        elif isinstance(value, Name | Stored):
            self.others.add(value.words.replace(" ", ".") if isinstance(value, Name) else "a storage")
        elif isinstance(value, dict | list | tuple):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from self.tensors(inner, f"{path}.{key}" if path else str(key), depth + 1)
        elif path and (text := _plain(value)) is not None:
            self.plain[f"value.{path}"] = text

    def _call(self, call: Call, path: str, depth: int) -> Iterator[tuple[str, Call]]:
        function = call.function.words if isinstance(call.function, Name) else "?"
        if function.startswith("torch._utils _rebuild_parameter") and call.arguments:
            yield from self.tensors(call.arguments[0], path, depth + 1)
        elif function.startswith("torch._utils _rebuild_tensor"):
            yield path, call
        else:
            self.others.add(function.replace(" ", "."))


def _plain(value: Any) -> str | None:
    """A plain value as text; None where it is too long to show, or bytes."""
    if (isinstance(value, int) and value.bit_length() > 63) or isinstance(value, bytes):
        return None
    return text if len(text := as_text(value)) < _SHOWN else None


def _rebuilt(archive: zipfile.ZipFile, name: str, call: Call, folder: str, sizes: dict[str, int]) -> Tensor:
    """The tensor of ``_rebuild_tensor_v2(storage, offset, size, stride, ...)``."""
    match call.arguments:
        case (Stored(("storage", Name(kind), str(key), _, int())), int(offset), tuple(shape), tuple(stride), *_):
            pass
        case _:
            raise Malformed(f"has a tensor {name!r} in a form that is not known here")
    dtype = _STORAGES.get(kind.removeprefix("torch "))
    if dtype is None or not all(isinstance(number, int) and number >= 0 for number in (*shape, *stride, offset)):
        raise Malformed(f"has a tensor {name!r} of {kind}, in a form that is not known here")
    member, width = f"{folder}data/{key}", size_of(dtype, (1,))
    reach = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if math.prod(shape) else 0
    if member not in sizes or (offset + reach) * width > sizes[member]:
        raise Malformed(f"has a tensor {name!r} that reaches beyond its storage")
    tensor = _tensor(archive, name, dtype, tuple(shape), member, offset * width, reach * width)
    return tensor if reach == math.prod(shape) else tensor._replace(decode=None)  # with gaps: no norm


def _tensor(
    archive: zipfile.ZipFile,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    member: str,
    offset: int,
    size: int | None = None,
) -> Tensor:
    """A tensor that lies in a member, ``offset`` bytes from its begin."""
    length = size_of(dtype, shape) if size is None else size

    def pieces() -> Iterator[bytes]:
        with archive.open(member) as data:
            data.seek(offset)
            left = length
            while left:
                piece = data.read(min(left, PIECE))
                if not piece:
                    raise Malformed(f"ends within {member!r}")
                left -= len(piece)
                yield piece

    return Tensor(name, dtype, shape, length, pieces, decoder(dtype))
