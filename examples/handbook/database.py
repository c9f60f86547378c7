"""The database: documents and their chunks with a full-text index, customers, tickets, conversations. SQLite in WAL mode.

``chunks_index`` is an FTS5 index with external content: the text stands once, in ``chunks``, and triggers keep the index in
step with it.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import NamedTuple
from urllib.parse import quote

from . import corpus, people

BUSY = 30.0  # seconds that a client waits for another's lock; longer than a capture may ever hold it
LEAST_CHUNKS = 2000

SCHEMA = """
CREATE TABLE documents (id INTEGER PRIMARY KEY, section TEXT NOT NULL, title TEXT NOT NULL, source TEXT NOT NULL,
                        licence TEXT NOT NULL);
CREATE TABLE chunks (id INTEGER PRIMARY KEY, document_id INTEGER NOT NULL REFERENCES documents(id), position INTEGER NOT NULL,
                     heading TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, phone TEXT NOT NULL,
                        plan TEXT NOT NULL, since TEXT NOT NULL);
CREATE TABLE tickets (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers(id),
                      chunk_id INTEGER NOT NULL REFERENCES chunks(id), question TEXT NOT NULL, state TEXT NOT NULL,
                      opened TEXT NOT NULL);
CREATE TABLE conversations (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers(id),
                            ticket_id INTEGER NOT NULL REFERENCES tickets(id), said TEXT NOT NULL, at TEXT NOT NULL);
CREATE VIRTUAL TABLE chunks_index USING fts5(heading, text, content='chunks', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER chunks_put AFTER INSERT ON chunks BEGIN
  INSERT INTO chunks_index(rowid, heading, text) VALUES (new.id, new.heading, new.text);
END;
CREATE TRIGGER chunks_drop AFTER DELETE ON chunks BEGIN
  INSERT INTO chunks_index(chunks_index, rowid, heading, text) VALUES ('delete', old.id, old.heading, old.text);
END;
CREATE TRIGGER chunks_change AFTER UPDATE ON chunks BEGIN
  INSERT INTO chunks_index(chunks_index, rowid, heading, text) VALUES ('delete', old.id, old.heading, old.text);
  INSERT INTO chunks_index(rowid, heading, text) VALUES (new.id, new.heading, new.text);
END;
"""

_WORD = re.compile(r"[a-z0-9_]+")
_STOP = frozenset(
    _WORD.findall(
        "a an and are as at be by can do does for from get has have how i if in into is it its of on one or over than that the "
        "their them this to two was what when where which why with without would you your"
    )
)


class Passage(NamedTuple):
    """A chunk that was found; a lower ``score`` is better (FTS5's bm25)."""

    id: int
    section: str
    heading: str
    text: str
    score: float


class Filled(NamedTuple):
    """What ``fill`` put in: counts, and what the router is trained on."""

    documents: int
    texts: list[str]
    sections: list[str]


def connect(path: str) -> sqlite3.Connection:
    """Open an existing database for a client. Raises sqlite3.Error."""
    database = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=BUSY, isolation_level=None)
    database.execute("PRAGMA foreign_keys = ON")
    return database


def fill(path: str, seed: int) -> Filled:
    """Make the database at ``path``, which must not exist yet."""
    filled = Filled(0, [], [])
    rng = random.Random(seed)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(SCHEMA)
        database.execute("BEGIN")
        for number, document in enumerate(corpus.documents(), 1):
            row = (number, document.section, document.title, document.source, corpus.LICENCE)
            database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", row)
            for position, (heading, text) in enumerate(document.chunks()):
                chunk = (number, position, heading, text)
                database.execute("INSERT INTO chunks(document_id, position, heading, text) VALUES (?, ?, ?, ?)", chunk)
                filled.texts.append(f"{heading.replace('.', ' ')} {text}")
                filled.sections.append(document.section)
        _people(database, rng)
        database.execute("INSERT INTO chunks_index(chunks_index) VALUES ('optimize')")
        database.execute("COMMIT")
    if len(filled.texts) < LEAST_CHUNKS:
        raise SystemExit(f"This Python has texts for {len(filled.texts)} chunks only; {LEAST_CHUNKS} are needed.")
    return filled._replace(documents=number)


def search(database: sqlite3.Connection, question: str, limit: int) -> list[Passage]:
    """The best chunks for the words of ``question``, best first; equal ones by id."""
    words = [word for word in _WORD.findall(question.lower()) if word not in _STOP]
    if not words:
        return []
    found = database.execute(
        "SELECT c.id, d.section, c.heading, c.text, bm25(chunks_index, 3.0, 1.0) AS score FROM chunks_index"
        " JOIN chunks c ON c.id = chunks_index.rowid JOIN documents d ON d.id = c.document_id"
        " WHERE chunks_index MATCH ? ORDER BY score, c.id LIMIT ?",
        (" OR ".join(f'"{word}"' for word in words), limit),
    )
    return [Passage(*row) for row in found]


def headings(database: sqlite3.Connection) -> list[tuple[int, str]]:
    """Id and heading of every chunk."""
    return list(database.execute("SELECT id, heading FROM chunks ORDER BY id"))


def put_ticket(database: sqlite3.Connection, ticket: people.Ticket, said: Iterable[str]) -> None:
    """A ticket with its conversation."""
    number = database.execute(
        "INSERT INTO tickets(customer_id, chunk_id, question, state, opened) VALUES (?, ?, ?, ?, ?)", ticket
    ).lastrowid
    database.executemany(
        "INSERT INTO conversations(customer_id, ticket_id, said, at) VALUES (?, ?, ?, ?)",
        [(ticket.customer_id, number, words, ticket.opened) for words in said],
    )


def _people(database: sqlite3.Connection, rng: random.Random) -> None:
    database.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?)", people.customers(rng))
    for ticket in people.tickets(rng, headings(database)):
        put_ticket(database, ticket, (ticket.question, "Thank you, somebody will look at it."))
