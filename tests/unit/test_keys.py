"""Keys: what each opens, what it does not, and that none of them shows itself."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import subprocess
import threading
from itertools import pairwise
from shutil import which

import pyrage  # type: ignore[import-untyped]
import pytest
from blake3 import blake3

from resurgam.errors import Denied, IntegrityError, LimitExceeded, NewerFormat
from resurgam.vault import keys
from resurgam.vault.age import Identity, unwrap, wrap
from resurgam.vault.keys import (
    DEFAULT_DOMAIN,
    IndexSecret,
    new_session,
    session_object,
    unwrap_index,
    unwrap_session,
)
from resurgam.vault.signing import Role, SigningKey

VAULT = bytes(range(16))
OTHER = bytes(range(1, 17))


@pytest.fixture
def index() -> IndexSecret:
    return IndexSecret.generate(VAULT)


def test_every_derived_key_is_its_own(index: IndexSecret) -> None:
    """Purposes, domains, vaults and secrets never share a key; the same question has the same answer."""
    derived = [
        index.chunk_id_key("default"),
        index.chunk_id_key("private"),
        index.row_digest_key("default"),
        index.row_digest_key("private"),
        index.list_key(b"default"),
        IndexSecret(OTHER, index.secret_bytes()).chunk_id_key("default"),
        IndexSecret.generate(VAULT).chunk_id_key("default"),
        index.secret_bytes(),
    ]
    assert len(set(derived)) == len(derived)
    assert all(len(key) == 32 for key in derived)
    assert index.chunk_id_key("default") == derived[0]
    assert index.cut_seed("default") != index.cut_seed("private")
    assert all(0 < index.cut_seed(str(n)) < 2**63 for n in range(200))


def test_chunk_id_key_is_the_documented_derivation(index: IndexSecret) -> None:
    """The format can be read without our code: the derivation is BLAKE3's own derive_key over documented bytes."""
    material = index.secret_bytes() + VAULT + b"default"
    assert index.chunk_id_key("default") == blake3(material, derive_key_context="resurgam vault v1 chunk id").digest()


@pytest.mark.parametrize("plain", [b"", b"x", b"segment" * 5000])
def test_sealed_object_opens_again(index: IndexSecret, plain: bytes) -> None:
    sealed = index.seal("segment", plain)
    assert index.open("segment", sealed) == plain
    assert index.open("segment", memoryview(sealed)) == plain
    assert index.seal("segment", plain) != sealed, "each object has its own salt, so keys are used once"


def test_sealed_object_means_one_thing(index: IndexSecret) -> None:
    """Design 4: an object of another kind, vault or secret is refused, even though its bytes are whole."""
    sealed = index.seal("segment", b"plain")
    for secret, kind in [
        (index, "trailer"),
        (IndexSecret(OTHER, index.secret_bytes()), "segment"),
        (IndexSecret.generate(VAULT), "segment"),
    ]:
        with pytest.raises(IntegrityError):
            secret.open(kind, sealed)


def test_no_bit_of_a_sealed_object_can_be_changed(index: IndexSecret) -> None:
    """Every byte flipped, and every cut: IntegrityError, or NewerFormat where the format's number says so."""
    sealed = index.seal("segment", b"plain")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 0x40
        with pytest.raises((IntegrityError, NewerFormat)):
            index.open("segment", bytes(changed))
        with pytest.raises(IntegrityError):
            index.open("segment", sealed[:place])


def test_index_secret_comes_back_for_readers_only(index: IndexSecret) -> None:
    """P3: vault and recovery key are enough. P9: others get nothing."""
    reader, recovery, stranger = Identity.generate(), Identity.generate(), Identity.generate()
    blob = index.wrapped([reader.recipient, recovery.recipient])
    for identity in (reader, recovery):
        found = unwrap_index(blob, VAULT, [stranger, identity])
        assert found.secret_bytes() == index.secret_bytes()
    with pytest.raises(Denied) as denied:
        unwrap_index(blob, VAULT, [stranger])
    assert stranger.recipient in denied.value.message
    with pytest.raises(Denied):
        unwrap_index(blob, VAULT, [])
    with pytest.raises(IntegrityError, match="another vault"):
        unwrap_index(blob, OTHER, [reader])


