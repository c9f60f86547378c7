"""What an agent would take up again, or lose, is told by a real graph's database: a thread at its interrupt, one that was cut off,
one that is at its end, memories that expire."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

import pytest

from resurgam.drivers.base import HoldsWork
from resurgam.drivers.langgraph import LangGraphDriver
from resurgam.model.system import Component

pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra langgraph is not installed")

NOW = datetime.now(UTC)


class State(TypedDict, total=False):
    asked: str
    told: str


def graph(saver: Any) -> Any:
    """Reads, then acts: asks a human where it is told to, and breaks off where the network is down."""
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import interrupt

    def act(state: State) -> State:
        if state["asked"] == "refund":
            return {"told": interrupt("may I?")}
        if state["asked"] == "send":
            raise ConnectionError("the network is down")
        return {"told": "done"}

    built = StateGraph(State)
    built.add_node("read", lambda state: state)
    built.add_node("act", act)
    built.add_edge(START, "read")
    built.add_edge("read", "act")
    built.add_edge("act", END)
    return built.compile(checkpointer=saver)


@pytest.fixture
def agent(tmp_path: Path) -> Component:
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.store.sqlite import SqliteStore

    place = str(tmp_path / "agent.db")
    with closing(sqlite3.connect(place, check_same_thread=False)) as connection:
        compiled = graph(SqliteSaver(connection))
        for thread, asked in (("a-refund", "refund"), ("b-send", "send"), ("c-done", "look")):
            at = {"configurable": {"thread_id": thread}}
            if asked == "send":
                with pytest.raises(ConnectionError):
                    compiled.invoke({"asked": asked}, at, durability="sync")
            else:
                compiled.invoke({"asked": asked}, at, durability="sync")
    with closing(sqlite3.connect(place, check_same_thread=False, isolation_level=None)) as connection:
        store = SqliteStore(connection)
        store.setup()
        store.put(("notes",), "stays", {"text": "x"})
        store.put(("notes",), "ends", {"text": "x"}, ttl=60)
        store.put(("notes",), "later", {"text": "x"}, ttl=60 * 24)
    return Component(name="agent", driver="langgraph", location=place)


def test_threads_and_memories_are_told(agent: Component) -> None:
    driver = LangGraphDriver()
    assert isinstance(driver, HoldsWork)
    threads = ["thread a-refund waits for a decision before act", "thread b-send was cut off and would go on with act"]
    soon = driver.pending(agent, NOW)
    assert soon[:2] == threads
    assert soon[2].startswith("2 memories will expire, from ")
    later = driver.pending(agent, NOW + timedelta(hours=2))
    assert [line.partition(",")[0].partition(" (")[0] for line in later[2:]] == [
        "1 memories have expired and end at the next sweep",
        "1 memories will expire",
    ]
    assert len(later) == 4


def test_a_thread_that_was_answered_waits_no_more(agent: Component) -> None:
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.types import Command

    with closing(sqlite3.connect(agent.location, check_same_thread=False)) as connection:
        graph(SqliteSaver(connection)).invoke(
            Command(resume="yes"), {"configurable": {"thread_id": "a-refund"}}, durability="sync"
        )
    assert not [line for line in LangGraphDriver().pending(agent, NOW) if "a-refund" in line]


def test_what_cannot_be_decoded_is_counted(agent: Component) -> None:
    """Unknown is a value that is told (P8)."""
    with closing(sqlite3.connect(agent.location)) as connection, connection:
        connection.execute("UPDATE checkpoints SET type = 'msgpack+aes' WHERE thread_id = 'b-send'")
    told = LangGraphDriver().pending(agent, NOW)
    assert any(line.startswith("what 1 threads would do is not known") for line in told)


def test_looking_leaves_no_trace(agent: Component) -> None:
    with open(agent.location, "rb") as file:
        before = file.read()
    LangGraphDriver().pending(agent, NOW)
    with open(agent.location, "rb") as file:
        assert file.read() == before
