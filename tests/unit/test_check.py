"""check with a memory: what is read, in which order, what is remembered of it, and whom one believes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resurgam.errors import IntegrityError, Unreachable
from resurgam.model.codec import to_json
from resurgam.model.system import Retention
from resurgam.stores import abreast
from resurgam.stores.base import Entry, Store
from resurgam.testing.faults import Crash, CrashStore, ReadOnlyStore, SlowStore, Wrapped
from resurgam.vault import keyadmin, snapshots
from resurgam.vault.check import Check, Report, check
from resurgam.vault.checked import FORMAT, SHORT, Bad, Checked, Depth, coverage, coverage_of, fold
from resurgam.vault.checkorder import Wish, due
from resurgam.vault.pack import Kind, scan
from resurgam.vault.policies import next_policy, policies, put_policy
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.records import RecordType, encode_statement, itself, timestamp
from resurgam.vault.repository import Repository
from resurgam.vault.signing import IN_TOTO, Role, envelop
from tests.support import World, copied, replaced
from tests.unit.test_prune import EAGER, a_world, expire, pruner

FULL = Wish(everything=True)
DAY = 86_400.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three points whose packs differ."""
    made = World(str(tmp_path))
    rng = Random(7)
    for number in range(3):
        made.live.files[b"file-%d" % number] = rng.randbytes(400_000)
        made.capture()
    return made


def run(world: World, wish: Wish = FULL, store: Store | None = None, keys: str | None = None) -> Report:
    """A check that remembers, as a new process would make it."""
    return Check(world.repository(store, keys), wish, world.clock, remember=True, rng=Random(1)).run()


def packs(world: World) -> list[str]:
    """The names of all packs."""
    return [entry.name for entry in world.store.list("packs/")]


def flipped(world: World, name: str, offset: int = 200) -> Store:
    """The vault with one bit of an object wrong."""
    data = bytearray(world.store.get(name))
    data[offset] ^= 4
    return replaced(world.store, name, bytes(data))


