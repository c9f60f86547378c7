"""Runs a command with its hosted models answered for, on the loopback. A program of its own: see ``probes.replay``.

Standard input: ``{"argv", "input" (base64), "mark", "variables", "hosted": [{"name", "stand_in", "mode", "url", "recording",
"budget"}]}``. Standard output: what the command prints, the mark, and ``{name: {"replayed", "forwarded", "missing", "refused",
"first", "recorded"}}``. The exit code is the command's.

A request is answered by the recorded exchange of the same method, path and body; where several are recorded, by each in its turn,
and by the last ever after. What is not recorded is answered with 502, what is refused with 403, what is beyond the budget with 429:
a client must not take any of them for the model's word.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from resurgam.probes.recording import body_of, parted, told, without_secrets

Json = Any
_HOP = {"host", "connection", "content-length", "accept-encoding", "transfer-encoding", "keep-alive", "te", "upgrade"}
JSON = "application/json"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Desk:
    """Answers for one hosted model, and counts."""

    def __init__(self, hosted: dict[str, Json]) -> None:
        self.hosted = hosted
        self.seen: dict[str, Json] = dict.fromkeys(("replayed", "forwarded", "missing", "refused"), 0)
        self.seen |= {"first": "", "recorded": []}
        self._lock = threading.Lock()
        self._turns: dict[int, int] = {}  # first of the equal recorded requests: how often it was asked
        self._spent = {"bytes": 0, "seconds": 0.0}

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer to one request."""
        kind = headers.get("content-type", "")
        asked = {"method": method, "path": without_secrets(path), "request": told(body, kind)}
        with self._lock:
            if self.hosted["mode"] == "record":
                return self._recorded(asked, path, headers, body)
            if self.hosted["mode"] == "refuse":
                return self._without("refused", 403, asked, "is not to be asked here")
            return self._replayed(asked)

    def _replayed(self, asked: dict[str, Json]) -> tuple[int, str, bytes]:
        same = [
            line for line in self.hosted["recording"]
            if parted({name: line[name] for name in asked}, asked) is None
        ]  # fmt: skip
        if not same:
            return self._without("missing", 502, asked, "is not in the recording")
        turn = self._turns.get(id(same[0]), 0)
        self._turns[id(same[0])] = turn + 1
        self.seen["replayed"] += 1
        line = same[min(turn, len(same) - 1)]
        return line["status"], line["type"], body_of(line["response"], line["type"])

    def _recorded(
        self, asked: dict[str, Json], path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        budget = self.hosted["budget"]
        over = self.seen["forwarded"] >= budget["requests"] or any(self._spent[w] >= budget[w] for w in self._spent)
        if over:
            return self._without("refused", 429, asked, "is beyond the budget")
        began = time.monotonic()
        status, kind, answer = _forwarded(self.hosted["url"], asked["method"], path, headers, body, budget)
        self._spent["seconds"] += time.monotonic() - began
        self._spent["bytes"] += len(body) + len(answer)
        self.seen["forwarded"] += 1
        self.seen["recorded"].append(asked | {"status": status, "type": kind, "response": told(answer, kind)})
        return status, kind, answer

    def _without(self, word: str, status: int, asked: dict[str, Json], why: str) -> tuple[int, str, bytes]:
        self.seen[word] += 1
        self.seen["first"] = self.seen["first"] or f"{asked['method']} {asked['path']}"[:200]
        said = {"error": {"type": f"resurgam_{word}", "message": f"{asked['method']} {asked['path']} {why}"}}
        return status, JSON, json.dumps(said).encode()


def main() -> int:
    """Run the command of the request on standard input; returns the exit code."""
    request = json.load(sys.stdin)
    desks = [Desk(hosted) for hosted in request["hosted"]]
    with contextlib.ExitStack() as held:
        places = {desk.hosted["stand_in"]: held.enter_context(_served(desk)) for desk in desks}
        code = _run(request, places)
    sys.stdout.flush()
    report = {desk.hosted["name"]: desk.seen for desk in desks}
    sys.stdout.buffer.write(request["mark"].encode() + json.dumps(report).encode() + b"\n")
    sys.stdout.flush()
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to put back
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)  # as the command ended, so do we
    return code


def _run(request: dict[str, Json], places: dict[str, str]) -> int:
    """The command in our own group, so that whoever ends us ends it too; its output goes where ours goes."""

    def placed(text: str) -> str:
        for stand_in, place in places.items():
            text = text.replace(stand_in, place)
        return text

    env = {name: placed(value) if name in request["variables"] else value for name, value in os.environ.items()}
    given = base64.b64decode(request["input"])
    for stand_in, place in places.items():
        given = given.replace(stand_in.encode(), place.encode())
    argv = [placed(argument) for argument in request["argv"]]
    try:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, env=env)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot be run: {error}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126
    process.communicate(given)
    return process.returncode


@contextlib.contextmanager
def _served(desk: Desk) -> Any:
    """The address at which ``desk`` answers, while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            try:
                status, kind, said = desk.answer(self.command, self.path, headers, body)
            except (OSError, http.client.HTTPException) as error:
                status, kind, said = 502, JSON, json.dumps({"error": {"message": f"unreachable: {error}"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: standard error is the command's."""

    for method in METHODS:
        setattr(Handler, f"do_{method}", Handler._answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _forwarded(
    url: str, method: str, path: str, headers: dict[str, str], body: bytes, budget: dict[str, Json]
) -> tuple[int, str, bytes]:
    """The word of the one declared address. Redirections are told and not followed."""
    place = urlsplit(url)
    secure = place.scheme == "https"
    opened = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
        place.netloc, timeout=max(1.0, budget["seconds"])
    )
    with contextlib.closing(opened) as connection:
        passed = {name: value for name, value in headers.items() if name not in _HOP}
        connection.request(method, place.path.rstrip("/") + path, body=body or None, headers=passed)
        response = connection.getresponse()
        answer = response.read(budget["bytes"] + 1)
        return response.status, response.getheader("Content-Type", ""), answer


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
