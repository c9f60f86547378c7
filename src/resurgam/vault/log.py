"""The log: what was written to the vault, in order. Create-only objects ``log/<n>``, appended by any role, from 1 on.

An entry announces an object by its name and by the digest of its bytes. It makes nothing true: a point exists by its own put
(P1), and what is not in the log exists all the same. It also names the digest of the entry before it, so that an entry cannot
be exchanged, nor a gap filled, without every later one saying so. What was cut off at the end shows against a checkpoint
(``vault.checkpoints``), or against what a host remembers (``vault.logmemory``).

Entries of the first releases have no ``digest``, some of them no ``previous``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec
from blake3 import blake3

from resurgam.clock import Clock
from resurgam.errors import IntegrityError, NotFound
from resurgam.stores.abreast import each
from resurgam.stores.base import AlreadyThere, Entry, Store, put_once
from resurgam.vault.records import Record, RecordType, itself, make_record, read_record
from resurgam.vault.roles import RoleTable
from resurgam.vault.signing import SigningKey

PREFIX = "log/"
DIGITS = 10
_LEAPS = 24  # names that are asked for at a time where the end is not known: 1, 2, 4, ... further on
_PARTS = 8  # of what lies between an entry and a free name


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an entry: the type and name of the object announced, the BLAKE3 of its bytes (empty in entries of before), and
    that of the bytes of the entry before this one: empty in the first, None in entries of before."""

    type: str
    object: str
    digest: str = ""
    previous: str | None = None


class Log:
    """The end of one vault's log, as this process knows it; others append too. Of use to one thread at a time."""

    def __init__(self, store: Store, vault: bytes) -> None:
        self._store, self._vault = store, vault
        self._last, self._digest = 0, ""  # the last entry that is known to be there

    def append(self, type: RecordType, name: str, signer: SigningKey, clock: Clock, data: bytes = b"") -> int:
        """Announce the object ``name``, which is there; ``data`` are its bytes where the caller has just put them. Returns the
        entry's number. A create-only put at the next free number: whoever loses the race takes the one after. O(log n) small
        reads at first, then none but for what others append."""
        digest = blake3(data or self._store.get(name)).hexdigest()
        self._go_to(self._end(self._last))
        while True:
            body = Announcement(type=type, object=name, digest=digest, previous=self._digest)
            subject = itself(object_name(self._last + 1), body)
            data = make_record(RecordType.LOG, subject, body, signer, vault=self._vault, made=clock.now())
            try:
                put_once(self._store, subject.name, data)
            except AlreadyThere:
                self._go_to(self._end(self._last + 1))
                continue
            self._last, self._digest = self._last + 1, blake3(data).hexdigest()
            return self._last

    def _go_to(self, last: int) -> None:
        if last != self._last:
            self._digest = blake3(self._store.get(object_name(last))).hexdigest()
            self._last = last

    def _end(self, known: int) -> int:
        """The number of an entry that has none behind it, ``known`` or later: by leaps that double, then by parts, those of each
        step side by side. Numbers are given one after the other, so it is the last one, unless somebody has removed entries;
        then ``previous`` tells."""
        if not self._holds(known + 1):  # mostly nobody else has written
            return known
        free = None
        while free is None:
            known, free = self._between(known, [known + (1 << leap) for leap in range(_LEAPS)])
        while free - known > 1:
            parts = {known + (free - known) * part // _PARTS for part in range(1, _PARTS)} - {known}
            known, nearer = self._between(known, sorted(parts))
            free = nearer or free
        return known

    def _between(self, known: int, asked: list[int]) -> tuple[int, int | None]:
        """The last of ``asked`` that is there before one that is not, or ``known``; and the one that is not."""
        for number, there in zip(asked, each(self._store, self._holds, asked), strict=False):
            if not there:
                return known, number
            known = number
        return known, None

    def _holds(self, number: int) -> bool:
        try:
            self._store.get(object_name(number), 0, 1)
        except NotFound:
            return False
        return True


def object_name(number: int) -> str:
    """Where an entry is stored."""
    return f"{PREFIX}{number:0{DIGITS}d}"


def read_entry(data: bytes, entry: Entry, roles: RoleTable, vault: bytes) -> tuple[Record, Announcement]:
    """The record in ``data``, the bytes of ``entry``, and what it announces. Raises IntegrityError, Disowned."""
    record = read_record(
        data, roles, vault, {RecordType.LOG}, about=entry.name, what=entry.name, received=entry.received
    )
    return record, record.read(Announcement)


def announced_since(store: Store, since: float, roles: RoleTable, vault: bytes) -> set[str]:
    """Names of the objects that are announced by entries that are believed, and that the store received at ``since`` or later."""
    found = set()
    for _, entry in entries(store):
        if entry.received >= since:
            with suppress(IntegrityError):
                found.add(read_entry(store.get(entry.name), entry, roles, vault)[1].object)
    return found


def entries(store: Store) -> Iterator[tuple[int, Entry]]:
    """All entries with their numbers, ascending; 0 for what lies among them and is none."""
    for entry in store.list(PREFIX):
        number = entry.name.removeprefix(PREFIX)
        yield int(number) if number.isdecimal() and object_name(int(number)) == entry.name else 0, entry
