"""A proposed probe, and what is at hand where one is made."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from resurgam.capture.discover_text import Names
from resurgam.drivers.base import Driver, Queries
from resurgam.model.point import Position
from resurgam.model.system import Component, Json, System
from resurgam.probes.base import Runner

FOLDER = "probes"  # beside the manifest


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """A probe as the manifest would have it, and why. ``text`` is what goes into ``file``, where what it asks is kept."""

    name: str
    component: str
    why: str
    fields: dict[str, Json]
    file: str = ""
    text: str = ""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is worth knowing of a component without being a probe."""

    component: str
    what: str


@dataclass(frozen=True)
class Look:
    """One component at its position, and whom to ask about it."""

    system: System
    component: Component
    driver: Driver
    at: Position
    runner: Runner
    names: Names

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of ``statement``, for a driver that ``Queries``."""
        assert isinstance(self.driver, Queries)
        return [row for batch in self.driver.query(self.component, self.at, statement).batches for row in batch]

    def columns(self, statement: str) -> tuple[str, ...]:
        """The names of what ``statement`` gives, for a driver that ``Queries``."""
        assert isinstance(self.driver, Queries)
        found = self.driver.query(self.component, self.at, statement)
        for _ in found.batches:
            pass  # whoever reads to the end lets go
        return found.columns

    def asked(self, **fields: Json) -> bool:
        """Whether a probe of the manifest asks this component with these fields."""
        mine = [probe for probe in self.system.probes if probe.component == self.component.name]
        return any(all(getattr(probe, name) == value for name, value in fields.items()) for probe in mine)

    def named(self, table: str) -> bool:
        """Whether an sql probe of the manifest names ``table`` of this component."""
        mine = [probe.sql or "" for probe in self.system.probes if probe.component == self.component.name]
        return any(re.search(rf"\b{re.escape(table)}\b", statement, re.IGNORECASE) for statement in mine)

    def note(self, what: str) -> Note:
        """A note about this component."""
        return Note(component=self.component.name, what=what)

    def suggestion(
        self, word: str, why: str, fields: dict[str, Json], *, ask: Json = None, file: str = ""
    ) -> Suggestion:
        """A probe whose name begins with ``word``. What it is to ``ask`` goes into ``file``, which others may share, or into one
        of its own."""
        name = self.names.give(word, self.component.name)
        text = ""
        if ask is not None:
            file = file or f"{FOLDER}/{name}.json"
            text = json.dumps(ask, ensure_ascii=False, separators=(",", ":")) + "\n"
            fields = fields | {"ask": {"file": file}}
        return Suggestion(name=name, component=self.component.name, why=why, fields=fields, file=file, text=text)
