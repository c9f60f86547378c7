"""Wrapping small secrets to people and hosts in the age format (https://age-encryption.org/v1), through pyrage.

What is wrapped here, the standard tool opens too: ``age -d -i recovery.agekey < object``. So a vault can be read by
hand with nothing of ours (P3). An age file says nothing about who wrote it, since a recipient is public; whatever is
wrapped therefore says inside what it is for, and its reader checks that (``vault.keys``).

The identities are age's own X25519 ones, or those of a plugin (https://c2sp.org/age-plugin): a program ``age-plugin-NAME`` on PATH,
which asks a hardware key, a KMS or a TPM. A plugin for which nobody may be asked must not need a PIN or a touch.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import pyrage  # type: ignore[import-untyped]

from resurgam.errors import Denied, IntegrityError, MissingExtra, ResurgamError

_NO_MATCH = "No matching keys found"  # pyrage gives its one error class for everything; a test holds it to these words
_PLUGIN = "AGE-PLUGIN-"


class Secret:
    """What must never be shown: neither printed, nor copied about, nor pickled to another process by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and is not pickled or copied")


class Identity(Secret):
    """The private half of an age recipient: it opens what was wrapped to ``recipient``. A plugin's does not know its recipient,
    which is therefore told along with it, and is empty where it was not."""

    __slots__ = ("_inner", "recipient")

    def __init__(self, text: str, recipient: str = "") -> None:
        """From the line ``AGE-SECRET-KEY-1…`` or ``AGE-PLUGIN-…``. Raises IntegrityError, which does not repeat the line."""
        kind = pyrage.plugin if text.startswith(_PLUGIN) else pyrage.x25519
        try:
            self._inner = kind.Identity.from_str(text)
        except pyrage.IdentityError as error:
            raise IntegrityError(
                "A line that should be an age identity is not one.",
                untouched="Nothing was changed.",
                next_step="Bring the identity file back from your copy of it.",
            ) from error
        self.recipient = recipient if kind is pyrage.plugin else str(self._inner.to_public())

    @classmethod
    def generate(cls) -> Identity:
        """A new identity from the operating system's randomness."""
        return cls(str(pyrage.x25519.Identity.generate()))

    def secret_text(self) -> str:
        """The line that goes into an identity file, and nowhere else."""
        return str(self._inner)

    @property
    def inner(self) -> object:
        """pyrage's own object. Raises MissingExtra where a plugin is not installed."""
        if isinstance(self._inner, pyrage.plugin.Identity):
            return _plugin(pyrage.plugin.IdentityPluginV1, self._inner.plugin(), [self._inner], _Asking())
        return self._inner

    def __repr__(self) -> str:
        return f"<Identity of {self.recipient}>"


def wrap(payload: bytes, recipients: Sequence[str]) -> bytes:
    """``payload`` as an age file that each of ``recipients`` (``age1…``) can open. Raises IntegrityError for a bad one,
    MissingExtra for a plugin's that is not installed."""
    assert recipients, "wrapped to nobody, it could never be opened"
    try:
        return bytes(pyrage.encrypt(payload, [_recipient(r) for r in recipients]))
    except pyrage.RecipientError as error:
        raise IntegrityError(
            f"The role table names a recipient that is no age recipient: {error}.",
            untouched="Nothing was written.",
            next_step="Have the root key's holder sign a role table with the right recipient.",
        ) from error
    except pyrage.EncryptError as error:
        raise Denied(
            f"It could not be wrapped to all recipients: {str(error).splitlines()[0]}.",
            untouched="Nothing was written.",
            next_step="See that the plugin of each recipient works on this host.",
        ) from error


def is_recipient(text: str) -> bool:
    """Whether ``text`` is an age recipient, of age itself or of a plugin. Nothing is started."""
    for kind in (pyrage.x25519, pyrage.plugin):
        try:
            kind.Recipient.from_str(text)
        except pyrage.RecipientError:
            continue
        return True
    return False


def unwrap(blob: bytes, identities: Sequence[Identity], *, what: str) -> bytes:
    """The payload of the age file ``blob``; ``what`` names it in errors.

    Raises Denied when none of ``identities`` opens it, IntegrityError when it is damaged. A flipped bit in the line that
    is meant for us looks like a line for somebody else: the age format cannot tell, and the message says both.
    """
    try:
        return bytes(pyrage.decrypt(blob, [identity.inner for identity in identities]))
    except pyrage.DecryptError as error:
        raise _closed(str(error), identities, what) from error


class _Asking:
    """What a plugin may ask of whoever sits at the terminal. pyrage calls these; they must not raise."""

    def display_message(self, message: str) -> None:
        sys.stderr.write(f"{_printable(message)}\n")

    def confirm(self, _message: str, _yes: str, _no: str | None) -> bool | None:
        return None  # it then goes on as where nobody can be asked

    def request_public_string(self, _description: str) -> str | None:
        return None

    def request_passphrase(self, description: str) -> str | None:
        return getpass.getpass(f"{_printable(description)}: ") if sys.stdin.isatty() else None


def _printable(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words)


def _recipient(text: str) -> object:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        found = pyrage.plugin.Recipient.from_str(text)
    return _plugin(pyrage.plugin.RecipientPluginV1, found.plugin(), [found], [], _Asking())


def _plugin(kind: Any, name: str, *rest: object) -> object:  # pyrage has no types
    """A plugin's end. Raises MissingExtra."""
    try:
        return kind(name, *rest)
    except (pyrage.EncryptError, pyrage.DecryptError) as error:
        raise MissingExtra(
            f"A key of this vault needs the program age-plugin-{name}, which is not on PATH.",
            untouched="Nothing was written.",
            next_step=f"Install age-plugin-{name} on this host.",
        ) from error


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
