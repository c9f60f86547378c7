"""drivers: the kinds of store that can be captured here."""

from __future__ import annotations

from resurgam.cli import output
from resurgam.cli.context import JsonOption
from resurgam.drivers.catalogue import Abilities, Entry, Library, catalogue

_HOLDS = {
    "pin": "pins a state",
    "copy": "copies in the freeze",
    "listing": "lists, and holds nothing",
}


def drivers(json: JsonOption = False) -> int:
    """List the kinds of store that a component can be.

    For each kind: what it captures, the best consistency that it can earn, how it freezes, and the libraries that it works
    with. Certified is a driver whose exam is passed on the real store whenever this package is tested, with the versions
    named; every other one is experimental. What other packages bring is listed with the package.

    Examples:

        resurgam drivers

        resurgam drivers --json
    """
    entries = catalogue()
    if json:
        output.as_json(entries)
        return 0
    for entry in entries:
        _show(entry)
    return 0


def _show(entry: Entry) -> None:
    source = f"{entry.package} {entry.version}".strip()
    output.line(f"{entry.kind}: {entry.status}, from {source}", style="bold")
    if entry.captures:
        output.line(f"  {entry.captures}")
    if entry.traits is not None:
        output.line(f"  {_traits(entry.traits)}")
    for library in entry.libraries:
        output.line(f"  {_library(library, entry.extra)}")
    if entry.trouble:
        output.line(f"  cannot be used: {entry.trouble}", style="red")


def _traits(traits: Abilities) -> str:
    words = [
        f"consistency {traits.consistency}",
        f"equal {'bytes' if traits.equality == 'bytes' else 'meaning'} after a restore",
        f"{_HOLDS[traits.freeze]}, for at most {output.seconds(traits.freeze_limit)}",
    ]
    return "; ".join([*words, *(["describes, and is not exchanged by a promotion"] if traits.describes else [])])


def _library(library: Library, extra: str | None) -> str:
    tested = f" (tested with {', '.join(library.tested)})" if library.tested else ""
    if library.installed is not None:
        return f"{library.name} {library.installed}{tested}"
    return f"{library.name} is not installed{tested}. Next: python -m pip install '{extra or library.name}'"
