"""The report: a verdict with its evidence, so that a person who was not there can follow it. A pure function makes it::

    (point, particulars, verdict, evidence) -> Report -> page (HTML) | JUnit XML | JSON | lines in a terminal

It judges nothing and softens nothing: every judgement and reason is the verdict's own, and what was not judged has a list
of its own (P4). It adds what the verdict leaves to be looked up: how each answer changed, in words (``report_words``), how
alike all the answers are beside the noise of the yardstick's own, how each component stands, the cut, who signed.

Answers may be personal data, and may be written by an enemy. Every string of a report can be printed: control characters,
those that turn the direction of writing, and NUL are spelled out, and length is limited. :func:`redacted` leaves out what
came from the system: answers, names of cases, keys, and the words of programs that failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import msgspec

from resurgam.model.codec import to_plain
from resurgam.model.point import Observation, Particulars, PointBody
from resurgam.model.system import Component, Json, Probe
from resurgam.model.verdict import Baseline, Deviation, Judgement, Part, Verdict, worst
from resurgam.probes.answers import printable
from resurgam.proof.judge import MAX_VALUE, Yardsticks
from resurgam.proof.places import canonical, show_value
from resurgam.proof.report_values import (
    Change,
    ComponentReport,
    FindingReport,
    Frozen,
    Judged,
    ProbeReport,
    Report,
    Score,
    Signed,
)
from resurgam.proof.report_words import View, describe, likeness

MAX_TEXT = 1000  # characters of any string of a report
MAX_WITHIN = 5  # cases that changed and passed, of a probe
MAX_SCORES = 2000  # cases of a probe that are measured for drawing
LEFT_OUT = "(left out)"
_RANKED_KINDS = ("retrieval",)
_RANKED_TOLERANCES = ("overlap", "rbo", "recall")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict rests on. ``observed`` is what the copy answered, None where that was not kept; ``made`` when it was
    judged; ``approved`` the point at which the reference was taken."""

    yardsticks: Yardsticks = Yardsticks()
    observed: Baseline | None = None
    approved: PointBody | None = None
    made: str = ""
    signed: tuple[Signed, ...] = ()


def make_report(point: PointBody, particulars: Particulars, verdict: Verdict, evidence: Evidence) -> Report:
    """The report on ``verdict``. Raises nothing for what answers may hold."""
    system = particulars.system
    probes = tuple(_probe_report(name, kind, verdict, evidence) for name, kind in _asked(particulars, verdict))
    unchanged = _unchanged(point, evidence.approved, verdict)
    components = tuple(_component_report(c, point, probes, verdict, unchanged) for c in system.components)
    report = Report(
        point=point.id,
        system=point.system,
        description=system.description,
        sealed=point.sealed,
        made=evidence.made,
        judgement=verdict.judgement.word,
        conclusion=_conclusion(verdict, probes),
        first_proof=verdict.first_proof,
        isolation=verdict.isolation,
        seconds=verdict.seconds,
        promised=system.objectives.rto,
        components=components,
        probes=tuple(sorted(probes, key=lambda p: -Judgement[p.judgement.upper()])),
        suspects=_suspects(components, probes),
        unjudged=_unjudged(verdict),
        cut_at=particulars.cut.at,
        freeze=particulars.cut.freeze,
        skew=particulars.cut.skew,
        barrier=_barrier(particulars),
        cut=tuple(
            Frozen(component=p.component, asked=max(0.0, p.thawed_at - p.freeze), held=p.frozen_at, thawed=p.thawed_at)
            for p in particulars.cut.parts
        ),
        findings=tuple(
            FindingReport(severity=f.severity.value, component=f.component or "", what=f.what, keys=f.keys)
            for f in particulars.findings
        ),
        signed=evidence.signed,
        host_can_read=point.host_can_read,
        resurgam=point.resurgam,
    )
    return msgspec.convert(_readable(to_plain(report)), Report)


def redacted(report: Report) -> Report:
    """The same report without what came from the system itself; counts, judgements and measures stay."""

    def probe(found: ProbeReport) -> ProbeReport:
        names = sorted(
            {c.case for j in found.judged for c in j.changes} | {s.case for j in found.judged for s in j.scores}
        )
        number = {name: f"case {n}" for n, name in enumerate(names, 1)}
        return msgspec.structs.replace(found, judged=tuple(_redacted(j, number) for j in found.judged))

    return msgspec.structs.replace(
        report,
        redacted=True,
        probes=tuple(probe(found) for found in report.probes),
        components=tuple(msgspec.structs.replace(c, why=without_words(c.why)) for c in report.components),
        unjudged=tuple((name, without_words(why)) for name, why in report.unjudged),
        findings=tuple(msgspec.structs.replace(f, keys=(LEFT_OUT,) if f.keys else ()) for f in report.findings),
    )


