"""The bytes of one upload on their way from the network to the thread that writes them.

At most two pieces are in memory: one that is being written, and one that is being received meanwhile. The thread sees them as an
iterable, which raises where the client went away, was too slow, or sent other bytes than its digest says; the store then leaves
nothing of them (P1). Pieces are memory pages of their own, so that the store can write them past the page cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import mmap
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from resurgam.clock import Clock
from resurgam.errors import IntegrityError, Unreachable
from resurgam.stores.wire import digest_header

PIECE = 1 << 20
STALL = 30.0  # seconds without a byte after which a client is given up
SLOWEST = 64 << 10  # bytes a second that an upload must keep up, beyond its first STALL seconds

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Gone(Exception):
    """The client went away; nobody is left to hear why."""


class Upload:
    """``length`` bytes that ``receive`` gives, which must have the ``digest``, a value of ``Content-Digest``."""

    def __init__(self, receive: Receive, length: int, digest: str, clock: Clock) -> None:
        self._receive, self._digest, self._clock = receive, digest, clock
        self._left = self.length = length
        self._rest: bytes = b""
        self._began = clock.monotonic()
        self._loop = asyncio.get_running_loop()

    def pieces(self) -> Iterator[memoryview]:
        """For the writing thread. Raises Gone, Unreachable (too slow), IntegrityError (not these bytes)."""
        hasher = hashlib.sha256()
        ahead = asyncio.run_coroutine_threadsafe(self._piece(), self._loop)
        try:
            while len(piece := ahead.result()):
                ahead = asyncio.run_coroutine_threadsafe(self._piece(), self._loop)
                hasher.update(piece)
                yield piece
        finally:
            ahead.cancel()
        if not hmac.compare_digest(digest_header(hasher.digest()).encode(), self._digest.encode()):
            raise IntegrityError(
                "The bytes that arrived are not those of their Content-Digest.",
                untouched="Nothing was written.",
                next_step="Send it again; if it happens often, look for a bad network card or memory on the way.",
            )

    async def _piece(self) -> memoryview:
        """The next up to PIECE bytes; empty at the end."""
        wanted = min(PIECE, self._left)
        if not wanted:
            return memoryview(b"")
        view, filled = memoryview(mmap.mmap(-1, wanted)), 0
        while filled < wanted:
            if not self._rest:
                self._rest = await self._more()
            taken = self._rest[: wanted - filled]
            view[filled : filled + len(taken)] = taken
            self._rest = self._rest[len(taken) :]
            filled += len(taken)
        self._left -= filled
        return view

    async def _more(self) -> bytes:
        """What arrives next. Raises Gone, Unreachable."""
        try:
            message = await asyncio.wait_for(self._receive(), STALL)
        except TimeoutError:
            raise _too_slow() from None
        if message["type"] != "http.request":
            raise Gone
        arrived = self.length - self._left
        if self._clock.monotonic() - self._began > STALL + arrived / SLOWEST:
            raise _too_slow()
        data: bytes = message.get("body", b"")
        if not data and not message.get("more_body", False):
            raise Gone  # the server has checked Content-Length: it ended early
        return data


def _too_slow() -> Unreachable:
    return Unreachable(
        "The upload came too slowly, and was given up.",
        untouched="Nothing was written.",
        next_step="Check the network between this host and the gateway, and run the same command again.",
    )
