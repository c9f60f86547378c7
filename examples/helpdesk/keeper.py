"""The keeper: the one client that adds knowledge. What it adds stands in four stores at once, or in none.

A note becomes chunks in the documents, their vectors in the index, a memory that cites them in the agent's store, and the last
line of ``prompts/notices.md``; every tenth is committed to the prompts' repository. The four are written inside the barrier and
carry one tag, so that a cut which lies between them shows (``disagreements``).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from . import documents, index
from .desk import agent_at
from .documents import NOTES, Chunk
from .embedder import Embedder
from .places import read
from .repository import commit

if TYPE_CHECKING:
    from langgraph.store.sqlite import SqliteStore

NOTICES = "notices.md"
SPACE = ("desk", NOTES)
COMMIT_EVERY = 10
SHOWN = 20  # keys named in a disagreement


class Keeper:
    """See the module's docstring; ``opened`` makes one."""

    def __init__(
        self,
        places: dict[str, str],
        documents_at: sqlite3.Connection,
        index_at: index.Index,
        store: SqliteStore,
        barrier: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._prompts = places["prompts"]
        self._embedder = Embedder.load(places["embedder"])
        self._documents, self._index, self._store, self._barrier = documents_at, index_at, store, barrier
        self._added = 0

    def add(self, title: str, texts: Sequence[str], tag: str, section: str = NOTES) -> list[Chunk]:
        """Add a document everywhere. Its chunks are embedded and indexed one after the other, once the documents have them."""
        with self._barrier():
            chunks = documents.add_document(self._documents, title, texts, section)
            for chunk in chunks:
                self._index.add([chunk], self._embedder.embed([chunk.words]))
            cited = [chunk.id for chunk in chunks]
            self._store.put(SPACE, str(cited[0]), {"tag": tag, "cites": cited})
            self._notice(cited[-1])
            self._added += 1
            if self._added % COMMIT_EVERY == 0:
                commit(self._prompts, f"Note chunk {cited[-1]}")
        return chunks

    def _notice(self, chunk: int) -> None:
        path = os.path.join(self._prompts, NOTICES)
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(f"# Notices\n\nThe newest note is chunk {chunk}\n")
        os.replace(f"{path}.new", path)


@contextmanager
def opened(places: dict[str, str], barrier: Callable[[], AbstractContextManager[Any]]) -> Iterator[Keeper]:
    """The keeper of the system at ``places``. Raises BlockingIOError where another one is at work."""
    with ExitStack() as held:
        connection = held.enter_context(documents.connected(places["documents"]))
        adding = held.enter_context(index.adding(places["index"]))
        _, store = held.enter_context(agent_at(places["agent"]))
        yield Keeper(places, connection, adding, store, barrier)


def disagreements(places: dict[str, str]) -> list[str]:
    """What the stores say differently; empty where they agree. Reads only, and fetches every vector."""
    with (
        documents.connected(places["documents"], read_only=True) as connection,
        index.Reader(places["index"]) as reader,
        agent_at(places["agent"], read_only=True) as (_, store),
    ):
        chunks = {row[0] for row in connection.execute("SELECT id FROM chunks")}
        notes = {row[0] for row in connection.execute(_NOTES)}
        tickets = {row[0] for row in connection.execute("SELECT id FROM tickets WHERE question LIKE '% case %'")}
        indexed = reader.index.ids()
        built_by = reader.index.embedder
        memories = [(row[0], row[1]) for row in store.conn.execute("SELECT prefix || '.' || key, value FROM store")]
    cited, noted, promised = _remembered(memories)
    newest = int(read(os.path.join(places["prompts"], NOTICES)).split()[-1])
    differences = {
        "chunks without a vector": chunks - indexed,
        "vectors without a chunk": indexed - chunks,
        "chunks cited and not there": cited - chunks,
        "notes not remembered": notes ^ noted,
        "tickets not remembered": tickets - promised,
        "notices about another note": {newest} ^ {max(notes, default=0)},
        "embedders that did not build the index": {Embedder.load(places["embedder"]).digest} - {built_by},
    }
    return [f"{what}: {sorted(keys)[:SHOWN]}" for what, keys in differences.items() if keys]


_NOTES = f"SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE d.section = '{NOTES}'"


def _remembered(memories: list[tuple[str, str | bytes]]) -> tuple[set[int], set[int], set[int]]:
    """Of the agent's memories: the chunks that they cite, the notes that they are about, the tickets that they name."""
    cited: set[int] = set()
    noted: set[int] = set()
    tickets: set[int] = set()
    for path, value in memories:
        memory = json.loads(value)
        cited.update(memory.get("cites", ()))
        tickets.add(memory.get("ticket", 0))
        if path.startswith(f"{'.'.join(SPACE)}."):
            noted.update(memory["cites"])
    return cited, noted, tickets
