"""The kinds of probe: one line each. A probe is imported when it is first asked for."""

from __future__ import annotations

import importlib

from resurgam.errors import ManifestError
from resurgam.model.nearest import did_you_mean
from resurgam.model.question import Answers, Question
from resurgam.model.system import Probe as ProbeSpec
from resurgam.model.system import System
from resurgam.probes.base import Probe

_CLASSES = {  # each in the module that is called as its kind
    "agent": "AgentProbe",
    "command": "CommandProbe",
    "freshness": "FreshnessProbe",
    "http": "HttpProbe",
    "latency": "LatencyProbe",
    "predict": "PredictProbe",
    "retrieval": "RetrievalProbe",
    "sql": "SqlProbe",
}
_PROBES: dict[str, Probe] = {}  # those that were asked for

_PUT = {"retrieval": Question.NEIGHBOURS, "predict": Question.FILES}  # and SQL, whatever has a statement


def kinds() -> tuple[str, ...]:
    """The words that may stand after ``kind``, sorted."""
    return tuple(sorted(_CLASSES))


def probe_for(kind: str) -> Probe:
    """The probe of ``kind``. Raises ManifestError, with the nearest word, where there is none."""
    if kind not in _CLASSES:
        raise ManifestError(
            f"{kind!r} is no kind of probe.", untouched="Nothing was asked.", next_step=did_you_mean(kind, _CLASSES)
        )
    if kind not in _PROBES:
        made = getattr(importlib.import_module(f"resurgam.probes.{kind}"), _CLASSES[kind])
        _PROBES[kind] = made(probe_for) if kind == "latency" else made()
    return _PROBES[kind]


def check_probe(spec: ProbeSpec, system: System, answers: Answers) -> None:
    """Raises ManifestError where ``spec`` could never be asked of ``system``; for the reader of the manifest. ``answers`` says what
    a kind of driver answers."""
    probe_for(spec.kind).check(spec, system)
    question = _PUT.get(spec.kind) or (Question.SQL if spec.sql is not None else None)
    if question is None or spec.component is None or question in answers(system.component(spec.component).driver):
        return
    able = [component.name for component in system.components if question in answers(component.driver)]
    raise ManifestError(
        f"Probe {spec.name}: {spec.component!r} is no component that can be {question}.",
        untouched="Nothing was asked.",
        next_step=did_you_mean(spec.component, able),
    )
