"""The documents: chunks of text with customers and their tickets, in SQLite (WAL). The schema is the handbook's.

``fill`` takes the first chunks of each document in turn, so that a small desk still knows something of everything. Beyond what the
corpus has, it repeats it in *variations* that leave out every n-th word: volume for measurements, labelled as such in title and
source, never passed off as more knowledge.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from typing import NamedTuple
from urllib.parse import quote

from examples.handbook import corpus, database, people

NOTES = "notes"  # the section of what is added while the desk is open
INVENTED = "invented"


class Chunk(NamedTuple):
    """A row of ``chunks`` with the section of its document."""

    id: int
    section: str
    heading: str
    text: str

    @property
    def words(self) -> str:
        """What is embedded and what the router learns from."""
        return f"{self.heading.replace('.', ' ')} {self.text}"


@contextmanager
def connected(path: str, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """An existing database, for one client with any number of threads. Raises sqlite3.Error.

    A client that only reads opens it for writing too, and forbids itself to: the last to leave takes the log away."""
    uri = f"file:{quote(path)}?mode=rw"
    opened = sqlite3.connect(uri, uri=True, timeout=database.BUSY, isolation_level=None, check_same_thread=False)
    with closing(opened):
        opened.execute("PRAGMA foreign_keys = ON")
        opened.execute(f"PRAGMA query_only = {int(read_only)}")
        yield opened


@contextmanager
def transaction(opened: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; the writer's lock is taken at once, so that nothing read inside can be outdated."""
    opened.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        opened.execute("ROLLBACK")
        raise
    opened.execute("COMMIT")


def fill(path: str, wanted: int, seed: int) -> list[Chunk]:
    """Make the database at ``path``, which must not exist yet, with ``wanted`` chunks; returns them."""
    filled: list[Chunk] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("PRAGMA journal_mode = WAL")
        opened.executescript(database.SCHEMA)
        with transaction(opened):
            for number, (document, parts) in enumerate(_documents(wanted), 1):
                row = (number, document.section, document.title, document.source, corpus.LICENCE)
                opened.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", row)
                for position, (heading, text) in enumerate(parts):
                    chunk = Chunk(len(filled) + 1, document.section, heading, text)
                    opened.execute(
                        "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", (chunk.id, number, position, heading, text)
                    )
                    filled.append(chunk)
            rng = random.Random(seed)
            opened.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?)", people.customers(rng))
            for ticket in people.tickets(rng, [(chunk.id, chunk.heading) for chunk in filled]):
                database.put_ticket(opened, ticket, (ticket.question, "Thank you, somebody will look at it."))
    return filled


def unrepeated(path: str) -> int:
    """How many chunks come first, before any that repeats one of them."""
    with connected(path, read_only=True) as opened:
        asked = "SELECT count(*) FROM chunks c JOIN documents d ON d.id = c.document_id WHERE d.title NOT LIKE '%(variation %)'"
        count: int = opened.execute(asked).fetchone()[0]
    return count


def chunks_of(opened: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Chunk]:
    """The chunks with these ids, those that exist."""
    wanted = list(ids)
    rows = opened.execute(
        "SELECT c.id, d.section, c.heading, c.text FROM chunks c JOIN documents d ON d.id = c.document_id"
        f" WHERE c.id IN ({', '.join('?' * len(wanted))})",
        wanted,
    )
    return {row[0]: Chunk(*row) for row in rows}


def every_chunk(opened: sqlite3.Connection) -> list[Chunk]:
    """All chunks, by id."""
    asked = (
        "SELECT c.id, d.section, c.heading, c.text FROM chunks c JOIN documents d ON d.id = c.document_id ORDER BY c.id"
    )
    return [Chunk(*row) for row in opened.execute(asked)]


def add_document(opened: sqlite3.Connection, title: str, texts: Sequence[str], section: str = NOTES) -> list[Chunk]:
    """A new document with its chunks, in a transaction of its own."""
    added = []
    with transaction(opened):
        put = "INSERT INTO documents(section, title, source, licence) VALUES (?, ?, ?, ?)"
        number = opened.execute(put, (section, title, INVENTED, INVENTED)).lastrowid
        for position, text in enumerate(texts):
            put = "INSERT INTO chunks(document_id, position, heading, text) VALUES (?, ?, ?, ?)"
            chunk = opened.execute(put, (number, position, title, text)).lastrowid
            assert chunk is not None
            added.append(Chunk(chunk, section, title, text))
    return added


def open_ticket(opened: sqlite3.Connection, ticket: people.Ticket, said: Sequence[str]) -> int:
    """A ticket with its conversation, in a transaction of its own; its number."""
    with transaction(opened):
        database.put_ticket(opened, ticket, said)
        number: int = opened.execute("SELECT max(id) FROM tickets").fetchone()[0]
    return number


def close_ticket(opened: sqlite3.Connection, number: int) -> None:
    """Whatever it was about is done. Doing it twice is doing it once."""
    opened.execute("UPDATE tickets SET state = 'closed' WHERE id = ?", (number,))


def _documents(wanted: int) -> Iterator[tuple[corpus.Document, list[tuple[str, str]]]]:
    """Documents with those of their chunks that are taken, ``wanted`` chunks in all."""
    every = [(document, list(document.chunks())) for document in corpus.documents()]
    for variation in count():
        shares = _shares([len(parts) for _, parts in every], wanted)
        for (document, parts), share in zip(every, shares, strict=True):
            if share:
                yield _varied(document, parts[:share], variation)
        wanted -= sum(shares)
        if not wanted:
            return


def _shares(lengths: Sequence[int], wanted: int) -> list[int]:
    """How many each gives when all give one in turn until there are ``wanted``, or no more."""
    shares, left = [0] * len(lengths), min(wanted, sum(lengths))
    while left:
        for place, length in enumerate(lengths):
            if left and shares[place] < length:
                shares[place] += 1
                left -= 1
    return shares


def _varied(
    document: corpus.Document, parts: list[tuple[str, str]], variation: int
) -> tuple[corpus.Document, list[tuple[str, str]]]:
    if not variation:
        return document, parts
    step = variation + 2
    title = f"{document.title} (variation {variation})"
    source = f"{document.source}, repeated without each {step}th word"
    thinned = [(heading, " ".join(w for i, w in enumerate(text.split(), 1) if i % step)) for heading, text in parts]
    return document._replace(title=title, source=source), thinned
