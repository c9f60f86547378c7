"""What lies in cold classes: put there, left alone by everyday acts, woken for a restore, freed only whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from resurgam.errors import Archived, Denied, Unreachable, UsageError
from resurgam.restore.adding import add
from resurgam.restore.run import restore
from resurgam.stores import abreast
from resurgam.stores.archive import Speed, Wakefulness, put_cold, stored
from resurgam.stores.base import AlreadyThere, Buffer
from resurgam.testing.archiving import ArchivingStore
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault import warmup
from resurgam.vault.check import EVERYTHING, Check, check
from resurgam.vault.cost import Held
from resurgam.vault.needs import needs_of
from resurgam.vault.pack import Kind
from resurgam.vault.prices import ClassPrices, Prices, WarmUpPrices
from resurgam.vault.prune import Economics
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.repository import Sealed
from resurgam.vault.shred import add_domain
from tests.support import Ticking, World

HOUR = 3600.0
LARGE = 300_000


class Cold:
    """A system of ``notes`` and of ``films``, whose contents are cold; three points, of which each has one film new."""

    def __init__(self, folder: Path, storage_class: str = "DEEP_ARCHIVE") -> None:
        clock, self.rng = ManualClock(), Random(1)
        self.store = ArchivingStore(MemoryStore(Ticking(clock)), clock)
        self.world = world = World(str(folder), ("notes", "films"), store=self.store)
        world.clock = clock
        add_domain(world.repository(), "films", clock)
        notes, films = world.system.components
        world.system = replace(
            world.system,
            vault=replace(world.system.vault, cold=storage_class),
            components=(notes, replace(films, tier="cold", shred_domain="films")),
        )
        for held in world.driver.held.values():
            held.files = {f"{n}".encode(): self.rng.randbytes(LARGE) for n in range(4)}
        self.points = [world.capture()]
        for number in (0, 1):
            world.driver.held["films"].files[f"{number}".encode()] = self.rng.randbytes(LARGE)
            self.points.append(world.capture())

    def packs(self) -> dict[str, str]:
        """Packs by name, with their classes."""
        return {entry.name: storage_class for entry, storage_class in self.store.classes("packs/")}

    def restore(self, into: Path, sealed: Sealed | None = None, components: tuple[str, ...] = ()) -> None:
        world, repository = self.world, self.world.repository()
        body = (sealed or self.points[-1]).body
        particulars = repository.particulars(body)
        restore(repository, body, particulars, str(into), lambda _: world.driver, world.clock, components=components)

    def add(self, into: Path) -> tuple[str, ...]:
        """Bring what is missing there; the names of it."""
        world, repository, body = self.world, self.world.repository(), self.points[-1].body
        particulars = repository.particulars(body)
        return add(repository, body, particulars, str(into), lambda _: world.driver, world.clock)[1]

    def plan(
        self, speed: Speed = Speed.BULK, prices: Prices | None = None, asked: dict[str, warmup.Asked] | None = None
    ) -> warmup.WarmUp:
        repository, body = self.world.repository(), self.points[-1].body
        now = self.world.clock.now().timestamp()
        sleepers = warmup.look(self.store, warmup.needed(repository, body))
        return warmup.plan(body.id, sleepers, speed, 7, now, asked, prices=prices)


def test_contents_of_a_cold_component_and_nothing_else_go_into_the_class(tmp_path: Path) -> None:
    """Pages, lists, records and the other component stay where they are read at once; what is reused is not put again."""
    cold = Cold(tmp_path)
    asleep = {
        name.rpartition("/")[2] for name, storage_class in cold.packs().items() if storage_class == "DEEP_ARCHIVE"
    }
    assert all(entry.name.startswith("packs/") for entry, c in cold.store.classes() if c != "STANDARD")
    repository = cold.world.repository()
    for sealed in cold.points:
        for snapshot in sealed.body.snapshots:
            one = replace(sealed.body, snapshots=(snapshot,))
            needs = needs_of(repository, [(type(sealed)(one, sealed.record, sealed.received), ())])
            for entry in needs.entries:
                is_cold = needs.packs[int(entry["pack"])] in asleep
                assert is_cold == (snapshot.component == "films" and entry["kind"] == Kind.DATA)
    before = set(cold.packs())
    cold.world.capture()
    assert [c for name, c in cold.packs().items() if name not in before] == ["STANDARD"]


def test_everyday_acts_read_nothing_that_sleeps(tmp_path: Path) -> None:
    """Captures, the index, checks, prunes' plans and state work while all contents sleep, and wake nothing."""
    cold = Cold(tmp_path)
    cold.world.forget()
    cold.world.capture()
    repository = cold.world.repository()
    assert [repository.state(sealed).damaged for sealed in repository.points()] == [None] * 4
    report = check(repository, read=True)
    assert (report.damage, report.asleep) == ((), 0)
    assert report.cold["DEEP_ARCHIVE"].objects == list(cold.packs().values()).count("DEEP_ARCHIVE") > 0
    draft(repository, {cold.points[0].body.id: "too old"})
    assert (cold.store.asked, cold.store.reads) == ([], [])


