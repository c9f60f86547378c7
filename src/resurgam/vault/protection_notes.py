"""What a host remembers of locks in compliance mode, so that looking again costs what is new (P3, P11).

Such a lock only ever gets longer, so what was once seen of its end stays true: "at least until then". The note holds the ends of
locks by object, and until when points were found to be protected, which stands as long as no prune has moved what they need.

**A lie here could let a lock lapse.** So the note is authenticated by a key that only holders of the index key have, as the memory
of the index is (``vault.indexcache``): what is damaged, cut, or of another vault or store is as good as none. An old note that was
put back tells of earlier ends, so that more is asked, never less.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable

import msgspec
from blake3 import blake3

from resurgam.model.codec import msgpack_decoder
from resurgam.model.system import LockMode
from resurgam.stores.lock import Retention
from resurgam.vault.host import HostState, told
from resurgam.vault.protected import Protected
from resurgam.vault.repository import Repository

FORMAT = 1
_MAC = 32
_PURPOSE = b"resurgam locks "


class _Note(msgspec.Struct):
    """``prune`` is the number of the last prune when ``points`` were looked at; times are seconds since 1970. ``covered`` is what
    lay under something else then."""

    format: int = FORMAT
    objects: dict[str, float] = {}
    prune: int = 0
    points: dict[str, tuple[float, str]] = {}
    covered: dict[str, str] = {}


class LockNotes:
    """The note on the locks of one vault in one store, among the notes of this host."""

    def __init__(self, repository: Repository, host: HostState) -> None:
        """Raises Denied without the index key."""
        where = _PURPOSE + repository.store.describe().encode()
        self._key = blake3(where, key=repository.secret.host_key()).digest()
        self._path, self._folder = host.path(f"locks-{blake3(where).hexdigest()[:16]}"), host.folder
        self._note = self._read()
        self._soft: set[str] = set()  # objects seen without a lock, or under one that can be lifted

    def ends(self) -> dict[str, float]:
        """Until when objects are locked at least."""
        return self._note.objects

    def saw(self, name: str, lock: Retention | None) -> None:
        """How ``name`` is locked; None where it is not. Remembered is what can only get longer."""
        if lock is not None and lock.mode is LockMode.COMPLIANCE:
            self._note.objects[name] = lock.until.timestamp()
            self._soft.discard(name)
        else:
            self._note.objects.pop(name, None)
            self._soft.add(name)

    def covered(self) -> dict[str, str]:
        """What somebody had overwritten or hidden when all of the vault was looked at last, by name with what and when."""
        return self._note.covered

    def saw_covered(self, covered: dict[str, str]) -> None:
        """All that is overwritten or hidden now."""
        self._note.covered = covered

    def points(self, prune: int) -> dict[str, Protected]:
        """Until when points are protected at least, by id; nothing where there was another prune since."""
        if prune != self._note.prune:
            return {}
        return {
            point: Protected(point=point, until=until, first=first)
            for point, (until, first) in self._note.points.items()
        }

    def write(self, prune: int, points: Iterable[Protected], *, whole: bool) -> None:
        """Remember all that was seen, and ``points``: these alone where they are the ``whole`` vault's, and none where a lock
        was seen that can be lifted, or none at all: nothing would tell of that. Raises Denied, StoreFull."""
        if whole or prune != self._note.prune:
            self._note.points = {}
        self._note.prune = prune
        for one in points:
            if not self._soft and not one.why:
                self._note.points[one.point] = one.until, one.first
        data = msgspec.msgpack.encode(self._note)
        with told(self._folder):
            with open(f"{self._path}.new", "wb") as file:
                file.write(blake3(data, key=self._key).digest() + data)
            os.replace(f"{self._path}.new", self._path)

    def forget_all_but(self, names: Iterable[str]) -> None:
        """Drop what is not among ``names``: it is gone, or nobody needs it any more."""
        keep = set(names)
        self._note.objects = {name: end for name, end in self._note.objects.items() if name in keep}

    def _read(self) -> _Note:
        with told(self._folder):
            try:
                with open(self._path, "rb") as file:
                    data = file.read()
            except FileNotFoundError:
                return _Note()
        if not hmac.compare_digest(blake3(data[_MAC:], key=self._key).digest(), data[:_MAC]):
            return _Note()
        note = msgpack_decoder(_Note).decode(data[_MAC:])
        return note if note.format == FORMAT else _Note()
