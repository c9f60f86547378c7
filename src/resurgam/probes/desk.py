"""The desk at which a hosted model's requests arrive: a small HTTP/1.1 server that takes one whole request at a time and has it
answered by whoever sits there, ``replay_child`` inside the sandbox or ``proxy`` outside.

It believes nothing that a client says about itself. A body has one length, in digits or in chunks, else the request is refused and
the connection closed (RFC 9112, 6.3: two lengths are how requests are smuggled). Every method arrives, CONNECT too, so that what is
refused is counted and not only turned away. An answer is given whole, with nothing but status, content type and length: an event
stream as one text of its events.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
JSON = "application/json"
LARGEST = 32 << 20  # bytes of a request's body
AT_ONCE = 64  # connections; further ones are closed, so that a client cannot fill this process with threads
_TURNED_AWAY = ("HEAD", "OPTIONS", "CONNECT", "TRACE")


class Request(NamedTuple):
    """One request as it was put. Names of ``headers`` are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What a client is told: all of it."""

    status: int
    kind: str
    body: bytes


class Tally:
    """What one command asked of one hosted model: counts by word, and the first request that got no answer."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first = ""

    def count(self, word: str, n: int = 1) -> None:
        """Add ``n`` under ``word``."""
        self.counts[word] = self.counts.get(word, 0) + n

    def without(self, word: str, status: int, request: Request, path: str, why: str) -> Answer:
        """Count ``request`` under ``word``; the answer that says ``why``, ``path`` being its path without credentials."""
        self.count(word)
        what = f"{request.method} {path}"[:200]
        self.first = self.first or f"{what} {why}"
        said = {"error": {"type": f"resurgam_{word}", "message": f"{what} {why}"}}
        return Answer(status, JSON, json.dumps(said).encode())


class Clerk(Protocol):
    """Who answers; asked one request at a time."""

    def answer(self, request: Request) -> Answer:
        """Raises nothing for what a request or the world holds."""
        ...

    def refuse(self, request: Request, why: str) -> Answer:
        """The answer to a request that could not be read."""
        ...

    def leave(self) -> None:
        """Stop what is being answered: nobody waits for it any more."""
        ...


def listening() -> socket.socket:
    """A socket that listens on the loopback, at a free port."""
    return socket.create_server(("127.0.0.1", 0), backlog=AT_ONCE)


@contextlib.contextmanager
def served(clerk: Clerk, listener: socket.socket) -> Iterator[str]:
    """Serve ``listener`` while the context lasts, at the address that is yielded. At its end nothing is asked any more."""
    server = _Server(clerk, listener)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.closing = True
        clerk.leave()
        server.shutdown()
        thread.join()
        server.server_close()
        server.hang_up()
        with server.turn:  # who was being answered is done
            pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, clerk: Clerk, listener: socket.socket) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.clerk = clerk
        self.closing = False
        self.turn = threading.Lock()  # one at a time, so that bodies do not pile up and a budget is counted exactly
        self._room = threading.BoundedSemaphore(AT_ONCE)
        self._connections: set[socket.socket] = set()

    def hang_up(self) -> None:
        """End all connections: a client that outlives the command must not keep us waiting."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # it has ended by itself
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.discard(request)
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone needs no answer; a mistake of ours is shown as one."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            headers[name.lower()] = ", ".join(filter(None, [headers.get(name.lower()), value]))
        with self.server.turn:
            if self.server.closing:
                self.close_connection = True
                return
            bare = Request(self.command, self.path, headers, b"")
            try:
                request = bare._replace(body=self._body())
            except ValueError as error:
                self.close_connection = True  # where the next request begins is not known
                if self.server.closing:
                    return
                self._say(self.server.clerk.refuse(bare, str(error)))
                return
            self._say(self.server.clerk.answer(request))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What was not even a request: refused and counted like any other."""
        self.close_connection = True
        method, path = getattr(self, "command", None) or "?", getattr(self, "path", None) or "?"
        with self.server.turn:
            self._say(self.server.clerk.refuse(Request(method, path, {}, b""), message or "cannot be read"))

    def _body(self) -> bytes:
        """Raises ValueError where it has no length that can be trusted, or too much of one."""
        lengths = self.headers.get_all("content-length") or []
        codings = self.headers.get_all("transfer-encoding") or []
        if codings and (lengths or [coding.strip().lower() for coding in codings] != ["chunked"]):
            raise ValueError("has a body of two lengths")
        if codings:
            return b"".join(self._chunks())
        if len(lengths) > 1 or not all(re.fullmatch(r"[0-9]{1,12}", length.strip()) for length in lengths):
            raise ValueError("has a body of no clear length")
        return self._exactly(int(lengths[0]) if lengths else 0)

    def _chunks(self) -> Iterator[bytes]:
        total = 0
        while True:
            size = re.match(rb"([0-9a-fA-F]{1,8})[;\r\n]", self.rfile.readline(1000))
            if not size:
                raise ValueError("has a body whose chunks cannot be read")
            total += int(size[1], 16)
            if not int(size[1], 16):
                break
            yield self._exactly(int(size[1], 16), total)
            self.rfile.readline(1000)
        while self.rfile.readline(1000).strip():
            pass  # trailers

    def _exactly(self, size: int, total: int = 0) -> bytes:
        if max(size, total) > LARGEST:
            raise ValueError(f"has a body of more than {LARGEST >> 20} MiB")
        body = self.rfile.read(size)
        if len(body) < size:
            raise ValueError("ended in the middle of its body")
        return body

    def _say(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: standard error is the command's."""


for _method in (*METHODS, *_TURNED_AWAY):
    setattr(_Handler, f"do_{_method}", _Handler._serve)
