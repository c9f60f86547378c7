"""The keys folder: one host's or one person's keys of one vault, a file each, so that roles can be parted by moving files.

    trust.json        which vault, its name, and the fingerprint of its root key      every host
    capture.json      index secret, and the key that signs points                     the host that captures
    reader.agekey     opens contents: an age identity                                 the host that verifies and restores
    verifier.json     signs verdicts                                                  the same
    approver.json     signs promotions, references, quarantines                       whoever may say yes
    pruner.json       index secret, and the key that signs plans of prune             the host that prunes
    auditor.json      signs checkpoints of the log                                    the host that audits
    recovery.agekey   opens contents: an age identity                                 offline
    evidence.agekey   opens answers of systems, and nothing else: an age identity     the host that verifies, a copy offline
    root.json         signs role tables                                               offline

The folder has mode 700 and each file 600; a file that others may read is refused. Files are loaded when they are needed,
so a host without a role finds out at the first act of that role, by the name of the file that it lacks. Nothing is ever
overwritten. The ``.agekey`` files are age identity files, whose comments say which vault they belong to; the recovery
key's file and the vault are together enough to restore everything (P3) but what lies in a shred domain with an identity of its
own (``DOMAIN.agekey``): that is what makes it possible to shred a domain, by destroying its file (``vault.shred``).

P9: ``can_read`` says whether contents can be opened with what lies here; a host that captures should not have it, and the
point says it where it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from typing import Final, TypeVar

import msgspec

from resurgam.errors import Denied, IntegrityError
from resurgam.model.codec import require_format, to_json
from resurgam.vault.age import Identity, Secret, is_passphrase_protected
from resurgam.vault.keyfiles import (
    destroy_private,
    read_private,
    require_free,
    require_private_folder,
    write_private,
    write_private_folder,
)
from resurgam.vault.keys import DEFAULT_DOMAIN, EVIDENCE_DOMAIN, INDEX_OBJECT, KEY, VAULT_ID, IndexSecret, unwrap_index
from resurgam.vault.records import sign_roles
from resurgam.vault.roles import role_table
from resurgam.vault.signing import Role, SigningKey

T = TypeVar("T")

FORMAT: Final = 1
TRUST: Final = "trust.json"
CAPTURE: Final = "capture.json"
PRUNER: Final = "pruner.json"
READER: Final = "reader.agekey"
RECOVERY: Final = "recovery.agekey"
EVIDENCE: Final = f"{EVIDENCE_DOMAIN}.agekey"
PURPOSES: Final = {
    TRUST: "says which vault these keys belong to, and pins its root key",
    CAPTURE: "adds recovery points: it names chunks and signs points, and cannot read them",
    READER: "opens the contents of points, to restore and to verify",
    "verifier.json": "signs verdicts and baselines",
    "approver.json": "signs approvals: references, promotions, quarantines",
    PRUNER: "plans what expires and what is freed, and frees it: it names chunks, and cannot read them",
    "auditor.json": "signs checkpoints of the log, and opens nothing",
    EVIDENCE: "opens what systems answered, and nothing else: without any copy of it, the answers are shredded",
    RECOVERY: "opens the contents of points when every other key is lost",
    "root.json": "signs the role table: who may sign what, and who can read",
}
_INDEXED: Final = (Role.CAPTURE, Role.PRUNER)  # roles that must find chunks, and whose files hold the index secret
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


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What a host believes before it has read anything: ``root`` is the root key's whole fingerprint. No secret."""

    format: int
    vault: str
    root: str
    name: str


