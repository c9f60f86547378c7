"""The judge, rule by rule: each test fails without its rule."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from resurgam.errors import MissingExtra
from resurgam.model.codec import from_json, to_json
from resurgam.model.point import Observation, Witness
from resurgam.model.system import Component, Isolation, Json, Probe, System, VaultPlace
from resurgam.model.verdict import Baseline, IsolationReport, Judgement, Part, Verdict
from resurgam.proof import statistics
from resurgam.proof.foresight import EACH, foresee
from resurgam.proof.judge import MAX_DEVIATIONS, MAX_VALUE, Run, Yardsticks, explain, judge

IDENTICAL, EQUIVALENT, INCONCLUSIVE, DIFFERENT = Judgement
ISOLATED = IsolationReport(isolated=True)


def system(
    *probes: Probe, components: tuple[str, ...] = ("docs",), isolation: Isolation = Isolation.REQUIRED
) -> System:
    parts = tuple(Component(name=name, driver="files", location=f"/{name}") for name in components)
    return System(name="s", vault=VaultPlace(path="v", keys="k"), components=parts, probes=probes, isolation=isolation)


def probe(name: str = "golden", **changes: Any) -> Probe:
    return msgspec.structs.replace(Probe(name=name, kind="command", reads=("docs",), witness=True), **changes)


def saw(name: str = "golden", error: str | None = None, **answers: Json) -> Run:
    return (Observation(probe=name, answers=answers, error=error),)


def live(before: Run, after: Run | None = None) -> Yardsticks:
    return Yardsticks(witness=Witness(before=before, after=before if after is None else after))


def proven(*runs: Run) -> Baseline:
    return Baseline(point="p1", runs=runs)


def verdict(
    of: System, runs: tuple[Run, ...], by: Yardsticks, *, first: bool = True, isolation: IsolationReport = ISOLATED
) -> Verdict:
    return judge("p1", of, runs, by, isolation=isolation, first_proof=first, seconds=1.0)


def part(found: Verdict, yardstick: str) -> Part:
    (one,) = [part for part in found.parts if part.yardstick == yardstick]
    return one


def test_a_first_proof_that_agrees_with_live_is_identical() -> None:
    found = verdict(system(probe()), (saw(q1="a", q2="b"),) * 2, live(saw(q1="a", q2="b")))
    assert found.judgement is IDENTICAL
    assert [(p.name, p.yardstick, p.cases) for p in found.parts] == [("golden", "witness", 2)]
    assert found.parts[0].reason == "2 cases: 2 identical"
    assert (found.point, found.isolation, found.first_proof, found.seconds) == ("p1", "isolated", True, 1.0)


def test_the_whole_is_the_worst_of_its_parts() -> None:
    """P4."""
    two = system(probe("good"), probe("bad"))
    found = verdict(two, (saw("good", q="a") + saw("bad", q="x"),) * 2, live(saw("good", q="a") + saw("bad", q="b")))
    assert [p.judgement for p in found.parts] == [IDENTICAL, DIFFERENT]
    assert found.judgement is DIFFERENT


def test_different_from_live_at_the_first_proof_is_a_capture_fault() -> None:
    found = verdict(system(probe()), (saw(q7="wrong", q8="b"),) * 2, live(saw(q7="right", q8="b")))
    assert found.judgement is DIFFERENT
    assert found.parts[0].reason == "different from live, a capture fault: 2 cases: 1 different, 1 identical"
    (deviation,) = found.parts[0].deviations
    assert (deviation.case, deviation.expected, deviation.got) == ("q7", "right", "wrong")
    later = verdict(system(probe()), (saw(q="x"),), live(saw(q="a")), first=False)
    assert "capture fault" not in part(later, "witness").reason
    assert part(later, "witness").judgement is DIFFERENT


def test_within_the_tolerance_is_equivalent() -> None:
    near = probe(tolerance={"numeric": {"abs": 0.1}})
    found = verdict(system(near), (saw(q=1.05),) * 2, live(saw(q=1.0)))
    assert found.judgement is EQUIVALENT
    assert found.judgement.passes


def test_a_witness_counts_only_where_before_and_after_agree() -> None:
    by = live(saw(q1="a", q2="b", q3="c"), saw(q1="a", q2="changed", q4="d"))
    found = verdict(system(probe()), (saw(q1="a", q2="anything", q3="c"),) * 2, by)
    assert found.judgement is IDENTICAL
    assert found.parts[0].cases == 1
    assert "3 moved with the live system during the cut" in found.parts[0].reason


def test_a_witness_that_moved_everywhere_judges_nothing() -> None:
    found = verdict(system(probe()), (saw(q="a"),) * 2, live(saw(q="a"), saw(q="b")))
    assert found.judgement is INCONCLUSIVE
    assert found.parts[0].reason == "no case is left to judge; 1 moved with the live system during the cut"


def test_what_was_shredded_judges_as_if_it_had_never_been_and_is_named() -> None:
    """P4: nothing left is inconclusive by name; what is left judges; a difference stays one."""
    a, day = saw(q="a"), "2026-11-21"
    of = system(probe())
    nothing = verdict(of, (a,) * 2, Yardsticks(shredded={"witness": day, "baseline": day}))
    assert nothing.judgement is INCONCLUSIVE
    (only,) = nothing.parts
    assert only.reason == (
        f"no yardstick: the answers of the witness were shredded on {day}; the answers of the baseline were shredded on {day}"
    )
    left = Yardsticks(baseline=proven(a, a), shredded={"witness": day})
    found = verdict(of, (a,), left, first=False)
    assert (found.judgement, [p.yardstick for p in found.parts]) == (IDENTICAL, ["baseline"])
    assert f"the answers of the witness were shredded on {day}" in found.parts[0].reason
    assert verdict(of, (saw(q="x"),), left, first=False).judgement is DIFFERENT
    silent = verdict(system(probe(witness=False)), (a,), left, first=False)
    assert "shredded" not in silent.parts[0].reason, "this probe never had a witness"


def test_a_shredded_reference_is_no_pass() -> None:
    """P4: what the owner held to be right does not fall silent."""
    by = Yardsticks(witness=live(saw(q="a")).witness, shredded={"reference": "2026-11-21"})
    found = verdict(system(probe()), (saw(q="a"),) * 2, by)
    assert found.judgement is INCONCLUSIVE
    assert found.parts[-1].reason == "its answers were shredded on 2026-11-21: approve another one"


def test_what_moved_everywhere_is_judged_by_the_baseline_alone() -> None:
    """Else a system that is busy whenever it is captured could never be proven; the reason says what moved."""
    moving, a = live(saw(q="a"), saw(q="b")), saw(q="a")
    by = Yardsticks(witness=moving.witness, baseline=proven(a, a))
    found = verdict(system(probe()), (a,), by, first=False)
    assert (found.judgement, [p.yardstick for p in found.parts]) == (IDENTICAL, ["baseline"])
    assert "1 identical; the witness moved with the live system during the cut" in found.parts[0].reason
    assert verdict(system(probe()), (saw(q="x"),), by, first=False).judgement is DIFFERENT


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((), (), "the live system was asked 0 of 2 times"),
        (saw(q="a"), (), "the live system was asked 1 of 2 times"),
        (saw(error="down"), saw(error="down"), "the live system could not answer (down)"),
        (saw(q="a"), saw(error="down"), "the live system could not answer 1 of 2 times (down)"),
        (saw(), saw(), "no case"),
    ],
)
def test_a_witness_without_answers_decides_nothing(before: Run, after: Run, words: str) -> None:
    """P4: nothing compared is no pass."""
    found = verdict(system(probe()), (saw(q="a"),) * 2, live(before, after))
    assert found.judgement is INCONCLUSIVE
    assert words in found.parts[0].reason


def test_a_baseline_never_judges_the_restore_that_made_it() -> None:
    """P4: a first proof rests on witness and reference; a probe with neither has no yardstick."""
    by = Yardsticks(baseline=proven(saw(q="a"), saw(q="a")))
    found = verdict(system(probe(witness=False)), (saw(q="a"),) * 2, by)
    assert found.judgement is INCONCLUSIVE
    assert found.parts[0].reason.startswith("no yardstick")
    failed = verdict(system(probe(witness=False)), (saw(error="no such table"),) * 2, by)
    assert (
        "the copy could not answer (no such table)" in failed.parts[0].reason
    )  # P12: what is wrong, beside what is missing
    later = verdict(system(probe(witness=False)), (saw(q="a"),), by, first=False)
    assert later.judgement is IDENTICAL
    assert part(later, "baseline").cases == 1


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (None, "the baseline was asked 0 of 2 times"),
        (proven(saw(q="a")), "the baseline was asked 1 of 2 times"),
        (proven(saw(q="a"), ()), "the baseline was asked 1 of 2 times"),
        (proven(saw(q="a"), saw(error="crashed")), "the baseline could not answer 1 of 2 times"),
    ],
)
def test_no_baseline_means_no_pass(baseline: Baseline | None, words: str) -> None:
    """P4: also when the witness agrees."""
    by = Yardsticks(witness=Witness(before=saw(q="a"), after=saw(q="a")), baseline=baseline)
    found = verdict(system(probe()), (saw(q="a"),), by, first=False)
    assert found.judgement is INCONCLUSIVE
    assert part(found, "witness").judgement is IDENTICAL
    assert words in part(found, "baseline").reason


def test_a_later_restore_is_different_from_its_baseline() -> None:
    by = Yardsticks(baseline=proven(saw(q="a"), saw(q="a")))
    found = verdict(system(probe(witness=False)), (saw(q="b"),), by, first=False)
    assert found.judgement is DIFFERENT


def test_some_answer_of_the_yardstick_is_near_enough() -> None:
    """Two baseline runs within the tolerance of each other; an answer near one of them passes, the margin is spent once."""
    near = probe(witness=False, tolerance={"numeric": {"abs": 0.25}})
    by = Yardsticks(baseline=proven(saw(q=1.0), saw(q=1.25)))
    assert verdict(system(near), (saw(q=1.5),), by, first=False).judgement is EQUIVALENT
    assert verdict(system(near), (saw(q=1.75),), by, first=False).judgement is DIFFERENT


def test_every_run_of_the_copy_must_pass() -> None:
    near = probe(tolerance={"numeric": {"abs": 0.25}})
    assert verdict(system(near), (saw(q=1.25), saw(q=1.25)), live(saw(q=1.0))).judgement is EQUIVALENT
    for runs in ((saw(q=1.25), saw(q=1.5)), (saw(q=1.5), saw(q=1.25))):
        assert verdict(system(near), runs, live(saw(q=1.0))).judgement is DIFFERENT


def test_a_copy_that_disagrees_with_itself_is_noisy() -> None:
    for runs in ((saw(q="a", r="r"), saw(q="b", r="r")), (saw(q="a", r="r"), saw(r="r"))):
        found = verdict(system(probe()), runs, live(saw(q="a", r="r")))
        assert found.judgement is INCONCLUSIVE
        (deviation,) = found.parts[0].deviations
        assert deviation.case == "q"
        assert "noisy: the copy" in deviation.why


def test_a_baseline_that_disagrees_with_itself_is_noisy() -> None:
    by = Yardsticks(baseline=proven(saw(q="a"), saw(q="b")))
    found = verdict(system(probe(witness=False)), (saw(q="a"),), by, first=False)
    assert found.judgement is INCONCLUSIVE
    assert "noisy: the yardstick" in found.parts[0].deviations[0].why


def test_noise_hides_no_difference_elsewhere() -> None:
    found = verdict(system(probe()), (saw(q="a", r="x"), saw(q="b", r="x")), live(saw(q="a", r="r")))
    assert found.judgement is DIFFERENT


@pytest.mark.parametrize("runs", [(), (saw(q="a"),), (saw(q="a"), saw("other", q="a"))])
def test_a_first_proof_observes_at_least_twice(runs: tuple[Run, ...]) -> None:
    """Design 6: without A/A the noise is unknown."""
    found = verdict(system(probe()), runs, live(saw(q="a")))
    assert found.judgement is INCONCLUSIVE
    assert "the copy was asked" in found.parts[0].reason


def test_a_missing_and_a_new_case_are_differences() -> None:
    found = verdict(system(probe()), (saw(q1="a", new=None),) * 2, live(saw(q1="a", gone=None)))
    assert found.judgement is DIFFERENT
    assert {(d.case, d.why) for d in found.parts[0].deviations} == {
        ("gone", "the copy has no answer to it"),
        ("new", "an answer that the yardstick does not have"),
    }


def test_a_copy_that_cannot_answer_what_live_could_is_different() -> None:
    found = verdict(system(probe()), (saw(error="no such table"),) * 2, live(saw(q="a")))
    assert found.judgement is DIFFERENT
    assert "cannot be answered any more: the copy could not answer (no such table)" in found.parts[0].reason


def test_a_copy_that_answers_only_sometimes_decides_nothing() -> None:
    found = verdict(system(probe()), (saw(q="a"), saw(error="crashed")), live(saw(q="a")))
    assert found.judgement is INCONCLUSIVE
    assert "1 of 2 times (crashed)" in found.parts[0].reason


def test_a_copy_that_could_not_be_asked_is_not_accused() -> None:
    """P12: a sandbox that failed says nothing about the copy; it does not pass either (P4)."""
    unasked = (Observation(probe="golden", error="it could not be asked: no namespaces", asked=False),)
    found = verdict(system(probe()), (unasked, unasked), live(saw(q="a")))
    assert found.judgement is INCONCLUSIVE
    assert found.parts[0].reason == "the copy: it could not be asked: no namespaces"


def test_two_sides_that_cannot_answer_are_not_the_same_behaviour() -> None:
    found = verdict(system(probe()), (saw(error="down"),) * 2, live(saw(error="down")))
    assert found.judgement is INCONCLUSIVE


def test_the_reference_finds_what_was_wrong_before_the_capture() -> None:
    """Corruption that was there already agrees with the witness, and not with what the owner approved."""
    by = msgspec.structs.replace(live(saw(q="poisoned")), reference=proven(saw(q="right"), saw(q="right")))
    found = verdict(system(probe()), (saw(q="poisoned"),) * 2, by)
    assert part(found, "witness").judgement is IDENTICAL
    assert part(found, "reference").judgement is DIFFERENT
    assert found.judgement is DIFFERENT


def test_a_reference_is_yardstick_enough_and_only_for_what_it_holds() -> None:
    by = Yardsticks(reference=proven(saw(q="a"), saw(q="a")))
    assert verdict(system(probe(witness=False)), (saw(q="a"),) * 2, by).judgement is IDENTICAL
    both = saw(q="a") + saw("newer", q="a")
    by = msgspec.structs.replace(live(saw("newer", q="a")), reference=by.reference)
    found = verdict(system(probe(witness=False), probe("newer")), (both,) * 2, by)
    assert [(p.name, p.yardstick, p.judgement) for p in found.parts] == [
        ("golden", "reference", IDENTICAL),
        ("newer", "witness", IDENTICAL),
    ]


@pytest.mark.parametrize("yardstick", ["baseline", "reference"])
def test_a_probe_that_is_not_asked_any_more_is_inconclusive(yardstick: str) -> None:
    """P4: else a capture host that renames a probe ends its judgement, and absence becomes a pass."""
    by = msgspec.structs.replace(live(saw("golden2", q="wrong")), **{yardstick: proven(saw(q="a"), saw(q="a"))})
    found = verdict(system(probe("golden2")), (saw("golden2", q="wrong"),) * 2, by)
    assert found.judgement is INCONCLUSIVE
    assert (part(found, yardstick).name, part(found, yardstick).judgement) == ("golden", INCONCLUSIVE)
    assert "does not ask it any more" in part(found, yardstick).reason


@pytest.mark.parametrize(
    "change",
    [
        {"ask": ["easy"]},
        {"tolerance": {"regex": ".*"}},
        {"run": ("true",)},
        {"env": {"A": "b"}},
        {"reads": ("docs", "more")},
        {"kind": "sql"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_probe_that_asks_otherwise_than_the_reference_is_inconclusive(change: dict[str, Any]) -> None:
    """P4: probes and tolerances come with the point; neither an easier question nor a wider margin is a way to pass."""
    was = msgspec.structs.replace(proven(saw(q="a"), saw(q="a")), probes=(probe(ask=["hard"]),))
    now = probe(**({"ask": ["hard"]} | change))
    found = verdict(system(now, components=("docs",)), (saw(q="a"),) * 2, Yardsticks(reference=was))
    assert found.judgement is INCONCLUSIVE
    assert part(found, "reference").reason == f"the reference was asked otherwise: {next(iter(change))} differs"
    same = probe(ask=["hard"], witness=False, timeout=1.0)  # what changes no answer
    assert verdict(system(same), (saw(q="a"),) * 2, Yardsticks(reference=was)).judgement is IDENTICAL


def test_a_copy_that_is_not_what_was_restored_any_more_is_inconclusive() -> None:
    """P4: the verdict would stand on something else than what is promoted."""
    found = judge(
        "p1",
        system(probe()),
        (saw(q="a"),) * 2,
        live(saw(q="a")),
        isolation=ISOLATED,
        first_proof=True,
        seconds=1.0,
        changed={"docs": "its copy was changed"},
    )
    assert found.judgement is INCONCLUSIVE
    assert [(p.name, p.reason) for p in found.parts if not p.judgement.passes] == [("docs", "its copy was changed")]


def test_a_baseline_that_nothing_was_compared_with_says_so() -> None:
    """P4: it judges later restores, and no reader may take that for a comparison with the live system."""
    words = "this baseline itself was never compared with the live system or a reference"
    good = proven(saw(q="a"), saw(q="a"))
    alone = verdict(system(probe(witness=False)), (saw(q="a"),), Yardsticks(baseline=good), first=False)
    assert alone.judgement is IDENTICAL
    assert words in part(alone, "baseline").reason
    assert words in explain(alone)[1]
    by = msgspec.structs.replace(live(saw(q="a")), baseline=good)
    assert words not in part(verdict(system(probe()), (saw(q="a"),), by, first=False), "baseline").reason


def test_what_no_probe_reads_is_unprobed() -> None:
    """P4."""
    found = verdict(system(probe(), components=("docs", "router")), (saw(q="a"),) * 2, live(saw(q="a")))
    assert found.judgement is INCONCLUSIVE
    assert [(p.name, p.reason) for p in found.parts if not p.judgement.passes] == [
        ("router", "unprobed: no probe reads it")
    ]


def test_the_component_of_an_sql_probe_is_read() -> None:
    asked = probe(kind="sql", reads=(), component="docs")
    assert verdict(system(asked), (saw(q="a"),) * 2, live(saw(q="a"))).judgement is IDENTICAL


def test_what_was_not_isolated_is_inconclusive() -> None:
    """P4: and a difference stays a difference."""
    open_ = IsolationReport(isolated=False, reason="no user namespaces")
    found = verdict(system(probe()), (saw(q="a"),) * 2, live(saw(q="a")), isolation=open_)
    assert found.judgement is INCONCLUSIVE
    assert found.isolation == "not isolated: no user namespaces"
    assert [p.name for p in found.parts if not p.judgement.passes] == ["isolation"]
    assert verdict(system(probe()), (saw(q="b"),) * 2, live(saw(q="a")), isolation=open_).judgement is DIFFERENT


def test_missing_isolation_can_be_accepted_by_name_and_is_shown() -> None:
    """P4."""
    open_ = IsolationReport(isolated=False, reason="no user namespaces")
    accepting = system(probe(), isolation=Isolation.BEST_EFFORT)
    found = verdict(accepting, (saw(q="a"),) * 2, live(saw(q="a")), isolation=open_)
    assert found.judgement is IDENTICAL
    assert found.isolation == "not isolated: no user namespaces; the manifest accepts that (isolation: best-effort)"
    assert found.isolation in explain(found)[0]


def test_nothing_to_judge_is_inconclusive() -> None:
    """P4: an empty verdict is no pass."""
    assert verdict(system(components=()), (), Yardsticks()).judgement is INCONCLUSIVE


def test_deviations_are_counted_whole_and_kept_short() -> None:
    wanted, got = {f"q{n:03}": "a" * 1000 for n in range(50)}, {f"q{n:03}": "b" * 1000 for n in range(50)}
    found = verdict(system(probe()), (saw(**got),) * 2, live(saw(**wanted)))
    assert found.parts[0].cases == 50
    assert "50 different" in found.parts[0].reason
    assert [d.case for d in found.parts[0].deviations] == [f"q{n:03}" for n in range(MAX_DEVIATIONS)]
    assert all(len(d.expected) < MAX_VALUE + 50 for d in found.parts[0].deviations)


def test_a_verdict_is_explained_in_plain_lines_worst_first() -> None:
    two = system(probe("good"), probe("bad"))
    odd: dict[str, Any] = {"\x1b[2J": 0}  # what a damaged system says must not steer the terminal
    answers = saw("good", q="a") + saw("bad", query_7={"n": 2}, **odd)
    found = verdict(two, (answers,) * 2, live(saw("good", q="a") + saw("bad", query_7={"n": 1})))
    assert explain(found) == [
        "different: point p1, first proof, isolated, 1.0 s",
        "bad by witness: different: different from live, a capture fault: 2 cases: 2 different",
        "  \\x1b[2J: expected null, got 0 (an answer that the yardstick does not have)",
        '  query_7: expected {"n": 1}, got {"n": 2} (at $.n: expected 1, got 2)',
        "identical by witness: good (1 case)",
    ]


PASSES: Json = {"passes": {"margin": 0.05}}
OVERLAP: Json = {"equivalent": {"score": "overlap", "k": 10, "margin": 0.05, "worst": 0.5}}
RATIO: Json = {"ratio": {"margin": 0.2}}
TEXT: Json = {"text": {"margin": 0.1, "permutations": 200}}


def fates(cases: int, *fail: int) -> dict[str, Json]:
    return {f"q{number}": number not in fail for number in range(cases)}


def lists(cases: int, *changed: int, swapped: int = 1) -> dict[str, Json]:
    """Ten neighbours per query; of the changed ones so many are others."""
    return {
        f"q{n}": [*range(10 - swapped * (n in changed)), *range(50, 50 + swapped * (n in changed))]
        for n in range(cases)
    }


def together(
    tolerance: Json, copy: dict[str, Json], first: dict[str, Json], second: dict[str, Json] | None = None
) -> Part:
    """A later restore, judged by a baseline of two runs."""
    seen = [(Observation(probe="golden", answers=answers),) for answers in (first, second or first, copy)]
    by = Yardsticks(baseline=proven(*seen[:2]))
    return part(verdict(system(probe(witness=False, tolerance=tolerance)), (seen[2],), by, first=False), "baseline")


def decided(found: Part) -> str:
    assert found.statistics is not None
    return found.statistics.decided


@pytest.mark.parametrize("tolerance", [PASSES, OVERLAP, RATIO, TEXT])
def test_what_is_the_same_is_identical_without_statistics(tolerance: Json) -> None:
    """However few the cases are."""
    found = together(tolerance, {"q": [1, 2]}, {"q": [1, 2]})
    assert (found.judgement, found.statistics, found.cases) == (IDENTICAL, None, 1)


def test_a_loss_within_the_margin_is_equivalent_and_is_told() -> None:
    found = together(OVERLAP, lists(100, 1, 2), lists(100))
    assert (found.judgement, decided(found), found.cases) == (EQUIVALENT, "margin", 100)
    assert found.statistics is not None
    assert found.statistics.estimate == pytest.approx(0.002)
    assert found.statistics.interval[1] < found.statistics.margin
    assert found.statistics.scores["q1"] == (0.9, 1.0)
    assert [d.case for d in found.deviations] == ["q1", "q2"]
    assert "1 of 10 lost: 9; new: 50" in found.deviations[0].why


def test_too_few_cases_are_inconclusive_and_the_missing_ones_are_counted() -> None:
    """P4: that no difference was found in 20 cases is no proof of sameness."""
    found = together(OVERLAP, lists(20, 1), lists(20))
    assert (found.judgement, decided(found)) == (INCONCLUSIVE, "data")
    assert found.statistics is not None
    assert f"about {(found.statistics.needed or 0) - 20} more cases are needed" in found.reason
    enough = together(OVERLAP, lists(found.statistics.needed or 0), lists(found.statistics.needed or 0, 1))
    assert enough.judgement is EQUIVALENT


def test_a_loss_beyond_the_margin_is_different_with_few_cases_too() -> None:
    found = together(OVERLAP, lists(20, *range(20)), lists(20))
    assert (found.judgement, decided(found)) == (DIFFERENT, "difference")


def test_the_worst_cases_have_a_floor_that_a_mean_would_hide() -> None:
    """P4: 30 of 1000 queries find nothing that they found, which the mean allows."""
    assert together(OVERLAP, lists(300, 7), lists(300)).judgement is EQUIVALENT
    found = together(OVERLAP, lists(1000) | {f"q{n}": ["gone"] for n in range(30)}, lists(1000))
    assert found.statistics is not None
    assert found.statistics.p <= 0.05
    assert (found.judgement, decided(found)) == (DIFFERENT, "floor")
    assert "the worst 5% score" in found.reason


def test_noise_of_the_yardstick_is_no_loss_and_is_named() -> None:
    """A/A: where the baseline's own runs lie as far apart as the copy, nothing was lost; those cases are flaky."""
    found = together(OVERLAP, lists(200, *range(0, 200, 3)), lists(200, *range(1, 200, 3)), lists(200))
    assert (found.judgement, decided(found)) == (EQUIVALENT, "margin")
    assert len(found.flaky) == 67
    assert "q1" in found.flaky
    assert found.statistics is not None
    assert found.statistics.noise == pytest.approx(0.0335)


