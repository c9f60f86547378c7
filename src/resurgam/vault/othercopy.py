"""Another copy of the same vault: a replica, a snapshot of the folder, an old disk. What it has is taken after it is verified.

Who holds the other copy may be anybody, so nothing of it is believed for lying there:

    role table     signed by the pinned root key
    record         signed by a key of a role that may write it, about what its name says
    pack           the digest of its name
    segment        the digest of its name, and the signature of a writer of this vault
    wrapped key    it opens here, and opens what its session stored: without an identity it is not taken

So a hostile copy can give what was signed for this vault, or nothing. Names that are not of a vault are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from blake3 import blake3

from resurgam.errors import Denied, IntegrityError, NewerFormat, NotFound, ResurgamError
from resurgam.model.codec import from_json
from resurgam.stores.base import Entry, Store, put_once
from resurgam.vault.keyring import Keyring
from resurgam.vault.keys import SessionKey, unwrap_index, unwrap_session
from resurgam.vault.pack import FRAME, HEADER, decrypt, parse_frame, scan
from resurgam.vault.records import RecordType, latest_roles, read_record, read_roles
from resurgam.vault.repository import IDENTITY, Repository, VaultIdentity
from resurgam.vault.roles import RoleTable
from resurgam.vault.signing import Role, broken
from resurgam.vault.wraps import session_of, sessions, wraps_of_index

ROLES = "roles/"
# Where signed documents lie, which types they have there (None: any), and what they are about: {} is the last part of the name.
RECORDS: dict[str, tuple[set[RecordType] | None, str]] = {
    "points/": ({RecordType.POINT, RecordType.REVOCATION}, "point/{}"),
    "records/": (None, ""),
    "leases/": ({RecordType.LEASE}, "lease/{}"),
    "log/": ({RecordType.LOG}, "log/{}"),
    "retention/": ({RecordType.RETENTION}, "retention/{}"),
    "approvals/": ({RecordType.APPROVAL}, ""),
    "prune/": (None, ""),
    "checks/": ({RecordType.CHECKED}, "check/{}"),
    "replicas/": ({RecordType.REPLICAS}, "replicas/{}"),
}


def verified_record(entry: Entry, data: bytes, roles: RoleTable, vault: bytes) -> None:
    """That ``data`` is what belongs under the name of ``entry``. Raises IntegrityError, Disowned, NewerFormat."""
    place = next(place for place in RECORDS if entry.name.startswith(place))
    expect, form = RECORDS[place]
    about: str | None = form.format(entry.name.rpartition("/")[2])
    if place == "records/":
        about = f"point/{entry.name.split('/')[1]}"
    elif place == "prune/":
        about = f"prune/{entry.name.split('/')[1]}"
    elif place == "approvals/":
        about = None
    record = read_record(data, roles, vault, expect, about=about, what=entry.name, received=entry.received)
    if place == "approvals/" and not record.subject.digest.startswith(entry.name.split("/")[1]):
        raise broken(entry.name, f"it approves the plan {record.subject.digest[:16]}")


def door(store: Store, other: Store, keyring: Keyring) -> Iterator[tuple[str, bytes, bool]]:
    """What a vault cannot be opened without, and what the other copy has of it: its identity and its role tables, where they are
    missing or spoilt here. Names, bytes, and whether something of that name is here. Raises NotFound, IntegrityError, and Denied
    where another vault lies here: its role tables are not spoilt, and are nothing to replace."""
    trust = keyring.trust
    ours, theirs = _identity_in(store), _identity_in(other)
    named = ours is not None and (ours.vault, ours.root) == (trust.vault, trust.root)
    if ours is not None and not named and not is_ours(store, keyring):
        raise Denied(
            f"{store.describe()} is the vault {ours.name} ({ours.vault}); the keys are those of {trust.name} ({trust.vault}).",
            untouched="Nothing was read or written.",
            next_step="Name the vault to repair with --vault, or its keys with --keys.",
        )
    if theirs is not None and not named:
        if (theirs.vault, theirs.root) != (trust.vault, trust.root):
            raise broken(f"the other copy's {IDENTITY}", "it is the identity of another vault")
        yield IDENTITY, other.get(IDENTITY), _has(store, IDENTITY)
    for entry in other.list(ROLES):
        here = _has(store, entry.name)
        if _table_in(other, entry.name, keyring) and not (here and _table_in(store, entry.name, keyring)):
            yield entry.name, other.get(entry.name), here


def reopen(store: Store, other: Store, keyring: Keyring) -> list[str]:
    """Bring that back; returns the names of what was taken. What is spoilt is removed in the pruner's role only. Raises Denied."""
    taken = []
    for name, data, here in list(door(store, other, keyring)):
        if here:
            _require_pruner(other, keyring)
            store.delete(name)
        put_once(store, name, data)
        taken.append(name)
    return taken


def _identity_in(store: Store) -> VaultIdentity | None:
    try:
        return from_json(store.get(IDENTITY), VaultIdentity, what=IDENTITY)
    except (NotFound, IntegrityError):
        return None


def _table_in(store: Store, name: str, keyring: Keyring) -> RoleTable | None:
    try:
        return read_roles(store.get(name), keyring.vault, keyring.trust.root, name=name)
    except IntegrityError:
        return None


