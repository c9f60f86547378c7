"""demo: the whole way on a real system, in under two minutes. Nothing in it is told that was not measured while you watched.

    build the handbook -> ask -> vault, preflight -> capture while it is written to -> change, capture, diff -> verify
    -> four incidents on copies, each: naive checks, probes, restore, verdict, promote, ask again -> a table

Every step that a person would take is the real command, in a process of its own (``demo_stage``). What came out is compared
with what the story says; whatever is otherwise is told, and makes the exit code 1.
"""

from __future__ import annotations

import json as json_format
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from typing import Annotated, NamedTuple

import msgspec
import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption
from resurgam.cli.demo_incidents import DATABASE, INCIDENTS, Check, Incident, naive_checks, remember
from resurgam.cli.demo_stage import PATIENCE, Stage, empty_folder
from resurgam.model.system import Json
from resurgam.model.verdict import Judgement, Part, Verdict
from resurgam.probes.runner import LiveRunner
from resurgam.proof.observe import observe
from resurgam.restore.sandbox import available

QUESTION = "How do I acquire a lock in a thread and release it again?"  # the golden case `lock`
RATE = 200  # transactions a second of the writer
SHOWN = 100  # characters of a line of an answer


class Row(NamedTuple):
    """A line of the table at the end. ``found`` is what the first probe noticed; ``seconds`` go from the first command of the
    recovery to the answer after it."""

    incident: str
    naive: tuple[Check, ...]
    probes: str
    found: str
    verdict: str
    answers_again: bool
    seconds: float


def demo(
    into: Annotated[str, typer.Option("--into", help="The folder to build everything in.")] = "resurgam-demo",
    json: JsonOption = False,
) -> int:
    """Show the whole way on a real system.

    Captures it, damages it four times, brings it back, and proves it each time.

    Builds a question-answering service in a folder, with its own vault and keys; an earlier demo there is replaced.
    Nothing outside of that folder is touched. Exit code 1 when any step went otherwise than it should.

    Examples:

        resurgam demo

        resurgam demo --into /tmp/show --json
    """
    began = time.monotonic()
    stage = Stage(empty_folder(into), quiet=json)
    rows = _story(stage)
    seconds = time.monotonic() - began
    if json:
        plain = [row._asdict() | {"naive": [check._asdict() for check in row.naive]} for row in rows]
        output.as_json({"rows": plain, "wrong": stage.wrong, "seconds": seconds})
    else:
        _show_end(into, rows, stage.wrong, seconds)
    return 1 if stage.wrong else 0


def _story(stage: Stage) -> list[Row]:
    """All of it, in order."""
    home = os.path.join(stage.folder, "handbook")
    stage.heading("1  A system: documents, a trained router, prompts, policies, configuration")
    isolated = _build(stage, home)
    stage.heading("2  It answers")
    stage.say(*stage.ask(home, QUESTION).splitlines())
    stage.heading("3  A vault for it, and what a capture will need")
    _prepare(stage, home, isolated)
    stage.heading("4  Captured while customers write to it; then changed, and captured again")
    _capture_under_load(stage, home)
    _change_and_diff(stage, home)
    stage.heading("5  Proven: restored in isolation, and asked the same questions")
    _prove(stage, home)
    return [_incident(stage, number, incident, home) for number, incident in enumerate(INCIDENTS, 6)]


def _build(stage: Stage, home: str) -> bool:
    isolated, why = available()
    if not isolated:
        stage.say(f"This machine cannot isolate what is restored ({why}); the manifest accepts that by name.")
    built = stage.setup(home, "required" if isolated else "best-effort")
    stage.say(
        f"{built['chunks']} chunks of {built['documents']} documents (the help of this Python, PSF-2.0), "
        f"in {built['sections']} sections;",
        f"a router trained here: {built['accuracy']:.0%} of unseen chunks in the right section "
        f"({built['guessing']:.0%} by guessing).",
    )
    return isolated


def _prepare(stage: Stage, home: str, isolated: bool) -> None:
    keys = stage.resurgam(home, "vault", "init")["keys"]
    stage.say(
        f"{len(keys)} key files, readable by you only; it says what each is for, and which belong on another machine"
    )
    report = stage.resurgam(home, "preflight")
    stage.expect(report["ok"] and report["isolated"] == isolated, "preflight finds everything that a capture needs")
    stage.say(f"{len(report['components'])} components reachable, {output.size(report['bytes'])} to read")


