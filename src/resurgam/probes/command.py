"""The probe ``command``: runs the owner's own program against the places it is given.

It is started as ``run`` says, in the manifest's folder; ``{name}`` in an argument or a value of ``env`` stands for the
location of component *name*, ``{hosted:name}`` for the address of a hosted model, and a brace that is meant as such is doubled.
On standard input it gets ``{"ask": …, "components": {name: location}}``, and the same components as JSON in
``RESURGAM_COMPONENTS``. It prints what ``probes.answers`` describes. It is the program's duty to use the locations it is given
and no others; the sandbox sees to it that on a copy it cannot do otherwise (P6).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from resurgam.clock import Clock, SystemClock
from resurgam.errors import ManifestError
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Observation
from resurgam.model.system import REFERENCE, System
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.answers import observation_of
from resurgam.probes.base import Runner

COMPONENTS = "RESURGAM_COMPONENTS"
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class CommandProbe:
    """See the module's docstring."""

    kind = "command"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError on an empty ``run``, a place that is no component, or the words of another kind."""
        if not spec.run or not spec.run[0]:
            raise _wrong(_who(spec), "`run` is empty", "Give the argument list of the command to run.")
        if spec.sql is not None:
            raise _wrong(_who(spec), "`sql` belongs to probes of kind sql", "Remove it, or write `kind: sql`.")
        filled(spec, system)

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Run the command against ``system``'s locations. Raises ManifestError as ``check`` does."""
        self.check(spec, system)
        argv, env = filled(spec, system)
        components = system.locations()
        started = self._clock.monotonic()
        done = runner.run(
            argv,
            input=json.dumps({"ask": spec.ask, "components": components}).encode(),
            env=env | {COMPONENTS: json.dumps(components)},
            timeout=spec.timeout,
        )
        return observation_of(spec, done, self._clock.monotonic() - started)


def fill(who: str, text: str, locations: Mapping[str, str]) -> str:
    """``text`` with the locations in place of ``{name}``. Raises ManifestError, which names ``who``, for other braces."""

    def one(match: re.Match[str]) -> str:
        found, name = match[0], match[1]
        if found in ("{{", "}}"):
            return found[0]
        if name is None:
            raise _wrong(who, f"a lone brace stands in {text!r}", "Double a brace that is meant as such.")
        if name not in locations:
            next_step = f"{did_you_mean(name, locations)} Double a brace that is meant as such."
            raise _wrong(who, f"{found!r} names no component", next_step)
        return locations[name]

    return _BRACES.sub(one, text)


def filled(spec: ProbeSpec, system: System) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment with the locations in place; ``${NAME}`` alone in a value is left to the runner."""
    locations, who = system.places(), _who(spec)
    argv = [fill(who, argument, locations) for argument in spec.run]
    env = {
        name: value if REFERENCE.fullmatch(value) else fill(who, value, locations) for name, value in spec.env.items()
    }
    return argv, env


def _who(spec: ProbeSpec) -> str:
    return f"Probe {spec.name}"


def _wrong(who: str, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"{who}: {what}.", untouched="Nothing was run.", next_step=next_step)
