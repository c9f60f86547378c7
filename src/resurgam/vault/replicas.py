"""The places of a vault: where it is written to, and where copies of it are kept.

    replicas/<8 digits>   record REPLICAS, signed by an approver: all places, and which of them is the primary. The highest counts
    replica/mark          which of those places this is; only at replicas, and no part of what is copied
    replica/<place>/...   what else only that place holds (``vault.replicatimes``)

A replica is the same objects at another place, byte for byte, under the same vault id and keys; so who reads needs nothing new.
Everything that signs asks first whether it stands at the primary (:func:`require_primary`): two places that are both written to
would give the numbers of the log twice. The place where the vault was made bears no mark and is called ``origin``. After the loss
of a region another place is made the primary by one more record (``replicate promote``); the one before is a replica from then on,
and finds that out from the first run that reaches it.

**Residency.** Contents of a component with ``residency: eu`` lie in packs that say so (``model.placement``). A place of another
``region`` is never given these packs, nor the keys of their sessions. There the component is *withheld*: points are shown, it is
not restored, and its absence is no damage. What quotes the contents of a system with such components (answers, evidence) is
withheld likewise. The origin holds what was captured there, whatever its region is called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from resurgam.clock import Clock
from resurgam.errors import Busy, IntegrityError, NotFound, TargetRefused
from resurgam.model.codec import from_json, to_json, versioned
from resurgam.model.placement import Placement, of_all
from resurgam.stores.base import AlreadyThere, Entry, Store, put_once
from resurgam.stores.together import Together
from resurgam.vault.identity import IDENTITY
from resurgam.vault.records import RecordType, itself, make_record, read_record, timestamp
from resurgam.vault.roles import RoleTable
from resurgam.vault.signing import Role, broken

if TYPE_CHECKING:
    from resurgam.model.point import PointBody
    from resurgam.vault.host import HostState
    from resurgam.vault.repository import Repository

FORMAT: Final = 1
PREFIX: Final = "replicas/"
OWN: Final = "replica/"  # what one place has for itself
MARK: Final = f"{OWN}mark"
ORIGIN: Final = "origin"
NAME: Final = r"[a-z0-9][a-z0-9-]{0,30}"
LAG: Final = 3600.0  # seconds; the objective where nobody says another


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One place: its ``location`` as whoever listed it writes it, without credentials; its ``region``, a word that residencies are
    compared with, empty where none is declared; and the seconds by which it may ``lag`` behind the primary: its RPO."""

    name: str
    location: str
    region: str = ""
    lag: float = LAG


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a list. ``primary`` is the name of the one place that is written to."""

    format: int
    serial: int
    primary: str = ORIGIN
    places: tuple[Place, ...] = ()
    why: str = ""

    def named(self, name: str) -> Place | None:
        """The place of that name."""
        return next((place for place in self.places if place.name == name), None)

    @property
    def replicas(self) -> tuple[Place, ...]:
        """All places but the primary."""
        return tuple(place for place in self.places if place.name != self.primary)


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica says of itself."""

    format: int
    vault: str
    name: str
    made: str


class Here(msgspec.Struct, frozen=True, kw_only=True):
    """Where a store stands among the places of its vault. ``refused`` are lists that were not believed."""

    place: str = ORIGIN
    listed: Places | None = None
    refused: tuple[str, ...] = ()
    own: tuple[str, ...] = ()  # names of the objects that only this place has
    beside: tuple[str, ...] = ()  # other places that are read together with it

    @property
    def primary(self) -> bool:
        """Whether this place is the one that is written to. A replica that no list names was removed from it: it is none."""
        return (self.listed.primary if self.listed is not None else ORIGIN) in (self.place, *self.beside)

    def holds(self, placement: Placement) -> bool:
        """Whether what is so placed is to be expected here."""
        return any(self._holds(place, placement) for place in (self.place, *self.beside))

    def _holds(self, place: str, placement: Placement) -> bool:
        if place == ORIGIN:
            return True
        known = self.listed.named(place) if self.listed is not None else None
        return placement.may_go_to(known.region if known is not None else "")

    def takes(self, placement: Placement) -> bool:
        """Whether what is so placed may be written: to the primary, also where other places are read together with it."""
        return self._holds(self.listed.primary if self.listed is not None else ORIGIN, placement)

    def withholds(self, body: PointBody) -> frozenset[str]:
        """The components of a point whose contents are not here."""
        return frozenset(s.component for s in body.snapshots if not self.holds(Placement(s.residency)))

    def holds_answers(self, body: PointBody) -> bool:
        """Whether what quotes the contents of a point is to be expected here."""
        return self.holds(quoting(body))


