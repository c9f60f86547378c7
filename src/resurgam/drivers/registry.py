"""The kinds of driver: one line each, and those that other packages bring. A driver is imported when it is first asked for.

A package brings a driver by an entry point, and passes the exam of ``resurgam.testing.driver_kit`` in its own tests::

    [project.entry-points."resurgam.drivers"]
    mystore = "mypackage.mydriver:MyDriver"

The kinds of this package come first: no other package can put itself in the place of one of them.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from resurgam.drivers.base import Driver
from resurgam.errors import ManifestError, MissingExtra
from resurgam.model.nearest import did_you_mean

GROUP = "resurgam.drivers"


class _Place(NamedTuple):
    """Where a driver's class is, and what to install where its library is missing."""

    module: str
    name: str
    install: str


_OURS = {
    "chroma": _Place("resurgam.drivers.chroma", "ChromaDriver", "resurgam[chroma]"),
    "environment": _Place("resurgam.drivers.environment", "EnvironmentDriver", "resurgam"),
    "files": _Place("resurgam.drivers.files", "FilesDriver", "resurgam"),
    "git": _Place("resurgam.drivers.git", "GitDriver", "resurgam[git]"),
    "langgraph": _Place("resurgam.drivers.langgraph", "LangGraphDriver", "resurgam[langgraph]"),
    "models": _Place("resurgam.drivers.models", "ModelsDriver", "resurgam[models]"),
    "sqlite": _Place("resurgam.drivers.sqlite", "SqliteDriver", "resurgam"),
}


def kinds() -> tuple[str, ...]:
    """The words that may stand after ``driver`` in a manifest, sorted. Nothing is imported for it."""
    return tuple(sorted({*_OURS, *_others()}))


@cache
def driver_for(kind: str) -> Driver:
    """The driver of ``kind``, one instance per process, so that a position is known to whoever reads it later.

    Raises ManifestError, with the nearest word, where there is none; MissingExtra where its library is not installed.
    """
    place = _OURS.get(kind) or _others().get(kind)
    if place is None:
        raise ManifestError(
            f"{kind!r} is no kind of driver.", untouched="Nothing was read.", next_step=did_you_mean(kind, kinds())
        )
    driver: object = _load(kind, place)()
    if not isinstance(driver, Driver):
        raise ManifestError(
            f"The driver {kind!r} ({place.module}:{place.name}) does not have the verbs of a driver.",
            untouched="Nothing was read.",
            next_step=f"Ask the makers of {place.install} for a release that fits this one.",
        )
    return driver


def _load(kind: str, place: _Place) -> Any:
    """The driver's class. Whatever of our own cannot be imported is a defect and stays an ImportError."""
    try:
        return getattr(importlib.import_module(place.module), place.name)
    except ModuleNotFoundError as error:
        missing = error.name or "a library"
        if missing.split(".")[0] == "resurgam":
            raise
        raise MissingExtra(
            f"The driver {kind!r} needs {missing}, which is not installed.",
            untouched="Nothing was read.",
            next_step=f"Run: python -m pip install '{place.install}'",
        ) from error


@cache
def _others() -> dict[str, _Place]:
    return {point.name: _place_of(point) for point in entry_points(group=GROUP)}


def _place_of(point: EntryPoint) -> _Place:
    package = point.dist.name if point.dist else point.module.split(".")[0]
    return _Place(point.module, point.attr, package)
