"""The driver langgraph on the real library: threads and memories come back as they were, and what is wrong is said."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from resurgam.drivers.base import Blob, Driver, Queries, Rows
from resurgam.drivers.langgraph import LangGraphDriver
from resurgam.errors import ManifestError
from resurgam.model.point import Severity
from resurgam.model.system import Component, Json
from resurgam.testing.carrying import running
from tests.drivers.langgraph_app import opened, thread
from tests.drivers.langgraph_kit import APP, app, capture, component, found, restored, sql, table


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that the agent made, to be copied and never changed."""
    path = tmp_path_factory.mktemp("seeded") / "agent.db"
    app("seed", path)
    return path


@pytest.fixture
def live(seeded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(seeded, tmp_path / "agent.db"))


# ---- the way there and back ------------------------------------------------------------------------------------------


def test_every_thread_and_memory_comes_back_equal(live: Path, tmp_path: Path) -> None:
    """P4: ``get_state`` and ``get_state_history`` of every thread are equal, asked by the application itself."""
    copy = restored(capture(live), tmp_path / "restored" / "agent.db")
    before, after = app("state", live, copy)
    assert before == after
    assert set(before) == {"t0", "t1", "t2", "t3", "t4", "w"}
    assert len(before["t4"][1]) == 20
    assert app("remember", copy) == app("remember", live)


def test_a_waiting_thread_goes_on_from_the_copy_alone(live: Path, tmp_path: Path) -> None:
    """P6: the copy takes the answer and ends rightly; the live thread waits on."""
    copy = restored(capture(live), tmp_path / "restored" / "agent.db")
    before = app("state", live)
    [state] = app("resume", copy, "yes")
    assert state == {"steps": [1], "total": 1, "careful": True, "answer": "yes"}
    assert app("state", live) == before
    assert "interrupts=(Interrupt(value={'question': 'send it?'}" in before[0]["w"][0]
    assert [row["waiting"] for row in table(capture(copy), "threads") if row["thread_id"] == "w"] == [0]


