"""What a LangGraph component is, beside its rows: counts, serializers, libraries, the graph's code, the name of its key.

A thread can be taken up only by a graph that has the nodes its state names, and by libraries that know its format. Neither
lies in the database, so both are told here: versions as installed where the application runs (option ``libraries``, a folder
``site-packages``; else the interpreter that captures), the code by its digest (option ``graph``).
"""

from __future__ import annotations

import os
import sqlite3
from importlib import metadata

from blake3 import blake3

from resurgam.drivers.base import Facts
from resurgam.drivers.langgraph_layout import Layout, read_layout
from resurgam.drivers.langgraph_views import THREADS, lay_views
from resurgam.drivers.sqlite_open import explain_os
from resurgam.errors import ManifestError
from resurgam.model.system import Json

LIBRARIES = (
    "langgraph", "langgraph-checkpoint", "langgraph-checkpoint-sqlite", "langchain-core", "ormsgpack", "sqlite-vec",
)  # fmt: skip
_NOT_CODE = frozenset({"__pycache__", ".git", ".venv", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


def stored_facts(connection: sqlite3.Connection) -> Facts:
    """Counts, migrations and serializers, at one read snapshot. Raises sqlite3.Error."""
    layout = read_layout(connection)
    facts: Facts = {"migrations": {"store": layout.store, "store_vectors": layout.vectors}}
    if layout.has_saver:
        facts |= _saver_facts(connection, layout)
    if layout.has_store:
        facts["memories"] = _one(connection, "SELECT count(*) FROM main.store")
    if layout.expires:
        count, soonest, latest = connection.execute(
            "SELECT count(*), min(expires_at), max(expires_at) FROM main.store WHERE expires_at IS NOT NULL"
        ).fetchone()
        facts["expiring"] = {"memories": count, "soonest": soonest, "latest": latest}
    return facts


def _saver_facts(connection: sqlite3.Connection, layout: Layout) -> Facts:
    facts: Facts = {
        "threads": _one(connection, "SELECT count(*) FROM (SELECT DISTINCT thread_id FROM main.checkpoints)"),
        "checkpoints": _one(connection, "SELECT count(*) FROM main.checkpoints"),
        "writes": _one(connection, "SELECT count(*) FROM main.writes"),
        "serializers": dict(
            connection.execute(
                "SELECT coalesce(type, 'none'), count(*) FROM (SELECT type FROM main.checkpoints UNION ALL "
                "SELECT type FROM main.writes) GROUP BY 1 ORDER BY 1"
            ).fetchall()
        ),
    }
    if THREADS in lay_views(connection, layout):
        facts["waiting"] = _one(connection, "SELECT count(DISTINCT thread_id) FROM temp.threads WHERE waiting")
    return facts


def _one(connection: sqlite3.Connection, statement: str) -> int:
    count: int = connection.execute(statement).fetchone()[0]
    return count


def library_facts(folder: str | None) -> dict[str, Json]:
    """Versions of LangGraph's libraries in ``folder`` (a ``site-packages``), or where this interpreter finds them."""
    if folder is not None and not os.path.isdir(folder):
        raise _not_there("libraries", folder, "the folder site-packages of the application")
    versions: dict[str, Json] = {}
    for name in LIBRARIES:
        found = (
            metadata.distributions(name=name) if folder is None else metadata.distributions(name=name, path=[folder])
        )
        versions[name] = next((each.version for each in found), None)
    return {"libraries": versions, "libraries_in": folder or "the interpreter of this capture"}


def graph_digest(place: str) -> str:
    """BLAKE3 over the paths and bytes of the graph's code, a file or a folder; caches and version control left out.

    Raises ManifestError where there is nothing, Denied where it may not be read.
    """
    if not os.path.exists(place):
        raise _not_there("graph", place, "the file or folder of the graph's code")
    digest = blake3()
    try:
        for path in _code(place):
            with open(path, "rb") as file:
                inner = blake3(file.read()).digest()
            name = os.path.relpath(path, place).encode(errors="surrogateescape")
            digest.update(len(name).to_bytes(4, "little") + name + inner)
    except OSError as error:
        raise explain_os(error, place) from error
    return digest.hexdigest()


def _code(place: str) -> list[str]:
    if os.path.isfile(place):
        return [place]
    found = []
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(set(folders) - _NOT_CODE)
        found += [os.path.join(folder, name) for name in sorted(names) if not name.endswith(".pyc")]
    return [path for path in found if os.path.isfile(path)]


def _not_there(option: str, place: str, wanted: str) -> ManifestError:
    return ManifestError(
        f"Option {option}: there is nothing at {place}.",
        untouched="Nothing was read.",
        next_step=f"Name {wanted}; a relative path is taken from the folder of the database.",
    )
