"""The Chroma clients of the tests, each in a process of its own: Chroma keeps state per process and does not survive a fork.

:class:`Client` is a server of acts over pipes; it opens the folder for each act and closes it again. ``python THIS writer …`` and
``python THIS pair …`` are busy clients that end when their input is closed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

NAME = "data"
PERSIST_AFTER = 20  # operations: small, so that indexes are persisted while captures run
DIMENSION = 8


def vector_of(value: bytes) -> list[float]:
    """The vector that belongs to a value."""
    return [float(byte) for byte in hashlib.sha256(value).digest()[:DIMENSION]]


def script() -> list[str]:
    """How to start this file as a program."""
    return [sys.executable, "-W", "ignore", str(Path(__file__).resolve())]


class Client:
    """Acts on Chroma folders in another process, started at the first act."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, act: str, path: str, **arguments: Any) -> Any:
        """What ``act`` (a function below) answers. Raises AssertionError with Chroma's error where it fails."""
        if self._process is None:
            self._process = subprocess.Popen([*script(), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([act, path, arguments]).encode() + b"\n")
        process.stdin.flush()
        answer, error = json.loads(process.stdout.readline())
        assert error is None, error
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate(timeout=30)
            self._process = None


def opened(path: str) -> Any:
    """A client of ``path``; only used in processes of this file."""
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))


def create(client: Any, name: str, space: str = "l2", sync: int = PERSIST_AFTER, **more: Any) -> Any:
    """A collection that persists often."""
    hnsw = {"space": space, "sync_threshold": sync, "batch_size": min(sync, 10)}
    return client.create_collection(name, configuration={"hnsw": hnsw}, embedding_function=None, **more)


def put(collection: Any, data: dict[str, bytes]) -> None:
    """One act of the store: all of ``data``."""
    collection.upsert(
        ids=list(data),
        embeddings=[vector_of(value) for value in data.values()],
        documents=[f"{len(value)} bytes" for value in data.values()],
        metadatas=[{"value": base64.b64encode(value).decode()} for value in data.values()],
    )


def seed(client: Any, data: dict[str, str]) -> None:
    """The collection holds exactly ``data`` (base64)."""
    if any(collection.name == NAME for collection in client.list_collections()):
        client.delete_collection(NAME)
    collection = create(client, NAME)
    items = list(data.items())
    for start in range(0, len(items), 50):
        put(collection, {key: base64.b64decode(value) for key, value in items[start : start + 50]})


def change(client: Any, key: str, value: str | None) -> None:
    """Put or delete one key."""
    collection = client.get_collection(NAME, embedding_function=None)
    if value is None:
        collection.delete(ids=[key])
    else:
        put(collection, {key: base64.b64decode(value)})


def peek(client: Any) -> dict[str, str]:
    """All values; each record's vector and document must be those of its value."""
    got = client.get_collection(NAME, embedding_function=None).get(include=["embeddings", "documents", "metadatas"])
    found = {}
    for key, vector, document, metadata in zip(
        got["ids"], got["embeddings"], got["documents"], got["metadatas"], strict=True
    ):
        value = base64.b64decode(metadata["value"])
        assert list(map(float, vector)) == vector_of(value), key
        assert document == f"{len(value)} bytes"
        found[key] = metadata["value"]
    return found


def run(client: Any, code: str, **arguments: Any) -> Any:
    """``code``, a body with ``client``, ``create``, ``put`` and the arguments in scope; its ``answer`` comes back as JSON."""
    scope = {"client": client, "create": create, "put": put, **arguments}
    exec(code, scope)
    return scope.get("answer")


def search(client: Any, name: str, queries: list[list[float]], n: int = 10) -> Any:
    """Ids, distances and documents of a search."""
    collection = client.get_collection(name, embedding_function=None)
    got = collection.query(query_embeddings=queries, n_results=n, include=["distances", "documents", "metadatas"])
    return [got["ids"], got["distances"], got["documents"], got["metadatas"]]


def everything(client: Any) -> Any:
    """All records of all collections, vectors as numbers."""
    found = {}
    for collection in client.list_collections():
        got = client.get_collection(collection.name, embedding_function=None).get(
            include=["embeddings", "documents", "metadatas"]
        )
        rows = zip(got["ids"], got["embeddings"], got["documents"], got["metadatas"], strict=True)
        found[collection.name] = {
            key: [list(map(float, vector)), document, metadata] for key, vector, document, metadata in rows
        }
    return found


def serve() -> None:
    """Answer acts, one line each, until the input ends."""
    for line in sys.stdin:
        act, path, arguments = json.loads(line)
        answer, error = None, None
        client = None
        try:
            client = opened(path)
            answer = globals()[act](client, **arguments)
        except Exception as caught:  # noqa: BLE001 - told to the test, which fails by it
            error = f"{type(caught).__name__}: {caught}"
        finally:
            if client is not None:
                client.close()
        print(json.dumps([answer, error]), flush=True)


def input_ended() -> bool:
    """Whether the other side wants this process to end."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def pair(path: str) -> None:
    """Both keys in one act, as fast as it goes."""
    collection = opened(path).get_collection(NAME, embedding_function=None)
    number = 0
    while True:
        number += 1
        value = b"%08d" % number * 4096
        put(collection, {"left": value, "right": value})
        if number == 1:
            print("writing", flush=True)
        if input_ended():
            break


def writer(path: str, key: str) -> None:
    """Adds, updates and deletes records of its own, ``key-N``: whoever has a value must have its vector and its document."""
    collection = opened(path).get_collection(NAME, embedding_function=None)
    number = 0
    while True:
        number += 1
        put(collection, {f"{key}-{number % 97}-{part}": b"%d %d" % (number, part) for part in range(7)})
        if number % 3 == 0:
            collection.delete(ids=[f"{key}-{(number - 2) % 97}-{part}" for part in range(4)])
        if number == 1:
            print("writing", flush=True)
        if input_ended():
            break


if __name__ == "__main__":
    os.environ["ANONYMIZED_TELEMETRY"] = "False"
    act: Any = {"serve": serve, "pair": pair, "writer": writer}[sys.argv[1]]
    act(*sys.argv[2:])
