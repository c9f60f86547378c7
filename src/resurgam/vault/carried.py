"""What is carried on a disk to a replica that no network reaches: objects in a folder, and a signed list of them.

    carried/list     8 bytes key id, 64 bytes Ed25519 over the rest as ``resurgam carried``, zlib of JSON (``Carried``)
    <name>           the objects that the replica lacks, under their names

Export copies as any run does (``vault.replicate``), into a folder in the replica's stead; so it can be stopped and given again, and
what may not lie in the replica's region is not on the disk either. What the replica has already is *taken for there*: as it says
where it can be asked, else what the vault had received before a time that somebody names. The list comes last, and names both.

Import believes the disk nothing. Before anything is put, the list is signed by a key of the role table, every carried object has
its size and its digest, and everything that was taken for there is there. Then it copies as any run does: points last (P1).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from heapq import merge

import msgspec
from blake3 import blake3

from resurgam.clock import Clock
from resurgam.errors import IntegrityError, NotFound, TargetRefused
from resurgam.model.codec import to_json, versioned
from resurgam.stores.base import Buffer, Entry, Store, put_once
from resurgam.vault.keyring import Keyring
from resurgam.vault.records import latest_roles, timestamp
from resurgam.vault.replicalag import allowed
from resurgam.vault.replicaplan import SESSIONS, Stage
from resurgam.vault.replicas import OWN, Place, put_mark
from resurgam.vault.replicate import BytesDone, Copied, Run
from resurgam.vault.repository import Repository
from resurgam.vault.roles import RoleTable
from resurgam.vault.signing import PublicKey, SigningKey, broken

FORMAT = 1
LIST = "carried/list"
KIND = "resurgam carried"
_KEY, _SIGNED = 8, 72
_LARGEST = 1 << 31  # bytes of a list when it is unpacked


class Object(msgspec.Struct, frozen=True, array_like=True):
    """One object: ``digest`` is its BLAKE3 in hex, empty for what is taken for there and not carried."""

    name: str
    size: int
    received: float
    digest: str = ""


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """The list: for which ``place`` of which vault, made when, and everything that the vault then held for it."""

    format: int
    vault: str
    place: Place
    made: str
    objects: tuple[Object, ...]

    @property
    def bytes(self) -> int:
        """Of what is carried."""
        return sum(one.size for one in self.objects if one.digest)


class View:
    """A store in which some objects lie and ``others`` count as lying there too; those are read from ``behind``. ``times`` gives
    objects the times at which their originals were received."""

    def __init__(
        self, inner: Store, others: Iterable[Entry], behind: Store, times: dict[str, float] | None = None
    ) -> None:
        self._inner, self._behind, self._times = inner, behind, times
        self._others = {entry.name: entry for entry in sorted(others)}

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Into the inner one."""
        self._inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store."""
        return (self._behind if name in self._others else self._inner).get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """See Store."""
        return (self._behind if name in self._others else self._inner).read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Both, sorted by name."""
        theirs = (entry for name, entry in self._others.items() if name.startswith(prefix))
        ours = (entry for entry in self._inner.list(prefix) if entry.name not in self._others)
        for entry in merge(ours, theirs, key=lambda entry: entry.name):
            if self._times is None:
                yield entry
            elif entry.name in self._times:  # what nobody listed is on no list, whoever put it there
                yield entry._replace(received=self._times[entry.name])

    def delete(self, name: str) -> None:
        """From the inner one."""
        self._inner.delete(name)

    def describe(self) -> str:
        """The inner one."""
        return self._inner.describe()


def export(
    near: Repository,
    folder: Store,
    place: Place,
    signer: SigningKey,
    clock: Clock,
    *,
    there: Iterable[Entry] = (),
    progress: BytesDone | None = None,
) -> tuple[Copied, Carried]:
    """Put into ``folder`` what ``place`` lacks, where ``there`` is what it has. Raises TargetRefused where the folder holds a whole
    export already."""
    if any(True for _ in folder.list(LIST)):
        raise TargetRefused(
            f"{folder.describe()} holds a whole export already.",
            untouched="Nothing was changed.",
            next_step="Name an empty folder, or go on with `resurgam replicate import` where the replica is.",
        )
    door = (*Stage.DOOR.value, OWN)  # so that the disk can be judged by itself
    taken = [entry for entry in there if not entry.name.startswith(door) and entry.name != "vault.json"]
    put_mark(folder, near.vault, place.name, clock)
    copied = Run(near, View(folder, taken, near.store), place, clock, progress=progress).run()
    times = {entry.name: near.as_told(entry, always=True).received for entry in near.store.list()}
    carried = [
        Object(entry.name, entry.size, times[entry.name], blake3(folder.get(entry.name)).hexdigest())
        for entry in folder.list()
        if entry.name in times
    ]
    assumed = [Object(entry.name, entry.size, times[entry.name]) for entry in taken if entry.name in times]
    body = Carried(
        format=FORMAT,
        vault=near.vault.hex(),
        place=place,
        made=timestamp(clock.now()),
        objects=tuple(sorted((*carried, *assumed), key=lambda one: one.name)),
    )
    put_once(folder, LIST, sealed(body, signer))
    return copied, body


