"""Judges how a restored system behaves. Values in, a verdict out; nothing is asked or read here.

The copy was asked all its probes, once or several times (the *runs*). Each probe is judged by each yardstick it has:

* the **witness**, the live system just before and just after the cut: a case counts where both agree, others have moved,
  and a probe of which all have moved is judged as one that has no witness;
* the **baseline**, the same point restored before and observed at least twice. It never judges the restore that made it,
  so a first proof has none; every later restore must have one;
* the **reference**, a baseline that the owner has approved, for the probes that it holds.

Where the answers of witness or baseline were shredded, it is as if there were none, and said; a shredded reference is
inconclusive until the owner approves another.

Probes come from the point, so from whoever captured it. A probe that baseline or reference holds, and that the system
lacks by now or asks otherwise, is inconclusive: to drop a question is no way to pass it.

Most tolerances judge case by case. A case is the same when *every* run of the copy is within the tolerance of *some* answer
of the yardstick: the tolerance is spent once, against an answer that was really given. A case on which the runs of the
copy, or those of a baseline, disagree among themselves is noisy and decides nothing. Other tolerances judge all cases
together (``proof.together``), beside the noise of the yardstick's own runs. For both, a case that only one side has is a
difference.

A verdict passes only if every part does, so each claim of equivalence stands at its own alpha (an intersection-union test).
Differences that tests have found are held against each other: the *family* of Holm's adjustment is all parts of the verdict
that rest on a test, each probe by each yardstick. One that does not stand among them is inconclusive, and still told: no
part can hide another's difference, nor turn it into a pass.

P4: the whole is the worst of its parts, and each thing that could not be judged is a part: a probe without a yardstick,
a component that no probe reads, a copy that was not isolated, or that is not what was restored any more. Nothing here
can turn absence into a pass.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

import msgspec

from resurgam.errors import MissingExtra
from resurgam.model.codec import to_json
from resurgam.model.point import Observation, Witness
from resurgam.model.system import Isolation, Json, Probe, System
from resurgam.model.verdict import Baseline, Deviation, IsolationReport, Judgement, Part, Verdict, worst
from resurgam.probes.answers import printable
from resurgam.probes.replay import hosted_words
from resurgam.proof.claims import ALARM, Claim, read_claim
from resurgam.proof.compare import Match, compare
from resurgam.proof.places import canonical, show_value
from resurgam.proof.statistics import holm
from resurgam.proof.together import judge_together

Run = tuple[Observation, ...]  # one round: one observation per probe

AA_RUNS = 2  # a first proof and a baseline observe at least twice, so that noise is known
MAX_DEVIATIONS = 20  # kept per part; the counts are always whole
MAX_VALUE = 400  # characters of JSON of an answer kept with a deviation
_STEADYING = "Hold still what these answers vary with: seeds, threads, warm caches, batch sizes, hardware."
_FAULT = "different from live, a capture fault: "
_MOVED_ON = "different from live at the capture: "
_NO_QUESTION = ("witness", "timeout")  # fields of a probe that change neither what is asked nor what passes


class Yardsticks(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore may be judged by; any may be missing. ``shredded`` names those whose answers were, with the day."""

    witness: Witness = Witness()
    baseline: Baseline | None = None
    reference: Baseline | None = None
    shredded: dict[str, str] = {}


def judge(
    point: str,
    system: System,
    runs: Sequence[Run],
    yardsticks: Yardsticks,
    *,
    isolation: IsolationReport,
    first_proof: bool,
    seconds: float,
    changed: Mapping[str, str] | None = None,
) -> Verdict:
    """The verdict on one restore of ``point``. ``runs`` are the copy's observations, ``seconds`` what it all took,
    ``changed`` the components whose copies are not what was restored any more, with what is known of it.

    Raises ManifestError where a probe's tolerance is malformed.
    """
    parts = [
        _saying_what_answered(part, runs)
        for probe in system.probes
        for part in _judge_probe(point, probe, runs, yardsticks, first_proof)
    ]
    parts = _held_against_each_other(parts)
    parts += _dropped(system, yardsticks)
    parts += _shredded_reference(yardsticks)
    parts += _unprobed(system)
    parts += [_undecided(name, "none", why) for name, why in (changed or {}).items()]
    accepted = system.isolation is Isolation.BEST_EFFORT
    if not isolation.isolated and not accepted:  # P4
        parts.append(_undecided("isolation", "none", str(isolation)))
    return Verdict(
        point=point,
        judgement=worst(tuple(parts)),
        parts=tuple(parts),
        isolation=_isolation_words(isolation, accepted),
        first_proof=first_proof,
        seconds=seconds,
    )


