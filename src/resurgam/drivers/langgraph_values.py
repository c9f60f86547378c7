"""What LangGraph's serializer wrote, as JSON text: structure and words, and never an object of any class.

``JsonPlusSerializer`` (langgraph-checkpoint, ``checkpoint/serde/jsonplus.py``) names beside each value how it was written:

    null, bytes, bytearray    as they are
    json, msgpack             decoded here; objects are MessagePack extensions that hold (module, name, payload)
    pickle                    never opened: to unpickle is to run what is written there
    KIND+CIPHER               encrypted by ``EncryptedSerializer``: opaque without its key, which is never captured

An object becomes ``{"type": "module.Name", "value": payload}``; nothing is imported and nothing is called. What is not
opened becomes ``{"opaque": kind, …}``, what ought to open and does not ``{"undecodable": kind, …}``, both with size and digest,
so that a change still shows.
"""

from __future__ import annotations

from typing import Any

import msgspec
from blake3 import blake3

from resurgam.model.system import Json

MAX_DEPTH = 500  # of values inside values; SQLite's JSON functions stop at 2000

_NUMPY_ARRAY, _DELTA_SNAPSHOT = 6, 7
_OBJECTS = frozenset(
    range(6)
)  # extensions 0 to 5 differ in how the library would call the class, not in what they hold
_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, IndexError, RecursionError)


def as_json(kind: str | None, data: bytes | str | None) -> str:
    """The value written as ``kind``, as JSON text. Never raises for what the bytes hold."""
    raw = data.encode() if isinstance(data, str) else data or b""
    try:
        value = _decoded(kind or "null", raw)
        _require_shallow(value, MAX_DEPTH)
        return msgspec.json.encode(value, order="sorted").decode()
    except _UNREADABLE:
        return msgspec.json.encode({"undecodable": str(kind)} | _told(raw)).decode()


def _decoded(kind: str, data: bytes) -> Json:
    match kind:
        case "null":
            return None
        case "bytes" | "bytearray":
            return {"type": kind, "value": _told(data)}
        case "json":
            return msgspec.json.decode(data)
        case "msgpack":
            return _unpacked(data)
        case _:
            return {"opaque": kind} | _told(data)


def _unpacked(data: bytes | memoryview) -> Json:
    return msgspec.msgpack.decode(data, ext_hook=_inert)


def _inert(code: int, data: memoryview) -> Json:
    """An extension as plain values: the name of its class is kept as text, the class is left alone."""
    if code in _OBJECTS:
        module, name, payload = _unpacked(data)[:3]
        return {"type": f"{module}.{name}", "value": payload}
    if code == _NUMPY_ARRAY:
        dtype, shape, order, buffer = _unpacked(data)
        return {"type": "numpy.ndarray", "value": {"dtype": dtype, "shape": shape, "order": order} | _told(buffer)}
    if code == _DELTA_SNAPSHOT:
        return {"type": "DeltaSnapshot", "value": _unpacked(data)}
    return {"type": f"extension {code}", "value": _told(bytes(data))}


def _told(data: bytes) -> dict[str, Json]:
    return {"bytes": len(data), "blake3": blake3(data).hexdigest()}


def _require_shallow(value: Any, room: int) -> None:
    if not room:
        raise ValueError("too deep")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for child in value:
        if isinstance(child, dict | list | tuple):
            _require_shallow(child, room - 1)