def test_writer_encrypts_and_reader_decrypts() -> None:
    """P9: the writer keeps no identity; the wrapped object is what a reader needs."""
    reader = Identity.generate()
    session, blob = new_session(VAULT, "private", [reader.recipient])
    nonce = session.next_nonce()
    sealed = session.cipher.encrypt(nonce, b"a customer", b"meaning")
    opened = unwrap_session(blob, VAULT, session.id, [reader])
    assert opened.cipher.decrypt(nonce, sealed, b"meaning") == b"a customer"
    assert (opened.id, opened.domain) == (session.id, "private")
    assert session_object(session.id) == f"keys/session-{session.id.hex()}"


def test_reader_has_no_nonces() -> None:
    """A key read back must not encrypt: it would repeat its writer's nonces."""
    reader = Identity.generate()
    session, blob = new_session(VAULT, DEFAULT_DOMAIN, [reader.recipient])
    assert not hasattr(unwrap_session(blob, VAULT, session.id, [reader]), "next_nonce")


def test_session_key_under_another_name_is_refused() -> None:
    """Swapping the key objects of two sessions or vaults is found by what the envelope says inside."""
    reader = Identity.generate()
    session, blob = new_session(VAULT, DEFAULT_DOMAIN, [reader.recipient])
    with pytest.raises(IntegrityError, match="holds the key of session"):
        unwrap_session(blob, VAULT, bytes(16), [reader])
    with pytest.raises(IntegrityError, match="of vault"):
        unwrap_session(blob, OTHER, session.id, [reader])


def test_newer_envelope_is_not_guessed_at() -> None:
    reader = Identity.generate()
    blob = wrap(json.dumps({"format": 2, "whatever": 1}).encode(), [reader.recipient])
    with pytest.raises(NewerFormat):
        unwrap_session(blob, VAULT, bytes(16), [reader])
    with pytest.raises(NewerFormat):
        unwrap_index(blob, VAULT, [reader])


def test_nonces_never_meet_across_threads() -> None:
    session, _ = new_session(VAULT, DEFAULT_DOMAIN, [Identity.generate().recipient])
    lots: list[list[bytes]] = [[] for _ in range(8)]

    def take(into: list[bytes]) -> None:
        into.extend(session.next_nonce() for _ in range(2000))

    threads = [threading.Thread(target=take, args=(lot,)) for lot in lots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    nonces = [nonce for lot in lots for nonce in lot]
    assert len(set(nonces)) == 16000
    assert {len(nonce) for nonce in nonces} == {12}
    assert all(a < b for lot in lots for a, b in pairwise(lot))


def test_session_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last nonce is handed out, the one after it never is."""
    monkeypatch.setattr(keys, "NONCES", 3)
    session, _ = new_session(VAULT, DEFAULT_DOMAIN, [Identity.generate().recipient])
    assert [session.next_nonce()[-1] for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(LimitExceeded) as spent:
            session.next_nonce()
        assert spent.value.next_step


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_session_does_not_survive_a_fork() -> None:
    """Two processes with one counter would encrypt under the same nonces."""
    session, _ = new_session(VAULT, DEFAULT_DOMAIN, [Identity.generate().recipient])
    child = os.fork()
    if child == 0:
        try:
            session.next_nonce()
        except AssertionError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert session.next_nonce() == bytes(12)


def test_age_files_are_plain_age() -> None:
    """What we wrap, age opens with nothing of ours, and the other way round."""
    identity = Identity.generate()
    plain = pyrage.x25519.Identity.from_str(identity.secret_text())
    assert pyrage.decrypt(wrap(b"key", [identity.recipient]), [plain]) == b"key"
    theirs = pyrage.encrypt(b"key", [pyrage.x25519.Recipient.from_str(identity.recipient)])
    assert unwrap(theirs, [identity], what="it") == b"key"
    assert wrap(b"key", [identity.recipient]).startswith(b"age-encryption.org/v1\n")


@pytest.mark.skipif(which("age") is None and which("rage") is None, reason="no age tool on this machine")
def test_the_age_tool_opens_a_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    """P3: the standard tool and a recovery key are enough to get a session's key."""
    folder = tmp_path_factory.mktemp("age")
    identity = Identity.generate()
    _, blob = new_session(VAULT, DEFAULT_DOMAIN, [identity.recipient])
    (folder / "id").write_text(identity.secret_text())
    (folder / "blob").write_bytes(blob)
    tool = which("age") or which("rage")
    assert tool
    done = subprocess.run([tool, "-d", "-i", folder / "id", folder / "blob"], capture_output=True, check=True)
    assert json.loads(done.stdout)["vault"] == VAULT.hex()


def test_damaged_age_file_is_never_opened() -> None:
    """Each byte flipped: refused. Only what could be somebody else's line is Denied, and then the message says both."""
    identity = Identity.generate()
    blob = wrap(b"key", [identity.recipient])
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1
        with pytest.raises((IntegrityError, Denied)) as refused:
            unwrap(bytes(changed), [identity], what="keys/x")
        assert "keys/x" in refused.value.message
        if isinstance(refused.value, Denied):
            assert "damaged" in refused.value.message
    for damaged in (b"", b"age-encryption.org/v1\n", blob[:-1], blob + b"x"):
        with pytest.raises(IntegrityError):
            unwrap(damaged, [identity], what="keys/x")


def test_bad_recipient_is_refused() -> None:
    with pytest.raises(IntegrityError, match="recipient"):
        wrap(b"key", ["age1notone"])


def forms_of(secret: bytes) -> list[str]:
    """How a secret could stand in a text."""
    return [secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]]