def quoting(body: PointBody) -> Placement:
    """Where what quotes the contents of a point may lie."""
    return of_all(snapshot.residency for snapshot in body.snapshots)


def look_here(store: Store, roles: RoleTable, vault: bytes) -> Here:
    """Where ``store`` stands: one listing, and for most vaults nothing else. Raises IntegrityError where its mark is damaged, or is
    that of another vault: whether it may be written to is not known then (P12)."""
    entries = list(store.list("replica"))
    own = tuple(entry.name for entry in entries if entry.name.startswith(OWN))
    place, *beside = store.places if isinstance(store, Together) and store.places else (_place(store, vault, own),)
    listed, refused = newest(store, roles, vault, [entry for entry in entries if entry.name.startswith(PREFIX)])
    return Here(place=place, listed=listed, refused=refused, own=own, beside=tuple(beside))


def _place(store: Store, vault: bytes, own: Collection[str]) -> str:
    return mark_of(store, vault) if MARK in own else ORIGIN


def mark_of(store: Store, vault: bytes) -> str:
    """The name of the place by its mark. Raises NotFound, IntegrityError."""
    mark = versioned(store.get(MARK), Mark, FORMAT, what=MARK)
    if mark.vault != vault.hex():
        raise broken(MARK, f"it is that of a replica of the vault {mark.vault[:32]}")
    return mark.name


def newest(
    store: Store, roles: RoleTable, vault: bytes, entries: Iterable[Entry]
) -> tuple[Places | None, tuple[str, ...]]:
    """The list with the highest serial that is believed, and what was refused on the way to it."""
    refused: list[str] = []
    for entry in sorted(entries, reverse=True):
        try:
            record = read_record(
                store.get(entry.name), roles, vault, {RecordType.REPLICAS}, about=entry.name, what=entry.name,
                received=entry.received,
            )  # fmt: skip
            body = versioned(record.body, Places, FORMAT, what=entry.name)
            if list_name(body.serial) != entry.name:
                raise broken(entry.name, f"it holds list {body.serial}")
        except IntegrityError as error:
            refused.append(error.message)
            continue
        return body, tuple(refused)
    return None, tuple(refused)


def list_name(serial: int) -> str:
    """Where a list is stored."""
    return f"{PREFIX}{serial:08d}"


def require_primary(repository: Repository) -> None:
    """Raises TargetRefused where the vault is not written to in this place: nothing is signed at a replica."""
    here = repository.here
    if here.primary:
        return
    primary = here.listed.named(here.listed.primary) if here.listed is not None else None
    where = f" ({primary.location})" if primary is not None and primary.location else ""
    name = here.listed.primary if here.listed is not None else ORIGIN
    what = "was the primary of this vault" if here.place == ORIGIN else f"is the replica {here.place} of this vault"
    raise TargetRefused(
        f"{repository.store.describe()} {what}; written to is {name}{where}.",
        untouched="Nothing was written.",
        next_step=f"Name {name} as the vault's path. If it is lost for good, make this place the primary: "
        "`resurgam replicate promote`.",
    )


def require_newest_list(repository: Repository, host: HostState) -> None:
    """Raises TargetRefused where ``host`` has seen a newer list of places than this place has: another was made the primary, and
    this one, which has come back, does not know it yet."""
    listed = repository.here.listed
    serial = listed.serial if listed is not None else 0
    seen = host.newest_list(serial)
    if seen > serial:
        raise TargetRefused(
            f"{repository.store.describe()} has the list of places {serial}, and this host has seen {seen}.",
            untouched="Nothing was written.",
            next_step="Name the place that is the primary now as the vault's path; `resurgam replicate run` there brings this one "
            "up to date.",
        )


