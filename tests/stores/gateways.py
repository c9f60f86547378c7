"""Real gateways for tests: processes of their own, on free ports of the loopback, over folders of the test's own.

``Served`` is ``resurgam vault serve`` itself. ``Shared`` is one process for the many tests of an exam: the same application over
the same kind of store, one for each first part of the path. Every role may do everything there, since an exam's names are no
vault's.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from resurgam.clock import SystemClock
from resurgam.gateway.serve import TOKENS
from resurgam.gateway.tokens import Tokens
from resurgam.stores import wire
from resurgam.stores.gateway import GatewayStore
from resurgam.stores.location import Location, parse

READY = 30.0  # seconds

_SHARED = """
import json, os, sys
from resurgam.clock import SystemClock
from resurgam.gateway.account import Account
from resurgam.gateway.app import Gateway
from resurgam.gateway.certificate import fingerprint, make_certificate
from resurgam.gateway.keeping import Keeping
from resurgam.gateway.serve import bind, run
from resurgam.gateway.tokens import Tokens
from resurgam.stores.local import LocalStore
import ssl
folder, port, clock, gateways = sys.argv[1], int(sys.argv[2]), SystemClock(), {}
tokens, account = Tokens(folder + "/tokens.json"), Account(clock)

async def dispatch(scope, receive, send):
    own, _, rest = scope["raw_path"].decode()[1:].partition("/")
    if own not in gateways:
        store = LocalStore.create(f"{folder}/{own}", not_empty=True)
        keeping = Keeping(":memory:", 0.0, clock)
        gateways[own] = Gateway(store, tokens, keeping, account, clock, concurrent=16, may=lambda *_: True)
    await gateways[own](dict(scope, raw_path=b"/" + rest.encode()), receive, send)

certificate, key = make_certificate(folder, "localhost", clock)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
listening = bind("127.0.0.1", port)
url = f"https://127.0.0.1:{listening.getsockname()[1]}"
told = {"url": url, "pin": fingerprint(certificate)}
run(dispatch, listening, context, lambda: print(json.dumps(told), flush=True))
"""


class _Process:
    """A gateway that can be killed and started again on the same port."""

    port = 0
    log_file = ""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.told: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None
        os.makedirs(folder, exist_ok=True)

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def log_path(self) -> str:
        return self.log_file or f"{self.folder}.log"

    def log(self) -> str:
        """What the gateway wrote to standard error."""
        with open(self.log_path, encoding="utf-8") as file:
            return file.read()

    def start(self) -> None:
        """Start, and wait until it listens."""
        with open(self.log_path, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.kill()
            raise AssertionError(self.log())
        self.told = json.loads(line)
        if "url" not in self.told:
            self.kill()
            raise AssertionError(line)
        self.port = int(self.told["url"].partition("?")[0].rpartition(":")[2])

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As a service manager would; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        with suppress(ProcessLookupError):
            self.process.send_signal(how)
        code = self.process.wait(timeout=90)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code


class Served(_Process):
    """``resurgam vault serve FOLDER`` with ``options``."""

    def __init__(self, folder: str, *options: str) -> None:
        super().__init__(folder)
        self.options = options
        self.state = f"{folder}.gateway"
        self.tokens = Tokens(os.path.join(self.state, TOKENS))

    def command(self) -> list[str]:
        own = ["--as-root"] if os.geteuid() == 0 else []
        words = ["vault", "serve", self.folder, "--json", "--port", str(self.port), *own, *self.options]
        return [sys.executable, "-m", "resurgam", *words]

    @property
    def url(self) -> str:
        return self.told["url"]

    def token(self, role: str) -> str:
        """A new one."""
        return self.tokens.add(role, "tests", SystemClock())[1]

    def store(self, role: str, patience: float = 5.0) -> GatewayStore:
        """A client with a token of that role."""
        return client(self.url, self.token(role), patience)


class Shared(_Process):
    """See the module's docstring."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.token = Tokens(f"{folder}/tokens.json").add("root", "tests", SystemClock())[1]

    def command(self) -> list[str]:
        return [sys.executable, "-c", _SHARED, self.folder, str(self.port)]

    def url_of(self, own: str) -> str:
        """The URL of one of its folders."""
        return f"{self.told['url']}/{own}?certificate={self.told['pin']}"


def client(url: str, token: str, patience: float = 5.0) -> GatewayStore:
    """A store that asks with ``token``."""
    place = parse(url)
    assert isinstance(place, Location)
    before = os.environ.get("RESURGAM_VAULT_TOKEN")
    os.environ["RESURGAM_VAULT_TOKEN"] = token
    try:
        return GatewayStore(place, patience=patience)
    finally:
        if before is None:
            del os.environ["RESURGAM_VAULT_TOKEN"]
        else:
            os.environ["RESURGAM_VAULT_TOKEN"] = before


def wait_for(what: object, until: float = 20.0) -> None:
    """Until ``what()`` is true; fails after a deadline."""
    assert callable(what)
    deadline = time.monotonic() + until
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


class Raw:
    """A connection on which a test says what it likes. The certificate is not looked at."""

    opened: ClassVar[list[Raw]] = []

    def __init__(self, server: Served) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self.socket = context.wrap_socket(plain)
        self.opened.append(self)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def upload(self, name: str, token: str, data: bytes, sent: int, length: int | None = None) -> None:
        """The head of an upload of ``data`` and its first ``sent`` bytes."""
        head = [
            f"PUT {wire.OBJECTS}{name} HTTP/1.1",
            "Host: gateway",
            f"Authorization: Bearer {token}",
            f"Content-Length: {len(data) if length is None else length}",
            f"Content-Digest: {wire.digest_of(data)}",
        ]
        self.send("\r\n".join([*head, "", ""]).encode() + data[:sent])

    def ask(self, *lines: str) -> tuple[int, bytes]:
        """A request without a body."""
        self.send("\r\n".join([*lines, "Host: gateway", "", ""]).encode())
        return self.answer()

    def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        got = b""
        while b"\r\n\r\n" not in got:
            piece = self.socket.recv(65536)
            assert piece, "hung up"
            got += piece
        head, _, body = got.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        while len(body) < length:
            body += self.socket.recv(65536)
        return int(head.split()[1]), body

    def close(self) -> None:
        self.socket.close()


def raw(server: Served, *lines: str) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = Raw(server)
    try:
        return connection.ask(*lines)
    finally:
        connection.close()


def in_folder(server: Served) -> list[str]:
    """The files in the vault's folder, waiting ones included, seen past the gateway."""
    root = Path(server.folder)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())
