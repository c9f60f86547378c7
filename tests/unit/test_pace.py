"""``limits.read_mb_s`` and ``limits.cpu`` are kept, by a clock that the test moves, and by counting."""

from __future__ import annotations

import io
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from resurgam.drivers.base import Rows
from resurgam.model.system import Limits
from resurgam.vault import intake, pace, workers
from resurgam.vault.sharing import SMALL
from tests.support import Table, World


class FakeTime:
    """``time`` as the module uses it; sleeping moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(pace, "time", fake)
    return fake


def test_the_average_is_the_limit(clock: FakeTime) -> None:
    limited = pace.Pace(1e6)
    for _ in range(100):
        limited.spend(100_000)
    assert clock.now - 1000.0 == pytest.approx(10.0, abs=0.3)


def test_a_pause_saves_no_more_than_a_burst(clock: FakeTime) -> None:
    limited = pace.Pace(1e6)
    clock.now += 3600
    limited.spend(1_000_000)
    assert clock.now - 4600.0 == pytest.approx(0.75)


def test_without_a_limit_nothing_waits(clock: FakeTime) -> None:
    pace.Pace(None).spend(1 << 40)
    assert clock.now == 1000.0


def test_threads_draw_from_one_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what four threads read while no time passes, each has a moment of its own, and the last is when the limit says."""
    ends = list[float]()
    monkeypatch.setattr(pace, "time", FrozenTime(ends))
    limited = pace.Pace(1e6)
    threads = [threading.Thread(target=draw, args=(limited, 25)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(ends) == pytest.approx(1010.0), "4 x 25 draws of a tenth of a second each"
    assert len(set(ends)) == len(ends), "two threads had the same bytes' time"


class FrozenTime:
    """Nothing passes; until when each sleeper would sleep is noted."""

    def __init__(self, ends: list[float]) -> None:
        self.ends = ends

    def monotonic(self) -> float:
        return 1000.0

    def sleep(self, seconds: float) -> None:
        self.ends.append(round(1000.0 + seconds, 6))


class Yielding(int):
    """Lets other threads run in the midst of being drawn."""

    def __truediv__(self, other: float) -> float:
        time.sleep(0.0005)
        return int(self) / other


def draw(limited: pace.Pace, times: int) -> None:
    for _ in range(times):
        limited.spend(Yielding(100_000))


def test_processor_time_is_paid_for_after_it_was_used(clock: FakeTime) -> None:
    """Half of a processor: what took ten seconds of work takes twenty, whoever did it."""
    used = 7.0  # to start, which is nobody's
    limited = pace.Pace(None, 0.5, lambda: used)
    for _ in range(100):
        used += 0.1
        clock.now += 0.1
        limited.spend(1 << 20)
    assert clock.now - 1000.0 == pytest.approx(20.0, abs=0.3)


def test_the_slower_of_two_limits_holds(clock: FakeTime) -> None:
    used = 0.0
    limited = pace.Pace(1e6, 2.0, lambda: used)
    for _ in range(100):
        used += 0.02  # of which two processors do ten times as much
        limited.spend(100_000)
    assert clock.now - 1000.0 == pytest.approx(10.0, abs=0.3)


def test_rows_are_decoded_at_the_pace(clock: FakeTime) -> None:
    used = 0.0

    def batches() -> object:
        nonlocal used
        for number in range(50):
            used += 0.1
            yield [(number,)]

    rows = Rows("t", ("id",), ("id",), batches())  # type: ignore[arg-type]
    (paced,) = pace.Pace(None, 0.5, lambda: used).each([rows])
    assert isinstance(paced, Rows)
    assert [batch for batch in paced.batches] == [[(number,)] for number in range(50)]  # noqa: C416
    assert clock.now - 1000.0 == pytest.approx(10.0, abs=0.5)


def test_what_a_child_uses_is_used_while_it_works() -> None:
    """Else the limit would not hold until it has ended; and it is not counted twice then."""
    before = workers.processor_seconds()
    ended, child = workers.fork(lambda: spin(0.3))
    told = b"".join(iter(lambda: os.read(ended, 1 << 16), b""))  # it has told, and may not have ended
    workers.require_well(told)
    seen = workers.processor_seconds() - before
    workers.end({ended: child})
    after = workers.processor_seconds() - before
    assert after >= 0.29
    assert after < 0.3 + 0.29, "counted twice"
    assert seen >= 0.29 or not sys.platform.startswith("linux")


def spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.fixture
def full(tmp_path: Path) -> World:
    """Files of every way in: small, by content, by structure, a database's pages, one that moves while it is read."""
    world, rng = World(str(tmp_path)), Random(4)
    array = io.BytesIO()
    np.save(array, np.frombuffer(rng.randbytes(3 << 20), "<u4"))
    database = sqlite3.connect(":memory:")
    database.execute("create table t (body)")
    database.execute("insert into t values (?)", (rng.randbytes(1 << 20),))
    world.live.files = {
        b"array.npy": array.getvalue(),
        b"database": database.serialize(),
        b"moving": rng.randbytes(SMALL * 2),
        b"moving-small": rng.randbytes(4000),
        b"text": b"words " * 400_000,
        **{b"small-%d" % n: rng.randbytes(2000) for n in range(300)},
    }
    world.live.moves = {name: [rng.randbytes(5000), rng.randbytes(SMALL * 3)] for name in (b"moving", b"moving-small")}
    return world


def test_no_byte_is_read_that_was_not_drawn(full: World, clock: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way a file goes in, in whichever thread, and however often it is read again; and none goes in by a child's."""
    drawn, spend = list[int](), pace.Pace.spend

    def noted(self: pace.Pace, size: int) -> None:
        drawn.append(size)
        spend(self, size)

    monkeypatch.setattr(pace.Pace, "spend", noted)
    monkeypatch.setattr(intake, "COPIED_FROM", 0)
    monkeypatch.setattr(intake, "NUMBERS_COPIED_FROM", 0)
    monkeypatch.setattr(intake, "coders", None)  # calling it would fail
    full.system = msgspec.structs.replace(full.system, limits=Limits(read_mb_s=1))
    point = full.capture()
    probed = 200  # single bytes, by which the new end of a file that moves is found
    assert sum(drawn) + probed >= full.driver.read_bytes > 8 << 20
    assert clock.now - 1000.0 >= (full.driver.read_bytes - probed) / 1e6 - 0.25
    restored = full.restored(point)["files"]
    assert {name: data for name, data in full.live.files.items() if b"moving" not in name}.items() <= restored.items()


def test_a_capture_stands_still_for_what_it_has_used(
    full: World, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that take a processor second for each thousand, at a quarter of a processor."""
    full.live.tables = {"t": Table(("id",), ("id",), [(n,) for n in range(20_000)])}
    monkeypatch.setattr(workers, "processor_seconds", lambda: full.driver.decoded / 1000)
    full.system = msgspec.structs.replace(full.system, limits=Limits(cpu=0.25))
    full.capture()
    assert clock.now - 1000.0 == pytest.approx(80.0, abs=5.0)
