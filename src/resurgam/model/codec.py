"""Values to bytes and back: JSON for what people and other tools read, MessagePack for what lies inside pages.

Both are deterministic (keys sorted, smallest form of each number), so that equal values have equal bytes and therefore
equal digests. Unknown fields are ignored on reading; they are never lost, since a record is never written again (P2).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

import msgspec

from resurgam.errors import IntegrityError, NewerFormat

T = TypeVar("T")

_json = msgspec.json.Encoder(order="sorted")
_msgpack = msgspec.msgpack.Encoder(order="sorted")
_DECODERS: dict[tuple[Any, Any], Any] = {}
_LEARNING = Lock()
# A copy of this process has one thread: it must find no lock that another one held, and no type that another one was learning.
os.register_at_fork(before=_LEARNING.acquire, after_in_parent=_LEARNING.release, after_in_child=_LEARNING.release)


def json_decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """What decodes JSON as ``kind``, in any thread. Raises in ``decode`` what msgspec raises."""
    found: msgspec.json.Decoder[T] = _ready(msgspec.json.Decoder, kind)
    return found


def msgpack_decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    """What decodes MessagePack as ``kind``, in any thread. Raises in ``decode`` what msgspec raises."""
    found: msgspec.msgpack.Decoder[T] = _ready(msgspec.msgpack.Decoder, kind)
    return found


def _ready(of: Callable[[Any], Any], kind: Any) -> Any:
    """Made once, by one thread at a time: msgspec 0.22 learns a type when that is first decoded. Where two threads do so at once,
    the second uses what is half learned, which ends the process (SIGSEGV)."""
    found = _DECODERS.get((of, kind))
    if found is None:
        with _LEARNING:
            found = _DECODERS[of, kind] = of(kind)
    return found


def to_json(value: object) -> bytes:
    """Deterministic JSON of a struct or plain value."""
    return _json.encode(value)


def from_json(data: bytes | memoryview, kind: type[T], *, what: str) -> T:
    """Decode ``data`` as ``kind``; ``what`` names it in the error.

    Raises IntegrityError where the bytes are not such a value.
    """
    try:
        return json_decoder(kind).decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise _unreadable(what, error) from error


def versioned(data: bytes | memoryview, kind: type[T], known: int, *, what: str) -> T:
    """Decode ``data`` as ``kind`` where its ``format`` is at most ``known``, which is looked at before anything else.

    Raises NewerFormat, and IntegrityError where the bytes are not such a value.
    """
    require_format(from_json(data, _Format, what=what).format, known, what=what)
    return from_json(data, kind, what=what)


class _Format(msgspec.Struct):
    format: int


def to_msgpack(value: object) -> bytes:
    """Deterministic MessagePack of a struct or plain value."""
    return _msgpack.encode(value)


def from_msgpack(data: bytes | memoryview, kind: type[T], *, what: str) -> T:
    """Decode ``data`` as ``kind``; ``what`` names it in the error.

    Raises IntegrityError where the bytes are not such a value.
    """
    try:
        return msgpack_decoder(kind).decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise _unreadable(what, error) from error


def to_plain(value: object) -> Any:
    """A struct as plain dicts, lists, strings and numbers, for ``--json`` and for people's eyes."""
    return msgspec.to_builtins(value, order="sorted")


def require_format(found: int, known: int, *, what: str) -> None:
    """Refuse what a newer release wrote (raises NewerFormat)."""
    if found > known:
        raise NewerFormat(
            f"{what} has format {found}; this release reads up to {known}.",
            untouched="Nothing was changed.",
            next_step="Upgrade Resurgam and run the same command again.",
        )


def _unreadable(what: str, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"{what} cannot be read: {error}.",
        untouched="Nothing was changed.",
        next_step="Run `resurgam vault check` to see what else is damaged.",
    )
