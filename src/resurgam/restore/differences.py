"""How two values differ, in the language of what they are. Values in, values out; nothing is read here.

    number, short text      before and after
    long text               the stretch that differs, and where it stands; several lines become a unified diff
    JSON                    member by member, each named by its path
    vector                  how far it moved: cosine distance, L2, dimensions
    other bytes             sizes and digests

A vector is bytes of whole float32 numbers under a name that says so (``vector``, ``embedding``): nothing else in a row tells it
from any other bytes. Everything passes through a ``Mask`` before it is cut short, so that no half of a secret slips through.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3

from resurgam.model.codec import to_json, to_plain
from resurgam.model.system import Json

SHORT = 96  # characters of a value in a line
AROUND = 24  # characters before and after the stretch that differs
LINES = 40  # of a unified diff
MEMBERS = 40  # of a JSON value
TEXT_MOST = 256 << 10  # characters that are compared line by line
_CONTEXT = 1
_VECTOR = re.compile(r"vector|embedding", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MISSING: Any = object()

Mask = Callable[[str, str], str]  # a text and the name that it stands under to the text as people may see it


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one value differs. ``before`` and ``after`` are JSON texts, cut where they are long, None where there is nothing on that
    side; ``said`` is in words; ``lines`` are those of a unified diff."""

    name: str
    before: str | None = None
    after: str | None = None
    said: str = ""
    lines: tuple[str, ...] = ()


def changed(name: str, before: Json, after: Json, mask: Mask) -> Iterator[Value]:
    """How ``after`` differs from ``before``: nothing where they are equal."""
    if type(before) is type(after) and before == after and not isinstance(before, dict | list):
        return  # in a structure 1 and true are equal to Python, and different here
    if isinstance(before, bytes) and isinstance(after, bytes):
        yield _moved(name, before, after) if _VECTOR.search(name) else _bytes(name, before, after)
        return
    old, new = _structure(before), _structure(after)
    if isinstance(old, dict | list) and type(old) is type(new):
        values = list(_members(name, old, new, mask))
        if not values and isinstance(before, str):
            values.append(Value(name=name, said="the same JSON value, written otherwise"))
        yield from values
    elif isinstance(before, str) and isinstance(after, str):
        yield text(name, mask(before, name), mask(after, name))
    else:
        yield Value(name=name, before=shown(name, before, mask), after=shown(name, after, mask))


def only(columns: Sequence[str], row: Sequence[Json], side: str, mask: Mask) -> Iterator[Value]:
    """A row that one side alone has: ``side`` is ``before`` or ``after``. What is NULL is left out."""
    for name, value in zip(columns, row, strict=True):
        if value is not None:
            words = shown(name, value, mask)
            yield Value(name=name, before=words) if side == "before" else Value(name=name, after=words)


def text(name: str, before: str, after: str) -> Value:
    """How a text differs that may be seen as it is."""
    if before == after:
        return Value(name=name, said="differs in what is hidden here")
    if "\n" in before.rstrip("\n") or "\n" in after.rstrip("\n"):
        return Value(name=name, lines=unified(before, after))
    if max(len(before), len(after)) <= SHORT:
        return Value(name=name, before=_quoted(before), after=_quoted(after))
    start = _common(before, after)
    end = min(_common(before[::-1], after[::-1]), min(len(before), len(after)) - start)
    old, new = (_stretch(each, start, len(each) - end) for each in (before, after))
    return Value(name=name, before=old, after=new, said=f"at character {start + 1} of {len(before)}")


def unified(before: str, after: str) -> tuple[str, ...]:
    """A unified diff without its head, cut where it is long."""
    if max(len(before), len(after)) > TEXT_MOST:
        return (f"too long to compare line by line: {len(before)} and {len(after)} characters",)
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=_CONTEXT)
    lines = [_line(each) for each in islice(found, 2, None)]
    if not lines:
        return ("only the ends of lines differ",)
    more = len(lines) - LINES
    return (*lines[:LINES], f"... and {more} more lines") if more > 0 else tuple(lines)


