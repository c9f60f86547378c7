"""Until when points are protected, and renewal: on a store that locks, with a clock of the test's own."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import msgspec
import pytest

from resurgam.cli import protection as protection_words
from resurgam.errors import Denied, NotFound, UsageError
from resurgam.model.system import LockMode
from resurgam.stores.lock import Retention
from resurgam.testing.doubles import LockingStore
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault import usage
from resurgam.vault.host import VAULT_NOTES, HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.protected import Protected
from resurgam.vault.protection_look import protection
from resurgam.vault.protection_notes import LockNotes
from resurgam.vault.protection_renew import Draft, draft, renew
from resurgam.vault.pruning import begin, propose, sweep
from resurgam.vault.pruning import draft as draft_prune
from resurgam.vault.repository import Repository, Sealed
from tests.support import World

DAY = 86_400.0
PERIOD = 30 * DAY
LARGE = 300_000  # bytes of a file that shares no chunk with others
PRUNER = ("trust.json", "pruner.json")


class Locked(World):
    """A vault whose store locks what it takes for thirty days."""

    def __init__(self, folder: str, mode: LockMode = LockMode.COMPLIANCE) -> None:
        clock = ManualClock()
        self.locks = LockingStore(MemoryStore(clock), clock, PERIOD, mode)
        super().__init__(folder, store=self.locks)
        self.clock = clock

    def days(self, number: float) -> None:
        self.clock.advance(number * DAY)

    @property
    def now(self) -> float:
        return self.clock.now().timestamp()

    def pruner(self) -> Repository:
        return self.repository(keys=self.keys_with(*PRUNER))

    def notes(self) -> LockNotes:
        return LockNotes(self.repository(), HostState(Keyring(self.keys).vault.hex(), VAULT_NOTES, self.state))

    def renew(self, lapsing: dict[str, str] | None = None, notes: LockNotes | None = None) -> Draft:
        """As the pruner, who holds no key that opens contents (P9)."""
        drafted = draft(self.pruner(), PERIOD, lapsing or {}, self.now, notes)
        return renew(self.pruner(), drafted, notes)

    def protected(self) -> dict[str, Protected]:
        return {one.point: one for one in protection(self.pruner(), None, self.now)}

    def end(self, name: str) -> float:
        lock = self.locks.protected(name)
        assert lock is not None
        return lock.until.timestamp()

    def packs(self) -> set[str]:
        return {entry.name for entry in self.store.list("packs/")}


@pytest.fixture
def world(tmp_path: Path) -> Locked:
    return Locked(str(tmp_path))


def captured(world: Locked, **files: int) -> Sealed:
    """A capture after files of these sizes took random contents."""
    world.live.files |= {name.encode(): os.urandom(size) for name, size in files.items()}
    return world.capture()


def test_a_new_point_is_protected_for_the_period(world: Locked) -> None:
    """The first of all that it needs was put when the vault was made: that is exactly until when."""
    made = world.now
    world.days(2)
    sealed = captured(world, a=LARGE)
    found = world.protected()
    assert found == {
        sealed.body.id: Protected(point=sealed.body.id, until=made + PERIOD, first=found[sealed.body.id].first)
    }
    assert found[sealed.body.id].first in {"keys/index", "roles/00000001", "vault.json"}


def test_a_point_is_as_old_as_the_packs_that_it_reuses(world: Locked) -> None:
    """The shared objects renewed, the second point's protection ends with the first one's packs: to the second."""
    first = captured(world, a=LARGE)
    packs = world.packs()
    when = {name: world.end(name) for name in packs}
    world.days(20)
    second = captured(world, b=LARGE)
    for entry in world.store.list():
        if not entry.name.startswith(("packs/", "index/")):
            world.locks.protect(entry.name, world.clock.now().replace(year=2030))
    found = world.protected()
    assert found[second.body.id].first in packs
    assert found[second.body.id].until == found[first.body.id].until == min(when.values())
    own = world.packs() - packs
    assert min(map(world.end, own)) > found[second.body.id].until  # its own would have held for longer


def test_what_would_lapse_is_renewed_and_garbage_is_not(world: Locked) -> None:
    """A point needs packs older than itself: these are locked anew. What only an expired point needs is not, and lapses."""
    first = captured(world, shared=LARGE)
    old = captured(world, gone=LARGE)
    del world.live.files[b"gone"]
    world.days(16)
    kept = captured(world, new=LARGE)
    lapsing = {sealed.body.id: "no rule keeps it" for sealed in (first, old)}
    drafted = draft(world.pruner(), PERIOD, lapsing, world.now)
    assert world.locks.lengthened == []  # P10: a plan changes nothing
    before = {name: world.end(name) for name in world.packs()}
    done = renew(world.pruner(), drafted)
    lengthened = {name for name in world.packs() if world.end(name) > before[name]}
    assert lengthened
    assert set(drafted.plan.names) == set(world.locks.lengthened)
    assert {one.point for one in done.plan.points} == {kept.body.id}
    assert all(one.until >= world.now + PERIOD / 2 for one in done.plan.points)
    assert world.end(f"points/{old.body.id}") < world.now + PERIOD / 2
    world.days(15)
    gone = [name for name in world.packs() if world.end(name) <= world.now]
    assert gone  # the pack with what only the old point needs: it lapsed, and its neighbours are locked
    held = world.protected()[kept.body.id]
    assert held.until > world.now
    for name in world.locks.lengthened:
        with pytest.raises(Denied):
            world.store.delete(name)
    for name in gone:
        world.store.delete(name)
    assert world.restored(kept)["files"] == world.live.files


def test_renewed_every_day_nothing_ever_lapses(world: Locked) -> None:
    """A hundred days of captures and renewals: at no time is less than half of the period left, and a day costs little."""
    rng, costs = Random(5), []
    world.live.files[b"ever"] = os.urandom(LARGE)
    for day in range(100):
        if day % 10 == 0:
            world.live.files[b"%d" % rng.randrange(4)] = os.urandom(20_000)
            world.capture()
        world.days(1)
        world.locks.lengthened.clear()
        world.renew()
        costs.append(len(world.locks.lengthened))
        assert min(one.until for one in world.protected().values()) >= world.now + PERIOD / 2
    objects = len(list(world.store.list()))
    assert sum(costs) < objects * 100 / 14  # about one request for each object in half a period
    assert costs.count(0) > 60


def test_a_renewal_that_is_stopped_goes_on(world: Locked) -> None:
    """What was renewed stays so, and the next run does the rest and no more."""
    captured(world, a=LARGE, b=LARGE)
    world.days(20)
    drafted = draft(world.pruner(), PERIOD, {}, world.now)
    half = drafted.plan.names[: len(drafted.plan.names) // 2]
    renew(world.pruner(), drafted._replace(plan=msgspec.structs.replace(drafted.plan, names=half)))
    again = draft(world.pruner(), PERIOD, {}, world.now)
    assert set(again.plan.names) == set(drafted.plan.names) - set(half)
    renew(world.pruner(), again)
    assert draft(world.pruner(), PERIOD, {}, world.now).plan.names == ()


def test_an_object_that_was_never_locked(world: Locked) -> None:
    """Put past the lock, such as by a release or a manifest that knew of none: no protection is claimed, and it is locked now."""
    sealed = captured(world, a=LARGE)
    pack = min(world.packs())
    world.locks.unlock(pack)
    assert world.protected()[sealed.body.id] == Protected(point=sealed.body.id, until=0.0, first=pack)
    assert world.renew().plan.names == (pack,)
    assert world.end(pack) == world.now + PERIOD


def test_a_damaged_point_does_not_stop_the_others(world: Locked) -> None:
    """P12: what cannot be known is told, and all else is renewed."""
    bad = captured(world, a=LARGE)
    world.days(1)
    good = captured(world, b=LARGE)
    inner = world.locks.inner
    assert isinstance(inner, MemoryStore)
    inner.delete(f"points/{bad.body.id}")
    inner.put(f"points/{bad.body.id}", b"{}")
    world.days(20)
    done = world.renew()
    assert list(done.plan.trouble) == [f"points/{bad.body.id}"]
    assert {one.point for one in done.plan.points} == {good.body.id}
    assert done.plan.points[0].until >= world.now + PERIOD / 2


def test_after_a_prune_the_copies_are_renewed(world: Locked) -> None:
    """What a prune has moved into new packs is needed there, and the old packs are garbage."""
    first = captured(world, a=LARGE, b=LARGE)
    del world.live.files[b"b"]
    second = captured(world, c=1000)
    world.days(31)
    repository = world.pruner()
    drafted = draft_prune(repository, {first.body.id: "its time has come"})
    sweep(repository, begin(repository, propose(repository, drafted.plan, world.clock), world.clock), world.clock)
    world.days(20)
    done = world.renew()
    assert set(world.packs()) == {name for name in done.reach.names() if name.startswith("packs/")}
    assert {one.point for one in done.plan.points} == {second.body.id}
    assert world.restored(second)["files"] == world.live.files


def test_no_locks_no_renewal(tmp_path: Path) -> None:
    """P12: a store that locks nothing says so."""
    world = World(str(tmp_path))
    world.capture()
    with pytest.raises(UsageError, match="locks no objects"):
        draft(world.repository(), PERIOD, {}, 0.0)
    with pytest.raises(UsageError, match="locks no objects"):
        protection(world.repository(), None, 0.0)


def test_one_object_that_may_not_be_locked_stops_no_other(world: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: a refusal is raised when all else is renewed; what a prune takes meanwhile is no error."""
    captured(world, a=LARGE)
    world.days(20)
    protect, drafted = world.locks.protect, draft(world.pruner(), PERIOD, {}, world.now)
    refused, gone, *others = drafted.plan.names

    def picky(name: str, until: datetime) -> None:
        if name == refused:
            raise Denied("Not this one.", untouched="All.", next_step="Ask its owner.")
        if name == gone:
            raise NotFound("It is gone.", untouched="All.", next_step="Look again.")
        protect(name, until)

    monkeypatch.setattr(world.locks, "protect", picky)
    with pytest.raises(Denied, match="Not this one"):
        renew(world.pruner(), drafted)
    assert {world.end(name) for name in others} == {world.now + PERIOD}
    assert world.end(refused) < world.now + PERIOD