class _KeyFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A signing key's file; those of capture and pruner also hold the index secret. Bytes are base64."""

    format: int
    vault: str
    role: str
    key: bytes
    index: bytes | None = None

    def __repr__(self) -> str:
        return f"<key file of {self.role}, not shown>"


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
    """The keys that are here. Loads lazily; every method raises Denied, naming the file, for a key that is not."""

    def __init__(self, folder: str) -> None:
        self._paths = {name: os.path.join(folder, name) for name in PURPOSES}
        self._folder: str | None = folder

    @classmethod
    def from_recovery(cls, path: str) -> Keyring:
        """The keyring of somebody who has only a recovery key's file; its comments say which vault it is for (P3)."""
        keyring = cls("")
        keyring._folder, keyring._paths = None, {RECOVERY: path}
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
        files |= {f"{key.role}.json": _key_file(key, index) for key in signers}
        files |= {file: _age_file(file, key, trust) for file, key in {**identities, EVIDENCE: evidence}.items()}
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
        if TRUST in self._paths:
            return _decoded(self._read(TRUST), Trust, self._paths[TRUST])
        return _trust_in(self._text(RECOVERY), self._paths[RECOVERY])

    @property
    def vault(self) -> bytes:
        """The vault's id, 16 bytes."""
        return bytes.fromhex(self.trust.vault)

    @property
    def can_read(self) -> bool:
        """P9: whether an identity that opens contents lies here."""
        return self.has(READER) or self.has(RECOVERY)

    def has(self, file: str) -> bool:
        """Whether the file of that name is here; nothing is loaded."""
        return file in self._paths and os.path.lexists(self._paths[file])

    @cached_property
    def identities(self) -> tuple[Identity, ...]:
        """The age identities that open contents: the reader's, the recovery key, or both."""
        files = [file for file in (READER, RECOVERY) if self.has(file)]
        if not files:
            raise self._missing(READER)
        return tuple(identity for file in files for identity in self._identities_of(file))

    def opening(self, domain: str, recipients: Sequence[str]) -> tuple[Identity, ...]:
        """The identities here that open ``domain``, which is encrypted to ``recipients``. Raises Denied, naming the domain's own
        file where none does."""
        if domain == DEFAULT_DOMAIN:
            return self.identities
        own = self._own(domain)
        held = [key for file in (own, READER, RECOVERY) if self.has(file) for key in self._identities_of(file)]
        found = tuple(key for key in held if key.recipient in recipients)
        if not found:
            raise self._holds_another(domain) if self.has(own) else self._missing(own)
        return found

    def path_of(self, domain: str) -> str:
        """Where the identity of ``domain`` is, or would be."""
        return self._paths.get(self._own(domain), f"{domain}.agekey")

    def make_identity(self, domain: str) -> Identity:
        """The identity of a new shred domain, durable in a file of its own; one that a run before made is taken up. Raises
        Denied."""
        own = self._own(domain)
        if self._folder is None:
            raise self._missing(own)
        if not self.has(own):
            write_private(self._paths[own], _age_file(own, Identity.generate(), self.trust))
        return self._identities_of(own)[0]

    def destroy(self, domain: str) -> None:
        """Destroy the identity of ``domain`` here; one that is not here is no error. Raises Denied."""
        own = self._own(domain)
        if self.has(own):
            destroy_private(self._paths[own])

    def _own(self, domain: str) -> str:
        """The file of a domain's own identity."""
        own = f"{domain}.agekey"
        if self._folder is not None:
            self._paths.setdefault(own, os.path.join(self._folder, own))
        return own

    def index_secret(self, fetch: Callable[[], bytes]) -> IndexSecret:
        """The index secret: from the file of a role that has it, or else unwrapped from ``keys/index``, which ``fetch`` returns.

        Raises Denied when neither a capture, a pruner nor a reader key is here.
        """
        for role in _INDEXED:
            if self.has(f"{role}.json"):
                file = self._key_file(role)
                if file.index is None or len(file.index) != KEY:
                    raise _unreadable(self._paths[f"{role}.json"], "it has no index secret")
                return IndexSecret(self.vault, file.index)
        if not self.can_read:
            raise self._missing(CAPTURE)
        return unwrap_index(fetch(), self.vault, self.identities)

    def signer(self, role: str) -> SigningKey:
        """The key that signs as ``role``. Raises Denied when it is not here."""
        return SigningKey(role, self._key_file(role).key)

    def _key_file(self, role: str) -> _KeyFile:
        name = f"{role}.json"
        file = _decoded(self._read(name), _KeyFile, self._paths[name])
        self._require_vault(file.vault, self._paths[name])
        if file.role != role or len(file.key) != KEY:
            raise _unreadable(self._paths[name], f"it is not the key of the role {role}")
        return file

    def _identities_of(self, file: str) -> list[Identity]:
        text = self._text(file)
        self._require_vault(_comments(text).get("vault", self.trust.vault), self._paths[file])
        try:
            return [Identity(line) for line in text.splitlines() if line and not line.startswith("#")]
        except IntegrityError as error:  # it does not know of which file the line is
            raise _unreadable(self._paths[file], "a line of it should be an age identity and is none") from error

    def _require_vault(self, vault: str, path: str) -> None:
        if vault != self.trust.vault:
            raise Denied(
                f"{path} is a key of the vault {vault[:32]}, not of {self.trust.name} ({self.trust.vault}).",
                untouched="Nothing was changed.",
                next_step="Put the keys of each vault into a folder of their own.",
            )

    def _read(self, file: str) -> bytes:
        if file not in self._paths:
            raise self._missing(file)
        if self._folder is not None:
            require_private_folder(self._folder)
        try:
            return read_private(self._paths[file])
        except FileNotFoundError as error:
            raise self._missing(file) from error

    def _text(self, file: str) -> str:
        path = self._paths[file]
        try:
            text = self._read(file).decode()
        except UnicodeDecodeError as error:
            raise _unreadable(path, "it is not an age identity file") from error
        if is_passphrase_protected(text):
            raise Denied(
                f"{path} is protected with a passphrase, which this release does not open.",
                untouched="Nothing was changed.",
                next_step=f"Open it with `age --decrypt --output FILE {path}` and use FILE.",
            )
        return text

    def _holds_another(self, domain: str) -> Denied:
        return Denied(
            f"{self.path_of(domain)} holds no key that opens the shred domain {domain}.",
            untouched="Nothing was changed.",
            next_step="Bring it back from your copy of it.",
        )

    def _missing(self, file: str) -> Denied:
        path = self._paths.get(file, f"{file}, only {self._paths[RECOVERY]}")
        return Denied(
            f"There is no {path}. It is the file that {_purpose(file)}.",
            untouched="Nothing was changed.",
            next_step=f"Bring {file} into the keys folder, or run this where it is kept.",
        )

    def __repr__(self) -> str:
        return f"<Keyring {self._folder or self._paths[RECOVERY]}>"


