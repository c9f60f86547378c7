"""The probe ``http``: what the system answers over HTTP. Each request is a case.

    ask: {"is it there": "/health", "a question": {"method": "POST", "path": "/ask", "json": {"question": "…"}}}

A request is a path, or a mapping with ``path`` and, as wanted, ``method`` (GET), ``headers``, ``json`` or ``text`` as its body, and
``show``, the headers of the response that count. It answers ``{"status", "headers"?, "json" | "text" | "bytes"}``.

``serve`` starts the system's server through the Runner, on a copy inside the sandbox (P6), with ``{port}`` and the locations in its
arguments; it is asked once ``ready`` answers, and is gone with all its children when the probe is over. ``url`` instead asks the
server that runs already. A copy is never asked at ``url``: it needs ``serve`` beside it, or ``{hosted:name}`` as its ``url``.

A header that is just ``${NAME}`` is a reference to a secret: looked up on the live system, left as it is in the sandbox. One child
process (``http_child``) does all of it, and ``latency`` has the same child put each request many times.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys

from resurgam.clock import Clock, SystemClock
from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import REFERENCE, Json, System
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.answers import observation_of
from resurgam.probes.base import Runner
from resurgam.probes.command import fill

_CHILD = os.path.join(os.path.dirname(__file__), "http_child.py")  # a program, and not loaded here
READY = "/"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_FIELDS = {"method", "path", "headers", "json", "text", "show"}
_HOSTED = "{hosted:"
_SHARE = 0.9  # of the probe's time after which the child itself says what it waited for


class HttpProbe:
    """See the module's docstring."""

    kind = "http"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError where there is no server, or a request that is none."""
        if not spec.serve and not spec.url:
            raise _wrong(spec, "neither `serve` nor `url`", "Give the command that serves, or where it runs.")
        if spec.ready and not spec.serve:
            raise _wrong(spec, "`ready` belongs to `serve`", "Remove it.")
        if not isinstance(spec.ask, dict) or not spec.ask:
            raise _wrong(spec, "`ask` has no requests", 'Name each: {name: "/path"} or {name: {path: …}}.')
        _requests(spec)
        _server(spec, system, "")
        _address(spec, system)

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Put every request once. Raises ManifestError as ``check`` does."""
        return self._asked(spec, system, runner, {})

    def time(self, spec: ProbeSpec, system: System, runner: Runner, repeat: int, warm_up: int) -> Observation:
        """Put every request ``repeat`` times, after ``warm_up`` rounds that do not count: lists of seconds by case."""
        return self._asked(spec, system, runner, {"repeat": repeat, "warm_up": warm_up})

    def _asked(self, spec: ProbeSpec, system: System, runner: Runner, more: dict[str, Json]) -> Observation:
        self.check(spec, system)
        address = _address(spec, system)
        if system.apart and not address and not spec.serve:  # P6: what runs at `url` is the live system
            why = "a copy is not asked at `url`, and the probe has no `serve` to start one"
            return Observation(probe=spec.name, error=why, asked=False)
        cases = _requests(spec)
        references = {
            found[1]: value
            for request in cases.values()
            for value in request["headers"].values()
            if (found := REFERENCE.fullmatch(value))
        }
        word = f"port-{secrets.token_hex(8)}"
        argv, env = _server(spec, system, word)
        request = {
            "url": address, "serve": [] if address else argv, "port": word, "ready": spec.ready or READY, "cases": cases,
            "seconds": spec.timeout * _SHARE, "only_asking": sorted(references.keys() - env.keys()),
        } | more  # fmt: skip
        started = self._clock.monotonic()
        # -I and -S: neither the environment nor installed packages have a say in what is asked.
        child = [sys.executable, "-I", "-S", _CHILD]
        done = runner.run(child, input=json.dumps(request).encode(), env=references | env, timeout=spec.timeout)
        return observation_of(spec, done, self._clock.monotonic() - started)


def _requests(spec: ProbeSpec) -> dict[str, dict[str, Json]]:
    """Every request in full. Raises ManifestError."""
    return {case: _request(spec, case, given) for case, given in spec.ask.items()}


def _request(spec: ProbeSpec, case: str, given: Json) -> dict[str, Json]:
    asked: dict[str, Json] = {"path": given} if isinstance(given, str) else given
    who = f"request {case!r}"
    if not isinstance(asked, dict) or not set(asked) <= _FIELDS or {"json", "text"} <= set(asked):
        fields = ", ".join(sorted(_FIELDS))
        raise _wrong(spec, f"{who} is none", f"Give a path, or a mapping with some of {fields}; `json` or `text`.")
    path, method = asked.get("path"), asked.get("method", "GET")
    if not isinstance(path, str) or not re.fullmatch(r"/[!-~]*", path):
        raise _wrong(spec, f"the path of {who} is none", "It begins with '/', and holds no blanks.")
    if method not in METHODS:
        raise _wrong(spec, f"the method of {who} is none", f"Methods are {', '.join(METHODS)}.")
    headers, show = asked.get("headers", {}), asked.get("show", [])
    texts = [*headers.items(), *([] if not isinstance(show, list) else [(name, "") for name in show])]
    clean = all(isinstance(t, str) and t.isprintable() for pair in texts for t in pair)
    if not isinstance(headers, dict) or not isinstance(show, list | tuple) or not clean:
        raise _wrong(spec, f"the headers of {who} are none", "Give {name: text}, and `show` as a list of names.")
    if not isinstance(asked.get("text", ""), str):
        raise _wrong(spec, f"the text of {who} is none", "Write JSON under `json`.")
    return {"headers": headers, "show": list(show), "method": method} | asked


def _server(spec: ProbeSpec, system: System, port: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the server, ``{port}`` being ``port``."""
    places, who = system.places(), f"Probe {spec.name}"
    argv = [fill(who, argument, places | {"port": port}) for argument in spec.serve]
    env = {name: value if REFERENCE.fullmatch(value) else fill(who, value, places) for name, value in spec.env.items()}
    return argv, env


def _address(spec: ProbeSpec, system: System) -> str:
    """Where the server runs already: "" where there is none, or none that a copy may be asked at (P6)."""
    if not spec.url or (system.apart and not spec.url.startswith(_HOSTED)):
        return ""
    address = fill(f"Probe {spec.name}", spec.url, system.places())
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", address):
        raise _wrong(spec, "`url` is no address", "Write http://… or https://…, without credentials and query.")
    return address.rstrip("/")


def _wrong(spec: ProbeSpec, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"Probe {spec.name}: {what}.", untouched="Nothing was asked.", next_step=next_step)
