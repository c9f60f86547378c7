"""The SQLite part of a Chroma folder: its version, its collections with their settings, and the operations in its queue.

Read with plain SQL, without the chromadb library. The tables are Chroma's own (``chromadb/migrations``), which also numbers their
versions: ``KNOWN`` are those that this release has been tested with. Where a collection's settings stand changed over time:
``schema_str`` (1.1 and later), ``config_json_str`` (0.6 and later), keys ``hnsw:...`` of its metadata (all).
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from resurgam.errors import IntegrityError
from resurgam.model.codec import to_json
from resurgam.model.system import Json

KNOWN = {"embeddings_queue": 2, "metadb": 6, "sysdb": 10}
OLDEST = {"embeddings_queue": 1, "metadb": 5, "sysdb": 5}
COLLECTIONS = "collections"
DOCUMENT = "chroma:document"
ADD, UPDATE, UPSERT, DELETE = range(4)  # Chroma's numbers in embeddings_queue.operation

Metadata = dict[str, Json]


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """A collection and its settings. ``table`` is its name among the Rows, ``settings`` what changes the answers of a search;
    ``schema`` Chroma's own text of all settings. Segments are ids, empty where there is none."""

    id: str
    name: str
    tenant: str
    database: str
    table: str
    dimension: int | None
    settings: dict[str, Json]
    schema: str | None
    metadata: Metadata
    vector_segment: str
    metadata_segment: str
    applied_vector: int
    applied_metadata: int

    @property
    def space(self) -> str:
        """How distances are measured: l2, cosine or ip."""
        return str(self.settings.get("space", "l2"))

    @property
    def embedding_function(self) -> str | None:
        """The name under which Chroma knows the embedding function; None where it knows none."""
        function = self.settings.get("embedding_function") or {}
        return function.get("name") if isinstance(function, dict) else None


class Operation(msgspec.Struct, frozen=True):
    """One entry of the queue. ``vector`` is float32, little-endian, as it was added; ``metadata`` None deletes a key."""

    seq: int
    kind: int
    id: str
    vector: bytes | None
    metadata: Metadata


def read_version(reader: sqlite3.Connection) -> dict[str, int]:
    """The newest migration of each kind. Raises sqlite3.Error where this is no database of Chroma."""
    return dict(reader.execute("SELECT dir, max(version) FROM migrations GROUP BY dir ORDER BY dir"))


def unknown_version(version: dict[str, int]) -> str | None:
    """How ``version`` differs from what this release knows, in words; None where it does not."""
    for kind in sorted({*KNOWN, *version}):
        found = version.get(kind, 0)
        if kind not in KNOWN or found > KNOWN[kind]:
            return f"newer than this release knows ({kind} {found}; known up to {KNOWN.get(kind, 0)})"
        if found < OLDEST[kind]:
            return f"older than this release reads ({kind} {found}; read from {OLDEST[kind]})"
    return None


def read_collections(reader: sqlite3.Connection) -> list[Collection]:
    """All collections, by tenant, database and name. Raises sqlite3.Error, IntegrityError."""
    has = {row[1] for row in reader.execute("PRAGMA table_info(collections)")}
    config, schema = ("c." + name if name in has else "NULL" for name in ("config_json_str", "schema_str"))
    rows = reader.execute(
        f"SELECT c.id, c.name, d.tenant_id, d.name, c.dimension, {config}, {schema} "  # noqa: S608 - names of columns
        "FROM collections c JOIN databases d ON d.id = c.database_id ORDER BY d.tenant_id, d.name, c.name"
    ).fetchall()
    metadata = _metadata_by_owner(reader.execute("SELECT collection_id, * FROM collection_metadata"))
    segments = {
        (owner, scope): key for key, scope, owner in reader.execute("SELECT id, scope, collection FROM segments")
    }
    applied = dict(reader.execute("SELECT segment_id, seq_id FROM max_seq_id"))
    taken = Counter(name.lower() for _, name, *_ in rows)  # in SQL, and so in a query, case tells no tables apart
    collections = []
    for key, name, tenant, database, dimension, config_text, schema_text in rows:
        vectors, records = segments.get((key, "VECTOR"), ""), segments.get((key, "METADATA"), "")
        own = metadata.get(key, {})
        collections.append(
            Collection(
                id=key,
                name=name,
                tenant=tenant,
                database=database,
                table=name
                if taken[name.lower()] == 1 and name.lower() != COLLECTIONS
                else f"{tenant}/{database}/{name}",
                dimension=dimension,
                settings=_settings(schema_text, config_text, own),
                schema=schema_text,
                metadata=own,
                vector_segment=vectors,
                metadata_segment=records,
                applied_vector=applied.get(vectors) or 0,
                applied_metadata=applied.get(records) or 0,
            )
        )
    return collections


