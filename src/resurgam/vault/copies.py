"""Copies of one vault, opened together: which they may be, and how a whole object is known to be what its name says.

    vault.json   it names the vault and the root key that the keys here are for
    role table   the pinned root key has signed it
    record       a key of a role that may write it has, also one that counts no more, and it is about what its name says
    pack         the digest of its name
    segment      the same

    wrapped key  it opens, where an identity that it is wrapped to is here

Wrapped keys are also tried by whoever opens them, and frames of packs by whoever decrypts them, in one copy after the other.
Anything else is taken from the first copy that has it. Nothing is believed more for lying in two copies: who reads judges as ever.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Thread

import msgspec
from blake3 import blake3

from resurgam.clock import Clock
from resurgam.errors import Denied, IntegrityError, NewerFormat, NotFound, ResurgamError, Unreachable
from resurgam.model.codec import from_json
from resurgam.model.lazily import cached_property
from resurgam.model.point import PointBody
from resurgam.stores.base import Buffer, Entry, Store
from resurgam.stores.together import Aside, Copy, Together, in_background
from resurgam.vault.age import Identity
from resurgam.vault.identity import IDENTITY, VaultIdentity
from resurgam.vault.keyformat import IDENTITY as IDENTITY_FILE
from resurgam.vault.keyring import Keyring
from resurgam.vault.keys import unwrap_index, unwrap_session
from resurgam.vault.othercopy import RECORDS, ROLES, is_ours, verified_record
from resurgam.vault.records import latest_roles, read_roles
from resurgam.vault.replicas import ORIGIN, OWN, mark_of, newest, require_primary, require_takes_evidence
from resurgam.vault.replicas import PREFIX as LISTS
from resurgam.vault.replicatimes import told_times
from resurgam.vault.repository import Repository
from resurgam.vault.roles import Disowned, RoleTable
from resurgam.vault.signing import broken
from resurgam.vault.wraps import session_of

PATIENCE = 15.0  # seconds in which each copy must say something when several are opened
_PACK = re.compile(r"packs/[0-9a-f]{2}/([0-9a-f]{64})")
_SESSION_KEY = re.compile(r"keys/session-[0-9a-f]{32}(?:-[0-9]{8})?")
_SEGMENT = re.compile(r"index/([0-9a-f]{32})")


def open_together(
    stores: Sequence[Store], keyring: Keyring, clock: Clock, patience: float = PATIENCE, aside: Aside = in_background
) -> Together:
    """``stores`` as one, the preferred one first. All are asked at once; one that does not answer within ``patience`` seconds is
    left out, and ``left_out`` says so. Raises Denied where one of them holds another vault, Unreachable where none answers."""
    errors = _greeted(stores, keyring, patience)
    for error in errors:
        if error is not None and not isinstance(error, Unreachable):
            raise error
    answering = [store for store, error in zip(stores, errors, strict=True) if error is None]
    if not answering:
        raise next(error for error in errors if error is not None)
    copies = Together(answering, clock, own=(OWN,), aside=aside)
    copies.left_out = {
        store.describe(): error.message for store, error in zip(stores, errors, strict=True) if error is not None
    }
    judge = Judge(copies, keyring)
    copies.sound = judge.sound
    primary = judge.primary
    for copy in copies.copies:
        copy.place = _place(copy, keyring.vault)
        copy.writes = copy.place == primary
        if judge.retires:
            copy.received = _received(copy)
    return copies


def _greeted(stores: Sequence[Store], keyring: Keyring, patience: float) -> list[ResurgamError | None]:
    """Why each of ``stores`` cannot be read, None where it can."""
    _ = keyring.trust  # a missing key is told once, and here
    found: list[ResurgamError | None] = [_late(store, patience) for store in stores]

    def greet(number: int) -> None:
        try:
            _require_ours(stores[number], keyring)
        except ResurgamError as error:
            found[number] = error
        else:
            found[number] = None

    threads = [Thread(target=greet, args=(number,), name="copy", daemon=True) for number in range(len(stores))]
    until = time.monotonic() + patience
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return list(found)


def _late(store: Store, patience: float) -> Unreachable:
    return Unreachable(
        f"{store.describe()} did not answer within {patience:g} seconds.",
        untouched="Nothing was read from it.",
        next_step="Run the same command again, or name another copy.",
    )


def require_recordable(repository: Repository, body: PointBody) -> None:
    """Raises TargetRefused, Denied where no evidence on that point can go into this vault: told before work that ends in it."""
    require_primary(repository)
    require_takes_evidence(repository, body)
    if isinstance(repository.store, Together):
        repository.store.require_written()


def _received(copy: Copy) -> dict[str, float]:
    """When the originals of a replica's objects were received."""
    try:
        return copy.ask(lambda store: told_times(store, [entry.name for entry in store.list(OWN)])).received
    except (NotFound, Unreachable, Denied):
        return {}  # what it lists is refused then, where that matters: loudly


def _place(copy: Copy, vault: bytes) -> str:
    """What this copy is called; empty where that is not known: then it is not written to (P12)."""
    try:
        return copy.ask(lambda store: mark_of(store, vault))
    except NotFound:
        return ORIGIN
    except (IntegrityError, Unreachable, Denied):
        return ""


class CopyState(msgspec.Struct, frozen=True, kw_only=True):
    """How one copy stands beside the others: how many ``objects`` it lists, the names of those that only others have, and of those
    that are not what their name says, or, where they were not read, not as large as in another copy."""

    copy: str
    objects: int = 0
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    silent: str = ""


