"""hold add, list, lift; quarantine: what must stay, and what must not go to production."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

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
from resurgam.errors import TargetRefused, UsageError
from resurgam.vault import holds
from resurgam.vault.approvals import plan_digest
from resurgam.vault.history import Hold, Quarantined
from resurgam.vault.policies import ACT, store_time
from resurgam.vault.records import RecordType
from resurgam.vault.retention_words import at
from resurgam.vault.signing import Role

app = typer.Typer(no_args_is_help=True, help="Points that must stay, whatever any policy says.", rich_markup_mode=None)
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; signed, in the clear, and shown ever after.")]


@app.command("add")
def add(
    point: PointArgument,
    reason: ReasonOption,
    owner: Annotated[str, typer.Option("--owner", help="Who answers for it; signed, in the clear.")],
    until: Annotated[
        str | None,
        typer.Option("--until", help="The last day, or a time (UTC without an offset); until lifted if not given."),
    ] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Hold a point: it stays, whatever any policy says.

    Signed with the approver's key. A point may be held several times, each for its own reason; it stays until the last hold is
    lifted, or over by the store's clock.

    Examples:

        resurgam hold add latest --reason "case 118" --owner legal

        resurgam hold add 3fa9 --reason "audit 2026" --owner finance --until 2027-01-31
    """
    context = Context(manifest, vault, keys)
    sealed = context.point(point)
    asked = Hold(id="", reason=output.on_one_line(reason), owner=output.on_one_line(owner), until=_moment(until))
    made = holds.add(context.repository, sealed, asked, context.clock)
    if json:
        output.as_json({"point": sealed.body.id, "hold": made})
        return 0
    output.line(f"point {sealed.body.id} is held by {made.owner}: {made.reason}", style="bold")
    over = f"until {at(made.until)}, or before" if made.until is not None else "until"
    output.line(f"  {over} `resurgam hold lift {made.id}`")
    return 0


@app.command("list")
def list_(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """List the holds that nobody lifted, of every system in the vault.

    Examples:

        resurgam hold list
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    found, now = holds.standing(repository), store_time(repository.store)
    if json:
        output.as_json([{"held": held, "stands": held.hold.stands(now)} for held in found])
        return 0
    rows = [
        [held.hold.id, held.point, held.system, held.hold.owner, _until(held.hold, now), held.hold.reason]
        for held in found
    ]
    if rows:
        output.table(["hold", "point", "system", "owner", "until (UTC)", "reason"], rows)
    else:
        output.line("nothing is held")
    for why in (*repository.refused_points, *repository.refused_records):
        output.warning(f"not listed: {why} Run `resurgam vault check`.")
    return 0


@app.command("lift")
def lift(
    hold: Annotated[str, typer.Argument(help="The beginning of a hold's id: `resurgam hold list` shows them.")],
    reason: ReasonOption,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """End one hold.

    Prints what stands, and acts with --yes only. Signed with the approver's key; where the vault asks for several approvers
    (retention), they say yes first. Other holds on the same point stand.

    Examples:

        resurgam hold lift 9c41 --reason "case 118 is closed"

        resurgam hold lift 9c41 --reason "case 118 is closed" --yes
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    held = holds.find(repository, hold)
    lifted = holds.lifting(held.hold, output.on_one_line(reason))
    digest = plan_digest(repository, ACT, lifted)
    if not json:
        output.line(f"Lift hold {held.hold.id} from point {held.point} of {held.system}", style="bold")
        output.line(f"  it was held by {held.hold.owner}: {held.hold.reason}")
        others = [other.hold for other in holds.standing(repository) if other.point == held.point and other != held]
        for other in others:
            output.line(f"  still held by {other.owner}: {other.reason} (hold {other.id})")
    if yes:
        holds.lift(repository, held, lifted, context.clock)
    if json:
        output.as_json({"held": held, "lifted": yes, "plan": digest})
    else:
        output.line("lifted" if yes else f"nothing was changed: --yes does it (plan {digest})")
    return 0


def quarantine(
    point: PointArgument,
    reason: ReasonOption,
    lift: Annotated[bool, typer.Option("--lift", help="End the quarantine.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Keep a point from going to production.

    It still restores, and it stays as long as any; `recover` passes it by and `promote` refuses it until the quarantine is lifted.
    Signed with the approver's key.

    Examples:

        resurgam quarantine 3fa9 --reason "a stolen credential wrote here"

        resurgam quarantine 3fa9 --lift --reason "false alarm"
    """
    context = Context(manifest, vault, keys)
    repository, sealed = context.repository, context.point(point)
    if lift and repository.state(sealed).quarantined is None:
        raise TargetRefused(
            f"Point {sealed.body.id} is not in quarantine.",
            untouched="Nothing was changed.",
            next_step="`resurgam show` tells how a point stands.",
        )
    body = Quarantined(reason=output.on_one_line(reason), lifted=lift)
    if not body.reason:
        raise UsageError("A quarantine needs a reason.", untouched="Nothing was changed.", next_step="Give one.")
    name = repository.put_record(RecordType.QUARANTINE, sealed.body.id, body, Role.APPROVER, context.clock)
    if json:
        output.as_json({"point": sealed.body.id, "quarantined": not lift, "record": name})
    else:
        how = "is out of quarantine" if lift else "is in quarantine: nothing promotes it"
        output.line(f"point {sealed.body.id} {how}")
    return 0


def _moment(words: str | None) -> float | None:
    """When a hold is over, seconds since 1970: a day is over with its last second, in UTC."""
    if words is None:
        return None
    try:
        moment = datetime.fromisoformat(words)
    except ValueError as error:
        raise UsageError(
            f"{words!r} is not a date.",
            untouched="Nothing is held.",
            next_step="Write 2027-01-31, or 2027-01-31T12:00.",
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    whole_day = re.fullmatch(r"\d{4}-?\d{2}-?\d{2}|\d{4}-?W\d{2}(-?\d)?", words) is not None
    return (moment + timedelta(days=whole_day)).timestamp()


def _until(hold: Hold, now: float) -> str:
    if hold.until is None:
        return "it is lifted"
    return at(hold.until) if hold.stands(now) else f"{at(hold.until)}, over"
