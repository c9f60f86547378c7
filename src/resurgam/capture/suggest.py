"""Proposes probes for what a system holds now: questions whose answers would show that it does not behave the same.

    take a cut, as a capture does --> look at each component through its driver --> let it go

    vectors   golden queries spread over what is there (``suggest_vectors``), asked exactly and of the store itself
    models    what a model answers to frozen inputs, for each one that can be loaded (``suggest_models``)
    tables    counts, and how many of each label, for tables that no probe names (``suggest_tables``)
    contents  what else a driver shows as a table: digests of files, an agent's threads

Nothing that is looked at is written, and no manifest is edited. A proposal is a beginning: it knows what is there, not what
matters; what it cannot help with is told too (P4).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import msgspec
import yaml

from resurgam.capture.cut import release, take
from resurgam.capture.discover_text import Names, shown
from resurgam.capture.suggest_models import models
from resurgam.capture.suggest_tables import tables
from resurgam.capture.suggest_vectors import vectors
from resurgam.capture.suggestion import Look, Note, Suggestion
from resurgam.clock import Clock
from resurgam.drivers.base import Drivers, Traits
from resurgam.errors import ManifestError, TargetRefused
from resurgam.model.system import Json, System
from resurgam.probes.base import Runner

CONTENTS = {  # a kind of store -> a table that its driver shows, a query of it, and why
    "git": (
        (
            "tracked",
            "SELECT path, mode, blob FROM tracked ORDER BY 1",
            "every tracked file by its digest: any edit shows",
        ),
    ),
    "langgraph": (
        (
            "threads",
            "SELECT thread_id, checkpoint_ns, checkpoints, waiting FROM threads ORDER BY 1, 2",
            "every thread, how long it is, and whether it waits for a human",
        ),
        (
            "memories",
            "SELECT namespace, count(*) FROM memories GROUP BY 1 ORDER BY 1",
            "how many memories each namespace has: one moved to another shows",
        ),
    ),
    "models": (("files", "SELECT path, sha256 FROM files ORDER BY 1", "every file by its digest: any edit shows"),),
}


class Suggestions(msgspec.Struct, frozen=True, kw_only=True):
    """``files`` are texts by path, relative to the manifest's folder; probes ask what is in them. ``unprobed`` are components that
    no probe reads, of the manifest or proposed, with what to do about it."""

    probes: tuple[Suggestion, ...]
    files: dict[str, str]
    notes: tuple[Note, ...]
    unprobed: dict[str, str]

    def yaml(self) -> str:
        """The probes as they can be pasted below ``probes:``."""
        lines = ["probes:"] if self.probes else []
        for probe in self.probes:
            lines.append(f"  # {shown(probe.why)}")
            text = yaml.safe_dump({probe.name: probe.fields}, sort_keys=False, width=1000, allow_unicode=True)
            lines += [f"  {line}" for line in text.splitlines()]
        return "".join(f"{line}\n" for line in lines)


def suggest(system: System, drivers: Drivers, runner: Runner, clock: Clock) -> Suggestions:
    """Look at the live ``system`` and propose. Raises what a cut raises."""
    names = Names()
    for probe in system.probes:
        names.give(probe.name)
    found: list[Suggestion | Note] = []
    cut = take(system, drivers, clock)
    try:
        for component in system.components:
            look = Look(system, component, drivers(component.driver), cut.position(component.name), runner, names)
            found += [*vectors(look), *models(look), *tables(look), *_contents(look)]
    finally:
        release(system, drivers, {part.component: part.position for part in cut.parts})
    probes = tuple(one for one in found if isinstance(one, Suggestion))
    read = {name for probe in system.probes for name in probe.reads} | {probe.component for probe in probes}
    return Suggestions(
        probes=probes,
        files={probe.file: probe.text for probe in probes if probe.file},
        notes=tuple(one for one in found if isinstance(one, Note)),
        unprobed={c.name: _advice(drivers(c.driver).traits) for c in system.components if c.name not in read},
    )


def write(suggestions: Suggestions, folder: str) -> list[str]:
    """Write the files below ``folder``, the manifest's; returns their paths. Raises TargetRefused where one is there already; then
    none is written."""
    places = {os.path.join(folder, path): text for path, text in suggestions.files.items()}
    if standing := [place for place in places if os.path.lexists(place)]:
        raise TargetRefused(
            f"{standing[0]} is there already.",
            untouched="Nothing was written.",
            next_step="Move it away to have it made anew, or go on with what it holds.",
        )
    for place, text in places.items():
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "x", encoding="utf-8") as file:
            file.write(text)
    return list(places)


def _contents(look: Look) -> Iterator[Suggestion]:
    for table, query, why in CONTENTS.get(look.component.driver, ()):
        if look.named(table):
            continue
        with suppress(ManifestError):  # there is no such table in this one
            look.columns(query)
            fields: dict[str, Json] = {"kind": "sql", "component": look.component.name, "sql": query, "witness": True}
            yield look.suggestion(table, why, fields)


def _advice(traits: Traits) -> str:
    if traits.describes:
        return "describes the machine; name it under `reads` of a probe that runs in it"
    return "nothing here can ask it: name it under `reads` of a `command` probe whose answers depend on it"
