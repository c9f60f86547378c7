"""demo: the whole way on a real system, in some minutes. Nothing in it is told that was not measured while you watched.

    build a system -> ask -> vault, preflight -> capture while it is written to -> change, capture, diff -> verify, approve
    -> incidents on copies, and what must not alarm (``demo_acts``) -> a table, and a page about one verdict

The system is the helpdesk where its libraries are installed, else the handbook, which needs none; in what they differ stands in
``demo_helpdesk`` and ``demo_handbook``. Every step that a person would take is the real command, in a process of its own
(``demo_stage``). What came out is compared with what the story says; whatever is otherwise is told, and makes the exit code 1.
"""

from __future__ import annotations

import json as json_format
import os
import sqlite3
import time
from contextlib import closing
from enum import StrEnum
from importlib import metadata
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import JsonOption
from resurgam.cli.demo_acts import LANES, PAGE, Healthy, Row, can_draw, golden, play, play_all, show_diff
from resurgam.cli.demo_cast import Cast, Trace, remember
from resurgam.cli.demo_handbook import HANDBOOK
from resurgam.cli.demo_helpdesk import HELPDESK
from resurgam.cli.demo_stage import PATIENCE, Stage, empty_folder
from resurgam.errors import MissingExtra
from resurgam.model.system import Json
from resurgam.model.verdict import Judgement
from resurgam.restore.sandbox import available

INSTALL = "python -m pip install 'resurgam[helpdesk]'"
CHANGED_PROMPT = "unknown.md"
CHANGES = (
    Trace("documents / tickets", "~ 1"),
    Trace("documents / tickets", "~ 2"),
    Trace("prompts", f"~ {CHANGED_PROMPT}"),
)
OWN = (  # what to do with a system of one's own
    ("resurgam init", "write a manifest for what is found in this folder; then edit it"),
    ("resurgam vault init", "make the vault and its keys; take the recovery key off this machine"),
    ("resurgam preflight", "what a capture will need, cost and cause"),
    ("resurgam capture", "take a recovery point"),
    ("resurgam verify latest", "restore it in isolation, ask it, judge it"),
    ("resurgam reference approve latest", "say that these answers are right"),
    ("resurgam verify latest --live", "ask the live system, and judge it by the newest point"),
    ("resurgam recover", "bring the newest clean, proven point live, with a way back"),
)


class On(StrEnum):
    """The systems that the demo can play on."""

    HELPDESK = "helpdesk"
    HANDBOOK = "handbook"


CASTS = {On.HELPDESK: HELPDESK, On.HANDBOOK: HANDBOOK}


def demo(
    into: Annotated[str, typer.Option("--into", help="The folder to build everything in.")] = "resurgam-demo",
    on: Annotated[
        On | None, typer.Option("--on", help="The system to build: the helpdesk where its libraries are installed.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Play a few of the incidents only.")] = False,
    json: JsonOption = False,
) -> int:
    """Show the whole way on a real system.

    Captures it, damages copies of it, says what is different, brings each back, and proves it each time.

    Builds a support agent (or a service that only answers questions) in a folder, with its own vault and keys; an earlier demo
    there is replaced. What only looks like damage is played too, and must not be called different.
    Nothing outside of that folder is touched. Exit code 1 when any step went otherwise than it should.

    Examples:

        resurgam demo

        resurgam demo --quick

        resurgam demo --on handbook

        resurgam demo --into /tmp/show --json
    """
    began = time.monotonic()
    cast, why = played(on)
    stage = Stage(empty_folder(into), cast.name, quiet=json)
    if why:
        stage.say(why, indent="")
    rows = _story(stage, cast, quick)
    seconds = time.monotonic() - began
    page = os.path.join(stage.folder, PAGE)
    page = page if os.path.exists(page) else ""
    if json:
        plain = [row._asdict() | {"caught": row.caught._asdict()} for row in rows]
        output.as_json({"system": cast.name, "rows": plain, "wrong": stage.wrong, "page": page, "seconds": seconds})
    else:
        _show_end(into, rows, stage.wrong, page, seconds)
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