def read_queue(reader: sqlite3.Connection, collections: Iterable[Collection]) -> dict[str, list[Operation]]:
    """By collection: the operations, in order, that have not reached both of its segments. Raises sqlite3.Error, IntegrityError."""
    since = {c.id: min(c.applied_vector, c.applied_metadata) for c in collections}
    waiting: dict[str, list[Operation]] = {key: [] for key in since}
    query = "SELECT seq_id, operation, topic, id, vector, encoding, metadata FROM embeddings_queue ORDER BY seq_id"
    for seq, kind, topic, key, vector, encoding, metadata in reader.execute(query):
        owner = topic.rpartition("/")[2]
        if seq <= since.get(owner, seq):
            continue
        if vector is not None and encoding != "FLOAT32":
            raise _unreadable(f"an operation in the queue has a vector in the encoding {encoding}")
        waiting[owner].append(Operation(seq, kind, key, vector, _json(metadata)))
    return waiting


def value_of(text: str | None, number: int | None, real: float | None, flag: int | None) -> Json:
    """A metadata value from the four columns of which Chroma fills one."""
    if flag is not None:
        return bool(flag)
    return next((value for value in (text, number, real) if value is not None), None)


def canonical(metadata: Metadata) -> str | None:
    """JSON with sorted keys; None where there is no metadata, as Chroma says it."""
    return to_json(metadata).decode() if metadata else None


def _metadata_by_owner(rows: Iterable[tuple[Any, ...]]) -> dict[str, Metadata]:
    found: dict[str, Metadata] = {}
    for owner, _, key, text, number, real, *flag in rows:
        found.setdefault(owner, {})[key] = value_of(text, number, real, flag[0] if flag else None)
    return found


def _settings(schema: str | None, config: str | None, metadata: Metadata) -> dict[str, Json]:
    """Space, HNSW parameters and embedding function, wherever this version of Chroma keeps them."""
    if schema:
        vectors = _json(schema).get("keys", {}).get("#embedding", {}).get("float_list", {}).get("vector_index", {})
        found = dict(vectors.get("config", {}))
        hnsw = dict(found.get("hnsw") or {})
    else:
        found = _json(config)
        hnsw = dict(found.get("hnsw") or found.get("hnsw_configuration") or {})
        hnsw |= {key.removeprefix("hnsw:"): value for key, value in metadata.items() if key.startswith("hnsw:")}
    space = found.get("space") or hnsw.get("space") or "l2"
    hnsw = {key: value for key, value in sorted(hnsw.items()) if key not in {"space", "_type"}}
    return {"space": space, "hnsw": hnsw, "embedding_function": found.get("embedding_function")}


def _json(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise _unreadable("text that should be JSON is not") from error


def _unreadable(why: str) -> IntegrityError:
    return IntegrityError(
        f"The database of Chroma cannot be understood: {why}.",
        untouched="Nothing was changed.",
        next_step="Open the folder with the version of chromadb that wrote it.",
    )
