"""An agent's words over LangGraph's tables: ``threads``, ``state`` and ``memories``, as views that SQL can be asked of.

    threads    thread_id, checkpoint_ns -> checkpoint_id (the latest), checkpoints (how many), serializer (of the latest),
               waiting (1 where an interrupt stands at the latest checkpoint)
    state      thread_id, checkpoint_ns, channel -> value, of the latest checkpoint, decoded (``langgraph_values``)
    memories   namespace, key -> value (JSON text), expires_at

They are temporary views of a reading connection: the database knows nothing of them. A name that the file uses itself is
left to it, since the application's own queries must keep their meaning.
"""

from __future__ import annotations

import sqlite3

from resurgam.drivers.langgraph_layout import Layout
from resurgam.drivers.langgraph_values import as_json
from resurgam.drivers.sqlite_rows import Table

THREADS = Table(
    "threads",
    "threads",
    ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoints", "serializer", "waiting"),
    ("thread_id", "checkpoint_ns"),
)
STATE = Table(
    "state",
    "state",
    ("thread_id", "checkpoint_ns", "channel", "value"),
    ("thread_id", "checkpoint_ns", "channel"),
)
MEMORIES = Table("memories", "memories", ("namespace", "key", "value", "expires_at"), ("namespace", "key"))

DECODED = "langgraph_decoded"  # the SQL function (type, bytes) -> JSON text

# The latest checkpoint is the one whose id sorts last, as it is to the library (SqliteSaver.get_tuple).
LATEST = """
    SELECT t.thread_id, t.checkpoint_ns, t.checkpoint_id, t.checkpoints, c.type, c.checkpoint
    FROM (SELECT thread_id, checkpoint_ns, max(checkpoint_id) AS checkpoint_id, count(*) AS checkpoints
          FROM main.checkpoints GROUP BY thread_id, checkpoint_ns) t
    JOIN main.checkpoints c ON c.thread_id = t.thread_id AND c.checkpoint_ns = t.checkpoint_ns
                           AND c.checkpoint_id = t.checkpoint_id"""

_THREADS = f"""
    SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoints, type AS serializer,
           EXISTS (SELECT 1 FROM main.writes w WHERE w.thread_id = latest.thread_id AND w.checkpoint_ns = latest.checkpoint_ns
                   AND w.checkpoint_id = latest.checkpoint_id AND w.channel = '__interrupt__') AS waiting
    FROM ({LATEST}) AS latest"""  # noqa: S608 - our own names

_STATE = f"""
    SELECT thread_id, checkpoint_ns, json_each.key AS channel, json_each.value AS value
    FROM ({LATEST}) AS latest, json_each({DECODED}(latest.type, latest.checkpoint), '$.channel_values')"""  # noqa: S608 - our own names

_MEMORIES = "SELECT prefix AS namespace, key, CAST(value AS TEXT) AS value, {expires_at} AS expires_at FROM main.store"


def lay_views(connection: sqlite3.Connection, layout: Layout) -> list[Table]:
    """Make the views that ``layout`` allows, where they are not there yet; returns them. Raises sqlite3.Error."""
    wanted = _definitions(layout)
    laid = {name for (name,) in connection.execute("SELECT name FROM temp.sqlite_master WHERE type = 'view'")}
    if not laid.issuperset(table.name for table, _ in wanted):
        connection.create_function(DECODED, 2, as_json, deterministic=True)
        connection.execute("PRAGMA query_only = 0")  # it would forbid temporary views too
        try:
            for table, select in wanted:
                connection.execute(f"CREATE TEMP VIEW IF NOT EXISTS {table.name} AS {select}")
        finally:
            connection.execute("PRAGMA query_only = 1")
    return [table for table, _ in wanted]


def hidden(layout: Layout) -> list[str]:
    """The views that could be made, were their names not taken by the file itself."""
    return [table.name for table, _ in _possible(layout) if table.name in layout.names]


def _definitions(layout: Layout) -> list[tuple[Table, str]]:
    return [(table, select) for table, select in _possible(layout) if table.name not in layout.names]


def _possible(layout: Layout) -> list[tuple[Table, str]]:
    possible = []
    if layout.has_saver:
        possible += [(THREADS, _THREADS), (STATE, _STATE)]
    if layout.has_store:
        possible.append((MEMORIES, _MEMORIES.format(expires_at="expires_at" if layout.expires else "NULL")))
    return possible
