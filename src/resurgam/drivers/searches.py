"""Several searches of one frozen component, answered together: what is dear is done once for all of them.

Reading a collection's vectors, copying its folder for the store's own library, loading that: each costs the same for one search as
for ten. So searches of one collection that want as many neighbours share them all. None stops another (P4): where one cannot be
answered, it is told why, and the others are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np

from resurgam.drivers.searching import Floats, Found, Hit, Searches, Vectors, in_order, nearest
from resurgam.errors import ManifestError, NotFound, ResurgamError
from resurgam.model.point import Position
from resurgam.model.system import Component, Json

CANARY = "canary:"  # the ids of records that exist to be searched for
EXACT, APPROXIMATE, RECALL = "exact", "approximate", "recall"

T = TypeVar("T")


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """``queries`` maps cases to vectors or ``{"like": id}``; ``canaries`` adds a case for each record whose id begins with
    ``canary:``. ``mode`` is exact (ids by our own search), approximate (ids by the store's) or recall (the share of the exact
    ones that the store finds)."""

    collection: str
    queries: dict[str, Json]
    k: int
    mode: str
    canaries: bool = False


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one search found, by case, and ``by`` which libraries; or the ``error`` that says why it found nothing."""

    answers: dict[str, Json] = {}
    by: dict[str, str] = {}
    error: str | None = None


def searched(driver: Searches, component: Component, at: Position, searches: Mapping[str, Search]) -> dict[str, Told]:
    """What each of ``searches`` finds at a position, by its name. Raises nothing of the world's: it is in what is told."""
    alike: dict[tuple[str, int], dict[str, Search]] = defaultdict(dict)
    for name, search in searches.items():
        alike[search.collection, search.k][name] = search
    told: dict[str, Told] = {}
    for (collection, k), some in alike.items():
        try:
            vectors = driver.vectors(component, at, collection)
        except ResurgamError as error:
            told |= dict.fromkeys(some, _not_found(error))
            continue
        told |= _of_one(vectors, k, some, partial(driver.search, component, at, collection))
    return told


def _of_one(
    vectors: Vectors,
    k: int,
    searches: Mapping[str, Search],
    store: Callable[[Floats, int], tuple[list[list[Hit]], Mapping[str, str]]],
) -> dict[str, Told]:
    """The searches of one collection for ``k`` neighbours."""
    told: dict[str, Told] = {}
    queries: dict[str, tuple[list[str], Floats]] = {}
    for name, search in searches.items():
        try:
            queries[name] = _queries(vectors, search)
        except ResurgamError as error:
            told[name] = _not_found(error)
    by: dict[str, str] = {}

    def of_store(rows: Floats) -> list[list[Hit]]:
        found, libraries = store(rows, k)
        by.update(libraries)
        return found

    def wanting(*modes: str) -> dict[str, Floats]:
        return {name: rows for name, (_, rows) in queries.items() if name not in told and searches[name].mode in modes}

    exact = _shared(wanting(EXACT, RECALL), lambda rows: nearest(vectors, rows, k), told)
    hits = _shared(wanting(APPROXIMATE, RECALL), of_store, told)
    for name, (cases, rows) in queries.items():
        if name in told:
            continue
        answers = _answers(searches[name].mode, vectors.space, rows, exact.get(name, []), hits.get(name, []))
        told[name] = Told(answers=dict(zip(cases, answers, strict=True)), by=by if name in hits else {})
    return told


def _shared(
    asked: Mapping[str, Floats], find: Callable[[Floats], list[T]], told: dict[str, Told]
) -> dict[str, list[T]]:
    """What ``find`` finds for the rows of each, found in one call; where it cannot, all of them are ``told`` so."""
    if not any(map(len, asked.values())):
        return {name: [] for name in asked}
    try:
        found = iter(find(np.concatenate(list(asked.values()))))
    except ResurgamError as error:
        told |= dict.fromkeys(asked, _not_found(error))
        return {}
    return {name: [next(found) for _ in rows] for name, rows in asked.items()}


def _answers(
    mode: str, space: str, queries: Floats, exact: Sequence[Found], hits: Sequence[Sequence[Hit]]
) -> Sequence[Json]:
    if mode == EXACT:
        return [found.ids for found in exact]
    if mode == APPROXIMATE:
        ordered = (in_order(space, query, found) for query, found in zip(queries, hits, strict=True))
        return [[hit.id for hit in found] for found in ordered]
    return [_recall({hit.id for hit in row}, found) for row, found in zip(hits, exact, strict=True)]


def _recall(ids: set[str], true: Found) -> float:
    """The share of the true neighbours that were found; what is as near as the last of them is true too, as in ann-benchmarks
    (Aumüller, Bernhardsson, Faithfull 2018, section 2.1)."""
    wanted = len(true.ids)
    return min(len(ids & true.near), wanted) / wanted if wanted else 1.0


def _queries(vectors: Vectors, search: Search) -> tuple[list[str], Floats]:
    asked = dict(search.queries)
    if search.canaries:
        asked |= {key: {"like": key} for ids, _ in vectors.blocks() for key in ids if key.startswith(CANARY)}
    like = {case: str(query["like"]) for case, query in asked.items() if isinstance(query, dict)}
    known = vectors.of(list(like.values())) if like else {}
    rows = []
    for case, query in asked.items():
        if case in like and like[case] not in known:
            raise NotFound(f"Query {case}: the collection has no vector of {like[case]!r}.")
        row = known[like[case]] if case in like else np.asarray(query, np.float32)
        if row.shape != (vectors.dimension,):
            raise ManifestError(
                f"Query {case} has {row.size} numbers; the vectors of {search.collection} have {vectors.dimension}."
            )
        rows.append(row)
    return list(asked), np.stack(rows) if rows else np.empty((0, vectors.dimension), np.float32)


def _not_found(error: ResurgamError) -> Told:
    return Told(error=str(error))
