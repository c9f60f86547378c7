"""What a component's options leave out of its live folder goes along when a restored folder takes that folder's place.

A point does not hold what was left out (secrets, logs), so a switch alone would take it away from the service. It is copied
into the incoming folder while nobody holds the live one, just before the switch; the original stays with what was live, so an
undo is exact. It goes only into folders that the point has: an entry in a folder made since stays with what was live.

The other way round, a copy that holds such an entry is refused: no fingerprint and no probe's verdict speaks of it (P4).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from resurgam.drivers.base import Driver, LeavesOut
from resurgam.errors import NotProven
from resurgam.model.system import Component
from resurgam.restore import stage, switch
from resurgam.restore.intent import Place

SHOWN = 20  # names in a plan's step or in an error


def sorted_out(driver: Driver, component: Component, live: str, incoming: str) -> tuple[list[bytes], list[bytes]]:
    """What is left out of ``live``: the entries that can go along into ``incoming``, and those whose folder it lacks."""
    carried: list[bytes] = []
    stays: list[bytes] = []
    if isinstance(driver, LeavesOut) and os.path.isdir(live) and os.path.isdir(incoming):
        root = os.path.realpath(os.fsencode(incoming))
        for path in driver.left_out(component.bound_to(live)):
            folder = os.path.normpath(os.path.join(root, os.path.dirname(path)))
            real = os.path.isdir(folder) and os.path.realpath(folder) == folder  # a link could lead anywhere
            (carried if real else stays).append(path)
    return carried, stays


def require_none(driver: Driver, component: Component, copy: str) -> None:
    """Raises NotProven where ``copy`` holds what the options leave out."""
    found = driver.left_out(component.bound_to(copy)) if isinstance(driver, LeavesOut) else ()
    if found:
        raise NotProven(
            f"The copy of component {component.name} holds what its options leave out, so nobody has judged it: {shown(found)}.",
            untouched="Nothing was changed.",
            next_step=f"Remove that from {copy}, or verify the point into another folder; "
            "then find out who put it there: a probe of yours may write to what it reads.",
        )


def bring(place: Place, tell: Callable[[str], None]) -> None:
    """Copy the carried entries of ``place`` from what is live into what comes, and make them durable.

    Raises NotProven where something stands there already, StoreFull, Denied.
    """
    for path in place.carried:
        source, target = _inside(place.live, path), _inside(place.partial, path)
        tell(f"carry: {shown([path])} of {place.component}")
        if os.path.lexists(target):
            raise NotProven(
                f"{target} appeared in what was judged without it.",
                untouched="What is live was not touched.",
                next_step="Verify the point into another folder, and find out who writes there.",
            )
        folder = os.path.dirname(target)
        times = os.stat(folder)
        stage.copy(source, target, "Mend that, and promote again.")
        os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    if place.carried:
        switch.flush(place.partial)


def take_back(place: Place, tell: Callable[[str], None]) -> None:
    """Remove the copies that :func:`bring` made, whole or begun; repeatable."""
    for path in place.carried:
        target = _inside(place.partial, path)
        if os.path.lexists(target):
            tell(f"remove: {shown([path])} from {place.partial}")
            stage.remove(target)


def shown(paths: Iterable[bytes]) -> str:
    """Some paths for people: bytes that are not UTF-8 as ``\\xNN``."""
    names = [path.decode("utf-8", "backslashreplace") for path in paths]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _inside(folder: str, path: bytes) -> str:
    return os.path.join(folder, os.fsdecode(path))
