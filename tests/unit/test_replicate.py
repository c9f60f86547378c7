"""Replicas: the same bytes elsewhere, but for what may not go there; nothing twice, nothing damaged, nothing lost by absence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from resurgam.errors import IntegrityError, NotFound, TargetRefused, Unreachable
from resurgam.model.placement import Placement
from resurgam.stores.base import Buffer, Store
from resurgam.testing.faults import CrashStore, Fault, FaultyStore, MemoryStore, Wrapped
from resurgam.vault import keyadmin
from resurgam.vault.audit import audit
from resurgam.vault.check import check
from resurgam.vault.copies import Judge
from resurgam.vault.pack import frames, placement_of
from resurgam.vault.pruning import draft, propose
from resurgam.vault.records import RecordType
from resurgam.vault.replicalag import lag, metrics
from resurgam.vault.replicas import MARK, next_list, put_list
from resurgam.vault.replicate import Run, left_to_sweep
from resurgam.vault.replicatimes import put_times, told_times
from resurgam.vault.repository import Repository
from resurgam.vault.shred import add_domain
from tests.replication import Later, Replicated, objects, replicated
from tests.support import World, copied
from tests.unit.test_prune import expire, pruned


class Counting(Wrapped):
    """Counts what is put: names and bytes, also of puts that do not succeed."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.sent: list[tuple[str, int]] = []

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one."""
        assert isinstance(data, bytes | bytearray | memoryview)
        self.sent.append((name, len(data)))
        self.inner.put(name, data)


class DyingLink(Wrapped):
    """A link that carries so many calls and is then dead until somebody comes again (``dead`` counts how often)."""

    def __init__(self, inner: Store, calls: int) -> None:
        super().__init__(inner)
        self._calls, self._left = calls, calls

    def again(self) -> None:
        """The link is there again, for so many calls."""
        self._left = self._calls

    def _call(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Unreachable("The link is dead.", untouched="Nothing.", next_step="Wait.")

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one while the link lives."""
        self._call()
        self.inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one while the link lives."""
        self._call()
        return self.inner.get(name, offset, length)

    def list(self, prefix: str = "") -> Iterator:  # type: ignore[type-arg]
        """As the inner one while the link lives."""
        self._call()
        return self.inner.list(prefix)


@pytest.fixture
def both(tmp_path: Path) -> Replicated:
    """A vault with a replica in the EU and one in the US, both still empty."""
    found = replicated(tmp_path)
    found.add("frankfurt", "eu")
    found.add("ohio", "us")
    return found


def test_a_replica_of_the_region_is_the_vault_byte_for_byte(both: Replicated) -> None:
    """P1 P3: every object under its name, and every point restores from it alone."""
    done = both.run("frankfurt", verify=True)
    assert done.ok
    assert done.withheld == 0
    assert objects(both.stores["frankfurt"]) == objects(both.world.store)
    there = both.at("frankfurt")
    assert check(there, read=True).ok
    assert audit(there).ok
    for sealed in there.points():
        assert both.world.restored(sealed, there) == both.told[sealed.body.id]


def test_a_second_run_sends_nothing(both: Replicated) -> None:
    """P11: and after a point more it sends that point's objects, each once."""
    both.run("frankfurt")
    counting = Counting(both.stores["frankfurt"])
    assert both.run("frankfurt", far=counting).objects == 0
    assert counting.sent == []
    before = objects(both.world.store)
    both.change(Random(8))
    both.run("frankfurt", far=counting)
    new = objects(both.world.store).keys() - before.keys()
    assert sorted(name for name, _ in counting.sent if not name.startswith("replica/")) == sorted(new)


