"""Checkpoints: the published vector of signed notes, and every rule by which one is refused (P12)."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from resurgam.errors import IntegrityError
from resurgam.vault.checkpoints import (
    key_hash,
    make_checkpoint,
    object_name,
    open_note,
    origin,
    read_checkpoint,
    sign_note,
)
from resurgam.vault.merkle import EMPTY
from resurgam.vault.signing import PublicKey, Role, SigningKey

# The example of golang.org/x/mod/sumdb/note, whose form C2SP's signed notes are.
SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
PUBLIC = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NOTE = f"{TEXT}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
VAULT = bytes(range(16))
KEY = SigningKey(Role.AUDITOR, bytes(32))
SOUND = make_checkpoint(7, EMPTY, VAULT, KEY)


def test_the_published_note_is_opened_and_made_again() -> None:
    """Ed25519 is deterministic: the same bytes, so whoever reads notes reads ours."""
    key = SigningKey(Role.AUDITOR, SEED)
    assert key.public.raw == PUBLIC
    assert key_hash("PeterNeumann", key.public).hex() == "c74f20a3"
    assert open_note(NOTE.encode(), "PeterNeumann", [PublicKey(PUBLIC)], "it") == (TEXT, key.key_id)
    assert sign_note(TEXT, "PeterNeumann", key) == NOTE.encode()


def test_a_checkpoint_says_how_long_the_log_is_and_what_it_holds() -> None:
    text, _, signature = SOUND.decode().partition("\n\n")
    assert text == f"resurgam/{VAULT.hex()}\n7\n{base64.b64encode(EMPTY).decode()}"
    assert signature.startswith(f"— {origin(VAULT)} ")
    found = read_checkpoint(SOUND, VAULT, [KEY.public], "it")
    assert (found.size, found.root, found.signer) == (7, EMPTY, KEY.key_id)
    assert found.object_name == object_name(7) == "checkpoints/0000000007"


def test_signatures_of_witnesses_are_stepped_over() -> None:
    """Whoever cosigns adds a line; who does not know the key ignores it. The text may hold lines of later releases."""
    witness = SigningKey(Role.AUDITOR, b"w" * 32)
    line = (
        sign_note(SOUND.decode().partition("\n\n")[0] + "\n", "witness.example", witness).decode().rpartition("— ")[2]
    )
    assert read_checkpoint(SOUND + f"— {line}".encode(), VAULT, [KEY.public], "it").size == 7
    extended = sign_note(SOUND.decode().partition("\n\n")[0] + "\nmore\n", origin(VAULT), KEY)
    assert read_checkpoint(extended, VAULT, [KEY.public], "it").size == 7


def test_a_key_that_does_not_count_signs_in_vain() -> None:
    """P9: the role table says which keys are the auditor's."""
    with pytest.raises(IntegrityError, match="no key that the role table"):
        read_checkpoint(SOUND, VAULT, [SigningKey(Role.AUDITOR, b"x" * 32).public], "it")
    with pytest.raises(IntegrityError, match="no key that the role table"):
        read_checkpoint(SOUND, VAULT, [], "it")


def resigned(text: str) -> bytes:
    """Other words by the right key."""
    return sign_note(text, origin(VAULT), KEY)


ROOT = base64.b64encode(EMPTY).decode()
WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "another size": (lambda: SOUND.replace(b"\n7\n", b"\n8\n", 1), "does not fit"),
    "another root": (lambda: SOUND.replace(b"47DE", b"47DF", 1), "does not fit"),
    "another log": (
        lambda: sign_note(f"resurgam/{bytes(16).hex()}\n7\n{ROOT}\n", origin(VAULT), KEY),
        "it is of the log",
    ),
    "no signature": (lambda: SOUND.partition(b"\n\n")[0] + b"\n", "not the form"),
    "cut off": (lambda: SOUND[:-1], "not the form"),
    "a control character": (lambda: resigned(f"{origin(VAULT)}\n7\n{ROOT}\r\n"), "not the form"),
    "no UTF-8": (lambda: SOUND + b"\xff", "not UTF-8"),
    "endless": (lambda: SOUND * 1000, "more than"),
    "a line that is no signature": (lambda: SOUND + b"hello\n", "no signature"),
    "two lines only": (lambda: resigned(f"{origin(VAULT)}\n7\n"), "three lines"),
    "an empty line": (lambda: resigned(f"{origin(VAULT)}\n7\n{ROOT}\n\nmore\n"), "three lines"),
    "a size with a zero before it": (lambda: resigned(f"{origin(VAULT)}\n07\n{ROOT}\n"), "no number"),
    "a short root": (lambda: resigned(f"{origin(VAULT)}\n7\n{ROOT[:24]}\n"), "no number"),
    "a root in another spelling": (lambda: resigned(f"{origin(VAULT)}\n7\n{ROOT[:-2]}V=\n"), "no number"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_refused(how: str) -> None:
    make, rule = WRONG[how]
    with pytest.raises(IntegrityError, match=f"The note is not to be trusted: .*{rule}"):
        read_checkpoint(make(), VAULT, [KEY.public], "The note")


def test_a_record_is_no_note_and_a_note_no_record() -> None:
    """One key, two forms: a signature over the one is none over the other."""
    with pytest.raises(AssertionError):
        KEY.sign_bare(b"DSSEv1 28 application/vnd.in-toto+json 2 {}")
    text = SOUND.decode().partition("\n\n")[0] + "\n"
    signature = base64.b64decode(SOUND.decode().rpartition(" ")[2])[4:]
    assert KEY.public.verifies_bare(text.encode(), signature)
    assert not KEY.public.verifies("application/vnd.in-toto+json", text.encode(), signature)
