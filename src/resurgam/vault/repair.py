"""repair: what can be done about what check finds, as a plan that can be printed (P10). ``vault.repairing`` does it.

    take        what another copy of the vault still has: records, wrapped keys, packs; each verified (``vault.othercopy``)
    salvage     what is sound in a damaged pack goes into a new one, and the damaged one out of the way (``vault.salvage``)
    name        packs that no segment of the index names get one, from their trailers
    merge       segments that name packs which are gone are replaced by such that do not
    clear       what lies in index/ and cannot be believed goes
    announce    records, points and role tables that nobody announced are announced
    quarantine  points that lost what a restore needs must not go to production

Nothing that can be believed is removed or replaced. What is damaged is removed in the pruner's role only, and only once what takes
its place is at hand or durable. What cannot be done with the keys that are here is in the plan, with the key that it takes.

What no step brings back is lost: ``vault.losses`` says of whom. What nobody needs is counted, and left to prune.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from resurgam.clock import Clock
from resurgam.errors import IntegrityError, NotFound
from resurgam.stores.base import Store
from resurgam.vault.audit import audit
from resurgam.vault.check import Check
from resurgam.vault.checkorder import Wish
from resurgam.vault.keys import INDEX_OBJECT
from resurgam.vault.lineage import PLACE
from resurgam.vault.lookup import Lookup
from resurgam.vault.losses import PointLoss, losses
from resurgam.vault.othercopy import RECORDS, OtherCopy
from resurgam.vault.pack import ID
from resurgam.vault.packlist import listed_packs
from resurgam.vault.packreading import BytesDone
from resurgam.vault.places import Segment
from resurgam.vault.prunes import Stage
from resurgam.vault.repository import Repository
from resurgam.vault.salvage import Salvage, Salvager
from resurgam.vault.signing import Role, SigningKey
from resurgam.vault.trail import Kind

_INDEX = "index/"
_TABLE = "roles/"
_MOVE = "`--from` another copy that has it, or whoever keeps the store moves it away"


class Take(msgspec.Struct, frozen=True, kw_only=True):
    """An object that the other copy has; it ``replaces`` one that is damaged here."""

    name: str
    bytes: int
    replaces: bool


class Repairs(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, and what cannot be. ``name`` are packs by the key that signed for them, ``announce`` objects with their
    types; ``lost`` is what no step brings back, ``waits`` what waits for a key or a copy that is not here,
    ``refused`` what the other copy has and nobody can believe; ``garbage`` are packs that nobody needs, and their bytes."""

    take: tuple[Take, ...] = ()
    salvage: tuple[Salvage, ...] = ()
    name: dict[str, tuple[str, ...]] = {}
    merge: tuple[str, ...] = ()
    clear: tuple[str, ...] = ()
    announce: tuple[tuple[str, str], ...] = ()
    quarantine: tuple[str, ...] = ()
    lost: tuple[PointLoss, ...] = ()
    waits: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    garbage: int = 0
    garbage_bytes: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do with the keys that are here."""
        steps = (self.take, self.salvage, self.name, self.merge, self.clear, self.announce, self.quarantine)
        return not any(steps)


class Hands:
    """The keys that are here, as far as they count in this vault."""

    def __init__(self, repository: Repository) -> None:
        self._keys = {role: _key(repository, role) for role in Role}
        self.reads = repository.keyring.can_read
        self.pruner, self.approver = self._keys[Role.PRUNER], self._keys[Role.APPROVER]
        self.announcer = next((key for key in self._keys.values() if key is not None), None)
        self.why = "pruner.json"  # what it takes to remove what is damaged
        under_way = repository.prunes().open
        if under_way is not None and under_way.stage is Stage.BEGUN and not under_way.broken:  # broken, it cannot go on
            self.pruner, self.why = None, f"the end of prune {under_way.number}, which is under way"

    def namer(self, origin: str) -> SigningKey | None:
        """Who signs a segment over packs of ``origin``: that key itself, or else a pruner."""
        own = (self._keys[role] for role in (Role.CAPTURE, Role.VERIFIER))
        return next((key for key in own if key is not None and key.key_id == origin), self.pruner)


@dataclass
class Seen:
    """What one look at a vault found: ``bad`` packs with what is wrong, ``strange`` ones of which nobody who is believed says what
    they hold, and the chunks that points need and cannot have."""

    look: Lookup
    bad: dict[str, str] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)
    lost: set[bytes] = field(default_factory=set)

    def domains(self) -> dict[bytes, str]:
        """The shred domain of every chunk that points need."""
        needs = self.look.needs
        if needs is None:
            return {}
        joined, domains = needs.ids.tobytes(), needs.domain.tolist()
        return {joined[row * ID : (row + 1) * ID]: needs.domains[number] for row, number in enumerate(domains)}


class Planner:
    """Plans the repair of one vault, perhaps by another copy of it. Writes nothing.

    Packs that are known or likely to be damaged are read; with ``read`` all are, once. With ``forsake`` chunks are let go whose
    session's key is gone, so that the next capture stores them again.
    """

    def __init__(
        self,
        repository: Repository,
        clock: Clock,
        other: Store | None = None,
        *,
        read: bool = False,
        forsake: bool = False,
    ) -> None:
        """Raises Denied without the index key, or where the other copy is one of another vault."""
        _ = repository.secret
        self.repository = repository
        self.other = OtherCopy(repository, other) if other is not None else None
        self.hands = Hands(repository)
        self._clock, self._read, self._forsake = clock, read, forsake
        self._whole: set[str] = set()  # packs that were read, and were
        self.seen: Seen

    def plan(self, progress: BytesDone | None = None) -> Repairs:
        """What is to be done now. Raises Unreachable."""
        self.repository.look_again()
        self.hands = Hands(self.repository)
        waits: list[str] = []
        seen = self.seen = self._look(progress)
        take = self._to_take(seen, waits)
        waits += self._unbelieved(seen, {one.name for one in take})
        taken = {one.name.rpartition("/")[2] for one in take if one.name.startswith("packs/")}
        salvage = self._to_salvage(seen, taken, waits)
        segments = list(self.repository.places.segments())
        going = {one.pack for one in salvage if one.what}
        merge, clear = self._to_merge(seen, segments, going, taken, waits)
        back = frozenset[bytes]().union(*(one.chunks for one in salvage), self._in_other(seen, taken))
        lost = self._losses(seen, back, listed=not taken)
        garbage = seen.look.sizes.keys() - seen.look.needed_packs - seen.bad.keys()
        return Repairs(
            take=take,
            salvage=salvage,
            name=self._to_name(seen, segments, waits),
            merge=merge,
            clear=clear,
            announce=self._to_announce(),
            quarantine=self._to_quarantine(lost, waits),
            lost=lost,
            waits=tuple(dict.fromkeys(waits)),
            refused=tuple(dict.fromkeys(self.other.refused)) if self.other is not None else (),
            garbage=len(garbage),
            garbage_bytes=sum(seen.look.sizes[name] for name in garbage),
        )

    def reopen(self) -> None:
        """Go on by what the vault says now: role tables may have come."""
        self.repository = Repository(self.repository.store, self.repository.keyring)
        if self.other is not None:
            self.other = OtherCopy(self.repository, self.other.store)

    def salvager(self, seen: Seen) -> Salvager:
        """Who looks into damaged packs."""
        return Salvager(self.repository, seen.domains(), seen.look.quoting, forsake=self._forsake)

    def _look(self, progress: BytesDone | None) -> Seen:
        listed = listed_packs(self.repository.store).sizes
        strange = {name for name, size in listed.items() if self.repository.places.trailer(name, size) is None}
        unread = frozenset(listed if self._read else strange) - self._whole
        checking = Check(self.repository, Wish(packs=unread, max_age=float("inf")), self._clock)
        checking.read_packs(progress)
        seen = Seen(checking.look, lost={one.chunk for one in checking.lost})
        for reading in checking.read:
            wrong = [one.what for one in reading.trouble if self._forsake or not one.key]
            if wrong:
                seen.bad[reading.pack] = wrong[0]
            if not reading.trouble:
                self._whole.add(reading.pack)
        seen.strange = strange & checking.look.sizes.keys() - seen.bad.keys()
        return seen

    def _to_take(self, seen: Seen, waits: list[str]) -> tuple[Take, ...]:
        if self.other is None:
            return ()
        found = [
            Take(name=name, bytes=len(data), replaces=here)
            for name, data, here in (*self.other.records(), *self.other.keys())
        ]
        wanted = (self.other.packs_with(frozenset(seen.lost)) - seen.look.sizes.keys()) | seen.bad.keys()
        found += [
            Take(name=f"packs/{pack[:2]}/{pack}", bytes=len(whole), replaces=pack in seen.bad)
            for pack in sorted(wanted)
            if (whole := self.other.pack(pack)) is not None
        ]
        if self.hands.pruner is None:
            waits += [f"{one.name} is damaged, and is replaced with {self.hands.why}" for one in found if one.replaces]
            found = [one for one in found if not one.replaces]
        return tuple(found)

    @staticmethod
    def _unbelieved(seen: Seen, taken: set[str]) -> list[str]:
        """What check calls damaged, and no step here mends: it is told again, so that nobody takes the vault for sound (P12)."""
        _ = seen.look.checks
        gone = {PLACE + point for point in seen.look.missing}
        names = {one.object if "/" in one.object else one.what.split()[0].rstrip(":") for one in seen.look.damage}
        told = [
            f"{name} cannot be believed: {_MOVE}"
            for name in names - taken - gone
            if name.startswith(("packs/", *RECORDS))
        ]
        told += [f"{name} is gone: `--from` another copy that has it" for name in gone - taken]
        if INDEX_OBJECT in names and not any(name.startswith(INDEX_OBJECT) for name in taken):
            told.append(f"{INDEX_OBJECT} does not open: `--from` another copy, or `resurgam vault keys rotate reader`")
        return sorted(told)

    def _to_salvage(self, seen: Seen, taken: set[str], waits: list[str]) -> tuple[Salvage, ...]:
        bad = sorted(seen.bad.keys() - taken)
        if self.hands.pruner is None or not self.hands.reads:
            keys = f"{self.hands.why} and a reader's key"
            waits += [f"pack {name[:16]} is damaged; what is sound in it is written anew with {keys}" for name in bad]
            return ()
        salvager = self.salvager(seen)
        found = [salvager.look(pack, seen.bad[pack]) for pack in bad]
        if seen.lost:
            found += [salvager.look(pack, "", seen.lost) for pack in sorted(seen.strange)]
        return tuple(one for one in found if one.what or one.chunks)

    def _to_name(self, seen: Seen, segments: list[Segment], waits: list[str]) -> dict[str, tuple[str, ...]]:
        named = {pack for found in segments for pack in found.packs}
        by_origin: dict[str, list[str]] = {}
        for name in sorted(seen.look.sizes.keys() - named - seen.bad.keys()):
            if (found := self.repository.places.trailer(name, seen.look.sizes[name])) is not None:
                by_origin.setdefault(found.origin, []).append(name)
        for origin in [origin for origin in by_origin if self.hands.namer(origin) is None]:
            count = len(by_origin.pop(origin))
            waits.append(f"{count} packs are found by their trailers only; a segment names them with {self.hands.why}")
        return {origin: tuple(packs) for origin, packs in by_origin.items()}

    def _to_merge(
        self, seen: Seen, segments: list[Segment], going: set[str], taken: set[str], waits: list[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Packs that segments name and that are gone, or about to be; and what in the index cannot be believed."""
        believed = {found.name for found in segments}
        there = (seen.look.sizes.keys() | seen.look.gone | taken) - going
        gone = {pack for found in segments for pack in found.packs if pack not in there}
        spoilt = [entry.name for entry in self.repository.store.list(_INDEX) if entry.name not in believed]
        if self.hands.pruner is None and (gone or spoilt):
            waits.append(f"{len(gone) + len(spoilt)} things that the index says are void, and go with {self.hands.why}")
            return (), ()
        return tuple(sorted(gone)), tuple(spoilt)

    def _to_announce(self) -> tuple[tuple[str, str], ...]:
        if self.hands.announcer is None:
            return ()
        notes = [note.object for note in audit(self.repository).notes if note.kind is Kind.UNLOGGED]
        return tuple((found, name) for name in sorted(notes) if (found := self._type_of(name)))

    def _type_of(self, name: str) -> str:
        """The type of the record ``name``; empty where it is none that can be believed."""
        try:
            (entry,) = (entry for entry in self.repository.store.list(name) if entry.name == name)
            return "roles" if name.startswith(_TABLE) else str(self.repository.record(entry).type)
        except (IntegrityError, NotFound, ValueError):
            return ""

    def _to_quarantine(self, lost: tuple[PointLoss, ...], waits: list[str]) -> tuple[str, ...]:
        hit = [one.point for one in lost if not one.restores]
        state, sealed = self.repository.state, self.repository.sealed
        hit = [point for point in hit if state(sealed(point)).quarantined is None]
        if self.hands.approver is None:
            waits += [f'`resurgam quarantine {point} --reason "it lost chunks"`, with approver.json' for point in hit]
            return ()
        return tuple(hit)

    def _losses(self, seen: Seen, back: frozenset[bytes], *, listed: bool) -> tuple[PointLoss, ...]:
        """What is lost for good; lists that are cut off count only where nothing comes back that may hold the rest of them."""
        needs = seen.look.needs
        unlisted = [(one.point, one.component) for one in (needs.unlisted if needs is not None and listed else ())]
        return tuple(losses(self.repository, seen.look.points, seen.lost - back, unlisted))

    def _in_other(self, seen: Seen, taken: set[str]) -> frozenset[bytes]:
        """The lost chunks that lie in packs which are taken."""
        if self.other is None:
            return frozenset()
        index = self.other.theirs.index
        return frozenset(c for c in seen.lost if any(place.pack in taken for place in index.places(c)))


def _key(repository: Repository, role: Role) -> SigningKey | None:
    if not repository.keyring.has(f"{role}.json"):
        return None
    key = repository.keyring.signer(role)
    return key if repository.roles.lists(key.public, role) else None
