"""Private folders among the temporary files, which a killed process cannot leave behind for good.

A copy of a store is as secret as the store, and so is what a probe's command leaves in its HOME. Where a name is wanted, both
lie in a folder of mode 0700 that is locked while it lives; the kernel lets go of the lock when the process dies, by ``kill -9``
too, and then :func:`clear` may have it. Each capture and verification clears them away before it begins, never within a
freeze: writers do not wait for what a dead process left.

What a process holds in memory, keys before all, is kept out of core dumps, and away from other processes of the same user.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from resurgam.errors import Busy, Denied, StoreFull

_OURS = re.compile(r"resurgam-(?:copy|probe)-[a-z0-9_]{8}")  # as tempfile.mkdtemp names them
_TRIES = 5  # times that a folder is made anew when another sweep was faster than our lock
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_PR_SET_DUMPABLE = 4  # prctl(2)


def keep_memory() -> None:
    """This process and those it forks leave no core dump, and on Linux no process of the same user reads their memory (prctl(2),
    PR_SET_DUMPABLE). Another program that they start may be read again, and dumps as little. Swap is the host's to guard."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@contextmanager
def private_folder(purpose: str = "copy") -> Iterator[str]:
    """An empty folder among the temporary files that only this user can open, removed at the end with all that is in it.

    ``purpose`` is ``copy`` (of a store) or ``probe`` (the HOME of a command). Raises StoreFull, OSError, Busy.
    """
    prefix = f"resurgam-{purpose}-"
    assert _OURS.fullmatch(f"{prefix}________"), "nobody would clear it away"
    with room():
        folder, lock = claim(tempfile.gettempdir(), prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def room() -> Iterator[None]:
    """Around what writes a private copy: StoreFull names the disk that is full, which is not that of the store (P12)."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StoreFull(
            f"No space is left for a private copy in {tempfile.gettempdir()}.",
            untouched="What was to be copied is unchanged.",
            next_step="Free some space there, or set TMPDIR to a disk with room, and run the same command again.",
        ) from error


@contextmanager
def private_file() -> Iterator[tuple[int, str]]:
    """A new file that only this user can open, as (descriptor, path); its name is gone when the block ends.

    Raises StoreFull, OSError, Busy.
    """
    with private_folder() as folder:
        path = os.path.join(folder, "database")
        yield os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path


def clear() -> None:
    """Remove the private folders of dead processes. Raises Denied where the folder of temporary files cannot be read."""
    try:
        sweep(tempfile.gettempdir(), _OURS)
    except OSError as error:
        raise Denied(
            f"The folder of temporary files cannot be used: {error.strerror}.",
            untouched="Nothing was restored, captured or run.",
            next_step="Name a folder that this user can read and write in TMPDIR.",
        ) from error


def claim(home: str, prefix: str) -> tuple[str, int]:
    """A new folder in ``home`` and the lock on it. Between the two, another process may take it for a dead one's and remove it.

    Raises OSError, Busy.
    """
    for _ in range(_TRIES):
        folder = tempfile.mkdtemp(prefix=prefix, dir=home)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(folder):
            return folder, lock
        os.close(lock)
    raise Busy(
        f"The folder {home} is being cleared by others all the time.",
        untouched="Nothing was restored, captured or run.",
        next_step="Try again when other captures and verifications have ended.",
    )


def sweep(home: str, names: re.Pattern[str]) -> None:
    """Remove our own folders in ``home`` that are called like ``names`` and that no living process holds locked. Raises OSError."""
    with os.scandir(home) as entries:
        found = [entry for entry in entries if names.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]
    for entry in found:
        try:
            lock = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # gone by now, or another user's: theirs to remove
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
