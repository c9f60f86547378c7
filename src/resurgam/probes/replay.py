"""Hosted models and tools, for a copy: answered from a recording, let through a proxy, or refused (P6).

On the live system ``{hosted:name}`` in a probe's command is the address that the manifest gives. For a copy it is a name that
resolves nowhere, and a runner of this module stands between the probe and the sandbox's::

    probe -> HostedRunner -> the sandbox's runner -> replay_child -> the probe's own command
                                                     answers on the loopback of the same namespace

``replay_child`` starts one small server for each hosted model (a ``desk``), puts its address in the place of the name (in
arguments, variables and standard input), runs the command, and reports at the end of the output what was asked; the report is
taken off again here. For ``mode: proxy`` it hands the server's socket out, and who answers and counts is a ``Proxy`` in this
process; that only for those hosted models that the caller lets ``through``, which are not the copy's to choose. A command that
names no hosted model is run as it is.

What was refused, or asked and not found in the recording, or not answered to the end, makes the observation *not asked*: whether
the system changed or only what it asked falls short is not known then, and a verdict is inconclusive (P4).

The same runner, ``recording`` the live system, lets requests through and keeps what was said: no header of a request is kept, and
of a response only its content type.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import ipaddress
import json
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from resurgam.errors import ManifestError
from resurgam.model.system import Hosted, Json, System
from resurgam.probes.answers import printable
from resurgam.probes.base import Completed, Runner

if TYPE_CHECKING:  # a server and TLS, which most commands need not load
    from resurgam.probes.proxy import Proxy

HOSTED_MODES = ("refuse", "replay", "proxy")
ALLOWED = r"(GET|POST|PUT|PATCH|DELETE) /[!$->@-~]*"  # a method and a path, which holds neither query nor fragment
ANSWERED_BY = "hosted "  # in front of a hosted model's name, in what an observation says it was answered by
PROGRAM = "resurgam.probes.replay_child"
# RFC 9110, 7.6.1: of a connection and not of a request; and what the other end of this one decides by itself.
OF_THE_HOP = (
    *("host", "connection", "content-length", "accept-encoding", "transfer-encoding", "keep-alive", "te", "trailer"),
    *("upgrade", "expect", "proxy-connection", "proxy-authorization", "forwarded", "via"),
)
_EXCHANGE = {"method", "path", "request", "status", "type", "response"}
_IN_VAIN = ("missing", "refused", "unanswered")
_NOT_THROUGH = "the proxy lets through only what this host's own manifest declares so, and only from behind walls"


class HostedRunner:
    """A ``Runner`` in which hosted models are answered for; see the module's docstring. ``through`` are the hosted models that may
    be asked, as who runs this declares them."""

    def __init__(
        self, inner: Runner, system: System, *, through: Sequence[Hosted] = (), recording: bool = False
    ) -> None:
        self._inner = inner
        self._hosted = system.hosted
        self._through = {hosted.name: hosted for hosted in through}
        self._recording = recording
        self._proxies: dict[str, Proxy] = {}  # each with its budget, which is for all commands together

    @property
    def recorded(self) -> dict[str, list[Json]]:
        """By name, what was said through a proxy so far, in the form of recordings."""
        return {name: proxy.exchanges for name, proxy in self._proxies.items() if proxy.exchanges}

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60.0,
        inherit: Sequence[int] = (),
    ) -> Completed:  # fmt: skip
        """Run ``argv`` to its end, its hosted models answered for. What goes wrong is in Completed. Raises Denied where a key
        that is to be put in is not there."""
        said = b"\0".join([input, *map(str.encode, argv), *(value.encode() for value in (env or {}).values())])
        named = [hosted for hosted in self._hosted if hosted.stand_in.encode() in said]
        if not named:
            return self._inner.run(argv, input=input, env=env, timeout=timeout, inherit=inherit)
        proxies = [self._proxy(hosted.name) for hosted in named if self._is_through(hosted)]
        mark = f"\x1e{secrets.token_hex(16)}\n"
        with _door(proxies) as way:
            request = {
                "argv": list(argv),
                "input": base64.b64encode(input).decode(),
                "mark": mark,
                "hosted": [self._told(hosted) for hosted in named],
                "variables": sorted(env or {}),
                "door": way,
            }
            # -I: neither the environment nor the folder that it is started in has a say in what is imported.
            child, given = [sys.executable, "-I", "-m", PROGRAM], json.dumps(request).encode()
            handed = [*inherit, *([way] if proxies else [])]
            done = self._inner.run(child, input=given, env=env, timeout=timeout, inherit=handed)
        report = {proxy.hosted.name: vars(proxy.seen()) for proxy in proxies}  # P6: counted here, not by the copy
        output, _, after = done.output.rpartition(mark.encode())
        if not after:  # it was killed, or could not be run: what it had said stands
            return _reported(done, report)
        try:
            inside = json.loads(after.partition(b"\n")[0])
        except ValueError:  # a child that was left behind has written into it
            return dataclasses.replace(done, output=output, withheld="what it asked of hosted models is not known")
        return _reported(dataclasses.replace(done, output=output), inside | report)

    def _is_through(self, hosted: Hosted) -> bool:
        return hosted.name in self._through

    def _proxy(self, name: str) -> Proxy:
        from resurgam.probes.proxy import Proxy

        if name not in self._proxies:
            self._proxies[name] = Proxy(self._through[name], recording=self._recording)
        return self._proxies[name]

    def _told(self, hosted: Hosted) -> dict[str, Json]:
        """What the child inside is told: neither the address nor anything of the key."""
        through = self._is_through(hosted)
        mode = "proxy" if through else "refuse" if hosted.mode == "proxy" else hosted.mode
        why = _NOT_THROUGH if hosted.mode == "proxy" else "it is not to be asked here"
        return {
            "name": hosted.name,
            "stand_in": hosted.stand_in,
            "mode": mode,
            "recording": hosted.recording if mode == "replay" else None,
            "why": why,
        }


def check(hosted: Hosted) -> None:
    """Raises ManifestError where ``hosted`` cannot be replayed, or let through, as it says."""
    who = f"Hosted {hosted.name}"
    if hosted.mode not in HOSTED_MODES:
        raise _wrong(who, f"{hosted.mode!r} is no mode", f"Modes are {', '.join(HOSTED_MODES)}.")
    if hosted.mode == "replay" and not hosted.recording:
        raise _wrong(who, "`replay` lacks a recording", "Make one with `resurgam probes record PROBE --hosted`.")
    _check_proxy(who, hosted)
    if hosted.recording is None:
        return
    lines = hosted.recording if isinstance(hosted.recording, list) else [None]
    if any(not isinstance(line, dict) or set(line) != _EXCHANGE for line in lines):
        fields = ", ".join(sorted(_EXCHANGE))
        raise _wrong(who, "its recording is none", f"Expected lines of JSON, each with {fields}.")


def _check_proxy(who: str, hosted: Hosted) -> None:
    if hosted.mode == "proxy" and not hosted.allow:
        raise _wrong(who, "`proxy` lacks `allow`", "List what may be asked, such as allow: [POST /v1/chat].")
    if hosted.header and not hosted.key:
        raise _wrong(who, "`header` lacks a `key`", "Give key: ${NAME}, or remove `header`.")
    if decided := [name for name in (hosted.header, *hosted.headers) if name.lower() in OF_THE_HOP]:
        raise _wrong(who, f"{decided[0]!r} belongs to the connection", "Name headers of the request only.")
    if hosted.mode != "proxy" and not hosted.key:
        return
    try:
        place = urlsplit(hosted.url)
        host, _ = place.hostname or "", place.port
    except ValueError as error:
        raise _wrong(who, "its `url` is no address", "Write https://host, and a port or path as needed.") from error
    if not host or place.username is not None:
        raise _wrong(who, "its `url` has no host, or credentials in it", "Write https://host; a key goes into `key`.")
    if hosted.key and place.scheme != "https" and not _is_here(host):
        raise _wrong(who, "a key is not sent over http", "Write an https:// address.")


def _is_here(host: str) -> bool:
    """Whether ``host`` is this host's own loopback."""
    with contextlib.suppress(ValueError):  # a name
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def hosted_words(by: Mapping[str, str]) -> str:
    """What an observation's ``by`` says of hosted models, for a verdict: "hosted llm replayed: 3 requests", "hosted llm through the
    proxy: 3 requests, 2.1 kB"; else empty."""
    return "; ".join(f"{name} {how}" for name, how in sorted(by.items()) if name.startswith(ANSWERED_BY))