def explain(verdict: Verdict) -> list[str]:
    """The verdict as plain lines for a terminal: what is not identical in full, worst first, then the rest in a line each."""
    kind = "first proof" if verdict.first_proof else "later restore"
    lines = [f"{verdict.judgement.word}: point {verdict.point}, {kind}, {verdict.isolation}, {verdict.seconds:.1f} s"]
    for part in sorted(verdict.parts, key=lambda part: -part.judgement):
        if part.judgement is Judgement.IDENTICAL:
            break
        by = "" if part.yardstick == "none" else f" by {part.yardstick}"
        lines.append(f"{part.name}{by}: {part.judgement.word}: {part.reason}")
        for deviation in part.deviations:
            values = f"expected {show_value(deviation.expected)}, got {show_value(deviation.got)}"
            lines.append(f"  {deviation.case}: {values}" + (f" ({deviation.why})" if deviation.why != values else ""))
        if part.flaky:
            more = f" and {len(part.flaky) - MAX_DEVIATIONS} more" if len(part.flaky) > MAX_DEVIATIONS else ""
            lines.append(f"  flaky: {', '.join(part.flaky[:MAX_DEVIATIONS])}{more}. {_STEADYING}")
    same: dict[str, list[str]] = {}
    for part in verdict.parts:
        if part.judgement is Judgement.IDENTICAL:
            said = part.reason.replace(f": {part.cases} identical", "")  # the line says so
            same.setdefault(part.yardstick, []).append(f"{part.name} ({said})")
    lines += [f"identical by {yardstick}: {', '.join(names)}" for yardstick, names in same.items()]
    return [printable(line) for line in lines]  # what a damaged system says must not steer a terminal


@dataclass(frozen=True, slots=True)
class _Behaviour:
    """What one side answered to one probe. ``steady`` maps a case to its answers, which agree within the tolerance;
    ``unsteady`` cases have none that do. ``answered`` has all that were answered in every run, agreeing or not.
    ``lacking`` tells why there is no behaviour at all, ``mute`` that there was an error each time."""

    steady: dict[str, tuple[Json, ...]] = field(default_factory=dict)
    answered: dict[str, tuple[Json, ...]] = field(default_factory=dict)
    unsteady: frozenset[str] = frozenset()
    lacking: str = ""
    mute: bool = False

    @property
    def cases(self) -> set[str]:
        return self.steady.keys() | self.unsteady


def _judge_probe(
    point: str, probe: Probe, runs: Sequence[Run], yardsticks: Yardsticks, first_proof: bool
) -> list[Part]:
    copy = _behaviour(probe, runs, "the copy", AA_RUNS if first_proof else 1)
    parts = []
    moved_everywhere = False
    if probe.witness and "witness" not in yardsticks.shredded:
        live = _behaviour(probe, (yardsticks.witness.before, yardsticks.witness.after), "the live system", 2)
        part, moved = _judge_by("witness", live, copy, probe, point, _FAULT if first_proof else _MOVED_ON, moving=True)
        parts.append(part)
        moved_everywhere = bool(moved) and not part.cases
    if not first_proof:  # a baseline never judges the restore that made it; no baseline means no pass (P4)
        parts.append(_judge_by_earlier("baseline", yardsticks.baseline, copy, probe, point))
    if yardsticks.reference and probe.name in yardsticks.reference.knows():
        parts.append(_judge_by_earlier("reference", yardsticks.reference, copy, probe, point))
    if moved_everywhere and len(parts) > 1:  # as if there were no witness: what another yardstick says stands
        parts[:2] = [_adding(parts[1], "the witness moved with the live system during the cut")]
    if [part.yardstick for part in parts] == ["baseline"] and parts[0].judgement.passes:
        parts = [_adding(parts[0], "this baseline itself was never compared with the live system or a reference")]
    gone = _gone(probe, yardsticks)
    if not parts:
        why = f"no yardstick: {gone or 'neither witness nor reference knows this probe'}"
        return [_undecided(probe.name, "none", f"{why}; {copy.lacking}" if copy.lacking else why)]
    return [_adding(part, gone) for part in parts] if gone else parts


