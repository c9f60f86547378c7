"""A pickle read without unpickling: its opcodes are walked, and what it would build becomes inert values.

Nothing is imported and nothing is called: a name is a :class:`Name`, a call a :class:`Call` with its arguments. That is enough to
find the tensors that ``torch.save`` wrote. Whatever goes beyond the opcodes that it uses is refused.

Opcodes: ``pickletools`` of the standard library. What PyTorch writes: ``torch.serialization`` and ``torch._utils``.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from resurgam.drivers.tensor import Malformed

MAX_OPCODES = 5_000_000


class Name(NamedTuple):
    """A class or function, by the words ``module name``."""

    words: str


class Call(NamedTuple):
    """What calling ``function`` with ``arguments`` would have given."""

    function: Any
    arguments: Any


class Stored(NamedTuple):
    """A reference to bytes beside the pickle (a persistent id)."""

    reference: Any


_MARK = object()


class _Machine:
    """The stack and memo of a pickle. Each method is an opcode, or a family of them, by its name in lower case."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """The top of the stack. Raises Malformed where it is empty, or a mark."""
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("has a pickle that takes more than it put")
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        """All above the last mark, which goes."""
        values: list[Any] = []
        while self.stack:
            if (value := self.stack.pop()) is _MARK:
                return values[::-1]
            values.append(value)
        raise Malformed("has a pickle that takes more than it put")

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(values[::-1]))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        is_dict = isinstance(function, Name) and function.words == "collections OrderedDict"
        self.stack.append({} if is_dict and arguments == () else Call(function, arguments))

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if isinstance(target, dict):
            pairs = zip(values[::2], values[1::2], strict=True)
            target.update(
                (key if isinstance(key, str | int) else f"({type(key).__name__})", value) for key, value in pairs
            )

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if isinstance(target, list):
            target += values

    def put(self, place: int) -> None:
        if not self.stack:
            raise Malformed("has a pickle that takes more than it put")
        self.memo[place] = self.stack[-1]

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise Malformed("has a pickle that names what it never put")
        self.stack.append(self.memo[place])

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Malformed("has a pickle that names a class by something else than words")
        self.stack.append(Name(f"{module} {name}"))


_PUSHED: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK, "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list,
}  # fmt: skip
_VALUES = frozenset({
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "UNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "STRING",
})  # fmt: skip
_IGNORED = frozenset({"PROTO", "FRAME"})
_ACTS: dict[str, Callable[[_Machine], object]] = {
    "TUPLE": lambda m: m.stack.append(tuple(m.to_mark())),
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "LIST": lambda m: m.stack.append(m.to_mark()),
    "APPEND": lambda m: m.append([m.pop()]),
    "APPENDS": lambda m: m.append(m.to_mark()),
    "ADDITEMS": lambda m: m.append(m.to_mark()),
    "SETITEM": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m: m.set_items(m.to_mark()),
    "MEMOIZE": lambda m: m.put(len(m.memo)),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.pop,
    "BINPERSID": lambda m: m.stack.append(Stored(m.pop())),
}
_ACTS_WITH: dict[str, Callable[[_Machine, Any], object]] = {
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda m, words: m.stack.append(Name(words)),
}


def read_pickle(data: bytes) -> Any:
    """What the pickle says, as inert values. Raises Malformed."""
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > MAX_OPCODES:
                raise Malformed(f"has a pickle of more than {MAX_OPCODES} steps")
            if opcode.name == "STOP":
                return machine.pop()
            if opcode.name in _VALUES:
                machine.stack.append(argument)
            elif opcode.name in _PUSHED:
                machine.stack.append(_PUSHED[opcode.name]())
            elif opcode.name in _ACTS:
                _ACTS[opcode.name](machine)
            elif opcode.name in _ACTS_WITH:
                _ACTS_WITH[opcode.name](machine, argument)
            elif opcode.name not in _IGNORED:
                raise Malformed(f"has a pickle with {opcode.name}, which is not followed here")
    except (ValueError, OverflowError, TypeError) as error:
        raise Malformed(f"has a pickle that cannot be read: {error}") from error
    raise Malformed("has a pickle that does not end")
