"""The report: what it says of each kind of verdict, and that neither page nor XML can be turned against who reads it."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as Xml

import msgspec
import pytest

from resurgam.model.codec import to_json
from resurgam.model.point import (
    Cut,
    CutPart,
    Finding,
    Observation,
    Particulars,
    PointBody,
    Position,
    Severity,
    Snapshot,
    Witness,
)
from resurgam.model.system import Component, Consistency, Isolation, Json, Probe, System, VaultPlace
from resurgam.model.verdict import Baseline, IsolationReport, Statistics, Verdict
from resurgam.proof.judge import Run, Yardsticks, judge
from resurgam.proof.report import LEFT_OUT, Evidence, make_report, redacted
from resurgam.proof.report_graph import layout
from resurgam.proof.report_junit import junit
from resurgam.proof.report_page import page
from resurgam.proof.report_svg import interval
from resurgam.proof.report_values import Judged, Report, Signed
from resurgam.proof.report_words import describe, likeness, percent

RANKED: Json = {"overlap": {"k": 10, "at_least": 1.0, "by": 0}}
COMPONENTS = (
    Component(name="docs", driver="sqlite", location="/docs", owner="support"),
    Component(name="index", driver="chroma", location="/index", derived_from=("docs",)),
    Component(name="prompts", driver="git", location="/prompts"),
)
PROBES = (
    Probe(name="retrieval", kind="command", reads=("index",), witness=True, tolerance=RANKED),
    Probe(name="answers", kind="command", reads=("docs", "index"), witness=True),
)


def hits(*ids: int) -> Json:
    return [[str(n), n / 7] for n in ids]


def round_of(found: Json, said: Json, case: str = "query 7") -> Run:
    """One round of both probes."""
    return (
        Observation(probe="retrieval", answers={case: found}, seconds=0.5),
        Observation(probe="answers", answers={case: said}, seconds=0.25),
    )


HEALTHY = round_of(hits(*range(10)), "Ask your lead.")


def a_point(components: Iterable[Component], tree: str = "t") -> PointBody:
    snapshots = tuple(
        Snapshot(
            component=c.name, driver=c.driver, domain="default", tree=f"{tree}-{c.name}", chunks="c", items=3, bytes=1234,
            stored=9, asked="crash", earned="snapshot",
        )
        for c in components
    )  # fmt: skip
    return PointBody(
        format=1, id="abcd", system="desk", started="", sealed="2026-11-21T04:00:00.000000Z", skew=0.0, freeze=0.02,
        snapshots=snapshots, particulars="p", findings={}, host_can_read=False, resurgam="0.1.0",
    )  # fmt: skip


def reported(
    *runs: Run,
    live: Run = HEALTHY,
    probes: tuple[Probe, ...] = PROBES,
    components: tuple[Component, ...] = COMPONENTS[:2],
    findings: tuple[Finding, ...] = (),
    reference: Run | None = None,
    approved: PointBody | None = None,
    isolation: IsolationReport = IsolationReport(isolated=True),  # noqa: B008 - a value
    accepts: Isolation = Isolation.REQUIRED,
) -> Report:
    """The report on a first proof, judged by the real judge."""
    system = System(
        name="desk", vault=VaultPlace(path="v", keys="k"), components=components, probes=probes, isolation=accepts
    )
    parts = tuple(
        CutPart(
            component=c.name, position=Position(token="x", earned=Consistency.SNAPSHOT), frozen_at=0.01, thawed_at=0.02,
            freeze=0.015,
        )
        for c in components
    )  # fmt: skip
    cut = Cut(at="2026-11-21T03:59:59.000000Z", skew=0.0, freeze=0.02, parts=parts)
    particulars = Particulars(
        system=system, facts={}, findings=findings, witness=Witness(before=live, after=live), cut=cut
    )
    baseline = Baseline(point="good", runs=(reference, reference)) if reference else None
    yardsticks = Yardsticks(witness=particulars.witness, reference=baseline)
    verdict = judge("abcd", system, runs, yardsticks, isolation=isolation, first_proof=True, seconds=2.0)
    signed = (Signed(made="2026-11-21T04:00:00.0Z", what="point", role="capture", key="00ff", resurgam="0.1.0"),)
    evidence = Evidence(
        yardsticks=yardsticks, observed=Baseline(point="abcd", runs=runs), approved=approved, made="2026-11-21T04:01:00Z",
        signed=signed,
    )  # fmt: skip
    return make_report(a_point(components), particulars, verdict, evidence)


def judged(report: Report, probe: str, yardstick: str = "witness") -> Judged:
    (one,) = [j for p in report.probes if p.name == probe for j in p.judged if j.yardstick == yardstick]
    return one


class Strict(HTMLParser):
    """Reads a page as an enemy of it: everything must be closed in order, and nothing may load, run or leave."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.used: list[str] = []
        self.headings: list[int] = []
        self.text: list[str] = []
        self.policy = ""
        self.style = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "form", "base"}, tag
        assert not [name for name in told if name.startswith("on") or name in {"style", "src", "srcset", "action"}], (
            told
        )
        assert (told.get("href") or "#").startswith("#"), told
        self.ids += [told["id"] or ""] if "id" in told else []
        self.used += [told["aria-labelledby"] or ""] if "aria-labelledby" in told else []
        self.policy += told.get("content") or "" if "http-equiv" in told else ""
        if tag in {"h1", "h2", "h3", "h4"}:
            self.headings.append(int(tag[1]))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.text.append(data)


