"""Heads of the log: checkpoints as the vault holds them, as others kept them, and the auditor's next one.

Which keys count the role table says: the auditor's, but for those that were removed, and of a retired one what the store received
before. An auditor signs the log that it followed itself, from its first entry or from where this host had stopped
(``vault.audit``), and none that is not the continuation of all that was signed before.
"""

from __future__ import annotations

from resurgam.errors import IntegrityError, NotFound
from resurgam.stores.base import AlreadyThere, Entry, put_once
from resurgam.vault.checkpoints import PREFIX, Checkpoint, make_checkpoint, object_name, read_checkpoint
from resurgam.vault.logmemory import Seen
from resurgam.vault.replicas import require_primary
from resurgam.vault.repository import Repository
from resurgam.vault.signing import PublicKey, Role, broken
from resurgam.vault.trail import Finding, Head, Kind


def stored(repository: Repository) -> tuple[list[Head], list[Finding]]:
    """What the checkpoints in the vault say, by size, and those that cannot be believed, or of a key that was removed."""
    heads, refused = [], []
    for entry in repository.store.list(PREFIX):
        if not entry.name.removeprefix(PREFIX).isdecimal():
            continue  # what belongs to one, such as its timestamp
        try:
            found = read_stored(repository, entry)
        except IntegrityError as error:
            kind = Kind.DISOWNED if _of_a_removed_key(repository, entry) else Kind.NOT_BELIEVED
            refused.append(Finding(kind=kind, object=entry.name, what=error.message))
        else:
            heads.append(Head(size=found.size, root=found.root, whose=entry.name))
    return heads, refused


def read_stored(repository: Repository, entry: Entry) -> Checkpoint:
    """The checkpoint stored as ``entry``. Raises IntegrityError naming the broken rule."""
    data = repository.store.get(entry.name)
    found = read_checkpoint(
        data, repository.vault, _auditors(repository, repository.as_told(entry).received), entry.name
    )
    if object_name(found.size) != entry.name:
        raise broken(entry.name, f"it is the checkpoint of {found.size} entries")
    return found


def witnessed(repository: Repository, data: bytes, name: str) -> Head:
    """What a checkpoint says that somebody else kept as ``name``. When it was signed is not known, so a retired key's counts: all
    that it can do is accuse. Raises IntegrityError."""
    found = read_checkpoint(data, repository.vault, repository.roles.keys(Role.AUDITOR), name)
    return Head(size=found.size, root=found.root, whose=name)


def sign(repository: Repository, seen: Seen) -> tuple[str, bytes]:
    """Sign and store the checkpoint of the log as it was ``seen``; returns its name and bytes. Signing it again changes nothing.

    Raises Denied without an auditor's key that counts, NotFound where there is nothing to sign, IntegrityError where another
    log was signed at this size.
    """
    key = repository.keyring.signer(Role.AUDITOR)
    require_primary(repository)
    repository.require_believed(key)
    if not seen.size:
        raise NotFound(
            "The log is empty: there is nothing to sign.",
            untouched="Nothing was signed.",
            next_step="Run `resurgam capture` first.",
        )
    name, data = object_name(seen.size), make_checkpoint(seen.size, seen.root, repository.vault, key)
    try:
        put_once(repository.store, name, data)
    except AlreadyThere:
        return name, _another(repository, name, seen)
    return name, data


def _another(repository: Repository, name: str, seen: Seen) -> bytes:
    """What stands where the checkpoint should: another auditor's of the same log will do."""
    (entry,) = (entry for entry in repository.store.list(name) if entry.name == name)
    if read_stored(repository, entry).root != seen.root:
        raise IntegrityError(
            f"{name} was signed for another log of {seen.size} entries than the one that is there.",
            untouched="Nothing was signed.",
            next_step="Run `resurgam audit verify`, and compare with what others kept.",
        )
    return repository.store.get(name)


def _auditors(repository: Repository, received: float) -> list[PublicKey]:
    """The keys that counted when the store received something."""
    entries = repository.roles.roles.get(Role.AUDITOR, ())
    return [PublicKey(key.public) for key in entries if not key.disbelieved(received)]


def _of_a_removed_key(repository: Repository, entry: Entry) -> bool:
    removed = [PublicKey(key.public) for key in repository.roles.roles.get(Role.AUDITOR, ()) if key.removed]
    try:
        read_checkpoint(repository.store.get(entry.name), repository.vault, removed, entry.name)
    except IntegrityError:
        return False
    return True
