"""Does a store keep the promises of the port? Asked of the real server when a vault is made on it, before anything is.

Some servers that speak S3 accept ``If-None-Match`` and ignore it, refuse ranges, or take bytes that do not match their checksum
(docs/stores.md names them). What a vault cannot live without is *required*: a store that breaks it is refused. The rest is said.
Every question is put with small objects under ``probe/``, which are removed again as far as the store lets them go; what stays
means nothing, and a vault can be made beside it.

    create-only     a second put of a name changes nothing                       required (P2)
    one winner      of sixteen who put one name at once exactly one succeeds     required (P2)
    reads           what was put is read, in ranges too, and deleted is gone     required
    listings        show each put at once, sorted, whole                         required (P1)
    locks           a locked object cannot be deleted                            required where the manifest asks for it
    deletes         a deleted object is gone: a prune frees bytes                said
    versions        what was overwritten or deleted can still be looked at       said
    checksums       bytes that changed on their way up are refused               said
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from resurgam.clock import Clock
from resurgam.errors import Denied, NotFound, Unreachable
from resurgam.model.system import LockMode, VaultLock
from resurgam.stores.base import AlreadyThere, Store
from resurgam.stores.lock import Bucket, Retention

PREFIX = "probe/"
WRITERS = 16
LOCKED = timedelta(seconds=90)  # how long the object stays that the lock is tried on


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise: whether the store keeps it, whether a vault needs it, and what that means, for people."""

    name: str
    kept: bool
    required: bool
    words: str


def examine(store: Store, lock: VaultLock | None, clock: Clock) -> tuple[Promise, ...]:
    """Ask everything of ``store``, which itself locks nothing; ``lock`` is what the manifest asks for. Raises Denied, NotFound,
    Unreachable where it cannot be asked at all."""
    folder = f"{PREFIX}{secrets.token_hex(8)}"
    try:
        return tuple(_answers(store, folder, lock, clock))
    finally:
        for entry in list(store.list(folder)):
            with suppress(Denied, Unreachable):  # what stays means nothing, and `deletes` has told
                store.delete(entry.name)


def is_empty(store: Store) -> bool:
    """Whether nothing is there but what an examination left."""
    return all(entry.name.startswith(PREFIX) for entry in store.list())


def require(promises: tuple[Promise, ...], where: str) -> None:
    """Raises Denied, naming every promise that a vault needs and that is not kept (P12)."""
    broken = [promise.words for promise in promises if promise.required and not promise.kept]
    if broken:
        raise Denied(
            f"{where} cannot hold a vault: {'; '.join(broken)}.",
            untouched="No vault was made.",
            next_step="Use another store; docs/stores.md says which keep their promises.",
        )


def _answers(store: Store, folder: str, lock: VaultLock | None, clock: Clock) -> Iterator[Promise]:
    yield _needed("create-only", _create_only(store, f"{folder}/once"),
                  "a second put of a name changes nothing",
                  "a second put of a name replaces what was there: conditional puts are ignored")  # fmt: skip
    writers = f"of {WRITERS} writers of one name"
    yield _needed("one winner", _one_winner(store, f"{folder}/race"),
                  f"{writers} exactly one wins", f"{writers} not exactly one wins")  # fmt: skip
    yield _needed("reads", _reads(store, f"{folder}/read"),
                  "what was put is read at once, in ranges too",
                  "what was put is not what is read, whole or in ranges")  # fmt: skip
    yield _needed("listings", _lists(store, f"{folder}/list"),
                  "listings are whole and show each put at once", "listings are not whole, or lag behind")  # fmt: skip
    yield _said("deletes", _deletes(store, f"{folder}/gone"),
                "what is deleted is gone: a prune frees bytes",
                "nothing can be deleted by these credentials: a prune is for others, with their own")  # fmt: skip
    if isinstance(store, Bucket):
        yield from _of_bucket(store, folder, lock, clock)


