"""Several copies read as one: what one lost another gives, what one spoilt another has whole, and a dead one costs few waits."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from random import Random

import pytest

from resurgam.errors import Denied, IntegrityError, NotFound, TargetRefused, Unreachable
from resurgam.stores.base import AlreadyThere, Store, put_once
from resurgam.stores.together import LONGEST, PAUSE, Together
from resurgam.testing.doubles import EventualStore, LockingStore, LostResponseStore
from resurgam.testing.faults import (
    Fault,
    FaultyStore,
    FullStore,
    ManualClock,
    MemoryStore,
    ReadOnlyStore,
    SlowStore,
)
from resurgam.vault import keyadmin
from resurgam.vault.check import check
from resurgam.vault.copies import open_together, require_recordable
from resurgam.vault.history import Quarantined
from resurgam.vault.keyring import Keyring
from resurgam.vault.losses import losses
from resurgam.vault.naming import POINT_NAME
from resurgam.vault.prune import Economics
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.records import RecordType
from resurgam.vault.replicas import ORIGIN, Place, next_list, put_list
from resurgam.vault.replicate import Run
from resurgam.vault.repository import Repository
from resurgam.vault.signing import Role
from tests.replication import replicated
from tests.support import World, copied, replaced


class Dead(SlowStore):
    """Nobody is there, for as long as ``dead``; ``asked`` counts who waited."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner, 0.0)
        self.dead, self.asked = True, 0

    def _wait(self) -> None:
        self.asked += 1
        if self.dead:
            raise Unreachable("Nobody answers there.", untouched="Nothing was read.", next_step="Wait.")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three points of two components, with small files, large ones, and what is the same in all."""
    made, rng = World(str(tmp_path), ("files", "notes")), Random(5)
    for number in range(3):
        files = made.driver.held["files"].files
        files[b"large"] = rng.randbytes(300_000) + bytes(200_000)
        files[b"n%d" % number] = rng.randbytes(9_000)
        made.driver.held["notes"].files[b"same"] = b"unchanged " * 5_000
        made.driver.held["notes"].files[b"note"] = b"note %d" % number
        made.capture()
    return made


def opened(world: World, *stores: Store, keys: str = "") -> tuple[Repository, Together]:
    keyring = Keyring(keys or world.keys)
    copies = open_together(stores, keyring, world.clock)
    return Repository(copies, keyring), copies


def expected(world: World) -> dict[str, object]:
    """What each point restores to from the whole vault."""
    return {sealed.body.id: world.restored(sealed) for sealed in world.repository().points()}


def restored(world: World, repository: Repository) -> dict[str, object]:
    return {sealed.body.id: world.restored(sealed, repository) for sealed in repository.points()}


def spoil(store: MemoryStore, name: str, rng: Random) -> None:
    """One bit is wrong, or the end is missing, or all of it is."""
    data = bytearray(store.get(name))
    store.delete(name)
    way = rng.randrange(3)
    if way == 0:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 1:
        del data[rng.randrange(len(data)) :]
    if way < 2:
        store.put(name, bytes(data))


# ---- the store


def test_what_one_copy_lacks_another_gives_and_it_is_counted() -> None:
    here, there = MemoryStore(), MemoryStore()
    here.put("a/1", b"one")
    there.put("a/1", b"one")
    there.put("a/2", b"two")
    copies = Together([here, there], ManualClock())
    assert [entry.name for entry in copies.list("a/")] == ["a/1", "a/2"]
    assert (copies.get("a/1"), copies.get("a/2"), copies.get("a/2", 1, 1)) == (b"one", b"two", b"w")
    first, second = copies.told
    assert (first.came, first.lacking, second.came, second.spoilt) == (0, 1, 1, 0)
    with pytest.raises(NotFound):
        copies.get("a/3")
    assert copies.told[0].lacking == 1  # what no copy has is missing in none


def test_a_dead_copy_costs_few_waits_and_is_asked_again_later() -> None:
    """One wait for a minute, then two, up to a quarter of an hour; one answer ends it."""
    clock, inner = ManualClock(), MemoryStore()
    for number in range(300):
        inner.put(f"a/{number}", b"x")
    dead = Dead(inner)
    copies = Together([dead, inner], clock, aside=lambda work: work())
    for number in range(300):
        assert copies.get(f"a/{number}") == b"x"
    assert (dead.asked, copies.told[0].silent, copies.told[1].came) == (1, "Nobody answers there.", 300)
    waited = []
    for _ in range(6):
        before = dead.asked
        while dead.asked == before:
            clock.advance(30)
            copies.get("a/1")
        waited.append(clock.monotonic())
    pauses = [after - earlier for earlier, after in zip([0.0, *waited], waited, strict=False)]
    assert pauses == [PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE, LONGEST, LONGEST]
    dead.dead = False
    clock.advance(LONGEST)
    copies.get("a/1")
    assert copies.told[0].silent == ""


def test_nothing_is_concluded_where_no_copy_answers() -> None:
    """P12: no answer is not absence."""
    copies = Together([Dead(MemoryStore()), Dead(MemoryStore())], ManualClock())
    with pytest.raises(Unreachable):
        copies.get("a")
    with pytest.raises(Unreachable):
        list(copies.list())
    one = Together([Dead(MemoryStore()), MemoryStore()], ManualClock(), aside=lambda work: work())
    with pytest.raises(NotFound) as caught:
        one.get("a")
    assert "Nobody answers there." in caught.value.message


def test_p2_a_name_that_any_copy_holds_is_taken() -> None:
    """A put goes to the first copy that takes it, and nowhere where another one has the name; its own lost response is known."""
    here, there = MemoryStore(), MemoryStore()
    there.put("points/a", b"sealed")
    copies = Together([here, there], ManualClock())
    with pytest.raises(AlreadyThere):
        copies.put("points/a", b"revoked")
    assert list(here.list()) == []
    put_once(copies, "points/a", b"sealed")
    full = Together([FullStore(here, 1), ReadOnlyStore(MemoryStore()), there], ManualClock())
    full.put("points/b", b"another")
    assert (list(here.list()), there.get("points/b")) == ([], b"another")
    assert [told.put for told in full.told] == [0, 0, 1]


def test_p10_nothing_is_deleted_while_copies_are_read_together() -> None:
    here, there = MemoryStore(), MemoryStore()
    there.put("a", b"x")
    copies = Together([here, there], ManualClock())
    with pytest.raises(Denied) as caught:
        copies.delete("a")
    assert (there.get("a"), "--vault" in caught.value.next_step) == (b"x", True)


def test_a_listing_counts_the_larger_and_the_earlier() -> None:
    """What is cut off is shorter, and a copy receives later than its original."""
    early, late = ManualClock(), ManualClock()
    late.advance(1000)
    here, there = MemoryStore(late), MemoryStore(early)
    here.put("a", b"cut")
    there.put("a", b"cut off")
    (entry,) = Together([here, there], ManualClock()).list()
    assert (entry.size, entry.received) == (7, early.now().timestamp())


class Hung(Dead):
    """Takes every call, and says nothing until it is let go."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.let_go = threading.Event()

    def _wait(self) -> None:
        self.asked += 1
        if self.dead:
            assert self.let_go.wait(60)
        if self.dead:
            raise Unreachable("It never answered.", untouched="Nothing was read.", next_step="Wait.")