def shown(name: str, value: Json, mask: Mask) -> str:
    """A value as JSON text in one line, cut where it is long; bytes in words."""
    if isinstance(value, bytes):
        if _VECTOR.search(name) and value and not len(value) % 4:
            return f"a vector of {len(value) // 4} dimensions"
        return f"{len(value)} bytes, blake3 {blake3(value).hexdigest()[:12]}"
    if isinstance(value, str):
        return _quoted(mask(value, name))
    return _short(mask(to_json(to_plain(value)).decode(), name))


def printable(words: str) -> str:
    """``words`` without what steers a terminal or turns the direction of writing."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), words)


def _moved(name: str, before: bytes, after: bytes) -> Value:
    """Two vectors of little-endian float32. Distances in float64."""
    if not before or not after or len(before) % 4 or len(after) % 4:
        return _bytes(name, before, after)
    old, new = (np.frombuffer(side, "<f4").astype(np.float64) for side in (before, after))
    if old.size != new.size:
        return Value(name=name, said=f"another dimension: {old.size} -> {new.size}")
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        return Value(name=name, said=f"holds values that are no numbers ({new.size} dimensions)")
    length = float(np.linalg.norm(old) * np.linalg.norm(new))
    cosine = f"cosine distance {max(0.0, 1 - float(old @ new) / length):.3g}, " if length else ""
    distance = float(np.linalg.norm(new - old))
    return Value(name=name, said=f"moved: {cosine}L2 {distance:.3g} ({new.size} dimensions)")


def _bytes(name: str, before: bytes, after: bytes) -> Value:
    unmasked = lambda words, _: words  # noqa: E731  sizes and digests hold no secret
    return Value(name=name, before=shown("", before, unmasked), after=shown("", after, unmasked))


def _structure(value: Json) -> Json:
    """The JSON value in a text; whatever else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _members(name: str, before: Json, after: Json, mask: Mask) -> Iterator[Value]:
    """Every member that differs, by its path below ``name``; at most MEMBERS, and how many more."""
    found = list(islice(_walk(name, before, after, mask), MEMBERS + 1))
    yield from found[:MEMBERS]
    if len(found) > MEMBERS:
        yield Value(name=name, said="more members differ")


def _walk(path: str, before: Json, after: Json, mask: Mask) -> Iterator[Value]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _member(f"{path}.{key}", before.get(key, _MISSING), after.get(key, _MISSING), mask)
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            old, new = (side[place] if place < len(side) else _MISSING for side in (before, after))
            yield from _member(f"{path}[{place}]", old, new, mask)
    elif isinstance(before, str) and isinstance(after, str):
        if before != after:
            yield text(path, mask(before, _last(path)), mask(after, _last(path)))
    elif type(before) is not type(after) or before != after:
        old, new = (shown(_last(path), side, mask) for side in (before, after))
        yield Value(name=path, before=old, after=new)


def _member(path: str, before: Json, after: Json, mask: Mask) -> Iterator[Value]:
    if before is _MISSING:
        yield Value(name=path, after=shown(_last(path), after, mask))
    elif after is _MISSING:
        yield Value(name=path, before=shown(_last(path), before, mask))
    else:
        yield from _walk(path, before, after, mask)


def _last(path: str) -> str:
    return re.sub(r"\[\d+\]$", "", path).rpartition(".")[2]


def _quoted(words: str) -> str:
    return json.dumps(_short(words), ensure_ascii=False)


def _short(words: str) -> str:
    words = printable(words)
    return words if len(words) <= SHORT else f"{words[: SHORT - 1]}\N{HORIZONTAL ELLIPSIS}"


def _common(a: str, b: str) -> int:
    """How many characters ``a`` and ``b`` begin with in common."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _stretch(words: str, start: int, end: int) -> str:
    """The part of ``words`` from ``start`` to ``end`` with a little around it."""
    first, last = max(0, start - AROUND), min(len(words), end + AROUND)
    head, tail = "\N{HORIZONTAL ELLIPSIS}" * (first > 0), "\N{HORIZONTAL ELLIPSIS}" * (last < len(words))
    return _quoted(f"{head}{words[first:last]}{tail}")


def _line(words: str) -> str:
    words = printable(words.rstrip())
    return words if len(words) <= 2 * SHORT else f"{words[: 2 * SHORT - 1]}\N{HORIZONTAL ELLIPSIS}"
