"""Sessions that run at once, and take turns at every call to their store as a seed says: a race that can be run again.

    capture   --call--|            |--call--call--|       |--call--
    prune             |--call--call|              |--call-|

Each session is a function of a store, run in a thread of its own. At any time one of them has the turn, and nobody else moves.
Before a call the turn may go to another session, as the schedule says; so the effects of calls come in one order, which a seed
repeats. A session's own threads share its turn: where they call at once, their order among themselves is the machine's.

The schedules are like those of probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): the session of the highest
priority runs, and before a few calls, drawn at random, it falls behind all others. So one session may sleep through another's whole
life, which fair chance would hardly ever show. Calls that change something are drawn more often: only before those does it matter
to others whether somebody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from resurgam.stores.base import Buffer, Entry, Store
from resurgam.testing.faults import Crash, Wrapped

Session = Callable[[Store], object]
STUCK = 60.0  # seconds without a call: then the sessions wait for something that is not their store


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended: with a ``value``, or with an ``error``, which may be its death."""

    value: object = None
    error: BaseException | None = None


class Interleaver:
    """Runs sessions over one store. ``history`` names the calls in the order of their effects, each with its session."""

    def __init__(
        self, store: Store, rng: Random, *, writes: float = 0.15, reads: float = 0.01, falls: int = 1 << 30
    ) -> None:
        """``writes`` and ``reads`` are the chances that the session that runs falls behind before such a call, ``falls`` times at
        most: few find what needs a session to sleep long, many what needs several to wake often."""
        self._store, self._rng = store, rng
        self._writes, self._reads, self._falls = writes, reads, falls
        self._turn = threading.Condition()
        self._waiting: dict[int, int] = {}  # of each living session, how many of its threads wait for the turn
        self._priority: dict[int, int] = {}
        self._holder: int | None = None
        self.history: list[tuple[int, str]] = []

    def run(self, sessions: Sequence[Session], dies: dict[int, int] | None = None) -> list[Ended]:
        """All sessions, each to its end. ``dies`` says which of them are killed, and at which of their own calls."""
        order = list(range(len(sessions)))
        self._rng.shuffle(order)
        self._priority = {number: rank for rank, number in enumerate(order, 1)}
        self._waiting = dict.fromkeys(range(len(sessions)), 0)
        ended: list[Ended] = [Ended()] * len(sessions)
        views = [_Turns(self, number, (dies or {}).get(number, 0)) for number in range(len(sessions))]

        def live(number: int) -> None:
            try:
                self.before(number, "begin")
                ended[number] = Ended(value=sessions[number](views[number]))
            except BaseException as error:  # noqa: BLE001 (it is handed to the caller, who knows what may be)
                ended[number] = Ended(error=error)
            finally:
                self._leave(number)

        threads = [threading.Thread(target=live, args=(number,), daemon=True) for number in range(len(sessions))]
        for thread in threads:
            thread.start()
        with self._turn:
            self._all(lambda: sum(self._waiting.values()) == len(sessions))
            self._choose()
        for thread in threads:
            thread.join(STUCK)
            assert not thread.is_alive(), f"stuck after {self.history[-5:]}"
        return ended

    def before(self, number: int, call: str) -> None:
        """Session ``number`` is about to make a call: wait until it has the turn."""
        with self._turn:
            self._waiting[number] += 1
            chance = self._writes if call.startswith(("put ", "delete ")) else self._reads
            if self._falls and self._rng.random() < chance:
                self._falls -= 1
                self._priority[number] = min(self._priority.values()) - 1
            if self._holder == number:
                self._choose()
            self._turn.notify_all()
            self._all(lambda: self._holder == number)
            self._waiting[number] -= 1
            self.history.append((number, call))

    def _choose(self) -> None:
        living = [number for number in self._priority if number in self._waiting]
        self._holder = max(living, key=self._priority.__getitem__, default=None)
        self._turn.notify_all()

    def _leave(self, number: int) -> None:
        with self._turn:
            self._waiting.pop(number)
            if self._holder == number:
                self._choose()

    def _all(self, ready: Callable[[], bool]) -> None:
        assert self._turn.wait_for(ready, STUCK), f"nobody has called for {STUCK:.0f} s, after {self.history[-5:]}"


class _Turns(Wrapped):
    """One session's view of the store. Killed at its call number ``dies`` (0 is never), it stays dead."""

    def __init__(self, interleaver: Interleaver, number: int, dies: int) -> None:
        super().__init__(interleaver._store)
        self._interleaver, self._number, self._dies = interleaver, number, dies
        self._calls = 0

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """In turn."""
        self._in_turn(f"put {name}", lambda: self.inner.put(name, data))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """In turn."""
        found: list[bytes] = []
        self._in_turn(f"get {name}", lambda: found.append(self.inner.get(name, offset, length)))
        return found[0]

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """In turn."""
        found: list[int] = []
        self._in_turn(f"read_into {name}", lambda: found.append(self.inner.read_into(name, offset, buffer)))
        return found[0]

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """In turn, as a whole."""
        found: list[Entry] = []
        self._in_turn(f"list {prefix}", lambda: found.extend(self.inner.list(prefix)))
        return iter(found)

    def delete(self, name: str) -> None:
        """In turn."""
        self._in_turn(f"delete {name}", lambda: self.inner.delete(name))

    def _in_turn(self, call: str, act: Callable[[], None]) -> None:
        self._interleaver.before(self._number, call)
        self._calls += 1
        if self._dies and self._calls >= self._dies:
            raise Crash(call)
        act()
