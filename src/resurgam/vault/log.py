"""The log: what was written to the vault, in order. Create-only objects ``log/<n>``, appended by any role.

An entry announces an object by its name and by the digest of its bytes. It makes nothing true: a point exists by its own put
(P1), and what is not in the log exists all the same.
"""

from __future__ import annotations

from blake3 import blake3

from resurgam.clock import Clock
from resurgam.stores.base import AlreadyThere, Store, put_once
from resurgam.vault.records import RecordType, itself, make_record
from resurgam.vault.signing import SigningKey

PREFIX = "log/"


def append(store: Store, vault: bytes, type: RecordType, name: str, signer: SigningKey, clock: Clock) -> int:
    """Announce the object ``name``, which is there; returns the entry's number. A create-only put at the next free number:
    whoever loses the race takes the one after."""
    body = {"type": type, "object": name, "digest": blake3(store.get(name)).hexdigest()}
    numbers = (entry.name.removeprefix(PREFIX) for entry in store.list(PREFIX))
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    while True:
        last += 1
        subject = itself(f"{PREFIX}{last:010d}", body)
        try:
            put_once(
                store, subject.name, make_record(RecordType.LOG, subject, body, signer, vault=vault, made=clock.now())
            )
        except AlreadyThere:
            continue
        return last