def _gone(probe: Probe, yardsticks: Yardsticks) -> str:
    """That there were other answers to judge ``probe`` by, which were shredded; empty where there were not."""
    names = [
        name for name in ("witness", "baseline") if name in yardsticks.shredded and (name != "witness" or probe.witness)
    ]
    return "; ".join(f"the answers of the {name} were shredded on {yardsticks.shredded[name]}" for name in names)


def _shredded_reference(yardsticks: Yardsticks) -> list[Part]:
    """P4: what the owner held to be right cannot be asked any more, and that is no pass."""
    if (day := yardsticks.shredded.get("reference")) is None:
        return []
    return [_undecided("reference", "none", f"its answers were shredded on {day}: approve another one")]


def _judge_by_earlier(yardstick: str, earlier: Baseline | None, copy: _Behaviour, probe: Probe, point: str) -> Part:
    """Judge by what was observed on a copy before, baseline or reference, if it was asked the same then."""
    if changed := _asked_otherwise(probe, earlier):
        which = f"{', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'}"
        return _undecided(probe.name, yardstick, f"the {yardstick} was asked otherwise: {which}")
    wanted = _behaviour(probe, earlier.runs if earlier else (), f"the {yardstick}", AA_RUNS)
    return _judge_by(yardstick, wanted, copy, probe, point)[0]


def _asked_otherwise(probe: Probe, earlier: Baseline | None) -> list[str]:
    """The fields in which the question, or what passes as its answer, is not what it was; none where that is not known."""
    was = next((asked for asked in earlier.probes if asked.name == probe.name), None) if earlier else None
    fields = [name for name in Probe.__struct_fields__ if name not in _NO_QUESTION]
    return [name for name in fields if was and to_json(getattr(was, name)) != to_json(getattr(probe, name))]


def _dropped(system: System, yardsticks: Yardsticks) -> list[Part]:
    """P4: a probe that an earlier observation of a copy holds and the system does not ask any more is inconclusive."""
    asked = {probe.name for probe in system.probes}
    earlier = {"baseline": yardsticks.baseline, "reference": yardsticks.reference}
    return [
        _undecided(name, word, f"the {word} holds this probe, and the system does not ask it any more")
        for word, by in earlier.items()
        for name in (by.knows() if by else ())
        if name not in asked
    ]


def _behaviour(probe: Probe, runs: Sequence[Run], who: str, at_least: int) -> _Behaviour:
    """Bring the observations of one probe over all runs into one."""
    seen = [next((o for o in run if o.probe == probe.name), None) for run in runs]
    observed = [o for o in seen if o is not None]
    unasked = next((o.error for o in observed if not o.asked), None)
    failed = [o.error for o in observed if o.error is not None]
    if len(observed) < max(at_least, len(runs)):
        wanted = max(at_least, len(runs))
        return _Behaviour(lacking=f"{who} was asked {len(observed)} of {wanted} times")
    if unasked is not None:  # no sandbox, a wrong question: that is no behaviour of the system's
        return _Behaviour(lacking=f"{who}: {unasked}")
    if failed:
        mute = len(failed) == len(observed)
        times = "" if mute else f"{len(failed)} of {len(observed)} times "
        return _Behaviour(lacking=f"{who} could not answer {times}({failed[0]})", mute=mute)
    answered: dict[str, tuple[Json, ...]] = {}
    steady: dict[str, tuple[Json, ...]] = {}
    tolerance = probe.tolerance if read_claim(probe.tolerance) is None else "exact"
    cases = {case for o in observed for case in o.answers}
    for case in cases:
        answers = tuple(o.answers[case] for o in observed if case in o.answers)
        if len(answers) == len(observed):
            answered[case] = answers
            if all(compare(a, b, tolerance).judgement.passes for a, b in permutations(answers, 2)):
                steady[case] = answers
    return _Behaviour(steady=steady, answered=answered, unsteady=frozenset(cases - steady.keys()))


