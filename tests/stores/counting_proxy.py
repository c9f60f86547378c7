"""What really goes over the wire to an S3 server: a proxy that counts requests as they are charged for, and passes them on.

The client signs for the proxy's own address, which is passed on as the Host that the server sees, so signatures hold.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from resurgam.vault.requests import Requests

_HOP = {"connection", "keep-alive", "transfer-encoding"}


class Wire:
    """The address of the proxy, and what was counted."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._counted = Requests()

    def count(self, method: str, query: str) -> None:
        """Count one request by what it is charged as: a HEAD as a get."""
        listing = method == "GET" and "list-type" in parse_qs(query, keep_blank_values=True)
        kind = {"PUT": "put", "POST": "put", "DELETE": "delete"}.get(method, "list" if listing else "get")
        with self._lock:
            self._counted += Requests(**{kind: 1})

    def taken(self) -> Requests:
        """What went over the wire since this was last called."""
        with self._lock:
            counted, self._counted = self._counted, Requests()
        return counted


@contextmanager
def counted(server: str) -> Iterator[Wire]:
    """A proxy before the server whose endpoint this is."""
    target = urlsplit(server).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

        def _pass_on(self) -> None:
            wire.count(self.command, urlsplit(self.path).query)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = http.client.HTTPConnection(target, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {*_HOP, "content-length"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(data)
            connection.close()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on  # noqa: N815

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    wire = Wire(f"http://127.0.0.1:{proxy.server_address[1]}")
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(timeout=30)
