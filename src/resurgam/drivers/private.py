"""Private copies among the temporary files, which a killed process cannot leave behind for good.

A copy of a store is as secret as the store. Where a library wants it under a name, it lies in a folder of mode 0700 that is locked
while it lives; the kernel lets go of the lock when the process dies, by ``kill -9`` too, and then :func:`clear` may have it. Each
capture clears them away before it begins, never within a freeze: writers do not wait for what a dead process left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from resurgam.drivers.base import write_fully
from resurgam.errors import Busy, Denied, StoreFull

_PREFIX = "resurgam-copy-"
_COPIES = re.compile(_PREFIX + r"[a-z0-9_]{8}")  # as tempfile.mkdtemp names them
_TRIES = 5  # times that a folder is made anew when another sweep was faster than our lock
_STEP = 32 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_RANGE_COPY = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


@contextmanager
def private_folder() -> Iterator[str]:
    """An empty folder among the temporary files that only this user can open, removed at the end with all that is in it.

    Raises StoreFull, OSError, Busy.
    """
    with room():
        folder, lock = claim(tempfile.gettempdir(), _PREFIX)
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
    """Remove the private copies of dead processes. Raises Denied where the folder of temporary files cannot be read."""
    try:
        sweep(tempfile.gettempdir(), _COPIES)
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


def copy_range(source: int, target: int, size: int, start: int, still_allowed: Callable[[], None]) -> None:
    """Copy the first ``size`` bytes of ``source`` to ``start`` in ``target``, a private copy; the kernel shares blocks if it can.

    ``still_allowed`` is asked between steps, and raises where it may not go on. A source that became shorter ends the copy: the
    caller looks at what it got. Raises StoreFull, OSError.
    """
    done, by_kernel = 0, hasattr(os, "copy_file_range")
    while done < size:
        still_allowed()
        step = min(_STEP, size - done)
        with room():
            try:
                copied = os.copy_file_range(source, target, step, done, start + done) if by_kernel else -1
            except OSError as error:
                if error.errno not in _NO_RANGE_COPY:
                    raise
                by_kernel, copied = False, -1
            if copied < 0:
                data = os.pread(source, step, done)
                write_fully(target, memoryview(data), start + done)
                copied = len(data)
        if not copied:
            return
        done += copied
