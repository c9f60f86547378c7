"""ONNX: a protocol buffer, walked field by field so that no tensor need be in memory, and no limit of 2 GB holds.

Only the parts that name tensors and say what the model takes and gives are looked at; the nodes are known by one digest. The
numbers are those of ``onnx.proto`` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), the encoding that of
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from blake3 import blake3

from resurgam.drivers.tensor import Malformed, Model, Tensor, Window, as_text, decoder, size_of

_DTYPES = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 8: "STRING", 9: "BOOL", 10: "F16", 11: "F64",
    12: "U32", 13: "U64", 14: "C64", 15: "C128", 16: "BF16", 17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2",
    20: "F8_E5M2FNUZ", 21: "U4", 22: "I4", 23: "F4",
}  # fmt: skip
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_PLAIN = {4: "F32", 10: "F64"}  # fields of a tensor whose packed numbers lie as in memory
_NUMBERS = {5, 6, 7, 11}  # fields of a tensor that hold variable-length integers or texts
_MAX_TEXT = 1 << 20
_AHEAD = 16 << 10  # bytes read at a time; a field's head is at most two varints
_LONGEST_HEAD = 20


class _Field(NamedTuple):
    """One field of a message: its number, the value of an integer, and where its bytes lie. ``packed`` where it has a length."""

    number: int
    value: int
    start: int
    end: int
    packed: bool


class _Span(NamedTuple):
    start: int
    end: int


def read_onnx(window: Window) -> Model:
    """Raises Malformed."""
    model, graphs, opsets = Model("onnx"), 0, {}
    texts = {2: "producer.name", 3: "producer.version", 4: "domain", 6: "doc"}
    for found in _fields(window, _Span(0, window.size)):
        if found.number == 1:
            model.metadata["ir_version"] = str(found.value)
        elif found.number in texts:
            model.metadata[texts[found.number]] = _text(window, found)
        elif found.number == 7:
            graphs += 1
            _graph(window, found, model)
        elif found.number == 8:
            domain, version = _pair(window, found, 1, 2)
            opsets[domain or "ai.onnx"] = version
        elif found.number == 14:
            key, value = _pair(window, found, 1, 2)
            model.metadata[f"metadata.{key}"] = value
    if graphs != 1:
        raise Malformed("is no ONNX model: it has no graph")
    model.metadata |= {f"opset.{domain}": version for domain, version in opsets.items()}
    model.require_names_once()
    return model


def _graph(window: Window, graph: _Field, model: Model) -> None:
    nodes, count = blake3(), 0
    for found in _fields(window, graph):
        if found.number == 1:
            count += 1
            nodes.update((found.end - found.start).to_bytes(8, "little"))
            for piece in window.pieces(found.start, found.end - found.start):
                nodes.update(piece)
        elif found.number == 2:
            model.metadata["graph.name"] = _text(window, found)
        elif found.number == 5:
            _tensor(window, found, model)
        elif found.number in {11, 12}:
            name, form = _value_info(window, found)
            model.metadata[f"{'input' if found.number == 11 else 'output'}.{name}"] = form
        elif found.number == 15:
            model.notes.append("has sparse tensors, which are seen as bytes only")
    model.metadata["graph.nodes"] = str(count)
    model.metadata["graph.digest"] = nodes.hexdigest()


def _tensor(window: Window, message: _Field, model: Model) -> None:
    shape: list[int] = []
    name, kind, raw, outside, parts = "", 0, None, dict[str, str](), list[_Field]()
    for found in _fields(window, message):
        if found.number == 1:
            shape += _integers(window, found)
        elif found.number == 2:
            kind = found.value
        elif found.number == 8:
            name = _text(window, found)
        elif found.number == 9:
            raw = found
        elif found.number in _PLAIN or found.number in _NUMBERS:
            parts.append(found)
        elif found.number == 13:
            key, value = _pair(window, found, 1, 2)
            outside[key] = value
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise Malformed(f"has a tensor {name!r} of a type that is not known here: {kind}")
    if outside:
        _elsewhere(model, name, dtype, tuple(shape), outside)
    elif raw is not None:
        model.add(_lying(window, name, dtype, tuple(shape), [raw], plain=True))
    else:
        plain = bool(parts) and all(_PLAIN.get(part.number) == dtype for part in parts)
        model.add(_lying(window, name, dtype, tuple(shape), parts, plain))


def _lying(window: Window, name: str, dtype: str, shape: tuple[int, ...], parts: list[_Field], plain: bool) -> Tensor:
    """A tensor whose bytes lie in these fields; ``plain`` where they are numbers as in memory."""

    def pieces() -> Iterator[bytes]:
        for part in parts:
            yield from window.pieces(part.start, part.end - part.start)

    size = sum(part.end - part.start for part in parts)
    if plain and size != size_of(dtype, shape):
        raise Malformed(f"gives {size} bytes to {name!r}, which is {dtype} {list(shape)}")
    return Tensor(name, dtype, shape, size, pieces, decoder(dtype) if plain else None)


def _elsewhere(model: Model, name: str, dtype: str, shape: tuple[int, ...], outside: dict[str, str]) -> None:
    """A tensor in another file: its place is kept as metadata, its bytes are that file's."""
    place = outside.get("location", "")
    try:
        offset = int(outside.get("offset") or 0)
        length = int(outside.get("length") or size_of(dtype, shape))
    except ValueError as error:
        raise Malformed(f"says of {name!r} that it lies at {outside!r}") from error
    model.elsewhere[place] = max(model.elsewhere.get(place, 0), offset + length)
    model.metadata[f"external.{name}"] = as_text(
        {"dtype": dtype, "shape": list(shape), "location": place, "offset": offset, "length": length}
    )