def survey(together: Together, *, read: bool, spend: Callable[[int], None] = lambda _: None) -> tuple[CopyState, ...]:
    """How each copy stands; with ``read`` every object of every copy is read, and ``spend`` hears of its bytes before."""
    union = {entry.name: entry.size for entry in together.list()}
    there = tuple(_state(together, copy, union, read, spend) for copy in together.copies)
    return there + tuple(CopyState(copy=where, silent=why) for where, why in together.left_out.items())


def _state(
    together: Together, copy: Copy, union: Mapping[str, int], read: bool, spend: Callable[[int], None]
) -> CopyState:
    where = copy.store.describe()

    def damages(name: str, size: int) -> bool:
        if not read:
            return size != union.get(name)
        spend(size)
        return not _sound(together, copy, name)

    try:
        there = {entry.name: entry.size for entry in together.listed(copy)}
        damaged = [name for name, size in there.items() if damages(name, size)]
    except (Unreachable, Denied) as error:
        return CopyState(copy=where, silent=error.message)
    missing = sorted(union.keys() - there.keys())
    return CopyState(copy=where, objects=len(there), missing=tuple(missing), damaged=tuple(damaged))


def _sound(together: Together, copy: Copy, name: str) -> bool:
    try:
        return together.sound(name, copy.ask(lambda store: store.get(name)))
    except (NotFound, IntegrityError):
        return False


class Judge:
    """Knows sound objects of the vault that ``keyring`` is for. Role tables are read once, from ``store``, unless ``roles`` is
    known: one that was damaged on its way would have every record pass."""

    def __init__(self, store: Store, keyring: Keyring, roles: RoleTable | None = None) -> None:
        self._store, self._keyring, self._known = store, keyring, roles

    def sound(self, name: str, data: bytes, again: Callable[[], Buffer] | None = None) -> bool:
        """Whether ``data`` is what belongs under ``name``, as far as can be known here. ``again`` reads it once more: where nobody
        here opens a key, two readings that differ tell damage on its way, and nothing tells more."""
        if match := _PACK.fullmatch(name) or _SEGMENT.fullmatch(name):
            return blake3(data).hexdigest().startswith(match[1])
        try:
            self._verify(name, data, again)
        except (Disowned, NewerFormat):
            return True  # as it was written: what that is worth is the reader's to say
        except IntegrityError:
            return False
        return True

    @property
    def primary(self) -> str:
        """The name of the copy that is written to."""
        if self._roles is None:
            return ""
        listed, _ = newest(self._store, self._roles, self._keyring.vault, self._store.list(LISTS))
        return listed.primary if listed is not None else ORIGIN

    @property
    def retires(self) -> bool:
        """Whether it matters when something was received."""
        return self._roles is not None and self._roles.retires

    def _verify(self, name: str, data: bytes, again: Callable[[], Buffer] | None) -> None:
        keyring = self._keyring
        if name == IDENTITY:
            if not _is_named(data, keyring):
                raise broken(name, "it does not name this vault")
        elif name.startswith(ROLES):
            read_roles(data, keyring.vault, keyring.trust.root, name=name)
        elif name.startswith(tuple(RECORDS)) and self._roles is not None:
            # Received first of all: whether a retired key still counts is the reader's to say, who knows when it was.
            verified_record(Entry(name, len(data), 0.0), data, self._roles, keyring.vault)
        elif name.startswith("keys/"):
            self._open(name, data, again)

    def _open(self, name: str, data: bytes, again: Callable[[], Buffer] | None) -> None:
        """Raises IntegrityError where a wrapped key is damaged."""
        try:
            if name.startswith("keys/index"):
                unwrap_index(data, self._keyring.vault, self._identities)
            elif _SESSION_KEY.fullmatch(name):
                unwrap_session(data, self._keyring.vault, session_of(name), self._identities)
        except Denied:
            if again is not None and again() != data:
                raise broken(name, "two readings of it differ") from None

    @cached_property
    def _identities(self) -> tuple[Identity, ...]:
        """All that are here, whichever domains the table lists: a damaged table stops no judging of keys."""
        held: dict[str, Identity] = {}
        for file in self._keyring.files():
            if file.endswith(IDENTITY_FILE) and self._keyring.has(file):
                with suppress(Denied, IntegrityError):  # nothing that is wrong with a key here is wrong with the object
                    held |= {key.recipient: key for key in self._keyring.identities_in(file)}
        return tuple(held.values())

    @cached_property
    def _roles(self) -> RoleTable | None:
        if self._known is not None:
            return self._known
        tables = [(entry.name, self._store.get(entry.name)) for entry in self._store.list(ROLES)]
        try:
            return latest_roles(tables, self._keyring.vault, self._keyring.trust.root).table
        except IntegrityError:
            return None  # whoever opens the vault is told that


def _is_named(data: bytes, keyring: Keyring) -> bool:
    """Whether ``data`` is an identity of the vault that the keys are for. Raises IntegrityError."""
    found = from_json(data, VaultIdentity, what=IDENTITY)
    return (found.vault, found.root) == (keyring.trust.vault, keyring.trust.root)


def _require_ours(store: Store, keyring: Keyring) -> None:
    """Raises Denied where another vault lies in ``store``; an identity that is damaged or lost there says nothing."""
    try:
        named = _is_named(store.get(IDENTITY), keyring)
    except (NotFound, IntegrityError):
        return
    if not named and not is_ours(store, keyring):
        raise Denied(
            f"{store.describe()} holds another vault than {keyring.trust.name} ({keyring.trust.vault}), which the keys are for.",
            untouched="Nothing was read or written.",
            next_step="Name copies of one vault only.",
        )
