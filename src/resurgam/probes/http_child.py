"""Asks a server over HTTP, which it starts first where it is told how. A program of its own: see ``probes.http``.

Standard input: ``{"url" | "serve", "port", "ready", "cases", "seconds", "only_asking"}``, and ``repeat`` and ``warm_up`` where
requests are timed. Standard output: ``{"answers": {case: answer}}``; exit code 1 with a sentence on standard error where there is
none. It imports only the standard library, since it runs without any other.

The server is a child in our own process group, told to end (SIGTERM, then SIGKILL) when all is asked; what it leaves behind ends
with our group, whoever started us. Its output goes to standard error, so that its last words are told with a failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

MAX_ANSWERS = 16 << 20  # bytes of all bodies together
TICK = 0.02  # seconds between two tries at a server that is not ready
GRACE = 3.0  # seconds for the server to end by itself
_REFERENCE = re.compile(r"\$\{(\w+)\}")

Json = Any


class Refused(Exception):
    """There is no answer, and why."""


def main() -> int:
    """Answer the request on standard input; returns the exit code."""
    request = json.load(sys.stdin)
    until = time.monotonic() + request["seconds"]
    try:
        with _server(request, until) as url:
            asker = Asker(url, until)
            answers = asker.timed(request) if "repeat" in request else asker.asked(request["cases"])
    except (Refused, OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{error or type(error).__name__}\n")
        return 1
    json.dump({"answers": answers}, sys.stdout)
    return 0


class Asker:
    """Puts requests to one address; each on a connection of its own, so that none rests on the one before."""

    def __init__(self, url: str, until: float) -> None:
        self._place = urlsplit(url)
        self._until = until
        self._left = MAX_ANSWERS

    def asked(self, cases: dict[str, Json]) -> dict[str, Json]:
        """What each case answers."""
        return {case: self._answer(request) for case, request in cases.items()}

    def timed(self, request: dict[str, Json]) -> dict[str, list[float]]:
        """Seconds of each case, in rounds, so that what slows the machine down for a while touches all of them."""
        seconds: dict[str, list[float]] = {case: [] for case in request["cases"]}
        status: dict[str, int] = {}
        for turn in range(-request["warm_up"], request["repeat"]):
            for case, one in request["cases"].items():
                began = time.perf_counter()
                said = self.said(one)[0]
                took = time.perf_counter() - began
                if status.setdefault(case, said) != said:
                    raise Refused(f"{case!r} answered with status {status[case]} and later with {said}")
                if turn >= 0:
                    seconds[case].append(took)
        return seconds

    def said(self, request: dict[str, Json]) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body."""
        secure = self._place.scheme == "https"
        left = self._until - time.monotonic()
        if left <= 0:
            raise Refused("the time for all requests is over")
        opened = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
            self._place.netloc, timeout=left
        )
        with contextlib.closing(opened) as connection:
            body, headers = _body(request)
            connection.request(request["method"], self._place.path + request["path"], body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read(MAX_ANSWERS + 1)

    def _answer(self, request: dict[str, Json]) -> Json:
        status, headers, body = self.said(request)
        self._left -= len(body)
        if self._left < 0:
            raise Refused(f"the answers have more than {MAX_ANSWERS >> 20} MiB")
        answer: dict[str, Json] = {"status": status}
        if request["show"]:
            answer["headers"] = {name.lower(): headers.get(name) for name in request["show"]}
        return answer | _shown(body, headers.get("Content-Type", ""))


def _body(request: dict[str, Json]) -> tuple[bytes | None, dict[str, str]]:
    headers = {name: _looked_up(value) for name, value in request["headers"].items()}
    if "json" in request:
        return json.dumps(request["json"]).encode(), {"Content-Type": "application/json"} | headers
    if "text" in request:
        return request["text"].encode(), {"Content-Type": "text/plain; charset=utf-8"} | headers
    return None, headers


def _looked_up(value: str) -> str:
    found = _REFERENCE.fullmatch(value)
    return os.environ.get(found[1], value) if found else value


def _shown(body: bytes, kind: str) -> dict[str, Json]:
    try:
        text = body.decode()
        return {"json": json.loads(text)} if "json" in kind else {"text": text}
    except UnicodeDecodeError:
        return {"bytes": {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}}
    except ValueError:  # it says JSON, and is not
        return {"text": text}


@contextlib.contextmanager
def _server(request: dict[str, Json], until: float) -> Iterator[str]:
    """The address of a server that is ready; ours ends with the context."""
    if request["url"]:
        yield request["url"]
        return
    port = _free_port()
    argv = [argument.replace(request["port"], str(port)) for argument in request["serve"]]
    env = {name: value for name, value in os.environ.items() if name not in request["only_asking"]}
    try:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=env)
    except (OSError, ValueError) as error:
        raise Refused(f"the server cannot be run: {error}") from error
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(server, Asker(url, until), request["ready"], until)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(GRACE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], asker: Asker, ready: str, until: float) -> None:
    """Until the path ``ready`` answers with a status of success; what the server last said tells most where it does not."""
    said, heard = "", "nothing listens"
    while time.monotonic() < until:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise Refused(f"the server ended with exit code {server.wait(TICK)} before it was ready")
        try:
            status = asker.said({"method": "GET", "path": ready, "headers": {}})[0]
        except Refused:  # its time is over
            break
        except (OSError, http.client.HTTPException) as error:
            heard = str(error) or type(error).__name__
            continue
        if 200 <= status < 300:
            return
        said = f"status {status}"
    raise Refused(f"the server was not ready in time: {ready}: {said or heard}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
