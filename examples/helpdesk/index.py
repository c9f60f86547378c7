"""The index: the vector of every chunk, in a Chroma folder. Its collection says in its metadata which embedder built it.

Chroma in a folder is made for one process (seen with 1.5: a second one does not find what the first has added since it looked;
its own looking changes the folder; and where both added in turn, vectors were gone for good while the counts still agreed). So here

* one process adds (``adding``, which refuses a second); around each addition it locks the folder itself (``flock`` of a directory:
  nothing more to capture);
* whoever only asks (``Reader``) copies the folder under that lock and opens the copy. Being asked leaves no trace, a reader sees
  all that was added before it asked, and a live index is never disturbed by a probe.

The vectors have length 1. One thread builds the graph, so that equal chunks give equal neighbours.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from .documents import Chunk
from .embedder import Embedder, Floats

if TYPE_CHECKING:
    from chromadb.api.client import Client
    from chromadb.api.collection_configuration import CreateHNSWConfiguration
    from chromadb.api.models.Collection import Collection

NAME = "help"
BATCH = 2000
# A low sync threshold: Chroma writes the graph's files every so many additions, and a capture should meet that too.
# And searched widely: of 40 graphs over the same chunks in other orders, 11 did not find one of the ten nearest to some golden
# question as Chroma comes (100 and 100); these found all.
GRAPH: CreateHNSWConfiguration = {
    "space": "cosine", "num_threads": 1, "batch_size": 50, "sync_threshold": 100, "ef_construction": 200, "ef_search": 400,
}  # fmt: skip


class Found(NamedTuple):
    """A chunk that was found; 0 is the nearest ``distance`` (1 - cosine), 2 the farthest."""

    chunk: int
    distance: float


class Index:
    """The open collection of the index in ``folder``."""

    def __init__(self, collection: Collection, folder: str) -> None:
        self._collection = collection
        self._folder = folder

    @property
    def embedder(self) -> str:
        """The digest of the embedder that built it."""
        return str((self._collection.metadata or {}).get("embedder", ""))

    def add(self, chunks: Sequence[Chunk], vectors: Floats) -> None:
        """Add at most ``BATCH`` chunks with their vectors."""
        with locked(self._folder, alone=True):
            self._collection.add(
                ids=[str(chunk.id) for chunk in chunks],
                embeddings=vectors,
                documents=[chunk.text for chunk in chunks],
                metadatas=[{"chunk_id": chunk.id, "section": chunk.section} for chunk in chunks],
            )

    def search(self, vector: Floats, limit: int) -> list[Found]:
        """The chunks nearest to ``vector``, nearest first; equal ones by id."""
        answer = self._collection.query(query_embeddings=vector[None, :], n_results=limit, include=["distances"])
        assert answer["distances"] is not None
        pairs = zip(answer["ids"][0], answer["distances"][0], strict=True)
        found = [Found(int(chunk), round(float(distance), 6)) for chunk, distance in pairs]
        return sorted(found, key=lambda one: (one.distance, one.chunk))

    def search_all(self, vectors: Floats, limit: int) -> list[set[int]]:
        """For each of ``vectors`` the chunks nearest to it."""
        answer = self._collection.query(query_embeddings=vectors, n_results=limit, include=[])
        return [{int(chunk) for chunk in near} for near in answer["ids"]]

    def ids(self) -> set[int]:
        """The ids of all chunks in it, each with a vector that was fetched, not counted."""
        everything = self._collection.get(include=["embeddings"])
        assert everything["embeddings"] is not None
        return {
            int(chunk) for chunk, vector in zip(everything["ids"], everything["embeddings"], strict=True) if len(vector)
        }


def create(folder: str, chunks: Sequence[Chunk], embedder: Embedder) -> None:
    """Make the index of ``chunks`` in ``folder``, which must not exist yet."""
    os.makedirs(folder)
    with closing(_client(folder)) as client:
        metadata = {"embedder": embedder.digest, "dimension": embedder.weights.shape[1]}
        made = client.create_collection(NAME, metadata=metadata, configuration={"hnsw": GRAPH}, embedding_function=None)
        index = Index(made, folder)
        for start in range(0, len(chunks), BATCH):
            part = chunks[start : start + BATCH]
            index.add(part, embedder.embed([chunk.words for chunk in part]))


@contextmanager
def adding(folder: str) -> Iterator[Index]:
    """The index, for the one process that adds to it. Raises BlockingIOError where another does, and whatever Chroma raises
    where the folder is not usable."""
    lock = os.open(f"{folder}.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with closing(_client(folder)) as client:
            yield Index(client.get_collection(NAME, embedding_function=None), folder)
    finally:
        os.close(lock)


@contextmanager
def locked(folder: str, *, alone: bool) -> Iterator[None]:
    """Hold the folder's lock: ``alone`` to add, with others to copy."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(opened)


class Reader:
    """Asks the index in ``folder`` through a private copy, which is made anew when the index has changed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stamp: tuple[int, int] | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    @property
    def index(self) -> Index:
        """The index as it is now, to be asked before the next one is taken."""
        if (stamp := self._look()) != self._stamp:
            self._held.close()
            copy = os.path.join(self._held.enter_context(tempfile.TemporaryDirectory(prefix="helpdesk-index-")), NAME)
            with locked(self._folder, alone=False):
                stamp = self._look()
                shutil.copytree(self._folder, copy)
            client = self._held.enter_context(closing(_client(copy)))
            self._index = Index(client.get_collection(NAME, embedding_function=None), copy)
            self._stamp = stamp
        return self._index

    def _look(self) -> tuple[int, int]:
        found = os.stat(os.path.join(self._folder, "chroma.sqlite3"))
        return found.st_mtime_ns, found.st_size


def _client(folder: str) -> Client:
    """Chroma over ``folder``; imported here, since that takes longer than all else."""
    import chromadb
    from chromadb.api.client import Client
    from chromadb.config import Settings

    client = chromadb.PersistentClient(path=folder, settings=Settings(anonymized_telemetry=False))
    assert isinstance(client, Client)
    return client