def test_a_copy_that_hangs_is_asked_again_beside_what_is_under_way() -> None:
    """Nobody who reads waits for it a second time."""
    clock, inner = ManualClock(), MemoryStore()
    inner.put("a", b"x")
    hung = Hung(inner)
    copies = Together([hung, inner], clock)
    hung.let_go.set()
    assert copies.get("a") == b"x"
    hung.let_go.clear()
    clock.advance(PAUSE)
    assert copies.get("a") == b"x"  # while it is asked
    deadline = time.monotonic() + 30
    while hung.asked < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (hung.asked, copies.told[0].silent != "") == (2, True)
    hung.dead = False
    hung.let_go.set()
    while copies.told[0].silent and time.monotonic() < deadline:
        time.sleep(0.01)
    assert copies.told[0].silent == ""


# ---- the vault


@pytest.mark.parametrize("seed", range(12))
def test_two_half_lost_copies_restore_everything_together(world: World, seed: int) -> None:
    """Each object is lost or spoilt in one copy or the other, by chance, and in none in both: all points are exact, and a check
    that reads every byte finds nothing."""
    rng, whole = Random(seed), expected(world)
    copies = copied(world.store), copied(world.store)
    hurt = [name.name for name in world.store.list() if rng.random() < 0.9]
    for name in hurt:
        spoil(rng.choice(copies), name, rng)
    repository, together = opened(world, *copies)
    assert restored(world, repository) == whole
    assert repository.refused == []
    report = check(Repository(together, Keyring(world.keys)), read=True)
    assert report.damage == ()
    told = together.told
    assert sum(one.spoilt + one.lacking for one in told) > len(hurt) // 3


