"""Asks one component through its driver, in a process of its own: ``python -I -m resurgam.drivers.asking``.

A probe must see a component as it is where the probe runs, on the live system or inside the sandbox (P6), and probes and drivers
do not know each other. This program is the door between them. On standard input it takes one request::

    {"component": {"name", "driver", "location", "options"}, "query": "SELECT …"}
    {"component": {…}, "search": {"collection", "queries": {case: vector or {"like": id}}, "k", "mode", "canaries"}}

It freezes the component as a capture does, asks that state and lets it go; nothing is written to what is asked. It prints
``{"answers": {case: value}, "by": {…}}``, where ``by`` says which libraries answered; or a sentence on standard error, and ends
with the error's exit code. The one case of a query is ``rows``; a search has a case for each query, and where ``canaries`` are
asked for, one for each record whose id begins with ``canary:``, by its own vector.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from resurgam.drivers.base import Driver, Queries
from resurgam.drivers.registry import driver_for
from resurgam.drivers.searching import Floats, Searches, Vectors, in_order, nearest
from resurgam.errors import ManifestError, NotFound, ResurgamError
from resurgam.model.codec import from_json, to_json
from resurgam.model.point import Position
from resurgam.model.system import Component, Json

CANARY = "canary:"  # the ids of records that exist to be searched for


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring. ``mode`` is exact (ids by our own search), approximate (ids by the store's) or recall (the share
    of the exact ones that the store finds)."""

    collection: str
    queries: dict[str, Json]
    k: int
    mode: str
    canaries: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What comes on standard input: exactly one of ``query`` and ``search``."""

    component: Component
    query: str | None = None
    search: Search | None = None


def main() -> int:
    """Answer the request on standard input; returns the exit code."""
    try:
        request = from_json(sys.stdin.buffer.read(), Request, what="the request")
        answers, by = answer(request)
    except ResurgamError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.buffer.write(to_json({"answers": answers, "by": dict(by)}) + b"\n")
    return 0


def answer(request: Request) -> tuple[dict[str, Json], Mapping[str, str]]:
    """The answers to ``request``, and by what. Raises what a driver raises."""
    component = request.component
    driver = driver_for(component.driver)
    with driver.freeze(component) as at:
        pass
    try:
        if request.search is not None:
            return searched(driver, component, at, request.search)
        return {"rows": _rows(driver, component, at, request.query or "")}, {}
    finally:
        driver.release(component, at)


def searched(
    driver: Driver, component: Component, at: Position, search: Search
) -> tuple[dict[str, Json], Mapping[str, str]]:
    """The answers to ``search`` at a position. Raises ManifestError, NotFound, MissingExtra, IntegrityError."""
    if not isinstance(driver, Searches):
        raise _cannot(component, "searched")
    vectors = driver.vectors(component, at, search.collection)
    cases, queries = _queries(vectors, search)
    if not cases:
        return {}, {}
    if search.mode == "exact":
        return {case: found.ids for case, found in zip(cases, nearest(vectors, queries, search.k), strict=True)}, {}
    hits, by = driver.search(component, at, search.collection, queries, search.k)
    if search.mode == "approximate":
        ordered = (in_order(vectors.space, query, found) for query, found in zip(queries, hits, strict=True))
        return {case: [hit.id for hit in found] for case, found in zip(cases, ordered, strict=True)}, by
    exact = nearest(vectors, queries, search.k)
    shares = (
        _recall({hit.id for hit in row}, found.near, len(found.ids)) for row, found in zip(hits, exact, strict=True)
    )
    return dict(zip(cases, shares, strict=True)), by


def _recall(found: set[str], near: frozenset[str], wanted: int) -> float:
    """The share of the true neighbours that were found; what is as near as the last of them is true too, as in ann-benchmarks
    (Aumüller, Bernhardsson, Faithfull 2018, section 2.1)."""
    return min(len(found & near), wanted) / wanted if wanted else 1.0


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


def _rows(driver: Driver, component: Component, at: Position, statement: str) -> list[list[Json]]:
    if not isinstance(driver, Queries):
        raise _cannot(component, "asked SQL")
    rows = driver.query(component, at, statement)
    return [[_encoded(value) for value in row] for batch in rows.batches for row in batch]


def _encoded(value: Any) -> Json:
    """What JSON cannot say, as the probe sql says it of every component."""
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _cannot(component: Component, what: str) -> ManifestError:
    return ManifestError(f"Component {component.name} of kind {component.driver} cannot be {what}.")


if __name__ == "__main__":
    sys.exit(main())