def _capture_under_load(stage: Stage, home: str) -> None:
    before = _tickets(home)
    with stage.writer(home, RATE, begun=lambda: _tickets(home) > before) as writer:
        point = stage.resurgam(home, "capture")
        stage.expect(writer.poll() is None, "the writer was still at work when the capture was done")
        during = _tickets(home) - before
        writer.send_signal(signal.SIGTERM)
        written = json_format.loads(writer.communicate(timeout=PATIENCE)[0])
    stage.expect(_tickets(home) == before + written["tickets"], "every ticket that was confirmed is there")
    stage.say(
        f"point {point['id'][:8]}: {_size(point)}, freeze {output.seconds(point['freeze'])}; {during} tickets were written "
        f"meanwhile, the slowest waited {output.seconds(written['longest'])}"
    )
    stage.say(_judged(stage, home))


def _change_and_diff(stage: Stage, home: str) -> None:
    with closing(sqlite3.connect(os.path.join(home, DATABASE))) as database, database:
        database.execute("UPDATE tickets SET state = 'reopened' WHERE id IN (1, 2)")
    with open(os.path.join(home, "prompts", "unknown.md"), "a", encoding="utf-8") as file:
        file.write("It may take a day.\n")
    stage.say("(two tickets are reopened, and a prompt gets another line)")
    first = stage.resurgam(home, "points", tell=False)[0]["id"]
    point = stage.resurgam(home, "capture")
    stored = sum(part["stored"] for part in point["snapshots"])
    stage.say(f"point {point['id'][:8]}: {_size(point)}, {output.size(stored)} of it new in the vault")
    shown = stage.resurgam_shown(home, "diff", first[:8], "latest", "--limit", "2")
    stage.expect("unknown.md" in shown, "the diff names the prompt that was changed")


def _prove(stage: Stage, home: str) -> None:
    stage.say(_judged(stage, home))
    live = _live_verdict(stage, home)
    stage.expect(live.judgement is Judgement.IDENTICAL, "the live system behaves as its newest point")
    stage.say(f"{live.judgement.word}: the live system, asked the same")


def _judged(stage: Stage, home: str) -> str:
    verdict = stage.resurgam(home, "verify", "latest")["verdict"]
    judgement = Judgement(verdict["judgement"])
    stage.expect(judgement.passes, f"the point is proven (it is {judgement.word})")
    cases = sum(part["cases"] for part in verdict["parts"])
    return (
        f"{judgement.word}: {cases} answers of the copy against those of the live system at the cut; "
        f"{verdict['isolation']}, {output.seconds(verdict['seconds'])}"
    )


def _incident(stage: Stage, number: int, incident: Incident, origin: str) -> Row:
    stage.heading(f"{number}  {incident.title}")
    home = os.path.join(stage.folder, incident.name)
    shutil.copytree(origin, home, symlinks=True)
    healthy, golden = remember(home), _golden(home)
    stage.say(incident.strike(home, [answer["chunks"][0] for answer in golden.values() if answer["chunks"]]))
    naive = naive_checks(home, healthy)
    stage.say(f"naive checks: {'; '.join(f'{check.name}: {check.found}' for check in naive)}")
    noticed = tuple(check.name for check in naive if not check.ok)
    stage.expect(noticed == incident.noticed, f"{incident.noticed or 'none'} of the naive checks notice it")
    live = _live_verdict(stage, home)
    damaged = list(
        {part.name: part for part in live.parts if not part.judgement.passes}.values()
    )  # whatever the yardstick
    stage.expect(live.judgement is Judgement.DIFFERENT, "the probes notice it")
    found = "; ".join(map(_found, damaged))
    stage.say(f"{live.judgement.word}: {found}", *_example(golden, _golden(home), damaged))
    began = time.monotonic()
    verdict = _recover(stage, home, incident.name)
    answer = stage.ask(home, QUESTION) if verdict.passes else ""
    seconds = time.monotonic() - began
    again = verdict.passes and answer == golden["lock"]["text"] and _golden(home) == golden
    stage.expect(again, "it answers as before")
    if again:
        stage.say(
            f"all {len(golden)} answers are as before; {output.seconds(seconds)} after the recovery's first command"
        )
    first = _found(damaged[0]) if damaged else live.judgement.word
    return Row(incident.name, naive, live.judgement.word, first, verdict.word, again, seconds)


