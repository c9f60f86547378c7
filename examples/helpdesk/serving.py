"""The desk over HTTP: ``POST /ask`` with ``{"question": …, "customer": 7, "thread": "…"}``, ``GET /health``.

One desk answers one question at a time. It is opened at the first, let go when maintenance begins, so that a fence does not wait
for the next question, and opened anew as soon as maintenance ends. The process stays, with all its libraries loaded, so that
clients wait for little more than the switch itself.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from examples.handbook.gate import PAUSE, Closed, client, under_maintenance

from . import desk
from .desk import Desk, Waiting
from .load import barrier_of
from .places import places_in

LARGEST = 1 << 16  # bytes of a question


class Server(ThreadingHTTPServer):
    """Serves the system in ``home`` on ``port`` of the loopback (0: any that is free)."""

    daemon_threads = True

    def __init__(self, home: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.home = home
        self._lock = Lock()
        self._desk: Desk | None = None
        self._held = ExitStack()
        self._fenced = False

    def ask(self, question: str, customer: int, thread: str) -> dict[str, Any]:
        """One question. Raises Closed, Waiting, and what ``desk.opened`` raises."""
        with self._lock:
            if under_maintenance(self.home):  # it may stand since we began to wait for our turn
                self._let_go()
            return self._opened().ask(question, customer, thread)._asdict()

    def serve_forever(self, poll_interval: float = PAUSE) -> None:
        """Until ``shutdown``. Looks at the gate every ``poll_interval`` seconds: a fence waits for us, customers do after it."""
        super().serve_forever(poll_interval)

    def service_actions(self) -> None:
        """Called at each look: let go for a fence; what was open before it is opened again after it, before anybody asks."""
        if self._desk and under_maintenance(self.home):
            self.let_go()
        elif self._fenced and not under_maintenance(self.home):
            self._fenced = False
            with (
                self._lock,
                suppress(Exception),
            ):  # what is wrong is told to the first who asks, and to each until it is mended
                self._opened()

    def server_close(self) -> None:
        """Stop listening, and let the desk go."""
        super().server_close()
        self.let_go()

    def let_go(self) -> None:
        """Close the desk; the next question opens it anew."""
        with self._lock:
            self._let_go()

    def _opened(self) -> Desk:
        if self._desk is None:
            with ExitStack() as held:
                held.enter_context(client(self.home))
                self._desk = held.enter_context(desk.opened(places_in(self.home), barrier=barrier_of(self.home)))
                self._held = held.pop_all()
        return self._desk

    def _let_go(self) -> None:
        self._fenced = self._desk is not None or self._fenced
        self._desk = None
        self._held.close()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path != "/health":
            self._say(HTTPStatus.NOT_FOUND, {"error": "GET /health or POST /ask"})
        elif under_maintenance(self.server.home):
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "maintenance"})
        else:
            self._say(HTTPStatus.OK, {"status": "open", "process": os.getpid()})

    def do_POST(self) -> None:
        try:
            asked = json.loads(self.rfile.read(min(int(self.headers.get("Content-Length", 0)), LARGEST)))
            question, customer = str(asked["question"]), int(asked.get("customer", 1))
            thread = str(asked.get("thread", f"customer-{customer}"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._say(HTTPStatus.BAD_REQUEST, {"error": f'expected {{"question": "…"}}: {error}'})
            return
        try:
            self._say(HTTPStatus.OK, self.server.ask(question, customer, thread))
        except Closed as closed:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(closed)})
        except Waiting as waiting:
            self._say(HTTPStatus.CONFLICT, {"error": str(waiting)})
        except Exception as error:  # noqa: BLE001 - a server tells its client, whatever was wrong, and goes on
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"})

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: who asks what is the customers' business."""

    def _say(self, status: HTTPStatus, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
