"""Judges all cases of one probe together, by what its tolerance claims (``proof.claims``). Values in, a finding out.

What is the same everywhere needs no statistics: it is *identical*. Else the claim is tested beside the noise of the
yardstick's own runs (A/A), and

* the claim holds: *equivalent*, whatever was lost within the margin, with the worst cases named;
* the loss is beyond the margin and no noise, or the worst 5 % of cases fall below their floor though the yardstick's own
  do not: *different*;
* neither, for want of cases or because of noise: *inconclusive*, with the number of cases that would do (P4).

The claim of equivalence is about the questions that the cases were drawn from; the difference is about these very cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from statistics import fmean, median
from typing import TypeVar

from resurgam.model.system import Json
from resurgam.model.verdict import Deviation, Judgement, Statistics
from resurgam.proof import scores, statistics
from resurgam.proof.claims import Claim, Equivalent, Passes, Ratio, Text
from resurgam.proof.compare import compare
from resurgam.proof.places import canonical, is_number, show_value
from resurgam.proof.power import Plan, plan_mean, plan_passes, plan_ratios, plan_text
from resurgam.proof.statistics import Tested

_T = TypeVar("_T")
Answers = Mapping[str, tuple[Json, ...]]  # case -> its answers, one per run

TAIL = 0.05  # the worst cases, which a mean hides
PERMUTATIONS = 5000
MAX_PAIRS, MAX_SAMPLES = 2000, 200  # of measurements; of texts per prompt and side. Tests compare each with each
MAX_DEALT = 6  # runs of one case that are dealt out to the sides in every way; there are rarely more than four
MAX_FLAKY = 0.05  # more cases whose own runs disagree, and passes and failures say too little
FEWEST_PROMPTS, FEWEST_TEXTS = 5, 40  # on each side, below which texts are not judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one probe. ``cases`` were judged, ``moved`` left out because the live system moved."""

    judgement: Judgement
    reason: str
    cases: int
    moved: int = 0
    flaky: tuple[str, ...] = ()
    deviations: tuple[Deviation, ...] = ()
    statistics: Statistics | None = None


def judge_together(claim: Claim, wanted: Answers, got: Answers, *, moving: bool, seed: int) -> Finding:
    """Judge the answers of a copy by those of a yardstick; both have the same cases, each at least one answer to each.

    ``moving``: where the yardstick's own runs part, the live system has moved, and the case is left out. Raises MissingExtra.
    """
    if all(len({canonical(a) for a in (*wanted[case], *got[case])}) == 1 for case in wanted):
        words = _many(len(wanted), "case")
        return Finding(judgement=Judgement.IDENTICAL, reason=f"{words}: {len(wanted)} identical", cases=len(wanted))
    ours, theirs = _reduced(claim, wanted), _reduced(claim, got)
    if isinstance(claim, Equivalent):
        return _judge_scores(claim, ours, theirs, moving=moving, seed=seed)
    if isinstance(claim, Passes):
        return _judge_passes(claim, ours, theirs, moving=moving)
    if isinstance(claim, Ratio):
        return _judge_ratios(claim, ours, theirs)
    assert isinstance(claim, Text)
    return _judge_texts(claim, ours, theirs, seed)


def own_scores(claim: Equivalent, answers: Answers) -> dict[str, float]:
    """How like each case's own runs are to each other: the A/A level. Each case has two answers at least."""
    return {
        case: fmean(scores.score(claim, a, b) for a, b in permutations(given, 2)) for case, given in answers.items()
    }


def passing(claim: Passes, given: Sequence[Json], wanted: Sequence[Json] | None = None) -> bool | None:
    """Whether a case passes; None where its own runs disagree, or where what should be true or false is neither. Where the
    claim has a tolerance, ``given`` passes within it of some answer of ``wanted`` (else of each other)."""
    if claim.when is None:
        return given[0] if isinstance(given[0], bool) and all(answer is given[0] for answer in given) else None
    if wanted is None:
        agree = all(compare(a, b, claim.when).judgement.passes for a, b in permutations(given, 2))
        return True if agree else None
    near = {any(compare(e, g, claim.when).judgement.passes for e in wanted) for g in given}
    return near.pop() if len(near) == 1 else None


