"""Copying a vault to one of its replicas: what is lacking there, byte for byte, in an order in which any stop leaves a sound vault.

    look      list the primary and the replica, and compare (``vault.replicaplan``)
    refuse    where the place holds another vault, is another replica, or where the two logs have parted
    mark      the place says what it is before it can be opened: nobody captures into it
    times     when the originals were received (``vault.replicatimes``)
    copy      stage by stage; within one, several objects at a time, and no more bytes than ``ROOM`` in memory
    look      list the replica again: everything is there, at its size; with ``verify`` all of it is read back

No key is needed: packs and segments are named by their digest, records are signed, and a pack's header says where it may lie. What
is damaged at the primary is told and not copied. Where that is a pack, a segment or a key, nothing that would show a new point is
copied either: who has no index key cannot know which points need it (P1).

A run can be stopped anywhere and given again, also by two at once: every put is create-only, and what is there is not sent again.
Nothing is ever deleted by a run. What prunes of the primary have swept can be swept at the replica too (:func:`left_to_sweep`),
by what the pruner has *signed*: that something is missing at the primary never removes anything at a replica.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec
from blake3 import blake3

from resurgam.clock import Clock
from resurgam.errors import Busy, NotFound, Unreachable
from resurgam.model.codec import from_json
from resurgam.stores.abreast import each, or_refusal
from resurgam.stores.base import AlreadyThere, Entry, Store, put_once
from resurgam.vault.copies import Judge
from resurgam.vault.identity import IDENTITY, VaultIdentity
from resurgam.vault.keys import session_object
from resurgam.vault.pace import Pace
from resurgam.vault.pack import HEADER, NO_SESSION, frames, new_buffer, placement_of
from resurgam.vault.replicaguard import Ask, asked_once, has, require_one_log, require_ours
from resurgam.vault.replicaplan import IN_ORDER, SESSIONS, SHOWING, Copy, Lacking, Stage, lacking
from resurgam.vault.replicas import ORIGIN, Place, put_mark
from resurgam.vault.replicatimes import put_times
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.signing import broken

ROOM = 64 << 20  # bytes of objects in memory at a time: two packs. An edge device has 256 MB for everything
THREADS = 8
TRIES = 5  # of one request over a link that comes and goes
_SMALL = 256 << 10  # as so many bytes counts what is smaller
_CONTENTS = (*Stage.PACKS.value, *Stage.INDEX.value)  # named by their digest
_NEEDED = (*_CONTENTS, "keys/")  # what a point may need, and nobody without a key can tell
_LOOKS = 3  # at a primary that sweeps meanwhile

T = TypeVar("T")
BytesDone = Callable[[int], None]


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did. ``withheld`` packs may not lie in that region; ``damaged`` objects of the primary were not copied, each
    with the reason; ``differing`` names stand for other bytes at the replica; ``held`` points wait until the damage is repaired.
    ``mended`` are times of originals that were damaged at the replica, and were told anew."""

    place: str
    objects: int = 0
    bytes: int = 0
    points: int = 0
    withheld: int = 0
    withheld_bytes: int = 0
    held: int = 0
    verified: int = 0
    damaged: dict[str, str] = {}
    differing: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the replica holds everything that it may hold."""
        return not self.damaged and not self.differing


class Run:
    """One run from the open vault ``near`` to the store ``far``, which is the replica ``place``."""

    def __init__(
        self,
        near: Repository,
        far: Store,
        place: Place,
        clock: Clock,
        *,
        bytes_per_second: float | None = None,
        progress: BytesDone | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """``wait`` waits for so many seconds before a request is tried again."""
        self._near, self._far, self._place, self._clock = near, far, place, clock
        self._pace, self._progress = Pace(bytes_per_second), progress or (lambda _size: None)
        self._wait = wait or threading.Event().wait
        self._judge = Judge(near.store, near.keyring, near.roles)
        self._lock, self._keys = threading.Lock(), threading.Lock()
        self._sessions: set[str] = set()  # objects of session keys that are there
        self._vanished: set[str] = set()
        self._came: dict[str, int] = {}  # what was put in this stage, with its size
        self._done = Copied(place=place.name)

    def run(self, *, verify: bool = False) -> Copied:
        """Copy what is lacking. Raises TargetRefused, IntegrityError where the logs have parted, Unreachable, StoreFull, Denied;
        what was copied until then is not copied again."""
        require_ours(self._far, self._near)
        self._ask(lambda: put_mark(self._far, self._near.vault, self._place.name, self._clock))
        for _ in range(_LOOKS):
            self._vanished.clear()
            self._done = msgspec.structs.replace(self._done, withheld=0, withheld_bytes=0, held=0)  # by the last look
            copy = look(self._near, self._far, self._ask)
            self._note(differing=copy.differing)
            self._stage(Stage.DOOR, copy)  # first of all: who opens that place learns that it is a replica
            self._identity()
            require_one_log(self._near, self._far, copy, self._ask)
            self._copy(copy)
            if not self._vanished:
                break
        else:
            raise _restless(self._vanished)
        if verify:
            self._read_back()
        return self._done

    def mark(self) -> None:
        """Tell the place what it is, and nothing else: it opens as a replica from then on. Raises TargetRefused, Unreachable."""
        require_ours(self._far, self._near)
        self._ask(lambda: put_mark(self._far, self._near.vault, self._place.name, self._clock))
        self._stage(Stage.DOOR, look(self._near, self._far, self._ask))
        self._identity()

    # Copying ----------------------------------------------------------------------------------------------------------

    def _copy(self, copy: Copy) -> None:
        self._sessions = {entry.name for entry in self._ask(lambda: list(self._far.list(SESSIONS)))}
        others = [entry for stage in Stage if stage is not Stage.PACKS for entry in copy.stages[stage].entries]
        self._tell_times(others)
        for stage in Stage:
            if stage in SHOWING and (self._vanished or self._lost_what_points_need()):
                if stage is Stage.POINTS:
                    self._note(held=self._sealed(copy.stages[stage].entries))
            elif stage is not Stage.DOOR:
                if stage is Stage.PACKS and not self._near.roles.residency:
                    self._abreast(self._object, self._other_keys())  # as the vault was written: keys, then packs
                self._stage(stage, copy)
                if stage is Stage.PACKS and self._near.roles.residency:
                    self._tell_times(self._keys_there())

    def _tell_times(self, entries: Iterable[Entry]) -> None:
        """When the originals were received, put down at the replica."""
        told = self._times(entries)
        mended = self._ask(lambda: put_times(self._far, self._place.name, told, self._all_times))
        with self._lock:
            self._done = msgspec.structs.replace(self._done, mended=(*self._done.mended, *mended))

    def _times(self, entries: Iterable[Entry]) -> dict[str, float]:
        return {entry.name: self._near.as_told(entry, always=True).received for entry in entries}

    def _all_times(self) -> dict[str, float]:
        """Of everything that is told of: all but packs, and of keys of sessions those that are there."""
        prefixes = [prefix for stage in Stage if stage is not Stage.PACKS for prefix in stage.value]
        listed = [entry for prefix in prefixes for entry in self._near.store.list(prefix)]
        return self._times([*listed, *(self._keys_there() if self._near.roles.residency else ())])

    def _keys_there(self) -> list[Entry]:
        """The keys of sessions that the replica has, as the primary lists them."""
        there = {entry.name for entry in self._ask(lambda: list(self._far.list(SESSIONS)))}
        return [e for e in self._ask(partial(_list, self._near.store, SESSIONS)) if e.name in there]

    def _stage(self, stage: Stage, copy: Copy) -> None:
        """Everything of one stage. Raises Unreachable where what was put is not listed: then the next run looks again."""
        self._came.clear()
        entries = copy.stages[stage].entries
        if stage in IN_ORDER:
            self._one_by_one(entries, skip=stage is Stage.POINTS)
        else:
            self._abreast(self._pack if stage is Stage.PACKS else self._object, entries)
        self._require_listed(stage)
        if stage is Stage.PACKS:
            self._abreast(self._object, self._later_wraps())
        elif stage is Stage.POINTS:
            came = [entry for entry in entries if entry.name in self._came]
            self._note(points=self._ask(lambda: self._sealed(came)))

    def _sealed(self, entries: Iterable[Entry]) -> int:
        """How many of these names in ``points/`` are points that count, and no revocations."""
        found = each(self._near.store, or_refusal(self._near.sealed_as), entries)
        return sum(isinstance(one, Sealed) for one in found)

    def _identity(self) -> None:
        """The place is a vault from here on: it can be opened, and says that it is a replica."""
        if self._ask(lambda: has(self._far, IDENTITY)):
            return
        data = self._ask(lambda: self._near.store.get(IDENTITY))
        if (
            from_json(data, VaultIdentity, what=IDENTITY) != self._near.identity
        ):  # nothing signs it: two readings have to agree
            raise broken(IDENTITY, "it reads differently each time")
        self._put(IDENTITY, data)

    def _pack(self, entry: Entry) -> None:
        """One pack, after the keys of its sessions, where it may lie there."""
        if self._near.roles.residency and self._stays(entry):
            return self._note(withheld=1, withheld_bytes=entry.size)
        data = self._sound(entry)
        if data is None:
            return None
        if not self._may_go(data):  # what was read first need not be true, what has the digest is
            return self._note(withheld=1, withheld_bytes=entry.size)
        return self._put(entry.name, data) if self._keys_of(data) else None

    def _object(self, entry: Entry) -> bool:
        data = self._sound(entry)
        if data is not None:
            self._put(entry.name, data)
        return data is not None

    def _keys_of(self, pack: bytes | memoryview) -> bool:
        """The keys of a pack's sessions, where they are not there: what opens a pack comes before it. False where one is damaged:
        once the pack is there, no run would look for its keys."""
        sessions = {frame.session for _, frame in frames(memoryview(pack))} - {NO_SESSION}
        with self._keys:
            return all(self._key(session_object(session)) for session in sessions)

    def _key(self, name: str) -> bool:
        """The first object of a session's key, or, where that is lost, what was wrapped later. Of a key that is lost altogether a
        pack may come without: it holds other sessions' chunks too."""
        if name in self._sessions:
            return True
        wraps = self._ask(partial(_list, self._near.store, name))
        if not wraps:
            self._note(damaged={name: "it is missing at the primary, and a pack needs it"})
        if not all(self._object(entry) for entry in wraps):
            return False
        self._sessions.add(name)
        return True

    def _later_wraps(self) -> list[Entry]:
        """Keys that were wrapped anew, of sessions that the replica has: no session of which it has no pack."""
        there = {entry.name for entry in self._ask(lambda: list(self._far.list(SESSIONS)))}
        first = len(session_object(bytes(16)))
        listed = self._ask(lambda: list(self._near.store.list(SESSIONS)))
        return [e for e in listed if e.name not in there and len(e.name) > first and e.name[:first] in there]

    def _other_keys(self) -> list[Entry]:
        """All keys of sessions that are not there: for a vault in which nothing is ever withheld."""
        listed = self._ask(partial(_list, self._near.store, SESSIONS))
        lacking_keys = [entry for entry in listed if entry.name not in self._sessions]
        self._sessions.update(entry.name for entry in listed)
        return lacking_keys

    def _stays(self, entry: Entry) -> bool:
        """Whether a pack may not lie there, by what its header says; of one that is gone, the next look at it tells."""
        try:
            return not self._may_go(self._ask(lambda: self._near.store.get(entry.name, 0, HEADER)))
        except NotFound:
            return False

    def _may_go(self, header: bytes | memoryview) -> bool:
        return placement_of(header, self._near.vault).may_go_to(self._place.region)

    def _sound(self, entry: Entry) -> bytes | memoryview | None:
        """The object at the primary, where it is what its name says; else it is told, and not spread."""
        name, read = entry.name, partial(self._ask, partial(_read, self._near.store, entry))
        try:
            data = read()
            sound = (
                _has_digest(name, data) if name.startswith(_CONTENTS) else self._judge.sound(name, bytes(data), read)
            )
        except NotFound:
            with self._lock:
                self._vanished.add(name)
            return None
        if not sound:
            self._note(damaged={name: "it is damaged at the primary, and was not copied"})
            return None
        return data

    def _put(self, name: str, data: bytes | memoryview) -> None:
        self._pace.spend(len(data))
        try:
            self._ask(lambda: put_once(self._far, name, data))
        except AlreadyThere:
            self._note(differing=(name,))
            return
        with self._lock:
            self._came[name] = len(data)
        self._note(objects=1, bytes=len(data))
        self._progress(len(data))

    def _lost_what_points_need(self) -> bool:
        return any(name.startswith(_NEEDED) for name in (*self._done.damaged, *self._done.differing))

    # Afterwards -------------------------------------------------------------------------------------------------------

    def _require_listed(self, stage: Stage) -> None:
        """What was put is there with its size, as the replica lists it now: nothing is built on what is not."""
        wanted = {name: size for name, size in self._came.items() if name.startswith(stage.value)}
        if not wanted:
            return
        there = {e.name: e.size for prefix in stage.value for e in self._ask(partial(_list, self._far, prefix))}
        lost = sorted(name for name, size in wanted.items() if there.get(name) != size)
        if lost:
            raise Unreachable(
                f"{self._far.describe()} took {lost[0]}, and does not list it at its size.",
                untouched="Nothing that needs it was copied.",
                next_step="Run the same command again; where that is in vain, that store does not keep what it takes.",
            )

    def _read_back(self) -> None:
        """Read everything that lies at the replica, and compare: packs and segments with their digests, all else with the
        primary's. A session's key that was lost there comes again; where something is withheld, only packs tell which those are."""
        for prefix in (SESSIONS, *(prefix for stage in Stage for prefix in stage.value)):
            self._abreast(self._compare, self._ask(partial(_list, self._far, prefix)))

    def _compare(self, entry: Entry) -> None:
        data, name = self._ask(lambda: _read(self._far, entry)), entry.name
        self._progress(len(data))
        if name.startswith(_CONTENTS):
            same = _has_digest(name, data)
            if same and name.startswith(Stage.PACKS.value):
                self._verified_pack(name, data)
        else:
            try:
                same = self._ask(lambda: self._near.store.get(name)) == data
            except NotFound:
                same = True  # what the primary lost, the replica keeps
        self._note(verified=1, differing=() if same else (name,))

    def _verified_pack(self, name: str, data: bytes | memoryview) -> None:
        if self._place.name == ORIGIN or self._may_go(data):  # the origin holds what was captured there
            self._keys_of(data)
        else:
            self._note(damaged={name: "it lies there, and may not lie in that region"})

    # How ----------------------------------------------------------------------------------------------------------------

    def _one_by_one(self, entries: Iterable[Entry], *, skip: bool) -> None:
        """Each after the one before it is there. What comes after one that cannot be copied waits too, or that one is
        ``skip``ped."""
        for entry in entries:
            self._object(entry)
            if not skip and entry.name in (*self._done.damaged, *self._done.differing):
                return

    def _abreast(self, work: Callable[[Entry], object], entries: Iterable[Entry]) -> None:
        """``work`` of each entry, several at a time, never more than ``ROOM`` bytes of them. The first error stops the rest."""
        room, free = threading.Condition(), [ROOM]
        failed: list[BaseException] = []

        def one(entry: Entry, size: int) -> None:
            try:
                if not failed:
                    work(entry)
            finally:
                with room:
                    free[0] += size
                    room.notify_all()

        def ended(future: Future[None]) -> None:
            if (error := future.exception()) is not None:
                failed.append(error)

        with ThreadPoolExecutor(THREADS, thread_name_prefix="replicate") as pool:
            for entry in entries:
                size = min(max(entry.size, _SMALL), ROOM)
                with room:
                    room.wait_for(lambda size=size: free[0] >= size)  # type: ignore[misc]
                    free[0] -= size
                if failed:
                    break
                pool.submit(one, entry, size).add_done_callback(ended)
        if failed:
            raise failed[0]

    def _ask(self, call: Callable[[], T]) -> T:
        """What ``call`` gives, tried again where nothing answers. Every put here reads back what a lost response hides."""
        for tried in range(1, TRIES):
            try:
                return call()
            except Unreachable:
                self._wait(0.05 * 2**tried)
        return call()

    def _note(self, *, damaged: dict[str, str] | None = None, differing: tuple[str, ...] = (), **counts: int) -> None:
        with self._lock:
            done = self._done
            added = {name: getattr(done, name) + count for name, count in counts.items()}
            different = tuple(dict.fromkeys((*done.differing, *differing)))
            self._done = msgspec.structs.replace(
                done, damaged=done.damaged | (damaged or {}), differing=different, **added
            )


