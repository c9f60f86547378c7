"""What is wrong, or worth knowing, in an agent's threads and memories, as findings. Read-only, at the pinned state.

A thread is only as good as its chain: each checkpoint names its parent, and where a channel keeps differences only
(``DeltaChannel``) the state is rebuilt by walking the parents, so that one pruned parent silently yields an empty state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from resurgam.drivers.langgraph_layout import Layout
from resurgam.drivers.langgraph_ttl import Ttl
from resurgam.drivers.langgraph_views import DECODED, LATEST
from resurgam.model.point import Finding, Severity

_EXAMPLES = 20  # Finding.keys holds no more
_SERIALIZERS = "SELECT thread_id, type FROM main.checkpoints UNION ALL SELECT thread_id, type FROM main.writes"
_PLAIN = "'null', 'bytes', 'bytearray', 'json', 'msgpack', 'pickle'"

_MISSING_PARENT = """
    SELECT DISTINCT c.thread_id FROM main.checkpoints c
    LEFT JOIN main.checkpoints p ON p.thread_id = c.thread_id AND p.checkpoint_ns = c.checkpoint_ns
                                AND p.checkpoint_id = c.parent_checkpoint_id
    WHERE coalesce(c.parent_checkpoint_id, '') <> '' AND p.checkpoint_id IS NULL"""
_ORPHAN_WRITES = """
    SELECT DISTINCT w.thread_id FROM main.writes w
    LEFT JOIN main.checkpoints c ON c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns
                                AND c.checkpoint_id = w.checkpoint_id
    WHERE c.checkpoint_id IS NULL"""
# The library counts updates of such channels in a checkpoint's metadata (CheckpointMetadata, langgraph-checkpoint).
_DELTA = "SELECT DISTINCT thread_id FROM main.checkpoints WHERE instr(metadata, 'counters_since_delta_snapshot')"
_OF_TYPE = f"SELECT DISTINCT thread_id FROM ({_SERIALIZERS}) WHERE "  # noqa: S608 - our own names
_PICKLED = _OF_TYPE + "type = 'pickle' OR type LIKE 'pickle+%'"
_UNKNOWN = _OF_TYPE + f"type NOT LIKE '%+%' AND type NOT IN ({_PLAIN})"
_ENCRYPTED = _OF_TYPE + "type LIKE '%+%'"
_UNDECODABLE = (
    f"SELECT DISTINCT thread_id FROM ({LATEST}) "  # noqa: S608 - our own names
    f"WHERE json_extract({DECODED}(type, checkpoint), '$.undecodable') IS NOT NULL"
)
_NOT_JSON = "SELECT prefix || ' ' || key FROM main.store WHERE NOT json_valid(CAST(value AS TEXT))"


class _Check(NamedTuple):
    """``statement`` yields what is wrong, and ``what`` says so."""

    severity: Severity
    statement: str
    what: str


_THREADS = (
    _Check(
        Severity.NOTE,
        _DELTA,
        "Threads keep differences only in some channels (DeltaChannel, beta), which need all their parents",
    ),
    _Check(
        Severity.BROKEN,
        f"{_MISSING_PARENT} AND c.thread_id IN ({_DELTA})",
        "Threads keep differences only, and a checkpoint that these build upon is missing: their state may come back empty",
    ),
    _Check(
        Severity.WARNING,
        f"{_MISSING_PARENT} AND c.thread_id NOT IN ({_DELTA})",
        "Threads have checkpoints whose parent is missing",
    ),
    _Check(
        Severity.NOTE,
        _ORPHAN_WRITES,
        "Threads have writes whose checkpoint is not there, as a run leaves them that is just at work",
    ),
    _Check(
        Severity.WARNING,
        _PICKLED,
        "Threads hold pickled values, which run code in the application that loads them; they are not opened here",
    ),
    _Check(Severity.WARNING, _UNKNOWN, "Threads hold values of a serializer that this release does not know"),
    _Check(Severity.WARNING, _UNDECODABLE, "Threads have a latest checkpoint that cannot be decoded"),
)
_KEY = _Check(
    Severity.WARNING,
    _ENCRYPTED,
    "Threads are encrypted, and without their key a restore is worth nothing: name it (option key: ${LANGGRAPH_AES_KEY})",
)
_VALUES = _Check(Severity.WARNING, _NOT_JSON, "Memories have a value that is no JSON")
_ON_RESTORE = {
    Ttl.KEEP: "a restore keeps their dates, so those that have passed by then end at the store's next sweep",
    Ttl.FREEZE: "a restore moves their dates by the time since the cut",
    Ttl.EXTEND: "a restore gives each its whole lifetime again",
    Ttl.DROP: "a restore drops those that have passed by then",
}


def check_threads(connection: sqlite3.Connection, component: str, *, key_named: bool) -> Iterator[Finding]:
    """Broken chains, values that cannot or must not be opened, and what a restore of them needs. Raises sqlite3.Error."""
    for check in (*_THREADS, *(() if key_named else (_KEY,))):
        yield from _found(connection, component, check)


def check_memories(connection: sqlite3.Connection, layout: Layout, component: str, ttl: Ttl) -> Iterator[Finding]:
    """Memories that are no JSON, and what a restore will do with those that expire (P10). Raises sqlite3.Error."""
    yield from _found(connection, component, _VALUES)
    if not layout.expires:
        return
    count = connection.execute("SELECT count(*) FROM main.store WHERE expires_at IS NOT NULL").fetchone()[0]
    if count:
        what = f"{count} memories expire: {_ON_RESTORE[ttl]} (option ttl: {ttl.value})."
        yield Finding(severity=Severity.NOTE, what=what, component=component)


def _found(connection: sqlite3.Connection, component: str, check: _Check) -> Iterator[Finding]:
    """One finding that counts and names what the check finds, or none."""
    total = connection.execute(f"SELECT count(*) FROM ({check.statement})").fetchone()[0]  # noqa: S608 - our own
    if total:
        keys = tuple(str(key) for (key,) in connection.execute(f"{check.statement} LIMIT {_EXAMPLES}"))
        yield Finding(severity=check.severity, what=f"{check.what} ({total}).", component=component, keys=keys)
