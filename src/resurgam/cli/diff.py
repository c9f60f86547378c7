"""diff: what changed between two points, in the language of what changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    AsOfOption,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    PointArgument,
    VaultsOption,
)
from resurgam.drivers.registry import driver_for
from resurgam.model.codec import to_plain
from resurgam.model.point import PointBody
from resurgam.model.secrets import masked
from resurgam.restore.contents import Change, Contents, require_components
from resurgam.restore.differences import Value, printable
from resurgam.vault.compare import compare_points
from resurgam.vault.repository import Repository


def diff(
    a: PointArgument,
    b: PointArgument,
    component: Annotated[list[str] | None, typer.Option(help="Only this component; may be given again.")] = None,
    stat: Annotated[
        bool, typer.Option("--stat", help="Names and counts only: reads a few pages, restores nothing.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most this many per table or component; 0 for all.", min=0)] = 50,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> int:
    """Show what differs between two points.

    Files as text, rows by column, vectors by how far they moved, tensors by the norm of the difference, packages by version.

    Values of rows are read from private copies of the components that changed, which are removed again; a component of more
    than 2 GiB is restored only where it is named with --component. What looks like a secret is shown as ***. With --stat
    nothing is restored.

    Examples:

        resurgam diff 3fa9 latest

        resurgam diff 3fa9 latest --stat

        resurgam diff 2026-11-20T00:00 latest --component documents --limit 5 --json
    """
    context = Context(manifest, vault, keys, as_of=as_of)
    if not context.repository.keyring.can_read:
        _ = context.repository.keyring.identities  # says which key is missing
    points = context.point(a).body, context.point(b).body
    named = component or []
    contents = Contents(context.repository, points, driver_for, masked, named=named, limit=limit)
    began = context.clock.monotonic()
    changes = _names(context.repository, points, named) if stat else contents.changes()
    if json:
        output.as_json([_plain(change) for change in changes])
        return 0
    total = 0
    by_place = groupby(changes, key=lambda change: change.difference[:3])
    for (name, kind, where), group in by_place:
        total += _show_group(name, kind, where, group, limit)
    between = f"difference{'' if total == 1 else 's'} between {points[0].id} and {points[1].id}"
    output.line(f"{total} {between}" if total else "no difference")
    cost = contents.cost
    if cost.bytes:
        copies = f" with {cost.copies} private cop{'y' if cost.copies == 1 else 'ies'}" if cost.copies else ""
        took = output.seconds(context.clock.monotonic() - began)
        output.line(f"  values: {output.size(cost.bytes)} read{copies} in {took}; --stat names only", style="dim")
    return 0


def _names(repository: Repository, points: tuple[PointBody, PointBody], named: list[str]) -> Iterator[Change]:
    require_components(points, named)
    found = compare_points(*points, repository)
    return (Change(difference) for difference in found if not named or difference.component in named)


def _plain(change: Change) -> dict[str, object]:
    """As JSON: the difference, and where they were read, its values."""
    plain = change.difference._asdict() | {"key": masked(change.difference.key)}
    if change.values:
        plain["values"] = to_plain(change.values)
    return plain | ({"unread": change.unread} if change.unread else {})


def _show_group(component: str, kind: str, where: str, group: Iterable[Change], limit: int) -> int:
    place = f"{component}{' / ' + where if where else ''}"
    output.line(printable(place) + (" (rows)" if kind == "row" else ""), style="bold")
    total, reasons = 0, dict[str, None]()
    for change in islice(group, limit or None):
        total += 1
        _show(change)
        reasons |= {change.unread: None} if change.unread else {}
    for reason in reasons:
        output.line(f"  {reason}", style="dim")
    rest = sum(1 for _ in group)
    if rest:
        output.line(f"  ... and {rest} more (--limit 0 shows all)")
    return total + rest


def _show(change: Change) -> None:
    difference = change.difference
    output.line(f"  {difference.sign} {printable(masked(difference.key))}".rstrip())
    for value in change.values:
        if value.lines:
            if value.name != "content":
                output.line(f"      {printable(value.name)}:")
            for line in value.lines:
                output.line(f"      {line}".rstrip())
        else:
            output.line(f"      {_said(value)}".rstrip())


def _said(value: Value) -> str:
    """One line: what it was, what it is, and what there is to say."""
    match value.before, value.after:
        case None, None:
            words = ""
        case before, None:
            words = f"was {before}"
        case None, after:
            words = str(after)
        case before, after:
            words = f"{before} -> {after}"
    said = printable(value.said)
    told = f"{words} ({said})" if words and said else words or said
    return f"{printable(value.name)}: {told}" if value.name else told
