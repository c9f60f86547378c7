"""Reading a pack whole, once: do its bytes have the digest of its name, and does every chunk in it open?

    digest     anyone: the BLAKE3 of all bytes; that the keys of its sessions are in the vault; and, with the index key, that what
               points need of it stands where the index says
    contents   a reader: every frame decrypts, decodes, and has the id that it is known by

A reader also lays out what points need of it together with chunks elsewhere (``laidout``), if it is asked to.

Frames are found by their own headers, without index or trailer, also behind damage. A chunk that no point needs yet is opened too:
the next capture may rest on it. What lies in shred domains whose keys are not here stays closed, which is no damage.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from resurgam.errors import Archived, Denied, IntegrityError, NewerFormat, NotFound
from resurgam.stores.abreast import each
from resurgam.stores.base import Several
from resurgam.vault.checked import Depth
from resurgam.vault.codecs import decode
from resurgam.vault.index import Entries
from resurgam.vault.keys import SessionKey, session_object
from resurgam.vault.laidout import LaidOut, Unmade
from resurgam.vault.needs import Needs, as_ids
from resurgam.vault.pack import FRAME, ID, NO_SESSION, Frame, Kind, decrypt, scan
from resurgam.vault.repository import Repository
from resurgam.vault.sink import ChunkKeys

_PIECE = 8 << 20
_SESSIONS = 64  # opened keys kept
AHEAD = 2  # packs that are fetched from far away while one is looked into

BytesDone = Callable[[int], None]  # bytes read since the last call


class Trouble(msgspec.Struct, frozen=True):
    """What is wrong with a pack, or with one chunk of it, which is empty where it is the pack. ``key`` says that it is the key of
    the chunk's session: then the pack may be as it was written."""

    chunk: bytes
    what: str
    key: bool = False


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How a pack was found. ``depth`` is as deep as all of it was read; ``closed`` are shred domains that could not be opened;
    ``unmade`` are pieces that lie mostly in it and do not come back."""

    pack: str
    bytes: int
    depth: Depth
    trouble: tuple[Trouble, ...]
    closed: frozenset[str]
    unmade: tuple[Unmade, ...] = ()


class Fetched(NamedTuple):
    """A pack in memory: its bytes, and whether they have their digest. ``memory`` is what they lie in."""

    data: memoryview
    whole: bool
    memory: bytearray


class PackReader:
    """Reads packs of one vault; not for two threads at once. ``needs`` are None without the index key; ``laid_out`` are pieces that
    are to be laid out on the way, in the depth of contents."""

    def __init__(
        self, repository: Repository, needs: Needs | None, depth: Depth, laid_out: LaidOut | None = None
    ) -> None:
        self._repository, self._needs, self._depth, self._laid_out = repository, needs, depth, laid_out
        self._free: queue.LifoQueue[bytearray] = queue.LifoQueue()  # memory of packs that were read
        self._rows = _rows_by_pack(needs.entries) if needs is not None else {}
        self._numbers: dict[str, list[int]] = {}  # a pack that several segments name has several
        for number, name in enumerate(needs.packs if needs is not None else ()):
            self._numbers.setdefault(name, []).append(number)
        self._known = np.flatnonzero(needs.known) if needs is not None else np.empty(0, np.int64)
        self._opener = Opener(repository)
        self._there: dict[bytes, bool] = {}

    def read_each(
        self, sizes: Iterable[tuple[str, int]], progress: BytesDone | None = None
    ) -> Generator[tuple[str, Reading | NotFound | Archived], None, None]:
        """Read packs, each of so many bytes, in their order, or say why one cannot be. From far away the next ``AHEAD`` are on
        their way while one is looked into; else one is read after the other, as they are asked for. Raises Unreachable."""

        def fetched(one: tuple[str, int]) -> tuple[str, Fetched | NotFound | Archived]:
            try:
                return one[0], self._fetched(*one)
            except (NotFound, Archived) as error:
                return one[0], error

        for pack, got in each(self._repository.store, fetched, sizes, AHEAD):
            if not isinstance(got, Fetched):
                yield pack, got
                continue
            if progress is not None:
                progress(len(got.data))
            yield pack, self._look_into(pack, got.data, got.whole)
            self._free.put(got.memory)

    def _look_into(self, pack: str, data: memoryview, whole: bool) -> Reading:
        found = dict(scan(data))
        trouble = [] if whole else [Trouble(b"", "its bytes do not have the digest that it is named by")]
        trouble += self._misplaced(pack, found)
        trouble += self._keyless(found)
        closed: set[str] = set()
        if self._depth is Depth.CONTENTS:
            trouble += self._unreadable(data, found, closed)
        unmade, asleep = self._unmade(pack, data)
        depth = Depth.DIGEST if closed or asleep or self._depth is Depth.DIGEST else Depth.CONTENTS
        told = {(one.chunk, one.what): one for one in trouble}
        return Reading(
            pack=pack,
            bytes=len(data),
            depth=depth,
            trouble=tuple(told.values()),
            closed=frozenset(closed),
            unmade=unmade,
        )

    def _unmade(self, pack: str, data: memoryview) -> tuple[tuple[Unmade, ...], bool]:
        """The pieces that do not come back; and whether parts of some are asleep, and nobody can say it of all."""
        if self._laid_out is None:
            return (), False
        found: list[Unmade] = []
        try:
            found.extend(self._laid_out.unmade(pack, data))
        except Archived:
            return tuple(found), True
        return tuple(found), False

    def needed(self, pack: str) -> list[bytes]:
        """The chunks in ``pack`` that points need."""
        if self._needs is None:
            return []
        joined = self._needs.ids[self._known[self._ours(pack)]].tobytes()
        return [joined[at : at + ID] for at in range(0, len(joined), ID)]

    def _fetched(self, pack: str, size: int) -> Fetched:
        """All bytes of a pack, and whether they have their digest. Safe from several threads."""
        try:
            memory = self._free.get_nowait()
        except queue.Empty:
            memory = bytearray()
        if len(memory) < size:
            memory = bytearray(size)
        room, digest, done = memoryview(memory)[:size], blake3(), 0
        while done < size:
            got = self._repository.store.read_into(f"packs/{pack[:2]}/{pack}", done, room[done : done + _PIECE])
            if not got:
                break
            digest.update(room[done : done + got])
            done += got
        if digest.hexdigest() == pack:
            return Fetched(room[:done], True, memory)
        other = self._of_another_copy(pack)
        return Fetched(room[:done] if other is None else other, other is not None, memory)

    def _of_another_copy(self, pack: str) -> memoryview | None:
        """The pack as another copy has it whole, where several are read together."""
        store = self._repository.store
        if not isinstance(store, Several):
            return None
        sound = (data for data in store.each_copy(f"packs/{pack[:2]}/{pack}") if blake3(data).hexdigest() == pack)
        return next((memoryview(data) for data in sound), None)

    def _ours(self, pack: str) -> NDArray[np.int64]:
        """Rows of ``needs.entries`` that lie in ``pack``."""
        rows = [self._rows[number] for number in self._numbers.get(pack, ()) if number in self._rows]
        return np.concatenate(rows) if rows else np.empty(0, np.int64)

    def _misplaced(self, pack: str, found: dict[int, Frame]) -> Iterator[Trouble]:
        """What points need of the pack, and no sound frame of that id stands where the index says."""
        if self._needs is None:
            return
        for row in self._ours(pack).tolist():
            entry = self._needs.entries[row]
            chunk = self._needs.ids[self._known[row]].tobytes()
            frame = found.get(int(entry["offset"]))
            if frame is None or (frame.id, frame.stored) != (chunk, int(entry["stored"])):
                yield Trouble(chunk, "nothing sound lies where the index says that it does")

    def _keyless(self, found: dict[int, Frame]) -> Iterator[Trouble]:
        """Sessions whose keys have gone from the vault: what they stored opens for nobody."""
        for frame in found.values():
            if frame.session == NO_SESSION:
                continue
            if frame.session not in self._there:
                name = session_object(frame.session)
                self._there[frame.session] = any(True for _ in self._repository.store.list(name))
            if not self._there[frame.session]:
                what = f"{session_object(frame.session)[:30]}, the key that opens it, is missing"
                yield Trouble(frame.id, what, key=True)

    def _unreadable(self, data: memoryview, found: dict[int, Frame], closed: set[str]) -> Iterator[Trouble]:
        ids = as_ids(b"".join(frame.id for frame in found.values()))
        rows = self._needs.rows(ids).tolist() if self._needs is not None else [-1] * len(found)
        for (offset, frame), row in zip(found.items(), rows, strict=True):
            domain = self._needs.domains[int(self._needs.domain[row])] if self._needs is not None and row >= 0 else None
            try:
                key = self._opener.key(frame, domain)
            except Denied:
                closed.add(domain or "unknown")
                continue
            except IntegrityError as error:
                if self._there.get(frame.session, True):
                    yield Trouble(frame.id, error.message, key=True)
                continue
            if why := self._opener.trouble(data[offset : offset + FRAME + frame.stored], frame, key):
                yield Trouble(frame.id, why)


class FrameKey(NamedTuple):
    """What opens a frame, and the shred domains in one of which its chunk then has its id."""

    cipher: AESGCM
    domains: tuple[str, ...]


class Opener:
    """Opens frames of any shred domain whose key is here."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._sessions: dict[bytes, SessionKey | None] = {}
        self._ids: dict[str, ChunkKeys] = {}
        domains = (*repository.roles.domains, *repository.roles.shredded)
        self._open = {name: repository.opens(name) for name in domains}
        self._identities = tuple(
            key for name, is_open in self._open.items() if is_open for key in repository.require_open(name)
        )

    def key(self, frame: Frame, domain: str | None) -> FrameKey:
        """What opens ``frame``, in ``domain`` where that is known.

        Raises Denied where the domain does not open here, IntegrityError where it does and the session's key is gone or wrong.
        """
        if frame.session != NO_SESSION:
            found = self._session(frame.session, domain)
            return FrameKey(found.cipher, (domain or found.domain,))
        domains = (domain,) if domain is not None else tuple(self._open)
        return FrameKey(self._keys(domains[0]).list_cipher(frame.id), domains)

    def trouble(self, data: memoryview, frame: Frame, key: FrameKey) -> str:
        """Why ``data``, a frame with its header, does not hold the chunk of its id; empty where it does."""
        try:
            kind = Kind(frame.kind)
            raw = decode(
                frame.codec, decrypt(key.cipher, self._repository.vault, data, frame), frame.raw, lasting=False
            )
        except (IntegrityError, NewerFormat) as error:
            return error.message
        except ValueError:
            return f"its kind {frame.kind} is not known to this release"
        named = any(self._keys(domain).id_of(kind, raw) == frame.id for domain in key.domains)
        return "" if named else f"the bytes of chunk {frame.id.hex()[:16]} do not have its id"

    def _keys(self, domain: str) -> ChunkKeys:
        if domain not in self._ids:
            self._ids[domain] = ChunkKeys(self._repository.secret, domain)
        return self._ids[domain]

    def _session(self, session: bytes, domain: str | None) -> SessionKey:
        """The key of a session. What a point needs in a domain that opens here must open; of other sessions it is not known."""
        if domain is not None and not self._open.get(domain, False):
            raise Denied(f"The shred domain {domain} does not open here.", next_step="Bring its key here.")
        if session not in self._sessions:
            while len(self._sessions) >= _SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            try:
                self._sessions[session] = self._repository.session_key(session, self._identities)
            except Denied:
                self._sessions[session] = None
        key = self._sessions[session]
        if key is not None:
            return key
        if domain is not None:
            raise IntegrityError(
                f"No key here opens session {session.hex()[:16]}, though it opens the domain {domain}.",
                untouched="Nothing was changed.",
                next_step="Bring keys/ back from a replica: `resurgam vault repair --from PATH`.",
            )
        raise Denied(f"No key here opens session {session.hex()[:16]}.", next_step="Bring its domain's key here.")


def _rows_by_pack(entries: Entries) -> dict[int, NDArray[np.int64]]:
    """Rows of ``entries`` by the ordinal of their pack."""
    if not len(entries):
        return {}
    packs = entries["pack"]
    order = np.argsort(packs, kind="stable")
    numbers, starts = np.unique(packs[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:].tolist()), strict=True))