def test_no_thread_is_torn_under_a_running_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P1: 20 captures while another process runs threads without a rest; each copy is whole, and they go on."""
    path, driver, freezes = tmp_path / "agent.db", LangGraphDriver(), []
    copies = [tmp_path / f"restored-{number}.db" for number in range(20)]
    with running([*APP, "run", str(path)]):
        for copy in copies:
            began = time.perf_counter()
            with driver.freeze(component(path)) as at:
                pass
            freezes.append(time.perf_counter() - began)
            driver.write((item for item in driver.read(component(path), at) if isinstance(item, Blob)), component(copy))
            driver.release(component(path), at)
    rounds = app("whole", *copies)
    assert rounds == sorted(rounds)
    assert rounds[-1] > rounds[0] >= 4
    with capsys.disabled():
        print(
            f"\nfreeze: median {sorted(freezes)[10] * 1e3:.1f} ms, longest {max(freezes) * 1e3:.1f} ms; rounds {rounds}"
        )


def test_a_copy_taken_under_way_can_be_worked_with(tmp_path: Path) -> None:
    """P4: a thread that was cut in the midst of a round ends that round from the copy."""
    path, copy = tmp_path / "agent.db", tmp_path / "copy.db"
    with running([*APP, "run", str(path)]):
        taken = capture(path)
    with opened(str(restored(taken, copy))) as (agent, _):
        for name in ("r0", "r1", "r2", "r3"):
            if agent.get_state(thread(name)).next:
                agent.invoke(None, thread(name))
            agent.invoke({"careful": False}, thread(name))
    assert app("whole", copy)


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_views_speak_the_agents_words(live: Path) -> None:
    """Threads, their state and their memories are rows that a diff can name."""
    taken = capture(live)
    threads = {row["thread_id"]: row for row in table(taken, "threads")}
    assert {name: row["checkpoints"] for name, row in threads.items()} == {
        "t0": 4, "t1": 8, "t2": 12, "t3": 16, "t4": 20, "w": 3,
    }  # fmt: skip
    assert [name for name, row in threads.items() if row["waiting"]] == ["w"]
    assert {row["serializer"] for row in threads.values()} == {"msgpack"}
    state = {(row["thread_id"], row["channel"]): row["value"] for row in table(taken, "state")}
    assert state["t2", "steps"] == "[1,2,3]"
    assert state["t2", "total"] == 6
    memories = {row["key"]: row for row in table(taken, "memories")}
    assert json.loads(memories["fact 1"]["value"]) == {"text": "remembered 1", "cites": ["chunk-1"]}
    assert memories["fact 1"]["namespace"] == "agent.memories"
    assert memories["fact 1"]["expires_at"] is None
    assert memories["fleeting"]["expires_at"]
    assert {item.view_of for item in taken.items if isinstance(item, Rows)} == {b"database"}


def ask(driver: Driver, what: Component, statement: str) -> list[Any]:
    """What the driver answers at a position."""
    assert isinstance(driver, Queries)
    with driver.freeze(what) as at:
        pass
    try:
        return [row for batch in driver.query(what, at, statement).batches for row in batch]
    finally:
        driver.release(what, at)


def test_invariants_can_ask_memories_and_state(live: Path) -> None:
    """A citation in a memory is a key like any other; twice at one position, as two invariants do."""
    driver, what = LangGraphDriver(), component(live)
    cites = "SELECT json_each.value FROM memories, json_each(memories.value, '$.cites') ORDER BY 1"
    assert ask(driver, what, cites) == [(f"chunk-{number}",) for number in range(4)]
    assert ask(driver, what, "SELECT value FROM state WHERE thread_id = 't3' AND channel = 'total'") == [(10,)]
    assert ask(driver, what, "SELECT count(*) FROM checkpoints") == [(63,)]
    with pytest.raises(ManifestError):
        ask(driver, what, "DELETE FROM store")


def test_the_applications_own_tables_keep_their_names(live: Path) -> None:
    """A table called ``state`` stays what it was, in rows and in queries, and the missing view is told."""
    sql(live, "CREATE TABLE state (id INTEGER PRIMARY KEY, value TEXT)", "INSERT INTO state VALUES (1, 'mine')")
    taken = capture(live)
    assert table(taken, "state") == [{"id": 1, "value": "mine"}]
    assert [finding.severity for finding in found(taken, "No view state")] == [Severity.NOTE]
    assert ask(LangGraphDriver(), component(live), "SELECT value FROM state") == [("mine",)]


def test_an_unchanged_image_is_not_decoded_again(live: Path) -> None:
    """P11: what is known is not read; other options make it another view."""
    os.utime(live, (1_000_000_000, 1_000_000_000))
    driver, stamps = LangGraphDriver(), []
    for what in (component(live), component(live), component(live, ttl="drop"), component(live, key="${K}")):
        with driver.freeze(what) as at:
            pass
        items = driver.read(what, at)
        blob = next(items)
        assert isinstance(blob, Blob)
        blob.known = True
        assert not list(items)
        stamps.append(blob.stamp)
        driver.release(what, at)
    assert stamps[0] is not None
    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 3


# ---- facts -----------------------------------------------------------------------------------------------------------


def test_facts_tell_what_a_thread_needs(live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, versions, the code's digest, and the key by name: its value is nowhere."""
    code = tmp_path / "graph"
    (code / "__pycache__").mkdir(parents=True)
    (code / "agent.py").write_text("nodes = ['count', 'ask']\n")
    monkeypatch.setenv("AGENT_KEY", "correct horse battery staple")
    what = component(live, key="${AGENT_KEY}", graph="graph")
    facts = LangGraphDriver().inspect(what)
    assert {word: facts[word] for word in ("threads", "checkpoints", "memories", "waiting")} == {
        "threads": 6, "checkpoints": 63, "memories": 6, "waiting": 1,
    }  # fmt: skip
    assert facts["migrations"] == {"store": 4, "store_vectors": None}
    assert facts["expiring"]["memories"] == 2
    assert facts["serializers"]["msgpack"] > 63
    assert facts["libraries"]["langgraph-checkpoint-sqlite"] == "3.1.2"
    assert facts["key"] == {"name": "AGENT_KEY", "set_at_capture": True}
    assert "staple" not in repr(facts)
    (code / "__pycache__" / "agent.pyc").write_bytes(b"compiled")
    assert LangGraphDriver().inspect(what)["graph"] == facts["graph"]
    (code / "agent.py").write_text("nodes = ['count', 'send']\n")
    assert LangGraphDriver().inspect(what)["graph"] != facts["graph"]


def test_libraries_can_be_those_of_the_application(live: Path, tmp_path: Path) -> None:
    """Versions are read where the application runs, if that is another environment."""
    about = tmp_path / "site-packages" / "langgraph-9.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: langgraph\nVersion: 9.9\n")
    facts = LangGraphDriver().inspect(component(live, libraries="site-packages"))
    assert facts["libraries"]["langgraph"] == "9.9"
    assert facts["libraries"]["sqlite-vec"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": "forever"}, {"key": "0123456789abcdef"}, {"graph": "nowhere"}, {"libraries": "nowhere"}, {"keys": "x"},
        {"check": "slow"}, {"rows": "yes"},
    ],
)  # fmt: skip
def test_wrong_options_are_refused(live: Path, options: dict[str, Json]) -> None:
    """P12: with the next step, and without repeating what may be a key."""
    with pytest.raises(ManifestError) as refused:
        LangGraphDriver().inspect(component(live, **options))
    assert refused.value.next_step
    assert "0123456789abcdef" not in str(refused.value)
