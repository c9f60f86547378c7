"""What a set of cases can tell, known before anything is restored. Noise in, figures out.

For each tolerance over all cases: the chance that a copy that is truly the same is *shown* to be (``power``), the smallest
shift that is found to be a difference with a chance of 0.8 (``detects``), and the cases that would be needed for that chance
at the stated margin (``needed``; None where the noise alone exceeds the margin). That a copy worse by the margin itself
passes has chance alpha at most, whatever the number of cases.

The figures rest on the noise of the yardstick's own runs, and on a shift that is the same for every case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count as counting
from statistics import NormalDist
from typing import Any

import numpy as np

from resurgam.proof.statistics import BETS, Floats, largest_bet, scipy_stats

POWER = 0.8  # what is wanted, by the custom of the field (Cohen 1988)
MOST_CASES = 1_000_000  # more is no advice
_REACH = NormalDist().inv_cdf(POWER)


@dataclass(frozen=True, slots=True)
class Plan:
    """``noise`` is the loss, share or spread among the yardstick's own runs, in the unit of the margin."""

    power: float
    detects: float | None
    needed: int | None
    noise: float


def plan_mean(own_losses: Sequence[float], margin: float, alpha: float, alarm: float) -> Plan:
    """For :func:`statistics.bounded_mean`. ``own_losses``: how far each case's own runs lie apart.

    Another run of the same system is expected to be better by that or worse by that, as often as not.
    """
    sizes = np.asarray(own_losses, dtype=np.float64)
    noise = np.concatenate([sizes, -sizes])

    def power(count: int) -> float:
        return _chance(margin - noise, largest_bet(margin), count, alpha)

    fewest = math.ceil(math.log(1 / alarm, 3))  # of three runs the odd one is the copy each time: chance 3^-n
    detects = _detected(margin, float(noise.std()) / math.sqrt(len(sizes)), alarm) if len(sizes) >= fewest else None
    return Plan(power(len(sizes)), detects, _least(power), float(sizes.mean()))


def _detected(margin: float, error: float, alarm: float) -> float:
    """The shift whose estimate is beyond the margin, and is told from noise at the level ``alarm``, with a chance of 0.8."""
    return max(margin + _REACH * error, (NormalDist().inv_cdf(1 - alarm) + _REACH) * error)


def _chance(gains: Floats, most: float, count: int, alpha: float) -> float:
    """The chance that ``count`` gains drawn from these turn a stake of 1 into 1/alpha, by the normal law of the logarithm."""
    best = 0.0
    for share, stake in BETS:
        factors = 1 + share * most * gains
        if factors.min() <= 1e-12:
            continue
        growth = np.log(factors)
        lead, spread = count * growth.mean() - math.log(1 / (alpha * stake)), math.sqrt(count) * growth.std()
        best = max(best, float(lead >= 0) if spread < 1e-12 else NormalDist().cdf(lead / spread))
    return best


def _least(power: Callable[[int], float]) -> int | None:
    """The least count with the wanted power, which grows with the count; None where no sensible count has it."""
    high = 1
    while power(high) < POWER:
        high *= 2
        if high > MOST_CASES:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def plan_passes(cases: int, flips: float, margin: float, alpha: float, alarm: float) -> Plan:
    """For :func:`statistics.paired_passes`. ``flips`` is the share of cases whose own runs disagree: half of those turn
    into regressions, half into gains. Raises MissingExtra without scipy."""
    binom = scipy_stats().binom
    noise = flips / 2

    def power(count: int) -> float:
        allowed = _most_regressions(binom, count, margin, alpha)
        return float(binom.cdf(allowed, count, noise)) if allowed >= 0 else 0.0

    gains = round(cases * noise)
    decisive = next(b for b in counting(gains + 1) if binom.sf(b - 1, b + gains, 0.5) <= alarm)
    decisive = max(decisive, math.ceil(margin * cases))
    detects = None
    if decisive <= cases:
        low, detects = 0.0, 1.0
        while detects - low > 1e-4:
            middle = (low + detects) / 2
            found = binom.sf(decisive - 1, cases, min(1.0, middle + noise)) >= POWER
            low, detects = (low, middle) if found else (middle, detects)
    return Plan(power(cases), detects, _least(power) if noise < margin else None, flips)


def _most_regressions(binom: Any, count: int, margin: float, alpha: float) -> int:
    """The most regressions among ``count`` cases with which the claim is still made; -1 where not even none suffices."""
    most = int(binom.ppf(alpha, count, margin))
    while most >= 0 and binom.cdf(most, count, margin) > alpha:
        most -= 1
    return most


def plan_ratios(count: int, own_logs: Sequence[float], margin: float, alpha: float, alarm: float) -> Plan:
    """For :func:`statistics.ratios`. ``own_logs``: logarithms of ratios in pairs among the yardstick's own measurements.

    By the law of the t-test; signed ranks need pi/3 of its pairs where noise is normal, and fewer where it is heavier.
    Raises MissingExtra without scipy.
    """
    spread = float(np.std(np.asarray(own_logs), ddof=1)) if len(own_logs) > 1 else 0.0
    bound, sure = math.log1p(margin), float(scipy_stats().t.ppf(1 - alpha, max(1, count - 1)))
    fewest, telling = (math.ceil(math.log2(1 / chance)) for chance in (alpha, alarm))  # n equal signs: chance 2^-n
    error = spread / math.sqrt(max(1, count) * 3 / math.pi)
    enough = count >= fewest
    power = float(enough) if error == 0 else NormalDist().cdf(bound / error - sure) * enough
    detects = math.expm1(_detected(bound, error, alarm)) if count >= telling else None
    needed = max(fewest, math.ceil(((sure + _REACH) * spread / bound) ** 2 * math.pi / 3))
    return Plan(power, detects, needed if needed <= MOST_CASES else None, math.expm1(spread))


def plan_text(count: int, error: float, distance: float, margin: float, alpha: float, alarm: float) -> Plan:
    """For :func:`statistics.text_distance`. ``error`` is its standard error at ``count`` texts a side where both sides are
    the same; it shrinks as the count grows. ``distance`` is the estimate between the yardstick's own runs."""
    sure = NormalDist().inv_cdf(1 - alpha)
    if error == 0:
        return Plan(1.0, margin, count, distance)
    needed = math.ceil(count * (sure + _REACH) * error / margin)
    power = NormalDist().cdf(margin / error - sure)
    return Plan(power, _detected(margin, error, alarm), needed if needed <= MOST_CASES else None, distance)


def plan_each(cases: int) -> float:
    """Of tolerances that judge each case: the smallest share of answers whose change is met by one of ``cases`` with a
    chance of 0.8, where the cases were drawn as the questions come."""
    return float(1 - (1 - POWER) ** (1 / cases))
