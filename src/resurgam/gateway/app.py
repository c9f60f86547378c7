"""One request at the gateway, as an ASGI application (ASGI 3, HTTP 2.3).

    who   the token's role, or 401
    what  an operation on an object's name, or 400, 404, 405
    may   the table of ``vault.rights``, or 403: before anything of the vault is touched
    place one of the token's share, and one of all, is free within WAIT seconds, or 503 and come again
    do    in a thread, on the store; what it raises is told by its kind

Nothing is decided by what a client says of itself but its token; the time of receipt is that of this machine.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar
from urllib.parse import parse_qs

import msgspec

from resurgam.clock import Clock
from resurgam.errors import Busy, Denied, IntegrityError, NotFound, ResurgamError, UsageError
from resurgam.gateway.account import Account, Asked
from resurgam.gateway.keeping import Keeping
from resurgam.gateway.tokens import Tokens
from resurgam.gateway.upload import STALL, Gone, Message, Receive, Upload
from resurgam.model.codec import json_decoder
from resurgam.stores import wire
from resurgam.stores.base import Entry, checked_name
from resurgam.stores.local import LocalStore
from resurgam.vault import rights
from resurgam.vault.rights import Operation

LARGEST = 5_000_000_000  # bytes of one object, as on other stores
STEP = 1 << 20  # bytes read at a time
WAIT = 5.0  # seconds that a request waits for others to end
_SMALL = 4096  # bytes of a body that is no object
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})?")
_OPERATIONS = {
    ("GET", wire.OBJECTS): Operation.READ,
    ("HEAD", wire.OBJECTS): Operation.READ,
    ("PUT", wire.OBJECTS): Operation.CREATE,
    ("DELETE", wire.OBJECTS): Operation.DELETE,
    ("GET", wire.LOCKS): Operation.LIST,
    ("POST", wire.LOCKS): Operation.LOCK,
    ("GET", wire.LIST): Operation.LIST,
}

Send = Callable[[Message], Awaitable[None]]
May = Callable[[str, Operation, str], bool]
T = TypeVar("T")


@dataclass
class Exchange:
    """One request and what becomes of it."""

    scope: Message
    receive: Receive
    _send: Send
    asked: Asked
    began: bool = False

    def header(self, name: bytes) -> str:
        """The one value of a header; empty where there is none or more than one."""
        found = [value for key, value in self.scope["headers"] if key == name]
        return found[0].decode("latin-1").strip() if len(found) == 1 else ""

    async def begin(self, status: int, length: int, **headers: str) -> None:
        """The head of the answer."""
        self.asked.status, self.began = status, True
        told = {"cache-control": "no-store", **headers}
        if status != 204:  # RFC 9110 section 8.6
            told["content-length"] = str(length)
        encoded = [(key.replace("_", "-").encode(), value.encode()) for key, value in told.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})

    async def body(self, data: bytes, more: bool = False) -> None:
        """Bytes of the answer. Raises Gone where nobody takes them."""
        await self.send({"type": "http.response.body", "body": data, "more_body": more})
        self.asked.sent += len(data)

    async def send(self, message: Message) -> None:
        """As the server's own; but patience ends."""
        try:
            await asyncio.wait_for(self._send(message), STALL)
        except (TimeoutError, OSError):
            raise Gone from None

    async def answer(self, status: int, data: bytes = b"", kind: str = "application/json", **headers: str) -> None:
        """The whole answer."""
        await self.begin(status, len(data), content_type=kind, **headers)
        await self.body(b"" if self.scope["method"] == "HEAD" else data)