def measured(answer: Json) -> list[float]:
    """The positive numbers of an answer: one, or a list. Empty where it is anything else."""
    values = answer if isinstance(answer, list) else [answer]
    return [float(v) for v in values] if all(is_number(v) and 0 < v < math.inf for v in values) else []


def texts(given: Iterable[Json]) -> list[str]:
    """All samples of a prompt, of all runs. Empty where an answer is neither a text nor a list of such."""
    samples = [text for answer in given for text in (answer if isinstance(answer, list) else [answer])]
    return samples if all(isinstance(text, str) for text in samples) else []


def _judge_scores(claim: Equivalent, wanted: Answers, got: Answers, *, moving: bool, seed: int) -> Finding:
    odd = sorted(case for case, given in wanted.items() if not all(scores.is_scorable(claim, a) for a in given))
    if odd:
        return _undecided(f"the yardstick's answers are nothing that {claim.score} can score: {_named(odd)}")
    own = own_scores(claim, wanted)
    flaky = tuple(sorted(case for case, level in own.items() if level < 1))
    moved = {case for case in flaky if moving and own[case] < claim.worst}
    cases = sorted(own.keys() - moved)
    if not cases:
        return _undecided(
            f"no case is left to judge; {len(moved)} moved with the live system during the cut", len(moved)
        )
    found = {case: fmean(scores.score(claim, e, g) for e, g in product(wanted[case], got[case])) for case in cases}
    tested = replace(
        statistics.bounded_mean([own[case] - found[case] for case in cases], claim.margin, claim.alpha),
        differs=statistics.permuted_loss(
            [_dealt(claim, wanted[case], got[case]) for case in cases], permutations=PERMUTATIONS, seed=seed
        ),
    )
    plan = plan_mean([1 - own[case] for case in cases], claim.margin, claim.alpha, claim.alarm)
    worst, own_worst = _tail(found.values()), _tail(own[case] for case in cases)
    decided = _decided(tested, claim)
    if worst < claim.worst and decided != "difference":
        decided = "floor" if own_worst >= claim.worst else "noise"
    name = claim.score if claim.score == "numeric" else f"{claim.score}@{claim.k}"
    floor = f"the worst {TAIL:.0%} score {worst:.3f}, {claim.worst:g} wanted"
    if decided == "noise":
        floor += f", and the yardstick's own score {own_worst:.3f}"
    reason = f"mean loss of {name} {_estimate(tested, claim)} over {_many(len(cases), 'case')}; {floor}"
    deviations = [
        _deviation(case, wanted, got, f"{name} {found[case]:.3f}, own noise {own[case]:.3f}", claim)
        for case in sorted(cases, key=lambda case: (found[case], case))
        if found[case] < min(1.0, own[case])
    ]
    return Finding(
        judgement=_JUDGEMENTS[decided],
        reason=reason + _wanting(decided, plan, len(cases), "cases") + _moved(len(moved)),
        cases=len(cases),
        moved=len(moved),
        flaky=tuple(case for case in flaky if case not in moved),
        deviations=tuple(deviations),
        statistics=_statistics(
            "mean of bounded losses, by betting", f"loss of {name}", len(cases), tested, claim, decided, plan,
            worst=worst, floor=claim.worst, seed=seed, figures={case: (found[case], own[case]) for case in cases},
        ),
    )  # fmt: skip


def _dealt(claim: Equivalent, wanted: Sequence[Json], got: Sequence[Json]) -> list[float]:
    """The loss of one case for all ways to deal its runs out to yardstick and copy, the way that was seen first."""
    wanted, got = wanted[: max(2, MAX_DEALT - len(got))], got[: MAX_DEALT - 2]
    runs = [*wanted, *got]
    alike = [[scores.score(claim, a, b) for b in runs] for a in runs]
    losses = []
    for ours in combinations(range(len(runs)), len(wanted)):  # the first is the way that was seen
        theirs = [run for run in range(len(runs)) if run not in ours]
        own = fmean(alike[a][b] for a, b in permutations(ours, 2))
        losses.append(own - fmean(alike[a][b] for a, b in product(ours, theirs)))
    return losses


