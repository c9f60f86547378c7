"""What a host keeps beside the vault: locks, memories of unchanged files, and notes on what is under way.

All of it can be deleted (P3). It lies under ``$RESURGAM_STATE``, else ``$XDG_STATE_HOME/resurgam``, else
``~/.local/state/resurgam``: one folder per vault and system, readable by its owner only.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

import msgspec

from resurgam.errors import Busy, Denied, IntegrityError, StoreFull
from resurgam.model.codec import from_json, to_json

VAULT_NOTES = "_vault"  # where a system's name stands, for notes on a vault as such; no system can be called so


class UnderWay(msgspec.Struct, frozen=True):
    """A capture that has begun: ``point`` is the name that its lease reserves."""

    point: str
    started: str
    pid: int


def state_home() -> str:
    """The folder of all host state."""
    if home := os.environ.get("RESURGAM_STATE"):
        return os.path.abspath(os.path.expanduser(home))
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "resurgam")


class LastPoint(msgspec.Struct, frozen=True):
    """The point that this host sealed last, and when by its own clock: the next one says that it came after it."""

    point: str
    sealed: str


class Seen(msgspec.Struct, frozen=True):
    """The highest serial of its kind that this host has seen in the vault."""

    serial: int


class Copies(msgspec.Struct, frozen=True):
    """Where copies of the vault are: folders and URLs."""

    places: tuple[str, ...]


class HostState:
    """The host's notes on one system in one vault."""

    def __init__(self, vault: str, system: str, home: str | None = None) -> None:
        self.folder = os.path.join(home or state_home(), vault, system)
        with told(self.folder):
            os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def path(self, name: str) -> str:
        """A file in the folder."""
        return os.path.join(self.folder, name)

    @contextmanager
    def one_capture(self) -> Iterator[None]:
        """Hold the lock of this system's captures on this host; the kernel lets go of it when the process dies.

        Raises Busy: captures of other systems, and from other hosts, may run beside.
        """
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                under_way = self.under_way()
                by = f" (process {under_way.pid}, since {under_way.started})" if under_way else ""
                raise Busy(
                    f"Another capture of this system is running on this host{by}.",
                    untouched="It was left alone, and nothing was captured.",
                    next_step="Wait until it has ended; `resurgam status` shows it.",
                ) from error
            yield

    def capture_running(self) -> bool:
        """Whether a capture holds the lock now."""
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def _lock_file(self) -> BinaryIO:
        with told(self.folder):
            return open(self.path("capture.lock"), "a+b")

    def under_way(self) -> UnderWay | None:
        """The capture that has begun and not ended, running or interrupted; None when there is none."""
        try:
            with open(self.path("under-way.json"), "rb") as file:
                return from_json(file.read(), UnderWay, what="the note on the capture under way")
        except (FileNotFoundError, IntegrityError):
            return None  # a torn note is as good as none: the vault's lease says the same

    def begin(self, note: UnderWay) -> None:
        """Note that a capture has begun."""
        self._note("under-way.json", to_json(note))

    def last(self) -> LastPoint | None:
        """What this host sealed last; None where it does not remember."""
        try:
            with open(self.path("last-point.json"), "rb") as file:
                return from_json(file.read(), LastPoint, what="the note on the last point")
        except (FileNotFoundError, IntegrityError):
            return None

    def sealed(self, note: LastPoint) -> None:
        """Remember what was sealed last."""
        self._note("last-point.json", to_json(note))

    def newest_roles(self, serial: int) -> int:
        """The highest serial of a role table that this host has seen, ``serial`` counted in; it is remembered."""
        return self._highest("roles-seen.json", serial)

    def newest_list(self, serial: int) -> int:
        """The same of lists of the vault's places."""
        return self._highest("places-seen.json", serial)

    def newest_policy(self, serial: int) -> int:
        """The same of retention policies."""
        return self._highest("policies-seen.json", serial)

    def replicas(self) -> tuple[str, ...]:
        """Where this host has seen copies of the vault last."""
        try:
            with open(self.path("replicas.json"), "rb") as file:
                return from_json(file.read(), Copies, what="the note on replicas").places
        except (FileNotFoundError, IntegrityError):
            return ()

    def remember_replicas(self, places: Sequence[str]) -> None:
        """Note them: when the vault does not answer, it cannot say where its copies are."""
        if tuple(places) != self.replicas():
            self._note("replicas.json", to_json(Copies(tuple(places))))

    def _highest(self, name: str, serial: int) -> int:
        try:
            with open(self.path(name), "rb") as file:
                seen = from_json(file.read(), Seen, what=f"the note {name}").serial
        except (FileNotFoundError, IntegrityError):
            seen = 0
        if serial > seen:
            self._note(name, to_json(Seen(serial)))
        return max(serial, seen)

    def end(self) -> None:
        """The capture has ended, one way or the other; repeatable."""
        with told(self.folder), suppress(FileNotFoundError):
            os.unlink(self.path("under-way.json"))

    def _note(self, name: str, data: bytes) -> None:
        temporary = self.path(f"{name}.new")
        with told(self.folder):
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, self.path(name))


@contextmanager
def told(folder: str) -> Iterator[None]:
    """Turn what the operating system says of the host's notes in ``folder`` into an error of the house (P12)."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (StoreFull if full else Denied)(
            f"The notes of this host in {folder} cannot be kept: {error.strerror}.",
            untouched="Nothing that was sealed is touched.",
            next_step=f"{'Free some space there' if full else 'Make the folder writable'}, or name another in RESURGAM_STATE.",
        ) from error
