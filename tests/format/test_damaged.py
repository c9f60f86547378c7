"""P3, P10, P12: what check says of each vault in the museum, and what repair brings back of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from resurgam.errors import ResurgamError
from resurgam.stores.base import Store
from resurgam.testing.faults import MemoryStore
from resurgam.vault.check import check
from resurgam.vault.othercopy import reopen
from resurgam.vault.repair import Planner, Repairs
from resurgam.vault.repairing import carry_out
from tests.format.damaged import EXHIBITS, Exhibit, Museum, restored
from tests.support import copied


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Museum:
    """One vault for all."""
    return Museum(tmp_path_factory.mktemp("museum"))


def repair(museum: Museum, store: Store, other: Store | None = None, *, forsake: bool = False) -> Repairs:
    """What is left after a repair that reads everything."""
    planner = Planner(museum.world.repository(store), museum.world.clock, other, read=True, forsake=forsake)
    return carry_out(planner, museum.world.clock, lambda _: None)


def state(store: MemoryStore) -> dict[str, bytes]:
    """All objects."""
    return {entry.name: store.get(entry.name) for entry in store.list()}


OPENING = [exhibit for exhibit in EXHIBITS if exhibit.opens]


@pytest.mark.parametrize("exhibit", OPENING, ids=lambda exhibit: exhibit.name)
def test_check_says_what_is_wrong(museum: Museum, exhibit: Exhibit) -> None:
    """P12: damage is named, and what is only out of order is none."""
    damage = check(museum.world.repository(museum.spoilt(exhibit)), read=True).damage
    assert bool(damage) == bool(exhibit.says)
    assert not exhibit.says or any(exhibit.says in f"{one.object} {one.what}" for one in damage), damage


@pytest.mark.parametrize("exhibit", OPENING, ids=lambda exhibit: exhibit.name)
def test_a_plan_writes_nothing(museum: Museum, exhibit: Exhibit) -> None:
    """P10: first there is a plan, and looking changes nothing."""
    store = museum.spoilt(exhibit)
    before = state(store)
    plan = Planner(museum.world.repository(store), museum.world.clock, museum.sound, read=True).plan()
    assert state(store) == before
    assert plan.empty == (exhibit.name == "two segments say the same")


@pytest.mark.parametrize("exhibit", OPENING, ids=lambda exhibit: exhibit.name)
def test_repair_alone(museum: Museum, exhibit: Exhibit) -> None:
    """Nothing that restored before is lost by it; what can come back does, and what cannot is named and quarantined."""
    store = museum.spoilt(exhibit)
    before = set(restored(museum, store))
    left = repair(museum, store)
    after = set(restored(museum, store))
    assert before <= after
    report = check(museum.world.repository(store), read=True)
    if exhibit.heals:
        assert after == set(museum.points)
        assert report.ok, report.damage
        assert left.empty
        assert left.lost == ()
    else:
        assert left.lost or left.waits, "P12: what check calls damaged, repair does not call sound"
        hurt = {one.point for one in left.lost if not one.restores}
        assert hurt == {p for p in museum.points if p not in after and p in listed(museum, store)}
        for point in hurt:
            repository = museum.world.repository(store)
            assert repository.state(repository.sealed(point)).quarantined is not None
    assert repair(museum, store) == left, "a second repair finds what the first one left"


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_repair_from_another_copy(museum: Museum, exhibit: Exhibit) -> None:
    """With a sound copy at hand everything comes back, and the vault is clean."""
    store = museum.spoilt(exhibit)
    if not exhibit.opens:
        with pytest.raises(ResurgamError):
            museum.world.repository(store)
        assert reopen(store, museum.sound, museum.repository().keyring)
    left = repair(museum, store, museum.sound)
    assert left.lost == ()
    assert left.empty
    assert check(museum.world.repository(store), read=True).ok
    assert set(restored(museum, store)) == set(museum.points)


@pytest.mark.parametrize("exhibit", [e for e in OPENING if not e.heals], ids=lambda exhibit: exhibit.name)
def test_a_capture_heals_what_repair_has_put_out_of_the_way(museum: Museum, exhibit: Exhibit) -> None:
    """A chunk that is known to be lost is stored again by the next capture of the same content."""
    store = museum.spoilt(exhibit)
    repair(museum, store, forsake=True)
    museum.world.forget()
    point = museum.world.capture(store)
    repository = museum.world.repository(store)
    assert museum.world.restored(point, repository) == museum.world.contents()


def listed(museum: Museum, store: Store) -> set[str]:
    """The points that can be believed."""
    return {sealed.body.id for sealed in museum.world.repository(store).points()}


def test_the_museum_is_complete(tmp_path: Path) -> None:
    """Each exhibit differs from the sound vault, and from each other."""
    museum = Museum(tmp_path)
    seen = [tuple(sorted(state(museum.spoilt(exhibit)).items())) for exhibit in EXHIBITS]
    assert len(set(seen)) == len(EXHIBITS)
    assert tuple(sorted(state(copied(museum.sound)).items())) not in seen
