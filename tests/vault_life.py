"""The life of one vault: several hosts act on it in turn and at once, on a store that may be ill; a model says what must be true.

After every act:

* each point that is promised by the model is listed, and each that is listed is known (P1, P2);
* a point that is no longer listed expired by a plan, and nothing kept it: no hold, no policy, no better point's lack;
* some point restores exactly; after a deletion, and at the end, all of them do, and a check finds no damage.

An act is a function of the life and of a ``random.Random`` of its own (``tests.vault_acts``), so that hypothesis shrinks a life by
leaving acts out, and a seed lives it again. What acts need is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from resurgam.drivers.base import Blob
from resurgam.errors import Busy, Denied, IntegrityError, NotFound, Unreachable
from resurgam.model.verdict import Judgement
from resurgam.stores.base import Store
from resurgam.testing.doubles import EventualStore, LockingStore, LostResponseStore
from resurgam.testing.faults import Crash, FaultyStore, ManualClock, MemoryStore, SlowStore
from resurgam.vault.check import check
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.policies import from_the_future, policies
from resurgam.vault.prunes import Stage
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.writer import EvidenceWriter
from tests.support import Files
from tests.vault_hosts import APPROVES, PRUNES, VERIFIES, CaptureHost, Capturing, capture_host, host
from tests.vault_model import DAY, Known, Model

STATES: list[Files] = [
    {
        path: Random(n * 8 + at).randbytes(size)
        for at, (path, size) in enumerate(zip((b"a", b"b", b"c"), sizes, strict=False))
    }
    for n, sizes in enumerate(((900, 3000, 9000), (5000,), (2000, 40_000), (300_000, 700)))
]
"""What a component may hold. They are few, so that what only expired points held is soon captured again."""

Climate = Callable[[MemoryStore, ManualClock, Random], Store]
CLIMATES: dict[str, Climate] = {
    "fair": lambda memory, _clock, _rng: memory,
    "slow": lambda memory, clock, _rng: SlowStore(memory, 20.0, clock),
    "faulty": lambda memory, _clock, rng: FaultyStore(memory, rng, 0.005),
    "deaf": lambda memory, _clock, rng: LostResponseStore(memory, rng, 0.03),
    "late": lambda memory, clock, rng: SlowStore(EventualStore(memory, clock, rng, 1.0), 0.4, clock),
    "locked": lambda memory, clock, _rng: LockingStore(memory, clock, 3 * DAY),
}
"""What may be wrong with the store, by name."""

MAY_FAIL = (Crash, Unreachable, Busy, Denied)
"""What an act may come to. Damage is never among it, nor what is listed and not there; where listings lag, both are alarms."""


class Life:
    """See the module's docstring. ``done`` counts acts and their ends, ``trace`` names them in order."""

    def __init__(self, folder: str, climate: str, rng: Random) -> None:
        self.folder, self.climate = folder, climate
        self.clock = ManualClock()
        self.memory = MemoryStore(self.clock)
        keys = f"{folder}/keys"
        repository, _ = Repository.create(self.memory, keys, "life", self.clock)
        self.store = CLIMATES[climate](self.memory, self.clock, rng)
        self.hosts = [capture_host(name, folder, keys, repository, self.clock) for name in ("alpha", "beta")]
        self.pruners = [host(name, folder, keys, PRUNES, self.clock) for name in ("reaper", "sweeper")]
        self.verifier = host("verifier", folder, keys, VERIFIES, self.clock)
        self.approver = host("approver", folder, keys, APPROVES, self.clock)
        self.model = Model()
        self.pending: dict[str, tuple[CaptureHost, dict[str, Files]]] = {}
        self.frozen: list[Capturing] = []
        self.judging: list[tuple[str, EvidenceWriter]] = []
        self.reader = self.truth()
        self.deleted = 0
        self.done: Counter[str] = Counter()
        self.trace: list[str] = []

    def truth(self) -> Repository:
        """The vault as it is, by somebody who has every key and whose store is well."""
        return Repository(self.memory, Keyring(f"{self.folder}/keys"))

    def act(self, name: str, act: Callable[[Life, Random], None], seed: int) -> None:
        """One act, and a look at everything."""
        self.trace.append(f"{name}({seed})")
        self.clock.advance(1)
        rng = Random(seed)
        with self._weather(name):
            act(self, rng)
        self.done[name] += 1
        self.look(rng)

    # What acts are made of --------------------------------------------------------------------------------------------

    def begin(self, capturer: CaptureHost, store: Store, notes: HostState | None = None) -> Capturing:
        """A capture that has put its lease and holds its source."""
        capturing = Capturing(capturer, store, notes)
        self.pending[capturing.point] = (capturer, capturing.contents)
        return capturing

    def capture(self, capturer: CaptureHost, store: Store) -> str:
        """One capture from its lease to its seal."""
        capturing = self.begin(capturer, store)
        try:
            return capturing.seal().body.id
        finally:
            capturing.end()

    def evidence(self, point: str, store: Store) -> EvidenceWriter:
        """A session that will vouch for ``point``."""
        return self.verifier.repository(store).evidence_writer(point, self.verifier.clock, RecordType.VERDICT)

    def judge(self, point: str, verdict: Judgement, store: Store) -> None:
        """A verifier vouches for ``point``, or takes it back; or hears that it expired just now."""
        try:
            with self.evidence(point, store) as writer:
                vouch(writer, point, verdict)
        except NotFound:
            if point not in self.truth().prunes().expired:
                raise

    def a_point(self, rng: Random) -> str | None:
        """Any promised point."""
        promised = sorted(self.model.promised)
        return rng.choice(promised) if promised else None

    # What must be true ------------------------------------------------------------------------------------------------

    def look(self, rng: Random) -> None:
        """See the module's docstring."""
        repository, now = self.truth(), self.clock.now().timestamp()
        promised = {sealed.body.id: sealed for sealed in repository.points()}
        expired = {sealed.body.id: sealed for sealed in repository.points(expired=True)}
        assert repository.refused_points == []
        self._meet({**promised, **expired})
        went = self.model.promised.keys() - promised.keys()
        assert went <= expired.keys(), "a sealed point is not listed any more"
        free = {point for point in went if self.model.may_expire(point, now)}
        self._note(repository, {**promised, **expired})
        for point in went - free:
            late = self.climate == "deaf" and repository.prunes().expired[point].stage is Stage.BEGUN  # can be undone
            assert late or self.model.may_expire(point, now), f"{point} expired, and should have been kept"
        for point, known in self.model.points.items():
            known.expired = point in expired
            assert not (point in expired and known.held(now)) or self.climate == "deaf", f"{point} is held, and expired"
        self._read_some(repository, promised, rng)

    def all_stand(self) -> None:
        """Every sealed, unexpired point restores exactly, and a check finds nothing."""
        repository = self.truth()
        for sealed in repository.points():
            self._restores(repository, sealed)
        damage = check(repository, read=True).damage
        assert damage == (), damage

    def end(self) -> None:
        """The last look; threads and files of whoever is still frozen are let go."""
        for capturing in self.frozen:
            capturing.end()
        with self._weather("end"):
            for _, writer in self.judging:
                writer.__exit__(None, None, None)
        if isinstance(self.store, LostResponseStore):
            self.store.arrive()
        self.look(Random(0))
        self.all_stand()

    def _meet(self, sealed: dict[str, Sealed]) -> None:
        for point in sealed.keys() - self.model.points.keys():
            capturer, contents = self.pending[point]
            self.model.points[point] = Known(contents, capturer.system.name, sealed[point].received)

    def _note(self, repository: Repository, sealed: dict[str, Sealed]) -> None:
        """What was said of points and policies since."""
        for point, one in sealed.items():
            state, known = repository.state(one), self.model.points[point]
            assert state.damaged is None, state.damaged
            known.proven, known.once_proven = state.proven is not None, state.once_proven is not None
            known.holds = {hold.id: hold.until for hold in state.holds}
        signed = [(one.received, one.body) for one in policies(repository)]
        self.model.policies = [(received, body.systems) for received, body in signed if body is not None]

    def _read_some(self, repository: Repository, promised: dict[str, Sealed], rng: Random) -> None:
        """One point, or all of them when something was deleted."""
        gone = sum(1 for entry in self.memory.list("prune/") if entry.name.endswith("/end"))
        everything, self.deleted = gone != self.deleted, gone
        for point in sorted(promised) if everything else rng.sample(sorted(promised), min(1, len(promised))):
            self._restores(repository, promised[point])

    def _restores(self, repository: Repository, sealed: Sealed) -> None:
        known = self.model.points[sealed.body.id]
        assert contents_of(repository, sealed) == known.contents, f"{sealed.body.id} is not exact"
        repository.particulars(sealed.body)
        self.done["restores"] += 1

    @contextmanager
    def _weather(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not self.may_fail(error):
                raise
            self.done[f"{name}: {type(error).__name__}"] += 1

    def may_fail(self, error: BaseException) -> bool:
        """Whether an act may end so: by the weather, by a false alarm of a store that lags, or since the clock of the pruner is so
        far behind that it ends nothing (P12)."""
        late = self.climate == "late" and isinstance(error, (NotFound, IntegrityError))
        behind = isinstance(error, IntegrityError) and "by a time of the future" in error.message
        behind = behind and any(from_the_future(self.memory, pruner.clock) for pruner in self.pruners)
        return isinstance(error, MAY_FAIL) or late or behind


def vouch(writer: EvidenceWriter, point: str, verdict: Judgement) -> None:
    """Store a document, and the verdict that rests on it."""
    document = writer.document({"point": point, "verdict": verdict.word})
    writer.flush()
    writer.put(RecordType.VERDICT, {"document": document, "judgement": verdict})


def contents_of(repository: Repository, sealed: Sealed) -> dict[str, Files]:
    """What a point holds, read from the vault."""
    return {
        snapshot.component: {
            item.path: item.read()
            for item in repository.snapshot(sealed.body, snapshot.component).items()
            if isinstance(item, Blob)
        }
        for snapshot in sealed.body.snapshots
    }
