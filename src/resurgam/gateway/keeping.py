"""Until when nothing may be deleted, whoever asks: for ``keep`` seconds after the gateway received it, by the gateway's clock.

So whoever steals a pruner's token has to wait, and be seen, before anything can go. A role with the right to *lock* may ask for
longer for single objects, as for what is still promised, but never beyond ``keep`` from now, lest a stolen token keep rubbish for
ever. What was asked for stands in a small database beside the tokens; if that is lost, objects are kept from their receipt again.
While it cannot be read, nothing is deleted.
What lies under ``probe/`` means nothing, and is not kept. Who owns the machine is past all this (docs/threat-model.md).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from resurgam.clock import Clock
from resurgam.errors import Denied, IntegrityError, ResurgamError, StoreFull, Unreachable
from resurgam.stores.base import Entry
from resurgam.stores.local import LocalStore
from resurgam.stores.promises import PREFIX

_SKEW = 120.0  # seconds by which a client's clock may be ahead when it asks for the longest lock there is


class Keeping:
    """Decides deletes. ``path`` is the database's; without ``keep`` nothing is kept. Safe from several threads."""

    def __init__(self, path: str, keep: float, clock: Clock) -> None:
        """Raises IntegrityError, StoreFull, Unreachable."""
        self._path, self._keep, self._clock = path, keep, clock
        self._lock = threading.Lock()
        with self._alone():
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS locks (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID"
            )

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time; what the database says is told as an error of the port."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise _failed(self._path, error) from error

    def until(self, entry: Entry) -> float | None:
        """Until when ``entry`` stays, in seconds since 1970; None where that is over, or nothing keeps it."""
        with self._alone():
            return self._until(entry)

    def extend(self, entry: Entry, until: float) -> None:
        """Keep ``entry`` until then at least. Raises Denied where that is shorter than now, or longer than ``keep`` from now."""
        now = self._clock.now().timestamp()
        with self._alone():
            there = self._until(entry)
            if there is not None and until < there:
                raise _refused(
                    entry.name, f"is kept until {_words(there)}; a lock is never shortened", "Give a later time."
                )
            if until > now + self._keep + _SKEW:
                longest = f"at most until {_words(now + self._keep)}" if self._keep else "not at all"
                raise _refused(
                    entry.name, f"can be kept {longest} by this gateway", "Start the gateway with a longer --keep."
                )
            self._database.execute(
                "INSERT INTO locks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET until = max(until, excluded.until)",
                (entry.name, until),
            )

    def delete(self, store: LocalStore, entry: Entry) -> None:
        """Delete ``entry``, unless it is kept. Raises Denied, Unreachable."""
        with self._alone():  # so that nobody extends it between the look and the act
            until = self._until(entry)
            if until is not None:
                raise _refused(entry.name, f"is kept until {_words(until)}, whoever asks", "Delete it after that.")
            store.delete(entry.name)
            self._database.execute("DELETE FROM locks WHERE name = ?", (entry.name,))

    def _until(self, entry: Entry) -> float | None:
        if not self._keep or entry.name.startswith(PREFIX):
            return None
        row = self._database.execute("SELECT until FROM locks WHERE name = ?", (entry.name,)).fetchone()
        until: float = max(entry.received + self._keep, row[0] if row else 0.0)
        return until if until > self._clock.now().timestamp() else None


def _words(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def _failed(path: str, error: sqlite3.Error) -> ResurgamError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without what SQLite adds to it
    kinds: dict[int, type[ResurgamError]] = {
        sqlite3.SQLITE_NOTADB: IntegrityError,
        sqlite3.SQLITE_CORRUPT: IntegrityError,
        sqlite3.SQLITE_FULL: StoreFull,
    }
    return kinds.get(code, Unreachable)(
        f"{path}, by which the gateway knows what is kept for longer, cannot be used: {error}.",
        untouched="Nothing that is kept was deleted.",
        next_step="Check its owner and its disk. If it is damaged, stop the gateway, move it away, and start again: each "
        "object is kept from its receipt on.",
    )


def _refused(name: str, why: str, next_step: str) -> Denied:
    return Denied(f"{name} {why}.", untouched="It is as it was.", next_step=next_step)