def test_a_yardstick_below_the_floor_itself_is_too_noisy() -> None:
    wild = lists(100, *range(10), swapped=9)
    usual: Json = {"equivalent": {"score": "overlap", "margin": 0.05}}
    found = together(usual, wild, lists(100), wild)
    assert (found.judgement, decided(found)) == (INCONCLUSIVE, "noise")


def test_flaky_cases_are_shown_with_what_to_hold_still() -> None:
    by = Yardsticks(baseline=proven(saw(q="a", r="b"), saw(q="x", r="b")))
    found = verdict(system(probe(witness=False)), (saw(q="a", r="c"),), by, first=False)
    assert part(found, "baseline").flaky == ("q",)
    assert "  flaky: q. Hold still what these answers vary with: seeds, threads, warm caches" in "\n".join(
        explain(found)
    )


@pytest.mark.parametrize(
    ("cases", "fail", "judgement", "words"),
    [
        (100, (3,), EQUIVALENT, "1 of 100 cases regressed"),
        (100, tuple(range(10)), DIFFERENT, "10 of 100 cases regressed"),
        (20, (3,), INCONCLUSIVE, "about 39 more cases are needed"),
    ],
)
def test_regressions_are_counted_and_named(cases: int, fail: tuple[int, ...], judgement: Judgement, words: str) -> None:
    found = together(PASSES, fates(cases, *fail), fates(cases))
    assert found.judgement is judgement
    assert words in found.reason
    assert {d.case for d in found.deviations} == {f"q{number}" for number in fail}