def test_a_check_of_what_sleeps_counts_it_and_calls_it_no_damage(tmp_path: Path) -> None:
    """P12: what was not read is not told as read; awake it is read whole."""
    cold = Cold(tmp_path)
    wish = replace(EVERYTHING, cold=True)
    report = Check(cold.world.repository(), wish, cold.world.clock).run()
    assert (report.damage, report.left, report.asleep) == ((), 0, report.cold["DEEP_ARCHIVE"].objects)
    warmup.ask(cold.store, cold.plan())
    cold.world.clock.advance(48 * HOUR)
    again = Check(cold.world.repository(), wish, cold.world.clock).run()
    assert again.asleep < report.asleep
    assert (again.damage, again.packs_read) == ((), again.packs - again.asleep)


def test_a_restore_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """P5 P12: with the command that wakes it; the other component restores by itself."""
    cold = Cold(tmp_path)
    with pytest.raises(Archived, match="hold contents of films") as caught:
        cold.restore(tmp_path / "out")
    assert "--warm-up" in caught.value.next_step
    assert (caught.value.exit_code, caught.value.transient) == (16, False)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("out")]
    cold.restore(tmp_path / "notes", components=("notes",))
    with pytest.raises(Archived):
        cold.add(tmp_path / "notes")
    assert not os.path.exists(tmp_path / "notes" / "films")
    warmup.ask(cold.store, cold.plan())
    cold.world.clock.advance(48 * HOUR)
    assert cold.add(tmp_path / "notes") == ("films",)


def test_what_is_woken_is_restored_and_asked_for_once(tmp_path: Path) -> None:
    """The plan, the time to come back, a second run that goes on, and the restore; then it sleeps again."""
    cold = Cold(tmp_path)
    plan = cold.plan()
    assert plan.asleep == {"DEEP_ARCHIVE": Held(objects=len(plan.ask), bytes=plan.asleep["DEEP_ARCHIVE"].bytes)}
    assert plan.by == cold.world.clock.now().timestamp() + 48 * HOUR
    warmup.ask(cold.store, replace(plan, ask=plan.ask[:1]))  # stopped after the first
    cold.world.clock.advance(HOUR)
    second = cold.plan()
    assert set(second.ask) == set(plan.ask[1:])
    warmup.ask(cold.store, second)
    third = cold.plan()
    assert (third.ask, third.ready) == ((), False)
    error = warmup.not_yet(third)
    assert error.transient
    assert "2026-01-03 01:00 UTC" in error.message  # 48 hours from now: nobody noted when it was asked
    with pytest.raises(Archived):
        cold.restore(tmp_path / "early")
    cold.world.clock.advance(48 * HOUR)
    assert cold.plan().ready
    assert sorted(cold.store.asked) == sorted(plan.ask)
    assert cold.world.restored(cold.points[-1]) == cold.world.contents()
    cold.world.clock.advance(8 * 24 * HOUR)
    assert not cold.plan().ready


