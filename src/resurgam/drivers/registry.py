"""The kinds of driver: one line each, and those that other packages bring. A driver is imported when it is first asked for.

A package brings a driver by an entry point, and passes the exam of ``resurgam.testing.driver_kit`` in its own tests::

    [project.entry-points."resurgam.drivers"]
    mystore = "mypackage.mydriver:MyDriver"

The kinds of this package come first: no other package can put itself in the place of one of them. What ``resurgam drivers``
says of them stands here too, since a driver's own module may need a library that is not installed; tests/house/test_drivers.py
keeps it true.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from resurgam.drivers.base import Driver, Queries
from resurgam.errors import ManifestError, MissingExtra
from resurgam.model.nearest import did_you_mean
from resurgam.model.question import Question

if TYPE_CHECKING:  # loaded where a kind is asked for that is none of ours
    from importlib.metadata import Distribution, EntryPoint, EntryPoints

GROUP = "resurgam.drivers"


class Place(NamedTuple):
    """Where a driver's class is, and what to install where its library is missing. ``captures`` is for people; ``tested`` are the
    distributions it works with, each with the versions that its exam has passed with; ``certified`` says that the exam is sat
    on the real store whenever this package is tested; ``answers`` are what ``answers_of`` says of it."""

    module: str
    name: str
    install: str
    captures: str = ""
    tested: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    certified: bool = False
    answers: frozenset[Question] = frozenset()


_OURS = {
    "chroma": Place(
        "resurgam.drivers.chroma",
        "ChromaDriver",
        "resurgam[chroma]",
        "the folder of a Chroma PersistentClient: collections, documents, metadata, vectors",
        {"chromadb": ("1.5.9",)},
        certified=True,
        answers=frozenset({Question.SQL, Question.NEIGHBOURS}),
    ),
    "environment": Place(
        "resurgam.drivers.environment",
        "EnvironmentDriver",
        "resurgam",
        "a description of a Python environment: interpreter, packages, machine, code",
        certified=True,
    ),
    "files": Place(
        "resurgam.drivers.files",
        "FilesDriver",
        "resurgam",
        "a folder of files, or one file",
        certified=True,
        answers=frozenset({Question.FILES}),
    ),
    "git": Place(
        "resurgam.drivers.git",
        "GitDriver",
        "resurgam[git]",
        "a git working tree with its repository, or a bare one",
        {"dulwich": ("1.2.21",)},
        certified=True,
        answers=frozenset({Question.SQL}),
    ),
    "langgraph": Place(
        "resurgam.drivers.langgraph",
        "LangGraphDriver",
        "resurgam[langgraph]",
        "an agent's threads and memories in LangGraph's SQLite saver and store",
        {"langgraph-checkpoint-sqlite": ("3.1.2",), "ormsgpack": ("1.13.1",)},
        certified=True,
        answers=frozenset({Question.SQL}),
    ),
    "models": Place(
        "resurgam.drivers.models",
        "ModelsDriver",
        "resurgam[models]",
        "model files, seen as tensors: safetensors, ONNX, GGUF, npy, npz, torch",
        {"gguf": ("0.19.0",), "onnx": ("1.23.2",)},
        certified=True,
        answers=frozenset({Question.SQL, Question.FILES}),
    ),
    "sqlite": Place(
        "resurgam.drivers.sqlite",
        "SqliteDriver",
        "resurgam",
        "an SQLite database, in every journal mode",
        certified=True,
        answers=frozenset({Question.SQL}),
    ),
}


def kinds(named: Collection[str] | None = None) -> tuple[str, ...]:
    """The words that may stand after ``driver`` in a manifest, sorted. Nothing is imported for it. Where all that are ``named`` are
    of this package, so are these: to look for others takes longer than to read a manifest."""
    others = _others() if named is None or not _OURS.keys() >= set(named) else {}
    return tuple(sorted({*_OURS, *others}))


def places() -> dict[str, Place]:
    """Every kind with its place, sorted by kind. Nothing is imported for it."""
    return dict(sorted({**_others(), **_OURS}.items()))


def answers(kind: str) -> frozenset[Question]:
    """What a component of ``kind`` can be asked. Of our own kinds it is known without an import; the driver of another package is
    loaded. Raises as ``driver_for``."""
    ours = _OURS.get(kind)
    return ours.answers if ours else answers_of(driver_for(kind))


def answers_of(driver: Driver) -> frozenset[Question]:
    """What a driver can be asked, by its ports and traits. A description (``Traits.describes``) answers nothing: its copy is
    not what the live one is."""
    from resurgam.drivers.searching import Searches  # here, since it needs numpy

    if driver.traits.describes:
        return frozenset()
    has = {
        Question.SQL: isinstance(driver, Queries),
        Question.NEIGHBOURS: isinstance(driver, Searches),
        Question.FILES: driver.traits.files,
    }
    return frozenset(question for question, answered in has.items() if answered)


def providers() -> dict[str, Distribution | None]:
    """The distribution that brings each kind which is not of this package; None where it is not known."""
    return {point.name: point.dist for point in _brought() if point.name not in _OURS}


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


def _load(kind: str, place: Place) -> Any:
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
def _others() -> dict[str, Place]:
    return {point.name: _place_of(point) for point in _brought()}


def _brought() -> EntryPoints:
    """What other packages bring."""
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _place_of(point: EntryPoint) -> Place:
    package = point.dist.name if point.dist else point.module.split(".")[0]
    return Place(point.module, point.attr, package)
