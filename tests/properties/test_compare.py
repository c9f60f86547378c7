"""What holds for all answers and all verdicts."""

from __future__ import annotations

import contextlib
import json
import random
import re

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from resurgam.errors import ManifestError
from resurgam.model.point import Observation, Witness
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.model.verdict import Baseline, IsolationReport, Judgement, Verdict, worst
from resurgam.probes.answers import read_answers
from resurgam.proof.compare import compare
from resurgam.proof.judge import Yardsticks, judge
from resurgam.proof.patterns import safe_pattern

integers = st.integers(-(2**63), 2**64 - 1)
scalars = st.none() | st.booleans() | integers | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
)
margins = st.floats(0, 1e6)
leaves = st.one_of(
    st.just("exact"),
    st.builds(lambda a, r: {"numeric": {"abs": a, "rel": r}}, margins, margins),
    st.builds(lambda a, b: {"range": sorted((a, b))}, integers, integers),
    st.just({"regex": "[a-z]*"}),
    st.builds(lambda k, s: {"overlap": {"k": k, "at_least": s}}, st.integers(1, 5), st.floats(0.01, 1)),
)
tolerances = leaves | st.builds(lambda inner: {"jsonpath": {"$[*]": inner, "$.a": inner}}, leaves)
symmetric = tolerances.filter(lambda tolerance: not re.search("range|regex", json.dumps(tolerance)))


@given(values, tolerances)
def test_an_answer_is_identical_to_itself(value: Json, tolerance: Json) -> None:
    assert compare(value, json.loads(json.dumps(value)), tolerance).judgement is Judgement.IDENTICAL


@given(values, values, tolerances)
def test_identical_means_equal_text_whatever_the_tolerance(a: Json, b: Json, tolerance: Json) -> None:
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (compare(a, b, tolerance).judgement is Judgement.IDENTICAL) == same


@given(values, values, symmetric)
def test_the_order_of_the_two_does_not_matter(a: Json, b: Json, tolerance: Json) -> None:
    assert compare(a, b, tolerance).judgement is compare(b, a, tolerance).judgement


@given(values, values)
def test_exact_knows_only_the_same_and_the_different_and_says_where(a: Json, b: Json) -> None:
    match = compare(a, b, "exact")
    assert match.judgement in (Judgement.IDENTICAL, Judgement.DIFFERENT)
    assert match.why != "not the same"


@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_what_a_program_prints_is_read_back_the_same(answers: dict[str, Json]) -> None:
    text = json.dumps(answers)
    assume("NaN" not in text and "Infinity" not in text)  # the words for what JSON has no numbers for: see test_command
    assert json.dumps(read_answers(json.dumps({"answers": answers}).encode())) == text


@given(st.text("ab()|*+?{},1[]^\\.:P<>=!#x", max_size=14))
def test_any_pattern_is_taken_or_refused(pattern: str) -> None:
    """P12: nothing but a ManifestError comes of a pattern."""
    with contextlib.suppress(ManifestError, FutureWarning):
        assert safe_pattern(pattern).longest >= 0


World = tuple[System, list[tuple[Observation, ...]], Yardsticks, bool]

tolerance_of = st.sampled_from(["exact", {"numeric": {"abs": 0.25}}, {"range": [0, 1]}])
answers_of = st.dictionaries(st.sampled_from("qrs"), st.sampled_from(["a", 1, 1.0, 1.25, 1.5, None]), min_size=1)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """One to three probes, the runs of a copy, yardsticks, and whether it is a first proof. Most of it agrees, so that
    passing verdicts are common enough to be worth a property."""
    names = ["p1", "p2", "p3"][: draw(st.integers(1, 3))]
    held = ["c1", "c2"][: draw(st.sampled_from([1, 1, 1, 2]))]
    components = tuple(Component(name=name, driver="files", location=f"/{name}") for name in held)
    probes = tuple(
        Probe(name=name, kind="command", reads=("c1",), witness=draw(st.booleans()), tolerance=draw(tolerance_of))
        for name in names
    )
    usual = {name: draw(answers_of) for name in names}

    def run() -> tuple[Observation, ...]:
        fates = [(name, draw(st.integers(0, 19))) for name in names]
        return tuple(
            Observation(probe=name, error="down")
            if fate == 7
            else Observation(probe=name, answers=draw(answers_of) if fate == 13 else usual[name])
            for name, fate in fates
        )

    yardsticks = Yardsticks(
        witness=Witness(before=run(), after=run()),
        baseline=draw(st.sampled_from([None, Baseline(point="p", runs=(run(), run()))])),
        reference=draw(st.sampled_from([None, Baseline(point="r", runs=(run(), run()))])),
    )
    system = System(name="s", vault=VaultPlace(path="v", keys="k"), components=components, probes=probes)
    return system, [run() for _ in range(draw(st.sampled_from([0, 1, 2, 2, 3])))], yardsticks, draw(st.booleans())


