"""The writer that uses the live system while it is being captured: a client of the gate, which stays out during maintenance and
comes back after it, so that nobody loses a write.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import NamedTuple

from . import database, people
from .answering import places_in
from .gate import PAUSE, Closed, client, under_maintenance


class Written(NamedTuple):
    """What the writer did. ``longest`` is the slowest transaction in seconds, ``waited`` the time spent before the gate."""

    tickets: int
    conversations: int
    longest: float
    waited: float


def write(home: str, rate: float, seed: int, over: Callable[[], bool]) -> Written:
    """Open tickets with their conversations, ``rate`` transactions a second until it is ``over``, outside of maintenance."""
    rng = random.Random(seed)
    done = Written(0, 0, 0.0, 0.0)
    while not over():
        try:
            with client(home):
                done = _write_until_fenced(home, rng, 1 / rate, over, done)
        except Closed:
            time.sleep(PAUSE)
            done = done._replace(waited=done.waited + PAUSE)
    return done


def _write_until_fenced(home: str, rng: random.Random, step: float, over: Callable[[], bool], done: Written) -> Written:
    with closing(database.connect(places_in(home)["documents"])) as opened:
        headings = database.headings(opened)
        due = time.monotonic()
        while not under_maintenance(home) and not over():
            if (early := due - time.monotonic()) > 0:
                time.sleep(min(early, PAUSE))
                continue
            due += step
            ticket = next(people.tickets(rng, headings, 1))._replace(state="open", opened=datetime.now(UTC).isoformat())
            started = time.monotonic()
            opened.execute("BEGIN IMMEDIATE")
            database.put_ticket(opened, ticket, (ticket.question, "We are looking at it."))
            opened.execute("COMMIT")
            longest = max(done.longest, time.monotonic() - started)
            done = Written(done.tickets + 1, done.conversations + 2, longest, done.waited)
    return done
