"""What Chroma itself finds in a frozen folder: its library over a private copy, since it writes to every folder that it opens.

The copy is laid out from the pin into a temporary folder and is gone afterwards. Nothing is sent anywhere: telemetry is off, and
collections are opened without their embedding functions, which could load a model or call a service.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing

from resurgam.drivers.base import Blob, Source
from resurgam.drivers.chroma_pin import DATABASE_FILE, ChromaPin
from resurgam.drivers.chroma_store import Collection
from resurgam.drivers.chroma_view import View
from resurgam.drivers.searching import Floats, Hit, Vectors
from resurgam.errors import IntegrityError, MissingExtra, NotFound
from resurgam.model.nearest import did_you_mean
from resurgam.private import private_folder, room


def collection_of(view: View, name: str, location: str) -> Collection:
    """The collection whose table is called ``name``. Raises NotFound, with the nearest one."""
    for collection in view.collections:
        if collection.table == name:
            return collection
    raise NotFound(
        f"{location} has no collection {name!r}.",
        untouched="Nothing was changed.",
        next_step=did_you_mean(name, [collection.table for collection in view.collections]),
    )


def vectors_of(view: View, collection: Collection) -> Vectors:
    """All vectors that a search can meet, decoded without the library. Raises IntegrityError where the index cannot be read."""
    records, trouble = view.records(collection)
    if trouble is not None:
        raise trouble
    return Vectors(collection.space, collection.dimension or 0, records.vectors)


def search(pin: ChromaPin, collection: Collection, queries: Floats, k: int) -> tuple[list[list[Hit]], dict[str, str]]:
    """What the library finds in ``collection`` as it is pinned, and the library's version. Raises MissingExtra, IntegrityError."""
    try:
        import chromadb
        from chromadb.api.client import Client
        from chromadb.config import Settings
        from chromadb.errors import ChromaError
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"Asking Chroma itself needs {error.name}, which is not installed.",
            untouched="Nothing was changed.",
            next_step="Run: python -m pip install 'resurgam[chroma]', or ask with `mode: exact`, which needs no library.",
        ) from error
    with private_folder() as copy:
        with room():
            _lay(pin, copy)
        try:
            client = chromadb.PersistentClient(
                copy,
                settings=Settings(anonymized_telemetry=False),
                tenant=collection.tenant,
                database=collection.database,
            )
            assert isinstance(client, Client)  # what the library promises is less than it gives
            with closing(client):
                opened = client.get_collection(collection.name, embedding_function=None)
                found = opened.query(query_embeddings=queries, n_results=k, include=["distances"])
        except ChromaError as error:
            raise IntegrityError(
                f"Chroma does not search collection {collection.name}: {error}.",
                untouched="It was asked over a private copy.",
                next_step="Capture it: the findings of the point (`resurgam show latest`) say what is wrong with its index.",
            ) from error
    assert found["distances"] is not None, "they were asked for"
    return [_hits(*row) for row in zip(found["ids"], found["distances"], strict=True)], {
        "chromadb": chromadb.__version__
    }


def _hits(ids: Sequence[str], distances: Sequence[float]) -> list[Hit]:
    return [Hit(key, float(distance)) for key, distance in zip(ids, distances, strict=True)]


def _lay(pin: ChromaPin, folder: str) -> None:
    for (segment, name), piece in pin.pieces.items():
        os.makedirs(os.path.join(folder, segment), exist_ok=True)
        _copy(pin.source((segment, name)), piece.status.size, os.path.join(folder, segment, name))
    image = pin.database.image
    _copy(image, image.size, os.path.join(folder, DATABASE_FILE))


def _copy(source: Source, size: int, path: str) -> None:
    with open(path, "xb") as file:
        Blob(os.fsencode(path), size, source).copy_to(file.fileno())