def test_a_point_whose_chunks_are_gone_is_not_called_protected(world: Locked) -> None:
    """P12: nothing locks what is not there, however long the rest of the point is locked."""
    sealed = captured(world, a=LARGE)
    for pack in world.packs():
        world.locks.inner.delete(pack)
    found = world.protected()[sealed.body.id]
    assert (found.until, found.first) == (0.0, f"points/{sealed.body.id}")
    assert found.why
    assert protection_words.told(found).startswith("not known to be protected")
    assert protection_words.when(found) == "not known"


def test_one_lock_that_can_be_lifted_is_looked_at_each_time(world: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that rest on one governance lock among compliance ones are not remembered: nothing would tell when it is lifted."""
    captured(world, a=LARGE)
    (lifted, *_), protected = sorted(world.packs()), world.locks.protected
    world.locks.protect(lifted, world.clock.now() + timedelta(seconds=2 * PERIOD))  # not the first to end

    def mixed(name: str) -> Retention | None:
        lock = protected(name)
        return lock._replace(mode=LockMode.GOVERNANCE) if lock is not None and name == lifted else lock

    monkeypatch.setattr(world.locks, "protected", mixed)
    protection(world.pruner(), world.notes(), world.now)
    assert world.notes().points(0) == {}
    assert lifted not in world.notes().ends()


def test_what_a_lock_holds_is_reckoned_by_the_lock_itself(world: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was renewed while it was promised is paid for until that lock ends, and not a period after it was put."""
    gone = captured(world, gone=LARGE)
    del world.live.files[b"gone"]
    world.days(20)
    captured(world, kept=LARGE)
    world.renew()
    monkeypatch.setattr(usage, "expiring", lambda _: {gone.body.id: "no rule keeps it"})
    facts = usage.of_vault(world.pruner(), usage.Habits(), world.now)
    assert facts.early
    assert {early.locked for early in facts.early} == {world.now + PERIOD}


# --- what the host remembers -----------------------------------------------------------------------------------------


def test_what_is_known_is_not_asked_again(world: Locked) -> None:
    """P11: a second look asks nothing, and tells the same; a new point costs its own objects; a renewal is known at once."""
    captured(world, a=LARGE)
    first = protection(world.pruner(), world.notes(), world.now)
    world.locks.asked.clear()
    assert protection(world.pruner(), world.notes(), world.now) == first
    assert world.locks.asked == []
    captured(world, b=LARGE)
    both = protection(world.pruner(), world.notes(), world.now)
    assert 0 < len(world.locks.asked) < len(list(world.store.list())) / 2
    assert both == protection(world.pruner(), None, world.now)
    world.days(20)
    world.renew(notes=world.notes())
    world.locks.asked.clear()
    assert draft(world.pruner(), PERIOD, {}, world.now, world.notes()).plan.names == ()
    assert world.locks.asked == []


def test_points_are_remembered_until_a_prune(world: Locked) -> None:
    """What status reads: each point's end, as long as no prune has moved what it needs."""
    sealed = captured(world, a=LARGE)
    (found,) = protection(world.pruner(), world.notes(), world.now)
    assert world.notes().points(0) == {sealed.body.id: found}
    assert world.notes().points(1) == {}


def test_governance_is_not_believed(tmp_path: Path) -> None:
    """Such locks can be lifted by who is permitted to, so they are asked for each time, and no point is remembered."""
    world = Locked(str(tmp_path), LockMode.GOVERNANCE)
    captured(world, a=LARGE)
    protection(world.pruner(), world.notes(), world.now)
    world.locks.asked.clear()
    protection(world.pruner(), world.notes(), world.now)
    assert len(world.locks.asked) > 5
    assert world.notes().points(0) == {}


def test_a_false_note_lets_no_lock_lapse(world: Locked) -> None:
    """Whatever is written into the note without the index key, nothing of it is believed: everything is asked, and renewed."""
    captured(world, a=LARGE)
    protection(world.pruner(), world.notes(), world.now)
    (path,) = (name for name in os.listdir(world.notes()._folder) if name.startswith("locks-"))
    path = os.path.join(world.notes()._folder, path)
    with open(path, "rb") as file:
        honest = file.read()
    world.days(20)
    expected = draft(world.pruner(), PERIOD, {}, world.now).plan
    assert expected.names
    rng = Random(3)
    for _ in range(50):
        false = bytearray(honest)
        false[rng.randrange(len(false))] ^= 1 << rng.randrange(8)
        for data in (bytes(false), honest[: rng.randrange(len(honest))]):
            with open(path, "wb") as file:
                file.write(data)
            assert world.notes().ends() == {}
    assert draft(world.pruner(), PERIOD, {}, world.now, world.notes()).plan == expected


def test_an_old_note_asks_more_never_less(world: Locked) -> None:
    """A note that was put back tells of earlier ends; what the vault says counts."""
    captured(world, a=LARGE)
    protection(world.pruner(), world.notes(), world.now)
    folder = world.notes()._folder
    (name,) = (name for name in os.listdir(folder) if name.startswith("locks-"))
    with open(os.path.join(folder, name), "rb") as file:
        old = file.read()
    world.days(20)
    world.renew(notes=world.notes())
    with open(os.path.join(folder, name), "wb") as file:
        file.write(old)
    again = draft(world.pruner(), PERIOD, {}, world.now, world.notes())
    assert again.plan.names == ()
    assert min(one.until for one in again.plan.points) >= world.now + PERIOD / 2
