"""The tests behind the tolerances that judge all cases of a probe together. Numbers in, numbers out.

*Equivalence is claimed only by a test of equivalence*: each test here has as its null hypothesis that the copy is worse by
the stated margin or more, and "the same within the margin" is what its rejection says. A second p-value, of the opposite
question, is of *no difference at all*: it lets noise be told from a difference. Too little data rejects neither.

* :func:`bounded_mean`: the mean of losses within [-1, 1], by betting against the null hypothesis (Waudby-Smith and Ramdas,
  "Estimating means of bounded random variables by betting", 2024). It holds at every number of cases and for every
  distribution. A t-test does not: a rare total loss that the cases happened to miss has no variance, and passes.
* :func:`permuted_loss`: whether that loss is more than noise, by permuting the runs of each case between the sides.
* :func:`paired_passes`: exact McNemar for a regression; an exact binomial test that fewer than a margin of the cases regress.
* :func:`ratios`: Wilcoxon's signed ranks on logarithms of ratios; the estimate is that of Hodges and Lehmann.
* :func:`text_distance`: maximum mean discrepancy with the Hamming kernel (Gretton et al. 2012; Gao et al., "Model Equality
  Testing", 2024), permuted within each prompt; its claim of equivalence is by the normal law of U-statistics at the margin.
* :func:`holm`: Holm's step-down adjustment (1979).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from resurgam.errors import MissingExtra

Floats = npt.NDArray[np.float64]

# Shares of the largest bet that cannot ruin, each with its part of the stake: small bets are for noisy losses.
BETS = ((1.0, 1 / 2), (1 / 2, 1 / 4), (1 / 4, 1 / 8), (1 / 8, 1 / 16), (1 / 16, 1 / 32), (1 / 32, 1 / 32))
_STEPS = 40  # of a bisection: far below what is shown


@dataclass(frozen=True, slots=True)
class Tested:
    """``within`` is the p-value of the claim that the copy is the same within the margin, ``differs`` that of a difference.
    ``interval`` is of confidence 1 - 2 alpha, so each end holds with 1 - alpha."""

    estimate: float
    interval: tuple[float, float]
    within: float
    differs: float = 1.0


def bounded_mean(losses: npt.ArrayLike, margin: float, alpha: float) -> Tested:
    """Test the mean of ``losses`` within [-1, 1] against ``margin``.

    The order of the losses is of no account. No loss at all in n cases gives p of about 2 (1 - margin)^n.
    """
    values = np.sort(np.asarray(losses, dtype=np.float64))
    below, above = partial(_log_evidence_below, values), partial(_log_evidence_above, values)
    enough = -np.log(alpha)
    return Tested(
        estimate=float(values.mean()),
        interval=(
            _crossing(lambda bound: above(bound) < enough, -1.0, 1.0),
            _crossing(lambda bound: below(bound) >= enough, -1.0, 1.0),
        ),
        within=float(np.exp(-max(below(margin), 0.0))),
    )


def largest_bet(bound: float) -> float:
    """The largest bet on a mean below ``bound`` that no single loss within [-1, 1] can turn into a debt."""
    return 1 / (1 - bound)


def _log_evidence_below(losses: Floats, bound: float) -> float:
    """The logarithm of what betting on a mean below ``bound`` has made of a stake of 1."""
    return _log_wealth(bound - losses, largest_bet(bound)) if bound < 1 else np.inf


def _log_evidence_above(losses: Floats, bound: float) -> float:
    return _log_wealth(losses - bound, largest_bet(-bound)) if bound > -1 else np.inf


def _log_wealth(gains: Floats, most: float) -> float:
    """A mixture of constant bets is a fair game under the null hypothesis, so it exceeds 1/alpha with chance alpha at most."""
    with np.errstate(divide="ignore"):  # a bet may lose its whole stake: log 0
        logs = [np.log(stake) + float(np.log1p(np.maximum(share * most * gains, -1)).sum()) for share, stake in BETS]
    return float(np.logaddexp.reduce(logs))


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least number from which ``holds``, which is false below and true above it."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def permuted_loss(cases: Sequence[Sequence[float]], *, permutations: int, seed: int) -> float:
    """The p-value of a mean loss as large as the one seen, if the copy's runs were of one kind with the yardstick's.

    ``cases`` has for each case the losses of all ways to deal its runs out to the two sides, the one that was seen first.
    """
    chance = np.random.default_rng(seed)
    dealt = np.zeros(permutations)
    for losses in cases:
        dealt += np.asarray(losses)[chance.integers(len(losses), size=permutations)]
    seen = sum(losses[0] for losses in cases)
    return float((1 + np.sum(dealt >= seen - 1e-9)) / (permutations + 1))


def paired_passes(regressions: int, gains: int, cases: int, margin: float, alpha: float) -> Tested:
    """Of ``cases`` asked on both sides, ``regressions`` pass on the yardstick only and ``gains`` on the copy only.

    The claim is of the share of regressions alone: what is gained elsewhere makes up for nothing. The difference is
    McNemar's, one-sided: noise turns cases both ways, a regression one way. Raises MissingExtra without scipy.
    """
    stats = scipy_stats()
    found = stats.binomtest(regressions, cases, margin, alternative="less")
    interval = stats.binomtest(regressions, cases).proportion_ci(1 - 2 * alpha, method="exact")
    turned = regressions + gains
    differs = stats.binomtest(regressions, turned, 0.5, alternative="greater").pvalue if turned else 1.0
    return Tested(
        estimate=regressions / cases,
        interval=(float(interval.low), float(interval.high)),
        within=float(found.pvalue),
        differs=float(differs),
    )


def ratios(logs: npt.ArrayLike, margin: float, alpha: float) -> Tested:
    """Test that a ratio, whose logarithms in pairs are ``logs``, is less than 1 + ``margin``. Estimates are ratios less 1.

    The difference of two independent measurements of one kind lies evenly about the shift between them, so signed ranks
    are exact whatever the noise. Raises MissingExtra without scipy.
    """
    stats = scipy_stats()
    values = np.sort(np.asarray(logs, dtype=np.float64))
    bound = np.log1p(margin)
    below = above = 1.0  # what one pair says is chance, and scipy refuses it where it is a tie
    if values.size > 1:
        below = stats.wilcoxon(values - bound, alternative="less", zero_method="zsplit").pvalue
        above = stats.wilcoxon(values, alternative="greater", zero_method="zsplit").pvalue
    rows, columns = np.triu_indices(values.size)
    walsh = np.sort((values[rows] + values[columns]) / 2)
    spread = NormalDist().inv_cdf(1 - alpha) * np.sqrt(values.size * (values.size + 1) * (2 * values.size + 1) / 24)
    first = max(0, int(np.floor(walsh.size / 2 - spread)))
    return Tested(
        estimate=float(np.expm1(np.median(walsh))),
        interval=(float(np.expm1(walsh[first])), float(np.expm1(walsh[walsh.size - 1 - first]))),
        within=float(below),
        differs=float(above),
    )


@dataclass(frozen=True, slots=True)
class TextTested(Tested):
    """Besides: ``error`` is the standard error of the estimate, ``each`` the estimate of each prompt."""

    error: float = 0.0
    each: Mapping[str, float] = field(default_factory=dict)


def text_distance(
    pairs: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    margin: float,
    alpha: float,
    *,
    characters: int,
    permutations: int,
    seed: int,
) -> TextTested:
    """How far the texts of yardstick and copy lie apart: the mean over prompts of the unbiased squared discrepancy.

    Each prompt needs two texts on each side. ``differs`` is by permutation of the texts within their prompt, ``within`` by
    the normal law at the margin, whose standard error joins that of the projections with that of the permutations.
    """
    total, variance, permuted = 0.0, 0.0, np.zeros(permutations)
    each: dict[str, float] = {}
    for number, (prompt, (ours, theirs)) in enumerate(sorted(pairs.items())):
        kernel = hamming_kernel([*sorted(ours), *sorted(theirs)], characters)
        labels = np.zeros((permutations + 1, len(ours) + len(theirs)))
        labels[0, : len(ours)] = 1
        chance = np.random.default_rng([seed, number])
        labels[1:] = chance.permuted(np.tile(labels[0], (permutations, 1)), axis=1)
        found = _discrepancies(kernel, labels)
        each[prompt] = float(found[0])
        total += found[0]
        permuted += found[1:]
        variance += _projected_variance(kernel, len(ours))
    estimate, permuted = total / len(pairs), permuted / len(pairs)
    error = float(np.sqrt(variance / len(pairs) ** 2 + permuted.var()))
    reach = NormalDist().inv_cdf(1 - alpha) * error
    return TextTested(
        estimate=float(estimate),
        interval=(float(estimate - reach), float(estimate + reach)),
        within=_normal_below(estimate - margin, error),
        differs=float((1 + np.sum(permuted >= estimate - 1e-12)) / (permutations + 1)),
        error=error,
        each=each,
    )


def hamming_kernel(texts: Sequence[str], characters: int) -> Floats:
    """The share of places at which two texts have the same character, among the first ``characters`` that any of them has."""
    heads = [text[:characters] for text in texts]
    width = max(1, *(len(head) for head in heads))
    codes = np.array([[ord(letter) for letter in head] + [0] * (width - len(head)) for head in heads])
    same = np.zeros((len(heads), len(heads)))
    for column in codes.T:
        same += column[:, None] == column[None, :]
    return same / width


def _discrepancies(kernel: Floats, labels: Floats) -> Floats:
    """The unbiased squared discrepancy for each row of labels, 1 for the one side and 0 for the other."""
    first, others = labels.sum(axis=1), (1 - labels).sum(axis=1)
    diagonal = np.diag(kernel)
    to_first = labels @ kernel
    to_others = (1 - labels) @ kernel
    within = ((to_first * labels).sum(axis=1) - labels @ diagonal) / (first * (first - 1))
    without = ((to_others * (1 - labels)).sum(axis=1) - (1 - labels) @ diagonal) / (others * (others - 1))
    result: Floats = within + without - 2 * (to_first * (1 - labels)).sum(axis=1) / (first * others)
    return result


def _projected_variance(kernel: Floats, count: int) -> float:
    """The variance of one prompt's estimate by its first-order projections, one per text (Serfling 1980, chapter 5)."""
    ours, theirs, across = kernel[:count, :count], kernel[count:, count:], kernel[:count, count:]

    def projected(own: Floats, other: Floats) -> float:
        size = len(own)
        values = 2 * ((own.sum(axis=1) - np.diag(own)) / (size - 1) - other.mean(axis=1))
        return float(values.var(ddof=1)) / size

    return projected(ours, across) + projected(theirs, across.T)


def _normal_below(distance: float, error: float) -> float:
    """The chance of an estimate that far below the margin, or farther, where the truth is at the margin."""
    if error == 0:
        return 0.0 if distance < 0 else 1.0
    return NormalDist().cdf(distance / error)


def holm(p_values: Sequence[float]) -> list[float]:
    """The adjusted p-values, in the order given: each compares with alpha, and together they err with chance alpha at most."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def scipy_stats() -> Any:
    """scipy's tests, loaded when they are first needed. Raises MissingExtra."""
    if importlib.util.find_spec("scipy") is None:
        raise MissingExtra(
            "A statistical tolerance needs scipy, which is not installed.",
            untouched="Nothing was judged by it.",
            next_step="Run: python -m pip install 'resurgam[proof]'.",
        )
    return importlib.import_module("scipy.stats")
