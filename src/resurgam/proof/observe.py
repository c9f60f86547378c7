"""Asks a system all its probes. All run; none stops the others, and what could not be asked is an observation too (P4)."""

from __future__ import annotations

from collections.abc import Iterable

from resurgam.errors import ResurgamError
from resurgam.model.point import Observation
from resurgam.model.system import Probe, System
from resurgam.probes.base import Runner
from resurgam.probes.registry import probe_for


def observe(system: System, probes: Iterable[Probe], runner: Runner) -> tuple[Observation, ...]:
    """One observation per probe, in order, of ``system`` at the places it is bound to. Raises nothing of the world's."""
    return tuple(_asked(probe, system, runner) for probe in probes)


def observe_repeatedly(
    system: System, probes: Iterable[Probe], runner: Runner, repeats: int
) -> tuple[tuple[Observation, ...], ...]:
    """Whole rounds one after the other (A/A), so that a probe that changes what it asks is seen by the next round."""
    asked = tuple(probes)
    return tuple(observe(system, asked, runner) for _ in range(repeats))


def observe_witness(system: System, runner: Runner) -> tuple[Observation, ...]:
    """The cheap, read-only probes, asked of the live system just before and just after the cut."""
    return observe(system, (probe for probe in system.probes if probe.witness), runner)


def _asked(probe: Probe, system: System, runner: Runner) -> Observation:
    try:
        return probe_for(probe.kind).ask(probe, system, runner)
    except ResurgamError as error:  # a runner that was denied, a question that cannot be put: said, not swallowed
        return Observation(probe=probe.name, error=f"it could not be asked: {error}", asked=False)
