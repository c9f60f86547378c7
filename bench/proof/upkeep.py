"""Harmless changes that the examples do not have, to either system; as ``damage``, but no answer may change by them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from safetensors import safe_open
from safetensors.numpy import save_file

Places = dict[str, str]


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        yield connection


def page_size(places: Places, component: str, size: int) -> str:
    """A database is vacuumed into pages of another size."""
    with _opened(places[component]) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute(f"PRAGMA page_size = {int(size)}")
        database.execute("VACUUM")
        database.execute("PRAGMA journal_mode = WAL")
    return f"{component} has pages of {size} bytes"


def reindex(places: Places, component: str) -> str:
    """Indexes are built anew, and statistics gathered for the query planner."""
    with _opened(places[component]) as database:
        database.execute("REINDEX")
        database.execute("ANALYZE")
    return f"the indexes of {component} are built anew"


def search_index(places: Places, how: str) -> str:
    """The full-text index is merged (``optimize``) or built anew (``rebuild``)."""
    with _opened(places["documents"]) as database:
        database.execute("INSERT INTO chunks_index(chunks_index) VALUES (?)", (how,))
    return f"the full-text index: {how}"


def reload(places: Places, component: str) -> str:
    """A database is dumped as SQL and loaded again: another file with the same rows."""
    path = places[component]
    with _opened(path) as old:
        dumped = "\n".join(old.iterdump())
    with _opened(f"{path}.new") as new:
        new.execute("PRAGMA journal_mode = WAL")
        new.executescript(dumped)
    for name in (path, f"{path}-wal", f"{path}-shm"):
        if os.path.exists(name):
            os.unlink(name)
    os.replace(f"{path}.new", path)
    return f"{component} is dumped and loaded again"


def more_tickets(places: Places, count: int) -> str:
    """Customers have opened tickets meanwhile, which no answer depends on."""
    put = "INSERT INTO tickets(customer_id, chunk_id, question, state, opened) VALUES (?, 1, 'And?', 'open', '2026-02-01')"
    with _opened(places["documents"]) as database:
        database.executemany(put, [(number % 300 + 1,) for number in range(count)])
    return f"{count} tickets more"


def more_memories(places: Places, count: int) -> str:
    """Other customers are remembered."""
    put = 'INSERT INTO store(prefix, key, value) VALUES (?, ?, \'{"question": "?", "cites": [], "ticket": 0}\')'
    with _opened(places["agent"]) as database:
        database.executemany(put, [(f"customers.{1000 + n}.answers", f"other-{n}") for n in range(count)])
    return f"{count} memories of other customers more"


def repack(places: Places) -> str:
    """The prompts' repository is packed, as git does by itself."""
    from dulwich.repo import Repo

    with closing(Repo(places["prompts"])) as repository:
        store = repository.object_store
        count = store.pack_loose_objects()
    return f"{count} objects of the prompts' repository are packed"


def copy_tree(places: Places, component: str) -> str:
    """A folder is copied away and back, so that its files have other inodes, times and order."""
    path = places[component]
    shutil.copytree(path, f"{path}.copy", copy_function=shutil.copyfile)
    shutil.rmtree(path)
    os.rename(f"{path}.copy", path)
    return f"{component} is another copy of itself"


def save_router(places: Places, note: str) -> str:
    """The router is saved again with a note."""
    path = os.path.join(places["router"], "router.safetensors")
    with safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata()) | {"note": note}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    save_file(tensors, path, metadata=metadata)
    return f"the router is saved again with the note {note!r}"


def comment(places: Places, component: str, name: str, words: str) -> str:
    """A settings file gets a comment."""
    path = os.path.join(places[component], name) if name else places[component]
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"\n# {words}\n")
    return f"{name or component} has a comment more"


def nothing(places: Places) -> str:
    """Nothing but another copy at another place."""
    return f"nothing: {len(places)} components at another path"
