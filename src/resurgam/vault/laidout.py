"""Whether pieces that are laid out from parts (``patches``, ``deltas``) come back: looked at while packs are read.

That every chunk has its id does not say that a piece does which is made of several. Such a piece lies mostly in one chunk; its turn
is that of the pack in which that is, and it is laid out while this pack is in memory. Only what changed is read from elsewhere::

    pages that list chunks (RUN) --> patched pieces, each once, by pack --> the pack is read --> laid out, and its id compared

So what is remembered of a pack says it of the pieces too, they have their turn with it, and a check that has little time goes on
with the others. A piece that came after its pack had been read would wait for the next turn of that: it has its first one with the
pack of the page that lists it. What is kept of a piece are 20 bytes; the page that says what it is made of is read again when its
turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from resurgam.errors import Denied, IntegrityError, NewerFormat
from resurgam.vault.index import Place
from resurgam.vault.needs import Needs, as_ids
from resurgam.vault.pack import FRAME, ID, Kind
from resurgam.vault.pages import leaves
from resurgam.vault.reader import ChunkReader
from resurgam.vault.records import Record
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.snapshots import Entry, Laid, pieces_in, read_entries, read_root

BytesRead = Callable[[int], None]
# A patched piece: the beginning of the digest of what it is made of, the pack, the page that lists it, and its place there.
_PIECE = np.dtype([("key", "<u8"), ("pack", "<u4"), ("page", "<u4"), ("place", "<u4")])
_MANY = 1 << 18  # pieces that are sorted together; those of one file are in page after page, and often the same
_UNREADABLE = (IntegrityError, NewerFormat, Denied)


@dataclass(frozen=True, slots=True)
class Unmade:
    """A piece that does not come back, by what it is made of, and why."""

    key: int
    why: str


class LaidOut:
    """The patched pieces that points need, by pack. Made with one reading of all pages that list chunks."""

    def __init__(
        self, repository: Repository, needs: Needs, before: Collection[str], read: BytesRead = lambda _size: None
    ) -> None:
        """``before`` are packs that were read before, and whose turn is not now; ``read`` is told how many bytes are read beside
        the packs. Raises Unreachable."""
        self._repository, self._needs, self._read = repository, needs, read
        self._before = np.fromiter((name in before for name in needs.packs), np.bool_, len(needs.packs))
        self._readers: dict[str, ChunkReader] = {}
        known = np.flatnonzero(needs.known)
        self._entry = np.full(len(needs.ids), -1, np.int64)  # of each row of ``ids``, its row in ``entries``
        self._entry[known] = np.arange(len(known))
        runs = np.flatnonzero(needs.entries["kind"] == Kind.RUN)
        packs = needs.entries["pack"][runs]
        runs = runs[np.lexsort((needs.entries["offset"][runs], packs, ~self._before[packs]))]
        self._pages = known[runs]  # rows of ``ids``, as they lie in their packs; first what was read before
        self._pieces = _sorted(self._found())

    def __len__(self) -> int:
        return len(self._pieces)

    def unmade(self, pack: str, data: memoryview) -> Iterator[Unmade]:
        """Lay out the pieces whose turn is that of ``pack``, whose bytes are ``data``, and tell those that do not come back. Raises
        Unreachable, and Archived where parts are asleep."""
        pieces = self._pieces
        for number in (number for number, name in enumerate(self._needs.packs) if name == pack):
            first, last = np.searchsorted(pieces["pack"], [number, number + 1])
            for page in np.unique(pieces["page"][first:last]).tolist():
                ours = pieces[first:last][pieces["page"][first:last] == page]
                yield from self._unmade_of(page, ours, _InHand(pack, data, self._read))

    def _unmade_of(self, page: int, pieces: NDArray[np.void], in_hand: _InHand) -> Iterator[Unmade]:
        reader = self._reader(page)
        if reader is None:
            return
        by_place = dict(zip(pieces["place"].tolist(), pieces["key"].tolist(), strict=True))
        helped = reader.with_help_of(in_hand)
        for place, piece in enumerate(pieces_in(self._page(page), reader.get)):
            if place in by_place:
                try:
                    helped.fetch_piece(piece)
                except _UNREADABLE as error:
                    yield Unmade(by_place[place], error.message)

    def _found(self) -> Iterator[NDArray[np.void]]:
        domains = self._needs.domain[self._pages]
        for domain in np.unique(domains).tolist():
            pages = np.flatnonzero(domains == domain).tolist()
            reader = self._reader(pages[0])
            if reader is None:
                continue
            with reader.ahead(partial(iter, pages), lambda page: (self._page(page),)) as (helped, found):
                for page in found:
                    with suppress(*_UNREADABLE):  # whoever reads its pack, or walks the trees, tells it
                        yield self._patched_in(page, list(pieces_in(self._page(page), helped.get)))

    def _patched_in(self, page: int, pieces: list[Laid]) -> NDArray[np.void]:
        """Those ``pieces`` of a page that are patched; but for what lies in no pack, which is lost, and told already."""
        made = [(place, piece) for place, piece in enumerate(pieces) if piece.parts]
        found = np.empty(len(made), _PIECE)
        if made:
            rows = self._needs.rows(as_ids(b"".join(_base_of(piece) for _, piece in made)))
            at = np.where(rows >= 0, self._entry[rows], -1)
            found["key"] = [key_of(piece) for _, piece in made]
            found["place"] = [place for place, _ in made]
            base, its_page = (
                self._needs.entries["pack"][at],
                self._needs.entries["pack"][self._entry[self._pages[page]]],
            )
            found["pack"] = np.where(self._before[base] & ~self._before[its_page], its_page, base)
            found["page"] = page
            found = found[at >= 0]
        return found

    def _page(self, page: int) -> bytes:
        return bytes(self._needs.ids[self._pages[page]])

    def _reader(self, page: int) -> ChunkReader | None:
        """What reads the domain of a page; None where that does not open here."""
        domain = self._needs.domains[int(self._needs.domain[self._pages[page]])]
        if domain not in self._readers and self._repository.opens(domain):
            self._readers[domain] = self._repository.chunks(domain)
        return self._readers.get(domain)


@dataclass(frozen=True, slots=True)
class _InHand:
    """A pack in memory, for a reader to take chunks from; of others it is told how much is read."""

    pack: str
    data: memoryview
    read: BytesRead

    def take(self, place: Place) -> memoryview | None:
        """The frame at ``place``, if it is in this pack."""
        if place.pack == self.pack:
            return self.data[place.offset : place.offset + FRAME + place.stored]
        self.read(FRAME + place.stored)
        return None


def key_of(piece: Laid) -> int:
    """What stands for a patched piece: its id, and what it is made of."""
    digest = blake3(piece.chunk)
    for chunk, start, length in piece.parts:
        digest.update(chunk + start.to_bytes(4, "little") + length.to_bytes(4, "little"))
    return int.from_bytes(digest.digest(8), "little")


def files_of(
    repository: Repository, points: Iterable[tuple[Sealed, list[Record]]], unmade: Collection[int]
) -> dict[tuple[str, str], list[str]]:
    """Component and path of each file that has an ``unmade`` piece, with the points in which it has. Walks all trees, each page
    once; what cannot be read is passed over."""
    found: dict[tuple[str, str], list[str]] = {}
    hit = _Hit(frozenset(unmade))
    for sealed, _ in points:
        for snapshot in sealed.body.snapshots:
            if not repository.opens(snapshot.domain) or snapshot.component in repository.here.withholds(sealed.body):
                continue
            for path in hit.paths(repository.chunks(snapshot.domain), bytes.fromhex(snapshot.tree)):
                name = path.decode("utf-8", "backslashreplace")
                found.setdefault((snapshot.component, name), []).append(sealed.body.id)
    return found


class _Hit:
    """Finds files in which some pieces are."""

    def __init__(self, unmade: frozenset[int]) -> None:
        self._unmade = unmade
        self._pages: dict[bytes, bool] = {}
        self._leaves: dict[bytes, list[bytes]] = {}

    def paths(self, reader: ChunkReader, tree: bytes) -> Iterator[bytes]:
        """Those of one snapshot."""
        try:
            for child in leaves(read_root(tree, reader.get).blobs, Kind.TREE, reader.get):
                if child.page not in self._leaves:
                    self._leaves[child.page] = [
                        entry.path for entry in read_entries(child, reader.get) if self._is_hit(entry, reader)
                    ]
                yield from self._leaves[child.page]
        except _UNREADABLE:
            return

    def _is_hit(self, entry: Entry, reader: ChunkReader) -> bool:
        return any(self._is_page_hit(page, reader) for page in entry.runs)

    def _is_page_hit(self, page: bytes, reader: ChunkReader) -> bool:
        if page not in self._pages:
            try:
                laid = list(pieces_in(page, reader.get))
            except _UNREADABLE:
                laid = []
            self._pages[page] = any(piece.parts and key_of(piece) in self._unmade for piece in laid)
        return self._pages[page]


def _base_of(piece: Laid) -> bytes:
    """The chunk that most of a piece lies in."""
    sizes: dict[bytes, int] = {}
    for chunk, _, length in piece.parts:
        sizes[chunk] = sizes.get(chunk, 0) + length
    return max(sizes, key=sizes.__getitem__).ljust(ID, b"\0")


def _sorted(found: Iterable[NDArray[np.void]]) -> NDArray[np.void]:
    """Each piece once, by pack, and in each by page: neighbours are patched by the same chunks."""
    kept, fresh, waiting = np.empty(0, _PIECE), list[NDArray[np.void]](), 0
    for some in found:
        fresh.append(some)
        waiting += len(some)
        if waiting >= _MANY:
            kept, fresh, waiting = _once([kept, *fresh]), [], 0
    kept = _once([kept, *fresh])
    return kept[np.lexsort((kept["place"], kept["page"], kept["pack"]))]


def _once(parts: list[NDArray[np.void]]) -> NDArray[np.void]:
    together = np.concatenate(parts)
    return together[np.unique(together["key"], return_index=True)[1]]