def _reported(done: Completed, report: Mapping[str, Json]) -> Completed:
    by, withheld = {}, []
    for name, seen in report.items():
        counts = seen["counts"]
        words = (
            [f"through the proxy: {_requests(counts['asked'])}, {_size(counts['bytes'])}"] if "asked" in counts else []
        )
        words += [f"{word}: {_requests(counts[word])}" for word in ("replayed", *_IN_VAIN) if word in counts]
        by[ANSWERED_BY + name] = ", ".join(words) or "not asked"
        if any(word in counts for word in _IN_VAIN):
            withheld.append(f"hosted {name} {', '.join(words)}; first: {printable(seen['first'])}")
    return dataclasses.replace(done, by=by, withheld="; ".join(withheld))


def _requests(n: int) -> str:
    return f"{n} request{'' if n == 1 else 's'}"


def _size(n: int) -> str:
    return f"{n} bytes" if n < 1000 else f"{n / 1e3:.3g} kB" if n < 1_000_000 else f"{n / 1e6:.3g} MB"


@contextlib.contextmanager
def _door(proxies: Sequence[Proxy]) -> Iterator[int]:
    """``proxy.door``; -1 where nobody goes through."""
    if not proxies:
        yield -1
        return
    from resurgam.probes.proxy import door

    with door(proxies) as way:
        yield way


def _wrong(who: str, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"{who}: {what}.", untouched="Nothing was asked.", next_step=next_step)
