"""The cut: all frozen, all noted, all let go, on every way out; and what is asked at its positions (P1, design 5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import pytest

from resurgam.capture.cut import release, take
from resurgam.capture.invariants import hold_invariants
from resurgam.drivers.base import Freeze, Rows, Traits
from resurgam.errors import LimitExceeded, Unreachable
from resurgam.model.point import Cut, Position, Severity
from resurgam.model.system import Component, Invariant, Json, Limits, System, VaultPlace
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
        self.answers: dict[str, Sequence[Json | tuple[Json, ...]]] = {}
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

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """See ``drivers.base.Queries``."""
        assert at.token in self.pinned, "asked at a position that is let go"
        if statement == "unreachable":
            raise Unreachable("gone", untouched="all", next_step="again")
        rows = [value if isinstance(value, tuple) else (value,) for value in self.answers[statement]]
        return Rows("answer", tuple("abc"[: len(rows[0])]) if rows else ("a",), (), [[row] for row in rows])


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


# Invariants -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(clock: ManualClock) -> tuple[Told, System, Cut]:
    """Two components that are frozen and can be asked."""
    driver = Told(clock, Freeze.PIN)
    system = a_system(a="told", b="told")
    return driver, system, take(system, lambda _kind: driver, clock)


def found(asked: tuple[Told, System, Cut], **words: Json) -> list[tuple[str, tuple[str, ...]]]:
    """What one invariant finds; always BROKEN."""
    driver, system, cut = asked
    system = msgspec.structs.replace(system, invariants=(Invariant(name="i", **words),))
    findings = hold_invariants(system, cut, lambda _kind: driver)
    assert {finding.severity for finding in findings} <= {Severity.BROKEN}
    return [(finding.what, finding.keys) for finding in findings]


@pytest.mark.parametrize(
    ("needed", "there", "missing"),
    [
        ([], [], ()),
        ([1, 2], [2, 1, 3], ()),
        ([1, 2, 2], [1], ("2",)),
        ([None, "x"], ["x"], ("None",)),
        ([1], [], ("1",)),
    ],
)
def test_key_inclusion(
    asked: tuple[Told, System, Cut], needed: list[Json], there: list[Json], missing: tuple[str, ...]
) -> None:
    """Each key of the one side exists on the other; the finding names those that do not."""
    asked[0].answers = {"SELECT n": needed, "SELECT t": there}
    told = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert [keys for _, keys in told] == ([missing] if missing else [])


def test_composite_keys_are_compared_whole(asked: tuple[Told, System, Cut]) -> None:
    """P12: that the first column of a key exists on the other side says nothing of the key."""
    asked[0].answers = {"SELECT n": [(1, "x"), (1, "y"), (2, "x")], "SELECT t": [(1, "x"), (2, "y")]}
    ((what, keys),) = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert "2 of 3" in what
    assert keys == ("1, y", "2, x")


def test_sides_of_different_width_cannot_be_compared(asked: tuple[Told, System, Cut]) -> None:
    """P12: a mistake in the manifest is said as one, not as keys that are missing."""
    asked[0].answers = {"SELECT n": [(1, "x")], "SELECT t": [1]}
    ((what, keys),) = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert "2 and 1 columns" in what
    assert keys == ()


def test_at_most_twenty_examples(asked: tuple[Told, System, Cut]) -> None:
    """A finding is for reading."""
    asked[0].answers = {"SELECT n": list(range(1000)), "SELECT t": []}
    ((what, keys),) = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert "1000 of 1000" in what
    assert len(keys) == 20


@pytest.mark.parametrize(
    ("answer", "expect", "holds"), [([3], 3, True), ([3], 4, False), ([], 0, False), (["a", "b"], "a", True)]
)
def test_expected_values(asked: tuple[Told, System, Cut], answer: list[Json], expect: Json, holds: bool) -> None:
    """The first value of the first row; no row is no value."""
    asked[0].answers = {"SELECT count": answer}
    assert (found(asked, component="a", sql="SELECT count", expect=expect) == []) is holds


def test_what_cannot_be_asked_is_broken(asked: tuple[Told, System, Cut]) -> None:
    """P12: not knowing is not holding."""
    ((what, _),) = found(asked, every="a: unreachable", exists_in="b: x")
    assert "could not be asked" in what

    class Mute(MemoryDriver):
        """Has no queries."""

    mute = Mute()
    system = msgspec.structs.replace(asked[1], invariants=(Invariant(name="i", component="a", sql="x"),))
    (finding,) = hold_invariants(system, asked[2], lambda _kind: mute)
    assert finding.severity is Severity.BROKEN
    assert isinstance(mute.traits, Traits)