def test_what_fails_on_both_sides_is_no_regression_and_a_gain_makes_up_for_none() -> None:
    found = together(PASSES, fates(100, 1), fates(100, 1, 2, 3))
    assert (found.judgement, found.deviations) == (EQUIVALENT, ())
    assert "0 of 100 cases regressed, 2 gained" in found.reason
    assert together(PASSES, fates(100, *range(10)), fates(100, 50)).judgement is DIFFERENT


def test_passes_may_have_a_tolerance() -> None:
    near: Json = {"passes": {"margin": 0.05, "when": {"numeric": {"rel": 0.1}}}}
    numbers: dict[str, Json] = {f"q{n}": 1.0 for n in range(100)}
    assert together(near, dict.fromkeys(numbers, 1.05), numbers).judgement is EQUIVALENT
    found = together(near, numbers | {f"q{n}": 2.0 for n in range(9)}, numbers)
    assert (found.judgement, len(found.deviations)) == (DIFFERENT, 9)


def test_too_many_flaky_passes_decide_nothing_but_a_difference() -> None:
    """P4."""
    found = together(PASSES, fates(100), fates(100), fates(100, *range(10)))
    assert (found.judgement, decided(found), len(found.flaky)) == (INCONCLUSIVE, "noise", 10)
    found = together(PASSES, fates(100, *range(50, 70)), fates(100), fates(100, *range(10)))
    assert found.judgement is DIFFERENT


