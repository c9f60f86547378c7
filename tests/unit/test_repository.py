"""What a whole vault promises, shown on captures of a system in memory: P1, P2, P3, P9, P11, P12."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import msgspec
import pytest

from resurgam.drivers.base import Blob, Item
from resurgam.errors import (
    Ambiguous,
    Busy,
    Denied,
    IntegrityError,
    NewerFormat,
    NotFound,
    TargetRefused,
    Unreachable,
)
from resurgam.model.placement import ANYWHERE
from resurgam.model.point import Finding, Position
from resurgam.model.system import Component
from resurgam.model.verdict import Judgement
from resurgam.stores.base import AlreadyThere, Buffer, Store
from resurgam.testing.faults import Fault, FaultyStore, ManualClock, MemoryStore, ReadOnlyStore, SlowStore, Wrapped
from resurgam.vault.check import check
from resurgam.vault.compare import compare_points
from resurgam.vault.keyring import Keyring
from resurgam.vault.pack import Kind
from resurgam.vault.records import RecordType, itself, make_record
from resurgam.vault.references import references_of
from resurgam.vault.repository import Repository
from resurgam.vault.signing import Role
from resurgam.vault.sink import DomainKeys
from tests.support import Held, MemoryDriver, Table, World, copied, replaced, stored_bytes

CAPTURE_ROLE = ("capture.json", "trust.json")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Files of several sizes and a table that is a view of one of them."""
    made = World(str(tmp_path))
    rng = Random(1)
    made.live.files = {
        b"big": rng.randbytes(700_000),
        b"empty": b"",
        b"small": b"few",
        **{b"many/%04d" % n: rng.randbytes(50) for n in range(300)},
    }
    made.live.tables["rows"] = Table(("id", "v"), ("id",), [(n, f"{n}") for n in range(3000)], b"big")
    return made


def test_round_trip(world: World) -> None:
    """P1: what is restored is what was there."""
    assert world.restored(world.capture()) == world.contents()


def test_empty_system(tmp_path: Path) -> None:
    """Nothing is a system too: no component, and a component without anything."""
    for components in ((), ("empty",)):
        world = World(str(tmp_path / str(len(components))), components)
        point = world.capture()
        assert world.restored(point) == world.contents()
        assert check(world.repository(), read=True).ok


def test_capture_role_adds_and_cannot_read(world: World) -> None:
    """P9: two files are enough to capture twice with all savings, and to read nothing; the point says so."""
    keys = world.keys_with(*CAPTURE_ROLE)
    first = world.capture(keys=keys)
    world.driver.read_bytes = 0
    second = world.capture(keys=keys)
    assert not first.body.host_can_read
    assert not second.body.host_can_read
    assert world.driver.read_bytes == 0
    assert sum(s.stored for s in second.body.snapshots) == 0
    confined = world.repository(keys=keys)
    with pytest.raises(Denied, match=r"reader\.agekey"):
        confined.particulars(second.body)
    with pytest.raises(Denied, match=r"reader\.agekey"):
        _ = confined.snapshot(second.body, "files").root
    with pytest.raises(Denied, match=r"verifier\.json"):
        confined.evidence_writer(second.body.id, world.clock, RecordType.VERDICT)
    assert confined.points()[0].body == first.body
    assert check(confined).ok  # what is clear and what the index key opens can be checked by it
    assert world.capture().body.host_can_read
    assert world.restored(second) == world.contents()


def test_chunks_of_another_writer_are_not_reused(world: World) -> None:
    """P9: a stolen host could have published garbage under an id that it knows; a verifier's chunks are no capture's."""
    value = {"answer": "x" * 5000}
    with world.evidence_writer() as writer:
        one = writer.document(value)
        writer.flush()
        stored = writer.stored
    host = world.host()
    with world.repository().writer(world.system, host, world.clock) as capturing:
        assert capturing.document(value) == one
        assert capturing.stored == stored > 0


def test_all_state_of_the_host_can_be_lost(world: World) -> None:
    """P3: without caches everything is read again, nothing but records is stored again, and everything restores."""
    first = world.capture()
    world.forget()
    before = stored_bytes(world.store)
    world.driver.read_bytes = 0
    second = world.capture()
    assert world.driver.read_bytes >= 700_000
    assert sum(s.stored for s in second.body.snapshots) == 0
    assert stored_bytes(world.store) - before < 32 << 10
    assert world.restored(first) == world.restored(second) == world.contents()


