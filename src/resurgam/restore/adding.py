"""Adding: a restore that began with what matters most gets the rest, component by component, in the folder that is there.

    restore --tier hot   DIR with the hot components, by one rename
    restore --add        each other one: built in DIR.partial-ID, renamed into DIR, then named in DIR's state

So each component becomes itself by one rename (P5), and counts when the state names it: cut off anywhere, the same command goes on.
Only a restore that nobody judged grows: a verdict is over all that was there.
"""

from __future__ import annotations

import os
import shutil

import msgspec

from resurgam.clock import Clock
from resurgam.drivers.base import Drivers
from resurgam.errors import TargetRefused
from resurgam.model.point import Particulars, PointBody
from resurgam.restore.run import Progress, build, claimed, sweep_partial, wanted
from resurgam.restore.state import Copy, Restored, State, load, save
from resurgam.restore.switch import fsync_folder, outside
from resurgam.vault.repository import Repository
from resurgam.vault.warmup import require_awake


def add(
    repository: Repository,
    body: PointBody,
    particulars: Particulars,
    target: str,
    drivers: Drivers,
    clock: Clock,
    *,
    components: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> tuple[Restored, tuple[str, ...]]:
    """Add to the restore in ``target`` what it lacks of ``components`` (of all where none is named); the names of what was added.

    Raises TargetRefused where ``target`` is a restore of another point, or was judged; NotFound, IntegrityError, StoreFull, Denied,
    Archived.
    """
    target = os.path.abspath(target)
    partial = f"{target}.partial-{_require_growing(load(target), body, target).id}"
    sweep_partial(target)
    with claimed(partial):
        restored = _require_growing(load(target), body, target)  # by now another one may have added to it
        names = [name for name in wanted(particulars.system, components) if name not in restored.copies]
        require_awake(repository, body, particulars.system, names)
        began = clock.monotonic()
        for name, copy in build(repository, body, particulars.system, names, partial, drivers, clock, progress):
            _bring(partial, target, name)
            seconds, began = clock.monotonic() - began, clock.monotonic()
            restored = _grown(restored, name, copy, seconds)
            save(target, restored)  # last: what the state does not name is not there
    return restored, tuple(names)


def _require_growing(restored: Restored, body: PointBody, target: str) -> Restored:
    if restored.point != body.id:
        wrong, next_step = (
            f"is a restore of point {restored.point}",
            f"Name that point, or give another folder than {target}.",
        )
    elif restored.state is not State.BUILT:
        wrong, next_step = (
            f"is {restored.state.value} already",
            "A verdict is over all that was there: restore into another folder.",
        )
    else:
        return restored
    raise TargetRefused(f"{target} {wrong}.", untouched="Nothing was written.", next_step=next_step)


def _bring(partial: str, target: str, name: str) -> None:
    """P5: one rename. What a run before brought, and died before its state said so, gives way."""
    try:
        shutil.rmtree(os.path.join(target, name), ignore_errors=True)
        os.rename(os.path.join(partial, name), os.path.join(target, name))
        fsync_folder(target)
    except OSError as error:
        raise outside(error, f"rename {partial}/{name} to {target}/{name}") from error


def _grown(restored: Restored, name: str, copy: Copy, seconds: float) -> Restored:
    copies = {**restored.copies, name: copy}
    return msgspec.structs.replace(restored, copies=copies, seconds=restored.seconds + seconds)
