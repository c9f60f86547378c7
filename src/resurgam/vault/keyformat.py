"""What stands in a key file. ``.json`` is a key that signs, ``.agekey`` an age identity that opens, ``trust.json`` neither.

A signing key's file is JSON; those of capture and pruner also hold the index secret, since they must find chunks. An identity's
file is a plain one of age, whose comments say which vault it belongs to, so that one file and the vault are enough (P3).

Errors over a key file repeat nothing of what is in it.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from resurgam.errors import IntegrityError
from resurgam.model.codec import json_decoder, require_format, to_json
from resurgam.vault.age import Identity
from resurgam.vault.keys import EVIDENCE_DOMAIN, KEY, VAULT_ID, IndexSecret
from resurgam.vault.signing import Role, SigningKey

T = TypeVar("T")

FORMAT: Final = 1
TRUST: Final = "trust.json"
CAPTURE: Final = "capture.json"
PRUNER: Final = "pruner.json"
READER: Final = "reader.agekey"
RECOVERY: Final = "recovery.agekey"
EVIDENCE: Final = f"{EVIDENCE_DOMAIN}.agekey"
IDENTITY: Final = ".agekey"
SIGNING: Final = ".json"
INDEXED: Final = (Role.CAPTURE, Role.PRUNER)  # roles that must find chunks, and whose files hold the index secret
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


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What a host believes before it has read anything: ``root`` is the root key's whole fingerprint. No secret."""

    format: int
    vault: str
    root: str
    name: str


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A signing key's file; those of capture and pruner also hold the index secret. Bytes are base64."""

    format: int
    vault: str
    role: str
    key: bytes
    index: bytes | None = None

    def __repr__(self) -> str:
        return f"<key file of {self.role}, not shown>"


def key_file(key: SigningKey, vault: bytes, index: IndexSecret | None) -> bytes:
    """The file of ``key``; ``index`` goes into it where the role must find chunks."""
    held = index.secret_bytes() if index is not None and key.role in INDEXED else None
    return to_json(KeyFile(format=FORMAT, vault=vault.hex(), role=key.role, key=key.secret_bytes(), index=held))


def age_file(file: str, identity: Identity, trust: Trust) -> bytes:
    """The file of ``identity`` under the name ``file``."""
    comments = {
        "resurgam": f"{file}: {purpose(file)}",
        "vault": trust.vault,
        "name": " ".join(trust.name.split()),
        "root": trust.root,
        "public key": identity.recipient,
    }
    lines = [f"# {word}: {value}" for word, value in comments.items()]
    return "\n".join([*lines, identity.secret_text(), ""]).encode()


def identities_in(text: str, path: str) -> list[Identity]:
    """The identities of an age file; one of a plugin is known by its comment ``public key``. Raises IntegrityError."""
    public = comments(text).get("public key", "")
    try:
        return [Identity(line, public) for line in text.splitlines() if line and not line.startswith("#")]
    except IntegrityError as error:  # it does not know of which file the line is
        raise unreadable(path, "a line of it should be an age identity and is none") from error


def purpose(file: str) -> str:
    """What a key file is for, to be put after "the file that"."""
    stem, kind = file.partition(".")[0], f".{file.rpartition('.')[2]}"  # whose it is may stand between the two
    domain = f"opens the shred domain {stem}, and nothing else"
    return PURPOSES.get(f"{stem}{kind}") or (domain if kind == IDENTITY else "holds another role's key")


def comments(text: str) -> dict[str, str]:
    """What the comments of an age file say, by their words."""
    pairs = (line[1:].partition(":") for line in text.splitlines() if line.startswith("#"))
    return {word.strip(): value.strip() for word, _, value in pairs}


def trust_in(text: str, path: str) -> Trust:
    """Which vault an age file's comments say that it is for. Raises IntegrityError."""
    said = comments(text)
    trust = Trust(format=FORMAT, vault=said.get("vault", ""), root=said.get("root", ""), name=said.get("name", ""))
    return _checked(trust, path)


def decoded(data: bytes, kind: type[T], path: str) -> T:
    """The values of a JSON key file. Raises IntegrityError, NewerFormat."""
    try:
        value = json_decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unreadable(path, f"it is not a file of this kind, or is cut off ({type(error).__name__})") from None
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
        raise unreadable(path, "it does not say which vault it is for, and by which root key")
    return trust


def unreadable(path: str, why: str) -> IntegrityError:
    """That a key file cannot be used."""
    return IntegrityError(
        f"The key file {path} cannot be used: {why}.",
        untouched="Nothing was changed.",
        next_step="Bring it back from your copy of it.",
    )