def test_answers_of_another_form_decide_nothing_in_the_yardstick_and_fail_in_the_copy() -> None:
    odd: dict[str, Json] = {f"q{n}": "yes" for n in range(100)}
    assert together(PASSES, fates(100), odd).judgement is INCONCLUSIVE
    assert together(PASSES, odd, fates(100)).judgement is DIFFERENT
    assert together(OVERLAP, lists(100), odd).judgement is INCONCLUSIVE
    assert together(OVERLAP, odd, lists(100)).judgement is DIFFERENT
    assert together(RATIO, odd, odd | {"q1": 1}).judgement is INCONCLUSIVE


def times(cases: int, factor: float) -> dict[str, Json]:
    return {f"q{n}": factor * (1 + 0.1 * ((n * 7) % 11 - 5) / 5) for n in range(cases)}


@pytest.mark.parametrize(
    ("factor", "cases", "judgement"), [(1.01, 30, EQUIVALENT), (1.5, 30, DIFFERENT), (1.01, 4, INCONCLUSIVE)]
)
def test_ratios(factor: float, cases: int, judgement: Judgement) -> None:
    found = together(RATIO, times(cases, factor), times(cases, 1.0), times(cases, 1.02))
    assert found.judgement is judgement
    faster = together({"ratio": {"margin": 0.2, "worse": "lower"}}, times(cases, 1 / factor), times(cases, 1.0))
    assert faster.judgement is judgement
    both = together({"ratio": {"margin": 0.2, "worse": "either"}}, times(cases, 1 / factor), times(cases, 1.0))
    assert both.judgement is judgement


