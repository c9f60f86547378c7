"""Ports for the tests' servers."""

from __future__ import annotations

import errno
import socket
from random import SystemRandom

OURS = range(10_000, 32_000)  # below those that Linux gives to connections, by ip_local_port_range: 32768 and up


def free_ports(count: int) -> list[int]:
    """Ports that are free, all different, and that no connection is given while a server is down: it may start again with them."""
    found: set[int] = set()
    while len(found) < count:
        port = SystemRandom().choice(OURS)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                found.add(port)
    return list(found)
