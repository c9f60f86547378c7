"""Time travels too: memories that expire, after a restore three hours later, as the component declares."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.store.sqlite import SqliteStore
from langgraph.store.sqlite.base import VECTOR_MIGRATIONS

from resurgam.drivers.base import Blob, Rows
from resurgam.drivers.langgraph import LangGraphDriver
from resurgam.errors import IntegrityError
from resurgam.model.system import Component
from resurgam.testing.carrying import take
from resurgam.testing.faults import ManualClock

CUT = datetime.now(UTC) - timedelta(hours=3)
LATER = 3 * 3600.0
POLICIES = ("keep", "freeze", "extend", "drop")
LIKE_SQLITE = "%Y-%m-%d %H:%M:%S"

# name: minutes of life, and how many of them were left at the cut
# Name to minutes of life, and minutes of it left at the cut: more than any run of the tests takes, less than three hours or more.
MEMORIES = {"lasting": (None, 0.0), "short": (150.0, 90.0), "long": (600.0, 400.0), "read": (240.0, 120.0)}


def component(path: Path, ttl: str) -> Component:
    """The component over ``path``."""
    return Component(name="agent", driver="langgraph", location=str(path), options={"ttl": ttl})


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A store made by the library, whose dates are then laid around the cut; ``read`` was refreshed by SQLite's own clock."""
    path = tmp_path / "agent.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        SqliteSaver(db).setup()
        store = SqliteStore(db)
        store.setup()
        for key, (minutes, left) in MEMORIES.items():
            store.put(("agent",), key, {"text": f"the {key} memory"}, ttl=minutes)
            ends = CUT + timedelta(minutes=left)
            form = ends.strftime(LIKE_SQLITE) if key == "read" else ends.isoformat(" ")
            db.execute("UPDATE store SET expires_at = ? WHERE key = ? AND ttl_minutes IS NOT NULL", (form, key))
        for statement in VECTOR_MIGRATIONS:
            db.execute(statement)
        for key in MEMORIES:
            db.execute(
                "INSERT INTO store_vectors (prefix, key, field_name, embedding) VALUES ('agent', ?, 'text', ?)",
                (key, struct.pack("<4f", *range(4))),
            )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def restored(live: Path, ttl: str, place: Path) -> Path:
    """Captured at the cut, restored three hours later."""
    clock = ManualClock(CUT)
    driver = LangGraphDriver(clock)
    taken = take(driver, component(live, ttl))
    assert [ttl in finding.what for finding in taken.findings if "memories expire" in finding.what] == [True]  # P10
    clock.advance(LATER)
    target = component(place / ttl / "agent.db", ttl)
    assert driver.write(taken.through_memory(), target) == target
    assert [entry.name for entry in (place / ttl).iterdir()] == ["agent.db"]
    return Path(target.location)


def dates(path: Path) -> dict[str, str | None]:
    """Key to date, past the library."""
    with closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT key, expires_at FROM store"))


