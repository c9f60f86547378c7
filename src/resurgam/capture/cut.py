"""The cut: freeze all, note all, thaw all.

Drivers that hold their writers (``Freeze.PIN``) go first and are held until the end, so that what the others copy or list
inside falls into the time in which those stand still. What is left over is the skew: the seconds between the first and the
last moment at which a component that holds nothing was read.

The limit is the owner's promise to the application. Each driver keeps its own; should one hang all the same, a watchdog
breaks the freeze off, everything is let go, and there is no point.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from resurgam.clock import Clock
from resurgam.drivers.base import Drivers, Freeze
from resurgam.errors import LimitExceeded
from resurgam.model.point import Cut, CutPart, Position
from resurgam.model.system import Component, System


def take(system: System, drivers: Drivers, clock: Clock) -> Cut:
    """Freeze every component, note every position, let all go. Raises LimitExceeded, and what a driver raised.

    The pins stay until ``release``.
    """
    began = clock.monotonic()
    at = clock.now()
    noted: dict[str, tuple[Position, float, float]] = {}
    order = sorted(system.components, key=lambda c: drivers(c.driver).traits.freeze is not Freeze.PIN)
    try:
        with _watchdog(system.limits.freeze), ExitStack() as held:
            for component in order:
                start = clock.monotonic() - began
                left = max(0.001, system.limits.freeze - start)
                position = held.enter_context(drivers(component.driver).freeze(component, left))
                noted[component.name] = position, start, clock.monotonic() - began
    except BaseException:
        release(system, drivers, {name: position for name, (position, _, _) in noted.items()})
        raise
    thawed = clock.monotonic() - began
    parts = tuple(
        CutPart(component=c.name, position=noted[c.name][0], frozen_at=noted[c.name][2], thawed_at=thawed)
        for c in system.components
    )
    if thawed > system.limits.freeze:
        release(system, drivers, {part.component: part.position for part in parts})
        raise _too_long(thawed, system.limits.freeze)
    return Cut(at=at.isoformat(), skew=_skew(order, drivers, noted), freeze=thawed, parts=parts)


def release(system: System, drivers: Drivers, positions: dict[str, Position]) -> None:
    """Drop what the freeze pinned; repeatable."""
    for component in system.components:
        if component.name in positions:
            drivers(component.driver).release(component, positions[component.name])


def _skew(order: list[Component], drivers: Drivers, noted: dict[str, tuple[Position, float, float]]) -> float:
    loose = [noted[c.name] for c in order if drivers(c.driver).traits.freeze is not Freeze.PIN]
    if not loose or len(order) == 1:
        return 0.0
    return max(end for _, _, end in loose) - min(start for _, start, _ in loose)


@contextmanager
def _watchdog(limit: float) -> Iterator[None]:
    """Break off what lasts longer than twice ``limit``: drivers keep the limit themselves, this is for one that hangs.

    A timer's signal, since that alone wakes a call that blocks. Only the main thread can have one; commands run there.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def bark(_signal: int, _frame: object) -> None:
        raise _too_long(2 * limit + 1, limit)

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, 2 * limit + 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


def _too_long(seconds: float, limit: float) -> LimitExceeded:
    return LimitExceeded(
        f"The freeze lasted {seconds:.2f} s; the manifest allows {limit:g} s.",
        untouched="The source was let go, and no recovery point was made.",
        next_step="Capture at a quieter time, or raise limits.freeze in resurgam.yaml.",
    )
