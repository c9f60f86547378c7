"""A vault that was rolled back, or from which a point was taken, is noticed: by check, by audit, and by the host that sealed last.

Whoever attacks here can do what no client of a vault can: remove objects from the store.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from resurgam.model.point import Severity
from resurgam.stores.base import Store
from resurgam.vault.audit import audit
from resurgam.vault.check import check
from resurgam.vault.lineage import forgotten, missing
from resurgam.vault.logmemory import LogMemory
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.records import RecordType, itself
from resurgam.vault.repair import Planner
from resurgam.vault.repository import Sealed
from resurgam.vault.signing import Role
from resurgam.vault.trail import Kind
from tests.audited import Audited, found
from tests.support import World, copied, replaced
from tests.unit.test_prune import EAGER, expire, pruner


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def captured(world: World, words: bytes) -> Sealed:
    """A point with contents of its own."""
    world.live.files[b"a"] = words * 1000
    return world.capture()


def object_of(sealed: Sealed) -> str:
    """The object that makes the point."""
    return f"points/{sealed.body.id}"


def damage(world: World, store: Store | None = None) -> list[tuple[str, tuple[str, ...]]]:
    """What a check without reading calls damaged."""
    return [(one.object, one.points) for one in check(world.repository(store)).damage]


def warnings(world: World, sealed: Sealed) -> list[str]:
    """What the point says that its owner must know."""
    particulars = world.repository().particulars(sealed.body)
    return [finding.what for finding in particulars.findings if finding.severity is Severity.WARNING]


def give_up(world: World, point: str) -> None:
    """Revoke a name, as the next capture does with that of one which was stopped."""
    repository, name = world.repository(), f"points/{point}"
    signer, body = repository.keyring.signer(Role.CAPTURE), {"reason": "stopped"}
    repository.put_signed(name, RecordType.REVOCATION, itself(f"point/{point}", body), body, signer, world.clock)


# What comes after it misses it ----------------------------------------------------------------------------------------


def test_p12_check_misses_a_point_that_was_taken_away(world: World) -> None:
    """Whichever has one after it; what to do is said, and the point is named as affected."""
    points = [captured(world, b"%d" % number) for number in range(4)]
    assert damage(world) == []
    for gone, after in pairwise(points):
        store = replaced(world.store, object_of(gone), None)
        assert damage(world, store) == [(object_of(gone), (gone.body.id,))]
        (told,) = check(world.repository(store)).damage
        assert told.what.startswith(f"is gone, which {after.body.id} says came before it: see `resurgam audit verify`")


def test_p2_an_expired_point_is_missed_and_misses(world: World) -> None:
    """A prune leaves the records of points: no alarm for what expired, and one for a kept point that only an expired one names."""
    kept, over, last = (captured(world, words) for words in (b"kept", b"over", b"last"))
    repository = pruner(world)
    prune = begin(
        repository, propose(repository, draft(repository, expire([over]), EAGER).plan, world.clock), world.clock
    )
    assert damage(world) == []
    assert damage(world, replaced(world.store, object_of(kept), None)) == [(object_of(kept), (kept.body.id,))]
    assert damage(world, replaced(world.store, object_of(over), None)) == [(object_of(over), (over.body.id,))]
    sweep(repository, prune, world.clock)
    assert damage(world) == []
    assert last.body.previous == over.body.id


def test_only_names_of_points_are_followed() -> None:
    """Who can seal points can name anything before them: no name that a store may choke on is asked for."""
    asked: list[str] = []

    def there(point: str) -> bool:
        asked.append(point)
        return False

    named = [("b", None), ("c", ""), ("d", "../../etc"), ("e", "a" * 2000), ("f", "0123456789abcdef")]
    assert missing(named, there) == {"0123456789abcdef": "f"}
    assert asked == ["0123456789abcdef"]


def test_repair_says_that_it_is_gone_and_takes_it_from_another_copy(world: World) -> None:
    first, _ = captured(world, b"one"), captured(world, b"two")
    whole = copied(world.store)
    world.store.delete(object_of(first))
    plan = Planner(world.repository(), world.clock).plan()
    told = [words for words in plan.waits if object_of(first) in words]
    assert told == [f"{object_of(first)} is gone: `--from` another copy that has it"]
    plan = Planner(world.repository(), world.clock, whole).plan()
    assert object_of(first) in [one.name for one in plan.take]
    assert not [told for told in plan.waits if object_of(first) in told]


# Audit ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_off", [False, True], ids=["announced", "the log was cut off"])
def test_audit_misses_it_once_whatever_the_log_says(tmp_path: Path, cut_off: bool) -> None:
    """P9, P12: without any key, also where the log was cut off to what came before it, and nobody kept a checkpoint."""
    world = Audited(str(tmp_path))
    store = world.truncated(0) if cut_off else copied(world.store)
    for name in [object_of(world.one), *world.names(f"records/{world.one.body.id}/")]:
        store.delete(name)
    report = world.audit(store)
    told = [finding for finding in report.findings if finding.object == object_of(world.one)]
    assert [finding.kind for finding in told] == [Kind.GONE]
    if cut_off:
        assert found(report) == {(Kind.GONE, object_of(world.one))}
        assert told[0].what == f"{object_of(world.two)} says that it came before it"


def test_a_later_look_misses_what_a_new_point_names(tmp_path: Path) -> None:
    world = Audited(str(tmp_path))
    memory = LogMemory(world.host())
    memory.remember(world.audit().seen)
    world.capture()
    seen = memory.seen()
    assert audit(world.repository(), seen=seen, new=True).ok
    store = replaced(world.store, object_of(world.two), None)
    report = audit(world.repository(store), seen=seen, new=True)
    assert found(report) == {(Kind.GONE, object_of(world.two))}


# The host that sealed last remembers ----------------------------------------------------------------------------------


def test_p12_a_host_whose_last_point_is_gone_says_so_and_captures(world: World) -> None:
    """A rollback to before the newest point, which nothing in the vault can tell: in words, in the next point, once."""
    captured(world, b"one")
    before = copied(world.store)
    lost = captured(world, b"two")
    assert warnings(world, lost) == []
    assert damage(world, before) == []
    world.store = before
    assert lost.body.id in forgotten(world.store, world.host())
    after = captured(world, b"three")
    (said,) = warnings(world, after)
    assert said.startswith(f"the point {lost.body.id} of ")
    assert said.endswith("sealed last is not in the vault: it was rolled back, or somebody can delete there.")
    assert after.body.findings[Severity.WARNING] == 1
    assert damage(world) == [(object_of(lost), (lost.body.id,))], "from now on the vault itself tells"
    assert warnings(world, captured(world, b"four")) == []


def others_notes(world: World) -> None:
    """Another host has no notes."""
    world.forget()


def nothing(world: World) -> None:
    """Nothing happens in between."""


def stopped(world: World) -> None:
    """The capture before was stopped, and its name was given up."""
    give_up(world, "0123456789abcdef")


def other_system(world: World) -> None:
    """A point of another system lies beside."""
    other = World.__new__(World)
    other.__dict__.update(world.__dict__)
    other.system = type(world.system)(
        name="other", vault=world.system.vault, components=world.system.components, root=world.system.root
    )
    assert warnings(world, other.capture()) == []


@pytest.mark.parametrize("between", [nothing, others_notes, stopped, other_system])
def test_no_false_alarm(world: World, between: Callable[[World], None]) -> None:
    """P3: what is not remembered is not missed, and notes are those of one system in one vault."""
    captured(world, b"one")
    between(world)
    assert forgotten(world.store, world.host()) == ""
    assert warnings(world, captured(world, b"two")) == []
    assert damage(world) == []


def test_a_revocation_in_its_place_is_no_alarm(world: World) -> None:
    """The name is spent: whoever holds it is told by other means."""
    sealed = captured(world, b"one")
    world.store = replaced(world.store, object_of(sealed), None)
    assert forgotten(world.store, world.host()) != ""
    give_up(world, sealed.body.id)
    assert forgotten(world.store, world.host()) == ""
