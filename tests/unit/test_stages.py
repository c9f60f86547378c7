"""What matters most comes back first, with what it stands on; and a restore that began with that gets the rest."""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import msgspec
import pytest

from resurgam.clock import Clock
from resurgam.drivers.base import Drivers, Item
from resurgam.errors import NotFound, TargetRefused, UsageError
from resurgam.model.point import Particulars
from resurgam.model.system import Component, System, VaultPlace
from resurgam.restore import adding
from resurgam.restore.adding import add
from resurgam.restore.plan import restore_order
from resurgam.restore.run import restore, sweep_partial
from resurgam.restore.stages import Stage, of_stages, seconds_of, stages
from resurgam.restore.state import FILE, State, load, save
from resurgam.vault.repository import Repository, Sealed
from tests.support import World

TIERS = {"files": "standard", "index": "hot", "documents": "bronze", "archive": "cold", "notes": "cold"}
NEEDS: dict[str, tuple[str, ...]] = {"index": ("documents",), "documents": ("notes",)}


def system_of(tiers: dict[str, str], needs: dict[str, tuple[str, ...]]) -> System:
    parts = (
        Component(name=name, driver="memory", location=f"/live/{name}", tier=tier, derived_from=needs.get(name, ()))
        for name, tier in tiers.items()
    )
    return System(name="test", vault=VaultPlace(path="/none", keys="/none"), components=tuple(parts))


def test_what_a_hot_component_stands_on_is_hot() -> None:
    """Also through others, and whatever tier it says itself."""
    found = stages(system_of(TIERS, NEEDS))
    assert {name for name, stage in found.items() if stage is Stage.HOT} == {"index", "documents", "notes"}
    assert (found["files"], found["archive"]) == (Stage.STANDARD, Stage.COLD)
    assert restore_order(system_of(TIERS, NEEDS)) == ("notes", "documents", "index", "files", "archive")


@pytest.mark.parametrize("seed", range(40))
def test_no_order_by_stage_breaks_one_by_need(seed: int) -> None:
    """Property: in any system each component comes after what it is derived from, and no later stage before an earlier."""
    rng = Random(seed)
    names = [f"c{number}" for number in range(rng.randrange(2, 12))]
    needs = {name: tuple(rng.sample(names[:at], rng.randrange(min(at, 3) + 1))) for at, name in enumerate(names)}
    order = list(names)
    rng.shuffle(order)
    made = system_of({name: rng.choice(("hot", "gold", "cold")) for name in order}, needs)
    found, stage = restore_order(made), stages(made)
    assert sorted(found) == sorted(names)
    assert all(found.index(need) < found.index(name) for name in names for need in needs[name])
    assert [stage[name] for name in found] == sorted(stage.values())


def test_services_that_read_each_other_are_of_one_stage() -> None:
    parts = tuple(
        Component(name=name, driver="memory", location=f"/{name}", reads=reads, tier=tier)
        for name, reads, tier in (("a", ("b",), "cold"), ("b", ("a",), "hot"))
    )
    made = System(name="test", vault=VaultPlace(path="/none", keys="/none"), components=parts)
    assert set(stages(made).values()) == {Stage.HOT}
    assert set(restore_order(made)) == {"a", "b"}


def test_a_tier_that_is_none_is_told_with_those_that_are() -> None:
    """P12."""
    assert of_stages(system_of(TIERS, NEEDS), ["cold", "standard"]) == ("files", "archive")
    with pytest.raises(UsageError) as caught:
        of_stages(system_of(TIERS, NEEDS), ["bronze"])
    assert "hot, standard, cold" in caught.value.next_step


def test_times_are_told_by_stage() -> None:
    took = seconds_of(system_of(TIERS, NEEDS), {"index": 1.0, "notes": 2.0, "archive": 4.0})
    assert took == {"hot": (("index", "notes"), 3.0), "cold": (("archive",), 4.0)}


# ---- adding


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(str(tmp_path), ("hot", "rest", "more"))
    for number, held in enumerate(made.driver.held.values()):
        held.files[b"data"] = Random(number).randbytes(50_000)
    return made


