"""What is told of requests: one JSON line for each that was refused (for every one, if so asked), and figures for Prometheus.

No secret is in either: a token is named by its public id, and of what a client sent only what is an object's name or a path of the
gateway. Labels take few values, so that nobody can fill a Prometheus by asking strange things.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TextIO

import msgspec

from resurgam.clock import Clock

_ANSWERS = (404, 412, 416)  # nothing there, there already, nothing further: no refusals
_LONGEST = 240  # characters of a path that are told


@dataclass
class Asked:
    """One request, filled in as it becomes known. ``status`` 0: its client went away."""

    client: str
    method: str
    path: str
    role: str = "none"
    token: str = ""
    operation: str = "none"
    status: int = 0
    why: str = ""
    received: int = 0  # bytes of bodies
    sent: int = 0


class Account:
    """Counts and tells. Safe from several threads."""

    def __init__(self, clock: Clock, every: bool = False, to: TextIO | None = None) -> None:
        self._clock, self._every, self._to = clock, every, to or sys.stderr
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._bytes: Counter[str] = Counter()
        self._seconds = 0.0
        self.under_way = 0

    def tell(self, asked: Asked, seconds: float) -> None:
        """That ``asked`` has ended."""
        with self._lock:
            self._requests[asked.role, asked.operation, asked.status] += 1
            self._bytes["received"] += asked.received
            self._bytes["sent"] += asked.sent
            self._seconds += seconds
        if self._every or (asked.status >= 400 and asked.status not in _ANSWERS):
            line = {
                "time": self._clock.now().isoformat(timespec="milliseconds"),
                "client": asked.client,
                "role": asked.role,
                "token": asked.token,
                "method": asked.method,
                "path": asked.path[:_LONGEST],
                "status": asked.status,
                "why": asked.why,
                "received": asked.received,
                "sent": asked.sent,
                "seconds": round(seconds, 6),
            }
            self._to.write(msgspec.json.encode(line).decode() + "\n")
            self._to.flush()

    def figures(self, free: int) -> str:
        """Everything counted, in the text format of Prometheus, version 0.0.4; ``free`` bytes are left on the disk."""
        with self._lock:
            lines = ["# TYPE resurgam_gateway_requests_total counter"]
            for (role, operation, status), count in sorted(self._requests.items()):
                labels = f'role="{role}",operation="{operation}",status="{status}"'
                lines.append(f"resurgam_gateway_requests_total{{{labels}}} {count}")
            lines.append("# TYPE resurgam_gateway_refused_total counter")
            refused = sum(count for (_, _, status), count in self._requests.items() if status in (401, 403))
            lines.append(f"resurgam_gateway_refused_total {refused}")
            lines.append("# TYPE resurgam_gateway_bytes_total counter")
            ways = ("received", "sent")
            lines += [f'resurgam_gateway_bytes_total{{way="{way}"}} {self._bytes[way]}' for way in ways]
            lines.append("# TYPE resurgam_gateway_request_seconds_total counter")
            lines.append(f"resurgam_gateway_request_seconds_total {self._seconds:.6f}")
            lines.append("# TYPE resurgam_gateway_requests_under_way gauge")
            lines.append(f"resurgam_gateway_requests_under_way {self.under_way}")
        lines.append("# TYPE resurgam_gateway_free_bytes gauge")
        lines.append(f"resurgam_gateway_free_bytes {free}")
        return "\n".join(lines) + "\n"
