"""Packs written anew: frames are copied as they are, unread, into packs of the same origin; and segments without what is gone.

A frame's place is not part of what is authenticated (``vault.pack``), so it stays valid wherever it lies. The pruner holds no key
that opens one. What it can see, it checks before it copies: that the pack has the digest that it is named by, and that each frame
is the one that the index says lies there. A pack of which this does not hold is *spared*: kept as it is, and told.
"""

from __future__ import annotations

from collections.abc import Iterator

from blake3 import blake3

from resurgam.model.placement import Placement
from resurgam.stores.base import put_once
from resurgam.vault.index import Entries, encode_segment
from resurgam.vault.inventory import ids_of
from resurgam.vault.pack import ALIGN, FRAME, PACK_SIZE, Frame, Kind, PackBuilder, new_buffer, parse_frame, placement_of
from resurgam.vault.places import Segment
from resurgam.vault.repository import Repository
from resurgam.vault.signing import SigningKey, broken
from resurgam.vault.sink import META_SIZE

MERGED = 1 << 20  # entries of a merged segment, at most: 52 MB
_ROOM = 64 << 10  # of a pack, for all but its frames


class Repacker:
    """Copies frames into packs of a pruner. Nothing is to be relied on before ``close``."""

    def __init__(self, repository: Repository, signer: SigningKey) -> None:
        self._repository, self._signer = repository, signer
        self._open: dict[tuple[str, bool, Placement], PackBuilder] = {}
        self._finished: dict[str, list[tuple[str, Entries]]] = {}
        self.copied = 0

    def copy(self, pack: str, size: int, wanted: Entries) -> None:
        """Copy the frames of ``wanted`` out of ``pack``. Raises IntegrityError where it is not what it is said to be; then nothing
        of it was copied."""
        trailer = self._repository.places.trailer(pack, size)
        if trailer is None:
            raise broken(f"pack {pack[:16]}", "it does not say what lies in it")
        data = memoryview(self._repository.store.get(f"packs/{pack[:2]}/{pack}"))
        if blake3(data).hexdigest() != pack:
            raise broken(f"pack {pack[:16]}", "its bytes do not have the digest that it is named by")
        frames = list(_frames(pack, data, wanted))  # all of them are looked at before any is copied
        placement = placement_of(data, self._repository.vault)
        for offset, kind in frames:
            frame = parse_frame(data[offset : offset + FRAME])
            self.add(frame, kind, data[offset : offset + FRAME + frame.stored], trailer.origin, placement)

    def add(self, frame: Frame, kind: Kind, data: memoryview, origin: str, placement: Placement) -> None:
        """Copy one frame: ``data`` is all of it, with its header; ``origin`` is the key that signed for it. It stays with what
        has its ``placement``: else a prune would let it leave its region."""
        header, room = self._builder(origin, kind is not Kind.DATA, frame.stored, placement).add(frame)
        assert header == data[:FRAME], "a frame's header has one form"
        room[:] = data[FRAME:]
        self.copied += FRAME + frame.stored

    def close(self) -> None:
        """Everything that was copied is durable, and can be found, when this returns."""
        for (origin, _, _), builder in sorted(self._open.items()):
            self._ship(origin, builder)
        self._open.clear()
        for origin, packs in sorted(self._finished.items()):
            self._repository.places.put_segment(encode_segment(packs), self._signer, origin)
        self._finished.clear()

    def _builder(self, origin: str, meta: bool, stored: int, placement: Placement) -> PackBuilder:
        builder = self._open.get((origin, meta, placement))
        if builder is not None and not builder.has_room(stored):
            self._ship(origin, builder)
            builder = None
        if builder is None:
            needed = -(-(stored + _ROOM) // ALIGN) * ALIGN
            size = max(META_SIZE if meta else PACK_SIZE, needed)
            builder = PackBuilder(self._repository.vault, new_buffer(size), placement)
            self._open[origin, meta, placement] = builder
        return builder

    def _ship(self, origin: str, builder: PackBuilder) -> None:
        entries = builder.entries()
        trailer = self._repository.places.seal("trailer", entries.tobytes(), self._signer, origin)
        name, data = builder.finish(trailer)
        put_once(self._repository.store, f"packs/{name[:2]}/{name}", data)
        self._finished.setdefault(origin, []).append((name, entries))


def merge_segments(repository: Repository, signer: SigningKey, gone: frozenset[str]) -> tuple[str, ...]:
    """Put segments, by origin, that say what all those say that name a pack that is ``gone``, without these packs; returns the
    names of those that they replace."""
    replaced: list[str] = []
    kept: dict[str, list[tuple[str, Entries]]] = {}
    for found in list(repository.places.segments()):
        if gone.isdisjoint(found.packs):
            continue
        replaced.append(found.name)
        part = kept.setdefault(found.origin, [])
        part += _by_pack(found, gone)
        if sum(len(entries) for _, entries in part) >= MERGED:
            repository.places.put_segment(encode_segment(kept.pop(found.origin)), signer, found.origin)
    for origin, packs in sorted(kept.items()):
        if packs:
            repository.places.put_segment(encode_segment(packs), signer, origin)
    return tuple(replaced)


def _by_pack(found: Segment, gone: frozenset[str]) -> Iterator[tuple[str, Entries]]:
    for ordinal, pack in enumerate(found.packs):
        if pack not in gone:
            yield pack, found.entries[found.entries["pack"] == ordinal]


def _frames(pack: str, data: memoryview, wanted: Entries) -> Iterator[tuple[int, Kind]]:
    """Offsets and kinds of the frames of ``wanted``, each once. Raises IntegrityError."""
    seen: set[int] = set()
    ids = ids_of(wanted)
    for row in range(len(wanted)):
        offset, stored = int(wanted["offset"][row]), int(wanted["stored"][row])
        frame = parse_frame(data[offset : offset + FRAME])
        if frame.id != ids[row].tobytes() or frame.stored != stored or offset + FRAME + stored > len(data):
            raise broken(f"pack {pack[:16]}", f"another frame lies where chunk {ids[row].tobytes().hex()[:16]} should")
        if offset not in seen:
            seen.add(offset)
            yield offset, _kind(pack, frame.kind)


def _kind(pack: str, number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError as error:
        raise broken(
            f"pack {pack[:16]}", f"it holds a chunk of kind {number}, which this release does not know"
        ) from error
