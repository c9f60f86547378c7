"""A connection whose patience ends: uvicorn's own, which waits for ever for the head of a request, and takes one of any size.

    a head      HEAD_SECONDS and HEAD_BYTES, from its first byte or the connection's beginning
    a body      up to ``upload``, which knows its length
    its rest    that of a request that was answered before it had all come: taken and dropped for DROP_SECONDS, since a client that
                is hung up on while it sends may never see the answer
    the pause   between two requests is uvicorn's own

Who takes longer, or comes when CONNECTIONS are open, or OF_ONE from the same address, is hung up on. A body without Content-Length
(chunked) is refused at its head: behind it headers may follow without end, and the parser keeps them all.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, IPv6Network, ip_address

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 << 10
DROP_SECONDS = 30.0
CONNECTIONS = 512
OF_ONE = 384  # connections from one address: somebody else always finds one


class Connection(HttpToolsProtocol):
    """See the module's docstring."""

    _deadline: asyncio.TimerHandle | None = None
    _in_body = False
    _head = 0  # bytes that came since the last whole request
    _sender = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's; the clock of the first head starts."""
        super().connection_made(transport)
        self._sender = sender_of(transport.get_extra_info("peername"))
        of_one = sum(one._sender == self._sender for one in self.connections if isinstance(one, Connection))
        if len(self.connections) > CONNECTIONS or of_one > OF_ONE:
            transport.abort()
        self._wait(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's; a head that is too long, or not whole in time, ends the connection."""
        if not self._in_body:
            self._wait(HEAD_SECONDS)
            if self._head > HEAD_BYTES:
                self.transport.abort()
                return
            self._head += len(data)
        elif self.cycle.response_complete:
            self._wait(DROP_SECONDS)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """As uvicorn's; the head is whole. Raises ValueError, which the parser turns into an answer with 400."""
        if any(name == b"transfer-encoding" for name, _ in self.headers):
            raise ValueError("a body needs Content-Length")
        self._in_body, self._head = True, 0
        self._let_go()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """As uvicorn's; what comes next is a head."""
        self._in_body = False
        self._let_go()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._let_go()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _let_go(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def sender_of(peer: tuple[object, ...] | None) -> str:
    """By what connections are counted: the address, of IPv6 the network of 64 bits that one household or host is given."""
    if not peer:
        return ""
    address = ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))
    return str(address)
