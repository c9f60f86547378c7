"""The label map of a Chroma index (``index_metadata.pickle``), read without unpickling anything.

A pickle is a program. This reader is a machine for the few instructions that build plain values: dict, list, tuple, str, int,
bool, None. It has no instruction that imports or calls. Chroma up to 0.6 wrote an object of one class of its own; that class
stands here for an empty dict which its state fills. Any other class, instruction or shape is an IntegrityError, and nothing of it
has run.

Source of the format: PEP 307, PEP 3154, and the comments of CPython's ``pickletools``. Chroma 1.x writes protocol 3 with one dict::

    dimensionality        int or None
    total_elements_added  int, the last label given
    id_to_label           {id: label}
    label_to_id           {label: id}
    (max_seq_id, id_to_seq_id: no longer used)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple, NoReturn

from resurgam.errors import IntegrityError

_ALLOWED = ("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData")
_U16, _I32, _U32, _U64 = (struct.Struct(form) for form in ("<H", "<i", "<I", "<Q"))
_STOP = 0x2E
_DEEPEST = 64  # nested marks; the map has two


class LabelMap(NamedTuple):
    """Which label of the index belongs to which id. ``dimension`` is None where Chroma left it out."""

    dimension: int | None
    labels: dict[str, int]


def read_label_map(data: bytes | memoryview) -> LabelMap:
    """The map in ``data``. Raises IntegrityError where it is torn, contradicts itself, or is anything but such a map."""
    value = _Machine(bytes(data)).run()
    if not isinstance(value, dict):
        _refuse("it holds no map")
    labels, ids, dimension = (value.get(name) for name in ("id_to_label", "label_to_id", "dimensionality"))
    if not isinstance(labels, dict) or not isinstance(ids, dict) or not isinstance(dimension, int | None):
        _refuse("it lacks the map of ids to labels")
    for key, label in labels.items():
        if not isinstance(key, str) or type(label) is not int or ids.get(label) != key:
            _refuse("its two maps contradict each other")
    if len(ids) != len(labels):
        _refuse("its two maps contradict each other")
    return LabelMap(dimension, labels)


def _refuse(why: str) -> NoReturn:
    raise IntegrityError(
        f"index_metadata.pickle is refused: {why}.",
        untouched="Nothing of it was run, and nothing was changed.",
        next_step="Look who wrote that file; rebuild the collection from its documents, or restore an earlier point.",
    )


class _Class:
    """Stands for the one known class until it becomes a dict."""


class _Machine:
    """One run over one pickle. ``_stack`` holds values, ``_marks`` where the open groups begin."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> object:
        """The value that the program leaves. Raises IntegrityError."""
        data, code = self._data, 0
        try:
            while (code := data[self._at]) != _STOP:
                self._at += 1
                _INSTRUCTIONS[code](self)
            (value,) = self._stack
        except (IndexError, struct.error):
            _refuse("it ends too early")
        except KeyError:
            _refuse(f"it asks for what is not there, at byte {self._at} (instruction {code:#04x})")
        except (TypeError, ValueError):
            _refuse(f"its instructions do not fit each other, at byte {self._at}")
        return value

    def number(self, form: struct.Struct) -> int:
        """The next bytes as a number."""
        number: int = form.unpack_from(self._data, self._at)[0]
        self._at += form.size
        return number

    def piece(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise IndexError
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def byte(self) -> int:
        """The next byte."""
        self._at += 1
        return self._data[self._at - 1]

    def line(self) -> str:
        """Text up to the end of the line."""
        end = self._data.index(b"\n", self._at)
        text = self._data[self._at : end].decode()
        self._at = end + 1
        return text

    def push(self, value: object) -> None:
        self._stack.append(value)

    def text(self, size: int) -> None:
        self._stack.append(self.piece(size).decode("utf-8", "surrogatepass"))

    def mark(self) -> None:
        if len(self._marks) >= _DEEPEST:
            raise ValueError
        self._marks.append(len(self._stack))

    def group(self) -> list[Any]:
        """What was pushed since the last mark."""
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def fill(self, pairs: list[Any]) -> None:
        """Keys and values into the dict on top."""
        target = self._stack[-1]
        if type(target) is not dict or len(pairs) % 2 or not all(isinstance(key, Hashable) for key in pairs[::2]):
            raise ValueError
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def extend(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError
        self._stack[-1].extend(values)

    def remember(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def find(self, module: str, name: str) -> None:
        """The only way to a class: there is one, and it is not imported."""
        if (module, name) != _ALLOWED:
            _refuse("it names a class that does not belong there")
        self._stack.append(_Class)

    def find_on_stack(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self.find(str(module), str(name))

    def make(self) -> None:
        """An object of the known class, without arguments: a dict for its state."""
        arguments, known = self._stack.pop(), self._stack.pop()
        if arguments != () or known is not _Class:
            raise ValueError
        self._stack.append({})

    def build(self) -> None:
        state = self._stack.pop()
        if type(state) is not dict:
            raise ValueError
        self.fill([part for pair in state.items() for part in pair])


def _last(machine: _Machine, count: int) -> list[Any]:
    if len(machine._stack) < count:
        raise IndexError
    values = machine._stack[-count:]
    del machine._stack[-count:]
    return values


_INSTRUCTIONS: Final[dict[int, Callable[[_Machine], object]]] = {
    0x80: lambda m: m.byte(),  # PROTO
    0x95: lambda m: m.number(_U64),  # FRAME
    ord("X"): lambda m: m.text(m.number(_U32)),  # BINUNICODE
    0x8C: lambda m: m.text(m.byte()),  # SHORT_BINUNICODE
    0x8D: lambda m: m.text(m.number(_U64)),  # BINUNICODE8
    ord("J"): lambda m: m.push(m.number(_I32)),  # BININT
    ord("K"): lambda m: m.push(m.byte()),  # BININT1
    ord("M"): lambda m: m.push(m.number(_U16)),  # BININT2
    0x8A: lambda m: m.push(int.from_bytes(m.piece(m.byte()), "little", signed=True)),  # LONG1
    ord("N"): lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    ord("}"): lambda m: m.push({}),  # EMPTY_DICT
    ord("]"): lambda m: m.push([]),  # EMPTY_LIST
    ord(")"): lambda m: m.push(()),  # EMPTY_TUPLE
    0x85: lambda m: m.push(tuple(_last(m, 1))),  # TUPLE1
    0x86: lambda m: m.push(tuple(_last(m, 2))),  # TUPLE2
    0x87: lambda m: m.push(tuple(_last(m, 3))),  # TUPLE3
    ord("t"): lambda m: m.push(tuple(m.group())),  # TUPLE
    ord("("): lambda m: m.mark(),  # MARK
    ord("u"): lambda m: m.fill(m.group()),  # SETITEMS
    ord("s"): lambda m: m.fill(_last(m, 2)),  # SETITEM
    ord("e"): lambda m: m.extend(m.group()),  # APPENDS
    ord("a"): lambda m: m.extend(_last(m, 1)),  # APPEND
    ord("q"): lambda m: m.remember(m.byte()),  # BINPUT
    ord("r"): lambda m: m.remember(m.number(_U32)),  # LONG_BINPUT
    0x94: lambda m: m.remember(len(m._memo)),  # MEMOIZE
    ord("h"): lambda m: m.push(m._memo[m.byte()]),  # BINGET
    ord("j"): lambda m: m.push(m._memo[m.number(_U32)]),  # LONG_BINGET
    ord("c"): lambda m: m.find(m.line(), m.line()),  # GLOBAL
    0x93: lambda m: m.find_on_stack(),  # STACK_GLOBAL
    0x81: lambda m: m.make(),  # NEWOBJ
    ord("b"): lambda m: m.build(),  # BUILD
}
