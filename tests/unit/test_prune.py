"""Prune: what expired gives its room back, in two phases that can be undone between, and nothing that is promised loses a byte."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from random import Random

import pytest

from resurgam.errors import Busy, Denied, IntegrityError, NotFound, StoreFull
from resurgam.stores.base import Buffer, Store
from resurgam.testing.faults import Wrapped
from resurgam.vault import holds
from resurgam.vault.check import check
from resurgam.vault.history import Hold
from resurgam.vault.index import encode_segment
from resurgam.vault.inventory import ids_of
from resurgam.vault.leases import put_leased
from resurgam.vault.marking import survey
from resurgam.vault.pack import Frame, PackBuilder, new_buffer
from resurgam.vault.prune import Economics, PackUse, choose
from resurgam.vault.prunes import Prune, Stage
from resurgam.vault.pruning import begin, clear_away, draft, propose, require, sweep, undo, uses
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.signing import Role
from tests.support import Files, World, stored_bytes

EAGER = Economics(max_unused=0.0)
LARGE = 300_000  # bytes of a file that shares no chunk with others
PRUNER = ("trust.json", "pruner.json")


class Before(Wrapped):
    """Something happens before the first put of a name that begins so: the caller was frozen there meanwhile."""

    def __init__(self, inner: Store, call: str, meanwhile: Callable[[], None]) -> None:
        super().__init__(inner)
        self._begins, self._meanwhile = call.removeprefix("put "), [meanwhile]

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, later."""
        if name.startswith(self._begins) and self._meanwhile:
            self._meanwhile.pop()()
        self.inner.put(name, data)


class Undeletable(Wrapped):
    """A store that lets go of nothing, as one with object lock does."""

    def delete(self, name: str) -> None:
        """Raises Denied."""
        raise Denied(f"{name} is locked.", untouched="It stays.", next_step="Wait.")


class NoRoomForPacks(Wrapped):
    """A store that takes whatever is no pack, as a folder does on a disk that packs have filled."""

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Raises StoreFull for a pack."""
        if name.startswith("packs/"):
            raise StoreFull(f"no room for {name}.", untouched="No other object was touched.", next_step="Prune.")
        self.inner.put(name, data)


def a_world(
    tmp_path: Path, points: int = 3, *, store: Store | None = None, seed: int = 1
) -> tuple[World, list[Sealed]]:
    """Points that share much: each finds one of six files new, in turn. The first is like all that come after it."""
    tmp_path.mkdir(exist_ok=True)
    world, rng = World(str(tmp_path), store=store), Random(seed)
    world.live.files = {f"{n}".encode(): rng.randbytes(LARGE) for n in range(6)}
    sealed, contents = [], []
    for number in range(points):
        world.live.files[f"{number % 6}".encode()] = rng.randbytes(LARGE)
        sealed.append(world.capture())
        contents.append(world.contents())
    world.told = dict(zip((s.body.id for s in sealed), contents, strict=True))  # type: ignore[attr-defined]
    return world, sealed


def told(world: World, sealed: Sealed) -> dict[str, Files]:
    """What a point must restore to."""
    found: dict[str, dict[str, Files]] = world.told  # type: ignore[attr-defined]
    return found[sealed.body.id]


def pruner(world: World, store: Store | None = None) -> Repository:
    """The vault as the pruner's host opens it (P9): it has two files."""
    return world.repository(store, world.keys_with(*PRUNER))


def expire(sealed: Collection[Sealed]) -> dict[str, str]:
    """Reasons for some points to go."""
    return {one.body.id: "the test says so" for one in sealed}


def pruned(world: World, sealed: Collection[Sealed], economics: Economics = EAGER) -> Prune:
    """A whole prune that lets ``sealed`` go."""
    repository = pruner(world)
    prune = propose(repository, draft(repository, expire(sealed), economics).plan, world.clock)
    return sweep(repository, begin(repository, prune, world.clock), world.clock)


def all_stand(world: World, sealed: Collection[Sealed], store: Store | None = None) -> None:
    """P1: each of these points is listed, restores exactly, and nothing in the vault is damaged."""
    repository = world.repository(store)
    listed = {one.body.id for one in repository.points()}
    for one in sealed:
        assert one.body.id in listed
        assert world.restored(one, repository) == told(world, one)
    assert repository.places.refused == []
    assert check(repository).damage == ()


