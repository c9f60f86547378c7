"""Texts among what a probe asks, turned into numbers by the owner's own command before the question is put.

The command is started and spoken to as that of a probe ``command``: ``ask`` holds the texts by case, its answers are the
numbers. It gets the same locations as the question, so on a copy it is the copy's embedder that is asked (P6).
"""

from __future__ import annotations

import msgspec

from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Json, System
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.base import Runner
from resurgam.probes.command import CommandProbe


def check_encoder(spec: ProbeSpec, system: System) -> None:
    """Raises ManifestError where ``encode`` is no command for ``system``. Touches nothing."""
    if not spec.encode or not spec.encode[0]:
        raise ManifestError(
            f"Probe {spec.name}: `encode` is empty, and a text is asked.",
            untouched="Nothing was run.",
            next_step="Give the argument list of the command that turns texts into numbers.",
        )
    CommandProbe().check(_command(spec, {}), system)


def encode(spec: ProbeSpec, texts: dict[str, str], system: System, runner: Runner) -> dict[str, Json] | Observation:
    """The numbers of each of ``texts``; an Observation with the error where there are none."""
    seen = CommandProbe().ask(_command(spec, texts), system, runner)
    error = seen.error
    if error is None and (missing := sorted(texts.keys() - seen.answers.keys())):
        error = f"it gave no numbers for {missing[0]!r}"
    if error is not None:
        return msgspec.structs.replace(seen, answers={}, error=f"the texts could not be encoded: {error}")
    return {case: seen.answers[case] for case in texts}


def _command(spec: ProbeSpec, texts: dict[str, str]) -> ProbeSpec:
    return ProbeSpec(
        name=spec.name, kind="command", run=spec.encode, ask=texts, env=spec.env, reads=spec.reads, timeout=spec.timeout
    )
