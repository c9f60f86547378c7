"""The bytes of keys, sealed objects and records, fixed for ever: what is written today must be readable in every release.

The vectors hold inputs and the exact bytes. Each is checked twice: our code makes and reads it, and a reader written here
with nothing but the standard libraries named in ``docs/format.md`` comes to the same.
"""

from __future__ import annotations

import base64
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pyrage  # type: ignore[import-untyped]
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from resurgam.vault import records
from resurgam.vault.age import Identity
from resurgam.vault.keys import IndexSecret, unwrap_index, unwrap_session
from resurgam.vault.records import RecordType, Subject, make_record, read_record, read_roles, sign_roles
from resurgam.vault.roles import role_table
from resurgam.vault.signing import Role, SigningKey

VECTORS = Path(__file__).parent / "vectors"
Vector = dict[str, Any]


def vector(name: str) -> Vector:
    loaded: Vector = json.loads((VECTORS / f"{name}.json").read_text())
    return loaded


KEYS = vector("keys")
RECORDS = vector("records")
VAULT = bytes.fromhex(KEYS["vault"])
SECRET = bytes.fromhex(KEYS["index_secret"])


def derived(purpose: str, subject: bytes) -> bytes:
    """The derivation as the format tells it."""
    return blake3(SECRET + VAULT + subject, derive_key_context=f"resurgam vault v1 {purpose}").digest()


def signing_keys() -> list[SigningKey]:
    return [SigningKey(role, bytes.fromhex(seed)) for role, seed in RECORDS["seeds"].items()]


@pytest.mark.parametrize("domain", KEYS["domains"])
def test_derived_keys_stay(domain: str) -> None:
    """Another derivation would orphan every chunk that is stored."""
    expected = KEYS["domains"][domain]
    index = IndexSecret(VAULT, SECRET)
    assert index.chunk_id_key(domain).hex() == expected["chunk_id_key"] == derived("chunk id", domain.encode()).hex()
    assert index.row_digest_key(domain).hex() == expected["row_digest_key"]
    assert index.row_digest_key(domain) == derived("row digest", domain.encode())
    assert index.cut_seed(domain) == expected["cut_seed"]
    assert index.cut_seed(domain) == int.from_bytes(derived("cut seed", domain.encode())[:8], "big") >> 1


def test_list_key_stays() -> None:
    chunk = bytes.fromhex(KEYS["list_key"]["chunk"])
    assert IndexSecret(VAULT, SECRET).list_key(chunk).hex() == KEYS["list_key"]["key"]
    assert derived("chunk list", chunk).hex() == KEYS["list_key"]["key"]


def test_sealed_object_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes from the same salt, and a reader without our code opens them."""
    case = KEYS["sealed"]
    kind, plain, sealed = case["kind"], bytes.fromhex(case["plain"]), bytes.fromhex(case["sealed"])
    assert IndexSecret(VAULT, SECRET).open(kind, sealed) == plain
    monkeypatch.setattr(os, "urandom", lambda size: bytes.fromhex(case["salt"])[:size])
    assert IndexSecret(VAULT, SECRET).seal(kind, plain).hex() == case["sealed"]

    header, salt = sealed[:48], sealed[16:48]
    assert (header[:8], int.from_bytes(header[8:10], "little"), salt.hex()) == (b"RSGMSEAL", 1, case["salt"])
    cipher = AESGCM(derived("seal", salt + kind.encode()))
    assert cipher.decrypt(bytes(12), sealed[48:], header + VAULT + kind.encode()) == plain


def test_wrapped_keys_stay() -> None:
    """Files that were wrapped once open now, with our code and with age alone (P3)."""
    identity = Identity(KEYS["identity"])
    session = bytes.fromhex(KEYS["session"]["id"])
    blob = base64.b64decode(KEYS["session"]["age"])
    opened = unwrap_session(blob, VAULT, session, [identity])
    assert opened.domain == KEYS["session"]["domain"]
    frame = KEYS["session"]["frame"]
    sealed, nonce = bytes.fromhex(frame["sealed"]), bytes.fromhex(frame["nonce"])
    assert opened.cipher.decrypt(nonce, sealed, b"").hex() == frame["plain"]
    index = unwrap_index(base64.b64decode(KEYS["wrapped_index"]), VAULT, [identity])
    assert index.secret_bytes() == SECRET

    told = json.loads(pyrage.decrypt(blob, [pyrage.x25519.Identity.from_str(KEYS["identity"])]))
    assert told.keys() == {"format", "vault", "domain", "session", "key"}
    cipher = AESGCM(base64.b64decode(told["key"]))
    assert cipher.decrypt(nonce, sealed, b"").hex() == frame["plain"]


def test_role_table_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "__version__", RECORDS["resurgam"])
    case = RECORDS["roles"]
    domains = {domain: tuple(recipients) for domain, recipients in case["domains"].items()}
    table = role_table(VAULT, case["serial"], signing_keys(), domains)
    root = signing_keys()[0]
    made = datetime.fromisoformat(RECORDS["made"])
    assert sign_roles(table, root, made).decode() == case["envelope"]
    assert read_roles(case["envelope"].encode(), VAULT, case["fingerprint"], name=case["name"]) == table
    assert blake3(root.public.raw).hexdigest() == case["fingerprint"]


@pytest.mark.parametrize("case", RECORDS["records"], ids=lambda case: case["type"])
def test_record_stays(case: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ed25519 and our JSON are deterministic, so a record's bytes are, too."""
    monkeypatch.setattr(records, "__version__", RECORDS["resurgam"])
    key = next(key for key in signing_keys() if key.role == case["by"])
    subject = Subject(case["subject"]["name"], case["subject"]["digest"])
    made = datetime.fromisoformat(RECORDS["made"])
    written = make_record(RecordType(case["type"]), subject, case["body"], key, vault=VAULT, made=made)
    assert written.decode() == case["envelope"]
    table = role_table(VAULT, 1, signing_keys(), {"default": ("age1",)})
    read = read_record(case["envelope"].encode(), table, VAULT)
    assert (read.type, read.subject, read.by) == (case["type"], subject, Role(case["by"]))
    assert json.loads(read.body) == case["body"]


@pytest.mark.parametrize("case", RECORDS["records"], ids=lambda case: case["type"])
def test_record_is_verified_without_our_code(case: Vector) -> None:
    """DSSE v1 and in-toto Statement v1, as their specifications tell them."""
    envelope = json.loads(case["envelope"])
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    (signature,) = envelope["signatures"]
    public = bytes.fromhex(RECORDS["public"][case["by"]])
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(signature["sig"]), signed)
    assert signature["keyid"] == blake3(public).hexdigest()[:16]
    statement = json.loads(payload)
    assert kind == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == f"urn:resurgam:{case['type']}:v1"
    assert statement["predicate"]["vault"] == VAULT.hex()
    assert statement["predicate"]["body"] == case["body"]
    if case["type"] in records.NAMES_ITSELF:
        body = json.dumps(case["body"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert statement["subject"][0]["digest"]["blake3"] == blake3(body).hexdigest()
