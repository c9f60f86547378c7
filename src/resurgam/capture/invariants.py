"""Invariants: what must hold across components, asked at the cut's positions after the thaw (design 5).

A point whose invariants fail is sealed *with* its findings and is never chosen as clean; a capture does not hide a system
that is broken already.
"""

from __future__ import annotations

from collections.abc import Iterator

from resurgam.capture.cut import Drivers
from resurgam.drivers.base import Queries
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
        needed = set(_first_column(invariant.every, system, cut, drivers))
        missing = needed.difference(_first_column(invariant.exists_in, system, cut, drivers))
        if missing:
            keys = tuple(sorted(map(str, missing))[:_EXAMPLES])
            yield _broken(invariant, f"{len(missing)} of {len(needed)} keys do not exist on the other side", keys)
    else:
        found = next(iter(_first_column(f"{invariant.component}: {invariant.sql}", system, cut, drivers)), None)
        if found != invariant.expect:
            yield _broken(invariant, f"{invariant.sql} gives {found!r}, expected {invariant.expect!r}")


def _first_column(question: str, system: System, cut: Cut, drivers: Drivers) -> Iterator[Json]:
    name, _, statement = question.partition(":")
    component = system.component(name.strip())
    driver = drivers(component.driver)
    if not isinstance(driver, Queries):
        raise ManifestError(
            f"{component.name} is a {component.driver} component, which cannot be asked in SQL.",
            untouched="Nothing was changed.",
            next_step="Ask a component whose driver has queries (sqlite).",
        )
    rows = driver.query(component, cut.position(component.name), statement.strip())
    for batch in rows.batches:
        for row in batch:
            yield row[0]


def _broken(invariant: Invariant, what: str, keys: tuple[str, ...] = ()) -> Finding:
    return Finding(severity=Severity.BROKEN, what=f"invariant {invariant.name}: {what}", keys=keys)
