"""The store port: a flat space of named, write-once objects. The vault needs nothing more of a folder or a bucket.

A name is one or more parts of ``[a-z0-9._-]`` joined by ``/``, at most 200 characters, no part ``.`` or ``..``
(:func:`checked_name` refuses others on the way in *and* on the way out). No name stands both for an object and
for the beginning of others (``a``, ``a/b``), nor begins with ``tmp/``: a folder cannot hold the one and needs the other.
Contract, and what is lost if it is broken:

* **Create-only.** ``put`` of a name that exists MUST raise :class:`AlreadyThere` and change nothing. Else a writer could
  replace a recovery point (P2).
* **Whole or not at all.** An object MUST NOT be seen before all its bytes are durable, also after a power cut. Else a
  point could be sealed over bytes that are gone (P1).
* **Read after write.** What ``put`` has returned for MUST be seen by every later ``get`` and ``list``.
* ``list`` MUST be complete and sorted by name. Else prune would free what a missed point needs.
* A short or changed read is not the store's to find: chunks and records authenticate themselves.

**A lost response.** A put may take effect although its caller hears Unreachable, or, from a client that tries again by itself,
AlreadyThere. So whoever writes into a vault does it by :func:`put_once`, which reads back and compares, and never invents success.

Errors: NotFound, :class:`AlreadyThere`, StoreFull, Denied, Unreachable (transient), and no other for what the world does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from resurgam.errors import Denied, IntegrityError, NotFound, ResurgamError, Unreachable

Buffer = bytes | bytearray | memoryview

_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*")
MAX_NAME = 200


class AlreadyThere(ResurgamError):
    """``put`` met an object of that name. Whether that is a conflict or one's own lost response is the caller's to find
    by reading it back."""


class Entry(NamedTuple):
    """One listed object: its name, size in bytes, and when the store received it (seconds since 1970, store's clock)."""

    name: str
    size: int
    received: float


class Store(Protocol):
    """See the module's docstring for the contract."""

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Create ``name`` durably. Raises AlreadyThere, StoreFull, Denied, Unreachable."""
        ...

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of ``name`` from ``offset``; fewer than ``length`` only at its end. Raises NotFound."""
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As ``get``, into ``buffer``; returns the number of bytes read. Safe from several threads. Raises NotFound."""
        ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose names begin with ``prefix`` (any string, not only whole parts), sorted by name."""
        ...

    def delete(self, name: str) -> None:
        """Remove ``name``; no error where it is gone already. Raises Denied (a forbidden delete fails loudly)."""
        ...

    def describe(self) -> str:
        """Where this is, for people; no secret."""
        ...


@runtime_checkable
class Tidy(Protocol):
    """What a store can that tells what stands in its place and is none of its objects; found by ``isinstance``."""

    def strays(self) -> list[str]:
        """The names of it, sorted. Raises NotFound, Denied, Unreachable."""
        ...


@runtime_checkable
class Several(Protocol):
    """What a store can that reads several copies of the same objects (``stores.together``); found by ``isinstance``."""

    def each_copy(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """What each copy has of ``name``, as ``get``; see :func:`of_each_copy`."""
        ...


def of_each_copy(store: Store, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
    """The bytes of ``name`` as ``get``, of each copy that has it where ``store`` reads several, the preferred one first. Whoever
    asks for the next one says by that that the one before was no good. Raises NotFound where none has it."""
    if isinstance(store, Several):
        yield from store.each_copy(name, offset, length)
    else:
        yield store.get(name, offset, length)


def put_once(store: Store, name: str, data: Buffer, *, by_digest: bool = False) -> None:
    """Create ``name``, and be sure of it: after a lost response the object is read back, and success is what was found there.

    Raises AlreadyThere where another's object stands, Unreachable where it is not known, StoreFull, Denied. Every object of a
    vault holds something random or a signature, so that equal bytes are one's own. The rule is that of Icechunk's conditional
    puts: stamp what is written, compare on a conflict, never turn a failure into a success.
    """
    try:
        store.put(name, data)
    except (AlreadyThere, Unreachable):
        if not _holds(store, name, data, by_digest):
            raise


def _holds(store: Store, name: str, data: Buffer, by_digest: bool) -> bool:
    try:
        return store.get(name) == data
    except (NotFound, Unreachable):
        return False  # a put that is still on its way may land later: that is not known to be success
    except Denied:
        if not by_digest:
            raise
    size = memoryview(data).nbytes
    return any((entry.name, entry.size) == (name, size) for entry in store.list(name))


def require_listed(store: Store, name: str) -> None:
    """``name`` was just put: a listing shows it, or else Denied. A store whose listings lag breaks the contract above, and two
    who look for each other by listing (a capture and a prune) would both go on."""
    if not any(entry.name == name for entry in store.list(name)):
        raise Denied(
            f"{store.describe()} does not list {name}, which was just written there: its listings lag behind.",
            untouched="Nothing that was sealed is touched.",
            next_step="Use a store whose listings are consistent; of a replicated bucket, name the one that is written to.",
        )


def checked_name(name: str) -> str:
    """``name`` itself when it is a valid object name; IntegrityError otherwise."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise IntegrityError(
            f"{name[:80]!r} is not an object name of a vault.",
            untouched="Nothing was read or written under it.",
            next_step="If a listing returned it, something else has written into the vault's folder: move it away.",
        )
    return name
