"""From the table of rights (``vault.rights``) to the policies that an S3 server enforces.

A policy allows what its roles need, and denies by name what would undo the vault, so that no other policy of the same user gives
it back. What is denied:

* deleting, but for what a pruner frees. Where objects are locked, the bucket keeps versions, and there a plain delete only *hides*
  (s3:DeleteObject puts a marker on top): nobody may do that, and the pruner names versions;
* replacing: every put has to state ``If-None-Match`` (P2). That also rules out uploads in parts and copies;
* passing over a lock, holding it longer than the manifest says (a thief would lock for a century), and changing what the bucket
  keeps, for how long, and for whom.

Two conditions are AWS's own (``s3:if-none-match``, ``s3:object-lock-remaining-retention-days``); servers that do not know them
refuse every put, or overlook them, so they can be left out. What else AWS may ask for, such as rights to a key of KMS, is not here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import msgspec

from resurgam.errors import UsageError
from resurgam.model.codec import to_json
from resurgam.stores.location import Location
from resurgam.stores.statements import (
    ALLOW,
    CREATE,
    DELETE,
    DELETE_VERSION,
    DENY,
    LIST,
    LOCK,
    READ,
    SEE_LOCK,
    SETTINGS,
    WAKE,
    Conditions,
    Statement,
    below,
    bucket_arn,
    object_arn,
)
from resurgam.vault.identity import IDENTITY
from resurgam.vault.rights import PACKS, RIGHTS, Operation, may

LARGEST: Final = 20480  # bytes of the policy of a bucket, by the S3 user guide
_DAY: Final = 86400.0
_OF_BUCKET: Final = (
    "s3:DeleteBucket",
    "s3:DeleteBucketPolicy",
    "s3:PutBucketAcl",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutBucketOwnershipControls",
    "s3:PutBucketPolicy",
    "s3:PutBucketVersioning",
    "s3:PutLifecycleConfiguration",
    "s3:PutReplicationConfiguration",
)
_OF_OBJECTS: Final = (
    "s3:BypassGovernanceRetention",
    "s3:PutObjectAcl",
    "s3:PutObjectLegalHold",
    "s3:PutObjectVersionAcl",
)
_REPLACES: Final[Conditions] = {"Null": {"s3:if-none-match": "true"}}


class Policy(msgspec.Struct, frozen=True, rename="pascal"):
    """A policy document, as its JSON has it."""

    statement: tuple[Statement, ...]
    version: str = "2012-10-17"


def identity_policy(
    roles: Collection[str], where: Location, locked: float | None = None, *, conditions: bool = True
) -> Policy:
    """What to attach to the user or the role of AWS that acts as all of ``roles``. ``locked`` is for how many seconds objects are
    locked when they are written, None where they are not."""
    return Policy(tuple(_statements(roles, where, locked, conditions)))


def bucket_policy(
    principals: Mapping[str, str], where: Location, locked: float | None = None, *, conditions: bool = True
) -> Policy:
    """What to attach to the bucket; ``principals`` says by role who acts in it. One principal in several roles may do what any of
    them may; what is said of several principals is said once. Raises UsageError where S3 would not take it for its length."""
    acting: dict[str, list[str]] = {}
    for role, principal in principals.items():
        acting.setdefault(principal, []).append(role)
    said: dict[bytes, tuple[Statement, list[str]]] = {}  # a statement, by its bytes, and of whom
    for principal, roles in acting.items():
        for one in _statements(roles, where, locked, conditions):
            said.setdefault(to_json(one), (one, []))[1].append(principal)
    whole = Policy(
        tuple(
            msgspec.structs.replace(one, sid=f"{one.sid}{number}", principal={"AWS": tuple(whose)})
            for number, (one, whose) in enumerate(said.values())
        )
    )
    if (size := len(to_json(whole))) > LARGEST:
        raise UsageError(
            f"The policy has {size:,} bytes, and S3 takes {LARGEST:,} for one bucket.",
            untouched="Nothing was printed.",
            next_step="Attach policies to users instead: leave --principal out, and print one with --role for each.",
        )
    return whole


def _statements(roles: Collection[str], where: Location, locked: float | None, conditions: bool) -> Iterator[Statement]:
    """All statements for who acts in all of ``roles``."""
    bucket, everything = (bucket_arn(where),), (object_arn(where, "*"),)
    yield Statement(sid="List", effect=ALLOW, action=LIST, resource=bucket, condition=below(where))
    yield Statement(sid="Settings", effect=ALLOW, action=SETTINGS, resource=bucket)
    yield _allow("Read", READ, _within(roles, Operation.READ, where))
    if any(may(role, Operation.READ, PACKS) for role in roles):
        yield _allow("Wake", WAKE, (object_arn(where, f"{PACKS}*"),))  # from a cold class, to read it
    create, lock = _within(roles, Operation.CREATE, where), _within(roles, Operation.LOCK, where)
    if create:
        together = locked is not None and lock == create
        yield _allow("Create", (*CREATE, *LOCK) if together else CREATE, create)
    if locked is not None:
        yield _allow("SeeLocks", SEE_LOCK, everything)
        if lock and lock != create:
            yield _allow("Lock", LOCK, lock)
    if delete := _within(roles, Operation.DELETE, where):
        yield _allow("Delete", DELETE_VERSION if locked is not None else (*DELETE, *DELETE_VERSION), delete)
    if hidden := _within(roles, Operation.READ, where, allowed=False):
        yield _deny("ReadNot", READ, hidden)
    yield _deny("DeleteNot", (*DELETE, *DELETE_VERSION), _within(roles, Operation.DELETE, where, allowed=False))
    if locked is not None and delete:
        yield _deny("HideNot", DELETE, everything)
    yield _deny("UnlockNot", _OF_OBJECTS, everything)
    yield _deny("ChangeNot", _OF_BUCKET, bucket)
    if conditions:
        yield _deny("ReplaceNot", CREATE, everything, _REPLACES)
    if conditions and locked is not None:
        yield _deny("LockForeverNot", (*CREATE, *LOCK), everything, _longer_than(locked))


def _within(roles: Collection[str], operation: Operation, where: Location, *, allowed: bool = True) -> tuple[str, ...]:
    """The namespaces in which one of ``roles`` may do ``operation``, or none of them may; all together are one resource."""
    found = [own for own in RIGHTS if any(may(role, operation, own) for role in roles) is allowed]
    if len(found) == len(RIGHTS):
        return (object_arn(where, "*"),)
    return tuple(object_arn(where, own if own == IDENTITY else f"{own}*") for own in found)


def _longer_than(seconds: float) -> Conditions:
    """More whole days than ``seconds`` are, and one for clocks that differ."""
    days = math.ceil(seconds / _DAY) + 1
    return {"NumericGreaterThan": {"s3:object-lock-remaining-retention-days": str(days)}}


def _allow(sid: str, action: tuple[str, ...], resource: tuple[str, ...]) -> Statement:
    return Statement(sid=sid, effect=ALLOW, action=action, resource=resource)


def _deny(
    sid: str, action: tuple[str, ...], resource: tuple[str, ...], condition: Conditions | None = None
) -> Statement:
    return Statement(sid=sid, effect=DENY, action=action, resource=resource, condition=condition or {})
