"""What a store can that keeps objects in classes, of which some sleep: cheap to keep, and not to be read before they were woken.

    ready     it can be read now                      every class but the sleeping ones; and those while a copy of them is awake
    asleep    a read is refused (``Archived``)        GLACIER, DEEP_ARCHIVE
    waking    a copy was asked for, and is not there  until so many hours later, by class and speed

The optional port is found by ``isinstance``, as those of ``lock.py`` are. Words are those of the S3 API: its classes, and its
``RestoreObject``, here called *warm*, since *restore* is what a recovery point is. What is woken stays awake for the days that were
asked for; the object itself stays in its class. Facts: the S3 user guide, "Understanding archive retrieval options".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from resurgam.errors import Archived, Denied, Unreachable
from resurgam.stores.base import AlreadyThere, Buffer, Entry, Store, put_once

STANDARD = "STANDARD"  # the class of what no class is said of
SLEEPING = ("GLACIER", "DEEP_ARCHIVE")
COLD = ("STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", *SLEEPING)  # what a manifest may say: paid for a minimum of days


_EXPIRY = re.compile(r'expiry-date="([^"]+)"')


class Speed(StrEnum):
    """How fast objects are woken; the faster, the dearer."""

    BULK = "bulk"
    STANDARD = "standard"
    EXPEDITED = "expedited"


HOURS = {  # after which a copy is there, at the latest
    ("GLACIER", Speed.EXPEDITED): 0.1,
    ("GLACIER", Speed.STANDARD): 5.0,
    ("GLACIER", Speed.BULK): 12.0,
    ("DEEP_ARCHIVE", Speed.STANDARD): 12.0,
    ("DEEP_ARCHIVE", Speed.BULK): 48.0,
}


class Wakefulness(StrEnum):
    """Whether an object can be read; see the module's docstring."""

    READY = "ready"
    ASLEEP = "asleep"
    WAKING = "waking"


class Stored(NamedTuple):
    """How an object is kept. ``until`` is when a copy that was woken goes back to sleep."""

    storage_class: str
    state: Wakefulness
    until: datetime | None = None


@runtime_checkable
class Archives(Store, Protocol):
    """What a store can that keeps objects in classes; found by ``isinstance``."""

    def put_as(self, name: str, data: Buffer, storage_class: str) -> None:
        """Create ``name`` durably in that class. Raises as ``put``; Denied for a class that the store does not know."""
        ...

    def classes(self, prefix: str = "") -> Iterator[tuple[Entry, str]]:
        """As ``list``, each with its class; no more requests than a listing."""
        ...

    def state(self, name: str) -> Stored:
        """How ``name`` is kept, and whether it can be read now. Raises NotFound, Denied, Unreachable."""
        ...

    def warm(self, name: str, days: int, speed: Speed) -> None:
        """Ask for a copy of ``name`` that can be read for ``days``; no error where that was asked before. Raises NotFound, Denied,
        Unreachable."""
        ...


def classes_of(store: Store, prefix: str = "") -> Iterator[tuple[Entry, str]]:
    """The objects of any store with their classes; STANDARD where it knows none."""
    if isinstance(store, Archives):
        yield from store.classes(prefix)
    else:
        yield from ((entry, STANDARD) for entry in store.list(prefix))


def put_cold(store: Store, name: str, data: Buffer, storage_class: str) -> None:
    """As ``base.put_once`` of a pack, into a class where one is named. After a lost response nothing that sleeps can be read back;
    but a pack is named by the digest of bytes that nobody else had before, so an object of that name and size is one's own.

    Raises Denied where the store has no classes.
    """
    if not storage_class:
        put_once(store, name, data, by_digest=True)
        return
    try:
        with_classes(store, storage_class).put_as(name, data, storage_class)
    except (AlreadyThere, Unreachable):
        if not any((entry.name, entry.size) == (name, len(data)) for entry in store.list(name)):
            raise


def with_classes(store: Store, storage_class: str) -> Archives:
    """``store`` itself, which has classes. Raises Denied where it has none."""
    if isinstance(store, Archives):
        return store
    raise Denied(
        f"{store.describe()} has no storage classes, and vault.cold asks for {storage_class}.",
        untouched="Nothing was written.",
        next_step="Take vault.cold out of the manifest, or put the vault into a bucket that speaks S3.",
    )


def stored(storage_class: str, copied: str) -> Stored:
    """How an object is kept, by its class and by what S3 says of a copy of it (the header ``x-amz-restore``; empty without one)."""
    if storage_class not in SLEEPING:
        return Stored(storage_class, Wakefulness.READY)
    if 'ongoing-request="true"' in copied:
        return Stored(storage_class, Wakefulness.WAKING)
    from email.utils import parsedate_to_datetime  # here: it loads half a mail program, and few objects sleep

    until = _EXPIRY.search(copied)
    if until is None:
        return Stored(storage_class, Wakefulness.ASLEEP)
    return Stored(storage_class, Wakefulness.READY, parsedate_to_datetime(until[1]))


def asleep(name: str, where: str) -> Archived:
    """The error of a read of ``name``, which sleeps."""
    return Archived(
        f"{name} lies in a class of {where} that sleeps: it cannot be read before a copy of it was woken.",
        untouched="Nothing was changed.",
        next_step="`resurgam restore POINT --into DIR --warm-up` wakes what a restore needs, and says when it will be there.",
    )
