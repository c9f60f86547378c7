"""What a store can that locks objects and keeps versions, apart from who does it (``s3.py``).

The optional ports are found by ``isinstance``, as those of drivers are (ADR 12): ``Locks`` is what a vault needs, to say until
when something is protected; ``Versioned`` is what it takes to look at what stood there before (``asof.py``); ``Bucket`` is what is
asked of a bucket when a vault is made on it (``promises.py``).
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

from resurgam.model.system import LockMode
from resurgam.stores.base import Buffer, Store


class Retention(NamedTuple):
    """How an object is locked: its mode, and until when."""

    mode: LockMode
    until: datetime


class StoredVersion(NamedTuple):
    """One version of a name, or the marker of a deletion (``deleted``). ``received`` as in ``base.Entry``."""

    id: str
    received: float
    size: int
    deleted: bool


class BucketFacts(NamedTuple):
    """What a bucket is set up for; None where these credentials may not see it."""

    versioned: bool | None
    lockable: bool | None


@runtime_checkable
class Locks(Protocol):
    """What a store can that locks objects; found by ``isinstance``."""

    def protected(self, name: str) -> Retention | None:
        """How ``name`` is locked; None where it is not. Raises NotFound, Denied, Unreachable."""
        ...

    def protect(self, name: str, until: datetime) -> None:
        """Lock ``name`` until then, or longer. Raises Denied where that would be a shorter time, NotFound, Unreachable."""
        ...


@runtime_checkable
class Versioned(Store, Protocol):
    """What a store can that keeps what is overwritten or deleted; found by ``isinstance``."""

    @property
    def facts(self) -> BucketFacts:
        """Whether it does so, and can lock objects. Raises NotFound, Unreachable."""
        ...

    def history(self, prefix: str = "") -> dict[str, list[StoredVersion]]:
        """All that each name with this prefix ever was and that is still there, oldest first; sorted by name. Raises Denied,
        Unreachable."""
        ...

    def get_version(self, name: str, version: str, offset: int, length: int) -> bytes:
        """So many bytes, at least one, that one version has from ``offset`` on. Raises NotFound, Denied, Unreachable."""
        ...

    def protected(self, name: str, version: str = "") -> Retention | None:
        """How a version is locked; None where it is not. Raises NotFound, Denied, Unreachable."""
        ...

    def protect(self, name: str, until: datetime, version: str = "") -> None:
        """Lock a version until then, or longer. Raises Denied where that would be a shorter time, NotFound, Unreachable."""
        ...


@runtime_checkable
class RoleBound(Store, Protocol):
    """A store that knows the role of whoever asks; found by ``isinstance``."""

    def role(self) -> str:
        """The role, one of ``vault.rights``. Raises Denied, Unreachable."""
        ...


@runtime_checkable
class Bucket(Store, Locks, Protocol):
    """A bucket that can be asked for what it is set up for."""

    @property
    def facts(self) -> BucketFacts:
        """Whether it keeps versions and can lock objects. Raises NotFound, Unreachable."""
        ...

    def put_locked(self, name: str, data: Buffer, retention: Retention) -> None:
        """Create ``name`` durably, locked from its first moment on. Raises as ``put``."""
        ...

    def versions(self, name: str) -> list[StoredVersion]:
        """All that ``name`` ever was and that is still there, oldest first. Raises Denied, Unreachable."""
        ...

    def require_creating(self, like: str) -> None:
        """Raises Denied where these credentials may not create objects beside ``like``, which is there; nothing is written."""
        ...

    def refuses_wrong_checksum(self, name: str) -> bool:
        """Whether a put of ``name`` with a wrong checksum fails. Raises Denied, Unreachable."""
        ...


def may_lock(store: Store) -> TypeGuard[Locks]:
    """Whether there may be locks in ``store``: a bucket can say that it has none."""
    return isinstance(store, Locks) and not (isinstance(store, Bucket) and store.facts.lockable is False)
