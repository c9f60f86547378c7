"""What an agent would take up again, or lose, once it runs on a database: threads that wait, runs that were cut off, memories
that expire. Ids, nodes and dates only, never what was said.

A thread waits where an interrupt stands at its latest checkpoint. It was cut off where that checkpoint has a node to run and
nobody is asked first: LangGraph starts a node by a value in the channel ``branch:to:NODE`` (``__start__`` for the input), which
stands in the checkpoint until the node has run. What an encrypted or pickled checkpoint holds is not known, and is counted.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

from resurgam.drivers.langgraph_layout import Layout
from resurgam.drivers.langgraph_views import DECODED, LATEST, MEMORIES, STATE, THREADS, lay_views

SHOWN = 20  # threads named; the rest is counted

_THREADS = """
    SELECT t.thread_id || iif(t.checkpoint_ns = '', '', ' in ' || t.checkpoint_ns), t.waiting,
           group_concat(iif(s.channel = '__start__', 'the input', substr(s.channel, 11)), ', ')
    FROM threads t
    LEFT JOIN state s ON s.thread_id = t.thread_id AND s.checkpoint_ns = t.checkpoint_ns
                     AND (s.channel LIKE 'branch:to:%' OR s.channel = '__start__')
    GROUP BY t.thread_id, t.checkpoint_ns HAVING t.waiting OR count(s.channel)
    ORDER BY t.waiting DESC, t.thread_id, t.checkpoint_ns"""
_SEALED = f"""SELECT count(*) FROM ({LATEST})
              WHERE json_extract({DECODED}(type, checkpoint), '$.channel_values') IS NULL"""  # noqa: S608 - our own names
_EXPIRING = """
    SELECT datetime(expires_at) <= ?1, count(*), min(datetime(expires_at)), max(datetime(expires_at)) FROM memories
    WHERE expires_at IS NOT NULL GROUP BY 1 ORDER BY 1 DESC"""


def pending_work(connection: sqlite3.Connection, layout: Layout, now: datetime) -> list[str]:
    """One line for each thread and each kind of end. Raises sqlite3.Error."""
    views = lay_views(connection, layout)
    lines = _threads(connection) if {THREADS, STATE} <= set(views) else []
    if MEMORIES in views:
        lines += _memories(connection, now)
    return lines


def _threads(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(_THREADS).fetchall()
    lines = [
        f"thread {thread} waits for a decision{f' before {nodes}' if nodes else ''}"
        if waiting
        else f"thread {thread} was cut off and would go on with {nodes}"
        for thread, waiting, nodes in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        lines.append(f"{len(found) - SHOWN} more threads wait or were cut off")
    [(sealed,)] = connection.execute(_SEALED).fetchall()
    if sealed:
        lines.append(f"what {sealed} threads would do is not known: their state is encrypted or cannot be decoded")
    return lines


def _memories(connection: sqlite3.Connection, now: datetime) -> list[str]:
    lines = []
    passed = now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    for over, count, soonest, latest in connection.execute(_EXPIRING, (passed,)):
        if over is None:
            lines.append(f"{count} memories have a date of expiry that cannot be read")
        elif over:
            lines.append(
                f"{count} memories have expired and end at the next sweep (dates of {soonest} to {latest} UTC)"
            )
        else:
            lines.append(f"{count} memories will expire, from {soonest} to {latest} UTC")
    return lines