def _redacted(judged: Judged, number: dict[str, str]) -> Judged:

    def change(found: Change) -> Change:
        views = tuple(View(kind=v.kind, counted=v.counted, sentence=v.counted) for v in found.views)
        return Change(case=number[found.case], why=LEFT_OUT, views=views)

    return msgspec.structs.replace(
        judged,
        reason=without_words(judged.reason),
        changes=tuple(map(change, judged.changes)),
        within=tuple(map(change, judged.within)),
        flaky=tuple(number[name] for name in judged.flaky),
        scores=tuple(msgspec.structs.replace(s, case=number[s.case]) for s in judged.scores),
    )


def without_words(text: str) -> str:
    """``text`` without what a failed program said: that stands in parentheses, or after "it said"."""
    return re.sub(r"; it said: .*", f"; it said: {LEFT_OUT}", re.sub(r"\(.*\)", LEFT_OUT, text))


def _asked(particulars: Particulars, verdict: Verdict) -> list[tuple[str, Probe | None]]:
    """The system's probes, then those that only a yardstick holds."""
    asked: dict[str, Probe | None] = {probe.name: probe for probe in particulars.system.probes}
    judged = {part.name: None for part in verdict.parts if part.yardstick != "none" and part.name not in asked}
    return [*asked.items(), *judged.items()]


def _probe_report(name: str, probe: Probe | None, verdict: Verdict, evidence: Evidence) -> ProbeReport:
    parts = [p for p in verdict.parts if p.name == name and (p.yardstick != "none" or _is_of_probe(p))]
    seen = [o for run in (evidence.observed.runs if evidence.observed else ()) for o in run if o.probe == name]
    return ProbeReport(
        name=name,
        kind=probe.kind if probe else "not asked any more",
        reads=_reads(probe) if probe else (),
        judgement=worst(tuple(parts)).word,
        judged=tuple(_judged(part, probe, seen, evidence.yardsticks) for part in parts),
        seconds=max((o.seconds for o in seen), default=None),
    )


def _is_of_probe(part: Part) -> bool:
    """Whether a part without a yardstick speaks of a probe, and not of a component of the same name."""
    return part.reason.startswith("no yardstick")


def _judged(part: Part, probe: Probe | None, seen: Sequence[Observation], yardsticks: Yardsticks) -> Judged:
    known = [o for run in _runs(part.yardstick, yardsticks) for o in run if o.probe == part.name]
    ranked, by = _ranking(probe)
    scores = _scores(known, seen, ranked, by)
    return Judged(
        yardstick=part.yardstick,
        judgement=part.judgement.word,
        reason=part.reason,
        cases=part.cases,
        changes=tuple(_change(d, known, seen, ranked, by) for d in part.deviations),
        within=tuple(_within(part, scores, known, seen, ranked, by)),
        scores=scores,
        flaky=part.flaky,
        statistics=msgspec.structs.replace(part.statistics, scores={}) if part.statistics else None,
        otherwise=tuple(_otherwise(known, seen)),
    )


def _runs(yardstick: str, yardsticks: Yardsticks) -> tuple[tuple[Observation, ...], ...]:
    if yardstick == "witness":
        return (yardsticks.witness.before, yardsticks.witness.after)
    found = {"baseline": yardsticks.baseline, "reference": yardsticks.reference}.get(yardstick)
    return found.runs if found else ()


def _otherwise(known: Sequence[Observation], seen: Sequence[Observation]) -> Iterable[str]:
    """What answered otherwise: another library, another version, another setting may be why."""
    then, now = ({name: value for o in side for name, value in o.by.items()} for side in (known, seen))
    for name in sorted(then.keys() & now.keys()):
        if then[name] != now[name]:
            yield f"{name}: {then[name]} then, {now[name]} in the copy"


def _ranking(probe: Probe | None) -> tuple[bool, str | int | None]:
    """Whether the lists that a probe answers are hits, best first, and which member of a hit names it."""
    tolerance = probe.tolerance if probe else None
    inner = next(iter(tolerance.values()), None) if isinstance(tolerance, dict) and len(tolerance) == 1 else None
    inner = inner if isinstance(inner, dict) else {}
    named = isinstance(tolerance, dict) and "overlap" in tolerance
    ranked = named or inner.get("score") in _RANKED_TOLERANCES or (probe is not None and probe.kind in _RANKED_KINDS)
    by = inner.get("by")
    return ranked, by if isinstance(by, str | int) else None


