"""Timestamps of checkpoints: a third party's word for when a checkpoint was there already (RFC 3161).

Times in records are those of their writers' clocks; a time-stamping authority (TSA) signs one that none of them can turn back. It
signs the SHA-256 of the checkpoint's bytes, and nothing else leaves the vault. The response is stored beside it, create-only::

    checkpoints/<10 digits>.tsr

Anybody can check it without Resurgam: ``openssl ts -verify -in N.tsr -data N -CAfile ca.pem``. ASN.1 and signatures are left
to the library rfc3161-client (extra ``timestamps``).
"""

from __future__ import annotations

import importlib
import importlib.util
import urllib.request
from http.client import HTTPException
from types import ModuleType
from typing import Final

import msgspec
from cryptography import x509

from resurgam.errors import IntegrityError, MissingExtra, NotFound, Unreachable, UsageError
from resurgam.stores.base import AlreadyThere, put_once
from resurgam.vault.checkpoints import PREFIX
from resurgam.vault.heads import stored
from resurgam.vault.records import timestamp
from resurgam.vault.repository import Repository
from resurgam.vault.signing import broken
from resurgam.vault.trail import Finding, Kind

SUFFIX: Final = ".tsr"
TIMEOUT: Final = 30.0  # seconds for an answer
MAX_RESPONSE: Final = 64 << 10


class Stamped(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that was there at ``time`` (RFC 3339), says the authority."""

    checkpoint: str
    time: str


def stamp(repository: Repository, url: str, authorities: bytes) -> Stamped:
    """Have the authority at ``url`` sign the largest checkpoint, and store what it says, once it was verified against the
    certificates of ``authorities`` (PEM). Where that was done before, nothing is asked.

    Raises NotFound without a checkpoint, Unreachable, IntegrityError for an answer that does not hold, MissingExtra.
    """
    heads, _ = stored(repository)
    if not heads:
        raise NotFound(
            "There is no checkpoint to have a timestamp for.",
            untouched="Nobody was asked.",
            next_step="Have the auditor run `resurgam audit checkpoint` first.",
        )
    name = max(heads, key=lambda head: head.size).whose
    note = repository.store.get(name)
    try:
        return Stamped(checkpoint=name, time=_verified(repository.store.get(name + SUFFIX), note, authorities, name))
    except NotFound:
        answer, nonce = _asked(url, note)
    time = _verified(answer, note, authorities, f"The answer of {url}", nonce)
    try:
        put_once(repository.store, name + SUFFIX, answer)
    except AlreadyThere:  # somebody was faster: theirs will do
        time = _verified(repository.store.get(name + SUFFIX), note, authorities, name)
    return Stamped(checkpoint=name, time=time)


def verify(repository: Repository, authorities: bytes) -> tuple[list[Stamped], list[Finding]]:
    """Every timestamp that holds, and those that do not. Raises MissingExtra."""
    good, bad = [], []
    for entry in repository.store.list(PREFIX):
        if not entry.name.endswith(SUFFIX):
            continue
        name = entry.name.removesuffix(SUFFIX)
        try:
            time = _verified(repository.store.get(entry.name), repository.store.get(name), authorities, entry.name)
        except (IntegrityError, NotFound) as error:
            bad.append(Finding(kind=Kind.NOT_BELIEVED, object=entry.name, what=error.message))
        else:
            good.append(Stamped(checkpoint=name, time=time))
    return good, bad


def _asked(url: str, note: bytes) -> tuple[bytes, int | None]:
    """What the authority answers, and the nonce that must stand in it."""
    if not url.startswith(("https://", "http://")):
        raise UsageError(
            f"{url!r} is not the address of a time-stamping authority.",
            untouched="Nobody was asked.",
            next_step="Give one that begins with https:// or http://.",
        )
    library = _library()
    wanted = library.TimestampRequestBuilder().data(note).hash_algorithm(library.HashAlgorithm.SHA256).build()
    request = urllib.request.Request(  # noqa: S310  the scheme was looked at
        url, wanted.as_bytes(), {"Content-Type": "application/timestamp-query"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            return response.read(MAX_RESPONSE), wanted.nonce
    except (OSError, HTTPException) as error:  # a URLError is an OSError
        raise Unreachable(
            f"The time-stamping authority {url} did not answer: {error}.",
            untouched="The checkpoint stands, without a timestamp.",
            next_step="Try again later, or ask another.",
        ) from error


def _verified(answer: bytes, note: bytes, authorities: bytes, what: str, nonce: int | None = None) -> str:
    """The time that ``answer`` gives ``note``, when one of ``authorities`` stands behind it. Raises IntegrityError."""
    library = _library()
    verifier = library.VerifierBuilder(roots=_certificates(authorities), nonce=nonce).build()
    try:
        response = library.decode_timestamp_response(answer)
        verifier.verify_message(response, note)
        return timestamp(response.tst_info.gen_time)
    except (library.VerificationError, ValueError) as error:
        raise broken(what, f"it is no timestamp of that checkpoint by these authorities ({error})") from error


def _certificates(authorities: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(authorities)
    except ValueError as error:
        raise UsageError(
            "The certificates of the time-stamping authority cannot be read.",
            untouched="Nothing was done.",
            next_step="Give --tsa-ca a file of certificates in PEM, as the authority publishes it.",
        ) from error


def _library() -> ModuleType:
    """The library that speaks ASN.1, loaded when it is first needed. Raises MissingExtra."""
    if importlib.util.find_spec("rfc3161_client") is None:
        raise MissingExtra(
            "Timestamps need rfc3161-client, which is not installed.",
            untouched="Nobody was asked, and nothing was verified.",
            next_step="Run: python -m pip install 'resurgam[timestamps]'.",
        )
    return importlib.import_module("rfc3161_client")
