"""What a vault promises, and whether it is there: everything that shows without reading packs.

Every record is signed by the right role, every chunk that a point lists is in the index, and the pack that the index names is there
and long enough. What is wrong is gathered, not raised: ``damage`` of objects, and ``lost`` chunks, which ``told`` turns into damage
with the points that it affects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import msgspec
import numpy as np

from resurgam.errors import Denied, IntegrityError, NotFound
from resurgam.vault.checked import Checked, remembered
from resurgam.vault.needs import Needs, needs_of, wanting
from resurgam.vault.pack import FRAME
from resurgam.vault.records import Record, RecordType, read_record
from resurgam.vault.repository import Repository, Sealed


class Damage(msgspec.Struct, frozen=True):
    """One thing that is wrong: which object, what, and which points are known to be affected."""

    object: str
    what: str
    points: tuple[str, ...] = ()


class Lost(msgspec.Struct, frozen=True):
    """A chunk that points need and that cannot be had: the object that should hold it, and what is wrong with that."""

    chunk: bytes
    object: str
    what: str


class Lookup:
    """One look at a vault. Raises Unreachable; what needs the index key is left out where that is not here."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.damage: list[Damage] = []
        self.sizes = {e.name.rpartition("/")[2]: e.size for e in repository.store.list("packs/")}
        self.points: list[tuple[Sealed, list[Record]]] = list(self._points())
        self.lost = list(self._misplaced())
        self.damage += [
            Damage(f"the chunk list of {one.component}", one.why, (one.point,))
            for one in (self.needs.unlisted if self.needs is not None else ())
        ]
        places = repository.places.refused if self.needs is not None else ()
        self.damage += [Damage("an object", why) for why in (*repository.refused, *places)]
        self.damage += self._leases()

    @cached_property
    def needs(self) -> Needs | None:
        """What points need; None without the index key, which an auditor has not."""
        try:
            _ = self.repository.secret
        except Denied:
            return None
        return needs_of(self.repository, self.points)

    @cached_property
    def needed_packs(self) -> set[str]:
        """The packs that hold what points need; all, where that cannot be known."""
        if self.needs is None:
            return set(self.sizes)
        names = self.repository.index.packs
        return {names[number] for number in np.unique(self.needs.entries["pack"]).tolist()}

    @cached_property
    def checks(self) -> list[tuple[float, Checked]]:
        """What earlier checks have read."""
        found, refused = remembered(self.repository)
        self.damage += [Damage("a record of a check", why) for why in refused]
        return found

    def told(self, lost: Iterable[Lost]) -> list[Damage]:
        """Lost chunks as damage: those of one object, and of one kind, together."""
        by_chunk: dict[bytes, set[str]] = {}
        lost = list(lost)
        if self.needs is not None:
            for found in wanting(self.repository, self.points, {one.chunk for one in lost}):
                by_chunk.setdefault(found.chunk, set()).add(found.point)
        points: dict[tuple[str, str], set[str]] = {}
        for one in lost:
            points.setdefault((one.object, one.what), set()).update(by_chunk.get(one.chunk, ()))
        return [Damage(name, what, tuple(sorted(found))) for (name, what), found in points.items()]

    def _points(self) -> Iterator[tuple[Sealed, list[Record]]]:
        for entry in self.repository.store.list("points/"):
            point = entry.name.rpartition("/")[2]
            try:
                sealed = self.repository.sealed(point)
            except NotFound:
                continue  # its lease was revoked
            except IntegrityError as error:
                self.damage.append(Damage(entry.name, error.message, (point,)))
                continue
            try:
                records = self.repository.records(point)
            except IntegrityError as error:
                self.damage.append(Damage(entry.name, error.message, (point,)))
                records = []
            yield sealed, records

    def _misplaced(self) -> Iterator[Lost]:
        needs = self.needs
        if needs is None:
            return
        for row in np.flatnonzero(~needs.known).tolist():
            chunk = needs.ids[row].tobytes()
            yield Lost(chunk, f"chunk {chunk.hex()[:16]}", "no pack is known to hold it")
        packs = self.repository.index.packs
        room = np.array([self.sizes.get(name, 0) for name in packs], dtype=np.int64)
        ends = needs.entries["offset"].astype(np.int64) + needs.entries["stored"] + FRAME
        beyond = np.flatnonzero(ends > room[needs.entries["pack"]]) if len(needs.entries) else ()
        rows = np.flatnonzero(needs.known)
        for at in beyond:
            pack = packs[int(needs.entries["pack"][at])]
            what = "is cut off" if pack in self.sizes else "is missing"
            yield Lost(needs.ids[rows[at]].tobytes(), f"pack {pack[:16]}", what)

    def _leases(self) -> Iterator[Damage]:
        """A lease that cannot be believed would hold up every prune."""
        repository = self.repository
        for entry in repository.store.list("leases/"):
            about = f"lease/{entry.name.removeprefix('leases/')}"
            try:
                read_record(
                    repository.store.get(entry.name),
                    repository.roles,
                    repository.vault,
                    {RecordType.LEASE},
                    about=about,
                    what=entry.name,
                )
            except IntegrityError as error:
                yield Damage(entry.name, error.message)
            except NotFound:
                continue  # taken away since it was listed
