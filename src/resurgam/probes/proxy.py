"""The way out of the sandbox to a hosted model, for a copy that was declared ``mode: proxy``: one address, within limits (P6).

    inside                                        outside, in this process
    the command -> a port of its own loopback ::: Proxy -> allowed? within the budget? -> + the key -> the declared url

The wall stays whole: the copy's network has a loopback and nothing else. ``replay_child`` opens a port there before the command
begins, and hands the *listening socket itself* out, through the one descriptor that ``door`` makes and that no command inherits.
A socket stays in the network in which it was made, whoever holds it: this process accepts what the copy sends, and the copy
holds nothing that leads out.

What comes is data from a stranger. It is refused unless method and path stand on ``allow``, and beyond ``budget``, which is for the
whole of a verification. Of its headers only harmless and declared ones go on: others can name another method or path, or hold
credentials. ``key`` is put in here, where ``${NAME}`` is looked up; in what comes back, and in what is kept, it is ``***``. Every
exchange that was let through is kept, as recordings are.

``probes record`` uses the same for the live system, whose own headers go through.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from resurgam.errors import Denied
from resurgam.model.secrets import MASK, masking
from resurgam.model.system import REFERENCE, Hosted, Json
from resurgam.probes.answers import narrowed
from resurgam.probes.desk import JSON, METHODS, Answer, Request, Tally, served
from resurgam.probes.recording import told, without_secrets
from resurgam.probes.upstream import TooMuch, Unanswered, Upstream

SHORTEST_KEY = 8  # characters; masking a shorter one would change answers that do not hold it
HARMLESS = ("accept", "accept-language", "content-type", "user-agent")
_BELOW = re.compile(r"(/(?!\.{1,2}([/;]|$))[A-Za-z0-9._~!$&'()+,;=:@-]+)*/?")  # a path that means what it says


class Proxy:
    """Asks one hosted model for the commands of one verification. A ``desk.Clerk``.

    ``tally`` is of the command that was begun last, ``exchanges`` has what was said in all. With ``recording`` it is the live
    system that asks: with its own credentials, and all below ``url`` where ``allow`` is empty. Raises Denied where the key is
    not there.
    """

    def __init__(self, hosted: Hosted, *, recording: bool = False) -> None:
        self.hosted = hosted
        self.tally = Tally()
        self.exchanges: list[Json] = []
        self._key = _key_of(hosted)
        self._forms = _forms(self._key) if self._key else []
        self._recording = recording
        self._requests, self._bytes, self._seconds = 0, 0, 0.0  # spent
        self._open: dict[tuple[str, str, bytes], str] = {}  # requests that got no answer yet, by what was put
        self._call: Upstream | None = None
        self._leaving = False

    def begin(self) -> None:
        """Another command begins: count anew, but for the budget."""
        self.tally, self._open, self._leaving = Tally(), {}, False

    def leave(self) -> None:
        """See desk.Clerk."""
        self._leaving = True
        call = self._call  # looked at once: it may be over by now
        if call is not None:
            call.cut()

    def seen(self) -> Tally:
        """What the command asked, with what it asked for in vain to the end."""
        if self._open:
            self.tally.counts["unanswered"] = len(self._open)
            self.tally.first = self.tally.first or next(iter(self._open.values()))
        return self.tally

    def refuse(self, request: Request, why: str) -> Answer:
        """See desk.Clerk."""
        return self.tally.without("refused", 400, request, without_secrets(request.path), why)

    def answer(self, request: Request) -> Answer:
        """See desk.Clerk: 403 what is not allowed, 429 what is beyond the budget, 502 what was not answered."""
        path = without_secrets(request.path)
        if not (self._recording and not self.hosted.allow) and not is_allowed(request, self.hosted.allow):
            return self.tally.without("refused", 403, request, path, "is not allowed")
        if request.method not in METHODS or not re.fullmatch(r"/[!-~]*", request.path):
            return self.tally.without("refused", 403, request, path, "is no request to it")
        budget = self.hosted.budget
        left = budget.bytes - self._bytes - len(request.body)
        seconds = budget.seconds - self._seconds
        if self._requests >= budget.requests or left <= 0 or seconds <= 0:
            return self.tally.without("refused", 429, request, path, "is beyond the budget")
        answer = self._asked(request, path, left, seconds)
        self._keep(request, path, answer)
        return answer

    def _asked(self, request: Request, path: str, left: int, seconds: float) -> Answer:
        """Put it, and count what that cost."""
        this = (request.method, request.path, request.body)
        began, got = time.monotonic(), 0
        self._call = call = Upstream(self.hosted.url)
        try:
            if self._leaving:
                raise Unanswered("came when the command was over")
            answer = call.ask(self._narrowed(request), self._credential(), left, seconds)
            got = len(answer.body)
        except TooMuch:
            got = left
            return self.tally.without("refused", 429, request, path, "was answered beyond the budget in bytes")
        except Unanswered as error:
            self._open[this] = f"{request.method} {path} {error}"
            return Answer(
                502, JSON, json.dumps({"error": {"type": "resurgam_unanswered", "message": str(error)}}).encode()
            )
        finally:
            self._call = None
            self._requests += 1
            self._bytes += len(request.body) + got
            self._seconds += time.monotonic() - began
            self.tally.count("asked")
            self.tally.count("bytes", len(request.body) + got)
        if answer.status == 429 or answer.status >= 500:  # about the provider, and nothing about the system
            self._open[this] = f"{request.method} {path} was answered with {answer.status}"
        else:
            self._open.pop(this, None)
        return Answer(answer.status, self._masked(answer.kind.encode()).decode(), self._masked(answer.body))

    def _keep(self, request: Request, path: str, answer: Answer) -> None:
        kind = request.headers.get("content-type", "")
        line = {
            "method": request.method,
            "path": self._masked(path.encode()).decode(),
            "request": _kept(self._masked(request.body), kind),
            "status": answer.status,
            "type": answer.kind,
            "response": _kept(answer.body, answer.kind),
        }
        self.exchanges.append(masking(line, []))

    def _narrowed(self, request: Request) -> Request:
        """``request`` with those of its headers that may go on."""
        if self._recording:
            return request
        named = {*HARMLESS, *(name.lower() for name in self.hosted.headers)}
        return request._replace(headers={name: text for name, text in request.headers.items() if name in named})

    def _credential(self) -> dict[str, str]:
        if not self._key:
            return {}
        return {self.hosted.header: self._key} if self.hosted.header else {"Authorization": f"Bearer {self._key}"}

    def _masked(self, said: bytes) -> bytes:
        for form in self._forms:
            said = said.replace(form, MASK.encode())
        return said


def is_allowed(request: Request, allow: Sequence[str]) -> bool:
    """Whether method and path stand on the list ``allow``; the query is not looked at. A path that ends in ``/*`` stands for what
    lies below it, as far as that holds nothing which another reader could take for another path (``..``, with parameters or
    without, ``//``, ``%``)."""
    path = request.path.partition("?")[0]
    for entry in allow:
        method, _, wanted = entry.partition(" ")
        below = (
            wanted.endswith("/*") and path.startswith(wanted[:-1]) and _BELOW.fullmatch(path) and path != wanted[:-1]
        )
        if method == request.method and (path == wanted or below):
            return True
    return False


@contextlib.contextmanager
def door(proxies: Sequence[Proxy]) -> Iterator[int]:
    """A descriptor for a child to send its listening sockets through, once, in the order of ``proxies``, which then answer on
    them while the context lasts."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as serving, ours, theirs:

        def attend() -> None:
            for proxy, listener in zip(proxies, _received(ours, proxies), strict=False):
                serving.enter_context(served(proxy, listener))

        for proxy in proxies:
            proxy.begin()
        waiting = threading.Thread(target=attend, daemon=True)
        waiting.start()
        try:
            yield theirs.fileno()
        finally:
            ours.shutdown(socket.SHUT_RDWR)  # the child may have ended without a word
            waiting.join()


def _received(ours: socket.socket, proxies: Sequence[Proxy]) -> list[socket.socket]:
    """The listening sockets that the child sent; none where it sent anything else, which is counted as refused."""
    message, descriptors, _, _ = socket.recv_fds(ours, 1, len(proxies))
    listeners = []
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        try:
            listeners.append(socket.socket(fileno=descriptor))
        except OSError:  # no socket at all
            os.close(descriptor)
    if len(listeners) == len(proxies) and all(map(_is_listening, listeners)):
        return listeners
    for listener in listeners:
        listener.close()
    for proxy in proxies if message else ():
        proxy.refuse(Request("?", "?", {}, b""), "what was handed out is no place to listen at")
    return []


def _kept(body: bytes, kind: str) -> Json:
    """``body`` as recordings hold it; in base64 where it is JSON that the vault's own would not hold."""
    try:
        return narrowed(told(body, kind))
    except ValueError:
        return {"$base64": base64.b64encode(body).decode()}


def _is_listening(found: socket.socket) -> bool:
    return found.family == socket.AF_INET and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _key_of(hosted: Hosted) -> str:
    """The key that ``hosted.key`` refers to, "" where it has none. Raises Denied, which never repeats it (P12)."""
    found = REFERENCE.fullmatch(hosted.key)
    if found is None:
        return ""
    key = os.environ.get(found[1], "")
    if len(key) >= SHORTEST_KEY and re.fullmatch(r"[!-~]+", key):
        return key
    what = f"is no key (printable, {SHORTEST_KEY} characters or more)" if key else "is not set"
    raise Denied(
        f"Hosted {hosted.name}: {found[1]} {what}.",
        untouched="Nothing was asked of it.",
        next_step=f"Set {found[1]} where this command runs; the copy never gets it.",
    )


def _forms(key: str) -> list[bytes]:
    """The forms in which an answer may repeat ``key``."""
    raw = key.encode()
    escaped = "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in key)  # JSON may spell any character so
    in_json = {json.dumps(key)[1:-1].encode(), json.dumps(key)[1:-1].replace("/", "\\/").encode(), escaped.encode()}
    spelled = {raw, *in_json, quote(key, safe="").encode()}
    coded = {base64.b64encode(raw).rstrip(b"="), base64.urlsafe_b64encode(raw).rstrip(b"="), raw.hex().encode()}
    return sorted(spelled | coded, key=len, reverse=True)