def test_a_prune_frees_what_only_expired_points_needed(tmp_path: Path) -> None:
    """P9: with two files of keys; what stays restores exactly, and the vault is as small as what it holds asks for."""
    world, sealed = a_world(tmp_path)
    before = stored_bytes(world.store)
    prune = pruned(world, sealed[:2])
    assert prune.stage is Stage.SWEPT
    assert prune.end is not None
    assert prune.end.spared == {}
    all_stand(world, sealed[2:])
    assert before - stored_bytes(world.store) > 2 * LARGE - 20_000  # two of five versions are needed by nobody
    assert [use for use in uses(survey(world.repository())) if use.unused] == []
    assert draft(pruner(world), {}, EAGER).plan.empty
    assert [one.body.id for one in world.repository().points(expired=True)] == [one.body.id for one in sealed[:2]]


# Between the phases ---------------------------------------------------------------------------------------------------


def begun(world: World, sealed: Collection[Sealed]) -> tuple[Repository, Prune]:
    """A prune that lets ``sealed`` go and is not swept."""
    repository = pruner(world)
    prune = propose(repository, draft(repository, expire(sealed), EAGER).plan, world.clock)
    return repository, begin(repository, prune, world.clock)


def test_an_undone_prune_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """P10: between the phases the points are not listed, and say why; then they are promised again, and whole."""
    world, sealed = a_world(tmp_path)
    repository, prune = begun(world, sealed[:1])
    assert [one.body.id for one in repository.points()] == [one.body.id for one in sealed[1:]]
    with pytest.raises(NotFound, match="expired with prune 1") as error:
        repository.resolve(sealed[0].body.id[:8])
    assert "--undo 1" in error.value.next_step
    assert undo(repository, prune.number, "a mistake", world.clock).stage is Stage.UNDONE
    assert undo(repository, prune.number, "again", world.clock).stage is Stage.UNDONE
    with pytest.raises(Busy, match="undone"):
        _sweep_as_it_was(repository, prune, world)
    all_stand(world, sealed)


def _sweep_as_it_was(repository: Repository, prune: Prune, world: World) -> None:
    """What a pruner does that slept since ``begin``."""
    sweep(repository, prune, world.clock)


def test_a_swept_prune_is_not_undone(tmp_path: Path) -> None:
    """The first put of the end wins, and the answer to the other says what is gone."""
    world, sealed = a_world(tmp_path)
    prune = pruned(world, sealed[:1])
    with pytest.raises(Busy, match="was swept"):
        undo(pruner(world), prune.number, "too late", world.clock)
    with pytest.raises(NotFound, match="expired with prune 1") as error:
        world.repository().resolve(sealed[0].body.id)
    assert "records are kept" in error.value.untouched


def test_who_begins_after_the_tombstones_does_not_build_on_them(tmp_path: Path) -> None:
    """P1: it stores anew what only packs hold that are about to go, though its host remembers those files."""
    world, sealed = a_world(tmp_path)
    world.live.files = dict(told(world, sealed[0])["files"])
    repository, prune = begun(world, sealed[:1])
    again = world.capture()
    assert again.body.snapshots[0].stored > LARGE
    world.told[again.body.id] = world.contents()  # type: ignore[attr-defined]
    assert sweep(repository, prune, world.clock).stage is Stage.SWEPT
    all_stand(world, [*sealed[1:], again])


def test_a_prune_waits_for_who_was_at_work_when_it_began(tmp_path: Path) -> None:
    """P1: a capture that reuses what is about to go has its lease before the tombstones, is waited for, and stands."""
    world, sealed = a_world(tmp_path)
    world.live.files = dict(told(world, sealed[0])["files"])
    passed: list[tuple[Repository, Prune]] = []

    def meanwhile() -> None:
        repository, prune = begun(world, sealed[:1])
        assert len(prune.awaited or ()) == 1
        with pytest.raises(Busy, match="waits for 1 lease"):
            sweep(repository, prune, world.clock)
        passed.append((repository, prune))

    late = world.capture(Before(world.store, "put points/", meanwhile))
    assert late.body.snapshots[0].stored < LARGE  # it was reused
    world.told[late.body.id] = world.contents()  # type: ignore[attr-defined]
    repository, prune = passed[0]
    done = sweep(repository, prune, world.clock)
    assert done.stage is Stage.SWEPT
    all_stand(world, [*sealed[1:], late])


