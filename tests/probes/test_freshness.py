"""The probe ``freshness``: ages at the instant that the system is of."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.probes.freshness import FreshnessProbe, instant
from resurgam.probes.runner import LiveRunner

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Noon:
    """A clock that stands still."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def system(root: Path, *times: str) -> System:
    with closing(sqlite3.connect(root / "live.db")) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS items (at TEXT)")
        database.executemany("INSERT INTO items VALUES (?)", [(time,) for time in times])
    component = Component(name="documents", driver="sqlite", location=str(root / "live.db"))
    return System(name="s", vault=VaultPlace(path="v", keys="k"), components=(component,), root=str(root))


def ask(system: System, **more: Json) -> Observation:
    fields: dict[str, Json] = {
        "component": "documents",
        "sql": "SELECT max(at) FROM items",
        "tolerance": {"range": [0, 900]},
    } | more
    return FreshnessProbe(Noon()).ask(Probe(name="fresh", kind="freshness", **fields), system, LiveRunner(system.root))


def test_live_is_as_old_as_now_and_a_copy_as_its_cut(tmp_path: Path) -> None:
    live = system(tmp_path, "2026-03-01T11:50:00+00:00", "2026-02-01T00:00:00+00:00")
    seen = ask(live)
    assert seen.answers == {"age": 600.0}
    assert seen.by["newest age"] == "2026-03-01T11:50:00+00:00"
    cut = msgspec.structs.replace(live, at="2026-03-01T11:51:00Z")
    assert ask(cut).answers == {"age": 60.0}


def test_a_command_tells_several_times_in_several_forms(tmp_path: Path) -> None:
    seconds = NOW.timestamp() - 5
    told = json.dumps({"answers": {"text": "2026-03-01 11:59:00", "seconds": seconds, "milliseconds": seconds * 1000}})
    (tmp_path / "told.py").write_text(f"print({told!r})")
    run = (sys.executable, "-I", "told.py")
    seen = ask(system(tmp_path), component=None, sql=None, run=run)
    assert seen.answers == {"text": 60.0, "seconds": 5.0, "milliseconds": 5.0}


def test_an_item_from_after_the_cut_has_a_negative_age(tmp_path: Path) -> None:
    live = msgspec.structs.replace(system(tmp_path, "2026-03-01T11:50:00Z"), at="2026-03-01T11:49:00Z")
    assert ask(live).answers == {"age": -60.0}


def test_no_item_is_no_fresh_item(tmp_path: Path) -> None:
    """P4: absence does not pass."""
    seen = ask(system(tmp_path))
    assert seen.answers == {}
    assert seen.error is not None
    assert "no item" in seen.error
    assert ask(system(tmp_path, "last week")).error is not None


@pytest.mark.parametrize("value", [True, "x", [1], {}, 1e300])
def test_what_is_no_time_is_refused(value: Json) -> None:
    with pytest.raises(ValueError, match="no time"):
        instant(value)


@pytest.mark.parametrize("wrong", [{"tolerance": "exact"}, {"sql": None}, {"run": ("x",)}, {"component": "none"}])
def test_wrong_questions_are_refused(tmp_path: Path, wrong: dict[str, Json]) -> None:
    with pytest.raises(ManifestError):
        ask(system(tmp_path), **wrong)
