"""The judge, rule by rule: each test fails without its rule."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from resurgam.model.point import Observation, Witness
from resurgam.model.system import Component, Isolation, Json, Probe, System, VaultPlace
from resurgam.model.verdict import Baseline, IsolationReport, Judgement, Part, Verdict
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
