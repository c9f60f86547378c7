"""The arithmetic and the honesty of ``bench.proof``: its oracle, the simpler checks, its totals, its warm commands."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from bench.proof import changes, gates, oracle
from bench.proof.cases import Outcome
from bench.proof.report import as_json, lines, totals
from bench.proof.warm import Warm
from examples.helpdesk import __main__ as helpdesk

ROOT = Path(__file__).parents[2]
FACTS = {name: changes.Facts(["a?", "b?"], list(range(1, 200)), 2000) for name in ("helpdesk", "handbook")}


def an_outcome(effect: str = "felt", verdict: str = "different", **other: Any) -> Outcome:
    """A case, by default a fault that was felt and found."""
    given: dict[str, Any] = {
        "system": "helpdesk", "kind": "ransomware", "harmless": False, "captured": False, "told": "it is so", "level": 1,
        "caught": ("rows",), "counts": True, "sums": True, "overlap": False, "seconds": 1.0,
    }  # fmt: skip
    return Outcome(**given | {"effect": effect, "verdict": verdict} | other)


def seen(**asked: Any) -> oracle.Seen:
    """What an oracle saw: answers, neighbours and counts of a healthy system, but for what is given."""
    healthy = {"answers": {"lock": ["concurrency", [1, 2], "so"]}, "neighbours": {"lock": list(range(10))}, "lost": 0}
    elsewhere = {"answers": {"other": ["text", [3], "else"]}}
    return {"asked": healthy | {name: value for name, value in asked.items() if name != "elsewhere"},
            "elsewhere": elsewhere | asked.get("elsewhere", {})}  # fmt: skip


def test_a_seed_draws_the_same_again_and_another_one_others() -> None:
    """Every kind is drawn before one comes twice; some faults strike before the capture, no harmless change does."""
    for harmless, least in ((False, 40), (True, 20)):
        known = changes.HARMLESS if harmless else changes.FAULTS
        kinds = [(system, kind) for system in known for kind in known[system]]
        drawn = changes.draw(3, 2 * len(kinds), FACTS, harmless=harmless)
        assert drawn == changes.draw(3, 2 * len(kinds), FACTS, harmless=harmless)
        assert drawn != changes.draw(4, 2 * len(kinds), FACTS, harmless=harmless)
        assert sorted({(one.system, one.kind) for one in drawn[: len(kinds)]}) == sorted(kinds)
        assert len(kinds) >= least
        assert any(one.captured for one in drawn) is not harmless


@pytest.mark.parametrize(
    ("after", "effect"),
    [
        (seen(), "nothing"),
        (seen(answers={"lock": ["concurrency", [1, 2], "not so"]}), "felt"),
        (seen(answers={"error": "OperationalError: no such table"}), "felt"),
        (seen(neighbours={"lock": [*range(9), 99]}), "nothing"),
        (seen(neighbours={"lock": [*range(8), 98, 99]}), "felt"),
        (seen(lost=1), "nothing"),
        (seen(lost=2), "felt"),
        (seen(elsewhere={"answers": {"other": ["text", [4], "else"]}}), "elsewhere"),
    ],
)
def test_the_oracle_feels_what_is_exact_and_what_goes_beyond_a_margin(after: oracle.Seen, effect: str) -> None:
    """One of ten neighbours is within the margin, two are not."""
    assert oracle.felt("helpdesk", seen(), after) == effect


def test_of_the_worded_system_what_is_cited_is_exact_and_the_wording_has_a_margin() -> None:
    """The writer's draws are pinned for the oracle; half of the texts may begin otherwise."""
    assert oracle.felt("worded", seen(), seen(answers={"lock": ["concurrency", [1, 2], "so"]})) == "nothing"
    assert oracle.felt("worded", seen(), seen(answers={"lock": ["concurrency", [1, 3], "so"]})) == "felt"
    four = {str(n): ["text", [n], "so"] for n in range(4)}
    begun = [four | {str(n): ["text", [n], "thus"] for n in range(count)} for count in (2, 3)]
    assert [oracle.felt("worded", seen(answers=four), seen(answers=after)) for after in begun] == ["nothing", "felt"]


