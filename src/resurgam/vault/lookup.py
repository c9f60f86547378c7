"""What a vault promises, and whether it is there: everything that shows without reading packs.

Every record is signed by the right role, every point is there that another names (``vault.lineage``), readers can open the index,
every chunk that a promised point lists is in it, and the pack that the index names is there and long enough. What is wrong is
gathered, not raised: ``damage`` of objects, and ``lost`` chunks, which ``told`` turns into damage with the points that it affects.

Points that expired promise nothing, keys that were disowned vouch for nothing, and packs that a prune has swept are not missed. A
prune that ends meanwhile has moved what is looked for: then it is looked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

from resurgam.errors import Denied, IntegrityError, NotFound
from resurgam.model.lazily import cached_property
from resurgam.model.placement import ANYWHERE, Placement
from resurgam.stores.base import Entry
from resurgam.vault.checked import Checked, remembered
from resurgam.vault.keys import DEFAULT_DOMAIN, INDEX_OBJECT, unwrap_index
from resurgam.vault.lineage import PLACE, missing_in
from resurgam.vault.naming import POINT_NAME
from resurgam.vault.needs import Needs, documents_of, needs_of, wanting
from resurgam.vault.pack import FRAME
from resurgam.vault.packlist import listed_packs
from resurgam.vault.policies import PREFIX as POLICIES
from resurgam.vault.policies import policies, policy_name
from resurgam.vault.records import Record, RecordType
from resurgam.vault.replicas import quoting
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.roles import Disowned
from resurgam.vault.wraps import first_opened, wraps_of_index

_GONE = "see `resurgam audit verify`, and bring it back with `resurgam vault repair --from PATH`"
_TRIES = 3  # looks at a vault in which prunes end meanwhile


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
        repository.doubt()  # a check tells what lies in the vault, not what its host remembers
        for _ in range(_TRIES):
            self.gone = repository.prunes().gone
            self._look()
            if repository.prunes().gone == self.gone:
                break
            repository.look_again()

    def _look(self) -> None:
        repository = self.repository
        self.damage: list[Damage] = []
        self.points: list[tuple[Sealed, list[Record]]] = list(self._points())
        self._withheld = {sealed.body.id: repository.here.withholds(sealed.body) for sealed, _ in self.points}
        self.quoting = self._quotations() if repository.roles.residency else {}
        self.missing = missing_in(repository, (sealed for sealed, _ in self.points))
        self.damage += [
            Damage(PLACE + point, f"is gone, which {after} says came before it: {_GONE}", (point,))
            for point, after in self.missing.items()
        ]
        self.needs = (
            self._needs()
        )  # what a point lists was durable before it: points first, then the index, then the packs
        packs, self.cold, strangers = listed_packs(repository.store)
        self.sizes = {name: size for name, size in packs.items() if name not in self.gone}
        self.damage += [Damage(name, "is no pack: packs are named by their digest") for name in strangers]
        self.lost = list(self._misplaced())
        self.damage += [
            Damage(f"the chunk list of {one.component}", one.why, (one.point,))
            for one in (self.needs.unlisted if self.needs is not None else ())
            if one.component not in self._withheld.get(one.point, ())
        ]
        places = (*repository.places.refused, *self._missing_packs()) if self.needs is not None else ()
        self.damage += [Damage("an object", why) for why in dict.fromkeys((*repository.refused, *places))]
        self.damage += self._not_ours()
        self.damage += self._unbelieved("leases/", RecordType.LEASE)  # one holds up every prune
        self.damage += self._unbelieved(POLICIES, RecordType.RETENTION)  # one keeps everything
        self.damage += self._missing_policies()
        self.damage += self._index_key()
        broken = (prune.broken for prune in repository.prunes().all if prune.broken)
        self.damage += [Damage(why.split()[0], why) for why in broken]  # it holds up every prune

    @cached_property
    def needed_packs(self) -> set[str]:
        """The packs that hold what points need; all, where that cannot be known."""
        if self.needs is None:
            return set(self.sizes)
        names = self.needs.packs
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

    def _needs(self) -> Needs | None:
        """What points need; None without the index key, which an auditor has not."""
        try:
            _ = self.repository.secret
        except Denied:
            return None
        return needs_of(self.repository, self.points)

    def _points(self) -> Iterator[tuple[Sealed, list[Record]]]:
        """Promised points, each with what became known of it: one listing of each kind, however many there are."""
        repository = self.repository
        about: dict[str, list[Entry]] = {}
        points = repository.points()
        for entry in repository.store.list("records/"):
            about.setdefault(entry.name.split("/")[1], []).append(entry)
        for why in repository.refused_points:  # an error of a record begins with its name
            name = why.split()[0]
            self.damage.append(Damage(name, why, (name.removeprefix("points/"),)))
        for sealed in points:
            found = [record for entry in about.get(sealed.body.id, ()) if (record := self._record(sealed, entry))]
            yield sealed, found

    def _record(self, sealed: Sealed, entry: Entry) -> Record | None:
        try:
            record = self.repository.about(sealed, entry)
        except (Disowned, NotFound):
            return None  # nobody's word; or taken away since it was listed
        except IntegrityError as error:
            self.damage.append(Damage(entry.name, error.message, (sealed.body.id,)))
            return None
        return None if record.type is RecordType.REVOCATION else record

    def _misplaced(self) -> Iterator[Lost]:
        needs = self.needs
        if needs is None:
            return
        for row in np.flatnonzero(~needs.known).tolist():
            chunk = needs.ids[row].tobytes()
            if not self._expected(needs, row):
                continue
            yield Lost(chunk, f"chunk {chunk.hex()[:16]}", "no pack is known to hold it")
        packs = needs.packs
        room = np.array([self.sizes.get(name, 0) for name in packs], dtype=np.int64)
        ends = needs.entries["offset"].astype(np.int64) + needs.entries["stored"] + FRAME
        beyond = np.flatnonzero(ends > room[needs.entries["pack"]]) if len(needs.entries) else ()
        rows = np.flatnonzero(needs.known)
        for at in beyond:
            if not self._expected(needs, int(rows[at])):
                continue
            pack = packs[int(needs.entries["pack"][at])]
            what = "is cut off" if pack in self.sizes else "is missing"
            yield Lost(needs.ids[rows[at]].tobytes(), f"pack {pack[:16]}", what)

    @property
    def withheld(self) -> tuple[str, ...]:
        """The components whose contents may not lie in this place: they are no damage."""
        return tuple(sorted(frozenset().union(*self._withheld.values())))

    def _quotations(self) -> dict[bytes, Placement]:
        """The documents that quote contents of a point, and where they may lie."""
        return {
            chunk: quoting(sealed.body)
            for sealed, records in self.points
            for _, chunk in documents_of(sealed, records)
            if chunk.hex() != sealed.body.particulars
        }

    def _expected(self, needs: Needs, row: int) -> bool:
        """Whether the chunk of that row is to be expected in this place."""
        stays = self.repository.roles.residency.get(needs.domains[int(needs.domain[row])], "")
        here = self.repository.here
        return here.holds(Placement(stays)) and here.holds(self.quoting.get(needs.ids[row].tobytes(), ANYWHERE))

    def _missing_packs(self) -> list[str]:
        """Packs that segments name and that are not there. Where something is withheld, they may be what is; what points need of
        the others is missed chunk by chunk."""
        here, residencies = self.repository.here, self.repository.roles.residency.values()
        return [] if any(not here.holds(Placement(word)) for word in residencies) else self.repository.places.missing

    def _not_ours(self) -> Iterator[Damage]:
        """What lies among the points and hinders nobody, for no writer gives such names."""
        for entry in self.repository.store.list("points/"):
            if not POINT_NAME.fullmatch(entry.name):
                yield Damage(entry.name, "is not ours: points are named by 16 hexadecimal digits")

    def _unbelieved(self, folder: str, type: RecordType) -> Iterator[Damage]:
        """What stands in ``folder``, is to be believed there, and cannot be."""
        for entry in self.repository.store.list(folder):
            about = f"lease/{entry.name.removeprefix(folder)}" if type is RecordType.LEASE else entry.name
            try:
                self.repository.record(entry, {type}, about=about)
            except (Disowned, NotFound):
                continue  # nobody's word; or taken away since it was listed
            except IntegrityError as error:
                yield Damage(entry.name, error.message)

    def _missing_policies(self) -> Iterator[Damage]:
        """Policies are numbered one after the other: what is not there was taken away."""
        there = {entry.name for entry in self.repository.store.list(POLICIES)}
        for signed in policies(self.repository):
            if (name := policy_name(signed.serial)) not in there:
                yield Damage(name, "is missing, and others follow it")

    def _index_key(self) -> Iterator[Damage]:
        """P3: a recovery key opens nothing without it, and whoever has a signing key that finds chunks would not miss it."""
        repository = self.repository
        if not wraps_of_index(repository.store):
            yield Damage(INDEX_OBJECT, "is missing: no reader's key and no recovery key opens this vault")
            return
        readers = repository.roles.domains.get(DEFAULT_DOMAIN, ())
        keys = repository.keyring.identities if repository.keyring.can_read else ()
        keys = tuple(key for key in keys if key.recipient in readers)
        if not keys:
            return
        try:
            found = first_opened(
                repository.store, INDEX_OBJECT, lambda blob: unwrap_index(blob, repository.vault, keys)
            )
        except (Denied, IntegrityError) as error:
            yield Damage(INDEX_OBJECT, error.message)
            return
        if found.secret_bytes() != repository.secret.secret_bytes():
            yield Damage(INDEX_OBJECT, "holds another secret than the keys that find chunks")
