"""The keys folder: one host's or one person's keys of one vault, a file each, so that roles can be parted by moving files.

    trust.json        which vault, its name, and the fingerprint of its root key      every host
    capture.json      index secret, and the key that signs points                     the host that captures
    reader.agekey     opens contents: an age identity                                 the host that verifies and restores
    verifier.json     signs verdicts                                                  the same
    approver.json     signs promotions, references, quarantines, approvals            whoever may say yes
    pruner.json       index secret, and the key that signs plans of prune             the host that prunes
    auditor.json      signs checkpoints of the log                                    the host that audits
    recovery.agekey   opens contents: an age identity                                 offline
    evidence.agekey   opens answers of systems, and nothing else: an age identity     the host that verifies, a copy offline
    root.json         signs role tables                                               offline

The folder has mode 700 and each file 600; a file that others may read is refused. Files are loaded when they are needed,
so a host without a role finds out at the first act of that role, by the name of the file that it lacks. Nothing is ever
overwritten. Any file may be under a passphrase (``vault.passphrase``). The ``.agekey`` files are age identity files, whose comments
say which vault they belong to; the recovery key's file and the vault are together enough to restore everything (P3) but what lies
in a shred domain with an identity of its own (``DOMAIN.agekey``): that is what makes it possible to shred a domain, by destroying
its file (``vault.shred``). What stands in a file is in ``vault.keyformat``.

A key that is made for somebody else lies in a file of another name (``approver.alice.json``), to be moved into their folder
under its own. It acts here no more than any other file that has no business here.

P9: ``can_read`` says whether contents can be opened with what lies here; a host that captures should not have it, and the
point says it where it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from resurgam.errors import Denied
from resurgam.model.codec import to_json
from resurgam.model.lazily import cached_property
from resurgam.vault import passphrase
from resurgam.vault.age import Identity, Secret
from resurgam.vault.keyfiles import (
    destroy_private,
    move_private,
    read_private,
    require_free,
    require_private_folder,
    write_private,
    write_private_folder,
)
from resurgam.vault.keyformat import CAPTURE as CAPTURE
from resurgam.vault.keyformat import (
    EVIDENCE,
    FORMAT,
    IDENTITY,
    INDEXED,
    PRUNER,
    PURPOSES,
    RECOVERY,
    SIGNING,
    TRUST,
    KeyFile,
    Trust,
    age_file,
    comments,
    decoded,
    identities_in,
    key_file,
    purpose,
    trust_in,
    unreadable,
)
from resurgam.vault.keyformat import READER as READER
from resurgam.vault.keys import DEFAULT_DOMAIN, EVIDENCE_DOMAIN, INDEX_OBJECT, KEY, IndexSecret, unwrap_index
from resurgam.vault.records import sign_roles
from resurgam.vault.roles import role_table
from resurgam.vault.signing import Role, SigningKey

_ADVICE: Final = {
    CAPTURE: "leave it on the host that captures",
    READER: "move it to the host that verifies; while it stays here, every point says that this host can read",
    "verifier.json": "move it along with reader.agekey",
    EVIDENCE: "move it along with reader.agekey, and keep one copy with recovery.agekey, which does not open answers",
    "approver.json": "give it to whoever approves",
    PRUNER: "move it to the host that prunes, which is best not one that captures",
    "auditor.json": "move it to the host that audits, which needs no other key",
    RECOVERY: "move it off this machine and keep two copies: with it and the vault alone, all can be read",
    "root.json": "move it off this machine: it is needed only when a key is added or withdrawn",
}


class NewFile(msgspec.Struct, frozen=True):
    """One file that :meth:`Keyring.create` made: what it is for, and what its owner should do with it."""

    path: str
    purpose: str
    advice: str


class NewKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What :meth:`Keyring.create` made: files to tell the person about, and the objects that begin the vault."""

    trust: Trust
    files: tuple[NewFile, ...]
    objects: dict[str, bytes]