class Watched(Wrapped):
    """A store that notes which packs are read from their beginning."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.read: list[str] = []

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """See Store."""
        if name.startswith("packs/") and offset == 0:
            self.read.append(name)
        return self.inner.read_into(name, offset, buffer)


# What is remembered -------------------------------------------------------------------------------------------------


def test_what_was_read_is_remembered_and_the_oldest_is_read_first(world: World) -> None:
    """Checks that each have little time read everything in turn."""
    found = run(world)
    assert found.ok
    assert (found.coverage.share, found.coverage.never, found.unremembered) == (1.0, 0, "")
    world.clock.advance(40 * DAY)
    world.live.files[b"late"] = Random(9).randbytes(400_000)
    world.capture()
    assert run(world, Wish()).coverage.share == 0.0
    watched = Watched(world.store)
    found = run(world, Wish(max_age=30 * DAY), watched)
    assert found.packs_read == found.packs == len(packs(world))
    assert set(packs(world)) <= set(watched.read)
    assert run(world, Wish(max_age=30 * DAY)).packs_read == 0
    assert coverage_of(world.repository(), world.clock.now().timestamp()).share == 1.0


def test_time_is_kept_and_the_next_check_goes_on(world: World) -> None:
    """``--max-duration``: no pack is begun after it, none is read twice before all were read once."""
    total = len(packs(world))
    slow = SlowStore(world.store, 10.0, world.clock)
    watched = Watched(slow)
    seen: list[str] = []
    for _ in range(20 * total):
        watched.read.clear()
        found = run(world, Wish(max_duration=600.0, depth=Depth.DIGEST), watched)
        seen += watched.read
        assert found.ok
        if found.coverage.never == 0:
            break
        assert found.left > 0
    assert len(seen[:total]) == len(set(seen[:total])) == total


def test_sample_is_a_share_of_bytes(world: World) -> None:
    """A share of the bytes, whole packs, at least one."""
    found = run(world, Wish(sample=0.0001))
    assert found.packs_read == 1
    assert run(world, Wish(sample=1.0)).packs_read == found.packs


@pytest.mark.parametrize("file", ["verifier.json", "pruner.json", "auditor.json"])
def test_each_witness_remembers(world: World, file: str) -> None:
    """Whoever may vouch does, with nothing but its own key; an auditor, who opens nothing, checks digests."""
    found = run(world, keys=world.keys_with("trust.json", file, *(["capture.json"] if file == "verifier.json" else [])))
    assert found.ok
    assert found.unremembered == ""
    assert found.located == (file != "auditor.json")
    assert not found.contents
    assert run(world, Wish(max_age=DAY, depth=Depth.DIGEST)).packs_read == 0
    assert run(world, Wish(max_age=DAY)).packs_read == found.packs, "nobody has opened them yet"


def test_without_a_key_of_a_witness_it_says_that_it_forgets(world: World) -> None:
    """P12: a check that will not be remembered says so, and finds the same."""
    found = run(world, keys=world.keys_with("trust.json", "capture.json"))
    assert found.ok
    assert "no key of a verifier, pruner or auditor" in found.unremembered
    assert not any(True for _ in world.store.list("checks/"))
    refused = run(world, store=ReadOnlyStore(world.store))
    assert refused.ok
    assert "may only be read" in refused.unremembered


def test_a_capture_host_cannot_vouch(world: World) -> None:
    """P9: neither in its own role nor under another's name; what it writes is told, and nothing counts as read."""
    repository = world.repository()
    short = b"".join(bytes.fromhex(name.rpartition("/")[2][: 2 * SHORT]) for name in packs(world))
    body = Checked(format=FORMAT, began=timestamp(world.clock.now()), digest=b"", contents=short)
    capture = repository.keyring.signer(Role.CAPTURE)
    for number, role in enumerate((Role.CAPTURE, Role.VERIFIER)):
        subject = itself(f"check/forged-{number}", body)
        statement = encode_statement(
            RecordType.CHECKED,
            subject,
            to_json(body),
            role,
            vault=repository.vault,
            made=timestamp(world.clock.now()),
        )
        world.store.put(f"checks/forged-{number}", envelop(statement, [capture], IN_TOTO))
    found = run(world, Wish(max_age=30 * DAY))
    assert found.packs_read == found.packs, "it believed that all was read"
    assert [d.object for d in found.damage] == ["a record of a check"] * 2


def test_a_record_under_another_name_is_refused(world: World) -> None:
    """P9: whoever can write to the store cannot make an old check a new one."""
    run(world)
    (entry,) = world.store.list("checks/")
    world.store.put("checks/20300101t000000z-00000000", world.store.get(entry.name))
    assert any("is about check/" in damage.what for damage in run(world, Wish()).damage)


def test_a_clock_that_runs_ahead_does_not_vouch_for_years(world: World) -> None:
    """No record counts as younger than the store received it."""
    world.clock.advance(20 * 365 * DAY)
    run(world)
    later = max(entry.received for entry in world.store.list("checks/"))
    found = coverage_of(world.repository(), later + 31 * DAY)
    assert found.share == 0.0


