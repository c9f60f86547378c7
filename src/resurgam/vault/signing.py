"""Who wrote it: Ed25519 keys by role, and the DSSE envelope that carries a signed document.

What is signed is never the bare bytes but their DSSE v1 pre-authentication encoding with a type
(https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md), so that a signature over one kind of thing is none
over another. The envelope is DSSE's own JSON; standard tools verify it::

    {"payload": base64, "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": hex, "sig": base64}]}

Stricter than DSSE asks: base64 is the standard alphabet in its one canonical form, no name stands twice in an object, and
16 MiB is the most. One valid signature by a fitting key is needed; room for several is there. ``keyid`` is a hint that
nobody signed: it only chooses which key to try.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from resurgam.errors import IntegrityError
from resurgam.model.codec import from_json, to_json
from resurgam.vault.age import Secret

T = TypeVar("T")

SEED: Final = 32
IN_TOTO: Final = "application/vnd.in-toto+json"
MAX_DOCUMENT: Final = 16 << 20
MAX_SIGNATURES: Final = 16


class Role(StrEnum):
    """What a signing key may vouch for. A role table may name roles of later releases too."""

    ROOT = "root"
    CAPTURE = "capture"
    VERIFIER = "verifier"
    APPROVER = "approver"
    PRUNER = "pruner"
    AUDITOR = "auditor"


def pae(kind: str, message: bytes) -> bytes:
    """DSSE v1's pre-authentication encoding: the exact bytes that are signed."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(message), message)


class PublicKey:
    """An Ed25519 public key. ``fingerprint`` is the hex BLAKE3 of its 32 raw bytes, ``key_id`` the first 16 digits of
    that: a name and a hint, never the proof."""

    __slots__ = ("_inner", "fingerprint", "raw")

    def __init__(self, raw: bytes) -> None:
        """From the raw key. Raises IntegrityError."""
        try:
            self._inner = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError as error:
            raise broken("A public key", "it is not an Ed25519 key of 32 bytes") from error
        self.raw = raw
        self.fingerprint = blake3(raw).hexdigest()

    @property
    def key_id(self) -> str:
        """A short name for people and for signatures."""
        return self.fingerprint[:16]

    def verifies(self, kind: str, message: bytes, signature: bytes) -> bool:
        """Whether this key signed ``message`` as a ``kind``."""
        try:
            self._inner.verify(signature, pae(kind, message))
        except InvalidSignature:
            return False
        return True

    def verifies_bare(self, message: bytes, signature: bytes) -> bool:
        """As ``verifies``, for forms of others that are signed as they are: ``vault.checkpoints`` says why that is safe."""
        try:
            self._inner.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"<PublicKey {self.key_id}>"


class SigningKey(Secret):
    """The key by which one role vouches for what it writes."""

    __slots__ = ("_inner", "public", "role")

    def __init__(self, role: str, seed: bytes) -> None:
        """From the 32-byte seed of RFC 8032."""
        self._inner = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(self._inner.public_key().public_bytes_raw())
        self.role = role

    @classmethod
    def generate(cls, role: str) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(role, os.urandom(SEED))

    @property
    def key_id(self) -> str:
        """See :class:`PublicKey`."""
        return self.public.key_id

    def sign(self, kind: str, message: bytes) -> bytes:
        """64 bytes that only this key can make over ``message`` as a ``kind``."""
        return self._inner.sign(pae(kind, message))

    def sign_bare(self, message: bytes) -> bytes:
        """64 bytes over ``message`` as it is, for forms of others (``vault.checkpoints``)."""
        assert not message.startswith(b"DSSEv1 "), "that is how what ``sign`` signs begins"
        return self._inner.sign(message)

    def secret_bytes(self) -> bytes:
        """The seed, for the key's file and nothing else."""
        return self._inner.private_bytes_raw()

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id} of {self.role}>"


class Signature(msgspec.Struct, frozen=True):
    """One signature of an envelope; ``sig`` is base64."""

    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: tuple[Signature, ...]


class Envelope(msgspec.Struct, frozen=True):
    """A document as read: its exact bytes, and signatures of which nothing is known yet."""

    payload: bytes
    kind: str
    signatures: tuple[tuple[str, bytes], ...]

    def signed_by(self, key: PublicKey) -> bool:
        """Whether ``key`` made one of the signatures."""
        return any(
            name == key.key_id and key.verifies(self.kind, self.payload, signature)
            for name, signature in self.signatures
        )


def envelop(payload: bytes, keys: Sequence[SigningKey], kind: str = IN_TOTO) -> bytes:
    """The DSSE envelope of ``payload``, signed by each of ``keys``."""
    assert len(payload) * 4 // 3 < MAX_DOCUMENT - 4096, "records hold digests and counts; documents go into chunks"
    signatures = tuple(Signature(key.key_id, _base64(key.sign(kind, payload))) for key in keys)
    return to_json(_Envelope(_base64(payload), kind, signatures))


def open_envelope(data: bytes, what: str) -> Envelope:
    """Parse an envelope, believing none of it yet. ``what`` names it in errors. Raises IntegrityError."""
    found = from_strict_json(data, _Envelope, what)
    if len(found.signatures) > MAX_SIGNATURES:
        raise broken(what, f"it has {len(found.signatures)} signatures, more than {MAX_SIGNATURES}")
    signatures = tuple((s.keyid, _from_base64(s.sig, what)) for s in found.signatures)
    return Envelope(_from_base64(found.payload, what), found.payload_type, signatures)


def from_strict_json(data: bytes, kind: type[T], what: str) -> T:
    """Decode, refusing what two JSON readers could understand differently: a name that stands twice in an object, NaN,
    nesting without end, more than 16 MiB. Raises IntegrityError."""
    if len(data) > MAX_DOCUMENT:
        raise broken(what, f"it has {len(data)} bytes, more than {MAX_DOCUMENT}")
    try:
        json.loads(data, object_pairs_hook=_no_name_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise broken(what, f"it is not strict JSON ({error})") from error
    return from_json(data, kind, what=what)


def broken(what: str, rule: str) -> IntegrityError:
    """The error for a document that cannot be believed: which, and by which rule."""
    return IntegrityError(
        f"{what} is not to be trusted: {rule}.",
        untouched="Nothing was changed.",
        next_step="Find out who wrote it, run `resurgam vault check`, and bring the object back from a replica.",
    )


def _no_name_twice(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice in one object")


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise broken(what, f"it is not base64 ({error})") from error
    if _base64(data) != text:  # unused bits set: two texts for the same bytes
        raise broken(what, "its base64 is not in canonical form")
    return data
