"""rebuild-env, coverage: the environment around a system's data, and what of a running system is not captured."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from resurgam.capture.coverage import Report
from resurgam.capture.coverage import coverage as look_at
from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    PointArgument,
    VaultOption,
)
from resurgam.errors import EXIT_DIFFERENT, EXIT_FINDINGS, EXIT_INCONCLUSIVE
from resurgam.model.codec import to_plain
from resurgam.model.verdict import Judgement
from resurgam.restore.environment import Likeness, Rebuilt, described, plan, rebuild
from resurgam.restore.installing import choose_python
from resurgam.restore.run import require_target
from resurgam.vault.retention_words import counted

_EXIT = {Judgement.DIFFERENT: EXIT_DIFFERENT, Judgement.INCONCLUSIVE: EXIT_INCONCLUSIVE}


def rebuild_env(
    point: PointArgument,
    into: Annotated[str, typer.Option("--into", help="A folder that does not exist yet.")],
    component: Annotated[
        str | None, typer.Option(help="The component, where the system has more than one environment.")
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", help="The interpreter to build with; else one of the captured version.")
    ] = None,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Put it in place even where packages could not be installed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Make a virtual environment like the captured one.

    Installs exactly the captured versions, from wherever your pip is configured to take them, reads the result as it was
    captured, and compares: interpreter, packages by digest, machine. Nothing appears under its name before it is whole.
    Exit code 0 where all that is compared is equal, 20 where the interpreter or a package differs or is missing, 21 where
    only the machine beneath does, or something cannot be restored.

    Examples:

        resurgam rebuild-env latest --into /srv/venv

        resurgam rebuild-env 3fa9 --into venv --python /usr/bin/python3.12 --dry-run
    """
    context = Context(manifest, vault, keys)
    body = context.point(point).body
    particulars = context.repository.particulars(body)
    found, environment = described(context.repository, body, particulars, component)
    program, into = choose_python(environment, python), os.path.abspath(into)
    if dry_run:
        require_target(into, particulars.system)
        steps = plan(environment, into, program)
        if json:
            output.as_json(steps)
        else:
            output.line(steps.title, style="bold")
            for number, step in enumerate(steps.steps, 1):
                output.line(f"  {number}. {step.verb}: {step.what}")
        return 0
    tell = output.note if output.watched() and not json else (lambda _step: None)
    rebuilt = rebuild(
        body.id, found, environment, into, program, particulars, context.clock, incomplete=incomplete, tell=tell
    )
    if json:
        output.as_json(to_plain(rebuilt) | {"judgement": rebuilt.judgement.word})
    else:
        _show_rebuilt(rebuilt, into)
    return _EXIT.get(rebuilt.judgement, 0)


def coverage(
    pid: Annotated[int, typer.Option("--pid", help="The process id of the running application.")],
    watch: Annotated[
        float, typer.Option("--watch", help="Go on looking for this many seconds.", min=0.0, max=86_400.0)
    ] = 0.0,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    json: JsonOption = False,
) -> int:
    """Compare what a running application uses with the manifest.

    Files that are open or mapped, connections, and names of environment variables, of the process and its children: what a
    component covers, what none does, and the lines to add. One look misses what is opened only briefly; `--watch` looks
    fifty times a second, and misses less. Exit code 0 where nothing is missing, 22 where something is.

    Examples:

        resurgam coverage --pid 4711

        resurgam coverage --pid 4711 --watch 60 --json
    """
    report = look_at(Context(manifest).system, pid, watch)
    if json:
        output.as_json(report)
    else:
        _show_coverage(report)
    return EXIT_FINDINGS if report.gaps else 0


def _show_rebuilt(rebuilt: Rebuilt, into: str) -> None:
    where = f"in {rebuilt.into}" if rebuilt.into else "NOT put in place, since packages are missing"
    output.line(f"{rebuilt.judgement.word}: environment of point {rebuilt.point} {where}", style="bold")
    unequal = [line for line in rebuilt.lines if line.likeness is not Likeness.EQUAL]
    if unequal:
        output.table(
            ["what", "captured", "here", ""],
            [(line.what, line.captured, line.here, line.likeness.value) for line in unequal],
        )
    for line in unequal:
        if line.why:
            output.line(f"  {line.what}: {line.why}")
    output.line(f"  {len(rebuilt.lines) - len(unequal)} of {len(rebuilt.lines)} compared things are equal")
    output.line(f"  installed with {rebuilt.installer} in {output.seconds(rebuilt.seconds)}")
    if rebuilt.into is None:
        output.line(f"  next: make those packages available to your installer, or accept {into} with --incomplete")


def _show_coverage(report: Report) -> None:
    looks = f"{report.looks} look{'' if report.looks == 1 else 's'} in {output.seconds(report.seconds)}"
    many = "" if len(report.processes) == 1 else "es"
    verdict = f"{counted(len(report.gaps), 'gap')}" if report.gaps else "nothing is missing"
    output.line(f"{report.system}: {verdict}; {len(report.processes)} process{many}, {looks}", style="bold")
    for covered in report.covered:
        output.line(f"  {covered.component} covers {covered.count} of what is used")
    for gap in report.gaps:
        output.line(f"  gap: {gap.what}", style="yellow")
        if len(gap.examples) > 1:
            output.line(f"    {', '.join(gap.examples)}")
        for line in gap.add:
            output.line(f"    add: {line.strip()}")
        if not gap.add:
            output.line("    no line can add it: name what is behind it as a component of its own, or accept it")
    told = ", ".join(f"{count} {what}" for what, count in report.summed.items() if count)
    output.line(f"  not listed: {told}" if told else "  nothing else is in use")
    output.line("  what was open only between two looks was not seen; what Python imported is closed at once")
