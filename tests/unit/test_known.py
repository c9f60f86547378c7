"""What became known of points is asked for once, however many they are, and no further than somebody wants to hear."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from resurgam.restore.unattended import newest_unproven
from resurgam.stores.base import Entry, Store
from resurgam.stores.local import LocalStore
from resurgam.testing.faults import Wrapped
from resurgam.vault.known import each_state, states
from resurgam.vault.records import RecordType
from resurgam.vault.signing import Role
from tests.journeys.world import World as System
from tests.support import World


class Told(Wrapped):
    """Which names were asked for."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.asked: list[str] = []

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one."""
        self.asked.append(name)
        return self.inner.get(name, offset, length)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the inner one."""
        self.asked.append(prefix)
        return self.inner.list(prefix)


def test_p11_records_are_read_as_far_as_somebody_listens(tmp_path: Path) -> None:
    """One listing; and of the points behind the one that was wanted, nothing."""
    world = World(str(tmp_path))
    for _ in range(4):
        sealed = world.capture()
        world.repository().put_record(
            RecordType.QUARANTINE, sealed.body.id, {"reason": "x"}, Role.APPROVER, world.clock
        )
    store = Told(world.store)
    repository = world.repository(store)
    points = repository.points()
    store.asked.clear()
    with closing(each_state(repository, points[::-1])) as stand:
        assert next(stand)[0] == points[-1]
    read = [name for name in store.asked if name.startswith("records/")]
    assert read[0] == "records/"
    assert [name.split("/")[1] for name in read[1:]] == [points[-1].body.id]
    store.asked.clear()
    assert newest_unproven(repository, None) is None  # on a schedule, where nothing is left to prove
    assert [name for name in store.asked if name.startswith("records/") and name.endswith("/")] == ["records/"]
    assert states(repository, points) == {one.body.id: repository.state(one) for one in points}


def test_p11_status_lists_records_once_where_nothing_is_proven(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year of captures that nobody proved is not a listing for each of them: at 50 ms each that is minutes."""
    world = System(str(tmp_path_factory.mktemp("world"))).ready()
    for _ in range(3):
        assert world.run("capture").code == 0
    listed: list[str] = []
    listing = LocalStore.list

    def telling(store: LocalStore, prefix: str = "") -> Iterator[Entry]:
        listed.append(prefix)
        return listing(store, prefix)

    monkeypatch.setattr(LocalStore, "list", telling)
    assert world.run("status").code == 0
    assert [prefix for prefix in listed if prefix.startswith("records/")] == ["records/"]