def read(report: Report) -> str:
    """The text of a report's page, after everything that must hold of any page was checked."""
    html = page(report)
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert set(parser.used) <= set(parser.ids)
    assert parser.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(parser.headings, parser.headings[1:], strict=False)), parser.headings
    assert html.count("<svg") == html.count('role="img"><title>') + html.count('preserveAspectRatio="none"><title>')
    digest = base64.b64encode(hashlib.sha256(parser.style.encode()).digest()).decode()
    assert parser.policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "http" not in html.replace("http-equiv", "")
    assert all(c.isprintable() or c in "\n " for c in html)
    return " ".join(" ".join(parser.text).split())


# What it says ---------------------------------------------------------------------------------------------------------


def test_an_identical_verdict_is_told_in_a_sentence() -> None:
    report = reported(HEALTHY, HEALTHY)
    assert report.judgement == "identical"
    assert report.conclusion.startswith("The restored system gave the same answers, to the letter")
    assert [(c.name, c.state, c.why) for c in report.components] == [
        ("docs", "proven", "proven by answers"),
        ("index", "proven", "proven by retrieval, answers"),
    ]
    assert (report.unjudged, report.suspects) == ((), ())
    text = read(report)
    assert "This page holds evidence in the clear." in text
    assert "Nothing: every component is read by a probe" in text
    assert "00ff" in text, "who signed"


def test_changed_neighbours_are_named() -> None:
    """ "Query 7: 4 of 10 neighbours changed; new: …": the sentence of the issue."""
    other = round_of(hits(0, 1, 2, 3, 4, 5, 1312, 77, 78, 79), "Ask your lead.")
    report = reported(other, other)
    (change,) = judged(report, "retrieval").changes
    told = '4 of 10 neighbours changed; new: "1312", "77", "78", "79"; gone: "6", "7", "8", "9"'
    assert (change.case, change.sentence) == ("query 7", told)
    assert judged(report, "retrieval").scores[0].restored == 0.6
    assert [(c.name, c.state) for c in report.components] == [("docs", "proven"), ("index", "different")]
    assert report.suspects == ("index",)
    assert "1312" in read(report)


def test_a_changed_text_is_a_diff_by_sentences() -> None:
    long = " ".join(f"Rule {n} is to ask your lead before you act." for n in range(12))
    (view,) = describe(long, long.replace("Rule 5 is", "Rule 5 is not"))
    assert view.kind == "text"
    assert view.counted == "the text changed: 1 of 12 lines or sentences gone, 1 new"
    shown = [(row.before, row.after) for row in view.rows if row.gone or row.new]
    assert shown == [
        ("Rule 5 is to ask your lead before you act.", ""),
        ("", "Rule 5 is not to ask your lead before you act."),
    ]
    assert len(view.rows) == 4, "one line of context at each end"