def test_what_was_asked_for_comes_at_the_speed_it_was_asked_at(tmp_path: Path) -> None:
    """P12: the same command with another speed promises nothing sooner; nor where nobody here knows who asked, and how."""
    cold = Cold(tmp_path)
    plan, began = cold.plan(), cold.world.clock.now().timestamp()
    warmup.ask(cold.store, plan)
    cold.world.clock.advance(HOUR)
    noted = {name.rpartition("/")[2]: warmup.Asked(began, Speed.BULK) for name in plan.ask}
    assert cold.plan(Speed.STANDARD, asked=noted).by == began + 48 * HOUR
    assert cold.plan(Speed.STANDARD).by == began + 49 * HOUR
    quick = {pack: warmup.Asked(began, Speed.STANDARD) for pack in noted}
    assert cold.plan(Speed.BULK, asked=quick).by == began + 12 * HOUR


def test_a_plan_says_what_it_costs_and_how_long_it_takes(tmp_path: Path) -> None:
    """Hours of the price list count before those of S3's own manual; a speed that a class has not is refused."""
    cold = Cold(tmp_path)
    prices = Prices(
        currency="EUR",
        as_of="2026-01-01",
        egress=10**3,  # type: ignore[arg-type]
        classes={"DEEP_ARCHIVE": ClassPrices(storage=0, warm_up={"bulk": WarmUpPrices(hours=20, gb=1, per_1000=500)})},  # type: ignore[arg-type]
    )
    plan = cold.plan(prices=prices)
    assert plan.by == cold.world.clock.now().timestamp() + 20 * HOUR
    assert plan.cost is not None
    assert {line.what: float(line.amount) for line in plan.cost.lines if line.amount} == {
        "warm-up: egress": pytest.approx(plan.asleep["DEEP_ARCHIVE"].bytes / 1e6),
        "warm-up: warm-up": pytest.approx(plan.asleep["DEEP_ARCHIVE"].bytes / 1e9),
        "warm-up: warm-up requests": pytest.approx(len(plan.ask) / 2),
    }
    with pytest.raises(UsageError, match="expedited") as caught:
        cold.plan(Speed.EXPEDITED)
    assert "standard or bulk" in caught.value.next_step


def test_a_prune_frees_whole_cold_packs_and_writes_none_anew(tmp_path: Path) -> None:
    """P10: a cold pack of which a part is needed stays, however much of it is not; one of which nothing is goes."""
    cold = Cold(tmp_path)
    first, second, last = cold.points
    repository = cold.world.repository()
    eager = Economics(max_unused=0.0)
    plan = draft(repository, {first.body.id: "old", second.body.id: "old"}, eager).plan
    packs = {name.rpartition("/")[2]: c for name, c in cold.packs().items()}
    assert not [name for name in plan.repack if packs[name] != "STANDARD"]
    prune = sweep(
        repository, begin(repository, propose(repository, plan, cold.world.clock), cold.world.clock), cold.world.clock
    )
    assert prune.end is not None
    assert cold.store.reads == []
    for number in range(4):  # now nothing of the first pack of films is needed any more
        cold.world.driver.held["films"].files[f"{number}".encode()] = cold.rng.randbytes(LARGE)
    cold.world.capture()
    plan = draft(cold.world.repository(), {last.body.id: "old"}, eager).plan
    assert {packs.get(name) for name in plan.remove} >= {"DEEP_ARCHIVE"}
    assert not [name for name in plan.repack if packs.get(name, "STANDARD") != "STANDARD"]


def test_packs_that_sleep_and_no_segment_names_hinder_nobody(tmp_path: Path) -> None:
    """P3 P12: an index that was lost is made anew of what is awake; what sleeps is named, and found when it was woken."""
    cold = Cold(tmp_path)
    for entry in list(cold.store.list("index/")):
        cold.store.delete(entry.name)
    cold.world.forget()
    repository = cold.world.repository()
    _ = repository.index
    asleep = {name.rpartition("/")[2] for name, c in cold.packs().items() if c == "DEEP_ARCHIVE"}
    assert repository.places.asleep == asleep
    assert any("no pack is known to hold it" in one.what for one in check(cold.world.repository()).damage)
    for name in asleep:
        cold.store.warm(f"packs/{name[:2]}/{name}", 7, Speed.BULK)
    cold.world.clock.advance(48 * HOUR)
    assert check(cold.world.repository()).damage == ()
    cold.world.capture()  # an interrupted session's packs get their segment now
    assert cold.world.restored(cold.points[-1])


