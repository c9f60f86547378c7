"""The probe port: asks a live or restored system something and gets an observation. A probe never judges.

A probe runs commands only through the ``Runner`` it is given. On the live system that is a plain child process; in the
sandbox the same call enters the namespaces in which the live system cannot be reached (P6). So a probe cannot tell, and
need not know, which of the two it is asking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from resurgam.model.point import Observation
from resurgam.model.system import Probe as ProbeSpec
from resurgam.model.system import System


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command left behind; ``timed_out`` commands were killed with all their children."""

    code: int
    output: bytes
    errors: bytes
    timed_out: bool = False


class Runner(Protocol):
    """Runs a command to its end, somewhere. Never through a shell."""

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> Completed:
        """``env`` is added to the runner's own clean environment. Output beyond 16 MiB is an error of the command."""
        ...


class Probe(Protocol):
    """One kind of question."""

    @property
    def kind(self) -> str:
        """The word in the manifest."""
        ...

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Ask ``system`` (bound to live places or to copies). What goes wrong in the asked system is an observation
        with ``error`` set, not an exception."""
        ...
