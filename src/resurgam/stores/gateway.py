"""A vault gateway as a store: another machine's folder, behind a small server that lets each role do what is its own.

The words are those of ``wire``. Each request is tried again, after waits that double and are drawn at random, for at most
PATIENCE seconds; then it is Unreachable. A put that is tried again may meet its own first try: AlreadyThere, which
``base.put_once`` reads back.

**Who it speaks to** is known by the certificate's SHA-256, where the URL has it, and else by an authority that the system trusts,
or one of the file RESURGAM_VAULT_CA. Nothing is sent, the token least of all, before that is known. **Who speaks** is known by a
token, from RESURGAM_VAULT_TOKEN, the file RESURGAM_VAULT_TOKEN_FILE, or ``gateway.token`` in the keys' folder; such files must be
readable by their owner only. Who speaks to several gateways writes a line ``HOST:PORT TOKEN`` for each into the file: a token that
is for one of them is never shown to another.

Needs nothing but Python's library, so that a host that captures has no more installed than it had.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import random
import re
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from resurgam.errors import Busy, Denied, IntegrityError, NotFound, ResurgamError, Unreachable
from resurgam.model.codec import json_decoder
from resurgam.model.system import LockMode
from resurgam.stores import wire
from resurgam.stores.base import Buffer, Entry, checked_name
from resurgam.stores.location import Location
from resurgam.stores.lock import Retention

PATIENCE = 60.0  # seconds; after it, a request without answer is not tried again
IDLE = 30.0  # seconds after which an unused connection is not trusted; the gateway's own patience is longer
TIMEOUT = 60.0  # seconds without a byte in either direction; the gateway's own is shorter
TOKEN_FILE = "gateway.token"  # noqa: S105  in the keys' folder
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,500}")  # RFC 6750, b64token
_AGAIN = {408, 429, 500, 502, 503, 504}
_LONGEST_FILE = 64 << 10
T = TypeVar("T")


class _Idle(NamedTuple):
    """A connection that nobody uses, since then."""

    since: float
    connection: http.client.HTTPConnection


class _Answer(NamedTuple):
    """``length`` bytes, which are in ``data`` unless they went into the caller's buffer."""

    status: int
    data: bytes
    length: int


class _Pinned(http.client.HTTPSConnection):
    """TLS with whoever shows the one certificate whose SHA-256 is ``pin``."""

    pin = ""

    def connect(self) -> None:
        """As usual; then looks whose certificate it is. Raises Denied."""
        super().connect()
        assert isinstance(self.sock, ssl.SSLSocket)
        shown = hashlib.sha256(self.sock.getpeercert(binary_form=True) or b"").hexdigest()
        if not hmac.compare_digest(f"sha256:{shown}", self.pin):
            self.close()
            raise _not_them(f"{self.host}:{self.port}")


