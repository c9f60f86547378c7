"""A museum of damaged vaults: one small vault, seeded, and every way in which a disk, a hand or a bug has spoilt such things.

Each exhibit is a vault with one thing wrong; it says what the check must find, and whether a repair without any other copy brings
everything back. With a sound copy at hand everything comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from resurgam.errors import ResurgamError
from resurgam.stores.base import Store
from resurgam.testing.faults import MemoryStore
from resurgam.vault.index import Place, encode_segment
from resurgam.vault.pack import FRAME, Kind
from resurgam.vault.repository import Repository
from tests.support import Files, Table, World, copied

Spoil = Callable[["Museum", MemoryStore], None]


@dataclass(frozen=True)
class Exhibit:
    """One damaged vault. ``says`` are words of what check finds (none: nothing is wrong with it); ``heals`` whether repair alone
    brings everything back; ``opens`` whether the vault can be opened at all without another copy."""

    name: str
    spoil: Spoil
    says: str
    heals: bool = True
    opens: bool = True


class Museum:
    """The vault before anything befell it: three points of one component, and what each restores to."""

    def __init__(self, folder: Path) -> None:
        self.world = World(str(folder))
        rng = Random(5)
        live = self.world.live
        self.points: dict[str, dict[str, Files]] = {}
        for number in range(3):
            live.files[b"big-%d" % number] = rng.randbytes(300_000)
            live.files.update({b"small/%d-%03d" % (number, n): rng.randbytes(40) for n in range(60)})
            live.tables["rows"] = Table(("id", "v"), ("id",), [(n, f"{number}-{n}") for n in range(200)])
            sealed = self.world.capture()
            self.points[sealed.body.id] = self.world.contents()
        self.sound = copied(self.world.store)

    def spoilt(self, exhibit: Exhibit) -> MemoryStore:
        """A fresh vault with that damage."""
        store = copied(self.sound)
        exhibit.spoil(self, store)
        return store

    def repository(self) -> Repository:
        """The sound vault."""
        return self.world.repository(self.sound)

    def place(self, kind: Kind) -> Place:
        """Where a chunk of ``kind`` lies that the first point needs."""
        repository, body = self.repository(), self.repository().points()[0].body
        (snapshot,) = body.snapshots
        if kind is Kind.DOCUMENT:
            chunk = bytes.fromhex(body.particulars)
        elif kind is Kind.LIST:
            chunk = bytes.fromhex(snapshot.chunks)
        elif kind is Kind.TREE:
            chunk = bytes.fromhex(snapshot.tree)
        else:
            reader = repository.snapshot(body, snapshot.component)
            chunk = next(entry.extents[0][0] for entry in reader.entries() if entry.size > 100_000)
        found = repository.index.find(chunk)
        assert found is not None
        return found


def overwrite(store: MemoryStore, name: str, data: bytes | None) -> None:
    """What no client of a vault can do (P2)."""
    store.delete(name)
    if data is not None:
        store.put(name, data)


def first(store: Store, prefix: str) -> str:
    """The first object below ``prefix``."""
    return next(entry.name for entry in store.list(prefix))


def pack_object(pack: str) -> str:
    """Where a pack lies."""
    return f"packs/{pack[:2]}/{pack}"


def flip(store: MemoryStore, name: str, offset: int) -> None:
    """One bit wrong; a negative offset counts from the end."""
    data = bytearray(store.get(name))
    data[offset] ^= 0x10
    overwrite(store, name, bytes(data))


def gone(prefix: str) -> Spoil:
    """The first object below ``prefix`` is missing."""
    return lambda _, store: overwrite(store, first(store, prefix), None)


def flipped(prefix: str, offset: int) -> Spoil:
    """One bit of the first object below ``prefix`` is wrong."""
    return lambda _, store: flip(store, first(store, prefix), offset)


def in_chunk(kind: Kind, offset: int) -> Spoil:
    """One bit of a frame of ``kind``, counted from its beginning."""

    def spoil(museum: Museum, store: MemoryStore) -> None:
        place = museum.place(kind)
        flip(store, pack_object(place.pack), place.offset + offset)

    return spoil


def without_pack(kind: Kind) -> Spoil:
    """The pack with a chunk of ``kind`` is missing."""
    return lambda museum, store: overwrite(store, pack_object(museum.place(kind).pack), None)


def truncated(museum: Museum, store: MemoryStore) -> None:
    """A pack of pages is cut off in its midst."""
    name = pack_object(museum.place(Kind.DOCUMENT).pack)
    data = store.get(name)
    overwrite(store, name, data[: len(data) // 2])


def headless(museum: Museum, store: MemoryStore) -> None:
    """A pack's own header is wrong; nobody reads it."""
    flip(store, pack_object(museum.place(Kind.DATA).pack), 3)


def trailerless(museum: Museum, store: MemoryStore) -> None:
    """A pack cannot say what lies in it, and no segment does."""
    flip(store, pack_object(museum.place(Kind.DATA).pack), -100)
    for entry in list(store.list("index/")):
        overwrite(store, entry.name, None)