def test_an_interrupted_check_remembers_what_it_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before the vault went away, or Ctrl-C came, is not read again first."""
    # Of several packs that are read abreast any may be the third.
    monkeypatch.setattr(abreast, "is_far", lambda _store: False)

    class Broken(Wrapped):
        def __init__(self, inner: Store, at: int, error: Callable[[], BaseException]) -> None:
            super().__init__(inner)
            self.left, self.error = at, error

        def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
            self.left -= offset == 0
            if self.left < 0:
                raise self.error()
            return self.inner.read_into(name, offset, buffer)

    total = len(packs(world))
    for error in (KeyboardInterrupt, lambda: Unreachable("gone", next_step="wait")):
        before = sum(1 for _ in world.store.list("checks/"))
        with pytest.raises((KeyboardInterrupt, Unreachable)):
            run(world, Wish(everything=True, depth=Depth.DIGEST), Broken(world.store, 2, error))
        assert sum(1 for _ in world.store.list("checks/")) == before + 1
    now = world.clock.now().timestamp()
    assert coverage_of(world.repository(), now).never < sum(entry.size for entry in world.store.list("packs/"))
    assert run(world, Wish(max_age=DAY, depth=Depth.DIGEST)).packs_read == total - 4, (
        "each goes on where the one before was stopped"
    )


def test_a_check_stopped_at_any_call_leaves_the_vault_as_sound(world: World) -> None:
    """P1: a check writes nothing that a half of would hurt."""
    counting = CrashStore(world.store)
    run(world, store=counting)
    for stop in range(counting.calls - 12, counting.calls + 1):
        for after in (False, True):
            dying = CrashStore(world.store, stop, after=after)
            try:
                run(world, store=dying)
            except Crash:
                assert run(world, Wish()).ok
    assert run(world).ok


# What is found ------------------------------------------------------------------------------------------------------


def test_damaged_packs_are_read_again_first_until_they_are_sound(world: World) -> None:
    """What a check found, a later one looks at before all else, however lately it was read."""
    name = packs(world)[-1]
    hurt = flipped(world, name)
    assert not run(world, store=hurt).ok
    watched = Watched(hurt)
    found = run(world, Wish(max_age=30 * DAY), watched)
    assert watched.read == [name]
    assert not found.ok
    assert found.coverage.damaged == 1
    assert found.coverage.share < 1.0
    for record in hurt.list("checks/"):
        world.store.put(record.name, hurt.get(record.name))
    world.clock.advance(1)
    found = run(world, Wish(max_age=30 * DAY))  # the pack is sound again here
    assert (found.packs_read, found.ok, found.coverage.damaged) == (1, True, 0)


def test_only_the_points_that_need_it_are_named(world: World) -> None:
    """P12: damage says whom it concerns; by digest alone all points that need the pack, by contents those of the chunk."""
    first = world.repository().points()[0].body
    get = world.repository().index.find
    place = get(bytes.fromhex(first.particulars))
    assert place is not None
    hurt = flipped(world, f"packs/{place.pack[:2]}/{place.pack}", place.offset + 100)
    (damage, whole) = sorted(run(world, store=hurt).damage, key=lambda found: not found.points)
    assert damage.points == (first.id,)
    assert "does not authenticate" in damage.what
    assert "digest" in whole.what
    world.clock.advance(1)
    (by_digest,) = run(world, Wish(everything=True, depth=Depth.DIGEST), hurt).damage
    assert first.id in by_digest.points


def test_a_missing_session_key_is_found_without_any_identity(world: World) -> None:
    """P12: who holds no key at all still sees that what a session stored opens for nobody."""
    session = next(entry.name for entry in world.store.list("keys/session-"))
    found = run(world, store=replaced(world.store, session, None), keys=world.keys_with("trust.json", "auditor.json"))
    assert found.damage
    assert all("the key that opens it, is missing" in damage.what for damage in found.damage)


def test_a_tree_that_is_no_tree_is_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with its right id that does not mean what its parent says: no reading of packs finds that."""
    world.live.files = {b"x%03d" % n: b"%d" % n for n in range(10)}
    monkeypatch.setattr(snapshots.EntryTree, "_close", _miscounting)
    point = world.capture()
    monkeypatch.undo()
    found = check(world.repository(), read=True)
    assert {(d.object, d.points) for d in found.damage} == {("the tree of files", (point.body.id,))}
    assert all("entries, not" in damage.what for damage in found.damage)


def _miscounting(tree: Any) -> None:
    """``EntryTree._close``, telling the parent one entry more."""
    page = tree._put(Kind.TREE, snapshots._array(tree._open))
    tree._builder.leaf(tree._first, page, len(tree._open) + 1)
    tree._open, tree._bytes = [], 0


