"""What befalls copies of the system in ``resurgam demo``: each is struck, looked at, asked, judged, and recovered where it must be.

    copy -> strike -> naive checks -> verdict of the damaged live system -> recover -> the golden questions again
                                      (or: capture -> verdict of the point, by the reference)

Acts are played several at a time, each on a copy of its own as on a machine of its own; they share a vault as machines do. What is
captured as if it were healthy is played last and alone, since it would be the newest point for the others.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context
from resurgam.cli.demo_cast import Act, Cast, Remembered, Trace, naive_checks, traced
from resurgam.cli.demo_stage import Stage
from resurgam.model.system import Json
from resurgam.model.verdict import Judgement, Part, Verdict
from resurgam.probes.runner import LiveRunner
from resurgam.proof.observe import observe
from resurgam.vault import workers

LANES = min(workers.processors() + 1, 6)  # acts at a time: each waits now and then, and takes a few hundred megabytes
LEVELS = ("rows", "retrieval", "model", "answers")  # of what probes ask for, the lowest first
PAGE = "verdict.html"  # in the demo's folder: the verdict on what was captured as if it were healthy
SHOWN = 150  # characters of a deviation
SHOWN_LINE = 130  # characters of a line of a diff
INDENT = "     "


class Healthy(NamedTuple):
    """A system before anything befell it: its folder, the proven point of it, its golden answers, what naive checks know."""

    home: str
    point: str
    golden: dict[str, Json]
    remembered: Remembered


class Caught(NamedTuple):
    """What a verdict found different: the lowest level of the probes that are, their names, whether the reference alone says so."""

    level: str = ""
    probes: tuple[str, ...] = ()
    alone: bool = False

    def __str__(self) -> str:
        return f"{self.level}{', by the reference alone' if self.alone else ''}"


class Row(NamedTuple):
    """A line of the table at the end. ``noticed`` names the naive checks that saw it. ``recovered`` is the verdict on what took
    the place of what was damaged; ``seconds`` go from the command that recovers to the answers after it. What is harmless has
    neither."""

    name: str
    harmless: bool
    noticed: tuple[str, ...]
    verdict: str
    caught: Caught
    recovered: str = ""
    answers_again: bool = False
    seconds: float | None = None


def play_all(stage: Stage, cast: Cast, acts: Sequence[Act], healthy: Healthy) -> list[Row]:
    """Play ``acts``, tell each as a whole, in their order. Raises what a command of theirs raises."""
    asides = [stage.aside(act.name) for act in acts]
    with ThreadPoolExecutor(LANES) as lanes:
        playing = [lanes.submit(play, aside, cast, act, healthy) for aside, act in zip(asides, acts, strict=True)]
        try:
            return [_joined(stage, aside, future) for aside, future in zip(asides, playing, strict=True)]
        finally:
            lanes.shutdown(cancel_futures=True)  # where one was cut off, the rest is not begun


def _joined(stage: Stage, aside: Stage, playing: Future[Row]) -> Row:
    try:
        return playing.result()
    finally:
        stage.join(aside)


def play(stage: Stage, cast: Cast, act: Act, healthy: Healthy) -> Row:
    """Play one act on a copy, which goes away when all was as told; that of a captured damage stays, to be looked at."""
    home = os.path.join(stage.folder, act.name)
    shutil.copytree(healthy.home, home, symlinks=True)
    stage.say("", act.title, style="bold")
    cited = [answer["chunks"][0] for answer in healthy.golden.values() if answer.get("chunks")]
    stage.say(act.strike(stage, home, cited), indent=INDENT)
    noticed = _noticed(stage, cast, act, home, healthy)
    verdict = _captured(stage, act, home, healthy.point) if act.captured else _live(stage, home, healthy.point)
    caught = caught_by(verdict, cast.levels)
    _tell(stage, act, verdict, caught)
    row = Row(act.name, not act.level, noticed, verdict.judgement.word, caught)
    if act.level:
        row = _recovered(stage, cast, home, healthy, row)
    if not stage.wrong and not (act.level and act.captured):
        shutil.rmtree(home)
    return row


def caught_by(verdict: Verdict, levels: Mapping[str, str]) -> Caught:
    """Which probes ``verdict`` found different, and at which of ``levels`` (by probe) that is."""
    different = [part for part in verdict.parts if part.judgement is Judgement.DIFFERENT]
    probes = tuple(dict.fromkeys(part.name for part in different))
    level = min((levels.get(name, LEVELS[-1]) for name in probes), key=LEVELS.index, default="")
    return Caught(level, probes, {part.yardstick for part in different} == {"reference"})


def golden(home: str, cast: Cast) -> dict[str, Json]:
    """The live system's answers to the golden questions; none where it cannot answer."""
    system = Context(os.path.join(home, DEFAULT_MANIFEST)).system
    probes = [probe for probe in system.probes if probe.name == cast.probe]
    (observation,) = observe(system, probes, LiveRunner(system.root))
    return dict(observation.answers)


