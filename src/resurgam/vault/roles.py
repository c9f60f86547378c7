"""The role table: which key may vouch for what, and to whom each shred domain is encrypted.

It is a record of its own type, signed by the root key and stored as ``roles/<serial>``. It is replaced by a higher serial,
never changed (P2); ``vault.records`` signs and reads it. Two rules of this release, and why:

* A key stands under one role only: who can vouch for a point cannot also have made it (P9).
* A key that is left out of a table, or stands in it as *removed*, is disowned with all it ever signed: that is for a stolen
  one. A worn-out key stands in it as *retired*: what the store received before stays good, what comes later is refused.

Roles that this release does not know are kept and may sign nothing here.

It also says in which domain answers of systems are kept (``evidence``), and which domains were shredded: who may read is
said in one place, by one key. ``quorum`` says how many approvers an act needs (``vault.approvals``).

A table that retires or removes a key, or asks for approvals, has format 2: a release that does not know these words would
believe a stolen key, so it must refuse. One that gives a domain a residency has 3: a release that does not know that word would
store what must not leave a region among what may. Every other table stays at 1.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from resurgam.errors import IntegrityError, NotFound
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.signing import Envelope, PublicKey, Role, SigningKey, broken

FORMAT: Final = 3
_KEYS_END: Final = 2
_FIRST: Final = 1  # what a table has that uses nothing of what came later


class Disowned(IntegrityError):
    """Signed by a key that was removed, or by a retired one too late. The root key's holder has said so, and nobody else could:
    whatever it claims was never there, so whoever lists may go on without it, and says that."""


class RoleKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """One public key in the table: its raw 32 bytes (base64 in JSON), and the key id that belongs to them.

    ``name`` is whose it is, for people. ``retired`` and ``removed`` are since when (RFC 3339), empty where it is neither;
    ``why`` is the reason for that, ``succeeds`` the id of the key in whose place this one came.
    """

    key_id: str
    public: bytes
    name: str = ""
    retired: str = ""
    removed: str = ""
    why: str = ""
    succeeds: str = ""

    @property
    def active(self) -> bool:
        """Whether what it signs from now on counts."""
        return not (self.retired or self.removed)

    def disbelieved(self, received: float | None) -> str:
        """Why what it signed and the store received at ``received`` (seconds since 1970, the store's clock) is not believed; empty
        where it is. What was received nobody knows when is not believed of a retired key."""
        if self.removed:
            return f"the key {self.key_id} was removed on {self.removed[:10]}"
        if self.retired and (received is None or received > datetime.fromisoformat(self.retired).timestamp()):
            return f"the key {self.key_id} was retired at {self.retired}, before the store received this"
        return ""


class Shredded(msgspec.Struct, frozen=True):
    """Since when nobody opens a shred domain (RFC 3339), and why."""

    at: str
    why: str = ""


class RoleTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``roles`` maps a role's name to its keys, ``domains`` a shred domain to its age recipients. ``evidence`` is the domain into
    which answers go; tables of before it was named leave it out. ``shredded`` names the domains that are no more.

    ``quorum`` maps an act to how many approvers it needs, ``names`` a recipient to whose it is, and ``changed`` a domain to the
    serial of the table that gave it the recipients it has, where that was not the one that made it. ``residency`` maps a domain to
    the region that its contents never leave; a domain keeps its residency for ever.
    """

    format: int
    vault: str
    serial: int
    roles: dict[str, tuple[RoleKey, ...]]
    domains: dict[str, tuple[str, ...]]
    evidence: str = DEFAULT_DOMAIN
    shredded: dict[str, Shredded] = {}
    quorum: dict[str, int] = {}
    names: dict[str, str] = {}
    changed: dict[str, int] = {}
    residency: dict[str, str] = {}

    def keys(self, role: str) -> tuple[PublicKey, ...]:
        """The public keys of ``role`` that were not removed; none for a role that nobody holds."""
        return tuple(PublicKey(key.public) for key in self.roles.get(role, ()) if not key.removed)

    @property
    def retires(self) -> bool:
        """Whether a key is retired, so that it matters when the store received what it signed."""
        return any(key.retired for keys in self.roles.values() for key in keys)

    def active(self, role: str) -> tuple[RoleKey, ...]:
        """The keys of ``role`` that are neither retired nor removed."""
        return tuple(key for key in self.roles.get(role, ()) if key.active)

    def entry(self, key_id: str) -> tuple[str, RoleKey] | None:
        """The role and the entry of the key with this id, in whatever state; None where there is none."""
        found = ((role, key) for role, keys in self.roles.items() for key in keys if key.key_id == key_id)
        return next(found, None)

    def signer(self, envelope: Envelope, role: str) -> RoleKey | None:
        """The entry of ``role`` whose key signed ``envelope``, or None. Whether it still counts is for :meth:`RoleKey.disbelieved`
        to say; one that does is preferred."""
        entries = sorted(self.roles.get(role, ()), key=lambda entry: not entry.active)
        return next((entry for entry in entries if envelope.signed_by(PublicKey(entry.public))), None)

    def line(self, key_id: str) -> tuple[RoleKey, ...]:
        """The key with this id and those in whose place it came, one after the other, the newest first."""
        found: list[RoleKey] = []
        while (known := self.entry(key_id)) is not None and known[1] not in found:
            found.append(known[1])
            key_id = known[1].succeeds
        return tuple(found)

    def lists(self, key: PublicKey, role: str) -> bool:
        """Whether ``key`` may act as ``role`` now."""
        return any(entry.public == key.raw for entry in self.active(role))

    def recipients(self, domain: str) -> tuple[str, ...]:
        """To whom ``domain`` is encrypted. Raises NotFound."""
        if domain in self.shredded:
            raise shredded(domain, self.shredded[domain])
        found = self.domains.get(domain)
        if not found:
            raise NotFound(
                f"The vault has no shred domain {domain!r}; it has {', '.join(sorted(self.domains))}.",
                untouched="Nothing was written.",
                next_step="Correct `shred_domain` in the manifest, or have the root key's holder run `resurgam vault add-domain`.",
            )
        return found

    @property
    def object_name(self) -> str:
        """Where this table is stored; with its serial in the name, two can never be in one place."""
        return f"roles/{self.serial:08d}"


def shredded(domain: str, noted: Shredded) -> NotFound:
    """What whoever asks for something in a shredded domain is told."""
    return NotFound(
        f"The shred domain {domain} was shredded on {noted.at[:10]}: nobody can read what lay in it{_because(noted)}.",
        untouched="Everything that lies in other domains is as it was.",
        next_step="Go on without it: `--component` names others to restore; in the manifest, name another `shred_domain`.",
    )


def disowned(what: str, why: str) -> Disowned:
    """The error for what a key signed that no longer counts, with the reason by :meth:`RoleKey.disbelieved`."""
    return Disowned(
        f"{what} is not to be trusted: {why}.",
        untouched="Nothing was changed.",
        next_step="Nothing, where the key was stolen. Where the vault was copied, copy it with its times: `cp -a`, `rsync -a`.",
    )


def _because(noted: Shredded) -> str:
    return f" ({noted.why})" if noted.why else ""


def role_table(
    vault: bytes,
    serial: int,
    signers: list[SigningKey],
    domains: dict[str, tuple[str, ...]],
    evidence: str = DEFAULT_DOMAIN,
) -> RoleTable:
    """A table over the public halves of ``signers``."""
    roles: dict[str, tuple[RoleKey, ...]] = {}
    for key in signers:
        roles[key.role] = (*roles.get(key.role, ()), RoleKey(key.key_id, key.public.raw))
    return RoleTable(format=_FIRST, vault=vault.hex(), serial=serial, roles=roles, domains=domains, evidence=evidence)


def next_table(table: RoleTable, **changes: Any) -> RoleTable:
    """``table`` with ``changes``, as the table with the next serial; its format is the lowest that says all of it."""
    new = msgspec.structs.replace(table, serial=table.serial + 1, **changes)
    says_more = new.quorum or not all(key.active for keys in new.roles.values() for key in keys)
    return msgspec.structs.replace(new, format=FORMAT if new.residency else _KEYS_END if says_more else _FIRST)


def require_sound(table: RoleTable, what: str) -> None:
    """The rules that hold within one table. Raises IntegrityError naming the one that is broken."""
    keys = [key for entries in table.roles.values() for key in entries]
    if any(PublicKey(key.public).key_id != key.key_id for key in keys):
        raise broken(what, "a key id in it does not belong to its key")
    if len({key.public for key in keys}) != len(keys):
        raise broken(what, "a key stands in it twice")
    if not table.active(Role.ROOT):
        raise broken(what, "it has no root key")
    if not table.domains or not all(table.domains.values()):
        raise broken(what, "a shred domain in it has no recipients")
    if table.domains.keys() & table.shredded.keys():
        raise broken(what, "a shred domain in it was shredded")
    if table.evidence != DEFAULT_DOMAIN and table.evidence not in table.domains:
        raise broken(what, "the shred domain of answers is none of its own")
