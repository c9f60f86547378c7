"""The cut: hold the barrier; freeze all, note all, thaw all; let the barrier go.

The barrier comes first and goes last, so that no writer that takes it is between two of its writes in the freeze (``barriers``).

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

import msgspec

from resurgam.capture.barriers import held
from resurgam.clock import Clock
from resurgam.drivers.base import Drivers, Freeze
from resurgam.errors import LimitExceeded
from resurgam.model.point import Cut, CutPart, Position
from resurgam.model.system import Component, System


def take(system: System, drivers: Drivers, clock: Clock) -> Cut:
    """Freeze every component under the barrier, note every position, let all go.

    The pins stay until ``release``. Raises LimitExceeded, what ``barriers.held`` and what a driver raised.
    """
    with held(system, clock) as barrier:
        cut = _freeze(system, drivers, clock)
    return msgspec.structs.replace(cut, barrier=barrier.account, trouble=barrier.trouble)


def _freeze(system: System, drivers: Drivers, clock: Clock) -> Cut:
    began = clock.monotonic()
    at = clock.now()
    noted: dict[str, tuple[Position, float, float]] = {}
    thaws: dict[str, float] = {}
    order = sorted(system.components, key=lambda c: drivers(c.driver).traits.freeze is not Freeze.PIN)
    try:
        with _watchdog(system.limits.freeze), ExitStack() as frozen:
            for component in order:
                start = clock.monotonic() - began
                left = max(0.001, system.limits.freeze - start)
                frozen.callback(lambda name: thaws.update({name: clock.monotonic() - began}), component.name)
                position = frozen.enter_context(drivers(component.driver).freeze(component, left))
                noted[component.name] = position, start, clock.monotonic() - began
    except BaseException:
        release(system, drivers, {name: position for name, (position, _, _) in noted.items()})
        raise
    thawed = clock.monotonic() - began
    parts = tuple(
        CutPart(component=name, position=position, frozen_at=end, thawed_at=thaws[name], freeze=thaws[name] - start)
        for name, (position, start, end) in ((c.name, noted[c.name]) for c in system.components)
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
