"""Asks a system all its probes. All run; none stops the others, and what could not be asked is an observation too (P4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from resurgam.errors import ResurgamError
from resurgam.model.point import Observation
from resurgam.model.system import Probe, System
from resurgam.probes.base import AsksTogether, Runner
from resurgam.probes.registry import probe_for


def observe(system: System, probes: Iterable[Probe], runner: Runner) -> tuple[Observation, ...]:
    """One observation per probe, in order, of ``system`` at the places it is bound to. Raises nothing of the world's.

    They are asked in that order too; but those of a kind that ``AsksTogether`` all when the first of them is due."""
    asked = tuple(probes)
    seen: dict[str, Observation] = {}
    for probe in asked:
        if probe.name not in seen:
            alike = [other for other in asked if other.kind == probe.kind]
            seen |= {found.probe: found for found in _asked(probe, alike, system, runner)}
    return tuple(seen[probe.name] for probe in asked)


def observe_repeatedly(
    system: System, probes: Iterable[Probe], runner: Runner, repeats: int
) -> tuple[tuple[Observation, ...], ...]:
    """Whole rounds one after the other (A/A), so that a probe that changes what it asks is seen by the next round."""
    asked = tuple(probes)
    return tuple(observe(system, asked, runner) for _ in range(repeats))


def observe_witness(system: System, runner: Runner) -> tuple[Observation, ...]:
    """The cheap, read-only probes, asked of the live system just before and just after the cut."""
    return observe(system, (probe for probe in system.probes if probe.witness), runner)


def _asked(probe: Probe, alike: Sequence[Probe], system: System, runner: Runner) -> Sequence[Observation]:
    """What ``probe`` saw, or all that are ``alike`` where the kind asks them together."""
    due: Sequence[Probe] = [probe]
    try:
        asker = probe_for(probe.kind)
        if isinstance(asker, AsksTogether):
            due = alike
            return asker.ask_together(due, system, runner)
        return [asker.ask(probe, system, runner)]
    except ResurgamError as error:  # a runner that was denied, a question that cannot be put: said, not swallowed
        return [Observation(probe=one.name, error=f"it could not be asked: {error}", asked=False) for one in due]