def _judge_by(
    yardstick: str,
    wanted: _Behaviour,
    copy: _Behaviour,
    probe: Probe,
    point: str,
    fault: str = "",
    *,
    moving: bool = False,
) -> tuple[Part, int]:
    """Judge one probe by one yardstick. ``moving``: its unsteady cases have moved with the live system, and are left out; how
    many did is returned beside the part."""
    if wanted.lacking:
        return _undecided(probe.name, yardstick, wanted.lacking), 0
    if not wanted.cases:
        return _undecided(probe.name, yardstick, "no case: it was asked nothing"), 0
    if copy.mute:
        reason = f"{fault}it cannot be answered any more: {copy.lacking}"
        return Part(name=probe.name, yardstick=yardstick, judgement=Judgement.DIFFERENT, reason=reason), 0
    if copy.lacking:
        return _undecided(probe.name, yardstick, copy.lacking), 0
    claim = read_claim(probe.tolerance)
    one_sided = (wanted.cases ^ copy.cases) - (wanted.unsteady if moving else frozenset())
    if claim is None or one_sided:
        return _judge_each(yardstick, wanted, copy, probe, fault, moving=moving)
    part, moved = _judge_all(yardstick, claim, wanted, copy, probe, point, moving=moving)
    if part.judgement is Judgement.DIFFERENT:
        part = msgspec.structs.replace(part, reason=fault + part.reason)
    return part, moved


def _judge_each(
    yardstick: str, wanted: _Behaviour, copy: _Behaviour, probe: Probe, fault: str, *, moving: bool
) -> tuple[Part, int]:
    """Judge case by case. A tolerance over all cases comes here for the cases that only one side has."""
    moved = wanted.unsteady if moving else frozenset()
    tolerance = probe.tolerance if read_claim(probe.tolerance) is None else "exact"
    cases = wanted.cases | copy.cases if tolerance is probe.tolerance else wanted.cases ^ copy.cases
    judged = {case: _judge_case(case, wanted, copy, tolerance) for case in sorted(cases - moved)}
    counts = Counter(match.judgement for match, _ in judged.values())
    judgement = max(counts, default=Judgement.INCONCLUSIVE)
    deviations = [found for match, found in judged.values() if not match.judgement.passes]
    part = Part(
        name=probe.name,
        yardstick=yardstick,
        judgement=judgement,
        reason=(fault if judgement is Judgement.DIFFERENT else "") + _counted(counts, len(moved)),
        cases=len(judged),
        deviations=tuple(sorted(deviations, key=lambda d: d.case)[:MAX_DEVIATIONS]),
        flaky=tuple(sorted((wanted.unsteady | copy.unsteady) - moved)),
    )
    return part, len(moved)


def _judge_all(
    yardstick: str,
    claim: Claim,
    wanted: _Behaviour,
    copy: _Behaviour,
    probe: Probe,
    point: str,
    *,
    moving: bool,
) -> tuple[Part, int]:
    """Judge all cases together. Those that came or went between the runs of a yardstick that moves have moved."""
    gone = wanted.cases - wanted.answered.keys() if moving else set()
    sometimes = sorted(wanted.cases - gone - (wanted.answered.keys() & copy.answered.keys()))
    if sometimes:
        return _undecided(probe.name, yardstick, f"answered only in some runs: {', '.join(sometimes[:5])}"), len(gone)
    cases = sorted(wanted.cases - gone)
    if not cases:
        return _undecided(probe.name, yardstick, _counted(Counter(), len(gone))), len(gone)
    ours, theirs = ({case: side.answered[case] for case in cases} for side in (wanted, copy))
    seed = int.from_bytes(hashlib.sha256(f"{point}/{probe.name}/{yardstick}".encode()).digest()[:4])
    try:
        found = judge_together(claim, ours, theirs, moving=moving, seed=seed)
    except MissingExtra as missing:  # P4: what cannot be judged here is inconclusive, and stops no other probe
        return _undecided(probe.name, yardstick, f"{missing.message} {missing.next_step}"), len(gone)
    kept = [
        Deviation(case=d.case, expected=_kept((d.expected,)), got=_kept((d.got,)), why=d.why) for d in found.deviations
    ]
    part = Part(
        name=probe.name,
        yardstick=yardstick,
        judgement=found.judgement,
        reason=found.reason,
        cases=found.cases,
        deviations=tuple(kept[:MAX_DEVIATIONS]),
        flaky=found.flaky,
        statistics=found.statistics,
    )
    return part, len(gone) + found.moved