def test_a_point_that_came_to_be_held_stops_the_prune(tmp_path: Path) -> None:
    """A hold, a promotion or the reference wins over a plan made before it, at both phases."""
    world, sealed = a_world(tmp_path)
    repository = pruner(world)
    prune = propose(repository, draft(repository, expire(sealed[:1]), EAGER).plan, world.clock)
    hold = Hold(id="1", reason="a court", owner="legal")
    world.repository().put_record(RecordType.HOLD, sealed[0].body.id, hold, Role.APPROVER, world.clock)
    with pytest.raises(Busy, match="it is held"):
        begin(repository, prune, world.clock)
    undo(repository, prune.number, "held", world.clock)
    repository, prune = begun(world, sealed[1:2])
    world.repository().put_record(RecordType.HOLD, sealed[1].body.id, hold, Role.APPROVER, world.clock)
    with pytest.raises(Busy, match="it is held"):
        sweep(repository, prune, world.clock)
    undo(repository, prune.number, "held", world.clock)
    all_stand(world, sealed)


def test_who_holds_a_point_that_expires_meanwhile_is_told(tmp_path: Path) -> None:
    """A hold that came too late for a plan stands, stops its sweep, and is not taken for a promise."""
    world, sealed = a_world(tmp_path)
    passed: list[tuple[Repository, Prune]] = []
    held = world.repository(Before(world.store, "put records/", lambda: passed.append(begun(world, sealed[:1]))))
    with pytest.raises(NotFound, match="expired with prune 1"):
        holds.add(held, sealed[0], Hold(id="", reason="a court", owner="legal"), world.clock)
    repository, prune = passed[0]
    with pytest.raises(Busy, match="it is held"):
        sweep(repository, prune, world.clock)
    undo(repository, 1, "held", world.clock)
    all_stand(world, sealed)


# What is needed -------------------------------------------------------------------------------------------------------


def judged(world: World, sealed: Sealed) -> tuple[str, str]:
    """A baseline of ``sealed`` and its reference; returns the document's chunk and the reference's name."""
    world.clock.advance(1)
    with world.repository().evidence_writer(sealed.body.id, world.clock, RecordType.BASELINE) as writer:
        document = writer.document({"answered": sealed.body.id * 100})
        writer.flush()
        writer.put(RecordType.BASELINE, {"document": document, "evidence": "default"})
    body = {"document": document, "evidence": "default"}
    name = put_leased(world.repository(), RecordType.REFERENCE, sealed.body.id, body, Role.APPROVER, world.clock)
    return document, name


def test_what_the_newest_reference_rests_on_stays(tmp_path: Path) -> None:
    """P4: it is the yardstick of every point of the system, so its point does not go; an older one may."""
    world, sealed = a_world(tmp_path)
    older, _ = judged(world, sealed[0])
    newest, _ = judged(world, sealed[1])
    repository = pruner(world)
    with pytest.raises(Busy, match="the reference rests on it"):
        begun(world, sealed[:2])
    undo(repository, 1, "the reference", world.clock)
    pruned(world, sealed[:1])
    reader = world.repository()
    assert reader.document(newest, dict[str, str], what="it") == {"answered": sealed[1].body.id * 100}
    with pytest.raises(IntegrityError):
        reader.document(older, dict[str, str], what="it")
    all_stand(world, sealed[1:])


def test_evidence_of_promised_points_stays(tmp_path: Path) -> None:
    """P4: a verdict goes on to say on what it rests, and the packs of the verifier are written anew for the verifier."""
    world, sealed = a_world(tmp_path)
    names = [judged(world, one)[0] for one in sealed]
    pruned(world, sealed[:2])
    reader = world.repository()
    assert reader.document(names[2], dict[str, str], what="it") == {"answered": sealed[2].body.id * 100}
    origins = {segment.origin for segment in reader.places.segments()}
    assert origins == {reader.keyring.signer(role).key_id for role in (Role.CAPTURE, Role.VERIFIER)}