def _recover(stage: Stage, home: str, name: str) -> Judgement:
    """Restore, judge and promote with the real commands; P4: what is not proven is not promoted."""
    recovered = os.path.join(os.pardir, f"{name}-recovered")
    verdict = stage.resurgam(home, "verify", "latest", "--into", recovered)["verdict"]
    judgement = Judgement(verdict["judgement"])
    yardsticks = " and ".join(sorted({part["yardstick"] for part in verdict["parts"]}))
    stage.say(f"{judgement.word} by {yardsticks}; {verdict['isolation']}")
    stage.expect(judgement.passes, f"what was recovered is proven (it is {judgement.word})")
    if judgement.passes:
        (promoted,) = stage.resurgam(home, "promote", recovered, "--yes")
        waited = output.seconds(promoted["outage"])
        stage.say(f"live: {promoted['live']}; clients waited {waited}; the damaged parts are kept beside it")
    return judgement


def _live_verdict(stage: Stage, home: str) -> Verdict:
    """How the live system in ``home`` behaves, judged by the newest point: what only questions can tell."""
    return msgspec.convert(stage.resurgam(home, "verify", "latest", "--live")["verdict"], Verdict)


def _golden(home: str) -> dict[str, Json]:
    """The live system's answers to the golden questions; none where it cannot answer."""
    system = Context(os.path.join(home, DEFAULT_MANIFEST)).system
    probes = [probe for probe in system.probes if probe.name == "golden"]
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
        lines = zip(was["text"].splitlines(), after[case]["text"].splitlines(), strict=False) if case in after else ()
        for old, new in lines:
            if old != new:
                return [f"  was: {_around(old, new)}", f"  now: {_around(new, old)}"]
    return [f"  {part.reason.removesuffix(')').rpartition('; it said: ')[2][:SHOWN]}" for part in damaged[:1]]


def _around(line: str, other: str) -> str:
    """The stretch of ``line`` where it parts from ``other``."""
    parted = next(
        (at for at, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), min(len(line), len(other))
    )
    start = max(0, parted - SHOWN // 2)
    stretch = line[start : start + SHOWN]
    return f"{'…' if start else ''}{stretch}{'…' if start + SHOWN < len(line) else ''}"


def _tickets(home: str) -> int:
    with closing(sqlite3.connect(os.path.join(home, DATABASE), timeout=30)) as database:
        (count,) = database.execute("SELECT count(*) FROM tickets").fetchone()
    return int(count)


def _size(point: Json) -> str:
    total = sum(part["bytes"] for part in point["snapshots"])
    return f"{output.size(total)} in {len(point['snapshots'])} components"


def _show_end(into: str, rows: list[Row], wrong: list[str], seconds: float) -> None:
    output.line()
    output.table(
        ["incident", "naive checks", "probes", "recovered", "answers", "seconds"],
        [
            [
                row.incident,
                f"{sum(check.ok for check in row.naive)} of {len(row.naive)} ok",
                row.found,
                row.verdict,
                "as before" if row.answers_again else "OTHER",
                f"{row.seconds:.1f}",
            ]
            for row in rows
        ],
        ["seconds"],
    )
    output.line()
    for what in wrong:
        output.line(f"NOT AS TOLD: {what}", style="bold red")
    output.line(
        f"{output.seconds(seconds)} in all. Everything is in {into}; remove that folder when you have seen enough."
    )
    output.line("On your own system:", style="bold")
    for command, what in (
        ("resurgam init", "write a manifest for what is found in this folder; then edit it"),
        ("resurgam vault init", "make the vault and its keys; take the recovery key off this machine"),
        ("resurgam preflight", "what a capture will need, cost and cause"),
        ("resurgam capture", "take a recovery point"),
        ("resurgam verify latest --into DIR", "restore it in isolation, ask it, judge it"),
        ("resurgam verify latest --live", "ask the live system, and judge it by the newest point"),
        ("resurgam promote DIR", "bring the proven copies live, with a way back"),
    ):
        output.line(f"  {command:<35}{what}")