def test_frames_are_found_behind_damage(world: World) -> None:
    """A broken header costs one chunk, not the rest of the pack; bytes that only look like a frame cost nothing."""
    whole = (world.store.get(name) for name in packs(world))
    data = bytearray(max(whole, key=lambda found: len(list(scan(memoryview(found))))))
    sound = list(scan(memoryview(data)))
    assert len(sound) > 3
    offset, frame = sound[1]
    data[offset + 20] ^= 1
    assert list(scan(memoryview(data))) == [sound[0], *sound[2:]]
    data[offset : offset + 80] = b"RSGc" * 20
    assert list(scan(memoryview(data))) == [sound[0], *sound[2:]]
    assert list(scan(memoryview(data[: sound[3][0] + 90]))) == [sound[0], sound[2]]
    assert frame not in [found for _, found in scan(memoryview(data))]


# The fold and the order, as functions of values ---------------------------------------------------------------------


def name_of(number: int) -> str:
    """The name of a pack."""
    return f"{number:016x}".ljust(64, "0")


def short_of(*numbers: int) -> bytes:
    """How packs stand in a record."""
    return b"".join(number.to_bytes(8, "big") for number in numbers)


def body(digest: tuple[int, ...] = (), contents: tuple[int, ...] = (), bad: tuple[Bad, ...] = ()) -> Checked:
    """A record's body."""
    return Checked(format=1, began="", digest=short_of(*digest), contents=short_of(*contents), damaged=bad, size=1)


def test_what_one_reading_found_only_one_as_deep_takes_back() -> None:
    """A pack with the right digest and a chunk that does not open stays damaged for whoever reads digests only."""
    names = [name_of(n) for n in range(3)]
    bad = Bad(pack=names[1], depth=Depth.CONTENTS, what="a chunk")
    told = [(1.0, body(contents=(0,), bad=(bad,)))]
    assert set(fold(names, told).damaged) == {names[1]}
    assert set(fold(names, [*told, (2.0, body(digest=(1,)))]).damaged) == {names[1]}
    assert fold(names, [*told, (2.0, body(contents=(1,)))]).damaged == {}
    assert set(fold(names, [(2.0, body(contents=(1,))), *told]).damaged) == set(), "order of records is of no account"


@given(st.lists(st.tuples(st.integers(1, 9), st.sets(st.integers(0, 20)), st.booleans()), max_size=12), st.randoms())
def test_the_fold_is_the_latest_of_each(told: list[tuple[int, set[int], bool]], rng: Random) -> None:
    """Of any records in any order, for packs that are there; packs that are no more are left out."""
    names = [name_of(n) for n in range(15)]
    records = [(float(time), body((), tuple(found)) if deep else body(tuple(found))) for time, found, deep in told]
    rng.shuffle(records)
    memory = fold(names, records)
    for number, name in enumerate(memory.packs):
        opened = max((time for time, found, deep in told if number in found and deep), default=0)
        read = max((time for time, found, _ in told if number in found), default=0)
        assert (memory.digest[number], memory.contents[number]) == (read, opened), name


@given(
    st.dictionaries(st.integers(0, 30), st.tuples(st.integers(0, 99), st.integers(1, 9), st.booleans()), min_size=1),
    st.floats(0, 120),
    st.randoms(),
)
def test_nothing_starves(packs: dict[int, tuple[int, int, bool]], max_age: float, rng: Random) -> None:
    """All that is older is due; what points need comes before garbage, and of each what waited longest first."""
    names = {name_of(number): told for number, told in packs.items()}
    memory = fold(list(names), [(float(told[0]), body((number,))) for number, told in packs.items()])
    sizes = {name: told[1] for name, told in names.items()}
    needed = {name for name, told in names.items() if told[2]}
    order = due(memory, sizes, needed, Wish(max_age=max_age), Depth.DIGEST, 100.0, rng)
    assert set(order) == {name for name, told in names.items() if told[0] < 100 - max_age}
    ranks = [(name not in needed, names[name][0]) for name in order]
    assert ranks == sorted(ranks)
    everything = due(memory, sizes, needed, Wish(max_duration=1.0), Depth.DIGEST, 100.0, rng)
    assert sorted(everything) == sorted(names)
    assert due(memory, sizes, needed, Wish(), Depth.DIGEST, 100.0, rng) == []
    drawn = due(memory, sizes, needed, Wish(sample=0.5), Depth.DIGEST, 100.0, rng)
    assert sum(sizes[name] for name in drawn) >= 0.5 * sum(sizes.values())
    assert 1 <= len(drawn) <= len(names)