def test_what_is_needed_and_in_no_pack_stops_every_prune(tmp_path: Path) -> None:
    """P12: it may be that the index is what is wrong; whoever gives the point up says so by its name."""
    world, sealed = a_world(tmp_path)
    repository = pruner(world)
    (lost,) = {use.name for use in uses(survey(repository)) if use.held > LARGE and _only(repository, use, sealed[2])}
    world.store.delete(f"packs/{lost[:2]}/{lost}")
    with pytest.raises(IntegrityError, match=f"points/{sealed[2].body.id}: it needs chunk"):
        draft(pruner(world), expire(sealed[:1]), EAGER)
    accept = [f"points/{sealed[2].body.id}"]
    prune = propose(repository, draft(pruner(world), expire(sealed[:1]), EAGER, accept).plan, world.clock)
    prune = begin(repository, prune, world.clock)
    with pytest.raises(IntegrityError, match="it needs chunk"):
        sweep(repository, prune, world.clock)
    sweep(repository, prune, world.clock, accept)
    assert world.restored(sealed[1]) == told(world, sealed[1])


def _only(repository: Repository, use: PackUse, sealed: Sealed) -> bool:
    """Whether ``sealed`` alone needs anything in a pack."""
    found = {pack.name: pack.needed for pack in uses(survey(repository, without=[sealed.body.id]))}
    return found[use.name] == 0


def test_a_record_that_cannot_be_believed_stops_every_prune(tmp_path: Path) -> None:
    """P12: it may name what nothing else needs. One of a key that was removed is none, and stops nothing."""
    world, sealed = a_world(tmp_path)
    world.store.put(f"records/{sealed[2].body.id}/verdict-{'0' * 16}", b"{}")
    with pytest.raises(IntegrityError, match="verdict-0000000000000000"):
        draft(pruner(world), expire(sealed[:1]), EAGER)
    world.store.put(f"points/{'0' * 16}", b"{}")
    with pytest.raises(IntegrityError, match="points/0000000000000000"):
        draft(pruner(world), expire(sealed[:1]), EAGER)
    accept = [f"records/{sealed[2].body.id}/verdict-{'0' * 16}", f"points/{'0' * 16}"]
    assert draft(pruner(world), expire(sealed[:1]), EAGER, accept).plan.packs


def test_a_damaged_pack_is_spared(tmp_path: Path) -> None:
    """P12: what it holds is copied whole or not at all, and where it is not what its name says it stays for a repair."""
    for attempt in range(100):  # which files share a pack is up to the two threads of a capture
        world, sealed = a_world(tmp_path / str(attempt))
        repository = pruner(world)
        plan = draft(repository, expire(sealed[:1]), EAGER).plan
        if plan.repack:
            break
    pack = plan.repack[0]
    name = f"packs/{pack[:2]}/{pack}"
    data = bytearray(world.store.get(name))
    data[1000] ^= 1
    world.store.delete(name)
    world.store.put(name, bytes(data))
    prune = begin(repository, propose(repository, plan, world.clock), world.clock)
    done = sweep(repository, prune, world.clock)
    assert done.end is not None
    assert pack in done.end.spared
    assert world.store.get(name) == bytes(data)


# What a stolen capture host can publish -------------------------------------------------------------------------------


def test_without_room_to_copy_what_needs_no_copy_is_given_back(tmp_path: Path) -> None:
    """P1, P12: on a full disk a prune frees the packs of which nothing is needed and spares the others, for the next one."""
    world, sealed = a_world(tmp_path)
    full = pruner(world, NoRoomForPacks(world.store))
    plan = draft(full, expire(sealed[:2]), EAGER).plan
    assert plan.remove
    assert plan.repack
    prune = sweep(full, begin(full, propose(full, plan, world.clock), world.clock), world.clock)
    assert prune.end is not None
    assert (set(prune.end.gone), set(prune.end.spared)) == (set(plan.remove), set(plan.repack))
    all_stand(world, sealed[2:])
    again = pruned(world, ())
    assert again.end is not None
    assert set(again.end.gone) == set(plan.repack)
    all_stand(world, sealed[2:])


