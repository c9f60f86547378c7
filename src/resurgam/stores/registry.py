"""From the words of a manifest to an open store: the one place that knows which stores there are.

The libraries of object stores are loaded when one is opened: a vault in a folder needs none of them.
"""

from __future__ import annotations

import os

from resurgam.clock import Clock, SystemClock
from resurgam.errors import MissingExtra, NotFound, UsageError
from resurgam.model.system import VaultLock
from resurgam.stores.base import Store
from resurgam.stores.local import LocalStore
from resurgam.stores.location import GATEWAYS, Location, parse

__all__ = ["create_store", "open_store"]


def open_store(
    location: str, lock: VaultLock | None = None, clock: Clock | None = None, *, keys: str | None = None
) -> Store:
    """The store at ``location``, a path or a URL; with ``lock``, what is put there is locked (S3 only). A gateway's token may
    lie in the folder ``keys``.

    Raises UsageError, NotFound (no such folder), Denied (no credentials), MissingExtra. A bucket is not asked yet.
    """
    place = parse(location)
    if isinstance(place, Location):
        return _elsewhere(place, lock, clock or SystemClock(), keys)
    _require_no_lock(place, lock)
    if not os.path.exists(place):
        raise NotFound(
            f"There is no vault at {place}.",
            untouched="Nothing was changed.",
            next_step="Mount the disk it is on, correct vault.path or --vault, or make one with `resurgam vault init`.",
        )
    return LocalStore(place, clock=clock)


def create_store(
    location: str, lock: VaultLock | None = None, clock: Clock | None = None, *, keys: str | None = None
) -> Store:
    """As ``open_store``, for a vault that is to be made: a folder is made too, a bucket has to be there. Raises TargetRefused
    for a folder that holds something."""
    place = parse(location)
    if isinstance(place, Location):
        return _elsewhere(place, lock, clock or SystemClock(), keys)
    _require_no_lock(place, lock)
    return LocalStore.create(place, clock=clock)


def _elsewhere(place: Location, lock: VaultLock | None, clock: Clock, keys: str | None) -> Store:
    """A gateway or a bucket. Raises UsageError, Denied, MissingExtra."""
    if place.scheme in GATEWAYS:
        from resurgam.stores.gateway import GatewayStore

        _require_no_lock(str(place), lock)
        return GatewayStore(place, keys)
    return _bucket(place, lock, clock)


def _bucket(place: Location, lock: VaultLock | None, clock: Clock) -> Store:
    """A bucket. Raises MissingExtra."""
    if place.scheme != "s3":
        _require_no_lock(str(place), lock)
    try:
        if place.scheme == "s3":
            from resurgam.stores.s3 import BucketStore

            return BucketStore(place, lock, clock)
        from resurgam.stores.cloud import open_bucket

        return open_bucket(place)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("obstore", "boto3", "botocore"):
            raise
        raise MissingExtra(
            f"{place} is an object store, and {error.name} is not installed.",
            untouched="Nothing was read or written.",
            next_step="Install it: pip install 'resurgam[objects]'.",
        ) from error


def _require_no_lock(place: str, lock: VaultLock | None) -> None:
    if lock is not None:
        raise UsageError(
            f"{place} cannot lock objects: vault.lock is for buckets that speak S3.",
            untouched="Nothing was read or written.",
            next_step="Take vault.lock out of the manifest, or put the vault into an S3 bucket made with object lock.",
        )