def test_the_oracle_imports_nothing_of_resurgam() -> None:
    """So that judge and oracle cannot be wrong together."""
    tree = ast.parse((ROOT / "bench" / "proof" / "oracle.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported
    assert not [name for name in imported if name.startswith(("resurgam", "bench"))]


def test_the_oracle_has_the_margins_that_the_manifest_declares() -> None:
    """They stand in two places, so that the two do not depend on each other; here they are compared."""
    text = (ROOT / "examples" / "helpdesk" / "content" / "resurgam.yaml").read_text()
    filled = Template(text).safe_substitute(python="python", isolation="required", and_llm="", llm="", environment="")
    probes = yaml.safe_load(filled)["probes"]
    assert probes["retrieval"]["mode"] == "approximate"  # the oracle, too, asks Chroma
    assert probes["retrieval"]["tolerance"] == {"overlap": {"k": oracle.NEIGHBOURS, "at_least": oracle.COMMON}}
    assert probes["reach"]["tolerance"] == {"jsonpath": {"$.lost": {"numeric": {"abs": oracle.LOST}}}}
    assert (helpdesk.ASKED, helpdesk.NEAR) == (oracle.OWN, oracle.OWN_NEAR)


def test_the_gate_of_overlap_is_green_up_to_its_published_thresholds() -> None:
    """Mean Jaccard below 0.90, or 2 % of the queries with at most 0.30, is an alarm; an index that does not answer is one too."""
    before = {"asked": {"neighbours": {str(n): list(range(10)) for n in range(50)}}, "elsewhere": {}}

    def after(changed: int, first: int) -> oracle.Seen:
        lists = {str(n): list(range(first, first + 10)) if n < changed else list(range(10)) for n in range(50)}
        return {"asked": {"neighbours": lists}, "elsewhere": {}}

    assert not gates.overlap_alarm(before, before)
    assert not gates.overlap_alarm(before, after(10, 2))  # ten queries at 0.67: a mean of 0.93
    assert gates.overlap_alarm(before, after(20, 2))
    assert gates.overlap_alarm(before, after(1, 9))  # one of fifty at 0.05
    assert gates.overlap_alarm(before, {"asked": {"neighbours": {"error": "gone"}}, "elsewhere": {}})
    assert not gates.overlap_alarm({"asked": {}, "elsewhere": {}}, {"asked": {}, "elsewhere": {}})


def test_only_different_detects_and_only_what_was_felt_must_be() -> None:
    """P4: inconclusive is neither a pass nor a detection; the totals are the last line and say whether the targets are met."""
    alike = [an_outcome("nothing", "identical", kind="A/A", harmless=True) for _ in range(100)]
    good = [
        *alike,
        *(an_outcome() for _ in range(99)),
        an_outcome("nothing", "identical"),
        an_outcome("elsewhere", "identical"),
    ]
    assert totals(good).met
    assert totals(good).detection == 1.0
    assert lines(good)[-1].startswith("total: detected 99 of 99 (100.0%, target 99%)")
    assert totals([*good, an_outcome(verdict="identical")]).met  # 99 of 100
    missed = [*good, an_outcome(verdict="identical"), an_outcome(verdict="inconclusive")]
    assert not totals(missed).met
    assert lines(missed)[-1].endswith("MISSED")
    assert (totals(missed).undecided, totals(missed).undecided_alike) == (1, 0)
    unsure = [*good, an_outcome("nothing", "inconclusive", kind="A/A", harmless=True)]
    assert (totals(unsure).undecided_alike, totals(unsure).alarms_on_alike) == (1, 0)
    crying = [
        *good,
        an_outcome("nothing", kind="A/A", harmless=True),
        an_outcome("nothing", kind="vacuum", harmless=True),
    ]
    assert totals(crying).false_alarms == pytest.approx(2 / 102)
    assert not totals(crying).met
    assert not totals([]).met  # nothing was shown
    assert as_json(good, 3.0)["totals"]["met"] is True


def test_a_harmless_change_that_was_felt_is_a_fault_to_be_found() -> None:
    """The oracle decides what it was, not its name."""
    felt = an_outcome("felt", "identical", kind="rebuilt index", harmless=True)
    assert (totals([felt]).felt, totals([felt]).detected, totals([felt]).others) == (1, 0, 0)
    assert any(line.startswith("MISSED (identical) helpdesk, rebuilt index") for line in lines([felt]))


def test_a_warm_command_is_alone_and_leaves_nothing(tmp_path: Path) -> None:
    """Its input, folder, environment and exit code are its own; what it changed in a module is gone; time ends it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\nprint(getattr(json, 'spoilt', 'clean'), sys.stdin.read(), os.environ.get('WORD'))\n"
        "print(os.getcwd(), sys.argv[1])\njson.spoilt = 'spoilt'\nos.environ['WORD'] = 'spoilt'\nsys.exit(int(sys.argv[1]))\n"
    )
    with Warm(str(tmp_path)) as warm:
        first = warm.run([sys.executable, "-I", "-S", str(script), "3"], input=b"asked", env={"WORD": "given"})
        second = warm.run([sys.executable, str(script), "0"])
        assert (first.code, first.output.decode().split()) == (3, ["clean", "asked", "given", str(tmp_path), "3"])
        assert (second.code, second.output.decode().split()) == (0, ["clean", "None", str(tmp_path), "0"])
        failed = warm.run([sys.executable, str(tmp_path / "none.py")])
        assert failed.code == 1
        assert b"FileNotFoundError" in failed.errors
        script.write_text("import select\nselect.select([], [], [])\n")
        assert warm.run([sys.executable, str(script), "0"], timeout=0.2).timed_out
        plain = warm.run(["/bin/echo", "not Python"])
        assert (plain.code, plain.output) == (0, b"not Python\n")
