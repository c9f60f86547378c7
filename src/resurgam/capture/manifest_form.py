"""The forms that values of the system manifest can have. Each form does two things from one definition, so that they cannot
part: ``read`` turns a node into a value and notes every problem at its place; ``schema`` is the same form as JSON Schema.

``read`` returns :data:`WRONG` where it noted a problem; a record leaves such a field out and goes on, so that one reading
finds all that is wrong. What JSON Schema cannot say (a name that must exist, a variable that must be set) only ``read`` checks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from resurgam.capture.manifest_yaml import Node, Problems, nearest
from resurgam.model.nearest import closest

WRONG: Final = object()
NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
CENTURY = 100 * 365 * 86_400.0  # seconds; no lock is ever made shorter, and a slip of the finger would be for ever

DURATION = r"[0-9]+(\.[0-9]+)?(ms|s|m|h|d|w)"


@dataclass(slots=True)
class Reading:
    """One reading of one file: where problems go, and what the file's words may refer to."""

    problems: Problems
    folder: str
    environ: Mapping[str, str]
    words: dict[str, list[str]]  # the components declared here, and the kinds of driver and probe that are installed

    def wrong(self, node: Node, said: str) -> Any:
        """Note a problem at ``node``; returns WRONG."""
        self.problems.add(node.at, said)
        return WRONG

    def place(self, text: str) -> str:
        """``text`` as an absolute path: ``~`` is the home folder, what is relative starts at the manifest's folder."""
        return os.path.normpath(os.path.join(self.folder, os.path.expanduser(text)))