class GatewayStore:
    """See the module's docstring; the contract is that of ``stores.base``. Safe from several threads, and after a fork."""

    def __init__(self, place: Location, keys: str | None = None, *, patience: float = PATIENCE) -> None:
        """``keys`` is the keys' folder. Nothing is asked yet. Raises Denied where there is no token."""
        self._where = f"the gateway {place}"
        self._place, self._patience = place, patience
        address = urlsplit(f"//{place.bucket}")
        self._host, self._port = address.hostname or "", address.port
        self._base = f"/{place.prefix}" if place.prefix else ""
        self._headers = {"Authorization": f"Bearer {_token(self._where, place.bucket, keys)}"}
        self._tls = _trust(place.settings.get("certificate")) if place.scheme == "https" else None
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []
        self._process = os.getpid()
        self._closer = weakref.finalize(self, _close, self._idle)

    def close(self) -> None:
        """Let go of the connections; repeatable."""
        self._closer()

    def describe(self) -> str:
        """The gateway's address."""
        return self._where

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place}>"

    # --- the port -----------------------------------------------------------------------------------------------------

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Create ``name`` durably. An iterable is joined in memory. Raises AlreadyThere, StoreFull, Denied, Unreachable."""
        path = wire.OBJECTS + checked_name(name)
        whole = memoryview(data).cast("B") if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        headers = {"Content-Digest": wire.digest_of(whole), "If-None-Match": "*"}  # P2: the gateway knows no other way
        self._ask("PUT", path, headers, whole)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of ``name`` from ``offset``; fewer than ``length`` only at its end. Raises NotFound."""
        return self._read(name, offset, length).data

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As ``get``, into ``buffer``; returns the number of bytes read. Safe from several threads. Raises NotFound."""
        view = buffer.cast("B")
        return self._read(name, offset, len(view), view).length

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose names begin with ``prefix``, sorted by name, a page at a time."""
        after, more = "", True
        while more:
            path = f"{wire.LIST}?prefix={quote(prefix, safe='')}&after={quote(after, safe='')}"
            page = self._decoded(self._ask("GET", path), wire.Page)
            entries = [Entry(checked_name(name), size, received) for name, size, received in page.objects]
            yield from entries
            more = page.more
            after = entries[-1].name if entries else after
            if more and not entries:
                raise self._not_said()

    def delete(self, name: str) -> None:
        """Remove ``name``; no error where it is gone already. Raises Denied, also while it is kept."""
        self._ask("DELETE", wire.OBJECTS + checked_name(name))

    # --- locks, and whose token it is ---------------------------------------------------------------------------------

    def protected(self, name: str) -> Retention | None:
        """See ``Locks``. The mode is *governance*: the owner of the gateway's machine can end it."""
        lock = self._decoded(self._ask("GET", wire.LOCKS + checked_name(name)), wire.Lock)
        return None if lock.until is None else Retention(LockMode.GOVERNANCE, datetime.fromtimestamp(lock.until, UTC))

    def protect(self, name: str, until: datetime) -> None:
        """See ``Locks``."""
        body = msgspec.json.encode(wire.Lock(until.timestamp()))
        self._ask("POST", wire.LOCKS + checked_name(name), {"Content-Type": "application/json"}, body)

    def role(self) -> str:
        """The role that the token was made for. Raises Denied, Unreachable."""
        return self._decoded(self._ask("GET", wire.ROLE), wire.Holder).role

    # --- one request --------------------------------------------------------------------------------------------------

    def _read(self, name: str, offset: int, length: int | None, into: memoryview | None = None) -> _Answer:
        """The answer to a read of that range, whose bytes go to ``into``."""
        assert min(offset, length or 0) >= 0
        path = wire.OBJECTS + checked_name(name)
        if length == 0:
            self._ask("HEAD", path)
            return _Answer(200, b"", 0)
        last = "" if length is None else str(offset + length - 1)
        answer = self._ask("GET", path, {"Range": f"bytes={offset}-{last}"}, into=into)
        if answer.status != 206:
            raise self._not_said()  # what stands between ignores ranges
        return answer

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: Buffer | None = None,
        into: memoryview | None = None,
    ) -> _Answer:
        """The answer to a request, tried again for as long as patience lasts. Raises what the gateway refused it with."""
        end, wait = time.monotonic() + self._patience, 0.1
        while True:
            try:
                answer = self._once(method, path, headers or {}, body, into)
                if answer.status < 300:
                    return answer
                if answer.status == 416:  # a range beyond the end
                    return _Answer(206, b"", 0)
                problem = self._refused(answer)
                again = answer.status in _AGAIN
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise _not_them(str(self._place)) from None
                problem, again = self._silent(error), True
            if not again or time.monotonic() + wait > end:
                raise problem
            time.sleep(random.uniform(wait / 2, wait))  # noqa: S311  so that not all clients come back at once
            wait = min(2 * wait, 10.0)

    def _once(
        self, method: str, path: str, headers: dict[str, str], body: Buffer | None, into: memoryview | None
    ) -> _Answer:
        connection = self._connection()
        try:
            try:
                connection.request(method, self._base + path, body=body, headers=self._headers | headers)
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # Whoever refuses an upload may answer and hang up before it has come: the answer is there to be read.
            response = connection.getresponse()
            wanted = into if response.status in (200, 206) else None
            data, length = _body(response, wanted)
        except BaseException:
            connection.close()
            with self._lock:
                _close(self._idle)  # a gateway that went away has left these too
            raise
        if response.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append(_Idle(time.monotonic(), connection))
        return _Answer(response.status, data, length)

    def _connection(self) -> http.client.HTTPConnection:
        """One that nobody uses: an open one, or a new one. A fork's copy shares none of its parent's."""
        with self._lock:
            if self._process != os.getpid():
                _close(self._idle)  # this process's ends only: nothing is said on them
                self._process = os.getpid()
            if self._idle and time.monotonic() - self._idle[-1].since < IDLE:
                return self._idle.pop().connection
            _close(self._idle)  # the newest is too old, so all are
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        pin = self._place.settings.get("certificate")
        kind = _Pinned if pin else http.client.HTTPSConnection
        made = kind(self._host, self._port, timeout=TIMEOUT, context=self._tls)
        if isinstance(made, _Pinned):
            made.pin = pin or ""
        return made

    def _refused(self, answer: _Answer) -> ResurgamError:
        """The port's word for an answer that is none."""
        with suppress(msgspec.DecodeError):
            refusal = json_decoder(wire.Refusal).decode(answer.data)
            problem = refusal.error(self._where)
            return (
                Unreachable(problem.message, untouched=problem.untouched, next_step=problem.next_step)
                if isinstance(problem, Busy)
                else problem
            )
        kind: type[ResurgamError] = {404: NotFound}.get(answer.status, Denied)
        return (Unreachable if answer.status in _AGAIN else kind)(
            f"{self._where} answered with HTTP {answer.status}.",
            untouched="No other object was touched.",
            next_step="Check that this is the gateway that was meant, and what stands before it.",
        )

    def _silent(self, error: Exception) -> Unreachable:
        why = getattr(error, "strerror", None) or type(error).__name__
        return Unreachable(
            f"{self._where} did not answer: {why}.",
            untouched="Whether the last request took effect is not known; nothing that was sealed is touched.",
            next_step="Check the network and the gateway (its /healthz), then run the same command again.",
        )

    def _decoded(self, answer: _Answer, kind: type[T]) -> T:
        try:
            return json_decoder(kind).decode(answer.data)
        except msgspec.DecodeError:
            raise self._not_said() from None

    def _not_said(self) -> IntegrityError:
        return IntegrityError(
            f"{self._where} gave an answer that no gateway gives.",
            untouched="Nothing was changed.",
            next_step="Check that this is the gateway that was meant, what stands before it, and its release.",
        )


