"""Several copies of one vault, read as one: what one copy lost, or cannot say, another one gives.

Objects are never changed once they are there (P2), so two copies can differ in three ways only: one *lacks* what the other has,
since it lags or lost it; one is *spoilt*; one does not *answer*. So reading is simple, and each way out is counted, by copy:

    get, read_into   from the first copy that has it, in the order in which they were named
    each_copy        from one after the other, for whoever finds above this floor that bytes are no good: frames of a pack
    list             all names that any copy lists, each once: the largest size, since what is cut off is shorter, and the earliest
                     time, since a copy receives later than its original
    put              to the first copy that is written to and takes it, and only where no copy holds the name
    delete           is refused: what goes is decided with one copy in sight (P10)

What lies under one of the prefixes ``own`` belongs to its copy, as its name does, and is seen in none.

``sound`` says of whole objects whether they are what their name says (``vault.copies``); one that is not is asked of the next copy.

**A copy that does not answer** is not asked again for a while: a minute, then two, up to a quarter of an hour. When that is
over it is asked in the background, and everybody goes on without it. So a dead region costs one wait, and not one for each object.

**What absence means.** The vault says much by what is there, and a copy that lags has less of it. In the union the newest counts:

    role tables       the highest serial of any copy, so that an old copy brings no disowned key back
    prunes            what expired or went by any copy did so. A pack that a sweep has taken, and that a copy still holds, is read
                      as a last resort: it is what its name says
    seal, revocation  one name, one put: two copies cannot both be right, unless each was written to without the other. Then the
                      copy that was named first counts, and ``check`` names the object
    leases            no absence is concluded from here: prunes, repairs and captures take one copy
    policies, holds,  the union of all copies
    verdicts
    log               a free number is free in the copies that answer. Who writes while one does not may give a number twice; an
                      entry makes nothing true, and an audit names it when the copies meet again

A copy that does not answer may hold what takes back what the others say, and no listing tells. So that is said, before and after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, TypeVar

from resurgam.clock import Clock
from resurgam.errors import Archived, Denied, IntegrityError, NotFound, ResurgamError, StoreFull, Unreachable
from resurgam.stores.base import AlreadyThere, Buffer, Entry, Store, checked_name

T = TypeVar("T")
Sound = Callable[
    [str, bytes], bool
]  # whether these are the whole bytes of the object of that name, as far as can be known

Aside = Callable[[Callable[[], None]], None]  # has something done beside what is under way
_ANY = "vault.json"  # of which any answer will do

PAUSE = 60.0  # seconds for which a copy that did not answer is left alone at first
LONGEST = 900.0
_ANOTHER = (NotFound, Unreachable, Denied, IntegrityError, Archived)  # after which the next copy is asked


def in_background(work: Callable[[], None]) -> None:
    """Have ``work`` done while others go on; it ends with the process."""
    threading.Thread(target=work, name="copy", daemon=True).start()


class Told(NamedTuple):
    """How one copy did: how many objects ``came`` from it because those before it had no good ones, were ``lacking`` or ``spoilt``
    in it though another copy had them, and were ``put`` there; why it does not answer, empty where it does."""

    copy: str
    came: int
    lacking: int
    spoilt: int
    put: int
    silent: str


class Copy:
    """One copy, its breaker and its counts. Thread-safe."""

    def __init__(self, store: Store, clock: Clock, aside: Aside) -> None:
        self.store = store
        self.place = ""  # what it is called among the copies, as far as that is known
        self.writes = True  # whether it may be written to
        self.received: Mapping[str, float] = {}  # when its originals were received, as far as that is told
        self.silent = ""  # why it does not answer
        self.came: set[str] = set()
        self.lacking: set[str] = set()
        self.spoilt: set[str] = set()
        self.put: set[str] = set()
        self._clock, self._lock, self._aside = clock, threading.Lock(), aside
        self._until, self._pause = 0.0, PAUSE

    def ask(self, call: Callable[[Store], T]) -> T:
        """What ``call`` gets from the store. Raises what it raises, and Unreachable at once while it is left alone."""
        with self._lock:
            now = self._clock.monotonic()
            due = bool(self.silent) and now >= self._until
            if due:
                self._until = now + self._pause
        if due:
            self._aside(self._look_again)
        if self.silent:
            raise Unreachable(
                f"{self.store.describe()} does not answer: {self.silent}",
                untouched="It was not asked again yet.",
                next_step="Run the same command again, or name another copy.",
            )
        try:
            return call(self.store)
        except Unreachable as error:
            self._leave_alone(error)
            raise

    def _look_again(self) -> None:
        try:
            any(True for _ in self.store.list(_ANY))
        except Unreachable as error:
            self._leave_alone(error)
        except ResurgamError:
            self.silent = ""  # a refusal is an answer
        else:
            self.silent = ""

    def _leave_alone(self, error: Unreachable) -> None:
        with self._lock:
            self._pause = min(2 * self._pause, LONGEST) if self.silent else PAUSE
            self.silent, self._until = error.message, self._clock.monotonic() + self._pause

    @property
    def told(self) -> Told:
        """How it did."""
        name, counts = self.store.describe(), (self.came, self.lacking, self.spoilt, self.put)
        came, lacking, spoilt, put = map(len, counts)
        return Told(name, came, lacking, spoilt, put, self.silent)


class Together:
    """See the module's docstring. Safe from several threads; ``copies`` are in the order in which they are preferred."""

    def __init__(
        self,
        stores: Sequence[Store],
        clock: Clock,
        sound: Sound = lambda _name, _data: True,
        own: tuple[str, ...] = (),
        aside: Aside = in_background,
    ) -> None:
        self.copies = tuple(Copy(store, clock, aside) for store in stores)
        self.sound, self._own = sound, own
        self.left_out: dict[str, str] = {}  # copies that could not be opened, and why

    @property
    def places(self) -> tuple[str, ...]:
        """What the copies are called, of which that is known."""
        return tuple(copy.place for copy in self.copies if copy.place)

    def require_written(self) -> None:
        """Raises Denied where no copy may be written to: told before work that ends in a record."""
        if not any(copy.writes for copy in self.copies):
            raise _no_primary("A record", self.describe())

    @property
    def told(self) -> tuple[Told, ...]:
        """How each copy did until now."""
        return tuple(copy.told for copy in self.copies)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store: the whole of an object as it is sound, where any copy has it so."""
        found = self.each_copy(name, offset, length)
        first = next(found)
        if offset or length is not None or self.sound(name, first):
            return first
        return next((data for data in found if self.sound(name, data)), first)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """See Store."""
        return next(self._answers(name, lambda store: store.read_into(name, offset, buffer)))

    def each_copy(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :func:`resurgam.stores.base.of_each_copy`."""
        return self._answers(name, lambda store: store.get(name, offset, length))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See Store: of all copies that answer."""
        listings: list[Sequence[Entry]] = []
        listed: list[Copy] = []
        refusals: list[ResurgamError] = []
        for copy in self.copies:
            try:
                listings.append(self.listed(copy, prefix))
                listed.append(copy)
            except (NotFound, Unreachable, Denied) as error:
                refusals.append(error)
        if not listings:
            raise refusals[0]
        union = [_one(list(same)) for _, same in groupby(merge(*listings, key=attrgetter("name")), attrgetter("name"))]
        for copy, entries in zip(listed, listings, strict=True):
            if len(entries) < len(union):
                copy.lacking |= {entry.name for entry in union} - {entry.name for entry in entries}
        yield from union

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """See Store: into the first copy that takes it, which ``told`` names. P2: nowhere, where any copy holds the name."""
        checked_name(name)
        whole = data if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        if holder := self._holder(name):
            raise AlreadyThere(
                f"{name} exists already in {holder.store.describe()}.",
                untouched="It was left as it is.",
                next_step="Read it back to see whether it holds the same bytes.",
            )
        refusals: list[ResurgamError] = []
        for copy in self.copies:
            if not copy.writes:
                continue
            try:
                copy.ask(lambda store: store.put(name, whole))
            except (Unreachable, Denied, StoreFull) as error:
                refusals.append(error)
                continue
            copy.put.add(name)
            return
        raise refusals[0] if refusals else _no_primary(name, self.describe())

    def delete(self, name: str) -> None:
        """See Store. Always raises Denied."""
        raise Denied(
            f"{checked_name(name)} is not removed while several copies are read together.",
            untouched="Nothing was removed from any of them.",
            next_step="Name the one copy that is meant with --vault.",
        )

    def describe(self) -> str:
        """See Store."""
        return " together with ".join(copy.store.describe() for copy in self.copies)

    def _answers(self, name: str, read: Callable[[Store], T]) -> Iterator[T]:
        """What each copy answers, in turn; who asks for the next has no use for the one before. Raises NotFound where the copies
        that answer do not have it, and what was refused where none answers."""
        if checked_name(name).startswith(self._own):
            raise NotFound(
                f"{name} belongs to one copy, and several are read together.",
                untouched="Nothing was changed.",
                next_step="Name that copy alone.",
            )
        lacking: list[Copy] = []
        refusals: list[ResurgamError] = []
        found = False
        for copy in self.copies:
            try:
                answer = copy.ask(read)
            except _ANOTHER as error:
                refusals.append(error)
                if isinstance(error, NotFound):
                    lacking.append(copy)
                continue
            found = True
            for other in lacking:
                other.lacking.add(name)
            if copy is not self.copies[0]:
                copy.came.add(name)
            yield answer
            copy.came.discard(name)
            copy.spoilt.add(name)
        if not found:
            raise _nowhere(name, refusals)

    def listed(self, copy: Copy, prefix: str = "") -> Sequence[Entry]:
        """What one copy lists of what all may have. Raises Unreachable, Denied, NotFound."""
        shared = copy.ask(lambda store: [e for e in store.list(prefix) if not e.name.startswith(self._own)])
        told = copy.received
        return (
            [Entry(e.name, e.size, min(e.received, told.get(e.name, e.received))) for e in shared] if told else shared
        )

    def _holder(self, name: str) -> Copy | None:
        for copy in self.copies:
            try:
                copy.ask(lambda store: store.get(name, 0, 1))
            except (NotFound, Unreachable, Denied):
                continue  # who cannot say does not hinder: see the module's docstring
            return copy
        return None


def _one(same: list[Entry]) -> Entry:
    """What several copies list under one name."""
    return Entry(same[0].name, max(entry.size for entry in same), min(entry.received for entry in same))


def _no_primary(name: str, where: str) -> Denied:
    return Denied(
        f"{name} cannot be written: of {where}, none is the place where the vault is written to.",
        untouched="Nothing was written.",
        next_step="Give --unrecorded to judge without a record, or make one of them the primary: `resurgam replicate promote`.",
    )


def _nowhere(name: str, refusals: list[ResurgamError]) -> ResurgamError:
    absent = [error for error in refusals if isinstance(error, NotFound)]
    others = [error for error in refusals if not isinstance(error, NotFound)]
    if not absent:
        return others[0]
    if not others:
        return absent[0]
    said = " ".join(error.message for error in others)
    return NotFound(
        f"There is no {name} in the copies that answer. {said}",
        untouched="Nothing was changed.",
        next_step="Try again when the other copy answers.",
    )