def _judge_passes(claim: Passes, wanted: Answers, got: Answers, *, moving: bool) -> Finding:
    odd = sorted(case for case, given in wanted.items() if claim.when is None and _is_odd(given))
    if odd:
        return _undecided(f"the yardstick's answers are neither true nor false: {_named(odd)}")
    own = {case: passing(claim, given) for case, given in wanted.items()}
    copy = {case: passing(claim, got[case], wanted[case] if claim.when is not None else None) for case in own}
    # A copy that answers something that neither passes nor fails has failed; one that wavers decides nothing.
    copy = {case: False if claim.when is None and _is_odd(got[case]) else fate for case, fate in copy.items()}
    moved = {case for case, fate in own.items() if moving and fate is None}
    flaky = tuple(sorted(case for case in own if case not in moved and (own[case] is None or copy[case] is None)))
    cases = sorted(case for case in own if own[case] is not None and copy[case] is not None)
    if not cases:
        return _undecided("no case is left to judge" + _moved(len(moved)), len(moved), flaky)
    regressed = [case for case in cases if own[case] and not copy[case]]
    gained = [case for case in cases if copy[case] and not own[case]]
    tested = statistics.paired_passes(len(regressed), len(gained), len(cases), claim.margin, claim.alpha)
    flips = sum(own[case] is None for case in own if case not in moved) / (len(own) - len(moved))
    plan = plan_passes(len(cases), flips, claim.margin, claim.alpha, claim.alarm)
    decided = _decided(tested, claim)
    if len(flaky) > MAX_FLAKY * (len(cases) + len(flaky)) and decided != "difference":
        decided = "noise"
    counts = f"{len(regressed)} of {_many(len(cases), 'case')} regressed, {len(gained)} gained"
    return Finding(
        judgement=_JUDGEMENTS[decided],
        reason=f"{counts}: share {_estimate(tested, claim)}"
        + _wanting(decided, plan, len(cases), "cases")
        + _moved(len(moved)),
        cases=len(cases),
        moved=len(moved),
        flaky=flaky,
        deviations=tuple(_deviation(case, wanted, got, "passed before, fails now", claim) for case in regressed),
        statistics=_statistics(
            "exact binomial for the claim, exact McNemar for a difference", "share of cases that regressed",
            len(cases), tested, claim, decided, plan,
            figures={case: (float(bool(copy[case])), float(bool(own[case]))) for case in cases},
        ),
    )  # fmt: skip


def _judge_ratios(claim: Ratio, wanted: Answers, got: Answers) -> Finding:
    ours = {case: [v for answer in given for v in measured(answer)] for case, given in wanted.items()}
    theirs = {case: [v for answer in given for v in measured(answer)] for case, given in got.items()}
    odd = sorted(case for case in ours if not ours[case] or not theirs[case])
    if odd:
        return _undecided(f"not positive numbers: {_named(odd)}")
    logs = [math.log(new / old) for case in sorted(ours) for old, new in zip(ours[case], theirs[case], strict=False)]
    logs = _thinned(logs, MAX_PAIRS)
    tested = _ratios_tested(claim, logs)
    plan = plan_ratios(len(logs), own_logs(wanted), claim.margin, claim.alpha, claim.alarm)
    decided = _decided(tested, claim)
    figures = {case: (median(theirs[case]), median(ours[case])) for case in sorted(ours)}
    slowest = sorted(figures, key=lambda case: (-abs(math.log(figures[case][0] / figures[case][1])), case))
    reason = f"ratio less 1, {claim.worse} is worse: {_estimate(tested, claim)} over {_many(len(logs), 'pair')}"
    return Finding(
        judgement=_JUDGEMENTS[decided],
        reason=reason + _wanting(decided, plan, len(logs), "pairs"),
        cases=len(ours),
        deviations=tuple(
            _deviation(case, wanted, got, f"median {figures[case][0]:g}, yardstick {figures[case][1]:g}", claim)
            for case in slowest
            if not _JUDGEMENTS[decided].passes
        ),
        statistics=_statistics(
            "Wilcoxon signed ranks of log ratios", "ratio less 1", len(logs), tested, claim, decided, plan, figures=figures
        ),
    )  # fmt: skip


