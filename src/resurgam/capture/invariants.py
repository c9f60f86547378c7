"""Invariants: what must hold across components, asked at the cut's positions after the thaw (design 5).

A point whose invariants fail is sealed *with* its findings and is never chosen as clean; a capture does not hide a system
that is broken already. One that could not be asked counts as broken: not knowing is not holding (P12).

    every, exists_in      key inclusion           equal     the same keys on both sides
    component, sql        one value               run       the owner's command over private copies

Keys are compared as whole rows, in bounded memory (``keys``). For a command the components that it reads are written from
their positions into a private folder of this host, which is gone afterwards, also after a kill (``vault.scratch``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from resurgam.capture.keys import Key, Keys, keys
from resurgam.drivers.base import Blob, Driver, Drivers, Item, Queries, Rows
from resurgam.errors import Busy, ManifestError, ResurgamError
from resurgam.model.point import Cut, Finding, Position, Severity
from resurgam.model.system import Component, Invariant, System
from resurgam.probes.base import Completed
from resurgam.probes.command import fill
from resurgam.probes.runner import LiveRunner
from resurgam.vault.scratch import scratch

EXAMPLES = 20


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
    if invariant.run:
        yield from _run(invariant, system, cut, drivers)
    elif invariant.every is not None or invariant.equal:
        with keys() as sets:
            for side, query in zip(("here", "there"), invariant.queries, strict=True):
                sets.fill(side, _answer(query, system, cut, drivers))
            yield from _compared(invariant, sets)
    else:
        (query,) = invariant.queries
        first = next((row for batch in _answer(query, system, cut, drivers).batches for row in batch), None)
        found = first[0] if first else None
        if found != invariant.expect:
            yield _broken(invariant, f"{invariant.sql} gives {found!r}, expected {invariant.expect!r}")


def _compared(invariant: Invariant, sets: Keys) -> Iterator[Finding]:
    if sets.widths[0] != sets.widths[1]:
        widths = f"{sets.widths[0]} and {sets.widths[1]}"
        yield _broken(invariant, f"could not be asked: its two sides have {widths} columns")
        return
    for side, query in zip(("here", "there"), invariant.queries if invariant.equal else (None,), strict=False):
        count, examples = sets.only(side, EXAMPLES)
        if count:
            what = f"{count} of {sets.count(side)} keys do not exist on the other side"
            if query:
                what += f", of those of {query}"
            yield _broken(invariant, what, tuple(map(_shown, examples)))


def _answer(question: str, system: System, cut: Cut, drivers: Drivers) -> Rows:
    name, _, statement = question.partition(":")
    component = system.component(name.strip())
    driver = drivers(component.driver)
    if not isinstance(driver, Queries):
        raise ManifestError(
            f"{component.name} is a {component.driver} component, which cannot be asked in SQL.",
            untouched="Nothing was changed.",
            next_step="Ask a component whose driver has queries (sqlite), or write a command (run).",
        )
    return driver.query(component, cut.position(component.name), statement.strip())


def _run(invariant: Invariant, system: System, cut: Cut, drivers: Drivers) -> Iterator[Finding]:
    with scratch("invariant") as folder:
        places = {}
        for name in invariant.reads:
            component = system.component(name)
            copy = _materialised(component, drivers(component.driver), cut.position(name), os.path.join(folder, name))
            places[name] = copy.location
        argv = [fill(f"Invariant {invariant.name}", argument, places) for argument in invariant.run]
        done = LiveRunner(system.root).run(argv, timeout=invariant.timeout)
    if (why := _why_unknown(invariant, done)) is not None:
        yield _broken(invariant, f"could not be asked: {why}")
    elif done.code:
        lines = [line for line in done.output.decode(errors="replace").splitlines() if line.strip()]
        errors = done.errors.decode(errors="replace").strip().splitlines()
        said = f", and said: {errors[-1]}" if errors and not lines else ""
        yield _broken(
            invariant, f"its command found {len(lines)} keys (exit code {done.code}){said}", tuple(lines[:EXAMPLES])
        )


def _why_unknown(invariant: Invariant, done: Completed) -> str | None:
    """Why the command tells nothing, or None."""
    if done.timed_out:
        return f"its command did not end within {invariant.timeout:g} s"
    if done.overflowed:
        return "its command printed too much"
    if done.code < 0 or done.code in (126, 127):
        said = done.errors.decode(errors="replace").strip()[-200:]
        return f"its command ended by signal {-done.code}" if done.code < 0 else f"its command {said}"
    return None


def _materialised(component: Component, driver: Driver, at: Position, folder: str) -> Component:
    """The component as it was at its position, in the private ``folder``."""
    os.mkdir(folder, mode=0o700)
    name = os.path.basename(component.location.rstrip("/")) or component.name
    return driver.write(_items(component, driver, at), component.bound_to(os.path.join(folder, name)))


def _items(component: Component, driver: Driver, at: Position) -> Iterator[Item]:
    """What the driver reads, for its own ``write``: without what is only decoded from a Blob, and settled or refused."""
    for item in driver.read(component, at):
        if isinstance(item, Finding):
            continue  # the capture's own reading has it too
        if isinstance(item, Rows):
            yield item
            continue
        item.known = item.view
        try:
            yield item
            if not item.source.settled():
                raise _restless(component, item)
        finally:
            item.source.close()


def _restless(component: Component, blob: Blob) -> Busy:
    return Busy(
        f"{blob.path.decode(errors='replace')} of {component.name} changed while it was read.",
        untouched="The source was let go.",
        next_step="Capture at a quieter time.",
    )


def _shown(row: Key) -> str:
    return ", ".join(map(str, row))


def _broken(invariant: Invariant, what: str, keys: tuple[str, ...] = ()) -> Finding:
    return Finding(severity=Severity.BROKEN, what=f"invariant {invariant.name}: {what}", keys=keys)
