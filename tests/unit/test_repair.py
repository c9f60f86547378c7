"""repair: whom it believes, what it may remove with which key, and what it says is lost."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from resurgam.errors import Denied, IntegrityError
from resurgam.model.codec import to_json
from resurgam.model.verdict import Judgement
from resurgam.stores.base import Store
from resurgam.testing.faults import MemoryStore, Wrapped
from resurgam.vault.age import wrap
from resurgam.vault.check import check
from resurgam.vault.losses import PointLoss
from resurgam.vault.othercopy import door, reopen
from resurgam.vault.pack import Kind
from resurgam.vault.prunes import Prunes, Stage
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.records import RecordType, encode_statement, timestamp
from resurgam.vault.repair import Planner, Repairs
from resurgam.vault.repairing import carry_out
from resurgam.vault.repository import Repository
from resurgam.vault.salvage import NOBODY
from resurgam.vault.signing import IN_TOTO, Role, envelop
from tests.format.damaged import Museum, flip, overwrite, pack_object, restored
from tests.support import World, copied

CAPTURE = ("trust.json", "capture.json")
PRUNER = ("trust.json", "pruner.json")


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Museum:
    """One sound vault for all: nothing here changes it."""
    return Museum(tmp_path_factory.mktemp("museum"))


def planner(museum: Museum, store: Store, other: Store | None = None, keys: tuple[str, ...] = ()) -> Planner:
    """A planner with all keys, or with only some."""
    folder = museum.world.keys_with(*keys) if keys else None
    return Planner(museum.world.repository(store, folder), museum.world.clock, other, read=True)


def repair(museum: Museum, store: Store, other: Store | None = None, keys: tuple[str, ...] = ()) -> Repairs:
    """What is left after a repair."""
    return carry_out(planner(museum, store, other, keys), museum.world.clock, lambda _: None)


# Whom it believes ---------------------------------------------------------------------------------------------------


def test_another_vault_is_no_copy(museum: Museum, tmp_path: Path) -> None:
    """P12: nothing of another vault is taken, whatever lies in it."""
    with pytest.raises(Denied, match="is the vault"):
        planner(museum, copied(museum.sound), World(str(tmp_path)).store)


def test_nothing_in_another_vault_is_replaced(museum: Museum, tmp_path: Path) -> None:
    """P2: who gives the folder of another vault with these keys by mistake does it no harm."""
    another = World(str(tmp_path)).store
    with pytest.raises(Denied, match="the keys are those of"):
        list(door(another, museum.sound, museum.repository().keyring))
    with pytest.raises(Denied, match="the keys are those of"):
        reopen(another, museum.sound, museum.repository().keyring)


def test_nothing_is_taken_that_its_signature_or_digest_does_not_vouch_for(museum: Museum) -> None:
    """P9: a hostile copy gives what was signed for this vault, or nothing."""
    store, hostile = copied(museum.sound), copied(museum.sound)
    pack = museum.place(Kind.DATA).pack
    overwrite(store, pack_object(pack), None)
    flip(hostile, pack_object(pack), 5000)
    point = next(entry.name for entry in store.list("points/"))
    overwrite(store, point, None)
    overwrite(hostile, point, _forged(museum, point))
    hostile.put("points/00112233aabbccdd", museum.sound.get(point))
    plan = planner(museum, store, hostile).plan()
    assert plan.take == ()
    assert len(plan.refused) == 2


def _forged(museum: Museum, name: str) -> bytes:
    """A point that a verifier's key has signed."""
    repository = museum.repository()
    record = repository.sealed(name.rpartition("/")[2]).record
    made = timestamp(museum.world.clock.now())
    verifier = repository.keyring.signer(Role.VERIFIER)
    statement = encode_statement(
        RecordType.POINT, record.subject, record.body, Role.VERIFIER, vault=repository.vault, made=made
    )
    return envelop(statement, [verifier], IN_TOTO)


