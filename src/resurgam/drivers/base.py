"""The driver port: seven verbs between one kind of store and two kinds of item. No base class; a driver is one class.

The life of a component in a capture::

    facts = driver.inspect(component)                  # read-only; what it is and how big
    with driver.freeze(component) as position: ...     # all components are frozen together, then all are let go
    for item in driver.read(component, position): ...  # bytes are read after the thaw, as they were at the position
    driver.release(component, position)                # pins go; repeatable

and in a restore::

    driver.write(items, target)                        # only into an empty, isolated place
    driver.fingerprint(target)                         # what it means; equal after a faithful restore
    driver.erase(target)                               # repeatable

Rules, and what is lost if they are broken:

* ``freeze`` lets go on every way out, also when the process dies. Else a backup stops production.
* The same position gives the same items in the same order. Else nothing can be compared or resumed.
* What was written after the freeze stays out of ``read``, as far as ``Position.earned`` claims it. Else a point relates
  states that never were together.
* ``write`` refuses a target that is not empty (TargetRefused), raises IntegrityError on a missing or unknown item, and
  builds beside ``target.location`` before it becomes it by one rename (P5).
* No secret in facts, item paths, meta, logs or errors.
* Errors are those of ``resurgam.errors``: Denied, Unreachable, NotFound, Busy, LimitExceeded, IntegrityError, TargetRefused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from resurgam.model.point import Finding, Position
from resurgam.model.system import Component, Consistency, Json

if TYPE_CHECKING:
    from resurgam.drivers.pieces import Pieces

COPY_STEP = 1 << 20  # bytes moved at a time where a source has no faster way of its own

K = TypeVar("K")  # what a reader remembers of an item; its own affair
Tell = Callable[[memoryview], object]  # is given bytes, in order


class Equality(StrEnum):
    """What two faithful restores have in common: every byte, or what the bytes mean."""

    BYTES = "bytes"
    LOGICAL = "logical"


class Freeze(StrEnum):
    """How a position is held: a PIN costs milliseconds, a private COPY costs the time to copy, LISTING holds nothing."""

    PIN = "pin"
    COPY = "copy"
    LISTING = "listing"


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """Differences between drivers as data. ``consistency`` is the best it can earn, ``freeze_limit`` the seconds after
    which its freeze must have let go. Where it ``describes``, a restore says what was there and cannot become it: the live
    one is neither hidden from a judged copy nor exchanged by a promotion. ``writers_wait`` where a freeze that copies holds the
    source's writers meanwhile. ``files`` where what stands at its location, in each copy too, are the very files that
    programs open: models are loaded from them. ``look`` is a command for people who want to see what a restored copy at
    ``{place}`` holds."""

    consistency: Consistency
    equality: Equality
    freeze: Freeze
    freeze_limit: float
    describes: bool = False
    writers_wait: bool = True
    files: bool = False
    look: str = "ls -lR {place}"


class Source(Protocol):
    """The bytes of a Blob, read by position, by several threads at once."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset``; returns the bytes read, fewer only at the end."""
        ...

    def settled(self) -> bool:
        """Asked once after the last read: whether the bytes stood still meanwhile. False asks the reader to read again."""
        ...

    def close(self) -> None:
        """Let go of what it holds; repeatable."""
        ...


@runtime_checkable
class CopiesItself(Protocol):
    """A Source with a faster way into a file than ``read_into`` in a loop (the vault's own, in parallel)."""

    def copy_to(self, descriptor: int, tell: Tell | None = None) -> bool:
        """Write all bytes into the empty file ``descriptor`` from offset 0; runs of zeros may become holes.

        A caller that will not read the file again gives ``tell``. The answer is whether that was told all bytes, in order: then
        they may have gone past the page cache. Else it was told none of them.
        """
        ...


class InMemory:
    """A Source over bytes that were read already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def settled(self) -> bool:
        """Bytes in memory stand still."""
        return True

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class Blob:
    """Named bytes. ``path`` is relative, ``/`` between parts, any bytes but NUL. ``meta`` is what the driver needs to write it
    back (JSON values, and bytes). Where ``stamp`` is given, equal stamps of one path promise equal bytes, so an unchanged
    Blob is not read again. ``view`` says that what follows up to the next Blob (Rows, findings) is decoded from this one: when
    the reader finds ``stamp`` unchanged it sets ``known``, and then nothing of that need be yielded again. A driver with more
    findings to tell, that are not of this Blob's bytes, sets ``view`` back to False before it yields them. ``in_place`` says that
    its records are changed where they lie and never moved: what changes of it is looked for there."""

    path: bytes
    size: int
    source: Source
    meta: Mapping[str, Json] = field(default_factory=dict)
    stamp: bytes | None = None
    view: bool = False
    known: bool = False
    in_place: bool = False

    def read(self) -> bytes:
        """All bytes at once, for small ones."""
        buffer = bytearray(self.size)
        done = read_fully(self.source, 0, memoryview(buffer))
        return bytes(buffer[:done])

    def copy_to(self, descriptor: int, tell: Tell | None = None) -> bool:
        """Write all bytes into the empty file ``descriptor``; for ``tell`` and the answer see ``CopiesItself``."""
        if isinstance(self.source, CopiesItself):
            return self.source.copy_to(descriptor, tell)
        buffer = memoryview(bytearray(min(COPY_STEP, max(self.size, 1))))
        offset = 0
        while offset < self.size:
            done = self.source.read_into(offset, buffer[: self.size - offset])
            if not done:
                break
            write_fully(descriptor, buffer[:done], offset)
            offset += done
        return False


@dataclass(slots=True)
class Rows:
    """A keyed table. ``batches`` yields lists of rows, each a tuple of None, int, float, str or bytes in the order of ``columns``;
    bytes that should be text but are not UTF-8 come as bytes. ``key`` names the key's columns (empty: a table without
    one; its rows are known by their digests, with multiplicity). Any order: the vault sorts keys. ``view_of`` names the Blob
    from which these rows are decoded: the vault then keeps key -> digest only, and where there are ``pieces`` decodes only
    those that changed."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    batches: Iterable[list[tuple[Json, ...]]]
    view_of: bytes | None = None
    pieces: Pieces | None = None


