"""The role table: which key may vouch for what, and to whom each shred domain is encrypted.

It is a record of its own type, signed by the root key and stored as ``roles/<serial>``. It is replaced by a higher serial,
never changed (P2); ``vault.records`` signs and reads it. Two rules of this release, and why:

* A key stands under one role only: who can vouch for a point cannot also have made it (P9).
* A key that is left out of a table is disowned with all it ever signed. So a worn-out key stays listed as long as its
  points are wanted, and a stolen one is left out.

Roles that this release does not know are kept and may sign nothing here.

It also says in which domain answers of systems are kept (``evidence``), and which domains were shredded: who may read is
said in one place, by one key.
"""

from __future__ import annotations

from typing import Final

import msgspec

from resurgam.errors import NotFound
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.signing import Envelope, PublicKey, Role, SigningKey, broken

FORMAT: Final = 1


class RoleKey(msgspec.Struct, frozen=True):
    """One public key in the table: its raw 32 bytes (base64 in JSON), and the key id that belongs to them."""

    key_id: str
    public: bytes


class Shredded(msgspec.Struct, frozen=True):
    """Since when nobody opens a shred domain (RFC 3339), and why."""

    at: str
    why: str = ""


class RoleTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``roles`` maps a role's name to its keys, ``domains`` a shred domain to its age recipients. ``evidence`` is the domain into
    which answers go; tables of before it was named leave it out. ``shredded`` names the domains that are no more."""

    format: int
    vault: str
    serial: int
    roles: dict[str, tuple[RoleKey, ...]]
    domains: dict[str, tuple[str, ...]]
    evidence: str = DEFAULT_DOMAIN
    shredded: dict[str, Shredded] = {}

    def keys(self, role: str) -> tuple[PublicKey, ...]:
        """The public keys of ``role``; none for a role that nobody holds."""
        return tuple(PublicKey(key.public) for key in self.roles.get(role, ()))

    def signer(self, envelope: Envelope, role: str) -> PublicKey | None:
        """The key of ``role`` that signed ``envelope``, or None."""
        return next((key for key in self.keys(role) if envelope.signed_by(key)), None)

    def lists(self, key: PublicKey, role: str) -> bool:
        """Whether ``key`` may act as ``role``."""
        return any(entry.public == key.raw for entry in self.roles.get(role, ()))

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
    return RoleTable(format=FORMAT, vault=vault.hex(), serial=serial, roles=roles, domains=domains, evidence=evidence)


def require_sound(table: RoleTable, what: str) -> None:
    """The rules that hold within one table. Raises IntegrityError naming the one that is broken."""
    keys = [key for entries in table.roles.values() for key in entries]
    if any(PublicKey(key.public).key_id != key.key_id for key in keys):
        raise broken(what, "a key id in it does not belong to its key")
    if len({key.public for key in keys}) != len(keys):
        raise broken(what, "a key stands in it twice")
    if not table.roles.get(Role.ROOT):
        raise broken(what, "it has no root key")
    if not table.domains or not all(table.domains.values()):
        raise broken(what, "a shred domain in it has no recipients")
    if table.domains.keys() & table.shredded.keys():
        raise broken(what, "a shred domain in it was shredded")
    if table.evidence != DEFAULT_DOMAIN and table.evidence not in table.domains:
        raise broken(what, "the shred domain of answers is none of its own")
