"""P1: a prune is stopped at every call to its store, before the call's effect and after it; and it runs beside captures,
verifications and other pruners, in every order of their calls that a seed comes to.

Whatever happens, each promised point restores exactly, and a later prune finishes what was begun.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from resurgam.capture.run import capture
from resurgam.errors import Busy, ResurgamError
from resurgam.stores.base import Store
from resurgam.testing.faults import Crash, CrashStore, MemoryStore
from resurgam.testing.interleave import Interleaver
from resurgam.vault.leases import open_leases, revoke
from resurgam.vault.marking import survey
from resurgam.vault.prune import Economics
from resurgam.vault.prunes import Stage
from resurgam.vault.pruning import begin, clear_away, draft, propose, sweep, undo, uses, waits_for
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Sealed
from resurgam.vault.signing import Role
from tests.support import World, copied, no_witness
from tests.unit.test_prune import EAGER, all_stand, expire, pruner, told

SEED = int(os.environ.get("SEED", "20260301"))
LARGE = 300_000  # bytes of a file that shares no chunk with others
RUNS = int(os.environ.get("RUNS", "12"))  # of each company; `make soak` asks for more


def a_world(folder: Path, rng: Random, points: int = 3) -> tuple[World, list[Sealed]]:
    """Two components; points that share much, one of them judged."""
    folder.mkdir()
    world = World(str(folder), ("documents", "prompts"))
    documents, prompts = (world.driver.held[name] for name in ("documents", "prompts"))
    documents.files = {f"{n}".encode(): rng.randbytes(LARGE) for n in range(3)}
    world.told = {}  # type: ignore[attr-defined]
    sealed = []
    for number in range(points):
        documents.files[f"{number % 3}".encode()] = rng.randbytes(LARGE)
        prompts.files = {f"{n:02}".encode(): rng.randbytes(900) for n in range(4)}
        sealed.append(world.capture())
        world.told[sealed[-1].body.id] = world.contents()  # type: ignore[attr-defined]
    judge(world, world.store, sealed[-1])
    return world, sealed


def judge(world: World, store: Store, sealed: Sealed) -> None:
    """What a verification leaves."""
    with world.repository(store).evidence_writer(sealed.body.id, world.clock, RecordType.VERDICT) as writer:
        document = writer.document({"seen": sealed.body.id * 50})
        writer.flush()
        writer.put(RecordType.VERDICT, {"document": document, "judgement": 1})


def prune_once(world: World, store: Store, going: Sequence[Sealed], economics: Economics = EAGER) -> Stage:
    """What ``resurgam vault prune --yes`` does, however far an earlier one came."""
    repository = pruner(world, store)
    clear_away(repository)
    prune = repository.prunes().open
    if prune is None:
        over = repository.prunes().expired
        drafted = draft(repository, expire([one for one in going if one.body.id not in over]), economics)
        if drafted.plan.empty:
            return Stage.SWEPT
        prune = propose(repository, drafted.plan, world.clock)
    prune = begin(repository, prune, world.clock)
    for lease in waits_for(repository, prune):
        revoke(repository, lease, Role.PRUNER, "its session died", world.clock)
    return sweep(repository, prune, world.clock).stage


def finished(world: World, going: Sequence[Sealed]) -> None:
    """A later prune finishes; then nothing is left that nobody needs, and no evidence was lost."""
    for _ in range(2):
        assert prune_once(world, world.store, going) is Stage.SWEPT
    repository = world.repository()
    assert {one.body.id for one in going} <= {one.body.id for one in repository.points(expired=True)}
    assert [use for use in uses(survey(repository)) if use.unused or not use.needed] == []
    for sealed in repository.points():
        for record in repository.records(sealed.body.id):
            document = str(record.read(dict[str, object])["document"])
            assert repository.document(document, dict[str, str], what="it") == {"seen": sealed.body.id * 50}


def calls_of_a_prune(folder: Path, seed: int) -> list[str]:
    """The calls of one that goes through."""
    world, sealed = a_world(folder, Random(seed))
    counting = CrashStore(world.store)
    prune_once(world, counting, sealed[:2])
    return counting.history


@pytest.mark.parametrize("after", [False, True])
def test_a_prune_stopped_at_any_call(tmp_path: Path, after: bool) -> None:
    """P1, P2: what is promised stands at once, a capture goes on beside what was left, and the next prune ends it."""
    assert stopped(tmp_path, SEED, after=after) > 15


def stopped(folder: Path, seed: int, *, after: bool) -> int:
    """A prune stopped at each of its puts and deletes, and at some reads; returns how often it died."""
    calls = calls_of_a_prune(folder / "counted", seed)
    world, sealed = a_world(folder / "world", Random(seed))
    start = world.store
    stops = [number for number, call in enumerate(calls, 1) if call.startswith(("put", "delete"))]
    stops += Random(seed).sample(range(1, len(calls) + 1), 20)
    told_of, died = dict(world.told), 0  # type: ignore[attr-defined]
    for stop in sorted(set(stops)):
        world.store = copied(start)
        world.told = dict(told_of)  # type: ignore[attr-defined]
        world.forget()
        try:
            prune_once(world, CrashStore(world.store, stop, after=after), sealed[:2])
        except Crash:
            died += 1
        all_stand(world, sealed[2:])
        listed = {one.body.id for one in world.repository().points()}
        if stop % 3 == 0:  # somebody goes on meanwhile
            world.driver.held["documents"].files = dict(told(world, sealed[0])["documents"])
            between = world.capture()
            world.told[between.body.id] = world.contents()  # type: ignore[attr-defined]
            all_stand(world, [between, sealed[2]])
        elif stop % 3 == 1 and sealed[0].body.id in listed:
            all_stand(world, sealed[:1])  # nothing had happened to it
        finished(world, sealed[:2])
        all_stand(world, sealed[2:])
    return died


def test_an_undo_stopped_at_any_call(tmp_path: Path) -> None:
    """P10: between the phases all is undone or nothing is; then the points are whole or the prune goes on."""
    world, sealed = a_world(tmp_path / "world", Random(SEED))
    repository = pruner(world)
    begin(repository, propose(repository, draft(repository, expire(sealed[:2]), EAGER).plan, world.clock), world.clock)
    start = world.store
    for stop in range(1, 30):
        world.store = copied(start)
        with suppress(Crash):
            undo(pruner(world, CrashStore(world.store, stop)), 1, "a mistake", world.clock)
        listed = {one.body.id for one in world.repository().points()}
        all_stand(world, sealed if sealed[0].body.id in listed else sealed[2:])
        finished(world, sealed[:2])


# Beside others --------------------------------------------------------------------------------------------------------


def sessions_of(world: World, sealed: Sequence[Sealed], made: list[Sealed]) -> dict[str, Callable[[Store], object]]:
    """What may run at once. The capture goes back to what the first point held, so that it would reuse what goes with that."""
    world.driver.held["documents"].files = dict(told(world, sealed[0])["documents"])

    def capturing(store: Store) -> None:
        repository = world.repository(store)
        made.append(
            capture(world.system, lambda _kind: world.driver, no_witness, repository, world.host(), world.clock)
        )

    def verifying(store: Store) -> None:
        judge(world, store, sealed[-1])

    def pruning(store: Store) -> None:
        """It revokes nobody: who is at work is waited for."""
        repository = pruner(world, store)
        prune = repository.prunes().open
        prune = prune or propose(repository, draft(repository, expire(sealed[:2]), EAGER).plan, world.clock)
        sweep(repository, begin(repository, prune, world.clock), world.clock)

    def impatient(store: Store) -> None:
        """It revokes whoever it would wait for."""
        repository = pruner(world, store)
        for lease in open_leases(repository):
            revoke(repository, lease, Role.PRUNER, "in the way", world.clock)
        pruning(store)

    def undoing(store: Store) -> None:
        undo(pruner(world, store), 1, "a mistake", world.clock)

    return {
        "capture": capturing,
        "verify": verifying,
        "prune": pruning,
        "prune again": pruning,
        "impatient": impatient,
        "undo": undoing,
    }


BESIDE = (
    ("capture", "prune"),
    ("capture", "impatient"),
    ("capture", "prune", "prune again"),
    ("verify", "prune", "capture"),
    ("prune", "prune again", "undo"),
    ("verify", "impatient", "prune"),
)


@pytest.mark.parametrize("who", BESIDE, ids="+".join)
def test_a_prune_beside_others(tmp_path: Path, who: tuple[str, ...]) -> None:
    """P1: in whatever order the store sees their calls, every sealed point that is promised restores exactly. Sessions may be told
    that they came too late, and nothing else; some of them are killed."""
    print(who, beside(tmp_path, who, SEED, RUNS))


def beside(folder: Path, who: tuple[str, ...], seed: int, runs: int) -> dict[str, int]:
    """Sessions run at once, ``runs`` times; returns how they ended."""
    world, sealed = a_world(folder / "world", Random(seed))
    start, told_of = world.store, dict(world.told)  # type: ignore[attr-defined]
    ends: dict[str, int] = {}
    for run in range(runs):
        rng = Random(f"{seed} {who} {run}")
        world.store = copied(start)
        world.told = dict(told_of)  # type: ignore[attr-defined]
        world.forget()
        made: list[Sealed] = []
        sessions = sessions_of(world, sealed, made)
        dies = {rng.randrange(len(who)): rng.randrange(1, 60)} if rng.random() < 0.3 else {}
        interleaver = Interleaver(
            world.store, rng, writes=rng.choice((0.03, 0.1, 0.3)), reads=rng.choice((0.005, 0.02))
        )
        ended = interleaver.run([sessions[name] for name in who], dies)
        for name, end in zip(who, ended, strict=True):
            assert end.error is None or isinstance(end.error, Crash | Busy | ResurgamError), (run, end.error)
            assert not isinstance(end.error, ResurgamError) or _too_late(end.error), (run, name, end.error)
            ends[f"{name}: {type(end.error).__name__}"] = ends.get(f"{name}: {type(end.error).__name__}", 0) + 1
        for point in made:
            world.told[point.body.id] = world.contents()  # type: ignore[attr-defined]
        repository = world.repository()
        all_stand(world, [one for one in repository.points() if one.body.id in world.told])  # type: ignore[attr-defined]
        assert sealed[2].body.id in {one.body.id for one in repository.points()}
        assert {one.body.id for one in made} <= {one.body.id for one in repository.points()}
        finished(world, sealed[:2])
        all_stand(world, [sealed[2], *made])
    return dict(sorted(ends.items()))


def _too_late(error: BaseException | None) -> bool:
    """What a session may hear: it was revoked, or somebody else was first."""
    return isinstance(error, Busy) or "There is no prune 1" in str(error)


def test_many_prunes_one_after_the_other(tmp_path: Path) -> None:
    """Points come and go for a long while: what is kept restores, and the vault does not grow."""
    rng = Random(SEED)
    world, sealed = a_world(tmp_path / "world", rng)
    sizes = []
    for number in range(12):
        world.driver.held["documents"].files[f"{number % 3}".encode()] = rng.randbytes(LARGE)
        sealed.append(world.capture())
        world.told[sealed[-1].body.id] = world.contents()  # type: ignore[attr-defined]
        assert prune_once(world, world.store, sealed[:-3]) is Stage.SWEPT
        all_stand(world, sealed[-3:])
        store = world.store
        assert isinstance(store, MemoryStore)
        sizes.append(sum(entry.size for entry in store.list("packs/")) + sum(e.size for e in store.list("index/")))
    assert max(sizes[4:]) < 1.2 * min(sizes[4:])
