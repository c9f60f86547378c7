"""Many small blobs, taken in by copies of this process, where the host remembers nothing of a component.

    parent    list the keys, fork ..... asked for some keys: take and store results until all of those are answered ...
    child     go through the same items: read those of its own zones, fill a shared chunk, code it, hand it over ...

A file of a few KiB costs the interpreter more than the bytes do, so that one thread is what a capture of a hundred thousand would
wait for. A driver gives the same items in the same order whenever it is asked (``drivers.base``), and leaves out those that its
reader knows (``SkipsKnown``). So each child goes through all of them as a reader who knows all but its own, and the parent as one
who knows what the children have taken in.

A child takes in what is small, stands still, and is what its key says. All else the parent meets in its own order, as if there were
no children, and says of it what there is to say.

Keys are divided into zones, every n-th a child's. They end where a leaf of the tree ends for a path's own sake, and shared chunks
with them: so one file more shifts few of those.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from blake3 import blake3

from resurgam.drivers.base import Blob, Item, K, SkipsKnown, read_fully
from resurgam.errors import ResurgamError
from resurgam.model.codec import msgpack_decoder, to_msgpack
from resurgam.model.point import Finding, Position
from resurgam.model.system import Component
from resurgam.vault import workers
from resurgam.vault.buffers import SHARED_MAX
from resurgam.vault.filescache import Known, key_of, known_of
from resurgam.vault.makers import Makers, sharers
from resurgam.vault.pack import Kind
from resurgam.vault.sharing import EMPTY_DIGEST, SMALL, ends_shared
from resurgam.vault.sink import CodedPiece, DomainKeys, Sink, padded
from resurgam.vault.snapshots import Extent
from resurgam.vault.spans import coded, end_of, hand_over

MANY = 2_000  # keys from which children gain more than they cost
MOST_AHEAD = 1 << 15  # blobs taken in before the parent asks for them
_LEAST_ZONE, _MOST_ZONE, _LATE = 512, 4096, 2048  # keys; where no leaf ends, a zone ends that many late
_ZONES_EACH = 8  # where there are so many keys: one child's share is then hardly larger than another's
_TOLD = 1 << 20  # bytes that may be told of the blobs in one chunk
_ROOM = SHARED_MAX + _TOLD + (64 << 10)
_HEAD = struct.Struct("<QQQ")  # the zone, up to which key all are answered, bytes told of blobs


class Reading(NamedTuple):
    """What can be read of a component, again and again."""

    driver: SkipsKnown
    component: Component
    at: Position

    def items(self, known: Callable[[Sequence[bytes]], Sequence[K | None]]) -> Iterator[Item | Finding | K]:
        """See ``SkipsKnown``."""
        return self.driver.read_unknown(self.component, self.at, known)


class _Small(NamedTuple):
    """A blob whose bytes lie from ``start`` on in the chunk that is being filled."""

    blob: Blob
    digest: bytes
    start: int


class _Filled(NamedTuple):
    """What a child hands over: so many bytes of a chunk, the blobs in it, and up to which key of a zone all are answered."""

    zone: int
    until: int
    length: int
    blobs: list[_Small]


class ZoneReaders:
    """See the module's docstring."""

    def __init__(
        self,
        sink: Sink,
        keys: DomainKeys,
        reading: Reading,
        listed: Sequence[bytes],
        ends_after: Callable[[bytes], bool],
    ) -> None:
        """``listed`` are all keys that ``reading`` asks for; ``ends_after`` says whether a leaf ends after a path."""
        self._sink, self._keys, self._reading, self._listed = sink, keys, reading, listed
        self._ends_after = ends_after
        self._ends = _zones(listed, ends_after)
        self._starts = [0, *self._ends[:-1]]
        self._reached = list(self._starts)  # of each zone: up to which key all are answered
        self._zone = 0  # the first of which not all are
        self._asked = 0  # up to which key all were asked for; some are twice
        self._ahead: dict[bytes, Known] = {}
        self._room = memoryview(bytearray(SHARED_MAX))  # each child's own, once it writes there
        self._work: Makers[_Filled] | None = sharers(len(self._ends), self._share, self._make, _ROOM)

    @property
    def at_work(self) -> bool:
        """Whether there are children."""
        return self._work is not None

    def known(self, keys: Sequence[bytes]) -> list[Known | None]:
        """What the children took in of the next keys; waits for it. Raises what went wrong with one of them, or with the store."""
        self._asked = max(self._asked, bisect_right(self._listed, keys[-1]))
        while self._work is not None and self._zone < len(self._ends) and self._reached[self._zone] < self._asked:
            if not self._take_some(self._work):
                self.end()
        return [self._ahead.pop(key, None) for key in keys]

    def end(self) -> None:
        """Leave no child; repeatable."""
        work, self._work = self._work, None
        if work is not None:
            work.end()

    def _take_some(self, work: Makers[_Filled]) -> bool:
        """A result, from the child that is waited for where the others are far enough ahead; False where there is none."""
        if len(self._ahead) < MOST_AHEAD:
            return work.take_some(self._take)
        return work.take_from(self._zone % work.count, self._take)

    def _take(self, _number: int, result: memoryview) -> None:
        zone, until, told = _HEAD.unpack_from(result)
        rest = result[_HEAD.size :]
        for known in msgpack_decoder(list[Known]).decode(bytes(rest[:told])):  # which keep parts of it
            self._ahead[known.key] = known
        for piece in coded(rest[told:]).pieces:
            self._sink.put_coded(self._keys, piece)
        self._reached[zone] = until
        while self._zone < len(self._ends) and self._reached[self._zone] == self._ends[self._zone]:
            self._zone += 1

    def _share(self, number: int, count: int) -> Iterator[_Filled]:
        """In a child: what comes of each of its zones, chunk by chunk; the last of a zone says that all its keys are answered."""
        chunk = _Chunk(self._room, self._keys.chunk_ids[Kind.DATA])
        zone, at = number, self._starts[number]
        for item in self._reading.items(_Answers(self._ends, number, count).known):
            if not isinstance(item, Blob):
                continue
            with closing(item.source):
                name = item.path + b"\0"
                while zone < len(self._ends) and self._listed[at] < name:
                    at += 1
                    if at == self._ends[zone]:
                        yield chunk.ended(zone, at)
                        zone += count
                        at = self._starts[zone] if zone < len(self._ends) else at
                if zone >= len(self._ends) or key_of(item) != self._listed[at] or not chunk.may_hold(item):
                    continue  # the parent's
                if not chunk.has_room(item):
                    yield chunk.ended(zone, at)
                if chunk.take(item):
                    yield chunk.ended(zone, at + 1)
        while zone < len(self._ends):
            yield chunk.ended(zone, self._ends[zone])
            zone += count

    def _make(self, filled: _Filled, out: memoryview) -> int:
        """In a child: code a chunk, and tell of the blobs in it."""
        pieces: list[CodedPiece] = []
        if filled.length:
            pieces.append(self._sink.coded(self._keys, padded(self._room[: filled.length])))
        told = to_msgpack([self._known_of(small, pieces) for small in filled.blobs])
        end = _HEAD.size + len(told)
        _HEAD.pack_into(out, 0, filled.zone, filled.until, len(told))
        out[_HEAD.size : end] = told
        return end + hand_over(filled.length, len(pieces), pieces, out[end:])

    def _known_of(self, small: _Small, pieces: list[CodedPiece]) -> Known:
        blob = small.blob
        extents: list[Extent] = [(pieces[0].chunk, small.start, blob.size)] if blob.size else []
        return known_of(blob, small.digest, extents, {}, self._ends_after(blob.path), None, self._put)

    def _put(self, kind: Kind, data: bytes) -> bytes:
        raise AssertionError(f"one extent needs no page, and {len(data)} bytes of {kind} were to be one")


