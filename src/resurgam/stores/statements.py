"""The words of S3's rights: actions, resources, and statements of policies, for one place in one bucket.

``vault policy`` composes whole policies of them; an error names the one statement that was missing. Sources: the IAM JSON policy
elements reference, "Actions, resources, and condition keys for Amazon S3", and "Limiting retention periods with bucket policies"
of the S3 user guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from resurgam.model.codec import to_json
from resurgam.stores.location import Location

ALLOW: Final = "Allow"
DENY: Final = "Deny"
LIST: Final = ("s3:ListBucket", "s3:ListBucketVersions")
READ: Final = ("s3:GetObject", "s3:GetObjectVersion")
CREATE: Final = ("s3:PutObject",)
LOCK: Final = ("s3:PutObjectRetention",)
SEE_LOCK: Final = ("s3:GetObjectRetention",)
DELETE: Final = ("s3:DeleteObject",)  # of a bucket that keeps versions it only hides: a marker is put on top
DELETE_VERSION: Final = ("s3:DeleteObjectVersion",)
WAKE: Final = ("s3:RestoreObject",)
SETTINGS: Final = ("s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration")

_NEEDED: Final = {  # what a store was about, in the words of its errors: which actions it takes
    "written": CREATE,
    "read": READ,
    "looked at": READ,
    "listed": LIST,
    "deleted": (*DELETE, *DELETE_VERSION),
    "locked": LOCK,
    "asked for its lock": SEE_LOCK,
    "woken": WAKE,
    "asked for its settings": SETTINGS,
}
Conditions = Mapping[str, Mapping[str, str | tuple[str, ...]]]


class Statement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """One statement of a policy. ``principal`` stands in policies of buckets only."""

    sid: str = ""
    effect: str
    principal: Mapping[str, tuple[str, ...]] | None = None
    action: tuple[str, ...]
    resource: tuple[str, ...]
    condition: Conditions = msgspec.field(default_factory=dict)


def bucket_arn(where: Location) -> str:
    """The bucket itself, in the partition of its region."""
    region = where.settings.get("region", "")
    partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    return f"arn:{partition}:s3:::{where.bucket}"


def object_arn(where: Location, pattern: str) -> str:
    """The objects whose names below the vault's prefix fit ``pattern``; a prefix can hold no wildcard (``location.parse``)."""
    return "/".join(filter(None, (bucket_arn(where), where.prefix, pattern)))


def below(where: Location) -> Conditions:
    """The condition by which a listing stays below the vault's prefix."""
    return {"StringLike": {"s3:prefix": f"{where.prefix}/*"}} if where.prefix else {}


def missing(where: Location, done: str, name: str) -> str:
    """The statement, as JSON, that allows what could not be ``done`` to ``name`` and to what lies beside it; empty where no right
    is behind it."""
    actions = _NEEDED.get(done)
    if actions is None:
        return ""
    if actions is LIST:
        allowed = Statement(effect=ALLOW, action=actions, resource=(bucket_arn(where),), condition=below(where))
    elif actions is SETTINGS:
        allowed = Statement(effect=ALLOW, action=actions, resource=(bucket_arn(where),))
    else:
        folder, slash, _ = name.partition("/")
        allowed = Statement(
            effect=ALLOW, action=actions, resource=(object_arn(where, f"{folder}/*" if slash else name),)
        )
    return to_json(allowed).decode()
