"""What a key has signed: every record and index segment of the vault, told by who vouches for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from resurgam.errors import IntegrityError, NewerFormat
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository

_NO_RECORDS = ("packs/", "keys/", "tmp/", "vault.json", "roles/", "index/")


@dataclass
class Signed:
    """``points`` are ids, ``counts`` how many records of each type, and index segments."""

    points: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def signed_by(repository: Repository, key_id: str) -> Signed:
    """Everything that the key with this id has signed and that counts now. Reads every record once."""
    found = Signed()
    for entry in repository.store.list():
        if entry.name.startswith("index/"):
            found.counts["index segments"] += repository.store.get(entry.name, 0, 8).hex() == key_id
        if entry.name.startswith(_NO_RECORDS):
            continue
        try:
            record = repository.record(entry)
        except (IntegrityError, NewerFormat):
            continue  # what is not believed cannot be lost
        if record.signer == key_id:
            found.counts[str(record.type)] += 1
            if record.type is RecordType.POINT:
                found.points.append(entry.name.rpartition("/")[2])
    found.counts = +found.counts
    return found
