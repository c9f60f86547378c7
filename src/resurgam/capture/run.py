"""The way in: a system becomes a recovery point. One screen; the work is in the floors below.

A recovery point exists when, and only when, its record is the last thing written (P1). Stopped anywhere before that, a
capture leaves garbage that the next one reuses, and its sources as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from resurgam import priority, private
from resurgam.capture import barriers
from resurgam.capture.cut import release, take
from resurgam.capture.invariants import hold_invariants
from resurgam.clock import Clock
from resurgam.drivers.base import Drivers
from resurgam.model.point import Cut, Finding, Observation, Particulars, Severity, Witness, require_tags
from resurgam.model.system import Consistency, System
from resurgam.vault.host import HostState
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.writer import Progress

Ask = Callable[[System], tuple[Observation, ...]]  # the witness probes, asked of the live system


def capture(
    system: System,
    drivers: Drivers,
    witness: Ask,
    repository: Repository,
    host: HostState,
    clock: Clock,
    *,
    paranoid: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _: None,
    tags: tuple[str, ...] = (),
    gentle: bool = False,
) -> Sealed:
    """Take one recovery point of ``system``. Raises Busy, LimitExceeded, StoreFull, and what a driver raised;
    UsageError for what is no tag.

    What fails when the point exists already is no error (P1); ``tell`` hears of it. A ``gentle`` one stands back behind other
    processes from the thaw on, and so does this process ever after.
    """
    require_tags(tags)
    private.clear()
    with host.one_capture(), repository.writer(system, host, clock, paranoid=paranoid, progress=progress) as writer:
        before = witness(system)
        cut = take(system, drivers, clock)
        with _released(system, drivers, cut):
            seen = Witness(before=before, after=witness(system))
            if gentle:
                priority.lower()  # not before: writers would wait for a freeze that stands back
            facts = {c.name: drivers(c.driver).inspect(c) for c in system.components}  # of what is held now
            snapshots = tuple(writer.snapshot(c, drivers(c.driver), cut.position(c.name)) for c in system.components)
            findings = writer.findings + _consistency(system, cut) + barriers.findings(system, cut)
            findings += hold_invariants(system, cut, drivers)
        particulars = Particulars(system=system, facts=facts, findings=tuple(findings), witness=seen, cut=cut)
        sealed = writer.seal(particulars, snapshots, tags)
        for notice in writer.notices:
            tell(notice)
        return sealed


@contextmanager
def _released(system: System, drivers: Drivers, cut: Cut) -> Iterator[None]:
    try:
        yield
    finally:
        release(system, drivers, {part.component: part.position for part in cut.parts})


def _consistency(system: System, cut: Cut) -> list[Finding]:
    """What a component earned less than its owner asked for (design 5)."""
    return [
        Finding(
            severity=Severity.WARNING,
            component=c.name,
            what=f"earned {cut.position(c.name).earned.word} consistency; the manifest asks for {c.consistency}",
        )
        for c in system.components
        if cut.position(c.name).earned < Consistency[c.consistency.upper()]
    ]