def require_takes_evidence(repository: Repository, body: PointBody) -> None:
    """Raises TargetRefused where what quotes the contents of a point may not lie at the primary, however it came to be read."""
    if not repository.here.takes(quoting(body)):
        said = ", ".join(sorted({snapshot.residency for snapshot in body.snapshots} - {""}))
        raise TargetRefused(
            f"Evidence on point {body.id} quotes contents with residency {said}, and the primary lies elsewhere.",
            untouched="Nothing was written.",
            next_step="Judge without a record: --unrecorded.",
        )


def require_here(repository: Repository, body: PointBody, components: Iterable[str]) -> None:
    """Raises NotFound where one of ``components`` is withheld here, naming the places that may have it."""
    here = repository.here
    gone = here.withholds(body) & frozenset(components)
    if not gone:
        return
    snapshot = next(s for s in body.snapshots if s.component in gone)
    listed = here.listed.places if here.listed is not None else ()
    having = [p for p in listed if p.name == ORIGIN or Placement(snapshot.residency).may_go_to(p.region)]
    where = " or ".join(f"{place.name} ({place.location})" for place in having if place.name != here.place)
    raise NotFound(
        f"{', '.join(sorted(gone))} is not here: residency {snapshot.residency}, and this is the replica {here.place}.",
        untouched="Nothing was restored.",
        next_step=f"Restore from {where or 'a place of that region'}, or restore the other components with `--component`.",
    )


def next_list(before: Places | None, places: Iterable[Place], why: str = "", primary: str | None = None) -> Places:
    """The list that comes after ``before``."""
    primary = primary or (before.primary if before is not None else ORIGIN)
    serial = before.serial + 1 if before is not None else 1
    return Places(format=FORMAT, serial=serial, primary=primary, places=tuple(places), why=why)


def put_list(repository: Repository, body: Places, clock: Clock) -> Places:
    """Sign ``body`` as the approver, and put it in this place. Raises Denied, Busy where another came first."""
    signer, name = repository.keyring.signer(Role.APPROVER), list_name(body.serial)
    repository.require_believed(signer)
    data = make_record(
        RecordType.REPLICAS, itself(name, body), body, signer, vault=repository.vault, made=clock.now()
    )  # not by `put_signed`: whoever promotes a replica signs where nobody else may
    try:
        put_once(repository.store, name, data)
    except AlreadyThere as error:
        raise Busy(
            f"Another list of places {body.serial} was signed meanwhile.",
            untouched="That one holds, and nothing of this was done.",
            next_step="Look at it with `resurgam replicate status`, and give the same command again.",
        ) from error
    repository.announce(RecordType.REPLICAS, name, signer, clock)
    repository.look_again()
    return body


def put_mark(store: Store, vault: bytes, name: str, clock: Clock) -> None:
    """Mark ``store`` as the place ``name``; where it is that already, nothing changes. Raises TargetRefused where it is another."""
    if require_free(store, vault, name):
        put_once(store, MARK, to_json(Mark(format=FORMAT, vault=vault.hex(), name=name, made=timestamp(clock.now()))))


def require_free(store: Store, vault: bytes, name: str) -> bool:
    """Whether ``store`` is to be marked as the place ``name``. Raises TargetRefused where it is another, also an unmarked one: a
    vault of which nothing says that it is a replica is the one that was made there, and a mark would end all captures into it."""
    try:
        there = mark_of(store, vault)
    except NotFound:
        if name == ORIGIN or not _is_origin(store, name):
            return True
        there = ORIGIN
    if there == name:
        return False
    raise TargetRefused(
        f"{store.describe()} is {there} among the places of this vault, not {name}.",
        untouched="Nothing was changed.",
        next_step="Name the place of that replica, or an empty one: `resurgam replicate status` shows which place is where.",
    )


def _is_origin(store: Store, name: str) -> bool:
    """Whether a vault lies in ``store`` without the times that runs to the replica ``name`` have left: those outlast its mark."""
    vault = any(entry.name == IDENTITY for entry in store.list(IDENTITY))
    return vault and not any(True for _ in store.list(f"{OWN}{name}/"))


def read_mark(data: bytes) -> Mark:
    """A mark as it lies there. Raises IntegrityError."""
    return from_json(data, Mark, what=MARK)