def test_no_secret_shows_itself(index: IndexSecret) -> None:
    """P12: not printed, not formatted, not pickled, not copied."""
    seed = bytes(range(32, 64))
    signer = SigningKey(Role.CAPTURE, seed)
    identity = Identity.generate()
    session, blob = new_session(VAULT, DEFAULT_DOMAIN, [identity.recipient])
    key = json.loads(unwrap(blob, [identity], what="it"))["key"]
    secrets = [*forms_of(seed), *forms_of(index.secret_bytes()), key, identity.secret_text()]
    secrets += forms_of(base64.b64decode(key))
    for thing in (signer, index, identity, session, unwrap_session(blob, VAULT, session.id, [identity])):
        shown = f"{thing!r} {thing} {[thing]}"
        assert not [secret for secret in secrets if secret in shown]
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="secret"):
                copied(thing)


def test_no_secret_in_the_errors_of_envelopes() -> None:
    """A damaged envelope is described without repeating what is in it."""
    identity = Identity.generate()
    key = bytes(range(32))
    text = {"format": 1, "vault": OTHER.hex(), "domain": "d", "session": "00", "key": base64.b64encode(key).decode()}
    for payload in (text, text | {"vault": 5}, text | {"key": base64.b64encode(key).decode()[:-3]}):
        with pytest.raises(IntegrityError) as error:
            unwrap_session(wrap(json.dumps(payload).encode(), [identity.recipient]), VAULT, bytes(16), [identity])
        told = f"{error.value} {error.value!r} {error.value.__cause__!r}"
        assert not [form for form in forms_of(key) if form[:20] in told]


def test_public_key_verifies_only_its_own_kind() -> None:
    """A signature over one kind of thing is none over another, and none under another key."""
    signer = SigningKey.generate(Role.CAPTURE)
    signature = signer.sign("application/x-a", b"message")
    assert signer.public.verifies("application/x-a", b"message", signature)
    assert not signer.public.verifies("application/x-b", b"message", signature)
    assert not signer.public.verifies("application/x-a", b"messagf", signature)
    assert not signer.public.verifies("application/x-a", b"message", signature[:-1])
    assert not SigningKey.generate(Role.CAPTURE).public.verifies("application/x-a", b"message", signature)
    assert signer.key_id == blake3(signer.public.raw).hexdigest()[:16]
