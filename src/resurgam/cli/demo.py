"""demo: the whole way on a real system, in about two minutes. Nothing in it is told that was not measured while you watched.

    build a system -> ask -> vault, preflight -> capture while it is written to -> change, capture, diff -> verify
    -> four incidents on copies, each: naive checks, capture, probes, restore, verdict, promote, ask again -> a table

The system is the helpdesk where its libraries are installed, else the handbook, which needs none; in what they differ stands in
``demo_helpdesk`` and ``demo_handbook``. Every step that a person would take is the real command, in a process of its own
(``demo_stage``). What came out is compared with what the story says; whatever is otherwise is told, and makes the exit code 1.
"""

from __future__ import annotations

import json as json_format
import os
import shlex
import shutil
import sqlite3
import time
from contextlib import closing
from enum import StrEnum
from importlib import metadata
from typing import Annotated, NamedTuple

import msgspec
import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption
from resurgam.cli.demo_cast import Cast, Check, Incident, Remembered, Trace, naive_checks, remember, traced
from resurgam.cli.demo_handbook import HANDBOOK
from resurgam.cli.demo_helpdesk import HELPDESK
from resurgam.cli.demo_stage import PATIENCE, Stage, empty_folder
from resurgam.errors import MissingExtra
from resurgam.model.system import Json
from resurgam.model.verdict import Judgement, Part, Verdict
from resurgam.probes.runner import LiveRunner
from resurgam.proof.observe import observe
from resurgam.restore.sandbox import available

INSTALL = "python -m pip install 'resurgam[helpdesk]'"
CHANGED_PROMPT = "unknown.md"
CHANGES = (
    Trace("documents / tickets", "~ 1"),
    Trace("documents / tickets", "~ 2"),
    Trace("prompts", f"~ {CHANGED_PROMPT}"),
)
SHOWN = 160  # characters of a line of an answer
SHOWN_KEY = 12  # characters of a key in a finding
SHOWN_LINE = 130  # characters of a line of a diff
OWN = (  # what to do with a system of one's own
    ("resurgam init", "write a manifest for what is found in this folder; then edit it"),
    ("resurgam vault init", "make the vault and its keys; take the recovery key off this machine"),
    ("resurgam preflight", "what a capture will need, cost and cause"),
    ("resurgam capture", "take a recovery point"),
    ("resurgam verify latest --into DIR", "restore it in isolation, ask it, judge it"),
    ("resurgam verify latest --live", "ask the live system, and judge it by the newest point"),
    ("resurgam promote DIR", "bring the proven copies live, with a way back"),
)


class On(StrEnum):
    """The systems that the demo can play on."""

    HELPDESK = "helpdesk"
    HANDBOOK = "handbook"


CASTS = {On.HELPDESK: HELPDESK, On.HANDBOOK: HANDBOOK}


class Healthy(NamedTuple):
    """A system before anything befell it: its folder, the proven point of it, its golden answers, what naive checks know."""

    home: str
    point: str
    golden: dict[str, Json]
    remembered: Remembered


class Row(NamedTuple):
    """A line of the table at the end. ``probes`` is the live verdict, ``findings`` how many the point of the damaged system has
    (None: none was taken), ``found`` what the first probe noticed, if one did; ``seconds`` go from the first command of the
    recovery to the answers after it."""

    incident: str
    naive: tuple[Check, ...]
    probes: str
    findings: int | None
    found: str
    verdict: str
    answers_again: bool
    seconds: float


