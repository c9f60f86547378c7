"""The agent: a LangGraph graph over the desk's parts. See the package's docstring for its nodes.

What it knows of a conversation is the thread's state, which LangGraph writes to ``agent.db`` after each node. What it does
elsewhere it does in ``record`` and ``settle``, inside the barrier: a ticket in the documents and the memory that names it
are both there at a cut, or neither. A node that was interrupted by a crash is run again by LangGraph; ``record`` then finds its own
memory and opens no second ticket.
"""

from __future__ import annotations

import operator
import re
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypedDict

from examples.handbook.people import Ticket
from examples.handbook.router import Router

from . import documents
from .documents import Chunk
from .index import Found
from .places import Settings
from .rules import Rules

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.store.base import BaseStore

ANSWERS, DECISIONS = "answers", "decisions"  # kinds of memory; a namespace is ("customers", "7", "answers")


class State(TypedDict, total=False):
    """A thread. ``turns`` grows by one a question; all else is about the newest."""

    thread: str
    customer: int
    question: str
    found: list[list[float]]
    topic: str
    chunks: list[int]
    answer: str
    action: str
    ticket: int
    approved: bool
    turns: Annotated[list[dict[str, Any]], operator.add]


class Parts(NamedTuple):
    """What the nodes work with."""

    search: Callable[[str, int], list[Found]]
    opened: sqlite3.Connection
    router: Router
    rules: Rules
    settings: Settings
    write: Callable[[str], str] | None  # a language model, where one writes the answers
    barrier: Callable[[], AbstractContextManager[Any]]


def build(
    parts: Parts, saver: BaseCheckpointSaver[Any] | None, store: BaseStore | None
) -> CompiledStateGraph[Any, Any]:
    """The graph; without a store it only answers: it remembers nothing and does nothing."""
    from langgraph.graph import END, START, StateGraph

    nodes = _Nodes(parts, store)
    graph = StateGraph(State)
    graph.add_node("retrieve", nodes.retrieve)
    graph.add_node("route", nodes.route)
    graph.add_node("compose", nodes.compose)
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", "route")
    graph.add_edge("route", "compose")
    if store is None:
        graph.add_edge("compose", END)
    else:
        graph.add_node("record", nodes.record)
        graph.add_node("approve", nodes.approve)
        graph.add_node("settle", nodes.settle)
        graph.add_edge("compose", "record")
        graph.add_conditional_edges("record", nodes.needs_approval, {True: "approve", False: END})
        graph.add_edge("approve", "settle")
        graph.add_edge("settle", END)
    return graph.compile(checkpointer=saver)


class _Nodes:
    """One method a node: the state in, what changes of it out."""

    def __init__(self, parts: Parts, store: BaseStore | None) -> None:
        self._parts = parts
        self._store = store

    def retrieve(self, state: State) -> State:
        found = self._parts.search(state["question"], self._parts.settings.candidates)
        return {"found": [[one.chunk, one.distance] for one in found]}

    def route(self, state: State) -> State:
        topic = self._parts.router.route(state["question"])
        known = documents.chunks_of(self._parts.opened, (int(chunk) for chunk, _ in state["found"]))
        near = {int(chunk): distance for chunk, distance in state["found"] if chunk in known}
        own = self._parts.settings.own_section
        ranked = sorted(near, key=lambda chunk: (near[chunk] * (own if known[chunk].section == topic else 1.0), chunk))
        return {"topic": topic, "chunks": ranked[: self._parts.settings.passages]}

    def compose(self, state: State) -> State:
        rules, question = self._parts.rules, state["question"]
        if rules.policies.refuses(question):
            chunks, answer, action = [], rules.policies.refusal, ""
        else:
            action = rules.action_for(question)
            known = documents.chunks_of(self._parts.opened, state["chunks"])
            chunks = [chunk for chunk in state["chunks"] if chunk in known]
            answer = self._written(question, state["topic"], [known[chunk] for chunk in chunks])
        turn = {"question": question, "topic": state["topic"], "chunks": chunks, "answer": answer}
        return {"chunks": chunks, "answer": answer, "action": action, "ticket": 0, "turns": [turn]}

    def record(self, state: State) -> State:
        assert self._store is not None
        space, key = ("customers", str(state["customer"]), ANSWERS), f"{state['thread']}-{len(state['turns'])}"
        if known := self._store.get(space, key):
            return {"ticket": known.value["ticket"]}
        with self._parts.barrier():
            ticket = self._ticket(state) if state["action"] else 0
            value = {"question": state["question"], "topic": state["topic"], "cites": state["chunks"], "ticket": ticket}
            self._store.put(space, key, value)
        return {"ticket": ticket}

    def needs_approval(self, state: State) -> bool:
        return state["action"] in self._parts.rules.approve

    def approve(self, state: State) -> State:
        from langgraph.types import interrupt

        asked = {name: state.get(name) for name in ("action", "ticket", "customer", "question")}
        return {"approved": interrupt(asked) == "yes"}

    def settle(self, state: State) -> State:
        assert self._store is not None
        with self._parts.barrier():
            documents.close_ticket(self._parts.opened, state["ticket"])
            decision = {"action": state["action"], "approved": state["approved"], "cites": state["chunks"]}
            decision["ticket"] = state["ticket"]
            self._store.put(("customers", str(state["customer"]), DECISIONS), str(state["ticket"]), decision)
        return {"answer": f"{state['action']}: {'approved' if state['approved'] else 'declined'}"}

    def _written(self, question: str, topic: str, passages: list[Chunk]) -> str:
        if not passages:
            return self._parts.rules.unknown
        quoted = [f"[{one.id}] {one.heading}: {self._quoted(one)}" for one in passages]
        sources = ", ".join(str(one.id) for one in passages)
        text = self._parts.rules.answer.substitute(
            question=question, topic=topic, passages="\n".join(quoted), sources=sources
        ).strip()
        if self._parts.write:
            text = f"{self._parts.write(text)}\nSources: {sources}"
        return self._parts.rules.policies.redacted(text)

    def _quoted(self, passage: Chunk) -> str:
        return " ".join(re.split(r"(?<=[.:;!?]) ", passage.text)[: self._parts.settings.sentences])

    def _ticket(self, state: State) -> int:
        """A ticket about the first chunk cited; the documents want one, so a question without any is about the first."""
        waits = self.needs_approval(state)
        about = state["chunks"][0] if state["chunks"] else 1
        opened = datetime.now(UTC).isoformat()
        ticket = Ticket(state["customer"], about, state["question"], "waiting" if waits else "open", opened)
        return documents.open_ticket(self._parts.opened, ticket, (state["question"], state["answer"]))