def _key_file(key: SigningKey, index: IndexSecret) -> bytes:
    held = index.secret_bytes() if key.role in _INDEXED else None
    return to_json(_KeyFile(format=FORMAT, vault=index.vault.hex(), role=key.role, key=key.secret_bytes(), index=held))


def _purpose(file: str) -> str:
    domain, dot, kind = file.partition(".")
    own = (
        f"opens the shred domain {domain}, and nothing else" if dot + kind == ".agekey" else "holds another role's key"
    )
    return PURPOSES.get(file, own)


def _age_file(file: str, identity: Identity, trust: Trust) -> bytes:
    comments = {
        "resurgam": f"{file}: {_purpose(file)}",
        "vault": trust.vault,
        "name": " ".join(trust.name.split()),
        "root": trust.root,
        "public key": identity.recipient,
    }
    lines = [f"# {word}: {value}" for word, value in comments.items()]
    return "\n".join([*lines, identity.secret_text(), ""]).encode()


def _comments(text: str) -> dict[str, str]:
    pairs = (line[1:].partition(":") for line in text.splitlines() if line.startswith("#"))
    return {word.strip(): value.strip() for word, _, value in pairs}


def _trust_in(text: str, path: str) -> Trust:
    said = _comments(text)
    trust = Trust(format=FORMAT, vault=said.get("vault", ""), root=said.get("root", ""), name=said.get("name", ""))
    return _checked(trust, path)


def _decoded(data: bytes, kind: type[T], path: str) -> T:
    """The values of a key file; its errors repeat nothing of what is in it."""
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(path, f"it is not a file of this kind, or is cut off ({type(error).__name__})") from None
    require_format(getattr(value, "format", FORMAT), FORMAT, what=path)
    if isinstance(value, Trust):
        _checked(value, path)
    return value


def _checked(trust: Trust, path: str) -> Trust:
    try:
        lengths = (len(bytes.fromhex(trust.vault)), len(bytes.fromhex(trust.root)))
    except ValueError:
        lengths = (0, 0)
    if lengths != (VAULT_ID, KEY):
        raise _unreadable(path, "it does not say which vault it is for, and by which root key")
    return trust


def _unreadable(path: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"The key file {path} cannot be used: {why}.",
        untouched="Nothing was changed.",
        next_step="Bring it back from your copy of it.",
    )
