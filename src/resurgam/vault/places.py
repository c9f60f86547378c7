"""Where chunks lie: reading and writing index segments and pack trailers.

Both are the same thing at two scales: entries, sealed with the index key and signed by the session's key::

    offset  bytes  what
    0       8      key id of the signer
    8       64     Ed25519 over all that follows, as a ``resurgam segment`` or ``resurgam trailer``
    72      ...    the sealed entries (``vault.keys``)

A pruner copies frames into new packs without reading them, and merges segments. What it signs names the *origin*, the key that
signed for those chunks first: a writer goes on to reuse its own chunks and no other's::

    8       64     Ed25519 over all that follows, as a ``resurgam moved segment`` or ``resurgam moved trailer``
    72      8      key id of the origin
    80      ...    the sealed entries

A pack whose segment is missing (a capture was killed, an index was lost) is found by its trailer. Packs that a prune has swept
are passed over in silence, and a writer also passes over those that one is about to sweep (``vault.prunes``).

What was read of segments once need not be read again: a host may remember it (``vault.indexcache``). Whether they still stand,
and whether their packs do, is asked of the vault each time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from resurgam.errors import Archived, Denied, IntegrityError, NotFound
from resurgam.stores.abreast import each, read_each
from resurgam.stores.base import Entry, Several, Store, of_each_copy, put_once
from resurgam.vault.index import Entries, Index, decode_segment, ends_of
from resurgam.vault.indexcache import Addition, Base, IndexCache, Source
from resurgam.vault.keys import IndexSecret
from resurgam.vault.pack import ENTRY, FOOTER, trailer_place
from resurgam.vault.prunes import Prunes
from resurgam.vault.roles import Disowned, RoleTable, disowned
from resurgam.vault.signing import PublicKey, Role, SigningKey, broken

_KEY_ID = 8
_SIGNED = _KEY_ID + 64
_WRITERS = (Role.CAPTURE, Role.VERIFIER)  # verifiers store evidence
_NAME = re.compile(r"index/[0-9a-f]{32}")
_FEW = 1 << 16  # entries that are sooner read again than remembered
_FEW_SEGMENTS, _MANY_SEGMENTS = 16, 128  # each is a request at every opening, until it is remembered
_PER_SEGMENT = 1 << 13  # entries that are as long in writing as one more segment in reading


class Segment(NamedTuple):
    """What one signed object says of where chunks lie: its ``name``, the ids of the key that vouched for these chunks first and of
    its signer, the packs, and the entries with their ordinals among ``packs``."""

    name: str
    origin: str
    signer: str
    packs: list[str]
    entries: Entries

    @property
    def moved(self) -> bool:
        """Whether a pruner has written this for another key."""
        return self.origin != self.signer


class Places:
    """The segments and trailers of one vault. ``roles`` says whose signatures count, ``prunes`` what a prune has taken or will,
    ``cache`` is where this host remembers segments; with ``doubt`` it is not believed, but made anew. ``told`` gives an object the
    time at which its original was received."""

    def __init__(
        self,
        store: Store,
        secret: IndexSecret,
        roles: RoleTable,
        prunes: Callable[[], Prunes] = Prunes,
        cache: IndexCache | None = None,
        *,
        doubt: bool = False,
        told: Callable[[Entry], Entry] = lambda entry: entry,
    ) -> None:
        self._store, self._secret, self._prunes, self._cache, self._told = store, secret, prunes, cache, told
        self._base = cache.open() if cache is not None and not doubt else None
        self.refused: list[str] = []  # segments that could not be believed, and why
        self.missing: list[str] = []  # the same of packs that they name and that are not there
        self.asleep: set[str] = set()  # packs that must be woken before they can be asked what lies in them
        self._keys = {key.key_id: key for role in _WRITERS for key in roles.keys(role)}
        self._movers = {key.key_id: key for key in roles.keys(Role.PRUNER)}
        self._removed = {key.key_id: key for keys in roles.roles.values() for key in keys if key.removed}
        self._retired = {key.key_id: key for keys in roles.roles.values() for key in keys if key.retired}
        self._writers = {key.raw: key.key_id for key in self._keys.values()}
        self._pruners = {key.raw for key in self._movers.values()}
        self._roles = roles

    def seal(self, kind: str, plain: bytes, signer: SigningKey, origin: str = "") -> bytes:
        """Sealed and signed entries; ``kind`` is ``segment`` or ``trailer``. A pruner names the key id of their ``origin``."""
        moved = (signer.role == Role.PRUNER) * "moved "
        signed = bytes.fromhex(origin) + self._secret.seal(kind, plain)
        return bytes.fromhex(signer.key_id) + signer.sign(f"resurgam {moved}{kind}", signed) + signed

    def put_segment(self, plain: bytes, signer: SigningKey, origin: str = "") -> str:
        """Store a segment under the digest of its bytes; returns its name."""
        data = self.seal("segment", plain, signer, origin)
        name = f"index/{blake3(data).hexdigest()[:32]}"
        put_once(self._store, name, data)
        return name

    def segments(
        self, origin: str | None = None, besides: Collection[str] = (), listed: Iterable[Entry] | None = None
    ) -> Iterator[Segment]:
        """All segments ``besides`` those names that can be believed, or those of chunks that the key ``origin`` has signed for.

        A damaged one, or one of a key that the role table has disowned, is left out: packs are then found by their trailers, and
        whatever cannot be found at all is named when it is needed. One that vanishes between listing and reading was merged by a
        prune: what took its place is found by listing again. ``listed`` is ``index/`` as the caller has listed it just now.
        """
        seen = set(besides)
        vanished: set[str] = set()
        while True:
            missed = set()
            entries = listed if listed is not None else self._store.list("index/")
            wanted, listed = [entry for entry in entries if entry.name not in seen], None
            for entry, data in zip(wanted, read_each(self._store, [entry.name for entry in wanted]), strict=True):
                if data is None:
                    missed.add(entry.name)
                    continue
                seen.add(entry.name)
                yield from self._segment(entry, data, origin)
            if missed <= vanished:  # listed again and again and never there: that is no prune
                self.refused += [f"{name} is listed and not there." for name in sorted(missed)]
                return
            vanished |= missed

    def _segment(self, entry: Entry, data: bytes, origin: str | None) -> Iterator[Segment]:
        name = entry.name
        if origin is not None and origin not in (data[:_KEY_ID].hex(), data[_SIGNED : _SIGNED + _KEY_ID].hex()):
            return
        try:
            found, signer, plain = self._open("segment", data, name)
            self._require_in_time(signer, entry)
            packs, entries = decode_segment(plain, name)
        except Disowned:
            return  # nobody is missing it
        except IntegrityError as error:
            self.refused.append(error.message)
            return
        if origin in (None, found):
            yield Segment(name, found, signer, packs, entries)

    def trailer(self, pack: str, size: int) -> Segment | None:
        """What a pack of ``size`` bytes says itself of what lies in it; None where it is damaged, gone, or not to be
        believed, and where it is ``asleep``."""
        name = f"packs/{pack[:2]}/{pack}"
        try:
            for tail in of_each_copy(self._store, name, max(0, size - FOOTER)):
                with suppress(IntegrityError, ValueError, StopIteration):
                    return self._trailer(name, pack, *trailer_place(tail, pack))
        except NotFound:
            return None
        except Archived:
            self.asleep.add(pack)
        return None

    def _trailer(self, name: str, pack: str, start: int, length: int) -> Segment:
        """Raises IntegrityError, ValueError, StopIteration where a pack's trailer is not there, or not to be believed."""
        what, refused = f"the trailer of pack {pack[:16]}", IntegrityError(f"{name} has no trailer.")
        for data in of_each_copy(self._store, name, start, length):
            try:
                origin, signer, plain = self._open("trailer", data, what)
            except IntegrityError as error:
                refused = error
                continue
            if signer in self._retired:
                self._require_in_time(signer, next(self._store.list(name)))
            return Segment(pack, origin, signer, [pack], np.frombuffer(plain, dtype=ENTRY))
        raise refused

    def index(self, origin: str | None = None) -> tuple[Index, list[tuple[str, Entries]]]:
        """What can be found: by readers in all that any key has signed for, by the writer ``origin`` in its own, in that of the
        keys in whose place it came, and in nothing that a prune is about to sweep; and those packs that no segment named but their
        own trailer.

        A chunk counts only where its pack is there and long enough, else a capture would build on what is lost, and a second
        copy of the chunk would never be found.
        """
        base, stand, segments = self._gathered()
        # After the segments, so that their packs are there.
        sizes = {entry.name.rpartition("/")[2]: entry.size for entry in self._store.list("packs/")}
        prunes = self._prunes()  # after the packs: what a sweep took meanwhile is known to be gone
        swept = prunes.gone if origin is None else prunes.going
        if origin is None and isinstance(self._store, Several):
            swept = swept - sizes.keys()  # a copy that lags holds them still: a last resort, and what its name says
        index, named = Index(), {name for found in segments for name in found.packs}
        own = {key.key_id for key in self._roles.line(origin) if not key.removed} if origin is not None else None
        if base is not None:
            packs, standing = base.names(), base.of_packs(stand)
            ours = standing & base.of_packs([own is None or source.origin in own for source in base.sources])
            named.update(compress(packs, standing))
            room = np.zeros(len(packs), np.uint64)
            room[ours] = self._room(list(compress(packs, ours)), sizes, swept)
            index = Index(base.table(room))
        segments = [found for found in segments if own is None or found.origin in own]
        index.add((found.packs, self._there(found, sizes, swept)) for found in segments)
        unnamed = [(name, size) for name, size in sizes.items() if name not in named and name not in swept]
        orphans = [found for found in self._unnamed(unnamed, origin) if own is None or found.origin in own]
        index.add((found.packs, found.entries) for found in orphans)
        return index, [(found.name, found.entries) for found in orphans if not found.moved]

    def _unnamed(self, packs: Sequence[tuple[str, int]], origin: str | None) -> list[Segment]:
        """What packs say that no segment names, each with its size. The credentials of a writer need not read packs (P9): it stores
        anew what an interrupted session of its own had stored, and readers and pruners find the rest."""
        try:
            return [found for found in each(self._store, lambda pack: self.trailer(*pack), packs) if found is not None]
        except Denied:
            if origin is None:
                raise
            return []

    def _gathered(self) -> tuple[Base | None, list[bool], list[Segment]]:
        """What this host remembers of segments, which of those still stand, and all others, read anew."""
        if self._cache is None:
            return None, [], list(self.segments())
        base, listed = self._base, {entry.name: entry for entry in self._store.list("index/")}
        stand = [self._stands(source, listed) for source in base.sources] if base else []
        known = [source.name for source in compress(base.sources, stand)] if base else []
        covered = {f"index/{name}" for name in known}
        if self._worth_it(base, stand, [entry.size for name, entry in listed.items() if name not in covered]):
            others: list[Segment] = []
            try:
                additions = self._additions(covered, others, listed.values())
                self._base = base = self._cache.rebuilt(base, stand, additions)
            except OSError:
                pass  # no room, or no folder: what was to be remembered is read each time (P3)
            else:
                return base, [True] * len(base.sources), others
        return base, stand, list(self.segments(besides=covered, listed=listed.values()))

    def _stands(self, source: Source, listed: Mapping[str, Entry]) -> bool:
        """Whether a segment is still there, and still believed: a key that was removed takes with it what it signed, one that was
        retired what came later."""
        entry = listed.get(f"index/{source.name}")
        by_itself = self._writers.get(source.signer) == source.origin
        if entry is None or not (by_itself or source.signer in self._pruners):
            return False
        late = self._retired.get(PublicKey(source.signer).key_id)
        return late is None or not late.disbelieved(self._told(entry).received)

    def _require_in_time(self, signer: str, entry: Entry) -> None:
        """Raises Disowned where the key of that id had been retired when the store received the object."""
        late = self._retired.get(signer)
        if late is not None and (why := late.disbelieved(self._told(entry).received)):
            raise disowned(entry.name, why)

    @staticmethod
    def _worth_it(base: Base | None, stand: Sequence[bool], others: Sequence[int]) -> bool:
        """Whether so much is not remembered, or fell, that a new file is worth its writing; ``others`` are bytes."""
        known = len(base) if base else 0
        fell = known - sum(source.entries for source in compress(base.sources, stand)) if base else 0
        new = sum(others) // ENTRY.itemsize
        few = min(max(known // _PER_SEGMENT, _FEW_SEGMENTS), _MANY_SEGMENTS)  # P11: a small file is soon written again
        return new > max(_FEW, known // 8) or len(others) > few or fell > max(_FEW, known // 4)

    def _additions(
        self, covered: Collection[str], others: list[Segment], listed: Iterable[Entry]
    ) -> Iterator[Addition]:
        """All segments but the ``covered``, to be remembered; those not named by a digest go to ``others``."""
        for found in self.segments(besides=covered, listed=listed):
            if not _NAME.fullmatch(found.name):
                others.append(found)
                continue
            key = (self._movers if found.moved else self._keys)[found.signer]
            name = found.name.removeprefix("index/")
            source = Source(name, key.raw, found.origin, len(found.packs), len(found.entries))
            yield Addition(source, b"".join(map(bytes.fromhex, found.packs)), found.entries)

    def _there(self, found: Segment, sizes: Mapping[str, int], swept: Collection[str]) -> Entries:
        """The entries whose bytes can be there, by the sizes of all packs."""
        room, entries = self._room(found.packs, sizes, swept), found.entries
        return entries[ends_of(entries) <= room[entries["pack"]]] if len(entries) else entries

    def _room(self, packs: Sequence[str], sizes: Mapping[str, int], swept: Collection[str]) -> NDArray[np.uint64]:
        """How many bytes of each pack count."""
        lost = [name for name in packs if name not in sizes and name not in swept]
        self.missing += [f"Pack {name[:16]} is missing, and what an index segment says of it is void." for name in lost]
        return np.array([0 if name in swept else sizes.get(name, 0) for name in packs], np.uint64)

    def _open(self, kind: str, data: bytes, what: str) -> tuple[str, str, bytes]:
        """Ids of the origin and of the signer, and the plain entries."""
        if len(data) < _SIGNED + _KEY_ID:
            raise broken(what, "it is cut off")
        signer, signature, signed = data[:_KEY_ID].hex(), data[_KEY_ID:_SIGNED], data[_SIGNED:]
        if (mover := self._movers.get(signer)) and mover.verifies(f"resurgam moved {kind}", signed, signature):
            return signed[:_KEY_ID].hex(), signer, self._secret.open(kind, signed[_KEY_ID:], what=what)
        gone = self._removed.get(signer)
        key = PublicKey(gone.public) if gone is not None else self._keys.get(signer)
        if key is None or not key.verifies(f"resurgam {kind}", signed, signature):
            raise broken(what, "no capture or verifier key of this vault has signed it, and no pruner")
        if gone is not None:
            raise disowned(what, gone.disbelieved(None))
        return signer, signer, self._secret.open(kind, signed, what=what)
