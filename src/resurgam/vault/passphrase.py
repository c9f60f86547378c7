"""Passphrases of key files. A protected file is an age file of its own (scrypt, https://age-encryption.org/v1), so the standard
tool opens it too: ``age --decrypt recovery.agekey``.

A passphrase protects a file, never what is in the vault: whoever has the file can guess at it, and nobody who has the vault alone
can. It comes from the file that RESURGAM_PASSPHRASE_FILE names, or from whoever sits at the terminal, and is given to nobody.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from typing import Final

import pyrage  # type: ignore[import-untyped]

from resurgam.errors import Denied, UsageError
from resurgam.vault.keyfiles import read_private

FILE_VARIABLE: Final = "RESURGAM_PASSPHRASE_FILE"
SHORTEST: Final = (
    12  # characters: scrypt as age uses it makes a guess cost a second, and nothing makes up for a short one
)
_PROTECTED = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")

Ask = Callable[[str], str]  # a path to its passphrase


def is_protected(data: bytes) -> bool:
    """Whether a key file is itself an age file, under a passphrase."""
    return data.startswith(_PROTECTED)


def asked(path: str) -> str:
    """The passphrase of ``path``. Raises Denied where nobody is there to ask."""
    if (named := os.environ.get(FILE_VARIABLE)) is not None:
        return _in_file(named)
    if not sys.stdin.isatty():
        raise Denied(
            f"{path} is protected with a passphrase, and nobody is here to be asked for it.",
            untouched="Nothing was changed.",
            next_step=f"Run it at a terminal, or name a file (mode 600) that holds it in {FILE_VARIABLE}.",
        )
    return getpass.getpass(f"Passphrase of {path}: ")


def chosen(path: str) -> str:
    """A new passphrase for ``path``, typed twice where it is typed. Raises Denied, UsageError for one that is too short."""
    first = asked(path)
    if FILE_VARIABLE not in os.environ and getpass.getpass("The same again: ") != first:
        raise _not_so("The two were not the same.")
    if len(first) < SHORTEST:
        raise _not_so(f"A passphrase has {SHORTEST} characters at least; six words taken by chance are good.")
    return first


def protect(data: bytes, passphrase: str) -> bytes:
    """``data`` under ``passphrase``, as text that can be printed."""
    return bytes(pyrage.passphrase.encrypt(data, passphrase, armored=True))


def opened(data: bytes, path: str, ask: Ask) -> bytes:
    """What the protected file ``path`` holds. Raises Denied."""
    try:
        return bytes(pyrage.passphrase.decrypt(data, ask(path)))
    except pyrage.DecryptError as error:
        raise Denied(
            f"The passphrase does not open {path}, or the file is damaged.",
            untouched="Nothing was changed.",
            next_step="Give the passphrase that it was exported under, or bring the file back from your copy of it.",
        ) from error


def _in_file(path: str) -> str:
    try:
        return read_private(path).decode().removesuffix("\n")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise Denied(
            f"{FILE_VARIABLE} names {path}, which is not there, or is no text.",
            untouched="Nothing was changed.",
            next_step="Name a file of mode 600 with the passphrase on its only line.",
        ) from error


def _not_so(why: str) -> UsageError:
    return UsageError(why, untouched="Nothing was written.", next_step="Run it again.")