def test_more_measurements_than_a_test_can_compare_are_thinned() -> None:
    """Every test compares each with each, so a program that prints a million must not take the judge down."""
    many: dict[str, Json] = {"q": [1 + 0.1 * (n % 7) for n in range(50_000)]}
    shifted: dict[str, Json] = {"q": [1 + 0.1 * (n % 5) for n in range(50_000)]}
    found = together(RATIO, shifted, many)
    assert found.statistics is not None
    assert found.statistics.n == 2000
    texts: dict[str, Json] = {f"q{n}": [f"{t * n % 7}" for t in range(2_000)] for n in range(5)}
    found = together(TEXT, {case: list(reversed(given)) for case, given in texts.items()}, texts)
    assert found.statistics is not None
    assert found.statistics.n == 5 * 200


def said(prompts: int, texts: int, *words: str) -> dict[str, Json]:
    return {f"q{n}": [f"{words[(n + t) % len(words)]} {t}" for t in range(texts)] for n in range(prompts)}


def test_texts() -> None:
    """Wording that varies as it did before is equivalent, other wording different, too little of it inconclusive."""
    before, again, after = (
        said(8, 12, "one", "two"),
        said(8, 12, "two", "one"),
        said(8, 12, "one", "two", "one", "two "),
    )
    assert together(TEXT, after, before, again).judgement is EQUIVALENT
    assert together(TEXT, said(8, 12, "something else entirely"), before, again).judgement is DIFFERENT
    for few in (said(4, 30, "one", "two"), said(8, 3, "one", "two")):
        found = together(TEXT, {case: list(reversed(texts)) for case, texts in few.items()}, few)
        assert (found.judgement, found.statistics) == (INCONCLUSIVE, None)
        assert "too few texts" in found.reason


