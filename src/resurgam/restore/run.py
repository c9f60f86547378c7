"""The way back: a recovery point becomes a folder of copies. One path for a first proof, a drill, a look and a disaster.

The folder is built as ``DIR.partial-ID`` and becomes ``DIR`` by one rename, last (P5). In it each component stands at
``<component>/<name of its live file or folder>``. Nothing is judged here; see ``verify``.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress

from resurgam.clock import Clock
from resurgam.drivers.base import Blob, Drivers, Item
from resurgam.errors import Busy, IntegrityError, NotFound, TargetRefused
from resurgam.model.point import Particulars, PointBody
from resurgam.model.system import Component, System
from resurgam.private import sweep
from resurgam.restore.plan import restore_order
from resurgam.restore.state import Copy, Event, Restored, place_of, save
from resurgam.restore.switch import fsync_folder, outside
from resurgam.vault.replicas import require_here
from resurgam.vault.repository import Repository
from resurgam.vault.succession import in_turn
from resurgam.vault.warmup import require_awake

_CLAIMS = 5  # times that a partial folder is made anew when another restore has swept it away

Progress = Callable[[str, int], None]  # component, bytes written since the last call


def restore(
    repository: Repository,
    body: PointBody,
    particulars: Particulars,
    target: str,
    drivers: Drivers,
    clock: Clock,
    *,
    components: tuple[str, ...] = (),
    progress: Progress | None = None,
    furnish: Callable[[str, Restored], None] | None = None,
) -> Restored:
    """Build copies of ``components`` (all where none is named) of a point in ``target``, which must not exist or be empty.
    ``furnish`` may add to the whole folder just before it gets its name.

    Raises TargetRefused, NotFound, IntegrityError, StoreFull, Denied, Archived. Whatever stops it, ``target`` is whole or not
    there; what was half built is removed, or by the next restore into the same target if the process was killed.
    """
    system = particulars.system
    target = os.path.abspath(target)
    names = wanted(system, components)
    require_here(repository, body, names)
    require_target(target, system)
    require_awake(repository, body, system, names)
    began = clock.monotonic()
    restored = Restored(id=secrets.token_hex(8), point=body.id, system=system.name, copies={}).after(Event.START)
    partial = f"{target}.partial-{restored.id}"
    sweep_partial(target)
    with claimed(partial):
        copies = dict(build(repository, body, system, names, partial, drivers, clock, progress))
        seconds = clock.monotonic() - began
        done = Restored(
            id=restored.id, point=body.id, system=system.name, copies=copies, state=restored.state, seconds=seconds
        ).after(Event.FINISH)
        save(partial, done)
        if furnish is not None:
            furnish(partial, done)
        _become(partial, target)
    return done


def build(
    repository: Repository,
    body: PointBody,
    system: System,
    names: Sequence[str],
    partial: str,
    drivers: Drivers,
    clock: Clock,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Copy]]:
    """Copies of the components ``names`` in the folder ``partial``, one after the other, each as it is whole. Raises IntegrityError
    naming the component that is not."""
    with closing(in_turn([repository.snapshot(body, name) for name in names])) as contents:
        for name, items in zip(names, contents, strict=True):
            try:
                copy = _write(system.component(name), _counted(items, name, progress), partial, drivers, clock)
            except IntegrityError as error:
                raise _lost(name, error) from error
            yield name, copy


def copies_of(system: System, directory: str, restored: Restored) -> System:
    """``system`` bound to the copies in ``directory``."""
    return system.bound_to({name: place_of(directory, copy) for name, copy in restored.copies.items()})


def require_target(target: str, system: System) -> None:
    """Refuse a target that holds anything, that is, lies in, or contains live state, or that lies in the vault or among
    its keys. Raises TargetRefused."""
    real = os.path.realpath(target)
    for component in system.components:
        live = os.path.realpath(component.location)
        if real == live or os.path.commonpath([real, live]) in (real, live):
            raise TargetRefused(
                f"{target} is where {component.name} lives, or part of it.",
                untouched="Nothing was written.",
                next_step="Restore into a folder beside the system; `resurgam promote` brings a proven copy live.",
            )
    for ours in system.vault.folders:
        place = os.path.realpath(ours)
        if os.path.commonpath([real, place]) == place:
            raise TargetRefused(
                f"{target} lies in {ours}, which holds the vault or its keys.",
                untouched="Nothing was written.",
                next_step="Restore into a folder of its own.",
            )
    try:
        empty = not os.path.lexists(target) or not os.listdir(target)
    except NotADirectoryError:
        empty = False
    except OSError as error:
        raise outside(error, f"look into {target}") from error
    if not empty:
        raise TargetRefused(
            f"{target} exists and is not empty.",
            untouched="Nothing in it was changed.",
            next_step="Give the name of a folder that does not exist yet.",
        )


def _write(component: Component, items: Iterator[Item], partial: str, drivers: Drivers, clock: Clock) -> Copy:
    driver = drivers(component.driver)
    place = f"{component.name}/{os.path.basename(component.location.rstrip('/')) or component.name}"
    began = clock.monotonic()
    os.mkdir(os.path.join(partial, component.name), mode=0o700)
    written = driver.write(items, component.bound_to(os.path.join(partial, place)))
    seconds = clock.monotonic() - began
    return Copy(
        driver=component.driver,
        place=place,
        fingerprint=driver.fingerprint(written),
        bytes=_size(written.location),
        seconds=seconds,
    )


def _lost(component: str, error: IntegrityError) -> IntegrityError:
    """P12: which component, and how to go on without it. Half of one is never left as if it were whole (P5)."""
    return IntegrityError(
        f"The component {component} cannot be restored: {error.message}",
        untouched="Nothing was left at the target.",
        next_step=f"{error.next_step} `--component` restores the others by themselves.",
    )


def _counted(items: Iterator[Item], component: str, progress: Progress | None) -> Iterator[Item]:
    for item in items:
        yield item
        if progress is not None and isinstance(item, Blob):
            progress(component, item.size)


def wanted(system: System, components: tuple[str, ...]) -> list[str]:
    """The components that are meant, all where none is named, in the order in which they are restored. Raises NotFound."""
    order = restore_order(system)
    unknown = [name for name in components if name not in order]
    if unknown:
        raise NotFound(
            f"The point has no component {', '.join(unknown)}.",
            untouched="Nothing was written.",
            next_step=f"It has: {', '.join(order)}.",
        )
    return [name for name in order if not components or name in components]


def _become(partial: str, target: str) -> None:
    """P5: the last move. An empty folder at the target gives way; anything else does not."""
    try:
        os.rename(partial, target)
        fsync_folder(os.path.dirname(target))
    except OSError as error:
        raise outside(error, f"rename {partial} to {target}") from error


@contextmanager
def claimed(partial: str) -> Iterator[None]:
    """Make the folder ``partial``, and lock it so that other restores into this target leave it alone; waits for one that has it.
    With the block it goes, if it did not get another name in it. Raises Busy, Denied, StoreFull."""
    lock = None
    try:
        lock = _locked(partial)
        yield
    finally:
        try:
            if lock is not None:
                shutil.rmtree(partial, ignore_errors=True)
            else:  # cut off before it was ours: another one may be at work in it
                folder, name = os.path.split(partial)
                with suppress(OSError):
                    _sweep(folder, re.escape(name))
        finally:
            if lock is not None:
                os.close(lock)


def _locked(partial: str) -> int:
    """The lock of the new folder ``partial``. Before we have it, another restore may take that for a dead one's and remove it: then
    it is made again."""
    for _ in range(_CLAIMS):
        try:
            os.makedirs(partial, mode=0o700, exist_ok=True)
        except OSError as error:
            raise outside(error, f"make {partial}") from error
        try:
            lock = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise outside(error, f"open {partial}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.isdir(partial):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    raise Busy(
        f"{partial} was removed {_CLAIMS} times over by somebody else.",
        untouched="Nothing was restored.",
        next_step="Wait until other restores into this target have ended, or give another folder.",
    )


def sweep_partial(target: str) -> None:
    """Remove what killed restores into the same target have left; one that still runs holds its folder's lock."""
    folder, name = os.path.split(target)
    _sweep(folder, re.escape(name) + r"\.partial-[0-9a-f]{16}")


def _sweep(folder: str, names: str) -> None:
    if os.path.isdir(folder):
        sweep(folder, re.compile(names))


def _size(path: str) -> int:
    if not os.path.isdir(path):
        return os.lstat(path).st_size
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)
