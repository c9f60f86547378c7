"""Damages that the incidents of the examples do not have, to either system. Each takes the places of the components, by name, and
returns in a sentence what it did. All through the stores' own files or doors; nobody else is at work meanwhile.
"""

from __future__ import annotations

import glob
import os
import random
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from examples.helpdesk.incidents import HNSW_HEADER

Places = dict[str, str]
PAGE = 4096  # bytes of a page of the databases


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        yield connection


# ---- databases


def add_word(places: Places, chunks: Sequence[int], word: str = "Never") -> str:
    """A word is put before the text of some chunks, by ordinary UPDATE statements."""
    with _opened(places["documents"]) as database:
        database.executemany("UPDATE chunks SET text = ? || ' ' || text WHERE id = ?", [(word, c) for c in chunks])
    return f"{len(chunks)} chunks begin with {word!r}"


def exchange_texts(places: Places, chunks: Sequence[int]) -> str:
    """Some chunks get each other's text: every count and every sum is as before."""
    with _opened(places["documents"]) as database:
        texts = [database.execute("SELECT text FROM chunks WHERE id = ?", (c,)).fetchone()[0] for c in chunks]
        moved = zip(texts[1:] + texts[:1], chunks, strict=True)
        database.executemany("UPDATE chunks SET text = ? WHERE id = ?", list(moved))
    return f"{len(chunks)} chunks have each other's text"


def delete_chunks(places: Places, chunks: Sequence[int]) -> str:
    """Some chunks are deleted from the documents; the index keeps them."""
    with _opened(places["documents"]) as database:
        database.executemany("DELETE FROM chunks WHERE id = ?", [(c,) for c in chunks])
    return f"{len(chunks)} chunks are deleted"


def relabel_sections(places: Places, share: float, seed: int) -> str:
    """A share of the documents is put in another section."""
    rng = random.Random(seed)
    with _opened(places["documents"]) as database:
        rows = database.execute("SELECT id, section FROM documents ORDER BY id").fetchall()
        sections = sorted({section for _, section in rows})
        some = rng.sample(rows, max(1, round(len(rows) * share)))
        other = [(sections[(sections.index(section) + 1) % len(sections)], number) for number, section in some]
        database.executemany("UPDATE documents SET section = ? WHERE id = ?", other)
    return f"{len(some)} of {len(rows)} documents are in another section"


def orphan_tickets(places: Places, count: int) -> str:
    """The customers of some tickets are not there any more."""
    with _opened(places["documents"]) as database:
        database.execute("UPDATE tickets SET customer_id = customer_id + 1000000 WHERE id <= ?", (count,))
    return f"{count} tickets belong to customers who do not exist"


def change_plans(places: Places, count: int) -> str:
    """Some customers have another plan than they pay for."""
    with _opened(places["documents"]) as database:
        database.execute("UPDATE customers SET plan = 'enterprise' WHERE id <= ?", (count,))
    return f"the first {count} customers are on the plan enterprise"


def unindex_chunks(places: Places, chunks: Sequence[int]) -> str:
    """Some chunks vanish from the full-text index, and from no table."""
    with _opened(places["documents"]) as database:
        for chunk in chunks:
            heading, text = database.execute("SELECT heading, text FROM chunks WHERE id = ?", (chunk,)).fetchone()
            gone = "INSERT INTO chunks_index(chunks_index, rowid, heading, text) VALUES ('delete', ?, ?, ?)"
            database.execute(gone, (chunk, heading, text))
    return f"{len(chunks)} chunks are not in the full-text index"


def cut_short(places: Places, component: str, keep: float) -> str:
    """A database file is cut short, as by a copy that was broken off."""
    path = places[component]
    size = os.path.getsize(path)
    os.truncate(path, int(size * keep))
    return f"{os.path.basename(path)} has {int(size * keep):,} of {size:,} bytes"


