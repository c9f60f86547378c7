"""The policies that ``vault policy --s3`` prints, judged by AWS's own rules of evaluation.

``allows`` is those rules as far as these policies need them: an explicit deny wins, else an allow, else it is denied (IAM user
guide, "Policy evaluation logic"; one account, identity policy). Real servers judge the same documents in
``tests/stores/test_rights.py``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pytest

from resurgam.errors import Denied, UsageError
from resurgam.model.codec import to_json
from resurgam.stores.answers import Answer, meant
from resurgam.stores.location import Location, parse
from resurgam.stores.statements import bucket_arn, object_arn
from resurgam.vault.bucketpolicy import bucket_policy, identity_policy
from resurgam.vault.rights import RIGHTS, ROLES, Operation, may

WHERE = Location("s3", "vaults", "handbook")
LONG = Location("s3", "b" * 63, "a-prefix-that-is-rather-long/handbook")
MONTH = 30 * 86400.0
MANAGED = 6144  # characters without white space, of a managed policy (IAM quotas)
ACTIONS = {
    Operation.READ: "s3:GetObject",
    Operation.CREATE: "s3:PutObject",
    Operation.LOCK: "s3:PutObjectRetention",
    Operation.DELETE: "s3:DeleteObjectVersion",
}


@dataclass
class Request:
    """What is asked of S3: an action on a resource, and the condition keys that the request brings along."""

    action: str
    resource: str
    keys: dict[str, str] = field(default_factory=dict)


def holds(operator: str, expected: str, found: str | None) -> bool:
    """One condition operator. A key that is missing fails every operator but Null."""
    if operator == "Null":
        return (found is None) == (expected == "true")
    if found is None:
        return False
    if operator == "NumericGreaterThan":
        return float(found) > float(expected)
    assert operator == "StringLike"
    return fnmatchcase(found, expected)


def applies(statement: dict[str, Any], request: Request) -> bool:
    conditions = statement.get("Condition", {})
    return (
        request.action in statement["Action"]
        and any(fnmatchcase(request.resource, one) for one in statement["Resource"])
        and all(
            holds(operator, expected, request.keys.get(key))
            for operator, wanted in conditions.items()
            for key, expected in wanted.items()
        )
    )


def allows(policy: object, request: Request) -> bool:
    statements = [one for one in json.loads(to_json(policy))["Statement"] if applies(one, request)]
    return bool(statements) and all(one["Effect"] == "Allow" for one in statements)


def put(name: str, **keys: str) -> Request:
    return Request("s3:PutObject", object_arn(WHERE, name), {"s3:if-none-match": "*"} | keys)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("locked", [None, MONTH])
def test_a_policy_says_what_the_table_says(role: str, locked: float | None) -> None:
    """P9: for every namespace and operation S3 allows exactly what the table of rights does."""
    policy = identity_policy([role], WHERE, locked)
    for own in RIGHTS:
        name = own if own == "vault.json" else f"{own}0/0"
        for operation, action in ACTIONS.items():
            keys = {"s3:if-none-match": "*", "s3:object-lock-remaining-retention-days": "30"}
            expected = may(role, operation, name) and (operation is not Operation.LOCK or locked is not None)
            found = allows(policy, Request(action, object_arn(WHERE, name), keys))
            assert found is expected, (role, operation, name)


@pytest.mark.parametrize("role", ROLES)
def test_nobody_replaces_hides_or_unlocks(role: str) -> None:
    """P2: a put that could replace, a marker, a bypass, a lock for a century, other settings: denied to each role by name, so also
    where another policy of the same user allows everything."""
    policy = json.loads(to_json(identity_policy([role], WHERE, MONTH)))
    denied = [one for one in policy["Statement"] if one["Effect"] == "Deny"]
    for own in RIGHTS:
        at = object_arn(WHERE, f"{own}0")
        for request in (
            Request("s3:PutObject", at),
            Request("s3:DeleteObject", at),
            Request("s3:BypassGovernanceRetention", at),
            Request("s3:PutObjectRetention", at, {"s3:object-lock-remaining-retention-days": "36500"}),
            Request("s3:PutObject", at, {"s3:if-none-match": "*", "s3:object-lock-remaining-retention-days": "32"}),
        ):
            assert any(applies(one, request) for one in denied), (own, request)
    for action in ("s3:PutBucketVersioning", "s3:PutLifecycleConfiguration", "s3:PutBucketPolicy", "s3:DeleteBucket"):
        assert any(applies(one, Request(action, bucket_arn(WHERE))) for one in denied)


def test_a_listing_stays_below_the_prefix() -> None:
    """Whoever has one vault sees no other of the same bucket."""
    policy = identity_policy(["capture"], WHERE)
    arn = bucket_arn(WHERE)
    assert allows(policy, Request("s3:ListBucket", arn, {"s3:prefix": "handbook/"}))
    assert allows(policy, Request("s3:ListBucket", arn, {"s3:prefix": "handbook/points/"}))
    for prefix in ("", "handbook", "handbook-2/", "other/"):
        assert not allows(policy, Request("s3:ListBucket", arn, {"s3:prefix": prefix}))
    assert not allows(policy, Request("s3:ListBucket", arn))
    assert not allows(policy, Request("s3:GetObject", object_arn(Location("s3", "vaults", "other"), "points/0")))
    assert not allows(policy, Request("s3:PutObject", object_arn(Location("s3", "vaults", "handbook-2"), "points/0")))


@pytest.mark.parametrize("where", [WHERE, LONG, Location("s3", "vaults")])
def test_no_wildcard_reaches_beyond_the_vault(where: Location) -> None:
    """Each resource is the bucket itself, or begins with the vault's prefix; each policy is within AWS's limit of size."""
    begins = f"{bucket_arn(where)}/" + (f"{where.prefix}/" if where.prefix else "")
    for role in ROLES:
        text = to_json(identity_policy([role], where, MONTH)).decode()
        for statement in json.loads(text)["Statement"]:
            assert not any("*" in action for action in statement["Action"])
            for resource in statement["Resource"]:
                assert resource == bucket_arn(where) or resource.startswith(begins), resource
                assert re.fullmatch(r"[^*?$]+\*?", resource), resource
        assert len(re.sub(r"\s", "", text)) <= MANAGED, role


def of_principal(policy: object, principal: str) -> dict[str, Any]:
    """The statements of a bucket's policy that are about one principal, as a policy of its own."""
    found = json.loads(to_json(policy))["Statement"]
    return {"Statement": [one for one in found if principal in one["Principal"]["AWS"]]}


