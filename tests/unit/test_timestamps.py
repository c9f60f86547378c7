"""Timestamps by a real authority: openssl's, behind a real server, on this host."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from resurgam.errors import IntegrityError, NotFound, Unreachable, UsageError
from resurgam.vault.timestamps import stamp, verify
from resurgam.vault.trail import Kind
from tests.audited import Audited

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl plays the authority")
NAME = "checkpoints/0000000005"
CONFIG = """\
[tsa]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
default_policy = 1.2.3.4.1
digests = sha256
signer_digest = sha256
"""


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    """One of an authority's two certificates: its root, or the one that stamps."""
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return made.sign(by, hashes.SHA256())


@dataclass
class Authority:
    """A time-stamping authority in a folder; ``asked`` are the requests that reached it."""

    folder: Path
    asked: list[bytes] = field(default_factory=list)
    replay: bytes = b""  # what it answers instead

    def __post_init__(self) -> None:
        root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        for name, made in (
            ("ca.pem", certificate("root", root, "root", root, ca=True)),
            ("tsa.pem", certificate("tsa", own, "root", root, ca=False)),
        ):
            (self.folder / name).write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (self.folder / "tsa.key").write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (self.folder / "serial").write_text("01\n")
        (self.folder / "tsa.cnf").write_text(CONFIG.format(folder=self.folder))

    @property
    def authorities(self) -> bytes:
        return (self.folder / "ca.pem").read_bytes()

    def answer(self, request: bytes) -> bytes:
        self.asked.append(request)
        (self.folder / "request").write_bytes(request)
        command = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-section", "tsa", "-queryfile", "request"]
        subprocess.run([*command, "-out", "reply"], cwd=self.folder, check=True, capture_output=True)
        return self.replay or (self.folder / "reply").read_bytes()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "tsa"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def url(authority: Authority) -> Iterator[str]:
    """Where it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            answer = authority.answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def world(tmp_path: Path) -> Audited:
    made = Audited(str(tmp_path / "world"))
    made.sign()
    return made


def test_a_checkpoint_has_its_time_from_a_third_party(world: Audited, authority: Authority, url: str) -> None:
    """Stored once beside it (P2), checked by anybody's openssl; no key of the vault is needed, and asked is once."""
    repository = world.repository(keys=world.keys_with("trust.json"))
    stamped = stamp(repository, url, authority.authorities)
    assert stamped.checkpoint == NAME
    assert abs(datetime.fromisoformat(stamped.time) - datetime.now(UTC)) < timedelta(minutes=5)
    assert stamp(repository, url, authority.authorities) == stamped
    assert len(authority.asked) == 1
    assert verify(repository, authority.authorities) == ([stamped], [])
    assert world.audit().ok, "a timestamp is no checkpoint"
    for name, data in (("note", world.store.get(NAME)), ("note.tsr", world.store.get(f"{NAME}.tsr"))):
        (authority.folder / name).write_bytes(data)
    command = ["openssl", "ts", "-verify", "-in", "note.tsr", "-data", "note", "-CAfile", "ca.pem"]
    done = subprocess.run(command, cwd=authority.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_the_digest_leaves_the_vault(world: Audited, authority: Authority, url: str) -> None:
    """The authority learns neither the vault nor how long its log is."""
    stamp(world.repository(), url, authority.authorities)
    (asked,) = authority.asked
    assert world.repository().vault.hex().encode() not in asked
    assert len(asked) < 100


def test_what_does_not_hold_is_not_stored(world: Audited, authority: Authority, url: str, tmp_path: Path) -> None:
    """P12: another authority's word, an old answer, rubbish."""
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(IntegrityError, match="no timestamp of that checkpoint"):
        stamp(world.repository(), url, Authority(other).authorities)
    old = (authority.folder / "reply").read_bytes()
    for answer in (old, b"hello", b""):
        authority.replay = answer or b"\x30\x00"
        with pytest.raises(IntegrityError):
            stamp(world.repository(), url, authority.authorities)
    assert not [name for name in world.names("checkpoints/") if name.endswith(".tsr")]


def test_a_timestamp_of_another_checkpoint_is_found(world: Audited, authority: Authority, url: str) -> None:
    """Put beside another one, or of another authority."""
    stamp(world.repository(), url, authority.authorities)
    world.judge(world.two)
    name, _ = world.sign()
    world.store.put(f"{name}.tsr", world.store.get(f"{NAME}.tsr"))
    good, bad = verify(world.repository(), authority.authorities)
    assert [one.checkpoint for one in good] == [NAME]
    assert [(one.kind, one.object) for one in bad] == [(Kind.NOT_BELIEVED, f"{name}.tsr")]


def test_who_does_not_answer_and_what_is_no_address(world: Audited, authority: Authority, tmp_path: Path) -> None:
    """P12: transient, and nothing was changed; a checkpoint must be there first."""
    with pytest.raises(Unreachable):
        stamp(world.repository(), "http://127.0.0.1:1/", authority.authorities)
    with pytest.raises(UsageError, match="not the address"):
        stamp(world.repository(), "file:///etc/passwd", authority.authorities)
    with pytest.raises(UsageError, match="certificates"):
        stamp_stored(world)
    with pytest.raises(NotFound, match="no checkpoint"):
        stamp(Audited(str(tmp_path / "new")).repository(), "http://127.0.0.1:1/", authority.authorities)


def stamp_stored(world: Audited) -> None:
    """Where one is stored, certificates are looked at before anybody is asked."""
    world.store.put(f"{NAME}.tsr", b"x")
    verify(world.repository(), b"no certificate")
