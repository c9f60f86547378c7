"""Exact search over the vectors of a frozen component: the oracle that no index stands behind.

A driver of a vector store offers two things (:class:`Searches`): the vectors as it decoded them itself, and what the store's own
library finds. :func:`nearest` compares every vector with every query, block by block, so memory is bounded by a block and by
ties, not by the collection.

Distances are those of hnswlib's spaces (``space_l2.h``, ``space_ip.h``), where less is nearer: ``l2`` the squared Euclidean
distance, ``ip`` 1 - dot product, ``cosine`` the same of vectors of length 1. In float64 their own error does not matter; that of
the stored float32 does: an index that is built anew from the same vectors may hold each of them a unit in the last place aside.
So distances closer than :data:`ULPS` such units count as equal, and equal ones are ordered by id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from resurgam.model.point import Position
from resurgam.model.system import Component

BLOCK = 4096  # vectors compared together
ULPS = 8
_ULP = float(np.finfo(np.float32).eps)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Hit(NamedTuple):
    """An item that was found, and how far away it is."""

    id: str
    distance: float


class Found(NamedTuple):
    """``ids`` are the k nearest, nearest first; ``near`` are they and all that are as near as the last of them."""

    ids: list[str]
    near: frozenset[str]


@dataclass(frozen=True)
class Vectors:
    """The searchable vectors of one collection. ``blocks`` yields ids with their vectors, one a row; each call begins anew."""

    space: str
    dimension: int
    blocks: Callable[[], Iterator[tuple[Sequence[str], Floats]]]

    def of(self, ids: Sequence[str]) -> dict[str, Floats]:
        """The vectors of those ``ids`` that have one."""
        wanted = set(ids)
        return {key: row for keys, rows in self.blocks() for key, row in zip(keys, rows, strict=True) if key in wanted}


@runtime_checkable
class Searches(Protocol):
    """An optional port of drivers: vectors of a frozen component."""

    def collections(self, component: Component, at: Position) -> list[str]:
        """The names of all collections at the position. Raises IntegrityError."""
        ...

    def vectors(self, component: Component, at: Position, collection: str) -> Vectors:
        """The vectors of ``collection`` at the position. Raises NotFound, IntegrityError."""
        ...

    def search(
        self, component: Component, at: Position, collection: str, queries: Floats, k: int
    ) -> tuple[list[list[Hit]], Mapping[str, str]]:
        """What the store itself finds for each row of ``queries``, and by what. It is asked over a private copy of the state at
        the position, which nobody else sees. Raises NotFound, MissingExtra, IntegrityError."""
        ...


def nearest(vectors: Vectors, queries: Floats, k: int) -> list[Found]:
    """The ``k`` nearest of ``vectors`` for each row of ``queries``."""
    asked = queries.astype(np.float64)
    kept: list[list[Hit]] = [[] for _ in asked]
    for ids, block in vectors.blocks():
        distances = _distances(vectors.space, asked, block.astype(np.float64))
        for place, row in enumerate(distances):
            last = min(_last(kept[place], k), float(np.partition(row, k - 1)[k - 1]) if len(row) >= k else np.inf)
            new = np.flatnonzero(row <= last + _slack(vectors.space, asked[place], last)).tolist()
            hits = kept[place] + [Hit(ids[number], float(row[number])) for number in new]
            kept[place] = _within(vectors.space, asked[place], hits, k)
    return [
        Found([hit.id for hit in in_order(vectors.space, query, hits)[:k]], frozenset(hit.id for hit in hits))
        for query, hits in zip(asked, kept, strict=True)
    ]


def in_order(space: str, query: NDArray[np.floating], hits: Sequence[Hit]) -> list[Hit]:
    """``hits`` by distance, and those that are equally far by id."""
    ordered: list[Hit] = []
    group: list[Hit] = []
    for hit in sorted(hits, key=lambda one: one.distance):
        if group and hit.distance - group[-1].distance > _slack(space, query, hit.distance):
            ordered += sorted(group, key=lambda one: one.id)
            group = []
        group.append(hit)
    return ordered + sorted(group, key=lambda one: one.id)


def _within(space: str, query: Doubles, hits: list[Hit], k: int) -> list[Hit]:
    """The k nearest and their equals. What is not among them can never come back: the k-th distance only falls."""
    last = _last(hits, k)
    limit = last + _slack(space, query, last)
    return [hit for hit in hits if hit.distance <= limit]


def _last(hits: Sequence[Hit], k: int) -> float:
    return sorted(hit.distance for hit in hits)[k - 1] if len(hits) >= k else np.inf


def _slack(space: str, query: NDArray[np.floating], distance: float) -> float:
    """Below this two distances are equal: units in the last place of what they were summed up from."""
    scale = 1.0 if space == "cosine" else max(float(query @ query), abs(distance))
    return ULPS * _ULP * scale if np.isfinite(scale) else 0.0


def _distances(space: str, queries: Doubles, block: Doubles) -> Doubles:
    products = queries @ block.T
    if space == "ip":
        return np.asarray(1.0 - products)
    squares, own = np.einsum("ij,ij->i", block, block), np.einsum("ij,ij->i", queries, queries)
    if space == "cosine":
        lengths = np.sqrt(np.outer(own, squares))
        return np.asarray(1.0 - np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))
    return np.asarray(np.maximum(own[:, None] + squares[None, :] - 2 * products, 0.0))