def test_a_key_is_taken_only_where_it_opens_what_its_session_stored(museum: Museum) -> None:
    """P12: age files prove nothing of who made them, so a key is tried on what it should open."""
    store, hostile = copied(museum.sound), copied(museum.sound)
    name = next(entry.name for entry in store.list("keys/session-"))
    overwrite(store, name, None)
    repository = museum.repository()
    body = {
        "format": 1,
        "vault": repository.vault.hex(),
        "domain": "default",
        "session": name.removeprefix("keys/session-"),
        "key": bytes(32),
    }
    overwrite(hostile, name, wrap(to_json(body), repository.roles.recipients("default")))
    assert planner(museum, store, hostile).plan().take == ()
    assert [one.name for one in planner(museum, store, museum.sound).plan().take] == [name]
    blind = planner(museum, store, museum.sound, CAPTURE).plan()
    assert blind.take == ()
    assert any("cannot be verified" in why for why in blind.refused)


def test_a_garbage_pack_of_the_other_copy_stays_there(museum: Museum) -> None:
    """A copy may be older than a prune: what nobody needs is not brought back."""
    other = copied(museum.sound)
    repository = museum.world.repository(other)
    with repository.writer(museum.world.system, museum.world.host(), museum.world.clock) as writer:
        writer.document({"nobody": "needs this"})
        writer.flush()
    plan = planner(museum, copied(museum.sound), other).plan()
    assert [one.name for one in plan.take if one.name.startswith("packs/")] == []


# Which key does what ------------------------------------------------------------------------------------------------


def test_only_a_pruner_removes_anything(museum: Museum) -> None:
    """P10: with a capture's keys nothing goes, and the plan says what waits for which key."""
    store = copied(museum.sound)
    flip(store, pack_object(museum.place(Kind.DATA).pack), 5000)
    flip(store, next(entry.name for entry in store.list("index/")), 100)
    before = {entry.name for entry in store.list()}
    left = repair(museum, store, museum.sound, CAPTURE)
    assert before <= {entry.name for entry in store.list()}
    assert any("is replaced with pruner.json" in why for why in left.waits)
    assert any("void, and go with pruner.json" in why for why in left.waits)
    assert repair(museum, store, museum.sound, PRUNER).waits == ()
    assert check(museum.world.repository(store), read=True).ok


@pytest.mark.parametrize(("keys", "moved"), [(CAPTURE, False), (PRUNER, True)])
def test_packs_are_named_by_their_writer_or_by_a_pruner_for_it(
    museum: Museum, keys: tuple[str, ...], moved: bool
) -> None:
    """A writer goes on to reuse its own chunks, whoever has written its lost segment again (P9, P11)."""
    store = copied(museum.sound)
    museum.world.forget()
    museum.world.capture(store)
    for entry in list(store.list("index/")):
        overwrite(store, entry.name, None)
    assert repair(museum, store, keys=keys).empty
    repository = museum.world.repository(store)
    capture = repository.keyring.signer(Role.CAPTURE).key_id
    found = list(repository.places.segments())
    assert [(one.origin, one.moved) for one in found] == [(capture, moved)]
    museum.world.forget()
    point = museum.world.capture(store)
    assert sum(snapshot.stored for snapshot in point.body.snapshots) == 0, "it stored again what was there"


def test_packs_of_another_writer_wait_for_a_pruner(museum: Museum) -> None:
    """P9: a capture's key names its own packs only."""
    store = copied(museum.sound)
    repository = museum.world.repository(store)
    _evidence(museum, repository)
    for entry in list(store.list("index/")):
        overwrite(store, entry.name, None)
    left = repair(museum, store, keys=CAPTURE)
    assert any("by their trailers only" in why for why in left.waits)
    assert repair(museum, store).empty
    assert check(museum.world.repository(store), read=True).ok


def _evidence(museum: Museum, repository: Repository) -> str:
    """A verdict with a document in a pack of the verifier's."""
    point = repository.points()[0].body.id
    with repository.evidence_writer(point, museum.world.clock, RecordType.VERDICT) as writer:
        document = writer.document({"seen": "this"})
        writer.flush()
        body = {"document": document, "judgement": Judgement.IDENTICAL, "evidence": "default"}
        writer.put(RecordType.VERDICT, body)
    return document


def test_what_nobody_vouches_for_is_read_and_not_reused(museum: Museum) -> None:
    """P9: a frame in a pack that cannot say whose it is comes back for readers; no writer builds on it."""
    store = copied(museum.sound)
    place = museum.place(Kind.DATA)
    flip(store, pack_object(place.pack), -100)
    for entry in list(store.list("index/")):
        overwrite(store, entry.name, None)
    repair(museum, store)
    repository = museum.world.repository(store)
    assert NOBODY in {segment.origin for segment in repository.places.segments()}
    assert set(restored(museum, store)) == set(museum.points)
    museum.world.forget()
    point = museum.world.capture(store)
    assert sum(snapshot.stored for snapshot in point.body.snapshots) >= 300_000, "it builds on what nobody vouches for"


