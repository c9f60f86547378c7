"""Wrapping small secrets to people and hosts in the age format (https://age-encryption.org/v1), through pyrage.

What is wrapped here, the standard tool opens too: ``age -d -i recovery.agekey < object``. So a vault can be read by
hand with nothing of ours (P3). An age file says nothing about who wrote it, since a recipient is public; whatever is
wrapped therefore says inside what it is for, and its reader checks that (``vault.keys``).

The identities are age's own X25519 ones. A file protected with a passphrase is recognised and refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import pyrage  # type: ignore[import-untyped]

from resurgam.errors import Denied, IntegrityError, ResurgamError

_NO_MATCH = "No matching keys found"  # pyrage gives its one error class for everything; a test holds it to these words
_ENCRYPTED = ("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE-----")


class Secret:
    """What must never be shown: neither printed, nor copied about, nor pickled to another process by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and is not pickled or copied")


class Identity(Secret):
    """The private half of an age recipient: it opens what was wrapped to ``recipient``."""

    __slots__ = ("_inner", "recipient")

    def __init__(self, text: str) -> None:
        """From the line ``AGE-SECRET-KEY-1…``. Raises IntegrityError, which does not repeat the line."""
        try:
            self._inner = pyrage.x25519.Identity.from_str(text)
        except pyrage.IdentityError as error:
            raise IntegrityError(
                "A line that should be an age identity is not one.",
                untouched="Nothing was changed.",
                next_step="Bring the identity file back from your copy of it.",
            ) from error
        self.recipient = str(self._inner.to_public())

    @classmethod
    def generate(cls) -> Identity:
        """A new identity from the operating system's randomness."""
        return cls(str(pyrage.x25519.Identity.generate()))

    def secret_text(self) -> str:
        """The line that goes into an identity file, and nowhere else."""
        return str(self._inner)

    @property
    def inner(self) -> object:
        """pyrage's own object."""
        return self._inner

    def __repr__(self) -> str:
        return f"<Identity of {self.recipient}>"


def wrap(payload: bytes, recipients: Sequence[str]) -> bytes:
    """``payload`` as an age file that each of ``recipients`` (``age1…``) can open. Raises IntegrityError for a bad one."""
    assert recipients, "wrapped to nobody, it could never be opened"
    try:
        return bytes(pyrage.encrypt(payload, [pyrage.x25519.Recipient.from_str(r) for r in recipients]))
    except pyrage.RecipientError as error:
        raise IntegrityError(
            f"The role table names a recipient that is not an age X25519 one: {error}.",
            untouched="Nothing was written.",
            next_step="Have the root key's holder sign a role table with the right recipient.",
        ) from error


def unwrap(blob: bytes, identities: Sequence[Identity], *, what: str) -> bytes:
    """The payload of the age file ``blob``; ``what`` names it in errors.

    Raises Denied when none of ``identities`` opens it, IntegrityError when it is damaged. A flipped bit in the line that
    is meant for us looks like a line for somebody else: the age format cannot tell, and the message says both.
    """
    try:
        return bytes(pyrage.decrypt(blob, [identity.inner for identity in identities]))
    except pyrage.DecryptError as error:
        raise _closed(str(error), identities, what) from error


def is_passphrase_protected(text: str) -> bool:
    """Whether an identity file is itself an age file, which this release does not open."""
    return text.startswith(_ENCRYPTED)


def _closed(reason: str, identities: Sequence[Identity], what: str) -> ResurgamError:
    if reason == _NO_MATCH:
        ours = ", ".join(identity.recipient for identity in identities) or "none"
        return Denied(
            f"{what} is not wrapped to any identity held here (held: {ours}), or its header is damaged.",
            untouched="Nothing was changed.",
            next_step="Use the keys folder of a reader of this vault, or the recovery key.",
        )
    return IntegrityError(
        f"{what} is damaged: {reason.splitlines()[0]}.",
        untouched="Nothing was changed.",
        next_step="Bring this object back from a replica of the vault; nothing else holds this key.",
    )
