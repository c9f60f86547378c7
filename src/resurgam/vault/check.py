"""check: is everything that was promised really there? About bytes only; behaviour is ``verify``'s (design 2).

Three depths, each with what it needs:

* **structure** (index key): every record is signed by the right role, every chunk that a point lists is in the index, and
  the pack that the index names is there and long enough;
* **packs** (``--read``; index key): every pack has the digest that it is named by;
* **contents** (``--read`` with an identity): every chunk decrypts, decodes, and has the id that it is known by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from blake3 import blake3

from resurgam.errors import IntegrityError, NotFound, ResurgamError
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.pack import FRAME, Kind
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.snapshots import listed_chunks

_PIECE = 8 << 20

BytesDone = Callable[[int], None]  # bytes read since the last call


class Damage(msgspec.Struct, frozen=True):
    """One thing that is wrong: which object, what, and which points are affected (all, where none is named)."""

    object: str
    what: str
    points: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a check looked at and what it found. ``contents`` says whether chunks were decrypted too, but for those of the shred
    domains ``closed``, which were shredded or whose keys are not here."""

    points: int
    chunks: int
    packs: int
    bytes_read: int
    contents: bool
    damage: tuple[Damage, ...]
    closed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.damage


def check(repository: Repository, *, read: bool = False, progress: BytesDone | None = None) -> Report:
    """Check the vault; damage is in the report, not raised. Raises Denied, Unreachable."""
    damage: list[Damage] = []
    points = list(_points(repository, damage))
    sizes = {e.name.rpartition("/")[2]: e.size for e in repository.store.list("packs/")}
    needed: dict[bytes, set[str]] = {}
    for sealed in points:
        for _, chunk in _listed(repository, sealed, damage):
            needed.setdefault(chunk, set()).add(sealed.body.id)
    damage += _misplaced(repository, needed, sizes)
    damage += [Damage("an object", why) for why in (*repository.refused, *repository.places.refused)]
    done, contents, closed = 0, False, set[str]()
    if read:
        for name in sorted(sizes):
            done += _read_pack(repository, name, sizes[name], damage, progress)
        contents = repository.keyring.can_read
        if contents:
            damage += _unreadable(repository, points, closed, progress)
    return Report(
        points=len(points),
        chunks=len(needed),
        packs=len(sizes),
        bytes_read=done,
        contents=contents,
        damage=tuple(damage),
        closed=tuple(sorted(closed)),
    )


def _points(repository: Repository, damage: list[Damage]) -> Iterator[Sealed]:
    for entry in repository.store.list("points/"):
        point = entry.name.rpartition("/")[2]
        try:
            sealed = repository.sealed(point)
            repository.records(point)
        except NotFound:
            continue  # its lease was revoked
        except IntegrityError as error:
            damage.append(Damage(entry.name, error.message, (point,)))
            continue
        yield sealed


def _listed(repository: Repository, sealed: Sealed, damage: list[Damage]) -> Iterator[tuple[str, bytes]]:
    """Every chunk that a point needs, with its shred domain."""
    yield DEFAULT_DOMAIN, bytes.fromhex(sealed.body.particulars)
    if sealed.body.answers:
        yield sealed.body.evidence, bytes.fromhex(sealed.body.answers)
    for snapshot in sealed.body.snapshots:
        get = repository.chunks(snapshot.domain).get
        try:
            for chunk in listed_chunks(bytes.fromhex(snapshot.chunks), get):
                yield snapshot.domain, chunk
        except IntegrityError as error:
            damage.append(Damage(f"the chunk list of {snapshot.component}", error.message, (sealed.body.id,)))


def _misplaced(repository: Repository, needed: dict[bytes, set[str]], sizes: dict[str, int]) -> Iterator[Damage]:
    for chunk, points in needed.items():
        place = repository.index.find(chunk)
        if place is None:
            yield Damage(f"chunk {chunk.hex()[:16]}", "no pack is known to hold it", tuple(sorted(points)))
        elif place.pack not in sizes:
            yield Damage(f"pack {place.pack[:16]}", "is missing", tuple(sorted(points)))
        elif place.offset + FRAME + place.stored > sizes[place.pack]:
            yield Damage(f"pack {place.pack[:16]}", "is cut off", tuple(sorted(points)))


def _read_pack(repository: Repository, name: str, size: int, damage: list[Damage], progress: BytesDone | None) -> int:
    digest, offset = blake3(), 0
    while offset < size and (data := repository.store.get(f"packs/{name[:2]}/{name}", offset, _PIECE)):
        digest.update(data)
        offset += len(data)
        if progress is not None:
            progress(len(data))
    if digest.hexdigest() != name:
        damage.append(Damage(f"pack {name[:16]}", "its bytes do not have the digest that it is named by"))
    return offset


def _unreadable(
    repository: Repository, points: list[Sealed], closed: set[str], progress: BytesDone | None
) -> Iterator[Damage]:
    """Fetch every chunk once, as the kind that its frame says; a chunk of the wrong kind is found when it is used. Domains that
    cannot be opened here are ``closed``: that is no damage."""
    seen: set[bytes] = set()
    opens: dict[str, bool] = {}
    for sealed in points:
        for domain, chunk in _listed(repository, sealed, []):
            if domain not in opens:
                opens[domain] = repository.opens(domain)
            if not opens[domain]:
                closed.add(domain)
                continue
            place = repository.index.find(chunk)
            if chunk in seen or place is None:
                continue
            seen.add(chunk)
            try:
                repository.chunks(domain).fetch(chunk, Kind(place.kind))
            except (ResurgamError, ValueError) as error:
                yield Damage(f"chunk {chunk.hex()[:16]}", str(getattr(error, "message", error)), (sealed.body.id,))
            if progress is not None:
                progress(place.stored)
