"""Invariants: what must hold across components, asked at the cut's positions after the thaw (design 5).

A point whose invariants fail is sealed *with* its findings and is never chosen as clean; a capture does not hide a system
that is broken already.

Keys are compared as whole rows. The distinct keys of ``every`` are held in memory while it is asked, those of ``exists_in``
pass by one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from resurgam.drivers.base import Drivers, Queries, Rows
from resurgam.errors import ManifestError, ResurgamError
from resurgam.model.point import Cut, Finding, Severity
from resurgam.model.system import Invariant, Json, System

_EXAMPLES = 20


def hold_invariants(system: System, cut: Cut, drivers: Drivers) -> list[Finding]:
    """A BROKEN finding for each invariant that does not hold, naming the keys; one that could not be asked is BROKEN too."""
    findings: list[Finding] = []
    for invariant in system.invariants:
        try:
            findings += _ask(invariant, system, cut, drivers)
        except ResurgamError as error:
            findings.append(_broken(invariant, f"could not be asked: {error.message}"))
    return findings


def _ask(invariant: Invariant, system: System, cut: Cut, drivers: Drivers) -> Iterator[Finding]:
    if invariant.every is not None and invariant.exists_in is not None:
        here = _answer(invariant.every, system, cut, drivers)
        missing = set(_rows(here))
        total = len(missing)
        there = _answer(invariant.exists_in, system, cut, drivers)
        if len(here.columns) != len(there.columns):
            widths = f"{len(here.columns)} and {len(there.columns)}"
            yield _broken(invariant, f"could not be asked: its two sides have {widths} columns")
            return
        missing.difference_update(_rows(there))
        if missing:
            keys = tuple(sorted(map(_key, missing))[:_EXAMPLES])
            yield _broken(invariant, f"{len(missing)} of {total} keys do not exist on the other side", keys)
    else:
        first = next(_rows(_answer(f"{invariant.component}: {invariant.sql}", system, cut, drivers)), None)
        found = first[0] if first else None
        if found != invariant.expect:
            yield _broken(invariant, f"{invariant.sql} gives {found!r}, expected {invariant.expect!r}")


def _answer(question: str, system: System, cut: Cut, drivers: Drivers) -> Rows:
    name, _, statement = question.partition(":")
    component = system.component(name.strip())
    driver = drivers(component.driver)
    if not isinstance(driver, Queries):
        raise ManifestError(
            f"{component.name} is a {component.driver} component, which cannot be asked in SQL.",
            untouched="Nothing was changed.",
            next_step="Ask a component whose driver has queries (sqlite).",
        )
    return driver.query(component, cut.position(component.name), statement.strip())


def _rows(answer: Rows) -> Iterator[tuple[Json, ...]]:
    return chain.from_iterable(answer.batches)


def _key(row: tuple[Json, ...]) -> str:
    return ", ".join(map(str, row))


def _broken(invariant: Invariant, what: str, keys: tuple[str, ...] = ()) -> Finding:
    return Finding(severity=Severity.BROKEN, what=f"invariant {invariant.name}: {what}", keys=keys)