def _change(
    deviation: Deviation, known: Sequence[Observation], seen: Sequence[Observation], ranked: bool, by: str | int | None
) -> Change:
    expected, got = _whole(deviation.case, deviation.expected, known), _whole(deviation.case, deviation.got, seen)
    if canonical(expected) == canonical(got):  # judged by all runs together: this one is alike, another was not
        expected, got = _farthest(deviation.case, known, seen, ranked, by) or (expected, got)
    views = describe(expected, got, ranked=ranked, by=by)
    return Change(case=deviation.case, why=deviation.why, views=tuple(views))


def _within(
    part: Part,
    scores: Sequence[Score],
    known: Sequence[Observation],
    seen: Sequence[Observation],
    ranked: bool,
    by: str | int | None,
) -> Iterable[Change]:
    """The cases that changed most among those that the tolerance let pass."""
    if not part.judgement.passes:
        return
    for case in [score.case for score in scores if score.restored < 1][:MAX_WITHIN]:
        if pair := _farthest(case, known, seen, ranked, by):
            yield Change(case=case, why="within the tolerance", views=tuple(describe(*pair, ranked=ranked, by=by)))


def _whole(case: str, kept: Json, observations: Sequence[Observation]) -> Json:
    """The answer of which a verdict keeps the beginning only, where the evidence has it."""
    answers = _answers(case, observations)
    return next((answer for answer in answers if kept in (answer, show_value(answer, MAX_VALUE))), kept)


def _scores(
    known: Sequence[Observation], seen: Sequence[Observation], ranked: bool, by: str | int | None
) -> tuple[Score, ...]:
    """For each case that both sides answered: the copy's worst run against the nearest answer, and the yardstick's own noise."""
    cases = sorted({case for o in known for case in o.answers} & {case for o in seen for case in o.answers})
    scores = []
    for case in cases[:MAX_SCORES]:
        own = combinations(_answers(case, known), 2)
        noise = min((likeness(a, b, ranked=ranked, by=by) for a, b in own), default=None)
        pair = _farthest(case, known, seen, ranked, by)
        restored = likeness(*pair, ranked=ranked, by=by) if pair else 0.0
        scores.append(Score(case=case, restored=restored, noise=noise))
    return tuple(sorted(scores, key=lambda score: (score.restored, score.case)))


def _farthest(
    case: str, known: Sequence[Observation], seen: Sequence[Observation], ranked: bool, by: str | int | None
) -> tuple[Json, Json] | None:
    """The copy's answer that is least like what was known, with the known answer that is most like it."""

    def alike(pair: tuple[Json, Json]) -> float:
        return likeness(*pair, ranked=ranked, by=by)

    ours = _answers(case, known)
    nearest = [max(((answer, got) for answer in ours), key=alike, default=None) for got in _answers(case, seen)]
    return min((pair for pair in nearest if pair is not None), key=alike, default=None)


def _answers(case: str, observations: Sequence[Observation]) -> list[Json]:
    return [o.answers[case] for o in observations if case in o.answers]


def _component_report(
    component: Component, point: PointBody, probes: Iterable[ProbeReport], verdict: Verdict, unchanged: Iterable[str]
) -> ComponentReport:
    snapshot = next((s for s in point.snapshots if s.component == component.name), None)
    asked = [probe for probe in probes if component.name in probe.reads]
    own = [p for p in verdict.parts if p.name == component.name and p.yardstick == "none" and not _is_of_probe(p)]
    state = _state(asked, own)
    blamed = [probe.name for probe in asked if state in (probe.judgement, "proven")]
    why = "; ".join(part.reason for part in own) or _why(state, blamed)
    if state == Judgement.DIFFERENT.word and not own and component.name in unchanged:
        state, why = "unchanged", f"read by {', '.join(blamed)}, but to the byte as it was when the reference was taken"
    return ComponentReport(
        name=component.name,
        driver=component.driver,
        owner=component.owner,
        tier=component.tier,
        state=state,
        why=why,
        probes=tuple(probe.name for probe in asked),
        items=snapshot.items if snapshot else 0,
        bytes=snapshot.bytes if snapshot else 0,
        consistency=snapshot.earned if snapshot else "",
        after=tuple(dict.fromkeys((*component.derived_from, *component.reads))),
        writes=tuple(dict.fromkeys((*component.writes, *component.serves))),
    )