def test_permutations_have_the_seed_of_the_point() -> None:
    """Recorded, so that whoever holds the answers can repeat the test."""
    first, second = (together(OVERLAP, lists(50, *range(9)), lists(50)) for _ in range(2))
    assert first == second
    assert first.statistics is not None
    assert first.statistics.seed is not None


@pytest.mark.parametrize("tolerance", [PASSES, OVERLAP])
def test_a_case_that_only_one_side_has_is_a_difference(tolerance: Json) -> None:
    whole = fates(200) if tolerance is PASSES else lists(200)
    less = {case: answer for case, answer in whole.items() if case != "q7"}
    for copy, before in ((less, whole), (whole, less)):
        found = together(tolerance, copy, before)
        assert (found.judgement, [d.case for d in found.deviations]) == (DIFFERENT, ["q7"])


def test_a_case_answered_only_sometimes_decides_nothing() -> None:
    """P4."""
    less = {case: answer for case, answer in fates(200).items() if case != "q7"}
    found = together(PASSES, fates(200), fates(200), less)
    assert (found.judgement, found.reason) == (INCONCLUSIVE, "answered only in some runs: q7")


def test_cases_that_moved_with_the_live_system_are_left_out() -> None:
    before, after = ((Observation(probe="golden", answers=fates(100, *fail)),) for fail in ((), range(30)))
    by = live(before, after)
    found = verdict(system(probe(tolerance=PASSES)), (saw(**fates(100)),) * 2, by)
    assert (found.parts[0].judgement, found.parts[0].cases) == (EQUIVALENT, 70)
    assert "30 moved with the live system during the cut" in found.parts[0].reason
    broken = verdict(system(probe(tolerance=PASSES)), (saw(**fates(100, *range(60, 80))),) * 2, by)
    assert broken.parts[0].reason.startswith("different from live, a capture fault: 20 of 70 cases regressed")