def test_of_copies_that_cannot_be_asked_all_stay(tmp_path: Path) -> None:
    """P9: a copy that sleeps may be the true one, and whoever stole a key may have written another; so both are needed."""
    cold = Cold(tmp_path)
    before = set(cold.packs())
    segments = [entry.name for entry in cold.store.list("index/")]
    hidden = {name: cold.store.get(name) for name in segments}
    for name in segments:
        cold.store.delete(name)
    cold.world.forget()
    cold.world.capture()  # stores the films once more: nobody can tell that they are there
    for name, data in hidden.items():
        cold.store.put(name, data)
    twice = {n.rpartition("/")[2] for n, c in cold.packs().items() if c != "STANDARD"}
    assert twice - {n.rpartition("/")[2] for n in before}
    plan = draft(cold.world.repository(), {}, Economics(max_unused=0.0)).plan
    assert not twice & plan.packs


# --- the port ---------------------------------------------------------------------------------------------------------


class Lossy(ArchivingStore):
    """A put into a class takes effect, and its response is lost."""

    def put_as(self, name: str, data: Buffer, storage_class: str) -> None:
        """Raises Unreachable."""
        super().put_as(name, data, storage_class)
        raise Unreachable("No answer.", untouched="Not known.", next_step="Try again.")


def test_a_lost_response_is_told_apart_from_another_one_s_object() -> None:
    """P2: what sleeps cannot be read back; a pack's name is the digest of bytes that nobody else had, so its size is enough."""
    lossy = Lossy(MemoryStore(), ManualClock())
    put_cold(lossy, "packs/aa/a", b"bytes", "GLACIER")
    assert lossy.state("packs/aa/a").state is Wakefulness.ASLEEP
    taken = ArchivingStore(MemoryStore(), ManualClock())
    taken.put("packs/aa/a", b"other bytes")
    with pytest.raises(AlreadyThere):
        put_cold(taken, "packs/aa/a", b"bytes", "GLACIER")


def test_a_store_without_classes_says_so() -> None:
    """P12: contents that should be cold are not put anywhere else in silence."""
    with pytest.raises(Denied, match="has no storage classes") as caught:
        put_cold(MemoryStore(), "packs/aa/a", b"bytes", "GLACIER")
    assert "vault.cold" in caught.value.next_step


STATES: Iterable[tuple[str, str, Wakefulness, bool]] = (
    ("STANDARD", "", Wakefulness.READY, False),
    ("GLACIER_IR", "", Wakefulness.READY, False),
    ("GLACIER", "", Wakefulness.ASLEEP, False),
    ("GLACIER", 'ongoing-request="true"', Wakefulness.WAKING, False),
    ("DEEP_ARCHIVE", 'ongoing-request="false", expiry-date="Fri, 23 Jan 2026 00:00:00 GMT"', Wakefulness.READY, True),
)


@pytest.mark.parametrize(("storage_class", "header", "state", "ends"), STATES)
def test_the_header_of_a_copy_is_understood(storage_class: str, header: str, state: Wakefulness, ends: bool) -> None:
    """``x-amz-restore`` as the S3 API writes it."""
    found = stored(storage_class, header)
    assert (found.state, found.until is not None) == (state, ends)


def test_a_distant_store_is_asked_abreast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: ten thousand packs are not asked about, nor woken, one round trip after the other."""
    cold = Cold(tmp_path)
    monkeypatch.setattr(abreast, "is_far", lambda _store: True)
    threads: dict[str, set[threading.Thread]] = {"state": set(), "warm": set()}

    def noted(verb: str, done: Callable[..., object], *args: object) -> object:
        threads[verb].add(threading.current_thread())
        return done(*args)

    for verb in threads:
        monkeypatch.setattr(cold.store, verb, partial(noted, verb, getattr(cold.store, verb)))
    warmup.ask(cold.store, cold.plan())
    assert all(threads.values())
    assert threading.main_thread() not in threads["state"] | threads["warm"]