def _story(stage: Stage, cast: Cast, quick: bool) -> list[Row]:
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
    how = (
        "restored in isolation, asked the same questions, and approved as right" if isolated else "restored, and asked"
    )
    stage.heading(f"5  Proven: {how}")
    _prove(stage, home, isolated)
    healthy = Healthy(home, point, golden(home, cast), remember(home, cast.watched))
    return _acts(stage, cast, healthy, isolated, quick)


def _acts(stage: Stage, cast: Cast, healthy: Healthy, isolated: bool, quick: bool) -> list[Row]:
    """What befalls copies: damages and harmless things beside each other, then the damage that is captured as if it were none."""
    chosen = [act for act in (*cast.incidents, *cast.harmless) if act.few or not quick]
    beside = [act for act in chosen if not (act.level and act.captured)]
    alone = [act for act in chosen if act not in beside]
    stage.heading(
        f"6  {len(beside)} things that befall copies of it, {min(LANES, len(beside))} at a time: damages first, "
        "then what must not alarm"
    )
    rows = play_all(stage, cast, beside, healthy)
    if not isolated:
        stage.say("", "(What was captured as if it were healthy needs a reference, and that a host that can isolate.)")
        return rows
    stage.heading("7  A damage that was captured too: the copy is as the live system was, and that is the trouble")
    rows += [play(stage, cast, act, healthy) for act in alone]
    if cast.ending:
        cast.ending(stage, 8, os.path.join(stage.folder, alone[-1].name))
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
    show_diff(stage, home, first, *CHANGES)
    return str(point["id"])


def _prove(stage: Stage, home: str, isolated: bool) -> None:
    verdict = stage.resurgam(home, "verify", "latest")["verdict"]
    judgement = Judgement(verdict["judgement"])
    stage.expect(judgement.passes, f"the point is proven (it is {judgement.word})")
    cases = sum(part["cases"] for part in verdict["parts"])
    stage.say(
        f"{judgement.word}: {cases} answers of the copy against those of the live system at the cut; "
        f"{verdict['isolation']}, {output.seconds(verdict['seconds'])}"
    )
    if isolated:  # P4: what could see the live system leaves no baseline that could be approved
        stage.resurgam(home, "reference", "approve", "latest")


def _tickets(path: str) -> int:
    with closing(sqlite3.connect(path, timeout=30)) as database:
        (count,) = database.execute("SELECT count(*) FROM tickets").fetchone()
    return int(count)


def _size(point: Json) -> str:
    total = sum(part["bytes"] for part in point["snapshots"])
    return f"{output.size(total)} in {len(point['snapshots'])} components"


def _show_end(into: str, rows: list[Row], wrong: list[str], page: str, seconds: float) -> None:
    columns = ["what befell it", "naive checks", "verdict", "caught by level", "recovered", "seconds"]
    output.line()
    output.table(columns, [_cells(row) for row in sorted(rows, key=lambda row: row.harmless)], ["seconds"])
    output.line()
    for what in wrong:
        output.line(f"NOT AS TOLD: {what}", style="bold red")
    output.line(f"{seconds:.0f} s in all. Everything is in {into}; remove that folder when you have seen enough.")
    output.line("On your own system:", style="bold")
    for command, what in OWN:
        output.line(f"  {command:<35}{what}")
    if page:
        output.line("The verdict on what was captured as if it were healthy, as a page for a browser:", style="bold")
        output.line(f"  {page}")
    elif not can_draw():
        output.line(f"For a verdict as a page as well: {INSTALL}")


def _cells(row: Row) -> list[str]:
    return [
        row.name.replace("-", " ") + (" (harmless)" if row.harmless else ""),
        ", ".join(row.noticed) or "quiet",
        row.verdict,
        str(row.caught),
        row.recovered if row.answers_again or not row.recovered else f"{row.recovered}, OTHER ANSWERS",
        "" if row.seconds is None else f"{row.seconds:.1f}",
    ]
