"""The keys of a vault, and what each can do. Who holds which, and why, is told in ``docs/adr/0002-keys.md``.

    index secret    32 random bytes per vault. From it, by BLAKE3 derive_key: the keys for chunk ids, cut points and row
                    digests of each shred domain, and the keys that seal index segments and chunk lists. Held by whoever
                    adds or prunes. It opens ids, lengths and places, never contents.
    session key     32 random bytes per writing session and shred domain: encrypts chunks. Made by the writer, wrapped to
                    the domain's recipients, and forgotten when the session ends (P9).

Signing keys are another matter (``vault.signing``): they say who wrote something, and open nothing.

Derived keys: ``BLAKE3.derive_key("resurgam vault v1 " + purpose, secret + vault id + subject)``. The first two have
fixed lengths, so no two subjects meet.

A sealed object: 8 bytes ``RSGMSEAL``, u16 format (little-endian), 6 zeros, 32 bytes salt, then AES-256-GCM of the plain
bytes with its 16-byte tag. The key is derived from the salt and the kind and is used once, so the nonce is 12 zeros.
The header, the vault's id and the kind are associated data: no object can stand in for one of another vault or kind.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from resurgam.errors import IntegrityError, LimitExceeded
from resurgam.model.codec import require_format, to_json, versioned
from resurgam.vault.age import Identity, Secret, unwrap, wrap

FORMAT: Final = 1
KEY: Final = 32
VAULT_ID: Final = 16
SESSION_ID: Final = 16
NONCES: Final = 1 << 32  # chunks under one session key
DEFAULT_DOMAIN: Final = "default"
EVIDENCE_DOMAIN: Final = "evidence"  # of a new vault's answers; after it was shredded, evidence-2 and so on
INDEX_OBJECT: Final = "keys/index"

_SEALED = struct.Struct("<8sH6x32s")
_SEAL_MAGIC = b"RSGMSEAL"
_TAG = 16
_ONE_USE_NONCE = bytes(12)


class IndexSecret(Secret):
    """What a writer, a pruner and every reader share: it names chunks and opens indexes, and cannot open contents (P9)."""

    __slots__ = ("_secret", "vault")

    def __init__(self, vault: bytes, secret: bytes) -> None:
        assert (len(vault), len(secret)) == (VAULT_ID, KEY)
        self.vault = vault
        self._secret = secret

    @classmethod
    def generate(cls, vault: bytes) -> IndexSecret:
        """A new secret from the operating system's randomness."""
        return cls(vault, os.urandom(KEY))

    def chunk_id_key(self, domain: str) -> bytes:
        """The BLAKE3 key of chunk ids in ``domain``: without it, ids do not confirm a guess at the content."""
        return self._derive("chunk id", domain.encode())

    def row_digest_key(self, domain: str) -> bytes:
        """The BLAKE3 key of row digests in ``domain``."""
        return self._derive("row digest", domain.encode())

    def block_key(self, domain: str) -> bytes:
        """The AES-XTS key of what a host remembers of blocks in ``domain`` (``patches``)."""
        return self._derive("block digest", domain.encode())

    def cut_seed(self, domain: str) -> int:
        """The seed of content-defined cuts in ``domain``, 1 to 2**63 - 1."""
        seed = int.from_bytes(self._derive("cut seed", domain.encode())[:8], "big") >> 1
        return seed or 1

    def list_key(self, chunk: bytes) -> bytes:
        """The AES key of the chunk list ``chunk``, which pruners must read (``pack.Kind.LIST``)."""
        return self._derive("chunk list", chunk)

    def host_key(self) -> bytes:
        """The BLAKE3 key by which a host authenticates to itself what it remembers of the index."""
        return self._derive("host", b"")

    def seal(self, kind: str, plain: bytes) -> bytes:
        """``plain`` encrypted as a ``kind`` of object of this vault; the layout is in the module's docstring."""
        salt = os.urandom(KEY)
        header = _SEALED.pack(_SEAL_MAGIC, FORMAT, salt)
        return header + self._cipher(kind, salt).encrypt(_ONE_USE_NONCE, plain, self._meaning(kind, header))

    def open(self, kind: str, sealed: bytes | memoryview, *, what: str = "") -> bytes:
        """What :meth:`seal` was given. Raises IntegrityError, NewerFormat; ``what`` names the object in them."""
        what = what or f"a sealed {kind}"
        if len(sealed) < _SEALED.size + _TAG:
            raise _damaged(f"{what} is cut off")
        magic, version, salt = _SEALED.unpack_from(sealed)
        if magic != _SEAL_MAGIC:
            raise _damaged(f"{what} does not begin like a sealed object")
        require_format(version, FORMAT, what=what)
        header = bytes(sealed[: _SEALED.size])
        try:
            return self._cipher(kind, salt).decrypt(_ONE_USE_NONCE, sealed[_SEALED.size :], self._meaning(kind, header))
        except InvalidTag as error:
            raise _damaged(f"{what} was changed, or is of another vault or kind") from error

    def wrapped(self, recipients: Sequence[str]) -> bytes:
        """The object ``keys/index``: with it, the vault and a reader's identity are enough (P3)."""
        return wrap(to_json(_WrappedIndex(format=FORMAT, vault=self.vault.hex(), index=self._secret)), recipients)

    def secret_bytes(self) -> bytes:
        """The secret, for the capture role's file and nothing else."""
        return self._secret

    def _derive(self, purpose: str, subject: bytes) -> bytes:
        context = f"resurgam vault v1 {purpose}"
        return blake3(self._secret + self.vault + subject, derive_key_context=context).digest()

    def _cipher(self, kind: str, salt: bytes) -> AESGCM:
        return AESGCM(self._derive("seal", salt + kind.encode()))

    def _meaning(self, kind: str, header: bytes) -> bytes:
        return header + self.vault + kind.encode()