def _ratios_tested(claim: Ratio, logs: Sequence[float]) -> Tested:
    higher = statistics.ratios(logs, claim.margin, claim.alpha)
    if claim.worse == "higher":
        return higher
    lower = statistics.ratios([-log for log in logs], claim.margin, claim.alpha)
    if claim.worse == "lower":
        return lower
    farther = max(higher, lower, key=lambda tested: tested.estimate)
    within, differs = max(higher.within, lower.within), min(1.0, 2 * farther.differs)
    return Tested(farther.estimate, farther.interval, within, differs)  # two one-sided tests


def own_logs(answers: Answers) -> list[float]:
    """Logarithms of ratios among a case's own measurements: those of its first half over those of its second."""
    logs = []
    for given in answers.values():
        values = [v for answer in given for v in measured(answer)]
        half = len(values) // 2
        logs += [math.log(a / b) for a, b in zip(values[:half], values[half:], strict=False)]
    return logs


def _judge_texts(claim: Text, wanted: Answers, got: Answers, seed: int) -> Finding:
    pairs = {
        case: (_thinned(texts(wanted[case]), MAX_SAMPLES), _thinned(texts(got[case]), MAX_SAMPLES))
        for case in sorted(wanted)
    }
    usable = {case: pair for case, pair in pairs.items() if min(map(len, pair)) >= 2}
    fewest = min(sum(len(pair[side]) for pair in usable.values()) for side in (0, 1))
    if len(usable) < FEWEST_PROMPTS or fewest < FEWEST_TEXTS:
        have = f"{_many(len(usable), 'prompt')} with {_many(fewest, 'sample')} a side"
        return _undecided(f"too few texts: {have}; {FEWEST_PROMPTS} prompts and {FEWEST_TEXTS} samples are needed")
    tested = statistics.text_distance(
        usable, claim.margin, claim.alpha, characters=claim.characters, permutations=claim.permutations, seed=seed
    )
    apart, _ = own_distance(claim, wanted, seed)
    plan = plan_text(fewest, tested.error, apart, claim.margin, claim.alpha, claim.alarm)
    decided = _decided(tested, claim)
    odd = f"; {_many(len(pairs) - len(usable), 'prompt')} left out" if len(usable) < len(pairs) else ""
    words = f"distance of texts {_estimate(tested, claim)} over {_many(len(usable), 'prompt')}, {fewest} samples a side"
    farthest = sorted(usable, key=lambda case: (-tested.each[case], case))
    return Finding(
        judgement=_JUDGEMENTS[decided],
        reason=words + odd + _wanting(decided, plan, fewest, "samples a side"),
        cases=len(usable),
        deviations=tuple(
            _deviation(case, wanted, got, f"distance {tested.each[case]:.3f}", claim)
            for case in farthest
            if not _JUDGEMENTS[decided].passes
        ),
        statistics=_statistics(
            "squared maximum mean discrepancy, Hamming kernel", "squared distance of texts", fewest, tested, claim,
            decided, plan, seed=seed, figures={case: (tested.each[case], 0.0) for case in sorted(usable)},
        ),
    )  # fmt: skip