class _Answers:
    """In a child: what a reader says that knows all but its own zones."""

    def __init__(self, ends: Sequence[int], number: int, count: int) -> None:
        self._ends, self._number, self._count, self._at = ends, number, count, 0

    def known(self, keys: Sequence[bytes]) -> list[bool | None]:
        """None of its own keys."""
        answers: list[bool | None] = []
        last = self._at + len(keys)
        while self._at < last:
            zone = bisect_right(self._ends, self._at)
            end = min(self._ends[zone], last)
            answers += [None if zone % self._count == self._number else True] * (end - self._at)
            self._at = end
        return answers


class _Chunk:
    """In a child: the chunk that is being filled."""

    def __init__(self, room: memoryview, key: bytes) -> None:
        self._room, self._key = room, key
        self._blobs: list[_Small] = []
        self._length = self._told = 0

    def may_hold(self, blob: Blob) -> bool:
        """Whether it may lie in such a chunk at all."""
        return blob.size < SMALL and not blob.view and _told_of(blob) <= _TOLD

    def has_room(self, blob: Blob) -> bool:
        """Whether ``blob`` fits in what is left of it."""
        return self._length + blob.size <= SHARED_MAX and self._told + _told_of(blob) <= _TOLD

    def take(self, blob: Blob) -> bool:
        """Read ``blob`` into it, unless that is not still; True where the chunk ends then."""
        with self._room[self._length : self._length + blob.size] as view:
            try:
                done = read_fully(blob.source, 0, view) if blob.size else end_of(blob.source, 0)
                if done != blob.size or not blob.source.settled():
                    return False
            except ResurgamError:  # the parent meets it, too
                return False
            digest = blake3(view, key=self._key).digest(16) if blob.size else EMPTY_DIGEST
        self._blobs.append(_Small(blob, digest, self._length))
        self._length += blob.size
        self._told += _told_of(blob)
        return bool(blob.size) and ends_shared(self._length, digest)

    def ended(self, zone: int, until: int) -> _Filled:
        """What there is of it; the next one begins."""
        filled = _Filled(zone, until, self._length, self._blobs)
        self._blobs, self._length, self._told = [], 0, 0
        return filled


def zone_readers(
    sink: Sink, keys: DomainKeys, reading: Reading, ends_after: Callable[[bytes], bool]
) -> ZoneReaders | None:
    """Children that take in what ``reading`` gives; None where there is too little of it, or no use in them."""
    listed: list[bytes] = []

    def count(some: Sequence[bytes]) -> list[bool]:
        listed.extend(some)
        return [True] * len(some)

    if not workers.shares():
        return None
    for _ in reading.items(count):
        pass
    if len(listed) < MANY:
        return None
    made = ZoneReaders(sink, keys, reading, listed, ends_after)
    return made if made.at_work else None


def _zones(listed: Sequence[bytes], ends_after: Callable[[bytes], bool]) -> list[int]:
    """Where each zone of keys ends: after a path where a leaf ends, if there is one in time."""
    children = min(workers.PROCESSES, workers.processors())
    size = min(max(len(listed) // (_ZONES_EACH * children), _LEAST_ZONE), _MOST_ZONE)
    ends: list[int] = []
    at = 0
    while at < len(listed):
        at = min(at + size, len(listed))
        late = min(at + _LATE, len(listed))
        while at < late and not ends_after(listed[at - 1].partition(b"\0")[0]):
            at += 1
        ends.append(at)
    return ends


def _told_of(blob: Blob) -> int:
    """Bytes that are told of it, at most: path and key, numbers and ids, what the driver needs to write it back."""
    return 2 * len(blob.path) + 512 + len(to_msgpack(blob.meta))