def test_the_index_can_be_lost(world: World) -> None:
    """P3: packs say what lies in them; a vault without index/ restores, checks clean, and is added to without storing again."""
    first = world.capture()
    for entry in list(world.store.list("index/")):
        world.store.delete(entry.name)
    world.forget()
    assert world.restored(first) == world.contents()
    assert check(world.repository(), read=True).ok
    second = world.capture()
    assert sum(s.stored for s in second.body.snapshots) == 0
    assert any(True for _ in world.store.list("index/")), "the segment is written again"
    assert world.restored(second) == world.contents()


def test_vault_and_recovery_key_are_enough(world: World) -> None:
    """P3: the objects and one file."""
    point = world.capture()
    shutil.move(f"{world.keys}/recovery.agekey", f"{world.folder}/recovery.agekey")
    shutil.rmtree(world.keys)
    world.forget()
    repository = Repository(copied(world.store), Keyring.from_recovery(f"{world.folder}/recovery.agekey"))
    assert world.restored(repository.resolve("latest"), repository) == world.contents()
    assert repository.sealed(point.body.id).body == point.body


def test_unchanged_is_neither_read_nor_stored(world: World) -> None:
    """P11: no byte of any source, no row, and only records in the vault."""
    world.capture()
    before = stored_bytes(world.store)
    world.driver.read_bytes = world.driver.decoded = 0
    second = world.capture()
    assert (world.driver.read_bytes, world.driver.decoded) == (0, 0)
    assert stored_bytes(world.store) - before < 64 << 10
    assert world.restored(second) == world.contents()


def test_cost_follows_change(tmp_path: Path) -> None:
    """P11: one changed file among 20,000, and one changed row among 100,000, add a few pages."""
    world = World(str(tmp_path))
    world.live.files = {b"%05d" % n: b"content %d" % n for n in range(20_000)}
    rows = [(n, f"row {n}") for n in range(100_000)]
    world.live.tables["rows"] = Table(("id", "v"), ("id",), rows)
    first = world.capture()
    before = stored_bytes(world.store)
    world.live.files[b"10000"] = b"changed"
    world.live.tables["rows"].rows[50_000] = (50_000, "changed")
    world.driver.read_bytes = 0
    second = world.capture()
    assert world.driver.read_bytes <= 2 * len(b"changed")
    assert sum(s.stored for s in second.body.snapshots) < 150_000
    assert stored_bytes(world.store) - before < 200_000
    read = CountingStore(world.store)
    repository = world.repository(read)
    assert [(d.sign, d.kind, d.key) for d in compare_points(first.body, second.body, repository)] == [
        ("~", "file", "10000"),
        ("~", "row", "50000"),
    ]
    assert read.chunks < 20, "a diff reads the pages that differ, and those above them"
    assert world.restored(first) != world.restored(second) == world.contents()


class CountingStore(Wrapped):
    """Counts chunks that are fetched."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.chunks = 0

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one."""
        self.chunks += 1
        return self.inner.read_into(name, offset, buffer)


def test_paranoid_reads_everything(world: World) -> None:
    """With stamps that lie, a paranoid capture finds the change."""
    world.capture()
    size = sum(map(len, world.live.files.values()))
    world.driver.read_bytes = 0
    second = world.capture(paranoid=True)
    assert world.driver.read_bytes >= size
    assert sum(s.stored for s in second.body.snapshots) == 0


def test_a_damaged_cache_is_as_good_as_none(world: World) -> None:
    """P3: whatever bit falls over in the host's notes, the next point is exact."""
    world.capture()
    cache = f"{world.host().folder}/files.files"
    with open(cache, "rb") as file:
        whole = file.read()
    rng = Random(7)
    for offset in rng.sample(range(len(whole)), 60):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << rng.randrange(8)
        with open(cache, "wb") as file:
            file.write(damaged[: rng.choice((len(damaged), offset + 1))])
        assert world.restored(world.capture()) == world.contents()