def judged(
    system: System, runs: list[tuple[Observation, ...]], yardsticks: Yardsticks, first: bool, isolated: bool = True
) -> Verdict:
    report = IsolationReport(isolated=isolated)
    return judge("p", system, runs, yardsticks, isolation=report, first_proof=first, seconds=0)


def lacking(yardstick: Baseline | None, probe: str) -> Baseline | None:
    """The same, as if it had never heard of ``probe``."""
    if yardstick is None:
        return None
    runs = tuple(tuple(o for o in run if o.probe != probe) for run in yardstick.runs)
    return msgspec.structs.replace(yardstick, runs=runs)


@given(worlds())
def test_adding_to_what_is_judged_never_improves_the_verdict(
    world: World,
) -> None:
    """P4: one more probe, one more component, one more yardstick, a missing isolation: never better than before."""
    system, runs, yardsticks, first = world
    whole = judged(system, runs, yardsticks, first).judgement
    assert whole is worst(judged(system, runs, yardsticks, first).parts)
    fewer = msgspec.structs.replace(system, probes=system.probes[:-1])
    if fewer.probes:
        known = Yardsticks(
            witness=yardsticks.witness,
            baseline=lacking(yardsticks.baseline, system.probes[-1].name),
            reference=lacking(yardsticks.reference, system.probes[-1].name),
        )
        assert judged(fewer, runs, known, first).judgement <= whole
        if known != yardsticks:  # one that held the probe: dropping it is no way to pass
            assert judged(fewer, runs, yardsticks, first).judgement >= Judgement.INCONCLUSIVE
    more = msgspec.structs.replace(
        system, components=(*system.components, Component(name="z", driver="files", location="/z"))
    )
    assert judged(more, runs, yardsticks, first).judgement >= max(whole, Judgement.INCONCLUSIVE)
    assert judged(system, runs, yardsticks, first, isolated=False).judgement >= max(whole, Judgement.INCONCLUSIVE)


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_runs_probes_and_cases_does_not_matter(world: World, shuffle: random.Random) -> None:
    system, runs, yardsticks, first = world
    other_runs = [tuple(shuffle.sample(run, len(run))) for run in shuffle.sample(runs, len(runs))]
    other_probes = tuple(shuffle.sample(system.probes, len(system.probes)))
    other = judged(msgspec.structs.replace(system, probes=other_probes), other_runs, yardsticks, first)
    verdict = judged(system, runs, yardsticks, first)
    assert other.judgement is verdict.judgement
    key = [(p.name, p.yardstick, p.judgement, p.cases) for p in verdict.parts]
    assert sorted(key) == sorted((p.name, p.yardstick, p.judgement, p.cases) for p in other.parts)


@given(worlds())
def test_a_pass_rests_on_something_compared(
    world: World,
) -> None:
    """P4: a verdict that passes has judged a case of every probe, and has read every component."""
    system, runs, yardsticks, first = world
    verdict = judged(system, runs, yardsticks, first)
    if verdict.judgement.passes:
        assert {p.name for p in verdict.parts if p.cases} == {p.name for p in system.probes}
        assert len(runs) >= (2 if first else 1)
        assert first or yardsticks.baseline is not None
