"""Asks one component through its driver, in a process of its own: ``python -I -m resurgam.drivers.asking``.

A probe must see a component as it is where the probe runs, on the live system or inside the sandbox (P6), and probes and drivers
do not know each other. This program is the door between them. On standard input it takes one request::

    {"component": {"name", "driver", "location", "options"}, "query": "SELECT …"}
    {"component": {…}, "searches": {name: {"collection", "queries": {case: vector or {"like": id}}, "k", "mode", "canaries"}}}

It freezes the component as a capture does, asks that state and lets it go; nothing is written to what is asked. A query prints
``{"answers": {"rows": […]}, "by": {…}}``, where ``by`` says which libraries answered; searches, which are answered together
(``drivers.searches``), ``{"together": {name: {"answers", "by"} or {"error"}}}``. What concerns all of a request is a sentence on
standard error, and the error's exit code.
"""

from __future__ import annotations

import gc
import math
import sys
from typing import Any

import msgspec

from resurgam.drivers.base import Driver, Queries
from resurgam.drivers.registry import driver_for
from resurgam.drivers.searches import Search, searched
from resurgam.drivers.searching import Searches
from resurgam.errors import ManifestError, ResurgamError
from resurgam.model.codec import from_json, to_json
from resurgam.model.point import Position
from resurgam.model.system import Component, Json

FEW = 100_000  # new objects between two looks for garbage: a store's library makes many that stay, and each look costs


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What comes on standard input: exactly one of ``query`` and ``searches``."""

    component: Component
    query: str | None = None
    searches: dict[str, Search] | None = None


def main() -> int:
    """Answer the request on standard input; returns the exit code."""
    gc.set_threshold(FEW)
    try:
        request = from_json(sys.stdin.buffer.read(), Request, what="the request")
        said = to_json(answer(request))
    except ResurgamError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.buffer.write(said + b"\n")
    return 0


def answer(request: Request) -> dict[str, Any]:
    """What is printed for ``request``. Raises what a driver raises, and ManifestError where it cannot be asked so."""
    component = request.component
    driver = driver_for(component.driver)
    if request.searches is not None and not isinstance(driver, Searches):
        raise _cannot(component, "searched")
    with driver.freeze(component) as at:
        pass
    try:
        if request.searches is None:
            return {"answers": {"rows": _rows(driver, component, at, request.query or "")}}
        assert isinstance(driver, Searches)
        return {"together": searched(driver, component, at, request.searches)}
    finally:
        driver.release(component, at)


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
