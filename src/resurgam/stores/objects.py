"""A bucket as a store: S3, Google Cloud Storage, Azure, or memory, through the one library ``obstore``.

* **Create-only** is the server's: ``If-None-Match: *`` on S3 and Azure, ``x-goog-if-generation-match: 0`` on Google. Who asked
  first has won, whoever else asks; a server that ignores the condition is found by ``promises.py`` and refused.
* **One object, one request.** An object goes up whole, in a single PUT, also a large one. Uploads in parts are made whole by a
  last request of their own, on which obstore cannot state the condition, and which SeaweedFS 4.48 accepts from two writers at
  once even when it is stated (three of ten races). So they are not create-only, and nothing here uses them. The largest objects
  of a vault are packs of 32 MiB and index segments of some 50 MB; what is above ``LARGEST`` is refused before it is sent.
* **Whole or not at all, durable, read after write** are what these services promise of a single PUT that they have confirmed.
* **Read in parallel.** What is longer than ``STEP`` is read in ranges of that, ``READERS`` at a time, each into its own place.
* **Lists** go through all pages, and are sorted here: SeaweedFS, for one, sorts each folder by itself.
* **Time is bounded.** A request that gets no answer is tried again, after waits that double and are drawn at random between
  bounds, for at most ``PATIENCE``; then it is Unreachable. A put that is tried again may meet its own first try: AlreadyThere,
  which ``base.put_once`` reads back.

No bytes are copied that need not be: three packs on their way would be three more in memory. A put sends from the caller's own, of
which obstore lets go some time after the answer, when the next pack may lie in it already. What a try that had no answer still
sends from there then comes too late: the server gave its answer for a name that stands, and takes no other bytes for it.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from resurgam.errors import Denied, IntegrityError, NotFound, Unreachable
from resurgam.stores.answers import told
from resurgam.stores.base import Buffer, Entry, checked_name

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ClientConfig, RetryConfig

STEP = 8 << 20  # bytes of one ranged read
PIECE = 256 << 10  # bytes of an answer that are taken over at a time
READERS = 8  # ranged reads under way at a time, for one store
LARGEST = 5_000_000_000  # bytes of one object: what S3 (5 GiB) and Azure (5000 MiB) take in one request
PATIENCE = timedelta(seconds=60)  # after it, a request without answer is not tried again
CLIENT: ClientConfig = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "10min"}
RETRY: RetryConfig = {
    "max_retries": 6,
    "retry_timeout": PATIENCE,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}

Bucket = S3Store | GCSStore | AzureStore | MemoryStore


class ObjectStore:
    """See the module's docstring; the contract is that of ``stores.base``. Safe from several threads and processes."""

    def __init__(self, bucket: Bucket, where: str) -> None:
        """``bucket`` is bound to its prefix; ``where`` is for people, without a secret."""
        self._bucket, self._where = bucket, where
        self._lock = threading.Lock()
        self._readers: ThreadPoolExecutor | None = None

    def describe(self) -> str:
        """The bucket, the prefix and the endpoint."""
        return self._where

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._where}>"

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Create ``name`` durably. An iterable is joined in memory. Raises AlreadyThere, StoreFull, Denied, Unreachable."""
        checked_name(name)
        whole = self._whole(name, data)
        if isinstance(self._bucket, MemoryStore):
            whole = bytes(whole)  # it keeps what it is given
        with told("written", name, self._where, reading=False):
            obstore.put(
                self._bucket, name, whole, mode="create", use_multipart=False
            )  # P2: never over an existing object

    def delete(self, name: str) -> None:
        """Remove ``name``; no error where it is gone already. Raises Denied, Unreachable."""
        checked_name(name)
        try:
            with told("deleted", name, self._where, reading=False):
                obstore.delete(self._bucket, name)
        except NotFound:
            return

    def _whole(self, name: str, data: Buffer | Iterable[Buffer]) -> Buffer:
        """``data`` in one piece, not copied where it is one. Raises Denied where it is too large for one request."""
        whole = data if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        if (size := memoryview(whole).nbytes) > LARGEST:
            raise Denied(
                f"{name} has {size:,} bytes; an object of more than {LARGEST:,} cannot be created in one request.",
                untouched="Nothing was written.",
                next_step="Use a folder for this vault.",
            )
        return whole

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of ``name`` from ``offset``; fewer than ``length`` only at its end. Raises NotFound."""
        first, size = self._first(name, offset, STEP if length is None else min(length, STEP))
        end = size if length is None else min(size, offset + length)
        if offset + len(first) >= end:
            return bytes(first)
        buffer = bytearray(end - offset)
        buffer[: len(first)] = first
        self._fill(name, offset + len(first), memoryview(buffer)[len(first) :])
        return bytes(buffer)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As ``get``, into ``buffer``; returns the number of bytes read. Safe from several threads. Raises NotFound."""
        view = buffer.cast("B")
        step = view[:STEP]
        first, size = self._first(name, offset, len(step), step)
        wanted = min(len(view), max(size - offset, 0))
        if len(first) < wanted:
            self._fill(name, offset + len(first), view[len(first) : wanted])
        return wanted

    def _first(self, name: str, offset: int, length: int, room: memoryview | None = None) -> tuple[memoryview, int]:
        """The first ``length`` bytes from ``offset``, or as many as there are, in ``room`` where there is one, and the object's
        whole size: one request but at the end, beyond which no server gives a range."""
        checked_name(name)
        assert min(offset, length) >= 0
        with told("read", name, self._where):
            try:
                if not length:
                    return memoryview(b""), obstore.head(self._bucket, name)["size"]
                got = obstore.get(self._bucket, name, options={"range": (offset, offset + length)})
                size = got.meta["size"]
                if room is None:
                    return memoryview(got.bytes()), size
                return self._poured(got, name, room[: max(min(length, size - offset), 0)]), size
            except obstore.exceptions.GenericError:
                size = obstore.head(self._bucket, name)["size"]
                if offset < size:
                    raise
                return memoryview(b""), size

    def _poured(self, got: GetResult, name: str, room: memoryview) -> memoryview:
        """``room``, full of an answer, of which no more than ``PIECE`` bytes lie elsewhere at a time."""
        done = 0
        for piece in got.stream(min_chunk_size=PIECE):
            data = memoryview(piece)
            fits = max(min(len(data), len(room) - done), 0)  # a server may answer more than it was asked for
            room[done : done + fits] = data[:fits]
            done += len(data)
        if done != len(room):
            raise Unreachable(
                f"{self._where} answered {done} of {len(room)} bytes of {name}.",
                untouched="Nothing was changed.",
                next_step="Run the same command again.",
            )
        return room

    def _fill(self, name: str, offset: int, view: memoryview) -> None:
        """All of ``view`` from ``offset``, which the object has, in ranges side by side."""

        def piece(start: int) -> None:
            room = view[start : start + STEP]
            self._first(name, offset + start, len(room), room)

        list(self._pool().map(piece, range(0, len(view), STEP)))

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            self._readers = self._readers or ThreadPoolExecutor(READERS, thread_name_prefix="objects")
            return self._readers

    # --- listing ------------------------------------------------------------------------------------------------------

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose names begin with ``prefix``, sorted by name; what has no object's name is left out."""
        yield from sorted(entry for entry in self._listed(prefix) if is_name(entry.name))

    def strays(self) -> builtins.list[str]:
        """Names below the prefix that no object of a vault has."""
        return sorted(entry.name for entry in self._listed("") if not is_name(entry.name))

    def _listed(self, prefix: str) -> Iterator[Entry]:
        """As the server has it. obstore lists whole folders, so the last part of ``prefix`` is compared here."""
        folder = prefix.rpartition("/")[0]
        if folder and not is_name(folder):
            return
        with told("listed", prefix or "the vault", self._where):
            for page in obstore.list(self._bucket, prefix=folder or None, chunk_size=1000):
                for meta in page:
                    if meta["path"].startswith(prefix):
                        yield Entry(meta["path"], meta["size"], meta["last_modified"].timestamp())


def is_name(name: str) -> bool:
    """Whether ``name`` is one that an object of a vault can have."""
    try:
        checked_name(name)
    except IntegrityError:
        return False
    return True