def test_the_end_of_a_text_is_compared_too() -> None:
    """What is equal at both ends is left out of the comparison, and of nothing else."""
    lines = [f"line {n} of a text that is long enough to be one" for n in range(9)]
    for number in (0, 4, 8):
        changed = [*lines[:number], "another", *lines[number + 1 :]]
        (view,) = describe("\n".join(lines), "\n".join(changed))
        assert [row.before for row in view.rows if row.gone] == [lines[number]]
        assert [row.after for row in view.rows if row.new] == ["another"]
    (view,) = describe("\n".join(lines), "\n".join([*lines, "appended"]))
    assert [(row.before, row.after) for row in view.rows if row.gone or row.new] == [("", "appended")]


def test_rows_are_told_by_their_key() -> None:
    """The key is as many first cells as it takes."""
    before: Json = [["customers.7", "a", "likes tea"], ["customers.12", "a", "likes tea"], ["customers.12", "b", "x"]]
    after: Json = [
        ["customers.7", "a", "likes tea"],
        ["customers.12", "a", "wants refunds"],
        ["customers.13", "b", "x"],
    ]
    (view,) = describe(before, after)
    assert view.counted == "1 row changed, 1 row new, 1 row gone"
    assert '"customers.12" / "a" now says "wants refunds", before "likes tea"' in view.sentence
    assert [(row.label, row.gone, row.new) for row in view.rows] == [
        ('"customers.12" / "a"', True, True),
        ('"customers.13" / "b"', False, True),
        ('"customers.12" / "b"', True, False),
    ]


@pytest.mark.parametrize(
    ("before", "after", "kind", "words"),
    [
        (3, 4, "value", "3 -> 4"),
        ("yes", "no", "value", '"yes" -> "no"'),
        (None, {"a": 1}, "value", 'null -> {"a": 1}'),
        ([1, 2, 3], [1, 3, 2], "ranking", "the same 3 items, 2 of them at another rank"),
        ([1, 2], [1, 2, 9], "ranking", "1 items beside the 2 before; new: 9"),
        ([[1, 2]], [[1, 3]], "rows", "1 row changed; 1 now says 3, before 2"),
        ([[1, 1], [2, 2]], [[2, 2], [1, 1]], "rows", "the same rows in another order"),
        ([[1], [1]], [[1]], "value", "[[1], [1]] -> [[1]]"),
    ],
)
def test_every_shape_has_its_words(before: Json, after: Json, kind: str, words: str) -> None:
    (view,) = describe(before, after)
    assert (view.kind, view.sentence) == (kind, words)
    assert describe(after, after) == []


def test_an_object_is_taken_apart() -> None:
    views = describe({"topic": "a", "chunks": [1, 2], "same": 0}, {"topic": "b", "chunks": [1, 3], "same": 0})
    assert [(view.place, view.sentence) for view in views] == [
        ("topic", '"a" -> "b"'),
        ("chunks", "1 of 2 items changed; new: 3; gone: 2"),
    ]


def test_likeness_is_a_share() -> None:
    assert likeness([1, 2, 3, 4], [1, 2, 3, 9]) == 0.75
    assert likeness(hits(1, 2), [["1", 0.5], ["2", 0.6]], ranked=True) == 1.0
    assert likeness([["files", 3]], [["files", 4]]) == 0.0, "a row with another value is another row"
    assert likeness("a b c d", "a b c x") == 0.75
    assert likeness({"a": 1, "b": 1}, {"a": 1}) == 0.5
    assert likeness(10, 8) == 0.8
    assert (likeness("", "x"), likeness(None, 1), likeness(0, 0.0), likeness({}, {})) == (0.0, 0.0, 1.0, 1.0)


def test_a_share_that_is_not_the_whole_is_not_called_the_whole() -> None:
    """An answer of which one word in two hundred changed stands among those that differ."""
    assert [percent(share) for share in (0.0, 0.994, 0.9951, 1.0)] == ["0 %", "99 %", "> 99 %", "100 %"]


