"""Records: the small, typed, signed, write-once documents of which a vault's whole state is made (P2).

A record is an in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) in a DSSE
envelope (``vault.signing``)::

    {"_type": "https://in-toto.io/Statement/v1",
     "subject": [{"name": "point/<id>", "digest": {"blake3": hex}}],
     "predicateType": "urn:resurgam:<type>:v1",
     "predicate": {"vault": hex, "made": RFC 3339, "by": role, "resurgam": version, "body": {…}}}

``SIGNERS`` is the one table that says who may write what. Reading believes nothing before the signature, and refuses a
record by the first rule that it breaks: signed by a key of the role that it names; a type that this release knows and
the caller expects; a role that may write this type; this vault; the subject that was asked for. So a capture host cannot vouch for
its own points (P9), and no record stands in for one of another point, type or vault.

The digest of a point, a lease or a role table is that of its own body's bytes; every other record names its subject by
that digest, and ``vault.history`` holds the two together. Bodies are kept as the bytes that were read: fields of newer
releases survive.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec
from blake3 import blake3

from resurgam import __version__
from resurgam.errors import IntegrityError, NewerFormat
from resurgam.model.codec import from_json, require_format, to_json
from resurgam.vault.roles import FORMAT as ROLES_FORMAT
from resurgam.vault.roles import RoleKey, RoleTable, disowned, require_sound
from resurgam.vault.signing import (
    IN_TOTO,
    Envelope,
    PublicKey,
    Role,
    SigningKey,
    broken,
    envelop,
    from_strict_json,
    open_envelope,
)

T = TypeVar("T")

STATEMENT: Final = "https://in-toto.io/Statement/v1"
_TYPE = re.compile(r"urn:resurgam:([a-z]+):v([1-9][0-9]{0,3})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MADE = "%Y-%m-%dT%H:%M:%S.%fZ"


class RecordType(StrEnum):
    """What a record says."""

    POINT = "point"  # these snapshots belong together
    LEASE = "lease"  # a point of this name is being made
    REVOCATION = "revocation"  # that lease will never be a point
    VERDICT = "verdict"  # how a restore of the point behaved
    BASELINE = "baseline"  # how the point behaves, observed
    REFERENCE = "reference"  # that baseline is right, says the owner
    PROMOTION = "promotion"  # a restore of the point became live
    UNDO = "undo"  # and was taken back
    QUARANTINE = "quarantine"  # the point must not go to production
    ATTESTATION = "attestation"  # a reader found these chunks to be what their ids say
    ROLES = "roles"  # the role table
    LOG = "log"  # something was written: an announcement
    HOLD = "hold"  # the point must stay, or need no longer
    RETENTION = "retention"  # how long points stay, from now on
    APPROVAL = "approval"  # the holder of this key says yes to a plan
    PRUNE = "prune"  # a plan: these points expire, these packs go
    TOMBSTONES = "tombstones"  # the plan is under way: nobody builds on these packs any more
    AWAITED = "awaited"  # the leases that were open then: the plan goes on when they are settled
    PRUNED = "pruned"  # how that plan ended: its packs go, or it was undone
    CHECKED = "checked"  # these packs were read, and how they were
    REPLICAS = "replicas"  # the places of the vault, and which of them is written to


SIGNERS: Final[Mapping[RecordType, frozenset[Role]]] = MappingProxyType(
    {
        RecordType.POINT: frozenset({Role.CAPTURE}),
        RecordType.LEASE: frozenset({Role.CAPTURE, Role.VERIFIER, Role.APPROVER}),
        RecordType.REVOCATION: frozenset({Role.CAPTURE, Role.VERIFIER, Role.APPROVER, Role.PRUNER}),
        RecordType.VERDICT: frozenset({Role.VERIFIER}),
        RecordType.BASELINE: frozenset({Role.VERIFIER}),
        RecordType.REFERENCE: frozenset({Role.APPROVER}),
        RecordType.PROMOTION: frozenset({Role.APPROVER}),
        RecordType.UNDO: frozenset({Role.APPROVER}),
        RecordType.QUARANTINE: frozenset({Role.APPROVER}),
        RecordType.ATTESTATION: frozenset({Role.VERIFIER}),
        RecordType.ROLES: frozenset({Role.ROOT}),
        RecordType.LOG: frozenset(Role),
        RecordType.HOLD: frozenset({Role.APPROVER}),
        RecordType.RETENTION: frozenset({Role.APPROVER}),
        RecordType.APPROVAL: frozenset({Role.APPROVER}),
        RecordType.PRUNE: frozenset({Role.PRUNER}),
        RecordType.TOMBSTONES: frozenset({Role.PRUNER}),
        RecordType.AWAITED: frozenset({Role.PRUNER}),
        RecordType.PRUNED: frozenset({Role.PRUNER}),
        RecordType.CHECKED: frozenset({Role.VERIFIER, Role.PRUNER, Role.AUDITOR}),
        RecordType.REPLICAS: frozenset({Role.APPROVER}),
    }
)
NAMES_ITSELF: Final = frozenset(
    {
        RecordType.POINT,
        RecordType.LEASE,
        RecordType.ROLES,
        RecordType.RETENTION,
        RecordType.PRUNE,
        RecordType.REPLICAS,
    }
)


class Subject(msgspec.Struct, frozen=True):
    """What a record is about: a name such as ``point/<id>``, and the hex BLAKE3 of the bytes meant by it."""

    name: str
    digest: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record that was believed. ``made`` is its writer's clock, ``body`` the JSON exactly as it was signed."""

    type: RecordType
    subject: Subject
    made: str
    by: Role
    signer: str
    resurgam: str
    body: bytes

    def read(self, kind: builtins.type[T]) -> T:
        """The body as a ``kind``. Raises IntegrityError."""
        return from_json(self.body, kind, what=f"the {self.type} of {self.subject.name}")


