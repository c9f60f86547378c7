"""A connection whose patience ends: uvicorn's own, which waits for ever for the head of a request, and takes one of any size.

Who has not sent a whole head within HEAD_SECONDS, or sends more than HEAD_BYTES of it, is hung up on; so is who comes when
CONNECTIONS are open. Bodies are up to ``upload``, which knows their lengths; between two requests uvicorn waits by itself.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 << 10
CONNECTIONS = 512


class Connection(HttpToolsProtocol):
    """See the module's docstring."""

    _deadline: asyncio.TimerHandle | None = None
    _head = 0  # bytes that came since the last whole head, or answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's; the clock of the first head starts."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's; a head that is too long ends the connection."""
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
            self._head += len(data)
            if self._head > HEAD_BYTES + len(data):  # what came before this was too much already
                self.transport.abort()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """As uvicorn's; the head is whole."""
        self._head = 0
        self._let_go()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._let_go()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _let_go(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
