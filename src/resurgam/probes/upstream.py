"""One request to the one declared address of a hosted model, answered whole or not at all.

Scheme, host, port and the beginning of the path are those of the manifest; whatever the request says about a host is left out. No
redirection is followed, no proxy of the environment is used, certificates are verified, and nothing of the answer is kept but
status, content type and body. A deadline is for all of it, however slowly it drips; an answer that is cut short is none.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from resurgam.probes.desk import Answer, Request
from resurgam.probes.replay import OF_THE_HOP

CONNECTING = 10.0  # seconds; nothing can cut this short
_STEP = 64 << 10
_REDIRECTED = (301, 302, 303, 307, 308)


class Unanswered(Exception):
    """The address gave no answer that can be handed on; says why."""


class TooMuch(Exception):
    """The answer has more bytes than were left for it."""


class Upstream:
    """One call. ``cut`` ends it from another thread."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = ""

    def ask(self, request: Request, headers: Mapping[str, str], most: int, seconds: float) -> Answer:
        """The answer to ``request``, put with its own headers and then ``headers``, of at most ``most`` bytes.

        Raises Unanswered and TooMuch.
        """
        named = {name.strip().lower() for name in request.headers.get("connection", "").split(",")}
        left_out = {*OF_THE_HOP, *named, *(name.lower() for name in headers)}
        passed = {name: " ".join(value.split()) for name, value in request.headers.items() if name not in left_out}
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self.cut, ["did not answer in time"])
        timer.start()
        try:
            with self._connected(min(CONNECTING, seconds)) as connection:
                path = self._place.path.rstrip("/") + request.path
                connection.request(request.method, path, body=request.body or None, headers={**passed, **headers})
                response = connection.getresponse()
                _require_plain(response)
                body = _whole(response, most)
                if self._cut:  # a body without a length ends where its connection does
                    raise Unanswered(self._cut)
                kind = " ".join(response.getheader("Content-Type", "").split())
                return Answer(response.status, kind, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unanswered(self._cut or f"could not be asked: {_told(error)}") from error
        finally:
            timer.cancel()

    def cut(self, why: str = "was cut off") -> None:
        """End the call, wherever it is."""
        with self._guard:
            self._cut = self._cut or why
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it has ended by itself
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # below TLS, which is another thread's

    @contextlib.contextmanager
    def _connected(self, seconds: float) -> Iterator[http.client.HTTPConnection]:
        host, secure = self._place.hostname or "", self._place.scheme == "https"
        port = self._place.port or (443 if secure else 80)
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        opened = socket.create_connection((host, port), timeout=seconds)
        try:
            if secure:
                context = ssl.create_default_context()
                opened = context.wrap_socket(opened, server_hostname=host, do_handshake_on_connect=False)
            self._hold(opened)
            opened.settimeout(None)  # the timer ends it
            if isinstance(opened, ssl.SSLSocket):
                opened.do_handshake()
            connection = kind(host, port)
            connection.sock = opened
            with contextlib.closing(connection):
                yield connection
        finally:
            self._hold(None)
            opened.close()

    def _hold(self, opened: socket.socket | None) -> None:
        with self._guard:
            self._socket = opened
            if opened is not None and self._cut:
                raise Unanswered(self._cut)


def _require_plain(response: http.client.HTTPResponse) -> None:
    """Raises Unanswered where what follows is not the answer, or cannot be looked through for what must not be handed on."""
    if response.status in _REDIRECTED:
        raise Unanswered(f"was answered with a redirection ({response.status}), which is not followed")
    if response.status < 200:
        raise Unanswered(f"was answered with {response.status}, which is no answer")
    if response.getheader("Content-Encoding", "identity").strip().lower() != "identity":
        raise Unanswered("was answered in an encoding that was not asked for")


def _whole(response: http.client.HTTPResponse, most: int) -> bytes:
    body = bytearray()
    while piece := response.read(min(_STEP, most - len(body) + 1)):
        body += piece
        if len(body) > most:
            raise TooMuch
    if response.length:  # which http.client does not mind when it reads in pieces
        raise Unanswered("was answered by less than was announced")
    return bytes(body)


def _told(error: Exception) -> str:
    """Why, without what the other side said: it may repeat what it was told."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
