"""The probe ``sql``: one SELECT of one component. Its single case is ``rows``: a list of rows, each a list of values.

The question is asked in a child process, through the Runner, so that on a copy it is asked inside the sandbox, where only
the copy is visible (P6). For an SQLite database the child is ``probes.sql_child``, which needs nothing but the interpreter; any
other kind is asked through its driver, which knows the tables that its content means.
"""

from __future__ import annotations

import json
import os
import sys

from resurgam.clock import Clock, SystemClock
from resurgam.errors import ManifestError
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Observation
from resurgam.model.system import Probe as ProbeSpec
from resurgam.model.system import System
from resurgam.probes.answers import observation_of
from resurgam.probes.base import Completed, Runner
from resurgam.probes.through_driver import ask_driver

_CHILD = os.path.join(os.path.dirname(__file__), "sql_child.py")  # a program, and not loaded here


class SqlProbe:
    """See the module's docstring."""

    kind = "sql"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError where there is no question, or no component that can be asked it."""
        if not spec.sql or not spec.sql.strip():
            raise _wrong(spec, "`sql` is missing", "Give the SELECT to ask.")
        if spec.run or spec.ask is not None or spec.env:
            raise _wrong(spec, "`run`, `ask` and `env` belong to probes of kind command", "Remove them.")
        if spec.component not in (known := [component.name for component in system.components]):
            given = spec.component or ""
            raise _wrong(spec, f"{given!r} is no component that can be asked SQL", did_you_mean(given, known))

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Ask the component at its bound location. Raises ManifestError as ``check`` does."""
        self.check(spec, system)
        assert spec.component is not None
        assert spec.sql is not None
        component = system.component(spec.component)
        started = self._clock.monotonic()
        if component.driver == "sqlite":
            done = _directly(component.location, spec.sql, runner, spec.timeout)
        else:
            done = ask_driver(component, {"query": spec.sql}, runner, spec.timeout)
        return observation_of(spec, done, self._clock.monotonic() - started)


def _directly(path: str, sql: str, runner: Runner, timeout: float) -> Completed:
    # -I and -S: neither the environment nor installed packages have a say in what is asked.
    argv = [sys.executable, "-I", "-S", _CHILD]
    return runner.run(argv, input=json.dumps({"path": path, "sql": sql}).encode(), timeout=timeout)


def _wrong(spec: ProbeSpec, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"Probe {spec.name}: {what}.", untouched="Nothing was asked.", next_step=next_step)
