"""The cut: under the barrier all frozen, all noted, all let go, on every way out (P1, design 5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from resurgam.barrier import exclusive
from resurgam.capture.cut import release, take
from resurgam.drivers.base import Freeze
from resurgam.errors import LimitExceeded, Unreachable
from resurgam.model.point import Cut, Position
from resurgam.model.system import Barrier, Component, Limits, System, VaultPlace
from resurgam.testing.faults import ManualClock
from tests.support import Held, MemoryDriver

EVENTS: list[str] = []


class Told(MemoryDriver):
    """Tells what is done to it; takes ``seconds`` of a manual clock to freeze; fails where it is told to."""

    def __init__(self, clock: ManualClock, freeze: Freeze, seconds: float = 0.0) -> None:
        super().__init__()
        self.traits = msgspec.structs.replace(MemoryDriver.traits, freeze=freeze)
        self.clock, self.seconds = clock, seconds
        self.error: BaseException | None = None
        self.limits: list[float | None] = []

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """See ``drivers.base.Driver``."""
        self.limits.append(limit)
        self.clock.advance(self.seconds)
        self.held.setdefault(component.name, Held())
        with super().freeze(component, limit) as position:
            EVENTS.append(f"freeze {component.name}")
            if self.error is not None:
                self.pinned.clear()
                raise self.error
            try:
                yield position
            finally:
                EVENTS.append(f"thaw {component.name}")

    def release(self, component: Component, at: Position) -> None:
        """See ``drivers.base.Driver``."""
        EVENTS.append(f"release {component.name}")
        super().release(component, at)


@pytest.fixture(autouse=True)
def _no_events() -> None:
    EVENTS.clear()


@pytest.fixture
def clock() -> ManualClock:
    """Time that the drivers spend."""
    return ManualClock()


def a_system(**drivers: str) -> System:
    """Components by name and driver."""
    parts = tuple(Component(name=name, driver=driver, location=f"/none/{name}") for name, driver in drivers.items())
    return System(name="s", vault=VaultPlace(path="/v", keys="/k"), components=parts, limits=Limits(freeze=5.0))


def test_pins_are_held_around_what_is_copied(clock: ManualClock) -> None:
    """P1: what holds its writers goes first and is let go last; positions stand in the manifest's order."""
    drivers = {"list": Told(clock, Freeze.LISTING, 0.5), "pin": Told(clock, Freeze.PIN, 0.25)}
    system = a_system(files="list", db="pin", more="list")
    cut = take(system, drivers.__getitem__, clock)
    assert EVENTS[:3] == ["freeze db", "freeze files", "freeze more"]
    assert EVENTS[-1] == "thaw db"
    assert [part.component for part in cut.parts] == ["files", "db", "more"]
    assert cut.freeze == 1.25
    assert cut.skew == 1.0
    assert all(part.thawed_at == 1.25 for part in cut.parts)
    assert [part.frozen_at for part in cut.parts] == [0.75, 0.25, 1.25]
    assert drivers["pin"].limits == [5.0]
    assert drivers["list"].limits == [4.75, 4.25]
    release(system, drivers.__getitem__, {part.component: part.position for part in cut.parts})
    assert not drivers["pin"].pinned
    assert not drivers["list"].pinned


def test_no_skew_where_all_stand_still(clock: ManualClock) -> None:
    """All pinned together at one moment: no skew. One component alone: none either."""
    pins = Told(clock, Freeze.PIN, 1.0)
    assert take(a_system(a="pin", b="pin"), lambda _kind: pins, clock).skew == 0.0
    lists = Told(clock, Freeze.LISTING, 1.0)
    assert take(a_system(a="list"), lambda _kind: lists, clock).skew == 0.0


def test_the_freeze_limit(clock: ManualClock) -> None:
    """P12: longer than the owner allows is no point, and everything is let go."""
    slow = Told(clock, Freeze.PIN, 3.0)
    with pytest.raises(LimitExceeded) as caught:
        take(a_system(a="pin", b="pin"), lambda _kind: slow, clock)
    assert "limits.freeze" in caught.value.next_step
    assert slow.pinned == {}
    assert [event for event in EVENTS if event.startswith("thaw")] == ["thaw b", "thaw a"]


@pytest.mark.parametrize(
    "error",
    [Unreachable("x", untouched="y", next_step="z"), KeyboardInterrupt(), OSError(5, "x")],
)
def test_a_freeze_that_fails_lets_the_others_go(clock: ManualClock, error: BaseException) -> None:
    """P1: on every way out, Ctrl-C too."""
    good, bad = Told(clock, Freeze.PIN), Told(clock, Freeze.LISTING)
    bad.error = error
    with pytest.raises(type(error)) as caught:
        take(a_system(a="good", b="bad"), {"good": good, "bad": bad}.__getitem__, clock)
    assert caught.value is error
    assert good.pinned == {}
    assert "thaw a" in EVENTS
    assert "release a" in EVENTS


def test_a_driver_that_hangs_is_broken_off() -> None:
    """P12: a watchdog ends a freeze that no driver's own limit ends, also inside a call that blocks."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("the watchdog interrupts the main thread")
    never = threading.Event()

    class Hanging(Told):
        @contextmanager
        def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
            never.wait(60)
            with super().freeze(component, limit) as position:
                yield position

    hanging = Hanging(ManualClock(), Freeze.PIN)
    system = msgspec.structs.replace(a_system(a="pin"), limits=Limits(freeze=0.01))
    began = time.monotonic()
    with pytest.raises(LimitExceeded):
        take(system, lambda _kind: hanging, ManualClock())
    assert EVENTS == []
    assert time.monotonic() - began < 30, "it was let go only when it had ended by itself"


def test_the_barrier_goes_up_before_and_down_after_all_freezes(clock: ManualClock, tmp_path: Path) -> None:
    """P1: nothing is frozen before it is had, it is held at every freeze, and free after the last thaw."""
    path = str(tmp_path / "barrier.lock")
    seen: list[bool] = []

    class Looking(Told):
        @contextmanager
        def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
            with super().freeze(component, limit) as position:
                with pytest.raises(LimitExceeded), exclusive(path, 0.0):
                    pass
                seen.append(True)
                yield position

    looking = Looking(clock, Freeze.PIN, 0.5)
    system = msgspec.structs.replace(a_system(a="pin", b="pin"), barrier=Barrier(file=path))
    cut = take(system, lambda _kind: looking, clock)
    assert seen == [True, True]
    assert cut.barrier is not None
    assert (cut.barrier.kind, cut.barrier.held, cut.barrier.passed) == ("file", 1.0, False)
    with exclusive(path, 0.0):
        pass


def test_each_component_has_its_own_freeze(clock: ManualClock) -> None:
    """From asking for it to its thaw: no writer was held for longer."""
    pins = Told(clock, Freeze.PIN, 0.5)
    cut = take(a_system(a="pin", b="pin", c="pin"), lambda _kind: pins, clock)
    assert [part.freeze for part in cut.parts] == [1.5, 1.0, 0.5]
    assert cut.freeze == 1.5


def test_a_cut_of_an_older_release_is_read() -> None:
    """What was sealed before barriers were known has none."""
    part = b'{"component":"a","frozen_at":0.0,"thawed_at":0.1,"position":{"token":"t","earned":2}}'
    old = b'{"at":"x","skew":0.0,"freeze":0.1,"parts":[' + part + b"]}"
    cut = msgspec.json.decode(old, type=Cut)
    assert (cut.barrier, cut.trouble, cut.parts[0].freeze) == (None, "", 0.0)
