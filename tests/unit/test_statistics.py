"""The tests that judge all cases together: simulated at the margin, and beside scipy where it has the same one. All seeds fixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from resurgam.proof.power import POWER, Plan, plan_each, plan_mean, plan_passes, plan_ratios, plan_text
from resurgam.proof.statistics import (
    Floats,
    bounded_mean,
    hamming_kernel,
    holm,
    paired_passes,
    permuted_loss,
    ratios,
    scipy_stats,
    text_distance,
)

ALPHA, ALARM = 0.05, 0.01
RUNS = 600  # of a simulation
Draw = Callable[[np.random.Generator], npt.NDArray[np.floating[Any]]]
stats = scipy_stats()


def share(hits: Callable[[np.random.Generator], bool], runs: int = RUNS, seed: int = 1) -> float:
    """How often it happens, each time with its own seed."""
    return sum(hits(np.random.default_rng([seed, run])) for run in range(runs)) / runs


def most(level: float, runs: int = RUNS) -> float:
    """The largest share that a true chance of ``level`` explains: three standard errors above it."""
    return level + 3 * math.sqrt(level * (1 - level) / runs)


MARGIN = 0.05
AT_THE_MARGIN: dict[str, Draw] = {
    "every case a little": lambda chance: chance.normal(MARGIN, 0.02, 120).clip(-1, 1),
    "every case, much noise": lambda chance: chance.normal(MARGIN, 0.2, 120),
    "a rare total loss": lambda chance: (chance.random(120) < MARGIN).astype(float),
    "a rare total loss, few cases": lambda chance: (chance.random(30) < MARGIN).astype(float),
    "half lost in a tenth": lambda chance: 0.5 * (chance.random(120) < 2 * MARGIN),
    "losses and gains": lambda chance: chance.choice([1.0, -1.0, 0.0], p=[0.15, 0.10, 0.75], size=120),
}


@pytest.mark.parametrize("kind", AT_THE_MARGIN)
def test_a_copy_worse_by_the_margin_passes_with_chance_alpha_at_most(kind: str) -> None:
    """P4: whatever the losses look like; a t-test passes rare total losses far more often (see the next test)."""
    draw = AT_THE_MARGIN[kind]
    assert share(lambda chance: bounded_mean(draw(chance), MARGIN, ALPHA).within <= ALPHA) <= most(ALPHA)


def test_a_t_test_would_pass_what_is_worse_by_the_margin() -> None:
    """Why the mean is tested by betting: 30 cases of which 5 % are lost altogether."""

    def passes(chance: np.random.Generator) -> bool:
        losses = AT_THE_MARGIN["a rare total loss, few cases"](chance)
        return bool(losses.std() == 0 or stats.ttest_1samp(losses, MARGIN, alternative="less").pvalue <= ALPHA)

    assert share(passes, 500) > 0.2


def test_the_interval_holds_the_mean() -> None:
    """Each end with 1 - alpha."""
    draw = AT_THE_MARGIN["losses and gains"]
    ends = [bounded_mean(draw(np.random.default_rng([2, run])), MARGIN, ALPHA).interval for run in range(300)]
    assert sum(high < MARGIN for _, high in ends) / 300 <= most(ALPHA, 300)
    assert sum(low > MARGIN for low, _ in ends) / 300 <= most(ALPHA, 300)
    assert all(low <= high for low, high in ends)


def test_the_interval_and_the_claim_say_the_same() -> None:
    for run in range(100):
        tested = bounded_mean(np.random.default_rng(run).normal(0.02, 0.05, 100).clip(-1, 1), MARGIN, ALPHA)
        assert (tested.within <= ALPHA) == (tested.interval[1] <= MARGIN + 1e-9)


def test_without_a_loss_the_figure_is_known() -> None:
    """The full bet alone makes (1 - margin)^-n of half the stake; the smaller bets add a little."""
    for cases, margin in ((10, 0.05), (72, 0.05), (400, 0.01)):
        p = bounded_mean([0.0] * cases, margin, ALPHA).within
        assert p <= min(1.0, 2 * (1 - margin) ** cases)
        assert p >= (1 - margin) ** cases


@pytest.mark.parametrize(("noise", "cases"), [(0.0, 80), (0.05, 100), (0.1, 150), (0.3, 500)])
def test_the_mean_has_the_power_that_is_foretold(noise: float, cases: int) -> None:
    plan = plan_mean([noise] * cases, MARGIN, ALPHA, ALARM)

    def passes(chance: np.random.Generator) -> bool:
        losses = noise * chance.choice([-1.0, 1.0], size=cases)
        return bounded_mean(losses, MARGIN, ALPHA).within <= ALPHA

    assert share(passes, 300) == pytest.approx(plan.power, abs=0.1)
    assert (plan.power >= POWER) == (plan.needed is not None and plan.needed <= cases)


def test_a_loss_is_told_from_noise_by_the_runs_of_each_case() -> None:
    """Exact: of three runs, which one is the odd one out is chance, so m cases in which it is the copy have p = 3^-m."""
    odd_copy = [1.0, -0.5, -0.5]  # the copy, the one and the other run of the yardstick played by the odd one
    same = [0.0, 0.0, 0.0]
    for changed in (1, 2, 3, 5):
        p = permuted_loss([odd_copy] * changed + [same] * 50, permutations=20_000, seed=3)
        assert p == pytest.approx(3.0**-changed, rel=0.25)
    assert permuted_loss([same] * 5, permutations=100, seed=3) == 1.0


def test_what_is_the_same_is_called_a_loss_with_its_chance_at_most() -> None:
    def alarms(chance: np.random.Generator) -> bool:
        odd = chance.integers(3, size=40)  # which run of each case is the odd one
        dealt = [[1.0, -0.5, -0.5] if who == 0 else [-0.5, 1.0, -0.5] for who in odd]
        return permuted_loss(dealt, permutations=500, seed=int(chance.integers(1 << 30))) <= ALARM

    assert share(alarms, 500) <= most(ALARM, 500)


@pytest.mark.parametrize(
    ("regressions", "gains", "cases"), [(0, 0, 20), (1, 0, 60), (5, 1, 80), (3, 9, 400), (20, 0, 20)]
)
def test_passes_are_judged_by_exact_tests(regressions: int, gains: int, cases: int) -> None:
    """Written out by the binomial law."""
    tested = paired_passes(regressions, gains, cases, 0.05, ALPHA)
    law = [math.comb(cases, k) * 0.05**k * 0.95 ** (cases - k) for k in range(cases + 1)]
    turned = regressions + gains
    even = [math.comb(turned, k) / 2**turned for k in range(turned + 1)]
    assert tested.within == pytest.approx(sum(law[: regressions + 1]))
    assert tested.differs == pytest.approx(sum(even[regressions:]))
    assert tested.interval[0] <= tested.estimate <= tested.interval[1]
    assert (tested.within <= ALPHA) == (tested.interval[1] <= 0.05)


def test_regressions_at_the_margin_pass_with_chance_alpha_at_most() -> None:
    """P4. And McNemar alarms at noise, which turns as many cases the one way as the other, with its chance at most."""
    for cases in (40, 150, 400):
        drawn = [np.random.default_rng([4, run]).binomial(cases, 0.05, 2) for run in range(RUNS)]
        tested = [paired_passes(int(lost), int(won), cases, 0.05, ALPHA) for lost, won in drawn[:RUNS]]
        assert sum(each.within <= ALPHA for each in tested) / RUNS <= most(ALPHA)
        assert sum(each.differs <= ALARM for each in tested) / RUNS <= most(ALARM)


@pytest.mark.parametrize(("flips", "cases"), [(0.0, 58), (0.0, 60), (0.02, 100), (0.02, 200), (0.06, 500)])
def test_passes_have_the_power_that_is_foretold(flips: float, cases: int) -> None:
    plan = plan_passes(cases, flips, 0.05, ALPHA, ALARM)
    lost = [int(np.random.default_rng([5, run]).binomial(cases, flips / 2)) for run in range(300)]
    passed = sum(paired_passes(each, 0, cases, 0.05, ALPHA).within <= ALPHA for each in lost) / 300
    assert passed == pytest.approx(plan.power, abs=0.06)


def test_the_cases_that_are_foretold_suffice_and_fewer_do_not() -> None:
    assert plan_passes(10, 0.0, 0.05, ALPHA, ALARM).needed == 59  # 0.95^59 is the first below 0.05
    assert plan_passes(10, 0.2, 0.05, ALPHA, ALARM).needed is None  # noise turns a tenth of all cases
    needed = plan_mean([0.0] * 10, 0.05, ALPHA, ALARM).needed
    assert needed is not None
    assert bounded_mean([0.0] * needed, 0.05, ALPHA).within <= ALPHA
    assert bounded_mean([0.0] * (needed - 3), 0.05, ALPHA).within > ALPHA


def test_what_is_detected_is_detected_so_often() -> None:
    """The shift that `detects` names is beyond the margin and no noise with a chance of 0.8."""
    cases, noise = 100, 0.1
    detects = plan_mean([noise] * cases, MARGIN, ALPHA, ALARM).detects
    assert detects is not None

    def found(chance: np.random.Generator) -> bool:
        losses = detects + noise * chance.choice([-1.0, 1.0], size=cases)
        dealt = [[loss, -loss / 2, -loss / 2] for loss in losses]
        return losses.mean() > MARGIN and permuted_loss(dealt, permutations=500, seed=1) <= ALARM

    assert share(found, 200) == pytest.approx(POWER, abs=0.08)


@pytest.mark.parametrize("law", ["normal", "heavy", "skewed"])
@pytest.mark.parametrize("pairs", [8, 40])
def test_ratios_at_the_margin_pass_with_chance_alpha_at_most(law: str, pairs: int) -> None:
    """P4: measurements of any law, since the difference of two of one law lies evenly about their shift."""

    def measure(chance: np.random.Generator) -> Floats:
        if law == "normal":
            return chance.normal(0, 0.3, pairs)
        return chance.standard_t(2, pairs) * 0.3 if law == "heavy" else chance.exponential(0.4, pairs)

    def passes(chance: np.random.Generator) -> bool:
        logs = math.log(1.2) + measure(chance) - measure(chance)
        return ratios(logs, 0.2, ALPHA).within <= ALPHA

    def alarms(chance: np.random.Generator) -> bool:
        return ratios(measure(chance) - measure(chance), 0.2, ALPHA).differs <= ALARM

    assert share(passes, 300) <= most(ALPHA, 300)
    assert share(alarms, 300) <= most(ALARM, 300)


def test_ratios_are_those_of_scipy_and_of_hodges_and_lehmann() -> None:
    logs = np.random.default_rng(6).normal(0.1, 0.2, 25)
    tested = ratios(logs, 0.3, ALPHA)
    assert tested.within == pytest.approx(stats.wilcoxon(logs - math.log(1.3), alternative="less").pvalue)
    walsh = [(a + b) / 2 for i, a in enumerate(logs) for b in logs[i:]]
    assert tested.estimate == pytest.approx(math.exp(np.median(walsh)) - 1)
    assert tested.interval[0] < tested.estimate < tested.interval[1]


@pytest.mark.parametrize("pairs", [10, 20, 60])
def test_ratios_have_the_power_that_is_foretold(pairs: int) -> None:
    own = list(np.random.default_rng(7).normal(0, 0.3, 4000))
    plan = plan_ratios(pairs, own, 0.2, ALPHA, ALARM)
    passed = share(lambda chance: ratios(chance.normal(0, 0.3, pairs), 0.2, ALPHA).within <= ALPHA, 300)
    assert passed == pytest.approx(plan.power, abs=0.09)


LETTERS = "abcdefgh"


def sampled(chance: np.random.Generator, texts: int, other: float) -> list[str]:
    """Texts of eight letters; with the chance ``other`` one is of another law."""
    laws = chance.random(texts) < other
    return ["".join(chance.choice(list(LETTERS[4:] if law else LETTERS[:4]), size=8)) for law in laws]


def text_tested(chance: np.random.Generator, other: float, margin: float, *, prompts: int = 5, texts: int = 12) -> Plan:
    """Within and differs as a pair of flags, in place of power and detects."""
    pairs = {f"q{i}": (sampled(chance, texts, 0.0), sampled(chance, texts, other)) for i in range(prompts)}
    seed = int(chance.integers(1 << 30))
    tested = text_distance(pairs, margin, ALPHA, characters=100, permutations=200, seed=seed)
    return Plan(float(tested.within <= ALPHA), float(tested.differs <= ALPHA), None, tested.estimate)


def test_texts_at_the_margin_pass_with_chance_alpha_at_most_and_the_same_alarms_no_oftener() -> None:
    """The true squared distance: texts of the two laws agree nowhere, of one law at a quarter of the places."""
    margin = 0.5 * 0.5**2  # (1/4 + 1/4) x other^2
    at_margin = [text_tested(np.random.default_rng([8, run]), 0.5, margin) for run in range(200)]
    assert np.mean([each.noise for each in at_margin]) == pytest.approx(margin, abs=0.01)
    assert np.mean([each.power for each in at_margin]) <= most(ALPHA, 200)
    same = [text_tested(np.random.default_rng([9, run]), 0.0, margin) for run in range(200)]
    assert np.mean([each.detects for each in same if each.detects is not None]) <= most(ALPHA, 200)
    assert np.mean([each.power for each in same]) > 0.95
    assert np.mean([each.noise for each in same]) == pytest.approx(0, abs=0.01)  # unbiased


def test_another_law_of_texts_is_found() -> None:
    found = [text_tested(np.random.default_rng([10, run]), 0.6, 0.02).detects for run in range(50)]
    assert np.mean([each for each in found if each is not None]) > 0.9


def test_texts_are_permuted_within_their_prompt_only() -> None:
    """Prompts that differ from each other are no difference between the sides."""
    pairs = {f"q{letter}": ([letter * 9] * 9, [letter * 9] * 9) for letter in LETTERS}
    tested = text_distance(pairs, 0.02, ALPHA, characters=100, permutations=200, seed=1)
    assert (tested.estimate, tested.within, tested.differs) == (0.0, 0.0, 1.0)


def test_the_kernel_is_the_share_of_equal_places() -> None:
    kernel = hamming_kernel(["abcd", "abxx", "ab"], 4)
    assert kernel.tolist() == [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]
    assert hamming_kernel(["abX", "abY"], 2).tolist() == [[1, 1], [1, 1]]
    assert hamming_kernel(["", ""], 100).tolist() == [[1, 1], [1, 1]]


def test_texts_have_the_power_that_is_foretold() -> None:
    """By the spread of their estimates, at two sizes."""
    for texts in (12, 24):
        runs = [text_tested(np.random.default_rng([11, run]), 0.0, 0.05, texts=texts) for run in range(200)]
        error = float(np.std([each.noise for each in runs]))
        plan = plan_text(5 * texts, error * math.sqrt(2), 0.0, 0.05, ALPHA, ALARM)  # both parts of the error
        assert np.mean([each.power for each in runs]) == pytest.approx(plan.power, abs=0.15)


def test_holm_is_written_out() -> None:
    """The textbook's: 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


def test_one_of_so_many_questions_meets_a_change_of_so_many() -> None:
    assert 1 - (1 - plan_each(50)) ** 50 == pytest.approx(POWER)
    assert plan_each(1) == pytest.approx(POWER)
