"""Looking at protection: what points need, and when each lock on that ends, as the store says.

What points need is marked as a prune marks it, in one pass (``vault.marking``), with the index key. Their locks are asked one by
one, which is a request each; so a host remembers the ends (``protection_notes``) of locks in *compliance* mode, which only ever get
longer. Of those in governance mode nothing is remembered: whoever is permitted to can lift them at any time.

Where the store keeps versions, the vault is seen as it was first written (``stores.asof``). Somebody who overwrites a pack or hides
a point under a marker would otherwise have the true bytes taken for garbage, and their locks lapse in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from resurgam.errors import NotFound, UsageError
from resurgam.stores.asof import Originals, originals
from resurgam.stores.base import Store
from resurgam.stores.lock import Locks, Retention
from resurgam.vault.identity import IDENTITY
from resurgam.vault.inventory import Inventory
from resurgam.vault.marking import survey
from resurgam.vault.protected import NEVER, Protected
from resurgam.vault.protection import Reach, protected
from resurgam.vault.protection_notes import LockNotes
from resurgam.vault.repository import Repository

AT_ONCE = 8  # requests under way; boto3 keeps ten connections
SHARED = ("approvals/", "keys/", "prune/", "replicas/", "retention/", "roles/")
HISTORY = ("checkpoints/", "log/")
_REFERENCE = "/reference-"

Progress = Callable[[int], None]  # how many objects were asked about, or locked, since the last call


def locking(store: Store) -> Locks:
    """``store``, where it can lock objects. Raises UsageError."""
    if isinstance(store, Locks):
        return store
    raise UsageError(
        f"{store.describe()} locks no objects.",
        untouched="Nothing was changed.",
        next_step="Only buckets that speak S3 and were made with object lock can; docs/stores.md says what protects a folder.",
    )


def as_written(repository: Repository) -> Repository:
    """The same vault as it was first written, whatever lies on top of it now."""
    view = originals(repository.store)
    return repository if view is repository.store else Repository(view, repository.keyring)


def covered_in(view: Repository) -> dict[str, str]:
    """What :func:`as_written` was seen to lie under something else, by name with what and when."""
    return view.store.covered if isinstance(view.store, Originals) else {}


def reach_of(repository: Repository, without: Collection[str] = (), only: str | None = None) -> Reach:
    """What every promised point needs but those ``without``, or what the one point ``only`` needs. Raises Denied without the index
    key, Unreachable."""
    found = survey(repository, without, only=only, way=True)
    own: dict[str, list[str]] = {sealed.body.id: [f"points/{sealed.body.id}"] for sealed in found.points}
    besides = [entry.name for prefix in HISTORY for entry in repository.store.list(prefix)] if only is None else []
    for entry in repository.store.list("records/" if only is None else f"records/{only}/"):
        point = entry.name.split("/")[1]
        if point in own:
            own[point].append(entry.name)
        elif _REFERENCE in entry.name:  # the yardstick of later points may rest on one that expired
            besides.append(entry.name)
    needed = np.flatnonzero(found.inventory.needed())
    return Reach(
        shared=tuple(_shared(repository.store)),
        besides=tuple(besides),
        own={point: tuple(names) for point, names in own.items()},
        packs=tuple(f"packs/{pack[:2]}/{pack}" for pack in found.inventory.packs),
        needed=tuple(needed.tolist()),
        segments=_segments(found.inventory, needed),
        way=found.way,
        trouble=found.trouble,
    )


def _shared(store: Store) -> Iterator[str]:
    yield IDENTITY
    for prefix in SHARED:
        yield from (entry.name for entry in store.list(prefix))


def _segments(inventory: Inventory, needed: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The segments that name a needed pack, each with the ordinals of those."""
    ordinals = {inventory.packs[ordinal]: ordinal for ordinal in needed.tolist()}
    found = {}
    for name, _, packs in inventory.segments:
        if mine := [ordinals[pack] for pack in packs if pack in ordinals]:
            found[name] = np.array(mine, np.int64)
    return found


def ends_of(
    store: Locks, names: Iterable[str], notes: LockNotes | None, enough: float, progress: Progress | None = None
) -> dict[str, float]:
    """When the lock of each name ends, seconds since 1970; ``NEVER`` where there is none, or nothing to lock. What ``notes``
    knows to be locked until ``enough`` is not asked. Raises Denied, Unreachable."""
    known = notes.ends() if notes is not None else {}
    found: dict[str, float] = {}
    asked: list[str] = []
    for name in names:
        if known.get(name, NEVER) >= enough:
            found[name] = known[name]
        else:
            asked.append(name)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="locks") as pool:
        for name, lock in zip(asked, pool.map(lambda name: _protected(store, name), asked), strict=True):
            found[name] = lock.until.timestamp() if lock is not None else NEVER
            if notes is not None:
                notes.saw(name, lock)
            if progress is not None:
                progress(1)
    return found


def _protected(store: Locks, name: str) -> Retention | None:
    try:
        return store.protected(name)
    except NotFound:  # a prune took it meanwhile, or somebody did
        return None


def protection(
    repository: Repository, notes: LockNotes | None, enough: float, only: str | None = None
) -> tuple[Protected, ...]:
    """Until when each promised point is protected, or the one ``only``: at least until then, where ``notes`` knows it from before.
    Raises UsageError where the store locks nothing, Denied where the locks or the index may not be read, Unreachable."""
    locking(repository.store)
    view = as_written(repository)
    reach = reach_of(view, only=only)
    found = protected(reach, ends_of(locking(view.store), reach.names(), notes, enough))
    if notes is not None:
        if only is None:
            notes.saw_covered(covered_in(view))
        notes.write(repository.prunes().last, found, whole=only is None)
    return found