@pytest.mark.parametrize("seed", range(6))
def test_what_both_lost_is_named_and_nothing_else(world: World, seed: int) -> None:
    """A chunk that is gone in both copies is lost to exactly the components that need it; all others restore."""
    rng = Random(seed)
    copies = copied(world.store), copied(world.store)
    packs = [entry.name for entry in world.store.list("packs/")]
    both = rng.choice(packs)
    for name in packs:
        for copy in copies if name == both else (rng.choice(copies),):
            copy.delete(name)
    repository, _ = opened(world, *copies)
    alone = Repository(replaced(world.store, both, None), Keyring(world.keys))  # what one copy lost, and nothing more
    assert damage_of(repository) == damage_of(alone) != set()
    for sealed in repository.points():
        try:
            expects: object = world.restored(sealed, alone)
        except (IntegrityError, NotFound) as error:
            expects = error.message
        try:
            found: object = world.restored(sealed, repository)
        except (IntegrityError, NotFound) as error:
            found = error.message
        assert found == expects


def damage_of(repository: Repository) -> set[tuple[str, tuple[str, ...]]]:
    report = check(repository, read=True)
    return {(damage.what, damage.points) for damage in report.damage}


def test_losses_are_named_by_item(world: World) -> None:
    """P12: of a pack that both copies lost, the items that lay in it, and of the points that need them."""
    whole = world.repository()
    newest = whole.points()[-1]
    (entry,) = [e for e in whole.snapshot(newest.body, "files").entries() if e.path == b"n2"]
    chunk = entry.extents[0][0]
    place = whole.index.find(chunk)
    assert place is not None
    pack = f"packs/{place.pack[:2]}/{place.pack}"
    repository, _ = opened(world, replaced(world.store, pack, None), replaced(world.store, pack, None))
    points = [(sealed, repository.records_of(sealed)) for sealed in repository.points()]
    (loss,) = losses(repository, points, [chunk], [])
    assert (loss.point, [component.items for component in loss.components]) == (newest.body.id, [("n2",)])


def test_a_copy_that_lags_brings_no_disowned_key_back(world: World) -> None:
    """The newest role table of any copy counts, whichever is asked first: a stolen key's points stay away."""
    keyadmin.add(world.repository(), "capture", "second", world.clock)
    second = world.keys_with("trust.json", "reader.agekey", "capture.second.json")
    shutil.move(f"{second}/capture.second.json", f"{second}/capture.json")
    stolen = world.capture(keys=second).body.id
    old = copied(world.store)
    keyadmin.remove(world.repository(), "second", world.clock, "laptop stolen")
    kept = [sealed.body.id for sealed in world.repository().points()]
    assert stolen in [sealed.body.id for sealed in Repository(old, Keyring(world.keys)).points()]
    for stores in ((old, world.store), (world.store, old)):
        repository, _ = opened(world, *stores)
        assert [sealed.body.id for sealed in repository.points()] == kept


def test_what_a_prune_took_is_read_where_a_copy_lags_and_expired_all_the_same(world: World) -> None:
    """Its points are over in the union; and what the newer copy lost of moved chunks, the older copy's packs have."""
    lagging = copied(world.store)
    repository = world.repository()
    first, *others = repository.points()
    whole = {sealed.body.id: world.restored(sealed) for sealed in others}
    plan = draft(repository, {first.body.id: "the test says so"}, Economics(max_unused=0.0)).plan
    prune = propose(repository, plan, world.clock)
    assert sweep(repository, begin(repository, prune, world.clock), world.clock).end is not None
    gone = world.repository().prunes().gone
    assert gone
    for name in {e.name for e in world.store.list("packs/")} - {e.name for e in lagging.list("packs/")}:
        world.store.delete(name)  # what was moved is lost where it was moved to
    for stores in ((lagging, world.store), (world.store, lagging)):
        together, _ = opened(world, *stores)
        assert restored(world, together) == whole


def test_a_copy_that_lags_takes_no_quarantine_back(world: World) -> None:
    """What is said of a point in one copy is said."""
    old, repository = copied(world.store), world.repository()
    point = repository.points()[-1].body.id
    repository.put_record(
        RecordType.QUARANTINE, point, Quarantined(reason="a stolen credential"), Role.APPROVER, world.clock
    )
    together, _ = opened(world, old, world.store)
    assert together.state(together.sealed(point)).quarantined is not None
    alone = Repository(old, Keyring(world.keys))
    assert alone.state(alone.sealed(point)).quarantined is None  # which is why copies are read together


