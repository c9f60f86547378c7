"""YAML text to a tree in which every value knows its line and column, with what YAML could hide refused on the way in.

    bytes -> text -> PyYAML's safe composer -> Node tree -> (manifest_form, manifest)

Nothing is constructed by YAML's tags: PyYAML composes its node graph and this module turns it into plain values. YAML 1.1
reads some words in ways that surprise (``on`` is true, ``012`` is ten, ``1:30`` is ninety); where a number is written in such
a way it is refused, and where a word is, the form that expected text says to quote it.

What goes wrong is collected in :class:`Problems`, so that one reading reports everything that it can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple

import yaml

from resurgam.errors import ManifestError
from resurgam.model.nearest import closest
from resurgam.model.system import Json

MAX_BYTES = 256 << 10  # a manifest is written by hand; what is larger is some other file
MAX_DEPTH = 32  # deeper than any field, and far from Python's own recursion limit
MAX_NODES = 20_000  # counted after aliases are followed: stops a few lines that expand to billions
MAX_SHOWN = 25  # problems told at once

_ODD_NUMBER = (
    "a number that YAML 1.1 reads in a way of its own (base 8, 16 or 60, '_', infinity, over 18 digits). "
    "Write it with the digits 0 to 9, or in quotes if it is text."
)
_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")  # what fits 64 bits
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?")


class Place(NamedTuple):
    """Where something stands: line and column, both from 1."""

    line: int
    column: int


Scalar = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the file: a scalar, a list of nodes, or nodes by key. ``key_at`` is where the key that names it stands."""

    at: Place
    value: Scalar | list[Node] | dict[str, Node]
    key_at: Place

    def child(self, *keys: str) -> Node | None:
        """The node below, or None where the way there is missing or of another type."""
        node: Node = self
        for key in keys:
            if not isinstance(node.value, dict) or key not in node.value:
                return None
            node = node.value[key]
        return node

    def entries(self) -> dict[str, Node]:
        """The nodes by key; empty for anything that is not a mapping."""
        return self.value if isinstance(self.value, dict) else {}

    def parts(self) -> list[Node]:
        """The nodes of a list; empty for anything that is not one."""
        return self.value if isinstance(self.value, list) else []

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Every node below and including this one, each with the key it stands under (its list's key; empty at the top)."""
        yield from _walk("", self)

    def plain(self) -> Json:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def kind(self) -> str:
        """What it is, for "expected text, found …"; never the value itself, which could be a secret."""
        match self.value:
            case None:
                return "nothing"
            case bool():
                return "true or false"
            case int() | float():
                return "a number"
            case str():
                return "text"
            case list():
                return "a list"
            case _:
                return "a mapping"


@dataclass(slots=True)
class Problems:
    """What is wrong with one file, gathered; ``file`` is named as the caller named it, ``what`` it should be, how that ``begins``,
    and the ``page`` that explains it."""

    file: str
    what: str = "a system manifest"
    begins: str = "resurgam: 1"
    page: str = "docs/manifest.md"
    found: dict[tuple[Place, str], None] = field(default_factory=dict)
    unreadable: set[Place] = field(default_factory=set)

    def add(self, at: Place, said: str) -> None:
        """Note that ``said`` is wrong at ``at``. Once only, and nothing more of a value that could not be read at all."""
        if at not in self.unreadable:
            self.found[(at, said)] = None

    def add_unreadable(self, at: Place, said: str) -> None:
        """Note that the scalar at ``at`` cannot be read; whatever its form would add is no news."""
        self.add(at, said)
        self.unreadable.add(at)

    def raise_if_any(self) -> None:
        """Raise ManifestError with all problems in the order of the file, one a line, each ``file:line:column: …``."""
        if not self.found:
            return
        lines = [f"{self.file}:{at.line}:{at.column}: {said}" for at, said in sorted(self.found)]
        if len(lines) > MAX_SHOWN:
            lines[MAX_SHOWN:] = [f"and {len(lines) - MAX_SHOWN} more."]
        raise ManifestError(
            "\n".join(lines),
            untouched="No component was looked at and nothing was changed.",  # P12
            next_step=f"Correct {self.file} at the places named and run the same command again; "
            f"every field is explained in {self.page}.",
        )


def nearest(word: str, words: list[str]) -> str:
    """`` Did you mean …? Expected one of: …`` for a word that is none of ``words``."""
    close = closest(word, words)
    hint = f" Did you mean '{close}'?" if close else ""
    return f"{hint} Expected one of: {', '.join(words)}." if words else hint


def bytes_of(problems: Problems, next_step: str) -> bytes:
    """The bytes of the file that ``problems`` are told of. Raises ManifestError with that next step."""
    try:
        with open(problems.file, "rb") as file:
            return file.read()
    except OSError as error:
        raise ManifestError(
            f"{problems.file}:1:1: expected {problems.what}, but it cannot be read ({error.strerror}).",
            untouched="Nothing was read or changed.",
            next_step=next_step,
        ) from error


def read_tree(data: bytes, problems: Problems) -> Node:
    """The file's one document as a tree. Raises ManifestError where there is none to go on with; lesser things (a key
    twice, an odd number) are added to ``problems`` and reading goes on."""
    text = _text(data, problems)
    try:
        root = _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        at = _place(error.problem_mark or error.context_mark)
        problems.add(at, f"not YAML: {_said(error)}.{_hint(text.splitlines()[at.line - 1 : at.line])}")
    except yaml.reader.ReaderError as error:
        problems.add(_place_of(text, error.position), "not YAML: a control character; remove it.")
    else:
        if root is None:
            problems.add(
                Place(1, 1), f"the file is empty. Expected {problems.what}, beginning with '{problems.begins}'."
            )
        else:
            tree = _Tree(problems).node(root, _place(root.start_mark), ())
            if not isinstance(tree.value, dict):
                problems.add(tree.at, f"expected a mapping beginning with '{problems.begins}', found {tree.kind()}.")
            else:
                return tree
    problems.raise_if_any()
    raise AssertionError("a file without a tree has a problem")


class _Composer(yaml.SafeLoader):
    """PyYAML's composer, which recurses, with a floor under it."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


@dataclass(slots=True)
class _Tree:
    """Turns PyYAML's graph, where an alias is the same object again, into a tree of bounded size."""

    problems: Problems
    nodes: int = 0

    def node(self, node: yaml.Node, key_at: Place, above: tuple[int, ...]) -> Node:
        at = _place(node.start_mark)
        self.nodes += 1
        if self.nodes > MAX_NODES or id(node) in above:
            what = "an alias (*) inside what it stands for" if id(node) in above else f"more than {MAX_NODES} values"
            self.problems.add(at, f"{what}. Write the fields out instead of using anchors and aliases.")
            self.problems.raise_if_any()
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return Node(at, self._mapping(node, above), key_at)
        if isinstance(node, yaml.SequenceNode):
            return Node(at, [self.node(part, _place(part.start_mark), above) for part in node.value], key_at)
        assert isinstance(node, yaml.ScalarNode)
        return Node(at, self._scalar(node, at), key_at)

    def _mapping(self, node: yaml.MappingNode, above: tuple[int, ...]) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key_node, value_node in node.value:
            at = _place(key_node.start_mark)
            key = key_node.value
            if not isinstance(key, str):
                self.problems.add(at, "expected a word before the colon, found a list or a mapping.")
            elif key_node.tag == _TAG + "merge":
                self.problems.add(at, "merging with '<<' is not read here. Write the fields out.")
            elif key in entries:
                first = entries[key].key_at
                self.problems.add(
                    at, f"'{key}' stands here twice; the first is in line {first.line}. Keep one of the two."
                )
            else:
                entries[key] = self.node(value_node, at, above)
        return entries

    def _scalar(self, node: yaml.ScalarNode, at: Place) -> Scalar:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() in {"true", "yes", "on"}
            case "int" if _WHOLE.fullmatch(text):
                return int(text)
            case "float" if _DECIMAL.fullmatch(text) and isfinite(float(text)):
                return float(text)
            case "int" | "float":
                self.problems.add_unreadable(at, _ODD_NUMBER)
                return 0
            case "str" | "timestamp":
                return text
        self.problems.add_unreadable(at, "a YAML tag ('!…') that is not read here. Leave it out.")
        return text


def _walk(key: str, node: Node) -> Iterator[tuple[str, Node]]:
    yield key, node
    for part in node.parts():
        yield from _walk(key, part)
    for name, part in node.entries().items():
        yield from _walk(name, part)


def _text(data: bytes, problems: Problems) -> str:
    if len(data) > MAX_BYTES:
        problems.add(
            Place(1, 1), f"more than {MAX_BYTES >> 10} KiB. Expected {problems.what}; move long lists to files."
        )
        problems.raise_if_any()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        problems.add(_place_of(before, len(before)), "not UTF-8. Save the file in UTF-8.")
        problems.raise_if_any()
        raise AssertionError from error
    return text


def _place(mark: yaml.Mark | None) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _place_of(text: str, position: int) -> Place:
    before = text[:position].split("\n")
    return Place(len(before), len(before[-1]) + 1)


def _said(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    said = ", ".join(parts) or "it cannot be parsed"
    return re.sub(
        r""" (alias|anchor|tag handle) (['"]).*?\2""", r" \1", said
    )  # an unquoted password may begin with '*'


def _hint(lines: list[str]) -> str:
    """What most often stands in a line that YAML could not read."""
    for line in lines:
        if "\t" in line[: len(line) - len(line.lstrip())]:
            return " A tab stands in the margin; YAML wants spaces."
        if re.search(r"""[^"'\w]\$\{""", line):
            return ' Between braces or brackets a reference stands in quotes: "${NAME}".'
    return ""