def begun(world: World) -> tuple[Sealed, Repository, Particulars, str, Drivers, Clock]:
    """A restore of the component ``hot`` alone, and what it takes to add to it."""
    sealed = world.capture()
    repository = world.repository()
    particulars = repository.particulars(sealed.body)
    target = f"{world.folder}/out"
    drivers: Drivers = lambda _kind: world.driver  # noqa: E731
    restore(repository, sealed.body, particulars, target, drivers, world.clock, components=("hot",))
    return sealed, repository, particulars, target, drivers, world.clock


def test_p5_a_restore_grows_component_by_component(world: World) -> None:
    """The hot one is there first, by itself; in the end the folder is as one restore would have made it."""
    sealed, repository, particulars, target, drivers, clock = begun(world)
    assert sorted(set(os.listdir(target)) - {FILE}) == ["hot"]
    restored, names = add(repository, sealed.body, particulars, target, drivers, clock)
    assert names == ("rest", "more")
    whole = restore(repository, sealed.body, particulars, f"{target}2", drivers, clock)
    assert {name: copy.fingerprint for name, copy in restored.copies.items()} == {
        name: copy.fingerprint for name, copy in whole.copies.items()
    }
    assert load(target) == restored
    assert add(repository, sealed.body, particulars, target, drivers, clock)[1] == ()


@pytest.mark.parametrize("dies", ["rest", "more"])
def test_p5_cut_off_anywhere_the_same_command_goes_on(world: World, dies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while a component is built, nothing of it stands in the folder; killed before the state names it, it is made again."""
    sealed, repository, particulars, target, drivers, clock = begun(world)
    write = world.driver.write

    def killed(items: Iterator[Item], to: Component) -> Component:
        if to.name == dies:
            raise KeyboardInterrupt
        return write(items, to)

    with monkeypatch.context() as patched:
        patched.setattr(world.driver, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            add(repository, sealed.body, particulars, target, drivers, clock)
    assert not os.path.exists(os.path.join(target, dies))
    os.mkdir(os.path.join(target, "more"))  # renamed into its place, and not yet named
    restored, _ = add(repository, sealed.body, particulars, target, drivers, clock)
    assert set(restored.copies) == {"hot", "rest", "more"}
    assert [name for name in os.listdir(world.folder) if ".partial-" in name] == []


def test_p5_of_two_that_add_at_once_one_adds_and_the_other_sees_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first, and then looks anew: what is there by then is not made again under whoever reads it."""
    sealed, repository, particulars, target, drivers, clock = begun(world)
    write, both = world.driver.write, threading.Barrier(2)
    written: list[str] = []

    def told(items: Iterator[Item], to: Component) -> Component:
        if not written:
            both.wait(30)
        written.append(to.name)
        return write(items, to)

    def sweeping(place: str) -> None:
        sweep_partial(place)
        if os.path.isdir(f"{place}.partial-{load(place).id}"):  # the second one's: the first is at work
            both.wait(30)

    monkeypatch.setattr(world.driver, "write", told)
    monkeypatch.setattr(adding, "sweep_partial", sweeping)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(add, repository, sealed.body, particulars, target, drivers, clock)
        until = time.monotonic() + 30
        while not glob.glob(f"{target}.partial-*/rest"):
            assert time.monotonic() < until
            time.sleep(0.001)
        second = pool.submit(add, repository, sealed.body, particulars, target, drivers, clock)
        assert [first.result(30)[1], second.result(30)[1]] == [("rest", "more"), ()]
    assert written == ["rest", "more"]
    assert set(load(target).copies) == {"hot", "rest", "more"}


def test_p4_what_was_judged_does_not_grow(world: World) -> None:
    sealed, repository, particulars, target, drivers, clock = begun(world)
    save(target, msgspec.structs.replace(load(target), state=State.JUDGED))
    with pytest.raises(TargetRefused, match="judged"):
        add(repository, sealed.body, particulars, target, drivers, clock)
    assert sorted(set(os.listdir(target)) - {FILE}) == ["hot"]


def test_p1_nothing_of_another_point_is_added(world: World) -> None:
    _, _, _, target, drivers, clock = begun(world)
    other = world.capture()
    repository = world.repository()
    particulars = repository.particulars(other.body)
    with pytest.raises(TargetRefused, match="restore of point"):
        add(repository, other.body, particulars, target, drivers, clock)
    with pytest.raises(NotFound):
        add(repository, other.body, particulars, f"{target}-none", drivers, clock)