def _close(idle: list[_Idle]) -> None:
    while idle:
        idle.pop().connection.close()


def _body(response: http.client.HTTPResponse, into: memoryview | None) -> tuple[bytes, int]:
    """All of an answer's bytes, and how many; into ``into`` where that is given. Raises IncompleteRead."""
    if into is None:
        data = response.read()
        return data, len(data)
    told, filled = response.length or 0, 0
    while filled < min(told, len(into)):
        step = response.readinto(into[filled:])
        if not step:
            raise http.client.IncompleteRead(b"", told - filled)
        filled += step
    if told > filled:
        response.close()  # more than was asked for: the connection is of no more use
        response.will_close = True
    return b"", filled


def _token(where: str, address: str, keys: str | None) -> str:
    """The token for the gateway at ``address``, from the environment or its file. Raises Denied; never part of the message."""
    token, source = os.environ.get("RESURGAM_VAULT_TOKEN"), "RESURGAM_VAULT_TOKEN"
    if token is None:
        beside = os.path.join(keys, TOKEN_FILE) if keys and os.path.isdir(keys) else None
        source = os.environ.get("RESURGAM_VAULT_TOKEN_FILE") or beside or ""
        token = _for_address(_from_file(source) or "", address) if source else None
    if token is None:
        raise Denied(
            f"There is no token for {where}.",
            untouched="Nothing was read or written.",
            next_step=f"Set RESURGAM_VAULT_TOKEN or RESURGAM_VAULT_TOKEN_FILE, or write it into {TOKEN_FILE} in the keys' folder.",
        )
    if not _TOKEN.fullmatch(token.strip()):
        raise Denied(
            f"What {source} holds is no token.",
            untouched="Nothing was read or written.",
            next_step="Give one that `resurgam vault tokens add` has made on the gateway's machine.",
        )
    return token.strip()


def _for_address(text: str, address: str) -> str | None:
    """Of the lines of a file: the one token, or that of the line ``HOST:PORT TOKEN`` with this ``address``."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    named = {words[0]: words[1] for words in lines if len(words) == 2}
    return named.get(address) if named else text.strip() or None


def _from_file(path: str) -> str | None:
    """What stands in it; None where it is not there. Raises Denied."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(_LONGEST_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Denied(
            f"{path} cannot be read: {error.strerror}.",
            untouched="Nothing was read or written.",
            next_step="Check who owns it.",
        ) from error
    if mode & 0o077:
        raise Denied(
            f"{path} holds a token and can be read by others (mode {mode & 0o777:o}).",
            untouched="Nothing was read or written.",
            next_step=f"chmod 600 {path}, and have the token revoked if somebody may have read it.",
        )
    return text


def _trust(pin: str | None) -> ssl.SSLContext:
    """The client's half of TLS: with a pin nothing is asked of the certificate but that it is the one. Raises Denied."""
    bundle = os.environ.get("RESURGAM_VAULT_CA")
    try:
        context = ssl.create_default_context(cafile=bundle or None)
    except OSError as error:
        raise Denied(
            f"{bundle} (RESURGAM_VAULT_CA) cannot be read as certificates.",
            untouched="Nothing was read or written.",
            next_step="Name a PEM file of authorities, or unset it.",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if pin is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # `_Pinned` compares the certificate itself, before anything is sent
    return context


def _not_them(where: str) -> Denied:
    return Denied(
        f"Whoever answers at {where} does not show the certificate that was expected.",
        untouched="Nothing was sent to them, no token either.",
        next_step="If the gateway has a new certificate, take the URL that `resurgam vault serve` shows; else somebody is between.",
    )
