"""Checkpoints of the log: the auditor's word for how long it is and what it holds. Once somebody remembers one, nobody can
shorten, fork or rewrite the log unseen.

The text form is that of C2SP: a signed note (https://c2sp.org/signed-note) whose text is a tree head
(https://c2sp.org/tlog-checkpoint), so that the witnesses and monitors of others understand it::

    resurgam/<vault id, 32 hex>                      the origin, also the name of the key
    <entries, decimal>
    <root of the Merkle tree, base64>

    — resurgam/<vault id> <base64(4 bytes key id || 64 bytes Ed25519 over the text)>

Here, not as elsewhere in the vault, the bare text is signed and no DSSE encoding of it: that begins with ``DSSEv1``, a note's
text with its origin, so neither is ever taken for the other. The keys that count are the auditor's in the role table, which
the root key pins. Lines of other keys (witnesses) are stepped over, as the specification asks.

They are stored create-only as ``checkpoints/<10 digits>``, under the number of their entries (P2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from resurgam.vault.merkle import HASH
from resurgam.vault.signing import PublicKey, SigningKey, broken

PREFIX: Final = "checkpoints/"
MAX_NOTE: Final = 64 << 10  # 16 signatures of any kind that is known today
_ED25519: Final = b"\x01"
_SIGNATURE = re.compile("— ([^\\s+]+) ([A-Za-z0-9+/]+={0,2})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,9}")


class Checkpoint(msgspec.Struct, frozen=True):
    """A signed tree head: ``root`` (32 bytes) of the first ``size`` entries of the log; ``signer`` is the key id."""

    size: int
    root: bytes
    signer: str

    @property
    def object_name(self) -> str:
        """Where it is stored."""
        return object_name(self.size)


def object_name(size: int) -> str:
    """Where the checkpoint of so many entries is stored."""
    return f"{PREFIX}{size:010d}"


def origin(vault: bytes) -> str:
    """The first line: which log."""
    return f"resurgam/{vault.hex()}"


def make_checkpoint(size: int, root: bytes, vault: bytes, key: SigningKey) -> bytes:
    """The note that ``key`` signs for the first ``size`` entries."""
    text = f"{origin(vault)}\n{size}\n{base64.b64encode(root).decode()}\n"
    return sign_note(text, origin(vault), key)


def read_checkpoint(data: bytes, vault: bytes, keys: Sequence[PublicKey], what: str) -> Checkpoint:
    """The checkpoint in ``data``, when one of ``keys`` signed it for this vault's log. ``what`` names it in errors.

    Raises IntegrityError naming the broken rule.
    """
    text, signer = open_note(data, origin(vault), keys, what)
    lines = text.split("\n")
    if len(lines) < 4 or "" in lines[:-1]:
        raise broken(what, "it has not the three lines of a checkpoint")
    if lines[0] != origin(vault):
        raise broken(what, f"it is of the log {lines[0][:60]!r}")
    root = _from_base64(lines[2])
    if not _SIZE.fullmatch(lines[1]) or len(root) != HASH:
        raise broken(what, "its second and third line are no number of entries and no root")
    return Checkpoint(int(lines[1]), root, signer)


def sign_note(text: str, name: str, key: SigningKey) -> bytes:
    """A note of ``text``, which ends with a newline, signed as ``name``."""
    assert text.endswith("\n")
    signature = key_hash(name, key.public) + key.sign_bare(text.encode())
    return f"{text}\n— {name} {base64.b64encode(signature).decode()}\n".encode()


def open_note(data: bytes, name: str, keys: Sequence[PublicKey], what: str) -> tuple[str, str]:
    """The text of a note, and the id of the key among ``keys`` that signed it as ``name``.

    Raises IntegrityError where none did, or where a line claims to be of one of them and is not.
    """
    text, signatures = _parted(data, what)
    known = {key_hash(name, key): key for key in keys}
    signer = None
    for line in signatures:
        match = _SIGNATURE.fullmatch(line)
        if match is None:
            raise broken(what, "a line below its text is no signature")
        signature = _from_base64(match[2])
        key = known.get(signature[:4]) if match[1] == name else None
        if key is not None:
            if not key.verifies_bare(text.encode(), signature[4:]):
                raise broken(what, f"the signature of the key {key.key_id} does not fit it")
            signer = signer or key.key_id
    if signer is None:
        raise broken(what, "no key that the role table gives the role 'auditor' has signed it")
    return text, signer


def key_hash(name: str, key: PublicKey) -> bytes:
    """The four bytes by which a note's signature hints at its key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def _parted(data: bytes, what: str) -> tuple[str, list[str]]:
    """The text with its last newline, and the lines after the last empty one."""
    if len(data) > MAX_NOTE:
        raise broken(what, f"it has {len(data)} bytes, more than {MAX_NOTE}")
    try:
        note = data.decode()
    except UnicodeDecodeError as error:
        raise broken(what, "it is not UTF-8") from error
    text, gap, rest = note.rpartition("\n\n")
    if not gap or not rest.endswith("\n") or any(ord(letter) < 32 and letter != "\n" for letter in note):
        raise broken(what, "it has not the form of a signed note")
    return f"{text}\n", rest[:-1].split("\n")


def _from_base64(text: str) -> bytes:
    """The bytes, or none where it is not the one way to write them."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return data if base64.b64encode(data).decode() == text else b""