def look(near: Repository, far: Store, ask: Ask = asked_once) -> Copy:
    """What the replica lacks: the primary is listed last things first."""
    gone = ask(
        near.prunes
    ).swept  # before all: what is swept later vanishes while it is copied, and is looked for again
    stages: dict[Stage, Lacking] = {}
    for stage in reversed(Stage):
        stages[stage] = ask(partial(_lacking, stage, near.store, far, gone))
    return Copy({stage: stages[stage] for stage in Stage})


def _lacking(stage: Stage, near: Store, far: Store, gone: frozenset[str]) -> Lacking:
    here = (entry for prefix in sorted(stage.value) for entry in near.list(prefix))
    there = (entry for prefix in sorted(stage.value) for entry in far.list(prefix))
    return lacking(stage, here, there, gone)


def _read(store: Store, entry: Entry) -> bytes | memoryview:
    """All of an object. A large one lies in memory of its own, which goes back when it is let go: what is allocated again and again
    in pieces of that size stays with the process, many times over."""
    if entry.size < _SMALL:
        return store.get(entry.name)
    view = memoryview(new_buffer(entry.size))
    return view[: store.read_into(entry.name, 0, view)]


def _has_digest(name: str, data: bytes | memoryview) -> bool:
    """Whether these are the bytes of the pack or the segment of that name."""
    digest = name.rpartition("/")[2]
    return len(digest) in (32, 64) and blake3(data).hexdigest().startswith(digest)


def _list(store: Store, prefix: str) -> list[Entry]:
    return list(store.list(prefix))


def left_to_sweep(far: Repository) -> list[Entry]:
    """What lies at a replica and was swept at the primary: by the prunes that the replica itself holds, and so after everything
    that was moved had come. Raises Unreachable."""
    gone = far.prunes().swept
    return [entry for prefix in ("packs/", "index/") for entry in far.store.list(prefix) if entry.name in gone]


def _restless(vanished: set[str]) -> Busy:
    return Busy(
        f"Packs go from the primary while they are copied, {min(vanished)} among them.",
        untouched="What was copied stays, and no point is shown that is not whole.",
        next_step="Run the same command again when the prune has ended.",
    )
