"""One call to a hosted model, over TLS and over connections that misbehave. Real sockets, in threads of this process."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from resurgam.probes.desk import Answer, Request
from resurgam.probes.upstream import TooMuch, Unanswered, Upstream

ASKED = Request("POST", "/v1/chat", {"content-type": "text/plain", "x-folded": "a\r\n b"}, b"hello")


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """The port at which ``serve`` gets one connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            with contextlib.suppress(OSError):  # the test is over, or the client has gone
                connection, _ = server.accept()
                with connection:
                    serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


def request_on(connection: socket.socket) -> bytes:
    """All of ASKED: who closes before that breaks off what it has said."""
    heard = b""
    while not heard.endswith(ASKED.body):
        heard += connection.recv(65536) or ASKED.body
    return heard


def saying(said: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        request_on(connection)
        connection.sendall(said)

    return serve


def ask(port: int, *, scheme: str = "http", most: int = 1000, seconds: float = 10) -> Answer:
    return Upstream(f"{scheme}://127.0.0.1:{port}/").ask(ASKED, {"Authorization": "Bearer k"}, most, seconds)


def test_a_budget_of_more_seconds_than_a_clock_holds_is_one_without_end() -> None:
    """What a manifest may say must not end in a thread's traceback, and leave the call without its limit."""
    with listening(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as port:
        assert ask(port, seconds=1e19).body == b"ok"


def certificate(folder: Path) -> str:
    """A file with a key, and with a certificate for 127.0.0.1 that it has signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    text, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, text, none) + made.public_bytes(serialization.Encoding.PEM)
    )
    return str(file)


@pytest.mark.parametrize("trusted", [True, False])
def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    """P6: the key goes to the one that the manifest names, and to nobody in between."""
    file, heard = certificate(tmp_path), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inner:
            heard.append(request_on(inner))
            inner.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi")

    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", file)
    with listening(serve) as port:
        if trusted:
            assert ask(port, scheme="https") == Answer(200, "text/plain", b"hi")
            assert heard[0].startswith(b"POST /v1/chat HTTP/1.1\r\n")
            assert b"\r\nx-folded: a b\r\n" in heard[0]
        else:
            with pytest.raises(Unanswered, match=r"could not be asked: .*certificate verify failed"):
                ask(port, scheme="https")
            assert heard == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_who_never_says_a_word_is_given_up(scheme: str) -> None:
    """Not even the TLS handshake: the deadline is for all of it."""
    over = threading.Event()
    with listening(lambda _: over.wait(30)) as port:
        began = time.monotonic()
        with pytest.raises(Unanswered, match="did not answer in time"):
            ask(port, scheme=scheme, seconds=0.5)
        over.set()
    assert time.monotonic() - began < 10


def test_another_thread_can_end_it() -> None:
    over = threading.Event()
    with listening(lambda _: over.wait(30)) as port:
        call = Upstream(f"http://127.0.0.1:{port}")
        cutting = threading.Timer(0.3, call.cut)
        cutting.start()
        with pytest.raises(Unanswered, match="was cut off"):
            call.ask(ASKED, {}, 1000, 60)
        cutting.join()
        over.set()


def test_one_that_was_ended_before_it_began_asks_nobody() -> None:
    with listening(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as port:
        call = Upstream(f"http://127.0.0.1:{port}")
        call.cut()
        with pytest.raises(Unanswered, match="was cut off"):
            call.ask(ASKED, {}, 1000, 60)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "could not be asked: RemoteDisconnected|could not be asked: Remote end closed"),
        (b"no HTTP k3y\r\n\r\n", "could not be asked: BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", "less than was announced"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "IncompleteRead"),
        (b"HTTP/1.1 307 Go\r\nLocation: http://other.example/\r\nContent-Length: 0\r\n\r\n", "redirection"),
        (b"HTTP/1.1 101 Up\r\nUpgrade: other\r\n\r\n", "which is no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nhi", "encoding"),
    ],
)
def test_what_is_no_whole_answer_is_none(said: bytes, why: str) -> None:
    """And what the other side said is not repeated (P12)."""
    with listening(saying(said)) as port, pytest.raises(Unanswered) as caught:
        ask(port)
    assert any(word in str(caught.value) for word in why.split("|")), caught.value
    assert "k3y" not in str(caught.value)


def test_a_body_ends_where_the_connection_does_and_may_have_so_many_bytes() -> None:
    said = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain;\r\n charset=utf-8\r\n\r\n" + b"x" * 1000
    with listening(saying(said)) as port:
        assert ask(port) == Answer(200, "text/plain; charset=utf-8", b"x" * 1000)
    with listening(saying(said)) as port, pytest.raises(TooMuch):
        ask(port, most=999)
