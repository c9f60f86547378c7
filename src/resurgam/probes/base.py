"""The probe port: asks a live or restored system something and gets an observation. A probe never judges.

A probe runs commands only through the ``Runner`` it is given. On the live system that is a plain child process; in the
sandbox the same call enters the namespaces in which the live system cannot be reached (P6). So a probe cannot tell, and
need not know, which of the two it is asking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from resurgam.model.point import Observation
from resurgam.model.system import Probe as ProbeSpec
from resurgam.model.system import System

MAX_OUTPUT = 16 << 20  # bytes of standard output; a command that prints more is stopped


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command left behind. Commands that ``timed_out`` or ``overflowed`` (printed more than ``MAX_OUTPUT``) were
    killed with all their children. A negative ``code`` is the signal that ended it, 126 and 127 that it never began. ``by``
    says what answered it from outside, and ``withheld`` what it asked for there and was not given."""

    code: int
    output: bytes
    errors: bytes
    timed_out: bool = False
    overflowed: bool = False
    by: Mapping[str, str] = field(default_factory=dict)
    withheld: str = ""


class Runner(Protocol):
    """Runs a command to its end, somewhere. Never through a shell."""

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60.0,
        inherit: Sequence[int] = (),
    ) -> Completed:  # fmt: skip
        """``env`` is added to the runner's own clean environment; a value ``${NAME}`` is a reference to a secret, which the
        live system's runner looks up and the sandbox's does not (P6). ``inherit`` are open descriptors that the command gets
        under their own numbers; all others are closed. What the command does wrong is in Completed."""
        ...


class Probe(Protocol):
    """One kind of question."""

    @property
    def kind(self) -> str:
        """The word in the manifest."""
        ...

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError where ``spec`` is not a question of this kind to ``system``. Touches nothing."""
        ...

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Ask ``system`` (bound to live places or to copies). What goes wrong in the asked system is an observation
        with ``error`` set, not an exception."""
        ...


@runtime_checkable
class AsksTogether(Protocol):
    """An optional port of a kind: puts several questions to a system at once, which share what each of them would cost alone."""

    def ask_together(self, specs: Sequence[ProbeSpec], system: System, runner: Runner) -> Sequence[Observation]:
        """One observation for each of ``specs``, in order, as ``ask`` would have made it. None stops the others (P4): one that
        is no question of this kind, too, is an observation with ``error``."""
        ...