def test_nothing_of_a_restricted_domain_leaves_its_region(both: Replicated) -> None:
    """No pack of it, none of its session keys, none of its bytes: looked for byte by byte at the far side."""
    both.run("ohio")
    there = both.stores["ohio"]
    vault, everything = both.origin.vault, b"".join(objects(there).values())
    packs = {e.name: both.world.store.get(e.name) for e in both.world.store.list("packs/")}
    restricted = {n: d for n, d in packs.items() if placement_of(d, vault) != Placement()}
    assert restricted
    assert len(restricted) < len(packs)
    sessions: dict[bytes, set[bool]] = {}
    for name, data in packs.items():
        for offset, frame in frames(memoryview(data)):
            sessions.setdefault(frame.session, set()).add(name in restricted)
            sealed = data[offset + 80 : offset + 80 + frame.stored]
            assert (sealed in everything) is (name not in restricted)
    for session, kinds in sessions.items():
        if any(session):
            name = f"keys/session-{session.hex()}"
            assert any(True for _ in there.list(name)) is (kinds == {False})
            assert (both.world.store.get(name) in everything) is (kinds == {False})


def test_what_is_withheld_is_no_damage_and_is_told(both: Replicated) -> None:
    """P12: points are shown; the component says where it is; the others restore; a check finds nothing wrong."""
    assert both.run("ohio").withheld > 0
    there = both.at("ohio")
    (_, sealed) = there.points()
    report = check(there, read=True)
    assert report.damage == ()
    assert report.withheld == ("private",)
    with pytest.raises(NotFound, match="residency eu, and this is the replica ohio") as told:
        both.world.restored(sealed, there)
    assert "frankfurt (/replicas/frankfurt)" in told.value.next_step
    assert [entry.path for entry in there.snapshot(sealed.body, "open").entries()] == sorted(
        both.told[sealed.body.id]["open"]
    )
    assert audit(there).ok


def test_a_pack_that_a_replica_lost_is_damage_all_the_same(both: Replicated) -> None:
    """P12: that something is withheld hides no loss of what is not."""
    both.run("ohio")
    there = both.stores["ohio"]
    name = next(e.name for e in there.list("packs/"))
    there.delete(name)
    assert check(both.at("ohio")).damage != ()


def test_nothing_is_signed_at_a_replica(both: Replicated) -> None:
    """Two places that are both written to would give a number of the log twice: told before anything is put."""
    both.run("frankfurt")
    before = objects(both.stores["frankfurt"])
    with pytest.raises(TargetRefused, match="is the replica frankfurt of this vault; written to is origin"):
        both.world.capture(both.stores["frankfurt"])
    (sealed, *_) = both.at("frankfurt").points()
    with pytest.raises(TargetRefused):
        both.at("frankfurt").evidence_writer(sealed.body.id, both.world.clock, RecordType.VERDICT)
    with pytest.raises(TargetRefused):
        add_domain(both.at("frankfurt"), "other", both.world.clock)
    drafted = draft(both.at("frankfurt"), expire([sealed]))
    with pytest.raises(TargetRefused):
        propose(both.at("frankfurt"), drafted.plan, both.world.clock)
    assert objects(both.stores["frankfurt"]) == before


