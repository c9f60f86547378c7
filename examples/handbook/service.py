"""Clients and the gate: who may use the live system, and the writer that uses it while it is being captured.

A client holds a shared lock on ``gate`` for as long as it has the database open. ``fence`` puts up ``maintenance`` and waits until
the last client has left; ``reload`` takes it down. A client that finds ``maintenance`` stays out: ``ask`` says so, the
writer waits. So after a fence nobody holds the live files open, and nobody lost a write.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from . import database, people
from .answering import places_in

PAUSE = 0.02  # seconds between two looks at the gate
PATIENCE = 30.0  # seconds that a fence waits for clients to leave


class Closed(Exception):
    """The system is under maintenance."""


class Written(NamedTuple):
    """What the writer did. ``longest`` is the slowest transaction in seconds, ``waited`` the time spent before the gate."""

    tickets: int
    conversations: int
    longest: float
    waited: float


@contextmanager
def client(home: str) -> Iterator[None]:
    """Hold the gate open. Raises Closed during maintenance."""
    gate = os.open(os.path.join(home, "gate"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(gate, fcntl.LOCK_SH)
        if under_maintenance(home):  # looked at under the lock: a fence that comes now waits for us
            raise Closed("The handbook is under maintenance; ask again in a moment.")
        yield
    finally:
        os.close(gate)


def under_maintenance(home: str) -> bool:
    """Whether a fence stands."""
    return os.path.exists(os.path.join(home, "maintenance"))


def fence(home: str) -> None:
    """Keep clients out, and wait until those inside have left. Raises TimeoutError, with the fence still up."""
    with open(os.path.join(home, "maintenance"), "a", encoding="ascii"):
        pass
    gate = os.open(os.path.join(home, "gate"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + PATIENCE
        while not _locked(gate):
            if time.monotonic() > until:
                raise TimeoutError(f"A client has not left within {PATIENCE:g} s.")
            time.sleep(PAUSE)
    finally:
        os.close(gate)


def reload(home: str) -> None:
    """Let clients in. They read every part anew."""
    try:
        os.unlink(os.path.join(home, "maintenance"))
    except FileNotFoundError:
        return  # it was open already


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


def _locked(gate: int) -> bool:
    try:
        fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
