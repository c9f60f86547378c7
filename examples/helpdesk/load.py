"""Load: writers in processes of their own, as many and as fast as asked, until standard input closes or time is over.

The first writer is the keeper (documents, index, memories, prompts): Chroma takes one process that adds. The others are
customers: they ask, so that threads, memories and tickets are written; they find chunks by words, since the index is the
keeper's. What one of them writes in more than one store carries one tag and stands inside the barrier, unless ``barrier`` is off:
then a cut may lie between, and ``keeper.disagreements`` of a copy shows it.

A writer is started by the system's own launcher (spawned, never forked: Chroma does not survive a fork) and ends when its
standard input closes, so none outlives the one who asked for it.
"""

from __future__ import annotations

import json
import os
import random
import select
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import IO, Any

from examples.handbook import database
from examples.handbook.gate import PAUSE, Closed, client, under_maintenance
from examples.handbook.people import CUSTOMERS

from . import desk, documents, keeper
from .places import BARRIER, LAUNCHER, places_in

KEEPER, CUSTOMER = "keeper", "customer"
FRUIT, LINES = ("oranges", "lemons", "quinces", "medlars"), 8  # a note's lines are a chunk each
REFUND_EVERY = 10  # of a customer's questions one asks for money back, and half of those are decided
READY = "ready"

Act = Callable[[str], Counter[str]]  # does one thing under a tag, and counts what it was


class Failed(Exception):
    """A writer ended before it was told to."""


class Pace:
    """Even turns, ``rate`` a second, until ``seconds`` are over (from the first turn) or ``descriptor`` is at its end.

    Only a pipe's end counts: a terminal or a null device says nothing about anybody waiting."""

    def __init__(self, rate: float, seconds: float, descriptor: int) -> None:
        self._step = 1 / rate
        self._due = time.monotonic()
        self._until = self._due + seconds
        kind = os.fstat(descriptor).st_mode
        self._heard = [descriptor] if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else []

    def turn(self) -> bool:
        """Wait for the next turn; False when there is none."""
        while (early := self._due - time.monotonic()) > 0 or self._heard:
            ready, _, _ = select.select(self._heard, [], [], max(0.0, min(early, self._until - time.monotonic())))
            if ready and not os.read(ready[0], 4096):
                return False
            if not ready:
                break
        if time.monotonic() >= self._until:
            return False
        self._due = max(self._due + self._step, time.monotonic() - self._step)
        return True


def load(
    home: str, rate: float, seconds: float, writers: int, *, barrier: bool, seed: int, told: Callable[[str], None]
) -> dict[str, Any]:
    """Run ``writers`` writers that do ``rate`` things a second together; what they did. ``told`` hears when all are at work.

    Raises Failed where a writer ended by itself; what it said went to standard error."""
    run = f"{time.time_ns():x}"
    kinds = [KEEPER] + [CUSTOMER] * (writers - 1)
    with ExitStack() as held:  # a writer ends when its input is closed, which the end of this block does
        started = [
            held.enter_context(_started(home, kind, rate / writers, seed + number, f"{run}.{number}", barrier=barrier))
            for number, kind in enumerate(kinds)
        ]
        for child in started:
            if _stream(child.stdout).readline().strip() != READY:
                raise Failed("A writer did not start.")
        told(READY)
        pace = Pace(1 / PAUSE, seconds, sys.stdin.fileno())
        while pace.turn():
            if any(child.poll() is not None for child in started):
                raise Failed("A writer ended by itself.")
        return _summed(started)


def work(home: str, kind: str, rate: float, seed: int, run: str, *, barrier: bool) -> Counter[str]:
    """One writer, until standard input closes. It leaves during maintenance and comes back after it."""
    rng = random.Random(seed)
    pace = Pace(rate, float("inf"), sys.stdin.fileno())
    shared = barrier_of(home) if barrier else nullcontext
    done: Counter[str] = Counter()
    turn = 0
    said, over = False, False
    while not over:
        try:
            with client(home), (_keeping if kind == KEEPER else _asking)(home, rng, shared) as act:
                if not said:
                    print(READY, flush=True)
                    said = True
                while not under_maintenance(home):
                    if over := not pace.turn():
                        break
                    done += act(f"{run}.{turn}")
                    turn += 1
        except Closed:
            over = not pace.turn()
    return done


def barrier_of(home: str) -> Callable[[], AbstractContextManager[Any]]:
    """The barrier of the system in ``home``, to be held around what is written in more than one store."""
    from resurgam.sdk import barrier

    path = os.path.join(home, BARRIER)
    return lambda: barrier(path)


@contextmanager
def _keeping(home: str, rng: random.Random, barrier: Callable[[], AbstractContextManager[Any]]) -> Iterator[Act]:
    with keeper.opened(places_in(home), barrier) as keeping:

        def act(tag: str) -> Counter[str]:
            lines = [_line(tag, line, rng) for line in range(1, LINES + 1)]
            keeping.add(f"delivery {tag}", lines, tag)
            return Counter(notes=1, chunks=LINES)

        yield act


def _line(tag: str, line: int, rng: random.Random) -> str:
    load = f"{rng.randrange(4, 400)} crates of {rng.choice(FRUIT)}"
    return f"Delivery {tag}, line {line}: {load} left the warehouse for customer {rng.randint(1, CUSTOMERS)}."


@contextmanager
def _asking(home: str, rng: random.Random, barrier: Callable[[], AbstractContextManager[Any]]) -> Iterator[Act]:
    places = places_in(home)
    with desk.opened(places, barrier=barrier, words_only=True) as asked:
        with documents.connected(places["documents"], read_only=True) as connection:
            headings = database.headings(connection)

        def act(tag: str) -> Counter[str]:
            _, heading = rng.choice(headings)
            wants = "I want a refund" if rng.randrange(REFUND_EVERY) == 0 else "it is broken"
            answer = asked.ask(f"About {heading}: {wants}, case {tag}", rng.randint(1, CUSTOMERS), f"load-{tag}")
            counted = Counter(threads=1, tickets=int(answer.ticket > 0), waiting=int(answer.waits is not None))
            if answer.waits and rng.random() < 0.5:
                asked.resume(answer.thread, approved=rng.random() < 0.5)
                counted["decided"] += 1
            return counted

        yield act


def _started(home: str, kind: str, rate: float, seed: int, run: str, *, barrier: bool) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        os.path.join(home, LAUNCHER),
        "work",
        kind,
        "--rate",
        str(rate),
        "--seed",
        str(seed),
        "--run",
        run,
    ]
    if not barrier:
        command.append("--no-barrier")
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _summed(started: list[subprocess.Popen[str]]) -> dict[str, Any]:
    for child in started:
        _stream(child.stdin).close()
    total: Counter[str] = Counter()
    for child in started:
        said = _stream(child.stdout).read()
        if child.wait():
            raise Failed(f"A writer ended with exit code {child.returncode}.")
        total.update(json.loads(said))
    return {"writers": len(started), **total}


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