def zero_pages(places: Places, component: str, count: int, seed: int) -> str:
    """Some pages of a database are zeros, as after a disk that lied."""
    path = places[component]
    pages = random.Random(seed).sample(range(1, os.path.getsize(path) // PAGE), count)
    with open(path, "r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(bytes(PAGE))
    return f"{count} pages of {os.path.basename(path)} are zeros"


def lose_checkpoints(places: Places, thread: str, count: int) -> str:
    """The newest checkpoints of a thread are gone: it stands where it stood before."""
    newest = "SELECT checkpoint_id FROM checkpoints WHERE thread_id = ? ORDER BY checkpoint_id DESC LIMIT ?"
    with _opened(places["agent"]) as database:
        gone = f"DELETE FROM checkpoints WHERE thread_id = ? AND checkpoint_id IN ({newest})"  # noqa: S608 (a constant)
        lost = database.execute(gone, (thread, thread, count)).rowcount
    return f"the newest {lost} checkpoints of {thread} are gone"


def forget(places: Places, customer: int) -> str:
    """What the agent remembers of a customer is gone."""
    with _opened(places["agent"]) as database:
        gone = database.execute("DELETE FROM store WHERE prefix LIKE ?", (f"customers.{customer}.%",)).rowcount
    return f"{gone} memories of customer {customer} are gone"


# ---- vectors and weights


def _graph(places: Places) -> tuple[str, int, int, int, int]:
    (folder,) = glob.glob(os.path.join(glob.escape(places["index"]), "*", ""))
    with open(os.path.join(folder, "header.bin"), "rb") as file:
        _, _, _, elements, stride, label_at, data_at = HNSW_HEADER.unpack(file.read(HNSW_HEADER.size))
    return os.path.join(folder, "data_level0.bin"), elements, stride, data_at, label_at


def _vectors(places: Places) -> tuple[np.memmap[tuple[int, int], np.dtype[np.uint8]], int, int]:
    path, elements, stride, data_at, label_at = _graph(places)
    return np.memmap(path, np.uint8, "r+", shape=(elements, stride)), data_at, label_at


def disturb_vectors(places: Places, share: float, scale: float, seed: int) -> str:
    """Noise is added to a share of the vectors in the graph's file; ``scale`` is of the vectors' own length."""
    table, start, end = _vectors(places)
    rng = np.random.default_rng(seed)
    some = rng.choice(len(table), max(1, round(len(table) * share)), replace=False)
    vectors = np.ascontiguousarray(table[some, start:end]).view(np.float32)
    noise = rng.normal(size=vectors.shape)
    vectors = vectors + (scale * noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table[some, start:end] = vectors.astype(np.float32).view(np.uint8)
    table.flush()
    return f"{len(some)} of {len(table)} vectors are noisy by {scale:g} of their length"


def exchange_vectors(places: Places, share: float, seed: int) -> str:
    """A share of the vectors stands at each other's ids."""
    table, start, end = _vectors(places)
    rng = np.random.default_rng(seed)
    some = rng.choice(len(table), max(2, round(len(table) * share)), replace=False)
    table[some, start:end] = table[np.roll(some, 1), start:end]
    table.flush()
    return f"{len(some)} of {len(table)} vectors stand at each other's ids"


def delete_records(places: Places, share: float) -> str:
    """The newest records are deleted from the index through Chroma: it is as it was some time ago."""
    from examples.helpdesk.index import NAME, _client

    with closing(_client(places["index"])) as client:
        collection = client.get_collection(NAME, embedding_function=None)
        ids = sorted(collection.get(include=[])["ids"], key=int)
        gone = ids[-max(1, round(len(ids) * share)) :]
        collection.delete(gone)
    return f"the newest {len(gone)} of {len(ids)} records are not in the index"


def _weights(path: str) -> tuple[dict[str, NDArray[np.floating]], dict[str, str] | None]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 (it is no dict)


def disturb_router(places: Places, scale: float, seed: int) -> str:
    """The router's weights get noise, ``scale`` times their own spread."""
    path = os.path.join(places["router"], "router.safetensors")
    tensors, metadata = _weights(path)
    rng = np.random.default_rng(seed)
    weight = tensors["weight"]
    tensors["weight"] = (weight + scale * weight.std() * rng.normal(size=weight.shape)).astype(weight.dtype)
    save_file(tensors, path, metadata=metadata)
    return f"the router's weights are noisy by {scale:g} of their spread"


def coarsen_embedder(places: Places, levels: int) -> str:
    """The embedder's weights are rounded to few levels, as by a quantisation that nobody told of."""
    path = os.path.join(places["embedder"], "model.safetensors")
    tensors, metadata = _weights(path)
    for name, tensor in tensors.items():
        step = float(np.abs(tensor).max()) / levels
        tensors[name] = (np.round(tensor.astype(np.float32) / step) * step).astype(tensor.dtype)
    save_file(tensors, f"{path}.new", metadata=metadata)
    os.replace(f"{path}.new", path)
    return f"the embedder's weights have {2 * levels + 1} levels"


def roll_router(places: Places, shift: int) -> str:
    """Each section gets another's weights."""
    path = os.path.join(places["router"], "router.safetensors")
    tensors, metadata = _weights(path)
    rolled = {name: np.ascontiguousarray(np.roll(tensor, shift, axis=-1)) for name, tensor in tensors.items()}
    save_file(rolled, path, metadata=metadata)
    return f"each section has the weights of the one {shift} before it"


# ---- texts


def edit(places: Places, component: str, name: str, before: str, after: str) -> str:
    """A word of a file becomes another."""
    path = os.path.join(places[component], name) if name else places[component]
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if before not in text:
        raise ValueError(f"{path} does not say {before!r}.")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(before, after, 1))
    return f"{name or os.path.basename(path)} says {after!r} where it said {before!r}"


def drop_rules(places: Places, component: str, name: str, word: str) -> str:
    """The rules of one kind (``- refuse: …``) go from a policy, as by a merge that took the wrong side."""
    path = os.path.join(places[component], name)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(re.sub(rf"(?m)^- {word}: .*\n", "", text))
    return f"{name} has no rule {word!r} any more"