def _value_info(window: Window, message: _Field) -> tuple[str, str]:
    """Name and form of an input or output, as ``F32[batch,384]``."""
    name, form = "", "?"
    for found in _fields(window, message):
        if found.number == 1:
            name = _text(window, found)
        elif found.number == 2:
            for kind in _fields(window, found):
                if kind.number == 1:
                    form = _tensor_type(window, kind)
    return name, form


def _tensor_type(window: Window, message: _Field) -> str:
    dtype, lengths = "?", list[str]()
    for found in _fields(window, message):
        if found.number == 1:
            dtype = _DTYPES.get(found.value, str(found.value))
        elif found.number == 2:
            for dimension in _fields(window, found):
                lengths.append(next(iter(_lengths(window, dimension)), "?"))
    return f"{dtype}[{','.join(lengths)}]"


def _lengths(window: Window, dimension: _Field) -> Iterator[str]:
    for found in _fields(window, dimension):
        if found.number == 1:
            yield str(found.value)
        elif found.number == 2:
            yield _text(window, found)


def _pair(window: Window, message: _Field, key: int, value: int) -> tuple[str, str]:
    texts = {key: "", value: ""}
    for found in _fields(window, message):
        if found.number in texts:
            texts[found.number] = _text(window, found) if found.packed else str(found.value)
    return texts[key], texts[value]


def _text(window: Window, found: _Field) -> str:
    length = found.end - found.start
    if length > _MAX_TEXT:
        digest = blake3()
        for piece in window.pieces(found.start, length):
            digest.update(piece)
        return f"text, {length} bytes, {digest.hexdigest()}"
    return window.at(found.start, length).decode("utf-8", "backslashreplace")


def _integers(window: Window, found: _Field) -> list[int]:
    """A repeated integer: packed, or one of several fields."""
    if not found.packed:
        return [found.value]
    data, at, numbers = window.at(found.start, found.end - found.start), 0, []
    while at < len(data):
        value, at = _varint(data, at)
        numbers.append(value)
    return numbers


def _fields(window: Window, message: _Field | _Span) -> Iterator[_Field]:
    """The fields of a message, read through a buffer that large fields skip. Raises Malformed where one ends outside."""
    at, end, buffer, base = message.start, message.end, b"", 0
    while at < end:
        reach = base + len(buffer)
        if reach < end and at + _LONGEST_HEAD > reach:
            base, buffer = at, window.at(at, min(end - at, _AHEAD))
        tag, place = _varint(buffer, at - base)
        number, wire = tag >> 3, tag & 7
        value, start = 0, base + place
        if wire == _VARINT:
            value, place = _varint(buffer, place)
            stop = base + place
        elif wire == _LEN:
            length, place = _varint(buffer, place)
            start, stop = base + place, base + place + length
        elif wire in {_I64, _I32}:
            stop = start + (8 if wire == _I64 else 4)
        else:
            raise Malformed("is no protocol buffer")
        if not at < stop <= end or not number:
            raise Malformed("is no protocol buffer, or ends early")
        yield _Field(number, value, start, stop, wire == _LEN)
        at = stop


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed("is no protocol buffer, or ends early")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (value - (1 << 64) if value >> 63 & 1 else value & ((1 << 64) - 1)), at
        shift += 7
