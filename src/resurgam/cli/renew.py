"""vault renew: make the locks longer on what is promised."""

from __future__ import annotations

from typing import Annotated

import typer

from resurgam.capture.manifest_form import CENTURY
from resurgam.cli import output, protection
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    VaultOption,
    duration,
)
from resurgam.errors import EXIT_STALE, IntegrityError, UsageError
from resurgam.model.codec import to_plain
from resurgam.vault.policies import policies, require_newest_policy
from resurgam.vault.protected import WARN_BELOW
from resurgam.vault.protection_notes import LockNotes
from resurgam.vault.protection_renew import Draft, draft
from resurgam.vault.protection_renew import renew as run_renew
from resurgam.vault.pruning import expiring
from resurgam.vault.retention_words import at, counted

_SHOWN = 20


def renew(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says.")] = False,
    period: Annotated[
        str | None, typer.Option("--for", help="How long locks hold from now on, such as 30d; else the manifest's.")
    ] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Make locks longer on what points need that are promised.

    Of each object that a point needs less than half of the period must be left, or it is locked for the whole period again; also
    packs that newer points share with older ones. Garbage is not renewed, nor what only points need that the policies let go: a
    prune gets it back when its locks have ended. Run it every day: it asks only for what is new, or due.

    In a bucket the vault is seen as it was first written: what somebody overwrote or hid is told (exit code 8), and its first
    version is renewed. Without --yes, exit code 23 says that a point's protection ends within a quarter of the period.

    Needs the index key, and credentials that may see and lengthen locks. Nothing makes a lock shorter.

    Examples:

        resurgam vault renew

        resurgam vault renew --yes

        resurgam vault renew --yes --for 90d --json
    """
    context = Context(manifest, vault, keys)
    repository, seconds = context.repository, _period(context, period)
    repository.require_newest_roles(context.vault_host)
    require_newest_policy(policies(repository), context.vault_host)
    now, notes = context.clock.now().timestamp(), LockNotes(repository, context.vault_host)
    drafted = draft(repository, seconds, expiring(repository), now, notes)
    if not json:
        _tell(context, drafted)
    if yes and drafted.plan.names:
        with output.progress("renew", len(drafted.plan.names), json, objects=True) as advance:
            drafted = run_renew(repository, drafted, notes, advance)
    if json:
        plain: dict[str, object] = to_plain(drafted.plan)
        output.as_json(plain | {"done": yes, "covered": drafted.covered})
    elif yes:
        _tell_done(drafted)
    else:
        output.line("nothing was changed: --yes does it" if drafted.plan.names else "nothing is due")
    if drafted.plan.trouble or drafted.covered:
        return IntegrityError.exit_code
    lapsing = any(one.until < now + WARN_BELOW * seconds for one in drafted.plan.points)
    return EXIT_STALE if lapsing else 0


def _period(context: Context, words: str | None) -> float:
    """Seconds that locks are to hold. Raises UsageError where nothing says it."""
    if words is not None:
        seconds = duration(words)
        if not 0 < seconds <= CENTURY:
            raise UsageError(
                f"Locks cannot be made to hold for {words}.",
                untouched="Nothing was changed.",
                next_step="Give more than nothing, and a hundred years at most: nobody can make a lock shorter.",
            )
        return seconds
    lock = context.system.vault.lock if context.system_name is not None else None
    if lock is None:
        raise UsageError(
            "Nothing says for how long objects are to be locked.",
            untouched="Nothing was changed.",
            next_step="Give --for 30d, or write vault.lock into the manifest.",
        )
    return lock.period


def _tell(context: Context, drafted: Draft) -> None:
    plan, repository = drafted.plan, context.repository
    output.line(f"Locks of {repository.identity.name} in {repository.store.describe()}", style="bold")
    for one in sorted(plan.points, key=lambda one: one.until)[:_SHOWN]:
        output.line(f"  point {one.point}: {protection.told(one)}")
    if len(plan.points) > _SHOWN:
        output.line(f"  and {counted(len(plan.points) - _SHOWN, 'point')} for longer")
    for point, why in plan.lapsing.items():
        output.line(f"  let lapse: {point}: {why}")
    for name, why in plan.trouble.items():
        output.line(f"  not known: {name}: {why} Run `resurgam vault check`.", style="bold red")
    for name, what in drafted.covered.items():
        output.line(f"  {protection.told_covered(name, what)}", style="bold red")
    of_all = counted(len(plan.names) + plan.kept, "object")
    output.line(f"  lock until {at(plan.until)}: {len(plan.names)} of {of_all}; the rest is locked for long enough")


def _tell_done(drafted: Draft) -> None:
    output.line(f"renewed: {counted(len(drafted.plan.names), 'object')}")
    if drafted.plan.points:
        first = min(drafted.plan.points, key=lambda one: one.until)
        output.line(f"  every point that is promised is protected until {protection.when(first)} UTC at least")
