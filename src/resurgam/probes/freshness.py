"""The probe ``freshness``: how old the newest item is, in seconds.

Asked by ``component`` and ``sql`` (the first value of the first row: the newest time; its case is ``age``), or by a command,
``run``, that answers ``{case: time}``. A time is text of RFC 3339 (without an offset it is UTC), or seconds since 1970; from a
hundred thousand million on it is milliseconds.

The age is that at the instant which the system is of: now for the live system, the cut for a copy. So a copy that is restored
after a month is as fresh as it was, and is judged by the same ``tolerance``, which must be stated: ``{range: [0, 900]}``. An item
from after that instant has a negative age, which a range beginning with 0 does not let pass: a clock is wrong, or the cut was
not one.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from resurgam.clock import Clock, SystemClock
from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Json, System
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.base import Runner
from resurgam.probes.command import CommandProbe
from resurgam.probes.sql import SqlProbe

AGE = "age"
MILLISECONDS = 1e11  # as seconds that would be the year 5138


class FreshnessProbe:
    """See the module's docstring."""

    kind = "freshness"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError where nothing tells a time, or ages would be judged exactly."""
        if bool(spec.run) == bool(spec.sql):
            raise _wrong(spec, "it wants `component` and `sql`, or `run`", "Say what tells the newest time.")
        if spec.tolerance == "exact":
            raise _wrong(spec, "an age is never the same twice", "Tolerate {range: [0, 900]}, in seconds.")
        if spec.run:
            CommandProbe().check(spec, system)
        else:
            SqlProbe().check(spec, system)

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Ask for the newest time and tell its age. Raises ManifestError as ``check`` does."""
        self.check(spec, system)
        if spec.run:
            seen = CommandProbe(self._clock).ask(spec, system, runner)
            newest = seen.answers
        else:
            seen = SqlProbe(self._clock).ask(spec, system, runner)
            rows = seen.answers.get("rows") or [[None]]
            newest = {AGE: rows[0][0]}
        if seen.error is not None:
            return seen
        at = datetime.fromisoformat(system.at) if system.at else self._clock.now()
        try:
            times = {case: instant(value) for case, value in newest.items()}
        except ValueError as error:
            return msgspec.structs.replace(seen, answers={}, error=str(error))
        ages: dict[str, Json] = {case: (at - time).total_seconds() for case, time in times.items()}
        by = {f"newest {case}": time.isoformat() for case, time in times.items()} | {"judged at": at.isoformat()}
        return msgspec.structs.replace(seen, answers=ages, by=seen.by | by)


def instant(value: Json) -> datetime:
    """The time that ``value`` tells. Raises ValueError where it tells none: no item is no fresh item."""
    if value is None:
        raise ValueError("there is no item that has a time")
    try:
        if isinstance(value, str):
            told = datetime.fromisoformat(value)
            return told if told.tzinfo else told.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if abs(value) >= MILLISECONDS else value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{value!r} is no time: {error}") from error
    raise ValueError(f"{value!r} is no time: expected text of RFC 3339 or seconds since 1970")


def _wrong(spec: ProbeSpec, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"Probe {spec.name}: {what}.", untouched="Nothing was asked.", next_step=next_step)
