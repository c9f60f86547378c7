"""The sink: bytes become chunks, chunks fill packs, full packs go to the store. The hot path of a capture.

    hash --> known? --> encode (best of, verified) --> encrypt straight into the pack's memory --> store.put, other threads

Several threads call ``put`` at once. Each takes an open pack for as long as it adds one chunk, and gives it back, so that two
never wait for each other's encryption, and none that ends keeps a pack from the others. Nothing but hashing, compressing and
encrypting happens per chunk, and all of that leaves the interpreter lock.

``in_flight`` packs are on their way at a time, several to a distant store, so that its answers are not waited for one by one; that,
and what the threads fill, is all the memory there is: where the store is slower than they are, they wait. The memory that came back
last is used first, so with a store that keeps up the rest is never touched. Packs arrive in any order; ``flush`` returns when all
are durable, and no segment names one before.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from itertools import groupby
from typing import NamedTuple

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from resurgam.model.placement import ANYWHERE, Placement
from resurgam.stores.base import Buffer
from resurgam.vault import workers
from resurgam.vault.chunking import Dtype
from resurgam.vault.codecs import BALANCED, Encoded, Levels, encode_pages, encode_verified
from resurgam.vault.index import Entries, Index
from resurgam.vault.keys import IndexSecret, Session
from resurgam.vault.pack import (
    ALIGN,
    FRAME,
    NO_SESSION,
    NONCE,
    PACK_SIZE,
    SHORTEST,
    TAG,
    Frame,
    Kind,
    PackBuilder,
    associated,
    new_buffer,
    require_storable,
)
from resurgam.vault.patches import Plan
from resurgam.vault.snapshots import Extent
from resurgam.vault.threads import Threads

IN_FLIGHT = 3  # packs that are being put at a time, where the store is far; a disk is no quicker for several
META_SIZE = 8 << 20  # pages lie in packs of their own, so that reading metadata touches no data
assert META_SIZE != PACK_SIZE, "the pools of pack memory are told apart by it, and one that is too small waits for ever"
_ROOM = 64 << 10  # more than all else in a pack of one chunk: headers, trailer, footer, alignment


class ChunkKeys:
    """What names the chunks of one shred domain, and opens its chunk lists. Both writers and readers hold it (P9)."""

    def __init__(self, secret: IndexSecret, domain: str) -> None:
        base = secret.chunk_id_key(domain)
        # One key per kind, so that equal bytes of two kinds are two chunks; DATA's is the domain's own.
        self.chunk_ids = {k: base if k is Kind.DATA else blake3(bytes([k]), key=base).digest() for k in Kind}
        self.domain = domain
        self._secret = secret

    def id_of(self, kind: Kind, data: Buffer) -> bytes:
        """The chunk id of ``data``: its keyed BLAKE3."""
        return blake3(data, key=self.chunk_ids[kind]).digest()

    def list_cipher(self, chunk: bytes) -> AESGCM:
        """The cipher of one chunk list, under a key of its own."""
        return AESGCM(self._secret.list_key(chunk))


class DomainKeys(ChunkKeys):
    """What is needed to add chunks to one shred domain."""

    def __init__(self, secret: IndexSecret, domain: str, session: Session, placement: Placement = ANYWHERE) -> None:
        """``placement`` is where all that is stored with these keys may lie."""
        super().__init__(secret, domain)
        self.placement = placement
        self.row_key = secret.row_digest_key(domain)
        self.cut_seed = secret.cut_seed(domain)
        self.block_key = secret.block_key(domain)
        self.session = session


class CodedPiece(NamedTuple):
    """A piece of a blob: the id of the chunk that begins with it, its length, and what is to be stored of it: as a chunk, or of
    one that is patched; nothing where that is there already."""

    chunk: bytes
    length: int
    coded: Encoded | None
    patch: Plan | None = None


Plans = Callable[[list[bytes]], list[Plan | None]]  # of pieces by their ids: which are to be patched


class Sink:
    """Stores chunks through ``put_pack(name, bytes, placement)``; ``seal_trailer`` seals and signs what lies in a pack."""

    def __init__(
        self,
        vault: bytes,
        index: Index,
        put_pack: Callable[[str, memoryview, Placement], None],
        seal_trailer: Callable[[bytes], bytes],
        threads: int,
        in_flight: int,
        levels: Levels = BALANCED,
    ) -> None:
        self._vault = vault
        self._index = index
        self._put_pack = put_pack
        self._levels = levels
        self._seal_trailer = seal_trailer
        self._changed = threading.Condition()
        self._last = threading.local()  # the pack of each kind that a thread added to
        self._open: list[PackBuilder] = []  # those that nobody adds to just now, the last used one last
        # Of a pack that was not put: nothing that is said from then on would be true.
        self._failed: BaseException | None = None
        self._free: dict[int, list[mmap.mmap]] = {}
        for size, count in ((PACK_SIZE, threads + in_flight), (META_SIZE, 1 + in_flight)):
            self._free[size] = [_pack_memory(size) for _ in range(count)]
        self._shippers = Threads(in_flight, "ship")
        self._shipping: list[Future[None]] = []
        self.finished: list[tuple[str, Entries]] = []
        self.stored = 0  # bytes of new chunks with their frames
        self.stopping = False  # the session has failed: nothing more is wanted
        self.miscoded = 0  # chunks that a codec failed to give back and that were stored raw: this machine miscomputes

    def put(self, keys: DomainKeys, kind: Kind, data: memoryview | bytes, dtype: Dtype = Dtype.BYTES) -> bytes:
        """The id of the chunk ``data``, which is stored unless the vault has it already; of one byte of contents, that of the chunk
        that begins with it."""
        if kind is Kind.DATA:
            data = padded(data)
        chunk = keys.id_of(kind, data)
        self.put_as(keys, kind, chunk, data, dtype)
        return chunk

    def put_as(self, keys: DomainKeys, kind: Kind, chunk: bytes, data: memoryview | bytes, dtype: Dtype) -> None:
        """As ``put``, of a chunk whose id is known."""
        if self._index.claim(chunk):
            self._store(keys, kind, chunk, memoryview(data), dtype)

    def put_pages(
        self, keys: DomainKeys, span: memoryview, length: int, plans: Plans | None = None
    ) -> list[CodedPiece]:
        """As ``put`` of each piece of ``length`` bytes of which ``span`` of database pages consists, in far fewer calls. Those that
        are to be patched are not stored."""
        pieces = self.coded_pages(keys, span, length, plans)
        for piece in pieces:
            if piece.coded is not None:
                self._add(keys, Kind.DATA, piece.chunk, piece.length, piece.coded)
        return pieces

    def coded_pages(
        self, keys: DomainKeys, span: memoryview, length: int, plans: Plans | None = None
    ) -> list[CodedPiece]:
        """The pieces of such a span (its last may be shorter), and what is to be stored of those that are new: they count as known
        from now on, but for those that are to be patched."""
        if (length == 1 or len(span) % length == 1) and span:
            rest = self.coded_pages(keys, span[:-1], length, plans)
            return [*rest, self.coded(keys, padded(span[-1:]))._replace(length=1)]
        pieces = [span[at : at + length] for at in range(0, len(span), length)]
        chunks = [keys.id_of(Kind.DATA, piece) for piece in pieces]
        patches = plans(chunks) if plans is not None else [None] * len(chunks)
        alike = [
            (patch is None and self._index.claim(chunk), len(piece))
            for chunk, piece, patch in zip(chunks, pieces, patches, strict=True)
        ]
        coded: list[Encoded | None] = []
        for (are_new, size), run in groupby(alike):
            start, count = len(coded) * length, sum(1 for _ in run)
            coded += encode_pages(span[start : start + count * size], size, self._levels) if are_new else [None] * count
        return [CodedPiece(c, len(p), e, o) for c, p, e, o in zip(chunks, pieces, coded, patches, strict=True)]

    def coded(
        self, keys: DomainKeys, data: memoryview, dtype: Dtype = Dtype.BYTES, plans: Plans | None = None
    ) -> CodedPiece:
        """The chunk ``data``, and what is to be stored of it where it is new: it counts as known from now on, unless it is to be
        patched. Good until this thread encodes again."""
        chunk = keys.id_of(Kind.DATA, data)
        (plan,) = plans([chunk]) if plans is not None else (None,)
        new = encode_verified(data, dtype, self._levels) if plan is None and self._index.claim(chunk) else None
        return CodedPiece(chunk, len(data), new, plan)

    def put_coded(self, keys: DomainKeys, piece: CodedPiece) -> Extent:
        """Store what another process has coded, unless the vault has it meanwhile."""
        if piece.coded is not None and self._index.claim(piece.chunk):
            self._add(keys, Kind.DATA, piece.chunk, piece.length, piece.coded)
        return piece.chunk, 0, piece.length

    def flush(self) -> None:
        """Ship every open pack and wait until all are durable. Raises what the store raised, then and ever after."""
        with self._changed:
            while self._open:
                self._ship(self._open.pop())
            shipping, self._shipping = self._shipping, []
        wait(shipping)
        self.require_shipped()
        self._index.settle()

    def rest(self, others: Threads) -> None:
        """Wait for all that is under way, here and with ``others``, and leave no thread, so that this process can be copied.

        Nothing where a library has threads of its own, as one that sends to a bucket has: it can be copied in no case."""
        if not workers.strangers():
            others.rest()
            self._shippers.rest()

    def close(self) -> None:
        """Stop the threads; what was not flushed is dropped."""
        self._shippers.shutdown(wait=True, cancel_futures=True)

    def require_shipped(self) -> None:
        """Raises what the store raised, if it did: whoever has passed over that once meets it again, so that no point is sealed
        that misses a pack (P1)."""
        if self._failed is not None:
            raise self._failed

    def _store(self, keys: DomainKeys, kind: Kind, chunk: bytes, data: memoryview, dtype: Dtype) -> None:
        self._add(keys, kind, chunk, len(data), encode_verified(data, dtype, self._levels))

    def _add(self, keys: DomainKeys, kind: Kind, chunk: bytes, length: int, coded: Encoded) -> None:
        codec, encoded, exact = coded
        if kind is Kind.DATA:
            length = max(length, SHORTEST)  # of a piece of one byte
        require_storable(kind, length)
        self.miscoded += not exact
        if kind is Kind.LIST:
            session, nonce, cipher = NO_SESSION, os.urandom(NONCE), keys.list_cipher(chunk)
        else:
            session, nonce, cipher = keys.session.id, keys.session.next_nonce(), keys.session.cipher
        frame = Frame(kind, codec, len(encoded) + TAG, length, chunk, session, nonce)
        builder = self._taken(kind is not Kind.DATA, frame.stored, keys.placement)
        try:
            header, place = builder.add(frame)
            cipher.encrypt_into(nonce, encoded, associated(self._vault, header), place)
        except BaseException as error:  # the pack names a chunk now that it does not hold
            self._failed = self._failed or error
            raise
        finally:
            setattr(self._last, _kind(builder.meta), builder)
            with self._changed:
                self._open.append(builder)
                self.stored += FRAME + frame.stored
                self._changed.notify_all()

    def _taken(self, meta: bool, stored: int, placement: Placement) -> PackBuilder:
        """An open pack with room, which is the caller's until it is back among the open ones; waits for one, or for memory.
        A thread goes on with the pack that it used last, so that neighbours lie together and are read together.

        A pack has one placement; where it is another one's turn, or there is no room, it goes to the store: so memory is bounded
        whatever the placements are. Raises what the store has raised, so that a capture stops now, not after everything was read.
        """
        if meta:  # pages are read by whoever looks what is where; only contents may lie where reading is slow
            placement = placement._replace(cold=False)
        size = META_SIZE if meta else PACK_SIZE
        with self._changed:
            while True:
                self.require_shipped()
                alike = [one for one in self._open if one.meta == meta]
                fitting = [one for one in alike if one.placement == placement and one.has_room(stored)]
                if fitting:
                    last = getattr(self._last, _kind(meta), None)
                    chosen = last if last in fitting else fitting[-1]
                    self._open.remove(chosen)
                    return chosen
                if alike:
                    self._open.remove(alike[-1])
                    self._ship(alike[-1])
                if (memory := self._memory(size, stored)) is not None:
                    return PackBuilder(self._vault, memory, placement, meta)
                self._changed.wait()

    def _memory(self, size: int, stored: int) -> mmap.mmap | None:
        """Memory for a pack of ``size``, None where all is in use; for the rare chunk that is larger, as much as it needs."""
        needed = stored + _ROOM
        if needed > size:
            return _pack_memory(-(-needed // ALIGN) * ALIGN)
        return self._free[size].pop() if self._free[size] else None

    def _ship(self, builder: PackBuilder) -> None:
        self._shipping = [future for future in self._shipping if not future.done()]
        self._shipping.append(self._shippers.submit(self._ship_now, builder))

    def _ship_now(self, builder: PackBuilder) -> None:
        try:
            entries = builder.entries()
            name, data = builder.finish(self._seal_trailer(entries.tobytes()))
            self._put_pack(name, data, builder.placement)
            self._index.add_pack(name, entries)
            self.finished.append((name, entries))
        except BaseException as error:  # noqa: BLE001 - raised by whoever puts or flushes next
            self._failed = self._failed or error
        finally:
            memory = builder.release()
            with self._changed:
                if len(memory) in self._free:
                    self._free[len(memory)].append(memory)
                self._changed.notify_all()


def _pack_memory(size: int) -> mmap.mmap:
    """Of this process alone. Copies of it fill no pack; while they had the memory too, each page written here would be copied."""
    memory = new_buffer(size)
    if hasattr(mmap, "MADV_DONTFORK"):
        memory.madvise(mmap.MADV_DONTFORK)
    return memory


def padded(data: memoryview | bytes) -> memoryview:
    """``data`` as a chunk of contents: none has one byte."""
    return memoryview(bytes(data).ljust(SHORTEST, b"\0")) if 0 < len(data) < SHORTEST else memoryview(data)


def _kind(meta: bool) -> str:
    return "meta" if meta else "data"