def is_ours(store: Store, keyring: Keyring) -> bool:
    """Whether a role table of the vault that the keys are for lies here: then an identity that names another one is damaged."""
    return any(_table_in(store, entry.name, keyring) is not None for entry in store.list(ROLES))


def _require_pruner(store: Store, keyring: Keyring) -> None:
    """By the role tables of ``store``, since there may be none here."""
    key = keyring.signer(Role.PRUNER)
    roles = latest_roles(((e.name, store.get(e.name)) for e in store.list(ROLES)), keyring.vault, keyring.trust.root)
    if not roles.table.lists(key.public, Role.PRUNER):
        raise Denied(
            f"The pruner's key {key.key_id} that is here does not count in this vault.",
            untouched="Nothing was removed.",
            next_step="Run this where the pruner's key is.",
        )


class OtherCopy:
    """What another copy holds of the vault ``ours``. Raises Denied where it is another vault's."""

    def __init__(self, ours: Repository, store: Store) -> None:
        self._ours = ours
        self.store = store
        self.theirs = Repository(store, ours.keyring)
        self.refused: list[str] = []  # what lies there and was not believed

    def pack(self, name: str) -> bytes | None:
        """A pack with its digest, or None."""
        data = self._get(f"packs/{name[:2]}/{name}")
        return data if data is not None and blake3(data).hexdigest() == name else None

    def packs_with(self, chunks: frozenset[bytes]) -> set[str]:
        """The packs in which the other copy finds ``chunks``."""
        places = (self.theirs.index.find(chunk) for chunk in chunks)
        return {place.pack for place in places if place is not None}

    def records(self) -> Iterator[tuple[str, bytes, bool]]:
        """Records and role tables that are missing or not believed here, as the other copy has them: names, bytes, and whether
        something of that name is here."""
        for place in (ROLES, *RECORDS):
            here = {entry.name: entry for entry in self._ours.store.list(place)}
            for entry in self.store.list(place):
                if entry.name in here and self._sound(here[entry.name], self._ours.store.get(entry.name)):
                    continue
                data = self._get(entry.name)
                if data is not None and self._sound(entry, data, tell=True):
                    yield entry.name, data, entry.name in here

    def keys(self) -> Iterator[tuple[str, bytes, bool]]:
        """The same of wrapped keys that are missing here, or do not open here."""
        theirs = {name for names in sessions(self.store).values() for name in names} | wraps_of_index(self.store)
        for name in sorted(theirs):
            ours = self._ours.store.get(name) if _has(self._ours.store, name) else None
            data = self._get(name)
            if data is None or data == ours or (ours is not None and self._opens(name, ours)):
                continue
            if self._opens(name, data):
                yield name, data, ours is not None
            elif ours is None:
                self.refused.append(f"{name} is not taken: no key here opens it, so it cannot be verified.")

    def _opens(self, name: str, data: bytes) -> bool:
        ours = self._ours
        keys = tuple(key for domain in ours.roles.domains if ours.opens(domain) for key in ours.require_open(domain))
        try:
            if name.startswith("keys/index"):
                return unwrap_index(data, ours.vault, keys).secret_bytes() == ours.secret.secret_bytes()
            session = session_of(name)
            key = unwrap_session(data, ours.vault, session, keys)
            return opens_its_own(ours, session, key) is not False
        except (Denied, IntegrityError, NewerFormat):
            return False

    def _sound(self, entry: Entry, data: bytes, *, tell: bool = False) -> bool:
        try:
            if entry.name.startswith(ROLES):
                read_roles(data, self._ours.vault, self._ours.keyring.trust.root, name=entry.name)
            else:
                verified_record(entry, data, self._ours.roles, self._ours.vault)
        except (IntegrityError, NewerFormat) as error:
            if tell:
                self.refused.append(f"of the other copy {error.message}")
            return False
        return True

    def _get(self, name: str) -> bytes | None:
        try:
            return self.store.get(name)
        except NotFound:
            return None
        except ResurgamError as error:
            self.refused.append(f"of the other copy {error.message}")
            return None


def opens_its_own(repository: Repository, session: bytes, key: SessionKey) -> bool | None:
    """Whether ``key`` opens what its session stored; None where nothing of that session is there.

    A pack mostly begins with a frame of each session that is in it, so packs that begin with one of this are looked at first.
    """
    first: list[str] = []
    others: list[str] = []
    for entry in repository.store.list("packs/"):
        (first if _begins_with(repository.store, entry.name, session) else others).append(entry.name)
    for name in (*first, *others):
        view = memoryview(repository.store.get(name))
        frames = [(offset, frame) for offset, frame in scan(view) if frame.session == session]
        for offset, frame in frames:
            with suppress(IntegrityError):
                decrypt(key.cipher, repository.vault, view[offset : offset + FRAME + frame.stored], frame)
                return True
        if frames:
            return False
    return None


def _begins_with(store: Store, name: str, session: bytes) -> bool:
    try:
        return parse_frame(store.get(name, HEADER, FRAME)).session == session
    except (IntegrityError, NewerFormat):
        return False


def _has(store: Store, name: str) -> bool:
    return any(entry.name == name for entry in store.list(name))