def test_damage_at_the_primary_is_told_and_not_spread(both: Replicated) -> None:
    """P1: a damaged pack stays where it is, and no new point is shown that may need it; what the replica had stands."""
    both.run("frankfurt")
    had = {sealed.body.id for sealed in both.at("frankfurt").points()}
    old = {e.name for e in both.world.store.list("packs/")}
    both.change(Random(9))
    spoilt = next(e.name for e in both.world.store.list("packs/") if e.name not in old)
    near = copied(both.world.store)
    data = bytearray(near.get(spoilt))
    data[len(data) // 2] ^= 1
    near.delete(spoilt)
    near.put(spoilt, bytes(data))
    done = both.run("frankfurt", near)
    assert (list(done.damaged), done.held, done.points) == ([spoilt], 1, 0)
    assert not any(e.name == spoilt for e in both.stores["frankfurt"].list("packs/"))
    assert {sealed.body.id for sealed in both.at("frankfurt").points()} == had
    assert check(both.at("frankfurt"), read=True).ok
    assert both.run("frankfurt").points == 1
    assert objects(both.stores["frankfurt"]) == objects(both.world.store)


def test_a_primary_that_lost_everything_empties_no_replica(both: Replicated) -> None:
    """Ransomware, a rogue administrator: absence at the primary removes nothing, and is told."""
    both.run("frankfurt")
    before = objects(both.stores["frankfurt"])
    near = copied(both.world.store)
    for entry in list(near.list()):
        if entry.name.startswith(("packs/", "points/", "records/", "index/", "log/")):
            near.delete(entry.name)
    with pytest.raises(IntegrityError, match="the primary has nothing of that number any more"):
        both.run("frankfurt", near)
    assert objects(both.stores["frankfurt"]) == before
    assert left_to_sweep(both.at("frankfurt")) == []


def test_a_prune_is_swept_at_the_replica_by_its_signed_end(both: Replicated) -> None:
    """P10: what the pruner signed may go there too, after all that was moved has come; every other point still restores."""
    both.run("frankfurt")
    (first, second) = both.origin.points()
    pruned(both.world, [first])
    assert left_to_sweep(both.at("frankfurt")) == []
    both.run("frankfurt")
    left = left_to_sweep(both.at("frankfurt"))
    assert left
    there = both.at("frankfurt")
    assert both.world.restored(second, there) == both.told[second.body.id]
    for entry in left:
        both.stores["frankfurt"].delete(entry.name)
    assert objects(both.stores["frankfurt"]) == objects(both.world.store)
    assert check(both.at("frankfurt"), read=True).ok
    assert both.world.restored(second, both.at("frankfurt")) == both.told[second.body.id]


def test_a_replica_that_is_made_after_a_key_was_retired_believes_what_it_signed(both: Replicated) -> None:
    """The store there receives everything later than the retirement: who reads there goes by the times of the originals."""
    keyadmin.rotate(both.origin, "capture", both.world.clock)
    both.change(Random(3))
    both.run("frankfurt")
    there = both.at("frankfurt")
    assert [s.body.id for s in there.points()] == [s.body.id for s in both.origin.points()]
    assert check(there, read=True).ok
    for sealed in there.points():
        assert both.world.restored(sealed, there) == both.told[sealed.body.id]
    without = copied_later(both.stores["frankfurt"], lambda name: "/times-" not in name)
    assert len(both.world.repository(without).points()) == 1


def copied_later(store: Store, which) -> MemoryStore:  # type: ignore[no-untyped-def]
    """A copy received years later, of some objects."""
    twin = MemoryStore(Later())
    for entry in store.list():
        if which(entry.name):
            twin.put(entry.name, store.get(entry.name))
    return twin


@pytest.mark.parametrize("calls", [9, 23, 60])
def test_a_link_that_dies_again_and_again_gets_it_through(both: Replicated, calls: int) -> None:
    """An edge device: each attempt brings something, nothing is sent twice, and at every moment the replica is sound (P1)."""
    counting = Counting(both.stores["frankfurt"])
    link = DyingLink(counting, 30 + calls)
    for _attempt in range(200):
        link.again()
        try:
            both.run("frankfurt", far=link)
        except Unreachable:
            if any(e.name == "vault.json" for e in both.stores["frankfurt"].list("vault.json")):
                assert check(both.at("frankfurt")).damage == ()
            continue
        break
    assert objects(both.stores["frankfurt"]) == objects(both.world.store)
    names = [name for name, _ in counting.sent]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_get_lost_on_both_sides(both: Replicated, seed: int) -> None:
    """A tenth of all requests fails, half of those after they took effect: tried again, and read back."""
    rng = Random(seed)
    near = FaultyStore(both.world.store, rng, 0.1, (Fault.BEFORE, Fault.AFTER))
    far = FaultyStore(both.stores["frankfurt"], rng, 0.1, (Fault.BEFORE, Fault.AFTER))
    for _ in range(20):
        try:
            assert both.run("frankfurt", near, far).ok
            break
        except Unreachable:
            continue
    assert objects(both.stores["frankfurt"]) == objects(both.world.store)
    assert far.injected


@pytest.mark.parametrize("seed", range(8))
def test_damage_on_the_way_is_not_put(both: Replicated, seed: int) -> None:
    """A bit that flips between the primary and here is found before anything is put."""
    near = FaultyStore(both.world.store, Random(seed), 0.3, (Fault.FLIP,))
    with suppress(IntegrityError):  # it was what tells which vault that is
        both.run("frankfurt", near)
    ours, theirs = objects(both.world.store), objects(both.stores["frankfurt"])
    exactly = {name: data for name, data in theirs.items() if name.startswith(("packs/", "index/", "vault.json"))}
    assert exactly.items() <= ours.items()
    judge = Judge(both.world.store, both.origin.keyring)  # around what a record's signature covers, bits mean nothing
    assert [name for name, data in theirs.items() if not judge.sound(name, data)] == []


class LateDamage(Wrapped):
    """Flips a bit of objects under some prefixes, once ``armed``: after the vault was opened through it."""

    armed: tuple[str, ...] = ()

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one, but for that bit."""
        data = bytearray(self.inner.get(name, offset, length))
        if name.startswith(self.armed):
            data[len(data) // 2] ^= 1
        return bytes(data)


def test_a_role_table_damaged_on_its_way_ends_no_judging(both: Replicated) -> None:
    """It had every damaged record and key pass: nothing told who may sign them and whom they open to."""
    near = LateDamage(both.world.store)
    repository = both.world.repository(near)
    near.armed = ("roles/", "keys/", "replicas/", "points/")
    run = Run(
        repository, both.stores["frankfurt"], both.place("frankfurt"), both.world.clock, wait=lambda _seconds: None
    )
    done = run.run()
    theirs = objects(both.stores["frankfurt"])
    assert not [name for name in theirs if name.startswith(near.armed)]
    assert {name.partition("/")[0] for name in done.damaged} >= {"roles", "keys", "replicas"}


class Flipping(Wrapped):
    """Flips another bit of wrapped keys on each reading."""

    readings = 0

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one, but for that bit."""
        data = bytearray(self.inner.get(name, offset, length))
        if name.startswith("keys/session-"):
            data[30 + self.readings // 8 % 60] ^= 1 << self.readings % 8  # in the lines that say whom it opens to
            self.readings += 1
        return bytes(data)


def test_a_key_that_nobody_here_can_open_is_read_twice(both: Replicated) -> None:
    """P9: where the reader's key is elsewhere, or the damage lies where it says whom it opens to, only that tells damage."""
    near = Flipping(both.world.store)
    done = both.run("frankfurt", near)
    assert not [name for name in objects(both.stores["frankfurt"]) if name.startswith(("keys/session-", "points/"))]
    assert [name for name in done.damaged if name.startswith("keys/session-")]
    assert both.run("frankfurt").objects
    assert objects(both.stores["frankfurt"]) == objects(both.world.store)


def test_what_verify_reads_back(both: Replicated) -> None:
    """A byte that rots at the replica has the same size: only reading finds it."""
    both.run("frankfurt")
    there = both.stores["frankfurt"]
    name = next(e.name for e in there.list("packs/"))
    data = bytearray(there.get(name))
    data[200] ^= 1
    there.delete(name)
    there.put(name, bytes(data))
    assert both.run("frankfurt").ok
    assert both.run("frankfurt", verify=True).differing == (name,)


def test_a_place_that_holds_something_else_is_refused(both: Replicated, tmp_path: Path) -> None:
    """P12: another vault, another replica's place, or files of somebody."""
    (tmp_path / "other").mkdir()
    other = World(str(tmp_path / "other"))
    with pytest.raises(TargetRefused, match="holds another vault"):
        both.run("ohio", far=other.store)
    both.run("frankfurt")
    with pytest.raises(TargetRefused, match="is frankfurt among the places of this vault, not ohio"):
        both.run("ohio", far=both.stores["frankfurt"])
    strange = MemoryStore()
    strange.put("holiday/photo", b"x")
    with pytest.raises(TargetRefused, match="no replica of this vault"):
        both.run("ohio", far=strange)
    assert [e.name for e in strange.list()] == ["holiday/photo"]


def test_two_that_were_both_written_to_are_not_mixed(both: Replicated) -> None:
    """What is parted stays apart, and is told: neither log replaces the other."""
    both.run("frankfurt")
    there = both.stores["frankfurt"]
    there.delete(MARK)
    both.world.capture(there)
    both.change(Random(4))
    with pytest.raises(IntegrityError, match="each without the other"):
        both.run("frankfurt")
    with pytest.raises(TargetRefused):  # and from now on it knows what it is
        both.world.capture(there)


def test_an_empty_mark_refuses(both: Replicated) -> None:
    """P12: where it is not known what a place is, nothing is signed."""
    both.run("frankfurt")
    there = both.stores["frankfurt"]
    there.delete(MARK)
    there.put(MARK, b"{}")
    with pytest.raises(IntegrityError):
        both.world.capture(there)


def test_who_lists_places_is_the_approver(both: Replicated) -> None:
    """P9: a list that a capture key signed is none, and is said."""
    store = copied(both.world.store)
    listed = both.origin.here.listed
    assert listed is not None
    assert Repository(store, both.origin.keyring).here.listed == listed
    store.put("replicas/00000009", store.get("replicas/00000002"))
    here = Repository(store, both.origin.keyring).here
    assert here.listed == listed
    assert "replicas/00000009" in here.refused[0]


def test_a_log_at_a_replica_is_always_a_beginning(both: Replicated) -> None:
    """Else a gap would stay for good in the log of a replica that is promoted: what comes after a damaged entry waits."""
    near = copied(both.world.store)
    data = bytearray(near.get("log/0000000003"))
    data[len(data) // 2] ^= 1
    near.delete("log/0000000003")
    near.put("log/0000000003", bytes(data))
    assert list(both.run("frankfurt", near).damaged) == ["log/0000000003"]
    assert [e.name for e in both.stores["frankfurt"].list("log/")] == ["log/0000000001", "log/0000000002"]
    assert both.run("frankfurt").ok
    assert audit(both.at("frankfurt")).ok


def test_how_far_a_replica_is_behind(both: Replicated) -> None:
    """Its RPO: the age of the oldest point that is not there, and what is to be sent; a pack that it lost is told."""
    both.run("frankfurt")
    now = both.world.clock.now().timestamp()
    found = lag(both.origin, both.stores["frankfurt"], both.place("frankfurt"), now + 1000)
    assert (found.points, found.missing, found.seconds, found.bytes, found.behind) == (2, (), 0.0, 0, False)
    sealed = both.change(Random(3))
    both.change(Random(4))
    then = sealed.received
    found = lag(both.origin, both.stores["frankfurt"], both.place("frankfurt"), then + 59)
    assert (found.points, len(found.missing), found.seconds, found.behind) == (2, 2, 59.0, False)
    assert found.bytes > 4 * 40_000
    assert lag(both.origin, both.stores["frankfurt"], both.place("frankfurt"), then + 61).behind
    both.run("frankfurt")
    name = next(e.name for e in both.stores["frankfurt"].list("packs/"))
    both.stores["frankfurt"].delete(name)
    found = lag(both.origin, both.stores["frankfurt"], both.place("frankfurt"), then)
    assert (found.lost, found.behind) == ((name,), True)


def test_what_is_withheld_is_no_lag(both: Replicated) -> None:
    """A replica in another region meets its objective without what may not lie there."""
    both.run("ohio")
    now = both.world.clock.now().timestamp() + 9999
    found = lag(both.origin, both.stores["ohio"], both.place("ohio"), now)
    assert (found.seconds, found.bytes, found.lost, found.behind) == (0.0, 0, (), False)
    assert found.withheld > 0
    assert 'resurgam_replica_lag_seconds{vault="test",replica="ohio"} 0' in metrics([found], "test")


def promoted(both: Replicated, name: str) -> Store:
    """What `replicate promote` signs."""
    there = both.at(name)
    listed = there.here.listed
    assert listed is not None
    put_list(there, next_list(listed, listed.places, "the region is gone", name), both.world.clock)
    return both.stores[name]


def test_a_promoted_replica_is_written_to_and_the_old_primary_is_not(both: Replicated) -> None:
    """After the loss of a region captures go on; the old primary comes back, is told by the first run, and refuses then."""
    both.run("frankfurt")
    old, both.world.store = both.world.store, promoted(both, "frankfurt")
    both.world.forget()
    sealed = both.change(Random(11))
    assert audit(both.origin).ok
    assert both.world.restored(sealed) == both.told[sealed.body.id]
    with pytest.raises(TargetRefused, match="this host has seen"):  # P2: this host remembers
        both.world.capture(old)
    both.stores["origin"] = old
    assert both.run("origin").points == 1
    both.world.forget()
    with pytest.raises(TargetRefused, match="written to is frankfurt"):
        both.world.capture(old)
    assert objects(old) == objects(both.world.store)


def test_a_primary_that_went_on_alone_is_fenced_and_kept(both: Replicated) -> None:
    """It has a point that the new primary never got: the logs have parted. It is not overwritten, and not written to."""
    both.run("frankfurt")
    both.change(Random(12))
    lost = {sealed.body.id for sealed in both.origin.points()}
    old, both.world.store = both.world.store, promoted(both, "frankfurt")
    both.world.forget()
    both.change(Random(13))
    both.stores["origin"] = old
    before = objects(old)
    with pytest.raises(IntegrityError, match="each without the other"):
        both.run("origin")
    assert before.items() <= objects(old).items()
    assert {sealed.body.id for sealed in both.world.repository(old).points()} == lost
    both.world.forget()
    with pytest.raises(TargetRefused, match="written to is frankfurt"):
        both.world.capture(old)


def test_a_replica_of_another_region_takes_no_captures_of_what_may_not_lie_there(both: Replicated) -> None:
    """Also as the primary: residency holds where it is inconvenient."""
    both.run("ohio")
    both.world.store = promoted(both, "ohio")
    both.world.forget()
    with pytest.raises(TargetRefused, match="private has residency eu, and the primary ohio lies elsewhere"):
        both.world.capture()


def test_times_are_read_in_few_objects() -> None:
    """After many runs a reader asks for log2(n) + 1 objects, and knows what each of them told."""
    store = MemoryStore()
    for number in range(1, 101):
        put_times(store, "b", {f"points/{number}": float(number)}, dict)
    counting = CrashStore(store)
    own = [e.name for e in store.list("replica/")]
    assert told_times(counting, own).received == {f"points/{n}": float(n) for n in range(1, 101)}
    assert counting.calls <= 7


def test_what_quotes_contents_stays_in_the_region_too(both: Replicated) -> None:
    """Evidence about a system with restricted components goes only where every component may go; its absence is no damage."""
    (sealed, *_) = both.origin.points()
    origin = both.origin
    domain = origin.roles.evidence
    with origin.evidence_writer(sealed.body.id, both.world.clock, RecordType.VERDICT) as writer:
        document = writer.document({"quoted": "a row of a person"}, domain)
        writer.flush()
        writer.put(RecordType.VERDICT, {"document": document, "judgement": 1, "evidence": domain})
    both.run("frankfurt")
    both.run("ohio")
    read = both.at("frankfurt").document(document, dict[str, str], what="it", domain=domain)
    assert read == {"quoted": "a row of a person"}
    with pytest.raises(IntegrityError):
        both.at("ohio").document(document, dict[str, str], what="it", domain=domain)
    assert check(both.at("ohio"), read=True).damage == ()
    assert both.at("ohio").state(both.at("ohio").points()[0]).proven  # the verdict itself is there