def family(regressed: int, probes: int) -> Verdict:
    """One probe with so many regressions of 60 cases, and others that lost a case each."""
    names = [f"p{number}" for number in range(probes)]
    asked = system(*(probe(name, witness=False, tolerance=PASSES) for name in names))
    before = tuple(Observation(probe=name, answers=fates(60)) for name in names)
    copy = tuple(Observation(probe=name, answers=fates(60, *range(regressed if name == "p0" else 1))) for name in names)
    return verdict(asked, (copy,), Yardsticks(baseline=proven(before, before)), first=False)


def test_differences_are_held_against_each_other() -> None:
    """Holm: 7 regressions have p = 2^-7 and stand alone; among 20 tests they do not, and among 20 tests 13 do. P4: what does
    not stand is told, and passes in no case."""
    assert family(7, 1).parts[0].judgement is DIFFERENT
    found = family(7, 20).parts[0]
    assert found.judgement is INCONCLUSIVE
    assert found.statistics is not None
    assert (found.statistics.family, found.statistics.adjusted) == (20, 20 / 2**7)
    assert "a difference (p = 0.00781) does not stand among 20 tests" in found.reason
    assert family(13, 20).judgement is DIFFERENT


def test_without_scipy_a_part_is_inconclusive_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """P4, P12: it stops no other probe."""
    missing = MissingExtra(
        "A statistical tolerance needs scipy, which is not installed.", next_step="Run: pip install."
    )

    def lacking() -> None:
        raise missing

    monkeypatch.setattr(statistics, "scipy_stats", lacking)
    found = together(PASSES, fates(100, 1), fates(100))
    assert (found.judgement, found.reason) == (INCONCLUSIVE, f"{missing.message} {missing.next_step}")


