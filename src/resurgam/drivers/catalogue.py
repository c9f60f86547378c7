"""What ``resurgam drivers`` tells: every kind that is installed, what it can, what it was tested with, and who vouches for it.

*certified*: the exam of ``resurgam.testing.driver_kit`` is sat on the real store whenever this package is tested; the versions
stand in ``registry``. *experimental*: everything else, and so whatever another package brings. Its exam is its makers' affair, so
nothing is claimed for it, and what is told comes from its package's own metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, version

import msgspec

from resurgam import __version__
from resurgam.drivers.base import Traits
from resurgam.drivers.registry import Place, driver_for, places, providers
from resurgam.errors import ResurgamError

OWN = "resurgam"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution that a driver works with; ``installed`` is None where it is not here, ``tested`` empty where nobody says."""

    name: str
    installed: str | None
    tested: tuple[str, ...]


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """A driver's Traits in words: ``consistency`` is the best it can earn, ``freeze_limit`` is in seconds."""

    consistency: str
    equality: str
    freeze: str
    freeze_limit: float
    describes: bool


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One kind. ``traits`` is None where the driver cannot be loaded, and ``trouble`` says why. ``extra`` is what brings its
    libraries (``pip install EXTRA``); without them it may still work in part, as its page tells."""

    kind: str
    captures: str
    status: str
    package: str
    version: str
    extra: str | None
    libraries: tuple[Library, ...]
    traits: Abilities | None
    trouble: str = ""


def catalogue() -> tuple[Entry, ...]:
    """Every kind, sorted. Loads each driver; one that cannot be loaded is told and hides no other."""
    brought = providers()
    return tuple(_entry(kind, place, kind in brought, brought.get(kind)) for kind, place in places().items())


def _entry(kind: str, place: Place, outside: bool, bringer: Distribution | None) -> Entry:
    traits, trouble = _traits(kind)
    return Entry(
        kind=kind,
        captures=place.captures if not outside else _summary(bringer),
        status="certified" if place.certified else "experimental",
        package=place.install if outside else OWN,
        version=(bringer.version if bringer else "") if outside else __version__,
        extra=place.install if not outside and place.install != OWN else None,
        libraries=_libraries(_needs(bringer) if outside else place.tested),
        traits=traits,
        trouble=trouble,
    )


def _traits(kind: str) -> tuple[Abilities | None, str]:
    try:
        return _abilities(driver_for(kind).traits), ""
    except ResurgamError as error:
        return None, f"{error.message} {error.next_step}"
    except Exception as error:  # noqa: BLE001 - the code of others may raise anything; the list of drivers must still be told
        return None, f"It cannot be loaded: {type(error).__name__}."


def _abilities(traits: Traits) -> Abilities:
    return Abilities(
        consistency=traits.consistency.word,
        equality=traits.equality.value,
        freeze=traits.freeze.value,
        freeze_limit=traits.freeze_limit,
        describes=traits.describes,
    )


def _libraries(tested: Mapping[str, tuple[str, ...]]) -> tuple[Library, ...]:
    return tuple(Library(name=name, installed=_installed(name), tested=versions) for name, versions in tested.items())


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _summary(bringer: Distribution | None) -> str:
    return bringer.metadata["Summary"] or "" if bringer and "Summary" in bringer.metadata else ""


def _needs(bringer: Distribution | None) -> dict[str, tuple[str, ...]]:
    """What its package requires, but for Resurgam itself and for what only an extra asks for."""
    asked = [text for text in (bringer.requires or ()) if "extra ==" not in text] if bringer else []
    names = [match[0] for text in asked if (match := _NAME.match(text))]
    return {name: () for name in names if name.lower() != OWN}
