"""A vault of as many chunks and points as one likes, from a seed, in minutes and in little room.

A host captures a system of one component every hour: each session adds ``chunks / points`` chunks, and its point needs those
of the last hundred sessions, or of a tenth of all where that is less. One point in ten is proven. Objects are plain files,
without the flushes of a real store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from resurgam.clock import SystemClock
from resurgam.model.codec import to_json, to_msgpack
from resurgam.model.point import POINT_FORMAT, Cut, Particulars, PointBody, Snapshot, Witness
from resurgam.model.system import Retention, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault.index import Index, encode_segment
from resurgam.vault.keyring import Keyring
from resurgam.vault.keys import DEFAULT_DOMAIN, new_session, session_object
from resurgam.vault.pack import ALIGN, ENTRY, FOOTER, FRAME, HEADER, ID, Kind
from resurgam.vault.pages import EMPTY, MAX_ENTRIES, TreeBuilder
from resurgam.vault.policies import PolicyBody
from resurgam.vault.records import RecordType, itself, make_record, timestamp
from resurgam.vault.repository import Repository
from resurgam.vault.signing import Role, SigningKey
from resurgam.vault.sink import DomainKeys, Sink
from resurgam.vault.snapshots import SnapshotRoot

PER_PACK = 500  # chunks of 64 KiB that compress by half
SYSTEM = "scale"
_RAW = 64 << 10
_BEGAN = datetime(2025, 1, 1, tzinfo=UTC)
_EVERY = timedelta(hours=1)
_LEAST = 32  # chunk ids in a leaf of a list, but for the last


class Size(NamedTuple):
    """How large a vault is."""

    chunks: int
    points: int

    @property
    def name(self) -> str:
        """For folders and tables."""
        return f"{self.chunks}-{self.points}"

    @property
    def window(self) -> int:
        """Of how many sessions a point needs the chunks."""
        return max(1, min(100, self.points // 10))


def make(folder: str, size: Size, seed: int) -> None:
    """Make the vault ``folder/vault`` with its keys ``folder/keys``."""
    os.makedirs(f"{folder}/vault")
    Repository.create(LocalStore(f"{folder}/vault"), f"{folder}/keys", SYSTEM, SystemClock())
    maker = _Maker(folder, size.window, np.random.default_rng(seed))
    maker.policy()
    each = size.chunks // size.points
    for number in range(size.points):
        maker.session(number, each)
    maker.close()


class _Maker:
    def __init__(self, folder: str, window: int, rng: np.random.Generator) -> None:
        self._root, self._window, self._rng = f"{folder}/vault", window, rng
        self._repository = repository = Repository(LocalStore(self._root), Keyring(f"{folder}/keys"))
        self._signer = repository.keyring.signer(Role.CAPTURE)
        self._verifier = repository.keyring.signer(Role.VERIFIER)
        session, wrapped = new_session(repository.vault, DEFAULT_DOMAIN, repository.roles.recipients(DEFAULT_DOMAIN))
        self._put(session_object(session.id), wrapped)
        self._keys = DomainKeys(repository.secret, DEFAULT_DOMAIN, session)
        self._sink = Sink(
            repository.vault,
            Index(),
            lambda name, data, _placement: self._put(f"packs/{name[:2]}/{name}", data),
            lambda entries: repository.places.seal("trailer", entries, self._signer),
            threads=2,
            in_flight=1,
        )
        self._leaves: list[list[tuple[bytes, int]]] = []
        self._previous: str | None = None
        self._logged = 0

    def policy(self) -> None:
        """How long points stay, in force since before the first."""
        body = PolicyBody(format=1, serial=1, systems={SYSTEM: Retention(last=24, daily=30, weekly=12, monthly=12)})
        name, signer = "retention/00000001", self._repository.keyring.signer(Role.APPROVER)
        self._record(RecordType.RETENTION, name, name, body, _BEGAN - timedelta(days=30), signer)

    def session(self, number: int, count: int) -> None:
        """One capture: packs, segment, pages, lease, point, log; now and then a verdict."""
        packs = list(self._packs(count))
        ids = np.concatenate([entries for _, entries in packs]).view(np.uint8).reshape(-1, ENTRY.itemsize)[:, :ID]
        self._leaves.append(list(self._list(np.ascontiguousarray(ids))))
        tree = self._page(Kind.TREE, to_msgpack(SnapshotRoot(1, "data", "files", EMPTY, [])))
        body = self._body(number, tree, self._root_page(tree), count)
        if number % 50 == 49:  # pages share packs, as those of one long session do
            self._flush()
        self._segment(packs)
        self._seal(number, body)

    def close(self) -> None:
        """Write what is still open."""
        self._flush()
        self._sink.close()

    def _packs(self, count: int) -> Iterator[tuple[str, NDArray[np.void]]]:
        for start in range(0, count, PER_PACK):
            entries = np.zeros(min(PER_PACK, count - start), ENTRY)
            raw = entries.view(np.uint8).reshape(len(entries), ENTRY.itemsize)
            raw[:, :ID] = np.frombuffer(self._rng.bytes(len(entries) * ID), np.uint8).reshape(-1, ID)
            entries["stored"] = self._rng.integers(_RAW // 4, 3 * _RAW // 4, len(entries))
            entries["raw"], entries["kind"], entries["codec"] = _RAW, Kind.DATA, 1
            ends = HEADER + np.cumsum(entries["stored"].astype(np.int64) + FRAME)
            entries["offset"] = ends - entries["stored"] - FRAME
            name = self._rng.bytes(ID).hex()
            size = -(-(int(ends[-1]) + entries.nbytes + 300 + FOOTER) // ALIGN) * ALIGN
            self._put(f"packs/{name[:2]}/{name}", b"", size)
            yield name, entries

    def _list(self, ids: NDArray[np.uint8]) -> Iterator[tuple[bytes, int]]:
        """Leaves of the chunk list over a session's chunks, cut as ``snapshots.ChunkList`` does."""
        start = 0
        for end in [*(np.flatnonzero(ids[:, 0] == 0) + 1).tolist(), len(ids)]:
            while end - start > MAX_ENTRIES:
                yield self._leaf(ids[start : start + MAX_ENTRIES])
                start += MAX_ENTRIES
            if end - start >= _LEAST or (end == len(ids) and end > start):
                yield self._leaf(ids[start:end])
                start = end

    def _leaf(self, ids: NDArray[np.uint8]) -> tuple[bytes, int]:
        return self._page(Kind.LIST, ids.tobytes()), len(ids)

    def _root_page(self, tree: bytes) -> bytes:
        builder = TreeBuilder(Kind.LIST, self._page)
        for leaves in (*self._leaves[-self._window :], [(self._page(Kind.LIST, tree), 1)]):
            for page, count in leaves:
                builder.leaf(b"", page, count)
        return self._page(Kind.LIST, to_msgpack(builder.root()))

    def _body(self, number: int, tree: bytes, chunks: bytes, count: int) -> PointBody:
        system = System(name=SYSTEM, vault=VaultPlace(path=self._root, keys="keys"), components=())
        sealed = timestamp(_BEGAN + number * _EVERY)
        cut = Cut(at=sealed, parts=(), skew=0.0, freeze=0.0)
        particulars = Particulars(system=system, cut=cut, facts={}, findings=(), witness=Witness())
        bytes_ = count * min(number + 1, self._window) * _RAW
        snapshot = Snapshot(
            component="data", driver="files", domain=DEFAULT_DOMAIN, tree=tree.hex(), chunks=chunks.hex(),
            items=count, bytes=bytes_, stored=count * _RAW // 2, asked="snapshot", earned="snapshot",
        )  # fmt: skip
        return PointBody(
            format=POINT_FORMAT, id=self._rng.bytes(8).hex(), system=SYSTEM, started=sealed, sealed=sealed, skew=0.0, freeze=0.0,
            snapshots=(snapshot,), particulars=self._page(Kind.DOCUMENT, to_json(particulars)).hex(),
            findings={"broken": 0, "warning": 0, "note": 0}, host_can_read=False, resurgam="0.1.0", previous=self._previous,
        )  # fmt: skip

    def _seal(self, number: int, body: PointBody) -> None:
        when = _BEGAN + number * _EVERY
        lease = {"point": body.id, "system": SYSTEM, "started": body.started}
        self._record(RecordType.LEASE, f"leases/{body.id}", f"lease/{body.id}", lease, when)
        name = self._record(RecordType.POINT, f"points/{body.id}", f"point/{body.id}", body, when)
        self._log(RecordType.POINT, name, when)
        if number % 10 == 9:
            verdict = {"judgement": 1, "word": "identical", "document": body.particulars, "restore": "", "seconds": 1.0}
            subject = itself(f"point/{body.id}", body)
            data = make_record(
                RecordType.VERDICT, subject, verdict, self._verifier, vault=self._repository.vault, made=when + _EVERY
            )
            name = f"records/{body.id}/verdict-{self._rng.bytes(8).hex()}"
            self._put(name, data, when=when + _EVERY)
            self._log(RecordType.VERDICT, name, when + _EVERY)
        self._previous = body.id

    def _log(self, type: RecordType, name: str, when: datetime) -> None:
        self._logged += 1
        with open(f"{self._root}/{name}", "rb") as file:
            digest = blake3(file.read()).hexdigest()
        about = f"log/{self._logged:010d}"
        self._record(RecordType.LOG, about, about, {"type": type, "object": name, "digest": digest}, when)

    def _record(
        self, type: RecordType, name: str, about: str, body: object, when: datetime, signer: SigningKey | None = None
    ) -> str:
        data = make_record(
            type, itself(about, body), body, signer or self._signer, vault=self._repository.vault, made=when
        )
        self._put(name, data, when=when)
        return name

    def _page(self, kind: Kind, data: bytes) -> bytes:
        return self._sink.put(self._keys, kind, data)

    def _flush(self) -> None:
        self._sink.flush()
        finished, self._sink.finished = self._sink.finished, []
        if finished:
            self._segment(finished)

    def _segment(self, packs: list[tuple[str, NDArray[np.void]]]) -> None:
        data = self._repository.places.seal("segment", encode_segment(packs), self._signer)
        self._put(f"index/{blake3(data).hexdigest()[:32]}", data)

    def _put(self, name: str, data: bytes | memoryview, size: int | None = None, when: datetime | None = None) -> None:
        path = f"{self._root}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)
            if size is not None:
                file.truncate(size)
        if when is not None:
            os.utime(path, (when.timestamp(), when.timestamp()))