def test_verdicts_with_and_without_statistics_are_read_back() -> None:
    """Documents of earlier releases have no statistics."""
    found = family(7, 2)
    assert from_json(to_json(found), Verdict, what="verdict") == found
    old = b'{"name":"p","yardstick":"witness","judgement":1,"reason":"r","cases":2,"deviations":[]}'
    assert from_json(old, Part, what="part") == Part(
        name="p", yardstick="witness", judgement=IDENTICAL, reason="r", cases=2
    )


def test_what_probes_can_tell_is_known_before() -> None:
    """The same figures as in the verdict; without two observations there are none."""
    asked = system(
        *(probe(name, tolerance=t) for name, t in (("a", OVERLAP), ("b", PASSES), ("c", "exact"), ("d", RATIO)))
    )
    runs = [
        (
            Observation(probe="a", answers=lists(100)),
            Observation(probe="b", answers=fates(100)),
            Observation(probe="c", answers=fates(10)),
        )
    ] * 2
    a, b, c, d = foresee(asked, Yardsticks(baseline=proven(*runs)))
    assert (a.tolerance, a.n, a.power, a.needed, a.yardstick) == ("equivalent", 100, 1.0, 72, "baseline")
    assert (b.n, b.needed) == (100, 59)
    assert (c.tolerance, c.n, c.power) == (EACH, 10, None)
    assert c.detects == pytest.approx(0.149, abs=0.001)
    assert (d.n, d.detects) == (0, None)
    assert "not observed twice yet" in d.why
    judged = together(OVERLAP, lists(100, 1), lists(100)).statistics
    assert judged is not None
    assert (judged.power, judged.needed, judged.detects) == (a.power, a.needed, a.detects)