def test_two_captures_of_one_system(world: World) -> None:
    """The second is refused and says who is at work; the first is not disturbed."""
    with world.host().one_capture():
        with pytest.raises(Busy) as caught:
            world.capture()
        assert world.host().capture_running()
    assert caught.value.next_step
    assert not world.host().capture_running()
    assert world.restored(world.capture()) == world.contents()


def test_captures_of_two_systems_at_once(tmp_path: Path) -> None:
    """P1: both seal, in one vault, and both restore; their announcements have numbers of their own."""
    one = World(str(tmp_path / "one"))
    other = World(str(tmp_path / "other"))
    other.store, other.keys = one.store, one.keys
    other.system = msgspec.structs.replace(other.system, name="other")
    for world in (one, other):
        world.live.files = {b"%d" % n: Random(n).randbytes(90_000) for n in range(30)}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            together = threading.Barrier(2)

            def take(world: World, together: threading.Barrier = together) -> object:
                together.wait(timeout=30)
                return world.capture()

            list(pool.map(take, (one, other)))
    points = one.repository().points()
    assert len(points) == 8
    assert len({entry.name for entry in one.store.list("log/")}) == 8
    for sealed in points:
        world = one if sealed.body.system == "test" else other
        assert world.restored(sealed) == world.contents()
    assert check(one.repository(), read=True).ok


def test_lost_packs_are_stored_again(world: World) -> None:
    """P1, P12: check names a lost pack and its points; the next capture does not build on it, and then the old one is whole
    again too, since chunks are known by their content."""
    first = world.capture()
    lost = max(world.store.list("packs/"), key=lambda entry: entry.size)
    world.store.delete(lost.name)
    report = check(world.repository())
    assert any(lost.name[-64:][:16] in damage.what + damage.object for damage in report.damage)
    assert any(first.body.id in damage.points for damage in report.damage)
    with pytest.raises(IntegrityError):
        world.restored(first)
    second = world.capture()
    assert sum(s.stored for s in second.body.snapshots) > 500_000
    assert world.restored(second) == world.restored(first) == world.contents()


