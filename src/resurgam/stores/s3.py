"""S3 with what only its own library speaks of: object lock, versions, retention (boto3).

An object that is put under a lock cannot be deleted before its time by the credentials that wrote it: in *governance* mode by
nobody without a permission of its own, in *compliance* mode by nobody, the account's owner included. That holds at the S3 door;
whoever has the server's disks is past it (docs/threat-model.md).

**A trap.** A bucket with object lock keeps versions, and there a plain DELETE always "succeeds": it puts a marker on top, and the
object is gone for every reader while its bytes stay. So a delete here names the version that is read, and the server refuses what
is locked: loudly (Denied), and with nothing hidden. What others overwrote or hid can still be looked at (``versions``).

Credentials are found as boto3 finds them (environment, profile, single sign-on, the machine's role) and are renewed by it for
both libraries. Facts: the S3 API reference, PutObject, GetObjectRetention, ListObjectVersions, "How S3 Object Lock works".
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from resurgam.clock import Clock
from resurgam.errors import Denied, NotFound
from resurgam.model.lazily import cached_property
from resurgam.model.system import LockMode, VaultLock
from resurgam.stores.answers import Answer, answer_of, meant, told
from resurgam.stores.archive import STANDARD, Speed, Stored, stored
from resurgam.stores.base import Buffer, Entry, checked_name
from resurgam.stores.location import Location
from resurgam.stores.lock import BucketFacts, Retention, StoredVersion
from resurgam.stores.objects import CLIENT, RETRY, ObjectStore, is_name

if TYPE_CHECKING:
    from obstore.store import ClientConfig

_LARGE = 1 << 20  # bytes of an object above which it is not copied to be sent
_NO_LOCK = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest", "NotImplemented"}
_CLIENT = Config(
    connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 7}, s3={"addressing_style": "path"}
)  # fmt: skip


class BucketStore(ObjectStore):
    """A bucket that speaks S3. With ``lock``, each object is put under a lock of that mode and period, by ``clock``."""

    def __init__(self, location: Location, lock: VaultLock | None, clock: Clock) -> None:
        """Find credentials; nothing is asked of the server. Raises Denied where there are none."""
        where, settings = str(location), location.settings
        with told("opened", "the bucket", where):
            session = boto3.session.Session(region_name=settings.get("region"))
            endpoint, region = settings.get("endpoint"), session.region_name or "us-east-1"
            self._client: Any = session.client("s3", endpoint_url=endpoint, region_name=region, config=_CLIENT)
        if session.get_credentials() is None:
            raise Denied(
                f"There are no credentials for {where}.",
                untouched="Nothing was read or written.",
                next_step="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or give this machine a role.",
            )
        address: str = self._client.meta.endpoint_url
        super().__init__(
            S3Store(
                location.bucket,
                prefix=location.prefix or None,
                endpoint=address,
                region=region,
                credential_provider=Boto3CredentialProvider(session, ttl=timedelta(minutes=5)),
                client_options=_options(address),
                retry_config=RETRY,
            ),
            where,
        )
        self._name, self._prefix = location.bucket, f"{location.prefix}/" if location.prefix else ""
        self.lock, self._clock = lock, clock

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Create ``name`` durably, and under the lock where there is one. Raises as the port says."""
        if self.lock is None:
            super().put(name, data)
        else:
            self._create(name, data, self._own_lock())

    def put_locked(self, name: str, data: Buffer | Iterable[Buffer], retention: Retention) -> None:
        """Create ``name`` durably, locked from its first moment on. Raises as the port says."""
        self._create(name, data, self._locked_by(retention))

    def put_as(self, name: str, data: Buffer, storage_class: str) -> None:
        """See ``Archives``; under the lock too, where there is one."""
        self._create(name, data, {"StorageClass": storage_class} | self._own_lock())

    def _create(self, name: str, data: Buffer | Iterable[Buffer], how: dict[str, Any]) -> None:
        key, whole = self._key(name), memoryview(self._whole(name, data)).cast("B")
        body = _Reading(whole) if len(whole) >= _LARGE else bytes(whole)
        with told("written", name, self._where, reading=False):
            # P2: never over an existing object
            self._client.put_object(Bucket=self._name, Key=key, Body=body, IfNoneMatch="*", **how)

    def _own_lock(self) -> dict[str, Any]:
        return self._locked_by(Retention(self.lock.mode, self._end(self.lock.period))) if self.lock is not None else {}

    @staticmethod
    def _locked_by(retention: Retention) -> dict[str, Any]:
        return {"ObjectLockMode": retention.mode.upper(), "ObjectLockRetainUntilDate": retention.until}

    def delete(self, name: str) -> None:
        """Remove ``name`` with its bytes, where versions are kept too. Raises Denied (it is locked), Unreachable."""
        at = {"Bucket": self._name, "Key": self._key(name)}
        while (version := self._version(name)) is not None:
            try:
                with told("deleted", name, self._where, reading=False):
                    self._client.delete_object(**at, **({"VersionId": version} if version else {}))
            except Denied as error:
                raise self._locked(name, error) from None
            if not version:
                return

    def _version(self, name: str) -> str | None:
        """The version that is read under ``name``: empty where the bucket keeps none, None where nothing is there."""
        try:
            with told("looked at", name, self._where):
                found = self._client.head_object(Bucket=self._name, Key=self._key(name)).get("VersionId")
        except NotFound:
            return None
        except Denied:
            if self._stands(name):
                raise
            return None
        return "" if found in (None, "null") else found

    def _first(self, name: str, offset: int, length: int, room: memoryview | None = None) -> tuple[memoryview, int]:
        """As there; but who may list below a prefix only is answered 403 by AWS also for what is not there: a listing tells."""
        try:
            return super()._first(name, offset, length, room)
        except Denied:
            if self._stands(name):
                raise
        raise meant(Answer(404, "NoSuchKey"), "read", name, self._where, reading=True)

    def _stands(self, name: str) -> bool:
        return any(entry.name == name for entry in self._listed(name))

    def _listed(self, prefix: str) -> Iterator[Entry]:
        """As there; but S3 itself compares any prefix, so that asking for one name lists no folder."""
        if not prefix or prefix.endswith("/"):
            yield from super()._listed(prefix)
            return
        yield from (entry for entry, _ in self._classed(prefix))

    def _classed(self, prefix: str) -> Iterator[tuple[Entry, str]]:
        """What S3 itself lists, with the class of each."""
        with told("listed", prefix or "the vault", self._where):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._name, Prefix=self._prefix + prefix
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    name = found["Key"].removeprefix(self._prefix)
                    entry = Entry(name, found["Size"], found["LastModified"].timestamp())
                    yield entry, found.get("StorageClass", STANDARD)

    def classes(self, prefix: str = "") -> Iterator[tuple[Entry, str]]:
        """See ``Archives``."""
        yield from sorted(one for one in self._classed(prefix) if is_name(one[0].name))

    def state(self, name: str) -> Stored:
        """See ``Archives``."""
        with told("looked at", name, self._where):
            found = self._client.head_object(Bucket=self._name, Key=self._key(name))
        return stored(found.get("StorageClass", STANDARD), found.get("Restore", ""))

    def warm(self, name: str, days: int, speed: Speed) -> None:
        """See ``Archives``."""
        wanted = {"Days": days, "GlacierJobParameters": {"Tier": speed.capitalize()}}
        with told("woken", name, self._where):
            try:
                self._client.restore_object(Bucket=self._name, Key=self._key(name), RestoreRequest=wanted)
            except ClientError as error:
                if answer_of(error).code != "RestoreAlreadyInProgress":
                    raise

    def versions(self, name: str) -> list[StoredVersion]:
        """All that ``name`` ever was and that is still there, oldest first. Raises Denied, Unreachable."""
        return self.history(checked_name(name)).get(name, [])

    def history(self, prefix: str = "") -> dict[str, list[StoredVersion]]:
        """The same of every name that begins with ``prefix``, sorted by name. Raises Denied, Unreachable."""
        found: dict[str, list[tuple[bool, StoredVersion]]] = {}
        with told("listed", prefix or "the vault", self._where):
            pages = self._client.get_paginator("list_object_versions").paginate(
                Bucket=self._name, Prefix=self._prefix + prefix
            )
            for page in pages:
                for kind in ("Versions", "DeleteMarkers"):
                    for one in page.get(kind, ()):
                        received, size = one["LastModified"].timestamp(), one.get("Size", 0)
                        version = StoredVersion(one["VersionId"], received, size, kind == "DeleteMarkers")
                        name = one["Key"].removeprefix(self._prefix)
                        found.setdefault(name, []).append((one["IsLatest"], version))
        return {name: _oldest_first(found[name]) for name in sorted(found)}

    def get_version(self, name: str, version: str, offset: int, length: int) -> bytes:
        """So many bytes, at least one, that one version of ``name`` has from ``offset`` on. Raises NotFound, Denied,
        Unreachable."""
        bounds = f"bytes={offset}-{offset + length - 1}"
        with told("read", name, self._where):
            found = self._client.get_object(Bucket=self._name, Key=self._key(name), VersionId=version, Range=bounds)
            whole: bytes = found["Body"].read()
        return whole

    def protected(self, name: str, version: str = "") -> Retention | None:
        """See ``Locks``; of the newest version, or of the one that is named."""
        at = {"Key": self._key(name)} | ({"VersionId": version} if version else {})
        with told("asked for its lock", name, self._where):
            try:
                found = self._client.get_object_retention(Bucket=self._name, **at)["Retention"]
            except ClientError as error:
                if answer_of(error).code in _NO_LOCK:
                    return None
                raise
        return Retention(LockMode(found["Mode"].lower()), found["RetainUntilDate"]) if found else None

    def protect(self, name: str, until: datetime, version: str = "") -> None:
        """See ``Locks``; of the newest version, or of the one that is named. An object that is not locked yet gets the mode of
        this store's lock, or governance."""
        there = self.protected(name, version)
        mode = there.mode if there else self.lock.mode if self.lock else LockMode.GOVERNANCE
        if there and until < there.until:
            raise Denied(
                f"{name} is locked until {there.until:%Y-%m-%d %H:%M} in {self._where}; a lock is never shortened.",
                untouched="Its lock is as it was.",
                next_step="Give a later time.",
            )
        at = {"Key": self._key(name)} | ({"VersionId": version} if version else {})
        with told("locked", name, self._where, reading=False):
            self._client.put_object_retention(
                Bucket=self._name, **at, Retention={"Mode": mode.upper(), "RetainUntilDate": until}
            )

    @cached_property
    def facts(self) -> BucketFacts:
        """See ``Bucket``."""
        versioning = self._setting(self._client.get_bucket_versioning)
        locking = self._setting(self._client.get_object_lock_configuration)
        return BucketFacts(
            versioned=None if versioning is None else versioning.get("Status") == "Enabled",
            lockable=None if locking is None else "ObjectLockConfiguration" in locking,
        )

    def _setting(self, ask: Callable[..., dict[str, Any]]) -> dict[str, Any] | None:
        """One of the bucket's settings: empty where it has none, None where these credentials may not see it."""
        with told("asked for its settings", "the bucket", self._where):
            try:
                return ask(Bucket=self._name)
            except ClientError as error:
                answer = answer_of(error)
                if answer.code in _NO_LOCK:
                    return {}
                if answer.status == 403:
                    return None
                raise

    def refuses_wrong_checksum(self, name: str) -> bool:
        """Whether the server compares bytes with their checksum: a put of ``name`` with a wrong one fails. Raises Unreachable."""
        with told("written", name, self._where, reading=False):
            try:
                self._client.put_object(
                    Bucket=self._name, Key=self._key(name), Body=b"bytes", ChecksumSHA256="A" * 43 + "="
                )
            except ClientError as error:
                if answer_of(error).status != 400:
                    raise
                return True
        return False

    def require_creating(self, like: str) -> None:
        """See ``Bucket``. Asked by a put that must fail, for its checksum and for ``like``, which is there: no byte changes. Under
        the lock that this store puts, since that takes a right of its own."""
        with told("written", like, self._where, reading=False):
            try:
                self._client.put_object(
                    Bucket=self._name, Key=self._key(like), Body=b"", IfNoneMatch="*", ChecksumSHA256="A" * 43 + "=",
                    **self._own_lock(),
                )  # fmt: skip
            except ClientError as error:
                if answer_of(error).status in (400, 409, 412):
                    return
                raise
        raise Denied(
            f"{self._where} replaced {like}, although it was told to create only, and that the checksum is another.",
            untouched="No other object was touched.",
            next_step="Bring it back with `resurgam vault repair --from COPY`, and move the vault to another server.",
        )

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)

    def _end(self, period: float) -> datetime:
        return self._clock.now() + timedelta(seconds=period)

    def _locked(self, name: str, error: Denied) -> Denied:
        """A refused delete in the words of its lock, where that can be read."""
        try:
            found = self._client.head_object(Bucket=self._name, Key=self._key(name)).get("ObjectLockRetainUntilDate")
        except (ClientError, BotoCoreError):
            found = None
        if found is None:
            return error
        return Denied(
            f"{name} is locked until {found:%Y-%m-%d %H:%M %Z} in {self._where}, so it was not deleted.",
            untouched="It is as it was.",
            next_step="Delete it when its lock has ended.",
        )


def _oldest_first(listed: list[tuple[bool, StoredVersion]]) -> list[StoredVersion]:
    """Versions of one name, each with whether it is the newest, in a listing's order: newest first, in whole seconds."""
    listed.reverse()
    return [version for _, version in sorted(listed, key=lambda one: (one[0], one[1].received))]


def _options(address: str) -> ClientConfig:
    """obstore's client as boto3's is: the same authorities; plain HTTP only where the endpoint says so itself."""
    options: ClientConfig = {**CLIENT, "allow_http": address.startswith("http://")}
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        with open(bundle, "rb") as file:
            options["root_certificate"] = file.read()
    return options


class _Reading(io.RawIOBase):
    """Bytes in memory as a file: boto3 takes bytes or a file, and as bytes each pack under way would be copied."""

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        piece = self._data[self._at : self._at + len(view)]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at