class Gateway:
    """The application. ``may`` is the table of rights; ``concurrent`` requests are worked on at a time."""

    def __init__(
        self,
        store: LocalStore,
        tokens: Tokens,
        keeping: Keeping,
        account: Account,
        clock: Clock,
        *,
        concurrent: int = 32,
        may: May = rights.allows,
    ) -> None:
        self._store, self._tokens, self._keeping, self._account, self._clock = store, tokens, keeping, account, clock
        self._may, self._places = may, asyncio.Semaphore(concurrent)
        # One token never has all places, however slowly it sends: whoever holds another finds one.
        self._shares = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(share_of(concurrent)))
        # One more than there are places: who watches /healthz hears an answer also while every place is taken.
        self._threads = ThreadPoolExecutor(concurrent + 1, thread_name_prefix="gateway")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI."""
        assert scope["type"] == "http", "the server is told to speak nothing else"
        client, path = scope.get("client"), scope["raw_path"].decode("latin-1")
        exchange = Exchange(scope, receive, send, Asked(client[0] if client else "", scope["method"], path))
        began = self._clock.monotonic()
        try:
            await self._attend(exchange)
        except Gone:
            exchange.asked.status, exchange.asked.why = 0, "the client went away"
        finally:
            self._account.tell(exchange.asked, self._clock.monotonic() - began)

    async def _attend(self, exchange: Exchange) -> None:
        try:
            await self._serve(exchange)
        except UsageError as error:
            await self._refuse(exchange, error, 400)
        except ResurgamError as error:
            await self._refuse(exchange, error, wire.STATUS.get(type(error), 500))
        except _Unknown as error:
            await self._refuse(exchange, error.refusal, error.status)

    async def _refuse(self, exchange: Exchange, error: ResurgamError, status: int) -> None:
        exchange.asked.why = error.message
        if exchange.began:  # too late for an answer: the server hangs up, so that what was begun does not look whole
            return
        kind = type(error).__name__
        told = wire.Refusal(kind if kind in wire.KINDS else "Denied", error.message, error.untouched, error.next_step)
        extra = {"retry_after": "1"} if status == 503 else {"www_authenticate": "Bearer"} if status == 401 else {}
        await exchange.answer(status, msgspec.json.encode(told), "application/problem+json", **extra)

    async def _serve(self, exchange: Exchange) -> None:
        asked, method = exchange.asked, exchange.scope["method"]
        if asked.path == wire.HEALTH:
            await self._in_thread(lambda: next(self._store.list("vault.json"), None))
            return await exchange.answer(200, b"ok\n", "text/plain")
        self._authenticate(exchange)
        if asked.path == wire.METRICS:
            return await exchange.answer(200, self._account.figures(self._store.free()).encode(), "text/plain")
        if asked.path == wire.ROLE and method == "GET":
            return await exchange.answer(200, msgspec.json.encode(wire.Holder(asked.role, asked.token)))
        place = next((p for p in (wire.OBJECTS, wire.LOCKS) if asked.path.startswith(p)), asked.path)
        operation = _OPERATIONS.get((method, place))
        if operation is None:
            raise _Unknown(405 if place in (wire.OBJECTS, wire.LOCKS, wire.LIST) else 404)
        asked.operation = operation.value
        prefix, after = self._query(exchange) if place == wire.LIST else ("", "")
        name = prefix if place == wire.LIST else checked_name(asked.path.removeprefix(place))
        self._permit(asked.role, operation, name)
        async with self._place(asked.token):
            if place == wire.LIST:
                await self._list(exchange, prefix, after)
            elif place == wire.LOCKS:
                await self._lock(exchange, name)
            else:
                await {"PUT": self._put, "DELETE": self._delete}.get(method, self._get)(exchange, name)
        return None

    @asynccontextmanager
    async def _place(self, token: str) -> AsyncIterator[None]:
        """A place among those at work, for as long as one request takes. Raises Busy where none is free in time."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(WAIT):
                    await held.enter_async_context(self._shares[token])
                    await held.enter_async_context(self._places)
            except TimeoutError:
                raise _busy() from None
            self._account.under_way += 1
            try:
                yield
            finally:
                self._account.under_way -= 1

    def _authenticate(self, exchange: Exchange) -> None:
        """Whose token it is. Raises _Unknown (401), and what the file of tokens raises: then nobody is let in (P12)."""
        scheme, _, presented = exchange.header(b"authorization").partition(" ")
        token = self._tokens.holder(presented.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise _Unknown(401)
        exchange.asked.role, exchange.asked.token = token.role, token.id

    def _permit(self, role: str, operation: Operation, name: str) -> None:
        """Raises Denied where the table does not allow it (P9)."""
        if not self._may(role, operation, name):
            what = f"{operation} {name}" if name else f"{operation} objects"
            raise Denied(
                f"The role {role} may not {what}.",
                untouched="Nothing was read or changed.",
                next_step="Use the token of a role that may: docs/gateway.md has the table.",
            )

    async def _in_thread(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, act)

    # --- the verbs ----------------------------------------------------------------------------------------------------

    async def _put(self, exchange: Exchange, name: str) -> None:
        length, digest = exchange.header(b"content-length"), exchange.header(b"content-digest")
        if not length.isdecimal() or not digest.startswith("sha-256=:"):
            raise _Unknown(411)
        if int(length) > LARGEST:
            raise _Unknown(413)
        upload = Upload(exchange.receive, int(length), digest, self._clock)
        await self._in_thread(lambda: self._store.put(name, upload.pieces()))  # P2: create-only, whole or not at all
        exchange.asked.received = upload.length
        await exchange.answer(201)

    async def _get(self, exchange: Exchange, name: str) -> None:
        size = (await self._in_thread(partial(self._store.entry, name))).size
        wanted = exchange.header(b"range")
        found = _RANGE.fullmatch(wanted)
        if wanted and found is None:
            raise _Unknown(400)
        start = int(found[1]) if found else 0
        stop = min(size, int(found[2]) + 1) if found and found[2] else size
        if found and (start >= size or start >= stop):
            return await exchange.answer(416, content_range=f"bytes */{size}")
        extra = {"content_range": f"bytes {start}-{stop - 1}/{size}"} if found else {}
        await exchange.begin(206 if found else 200, stop - start, accept_ranges="bytes", **extra)
        if exchange.scope["method"] == "HEAD" or start == stop:
            return await exchange.body(b"")
        for offset in range(start, stop, STEP):
            data = await self._in_thread(partial(self._store.get, name, offset, min(STEP, stop - offset)))
            await exchange.body(data, more=offset + STEP < stop)
        return None

    async def _delete(self, exchange: Exchange, name: str) -> None:
        def act() -> None:
            try:
                entry = self._store.entry(name)
            except NotFound:
                return
            self._keeping.delete(self._store, entry)

        await self._in_thread(act)
        await exchange.begin(204, 0)
        await exchange.body(b"")

    async def _list(self, exchange: Exchange, prefix: str, after: str) -> None:
        def page() -> bytes:
            found: list[Entry] = list(islice(self._store.list(prefix, after), wire.PAGE + 1))
            return msgspec.json.encode(
                {"objects": [tuple(entry) for entry in found[: wire.PAGE]], "more": len(found) > wire.PAGE}
            )

        await exchange.answer(200, await self._in_thread(page))

    def _query(self, exchange: Exchange) -> tuple[str, str]:
        """The prefix and the name after which a page begins. Raises _Unknown."""
        try:
            query = parse_qs(exchange.scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=4)
        except (ValueError, UnicodeDecodeError):
            raise _Unknown(400) from None
        return query.get("prefix", [""])[0], query.get("after", [""])[0]

    async def _lock(self, exchange: Exchange, name: str) -> None:
        body = await _small(exchange) if exchange.scope["method"] == "POST" else None

        def act() -> float | None:
            entry = self._store.entry(name)
            if body is not None:
                until = json_decoder(wire.Lock).decode(body).until
                self._keeping.extend(entry, until or 0.0)
            return self._keeping.until(entry)

        try:
            until = await self._in_thread(act)
        except msgspec.DecodeError:
            raise _Unknown(400) from None
        await exchange.answer(200, msgspec.json.encode(wire.Lock(until)))


class _Unknown(Exception):
    """A request that is none of this protocol, by the status that says so."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
        message, next_step = _WORDS[status]
        kind = IntegrityError if status == 400 else Denied
        self.refusal = kind(message, untouched="Nothing was read or written.", next_step=next_step)


_WORDS = {
    400: ("This request cannot be understood.", "Use a client of the same release."),
    401: (
        "This token is not known here, or was revoked.",
        "Set RESURGAM_VAULT_TOKEN to one that `resurgam vault tokens add` has made on the gateway's machine.",
    ),
    404: ("There is nothing of a gateway under this path.", "Check the address, and what stands before the gateway."),
    405: ("This cannot be asked of that path.", "Use a client of the same release."),
    411: ("An upload needs Content-Length and a Content-Digest with sha-256.", "Use a client of the same release."),
    413: (f"An object of more than {LARGEST:,} bytes is not taken.", "Put the vault into a folder or a bucket."),
}


def share_of(concurrent: int) -> int:
    """How many of so many places one token may have: three quarters, at least one."""
    return max(concurrent * 3 // 4, 1)


def _busy() -> Busy:
    return Busy(
        "As many requests are under way as this gateway takes on at a time, or of one token.",
        untouched="Nothing was read or written.",
        next_step="Try again in a moment.",
    )


async def _small(exchange: Exchange) -> bytes:
    """A body of few bytes, all of which have to come within STALL seconds. Raises Gone, _Unknown."""
    body = b""
    try:
        async with asyncio.timeout(STALL):
            while True:
                message = await exchange.receive()
                if message["type"] != "http.request":
                    raise Gone
                piece: bytes = message.get("body", b"")
                body += piece
                if len(body) > _SMALL:
                    raise _Unknown(413)
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        raise Gone from None
