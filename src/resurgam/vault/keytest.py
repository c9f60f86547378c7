"""keys test: what can the keys that are here really do? Every wrapped key of the vault is opened with every identity that is here,
and every signing key is held against the role table.

An identity that should open a key by the role table and does not is told by name: it was added, and its keys were not wrapped anew;
or the recovery key that is kept for the worst day is of no use on that day. So this is the drill for keys: run it where they are
kept, the offline ones too.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from resurgam.errors import Denied, IntegrityError
from resurgam.vault.age import Identity
from resurgam.vault.keyformat import IDENTITY, SIGNING
from resurgam.vault.keys import DEFAULT_DOMAIN, session_payload, unwrap_index
from resurgam.vault.repository import Repository
from resurgam.vault.wraps import session_of, sessions, wraps_of_index

Done = Callable[[int], None]  # sessions looked at since the last call


class OpeningKey(msgspec.Struct, frozen=True, kw_only=True):
    """An identity here: which ``domains`` the role table lets it read, how many sessions it opens, whether it opens the index, and
    which sessions (hex) it should open and does not."""

    file: str
    recipient: str
    domains: tuple[str, ...]
    opens: int
    index: bool
    shut_out: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it opens all that the role table says."""
        return not self.shut_out and (self.index or DEFAULT_DOMAIN not in self.domains)


class SignsKey(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key here, and what the role table says of it: ``active``, ``retired``, ``removed``, ``unknown``."""

    file: str
    role: str
    key_id: str
    state: str

    @property
    def ok(self) -> bool:
        """Whether what it signs counts."""
        return self.state == "active"


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. ``unopened`` are sessions that no identity here opens, ``elsewhere`` the domains whose keys are not here,
    ``shredded`` those that nobody opens; ``damage`` are wraps that hold another key than they should."""

    sessions: int
    opening: tuple[OpeningKey, ...]
    signing: tuple[SignsKey, ...]
    unopened: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    shredded: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Fails closed (P12): every key does what the role table says, and a session that does not open was shredded."""
        explained = not self.unopened or (self.shredded and not self.elsewhere) or not self.opening
        return (
            bool(explained) and not self.damage and all(k.ok for k in self.opening) and all(k.ok for k in self.signing)
        )


class _Session(msgspec.Struct, frozen=True):
    """One session as it was opened: its domain, and which identities (by place) opened it."""

    domain: str
    by: frozenset[int]


def run(repository: Repository, progress: Done = lambda _: None) -> Tested:
    """Try all keys that are here. Raises Denied for a passphrase that does not open its file."""
    keyring = repository.keyring
    held = [(file, key) for file in keyring.files() if _in_use(file) for key in keyring.identities_in(file)]
    damage: list[str] = []
    found: dict[str, _Session | None] = {}
    for name, objects in sorted(sessions(repository.store).items()):
        found[name] = _tried(repository, name, objects, [key for _, key in held], damage)
        progress(1)
    opening = tuple(_opening(repository, file, key, place, found, damage) for place, (file, key) in enumerate(held))
    domains = repository.roles.domains
    return Tested(
        sessions=len(found),
        opening=opening,
        signing=_signing(repository),
        unopened=tuple(session_of(name).hex() for name, session in found.items() if session is None),
        elsewhere=tuple(d for d in sorted(domains) if not any(d in key.domains for key in opening)),
        shredded=tuple(sorted(repository.roles.shredded)),
        damage=tuple(damage),
    )


def _in_use(file: str) -> bool:
    """Identities that wait for their turn, or had it, are not asked for what those in use must do."""
    return file.endswith(IDENTITY) and ".retired-" not in file and not file.endswith(f".next{IDENTITY}")


def _tried(
    repository: Repository, name: str, objects: set[str], identities: list[Identity], damage: list[str]
) -> _Session | None:
    """A session's key, by whichever object opens to whichever identity; all must hold the same."""
    payloads: dict[tuple[str, bytes], str] = {}
    by = set[int]()
    for wrap in sorted(objects):
        blob = repository.store.get(wrap)
        for place, identity in enumerate(identities):
            try:
                payload = session_payload(blob, repository.vault, session_of(name), [identity])
            except Denied:
                continue
            except IntegrityError as error:
                damage.append(f"{wrap}: {error.message}")
                break
            by.add(place)
            payloads.setdefault(payload, wrap)
    if len(payloads) > 1:
        damage.append(f"{' and '.join(sorted(payloads.values()))} hold different keys of one session")
    return _Session(min(payloads)[0], frozenset(by)) if payloads else None


def _opening(
    repository: Repository,
    file: str,
    key: Identity,
    place: int,
    found: dict[str, _Session | None],
    damage: list[str],
) -> OpeningKey:
    domains = tuple(name for name, to in sorted(repository.roles.domains.items()) if key.recipient in to)
    opened = {name for name, session in found.items() if session is not None and place in session.by}
    meant = {name for name, session in found.items() if session is not None and session.domain in domains}
    return OpeningKey(
        file=file,
        recipient=key.recipient,
        domains=domains,
        opens=len(opened),
        index=_opens_index(repository, key, damage),
        shut_out=tuple(session_of(name).hex() for name in sorted(meant - opened)),
    )


def _opens_index(repository: Repository, key: Identity, damage: list[str]) -> bool:
    opens = False
    for name in sorted(wraps_of_index(repository.store)):
        try:
            found = unwrap_index(repository.store.get(name), repository.vault, [key])
        except Denied:
            continue
        except IntegrityError as error:
            damage.append(f"{name}: {error.message}")
            continue
        if found.secret_bytes() != repository.secret.secret_bytes():
            damage.append(f"{name} holds another index secret than the one that is used here")
        else:
            opens = True
    return opens


def _signing(repository: Repository) -> tuple[SignsKey, ...]:
    files = [file for file in repository.keyring.files() if file.endswith(SIGNING) and ".next." not in file]
    keys = [(file, repository.keyring.signer_in(file)) for file in files]
    return tuple(
        SignsKey(file=file, role=key.role, key_id=key.key_id, state=state_of(repository, key.key_id, key.role))
        for file, key in keys
    )


def state_of(repository: Repository, key_id: str, role: str) -> str:
    """What the role table says of a key: ``active``, ``retired``, ``removed``, or ``unknown`` in that role."""
    found = repository.roles.entry(key_id)
    if found is None or found[0] != role:
        return "unknown"
    return "removed" if found[1].removed else "retired" if found[1].retired else "active"
