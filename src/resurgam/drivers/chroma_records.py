"""Records of a Chroma collection as Chroma itself would answer: its two segments, with the queue laid over them.

A record has two halves, each of which may lag behind the queue by itself: metadata and document (tables ``embeddings`` and
``embedding_metadata``) and the vector (the HNSW files). ``max_seq_id`` says up to which operation each half was applied;
later ones are applied here, by Chroma's rules:

    add      makes a record where there is none, else nothing
    update   changes a record where there is one: the keys that it names, the vector if it has one
    upsert   either
    delete   removes it

Both halves must come to the same ids. Where they do not, vectors were lost, and no count of Chroma's shows it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from resurgam.drivers.chroma_graph import damage
from resurgam.drivers.chroma_index import Index
from resurgam.drivers.chroma_store import (
    ADD,
    DELETE,
    DOCUMENT,
    UPDATE,
    UPSERT,
    Collection,
    Metadata,
    Operation,
    canonical,
    value_of,
)
from resurgam.model.point import Finding, Severity
from resurgam.model.system import Json

COLUMNS = ("id", "document", "metadata", "vector")
_BATCH = 500
_VECTORS = 4096  # of them together
_EXAMPLES = 20  # Finding.keys holds no more
_VALUES = "key, string_value, int_value, float_value, bool_value"

Record = tuple[str, str | None, Metadata, bytes | None]
Row = tuple[Json, ...]


class Records:
    """The records of one collection. ``index`` is None where its files cannot be read: then only the queue has vectors."""

    def __init__(
        self, reader: sqlite3.Connection, collection: Collection, index: Index | None, waiting: list[Operation]
    ) -> None:
        self._reader = reader
        self._collection = collection
        self._index = index
        self._vectors = _vectors(index, [o for o in waiting if o.seq > collection.applied_vector])
        self._changes: dict[str, list[Operation]] = {}
        for operation in waiting:
            if operation.seq > collection.applied_metadata:
                self._changes.setdefault(operation.id, []).append(operation)

    def __iter__(self) -> Iterator[Record]:
        """All records, by id as far as the tables have them. Raises sqlite3.Error."""
        changes = dict(self._changes)
        for key, stored in self._stored():
            metadata = _changed(stored, changes.pop(key, ()))
            if metadata is not None:
                yield self._record(key, metadata)
        for key, operations in changes.items():
            metadata = _changed(None, operations)
            if metadata is not None:
                yield self._record(key, metadata)

    def batches(self) -> Iterator[list[Row]]:
        """The records as rows of ``COLUMNS``."""
        records = iter(self)
        while batch := list(islice(records, _BATCH)):
            yield [(key, document, canonical(metadata), vector) for key, document, metadata, vector in batch]

    def vectors(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        """Ids with their vectors, some at a time, by id; only those that have a record, are of the collection's dimension and
        consist of numbers. Raises sqlite3.Error."""
        left_out = self._unusable().union(self._of_other_size())
        ids = sorted((self._ids() & self._vectors.keys()) - left_out)
        for start in range(0, len(ids), _VECTORS):
            part = ids[start : start + _VECTORS]
            yield part, np.frombuffer(b"".join(map(self._vector, part)), "<f4").reshape(len(part), -1)

    def findings(self, component: str) -> Iterator[Finding]:
        """Where the two halves disagree, and vectors that cannot be searched. Every vector is looked at. Raises sqlite3.Error."""
        name, ids = self._collection.name, self._ids()
        if self._index is not None and (wrong := damage(self._index.header, self._index.table, self._index.links)):
            what = f"Collection {name} has an index that a search can hang in or crash on: {wrong}."
            yield Finding(severity=Severity.BROKEN, what=what, component=component)
        broken, warning, note = Severity.BROKEN, Severity.WARNING, Severity.NOTE
        told = [
            (broken, "has lost vectors: ids without one", sorted(ids - self._vectors.keys())),
            (broken, "has vectors that are no numbers", sorted(self._unusable() & ids)),
            (broken, f"has vectors that are not of its dimension {self._collection.dimension}", self._of_other_size()),
            (
                warning,
                "has vectors without a record, which a search can still meet",
                sorted(self._vectors.keys() - ids),
            ),
        ]
        if self._index is not None and self._index.strays:
            told.append((note, f"has {self._index.strays} vectors in its index that no id leads to", []))
        for severity, what, keys in told:
            if keys or severity is note:
                count = f" ({len(keys)} of {len(ids)})" if keys else ""
                text = f"Collection {name} {what}{count}."
                yield Finding(severity=severity, what=text, component=component, keys=tuple(keys[:_EXAMPLES]))

    def _record(self, key: str, metadata: Metadata) -> Record:
        document = metadata.pop(DOCUMENT, None)
        return key, document, metadata, self._vector(key) if key in self._vectors else None

    def _vector(self, key: str) -> bytes:
        vector = self._vectors[key]
        if isinstance(vector, int):
            assert self._index is not None, "rows come from an index"
            return self._index.vector(vector)
        return vector

    def _stored(self) -> Iterator[tuple[str, Metadata]]:
        """What the tables hold, by id: SQLite walks along the index of (segment, id)."""
        arrays = self._arrays()
        rows = self._reader.execute(
            f"SELECT e.embedding_id, e.id, {_VALUES} FROM embeddings e LEFT JOIN embedding_metadata m ON m.id = e.id "  # noqa: S608
            "WHERE e.segment_id = ? ORDER BY e.embedding_id",
            (self._collection.metadata_segment,),
        )
        for (key, place), group in groupby(rows, itemgetter(0, 1)):
            metadata = {name: value_of(*values) for _, _, name, *values in group if name is not None}
            yield key, metadata | arrays.get(place, {})

    def _arrays(self) -> dict[int, Metadata]:
        """Metadata that are lists, which newer versions keep in a table of their own; in the order in which they were given."""
        if not self._reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'embedding_metadata_array'").fetchone():
            return {}
        found: dict[int, Metadata] = {}
        rows = self._reader.execute(
            f"SELECT m.id, {_VALUES} FROM embedding_metadata_array m JOIN embeddings e ON e.id = m.id "  # noqa: S608
            "WHERE e.segment_id = ? ORDER BY m.rowid",
            (self._collection.metadata_segment,),
        )
        for place, name, *values in rows:
            found.setdefault(place, {}).setdefault(name, []).append(value_of(*values))
        return found

    def _ids(self) -> set[str]:
        query = "SELECT embedding_id FROM embeddings WHERE segment_id = ?"
        ids: set[str] = {key for (key,) in self._reader.execute(query, (self._collection.metadata_segment,))}
        for key, operations in self._changes.items():
            exists = _changed({} if key in ids else None, operations) is not None
            (ids.add if exists else ids.discard)(key)
        return ids

    def _unusable(self) -> set[str]:
        found = {
            key for key in (self._index.unusable() if self._index else ()) if isinstance(self._vectors.get(key), int)
        }
        for key, vector in self._vectors.items():
            if (
                isinstance(vector, bytes)
                and not np.isfinite(np.frombuffer(vector[: len(vector) // 4 * 4], "<f4")).all()
            ):
                found.add(key)
        return found

    def _of_other_size(self) -> list[str]:
        size = 4 * (self._collection.dimension or 0)
        indexed = 4 * self._index.dimension if self._index else 0
        return sorted(k for k, v in self._vectors.items() if (indexed if isinstance(v, int) else len(v)) != size)


def _vectors(index: Index | None, operations: Iterable[Operation]) -> dict[str, int | bytes]:
    """Where each id's vector is: a row of the index, or the bytes in the queue."""
    vectors: dict[str, int | bytes] = dict(index.rows) if index else {}
    for operation in operations:
        known = operation.id in vectors
        if operation.kind == DELETE:
            vectors.pop(operation.id, None)
        elif operation.vector is not None and _applies(operation.kind, known):
            vectors[operation.id] = operation.vector
    return vectors


def _changed(metadata: Metadata | None, operations: Iterable[Operation]) -> Metadata | None:
    """``metadata`` after ``operations``; None is no record."""
    for operation in operations:
        if operation.kind == DELETE:
            metadata = None
        elif _applies(operation.kind, metadata is not None):
            merged: dict[str, Any] = (metadata or {}) | operation.metadata
            metadata = {key: value for key, value in merged.items() if value is not None}
    return metadata


def _applies(kind: int, known: bool) -> bool:
    return kind == UPSERT or (kind == ADD and not known) or (kind == UPDATE and known)
