"""How gently a capture treats its source: how fast it reads, and how much of the processors it uses (the manifest's ``limits``).

Both are buckets that all threads draw from. What is to be read is drawn before it is read; processor time is drawn after it was
used, by all of this process: its threads, the children it made for coding, live or ended, and the programs that drivers ran.
Whoever finds a bucket overdrawn sleeps until it is not. So the averages hold whatever the number of threads and children; a pause
saves up no more than ``_BURST`` seconds' worth, and what a thread does between two draws (a span of 4 MiB) is paid for afterwards.

Children that read for themselves (``spans``, ``zones``) are not made where there is a limit. Those that code what they are handed
(``sharing``) stand still while nobody hands them anything.

Nothing here is asked during a freeze: writers wait then, and a limit would only make them wait longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from resurgam.drivers.base import Rows, Source
from resurgam.drivers.pieces import Flags, Numbers, Pieces, Survey
from resurgam.model.system import Json
from resurgam.vault import workers

_BURST = 0.25  # seconds' worth that may be drawn at once after a pause

T = TypeVar("T")


class Pace:
    """At most ``bytes_per_second`` read, and ``processors`` processor seconds used in a second (0.5: half of one processor), both
    on average; None is no limit. ``used`` tells the processor seconds used so far, if it is not this process's to tell."""

    def __init__(
        self,
        bytes_per_second: float | None,
        processors: float | None = None,
        used: Callable[[], float] | None = None,
    ) -> None:
        self._read = _Bucket(bytes_per_second) if bytes_per_second is not None else None
        self._worked = _Bucket(processors) if processors is not None else None
        self._used = used or workers.processor_seconds
        self._counting = threading.Lock()
        self._counted = self._used()  # what a process needs to start is not the capture's

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self._read is not None or self._worked is not None

    def spend(self, size: int) -> None:
        """Wait until ``size`` more bytes may be read."""
        wait = self._read.draw(size) if self._read is not None else 0.0
        if self._worked is not None:
            wait = max(wait, self._worked.draw(self._newly_used()))
        if wait > 0:
            time.sleep(wait)

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """``items`` as they come, rows at the pace, too: to decode them is work that no ``spend`` of their image has seen."""
        for item in items:
            if self._worked is None:
                yield item
                continue
            self.spend(0)
            yield cast("T", self._rows(item)) if isinstance(item, Rows) else item

    def _rows(self, rows: Rows) -> Rows:
        pieces = _Pieces(rows.pieces, self) if rows.pieces is not None else None
        return replace(rows, batches=self.each(rows.batches), pieces=pieces)

    def _newly_used(self) -> float:
        with self._counting:
            before, self._counted = self._counted, max(self._counted, self._used())
            return self._counted - before


class _Bucket:
    """Draws of which the sum, after any time, is at most ``rate`` times that and the burst."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._even_at = time.monotonic()  # when all that was drawn is paid for

    def draw(self, amount: float) -> float:
        """Seconds to wait until that may be, or has been paid for."""
        with self._lock:
            now = time.monotonic()
            self._even_at = max(self._even_at, now - _BURST) + amount / self._rate
            return self._even_at - now


@dataclass(frozen=True)
class Paced:
    """A Source that is read at the pace, for whoever reads it beside what is captured."""

    source: Source
    pace: Pace

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See Source."""
        self.pace.spend(len(buffer))
        return self.source.read_into(offset, buffer)

    def settled(self) -> bool:
        """See Source."""
        return self.source.settled()

    def close(self) -> None:
        """See Source."""
        self.source.close()


@dataclass(frozen=True)
class _Pieces:
    """``drivers.pieces.Pieces`` of which the rows come at the pace."""

    of: Pieces
    pace: Pace

    @property
    def settings(self) -> bytes:
        """See Pieces."""
        return self.of.settings

    def survey(self, before: Survey | None, changed: Flags) -> tuple[Survey, Numbers] | None:
        """See Pieces."""
        return self.of.survey(before, changed)

    def read(self, first: int, last: int) -> Iterator[list[tuple[Json, ...]]]:
        """See Pieces."""
        return self.pace.each(self.of.read(first, last))
