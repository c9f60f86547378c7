"""points, show: what is in the vault."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from resurgam.cli import output, protection
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
)
from resurgam.model.codec import to_plain
from resurgam.model.point import Finding, PointBody, Severity
from resurgam.vault import naming
from resurgam.vault.history import PointState
from resurgam.vault.known import states
from resurgam.vault.lives import lives, words
from resurgam.vault.policies import store_time
from resurgam.vault.protected import Protected
from resurgam.vault.repository import Sealed
from resurgam.vault.retention_words import at


def points(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Only points with this tag; given again, with each of them.")
    ] = None,
    expired: Annotated[bool, typer.Option("--expired", help="Those that expired, of which records are left.")] = False,
    long: Annotated[bool, typer.Option("--long", help="Also all that each point is by now, with times.")] = False,
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> int:
    """List the recovery points, oldest first.

    Examples:

        resurgam points

        resurgam points --tag release-7

        resurgam points --long

        resurgam points --vault /mnt/vault --keys recovery.agekey --json
    """
    context = Context(manifest, vault, keys, as_of=as_of)
    only = context.system_name
    listed = context.repository.points(only, expired=expired)
    found = [sealed for sealed in listed if set(tag or ()) <= {*sealed.body.tags}]
    for name, what in protection.covered(context).items():
        output.warning(protection.told_covered(name, what))
    stand = states(context.repository, found)
    if json:
        until = (protection.of_all(context) if long and not expired else None) or {}
        told = ((sealed, sealed.body.id) for sealed in found)
        output.as_json([summary(context, sealed, stand[point], until.get(point)) for sealed, point in told])
        return 0
    tagged = any(sealed.body.tags for sealed in found)
    columns = ["point", "sealed (UTC)", "size", "new", "verdict", "findings", *(["tags"] if tagged else [])]
    columns += ["states"] if long else []
    now = store_time(context.repository.store) if long else None
    guarded = protection.of_all(context) if long and not expired else None
    columns += ["protected until (UTC)"] if guarded is not None else []
    rows = []
    for sealed in found:
        body, state = sealed.body, stand[sealed.body.id]
        rows.append(
            [
                body.id,
                body.sealed[:19].replace("T", " "),
                output.size(sum(s.bytes for s in body.snapshots)),
                output.size(sum(s.stored for s in body.snapshots)),
                state.word,
                _counts(body.findings),
                *([" ".join(body.tags)] if tagged else []),
                *([words(lives(context.repository, sealed, now=now, state=state))] if long else []),
                *([protection.when(guarded.get(body.id))] if guarded is not None else []),
                *([body.system] if only is None else []),
            ]
        )
    if rows:
        output.table(columns if only else [*columns, "system"], rows, ["size", "new"])
    else:
        none = "no point expired" if expired else "no recovery point yet: run `resurgam capture`"
        output.line("no point has these tags" if tag else none)
    for why in context.repository.refused_points:
        output.warning(f"not listed: {why} Run `resurgam vault check`.")
    for why in context.repository.disowned:
        output.note(f"not listed: {why}")
    for why in context.repository.refused_records:
        output.warning(f"verdict not known: {why} Run `resurgam vault check`.")
    return 0


def show(
    point: PointArgument = LATEST,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> int:
    """Show one point.

    Its components, its cut, its findings, and what became known of it later.

    What only a reader's key opens is left out where there is none.

    Examples:

        resurgam show latest

        resurgam show 3fa9 --json
    """
    context = Context(manifest, vault, keys, as_of=as_of)
    sealed = context.point(point, expired=True)
    over = context.repository.prunes().expired.get(sealed.body.id)
    guarded = protection.of_point(context, sealed.body.id) if over is None else None
    details = None
    if context.repository.keyring.can_read and over is None:
        details = context.repository.particulars(sealed.body)
    body, state = sealed.body, context.repository.state(sealed)
    if json:
        output.as_json(summary(context, sealed, state, guarded) | {"particulars": to_plain(details)})
        return 0
    output.line(f"point {body.id} of {body.system}", style="bold")
    if over is not None:
        told = naming.expired(body.id, over)
        output.warning(f"{told.message} {told.untouched} {told.next_step}")
    output.line(f"  sealed {body.sealed}, begun {body.started}, with Resurgam {body.resurgam}")
    cut(body)
    if body.tags:
        output.line(f"  tags: {' '.join(body.tags)}")
    output.line(f"  verdict: {state.word}")
    now = store_time(context.repository.store)
    output.line(f"  states: {words(lives(context.repository, sealed, now=now, checks=True, state=state))}")
    if guarded is not None:
        output.line(f"  {protection.told(guarded)}")
    for hold in state.holds:
        until = f" until {at(hold.until)}" if hold.until is not None else ""
        output.line(f"  hold {hold.id} by {hold.owner}: {hold.reason}{until}")
    if body.host_can_read:
        output.line("  the host that captured it could also read the vault")
    output.table(
        ["component", "driver", "items", "size", "new", "consistency (asked)"],
        [
            [s.component, s.driver, s.items, output.size(s.bytes), output.size(s.stored), f"{s.earned} ({s.asked})"]
            for s in body.snapshots
        ],
        ["items", "size", "new"],
    )
    if details is None and over is None:
        output.line("  the rest opens with a reader's key")
    elif details is not None:
        findings(details.findings)
        if body.answers and not context.repository.opens(body.evidence):
            output.line(f"  {_closed(context, body)}")
    if state.damaged is not None:
        output.warning(f"what became known of it later is not shown: {state.damaged} Run `resurgam vault check`.")
        return 0
    for record in context.repository.records(body.id):
        output.line(f"  {record.made[:19]}  {record.type} by {record.by} ({record.signer})")
    return 0


def _closed(context: Context, body: PointBody) -> str:
    when = context.repository.shredded(body.evidence)
    what = "what was answered around the capture, and the keys that findings name,"
    return f"{what} were shredded on {when[:10]}" if when else f"{what} open with {body.evidence}.agekey"


def summary(context: Context, sealed: Sealed, state: PointState, guarded: Protected | None = None) -> dict[str, object]:
    """A point as JSON: its record's body, its ``state``, all that it is, when the vault received it, and until when it is
    ``guarded`` by locks, where that was looked at."""
    plain: dict[str, object] = to_plain(sealed.body)
    plain["protected"] = to_plain(guarded)
    plain["states"] = to_plain(lives(context.repository, sealed, state=state))
    return plain | {"state": to_plain(state), "received": sealed.received}


def cut(body: PointBody) -> None:
    """The cut of a point for people: how long writers were held, each store's part in it, and by what barrier."""
    freezes = ", ".join(f"{name} {output.seconds(seconds)}" for name, seconds in body.freezes.items())
    each = f" ({freezes})" if len(body.freezes) > 1 else ""
    output.line(f"  freeze {output.seconds(body.freeze)}{each}, skew {output.seconds(body.skew)}")
    if body.barrier is not None:
        passed = ", and PASSED by a writer" if body.barrier.passed else ""
        output.line(
            f"  barrier by {body.barrier.kind}, waited for {output.seconds(body.barrier.waited)}, "
            f"held {output.seconds(body.barrier.held)}{passed}"
        )


def findings(found: Iterable[Finding]) -> None:
    """Findings for people."""
    style = {Severity.BROKEN: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
    for finding in found:
        where = f"{finding.component}: " if finding.component else ""
        output.line(f"  {finding.severity.value}: {where}{finding.what}", style=style[finding.severity])
        if finding.keys:
            output.line(f"    {', '.join(finding.keys)}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {severity}" for severity, count in counts.items() if count) or "none"