# What is lost -------------------------------------------------------------------------------------------------------


def loss_of(museum: Museum, store: MemoryStore, point: str, keys: tuple[str, ...] = ()) -> PointLoss:
    """What the plan says that a point lost."""
    return next(one for one in planner(museum, store, None, keys).plan().lost if one.point == point)


def test_the_lost_item_is_named_and_the_rest_is_counted(museum: Museum) -> None:
    """P12: per point, component and item; with a reader's key by name, without it by count."""
    store, first = copied(museum.sound), museum.repository().points()[0].body.id
    place = museum.place(Kind.DATA)
    flip(store, pack_object(place.pack), place.offset + 200)
    found = loss_of(museum, store, first)
    (component,) = found.components
    assert component.items == ("big-0",)
    assert component.whole == 61  # the others, and the table
    assert not found.restores
    assert not found.particulars
    (blind,) = loss_of(museum, store, first, CAPTURE).components
    assert (blind.items, blind.chunks > 0) == (None, True)


def test_a_lost_page_of_a_tree_is_counted_in_items(museum: Museum) -> None:
    """What stood on a page that is lost cannot be named any more, but it can be counted."""
    store, first = copied(museum.sound), museum.repository().points()[0]
    repository = museum.repository()
    root = repository.snapshot(first.body, "files").root
    place = repository.index.find(root.blobs.page)
    assert place is not None
    flip(store, pack_object(place.pack), place.offset + 100)
    (component,) = loss_of(museum, store, first.body.id).components
    assert component.items == ("61 items",)
    assert component.whole == 1  # the table


def test_lost_evidence_stops_no_restore(museum: Museum) -> None:
    """P4: a point whose verdict's documents are lost still restores, and is not quarantined for it."""
    store = copied(museum.sound)
    repository = museum.world.repository(store)
    document = _evidence(museum, repository)
    place = museum.world.repository(store).index.find(bytes.fromhex(document))
    assert place is not None
    flip(store, pack_object(place.pack), place.offset + 90)
    left = repair(museum, store)
    (lost,) = left.lost
    assert (lost.evidence, lost.components, lost.restores) == (1, (), True)
    sealed = museum.world.repository(store).sealed(lost.point)
    assert museum.world.repository(store).state(sealed).quarantined is None


def test_a_restore_names_the_item_and_the_next_step(museum: Museum) -> None:
    """P5, P12: it fails closed, and says which component and item, and that repair knows more."""
    store = copied(museum.sound)
    place = museum.place(Kind.DATA)
    flip(store, pack_object(place.pack), place.offset + 200)
    repository = museum.world.repository(store)
    with pytest.raises(IntegrityError) as caught:
        museum.world.restored(repository.points()[0], repository)
    assert "component files cannot be restored" in caught.value.message
    assert "big-0" in caught.value.message
    assert "vault repair" in caught.value.next_step
    assert "--component" in caught.value.next_step


def test_quarantine_is_the_approvers_word(museum: Museum) -> None:
    """P9: without the approver's key the command is told, and the point stays as it is."""
    store = copied(museum.sound)
    overwrite(store, pack_object(museum.place(Kind.DATA).pack), None)
    left = repair(museum, store, keys=("trust.json", "capture.json", "reader.agekey"))
    hurt = [one.point for one in left.lost if not one.restores]
    assert hurt
    assert all(any(f"resurgam quarantine {point}" in why for why in left.waits) for point in hurt)
    repository = museum.world.repository(store)
    assert all(repository.state(repository.sealed(point)).quarantined is None for point in hurt)