class _Subject(msgspec.Struct, frozen=True):
    name: str
    digest: dict[str, str]


class _Predicate(msgspec.Struct, frozen=True):
    vault: str
    made: str
    by: str
    resurgam: str
    body: msgspec.Raw


class _Statement(msgspec.Struct, frozen=True, kw_only=True):
    type_: str = msgspec.field(name="_type")
    subject: tuple[_Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: _Predicate


def itself(name: str, body: object) -> Subject:
    """The subject of a record whose body is the thing itself: a point, a lease, a role table."""
    return Subject(name, blake3(to_json(body)).hexdigest())


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with six decimals, so that text sorts as time does."""
    return moment.astimezone(UTC).strftime(_MADE)


def make_record(
    type: RecordType, subject: Subject, body: object, key: SigningKey, *, vault: bytes, made: datetime
) -> bytes:
    """The bytes of a record, signed by ``key`` in its role. That the role may write this type is the caller's to know."""
    assert key.role in SIGNERS[type], f"{key.role} does not write {type} records"
    return envelop(encode_statement(type, subject, to_json(body), key.role, vault=vault, made=timestamp(made)), [key])


def encode_statement(type: str, subject: Subject, body: bytes, by: str, *, vault: bytes, made: str) -> bytes:
    """The bytes that are signed. ``body`` is JSON and goes in as it is."""
    predicate = _Predicate(vault.hex(), made, by, __version__, msgspec.Raw(body))
    about = (_Subject(subject.name, {"blake3": subject.digest}),)
    return to_json(
        _Statement(type_=STATEMENT, subject=about, predicate_type=f"urn:resurgam:{type}:v1", predicate=predicate)
    )


def read_record(
    data: bytes,
    roles: RoleTable,
    vault: bytes,
    expect: Collection[RecordType] | None = None,
    *,
    about: str | None = None,
    what: str = "A record",
    received: float | None = None,
) -> Record:
    """The record in ``data``, when every rule of the module's docstring holds.

    ``expect`` are the types that may stand here, ``about`` the subject's name; None allows any. ``what`` names the object
    in errors. ``received`` is when the store got it (``Entry.received``); without it nothing of a retired key is believed.
    Raises IntegrityError naming the broken rule, Disowned for a key that no longer counts, NewerFormat for a signed record of an
    unknown type.
    """
    envelope, statement = _open(data, what)
    by = statement.predicate.by
    signer = roles.signer(envelope, by)
    if signer is None:
        raise broken(what, f"no key that the role table gives the role {by[:40]!r} has signed it")
    if why := signer.disbelieved(received):
        raise disowned(what, why)
    kind = _known_type(statement.predicate_type, what)
    if expect is not None and kind not in expect:
        raise broken(what, f"it is a {kind} record, where {' or '.join(sorted(expect))} belongs")
    if by not in SIGNERS[kind]:
        raise broken(what, f"the role {by} may not write {kind} records")  # P9
    subject = _subject(statement, kind, vault, about, what)
    return Record(
        type=kind,
        subject=subject,
        made=_moment(statement.predicate.made, what),
        by=Role(by),
        signer=signer.key_id,
        resurgam=statement.predicate.resurgam,
        body=bytes(statement.predicate.body),
    )


def sign_roles(table: RoleTable, root: SigningKey, made: datetime) -> bytes:
    """The record of ``table``, to be stored under ``table.object_name``."""
    require_sound(table, "the new role table")
    subject = itself(table.object_name, table)
    return make_record(RecordType.ROLES, subject, table, root, vault=bytes.fromhex(table.vault), made=made)


def read_roles(data: bytes, vault: bytes, root: str, *, name: str) -> RoleTable:
    """The role table stored as ``name``, when the key with the fingerprint ``root`` signed it.

    Raises IntegrityError naming the broken rule, NewerFormat.
    """
    envelope, statement = _open(data, name)
    claims = from_json(statement.predicate.body, _Claims, what=name)
    if not any(_is_root(key, root, envelope) for key in claims.roles.get(Role.ROOT, ())):
        raise broken(name, f"the root key of this vault ({root[:16]}) has not signed it")
    if _known_type(statement.predicate_type, name) is not RecordType.ROLES or statement.predicate.by != Role.ROOT:
        raise broken(name, "it is no role table")
    require_format(claims.format, ROLES_FORMAT, what=name)
    table = from_json(statement.predicate.body, RoleTable, what=name)
    _subject(statement, RecordType.ROLES, vault, name, name)
    if (table.object_name, table.vault) != (name, vault.hex()):
        raise broken(name, "it is the table of another place")
    require_sound(table, name)
    return table


class Roles(msgspec.Struct, frozen=True, kw_only=True):
    """The table in force, and the objects that were refused, each with the reason."""

    table: RoleTable
    refused: tuple[str, ...]


def latest_roles(objects: Iterable[tuple[str, bytes]], vault: bytes, root: str) -> Roles:
    """The table with the highest serial among ``objects`` (name, bytes) that the root key signed.

    Raises IntegrityError when none can be believed, NewerFormat when the root key signed one that this release cannot
    read, since an older one may trust a stolen key.
    """
    refused: list[str] = []
    for name, data in sorted(objects, reverse=True):
        try:
            table = read_roles(data, vault, root, name=name)
        except IntegrityError as error:
            refused.append(error.message)
            continue
        return Roles(table=table, refused=tuple(refused))
    raise IntegrityError(
        f"No role table of this vault is signed by its root key ({root[:16]}). {' '.join(refused)}".strip(),
        untouched="Nothing was changed.",
        next_step="Check that the vault and the keys folder belong together; bring roles/ back from a replica.",
    )


class _Claims(msgspec.Struct, frozen=True):
    """So much of any release's role table as it takes to find its root key."""

    format: int
    roles: dict[str, tuple[RoleKey, ...]]


def _is_root(entry: RoleKey, root: str, envelope: Envelope) -> bool:
    key = PublicKey(entry.public)
    return key.fingerprint == root and envelope.signed_by(key)


def _open(data: bytes, what: str) -> tuple[Envelope, _Statement]:
    envelope = open_envelope(data, what)
    if envelope.kind != IN_TOTO:
        raise broken(what, f"its payload is {envelope.kind[:60]!r}, not an in-toto statement")
    statement = from_strict_json(envelope.payload, _Statement, what)
    if statement.type_ != STATEMENT:
        raise broken(what, f"its statement is of type {statement.type_[:60]!r}")
    return envelope, statement


def _known_type(urn: str, what: str) -> RecordType:
    match = _TYPE.fullmatch(urn)
    if match is None:
        raise broken(what, f"{urn[:60]!r} is not the type of a record")
    name, version = match[1], int(match[2])
    if name not in SIGNERS or version > 1:
        raise NewerFormat(
            f"{what} is a record of type {name} version {version}, which this release does not know.",
            untouched="Nothing was changed.",
            next_step="Upgrade Resurgam and run the same command again.",
        )
    return RecordType(name)


def _subject(statement: _Statement, type: RecordType, vault: bytes, about: str | None, what: str) -> Subject:
    if statement.predicate.vault != vault.hex():
        raise broken(what, f"it belongs to the vault {statement.predicate.vault[:32]}")
    if len(statement.subject) != 1:
        raise broken(what, f"it has {len(statement.subject)} subjects, where one belongs")
    name, digest = statement.subject[0].name, statement.subject[0].digest.get("blake3", "")
    if about is not None and name != about:
        raise broken(what, f"it is about {name[:80]}, not about {about}")
    if not _DIGEST.fullmatch(digest):
        raise broken(what, "it does not name its subject by a BLAKE3 digest")
    if type in NAMES_ITSELF and blake3(statement.predicate.body).hexdigest() != digest:
        raise broken(what, "its digest is not that of its own body")
    return Subject(name, digest)


def _moment(made: str, what: str) -> str:
    try:
        moment = datetime.strptime(made, _MADE).replace(tzinfo=UTC)
    except ValueError as error:
        raise broken(what, f"{made[:40]!r} is not a time") from error
    if timestamp(moment) != made:  # one text for one moment, else order by text is not order in time
        raise broken(what, f"{made[:40]!r} is not a time in its one form")
    return made
