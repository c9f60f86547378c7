"""replicate export, import: the way to a replica that no network reaches."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption
from resurgam.cli.replicate_open import OneVaultOption, at
from resurgam.errors import Denied, IntegrityError, NotFound, Unreachable, UsageError
from resurgam.stores.base import Entry
from resurgam.stores.local import LocalStore
from resurgam.stores.location import is_url
from resurgam.stores.registry import create_store, open_store
from resurgam.vault import carried
from resurgam.vault.replicas import Place, require_primary
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.signing import Role, SigningKey


def export(
    folder: Annotated[str, typer.Argument(help="A folder on the disk that is carried.")],
    name: Annotated[str, typer.Option("--for", help="The replica, as `replicate add` listed it.")],
    since: Annotated[
        str | None, typer.Option("--since", help="It has everything from before this time; UTC without an offset.")
    ] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: OneVaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Write what a replica lacks to a disk, with a signed list of it.

    Where the replica can be asked it is; else everything is written that the vault received after --since, or all. What may not lie
    in the replica's region is not on the disk. Stopped, it goes on when it is given again. Signed with any signing key that is
    here.

    Examples:

        resurgam replicate export /media/disk/handbook --for bunker

        resurgam replicate export /media/disk/handbook --for bunker --since 2026-11-01
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    require_primary(repository)
    listed = repository.here.listed
    place = listed.named(name) if listed is not None else None
    if place is None:
        raise NotFound(
            f"There is no replica {name}.",
            untouched="Nothing was written.",
            next_step="`resurgam replicate add` lists one, with its region; its location need not be reachable from here.",
        )
    there = _there(context, place, since)
    with (
        LocalStore.create(folder, not_empty=True, clock=context.clock) as disk,
        output.progress(f"export for {name}", None, json) as advance,
    ):
        copied, body = carried.export(
            repository, disk, place, _signer(repository), context.clock, there=there, progress=advance
        )
    if json:
        output.as_json({"folder": folder, "copied": copied, "objects": len(body.objects), "bytes": body.bytes})
    else:
        count = sum(bool(one.digest) for one in body.objects)
        output.line(f"{counted(count, 'object')} of {output.size(body.bytes)} for {name} in {folder}", style="bold")
        if copied.withheld:
            output.line(f"  {counted(copied.withheld, 'pack')} may not lie in that region, and are not on the disk")
        for what, why in copied.damaged.items():
            output.line(f"  damaged: {what}: {why}", style="bold red")
        output.line(f"  there: resurgam replicate import {folder} --vault ITS-FOLDER --keys ITS-KEYS")
    return 0 if copied.ok else IntegrityError.exit_code


def import_(
    folder: Annotated[str, typer.Argument(help="The folder that was carried here.")],
    vault: Annotated[str, typer.Option("--vault", help="The replica's folder or URL; a folder is made.")],
    keys: KeysOption = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    json: JsonOption = False,
) -> int:
    """Put what was carried here into the replica.

    Everything is verified before anything is put: the list's signature, the digest of every object, and that what was taken for
    there is there. Of keys, trust.json suffices. Stopped, it goes on when it is given again.

    Examples:

        resurgam replicate import /media/disk/handbook --vault /srv/replica --keys /etc/resurgam/keys
    """
    context = Context(manifest, vault, keys)
    try:
        far = open_store(vault, clock=context.clock)
    except NotFound:
        if is_url(vault):
            raise
        far = create_store(vault, clock=context.clock)
    with (
        LocalStore(folder, clock=context.clock) as disk,
        output.progress("verify and import", None, json) as advance,
    ):
        copied, body = carried.import_(disk, far, context.keyring, context.clock, progress=advance)
    if json:
        output.as_json({"place": body.place, "copied": copied})
    else:
        output.line(
            f"{body.place.name}: {counted(copied.objects, 'object')} of {output.size(copied.bytes)} put", style="bold"
        )
        output.line(f"  {counted(copied.points, 'point')} more there; exported {body.made[:19].replace('T', ' ')}")
    return 0 if copied.ok else IntegrityError.exit_code


def _there(context: Context, place: Place, since: str | None) -> Iterable[Entry]:
    """What the replica has: by the time that was given, or as it says; nothing where it does not answer."""
    if since is not None:
        return carried.received_before(context.repository, place, _moment(since))
    try:
        return list(at(place.location, context.clock).list())
    except (NotFound, Denied, Unreachable):
        output.note(f"{place.name} cannot be asked from here: everything is written")
        return ()


def _moment(words: str) -> float:
    try:
        moment = datetime.fromisoformat(words)
    except ValueError as error:
        raise UsageError(
            f"{words!r} is no time.",
            untouched="Nothing was written.",
            next_step="Write 2026-11-21 or 2026-11-21T04:00.",
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _signer(repository: Repository) -> SigningKey:
    """Any key that is here and counts; the one that says most first. Raises Denied."""
    for role in (Role.APPROVER, Role.PRUNER, Role.AUDITOR, Role.VERIFIER, Role.CAPTURE, Role.ROOT):
        if repository.keyring.has(f"{role}.json"):
            signer = repository.keyring.signer(role)
            if repository.roles.lists(signer.public, signer.role):
                return signer
    raise Denied(
        "No signing key that counts in this vault is here, so nobody could tell who made the export.",
        untouched="Nothing was written.",
        next_step="Run this where one of the vault's keys is kept; that of a capture host will do.",
    )
