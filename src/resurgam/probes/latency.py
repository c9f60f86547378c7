"""The probe ``latency``: how long another probe's question takes, asked many times.

``of`` names the probe, which is asked ``warm_up`` times without counting and then ``repeat`` times. Of a probe ``http`` each
request is timed inside one run, so the server is warm and its start does not count; of any other the whole question is timed, the
start of its process and, on a copy, of the sandbox's walls included. Each case answers::

    {"seconds": [sorted], "p50": …, "p90": …, "p99": …, "worst": …}

Times are noisy, so they are never judged exactly: the tolerance must be stated, such as ``{ratio: {margin: 0.5, worse: higher, at:
"$.seconds"}}``. The hardware, and what else ran on it, stands beside the answers. Speed says nothing of what is stored, so the
probe reads no component (P4).
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Sequence

import msgspec

from resurgam.errors import ManifestError
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Observation
from resurgam.model.system import Json, System
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.base import Probe, Runner
from resurgam.probes.http import HttpProbe

WHOLE = "whole question"  # the case of a probe that is timed as one
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "worst": 1.0}


class LatencyProbe:
    """See the module's docstring. ``probe_for`` gives the probe of a kind."""

    kind = "latency"

    def __init__(self, probe_for: Callable[[str], Probe]) -> None:
        self._probe_for = probe_for

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError where there is nothing to time, or times would be judged exactly."""
        others = {probe.name: probe for probe in system.probes if probe.kind != self.kind}
        if spec.of not in others:
            given = spec.of or ""
            raise _wrong(spec, f"{given!r} is no probe that can be timed", did_you_mean(given, others))
        if spec.repeat < 1 or spec.warm_up < 0:
            raise _wrong(spec, "`repeat` or `warm_up` is out of range", "Ask at least once.")
        if spec.tolerance == "exact":
            raise _wrong(spec, "times are never the same twice", 'Tolerate {ratio: {margin: 0.5, at: "$.seconds"}}.')
        if spec.reads or spec.component:
            raise _wrong(spec, "it reads no component: speed says nothing of what is stored", "Remove `reads`.")

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Time the question. Raises ManifestError as ``check`` does."""
        self.check(spec, system)
        timed = next(probe for probe in system.probes if probe.name == spec.of)
        asker = self._probe_for(timed.kind)
        timed = msgspec.structs.replace(timed, timeout=spec.timeout)
        if isinstance(asker, HttpProbe):
            seen = asker.time(timed, system, runner, spec.repeat, spec.warm_up)
        else:
            seen = _repeated(asker, timed, system, runner, spec)
        answers = {case: _spread(seconds) for case, seconds in seen.answers.items()}
        by = seen.by | hardware() | {"warm-up": str(spec.warm_up), "repeats": str(spec.repeat)}
        return msgspec.structs.replace(seen, probe=spec.name, answers=answers, by=by)


def hardware() -> dict[str, str]:
    """What the times were measured on, and how busy it was."""
    by = {"machine": platform.machine(), "processor": _processor(), "processors": str(os.cpu_count())}
    if hasattr(os, "getloadavg"):
        by["load"] = f"{os.getloadavg()[0]:.1f}"
    return by


def _repeated(asker: Probe, timed: ProbeSpec, system: System, runner: Runner, spec: ProbeSpec) -> Observation:
    seconds = []
    for turn in range(-spec.warm_up, spec.repeat):
        seen = asker.ask(timed, system, runner)
        if seen.error is not None:
            return seen
        if turn >= 0:
            seconds.append(seen.seconds)
    return msgspec.structs.replace(seen, answers={WHOLE: seconds}, seconds=sum(seconds))


def _spread(seconds: Sequence[float]) -> dict[str, Json]:
    """The seconds in order, and the least that so many of them do not exceed (nearest rank)."""
    ordered = sorted(seconds)
    return {"seconds": ordered} | {
        name: ordered[max(0, math.ceil(share * len(ordered)) - 1)] for name, share in QUANTILES.items()
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "") or platform.processor()
    except OSError:  # no Linux
        return platform.processor()


def _wrong(spec: ProbeSpec, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"Probe {spec.name}: {what}.", untouched="Nothing was asked.", next_step=next_step)
