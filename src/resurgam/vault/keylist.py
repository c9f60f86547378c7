"""Which keys a vault has: every signing key of the role table and every reader of its domains, in whatever state, and in which file
each lies here. No secret is loaded but to tell whose file it is; what is under a passphrase is not opened."""

from __future__ import annotations

import msgspec

from resurgam.errors import Denied, IntegrityError
from resurgam.vault.keyformat import IDENTITY
from resurgam.vault.repository import Repository
from resurgam.vault.roles import RoleKey


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key. ``id`` is a key id, or an age recipient; ``of`` the role it signs in, or the domain that it reads; ``state`` one of
    ``active``, ``retired``, ``removed``, ``since`` when and ``why``; ``here`` the files in which it lies here."""

    id: str
    of: str
    signs: bool
    name: str = ""
    state: str = "active"
    since: str = ""
    why: str = ""
    here: tuple[str, ...] = ()


def keys(repository: Repository) -> tuple[list[ListedKey], list[str]]:
    """All keys, and the names of files here that are under a passphrase or cannot be read: it is not known whose they are."""
    here, closed = _here(repository)
    roles = repository.roles
    signing = [
        _signing(role, key, here.get(key.key_id, ()))
        for role, entries in sorted(roles.roles.items())
        for key in entries
    ]
    reading = [
        ListedKey(
            id=recipient, of=domain, signs=False, name=roles.names.get(recipient, ""), here=here.get(recipient, ())
        )
        for domain, recipients in sorted(roles.domains.items())
        for recipient in recipients
    ]
    return signing + reading, closed


def _signing(role: str, key: RoleKey, here: tuple[str, ...]) -> ListedKey:
    state = "removed" if key.removed else "retired" if key.retired else "active"
    since = key.removed or key.retired
    return ListedKey(
        id=key.key_id, of=role, signs=True, name=key.name, state=state, since=since, why=key.why, here=here
    )


def _here(repository: Repository) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    keyring, found, closed = repository.keyring, dict[str, tuple[str, ...]](), list[str]()
    for file in keyring.files():
        try:
            if keyring.protected(file):
                closed.append(file)
                continue
            held = (
                [key.recipient for key in keyring.identities_in(file)]
                if file.endswith(IDENTITY)
                else [keyring.signer_in(file).key_id]
            )
        except (Denied, IntegrityError):
            closed.append(file)
            continue
        for key in held:
            found[key] = (*found.get(key, ()), file)
    return found, closed
