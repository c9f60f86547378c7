"""vault policy: who may do what with the objects of a vault, and the policies by which S3 enforces it."""

from __future__ import annotations

from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, ManifestOption, duration
from resurgam.errors import UsageError
from resurgam.stores.location import Location, parse
from resurgam.vault.bucketpolicy import bucket_policy, identity_policy
from resurgam.vault.rights import RIGHTS, ROLES, Operation, may

_LETTERS = {Operation.READ: "r", Operation.CREATE: "c", Operation.LOCK: "l", Operation.DELETE: "d"}


def policy(
    s3: Annotated[bool, typer.Option("--s3", help="Print policies for S3, as JSON.")] = False,
    role: Annotated[
        list[str] | None, typer.Option("--role", help="Only this role; several together are one policy.")
    ] = None,
    principal: Annotated[
        list[str] | None,
        typer.Option("--principal", help="ROLE=ARN: who acts in the role. Prints one policy for the bucket itself."),
    ] = None,
    bucket: Annotated[str | None, typer.Option("--bucket", help="The bucket, in place of the manifest's.")] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="With --bucket: what the vault's names begin with.")] = "",
    locked: Annotated[
        str | None, typer.Option("--locked", help="With --bucket: for how long objects are locked, as `30d`.")
    ] = None,
    portable: Annotated[
        bool,
        typer.Option("--portable", help="Leave out conditions that only AWS knows; other servers refuse every put."),
    ] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    json: JsonOption = False,
) -> int:
    """Show who may do what in a vault, or print the policies by which S3 enforces it.

    Each role needs credentials of its own: then whoever steals those of the capture host can add, and can neither read what it
    added, nor delete, nor shorten a lock, with whatever program. The place is the manifest's, or --bucket. Nothing is asked of
    a server, and nothing is changed.

    Examples:

        resurgam vault policy

        resurgam vault policy --s3 --role capture > capture-policy.json

        resurgam vault policy --s3 --principal capture=arn:aws:iam::111122223333:role/capture

        resurgam vault policy --s3 --role pruner --bucket vaults --prefix handbook --locked 30d
    """
    if not s3:
        _table(json)
        return 0
    where, period = _place(manifest, bucket, prefix, locked)
    if principal:
        acting = dict(_acting(one) for one in principal)
        output.as_json(bucket_policy(acting, where, period, conditions=not portable))
    elif role:
        output.as_json(identity_policy([_known(one) for one in role], where, period, conditions=not portable))
    else:
        output.as_json({one: identity_policy([one], where, period, conditions=not portable) for one in ROLES})
    return 0


def _place(manifest: str, bucket: str | None, prefix: str, locked: str | None) -> tuple[Location, float | None]:
    """The vault's place, and for how many seconds its objects are locked. Raises UsageError where it is none of S3's."""
    if bucket is not None:
        path, period = f"s3://{bucket}/{prefix}", duration(locked) if locked is not None else None
    else:
        place = Context(manifest).system.vault
        path, period = place.path, place.lock.period if place.lock else None
    where = parse(path)
    if not isinstance(where, Location) or where.scheme != "s3":
        raise UsageError(
            f"{path} is not in a bucket that speaks S3.",
            untouched="Nothing was printed.",
            next_step="Give --bucket and --prefix. docs/rights.md says what a folder and other stores can enforce.",
        )
    return where, period


def _acting(words: str) -> tuple[str, str]:
    """ROLE=ARN in its parts."""
    role, equals, principal = words.partition("=")
    if not equals or not principal.startswith("arn:") or "*" in principal:
        raise UsageError(
            f"{words!r} does not say who acts in a role.",
            untouched="Nothing was printed.",
            next_step="Write --principal capture=arn:aws:iam::111122223333:role/NAME, without a wildcard.",
        )
    return _known(role), principal


def _known(role: str) -> str:
    if role not in ROLES:
        raise UsageError(
            f"There is no role {role!r}.", untouched="Nothing was printed.", next_step=f"Roles are {', '.join(ROLES)}."
        )
    return role


def _table(json: bool) -> None:
    """The matrix; everybody lists."""
    if json:
        output.as_json(
            {own: {role: [o.value for o in Operation if may(role, o, own)] for role in ROLES} for own in RIGHTS}
        )
        return
    output.line(f"{'':15}" + "".join(f"{role:>12}" for role in ROLES), style="bold")
    for own in RIGHTS:
        output.line(f"{own:15}" + "".join(f"{_may(role, own):>12}" for role in ROLES))
    output.line("r read, c create, l lock for longer, d delete; everybody lists, and nobody replaces")


def _may(role: str, own: str) -> str:
    return "".join(letter if may(role, operation, own) else "-" for operation, letter in _LETTERS.items())