def test_a_stolen_key_displaces_no_copy_that_was_stored_before(tmp_path: Path) -> None:
    """P9: with the capture key and the index key, garbage is put under every known id, in packs and in segments that place the
    chunks elsewhere; then the pruner lets go what nobody needs. Honest points restore exactly."""
    world, sealed = a_world(tmp_path)
    repository = world.repository()
    thief = repository.keyring.signer(Role.CAPTURE)
    for found in list(repository.places.segments()):
        builder = PackBuilder(repository.vault, new_buffer(8 << 20))
        for row, chunk in enumerate(ids_of(found.entries)):
            kind, raw = int(found.entries["kind"][row]), int(found.entries["raw"][row])
            _, room = builder.add(Frame(kind, 0, 100, raw, chunk.tobytes(), bytes(16), bytes(12)))
            room[:] = bytes(100)
        entries = builder.entries()
        name, data = builder.finish(repository.places.seal("trailer", entries.tobytes(), thief))
        world.store.put(f"packs/{name[:2]}/{name}", bytes(data))
        repository.places.put_segment(encode_segment([(name, entries)]), thief)
        moved = found.entries.copy()
        moved["offset"] += 64  # in an older pack than the true one, wherever there is one
        repository.places.put_segment(encode_segment([(pack, moved) for pack in found.packs]), thief)
    for expired in (sealed[:1], sealed[1:2]):
        pruned(world, expired)
    reader = world.repository()
    assert world.restored(sealed[2], reader) == told(world, sealed[2])


def test_another_writers_copy_stands_for_none_of_ones_own(tmp_path: Path) -> None:
    """P9: a chunk that two keys have stored is kept for each whose records need it."""
    world, sealed = a_world(tmp_path)
    with world.repository().writer(world.system, world.host(), world.clock) as capturing:
        same = capturing.document({"a": "b" * 3000})
        capturing.flush()
    with world.repository().evidence_writer(sealed[2].body.id, world.clock, RecordType.BASELINE) as writer:
        assert writer.document({"a": "b" * 3000}) == same
        writer.flush()
        writer.put(RecordType.BASELINE, {"document": same})
    world.told[world.capture().body.id] = world.contents()  # type: ignore[attr-defined]  # it revokes the lease of the one before
    pruned(world, sealed[:1])
    reader = world.repository()
    (place,) = reader.index.places(bytes.fromhex(same))
    trailer = reader.places.trailer(place.pack, _size(world, place.pack))
    assert trailer is not None
    assert trailer.origin == reader.keyring.signer(Role.VERIFIER).key_id


def _size(world: World, pack: str) -> int:
    return len(world.store.get(f"packs/{pack[:2]}/{pack}"))


# Several at once, and afterwards --------------------------------------------------------------------------------------


def test_there_is_never_more_than_one_prune(tmp_path: Path) -> None:
    """Two pruners: the second finds the first one's plan, and may go on with it."""
    world, sealed = a_world(tmp_path)
    one, other = pruner(world), pruner(world)
    drafted = draft(other, expire(sealed[1:2]), EAGER)
    prune = propose(one, draft(one, expire(sealed[:1]), EAGER).plan, world.clock)
    with pytest.raises(Busy, match="Prune 1 is open"):
        propose(other, drafted.plan, world.clock)
    with pytest.raises(Busy, match="Prune 1 is open"):
        propose(other, draft(other, expire(sealed[1:2]), EAGER).plan, world.clock)
    prune = begin(other, prune, world.clock)

    def meanwhile() -> None:
        assert sweep(other, require(other, 1), world.clock).stage is Stage.SWEPT

    slow = pruner(world, Before(world.store, "put prune/00000001/end", meanwhile))
    assert sweep(slow, prune, world.clock).stage is Stage.SWEPT
    all_stand(world, sealed[1:])
    assert pruned(world, sealed[1:2]).stage is Stage.SWEPT  # what the slower one copied goes too
    all_stand(world, sealed[2:])
    assert [use for use in uses(survey(pruner(world))) if use.unused] == []


def test_a_writer_goes_on_to_reuse_its_own_chunks(tmp_path: Path) -> None:
    """P11: what was written anew keeps its origin, so a capture of what did not change stores next to nothing."""
    world, sealed = a_world(tmp_path)
    pruned(world, sealed[:2])
    world.forget()
    again = world.capture()
    assert again.body.snapshots[0].stored < 5_000


