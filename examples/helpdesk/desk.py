"""The desk: all parts of one helpdesk opened together, and what can be asked of it.

    with opened(places, barrier=path) as desk:  desk.ask(…), desk.resume(…)      as a client that acts
    with answering(places) as desk:             desk.answer(…), desk.thread(…)   as a probe: read-only, leaving no trace

Everything is read from the places given and from nowhere else, so that a copy can be asked in the place of the original.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from examples.handbook import database
from examples.handbook.router import Router

from . import agent, documents
from .embedder import Embedder
from .index import Found, Reader
from .places import settings_in
from .rules import Rules

if TYPE_CHECKING:
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.store.sqlite import SqliteStore

Search = Callable[[str, int], list[Found]]


class Waiting(Exception):
    """The thread waits for a human's decision, and takes no other question before it has it."""


class Answer(NamedTuple):
    """What was answered. ``ticket`` is 0 where none was opened; ``waits`` tells what a human is asked to approve."""

    topic: str
    chunks: list[int]
    text: str
    thread: str = ""
    ticket: int = 0
    waits: dict[str, Any] | None = None


class Desk:
    """See the module's docstring."""

    def __init__(self, graph: Any, store: SqliteStore | None, search: Search) -> None:
        self._graph = graph
        self._store = store
        self.search = search

    def answer(self, question: str) -> Answer:
        """Answer one question, remembering nothing. For a desk that is only ``answering``."""
        state = self._graph.invoke({"question": question, "turns": []}, {"configurable": {"thread_id": "asked"}})
        return Answer(state["topic"], state["chunks"], state["answer"])

    def ask(self, question: str, customer: int, thread: str) -> Answer:
        """A customer's next question in a thread. Raises Waiting where a decision is due first."""
        if (state := self.thread(thread))["waits"]:
            raise Waiting(f"Thread {thread} waits for a decision about: {state['waits']['question']}")
        return self._run({"thread": thread, "customer": customer, "question": question, "turns": []}, thread)

    def resume(self, thread: str, approved: bool) -> Answer:
        """A human's decision for a waiting thread. Raises Waiting where nothing waits for one."""
        from langgraph.types import Command

        if not self.thread(thread)["waits"]:
            raise Waiting(f"Thread {thread} does not wait for a decision.")
        return self._run(Command(resume="yes" if approved else "no"), thread)

    def thread(self, thread: str) -> dict[str, Any]:
        """How a thread stands: its last question and answer, what it would do next, and what it waits for."""
        state = self._graph.get_state({"configurable": {"thread_id": thread}})
        kept = {name: state.values.get(name) for name in ("question", "answer", "chunks", "action", "ticket")}
        waits = next((one.value for task in state.tasks for one in task.interrupts), None)
        return kept | {"turns": len(state.values.get("turns", ())), "next": list(state.next), "waits": waits}

    def remember(self, space: tuple[str, ...], key: str, value: dict[str, Any]) -> None:
        """Put a memory."""
        assert self._store is not None
        self._store.put(space, key, value)

    def _run(self, given: Any, thread: str) -> Answer:
        # "sync": when it has answered, what it knows is on disk
        state = self._graph.invoke(given, {"configurable": {"thread_id": thread}}, durability="sync")
        waits = self.thread(thread)["waits"]
        return Answer(state["topic"], state["chunks"], state["answer"], thread, state["ticket"], waits)


@contextmanager
def opened(
    places: dict[str, str],
    *,
    barrier: Callable[[], AbstractContextManager[Any]] = nullcontext,
    words_only: bool = False,
) -> Iterator[Desk]:
    """A desk that acts. With ``words_only`` chunks are found by their words (FTS5) and the index stays closed.

    Raises OSError, sqlite3.Error, SafetensorError, ValueError, KeyError or Chroma's own errors where a part is not usable.
    """
    with ExitStack() as held:
        saver, store = held.enter_context(agent_at(places["agent"]))
        parts, search = _parts(places, held, barrier, words_only=words_only, read_only=False)
        yield Desk(agent.build(parts, saver, store), store, search)


@contextmanager
def answering(places: dict[str, str]) -> Iterator[Desk]:
    """A desk that only answers and tells; it changes no byte. Raises as ``opened`` does."""
    with ExitStack() as held:
        saver, _ = held.enter_context(agent_at(places["agent"], read_only=True))
        parts, search = _parts(places, held, nullcontext, words_only=False, read_only=True)
        yield _Teller(agent.build(parts, None, None), agent.build(parts, saver, _NOTHING), search)


class _Teller(Desk):
    """Answers by a graph that keeps nothing, and reads threads by the whole one."""

    def __init__(self, graph: Any, whole: Any, search: Search) -> None:
        super().__init__(graph, None, search)
        self._whole = Desk(whole, None, search)

    def thread(self, thread: str) -> dict[str, Any]:
        return self._whole.thread(thread)


_NOTHING: Any = object()  # stands where a store would: reading a thread's state runs no node


@contextmanager
def agent_at(path: str, *, read_only: bool = False) -> Iterator[tuple[SqliteSaver, SqliteStore]]:
    """LangGraph's checkpointer and store in one file, each with a connection of its own. It is made where it is not yet."""
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.store.sqlite import SqliteStore

    uri = f"file:{quote(path)}?mode={'rw' if read_only else 'rwc'}"

    def connect(isolation: Any) -> closing[sqlite3.Connection]:
        made = sqlite3.connect(uri, uri=True, timeout=database.BUSY, check_same_thread=False, isolation_level=isolation)
        return closing(made)

    with connect("DEFERRED") as first, connect(None) as second:
        saver, store = SqliteSaver(first), SqliteStore(second)
        if read_only:
            first.execute("PRAGMA query_only = 1")
            second.execute("PRAGMA query_only = 1")
            saver.is_setup = store.is_setup = True  # it is, or there is nothing to read; setting up would write
        else:
            saver.setup()
            store.setup()
        yield saver, store


def _parts(
    places: dict[str, str],
    held: ExitStack,
    barrier: Callable[[], AbstractContextManager[Any]],
    *,
    words_only: bool,
    read_only: bool,
) -> tuple[agent.Parts, Search]:
    connection = held.enter_context(documents.connected(places["documents"], read_only=read_only))
    settings = settings_in(places["config"])
    rules = Rules.load(places["prompts"], places["tools"])
    search = _by_words(connection) if words_only else _by_meaning(places, held)
    write = None
    if settings.writer == "llm":
        from .llm import Llm

        write = Llm(places["llm"]).write
    elif settings.writer == "worded":
        from .wording import Worded

        write = Worded().write
    return agent.Parts(search, connection, Router.load(places["router"]), rules, settings, write, barrier), search


def _by_meaning(places: dict[str, str], held: ExitStack) -> Search:
    embedder = Embedder.load(places["embedder"])
    reader = held.enter_context(Reader(places["index"]))
    return lambda question, limit: reader.index.search(embedder.embed([question])[0], limit)


def _by_words(connection: sqlite3.Connection) -> Search:
    """Ranked by bm25; the rank stands where a distance would, since bm25 has no farthest."""

    def search(question: str, limit: int) -> list[Found]:
        ranked = database.search(connection, question, limit)
        return [Found(one.id, rank / limit) for rank, one in enumerate(ranked)]

    return search