def test_records_go_to_the_primary_alone_wherever_it_is_named(world: World) -> None:
    """A replica is not written to; and which place this is, is said by none of the marks."""
    near = world.repository()
    place = Place(name="west", location="/west")
    put_list(near, next_list(None, [place]), world.clock)
    west = MemoryStore()
    Run(near, west, place, world.clock).run()
    for stores in ((west, world.store), (world.store, west)):
        repository, together = opened(world, *stores)
        assert {repository.here.place, *repository.here.beside} == {ORIGIN, "west"}
        assert list(together.list("replica/")) == []
        require_recordable(repository, repository.points()[0].body)
        before = len(list(west.list()))
        repository.put_record(
            RecordType.QUARANTINE, repository.points()[0].body.id, Quarantined(), Role.APPROVER, world.clock
        )
        assert len(list(west.list())) == before
    repository, _ = opened(world, west, Dead(world.store))
    with pytest.raises(TargetRefused, match="written to"):
        require_recordable(repository, repository.points()[0].body)
    with pytest.raises(Denied):
        repository.store.put("points/0123456789abcdef", b"x")
    assert len(list(west.list())) == before


def test_what_a_retired_key_signed_before_stands_in_replicas_alone(tmp_path: Path) -> None:
    """They received everything later; when their originals were received is told, to the union as to each of them."""
    clock = ManualClock()
    world = World(str(tmp_path), store=MemoryStore(clock))
    world.clock = clock
    world.live.files = {b"a": b"words " * 1000}
    sealed = world.capture()
    clock.advance(60)
    keyadmin.rotate(world.repository(), "capture", clock)
    near = world.repository()
    places = [Place(name=name, location=f"/{name}") for name in ("west", "north")]
    put_list(near, next_list(None, places), clock)
    clock.advance(86_400)
    stores = [MemoryStore(clock), MemoryStore(clock)]
    for place, store in zip(places, stores, strict=True):
        Run(world.repository(), store, place, clock).run()
    repository, _ = opened(world, *stores)
    assert [one.body.id for one in repository.points()] == [sealed.body.id]
    assert world.restored(sealed, repository) == world.contents()


def test_what_one_replica_may_not_have_comes_from_another(tmp_path: Path) -> None:
    """Its absence there is no loss; and where all that are read withhold it, it is told where it is, as by each of them."""
    made = replicated(tmp_path)
    for name, region in (("frankfurt", "eu"), ("ohio", "us"), ("oregon", "us")):
        made.add(name, region)
        made.run(name)
    for first, second in (("ohio", "frankfurt"), ("frankfurt", "ohio")):
        repository, _ = opened(made.world, made.stores[first], made.stores[second])
        for sealed in repository.points():
            assert made.world.restored(sealed, repository) == made.told[sealed.body.id]
        assert check(repository, read=True).damage == ()
    far, _ = opened(made.world, made.stores["ohio"], made.stores["oregon"])
    report = check(far, read=True)
    assert (report.damage, report.withheld) == ((), ("private",))
    with pytest.raises(NotFound, match="residency eu"):
        made.world.restored(far.points()[-1], far)


def test_another_vault_is_no_copy(world: World, tmp_path: Path) -> None:
    """P12: told before anything of it is taken for ours."""
    (tmp_path / "other").mkdir()
    other = World(str(tmp_path / "other"))
    with pytest.raises(Denied) as caught:
        opened(world, world.store, other.store)
    assert "another vault" in caught.value.message


def test_a_copy_that_hangs_is_left_out_when_copies_are_opened(world: World) -> None:
    """P12: said by name; the others are read, and nothing is written where the primary is not among them."""
    hung, whole = Hung(copied(world.store)), expected(world)
    keyring = Keyring(world.keys)
    together = open_together([hung, copied(world.store)], keyring, world.clock, patience=3.0)
    assert [(where, "within 3 seconds" in why) for where, why in together.left_out.items()] == [(hung.describe(), True)]
    assert restored(world, Repository(together, keyring)) == whole
    hung.let_go.set()
    with pytest.raises(Unreachable):
        open_together([Dead(world.store), Dead(world.store)], keyring, world.clock, patience=30.0)


@pytest.mark.parametrize("double", ["faulty", "slow", "eventual", "locking", "lost", "silent"])
def test_a_copy_that_is_ill_hurts_nobody(world: World, double: str) -> None:
    """Each double round one copy: everything restores, from the other where need be."""
    whole, rng = expected(world), Random(3)
    inner = copied(world.store)
    ill: dict[str, Store] = {
        "faulty": FaultyStore(inner, rng, 0.3, tuple(Fault)),
        "slow": SlowStore(inner, 5.0, world.clock),
        "eventual": EventualStore(inner, world.clock, rng, 10.0),
        "locking": LockingStore(inner, world.clock, 10.0),
        "lost": LostResponseStore(inner, rng, 0.5),
        "silent": Dead(inner),
    }
    other = copied(world.store)
    for name in [e.name for e in other.list("packs/")][::2]:
        if double not in ("faulty", "silent"):
            other.delete(name)
    repository, _ = opened(world, ill[double], other)
    assert restored(world, repository) == whole
    assert all(POINT_NAME.fullmatch(f"points/{point}") for point in whole)
