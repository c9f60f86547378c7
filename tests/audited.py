"""A vault that somebody audits, and what an attacker with some of its keys can make: shared by the tests of the audit."""

from __future__ import annotations

from typing import Any

import msgspec

from resurgam.stores.base import Store
from resurgam.testing.faults import MemoryStore
from resurgam.vault import heads
from resurgam.vault.audit import Report, audit
from resurgam.vault.keyring import Keyring
from resurgam.vault.log import object_name
from resurgam.vault.records import RecordType, encode_statement, itself, make_record, sign_roles, timestamp
from resurgam.vault.repository import Sealed
from resurgam.vault.roles import next_table
from resurgam.vault.signing import Role, SigningKey, envelop
from resurgam.vault.trail import Head
from tests.support import World, copied

Found = set[tuple[str, str]]


class Audited(World):
    """A vault with two points that were judged, and five entries in its log."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.auditor = self.keys_with("trust.json", "auditor.json")
        self.live.files = {b"a": b"some bytes"}
        self.one = self.capture()
        self.judge(self.one)
        self.live.files = {b"a": b"other bytes"}
        self.two = self.capture()
        self.judge(self.two)
        self.quarantine(self.one)

    def judge(self, sealed: Sealed) -> str:
        return self.say(RecordType.VERDICT, sealed, {"judgement": 1, "word": "identical"}, Role.VERIFIER)

    def quarantine(self, sealed: Sealed, *, lifted: bool = False) -> str:
        return self.say(RecordType.QUARANTINE, sealed, {"reason": "poisoned", "lifted": lifted}, Role.APPROVER)

    def say(self, type: RecordType, sealed: Sealed, body: object, role: Role) -> str:
        self.clock.advance(1)
        return self.repository().put_record(type, sealed.body.id, body, role, self.clock)

    def key(self, role: Role) -> SigningKey:
        return Keyring(self.keys).signer(role)

    def audit(self, store: Store | None = None, **options: Any) -> Report:
        """As the auditor does, with the two files that the auditor has (P9)."""
        return audit(self.repository(store, self.auditor), **options)

    def sign(self, store: Store | None = None) -> tuple[str, bytes]:
        repository = self.repository(store, self.auditor)
        return heads.sign(repository, audit(repository).seen)

    def witnessed(self, data: bytes) -> Head:
        return heads.witnessed(self.repository(), data, "kept.txt")

    def names(self, prefix: str) -> list[str]:
        return [entry.name for entry in self.store.list(prefix)]

    def verdict_of(self, sealed: Sealed) -> str:
        return next(name for name in self.names(f"records/{sealed.body.id}/") if "verdict" in name)

    def truncated(self, length: int) -> MemoryStore:
        store = copied(self.store)
        for name in self.names("log/")[length:]:
            store.delete(name)
        return store


def found(report: Report) -> Found:
    return {(finding.kind, finding.object) for finding in report.findings}


def noted(report: Report) -> Found:
    return {(note.kind, note.object) for note in report.notes}


def put_entry(world: Audited, store: Store, number: int, body: object, role: Role = Role.CAPTURE) -> None:
    """An entry as whoever holds the key of ``role`` can write it."""
    name = object_name(number)
    data = make_record(
        RecordType.LOG,
        itself(name, body),
        body,
        world.key(role),
        vault=world.repository().vault,
        made=world.clock.now(),
    )
    store.put(name, data)


def forged_verdict(world: Audited, by: Role) -> bytes:
    """What a stolen capture key can make of a verdict, as ``by``: all but the right to do so."""
    thief = SigningKey(by, world.key(Role.CAPTURE).secret_bytes())
    subject, made = world.two.record.subject, timestamp(world.clock.now())
    vault = world.repository().vault
    return envelop(encode_statement("verdict", subject, b'{"judgement":1}', by, vault=vault, made=made), [thief])


def withdraw(world: Audited, role: Role, **how: str) -> None:
    """A next role table in which the key of ``role`` is retired or removed."""

    roles = world.repository().roles
    key = msgspec.structs.replace(roles.roles[role][0], **how)
    table = next_table(roles, roles={**roles.roles, role: (key,)})
    world.store.put(table.object_name, sign_roles(table, world.key(Role.ROOT), world.clock.now()))
    world.repository().announce(RecordType.ROLES, table.object_name, world.key(Role.ROOT), world.clock)
