"""``limits.read_mb_s`` is kept, by a clock that the test moves."""

from __future__ import annotations

import pytest

from resurgam.vault import pace


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