def test_who_has_the_index_open_reads_what_was_moved(tmp_path: Path) -> None:
    """P1: a restore that began before the sweep goes on after it."""
    world, sealed = a_world(tmp_path)
    reader = world.repository()
    assert len(reader.index)
    pruned(world, sealed[:2])
    assert world.restored(sealed[2], reader) == told(world, sealed[2])


def test_what_was_swept_is_passed_over_in_silence(tmp_path: Path) -> None:
    """A segment that a revoked session puts when it wakes names packs that are gone: nobody is alarmed."""
    world, sealed = a_world(tmp_path)
    repository = world.repository()
    stale = [(found.packs, found.entries) for found in repository.places.segments()]
    pruned(world, sealed[:2])
    for packs, entries in stale:
        parts = [(pack, entries[entries["pack"] == number]) for number, pack in enumerate(packs)]
        repository.places.put_segment(encode_segment(parts), repository.keyring.signer(Role.CAPTURE))
    all_stand(world, sealed[2:])


def test_deletions_that_were_stopped_are_finished_later(tmp_path: Path) -> None:
    """The end says what is gone; whether it is there still is no matter to anybody, and the next one removes it."""
    world, sealed = a_world(tmp_path)
    repository, prune = begun(world, sealed[:1])
    with pytest.raises(Denied):
        sweep(pruner(world, Undeletable(world.store)), prune, world.clock)
    assert require(repository, 1).stage is Stage.SWEPT
    all_stand(world, sealed[1:])
    assert clear_away(repository) > 0
    assert clear_away(repository) == 0
    all_stand(world, sealed[1:])


def test_strangers_objects_begin_no_prune(tmp_path: Path) -> None:
    """P12: what no pruner has signed expires nothing; where it stands as the end of a prune, pruners stop and others go on."""
    world, sealed = a_world(tmp_path)
    world.store.put("prune/00000009/plan", b"{}")
    world.store.put("prune/00000009/tombstones", b"{}")
    assert len(world.repository().points()) == 3
    repository, prune = begun(world, sealed[:1])
    assert prune.number == 1, "what lies beyond a gap takes no number"
    world.store.put("prune/00000001/end", b"{}")
    with pytest.raises(IntegrityError, match="prune/00000001/end"):
        require(repository, 1)
    world.live.files = dict(told(world, sealed[0])["files"])
    again = world.capture()  # it keeps away from what may have been swept
    assert again.body.snapshots[0].stored > LARGE


# Economics ------------------------------------------------------------------------------------------------------------


def test_what_is_chosen_keeps_within_both_limits() -> None:
    """Whatever packs there are: nothing needed is removed, at most so much is copied, and what stays unneeded is within its share
    unless copying was what ran out."""
    for seed in range(200):
        rng = Random(seed)
        packs = []
        for number in range(rng.randrange(40)):
            held = rng.randrange(1, 1000)
            packs.append(PackUse(f"{number:064x}", held + 50, held, rng.choice([0, held, rng.randrange(held + 1)])))
        limits = Economics(max_unused=rng.choice([0.0, 0.05, 0.5]), max_repack=rng.choice([0, 500, 10**9]))
        chosen = choose(packs, limits)
        uses_of = {pack.name: pack for pack in packs}
        assert set(chosen.remove) == {pack.name for pack in packs if not pack.needed}
        assert chosen.copies == sum(uses_of[name].needed for name in chosen.repack) <= limits.max_repack
        needed = sum(pack.needed for pack in packs)
        left = sum(p.unused for p in packs if p.needed and p.name not in chosen.repack)
        assert chosen.unused == left
        if limits.max_repack == 10**9:
            assert left <= limits.max_unused * (needed + left)
        assert all(uses_of[name].unused for name in chosen.repack)


def test_rubbish_far_ahead_takes_no_number(tmp_path: Path) -> None:
    """Whoever may only put stops no prune with a folder of the highest number, nor with one of the next."""
    world, sealed = a_world(tmp_path)
    for number in (1, 99_999_999):
        world.store.put(f"prune/{number:08d}/plan", b"not a plan")
    assert pruned(world, sealed[:1]).number == 2
    assert pruned(world, sealed[1:2]).number == 3
    all_stand(world, sealed[2:])
