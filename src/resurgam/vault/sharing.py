"""Chunks that small files share: filled here, coded by copies of this process or by its threads.

A shared chunk ends after a file whose digest says so, so that one more file among a hundred thousand does not shift the rest.
Where one thread reads the files (else: ``zones``), that is what a capture of them waits for. Threads that code beside it take the
interpreter's lock from it at every step, so they are children (``crew``) where that can be. They are made when a first
chunk is full: what fits into one is not worth them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass

from resurgam.errors import IntegrityError
from resurgam.vault.buffers import SHARED_MAX, Buffers
from resurgam.vault.crew import Crew, crew
from resurgam.vault.pack import SHORTEST, Kind
from resurgam.vault.sink import DomainKeys, Sink
from resurgam.vault.spans import coded, hand_over

SMALL = 256 << 10  # bytes; blobs below it share chunks
EMPTY_DIGEST = bytes(16)  # of a blob without bytes
SHARED_MIN, SHARED_BITS = 256 << 10, 5
_ROOM = SHARED_MAX + (64 << 10)  # a chunk that is stored as it is, and what is told of it


@dataclass(slots=True)
class Shared:
    """A chunk that small files share: its memory and how much of that is filled, then its id to be."""

    memory: mmap.mmap
    length: int = 0
    chunk: Future[bytes] | None = None
    name: bytes = b""  # what ``chunk`` has said


def ends_shared(length: int, digest: bytes) -> bool:
    """Whether a shared chunk of such a ``length`` ends after the file with this digest."""
    return length >= SHARED_MIN and not digest[0] & ((1 << SHARED_BITS) - 1)


class SharedChunks:
    """The shared chunks of one component."""

    def __init__(
        self,
        sink: Sink,
        keys: DomainKeys,
        pool: Executor,
        buffers: Buffers,
        progress: Callable[[int], None],
    ) -> None:
        self._sink, self._keys, self._pool, self._buffers, self._progress = sink, keys, pool, buffers, progress
        self._open: Shared | None = None
        self._crew: Crew[bytes] | None = None
        self._asked = False  # whether there can be a crew

    def room(self, size: int) -> memoryview:
        """Where the next file's ``size`` bytes, at most SHARED_MAX, are to be read into."""
        if self._open is not None and self._open.length + size > SHARED_MAX:
            self._close()
        if self._open is None:
            self._open = Shared(self._buffers.shared.get())
        start = self._open.length
        return memoryview(self._open.memory)[start : start + size]

    def keep(self, size: int, digest: bytes) -> tuple[Shared, int]:
        """The file that was read there is whole, and has this digest: the chunk that holds it, and its place there."""
        assert self._open is not None
        shared, start = self._open, self._open.length
        shared.length += size
        if ends_shared(shared.length, digest):
            self._close()
        return shared, start

    def id_of(self, shared: Shared) -> bytes:
        """The id of a chunk; waits until it is stored. Raises what the store raised."""
        if not shared.name:
            if shared.chunk is None:
                self._close()
            assert shared.chunk is not None
            shared.name = shared.chunk.result()
        return shared.name

    def end(self) -> None:
        """No more files come."""
        if self._open is not None:  # the last file that was read there was not kept
            self._buffers.shared.put(self._open.memory)
            self._open = None
        if self._crew is not None:
            self._crew.end()
            self._crew = None

    def _close(self) -> None:
        if self._open is None or not self._open.length:
            return
        full, self._open = self._open, None
        self._progress(full.length)
        if full.length < SHORTEST:
            full.memory[full.length], full.length = 0, SHORTEST
        if not self._asked and full.length >= SHARED_MIN:
            self._asked = True
            self._crew = crew(
                self._buffers.shared_memory, self._code, _ROOM, self._store_coded, self._buffers.shared.put
            )
        if self._crew is not None:
            full.chunk = self._crew.hand(full.memory, full.length)
        else:
            full.chunk = self._pool.submit(self._store, full.memory, full.length)

    def _store(self, memory: mmap.mmap, length: int) -> bytes:
        """In a thread: store a chunk, and give its memory back."""
        try:
            with memoryview(memory) as whole, whole[:length] as view:
                return self._sink.put(self._keys, Kind.DATA, view)
        finally:
            self._buffers.shared.put(memory)

    def _code(self, data: memoryview, out: memoryview) -> int:
        """In a child."""
        return hand_over(len(data), 1, [self._sink.coded(self._keys, data)], out)

    def _store_coded(self, data: memoryview, result: memoryview) -> bytes:
        """In a thread: store what a child has coded, which is named here once more: else memory that is not shared after all
        would be found by a restore."""
        if self._sink.stopping:
            raise CancelledError  # as those threads that had not begun
        (piece,) = coded(result).pieces
        if piece.chunk != self._keys.id_of(Kind.DATA, data):
            raise IntegrityError(
                "A process that shared the work read other bytes than were handed to it.",
                untouched="What it made is not used.",
                next_step="Run the same command again; if this comes back, test this host's memory.",
            )
        return self._sink.put_coded(self._keys, piece)[0]
