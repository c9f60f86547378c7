"""The vault as one thing: opened with a store and a keyring, written by sessions, read by whoever has an identity.

vault.json              who this vault is: id, format, fingerprint of its root key
roles/<serial>          role tables, signed by the root key: which key may sign what, and who can read
keys/index              the index secret, wrapped to the readers
keys/session-<id>       a session's key, wrapped to its domain's readers
packs/<xx>/<digest>     chunks
index/<digest>          where they lie
leases/<id>             a session has reserved the names that it will seal
points/<point>          the recovery point, or its revocation: whichever was put first
records/<point>/<...>   what became known of it later (P2)
prune/<n>/<...>         which points expired, and which packs went with them
log/<n>                 announcements, in order
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from resurgam.clock import Clock
from resurgam.errors import Denied, IntegrityError, NotFound, TargetRefused
from resurgam.model.codec import from_json, to_json, versioned
from resurgam.model.lazily import cached_property
from resurgam.model.point import POINT_FORMAT, Answers, Particulars, PointBody
from resurgam.model.system import System
from resurgam.stores.abreast import alongside, each, or_refusal, timed
from resurgam.stores.base import AlreadyThere, Entry, Store, put_once
from resurgam.stores.promises import is_empty
from resurgam.vault.age import Identity
from resurgam.vault.history import PointState
from resurgam.vault.host import HostState
from resurgam.vault.identity import FORMAT, identity_of
from resurgam.vault.identity import IDENTITY as IDENTITY
from resurgam.vault.identity import VaultIdentity as VaultIdentity
from resurgam.vault.keyring import Keyring, NewKeys
from resurgam.vault.keys import (
    DEFAULT_DOMAIN,
    INDEX_OBJECT,
    VAULT_ID,
    IndexSecret,
    SessionKey,
    session_object,
    unwrap_session,
)
from resurgam.vault.known import records_about, states
from resurgam.vault.log import Log
from resurgam.vault.naming import POINT_NAME, beginning, in_order, meant, no_point
from resurgam.vault.naming import Sealed as Sealed
from resurgam.vault.prunes import PruneReader, Prunes
from resurgam.vault.records import Record, RecordType, Roles, Subject, latest_roles, make_record, read_record, timestamp
from resurgam.vault.replicas import Here, look_here, require_here, require_primary
from resurgam.vault.replicatimes import told_times
from resurgam.vault.roles import Disowned, RoleTable
from resurgam.vault.signing import Role, SigningKey, broken
from resurgam.vault.wraps import first_opened

if TYPE_CHECKING:  # what reads and writes chunks is loaded by whoever asks for it: most is told by records
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from resurgam.vault.index import Index
    from resurgam.vault.places import Places
    from resurgam.vault.reader import ChunkReader, SnapshotReader
    from resurgam.vault.writer import EvidenceWriter, PointWriter, Progress

T = TypeVar("T")


class Repository:
    """An open vault. What an operation needs and the keyring lacks raises Denied, naming the missing file."""

    def __init__(self, store: Store, keyring: Keyring, notes: str | None = None) -> None:
        """Open the vault in ``store``; in the folder ``notes`` this host remembers its index (P3). Raises NotFound, NewerFormat,
        Denied, IntegrityError."""
        self.store = store
        self._notes, self._doubt = notes, False
        self.keyring = keyring
        with timed(store):
            self.identity = identity_of(store)
        trust = keyring.trust
        if (trust.vault, trust.root) != (self.identity.vault, self.identity.root):
            raise Denied(
                f"{store.describe()} is the vault {self.identity.name} ({self.identity.vault}); "
                f"the keys are those of {trust.name} ({trust.vault}).",
                untouched="Nothing was read or written.",
                next_step="Point vault.keys in resurgam.yaml at the keys of this vault.",
            )
        self.vault = keyring.vault
        found = self._newest_roles()
        self.roles: RoleTable = found.table
        self.refused: list[str] = list(found.refused)  # role tables that lie in the vault and were not believed
        self.refused_points: list[str] = []  # the same of what stands where a point should
        self.refused_records: list[str] = []  # and of what ``state`` met among the records of a point
        self.disowned: dict[str, None] = {}  # the same of keys that count no more: no damage, and each is told once
        self._log = Log(store, self.vault)
        self._prunes = PruneReader(store, self.vault)
        self._sessions: dict[bytes, AESGCM] = {}
        self._readers: dict[str, ChunkReader] = {}
        self._renewing = threading.Lock()

    @classmethod
    def create(cls, store: Store, keys: str, name: str, clock: Clock) -> tuple[Repository, NewKeys]:
        """Make an empty vault in ``store``, and its keys in the folder ``keys``.

        Raises AlreadyThere where there is a vault, TargetRefused where there is something else, or where there are keys.
        """
        if any(True for _ in store.list(IDENTITY)):
            raise AlreadyThere(
                f"{store.describe()} is a vault already.",
                untouched="Nothing was changed.",
                next_step="Use it as it is, or give another path.",
            )
        if not is_empty(store):
            raise TargetRefused(
                f"{store.describe()} is no vault, but not empty: an interrupted `vault init` may have left it so.",
                untouched="Nothing was changed.",
                next_step="Move away what is there and the keys folder that was made with it, or give other paths.",
            )
        made = clock.now()
        vault = secrets.token_bytes(VAULT_ID)
        new = Keyring.create(keys, vault, name, made)
        for object_name, data in new.objects.items():
            put_once(store, object_name, data)
        identity = VaultIdentity(format=FORMAT, vault=vault.hex(), name=name, root=new.trust.root, made=timestamp(made))
        put_once(store, IDENTITY, to_json(identity))  # last: a vault exists when its identity does
        return cls(store, Keyring(keys)), new

    # What every role needs ------------------------------------------------------------------------------------------

    @cached_property
    def secret(self) -> IndexSecret:
        """The index secret: from the capture role's file, or unwrapped by an identity. Raises Denied, and IntegrityError where
        what they unwrap is gone or wrong."""
        try:
            return self.keyring.index_secret(partial(first_opened, self.store, INDEX_OBJECT))
        except NotFound as error:
            raise IntegrityError(
                f"{INDEX_OBJECT} is missing from the vault: without it no reader's key finds anything, and no recovery key.",
                untouched="Nothing was changed.",
                next_step="Bring it back with `resurgam vault repair --from COPY`, from any copy of this vault.",
            ) from error

    @cached_property
    def places(self) -> Places:
        """Segments and trailers."""
        from resurgam.vault.indexcache import IndexCache
        from resurgam.vault.places import Places

        cache = IndexCache(self._notes, self.vault, self.secret.host_key()) if self._notes is not None else None
        return Places(self.store, self.secret, self.roles, self.prunes, cache, doubt=self._doubt, told=self.as_told)

    @cached_property
    def here(self) -> Here:
        """Where this is among the places of the vault."""
        return look_here(self.store, self.roles, self.vault)

    def as_told(self, entry: Entry, *, always: bool = False) -> Entry:
        """``entry`` with the time at which its original was received, where this is a replica; ``always``, or where a retired key
        makes it matter."""
        told = self._told.get(entry.name) if always or self.roles.retires else None
        return entry if told is None else entry._replace(received=min(told, entry.received))

    @cached_property
    def _told(self) -> dict[str, float]:
        told = told_times(self.store, self.here.own)
        self.refused_points += told.damaged.values()  # what only these told of is not believed where a key was retired
        return told.received

    @cached_property
    def index(self) -> Index:
        """All chunks that any writer's segment names, and those of packs that no segment names."""
        index, _ = self.places.index()
        return index

    def prunes(self) -> Prunes:
        """What was pruned, and is about to be, as the vault says now."""
        return self._prunes.read(self.roles, self.as_told)

    def look_again(self) -> None:
        """Know what was written to the vault since it was opened, when next asked."""
        self.__dict__.pop("places", None)
        self.__dict__.pop("index", None)
        self.__dict__.pop("here", None)
        self._readers.clear()

    def doubt(self) -> None:
        """Believe nothing from now on that this host remembers: who checks a vault reads what lies there."""
        self._doubt = True
        self.look_again()

    def require_newest_roles(self, host: HostState) -> None:
        """Raises IntegrityError where ``host`` has seen a newer role table than the vault serves now: whoever took it away
        makes keys that it disowned believed again."""
        seen = host.newest_roles(self.roles.serial)
        if seen > self.roles.serial:
            raise IntegrityError(
                f"The vault serves role table {self.roles.serial}, and this host has seen {seen}: it was rolled back.",
                untouched="Nothing was changed.",
                next_step="Bring roles/ back from a replica, and find out who can delete objects there.",
            )

    def require_believed(self, signer: SigningKey) -> None:
        """Raises Denied where the role table does not list ``signer`` as one that counts: told before the work, not after it."""
        if not self.roles.lists(signer.public, signer.role):
            raise Denied(
                f"The {signer.role}'s key {signer.key_id} that is here does not count in this vault (any more).",
                untouched="Nothing was written with it.",
                next_step="`resurgam vault keys list` shows which do. Bring the key that came in its place into the keys folder.",
            )

    # Writing --------------------------------------------------------------------------------------------------------

    def writer(
        self, system: System, host: HostState, clock: Clock, *, paranoid: bool = False, progress: Progress | None = None
    ) -> PointWriter:
        """A session that makes one recovery point, in the capture role."""
        from resurgam.vault.writer import PointWriter

        return PointWriter(self, system, host, clock, paranoid, progress)

    def evidence_writer(
        self, point: str, clock: Clock, *types: RecordType, role: Role = Role.VERIFIER
    ) -> EvidenceWriter:
        """A session that stores documents and a record of each of ``types`` about ``point``. Raises NotFound for one that
        expired, Denied."""
        from resurgam.vault.writer import EvidenceWriter

        return EvidenceWriter(self, point, types, role, clock)

    def put_record(self, type: RecordType, point: str, body: object, role: Role, clock: Clock) -> str:
        """Sign and store what became known of ``point``, and announce it; returns the record's name (P2)."""
        name = f"records/{point}/{type}-{secrets.token_hex(8)}"
        subject = self.sealed(point).record.subject
        data = self.put_signed(name, type, subject, body, self.keyring.signer(role), clock)
        self.announce(type, name, self.keyring.signer(role), clock, data)
        return name

    def put_signed(
        self, name: str, type: RecordType, subject: Subject, body: object, signer: SigningKey, clock: Clock
    ) -> bytes:
        """Sign and store one record under ``name``; returns its bytes. Raises AlreadyThere, TargetRefused at a replica, and Denied
        for a key that nobody would believe."""
        require_primary(self)
        self.require_believed(signer)
        data = make_record(type, subject, body, signer, vault=self.vault, made=clock.now())
        put_once(self.store, name, data)
        return data

    def announce(self, type: RecordType, name: str, signer: SigningKey, clock: Clock, data: bytes = b"") -> None:
        """Say in the log that ``name`` was written; ``data`` are its bytes where the caller has just put them."""
        self._log.append(type, name, signer, clock, data)

    def record(self, entry: Entry, expect: Collection[RecordType] | None = None, *, about: str | None = None) -> Record:
        """The record that was listed as ``entry``, when it can be believed by what it is and by when the store received it. Raises
        IntegrityError, Disowned, NewerFormat."""
        data, received = self.store.get(entry.name), self.as_told(entry).received
        return read_record(data, self.roles, self.vault, expect, about=about, what=entry.name, received=received)

    # Reading --------------------------------------------------------------------------------------------------------

    def points(
        self, system: str | None = None, *, expired: bool = False, begin: str = "", to_read: bool = False
    ) -> list[Sealed]:
        """All recovery points, of ``system`` or of all, oldest first: those that are promised, or those that ``expired``; with
        ``begin`` only those whose ids begin so, and no other is read. Revoked names are none; what cannot be believed is not
        listed either, and said in ``refused_points``, so that one bad object does not hide the rest. What bears a name that no
        writer gives is passed over."""
        found, entries = [], [one for one in self.store.list(f"points/{begin}") if POINT_NAME.fullmatch(one.name)]
        over = self.prunes().expired  # after the listing: what expires meanwhile is not promised any more
        asked = [entry for entry in entries if (entry.name.removeprefix("points/") in over) is expired]
        with (
            self._getting_ready() if to_read else nullcontext()
        ):  # after the listing: it names no chunk of a later point
            answers = [*each(self.store, or_refusal(self.sealed_as), asked)]
        for sealed in answers:
            if isinstance(sealed, Disowned):
                self.disowned |= {sealed.message: None}
            elif isinstance(sealed, IntegrityError):
                if sealed.message not in self.refused_points:
                    self.refused_points.append(sealed.message)
            elif sealed is not None and system in (None, sealed.body.system):
                found.append(sealed)
        return in_order(found)

    def _getting_ready(self) -> AbstractContextManager[None]:
        """What the contents of a point are found by, while points are read."""
        if self.roles.retires:
            self._told  # noqa: B018 (asked for by all of these, and it takes note of what it refuses: once)
        return alongside(self.store, lambda: self.index, lambda: self.here)

    def sealed(self, point: str) -> Sealed:
        """The point with exactly this id, promised or expired. Raises NotFound."""
        name = f"points/{point}"
        for entry in self.store.list(name) if POINT_NAME.fullmatch(name) else ():
            if entry.name == name and (sealed := self.sealed_as(entry)) is not None:
                return sealed
        raise no_point(point)

    def resolve(self, words: str, system: str | None = None, *, to_read: bool = False) -> Sealed:
        """The point that ``words`` mean: ``latest``, the beginning of an id, or a time (the newest sealed by then). ``to_read``
        says that its contents will be read next.

        Raises NotFound, also for one that expired, Ambiguous, and IntegrityError for ``latest`` or a time where a point cannot be
        believed: it may be the one that is meant, and an older one in its place would be a wrong restore that nobody notices (P12).
        """
        points = self.points(
            system, begin=beginning(words), to_read=to_read
        )  # P11: an id does not ask for all the others
        return meant(words, points, self.refused_points, lambda: self.prunes().expired)

    def records(self, point: str) -> list[Record]:
        """What became known of ``point`` since it was sealed, oldest first. What a key said that was removed since, or retired
        before, is no part of it.

        Raises IntegrityError when one of them cannot be believed: it may be the one that takes the others back (P12).
        """
        return self.records_of(self.sealed(point))

    def records_of(self, sealed: Sealed) -> list[Record]:
        """As ``records``, of a point that was read already."""
        ((_, found),) = records_about(self, [sealed])
        if isinstance(found, IntegrityError):
            raise found
        return found

    def state(self, sealed: Sealed) -> PointState:
        """How a point stands (P2); of many, ``vault.known.states`` asks at once."""
        return states(self, [sealed])[sealed.body.id]

    def particulars(self, body: PointBody) -> Particulars:
        """The encrypted part of a point, without its answers where they were shredded or their key is not here: no restore
        needs them, and who judges asks :meth:`require_open`. Raises Denied without an identity."""
        found = self.document(body.particulars, Particulars, what=f"the particulars of point {body.id}")
        if not body.answers or not self.opens(body.evidence) or not self.here.holds_answers(body):
            return found
        what = f"the answers of point {body.id}"
        return found.with_answers(self.document(body.answers, Answers, what=what, domain=body.evidence))

    def document(self, chunk: str, kind: type[T], *, what: str, domain: str = DEFAULT_DOMAIN) -> T:
        """A document that a writer stored."""
        from resurgam.vault.pack import Kind

        return from_json(self.chunks(domain).get(bytes.fromhex(chunk), Kind.DOCUMENT), kind, what=what)

    def chunks(self, domain: str) -> ChunkReader:
        """The chunks of a shred domain."""
        from resurgam.vault.reader import ChunkReader
        from resurgam.vault.sink import ChunkKeys

        if domain not in self._readers:
            keys = ChunkKeys(self.secret, domain)
            open_session = partial(self._cipher, domain)
            self._readers[domain] = ChunkReader(self.vault, self.store, self.index, keys, open_session, self._moved)
        return self._readers[domain]

    def shredded(self, domain: str) -> str:
        """When ``domain`` was shredded, RFC 3339; empty where it was not."""
        return self.roles.shredded[domain].at if domain in self.roles.shredded else ""

    def require_open(self, domain: str) -> tuple[Identity, ...]:
        """The identities that open ``domain``. Raises NotFound where it was shredded, Denied where its key is not here."""
        return self.keyring.opening(domain, self.roles.recipients(domain))

    def opens(self, domain: str) -> bool:
        """Whether what lies in ``domain`` can be read here."""
        try:
            return bool(self.require_open(domain))
        except (NotFound, Denied):
            return False

    def believe(self, table: RoleTable) -> None:
        """Go on by ``table``, which was just put, and keep no key that the one before gave."""
        self.roles = table
        self._sessions.clear()
        self._readers.clear()

    def look_at_roles(self) -> None:
        """Go on by the newest role table: one may have been put since the vault was opened. Raises IntegrityError, NewerFormat."""
        if any(entry.name > self.roles.object_name for entry in self.store.list("roles/")):
            self.believe(self._newest_roles().table)

    def _newest_roles(self) -> Roles:
        names = [entry.name for entry in self.store.list("roles/")]
        tables = zip(names, each(self.store, self.store.get, names), strict=True)
        return latest_roles(tables, self.vault, self.keyring.trust.root)

    def snapshot(self, body: PointBody, component: str) -> SnapshotReader:
        """One component of a point. Raises NotFound."""
        from resurgam.vault.reader import SnapshotReader

        require_here(self, body, [component])
        for snapshot in body.snapshots:
            if snapshot.component == component:
                return SnapshotReader(self.chunks(snapshot.domain), bytes.fromhex(snapshot.tree))
        raise NotFound(
            f"Point {body.id} has no component {component!r}.",
            untouched="Nothing was changed.",
            next_step=f"It has: {', '.join(s.component for s in body.snapshots)}.",
        )

    def session_key(self, session: bytes, identities: Sequence[Identity]) -> SessionKey:
        """The key of a session, opened by one of ``identities``. Raises IntegrityError where it is gone or wrong, Denied."""
        try:
            opened = partial(unwrap_session, vault=self.vault, session=session, identities=identities)
            return first_opened(self.store, session_object(session), opened)
        except NotFound as error:
            raise IntegrityError(
                f"The key of session {session.hex()[:16]} is missing from the vault.",
                untouched="Nothing was restored from it.",
                next_step="Bring it back with `resurgam vault repair --from PATH`, or restore from another point.",
            ) from error

    def _moved(self, pack: str, known: Index) -> Index | None:
        """The index to go on with where ``pack``, which ``known`` names, was swept since: what is promised was copied from it."""
        if pack not in self.prunes().gone:
            return None
        with self._renewing:
            if self.index is known:
                self.__dict__.pop("index")
            return self.index

    def _cipher(self, domain: str, session: bytes) -> AESGCM:
        if session not in self._sessions:
            self._sessions[session] = self.session_key(session, self.require_open(domain)).cipher
        return self._sessions[session]

    def about(self, sealed: Sealed, entry: Entry, expect: Collection[RecordType] | None = None) -> Record:
        """The record at ``entry``, when it is about exactly this point."""
        record = self.record(entry, expect, about=f"point/{sealed.body.id}")
        if record.subject != sealed.record.subject:
            raise broken(entry.name, f"it is about another point under the id {sealed.body.id}")
        if record.type is RecordType.REVOCATION and record.by is Role.CAPTURE:
            raise broken(entry.name, "a capture may not take back what is said of its points")  # P9
        return record

    def sealed_as(self, entry: Entry) -> Sealed | None:
        """The point that was listed as ``entry``; None where its name was revoked. Raises IntegrityError, Disowned."""
        point = entry.name.rpartition("/")[2]
        record = self.record(entry, {RecordType.POINT, RecordType.REVOCATION}, about=f"point/{point}")
        if record.type is RecordType.REVOCATION:
            return None
        body = versioned(record.body, PointBody, POINT_FORMAT, what=entry.name)
        if body.id != point:
            raise broken(entry.name, f"it is the record of point {body.id[:32]}")
        return Sealed(body, record, entry.received)