def _why(state: str, probes: Sequence[str]) -> str:
    """Why a component of which nothing was said itself stands as it does."""
    names = ", ".join(probes)
    return (
        f"{names} differ{'s' if len(probes) == 1 else ''}"
        if state == Judgement.DIFFERENT.word
        else f"{state} by {names}"
    )


def _unchanged(point: PointBody, approved: PointBody | None, verdict: Verdict) -> set[str]:
    """The components that hold, to the byte, what they held when the reference was taken: where only the reference sees a
    difference, none of them is its cause. Equal trees are equal bytes."""
    by = {part.yardstick for part in verdict.parts if part.judgement is Judgement.DIFFERENT}
    if approved is None or approved.id == point.id or by != {"reference"}:
        return set()
    trees = {(s.component, s.driver, s.domain, s.tree) for s in approved.snapshots}
    return {s.component for s in point.snapshots if (s.component, s.driver, s.domain, s.tree) in trees}


def _suspects(components: Sequence[ComponentReport], probes: Sequence[ProbeReport]) -> tuple[str, ...]:
    """The components that every differing probe reads, and that are not known to be unchanged."""
    differing = [probe.reads for probe in probes if probe.judgement == Judgement.DIFFERENT.word]
    blamed = [c.name for c in components if c.state == Judgement.DIFFERENT.word]
    return tuple(name for name in blamed if all(name in reads for reads in differing))


def _state(asked: Sequence[ProbeReport], own: Sequence[Part]) -> str:
    """How a component stands: as its worst probe does; no better than inconclusive where something was said of itself."""
    if not asked:
        return "unprobed"
    found = max(Judgement[probe.judgement.upper()] for probe in asked)
    found = max([found, *(part.judgement for part in own)])
    return "proven" if found.passes else found.word


def _reads(probe: Probe) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in (*probe.reads, probe.component) if name is not None))


def _unjudged(verdict: Verdict) -> tuple[tuple[str, str], ...]:
    """P4: what could not be judged, whatever the whole verdict is; also what was left out of a part that passed."""
    undecided = [
        (part.name if part.yardstick == "none" else f"{part.name} by {part.yardstick}", part.reason)
        for part in verdict.parts
        if part.judgement is Judgement.INCONCLUSIVE or "moved with the live system" in part.reason
    ]
    accepted = [("isolation", verdict.isolation)] if verdict.isolation.startswith("not isolated") else []
    return tuple(dict.fromkeys([*undecided, *(pair for pair in accepted if pair[0] not in dict(undecided))]))


def _conclusion(verdict: Verdict, probes: Sequence[ProbeReport]) -> str:
    """The verdict in a sentence for somebody who knows none of the words."""
    subject = "The live system" if verdict.isolation == "live" else "The restored system"
    match verdict.judgement:
        case Judgement.IDENTICAL:
            return f"{subject} gave the same answers, to the letter, to all that was asked."
        case Judgement.EQUIVALENT:
            return f"{subject} gave the same answers to all that was asked, within the margins that its owner set."
        case Judgement.INCONCLUSIVE:
            count = sum(part.judgement is Judgement.INCONCLUSIVE for part in verdict.parts)
            left = f"{count} thing{'' if count == 1 else 's'} could not be judged" if count else "nothing was judged"
            return f"Nothing that was judged differs, but this is no pass: {left}."
        case Judgement.DIFFERENT:
            names = [probe.name for probe in probes if probe.judgement == Judgement.DIFFERENT.word]
            return (
                f"{subject} does not behave the same: {len(names)} of {len(probes)} probes differ ({', '.join(names)})."
            )


def _barrier(particulars: Particulars) -> str:
    barrier = particulars.cut.barrier
    if barrier is None:
        return ""
    passed = "; a writer went on without it, so truths across components may not hold" if barrier.passed else ""
    return f"by {barrier.kind}, waited for {barrier.waited * 1000:.0f} ms, held {barrier.held * 1000:.0f} ms{passed}"


def _readable(value: Any) -> Any:
    """Every string so that it can be shown: nothing that steers, and no more of it than fits."""
    if isinstance(value, str):
        text = printable(value[:MAX_TEXT])
        return text if len(value) <= MAX_TEXT else f"{text}… ({len(value)} characters)"
    if isinstance(value, list | tuple):
        return [_readable(member) for member in value]
    return {_readable(name): _readable(member) for name, member in value.items()} if isinstance(value, dict) else value
