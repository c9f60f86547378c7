"""The kinds of probe: one line each."""

from __future__ import annotations

from resurgam.errors import ManifestError
from resurgam.model.nearest import did_you_mean
from resurgam.model.question import Answers, Question
from resurgam.model.system import Probe as ProbeSpec
from resurgam.model.system import System
from resurgam.probes.agent import AgentProbe
from resurgam.probes.base import Probe
from resurgam.probes.command import CommandProbe
from resurgam.probes.freshness import FreshnessProbe
from resurgam.probes.http import HttpProbe
from resurgam.probes.latency import LatencyProbe
from resurgam.probes.predict import PredictProbe
from resurgam.probes.retrieval import RetrievalProbe
from resurgam.probes.sql import SqlProbe

_PROBES: dict[str, Probe] = {
    "agent": AgentProbe(),
    "command": CommandProbe(),
    "freshness": FreshnessProbe(),
    "http": HttpProbe(),
    "latency": LatencyProbe(lambda kind: probe_for(kind)),
    "predict": PredictProbe(),
    "retrieval": RetrievalProbe(),
    "sql": SqlProbe(),
}

_PUT = {"retrieval": Question.NEIGHBOURS, "predict": Question.FILES}  # and SQL, whatever has a statement


def kinds() -> tuple[str, ...]:
    """The words that may stand after ``kind``, sorted."""
    return tuple(sorted(_PROBES))


def probe_for(kind: str) -> Probe:
    """The probe of ``kind``. Raises ManifestError, with the nearest word, where there is none."""
    try:
        return _PROBES[kind]
    except KeyError:
        raise ManifestError(
            f"{kind!r} is no kind of probe.", untouched="Nothing was asked.", next_step=did_you_mean(kind, _PROBES)
        ) from None


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
