"""What each probe of a system can tell, from the answers that were already seen. Values in, figures out.

The noise is that of the yardstick's own runs: of the baseline where there is one, else of the witness. A probe that was
never observed has no figures, and says why.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from resurgam.errors import MissingExtra
from resurgam.model.point import Observation
from resurgam.model.system import Json, Probe, System
from resurgam.proof import together
from resurgam.proof.claims import Claim, Equivalent, Passes, Ratio, Text, read_claim
from resurgam.proof.judge import Yardsticks
from resurgam.proof.power import Plan, plan_each, plan_mean, plan_passes, plan_ratios, plan_text

EACH = "each case"  # the tolerance of a probe that makes no claim over all cases


class Foresight(msgspec.Struct, frozen=True, kw_only=True):
    """What one probe can tell. ``n`` is of what its test counts (``unit``); ``power`` the chance that a copy that is the same is
    shown to be, ``detects`` the smallest shift that is called different with a chance of 0.8, ``needed`` the ``n`` with
    which ``power`` is 0.8, ``noise`` what the yardstick's own runs differ by. ``why`` says why figures are missing."""

    probe: str
    tolerance: str
    yardstick: str = ""
    unit: str = "cases"
    n: int = 0
    margin: float | None = None
    noise: float | None = None
    power: float | None = None
    detects: float | None = None
    needed: int | None = None
    why: str = ""


def foresee(system: System, yardsticks: Yardsticks) -> list[Foresight]:
    """One entry per probe of the system. Raises ManifestError where a tolerance is malformed."""
    return [_of_probe(probe, yardsticks) for probe in system.probes]


def _of_probe(probe: Probe, yardsticks: Yardsticks) -> Foresight:
    claim = read_claim(probe.tolerance)
    word = EACH if claim is None else type(claim).__name__.lower()
    yardstick, answers = _observed(probe, yardsticks)
    if not answers:
        why = "not observed twice yet: `resurgam verify` makes a baseline"
        return Foresight(probe=probe.name, tolerance=word, margin=claim.margin if claim else None, why=why)
    if claim is None:
        n = len(answers)
        return Foresight(probe=probe.name, tolerance=word, yardstick=yardstick, n=n, detects=plan_each(n))
    reduced = {case: tuple(claim.value(answer) for answer in given) for case, given in answers.items()}
    try:
        planned, why = _planned(claim, reduced), ""
    except MissingExtra as missing:
        planned, why = None, f"{missing.message} {missing.next_step}"
    if planned is None:
        why = why or "its answers are nothing that this tolerance can judge"
        return Foresight(probe=probe.name, tolerance=word, yardstick=yardstick, margin=claim.margin, why=why)
    unit, n, plan = planned
    return Foresight(
        probe=probe.name,
        tolerance=word,
        yardstick=yardstick,
        unit=unit,
        n=n,
        margin=claim.margin,
        noise=plan.noise,
        power=plan.power,
        detects=plan.detects,
        needed=plan.needed,
        why="" if plan.needed else "its own noise is beyond the margin: hold it still, or state a larger margin",
    )


def _planned(claim: Claim, answers: dict[str, tuple[Json, ...]]) -> tuple[str, int, Plan] | None:
    """Unit, count and plan; None where the answers are of another form."""
    rest = (claim.margin, claim.alpha, claim.alarm)
    if isinstance(claim, Equivalent):
        losses = [1 - level for level in together.own_scores(claim, answers).values()]
        return "cases", len(losses), plan_mean(losses, *rest)
    if isinstance(claim, Passes):
        fates = [together.passing(claim, given) for given in answers.values()]
        steady = len(fates) - fates.count(None)
        return ("cases", steady, plan_passes(steady, 1 - steady / len(fates), *rest)) if steady else None
    if isinstance(claim, Ratio):
        # A later restore is asked once, so it brings as many measurements as one run of the yardstick did.
        pairs = sum(min(len(together.measured(answer)) for answer in given) for given in answers.values())
        return ("pairs", pairs, plan_ratios(pairs, together.own_logs(answers), *rest)) if pairs else None
    assert isinstance(claim, Text)
    samples = [min(len(together.texts([answer])) for answer in given) for given in answers.values()]
    distance, error = together.own_distance(claim, answers, seed=0)
    count = sum(samples)
    usable = len(samples) >= together.FEWEST_PROMPTS and count >= together.FEWEST_TEXTS
    return ("samples a side", count, plan_text(count, error, distance, *rest)) if usable else None


def _observed(probe: Probe, yardsticks: Yardsticks) -> tuple[str, dict[str, tuple[Json, ...]]]:
    """The yardstick that has answers of two runs, and those of the cases that every run answered."""
    witness = yardsticks.witness
    for word, runs in (
        ("baseline", yardsticks.baseline.runs if yardsticks.baseline else ()),
        ("witness", (witness.before, witness.after) if probe.witness else ()),
    ):
        seen = [observation for run in runs for observation in run if observation.probe == probe.name]
        if len(seen) >= 2 and (answers := _answers(seen)):
            return word, answers
    return "", {}


def _answers(seen: Sequence[Observation]) -> dict[str, tuple[Json, ...]]:
    cases = set.intersection(*(set(observation.answers) for observation in seen))
    return {case: tuple(observation.answers[case] for observation in seen) for case in sorted(cases)}
