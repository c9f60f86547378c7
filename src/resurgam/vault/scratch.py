"""Private folders for one use, which a killed process cannot leave behind for good.

    with scratch("verify") as folder:             # <state home>/scratch/verify-XXXXXXXX, mode 0700
        ...                                       # removed at the end, whatever that was

What lies here may be a whole decrypted system, so it is not put into a temporary folder that nobody clears: all uses
share one folder of this host's state, each holds its own locked while it lives, and each first removes those that
nobody holds any more. The kernel lets go of a lock when its process dies, by ``kill -9`` too.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from resurgam.errors import Busy
from resurgam.vault.host import state_home, told

_TRIES = 5  # times that a folder is made anew when another sweep was faster than our lock
_OURS = re.compile(r"[a-z]+-[a-z0-9_]{8}")  # as tempfile.mkdtemp names them


@contextmanager
def scratch(purpose: str) -> Iterator[str]:
    """An empty folder of our own, removed at the end with all that is in it. ``purpose`` is a lower-case word.

    Raises Denied and StoreFull where this host's state cannot be kept, Busy.
    """
    home = os.path.join(state_home(), "scratch")
    with told(home):
        os.makedirs(home, mode=0o700, exist_ok=True)
        os.chmod(home, 0o700)
        sweep(home, _OURS)
        folder, lock = _claimed(home, purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(home: str, names: re.Pattern[str]) -> None:
    """Remove the folders in ``home`` that are called like ``names`` and that no living process holds locked."""
    for entry in os.scandir(home):
        if not names.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            lock = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # gone by now, or another user's: theirs to remove
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _claimed(home: str, purpose: str) -> tuple[str, int]:
    """A new folder and the lock on it. Between the two, another process may take it for a dead one's and remove it."""
    for _ in range(_TRIES):
        folder = tempfile.mkdtemp(prefix=f"{purpose}-", dir=home)
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
        next_step="Try again when other verifications have ended.",
    )
