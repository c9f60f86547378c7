"""Copies of a point to look at: beside the system, for people and their own tools, and for no promotion.

    <state home>/opened/<system>/<point>[.<component>+...]      mode 0700, until it is discarded or the host is detached

A copy that stands there already is used again where it is intact: fingerprinted by its drivers as it was when it was restored.
It was never judged, so ``promote`` refuses it (P4). A command that is to look runs behind the walls of
:mod:`resurgam.restore.sandbox`: no network, and nothing that is live (P6).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from resurgam.clock import Clock
from resurgam.drivers.base import Drivers
from resurgam.errors import NotFound, ResurgamError, TargetRefused
from resurgam.model.point import Particulars, PointBody
from resurgam.model.system import System
from resurgam.probes.base import Completed
from resurgam.restore.plan import replaceable
from resurgam.restore.run import Progress, copies_of, restore
from resurgam.restore.sandbox import Sandbox
from resurgam.restore.state import Restored, State, load
from resurgam.restore.switch import outside
from resurgam.restore.verify import as_accepted_here
from resurgam.vault.host import state_home
from resurgam.vault.repository import Repository


@dataclass(frozen=True)
class Opened:
    """Copies in ``directory``; ``again`` where they stood there already."""

    directory: str
    restored: Restored
    again: bool


def folder_of(system: str, point: str = "", components: Sequence[str] = ()) -> str:
    """Where copies of a system, or of one of its points, are opened where nobody says otherwise."""
    parts = [f"{point}.{'+'.join(sorted(components))}" if components else point] if point else []
    return os.path.join(state_home(), "opened", system, *parts)


def open_copies(
    repository: Repository,
    body: PointBody,
    particulars: Particulars,
    directory: str,
    drivers: Drivers,
    clock: Clock,
    *,
    components: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Opened:
    """Copies of ``components`` in ``directory``: those that stand there intact, else new ones.

    Raises TargetRefused where something else stands there, or copies that somebody has changed, and what ``restore`` raises.
    """
    directory = os.path.abspath(directory)
    known = _standing(directory, body.id)
    if known is not None:
        wanted = set(components) or set(particulars.system.locations())
        if known.copies.keys() != wanted:
            raise _taken(directory, f"holds {', '.join(known.copies)}", body.id)
        _require_intact(directory, known, particulars.system, drivers)
        return Opened(directory, known, again=True)
    restored = restore(
        repository, body, particulars, directory, drivers, clock, components=components, progress=progress
    )
    return Opened(directory, restored, again=False)


def run(opened: Opened, argv: Sequence[str], particulars: Particulars, own: System | None, drivers: Drivers, *,
        hide: Sequence[str] = (), timeout: float) -> Completed:  # fmt: skip
    """Run ``argv`` against the copies behind the walls, ``{name}`` in it standing for the copy of *name*.

    ``own`` is the system by this host's manifest, ``hide`` are more paths that the command must not see. ``timeout`` in seconds.
    Raises Denied where it cannot be isolated.
    """
    system = as_accepted_here(particulars.system, own)
    live = [*replaceable(own, drivers).locations().values(), *own.vault.folders] if own else []
    places = copies_of(system, opened.directory, opened.restored).locations()
    restored = {name: places[name] for name in opened.restored.copies}
    hidden = [os.path.abspath(path) for path in (*live, *hide)]
    with Sandbox(opened.directory, replaceable(system, drivers), hide=hidden) as box:
        return box.run([_placed(word, restored) for word in argv], timeout=timeout)


def discard(directory: str, point: str | None = None) -> list[str]:
    """Remove opened copies: those in ``directory``, or all that stand in the folder ``directory`` of a system and are named for
    ``point``. Returns what was removed. Raises NotFound where there is none, TargetRefused where it is no opened copy."""
    found = [directory]
    if point is not None:
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        found = [os.path.join(directory, name) for name in names if name.partition(".")[0] == point]
    if not found or not os.path.isdir(found[0]):
        raise NotFound(
            f"No opened copy stands in {directory}{f' for point {point}' if point else ''}.",
            untouched="Nothing was removed.",
            next_step="Name the folder that `resurgam open` told, with --into.",
        )
    for folder in found:
        if ".partial-" not in os.path.basename(folder):  # what a killed restore left holds no state yet
            _require_never_judged(folder, load(folder))
    for folder in found:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise outside(error, f"remove {folder}") from error
    return found


def _standing(directory: str, point: str) -> Restored | None:
    """What ``directory`` says of itself, None where there is nothing. Raises TargetRefused where it is something else."""
    if not os.path.lexists(directory) or (os.path.isdir(directory) and not os.listdir(directory)):
        return None
    try:
        known = load(directory)
    except NotFound as error:
        raise _taken(directory, "is no opened copy", point) from error
    if known.point != point:
        raise _taken(directory, f"holds point {known.point}", point)
    _require_never_judged(directory, known)
    return known


def _require_never_judged(directory: str, known: Restored) -> None:
    if known.state is not State.BUILT:
        raise TargetRefused(
            f"{directory} holds copies that were judged or promoted: they are more than a look.",
            untouched="Nothing in it was changed.",
            next_step="Give another folder with --into.",
        )


def _require_intact(directory: str, known: Restored, system: System, drivers: Drivers) -> None:
    copies = copies_of(system, directory, known)
    for name, copy in known.copies.items():
        try:
            same = drivers(copy.driver).fingerprint(copies.component(name)) == copy.fingerprint
        except ResurgamError as error:
            raise _taken(
                directory, f"holds a copy of {name} that cannot be read any more ({error.message})", known.point
            ) from error
        if not same:
            raise _taken(directory, f"holds a copy of {name} that was changed since", known.point)


def _taken(directory: str, what: str, point: str) -> TargetRefused:
    return TargetRefused(
        f"{directory} {what}.",
        untouched="Nothing in it was changed.",
        next_step=f"Give another folder with --into, or remove an opened copy: `resurgam open {point} --discard`.",
    )


def _placed(word: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(f"{{{name}}}", place)
    return word