def own_distance(claim: Text, answers: Answers, seed: int) -> tuple[float, float]:
    """How far the first half of a yardstick's own texts lies from its second, and the standard error of that; 0 and 0
    where there are too few."""
    samples = {case: _thinned(texts(given), 2 * MAX_SAMPLES) for case, given in answers.items()}
    halves = {case: (s[: len(s) // 2], s[len(s) // 2 :]) for case, s in samples.items() if len(s) >= 4}
    if not halves:
        return 0.0, 0.0
    tested = statistics.text_distance(
        halves, claim.margin, claim.alpha, characters=claim.characters, permutations=claim.permutations, seed=seed
    )
    return max(0.0, tested.estimate), tested.error


_JUDGEMENTS = {
    "margin": Judgement.EQUIVALENT,
    "difference": Judgement.DIFFERENT,
    "floor": Judgement.DIFFERENT,
    "noise": Judgement.INCONCLUSIVE,
    "data": Judgement.INCONCLUSIVE,
}


def _decided(tested: Tested, claim: Claim) -> str:
    """Equivalence is claimed by its own test alone; a difference is told where it is beyond the margin and no noise."""
    if tested.within <= claim.alpha:
        return "margin"
    return "difference" if tested.differs <= claim.alarm and tested.estimate > claim.margin else "data"


def _statistics(
    test: str,
    measure: str,
    n: int,
    tested: Tested,
    claim: Claim,
    decided: str,
    plan: Plan,
    *,
    figures: dict[str, tuple[float, float]],
    worst: float | None = None,
    floor: float | None = None,
    seed: int | None = None,
) -> Statistics:
    return Statistics(
        test=test,
        measure=measure,
        n=n,
        estimate=tested.estimate,
        interval=tested.interval,
        margin=claim.margin,
        alpha=claim.alpha,
        p=tested.within,
        difference=tested.differs,
        decided=decided,
        power=plan.power,
        detects=plan.detects,
        needed=plan.needed,
        noise=plan.noise,
        worst=worst,
        floor=floor,
        seed=seed,
        scores=figures,
    )


def _reduced(claim: Claim, answers: Answers) -> dict[str, tuple[Json, ...]]:
    return {case: tuple(claim.value(answer) for answer in given) for case, given in answers.items()}


def _is_odd(given: Sequence[Json]) -> bool:
    return not any(isinstance(answer, bool) for answer in given)


def _thinned(values: list[_T], most: int) -> list[_T]:
    """At most so many of them, evenly spaced."""
    return values if len(values) <= most else [values[i * len(values) // most] for i in range(most)]


def _tail(values: Iterable[float]) -> float:
    """The mean of the worst 5 % of scores, of one at least."""
    ordered = sorted(values)
    return fmean(ordered[: math.ceil(TAIL * len(ordered))])


def _deviation(case: str, wanted: Answers, got: Answers, why: str, claim: Claim) -> Deviation:
    told = scores.told(claim, wanted[case][0], got[case][0]) if isinstance(claim, Equivalent) else ""
    return Deviation(case=case, expected=wanted[case][0], got=got[case][0], why=f"{why}; {told}" if told else why)


def _undecided(reason: str, moved: int = 0, flaky: tuple[str, ...] = ()) -> Finding:
    return Finding(judgement=Judgement.INCONCLUSIVE, reason=reason, cases=0, moved=moved, flaky=flaky)


def _estimate(tested: Tested, claim: Claim) -> str:
    return (
        f"{tested.estimate:.3f}, at most {tested.interval[1]:.3f} ({1 - claim.alpha:.0%} sure), margin {claim.margin:g}"
    )


def _wanting(decided: str, plan: Plan, n: int, what: str) -> str:
    """What would let an inconclusive claim be decided."""
    if decided == "noise":
        return "; too noisy to tell"
    if decided != "data":
        return ""
    if plan.needed is None:
        return "; its own noise is beyond the margin, so no number would do"
    if plan.needed > n:
        return f"; too few to tell: about {plan.needed - n} more {what} are needed"
    return "; too near to the margin to tell"


def _moved(count: int) -> str:
    return f"; {count} moved with the live system during the cut" if count else ""


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _named(cases: Sequence[str], most: int = 5) -> str:
    names = ", ".join(show_value(case) for case in cases[:most])
    return names + (f" and {len(cases) - most} more" if len(cases) > most else "")
