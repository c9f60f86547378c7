"""What befalls a helpdesk and changes no answer: maintenance, moves, rebuilding. A check that cries at one of these will be
switched off. Each takes the system's folder and returns in a sentence what it did. Nobody else may be at work meanwhile.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing

from . import documents, index
from .embedder import Embedder
from .places import places_in, read


def vacuum(home: str, component: str = "documents") -> str:
    """A database is written anew without its free pages, and its log taken into it."""
    path = places_in(home)[component]
    before = os.path.getsize(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        opened.execute("VACUUM")
    return f"{os.path.basename(path)} is vacuumed: {before:,} bytes are now {os.path.getsize(path):,}"


def compact_index(home: str) -> str:
    """Chroma's own database is vacuumed, and its queue of additions, which the graph has taken in, merged (FTS5)."""
    path = os.path.join(places_in(home)["index"], "chroma.sqlite3")
    before = os.path.getsize(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES ('optimize')")
        opened.execute("VACUUM")
    return f"chroma.sqlite3 is compacted: {before:,} bytes are now {os.path.getsize(path):,}"


def reorder_rows(home: str, seed: int = 0) -> str:
    """The agent's memories are taken out and put in again, in another order."""
    rng = random.Random(seed)
    with closing(sqlite3.connect(places_in(home)["agent"], timeout=30)) as opened, opened:
        rows = opened.execute("SELECT * FROM store").fetchall()
        rng.shuffle(rows)
        opened.execute("DELETE FROM store")
        places = ", ".join("?" * len(rows[0]))
        opened.executemany(f"INSERT INTO store VALUES ({places})", rows)
    return f"{len(rows)} memories stand in another order"


def rebuild_index(home: str, seed: int = 0) -> str:
    """The index is built anew by the same embedder from the same chunks, which come in another order: another graph."""
    places = places_in(home)
    with documents.connected(places["documents"], read_only=True) as opened:
        chunks = documents.every_chunk(opened)
    random.Random(seed).shuffle(chunks)
    shutil.rmtree(places["index"])
    index.create(places["index"], chunks, Embedder.load(places["embedder"]))
    return f"the index was built anew from {len(chunks)} chunks in another order"


def reformat_tools(home: str, indent: int = 4) -> str:
    """The tools' file is laid out otherwise, its members sorted."""
    path = os.path.join(places_in(home)["tools"], "tools.json")
    offered = json.loads(read(path))
    with open(path, "w", encoding="utf-8") as file:
        json.dump(offered, file, indent=indent, sort_keys=True)
    return f"tools.json is indented by {indent}, its members sorted"


def comment_settings(home: str, words: str = "Looked at, and left as it is.") -> str:
    """The settings get a comment, and another order."""
    path = places_in(home)["config"]
    lines = [line for line in read(path).splitlines() if line.strip()]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join([f"# {words}", *reversed(lines)]) + "\n")
    return "config.yaml has a comment more, and its lines in another order"


def touch(home: str, seconds: int = 86400) -> str:
    """Every file gets an earlier time, as by a copy that does not keep times."""
    count = 0
    for place in places_in(home).values():
        found = [os.path.join(where, name) for where, _, names in os.walk(place) for name in names] or [place]
        for path in found:
            at = os.stat(path).st_mtime - seconds
            os.utime(path, (at, at))
            count += 1
    return f"{count} files are {seconds} s older"


HARMLESS: dict[str, Callable[[str], str]] = {
    "vacuum": vacuum,
    "compaction": compact_index,
    "reordered-rows": reorder_rows,
    "rebuilt-index": rebuild_index,
    "reformatted-tools": reformat_tools,
    "commented-settings": comment_settings,
    "older-files": touch,
}