def test_nothing_goes_while_a_prune_is_under_way(museum: Museum, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prune counts the copies that are there: nobody else takes any away meanwhile."""
    store = copied(museum.sound)
    flip(store, pack_object(museum.place(Kind.DATA).pack), 5000)
    under_way = SimpleNamespace(stage=Stage.BEGUN, number=7, broken="")
    monkeypatch.setattr(Prunes, "open", property(lambda _: under_way))
    plan = planner(museum, store).plan()
    assert plan.salvage == ()
    assert any("the end of prune 7" in why for why in plan.waits)


def test_what_nobody_needs_is_counted_and_left(museum: Museum) -> None:
    """Garbage is prune's."""
    store = copied(museum.sound)
    repository = museum.world.repository(store)
    with repository.writer(museum.world.system, museum.world.host(), museum.world.clock) as writer:
        writer.document({"nobody": "needs this"})
        writer.flush()
    before = {entry.name for entry in store.list("packs/")}
    left = repair(museum, store)
    assert left.garbage == 1
    assert {entry.name for entry in store.list("packs/")} == before


def test_random_damage_never_loses_what_restored(museum: Museum) -> None:
    """Seeded bits, cuts and removals, several at once: a repair takes nothing away, and a sound copy brings everything back."""
    rng = Random(20261121)
    for _ in range(12):
        store = copied(museum.sound)
        names = [
            entry.name for entry in store.list() if entry.name.startswith(("packs/", "index/", "log/", "keys/session"))
        ]
        for name in rng.sample(names, 3):
            data = store.get(name)
            how = rng.randrange(3)
            if how == 0:
                flip(store, name, rng.randrange(len(data)))
            else:
                overwrite(store, name, None if how == 1 else data[: rng.randrange(len(data))])
        before = set(restored(museum, store))
        repair(museum, store)
        assert before <= set(restored(museum, store))
        repair(museum, store, museum.sound)
        assert set(restored(museum, store)) == set(museum.points)
        assert check(museum.world.repository(store), read=True).ok


class Unsteady(Wrapped):
    """Its first readings of one pack are cut off, as if a cable were loose."""

    def __init__(self, inner: Store, pack: str, times: int) -> None:
        super().__init__(inner)
        self.pack, self.times = pack, times

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """What lies there, or the first half."""
        data = super().get(name, offset, length)
        if name == self.pack and not offset and length is None and self.times:
            self.times -= 1
            return data[: len(data) // 2]
        return data


def test_a_pack_that_reads_differently_each_time_is_not_removed(museum: Museum) -> None:
    """P1: a chunk that the planning did not see, and that lies there whole, does not go with its pack."""
    store = copied(museum.sound)
    pack = pack_object(museum.place(Kind.DATA).pack)
    flip(store, pack, 3)
    before = set(restored(museum, store))
    with pytest.raises(IntegrityError, match="reads differently"):
        repair(museum, Unsteady(store, pack, 1))
    assert set(restored(museum, store)) == before == set(museum.points)
    assert repair(museum, store).lost == ()
    assert set(restored(museum, store)) == before


@pytest.mark.parametrize(
    "place",
    [
        "checks/20990101t000000z-00000000",
        "points/00112233aabbccdd",
        "leases/00112233aabbccdd",
        "packs/junk",
        "packs/ab/junk",
    ],
)
def test_what_nobody_can_mend_is_told_as_long_as_it_lies_there(museum: Museum, place: str) -> None:
    """P12: what check calls damaged, repair does not call sound; and what it says to do about it helps."""
    store = copied(museum.sound)
    store.put(place, b"not a record")
    assert not check(museum.world.repository(store)).ok
    (told,) = repair(museum, store, museum.sound).waits
    assert told.startswith(place)
    assert "moves it away" in told
    store.delete(place)
    assert repair(museum, store).waits == ()
    assert check(museum.world.repository(store)).ok


@pytest.mark.parametrize("what", ["awaited", "end"])
def test_a_damaged_object_of_a_prune_is_told_and_replaced(museum: Museum, what: str) -> None:
    """P12: it holds up every later prune; with another copy at hand it comes back, though the prune seems to be under way."""
    store, clock = copied(museum.sound), museum.world.clock
    repository = museum.world.repository(store)
    going = {repository.points()[0].body.id: "the test says so"}
    prune = propose(repository, draft(repository, going).plan, clock)
    assert sweep(repository, begin(repository, prune, clock), clock).stage is Stage.SWEPT
    sound, name = copied(store), f"prune/00000001/{what}"
    flip(store, name, 300)
    assert [one.object for one in check(museum.world.repository(store)).damage] == [name]
    assert [why.split()[0] for why in repair(museum, store).waits] == [name]
    assert repair(museum, store, sound).waits == ()
    assert store.get(name) == sound.get(name)
    assert check(museum.world.repository(store)).ok
