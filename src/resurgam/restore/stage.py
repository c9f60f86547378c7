"""Staging: bringing restored copies beside the live places, on their file systems, and taking them back.

Within a file system a copy is renamed, which costs nothing and keeps every byte. To another one it is copied by ``cp -a``,
which keeps links, holes, times, owners and extended attributes whatever the driver is; the caller fingerprints it again.
A copy that becomes a single live file (a database) takes over that file's owner and mode: the service that could open
the old one can open the new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator

from resurgam.errors import Busy, Denied, ResurgamError, StoreFull
from resurgam.restore import intent as journal
from resurgam.restore import switch
from resurgam.restore.intent import Intent, Move, Place, Verb


def planned(places: tuple[Place, ...]) -> tuple[tuple[Move, ...], tuple[str, ...]]:
    """The moves that stage ``places``, and the missing parent folders of lost ones, outermost first. Changes nothing.

    Raises StoreFull where another file system has no room for the copies that must go there.
    """
    moves: list[Move] = []
    made: list[str] = []
    needed: dict[str, int] = {}
    for place in places:
        parent, missing = _existing_parent(place.live)
        made += [folder for folder in missing if folder not in made]
        same = os.stat(parent).st_dev == os.lstat(place.copy).st_dev
        suffixes = [] if place.folder else switch.siblings(place.copy)
        for suffix in ["", *suffixes]:
            move = journal.rename(place.copy + suffix, place.partial + suffix)
            moves.append(
                move if same else Move(verb=Verb.COPY, source=move.source, target=move.target, inode=move.inode)
            )
        if not same:
            needed[parent] = needed.get(parent, 0) + _size(place.copy)
    for parent, size in needed.items():
        _require_room(parent, size)
    return tuple(moves), tuple(made)


def bring(intent: Intent, tell: Callable[[str], None]) -> None:
    """Do what :func:`planned` planned, and make it durable."""
    for folder in intent.made:
        try:
            os.mkdir(folder)
            switch.fsync_folder(os.path.dirname(folder))
        except OSError as error:
            raise switch.outside(error, f"make {folder}") from error
    for move in intent.staged:
        tell(f"stage: {move}")
        if move.verb is Verb.COPY:
            copy(move.source, move.target, _ANOTHER_FOLDER)
        else:
            journal.make(move)
    for place in intent.places:
        _take_over_owner(place)
        switch.flush(place.partial)


def take_back(intent: Intent, tell: Callable[[str], None]) -> None:
    """Bring renamed copies back to the restore, remove copied ones and folders that were made. Repeatable."""
    renames = [move for move in intent.staged if move.verb is Verb.RENAME]
    for move in reversed(renames[: journal.progress(renames)]):
        tell(f"take back: {move}")
        journal.take_back(move)
    for move in intent.staged:
        if move.verb is Verb.COPY:
            tell(f"remove: {move.target}")
            remove(move.target)
    for folder in reversed(intent.made):
        if os.path.isdir(folder) and not os.listdir(folder):  # else somebody has begun to use it
            os.rmdir(folder)


@contextlib.contextmanager
def locked(folder: str, what: str = "promote") -> Iterator[None]:
    """Hold the lock ``what`` of the state folder, which is made if need be. Raises Busy where another process has it."""
    import fcntl  # not everywhere, and this module must import everywhere

    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor = os.open(os.path.join(folder, f"{what}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise switch.outside(error, f"open the lock in {folder}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f"Another {_WORKS.get(what, what)} is at work on this host.",
                untouched="Nothing was changed.",
                next_step="Wait for it to end; `resurgam status` shows it.",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _existing_parent(path: str) -> tuple[str, list[str]]:
    missing: list[str] = []
    parent = os.path.dirname(path)
    while not os.path.isdir(parent):
        missing.insert(0, parent)
        parent = os.path.dirname(parent)
    return parent, missing


def copy(source: str, target: str, next_step: str) -> None:
    """Copy a file or a folder with all that ``cp -a`` keeps. Raises StoreFull, Denied, with ``next_step``."""
    command = ["cp", "-a", "--", source, target]
    completed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=_CP_ENVIRONMENT)
    if completed.returncode != 0:
        last = completed.stderr.decode("utf-8", "replace").strip()[-400:]
        kind = StoreFull if "No space left" in last else Denied if "denied" in last else ResurgamError
        raise kind(
            f"Copying {source} to {target} failed: {last}.",
            untouched="What is live was not touched.",
            next_step=next_step,
        )


def remove(path: str) -> None:
    """Remove a file or a folder; repeatable. Raises as :func:`switch.outside` maps."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise switch.outside(error, f"remove {path}") from error


def _take_over_owner(place: Place) -> None:
    try:
        live, new = os.lstat(place.live), os.lstat(place.partial)
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(live.st_mode) and stat.S_ISREG(new.st_mode)):
        return
    try:
        if (live.st_uid, live.st_gid) != (new.st_uid, new.st_gid):
            os.chown(place.partial, live.st_uid, live.st_gid)
        os.chmod(place.partial, stat.S_IMODE(live.st_mode))
    except OSError as error:
        raise switch.outside(error, f"give {place.partial} the owner and mode of {place.live}") from error


def _size(path: str) -> int:
    total = os.lstat(path).st_blocks * 512
    for folder, folders, files in os.walk(path):
        total += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in folders + files)
    return total


def _require_room(folder: str, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StoreFull(
            f"{folder} has {free:,} bytes free, and the copies need {size:,}.",
            untouched="Nothing was changed.",
            next_step="Free some space there, or restore into a folder on that file system, which needs no copy.",
        )


_WORKS = {"promote": "promotion", "recover": "recovery", "prove": "unattended verification"}
_ANOTHER_FOLDER = "Mend that, or restore into a folder on the file system of the live place, which needs no copy."
_CP_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
