"""Salvage: what is sound in a damaged pack goes into a new one, frame by frame, and the damaged pack goes out of the way.

A damaged pack that stays does two kinds of harm: each restore meets its damage, and each capture takes the damaged chunk for
stored, so that new points rest on it too. With the pack out of the way, the next capture of the same content stores the chunk
again, and every point whose files have it as a piece is whole again. A piece that was laid out from the chunk and others (patches,
deltas) is stored whole by such a capture, under the id that it has wherever it is laid out: points that have it read it there, for
as long as some point keeps it so. What a chunk held that is in no file any more, only another copy brings back. The same is so of
chunks whose session's key has gone from the vault; but a key may come back from another copy, so those are let go only where that
is asked for.

Frames stay as they are, since their place is not authenticated. Those that open and have their id are copied; so are, on trust,
those whose key is not here. All of them are: a capture that is under way may rest on any. New packs are signed by the pruner, and
name the key that had signed for the chunks (``vault.places``): it is in the damaged pack's trailer, where that can still be
believed and names this frame in this place. Of others nobody can say it: readers find them, and no writer builds on them.

Where a frame may lie (``model.placement``) says the header of its pack, but not that of a damaged one: else one changed byte would
let contents leave their region. In a vault with residencies the points say it, and what none of them needs goes nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec
from blake3 import blake3

from resurgam.errors import Denied, IntegrityError, NotFound
from resurgam.model.placement import NOWHERE, Placement
from resurgam.vault.inventory import ids_of
from resurgam.vault.pack import FRAME, Frame, Kind, placement_of, scan
from resurgam.vault.packreading import Opener
from resurgam.vault.repack import Repacker
from resurgam.vault.repository import Repository
from resurgam.vault.signing import SigningKey

NOBODY = "0" * 16  # in place of a key id

_Sound = tuple[Frame, memoryview, str, Placement]  # a frame, all its bytes, who signed for it, and where it may lie


class Salvage(msgspec.Struct, frozen=True, kw_only=True):
    """What is worth keeping of one pack: ``chunks`` that are sound, or taken to be, of so many bytes. ``what`` is wrong with the
    pack, which goes; empty where it stays, and only some chunks are copied that nobody vouches for."""

    pack: str
    what: str
    chunks: frozenset[bytes]
    bytes: int


class Salvager:
    """Looks into damaged packs. ``domain_of`` tells the shred domains of chunks that points need, ``quoting`` where the documents
    among them may lie that quote contents. With ``forsake`` frames are left
    whose domain opens here and whose session's key is gone or spoilt."""

    def __init__(
        self,
        repository: Repository,
        domain_of: Mapping[bytes, str],
        quoting: Mapping[bytes, Placement],
        *,
        forsake: bool = False,
    ) -> None:
        self._repository, self._domain_of, self._quoting, self._forsake = repository, domain_of, quoting, forsake
        self._opener = Opener(repository)

    def look(self, pack: str, what: str, only: Collection[bytes] | None = None) -> Salvage:
        """What ``pack`` holds that is sound; of all chunks, or ``only`` of some."""
        sizes = {frame.id: len(data) for frame, data, *_ in self._sound(pack, only)}
        return Salvage(pack=pack, what=what, chunks=frozenset(sizes), bytes=sum(sizes.values()))

    def write(self, salvage: Iterable[Salvage], pruner: SigningKey) -> None:
        """Write what is sound anew. Durable, and found, when it returns; the packs themselves are left as they are.

        Raises IntegrityError where a pack that goes is not read as it was when that was planned: one of the two readings was
        wrong, and a chunk that lies there whole must not go with it (P1).
        """
        repacker = Repacker(self._repository, pruner)
        done: set[tuple[bytes, str]] = set()
        for one in salvage:
            sound = list(self._sound(one.pack, None if one.what else one.chunks))
            if one.what and {frame.id for frame, *_ in sound} != one.chunks:
                raise _unsteady(one.pack)
            for frame, data, origin, placement in sound:
                if (frame.id, origin) not in done:  # of each signer's: a writer builds on its own only
                    repacker.add(frame, Kind(frame.kind), data, origin, placement)
                    done.add((frame.id, origin))
        repacker.close()

    def _sound(self, pack: str, only: Collection[bytes] | None) -> Iterator[_Sound]:
        try:
            view = memoryview(self._repository.store.get(f"packs/{pack[:2]}/{pack}"))
        except NotFound:
            return
        origins, said = self._origins(pack, len(view)), placement_of(view, self._repository.vault)
        believed = not self._repository.roles.residency or blake3(view).hexdigest() == pack
        for offset, frame in scan(view):
            data = view[offset : offset + FRAME + frame.stored]
            if (only is None or frame.id in only) and frame.kind in tuple(Kind) and self._keep(frame, data):
                placement = said if believed else self._placement(frame, said.cold)
                yield frame, data, origins.get((offset, frame.id), NOBODY), placement

    def _placement(self, frame: Frame, cold: bool) -> Placement:
        domain = self._domain_of.get(frame.id)
        if domain is None:
            return NOWHERE
        stays = self._repository.roles.residency.get(domain, "")
        return self._quoting.get(frame.id, Placement(stays, cold))

    def _keep(self, frame: Frame, data: memoryview) -> bool:
        try:
            key = self._opener.key(frame, self._domain_of.get(frame.id))
        except Denied:
            return True  # its domain's key is not here: on trust
        except IntegrityError:
            return not self._forsake
        return not self._opener.trouble(data, frame, key)

    def _origins(self, pack: str, size: int) -> dict[tuple[int, bytes], str]:
        """Who signed for what, by place and id, as far as the pack can still say it."""
        said = self._repository.places.trailer(pack, size)
        if said is None:
            return {}
        offsets, ids = said.entries["offset"].tolist(), ids_of(said.entries)
        return {(offset, ids[row].tobytes()): said.origin for row, offset in enumerate(offsets)}


def _unsteady(pack: str) -> IntegrityError:
    return IntegrityError(
        f"Pack {pack[:16]} reads differently each time.",
        untouched="It was not removed, nor was any other pack.",
        next_step="Look for a fault of this host's memory, or between it and the store; then run the same command again.",
    )