def test_cut_packs_are_stored_again(world: World) -> None:
    """P1: the same for a pack that lost its end."""
    world.capture()
    lost = max(world.store.list("packs/"), key=lambda entry: entry.size)
    data = world.store.get(lost.name)
    world.store.delete(lost.name)
    world.store.put(lost.name, data[: len(data) // 2])
    assert not check(world.repository()).ok
    assert world.restored(world.capture()) == world.contents()


def test_garbage_under_a_known_id(world: World) -> None:
    """P9, P12: a writer that holds every key of its role can publish garbage under an id; no reader takes it for the chunk."""
    lie = os.urandom(32)

    class Lying(DomainKeys):
        def id_of(self, kind: Kind, data: Buffer) -> bytes:
            return lie

    with world.evidence_writer() as writer:
        keys = writer._domain("default", ANYWHERE)
        writer._keys["default", ANYWHERE] = Lying(world.repository().secret, "default", keys.session)
        writer.document({"true": False})
        writer.flush()
    with pytest.raises(IntegrityError, match="do not have its id"):
        world.repository().document(lie.hex(), dict[str, bool], what="a lie")


def test_a_pack_that_vanishes_while_it_is_read(world: World) -> None:
    """P12: damage is IntegrityError, also where the store says NotFound."""
    point = world.capture()
    repository = world.repository()
    _ = repository.index
    for entry in list(world.store.list("packs/")):
        world.store.delete(entry.name)
    with pytest.raises(IntegrityError, match="missing"):
        repository.particulars(point.body)


def test_keys_of_another_vault(world: World, tmp_path: Path) -> None:
    """P12: refused by name, before anything is read or written."""
    other = World(str(tmp_path / "other"))
    with pytest.raises(Denied, match="the keys are those of test"):
        world.repository(keys=other.keys)
    with pytest.raises(Denied):
        world.capture(keys=other.keys)


@pytest.mark.parametrize("missing", ["capture.json", "trust.json"])
def test_missing_keys_are_named(world: World, missing: str) -> None:
    """P12: which file, and what it is for."""
    keys = world.keys_with(*({"capture.json", "trust.json", "reader.agekey"} - {missing}))
    with pytest.raises(Denied, match=missing.replace(".", r"\.")) as caught:
        world.capture(keys=keys)
    assert caught.value.next_step


def test_newer_vault(world: World) -> None:
    """P12: what a newer release wrote is not touched."""
    identity = json.loads(world.store.get("vault.json"))
    newer = replaced(world.store, "vault.json", json.dumps(identity | {"format": 2, "other": [1]}).encode())
    with pytest.raises(NewerFormat) as caught:
        world.repository(newer)
    assert "Upgrade" in caught.value.next_step


def test_no_vault(tmp_path: Path, world: World) -> None:
    """P12: an empty store is no vault."""
    with pytest.raises(NotFound, match="There is no vault"):
        world.repository(MemoryStore())


def test_no_second_vault_in_a_store(world: World) -> None:
    """P2: a vault is never made over another one, nor over what an interrupted init left."""
    with pytest.raises(AlreadyThere):
        Repository.create(world.store, f"{world.folder}/more", "again", world.clock)
    with pytest.raises(TargetRefused):
        Repository.create(replaced(world.store, "vault.json", None), f"{world.folder}/more", "again", world.clock)
    assert not os.path.exists(f"{world.folder}/more")


def test_clock_that_goes_back(world: World) -> None:
    """A clock decides nothing: both points stand and restore, each with its own contents."""
    first, before = world.capture(), world.contents()
    world.clock = ManualClock(datetime(2020, 1, 1, tzinfo=UTC))
    world.live.files[b"small"] = b"later"
    second = world.capture()
    assert world.restored(first) == before
    assert world.restored(second) == world.contents()
    assert {s.body.id for s in world.repository().points()} == {first.body.id, second.body.id}
    assert check(world.repository(), read=True).ok


def test_resolving_points(world: World) -> None:
    """The beginning of an id, latest, a time; and what matches nothing or too much."""
    one, two = world.capture(), world.capture()
    repository = world.repository()
    assert repository.resolve("latest").body.id == two.body.id
    assert repository.resolve(one.body.id[:10]).body.id == one.body.id
    assert repository.resolve(one.body.id.upper()).body.id == one.body.id
    moment = datetime.fromisoformat(one.body.sealed) + timedelta(milliseconds=1)
    assert repository.resolve(moment.isoformat()).body.id == one.body.id
    for words in ("nonsense", "", "2019-01-01", one.body.id + "0"):
        with pytest.raises(NotFound):
            repository.resolve(words)
    with pytest.raises(NotFound):
        repository.resolve("latest", "another system")
    with pytest.raises(NotFound):
        repository.snapshot(one.body, "another component")


def test_ambiguous_words(tmp_path: Path) -> None:
    """Of seventeen ids two begin alike: neither is chosen, and both are named."""
    world = World(str(tmp_path), ())
    ids = [world.capture().body.id for _ in range(17)]
    first = next(one for one in ids if sum(other.startswith(one[0]) for other in ids) > 1)
    with pytest.raises(Ambiguous, match=first):
        world.repository().resolve(first[0])


def test_one_bad_point_does_not_hide_the_rest(world: World) -> None:
    """P12: a record that cannot be believed is not listed, and is said."""
    one, two = world.capture(), world.capture()
    data = bytearray(world.store.get(f"points/{one.body.id}"))
    data[len(data) // 2] ^= 1
    repository = world.repository(replaced(world.store, f"points/{one.body.id}", bytes(data)))
    assert [sealed.body.id for sealed in repository.points()] == [two.body.id]
    assert [*repository.refused, *repository.refused_points]
    assert not check(repository).ok


def test_one_bad_record_is_the_concern_of_its_own_point(world: World) -> None:
    """P12: the point that it is about is proven no more, and said; every other point stands as before."""
    one, two = world.capture(), world.capture()
    for sealed in (one, two):
        body = {"judgement": Judgement.IDENTICAL}
        world.repository().put_record(RecordType.VERDICT, sealed.body.id, body, Role.VERIFIER, world.clock)
    stray = f"records/{one.body.id}/verdict-0000000000000000"
    world.store.put(stray, b"junk")
    repository = world.repository()
    assert repository.state(two).may_be_promoted
    assert repository.refused_records == []
    state = repository.state(one)
    assert stray in (state.damaged or "")
    assert (state.word, state.sealed, state.proven, state.may_be_promoted) == ("not known", True, None, False)
    assert repository.refused_records == [state.damaged]
    with pytest.raises(IntegrityError, match=stray):
        repository.records(one.body.id)
    assert [damage.points for damage in check(repository).damage] == [(one.body.id,)]


def test_a_role_table_that_is_taken_away_is_missed(world: World) -> None:
    """P12: keys that it disowned would be believed again; a host that has seen it does not go on, another cannot know."""
    root = Keyring(world.keys).signer(Role.ROOT)
    older = copied(world.store)
    newer = msgspec.structs.replace(world.repository().roles, serial=2)
    subject = itself(newer.object_name, newer)
    world.store.put(
        newer.object_name,
        make_record(RecordType.ROLES, subject, newer, root, vault=world.repository().vault, made=world.clock.now()),
    )
    point = world.capture()
    with pytest.raises(IntegrityError, match="role table 1, and this host has seen 2"):
        world.capture(older)
    assert list(older.list("leases/")) == []
    world.capture()
    assert world.repository().sealed(point.body.id).body == point.body
    world.forget()
    world.capture(older)


def test_references_are_those_of_the_system(world: World) -> None:
    """Bad records beside them, and what is about no point, hide none."""
    one, two = world.capture(), world.capture()
    names = []
    for sealed in (one, two):
        world.clock.advance(1)
        names.append(
            world.repository().put_record(RecordType.REFERENCE, sealed.body.id, {}, Role.APPROVER, world.clock)
        )
    world.store.put(f"records/{one.body.id}/verdict-0", b"junk")
    world.store.put("records/reference-0", b"junk")
    world.store.put(f"records/{'0' * 16}/reference-0", b"junk")
    found = references_of(world.repository(), world.system.name)
    assert [record.subject.name for record in found] == [f"point/{sealed.body.id}" for sealed in (one, two)]
    assert references_of(world.repository(), "another") == []
    bad = world.repository(replaced(world.store, names[0], b"junk"))
    with pytest.raises(IntegrityError, match=names[0]):  # P4: a yardstick that is lost is no pass
        references_of(bad, world.system.name)


def test_strays_in_the_log_stop_nobody(world: World) -> None:
    """A foreign object among the announcements is stepped over."""
    world.store.put("log/notes.txt", b"hello")
    world.capture()
    assert world.restored(world.capture()) == world.contents()
    assert len(list(world.store.list("log/"))) == 3


@pytest.mark.parametrize("kinds", [(Fault.BEFORE,), (Fault.AFTER,), (Fault.BEFORE, Fault.AFTER)])
def test_a_store_that_fails_now_and_then(world: World, kinds: tuple[Fault, ...]) -> None:
    """P1: a call whose answer was lost may have been done; what is listed is whole all the same."""
    rng = Random(11)
    known: dict[str, object] = {}
    for round_ in range(15):
        world.live.files[b"small"] = b"%d" % round_
        faulty = FaultyStore(world.store, rng, 0.1, kinds)
        with suppress(Unreachable):
            world.capture(faulty)
        for sealed in world.repository().points():
            known.setdefault(sealed.body.id, world.contents())
    for sealed in world.repository().points():
        assert world.restored(sealed) == known[sealed.body.id]
    assert known
    assert check(world.repository(), read=True).ok


@pytest.mark.parametrize("kind", [Fault.TORN, Fault.FLIP])
def test_reads_that_are_wrong_now_and_then(world: World, kind: Fault) -> None:
    """P12: a restore over wrong reads is exact or refused."""
    point = world.capture()
    rng = Random(12)
    exact = refused = 0
    for _ in range(60):
        try:
            assert (
                world.restored(point, world.repository(FaultyStore(world.store, rng, 0.03, (kind,))))
                == world.contents()
            )
            exact += 1
        except (IntegrityError, Denied, NotFound):
            refused += 1
    assert exact
    assert refused


def test_a_store_that_may_only_be_read(world: World) -> None:
    """P9: reading needs no right to write; a capture says that it is missing."""
    point = world.capture()
    readonly = ReadOnlyStore(world.store)
    assert world.restored(point, world.repository(readonly)) == world.contents()
    assert check(world.repository(readonly), read=True).ok
    with pytest.raises(Denied):
        world.capture(readonly)


def test_a_slow_store_changes_nothing(world: World) -> None:
    """Time passes, and nothing depends on it."""
    slow = SlowStore(world.store, 3600.0, world.clock)
    assert world.restored(world.capture(slow), world.repository(slow)) == world.contents()


def test_evidence_names_its_point(world: World) -> None:
    """P2: what became known is another record, bound to the point's digest."""
    point = world.capture()
    repository = world.repository()
    name = repository.put_record(RecordType.ATTESTATION, point.body.id, {"a": 1}, Role.VERIFIER, world.clock)
    (record,) = world.repository().records(point.body.id)
    assert name.startswith(f"records/{point.body.id}/attestation-")
    assert record.subject == point.record.subject
    with pytest.raises(NotFound):
        repository.put_record(record.type, "0" * 16, {}, Role.VERIFIER, world.clock)


def test_large_documents(world: World) -> None:
    """A witness may say more than a pack of pages holds."""
    value = {"answers": Random(3).randbytes(12 << 20).hex()}
    with world.evidence_writer() as writer:
        small = writer.document({"a": 1})
        large = writer.document(value)
        larger = writer.document({"answers": Random(4).randbytes(36 << 20).hex()})
        writer.flush()
    repository = world.repository()
    assert repository.document(small, dict[str, int], what="small") == {"a": 1}
    assert repository.document(large, dict[str, str], what="large") == value
    assert len(repository.document(larger, dict[str, str], what="larger")["answers"]) == 72 << 20


def test_a_driver_that_fails_leaves_no_point(world: World) -> None:
    """P1: what a driver raises comes out as it is; pins are released, and the next capture seals."""

    class Failing(MemoryDriver):
        def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
            for number, item in enumerate(super().read(component, at)):
                if number == 100:
                    raise Unreachable("gone", untouched="all", next_step="again")
                yield item

    healthy = world.driver
    failing = Failing()
    failing.held = healthy.held
    world.driver = failing
    with pytest.raises(Unreachable, match="gone"):
        world.capture()
    assert failing.pinned == {}
    world.driver = healthy
    assert world.repository().points() == []
    assert world.restored(world.capture()) == world.contents()


def test_notes_that_cannot_be_kept(world: World) -> None:
    """P12: where the host's own folder is in the way, the error names it and says what to do."""
    with open(f"{world.folder}/state", "wb") as file:
        file.write(b"not a folder")
    with pytest.raises(Denied, match="state") as caught:
        world.capture()
    assert "RESURGAM_STATE" in caught.value.next_step


def test_held_is_a_copy() -> None:
    """The double pins what it held: else the tests above would prove nothing."""
    driver = MemoryDriver()
    driver.held["c"] = Held({b"a": b"1"})
    component = Component(name="c", driver="memory", location="/none")
    with driver.freeze(component) as position:
        driver.held["c"].files[b"a"] = b"2"
    (item,) = driver.read(component, position)
    assert isinstance(item, Blob)
    assert (item.path, item.read()) == (b"a", b"1")


def test_kinds_keep_chunks_apart(world: World) -> None:
    """One page cannot stand in for another kind of page: equal bytes of two kinds are two chunks."""
    assert len({world.repository().chunks("default")._keys.id_of(kind, b"same") for kind in Kind}) == len(Kind)


def test_a_chunk_that_two_writers_stored_survives_the_loss_of_either(world: World) -> None:
    """P12: where one copy is damaged the other is read, whichever the index names first."""
    value = {"answer": "y" * 5000}
    for _ in range(2):
        with world.evidence_writer() as writer:
            named = writer.document(value)
            writer.flush()
        with world.repository().writer(world.system, world.host(), world.clock) as capturing:
            assert capturing.document(value) == named
            capturing.flush()
    packs = {place.pack for place in world.repository().index.places(bytes.fromhex(named))}
    assert len(packs) == 2
    for pack in packs:
        name = f"packs/{pack[:2]}/{pack}"
        data = bytearray(world.store.get(name))
        data[200] ^= 1
        hurt = world.repository(replaced(world.store, name, bytes(data)))
        assert hurt.document(named, dict[str, str], what="evidence") == value