def test_what_was_not_judged_stands_in_a_list_of_its_own() -> None:
    """P4: a component that no probe reads, a probe without a yardstick, a copy that was not apart."""
    alone = Probe(name="alone", kind="command", reads=("docs",))
    report = reported(
        (*HEALTHY, Observation(probe="alone", answers={"q": 1})),
        (*HEALTHY, Observation(probe="alone", answers={"q": 1})),
        probes=(*PROBES, alone),
        components=COMPONENTS,
        isolation=IsolationReport(isolated=False, reason="no namespaces here"),
    )
    assert report.judgement == "inconclusive"
    assert "this is no pass: 3 things could not be judged" in report.conclusion
    assert [name for name, _ in report.unjudged] == ["alone", "prompts", "isolation"]
    states = {c.name: c.state for c in report.components}
    assert states == {"docs": "inconclusive", "index": "proven", "prompts": "unprobed"}
    assert "no namespaces here" in read(report)


def test_accepted_isolation_is_shown_though_it_passes() -> None:
    """P4."""
    report = reported(
        HEALTHY,
        HEALTHY,
        isolation=IsolationReport(isolated=False, reason="no namespaces here"),
        accepts=Isolation.BEST_EFFORT,
    )
    assert report.judgement == "identical"
    assert [name for name, _ in report.unjudged] == ["isolation"]
    assert "Not everything was judged" in read(report)
    assert b'errors="0"' in junit(report)


def test_what_did_not_change_is_not_the_cause() -> None:
    """Where only the reference sees a difference, a component that is to the byte as it was at the reference is none."""
    other = round_of(hits(*range(10)), "Ask nobody.")
    now = a_point(COMPONENTS[:2])
    then = msgspec.structs.replace(
        now, id="good", snapshots=(msgspec.structs.replace(now.snapshots[0], tree="another"), now.snapshots[1])
    )
    report = reported(other, other, live=other, reference=HEALTHY, approved=then)
    assert {c.name: c.state for c in report.components} == {"docs": "different", "index": "unchanged"}
    assert report.suspects == ("docs",)
    assert "unchanged" in read(report)
    by_live_too = reported(other, other, reference=HEALTHY, approved=then)
    assert {c.state for c in by_live_too.components} == {"different"}, "then a restore may be at fault, or a capture"


def test_the_whole_answer_is_shown_where_the_verdict_keeps_its_beginning() -> None:
    long = "Ask your lead. " * 60
    report = reported(
        round_of(hits(1), long + "Or not."), round_of(hits(1), long + "Or not."), live=round_of(hits(1), long)
    )
    (change,) = judged(report, "answers").changes
    (view,) = change.views
    assert [row.after for row in view.rows if row.new] == ["Or not."]


# Redacted -------------------------------------------------------------------------------------------------------------


def test_a_redacted_report_holds_nothing_of_the_system_s_own_words() -> None:
    """Not in the page, the JSON or the XML; the counts stay."""
    secret = "Anna-Lena"
    failed = Observation(probe="failing", error=f"it ended with exit code 1; it said: no row for {secret}")
    worked = Observation(probe="failing", answers={"q": 1})
    probe = Probe(name="failing", kind="command", reads=("docs",), witness=True)
    found = Finding(severity=Severity.BROKEN, what="1 of 9 keys do not exist", component="docs", keys=(secret,))
    ill = (*round_of([[secret, 1.0]], {secret: f"{secret} is at home"}, f"where is {secret}?"), failed)
    well = (*round_of([["x", 1.0]], {secret: "nobody is"}, f"where is {secret}?"), worked)
    report = reported(ill, ill, live=well, probes=(*PROBES, probe), findings=(found,))
    assert secret in read(report)
    told = redacted(report)
    for shown in (read(told), to_json(told).decode(), junit(told).decode()):
        assert secret not in shown
    assert "Answers, names of cases and keys were left out" in read(told)
    assert judged(told, "retrieval").changes[0].sentence == "1 of 1 neighbours changed"
    assert told.findings[0].keys == (LEFT_OUT,)
    assert told.conclusion == report.conclusion


# Hostile --------------------------------------------------------------------------------------------------------------