def test_a_policy_of_a_bucket_names_who_acts() -> None:
    """Each principal may do what the policy of its role says; one in two roles what either may; all eight fit into one bucket."""
    arns = {role: f"arn:aws:iam::111122223333:role/{role}" for role in ROLES}
    whole = bucket_policy(arns, WHERE, MONTH)
    sids = [one.sid for one in whole.statement]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)
    for role, arn in arns.items():
        policy = of_principal(whole, arn)
        for own in RIGHTS:
            name = own if own == "vault.json" else f"{own}0"
            for operation, action in ACTIONS.items():
                request = Request(action, object_arn(WHERE, name), {"s3:if-none-match": "*"})
                assert allows(policy, request) is may(role, operation, name), (role, operation, name)
    both = bucket_policy({"pruner": arns["pruner"], "approver": arns["pruner"]}, WHERE)
    assert allows(of_principal(both, arns["pruner"]), put("approvals/0"))
    assert allows(of_principal(both, arns["pruner"]), put("prune/0"))
    with pytest.raises(UsageError, match="20,480") as caught:
        bucket_policy(arns, LONG, MONTH)
    assert caught.value.next_step


def test_the_partition_is_that_of_the_region() -> None:
    """In China and in AWS's own cloud for governments names begin otherwise."""
    for region, partition in (("eu-north-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")):
        where = parse(f"s3://vaults/handbook?region={region}")
        assert isinstance(where, Location)
        assert bucket_arn(where) == f"arn:{partition}:s3:::vaults"


@pytest.mark.parametrize(
    ("done", "name", "action"),
    [
        ("deleted", "packs/00/0", "s3:DeleteObjectVersion"),
        ("written", "points/0", "s3:PutObject"),
        ("read", "vault.json", "s3:GetObject"),
        ("listed", "the vault", "s3:ListBucket"),
        ("locked", "packs/00/0", "s3:PutObjectRetention"),
    ],
)
def test_a_refusal_names_the_statement_that_is_missing(done: str, name: str, action: str) -> None:
    """P12: what is granted as the error says, allows just what was refused; wrong keys are no missing right."""
    error = meant(Answer(403, "AccessDenied"), done, name, f"{WHERE} at https://s3.example", reading=False)
    assert isinstance(error, Denied)
    assert error.exit_code == 6
    found = re.search(r"grant (\{.*?\})(?: \(|\. )", error.next_step)
    assert found, error.next_step
    resource = bucket_arn(WHERE) if done == "listed" else object_arn(WHERE, name)
    statement = json.loads(found[1])
    assert applies(statement, Request(action, resource, {"s3:prefix": "handbook/points/"}))
    assert not applies(statement, Request(action, "arn:aws:s3:::vaults/handbook-2/points/0", {"s3:prefix": "other/"}))
    wrong = meant(Answer(403, "SignatureDoesNotMatch"), done, name, str(WHERE), reading=False)
    assert "grant" not in wrong.next_step
