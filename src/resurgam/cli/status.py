"""status: what is the state of things, for a person at 3 a.m., for cron, and for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from resurgam.cli import output, protection
from resurgam.cli.check_words import told_coverage
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption, duration
from resurgam.cli.protection import Guard
from resurgam.errors import EXIT_STALE, IntegrityError
from resurgam.model.point import Severity
from resurgam.restore.intent import pending, undoable
from resurgam.restore.state import write_atomically
from resurgam.vault.checked import Coverage, coverage_of
from resurgam.vault.known import each_state
from resurgam.vault.lineage import forgotten
from resurgam.vault.policies import policies, require_newest_policy
from resurgam.vault.repository import Repository


class PointStatus(msgspec.Struct, frozen=True):
    """A point as status tells it; ages are seconds."""

    id: str
    age: float
    verdict: str
    broken: int


class PromotionStatus(msgspec.Struct, frozen=True):
    """A finished promotion that ``promote --undo`` can take back."""

    id: str
    point: str
    started: str
    unverified: str = ""  # how it had been judged, where no passing verdict was asked for


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What ``status`` answers. ``host_state`` is the folder of what the vault does not hold (P3): losing it loses the memory
    of unchanged files, and how to take a promotion back."""

    system: str
    vault: str
    points: int
    newest: PointStatus | None
    newest_proven: PointStatus | None
    capture: str
    promotions: tuple[str, ...]
    undoable: tuple[PromotionStatus, ...]
    host_state: str
    rpo: float | None
    max_age: float | None
    fresh: bool
    damaged: tuple[str, ...]
    checked: Coverage
    prune: str = ""  # the one that is open, and how far it is
    protection: Guard | None = None  # None where the manifest asks for no locks
    covered: dict[str, str] = {}  # what somebody overwrote or hid in a bucket that keeps versions, and when


def standing(context: Context, max_age: float | None, lock_warning: float | None = None) -> Standing:
    """How the system stands. Freshness is measured against ``max_age``, else against the manifest's RPO; protection ends soon when
    less than ``lock_warning`` seconds of it are left, else a quarter of the period."""
    system, repository, host = context.system, context.repository, context.host
    now = context.clock.now()
    points = repository.points(system.name)
    newest = proven = None
    with closing(each_state(repository, points[::-1])) as stand:
        for sealed, state in stand:
            age = (now - datetime.fromisoformat(sealed.body.sealed)).total_seconds()
            found = PointStatus(sealed.body.id, age, state.word, sealed.body.findings.get(Severity.BROKEN, 0))
            newest = newest or found
            if state.proven is not None:
                proven = found
                break
    limit = system.objectives.rpo if max_age is None else max_age
    return Standing(
        system=system.name,
        vault=repository.store.describe(),
        points=len(points),
        newest=newest,
        newest_proven=proven,
        capture=_capture(context),
        promotions=tuple(
            f"{i.kind.value} {i.id} of point {i.point}: {i.phase.value} since {i.started}" for i in pending(host.folder)
        ),
        undoable=tuple(
            PromotionStatus(i.id, i.point, i.started, i.unverified) for i in undoable(host.folder, system.name)
        ),
        host_state=host.folder,
        rpo=system.objectives.rpo,
        max_age=limit,
        fresh=limit is None or (newest is not None and newest.age <= limit),
        damaged=(*_rolled_back(context), *repository.refused_points, *repository.refused_records),
        checked=coverage_of(repository, now.timestamp()),
        prune=_prune(repository),
        protection=protection.guard(context, [sealed.body.id for sealed in points], lock_warning),
        covered=protection.covered_anywhere(context),
    )


def _prune(repository: Repository) -> str:
    under_way = repository.prunes().open
    if under_way is None:
        return ""
    return f"prune {under_way.number} is {under_way.stage.value} since {under_way.made[:10]}"


def status(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    keys: KeysOption = None,
    max_age: Annotated[str | None, typer.Option(help="Fail when the newest point is older, such as 2h.")] = None,
    lock_warning: Annotated[
        str | None, typer.Option(help="Fail when a point's locks end within this time; else a quarter of their period.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Write this file for Prometheus' textfile collector.")] = None,
    json: JsonOption = False,
) -> int:
    """Show how things stand.

    How old the newest point and the newest proven point are, and what was interrupted.

    Exit code 23 when the newest point is older than --max-age, or else than the manifest's rpo; and, where the vault locks objects,
    when the locks on what a point needs end soon. A host without the right to see that says so. Exit code 8 when somebody has
    overwritten or hidden what a bucket keeps: points and keys as they are now, all else as this host's last look at locks saw it.

    Examples:

        resurgam status

        resurgam status --max-age 2h --metrics /var/lib/node_exporter/resurgam.prom
    """
    found = standing(
        Context(manifest, keys=keys),
        duration(max_age) if max_age else None,
        duration(lock_warning) if lock_warning else None,
    )
    if metrics:
        write_atomically(os.path.abspath(metrics), _metrics(found).encode())
    if json:
        output.as_json(found)
    else:
        _show(found)
    if found.covered:
        return IntegrityError.exit_code
    lasting = found.protection is None or found.protection.lasts
    return 0 if found.fresh and lasting else EXIT_STALE