Item = Blob | Rows
Facts = dict[str, Json]


@runtime_checkable
class Driver(Protocol):
    """See the module's docstring."""

    @property
    def kind(self) -> str:
        """The word in the manifest."""
        ...

    @property
    def traits(self) -> Traits:
        """What it can and cannot."""
        ...

    def inspect(self, component: Component) -> Facts:
        """Identity, version, size (``bytes``), settings that change answers. Read-only.

        Raises NotFound, Denied, Unreachable, IntegrityError, ManifestError (its options are wrong).
        """
        ...

    def freeze(self, component: Component, limit: float | None = None) -> AbstractContextManager[Position]:
        """Hold the writers or pin a state; yields the position; always lets go.

        ``limit`` is the seconds that the owner allows; the smaller of it and the driver's own ``freeze_limit`` counts. Raises
        LimitExceeded when there was no moment to freeze in within that time, or the hold lasted longer.
        """
        ...

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """The items at the position; a Finding among them tells of what could not be read as wished."""
        ...

    def release(self, component: Component, at: Position) -> None:
        """Drop what ``freeze`` pinned; repeatable, and harmless for an unknown position."""
        ...

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """Build the component at ``target.location``, which must not exist or be empty; returns it bound there."""
        ...

    def fingerprint(self, component: Component) -> str:
        """Hex digest of what the component means now; equal after a faithful restore."""
        ...

    def erase(self, target: Component) -> None:
        """Remove what ``write`` made or left half made; repeatable."""
        ...


Drivers = Callable[[str], Driver]  # by kind; raises ManifestError or MissingExtra where there is none


@runtime_checkable
class Queries(Protocol):
    """An optional port: asks a statement of a frozen component, for invariants and oracles."""

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """The rows of ``statement`` at the position. Raises ManifestError where the statement is wrong."""
        ...


@runtime_checkable
class SkipsKnown(Protocol):
    """An optional port: reads without making anew, one by one, the many items that the reader remembers."""

    def read_unknown(
        self, component: Component, at: Position, known: Callable[[Sequence[bytes]], Sequence[K | None]]
    ) -> Iterator[Item | Finding | K]:
        """As ``read``; in the place of a Blob that the reader remembers comes what it remembers.

        ``known`` is asked of many keys at a time, all calls together in ascending order. A key is path, NUL and stamp of a
        Blob that may come; here equal keys promise equal bytes *and* equal meta. Any Blob may come for all that.
        """
        ...


@runtime_checkable
class Reopens(Protocol):
    """An optional port: gives the bytes of a Blob once more."""

    def reopen(self, component: Component, at: Position, path: bytes) -> Source:
        """Those that lie under ``path`` now, closed by the caller. They may have changed since they were read; nobody asks whether
        they settled: who needs what was, compares. Raises NotFound, Denied, Unreachable."""
        ...


@runtime_checkable
class LeavesOut(Protocol):
    """An optional port: tells what stands in a component's place without being of the component."""

    def left_out(self, component: Component) -> list[bytes]:
        """The topmost paths, relative to the location and sorted, that the options leave out; all of them, or Denied."""
        ...


@runtime_checkable
class HoldsWork(Protocol):
    """An optional port: tells what in a component would go on, or end, once an application runs on it again."""

    def pending(self, component: Component, now: datetime) -> list[str]:
        """One line for each thread that waits, run that was cut off, date that passes; no contents. Read-only."""
        ...


class Told(NamedTuple):
    """How a row of a table differs, in words: its table, the values of its key, and what there is to say. Where values of the store
    are among the words, ``under`` is the name that they stand under."""

    table: str
    key: tuple[Json, ...]
    said: str
    under: str = ""


@runtime_checkable
class Tells(Protocol):
    """An optional port: tells how two versions of a Blob differ in the rows that are decoded from it, from their bytes alone and
    with what no comparison of values shows (the norm of a tensor's difference). Without it, copies are restored and read."""

    def tell(self, component: Component, before: Blob | None, after: Blob | None) -> Iterator[Told]:
        """Every row that differs; rows that do not may be among them. One version may be missing. Raises what reading raises."""
        ...


def read_fully(source: Source, offset: int, buffer: memoryview) -> int:
    """``read_into`` until ``buffer`` is full or the bytes end; returns the bytes read."""
    done = 0
    while done < len(buffer):
        step = source.read_into(offset + done, buffer[done:])
        if not step:
            break
        done += step
    return done


def write_fully(descriptor: int, data: memoryview, offset: int) -> None:
    """``os.pwrite`` until all of ``data`` is written at ``offset``."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
