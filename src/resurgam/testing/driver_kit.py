"""The exam that every driver passes. A new driver is a module, a registry line and a subclass of :class:`DriverExam`.

The subclass says where a store is (three fixtures) and how to work with it *without the driver* (four hooks), so that a
driver can be caught lying; a driver that drops empty values from ``read`` and ``fingerprint`` alike is seen by ``peek`` only::

    class TestFiles(DriverExam):
        @pytest.fixture
        def driver(self) -> Driver: ...          # the driver under test
        @pytest.fixture
        def live(self, tmp_path) -> Component: ...     # where a store will be seeded
        @pytest.fixture
        def target(self, tmp_path) -> Component: ...   # bound to a place where nothing is
        def seed(self, component, data): ...     # make the store hold exactly data, from nothing or over what was there
        def peek(self, component): ...           # what it holds, as data
        def change(self, component, key, value): ...   # what a client does: put, or delete where value is None
        def pair_writer(self, component): ...    # the argument list of a busy client; see there

Data are named bytes; how a store keeps them (files, rows, documents) is the hooks' business. What differs between drivers is
read from ``Traits`` and ``Position.earned``, never from a class or a kind. Tests are numbered as the points of the exam.
Between read and write, items pass through memory in the order in which the vault hands them back (``through_memory``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from resurgam.drivers.base import Blob, Driver, Equality, InMemory, Item, Rows, Traits
from resurgam.errors import IntegrityError, NotFound, ResurgamError, TargetRefused
from resurgam.model.point import Position
from resurgam.model.system import Component, Consistency
from resurgam.testing.carrying import errors_of_nobody, read_all, running, take
from resurgam.testing.driver_machine import machine

Data = dict[str, bytes]  # what a store holds, as the hooks see it

SECRET = "sk-live-correct-horse-battery-staple"  # seeded as a value; nothing but that value's own bytes may hold it
PAIR = ("left", "right")  # the keys that the busy writer writes
MANY_CUTS = 24  # places at which a write is cut off, spread evenly where a store has more items


def pair_value(number: int) -> bytes:
    """What the busy writer puts under both keys in its round ``number``: any tear inside shows."""
    return b"%08d" % number * 4096


def pair_number(value: bytes) -> int:
    """The round in which ``value`` was written; AssertionError where it holds bytes of more than one."""
    number = int(value[:8])
    assert value == pair_value(number), f"torn: bytes of round {number} and of another one"
    return number


class DriverExam:
    """See the module's docstring. Every attribute and hook below may be overridden."""

    odd_keys: ClassVar[tuple[str, ...]] = (
        "with space", "ünïcödé", "e\u0301 decomposed", "quote'\"`", "percent%20", "-dash", "new\nline", "back\\slash",
        "🙂", ".hidden", "semi;colon", "$HOME", "*", "?", "NULL", "x" * 200, "CON", "trailing.", "\x01\x7f",
    )  # fmt: skip
    machine_examples: ClassVar[int] = 12  # runs of the machine in point 19; a soak raises it
    machine_steps: ClassVar[int] = 14

    # ---- what the subclass gives -----------------------------------------------------------------------------------

    @pytest.fixture
    def driver(self) -> Driver:
        """The driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def live(self) -> Component:
        """A component on a real store; the tests seed it."""
        raise NotImplementedError

    @pytest.fixture
    def target(self) -> Component:
        """The same component bound to a place where nothing is."""
        raise NotImplementedError

    def seed(self, component: Component, data: Data) -> None:
        """Make the store hold exactly ``data``, whether or not there was one before."""
        raise NotImplementedError

    def peek(self, component: Component) -> Data:
        """What the store holds."""
        raise NotImplementedError

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        """What a client does: put ``value`` under ``key``, or delete ``key`` where it is None."""
        raise NotImplementedError

    def pair_writer(self, component: Component) -> list[str]:
        """The argument list of a process that puts ``pair_value(n)`` under ``left`` and then under ``right`` for n = 1, 2, 3 ...
        as fast as it can, each by one act of the store, both in one transaction where it has them. It prints a line after the
        first round and ends with code 0 when its standard input is closed. It may wait for the store, and never meets an
        error."""
        raise NotImplementedError

    def stands(self, component: Component) -> bool:
        """Whether anything stands at the component's place."""
        return os.path.lexists(component.location)

    def leftovers(self, target: Component) -> list[str]:
        """What is left at and beside a target's place."""
        parent, name = os.path.split(target.location)
        return [entry for entry in os.listdir(parent) if entry.startswith(name)] if os.path.isdir(parent) else []

    def missing(self, live: Component) -> Component:
        """The component bound to a place where there is no store."""
        return live.bound_to(live.location + "-that-is-not-there")

    @contextmanager
    def forbidden(self, live: Component) -> Iterator[None]:
        """Meanwhile, nobody but a superuser may read the live store."""
        mode = os.stat(live.location).st_mode
        os.chmod(live.location, 0)
        try:
            yield
        finally:
            os.chmod(live.location, mode)

    # ---- the points ------------------------------------------------------------------------------------------------

    def round_trip(self, driver: Driver, live: Component, target: Component, data: Data) -> None:
        """Seed, capture, restore, compare by the hooks, by fingerprint, and by bytes where the driver claims them."""
        self.seed(live, data)
        taken = take(driver, live)
        restored = driver.write(taken.through_memory(), target)
        assert restored.location == target.location
        assert self.peek(restored) == data == self.peek(live)
        assert driver.fingerprint(restored) == driver.fingerprint(live)
        if driver.traits.equality is Equality.BYTES:
            assert take(driver, restored).blobs == taken.blobs
        driver.erase(target)
        assert not self.leftovers(target)

    def test_00_fits_the_port(self, driver: Driver) -> None:
        """It is a Driver, and its traits are values that can be relied on."""
        assert isinstance(driver, Driver)
        assert isinstance(driver.traits, Traits)
        assert driver.kind == driver.kind.lower()
        assert driver.traits.freeze_limit > 0

    def test_01_round_trip(self, driver: Driver, live: Component, target: Component) -> None:
        """P4: what comes back is what was there, by the store's own word and by fingerprint."""
        self.round_trip(driver, live, target, {"a": b"alpha", "b": b"", "c": bytes(range(256)) * 10})

    def test_02_later_writes_stay_out(self, driver: Driver, live: Component, target: Component) -> None:
        """P1: after the freeze nothing gets in, as far as the position's earned consistency claims it."""
        before = {"kept": b"1", "changed": b"old", "deleted": b"2", "empty": b""}
        self.seed(live, before)
        with driver.freeze(live) as position:
            pass
        self.change(live, "changed", b"new")
        self.change(live, "empty", b"no more")
        self.change(live, "deleted", None)
        self.change(live, "added", b"3")
        taken = read_all(driver, live, position)
        driver.release(live, position)
        after = self.peek(driver.write(taken.through_memory(), target))
        if position.earned >= Consistency.SNAPSHOT:
            assert after == before
            assert not taken.restless
        else:
            assert after.items() <= {*before.items(), *self.peek(live).items()}
            assert after["kept"] == b"1"

    def test_03_same_position_same_items(self, driver: Driver, live: Component) -> None:
        """Reading a position twice gives the same items in the same order."""
        self.seed(live, {f"key {number:03}": b"value" * number for number in range(60)})
        with driver.freeze(live) as position:
            pass
        first, again = read_all(driver, live, position), read_all(driver, live, position)
        driver.release(live, position)
        assert first.described() == again.described()
        paths = [item.path for item in first.items if isinstance(item, Blob)]
        assert paths == sorted(set(paths)), "paths come once each, in ascending order"

    def test_03_positions_differ(self, driver: Driver, live: Component) -> None:
        """Two positions with a change between them are not equal."""
        self.seed(live, {"a": b"1"})
        first = take(driver, live).position
        self.change(live, "a", b"2")
        assert take(driver, live).position.token != first.token

    def test_03_earned_is_within_the_traits(self, driver: Driver, live: Component) -> None:
        """A position never earns more than the traits claim."""
        self.seed(live, {"a": b"1"})
        assert take(driver, live).position.earned <= driver.traits.consistency

    def test_04_fingerprint_sees_changes(self, driver: Driver, live: Component) -> None:
        """A changed byte, a key more and a key less each show; asking twice does not."""
        self.seed(live, {"a": b"value", "b": b"2"})
        seen = [driver.fingerprint(live)]
        assert driver.fingerprint(live) == seen[0]
        for key, value in (("a", b"valuE"), ("c", b""), ("b", None)):
            self.change(live, key, value)
            seen.append(driver.fingerprint(live))
        assert len(set(seen)) == len(seen)

    def test_04_fingerprint_ignores_order(self, driver: Driver, live: Component, target: Component) -> None:
        """Where equality is logical, the order in which rows were written means nothing."""
        if driver.traits.equality is not Equality.LOGICAL:
            pytest.skip("this driver claims equal bytes, which is more")
        data = {f"{number:03}": b"%d" % number for number in range(50)}
        self.seed(live, data)
        self.seed(target, dict(reversed(data.items())))
        assert driver.fingerprint(live) == driver.fingerprint(target)

    def test_05_refuses_a_full_target(self, driver: Driver, live: Component, target: Component) -> None:
        """P10: what stands at the target is not touched."""
        self.seed(live, {"a": b"1"})
        self.seed(target, {"mine": b"do not touch"})
        with pytest.raises(TargetRefused) as refused:
            driver.write(take(driver, live).through_memory(), target)
        assert_says_what_next(refused.value)
        assert self.peek(target) == {"mine": b"do not touch"}

    def test_06_refuses_the_live_component(self, driver: Driver, live: Component) -> None:
        """P6: nothing is ever written where the live system is."""
        self.seed(live, {"a": b"1"})
        taken = take(driver, live)
        with pytest.raises(TargetRefused):
            driver.write(taken.through_memory(), live)
        assert self.peek(live) == {"a": b"1"}

    def test_07_freeze_lets_go(self, driver: Driver, live: Component) -> None:
        """The source works on after a freeze that ended by an exception, and after one that ended well."""
        self.seed(live, {"a": b"1"})
        with pytest.raises(ZeroDivisionError), driver.freeze(live):
            raise ZeroDivisionError
        self.change(live, "a", b"2")
        with driver.freeze(live) as position:
            pass
        self.change(live, "a", b"3")
        driver.release(live, position)
        assert self.peek(live) == {"a": b"3"}

    def test_07_freeze_keeps_its_limit(self, driver: Driver, live: Component) -> None:
        """A freeze over some megabytes ends well within the traits' limit."""
        self.seed(live, {f"{number:04}": b"%d" % number * 1000 for number in range(800)})
        began = monotonic()
        with driver.freeze(live) as position:
            lasted = monotonic() - began
        driver.release(live, position)
        assert lasted < driver.traits.freeze_limit

    def test_08_busy_writer_tears_nothing(self, driver: Driver, live: Component, target: Component) -> None:
        """P1: under another process that never stops writing, values are whole, and related as the position earned it."""
        filler = {f"filler {number:03}": b"x" * 20_000 for number in range(100)}
        self.seed(live, {**filler, **dict.fromkeys(PAIR, pair_value(0))})
        with running(self.pair_writer(live)):
            rounds = [take(driver, live) for _ in range(5)]
        for taken in rounds:
            found = self.peek(driver.write(taken.through_memory(), target))
            driver.erase(target)
            assert {key: found.get(key) for key in filler} == filler
            if taken.restless or any("vanished" in finding.what for finding in taken.findings):
                assert taken.position.earned is Consistency.CRASH  # torn, but it was said
                continue
            left, right = (pair_number(found[key]) for key in PAIR)
            if taken.position.earned is Consistency.TRANSACTION:
                assert left == right
            elif taken.position.earned is Consistency.SNAPSHOT:
                assert right in {left, left - 1}

    def test_09_cut_off_and_repeated(self, driver: Driver, live: Component, target: Component) -> None:
        """P5: a write cut off at any item leaves nothing that could start; erased and repeated, it ends right."""
        data = {f"{number:02}": b"value %d" % number for number in range(8)}
        self.seed(live, data)
        taken = take(driver, live)
        items = list(taken.through_memory())
        for cut in range(0, len(items) + 1, len(items) // MANY_CUTS + 1):
            with pytest.raises(ZeroDivisionError):
                driver.write(_cut_off(items, cut), target)
            assert not self.stands(target)
            driver.erase(target)
            assert not self.leftovers(target)
        assert self.peek(driver.write(items, target)) == data

    def test_10_missing_item(self, driver: Driver, live: Component, target: Component) -> None:
        """P12: an item less is refused, or shows in the fingerprint: never a quiet hole."""
        self.seed(live, {"a": b"1", "b": b"2"})
        right, items = driver.fingerprint(live), list(take(driver, live).through_memory())
        for number, item in enumerate(items):
            if isinstance(item, Rows) and item.view_of:
                continue  # a view's rows lie in its image
            try:
                restored = driver.write(items[:number] + items[number + 1 :], target)
            except IntegrityError as error:
                assert_says_what_next(error)
                assert not self.stands(target)
            else:
                assert driver.fingerprint(restored) != right
            driver.erase(target)
        with pytest.raises(IntegrityError):
            driver.write([], target)
        assert not self.leftovers(target)

    def test_10_corrupt_item(self, driver: Driver, live: Component, target: Component) -> None:
        """P12: bytes that end early are refused, and changed bytes show in the fingerprint."""
        self.seed(live, {"a": b"1" * 1000})
        right, taken = driver.fingerprint(live), take(driver, live)
        for victim in (item for item in taken.items if isinstance(item, Blob) and item.size):
            data = victim.read()
            items = list(taken.through_memory())
            number = next(n for n, item in enumerate(items) if isinstance(item, Blob) and item.path == victim.path)
            items[number] = Blob(victim.path, victim.size, InMemory(data[:-1]), victim.meta)
            with pytest.raises(IntegrityError):
                driver.write(items, target)
            assert not self.stands(target)
            flipped = bytes([data[0] ^ 1]) + data[1:]
            items[number] = Blob(victim.path, victim.size, InMemory(flipped), victim.meta)
            with suppress(IntegrityError):
                restored = driver.write(items, target)
                assert _fingerprint_or_none(driver, restored) != right
            driver.erase(target)

    def test_11_unknown_item_is_refused(self, driver: Driver, live: Component, target: Component) -> None:
        """P12: what a newer release may have written is not skipped."""
        self.seed(live, {"a": b"1"})
        unknown: Any = object()
        with pytest.raises(IntegrityError):
            driver.write([*take(driver, live).through_memory(), unknown], target)
        assert not self.stands(target)

    @pytest.mark.parametrize("count", [0, 1, 300])
    def test_12_counts(self, driver: Driver, live: Component, target: Component, count: int) -> None:
        """Nothing, one and many."""
        self.round_trip(driver, live, target, {f"key-{number}": b"%d" % number for number in range(count)})

    def test_12_odd_names(self, driver: Driver, live: Component, target: Component) -> None:
        """Names that tools trip over."""
        self.round_trip(driver, live, target, {key: key.encode() for key in self.odd_keys})

    def test_12_larger_than_a_chunk(self, driver: Driver, live: Component, target: Component) -> None:
        """Values beyond every buffer, and long runs of zeros."""
        noise = b"".join(number.to_bytes(4, "little") for number in range(1_300_000))
        self.round_trip(
            driver, live, target, {"noise": noise, "zeros": bytes(3_000_001), "both": bytes(99_999) + b"end"}
        )

    def test_13_no_secret_leaks(
        self, driver: Driver, live: Component, target: Component, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A value's bytes stay in the item's bytes: not in facts, paths, meta, findings, logs or errors."""
        caplog.set_level(logging.DEBUG)
        self.seed(live, {"password": SECRET.encode()})
        taken = take(driver, live)
        told = [repr(driver.inspect(live)), repr(taken.position), repr(taken.findings)]
        told += [repr((i.path, i.meta, i.stamp)) for i in taken.items if isinstance(i, Blob)]
        self.seed(target, {"password": SECRET.encode()})
        with pytest.raises(ResurgamError) as refused:
            driver.write(taken.through_memory(), target)
        told += [repr(refused.value), str(refused.value), caplog.text]
        assert not [text for text in told if SECRET in text]

    def test_14_release_and_erase_repeat(self, driver: Driver, live: Component, target: Component) -> None:
        """Letting go twice, letting go of what never was, and erasing nothing are all harmless."""
        self.seed(live, {"a": b"1"})
        with driver.freeze(live) as position:
            pass
        driver.release(live, Position(token="never given", earned=Consistency.CRASH))
        assert read_all(driver, live, position).items
        driver.release(live, position)
        driver.release(live, position)
        driver.erase(target)
        driver.write(take(driver, live).through_memory(), target)
        driver.erase(target)
        driver.erase(target)
        assert not self.leftovers(target)
        assert self.peek(live) == {"a": b"1"}

    def test_14_a_released_position_is_not_read(self, driver: Driver, live: Component) -> None:
        """P12: a position that is no longer held is an error, never the live state in its place."""
        self.seed(live, {"a": b"1"})
        position = take(driver, live).position
        with pytest.raises(ResurgamError):
            list(driver.read(live, position))

    def test_15_nothing_there(self, driver: Driver, live: Component) -> None:
        """P12: a store that is not there is NotFound, from every verb that reads."""
        gone = self.missing(live)
        for verb in (driver.inspect, driver.fingerprint, lambda c: driver.freeze(c).__enter__()):
            with pytest.raises(NotFound) as error:
                verb(gone)
            assert_says_what_next(error.value)

    def test_15_not_allowed(self, driver: Driver, live: Component) -> None:
        """P12: a store that this process may not read is Denied, from every verb that reads."""
        self.seed(live, {"a": b"1"})
        with self.forbidden(live):
            assert errors_of_nobody(live) == ["Denied"] * 3
        assert driver.inspect(live)

    def test_19_machine(self, driver: Driver, live: Component, target: Component) -> None:
        """Any sequence of puts, deletes, captures and restores agrees with a dict."""
        run_state_machine_as_test(
            machine(self, driver, live, target),
            settings=settings(
                max_examples=self.machine_examples,
                stateful_step_count=self.machine_steps,
                derandomize=True,
                deadline=None,
                database=None,
            ),
        )


def assert_says_what_next(error: ResurgamError) -> None:
    """P12: what was wrong, what was left untouched, what to do next."""
    assert error.message
    assert error.untouched
    assert error.next_step


def _cut_off(items: list[Item], after: int) -> Iterable[Item]:
    yield from items[:after]
    raise ZeroDivisionError


def _fingerprint_or_none(driver: Driver, component: Component) -> str | None:
    """None where the store is too broken to have one, which shows as well."""
    try:
        return driver.fingerprint(component)
    except IntegrityError:
        return None