class Keyring(Secret):
    """The keys that are here. Loads lazily; every method raises Denied, naming the file, for a key that is not. ``ask`` gives the
    passphrase of a protected file, by its path."""

    def __init__(self, folder: str, ask: passphrase.Ask = passphrase.asked) -> None:
        self._folder: str | None = folder
        self._recovery = os.path.join(folder, RECOVERY)
        self._ask = ask
        self._opened: dict[str, bytes] = {}  # what protected files hold, so that nobody is asked twice

    @classmethod
    def from_recovery(cls, path: str, ask: passphrase.Ask = passphrase.asked) -> Keyring:
        """The keyring of somebody who has only a recovery key's file; its comments say which vault it is for (P3)."""
        keyring = cls("", ask)
        keyring._folder, keyring._recovery = None, path
        _ = keyring.trust  # a file that is missing, open to others or no identity is found out here
        return keyring

    @classmethod
    def create(cls, folder: str, vault: bytes, name: str, made: datetime) -> NewKeys:
        """Make all keys of a new vault in ``folder``, all at once or not at all.

        Raises TargetRefused when the folder holds anything, Denied, StoreFull.
        """
        require_free(folder)
        index = IndexSecret.generate(vault)
        signers = [SigningKey.generate(role) for role in Role]  # the root first
        identities = {READER: Identity.generate(), RECOVERY: Identity.generate()}
        evidence = Identity.generate()
        recipients = tuple(identity.recipient for identity in identities.values())
        trust = Trust(format=FORMAT, vault=vault.hex(), root=signers[0].public.fingerprint, name=name)
        files = {TRUST: to_json(trust)}
        files |= {f"{key.role}{SIGNING}": key_file(key, vault, index) for key in signers}
        files |= {file: age_file(file, key, trust) for file, key in {**identities, EVIDENCE: evidence}.items()}
        write_private_folder(folder, files)
        domains = {DEFAULT_DOMAIN: recipients, EVIDENCE_DOMAIN: (evidence.recipient,)}
        table = role_table(vault, 1, signers, domains, EVIDENCE_DOMAIN)
        return NewKeys(
            trust=trust,
            files=tuple(NewFile(os.path.join(folder, file), PURPOSES[file], word) for file, word in _ADVICE.items()),
            objects={table.object_name: sign_roles(table, signers[0], made), INDEX_OBJECT: index.wrapped(recipients)},
        )

    @cached_property
    def trust(self) -> Trust:
        """Which vault this is about."""
        if self._folder is not None:
            return decoded(self._read(TRUST), Trust, self.path(TRUST))
        return trust_in(self._text(RECOVERY), self._recovery)

    @property
    def vault(self) -> bytes:
        """The vault's id, 16 bytes."""
        return bytes.fromhex(self.trust.vault)

    # Files ----------------------------------------------------------------------------------------------------------

    def path(self, file: str) -> str:
        """Where a file of that name is, or would be."""
        return self._recovery if self._folder is None and file == RECOVERY else os.path.join(self._folder or "", file)

    def has(self, file: str) -> bool:
        """Whether the file of that name is here; nothing is loaded."""
        return (self._folder is not None or file == RECOVERY) and os.path.lexists(self.path(file))

    def files(self) -> tuple[str, ...]:
        """The names of all key files that are here, sorted. Raises Denied."""
        if self._folder is None:
            return (RECOVERY,)
        require_private_folder(self._folder)
        return tuple(
            sorted(name for name in os.listdir(self._folder) if name.endswith((IDENTITY, SIGNING)) and name != TRUST)
        )

    def protected(self, file: str) -> bool:
        """Whether the file of that name is under a passphrase."""
        return passphrase.is_protected(self._raw(file))

    def contents(self, file: str) -> bytes:
        """What the file of that name holds, for a copy of it. Raises Denied."""
        return self._read(file)

    def move(self, file: str, to: str) -> None:
        """Give the file another name, durably. Raises TargetRefused where that is taken, Denied."""
        move_private(self.path(file), self.path(to))

    def discard(self, file: str) -> None:
        """Destroy a file here; one that is not here is no error. Raises Denied."""
        if self.has(file):
            destroy_private(self.path(file))

    # Keys that open -------------------------------------------------------------------------------------------------

    @property
    def can_read(self) -> bool:
        """P9: whether an identity that opens contents lies here."""
        return self.has(READER) or self.has(RECOVERY)

    @cached_property
    def identities(self) -> tuple[Identity, ...]:
        """The age identities that open contents: the reader's, the recovery key, or both."""
        files = [file for file in (READER, RECOVERY) if self.has(file)]
        if not files:
            raise self._missing(READER)
        return tuple(identity for file in files for identity in self.identities_in(file))

    def opening(self, domain: str, recipients: Sequence[str]) -> tuple[Identity, ...]:
        """The identities here that open ``domain``, which is encrypted to ``recipients``. Raises Denied, naming the domain's own
        file where none does."""
        if domain == DEFAULT_DOMAIN:
            return self.identities
        own = f"{domain}{IDENTITY}"
        held = [key for file in (own, READER, RECOVERY) if self.has(file) for key in self.identities_in(file)]
        found = tuple(key for key in held if key.recipient in recipients)
        if not found:
            raise self._holds_another(domain) if self.has(own) else self._missing(own)
        return found

    def identities_in(self, file: str) -> list[Identity]:
        """The identities of one file. Raises Denied, IntegrityError."""
        text = self._text(file)
        self._require_vault(comments(text).get("vault", self.trust.vault), self.path(file))
        return identities_in(text, self.path(file))

    def path_of(self, domain: str) -> str:
        """Where the identity of ``domain`` is, or would be."""
        return self.path(f"{domain}{IDENTITY}")

    def make_identity(self, domain: str) -> Identity:
        """The identity of a new shred domain, durable in a file of its own; one that a run before made is taken up. Raises
        Denied."""
        return self.make_identity_in(f"{domain}{IDENTITY}")

    def make_identity_in(self, file: str) -> Identity:
        """The same in a file of that name."""
        if self._folder is None:
            raise self._missing(file)
        if not self.has(file):
            write_private(self.path(file), age_file(file, Identity.generate(), self.trust))
        return self.identities_in(file)[0]

    def destroy(self, domain: str) -> None:
        """Destroy the identity of ``domain`` here; one that is not here is no error. Raises Denied."""
        self.discard(f"{domain}{IDENTITY}")

    def index_secret(self, unwrapped: Callable[[Callable[[bytes], IndexSecret]], IndexSecret]) -> IndexSecret:
        """The index secret: from the file of a role that has it, or else from the object in the vault, on which ``unwrapped`` calls
        what it is given.

        Raises Denied when neither a capture, a pruner nor a reader key is here.
        """
        for role in INDEXED:
            if self.has(f"{role}{SIGNING}"):
                file = self._key_file(f"{role}{SIGNING}", role)
                if file.index is None or len(file.index) != KEY:
                    raise unreadable(self.path(f"{role}{SIGNING}"), "it has no index secret")
                return IndexSecret(self.vault, file.index)
        if not self.can_read:
            raise Denied(
                f"No key in {self._folder} opens the vault's index: {CAPTURE}, {PRUNER}, {READER} and {RECOVERY} do.",
                untouched="Nothing was changed.",
                next_step=f"Run this where one of them is kept: {PRUNER} for prune and repair, {READER} to restore and verify.",
            )
        return unwrapped(lambda wrapped: unwrap_index(wrapped, self.vault, self.identities))

    # Keys that sign -------------------------------------------------------------------------------------------------

    def signer(self, role: str) -> SigningKey:
        """The key that signs as ``role``. Raises Denied when it is not here."""
        return self.signer_in(f"{role}{SIGNING}", role)

    def signer_in(self, file: str, role: str | None = None) -> SigningKey:
        """The key in the file of that name, which is of ``role``, or of whichever. Raises Denied, IntegrityError."""
        found = self._key_file(file, role)
        return SigningKey(found.role, found.key)

    def make_signer(self, file: str, role: str, index: Callable[[], IndexSecret]) -> SigningKey:
        """A new key of ``role``, durable in a file of that name; one that a run before made is taken up. ``index`` gives the index
        secret to a role that must find chunks. Raises Denied."""
        if self._folder is None:
            raise self._missing(file)
        if not self.has(file):
            secret = index() if role in INDEXED else None
            write_private(self.path(file), key_file(SigningKey.generate(role), self.vault, secret))
        return self.signer_in(file, role)

    def _key_file(self, name: str, role: str | None) -> KeyFile:
        file = decoded(self._read(name), KeyFile, self.path(name))
        self._require_vault(file.vault, self.path(name))
        if (role is not None and file.role != role) or len(file.key) != KEY:
            raise unreadable(self.path(name), f"it is not the key of the role {role or file.role}")
        return file

    # Bytes ----------------------------------------------------------------------------------------------------------

    def _raw(self, file: str) -> bytes:
        if self._folder is None and file != RECOVERY:
            raise self._missing(file)
        if self._folder is not None:
            require_private_folder(self._folder)
        try:
            return read_private(self.path(file))
        except FileNotFoundError as error:
            raise self._missing(file) from error

    def _read(self, file: str) -> bytes:
        data = self._raw(file)
        if not passphrase.is_protected(data):
            return data
        if file not in self._opened:
            self._opened[file] = passphrase.opened(data, self.path(file), self._ask)
        return self._opened[file]

    def _text(self, file: str) -> str:
        try:
            return self._read(file).decode()
        except UnicodeDecodeError as error:
            raise unreadable(self.path(file), "it is not an age identity file") from error

    def _require_vault(self, vault: str, path: str) -> None:
        if vault != self.trust.vault:
            raise Denied(
                f"{path} is a key of the vault {vault[:32]}, not of {self.trust.name} ({self.trust.vault}).",
                untouched="Nothing was changed.",
                next_step="Put the keys of each vault into a folder of their own.",
            )

    def _holds_another(self, domain: str) -> Denied:
        return Denied(
            f"{self.path_of(domain)} holds no key that opens the shred domain {domain}.",
            untouched="Nothing was changed.",
            next_step="Bring it back from your copy of it.",
        )

    def _missing(self, file: str) -> Denied:
        path = self.path(file) if self._folder is not None else f"{file}, only {self._recovery}"
        return Denied(
            f"There is no {path}. It is the file that {purpose(file)}.",
            untouched="Nothing was changed.",
            next_step=f"Bring {file} into the keys folder, or run this where it is kept.",
        )

    def __repr__(self) -> str:
        return f"<Keyring {self._folder or self._recovery}>"