class _WrappedIndex(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of ``keys/index``."""

    format: int
    vault: str
    index: bytes

    def __repr__(self) -> str:
        return "<_WrappedIndex, not shown>"


def unwrap_index(blob: bytes, vault: bytes, identities: Sequence[Identity]) -> IndexSecret:
    """The index secret from the object ``keys/index``. Raises Denied, IntegrityError, NewerFormat."""
    plain = unwrap(blob, identities, what=INDEX_OBJECT)
    found = versioned(plain, _WrappedIndex, FORMAT, what=INDEX_OBJECT)
    if found.vault != vault.hex() or len(found.index) != KEY:
        raise _damaged(f"{INDEX_OBJECT} holds the key of another vault ({found.vault[:32]})")
    return IndexSecret(vault, found.index)


class SessionKey(Secret):
    """A session's key as its readers have it: it decrypts what one writing session stored in one shred domain."""

    __slots__ = ("cipher", "domain", "id")

    def __init__(self, session: bytes, domain: str, key: bytes) -> None:
        self.id = session
        self.domain = domain
        self.cipher = AESGCM(key)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id.hex()} of {self.domain}>"


class Session(SessionKey):
    """A session's key as its writer has it: it also hands out nonces. Only :func:`new_session` makes one, since two
    writers under one key would repeat them; a forked process is another writer."""

    __slots__ = ("_lock", "_process", "_used")

    def __init__(self, session: bytes, domain: str, key: bytes) -> None:
        super().__init__(session, domain, key)
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._used = 0

    def next_nonce(self) -> bytes:
        """12 bytes, big-endian, that no chunk of this session has had; thread-safe.

        Raises LimitExceeded after 2**32, whereupon the writer goes on with a new session.
        """
        assert self._process == os.getpid(), "a session does not survive a fork: both processes would use its nonces"
        with self._lock:
            if self._used >= NONCES:
                raise LimitExceeded(
                    f"Session {self.id.hex()} has encrypted {NONCES} chunks, the most that one key may.",
                    untouched="What it stored stays valid.",
                    next_step="Go on with a new session.",
                )
            self._used += 1
            return (self._used - 1).to_bytes(12, "big")


class _WrappedSession(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of ``keys/session-<id>``: the key, and all that it is a key for."""

    format: int
    vault: str
    domain: str
    session: str
    key: bytes

    def __repr__(self) -> str:
        return "<_WrappedSession, not shown>"


def new_session(vault: bytes, domain: str, recipients: Sequence[str]) -> tuple[Session, bytes]:
    """A new session, and its key wrapped to ``recipients``: the object :func:`session_object`, which MUST be durable
    before any chunk of the session is, or those could never be read."""
    session, key = os.urandom(SESSION_ID), os.urandom(KEY)
    envelope = _WrappedSession(format=FORMAT, vault=vault.hex(), domain=domain, session=session.hex(), key=key)
    return Session(session, domain, key), wrap(to_json(envelope), recipients)


def session_object(session: bytes) -> str:
    """The name of the object that holds a session's wrapped key."""
    return f"keys/session-{session.hex()}"


def unwrap_session(blob: bytes, vault: bytes, session: bytes, identities: Sequence[Identity]) -> SessionKey:
    """The key of ``session`` from its object. Raises Denied, IntegrityError, NewerFormat."""
    found, _ = _session(blob, vault, session, identities)
    return SessionKey(session, found.domain, found.key)


def session_payload(blob: bytes, vault: bytes, session: bytes, identities: Sequence[Identity]) -> tuple[str, bytes]:
    """The shred domain of ``session`` and what its object holds, to be wrapped to others and for nothing else. Raises as
    :func:`unwrap_session`."""
    found, plain = _session(blob, vault, session, identities)
    return found.domain, plain


def _session(
    blob: bytes, vault: bytes, session: bytes, identities: Sequence[Identity]
) -> tuple[_WrappedSession, bytes]:
    what = session_object(session)
    plain = unwrap(blob, identities, what=what)
    found = versioned(plain, _WrappedSession, FORMAT, what=what)
    if (found.vault, found.session) != (vault.hex(), session.hex()) or len(found.key) != KEY:
        raise _damaged(f"{what} holds the key of session {found.session[:32]} of vault {found.vault[:32]}")
    return found, plain


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(
        f"The vault cannot be trusted here: {what}.",
        untouched="Nothing was changed.",
        next_step="Run `resurgam vault check` to see what else is affected, and bring the object back from a replica.",
    )