def test_coverage_of_nothing_is_whole() -> None:
    """An empty vault has nothing unread."""
    assert coverage(fold([], []), {}, 0.0, DAY).share == 1.0


class Meanwhile(Wrapped):
    """Something happens just before the n-th call; ``calls`` counts them."""

    def __init__(self, inner: Store, at: int, act: Callable[[], object]) -> None:
        super().__init__(inner)
        self.calls, self._at, self._act = 0, at, act

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self._at:
            self._act()

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store."""
        self._call()
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """See Store."""
        self._call()
        return self.inner.read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See Store."""
        self._call()
        return self.inner.list(prefix)


def test_a_prune_that_runs_meanwhile_is_no_damage(tmp_path: Path) -> None:
    """A whole prune before any call of a check: what it takes was promised by nobody, and what it moves is found."""
    world, sealed = a_world(tmp_path)

    def prune(store: Store) -> None:
        repository = pruner(world, store)
        proposed = propose(repository, draft(repository, expire(sealed[:1]), EAGER).plan, world.clock)
        assert sweep(repository, begin(repository, proposed, world.clock), world.clock).ended

    counting = Meanwhile(copied(world.store), 0, lambda: None)
    assert check(world.repository(counting), read=True).ok
    for at in range(1, counting.calls + 1):
        store = copied(world.store)
        found = check(world.repository(Meanwhile(store, at, partial(prune, store))), read=True)
        assert found.damage == (), f"a prune before call {at} of {counting.calls}"
        assert check(world.repository(store), read=True).ok


# What is not about bytes of points ------------------------------------------------------------------------------------


def with_policies(world: World, number: int = 2) -> Repository:
    """The vault, with so many policies."""
    repository = world.repository()
    for last in range(number, 0, -1):
        put_policy(repository, next_policy(policies(repository), "test", Retention(last=last)), world.clock)
    return repository


@pytest.mark.parametrize("number", [1, 2])
def test_a_policy_that_cannot_be_believed_is_damage(world: World, number: int) -> None:
    """P12: it keeps everything, and is there to be believed; so are those that were taken out of the row."""
    with_policies(world)
    name = f"retention/{number:08d}"
    assert check(world.repository()).ok
    assert [one.object for one in check(world.repository(flipped(world, name))).damage] == [name]
    taken = check(world.repository(replaced(world.store, name, None))).damage
    assert [one.object for one in taken] == ([name] if number == 1 else [])


def test_a_policy_of_a_removed_approver_is_no_damage(world: World) -> None:
    """Nobody's word is missed by nobody, and nothing could mend it."""
    repository = with_policies(world)
    approver = repository.keyring.signer(Role.APPROVER).key_id
    keyadmin.remove(repository, approver, world.clock)
    assert check(world.repository()).ok


@pytest.mark.parametrize("name", ["points/sub/zzz", "points/notes.txt"])
def test_what_bears_no_points_name_hinders_nobody_and_is_told(world: World, name: str) -> None:
    """P12: no writer gives such names, so nothing hides behind them: prunes go on, and ``latest`` is known."""
    world.store.put(name, b"anything")
    repository = pruner(world)
    first, *_ = repository.points()
    assert draft(repository, expire([first]), EAGER).plan.expire
    assert world.repository().resolve("latest")
    found = check(world.repository())
    assert [(one.object, one.what.split(":")[0]) for one in found.damage] == [(name, "is not ours")]


def test_an_index_key_that_is_gone_is_said_to_be_repaired(world: World) -> None:
    """P12: whoever has the recovery key alone hears what brings it back, and not of a folder that is not mounted."""
    keys = world.keys_with("trust.json", "recovery.agekey")
    store = replaced(world.store, "keys/index", None)
    with pytest.raises(IntegrityError, match="keys/index is missing") as told:
        _ = world.repository(store, keys).index
    assert "resurgam vault repair" in told.value.next_step