def _rolled_back(context: Context) -> Iterator[str]:
    try:
        context.repository.require_newest_roles(context.host)
    except IntegrityError as error:
        yield error.message
    try:
        require_newest_policy(policies(context.repository), context.vault_host)
    except IntegrityError as error:
        yield error.message
    if lost := forgotten(context.repository.store, context.host):
        yield lost[0].upper() + lost[1:]


def _capture(context: Context) -> str:
    note = context.host.under_way()
    if context.host.capture_running():
        return f"running: point {note.point}, since {note.started}" if note else "running"
    if note is not None:
        begun = note.started[:19].replace("T", " ")
        return (
            f"stopped before its end: that of {begun} UTC; nothing of it is listed, the next one reuses what it stored"
        )
    return "none under way"


def _show(found: Standing) -> None:
    output.line(f"{found.system} in {found.vault}", style="bold")
    if found.newest is None:
        output.line("  no recovery point yet: run `resurgam capture`")
    else:
        newest = found.newest
        broken = f", {newest.broken} broken invariants" if newest.broken else ""
        output.line(f"  newest point   {newest.id}  {output.seconds(newest.age)} old  {newest.verdict}{broken}")
        if found.newest_proven is None:
            output.line("  newest proven  none: run `resurgam verify latest`")
        else:
            proven = found.newest_proven
            output.line(f"  newest proven  {proven.id}  {output.seconds(proven.age)} old  {proven.verdict}")
    output.line(f"  points         {found.points}")
    output.line(f"  vault read     {told_coverage(found.checked)}")
    for why in found.damaged:
        output.line(f"  damaged        {why} Run `resurgam vault check`.", style="bold red")
    if found.protection is not None:
        style = None if found.protection.lasts else "bold red"
        output.line(f"  protected      {protection.told_guard(found.protection)}", style=style)
    for name, what in found.covered.items():
        output.line(f"  covered        {protection.told_covered(name, what)}", style="bold red")
    output.line(f"  capture        {found.capture}")
    if found.prune:
        output.line(f"  unfinished     {found.prune}; run `resurgam vault prune`")
    for promotion in found.promotions:
        output.line(f"  unfinished     {promotion}; run `resurgam promote --resume`")
    for done in found.undoable:
        since = done.started[:19].replace("T", " ")
        word = f"UNVERIFIED ({done.unverified}): " if done.unverified else ""
        output.line(
            f"  promoted       {word}point {done.point} at {since}; to take it back: resurgam promote --undo {done.id}",
            style="bold red" if done.unverified else None,
        )
    output.line(f"  this host's notes: {found.host_state} (can be deleted, but then no promotion can be undone)")
    if not found.fresh:
        assert found.max_age is not None
        output.line(f"  NOT FRESH: no point within {output.seconds(found.max_age)}", style="bold red")


def _metrics(found: Standing) -> str:
    """The Prometheus text format; a metric that has no value is left out, so that alerts on its absence fire."""
    rows = [("resurgam_points", "Recovery points in the vault.", float(found.points))]
    if found.newest is not None:
        rows.append(("resurgam_newest_point_age_seconds", "Age of the newest recovery point.", found.newest.age))
        rows.append(("resurgam_newest_point_broken", "Broken invariants in it.", float(found.newest.broken)))
    if found.newest_proven is not None:
        rows.append(("resurgam_newest_proven_age_seconds", "Age of the newest proven point.", found.newest_proven.age))
    if found.rpo is not None:
        rows.append(("resurgam_rpo_seconds", "The promised RPO.", found.rpo))
    rows.append(("resurgam_fresh", "1 when the newest point is young enough.", float(found.fresh)))
    rows.append(
        (
            "resurgam_damaged_points",
            "Points that cannot be believed, or whose verdicts cannot.",
            float(len(found.damaged)),
        )
    )
    rows.append(("resurgam_vault_read_share", "Bytes read by a check within 30 days.", found.checked.share))
    if found.checked.oldest is not None:
        rows.append(("resurgam_vault_read_oldest_seconds", "When all was read last.", found.checked.oldest))
    if found.protection is not None:
        if not (found.protection.unknown and found.protection.lasts):
            lapsing = float(not found.protection.lasts)
            rows.append(("resurgam_protection_lapsing", "1 when locks on what a point needs end soon.", lapsing))
        if found.protection.left is not None:
            rows.append(("resurgam_protected_seconds", "Until the first of them ends.", found.protection.left))
    rows.append(("resurgam_covered_objects", "What somebody overwrote or hid.", float(len(found.covered))))
    rows.append(("resurgam_unfinished_promotions", "Promotions that broke off.", float(len(found.promotions))))
    label = found.system.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return "".join(
        f'# HELP {name} {meaning}\n# TYPE {name} gauge\n{name}{{system="{label}"}} {value:.3f}\n'
        for name, meaning, value in rows
    )
