"""A small agent on the real LangGraph, run by the tests as a process of its own: ``python langgraph_app.py VERB FILE ...``.

Its graph walks three nodes; ``ask`` interrupts and waits for a person where the thread was started with ``careful``. Each round
appends a step and adds it to a sum, and remembers it in the store, so that any tear between them shows.

    seed FILE            threads t0 to t4 with several rounds, w waiting at the interrupt, memories with and without an end
    state FILE ...       one line of JSON for each file: every thread's state and history
    resume FILE ANSWER   gives w its answer; prints its state
    remember FILE        one line of JSON: every memory
    run FILE             rounds on threads r0 to r3 without a rest, until standard input is closed
    whole FILE ...       fails unless in each file every thread of ``run`` is whole
"""

from __future__ import annotations

import json
import operator
import select
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import PutOp
from langgraph.store.sqlite import SqliteStore
from langgraph.types import Command, interrupt

MEMORIES = ("agent", "memories")


class State(TypedDict, total=False):
    """What a thread keeps."""

    steps: Annotated[list[int], operator.add]
    total: Annotated[int, operator.add]
    careful: bool
    answer: str


def count(state: State) -> State:
    """Another step."""
    number = len(state.get("steps", [])) + 1
    return {"steps": [number], "total": number}


def ask(state: State) -> State:
    """A careful thread waits here for a person."""
    return {"answer": interrupt({"question": "send it?"}) if state.get("careful") else "unasked"}


def graph(db: sqlite3.Connection, serde: Any = None) -> Any:
    """The agent over the database."""
    builder = StateGraph(State)
    builder.add_node("count", count)
    builder.add_node("ask", ask)
    builder.add_edge(START, "count")
    builder.add_edge("count", "ask")
    builder.add_edge("ask", END)
    return builder.compile(checkpointer=SqliteSaver(db, serde=serde))


@contextmanager
def opened(path: str, serde: Any = None) -> Iterator[tuple[Any, SqliteStore]]:
    """The agent and its store over one file, each with a connection as the library's ``from_conn_string`` makes it."""
    with (
        closing(sqlite3.connect(path, timeout=30, check_same_thread=False)) as threads,
        closing(sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)) as memories,
    ):
        agent, memory = graph(threads, serde), SqliteStore(memories)
        agent.checkpointer.setup()
        memory.setup()
        yield agent, memory


def thread(name: str) -> dict[str, Any]:
    """The configuration that names a thread."""
    return {"configurable": {"thread_id": name}}


def seed(path: str) -> None:
    """See the module's docstring."""
    with opened(path) as (agent, memory):
        for number in range(5):
            for _ in range(number + 1):
                agent.invoke({"careful": False}, thread(f"t{number}"))
        agent.invoke({"careful": True}, thread("w"))
        for number in range(4):
            memory.put(MEMORIES, f"fact {number}", {"text": f"remembered {number}", "cites": [f"chunk-{number}"]})
        memory.put(MEMORIES, "fleeting", {"text": "for an hour"}, ttl=60)
        memory.put(MEMORIES, "brief", {"text": "for a second"}, ttl=1 / 60)


def states(path: str) -> dict[str, Any]:
    """Every thread's state and history, as text that is equal where they are."""
    with opened(path) as (agent, _):
        names = sorted({found.config["configurable"]["thread_id"] for found in agent.checkpointer.list(None)})
        return {
            name: [repr(agent.get_state(thread(name))), [repr(s) for s in agent.get_state_history(thread(name))]]
            for name in names
        }


def resume(path: str, answer: str) -> None:
    """See the module's docstring."""
    with opened(path) as (agent, _):
        assert agent.get_state(thread("w")).next == ("ask",)
        agent.invoke(Command(resume=answer), thread("w"))
        print(json.dumps(agent.get_state(thread("w")).values))


def remember(path: str) -> None:
    """See the module's docstring."""
    with opened(path) as (_, memory):
        found = memory.search(MEMORIES[:1], limit=1000)
        print(json.dumps({item.key: item.value for item in found}))


def run(path: str) -> None:
    """See the module's docstring."""
    with opened(path) as (agent, memory):
        number = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            agent.invoke({"careful": False}, thread(f"r{number % 4}"))
            memory.batch([PutOp(MEMORIES, key, {"round": number}) for key in ("left", "right")])
            if number == 4:
                print("running", flush=True)
            number += 1


def whole(path: str) -> int:
    """The rounds of all threads, each of which must have all its steps, its sum, and its history back to the beginning."""
    rounds = 0
    with opened(path) as (agent, memory):
        for name in (f"r{number}" for number in range(4)):
            history = list(agent.get_state_history(thread(name)))
            for state in history:
                steps = state.values.get("steps", [])
                assert steps == list(range(1, len(steps) + 1)), f"{name}: steps are torn"
                assert state.values.get("total", 0) == sum(steps), f"{name}: the sum is not that of the steps"
            ids = [state.config["configurable"]["checkpoint_id"] for state in history]
            parents = [
                state.parent_config and state.parent_config["configurable"]["checkpoint_id"] for state in history
            ]
            assert parents == [*ids[1:], None], f"{name}: the history has a gap"
            rounds += len(history[0].values["steps"])
        left, right = (memory.value for memory in sorted(memory.search(MEMORIES), key=lambda m: m.key))
        assert left == right, "the two memories of one transaction differ"
        return rounds


def each(verb: Callable[[str], Any]) -> Callable[..., None]:
    """``verb`` over several files, a line of JSON for each."""

    def over(*paths: str) -> None:
        for path in paths:
            print(json.dumps(verb(path)), flush=True)

    return over


VERBS: dict[str, Callable[..., None]] = {
    "seed": seed,
    "state": each(states),
    "resume": resume,
    "remember": remember,
    "run": run,
    "whole": each(whole),
}

if __name__ == "__main__":
    VERBS[sys.argv[1]](*sys.argv[2:])