def _held_against_each_other(parts: Sequence[Part]) -> list[Part]:
    """Holm's adjustment of the differences that tests have found, over all parts that rest on a test."""
    family = [part.statistics for part in parts if part.statistics is not None]
    adjusted = iter(holm([found.difference for found in family]))
    return [part if part.statistics is None else _adjusted(part, next(adjusted), len(family)) for part in parts]


def _adjusted(part: Part, p: float, family: int) -> Part:
    assert part.statistics is not None
    found = msgspec.structs.replace(part.statistics, adjusted=p, family=family)
    if found.decided != "difference" or p <= min(found.alpha, ALARM):
        return msgspec.structs.replace(part, statistics=found)
    words = f"a difference (p = {found.difference:.3g}) does not stand among {family} tests (Holm: p = {p:.3g})"
    reason = part.reason.removeprefix(_FAULT).removeprefix(_MOVED_ON)
    return msgspec.structs.replace(
        part,
        judgement=Judgement.INCONCLUSIVE,
        reason=f"{reason}; {words}",
        statistics=msgspec.structs.replace(found, decided="data"),
    )


def _judge_case(case: str, wanted: _Behaviour, copy: _Behaviour, tolerance: Json) -> tuple[Match, Deviation]:
    """How the copy's answers to one case compare, with the pair of answers that says so."""
    expected, got = wanted.steady.get(case, ()), copy.steady.get(case, ())
    if case not in copy.cases:
        match = Match(Judgement.DIFFERENT, "the copy has no answer to it")
    elif case not in wanted.cases:
        match = Match(Judgement.DIFFERENT, "an answer that the yardstick does not have")
    elif not got:
        match = Match(Judgement.INCONCLUSIVE, "noisy: the copy's own answers do not agree")
    elif not expected:
        match = Match(Judgement.INCONCLUSIVE, "noisy: the yardstick's own answers do not agree")
    else:
        nearest = [min((compare(e, g, tolerance), i, j) for i, e in enumerate(expected)) for j, g in enumerate(got)]
        match, i, j = max(nearest)
        expected, got = expected[i:], got[j:]
    deviation = Deviation(case=case, expected=_kept(expected), got=_kept(got), why=match.why)
    return match, deviation


def _unprobed(system: System) -> list[Part]:
    """P4: what no probe read is inconclusive."""
    read = {name for probe in system.probes for name in (*probe.reads, probe.component)}
    return [_undecided(c.name, "none", "unprobed: no probe reads it") for c in system.components if c.name not in read]


def _saying_what_answered(part: Part, runs: Sequence[Run]) -> Part:
    """P6: whether a hosted model that the copy asked was replayed or refused belongs to what was judged."""
    said = {hosted_words(seen.by) for run in runs for seen in run if seen.probe == part.name} - {""}
    return _adding(part, " / ".join(sorted(said))) if said else part


def _adding(part: Part, words: str) -> Part:
    return msgspec.structs.replace(part, reason=f"{part.reason}; {words}")


def _undecided(name: str, yardstick: str, reason: str) -> Part:
    return Part(name=name, yardstick=yardstick, judgement=Judgement.INCONCLUSIVE, reason=reason)


def _counted(counts: Counter[Judgement], moved: int) -> str:
    words = [f"{counts[judgement]} {judgement.word}" for judgement in sorted(counts, reverse=True)]
    cases = f"{counts.total()} case{'' if counts.total() == 1 else 's'}"
    reason = f"{cases}: {', '.join(words)}" if words else "no case is left to judge"
    return f"{reason}; {moved} moved with the live system during the cut" if moved else reason


def _kept(answers: tuple[Json, ...]) -> Json:
    """The first answer, or its beginning as text where it is long; None where there is none."""
    if not answers:
        return None
    whole = len(canonical(answers[0])) <= MAX_VALUE
    return answers[0] if whole else show_value(answers[0], MAX_VALUE)


def _isolation_words(isolation: IsolationReport, accepted: bool) -> str:
    accepting = "; the manifest accepts that (isolation: best-effort)"
    return f"{isolation}{accepting}" if accepted and not isolation.isolated else str(isolation)
