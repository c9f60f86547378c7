"""The printed policies, enforced by a real S3 server: each role's credentials do its work and nothing else.

The server judges policies of buckets by principal, action, resource and prefix, so the policies are those of ``--portable``. What
it does not know (``s3:if-none-match``) is shown here too, and judged by AWS's rules in ``tests/unit/test_bucketpolicy.py``.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from resurgam.clock import SystemClock
from resurgam.errors import Denied
from resurgam.model.codec import to_json
from resurgam.stores import s3
from resurgam.stores.location import Location, parse
from resurgam.stores.registry import open_store
from resurgam.vault.bucketpolicy import bucket_policy
from resurgam.vault.rights import READER, REPLICATOR, ROLES, namespace
from resurgam.vault.signing import Role
from tests.journeys.world import Result, World, tree
from tests.role_keys import only_keys_of
from tests.stores.seaweed import Seaweed, environment

_numbers = count()
PREFIX = "handbook"
DAY = 86400.0


class Bucket:
    """A bucket of one test, whose policy is the printed one; and a world whose vault lies in it."""

    def __init__(self, server: Seaweed, folder: Path, *, locked: bool = False) -> None:
        self.server, self.name, self.locked = server, f"rights-{os.getpid()}-{next(_numbers)}", locked
        self.admin = server.client()
        self.admin.create_bucket(Bucket=self.name, **({"ObjectLockEnabledForBucket": True} if locked else {}))
        self.url = server.url(self.name, PREFIX)
        self.world = World(os.fspath(folder / self.name)).build()
        lock = ", lock: {mode: governance, for: 1d}" if locked else ""
        self.world.manifest((self.world.path("vault"), f'"{self.url}"{lock}'))
        self.allow()

    def statements(self, *roles: str) -> list[dict[str, Any]]:
        """What ``vault policy --s3`` prints for ``roles``, of which each is an identity of the server."""
        where = parse(self.url)
        assert isinstance(where, Location)
        acting = {role: self.server.principal(f"as-{role}") for role in roles}
        printed = bucket_policy(acting, where, DAY if self.locked else None, conditions=False)
        found: list[dict[str, Any]] = json.loads(to_json(printed))["Statement"]
        return [one | {"Sid": one["Sid"].rstrip("0123456789")} for one in found]

    def allow(self, statements: Sequence[dict[str, Any]] = (), *, besides: Sequence[str] = ROLES) -> None:
        """Give the bucket the printed policy of the roles ``besides``, and more ``statements``."""
        every = [one | {"Sid": f"S{at}"} for at, one in enumerate([*self.statements(*besides), *statements])]
        self.admin.put_bucket_policy(Bucket=self.name, Policy=json.dumps({"Version": "2012-10-17", "Statement": every}))

    def act(self, role: str, *words: str, credentials_of: str = "") -> Result:
        """One verb, with the keys and the credentials of a role, or with those of another."""
        self.world.env |= environment(f"as-{credentials_of or role}")
        with only_keys_of(role, self.world.path("keys")):
            return self.world.run(*words)

    def done(self, role: str, *words: str) -> Result:
        """As ``act``, and it must succeed."""
        result = self.act(role, *words)
        assert result.code == 0, (role, words, result)
        return result

    def captured(self) -> dict[str, Any]:
        """What a capture says of its point."""
        point: dict[str, Any] = self.done(Role.CAPTURE, "capture", "--json").json
        return point

    def objects(self, prefix: str = "") -> list[str]:
        """The keys of all objects, seen past the vault."""
        pages = self.admin.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"{PREFIX}/{prefix}")
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def versions(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Key and version of all that is kept, and the keys of markers, by which something is hidden."""
        found = self.admin.list_object_versions(Bucket=self.name, Prefix=f"{PREFIX}/")
        assert not found["IsTruncated"]
        kept = [(one["Key"], one["VersionId"]) for one in found.get("Versions", ())]
        return sorted(kept), [one["Key"] for one in found.get("DeleteMarkers", ())]

    def garbage(self) -> None:
        """Packs that no point needs: a capture is killed, and the next one revokes its lease."""
        large = self.world.system.path("prompts/large.bin")
        with open(large, "wb") as file:
            file.write(os.urandom(100 << 20))
        before = len(self.objects("packs/"))
        self.world.env |= environment("as-capture")
        with only_keys_of(Role.CAPTURE, self.world.path("keys")), self.world.start("capture") as capturing:
            deadline = time.monotonic() + 60
            while len(self.objects("packs/")) == before:
                assert capturing.poll() is None, capturing.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            capturing.kill()
            capturing.communicate(timeout=60)
        os.unlink(large)
        self.captured()


