"""A limit on how fast sources are read (``limits.read_mb_s``), shared by all threads of a capture."""

from __future__ import annotations

import threading
import time

_BURST = 0.25  # seconds' worth of bytes that may be read at once after a pause


class Pace:
    """At most ``bytes_per_second`` on average; None is no limit."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate is not None

    def spend(self, size: int) -> None:
        """Wait until ``size`` more bytes may be read."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST) + size / self._rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)
