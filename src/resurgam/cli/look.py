"""open, export, detach: a point to look at, a point to keep without Resurgam, and a host without Resurgam."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    LATEST,
    AsOfOption,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    PointArgument,
    VaultsOption,
    duration,
)
from resurgam.drivers.registry import driver_for
from resurgam.errors import LimitExceeded, UsageError
from resurgam.model.point import Particulars, PointBody
from resurgam.probes.base import MAX_OUTPUT
from resurgam.restore import detach as leave
from resurgam.restore import export as native_export
from resurgam.restore import look
from resurgam.restore.run import Progress
from resurgam.restore.state import place_of
from resurgam.vault.keyring import Keyring
from resurgam.vault.scratch import scratch

_PERSONAL = "it may hold personal data, decrypted: only your user can read it here"


def open_(
    point: PointArgument,
    command: Annotated[
        list[str] | None,
        typer.Argument(help="A command to run against the copies, after `--`; {name} is a component's copy."),
    ] = None,
    component: Annotated[list[str] | None, typer.Option(help="Only this component; may be given again.")] = None,
    into: Annotated[str | None, typer.Option("--into", help="The folder; else one in this host's state.")] = None,
    discard: Annotated[bool, typer.Option("--discard", help="Remove the copies again.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="The longest that the command may take.")] = "1h",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> int:
    """Restore a copy to look at.

    Tells where each component's copy is and how to look at it. The copies are used again as long as they are intact, and are not
    promoted. With a command the copies are private and removed afterwards (kept with --into); it runs in isolation: no network,
    and nothing that is live. Its exit code is passed on.

    Examples:

        resurgam open latest

        resurgam open 3fa9 --component documents -- sqlite3 {documents} .tables

        resurgam open latest --discard
    """
    context = Context(manifest, vault, keys, as_of=as_of)
    body = context.point(point).body
    names = tuple(component or ())
    if discard:
        removed = look.discard(into) if into else look.discard(look.folder_of(body.system), body.id)
        if json:
            output.as_json({"removed": removed})
        else:
            output.line(f"removed {', '.join(removed)}")
        return 0
    if command and json:
        raise UsageError(
            "--json and a command cannot be given together: the command's own output is the answer.",
            untouched="Nothing was restored.",
            next_step="Leave out one of the two.",
        )
    particulars = context.repository.particulars(body)
    if command and into is None:
        with scratch("open") as folder:
            opened = _opened(context, body, particulars, os.path.join(folder, "copies"), names, json)
            return _run(context, opened, command, particulars, duration(timeout))
    opened = _opened(context, body, particulars, into or look.folder_of(body.system, body.id, names), names, json)
    if command:
        return _run(context, opened, command, particulars, duration(timeout))
    if json:
        output.as_json({"directory": opened.directory, "again": opened.again, "restored": opened.restored})
    else:
        _show_opened(opened)
    return 0


def export(
    into: Annotated[str, typer.Option("--into", help="A folder that does not exist yet.")],
    point: PointArgument = LATEST,
    native: Annotated[bool, typer.Option("--native", help="Each component as its own store keeps it.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> int:
    """Lay a point out as plain folders and files.

    Nothing of Resurgam is needed to read them: README.txt says what is where, point.json what is known of the point, and
    SHA256SUMS checks every file. The folder appears under its name when it is whole.

    Examples:

        resurgam export --native latest --into /mnt/usb/handbook
    """
    if not native:
        raise UsageError(
            "Say in which form to export.",
            untouched="Nothing was written.",
            next_step="Give --native: plain folders and files, each component as its own store keeps it.",
        )
    context = Context(manifest, vault, keys, as_of=as_of)
    body = context.point(point).body
    particulars = context.repository.particulars(body)
    with output.progress(f"export {body.id}", sum(s.bytes for s in body.snapshots), json) as advance:
        done = native_export.export(
            context.repository, body, particulars, into, driver_for, context.clock, progress=_each(advance)
        )
    if json:
        output.as_json({"directory": os.path.abspath(into), "point": body.id, "copies": done.copies})
        return 0
    output.line(f"exported point {body.id} into {into} in {output.seconds(done.seconds)}", style="bold")
    for name, copy in done.copies.items():
        output.line(f"  {name}: {os.path.join(into, copy.place)}  {output.size(copy.bytes)}")
    output.line(f"  {native_export.README} says how to read it; `sha256sum -c {native_export.SUMS}` checks it")
    output.line(f"  {_PERSONAL}, and what you copy is yours to protect")
    return 0


def detach(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Remove everything that Resurgam put on this host.

    The barrier's files, what killed runs left beside components, opened copies, this host's notes on the system. Prints the plan,
    and acts with --yes only. The system, the manifest, the vault and its keys are never touched.

    Examples:

        resurgam detach

        resurgam detach --yes
    """
    context = Context(manifest, keys=keys)
    vault = Keyring(keys or context.system.vault.keys).vault.hex()
    traces = leave.find(context.system, manifest, vault, context.clock)
    plan = leave.plan(traces)
    if not json:
        output.line(plan.title, style="bold")
        for step in plan.steps:
            output.line(f"  {step.verb}: {step.what}{f'  {output.size(step.bytes)}' if step.bytes else ''}")
    if yes:
        leave.remove(traces, vault)
    if json:
        output.as_json({"plan": plan, "done": yes})
    else:
        output.line("done" if yes else "nothing was removed: --yes does it")
    return 0


def _opened(
    context: Context, body: PointBody, particulars: Particulars, directory: str, names: tuple[str, ...], json: bool
) -> look.Opened:
    with output.progress(f"open {body.id}", sum(s.bytes for s in body.snapshots), json) as advance:
        return look.open_copies(
            context.repository,
            body,
            particulars,
            directory,
            driver_for,
            context.clock,
            components=names,
            progress=_each(advance),
        )


def _each(advance: object) -> Progress | None:
    return (lambda _component, size: advance(size)) if callable(advance) else None


def _run(context: Context, opened: look.Opened, command: list[str], particulars: Particulars, timeout: float) -> int:
    own = context.system if context.system_name else None
    hide = context.named
    done = look.run(opened, command, particulars, own, driver_for, hide=hide, timeout=timeout)
    for stream, said in ((sys.stdout, done.output), (sys.stderr, done.errors)):
        stream.write(said.decode(errors="replace"))
        stream.flush()
    if done.timed_out or done.overflowed:
        why = (
            f"did not end within {output.seconds(timeout)}"
            if done.timed_out
            else f"printed more than {output.size(MAX_OUTPUT)}"
        )
        raise LimitExceeded(
            f"The command {why}, and was ended.",
            untouched="Nothing that is live was within its reach.",
            next_step="Give it more with --timeout, or let it print less.",
        )
    return done.code if done.code >= 0 else 128 - done.code


def _show_opened(opened: look.Opened) -> None:
    restored = opened.restored
    how = "stood there already, and is intact" if opened.again else f"restored in {output.seconds(restored.seconds)}"
    output.line(f"a copy of point {restored.point} is in {opened.directory} ({how})", style="bold")
    for name, copy in restored.copies.items():
        place = place_of(opened.directory, copy)
        output.line(f"  {name}: {place}  {output.size(copy.bytes)}")
        output.line(f"    {driver_for(copy.driver).traits.look.replace('{place}', shlex.quote(place))}")
    output.line("  it was not judged, and no promotion takes it: `resurgam verify` does that")
    output.line(f"  {_PERSONAL}; `resurgam open {restored.point} --discard` removes it")
