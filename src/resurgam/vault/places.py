"""Where chunks lie: reading and writing index segments and pack trailers.

Both are the same thing at two scales: entries, sealed with the index key and signed by the session's key::

    offset  bytes  what
    0       8      key id of the signer
    8       64     Ed25519 over the sealed bytes, as a ``resurgam segment`` or ``resurgam trailer``
    72      ...    the sealed entries (``vault.keys``)

A pack whose segment is missing (a capture was killed, an index was lost) is found by its trailer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from blake3 import blake3

from resurgam.errors import IntegrityError
from resurgam.stores.base import Store, put_once
from resurgam.vault.index import Entries, Index, decode_segment
from resurgam.vault.keys import IndexSecret
from resurgam.vault.pack import ENTRY, FOOTER, FRAME, trailer_place
from resurgam.vault.roles import RoleTable
from resurgam.vault.signing import PublicKey, Role, SigningKey, broken

_SIGNED = 8 + 64
_WRITERS = (Role.CAPTURE, Role.VERIFIER)  # verifiers store evidence

Segment = tuple[list[str], Entries]


class Places:
    """The segments and trailers of one vault. ``roles`` says whose signatures count."""

    def __init__(self, store: Store, secret: IndexSecret, roles: RoleTable) -> None:
        self._store, self._secret = store, secret
        self.refused: list[str] = []  # segments that could not be believed, and why
        self._keys = {key.key_id: key for role in _WRITERS for key in roles.keys(role)}

    def seal(self, kind: str, plain: bytes, signer: SigningKey) -> bytes:
        """Sealed and signed entries; ``kind`` is ``segment`` or ``trailer``."""
        sealed = self._secret.seal(kind, plain)
        return bytes.fromhex(signer.key_id) + signer.sign(f"resurgam {kind}", sealed) + sealed

    def put_segment(self, plain: bytes, signer: SigningKey) -> None:
        """Store a segment under the digest of its bytes."""
        data = self.seal("segment", plain, signer)
        put_once(self._store, f"index/{blake3(data).hexdigest()[:32]}", data)

    def segments(self, signer: str | None = None) -> Iterator[Segment]:
        """All segments that can be believed, or those that the key ``signer`` has signed.

        A damaged one, or one of a key that the role table has disowned, is left out: packs are then found by their trailers, and
        whatever cannot be found at all is named when it is needed.
        """
        for entry in self._store.list("index/"):
            data = self._store.get(entry.name)
            if signer is not None and data[:8].hex() != signer:
                continue
            try:
                yield decode_segment(self._open("segment", data, entry.name), entry.name)
            except IntegrityError as error:
                self.refused.append(error.message)

    def trailers(self, known: set[str], signer: str | None = None) -> Iterator[tuple[str, Entries]]:
        """Packs outside ``known`` with their entries, from their trailers. A damaged pack is left out: nothing in it was
        ever promised, or ``check`` names what was."""
        for entry in self._store.list("packs/"):
            name = entry.name.rpartition("/")[2]
            if name in known:
                continue
            try:
                start, length = trailer_place(self._store.get(entry.name, max(0, entry.size - FOOTER)), name)
                data = self._store.get(entry.name, start, length)
                if signer is None or data[:8].hex() == signer:
                    plain = self._open("trailer", data, f"the trailer of pack {name[:16]}")
                    yield name, np.frombuffer(plain, dtype=ENTRY)
            except (IntegrityError, ValueError):
                continue

    def index(self, signer: str | None = None) -> tuple[Index, list[tuple[str, Entries]]]:
        """What can be found, by all writers or by one, and those packs that no segment named but their own trailer.

        A chunk counts only where its pack is there and long enough, else a capture would build on what is lost, and a second
        copy of the chunk would never be found.
        """
        segments = list(self.segments(signer))
        sizes = {
            entry.name.rpartition("/")[2]: entry.size for entry in self._store.list("packs/")
        }  # after the segments
        index = Index()
        index.add((names, self._there(names, entries, sizes)) for names, entries in segments)
        orphans = list(self.trailers(set(index.packs), signer))
        index.add(([name], entries) for name, entries in orphans)
        return index, orphans

    def _there(self, names: list[str], entries: Entries, sizes: dict[str, int]) -> Entries:
        """The entries whose bytes can be there, by the sizes of all packs."""
        ends = entries["offset"].astype(np.uint64) + entries["stored"] + FRAME
        room = np.array([sizes.get(name, 0) for name in names], dtype=np.uint64)
        lost = [name for name in names if name not in sizes]
        self.refused += [f"Pack {name[:16]} is missing, and what an index segment says of it is void." for name in lost]
        return entries[ends <= room[entries["pack"]]] if len(entries) else entries

    def _open(self, kind: str, data: bytes, what: str) -> bytes:
        if len(data) < _SIGNED:
            raise broken(what, "it is cut off")
        key: PublicKey | None = self._keys.get(data[:8].hex())
        if key is None or not key.verifies(f"resurgam {kind}", data[_SIGNED:], data[8:_SIGNED]):
            raise broken(what, "no capture or verifier key of this vault has signed it")
        return self._secret.open(kind, data[_SIGNED:], what=what)
