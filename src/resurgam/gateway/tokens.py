"""Who may ask: tokens, one or more for each role, of which the gateway keeps only hashes.

A token is ``rsg1-ID-SECRET``: eight hexadecimal digits by which it is found and named in logs, and 256 random bits. Of so many
bits a plain SHA-256 tells nothing, so no slow hash is needed; it is compared in constant time. The file is readable by its owner
only and lies outside of the vault's folder; what root makes there belongs to whoever owns the folder, as the gateway does. Each
change replaces it whole, and a running gateway looks at each request whether it was replaced: what is revoked ends at once. A file
that cannot be read or believed is a file without tokens: nobody gets in (P12).
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from resurgam.clock import Clock
from resurgam.errors import Denied, IntegrityError, NotFound, UsageError
from resurgam.model.codec import json_decoder
from resurgam.vault.rights import ROLES

MONITOR = "monitor"  # a role of its own, that may read /metrics and nothing of the vault
HOLDERS = (*ROLES, MONITOR)
_FORM = re.compile(r"rsg1-([0-9a-f]{8})-([A-Za-z0-9_-]{43})")
_VERSION = 1
_NOBODY = "0" * 64  # what an unknown token is compared with, so that it takes as long


class Token(msgspec.Struct, frozen=True):
    """One token: ``digest`` is the SHA-256 of the whole text, ``name`` says for people where it is used."""

    id: str
    role: str
    digest: str
    name: str
    added: str


class _File(msgspec.Struct, frozen=True):
    version: int
    tokens: list[Token]


class Tokens:
    """The file of tokens at ``path``; safe from several threads and processes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._known: dict[str, Token] = {}
        self._lock = threading.Lock()

    def holder(self, presented: str) -> Token | None:
        """The token that ``presented`` is, or None. Raises Denied, IntegrityError where the file is not to be believed."""
        form = _FORM.fullmatch(presented)
        found = self._current().get(form[1]) if form else None
        digest = hashlib.sha256(presented.encode()).hexdigest()
        same = hmac.compare_digest(digest, found.digest if found else _NOBODY)
        return found if same else None

    def all(self) -> list[Token]:
        """Every token, in the order in which they were made. Raises Denied, IntegrityError."""
        return self._read()

    def add(self, role: str, name: str, clock: Clock) -> tuple[Token, str]:
        """Make one for ``role``: the token, and its text, which is known here and now only. Raises UsageError, Denied."""
        if role not in HOLDERS:
            raise UsageError(
                f"{role!r} is no role.",
                untouched="No token was made.",
                next_step=f"Choose one of {', '.join(HOLDERS)}.",
            )
        number, secret = secrets.token_hex(4), base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
        text = f"rsg1-{number}-{secret}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        made = Token(id=number, role=role, digest=digest, name=name, added=clock.now().isoformat(timespec="seconds"))
        with self._changing() as tokens:
            tokens.append(made)
        return made, text

    def revoke(self, number: str) -> Token:
        """End the token with that id. Raises NotFound, Denied."""
        with self._changing() as tokens:
            found = next((token for token in tokens if token.id == number), None)
            if found is None:
                raise NotFound(
                    f"There is no token {number} in {self.path}.",
                    untouched="Nothing was changed.",
                    next_step="`resurgam vault tokens list` shows them.",
                )
            tokens.remove(found)
        return found

    def _current(self) -> dict[str, Token]:
        """The tokens by id, read anew where the file was replaced since."""
        with self._lock:
            try:
                status = os.stat(self.path)
                now: tuple[int, int, int] | None = (
                    status.st_ino,
                    status.st_ctime_ns,
                    status.st_size,
                )  # ctime: also of modes
            except OSError:
                now = None  # `_read` tells what is wrong
            if now is None or now != self._seen:
                self._known, self._seen = {}, None  # first nobody, in case it cannot be believed
                self._known, self._seen = {token.id: token for token in self._read()}, now
            return self._known

    def _read(self) -> list[Token]:
        try:
            with open(self.path, "rb") as file:
                mode, data = os.fstat(file.fileno()).st_mode, file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Denied(
                f"{self.path} cannot be read: {error.strerror}.",
                untouched="Nobody is let in.",
                next_step="Give it to the user that the gateway runs as, with mode 600.",
            ) from error
        if mode & 0o077:
            raise Denied(
                f"{self.path} can be read or written by others (mode {mode & 0o777:o}).",
                untouched="Nobody is let in.",
                next_step=f"chmod 600 {self.path}; if somebody may have written there, make all tokens anew.",
            )
        with suppress(msgspec.DecodeError):
            found = json_decoder(_File).decode(data)
            if found.version == _VERSION:
                return found.tokens
        raise IntegrityError(
            f"{self.path} is no file of tokens that this release knows.",
            untouched="Nobody is let in.",
            next_step="Use the release that wrote it; or remove it, and make tokens with `resurgam vault tokens add`.",
        )

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens, to be changed; written back whole and durably at the end, unless it raises."""
        folder = os.path.dirname(self.path)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            guard = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            _give_away(guard, folder)
        except OSError as error:
            raise Denied(
                f"{folder} cannot be written: {error.strerror}.",
                untouched="No token was changed.",
                next_step="Run this as the user that the gateway runs as, or name another folder with --state.",
            ) from error
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
            tokens = self._read()
            yield tokens
            write_private(self.path, msgspec.json.format(msgspec.json.encode(_File(_VERSION, tokens))))
        finally:
            os.close(guard)


def write_private(path: str, data: bytes) -> None:
    """Replace the file ``path`` by ``data``, whole and durable, readable by its owner only. Raises Denied."""
    waiting = f"{path}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _give_away(descriptor, os.path.dirname(path))
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(waiting, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(waiting)
            raise
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Denied(
            f"{path} cannot be written: {error.strerror}.",
            untouched="It is as it was.",
            next_step="Check who owns its folder, and the space on its disk.",
        ) from error


def _give_away(descriptor: int, folder: str) -> None:
    """What root makes in another user's ``folder`` is that user's: the gateway has to read it. Raises OSError."""
    if os.geteuid() == 0:
        owner = os.stat(folder)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
