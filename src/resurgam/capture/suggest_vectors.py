"""Golden queries for a collection of vectors: real items, spread so that every part of it is asked about.

Items are clustered by k-means with the seeding of k-means++ (Arthur and Vassilvitskii 2007), which prefers what is far from all
that was chosen, so small and remote clusters get a query too; of each cluster the item nearest to its centre is taken, and its
vector is frozen into a file. Seeded, so that equal collections get equal queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.capture.suggestion import FOLDER, Look, Note, Suggestion
from resurgam.drivers.searches import CANARY
from resurgam.drivers.searching import Floats, Searches, Vectors
from resurgam.errors import IntegrityError
from resurgam.model.system import Json

QUERIES = 32
SAMPLE = 20_000  # vectors that are clustered; of more, evenly spaced ones in the order of ids
ROUNDS = 10
CHEAP = 100_000  # vectors; more are not asked around every cut
RARE = 0.01  # of all items: a smaller cluster is told
K = 10
# What a graph that was built anew may differ by: see proof.claims.
EQUIVALENT: Json = {"equivalent": {"score": "overlap", "k": K, "margin": 0.05, "worst": 0.8}}

Doubles = NDArray[np.float64]
Numbers = NDArray[np.int64]


class Golden(NamedTuple):
    """An item, its vector, and how many items its cluster has."""

    id: str
    vector: Floats
    size: int


def vectors(look: Look) -> Iterator[Suggestion | Note]:
    """Probes for each collection that none asks yet."""
    if not isinstance(look.driver, Searches):
        return
    for collection in look.driver.collections(look.component, look.at):
        if not look.asked(kind="retrieval", collection=collection):
            try:
                yield from _of_collection(look, collection, look.driver.vectors(look.component, look.at, collection))
            except IntegrityError as error:
                yield look.note(f"collection {collection} cannot be searched: {error.message}")


def golden(found: Vectors, count: int = QUERIES) -> tuple[list[Golden], int]:
    """At most ``count`` items, those of the largest clusters first, and how many vectors there are."""
    total = sum(len(ids) for ids, _ in found.blocks())
    step = -(-total // SAMPLE) or 1
    ids: list[str] = []
    blocks: list[Floats] = []
    place = 0
    for keys, block in found.blocks():
        first = -place % step
        ids += keys[first::step]
        blocks.append(block[first::step])
        place += len(keys)
    if not ids:
        return [], 0
    rows = np.concatenate(blocks)
    nearest, sizes = _clusters(_directions(rows) if found.space == "cosine" else rows.astype(np.float64), count)
    chosen = [Golden(ids[row], rows[row], size * step) for row, size in zip(nearest, sizes, strict=True)]
    return sorted(chosen, key=lambda one: (-one.size, one.id)), total


def _of_collection(look: Look, collection: str, found: Vectors) -> Iterator[Suggestion | Note]:
    items, total = golden(found)
    if not items:
        yield look.note(f"collection {collection} has no vectors to ask about")
        return
    rare = [item.id for item in items if item.size < RARE * total]
    words = f"{len(items)} queries spread over {total} vectors of {collection}"
    if rare:
        words += f", {len(rare)} of them in rare corners (such as {rare[-1]})"
    ask = {f"like {item.id}": [float(str(number)) for number in item.vector] for item in items}
    fields: dict[str, Json] = {"kind": "retrieval", "component": look.component.name, "collection": collection, "k": K}
    fields |= {"witness": True} if total <= CHEAP else {}
    file = f"{FOLDER}/{look.names.give('queries', look.component.name, collection)}.json"
    yield look.suggestion(
        f"exact-{collection}", f"{words}, answered by exact search: any vector lost, changed or slipped in shows",
        fields, ask=ask, file=file,
    )  # fmt: skip
    yield look.suggestion(
        f"search-{collection}", "the same queries, answered by the store itself: a damaged graph shows, a new one may differ",
        fields | {"mode": "approximate", "tolerance": EQUIVALENT}, ask=ask, file=file,
    )  # fmt: skip
    yield _canaries(look, collection, found, [item.id for item in items[-3:]])


def _canaries(look: Look, collection: str, found: Vectors, rarest: list[str]) -> Suggestion | Note:
    if any(key.startswith(CANARY) for ids, _ in found.blocks() for key in ids):
        fields: dict[str, Json] = {"kind": "retrieval", "component": look.component.name, "collection": collection}
        return look.suggestion(
            f"canaries-{collection}",
            "its canaries, each by its own vector",
            fields | {"canaries": True, "witness": True},
        )
    near = ", ".join(f"{CANARY}{key}" for key in rarest)
    return look.note(
        f"collection {collection} has no canaries: records of your own, such as {near}, with the vectors of those items, would "
        "show when an index stops being served from this collection; nothing was written"
    )


def _directions(rows: Floats) -> Doubles:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def _clusters(rows: Doubles, count: int) -> tuple[list[int], list[int]]:
    """The row nearest to each centre, and the sizes of the clusters; empty clusters are left out."""
    centres = _seeds(rows, count)
    for _ in range(ROUNDS):
        owner = _squares(rows, centres).argmin(axis=1)
        centres = np.stack(
            [
                rows[owner == place].mean(axis=0) if (owner == place).any() else centre
                for place, centre in enumerate(centres)
            ]
        )
    squares = _squares(rows, centres)
    owner = squares.argmin(axis=1)
    filled = [place for place in range(len(centres)) if (owner == place).any()]
    nearest = [int(np.where(owner == place, squares[:, place], np.inf).argmin()) for place in filled]
    return nearest, [int((owner == place).sum()) for place in filled]


def _seeds(rows: Doubles, count: int) -> Doubles:
    """k-means++: each next centre with a chance in proportion to its squared distance from those chosen."""
    random = np.random.default_rng(0)
    chosen = [int(random.integers(len(rows)))]
    apart = _squares(rows, rows[chosen]).min(axis=1)
    while len(chosen) < count and apart.sum() > 0:
        chosen.append(int(random.choice(len(rows), p=apart / apart.sum())))
        apart = np.minimum(apart, _squares(rows, rows[chosen[-1:]])[:, 0])
    return rows[chosen]


def _squares(rows: Doubles, centres: Doubles) -> Doubles:
    own, theirs = np.einsum("ij,ij->i", rows, rows), np.einsum("ij,ij->i", centres, centres)
    return np.asarray(np.maximum(own[:, None] + theirs[None, :] - 2 * rows @ centres.T, 0.0))