class Form(Protocol):
    """One form: see the module's docstring. ``what`` names it in "expected …, found …"."""

    @property
    def what(self) -> str:
        """Its name in a sentence."""
        ...

    def read(self, node: Node, reading: Reading) -> Any:
        """The value of ``node``, or WRONG after a problem was noted."""
        ...

    def schema(self) -> dict[str, Any]:
        """The same form as JSON Schema (draft 2020-12)."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Text, with a pattern where not every text will do."""

    what: str = "text"
    pattern: str | None = None

    def read(self, node: Node, reading: Reading) -> Any:
        if not isinstance(node.value, str):
            quotes = "; put it in quotes if it is meant as text" if isinstance(node.value, bool | int | float) else ""
            return reading.wrong(node, f"expected {self.what}, found {node.kind()}{quotes}.")
        if "\0" in node.value:
            return reading.wrong(node, f"expected {self.what}, found a NUL character in it.")
        if not node.value or (self.pattern and not re.fullmatch(self.pattern, node.value, re.DOTALL)):
            return reading.wrong(node, f"expected {self.what}{'' if node.value else ', found empty text'}.")
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1} | ({"pattern": f"^{self.pattern}$"} if self.pattern else {})


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words: ``fixed`` ones, or those that ``Reading.words`` holds under ``among``."""

    what: str
    fixed: tuple[str, ...] = ()
    among: str = ""

    def read(self, node: Node, reading: Reading) -> Any:
        words = list(self.fixed) or reading.words[self.among]
        if not isinstance(node.value, str):
            return reading.wrong(node, f"expected {self.what}, found {node.kind()}.{nearest('', words)}")
        if node.value not in words:
            return reading.wrong(node, f"'{node.value}' is not {self.what}.{nearest(node.value, words)}")
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.fixed)} if self.fixed else {"type": "string", "pattern": f"^{NAME}$"}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    what: str = "true or false"

    def read(self, node: Node, reading: Reading) -> Any:
        return (
            node.value
            if isinstance(node.value, bool)
            else reading.wrong(node, f"expected {self.what}, found {node.kind()}.")
        )

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Number:
    """A number from ``least`` to ``most``; ``above`` excludes ``least`` itself."""

    what: str
    whole: bool = False
    least: int = 0
    above: bool = False
    most: int | None = None

    def read(self, node: Node, reading: Reading) -> Any:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return reading.wrong(node, f"expected {self.what}, found {node.kind()}.")
        if value < self.least or (self.above and value == self.least) or (self.most is not None and value > self.most):
            return reading.wrong(node, f"expected {self.what}, found {value}.")
        return value if self.whole else float(value)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "integer" if self.whole else "number",
            "exclusiveMinimum" if self.above else "minimum": self.least,
        }


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time with its unit, read as seconds."""

    what: str = "a duration with its unit, such as 250ms, 1.5s, 15m, 2h, 30d or 4w"

    def read(self, node: Node, reading: Reading) -> Any:
        if not isinstance(node.value, str) or not (match := re.fullmatch(DURATION, node.value)):
            found = f"'{node.value}'" if isinstance(node.value, str | int | float) else node.kind()
            return reading.wrong(node, f"expected {self.what}; found {found}.")
        seconds = float(node.value.removesuffix(match[2])) * SECONDS[match[2]]
        if not 0 < seconds <= CENTURY:
            return reading.wrong(
                node, f"expected {self.what}, longer than nothing and not longer than a hundred years."
            )
        return seconds

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{DURATION}$"}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one form; ``distinct`` refuses the same value twice, ``exactly`` is how many parts it has (0: any number)."""

    of: Form
    distinct: bool = False
    filled: bool = False
    exactly: int = 0

    @property
    def what(self) -> str:
        return f"a list{f' of {self.exactly}' if self.exactly else ''}, each part {self.of.what}"

    def read(self, node: Node, reading: Reading) -> Any:
        if not isinstance(node.value, list):
            return reading.wrong(node, f"expected {self.what}, found {node.kind()}. Write [one, two].")
        if self.filled and not node.value:
            return reading.wrong(node, f"expected {self.what}, found an empty one.")
        if self.exactly and len(node.value) != self.exactly:
            return reading.wrong(node, f"expected {self.what}, found {len(node.value)}.")
        values = []
        for part in node.value:
            value = self.of.read(part, reading)
            if self.distinct and value is not WRONG and value in values:
                reading.wrong(part, f"'{value}' stands here twice. Keep one of the two.")
            values.append(value)
        return WRONG if any(value is WRONG for value in values) else tuple(values)

    def schema(self) -> dict[str, Any]:
        limits = {"uniqueItems": True} if self.distinct else {}
        counts = {"minItems": self.exactly, "maxItems": self.exactly} if self.exactly else {}
        counts |= {"minItems": 1} if self.filled else {}
        return {"type": "array", "items": self.of.schema()} | limits | counts


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record: its form, what it means (for people and for the schema), whether it must be there."""

    form: Form
    means: str
    required: bool = False


class Rule(Protocol):
    """What the fields of one record have to do with each other."""

    def check(self, node: Node, what: str, reading: Reading) -> None:
        """Note what the fields of ``node`` (a mapping), called ``what``, lack or have too much."""
        ...

    def schema(self) -> dict[str, Any]:
        """The keywords that say the same in the record's JSON Schema."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known fields, read as a dict of those that were there and right."""

    what: str
    fields: Mapping[str, Field]
    rule: Rule | None = None

    def read(self, node: Node, reading: Reading) -> Any:
        if not isinstance(node.value, dict):
            return reading.wrong(
                node, f"expected {self.what} (a mapping with {', '.join(self.fields)}), found {node.kind()}."
            )
        values: dict[str, Any] = {}
        for key, part in node.value.items():
            if key not in self.fields:
                reading.problems.add(
                    part.key_at, f"'{key}' is not a field of {self.what}.{nearest(key, list(self.fields))}"
                )
            elif (value := self.fields[key].form.read(part, reading)) is not WRONG:
                values[key] = value
        meant = {closest(key, list(self.fields)) for key in node.value if key not in self.fields}
        for key, of in self.fields.items():
            if of.required and key not in node.value and key not in meant:  # a misspelt field is told once
                reading.wrong(node, f"{self.what} lacks '{key}'. Expected {of.form.what}: {of.means}")
        if self.rule:
            self.rule.check(node, self.what, reading)
        return values

    def schema(self) -> dict[str, Any]:
        properties = {key: {"description": of.means} | of.form.schema() for key, of in self.fields.items()}
        required = [key for key, of in self.fields.items() if of.required]
        made = {"type": "object", "additionalProperties": False, "properties": properties}
        return made | ({"required": required} if required else {}) | (self.rule.schema() if self.rule else {})


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping from names to one form, read as a dict; ``name`` is the pattern of its keys."""

    what: str
    of: Form
    name: str = NAME
    filled: bool = False

    def read(self, node: Node, reading: Reading) -> Any:
        if not isinstance(node.value, dict):
            return reading.wrong(node, f"expected {self.what} (a mapping, each under its name), found {node.kind()}.")
        if self.filled and not node.value:
            return reading.wrong(node, f"expected {self.what}, found none.")
        values = {}
        for name, part in node.value.items():
            if not re.fullmatch(self.name, name):
                reading.problems.add(
                    part.key_at,
                    "expected a name of at most 63 characters a-z, 0-9, '-' and '_', beginning with a letter or digit.",
                )
            values[name] = self.of.read(part, reading)
        return {name: value for name, value in values.items() if value is not WRONG}

    def schema(self) -> dict[str, Any]:
        names = {
            "type": "object",
            "propertyNames": {"pattern": f"^{self.name}$"},
            "additionalProperties": self.of.schema(),
        }
        return names | ({"minProperties": 1} if self.filled else {})


@dataclass(frozen=True, slots=True)
class OneWay:
    """A rule: the record is written in exactly one of several ways, each with all of its fields and none of another's.
    ``may`` are further fields of the way that begins with a field."""

    ways: tuple[tuple[str, ...], ...]
    may: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, node: Node, what: str, reading: Reading) -> None:
        choices = " or ".join(f"({', '.join(way)})" for way in self.ways)
        used = [way for way in self.ways if any(key in node.entries() for key in way)]
        if len(used) != 1:
            found = "none of them" if not used else "parts of both" if len(used) == 2 else "parts of several"
            reading.wrong(node, f"expected {what} written in one way, {choices}; found {found}.")
        elif lacking := [key for key in used[0] if key not in node.entries()]:
            reading.wrong(node, f"{what} with '{_first(node, used[0])}' lacks '{lacking[0]}'. Expected {choices}.")
        else:
            for key, part in node.entries().items():
                if key in self._further() - set(self.may.get(used[0][0], ())):
                    reading.problems.add(part.key_at, f"'{key}' is not a field of {what} with '{used[0][0]}'.")

    def schema(self) -> dict[str, Any]:
        every = {key for way in self.ways for key in way} | self._further()
        return {
            "oneOf": [
                {
                    "required": list(way),
                    "not": {
                        "anyOf": [{"required": [key]} for key in sorted(every - {*way, *self.may.get(way[0], ())})]
                    },
                }
                for way in self.ways
            ]
        }

    def _further(self) -> set[str]:
        return {key for keys in self.may.values() for key in keys}


@dataclass(frozen=True, slots=True)
class ByKind:
    """A rule: which of a record's fields are needed, and which may stand, depends on its ``kind``. A kind that is not told
    here (one from outside this package) may use every field."""

    needs: Mapping[str, tuple[str, ...]]
    may: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, node: Node, what: str, reading: Reading) -> None:
        kind = node.entries()["kind"].value if "kind" in node.entries() else None
        if not isinstance(kind, str) or kind not in self.needs:
            return
        for key in self.needs[kind]:
            if key not in node.entries():
                reading.wrong(node, f"{what} of kind '{kind}' lacks '{key}'.")
        for key, part in node.entries().items():
            if key in self._others(kind):
                reading.problems.add(part.key_at, f"'{key}' is not a field of {what} of kind '{kind}'.")

    def schema(self) -> dict[str, Any]:
        return {
            "allOf": [
                {
                    "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                    "then": {"required": list(needs), "properties": dict.fromkeys(self._others(kind), False)},
                }
                for kind, needs in self.needs.items()
            ]
        }

    def _others(self, kind: str) -> list[str]:
        own = {*self.needs[kind], *self.may.get(kind, ())}
        every = [*self.needs.values(), *self.may.values()]
        return sorted({key for keys in every for key in keys} - own)


def _first(node: Node, keys: tuple[str, ...]) -> str:
    return next(key for key in keys if key in node.entries())