def demo(
    into: Annotated[str, typer.Option("--into", help="The folder to build everything in.")] = "resurgam-demo",
    on: Annotated[
        On | None, typer.Option("--on", help="The system to build: the helpdesk where its libraries are installed.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Show the whole way on a real system.

    Captures it, damages it four times, brings it back, and proves it each time.

    Builds a support agent (or a service that only answers questions) in a folder, with its own vault and keys; an earlier demo
    there is replaced.
    Nothing outside of that folder is touched. Exit code 1 when any step went otherwise than it should.

    Examples:

        resurgam demo

        resurgam demo --on handbook

        resurgam demo --into /tmp/show --json
    """
    began = time.monotonic()
    cast, why = played(on)
    stage = Stage(empty_folder(into), cast.name, quiet=json)
    if why:
        stage.say(why, indent="")
    rows = _story(stage, cast)
    seconds = time.monotonic() - began
    if json:
        plain = [row._asdict() | {"naive": [check._asdict() for check in row.naive]} for row in rows]
        output.as_json({"system": cast.name, "rows": plain, "wrong": stage.wrong, "seconds": seconds})
    else:
        _show_end(into, rows, stage.wrong, seconds)
    return 1 if stage.wrong else 0


def played(on: On | None) -> tuple[Cast, str]:
    """Who plays; and why it is not the helpdesk, where nobody chose. Raises MissingExtra where what was chosen cannot run."""
    cast = CASTS[on or On.HELPDESK]
    missing = missing_for(cast)
    if not missing:
        return cast, ""
    lacking = f"The {cast.name} needs {', '.join(missing)}"
    if on:
        raise MissingExtra(f"{lacking}.", untouched="Nothing was built.", next_step=f"{INSTALL}, or --on handbook.")
    return CASTS[On.HANDBOOK], f"{lacking}; for the full story: {INSTALL}. This is the handbook's."


def missing_for(cast: Cast) -> list[str]:
    """The distributions that ``cast`` needs and that are not installed."""
    return [name for name in cast.needs if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _story(stage: Stage, cast: Cast) -> list[Row]:
    """All of it, in order."""
    home = os.path.join(stage.folder, cast.name)
    stage.heading(f"1  {cast.title}")
    isolated = _build(stage, cast, home)
    stage.heading("2  It answers")
    stage.say(*_ask(stage, cast, home).splitlines())
    stage.heading("3  A vault for it, and what a capture will need")
    _prepare(stage, home, isolated)
    stage.heading("4  Captured while customers write to it; then changed, and captured again")
    _capture_under_load(stage, cast, home)
    point = _change_and_diff(stage, cast, home)
    stage.heading("5  Proven: restored in isolation, and asked the same questions")
    _prove(stage, home)
    healthy = Healthy(home, point, _golden(home, cast), remember(home, cast.watched))
    rows = [_incident(stage, cast, number, incident, healthy) for number, incident in enumerate(cast.incidents, 6)]
    if cast.ending:
        cast.ending(stage, 6 + len(rows), os.path.join(stage.folder, cast.incidents[-1].name))
    return rows


def _build(stage: Stage, cast: Cast, home: str) -> bool:
    isolated, why = available()
    if not isolated:
        stage.say(f"This machine cannot isolate what is restored ({why}); the manifest accepts that by name.")
    stage.say(*cast.built(stage.build(cast.build, home, "required" if isolated else "best-effort")))
    return isolated


def _ask(stage: Stage, cast: Cast, home: str) -> str:
    return stage.application(home, "ask", cast.question, *cast.asked, tell=True)


def _prepare(stage: Stage, home: str, isolated: bool) -> None:
    keys = stage.resurgam(home, "vault", "init")["keys"]
    stage.say(
        f"{len(keys)} key files, readable by you only; it says what each is for, and which belong on another machine"
    )
    report = stage.resurgam(home, "preflight")
    stage.expect(report["ok"] and report["isolated"] == isolated, "preflight finds everything that a capture needs")
    stage.say(f"{len(report['components'])} components reachable, {output.size(report['bytes'])} to read")


def _capture_under_load(stage: Stage, cast: Cast, home: str) -> None:
    database = os.path.join(home, cast.tickets)
    before = _tickets(database)
    with stage.writers(home, cast.writers, begun=lambda: _tickets(database) > before) as writers:
        point = stage.resurgam(home, "capture")
        stage.expect(writers.poll() is None, "customers were still at work when the capture was done")
        during = _tickets(database) - before
        if cast.ends_by:
            writers.send_signal(cast.ends_by)
        written = json_format.loads(writers.communicate(timeout=PATIENCE)[0])
    stage.expect(_tickets(database) == before + written["tickets"], "every ticket that was confirmed is there")
    stage.expect(not point["findings"]["broken"], "no invariant is broken in what was captured")
    stage.say(f"point {point['id'][:8]}: {_size(point)}, {_held(point)}")
    stage.say(f"{during} tickets were written until it was sealed; {cast.written(written)}")


def _held(point: Json) -> str:
    freeze = f"freeze {output.seconds(point['freeze'])}, skew {output.seconds(point['skew'])}"
    if barrier := point["barrier"]:
        freeze += f", under the application's barrier (waited for {output.seconds(barrier['waited'])})"
    return freeze


def _change_and_diff(stage: Stage, cast: Cast, home: str) -> str:
    with closing(sqlite3.connect(os.path.join(home, cast.tickets))) as database, database:
        database.execute("UPDATE tickets SET state = 'reopened' WHERE id IN (1, 2)")
    with open(os.path.join(home, "prompts", CHANGED_PROMPT), "a", encoding="utf-8") as file:
        file.write("It may take a day.\n")
    stage.say("(two tickets are reopened, and a prompt gets another line)")
    first = stage.resurgam(home, "points", tell=False)[0]["id"]
    point = stage.resurgam(home, "capture")
    stored = sum(part["stored"] for part in point["snapshots"])
    stage.say(f"point {point['id'][:8]}: {_size(point)}, {output.size(stored)} of it new in the vault")
    _diff(stage, home, first, *CHANGES)
    return str(point["id"])


def _diff(stage: Stage, home: str, first: str, *traces: Trace) -> None:
    """Show what of the difference between ``first`` and the newest point is one of ``traces``; each must be found."""
    components = sorted({trace.component for trace in traces})
    words = ("diff", first[:8], "latest", *(word for name in components for word in ("--component", name)))
    stage.say(f"$ resurgam {shlex.join(words)}", style="bold")
    lines = stage.resurgam_shown(home, *words, "--limit", "0").splitlines()
    found = traced(lines, traces)
    for shown in found.values():
        stage.say(*(f"  {line[:SHOWN_LINE]}" for line in shown))
    between = next((line for line in lines if " between " in line and line[0].isdigit()), "no difference")
    stage.say(f"  ({between}; shown is what was just done)")
    for trace in traces:
        stage.expect(trace in found, f"the diff names {trace.line} of {trace.heading}")


def _prove(stage: Stage, home: str) -> None:
    verdict = stage.resurgam(home, "verify", "latest")["verdict"]
    judgement = Judgement(verdict["judgement"])
    stage.expect(judgement.passes, f"the point is proven (it is {judgement.word})")
    cases = sum(part["cases"] for part in verdict["parts"])
    stage.say(
        f"{judgement.word}: {cases} answers of the copy against those of the live system at the cut; "
        f"{verdict['isolation']}, {output.seconds(verdict['seconds'])}"
    )
    live = _live_verdict(stage, home, "latest")
    stage.expect(live.judgement is Judgement.IDENTICAL, "the live system behaves as its newest point")
    stage.say(f"{live.judgement.word}: the live system, asked the same")


def _incident(stage: Stage, cast: Cast, number: int, incident: Incident, healthy: Healthy) -> Row:
    stage.heading(f"{number}  {incident.title}")
    home, golden = os.path.join(stage.folder, incident.name), healthy.golden
    shutil.copytree(healthy.home, home, symlinks=True)
    stage.say(incident.strike(stage, home, [answer["chunks"][0] for answer in golden.values() if answer["chunks"]]))
    naive = _naive(stage, cast, incident, home, healthy.remembered)
    findings = _captured(stage, incident, incident.trace, home, healthy.point) if incident.trace else None
    live = _live_verdict(stage, home, healthy.point[:8])
    probed = live.judgement is Judgement.DIFFERENT
    stage.expect(probed == incident.probed, f"the probes {'' if incident.probed else 'do not '}notice it")
    damaged = [part for part in live.parts if not part.judgement.passes]
    damaged = list({part.name: part for part in damaged}.values())  # whatever the yardstick
    found = [_found(part) for part in damaged]
    stage.say(f"{live.judgement.word}: {'; '.join(found) or 'all that was asked'}")
    if damaged:
        stage.say(*_example(golden, _golden(home, cast), damaged))
    began = time.monotonic()
    verdict = _recover(stage, home, incident.name, healthy.point)
    again = verdict.passes and _golden(home, cast) == golden
    seconds = time.monotonic() - began
    stage.expect(again, "it answers as before")
    if again:
        stage.say(
            f"asked again: all {len(golden)} answers are as before, {output.seconds(seconds)} after the first command"
        )
    if cast.agree and not incident.probed:
        stage.say(stage.application(home, *cast.agree, tell=True))
    return Row(
        incident.name,
        naive,
        live.judgement.word,
        findings,
        found[0] if found else "as before",
        verdict.word,
        again,
        seconds,
    )


def _naive(stage: Stage, cast: Cast, incident: Incident, home: str, remembered: Remembered) -> tuple[Check, ...]:
    naive = naive_checks(home, cast.watched, remembered)
    stage.say(f"naive checks: {'; '.join(check.found for check in naive)}")
    noticed = tuple(check.name for check in naive if not check.ok)
    stage.expect(noticed == incident.noticed, f"{incident.noticed or 'none'} of the naive checks notice it")
    return naive


def _captured(stage: Stage, incident: Incident, trace: Trace, home: str, before: str) -> int:
    """The damage is captured too, as a schedule would do; the number of findings that the point is sealed with."""
    point = stage.resurgam(home, "capture")
    told = stage.resurgam(home, "show", "latest", tell=False)["particulars"]["findings"]
    broken = [finding for finding in told if finding["severity"] == "broken"]
    stage.say(f"point {point['id'][:8]}, sealed with {len(broken) or 'no'} finding{'' if len(broken) == 1 else 's'}")
    for finding in broken:
        stage.say(f"  {_finding(finding)}")
    said = " ".join(finding["what"] for finding in broken)
    stage.expect(incident.broken in said if incident.broken else not broken, "the point's findings say what is broken")
    _diff(stage, home, before, trace)
    return len(broken)


def _finding(finding: Json) -> str:
    """What is broken, without the statement that found it, and some of the keys."""
    first, rest = [key[:SHOWN_KEY] for key in finding["keys"][:3]], len(finding["keys"]) - 3
    what = finding["what"].partition(": SELECT")[0].rstrip(".: ")
    return f"{what}{': ' if first else ''}{', '.join(first)}{f' and {rest} more' if rest > 0 else ''}"


def _recover(stage: Stage, home: str, name: str, point: str) -> Judgement:
    """Restore, judge and promote with the real commands; P4: what is not proven is not promoted."""
    recovered = os.path.join(os.pardir, f"{name}-recovered")
    verdict = stage.resurgam(home, "verify", point[:8], "--into", recovered)["verdict"]
    judgement = Judgement(verdict["judgement"])
    yardsticks = " and ".join(sorted({part["yardstick"] for part in verdict["parts"]}))
    stage.say(f"{judgement.word} by {yardsticks}; {verdict['isolation']}")
    stage.expect(judgement.passes, f"what was recovered is proven (it is {judgement.word})")
    if judgement.passes:
        (promoted,) = stage.resurgam(home, "promote", recovered, "--yes")
        waited = output.seconds(promoted["outage"])
        stage.say(f"live: {promoted['live']}; clients waited {waited}; the damaged parts are kept beside it")
    return judgement


def _live_verdict(stage: Stage, home: str, point: str) -> Verdict:
    """How the live system in ``home`` behaves, judged by a point: what only questions can tell."""
    return msgspec.convert(stage.resurgam(home, "verify", point, "--live")["verdict"], Verdict)


def _golden(home: str, cast: Cast) -> dict[str, Json]:
    """The live system's answers to the golden questions; none where it cannot answer."""
    system = Context(os.path.join(home, DEFAULT_MANIFEST)).system
    probes = [probe for probe in system.probes if probe.name == cast.probe]
    (observation,) = observe(system, probes, LiveRunner(system.root))
    return dict(observation.answers)


def _found(part: Part) -> str:
    """What one probe noticed, in a few words."""
    return (
        f"{part.name}: {len(part.deviations)} of {part.cases} differ" if part.deviations else f"{part.name}: no answer"
    )


def _example(before: dict[str, Json], after: dict[str, Json], damaged: list[Part]) -> list[str]:
    """The first line of an answer that has become another one; else why there is none."""
    for case, was in before.items():
        lines = zip(_lines(was), _lines(after[case]), strict=False) if case in after else ()
        for old, new in lines:
            if old != new:
                return [f"  was: {_around(old, new)}", f"  now: {_around(new, old)}"]
    return [f"  {part.reason.removesuffix(')').rpartition('; it said: ')[2][:SHOWN]}" for part in damaged[:1]]


def _lines(answer: Json) -> list[str]:
    """What was answered; a thread has none, where it was asked how it stands."""
    return str(answer.get("text", "")).splitlines()


def _around(line: str, other: str) -> str:
    """The stretch of ``line`` where it parts from ``other``."""
    parted = next(
        (at for at, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), min(len(line), len(other))
    )
    start = max(0, parted - SHOWN // 2)
    stretch = line[start : start + SHOWN]
    return f"{'…' if start else ''}{stretch}{'…' if start + SHOWN < len(line) else ''}"


def _tickets(path: str) -> int:
    with closing(sqlite3.connect(path, timeout=30)) as database:
        (count,) = database.execute("SELECT count(*) FROM tickets").fetchone()
    return int(count)


def _size(point: Json) -> str:
    total = sum(part["bytes"] for part in point["snapshots"])
    return f"{output.size(total)} in {len(point['snapshots'])} components"


def _show_end(into: str, rows: list[Row], wrong: list[str], seconds: float) -> None:
    captured = any(row.findings is not None for row in rows)  # the damages, that is
    columns = ["incident", "naive checks", "probes", *(["capture says"] if captured else []), "recovered", "answers"]
    output.line()
    output.table([*columns, "seconds"], [_cells(row, captured) for row in rows], ["seconds"])
    output.line()
    for what in wrong:
        output.line(f"NOT AS TOLD: {what}", style="bold red")
    output.line(f"{seconds:.0f} s in all. Everything is in {into}; remove that folder when you have seen enough.")
    output.line("On your own system:", style="bold")
    for command, what in OWN:
        output.line(f"  {command:<35}{what}")


def _cells(row: Row, captured: bool) -> list[str]:
    return [
        row.incident,
        f"{sum(check.ok for check in row.naive)} of {len(row.naive)} ok",
        row.found,
        *([_told(row.findings)] if captured else []),
        row.verdict,
        "as before" if row.answers_again else "OTHER",
        f"{row.seconds:.1f}",
    ]


def _told(findings: int | None) -> str:
    return "not asked" if findings is None else f"{findings} broken" if findings else "no finding"