def received_before(near: Repository, place: Place, moment: float) -> list[Entry]:
    """What ``place`` has if it was brought up to date at ``moment``, seconds since 1970 by the store's clock. Where a residency
    withholds keys of sessions nobody can say which: those that carried packs need are carried again."""
    old = [entry for entry in near.store.list() if entry.received < moment and not entry.name.startswith(OWN)]
    packs = [entry for entry in old if entry.name.startswith(Stage.PACKS.value)]
    others = [entry for entry in old if not entry.name.startswith(Stage.PACKS.value)]
    if near.roles.residency:
        others = [entry for entry in others if not entry.name.startswith(SESSIONS)]
    return [*others, *allowed(near, place, packs)]


def import_(
    folder: Store, far: Store, keyring: Keyring, clock: Clock, *, progress: BytesDone | None = None
) -> tuple[Copied, Carried]:
    """Put into ``far`` what ``folder`` carries. Raises IntegrityError where the disk is not what was exported, NotFound where
    ``far`` lacks what was taken for there; in both cases nothing was put."""
    body = read_list(folder, far, keyring)
    require_whole(folder, body, progress)
    there = {entry.name for entry in far.list()}
    assumed = [Entry(one.name, one.size, one.received) for one in body.objects if not one.digest]
    lacking = [entry.name for entry in assumed if entry.name not in there]
    if lacking:
        raise NotFound(
            f"{len(lacking)} objects are not in {far.describe()} that the export takes for there, {lacking[0]} among them.",
            untouched="Nothing was put.",
            next_step="Export again, with an earlier --since or without it.",
        )
    times = {one.name: one.received for one in body.objects}
    near = Repository(View(folder, assumed, far, times), keyring)
    return Run(near, far, body.place, clock, progress=progress).run(), body


def require_whole(folder: Store, body: Carried, progress: BytesDone | None = None) -> None:
    """Raises IntegrityError where a carried object is missing, or is not what the list says."""
    for one in body.objects:
        if not one.digest:
            continue
        try:
            data = folder.get(one.name)
        except NotFound:
            data = b""
        if (len(data), blake3(data).hexdigest()) != (one.size, one.digest):
            raise IntegrityError(
                f"{one.name} in {folder.describe()} is not what was exported.",
                untouched="Nothing was put.",
                next_step="Copy the export again, or make it again: what a disk damaged, no replica gets.",
            )
        if progress is not None:
            progress(len(data))


def sealed(body: Carried, signer: SigningKey) -> bytes:
    """The bytes of a list."""
    packed = zlib.compress(to_json(body))
    return bytes.fromhex(signer.key_id) + signer.sign(KIND, packed) + packed


def read_list(folder: Store, far: Store, keyring: Keyring) -> Carried:
    """The list of what ``folder`` carries, when a key that counts has signed it. The role table is the newest that either of the
    two has. Raises NotFound, IntegrityError."""
    data = folder.get(LIST)
    tables = [(e.name, store.get(e.name)) for store in (folder, far) for e in store.list("roles/")]
    roles = latest_roles(tables, keyring.vault, keyring.trust.root).table
    if not any(key.verifies(KIND, data[_SIGNED:], data[_KEY:_SIGNED]) for key in _counting(roles)):
        raise broken(f"{LIST} in {folder.describe()}", "no key that counts in this vault has signed it")
    try:
        plain = zlib.decompressobj().decompress(data[_SIGNED:], _LARGEST)
    except zlib.error as error:
        raise broken(LIST, "it cannot be unpacked") from error
    body = versioned(plain, Carried, FORMAT, what=LIST)
    if body.vault != keyring.vault.hex():
        raise broken(LIST, f"it is that of the vault {body.vault[:32]}")
    return body


def _counting(roles: RoleTable) -> Iterator[PublicKey]:
    return (PublicKey(entry.public) for role in roles.roles for entry in roles.active(role))