HOSTILE = {
    "markup": "</style></svg><script>alert(1)</script><img src=x onerror=alert(1)>",
    "template": "{{ 7 * 7 }}{% for x in y %}",
    "direction": "\u202eevil\u2066 \u200f\u05e9\u05dc\u05d5\u05dd",
    "nul": "a\0b\x1b[2J\x07\x85\u2028",
    "attribute": '" onmouseover="alert(1)" x="',
    "entity": "&lt;b&gt; ]]> <!-- --> <![CDATA[",
    "surrogate": "\ufffe\uffff",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answers_stay_text(text: str) -> None:
    """As answer, as id of a hit, as name of a case, of a probe, of a component, in a finding: no markup, no steering."""
    parts = (Component(name=text, driver="files", location="/x", owner=text), *COMPONENTS[:2])
    found = Finding(severity=Severity.WARNING, what=text, component=text, keys=(text,))
    probes = (*PROBES, Probe(name=text, kind="command", reads=(text,), witness=True))
    ill = (*round_of([[text, 1.0]], text * 20, text), Observation(probe=text, error=text))
    well = (*round_of([["x", 1.0]], {"a": text}, text), Observation(probe=text, answers={"q": text}))
    report = reported(ill, ill, live=well, probes=probes, components=parts, findings=(found,))
    read(report)
    assert "<script" not in page(report)
    assert "49" not in page(report) or text != HOSTILE["template"]
    document = Xml.fromstring(junit(report))
    assert all(c.isprintable() or c in "\n " for c in "".join(document.itertext()))
    read(redacted(report))


def test_a_megabyte_is_shown_by_the_place_where_it_parts() -> None:
    """In a page of reasonable size, soon."""
    long = "word " * 200_000
    began = time.monotonic()
    well, ill = (round_of([[long, 1.0]], said) for said in (long, long[:500_000] + "LIE" + long[500_000:]))
    report = reported(ill, ill, live=well)
    html = page(report)
    assert len(html) < 100_000
    assert "LIE" in html
    assert time.monotonic() - began < 20, "seconds, not minutes"


def test_a_thousand_cases_are_drawn_in_one_page() -> None:
    cases = {f"query {n}": hits(*range(n % 7, n % 7 + 10)) for n in range(1000)}
    ill = (Observation(probe="retrieval", answers=cases),)
    well = (Observation(probe="retrieval", answers={name: hits(*range(10)) for name in cases}),)
    report = reported(ill, ill, live=well, probes=PROBES[:1])
    text = read(report)
    assert "(20 of 1000 cases)" in text
    assert "20 cases that are not as expected" in text
    assert len(page(report)) < 300_000


# JUnit ----------------------------------------------------------------------------------------------------------------


def counts(report: Report) -> dict[str, str]:
    root = Xml.fromstring(junit(report))
    assert root.tag == "testsuites"
    (suite,) = root
    assert len(suite.findall("testcase")) == int(suite.get("tests", ""))
    assert len(suite.findall("testcase/failure")) == int(suite.get("failures", ""))
    assert len(suite.findall("testcase/error")) == int(suite.get("errors", ""))
    return {name: root.get(name, "") for name in ("tests", "failures", "errors", "skipped")}


def test_junit_counts_what_differs_as_failures() -> None:
    other = round_of(hits(*range(10)), "Ask nobody.")
    report = reported(other, other)
    assert counts(report) == {"tests": "2", "failures": "1", "errors": "0", "skipped": "0"}
    (failure,) = Xml.fromstring(junit(report)).iter("failure")
    assert failure.get("type") == "different"
    assert 'query 7: "Ask your lead." -> "Ask nobody."' in (failure.text or "")


def test_junit_never_lets_absence_pass() -> None:
    """P4: what is inconclusive is an error and not skipped, and a verdict over nothing is one too."""
    unprobed = reported(HEALTHY, HEALTHY, components=COMPONENTS)
    assert counts(unprobed) == {"tests": "3", "failures": "0", "errors": "1", "skipped": "0"}
    nothing = reported(probes=(), components=())
    assert nothing.judgement == "inconclusive"
    assert counts(nothing)["errors"] == "1"
    assert "so nothing was asked" in read(nothing)


# Drawings -------------------------------------------------------------------------------------------------------------


def test_components_stand_after_what_they_are_made_from() -> None:
    plan = layout({"agent": ("index", "docs"), "index": ("docs", "elsewhere"), "docs": ()}, {"agent": ("docs",)})
    assert plan.layers == (("docs",), ("index",), ("agent",))
    assert [(e.source, e.target, e.relation) for e in plan.edges] == [
        ("index", "agent", "made from or reads"),
        ("docs", "agent", "made from or reads"),
        ("docs", "index", "made from or reads"),
        ("agent", "docs", "writes or serves"),
    ]


@pytest.mark.parametrize(
    "after", [{"a": ("a",)}, {"a": ("b",), "b": ("a",)}, {"a": ("c",), "b": ("a",), "c": ("b",)}, {}]
)
def test_circles_are_drawn_too(after: dict[str, tuple[str, ...]]) -> None:
    plan = layout(after, {})
    assert sorted(name for layer in plan.layers for name in layer) == sorted(after)
    assert all(plan.layers)


def test_an_interval_without_bounds_can_be_drawn() -> None:
    """A test over too few cases may know no upper end."""
    found: dict[str, Any] = {
        "test": "t",
        "measure": "overlap",
        "n": 2,
        "margin": 0.01,
        "alpha": 0.05,
        "p": 1.0,
        "difference": 1.0,
    }
    measured = Statistics(**found, estimate=0.0, interval=(float("-inf"), float("inf")), decided="data")
    parser = Strict()
    parser.feed(interval(measured))
    assert parser.open == []
    assert "nan" not in interval(measured)


def test_a_test_over_all_cases_is_told_with_its_interval() -> None:
    """By the judge's own statistics: a loss beyond the margin, and too few cases to say."""
    tolerance = {"equivalent": {"score": "overlap", "k": 10, "by": 0, "margin": 0.05}}
    probe = msgspec.structs.replace(PROBES[0], tolerance=tolerance)
    for count, word in ((60, "different"), (3, "inconclusive")):
        well, ill = (
            (Observation(probe="retrieval", answers={f"query {n}": hits(*range(s, s + 10)) for n in range(count)}),)
            for s in (0, 4 if count > 3 else 1)
        )
        report = reported(ill, ill, live=well, probes=(probe,), components=COMPONENTS[1:2])
        found = judged(report, "retrieval")
        assert found.judgement == word
        assert found.statistics is not None
        assert (found.statistics.n, found.statistics.scores) == (count, {})
        text = read(report)
        assert f"over {count} cases; 0.05 is allowed" in text
        assert "the judgement rests on" in text


def test_another_library_is_told_beside_other_answers() -> None:
    """It may be why, and nobody would think of it at night."""
    well, ill = (
        (Observation(probe="answers", answers={"q": said}, by={"chromadb": version, "seed": "1"}),)
        for said, version in (("a", "1.5.9"), ("b", "1.6.0"))
    )
    report = reported(ill, ill, live=well, probes=PROBES[1:], components=COMPONENTS[:1])
    assert judged(report, "answers").otherwise == ("chromadb: 1.5.9 then, 1.6.0 in the copy",)
    assert "1.6.0 in the copy" in read(report)


def test_a_verdict_made_before_answers_were_kept_is_reported_too() -> None:
    """From its own deviations."""
    other = round_of(hits(*range(10)), "Ask nobody.")
    live = Witness(before=HEALTHY, after=HEALTHY)
    system = System(name="desk", vault=VaultPlace(path="v", keys="k"), components=COMPONENTS[:2], probes=PROBES)
    isolated = IsolationReport(isolated=True)
    verdict = judge(
        "abcd", system, (other, other), Yardsticks(witness=live), isolation=isolated, first_proof=True, seconds=1.0
    )
    kept = msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict)
    cut = Cut(at="", skew=0.0, freeze=0.0, parts=())
    particulars = Particulars(system=system, facts={}, findings=(), witness=Witness(), cut=cut)
    report = make_report(a_point(COMPONENTS[:2]), particulars, kept, Evidence())
    assert judged(report, "answers").changes[0].sentence == '"Ask your lead." -> "Ask nobody."'
    assert judged(report, "answers").scores == ()
    read(report)
