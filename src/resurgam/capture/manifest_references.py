"""References of the system manifest to what stands elsewhere: ``${NAME}`` in the environment, ``{file: path}`` in a file.

Only what is needed to find things is looked up, when the manifest is read: paths, and the questions of a probe. Everywhere
else (options, a probe's environment) a reference stays a reference, since a System becomes part of every recovery point and no
secret may lie in one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from resurgam.capture.manifest_form import WRONG, Field, Reading, Record, Text
from resurgam.capture.manifest_yaml import Node
from resurgam.errors import UsageError
from resurgam.model.secrets import found_in_text
from resurgam.model.system import REFERENCE
from resurgam.stores import location

MAX_FILE = 64 << 20  # bytes of a {file: …}: questions to a probe, not data sets

_URL = re.compile(r"[a-z][a-z0-9+.-]+://\S+")


@dataclass(frozen=True, slots=True)
class Path:
    """A path: text in which ``${NAME}`` is replaced from the environment, or ``{file: path}`` whose one line is the path.
    Read as an absolute path (or, with ``or_url``, a URL as it is). A variable or file that holds a secret instead of a path
    is refused, unrepeated."""

    what: str = "a path"
    or_url: bool = False

    def read(self, node: Node, reading: Reading) -> Any:
        if isinstance(node.value, dict):
            text = _file_of(node, reading)
            if text is WRONG:
                return WRONG
            text = text.strip()
            if "\n" in text:
                return reading.wrong(node, f"expected a file with {self.what} in its one line, found several lines.")
        else:
            text = Text(self.what).read(node, reading)
            if text is WRONG or (text := _expanded(text, node, reading)) is WRONG:
                return WRONG
        if why := found_in_text(text):
            return reading.wrong(
                node, f"expected {self.what}, found {why}. Name the place where it is kept, never itself."
            )
        if self.or_url and _URL.fullmatch(text):
            return text
        return reading.place(text) if text else reading.wrong(node, f"expected {self.what}, found empty text.")

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "minLength": 1}, _FILE_SCHEMA]}


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """Where a vault is: a path as of ``Path``, or the URL of a bucket, in which no credential may stand. ``file://`` is read as
    its path."""

    what: str = "a path or the URL of a bucket"

    def read(self, node: Node, reading: Reading) -> Any:
        text = Path(self.what, or_url=True).read(node, reading)
        if text is WRONG:
            return WRONG
        try:
            place = location.parse(text)
        except UsageError as error:
            return reading.wrong(node, f"{error.message} {error.next_step}")
        return place if isinstance(place, str) else text

    def schema(self) -> dict[str, Any]:
        return Path().schema()


@dataclass(frozen=True, slots=True)
class Anything:
    """Any value, kept as written; with ``from_file``, ``{file: path}`` stands for the JSON in that file, for the list of values in
    the lines of a ``.jsonl`` file, or for the rows of the array in a ``.npy`` file, each under its number (``"0"``, ``"1"``, …)."""

    what: str = "any value"
    from_file: bool = False

    def read(self, node: Node, reading: Reading) -> Any:
        if not (self.from_file and set(node.entries()) == {"file"}):
            return node.plain()
        if str(node.entries()["file"].value).endswith(".npy"):
            return _rows_of(node.entries()["file"], reading)
        text = _file_of(node, reading)
        if text is WRONG:
            return WRONG
        try:
            if str(node.entries()["file"].value).endswith(".jsonl"):
                if why := found_in_text(text):  # a recording becomes part of every point
                    return reading.wrong(node.entries()["file"], f"a secret is written out in this file: {why}.")
                return [_json_of(line) for line in text.splitlines() if line.strip()]
            return _json_of(text)
        except (ValueError, RecursionError) as error:
            where = f" in its line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            return reading.wrong(
                node.entries()["file"], f"expected a file of JSON with distinct keys, found something else{where}."
            )

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [_FILE_SCHEMA, {}]} if self.from_file else {}


_FILE_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["file"],
    "properties": {"file": {"type": "string", "minLength": 1}},
}


def _expanded(text: str, node: Node, reading: Reading) -> Any:
    """``text`` with its references replaced from the environment."""
    if "$" in REFERENCE.sub("", text):
        return reading.wrong(node, "a '$' that begins no reference. Write ${NAME} for a variable of the environment.")
    for match in REFERENCE.finditer(text):
        if not reading.environ.get(match[1]):
            return reading.wrong(
                node, f"the environment has no {match[1]}. Set it (export {match[1]}=…) or write the path."
            )
    return REFERENCE.sub(lambda match: reading.environ[match[1]], text)


def _file_of(node: Node, reading: Reading) -> Any:
    """The text of the file that ``{file: path}`` names."""
    values = Record("a reference to a file", {"file": Field(Text("the path of a file"), "", required=True)}).read(
        node, reading
    )
    if "file" not in values or (text := _expanded(values["file"], node.entries()["file"], reading)) is WRONG:
        return WRONG
    at = node.entries()["file"]
    try:
        with open(reading.place(text), "rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            return reading.wrong(at, f"expected a file of at most {MAX_FILE >> 20} MiB.")
        return data.decode("utf-8")
    except OSError as error:
        return reading.wrong(
            at, f"the file cannot be read ({error.strerror}). Expected the path of a file that exists."
        )
    except UnicodeDecodeError:
        return reading.wrong(at, "expected a file of text in UTF-8.")


def _rows_of(node: Node, reading: Reading) -> Any:
    """The rows of the array in a ``.npy`` file, which never holds anything but numbers here."""
    import numpy as np  # here: few manifests name such a file, and every command reads a manifest

    if (text := _expanded(str(node.value), node, reading)) is WRONG:
        return WRONG
    try:
        with open(reading.place(text), "rb") as file:
            data = file.read(MAX_FILE + 1)
        array = np.load(BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        return reading.wrong(node, f"expected a file of a numpy array, which this is not: {type(error).__name__}.")
    if len(data) > MAX_FILE or array.ndim < 2 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        return reading.wrong(
            node, f"expected a file of at most {MAX_FILE >> 20} MiB with an array of numbers, one row a question."
        )
    return {str(number): row.tolist() for number, row in enumerate(array)}


def _json_of(text: str) -> Any:
    return json.loads(text, parse_constant=_no_json, object_pairs_hook=_distinct)


def _no_json(word: str) -> None:
    raise ValueError(word)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return made
