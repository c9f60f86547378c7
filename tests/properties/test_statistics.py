"""What holds for all losses, texts and p-values; and for all answers that are judged together."""

from __future__ import annotations

import math
import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from resurgam.model.system import Json
from resurgam.model.verdict import Judgement
from resurgam.proof.claims import SCORES, Claim, Equivalent, read_claim
from resurgam.proof.power import plan_mean, plan_passes
from resurgam.proof.scores import score
from resurgam.proof.statistics import bounded_mean, hamming_kernel, holm, paired_passes, scipy_stats
from resurgam.proof.together import judge_together

scipy_stats()  # loading it takes longer than any example may

losses = st.lists(st.floats(-1, 1), min_size=1, max_size=40)
margins = st.floats(0.01, 0.5)
chances = st.lists(st.floats(0, 1), min_size=1, max_size=12)
answers = (
    st.lists(st.integers(0, 12), max_size=6, unique=True) | st.floats(0.5, 2) | st.booleans() | st.text(max_size=4)
)
claims = st.sampled_from(
    [
        {"equivalent": {"score": "overlap", "k": 4, "margin": 0.1}},
        {"equivalent": {"score": "rbo", "k": 4, "margin": 0.1, "worst": 0}},
        {"equivalent": {"score": "recall", "k": 4, "margin": 0.5}},
        {"equivalent": {"score": "numeric", "margin": 0.1}},
        {"passes": {"margin": 0.1}},
        {"passes": {"margin": 0.1, "when": {"numeric": {"rel": 0.1}}}},
        {"ratio": {"margin": 0.2}},
        {"ratio": {"margin": 0.2, "worse": "either"}},
        {"text": {"margin": 0.1, "permutations": 100}},
    ]
)


def claim_of(tolerance: Json) -> Claim:
    claim = read_claim(tolerance)
    assert claim is not None
    return claim


@given(losses, margins, st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(values: list[float], margin: float, order: random.Random) -> None:
    mixed = values.copy()
    order.shuffle(mixed)
    assert bounded_mean(mixed, margin, 0.05) == bounded_mean(values, margin, 0.05)


@given(losses, margins, st.floats(0, 0.5), st.data())
def test_a_greater_loss_is_never_nearer_to_a_pass(
    values: list[float], margin: float, more: float, data: st.DataObject
) -> None:
    """P4."""
    worse = values.copy()
    at = data.draw(st.integers(0, len(values) - 1))
    worse[at] = min(1.0, worse[at] + more)
    before, after = bounded_mean(values, margin, 0.05), bounded_mean(worse, margin, 0.05)
    assert after.within >= before.within - 1e-12
    assert after.interval[1] >= before.interval[1] - 1e-9
    assert after.interval[0] >= before.interval[0] - 1e-9


@given(losses, margins)
def test_a_wider_margin_is_never_harder_to_meet(values: list[float], margin: float) -> None:
    assert bounded_mean(values, margin * 1.5, 0.05).within <= bounded_mean(values, margin, 0.05).within + 1e-12


@given(st.integers(1, 300), st.data())
@settings(max_examples=50)
def test_another_regression_is_never_nearer_to_a_pass(cases: int, data: st.DataObject) -> None:
    """P4: and what is gained elsewhere makes up for nothing in the claim."""
    lost = data.draw(st.integers(0, cases - 1))
    won = data.draw(st.integers(0, cases - lost))
    first, second = (paired_passes(count, won, cases, 0.1, 0.05) for count in (lost, lost + 1))
    assert second.within >= first.within
    assert second.differs <= first.differs + 1e-12
    assert paired_passes(lost, 0, cases, 0.1, 0.05).within == first.within


@given(chances)
def test_holm_only_raises_and_keeps_the_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(old <= new <= 1 for old, new in zip(values, adjusted, strict=True))
    ordered = [new for _, new in sorted(zip(values, adjusted, strict=True))]
    assert ordered == sorted(ordered)
    assert min(adjusted) == min(1.0, min(values) * len(values))


@given(st.lists(st.text(max_size=6), min_size=2, max_size=6))
def test_the_kernel_is_one_of_itself_and_symmetric(texts: list[str]) -> None:
    kernel = hamming_kernel(texts, 5)
    assert (kernel == kernel.T).all()
    assert (kernel.diagonal() == 1).all()
    assert ((kernel >= 0) & (kernel <= 1)).all()


@given(answers, answers, st.sampled_from(SCORES))
def test_a_score_lies_between_0_and_1_and_is_1_of_the_same(a: Json, b: Json, name: str) -> None:
    claim = claim_of({"equivalent": {"score": name, "margin": 0.1}})
    assert isinstance(claim, Equivalent)
    assert 0 <= score(claim, a, b) <= 1
    if isinstance(a, list) or name == "numeric":
        assert math.isclose(score(claim, a, a), 1)


@given(st.integers(1, 400), st.floats(0, 0.3), margins)
@settings(max_examples=50)
def test_what_is_foretold_grows_with_the_cases(cases: int, noise: float, margin: float) -> None:
    """More cases detect no less; and the needed number has the wanted power by the same figures."""
    plan, more = (plan_mean([noise] * count, margin, 0.05, 0.01) for count in (cases, 2 * cases))
    assert more.power >= plan.power - 0.05
    if plan.detects is not None and more.detects is not None:
        assert more.detects <= plan.detects + 1e-9
    if plan.needed is not None and plan.needed < 2000:
        assert plan_mean([noise] * plan.needed, margin, 0.05, 0.01).power >= 0.8
    exact = plan_passes(cases, noise, margin, 0.05, 0.01)
    assert 0 <= exact.power <= 1


@given(claims, st.lists(st.tuples(answers, answers, answers), min_size=1, max_size=12), st.booleans())
@example({"ratio": {"margin": 0.2}}, [([], [1], [1])], False)
@settings(max_examples=150)
def test_any_answers_are_judged(tolerance: Json, cases: list[tuple[Json, Json, Json]], moving: bool) -> None:
    """P4: nothing that a program may print breaks the judge, and nothing passes without its claim."""
    wanted = {f"q{i}": (a, b) for i, (a, b, _) in enumerate(cases)}
    got = {f"q{i}": (c,) for i, (_, _, c) in enumerate(cases)}
    found = judge_together(claim_of(tolerance), wanted, got, moving=moving, seed=1)
    assert found == judge_together(claim_of(tolerance), wanted, got, moving=moving, seed=1)
    if found.judgement is Judgement.EQUIVALENT:
        assert found.statistics is not None
        assert found.statistics.p <= found.statistics.alpha
    if found.judgement is Judgement.IDENTICAL:
        assert all(str(a) == str(b) == str(c) for a, b, c in cases)


@given(claims, st.lists(answers, min_size=1, max_size=30))
def test_what_is_the_same_everywhere_is_identical(tolerance: Json, given_: list[Json]) -> None:
    """Without any statistics."""
    wanted = {f"q{i}": (answer, answer) for i, answer in enumerate(given_)}
    found = judge_together(claim_of(tolerance), wanted, {c: a[:1] for c, a in wanted.items()}, moving=False, seed=1)
    assert (found.judgement, found.statistics) == (Judgement.IDENTICAL, None)