def _of_bucket(store: Bucket, folder: str, lock: VaultLock | None, clock: Clock) -> Iterator[Promise]:
    """What only a bucket that speaks S3 can be asked."""
    facts = store.facts
    unseen = "whether it keeps versions may not be asked with these credentials"
    lost = "keeps no versions: who may write past Resurgam can make unreadable what they overwrite"
    yield _said("versions", facts.versioned is True,
                "keeps versions: what was overwritten can still be looked at",
                unseen if facts.versioned is None else lost)  # fmt: skip
    yield _said("checksums", store.refuses_wrong_checksum(f"{folder}/sum"),
                "bytes that do not match their checksum are refused",
                "takes bytes that do not match their checksum: damage on the way up shows when they are read")  # fmt: skip
    never = "it cannot lock objects: a bucket can from its making on, or never"
    if lock is None:
        yield _said("locks", facts.lockable is True, "can lock objects: vault.lock makes use of it",
                    f"{never}. Who may delete here can delete the vault" if facts.lockable is False else
                    "whether it can lock objects may not be asked with these credentials")  # fmt: skip
    else:
        yield _needed("locks", facts.lockable is not False and _locks(store, f"{folder}/lock", lock.mode, clock),
                      "a locked object cannot be deleted before its time",
                      never if facts.lockable is False else "locks are refused there, or do not hold")  # fmt: skip


def _needed(name: str, kept: bool, good: str, bad: str) -> Promise:
    return Promise(name, kept, required=True, words=good if kept else bad)


def _said(name: str, kept: bool, good: str, bad: str) -> Promise:
    return Promise(name, kept, required=False, words=good if kept else bad)


def _create_only(store: Store, name: str) -> bool:
    store.put(name, b"first")
    return not _succeeds(lambda: store.put(name, b"second")) and store.get(name) == b"first"


def _one_winner(store: Store, name: str) -> bool:
    """Whether exactly one of many puts at one moment succeeds, and its bytes are what stands there."""
    start = threading.Barrier(WRITERS)

    def write(own: int) -> bool:
        start.wait(timeout=60)
        return _succeeds(lambda: store.put(name, own.to_bytes() * 1000))

    with ThreadPoolExecutor(WRITERS) as pool:
        won = [own for own, success in enumerate(pool.map(write, range(WRITERS))) if success]
    return len(won) == 1 and store.get(name) == won[0].to_bytes() * 1000


def _reads(store: Store, name: str) -> bool:
    data = secrets.token_bytes(5000)
    store.put(name, data)
    buffer = bytearray(100)
    filled = store.read_into(name, 4950, memoryview(buffer))
    return (
        store.get(name) == data
        and store.get(name, 1000, 2000) == data[1000:3000]
        and store.get(name, 4000, 2000) == data[4000:]
        and store.get(name, 5000, 1) == b""
        and buffer[:filled] == data[4950:]
    )


def _lists(store: Store, folder: str) -> bool:
    """Whether each put is listed at once, and the names come whole and sorted, where folders and files lie side by side."""
    there: list[str] = []
    for name in ("b/c", "b-c", "b.c", "a", "b0", "b/a/d"):
        there.append(f"{folder}/{name}")
        store.put(there[-1], b"x")
        if [entry.name for entry in store.list(f"{folder}/")] != sorted(there):
            return False
    return [entry.name for entry in store.list(f"{folder}/b/")] == [f"{folder}/b/a/d", f"{folder}/b/c"]


def _deletes(store: Store, name: str) -> bool:
    store.put(name, b"x")
    try:
        store.delete(name)
    except Denied:
        return False
    return not _succeeds(lambda: store.get(name)) and not list(store.list(name))


def _locks(store: Bucket, name: str, mode: LockMode, clock: Clock) -> bool:
    """Whether a locked object withstands a delete, and tells of its lock."""
    until = clock.now() + LOCKED
    if not _succeeds(lambda: store.put_locked(name, b"x", Retention(mode, until))):
        return False
    retention = store.protected(name)
    return (
        retention is not None
        and abs(retention.until - until) < timedelta(seconds=2)
        and not _succeeds(lambda: store.delete(name))
        and store.get(name) == b"x"
    )


def _succeeds(call: Callable[[], object]) -> bool:
    """Whether ``call`` is not refused. What gives no answer at all is not an answer (Unreachable passes through)."""
    try:
        call()
    except (AlreadyThere, Denied, NotFound):
        return False
    return True