@pytest.fixture
def bucket(seaweed: Seaweed, tmp_path: Path) -> Bucket:
    """A vault in a bucket without locks, with a first point."""
    made = Bucket(seaweed, tmp_path)
    made.done(Role.ROOT, "vault", "init")
    made.captured()
    return made


@pytest.fixture
def locked(seaweed: Seaweed, tmp_path: Path) -> Bucket:
    """The same, where each object is locked for a day, in governance mode: the one that can be lifted."""
    made = Bucket(seaweed, tmp_path, locked=True)
    made.done(Role.ROOT, "vault", "init")
    made.captured()
    return made


def denied(call: Callable[..., Any], **arguments: Any) -> None:
    """The server refuses, for want of a right and for no other reason."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, caught.value


def test_each_role_does_its_work(bucket: Bucket) -> None:
    """P9 P11: the life of a vault, each verb with its role's own credentials; the second capture stores next to nothing."""
    before = len(bucket.objects("packs/"))
    bucket.captured()
    assert len(bucket.objects("packs/")) <= before + 1  # pages, and none of data
    bucket.done(Role.CAPTURE, "preflight")
    bucket.done(Role.VERIFIER, "verify")
    bucket.done(Role.APPROVER, "reference", "approve", "latest")
    bucket.done(Role.PRUNER, "vault", "prune")
    bucket.done(Role.AUDITOR, "audit", "checkpoint")
    bucket.done(Role.AUDITOR, "audit", "verify")
    bucket.done(READER, "vault", "check", "--read")
    place = bucket.world.place("restored")
    bucket.done(READER, "restore", "latest", "--into", place)
    assert tree(os.path.join(place, "prompts/prompts")) == tree(bucket.world.system.path("prompts"))


def test_a_stolen_capture_host_reads_and_undoes_nothing(locked: Bucket) -> None:
    """P2 P9: with its credentials and any program: no pack is read, no object deleted, hidden or unlocked, no lock shortened, no
    setting changed. Each try is refused loudly, and afterwards everything stands as it stood."""
    client, before = locked.server.client("as-capture"), locked.versions()
    assert len(before[0]) > 10
    assert before[1] == []
    soon = SystemClock().now() + timedelta(minutes=1)
    for key, version in before[0]:
        at = {"Bucket": locked.name, "Key": key}
        denied(
            client.delete_object, **at
        )  # on a bucket with versions this would be a marker: hidden, and called a success
        denied(client.delete_object, **at, VersionId=version)
        denied(client.delete_object, **at, VersionId=version, BypassGovernanceRetention=True)
        shorter = {"Mode": "GOVERNANCE", "RetainUntilDate": soon}
        denied(client.put_object_retention, **at, Retention=shorter, BypassGovernanceRetention=True)
        if "/packs/" in key or "/keys/index" in key:
            denied(client.get_object, **at)
            denied(client.head_object, **at)
            denied(client.get_object, **at, VersionId=version)
    errors = client.delete_objects(Bucket=locked.name, Delete={"Objects": [{"Key": key} for key, _ in before[0]]})
    assert len(errors["Errors"]) == len(before[0])
    for call, words in (
        (client.put_bucket_versioning, {"VersioningConfiguration": {"Status": "Suspended"}}),
        (client.put_bucket_policy, {"Policy": json.dumps({"Version": "2012-10-17", "Statement": []})}),
        (client.put_object_lock_configuration, {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}),
        (client.delete_bucket, {}),
        (client.put_object, {"Key": f"{PREFIX}/roles/00000009", "Body": b"x"}),
        (client.put_object, {"Key": f"{PREFIX}/records/0/verdict-0", "Body": b"x"}),
        (client.list_objects_v2, {"Prefix": "another/"}),
    ):
        denied(call, Bucket=locked.name, **words)
    assert locked.versions() == before