def show_diff(stage: Stage, home: str, first: str, *traces: Trace, indent: str = "   ") -> None:
    """Show what of the difference between ``first`` and the newest point is one of ``traces``; each must be found."""
    components = sorted({trace.component for trace in traces})
    words = ("diff", first[:8], "latest", *(word for name in components for word in ("--component", name)))
    stage.say(f"$ resurgam {' '.join(words)}", style="bold", indent=indent)
    lines = stage.resurgam_shown(home, *words, "--limit", "0").splitlines()
    found = traced(lines, traces)
    for shown in found.values():
        stage.say(*(f"  {line[:SHOWN_LINE]}" for line in shown), indent=indent)
    for trace in traces:
        stage.expect(trace in found, f"the diff names {trace.line} of {trace.heading}")


def _noticed(stage: Stage, cast: Cast, act: Act, home: str, healthy: Healthy) -> tuple[str, ...]:
    checks = naive_checks(home, cast.watched, healthy.remembered)
    alarms = [check for check in checks if not check.ok]
    told = "; ".join(cut(check.found) for check in alarms or checks)
    stage.say(f"naive checks {'alarm' if alarms else 'see nothing'}: {told}", indent=INDENT)
    noticed = tuple(check.name for check in alarms)
    stage.expect(
        noticed == act.noticed, f"{act.name}: {', '.join(act.noticed) or 'none'} of the naive checks notice it"
    )
    return noticed


def cut(text: str) -> str:
    """``text``, or its beginning where it is long."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _live(stage: Stage, home: str, point: str) -> Verdict:
    """How the live system in ``home`` behaves, judged by a point: what only questions can tell."""
    verdict = stage.resurgam(home, "verify", point[:8], "--live", indent=INDENT)["verdict"]
    return msgspec.convert(verdict, Verdict)


def _captured(stage: Stage, act: Act, home: str, before: str) -> Verdict:
    """The system as it is now is captured, as a schedule would do, and the point is judged."""
    point = stage.resurgam(home, "capture", indent=INDENT)
    broken = point["findings"]["broken"]
    stage.say(
        f"point {point['id'][:8]}, sealed with {broken or 'no'} broken invariant{'' if broken == 1 else 's'}",
        indent=INDENT,
    )
    if act.traces:
        show_diff(stage, home, before, *act.traces, indent=INDENT)
    page = ("--html", os.path.join(stage.folder, PAGE)) if act.level and can_draw() else ()
    verdict = stage.resurgam(home, "verify", "latest", *page, shown="verify latest", indent=INDENT)["verdict"]
    return msgspec.convert(verdict, Verdict)


def can_draw() -> bool:
    """Whether the library is installed that makes a page of a verdict."""
    from importlib.util import find_spec

    return find_spec("jinja2") is not None


def _tell(stage: Stage, act: Act, verdict: Verdict, caught: Caught) -> None:
    by = f" at the level of {caught}: {', '.join(caught.probes)}" if caught.probes else ""
    stage.say(f"{verdict.judgement.word}{by}  ({output.seconds(verdict.seconds)})", indent=INDENT)
    stage.say(*(f"  {cut(line)}" for line in _example(verdict.parts, caught.probes[:1])), indent=INDENT)
    if act.level:
        alone = act.captured
        stage.expect(
            (verdict.judgement, caught.level, caught.alone) == (Judgement.DIFFERENT, act.level, alone),
            f"{act.name}: the verdict is different, at the level of {act.level}{', by the reference alone' if alone else ''}",
        )
    else:
        stage.expect(
            verdict.judgement.passes, f"{act.name}: it is not called different (it is {verdict.judgement.word})"
        )


def _example(parts: Sequence[Part], probes: Sequence[str]) -> list[str]:
    """The first answer that has become another, of the first of ``probes``; else why there is none."""
    for part in parts:
        if part.name in probes and part.judgement is Judgement.DIFFERENT:
            if not part.deviations:
                return [f"{part.name}: no answer: {part.reason.removesuffix(')').rpartition('; it said: ')[2]}"]
            first = part.deviations[0]
            _, _, values = first.why.partition("expected ")
            before, _, now = values.partition(", got ")
            return (
                [f"{first.case}: was {before}", f"{first.case}: now {now}"] if now else [f"{first.case}: {first.why}"]
            )
    return []


def _recovered(stage: Stage, cast: Cast, home: str, healthy: Healthy, row: Row) -> Row:
    """One command: choose, restore, judge and promote (P4: what is not proven is not promoted). Then the questions again."""
    began = time.monotonic()
    told = stage.resurgam(home, "recover", "--yes", indent=INDENT)
    done, verdict = told["recovered"], Judgement(told["recovered"]["verdict"]["judgement"])
    stage.expect(done["point"] == healthy.point, f"{row.name}: the newest clean point is chosen")
    again = told["live"] and golden(home, cast) == healthy.golden
    seconds = time.monotonic() - began
    stage.expect(again, f"{row.name}: it is live, and answers as before (the verdict is {verdict.word})")
    if again:
        yardsticks = ", ".join(sorted({part["yardstick"] for part in done["verdict"]["parts"]}))
        stage.say(
            f"live again in {output.seconds(seconds)}: {verdict.word} by {yardsticks}; clients waited "
            f"{output.seconds(done['outcome']['outage'])}; all {len(healthy.golden)} golden answers are as before",
            indent=INDENT,
        )
    return row._replace(recovered=verdict.word, answers_again=again, seconds=seconds)
