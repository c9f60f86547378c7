"""P1, P10: a repair is stopped at every effect on its store, before and after it.

Whatever restored before restores afterwards, nothing that is not sound is believed, and the next repair ends what the first began.
"""

from __future__ import annotations

import pytest

from resurgam.stores.base import Store
from resurgam.testing.faults import Crash, CrashStore, MemoryStore
from resurgam.vault.check import check
from resurgam.vault.repair import Planner, Repairs
from resurgam.vault.repairing import carry_out
from tests.format.damaged import EXHIBITS, Exhibit, Museum, restored
from tests.support import copied

BY_NAME = {exhibit.name: exhibit for exhibit in EXHIBITS}
ALONE = ("a segment has a bit wrong", "a chunk has a bit wrong", "two packs are exchanged", "a point is unlogged")
FROM_ANOTHER = (
    "a pack of pages is missing",
    "a pack is cut off",
    "a session's key has a bit wrong",
    "a point's record has a bit wrong",
)
EFFECTS = ("put ", "delete ")


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Museum:
    """One vault for all."""
    return Museum(tmp_path_factory.mktemp("museum"))


def repair(museum: Museum, store: Store, other: Store | None) -> Repairs:
    """One repair, as a new process would make it."""
    planner = Planner(museum.world.repository(store), museum.world.clock, other, read=True)
    return carry_out(planner, museum.world.clock, lambda _: None)


def effects(museum: Museum, exhibit: Exhibit, other: Store | None) -> list[int]:
    """The numbers of the calls that change something, in a repair that nobody stops."""
    counting = CrashStore(museum.spoilt(exhibit))
    repair(museum, counting, other)
    return [n for n, call in enumerate(counting.history, 1) if call.startswith(EFFECTS)]


def judge(museum: Museum, exhibit: Exhibit, store: MemoryStore, before: set[str], other: Store | None) -> None:
    """What must be so after a repair was stopped: at once, and when it was repeated."""
    assert before <= set(restored(museum, store)), "a point that restored is lost"
    left = repair(museum, store, other)
    assert left.empty
    assert before <= set(restored(museum, store))
    if exhibit.heals or other is not None:
        assert left.lost == ()
        assert check(museum.world.repository(store), read=True).ok
        assert set(restored(museum, store)) == set(museum.points)


@pytest.mark.parametrize("name", [*ALONE, *(f"{name}, with a copy" for name in FROM_ANOTHER)])
def test_repair_stopped_anywhere(museum: Museum, name: str) -> None:
    """P1: at every put and delete, before it and after it."""
    exhibit = BY_NAME[name.removesuffix(", with a copy")]
    other = copied(museum.sound) if name.endswith(", with a copy") else None
    before = set(restored(museum, museum.spoilt(exhibit)))
    stops = effects(museum, exhibit, other)
    assert stops, "the repair changes nothing, so nothing is shown"
    for stop in stops:
        for after in (False, True):
            store = museum.spoilt(exhibit)
            with pytest.raises(Crash):
                repair(museum, CrashStore(store, stop, after=after), other)
            judge(museum, exhibit, store, before, other)


def test_two_repairs_at_once(museum: Museum) -> None:
    """What one repair has planned another has done meanwhile: both end, and nothing is lost."""
    exhibit = BY_NAME["two packs are exchanged"]
    store = museum.spoilt(exhibit)
    planner = Planner(museum.world.repository(store), museum.world.clock, None, read=True)
    planner.plan()
    repair(museum, store, None)
    left = carry_out(planner, museum.world.clock, lambda _: None)
    assert left.empty
    assert set(restored(museum, store)) == set(museum.points)