def test_resurgams_own_delete_is_refused_loudly(
    locked: Bucket, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: the port's delete is Denied (exit code 6), names the statement, and hides nothing."""
    for name, value in environment("as-capture").items():
        monkeypatch.setenv(name, value)
    for made in (locked, bucket):
        store = open_store(made.url)
        assert isinstance(store, s3.BucketStore)
        for entry in list(store.list()):
            with pytest.raises(Denied) as caught:
                store.delete(entry.name)
            assert caught.value.exit_code == 6
        if made is bucket:
            assert '"s3:DeleteObject' in caught.value.next_step
        assert {entry.name for entry in store.list()} == {key.removeprefix(f"{PREFIX}/") for key in made.objects()}
    assert locked.versions()[1] == []


def test_a_forbidden_prune_names_the_statement_to_grant(bucket: Bucket) -> None:
    """P10 P12: with credentials that may not delete, a prune fails with code 6 and removes nothing; what its error says to grant,
    and nothing more, lets it go on."""
    bucket.garbage()
    before = bucket.objects("packs/")
    every = [role for role in ROLES if role != Role.PRUNER]
    pruners = [one for one in bucket.statements(Role.PRUNER) if one["Sid"] not in ("Delete", "DeleteNot")]
    bucket.allow(pruners, besides=every)
    refused = bucket.act(Role.PRUNER, "vault", "prune", "--yes")
    assert refused.code == 6, refused
    assert bucket.objects("packs/") == before
    found = re.search(r"grant (\{.*?\})\. ", refused.err.replace("\n", " "))
    assert found, refused.err
    granted = json.loads(re.sub(r"\s+", "", found[1])) | {
        "Principal": {"AWS": bucket.server.principal("as-pruner")},
    }  # fmt: skip
    assert granted["Resource"] == [f"arn:aws:s3:::{bucket.name}/{PREFIX}/packs/*"]
    bucket.allow([*pruners, granted], besides=every)
    bucket.act(Role.PRUNER, "vault", "prune", "--yes")
    assert len(bucket.objects("packs/")) < len(before)
    bucket.done(READER, "vault", "check", "--read")


def test_a_pruner_frees_and_touches_nothing_else(bucket: Bucket) -> None:
    """P9 P10: with its own policy a prune removes packs; the same credentials delete no point, no record, no log."""
    bucket.garbage()
    before = bucket.objects("packs/")
    bucket.done(Role.PRUNER, "vault", "prune", "--yes")
    assert len(bucket.objects("packs/")) < len(before)
    written = {namespace(key.removeprefix(f"{PREFIX}/")) for key in bucket.objects()}
    assert written >= {"prune/", "leases/", "packs/"}
    assert None not in written
    client = bucket.server.client("as-pruner")
    for key in bucket.objects():
        if not key.startswith((f"{PREFIX}/packs/", f"{PREFIX}/index/")):
            denied(client.delete_object, Bucket=bucket.name, Key=key)
    bucket.done(READER, "vault", "check", "--read")


def test_preflight_names_what_a_capture_may_not(bucket: Bucket) -> None:
    """P12: asked of the server without changing anything; what it says to grant is what was missing."""
    every = [role for role in ROLES if role != Role.CAPTURE]
    own = bucket.statements(Role.CAPTURE)
    short = [
        one | {"Resource": [arn for arn in one["Resource"] if "/index/" not in arn]}
        if one["Sid"] in ("Create", "Read")
        else one
        for one in own
    ]
    bucket.allow(short, besides=every)
    before = {key: self_of(bucket, key) for key in bucket.objects()}
    lacking = bucket.act(Role.CAPTURE, "preflight", "--json")
    assert lacking.code == 6, lacking
    missing = lacking.json["vault"]["missing"]
    assert [(one["path"].rpartition(" ")[2], one["need"]) for one in missing] == [
        ("index/", "read"),
        ("index/", "create"),
    ]
    grants = []
    for one in missing:
        found = re.search(r"grant (\{.*?\})", one["grant"])
        assert found, one
        grants.append(json.loads(found[1]) | {"Principal": {"AWS": bucket.server.principal("as-capture")}})
    bucket.allow([*short, *grants], besides=every)
    assert bucket.act(Role.CAPTURE, "preflight").code == 0
    assert {key: self_of(bucket, key) for key in bucket.objects()} == before
    bucket.captured()


def self_of(bucket: Bucket, key: str) -> bytes:
    """The bytes of an object, seen past the vault."""
    whole: bytes = bucket.admin.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    return whole


def test_what_this_servers_rights_cannot_say(locked: Bucket) -> None:
    """SeaweedFS does not know ``s3:if-none-match``: a stolen capture host can put other bytes on top of a point. They are not
    believed; the point below is locked, cannot be hidden, and is seen as it was first written."""
    (key,) = locked.objects("points/")
    point = key.rpartition("/")[2]
    capture = locked.server.client("as-capture")
    capture.put_object(Bucket=locked.name, Key=key, Body=b"rubbish")
    now = locked.done(READER, "points", "--json")
    assert point not in [one["id"] for one in now.json]
    assert "not to be trusted" in locked.done(READER, "points").err
    first = locked.done(READER, "points", "--as-of", "first", "--json")
    assert [one["id"] for one in first.json] == [point]
    kept, markers = locked.versions()
    assert markers == []
    for version in (version for name, version in kept if name == key):
        denied(capture.delete_object, Bucket=locked.name, Key=key, VersionId=version)


def test_locks_are_seen_by_all_and_renewed_by_the_pruner(locked: Bucket) -> None:
    """P9: a capture host tells how long points are protected, as far as it knows; to make locks longer is the pruner's right."""
    locked.done(Role.CAPTURE, "status")
    locked.done(Role.PRUNER, "vault", "renew", "--yes", "--for", "2d")
    client = locked.server.client("as-pruner")
    (key,) = locked.objects("points/")
    found = client.get_object_retention(Bucket=locked.name, Key=key)["Retention"]
    assert found["RetainUntilDate"] - SystemClock().now() > timedelta(hours=47)
    denied(
        client.put_object_retention, Bucket=locked.name, Key=key, BypassGovernanceRetention=True,
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": SystemClock().now() + timedelta(hours=1)},
    )  # fmt: skip


def test_who_owns_the_disks_is_past_every_right(locked: Bucket, tmp_path: Path) -> None:
    """The server's own door deletes locked packs without asking for anything. A replica answers that, made by credentials that only
    read here: a restore from both is exact, and repair brings everything back."""
    replica = os.fspath(tmp_path / "replica")
    locked.done(Role.APPROVER, "replicate", "add", "elsewhere", replica)
    locked.done(REPLICATOR, "replicate", "run")
    packs = locked.objects("packs/")
    request = urllib.request.Request(
        f"{locked.server.filer}/buckets/{locked.name}/{PREFIX}/packs?recursive=true&ignoreRecursiveError=true",
        method="DELETE",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status in (202, 204)
    assert locked.objects("packs/") == []
    alone, together = locked.world.place("alone"), locked.world.place("together")
    assert locked.act(READER, "restore", "latest", "--into", alone).code == 8
    assert not os.path.exists(alone)
    copies = ("--vault", locked.url, "--vault", replica)
    locked.done(READER, "restore", "latest", "--into", together, *copies)
    assert tree(os.path.join(together, "prompts/prompts")) == tree(locked.world.system.path("prompts"))
    assert locked.act(READER, "vault", "check").code == 8
    repaired = locked.act(Role.ROOT, "vault", "repair", "--from", replica, "--yes")
    assert repaired.code == 0, repaired
    assert locked.objects("packs/") == packs
    locked.done(READER, "vault", "check", "--read")