def exchanged(museum: Museum, store: MemoryStore) -> None:
    """Two packs lie under each other's names."""
    one, other = pack_object(museum.place(Kind.DATA).pack), pack_object(museum.place(Kind.TREE).pack)
    data = store.get(one)
    overwrite(store, one, store.get(other))
    overwrite(store, other, data)


def no_index(_: Museum, store: MemoryStore) -> None:
    """All segments are missing."""
    for entry in list(store.list("index/")):
        overwrite(store, entry.name, None)


def obsolete_segment(museum: Museum, store: MemoryStore) -> None:
    """A segment names a pack that has gone and that nobody needs."""
    repository = museum.world.repository(store)
    with repository.writer(museum.world.system, museum.world.host(), museum.world.clock) as writer:
        writer.document({"nobody": "needs this"})
        before = {entry.name for entry in store.list("packs/")}
        writer.flush()
    (name,) = {entry.name for entry in store.list("packs/")} - before
    overwrite(store, name, None)


def duplicates(museum: Museum, store: MemoryStore) -> None:
    """Two segments say the same."""
    repository = museum.world.repository(store)
    found = next(iter(repository.places.segments()))
    parts = [(pack, found.entries[found.entries["pack"] == at]) for at, pack in enumerate(found.packs)]
    repository.places.put_segment(encode_segment(parts), repository.keyring.signer("capture"))


def stranger(_: Museum, store: MemoryStore) -> None:
    """Something lies in the index that nobody of this vault wrote."""
    store.put("index/" + "ab" * 16, b"not a segment")


def renamed(_: Museum, store: MemoryStore) -> None:
    """One digit of the vault's id is wrong."""
    data = store.get("vault.json")
    at = data.index(b'"vault":"') + 10
    overwrite(store, "vault.json", data[:at] + (b"1" if data[at : at + 1] == b"0" else b"0") + data[at + 1 :])


def unlogged(_: Museum, store: MemoryStore) -> None:
    """The newest announcement is missing."""
    overwrite(store, list(store.list("log/"))[-1].name, None)


EXHIBITS = (
    Exhibit("a segment is missing", gone("index/"), ""),
    Exhibit("all segments are missing", no_index, ""),
    Exhibit("a segment has a bit wrong", flipped("index/", 90), "index/"),
    Exhibit("a stranger's object lies in the index", stranger, "index/"),
    Exhibit("two segments say the same", duplicates, ""),
    Exhibit("a segment names a pack that has gone", obsolete_segment, "is missing"),
    Exhibit("a pack of data is missing", without_pack(Kind.DATA), "is missing", heals=False),
    Exhibit("a pack of pages is missing", without_pack(Kind.TREE), "is missing", heals=False),
    Exhibit("a pack is cut off", truncated, "digest", heals=False),
    Exhibit("a pack's header has a bit wrong", headless, "digest"),
    Exhibit("a frame's header has a bit wrong", in_chunk(Kind.DATA, 20), "nothing sound lies", heals=False),
    Exhibit("a chunk has a bit wrong", in_chunk(Kind.DATA, FRAME + 1000), "does not authenticate", heals=False),
    Exhibit("a list of chunks has a bit wrong", in_chunk(Kind.LIST, FRAME + 5), "chunk list", heals=False),
    Exhibit("a point's particulars have a bit wrong", in_chunk(Kind.DOCUMENT, FRAME + 5), "authenticate", heals=False),
    Exhibit("a trailer has a bit wrong, and the index is missing", trailerless, "no pack is known to hold it"),
    Exhibit("two packs are exchanged", exchanged, "digest"),
    Exhibit("a session's key is missing", gone("keys/session-"), "the key that opens it, is missing", heals=False),
    Exhibit("a session's key has a bit wrong", flipped("keys/session-", 250), "session", heals=False),
    Exhibit("the index's key is missing", gone("keys/index"), "keys/index", heals=False),
    Exhibit("the index's key has a bit wrong", flipped("keys/index", 250), "keys/index", heals=False),
    Exhibit("a point's record has a bit wrong", flipped("points/", 300), "points/", heals=False),
    Exhibit("a lease has a bit wrong", flipped("leases/", 300), "leases/", heals=False),
    Exhibit("a point is unlogged", unlogged, ""),
    Exhibit("the role table is missing", gone("roles/"), "", heals=False, opens=False),
    Exhibit("the role table has a bit wrong", flipped("roles/", 300), "", heals=False, opens=False),
    Exhibit("the vault's identity names another vault", renamed, "", heals=False, opens=False),
    Exhibit("the vault's identity is missing", gone("vault.json"), "", heals=False, opens=False),
)


def restored(museum: Museum, store: Store) -> Iterator[str]:
    """The points that restore exactly."""
    repository = museum.world.repository(store)
    for sealed in repository.points():
        try:
            if museum.world.restored(sealed, repository) == museum.points[sealed.body.id]:
                yield sealed.body.id
        except ResurgamError:
            continue
