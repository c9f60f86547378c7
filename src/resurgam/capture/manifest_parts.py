"""The forms of the system manifest that refer to other parts of it: queries, templates, tolerances. See ``manifest_form``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from resurgam.capture.manifest_form import NAME, WRONG, Reading, Text
from resurgam.capture.manifest_yaml import Node, nearest
from resurgam.errors import ManifestError
from resurgam.model.system import REFERENCE

HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

_QUERY = re.compile(r"\s*(select|with)\b.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """``component: SELECT …``, a query of a declared component."""

    what: str = 'a query, written "component: SELECT …"'

    def read(self, node: Node, reading: Reading) -> Any:
        """See manifest_form.Form."""
        text = Text(self.what).read(node, reading)
        if text is WRONG:
            return WRONG
        name, colon, statement = text.partition(":")
        if not colon or not _QUERY.fullmatch(statement):
            return reading.wrong(node, f"expected {self.what}.")
        if name not in reading.words["components"]:
            return reading.wrong(node, f"'{name}' is not a component.{nearest(name, reading.words['components'])}")
        return text

    def schema(self) -> dict[str, Any]:
        """See manifest_form.Form."""
        return {"type": "string", "pattern": f"^{NAME}:\\s*([sS][eE][lL][eE][cC][tT]|[wW][iI][tT][hH])\\b"}


@dataclass(frozen=True, slots=True)
class Template:
    """Text in which ``{name}`` stands for the location of component *name*, ``{hosted:name}`` for the address of a hosted model,
    and ``also`` for what is known later; a literal brace is doubled. With ``or_reference`` the whole may be ``${NAME}`` instead,
    and stays that: it is looked up when the command is run."""

    what: str = "text"
    or_reference: bool = False
    also: tuple[str, ...] = ()

    def read(self, node: Node, reading: Reading) -> Any:
        """See manifest_form.Form."""
        text = Text(self.what).read(node, reading)
        if text is WRONG or (self.or_reference and REFERENCE.fullmatch(text)):
            return text
        known = [*reading.words["components"], *(f"hosted:{name}" for name in reading.words["hosted"]), *self.also]
        for hole in HOLE.finditer(text):
            if hole[0] not in {"{{", "}}"} and hole[1] not in known:
                close = nearest(hole[1] or "", known)
                return reading.wrong(node, f"'{hole[0]}' names no component; a literal brace is written twice.{close}")
        return text

    def schema(self) -> dict[str, Any]:
        """See manifest_form.Form."""
        return Text(self.what).schema()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What ``proof.claims`` and ``proof.compare`` accept as a tolerance."""

    what: str = "a tolerance"

    def read(self, node: Node, reading: Reading) -> Any:
        """See manifest_form.Form."""
        from resurgam.proof.claims import check_tolerance  # most manifests have none, and every command reads one

        try:
            check_tolerance(node.plain())
        except ManifestError as error:
            return reading.wrong(node, f"{error.message} {error.next_step}".strip())
        return node.plain()

    def schema(self) -> dict[str, Any]:
        """See manifest_form.Form."""
        return {"anyOf": [{"const": "exact"}, {"type": "object", "minProperties": 1, "maxProperties": 1}]}