def swept(path: Path) -> set[str]:
    """What the library's own sweep leaves, now."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        store = SqliteStore(db)
        store.setup()
        store.sweep_ttl()
        return {item.key for item in store.search(("agent",), limit=100)}


def test_keep_is_the_same_bytes(live: Path, tmp_path: Path) -> None:
    """P4: nothing is changed where nothing was asked for; the library then ends what has passed."""
    copy = restored(live, "keep", tmp_path)
    assert copy.read_bytes() == live.read_bytes()
    assert swept(copy) == {"lasting", "long"}


def test_freeze_lets_no_time_have_passed(live: Path, tmp_path: Path) -> None:
    """What was left at the cut is left at the restore, in the form each date had."""
    before, copy = dates(live), restored(live, "freeze", tmp_path)
    after = dates(copy)
    assert after["lasting"] is None
    for key in ("short", "long", "read"):
        old, new = before[key], after[key]
        assert old is not None
        assert new is not None
        assert datetime.fromisoformat(new) - datetime.fromisoformat(old) == timedelta(seconds=LATER)
        assert len(new) == len(old)
    assert swept(copy) == set(MEMORIES)


def test_extend_gives_each_its_whole_life_again(live: Path, tmp_path: Path) -> None:
    """From the restore on, as long as it was given when it was written."""
    copy = restored(live, "extend", tmp_path)
    now, after = CUT + timedelta(seconds=LATER), dates(copy)
    assert after["short"] == (now + timedelta(minutes=150)).isoformat(" ")
    assert after["read"] == (now + timedelta(minutes=240)).strftime(LIKE_SQLITE)
    assert after["lasting"] is None
    assert swept(copy) == set(MEMORIES)


def test_drop_leaves_nothing_of_what_has_passed(live: Path, tmp_path: Path) -> None:
    """Neither the memory nor its vector nor its bytes; the others keep their dates."""
    copy = restored(live, "drop", tmp_path)
    assert dates(copy) == {key: date for key, date in dates(live).items() if key in {"lasting", "long"}}
    with closing(sqlite3.connect(copy)) as db:
        assert {key for (key,) in db.execute("SELECT key FROM store_vectors")} == {"lasting", "long"}
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    data = copy.read_bytes()
    assert b"the short memory" in live.read_bytes()
    assert b"the short memory" not in data
    assert b"the long memory" in data


@pytest.mark.parametrize("policy", POLICIES)
def test_a_faithful_restore_has_the_same_fingerprint(live: Path, tmp_path: Path, policy: str) -> None:
    """P4: what the policy may change is looked past, and nothing else; the journal mode is as it was."""
    copy, driver = restored(live, policy, tmp_path), LangGraphDriver()
    right = driver.fingerprint(component(live, policy))
    assert driver.fingerprint(component(copy, policy)) == right
    assert copy.read_bytes()[18:20] == b"\x02\x02"
    for statement in (
        "UPDATE store SET value = '{}' WHERE key = 'lasting'",
        "UPDATE store SET ttl_minutes = 5, expires_at = '2030-01-01 00:00:00' WHERE key = 'lasting'",
    ):
        with closing(sqlite3.connect(copy)) as db, db:
            db.execute(statement)
        changed = driver.fingerprint(component(copy, policy))
        assert changed != right
        right = changed


def test_a_changed_text_shows_though_its_date_may_move(live: Path, tmp_path: Path) -> None:
    """P4: under freeze and extend only the date is looked past, not the memory that has one."""
    driver = LangGraphDriver()
    for policy in ("freeze", "extend"):
        copy = restored(live, policy, tmp_path)
        right = driver.fingerprint(component(copy, policy))
        with closing(sqlite3.connect(copy)) as db, db:
            db.execute("UPDATE store SET value = '{}' WHERE key = 'short'")
        assert driver.fingerprint(component(copy, policy)) != right


def test_a_date_that_is_none_stays_as_it_is(live: Path, tmp_path: Path) -> None:
    """Nothing is guessed."""
    with closing(sqlite3.connect(live)) as db, db:
        db.execute("UPDATE store SET expires_at = 'some day' WHERE key = 'read'")
    assert dates(restored(live, "freeze", tmp_path))["read"] == "some day"


def test_without_the_time_of_the_cut_nothing_is_moved(live: Path, tmp_path: Path) -> None:
    """P12: a point that does not say when it was taken is refused, not moved by a guess; drop does not need it."""
    driver = LangGraphDriver()
    taken = take(driver, component(live, "freeze"))
    items = [item for item in taken.through_memory() if isinstance(item, Blob | Rows)]
    for item in items:
        if isinstance(item, Blob):
            item.meta = {name: value for name, value in item.meta.items() if name != "t"}
    target = component(tmp_path / "restored" / "agent.db", "freeze")
    with pytest.raises(IntegrityError) as refused:
        driver.write(items, target)
    assert "drop" in refused.value.next_step
    assert not list((tmp_path / "restored").iterdir())
    driver.write(items, component(tmp_path / "restored" / "agent.db", "drop"))
