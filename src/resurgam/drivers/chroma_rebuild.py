"""A process of its own: decode a Chroma folder and add its records to a fresh one, through the library.

    python -m resurgam.drivers.chroma_rebuild IMAGE FRESH

Run by ``chroma_writing``. Telemetry is off, and no embedding function is loaded: vectors are given, never computed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from resurgam.drivers.chroma_pin import take_pin
from resurgam.drivers.chroma_records import Record
from resurgam.drivers.chroma_store import Collection
from resurgam.drivers.chroma_view import View
from resurgam.errors import IntegrityError

_URI = "chroma:uri"
_BATCH = 500
_LIMIT = 60.0  # seconds to copy an image that nobody writes to


def rebuild(image: str, fresh: str) -> None:
    """Raises IntegrityError where a record has no vector: Chroma would compute another one, or refuse."""
    writers, pin = take_pin(image, _LIMIT)
    writers.let_go()
    try:
        view = View(pin)
        with _client(fresh) as (client, admin):
            for collection in view.collections:
                _make_place(admin, collection)
                client.set_tenant(collection.tenant, collection.database)
                made = _make(client, collection)
                records, trouble = view.records(collection)
                if trouble is not None:
                    raise trouble
                for batch in _batches(iter(records)):
                    _add(made, batch)
    finally:
        pin.close()


class _client:  # noqa: N801 - used as a word
    """The library's two clients of ``path``, closed on every way out."""

    def __init__(self, path: str) -> None:
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=path, allow_reset=False)
        self._clients: tuple[Any, Any] = (
            chromadb.PersistentClient(path, settings=settings),
            chromadb.AdminClient(settings),
        )

    def __enter__(self) -> tuple[Any, Any]:
        return self._clients

    def __exit__(self, *_: object) -> None:
        self._clients[0].close()


def _make_place(admin: Any, collection: Collection) -> None:
    """The tenant and the database of ``collection``, where they are not there yet."""
    from chromadb.errors import NotFoundError

    try:
        admin.get_tenant(collection.tenant)
    except NotFoundError:
        admin.create_tenant(collection.tenant)
    try:
        admin.get_database(collection.database, collection.tenant)
    except NotFoundError:
        admin.create_database(collection.database, collection.tenant)


def _make(client: Any, collection: Collection) -> Any:
    """The collection with its settings: Chroma's own text of them where there is one."""
    import json

    from chromadb.api.types import Schema

    metadata = collection.metadata or None
    if collection.schema:
        schema = Schema.deserialize_from_json(json.loads(collection.schema))
        return client.create_collection(collection.name, schema=schema, metadata=metadata, embedding_function=None)
    hnsw = {**collection.settings["hnsw"], "space": collection.space}
    known = {key: hnsw[key] for key in hnsw.keys() & _HNSW}
    return client.create_collection(
        collection.name, configuration={"hnsw": known}, metadata=metadata, embedding_function=None
    )


_HNSW = frozenset(
    {"space", "ef_construction", "max_neighbors", "ef_search", "num_threads", "batch_size", "sync_threshold"}
)


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, _BATCH)):
        yield batch


def _add(collection: Any, batch: list[Record]) -> None:
    if any(vector is None for *_, vector in batch):
        raise IntegrityError(
            f"Collection {collection.name} has lost vectors, so it cannot be built from its records.",
            untouched="Nothing stands at the target.",
            next_step="Restore an earlier point, or the image.",
        )
    metadatas = [dict(metadata) for _, _, metadata, _ in batch]
    uris = [metadata.pop(_URI, None) for metadata in metadatas]
    collection.add(
        ids=[key for key, *_ in batch],
        embeddings=[np.frombuffer(vector or b"", "<f4") for *_, vector in batch],
        documents=[document for _, document, *_ in batch],
        metadatas=[metadata or None for metadata in metadatas],
        uris=uris if any(uris) else None,
    )


if __name__ == "__main__":
    rebuild(*sys.argv[1:3])
