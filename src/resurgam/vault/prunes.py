"""The prunes of a vault, as their objects tell them: which points expired, which packs nobody builds on, which are gone.

    prune/<8 digits>/plan         PRUNE: points to expire, packs to remove, packs to write anew. Nothing has happened
    prune/<8 digits>/tombstones   TOMBSTONES: it has begun. Its points are expired; no session that begins now uses its packs
    prune/<8 digits>/awaited      AWAITED: the leases that were open when the tombstones were listed
    prune/<8 digits>/end          PRUNED: swept, and what is gone; *or* undone, and all is as before. The first put wins

Each is put once. Numbers are given one after the other, and a number only when the one before has its ``end``: so at most one
prune is open at a time, however many pruners there are, and no lock says so.

A folder whose plan is not believed is no prune: nobody could go on with it. Where something that is not believed stands as
``tombstones`` or ``end`` of a plan that is, ``broken`` says so. Writers then keep away from its packs, readers do without
it, and pruners stop (P12).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec

from resurgam.errors import IntegrityError
from resurgam.model.codec import versioned
from resurgam.model.lazily import cached_property
from resurgam.stores.abreast import each
from resurgam.stores.base import Entry, Store
from resurgam.vault.records import Record, RecordType, Subject, read_record
from resurgam.vault.roles import RoleTable

PREFIX: Final = "prune/"
FORMAT: Final = 1
OBJECTS: Final = {
    "plan": RecordType.PRUNE,
    "tombstones": RecordType.TOMBSTONES,
    "awaited": RecordType.AWAITED,
    "end": RecordType.PRUNED,
}  # in the order in which they are put


class PrunePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a prune means to do (P10). ``expire`` gives each point its reason; of the packs in ``remove`` nothing is needed, of
    those in ``repack`` some is, which is copied. ``decided`` says that the policies let those points go: then they are asked
    again at each step. What follows is for people: bytes that this frees, and copies; bytes in packs that stay though nobody needs
    them."""

    format: int
    number: int
    expire: dict[str, str] = {}
    remove: tuple[str, ...] = ()
    repack: tuple[str, ...] = ()
    decided: bool = False
    frees: int = 0
    copies: int = 0
    unused: int = 0

    @property
    def packs(self) -> frozenset[str]:
        """All packs that it would have go."""
        return frozenset(self.remove) | frozenset(self.repack)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.expire or self.remove or self.repack)


class Awaited(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``awaited``: ids of leases."""

    leases: tuple[str, ...]


class PruneEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``end``: ``gone`` packs and index ``segments``, none where the prune was not ``swept`` but undone; and packs that
    were ``spared``, each with the reason."""

    swept: bool
    gone: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    spared: dict[str, str] = {}
    why: str = ""


class Stage(Enum):
    """How far a prune is."""

    PLANNED = "planned"
    BEGUN = "begun"
    SWEPT = "swept"
    UNDONE = "undone"


class Prune(msgspec.Struct, frozen=True, kw_only=True):
    """One prune. ``subject`` names its plan, by the digest of its bytes; ``made`` is its pruner's clock."""

    plan: PrunePlan
    subject: Subject
    made: str
    signer: str
    stage: Stage
    awaited: tuple[str, ...] | None = None
    end: PruneEnd | None = None
    broken: str = ""

    @property
    def number(self) -> int:
        """Which one."""
        return self.plan.number

    @property
    def ended(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.end is not None

    @property
    def expires(self) -> bool:
        """Whether its points count as expired."""
        return self.stage in (Stage.BEGUN, Stage.SWEPT)


class Prunes(msgspec.Struct, frozen=True, dict=True):
    """All prunes by number, oldest first; ``last`` is the highest number that is taken."""

    all: tuple[Prune, ...] = ()
    last: int = 0

    @cached_property
    def expired(self) -> Mapping[str, Prune]:
        """Points that expired, each with the prune that says so."""
        return {point: prune for prune in self.all if prune.expires for point in prune.plan.expire}

    @cached_property
    def gone(self) -> frozenset[str]:
        """Packs that a sweep removes, or has removed."""
        return frozenset().union(*(prune.end.gone for prune in self.all if prune.end is not None))

    @cached_property
    def going(self) -> frozenset[str]:
        """Packs on which no session builds that begins now: those of a prune that has begun, or may have."""
        packs = (prune.plan.packs for prune in self.all if prune.stage is Stage.BEGUN or prune.broken)
        return self.gone.union(*packs)

    @property
    def swept(self) -> frozenset[str]:
        """The names of the objects that ended prunes say are gone: packs and segments."""
        ends = [prune.end for prune in self.all if prune.stage is Stage.SWEPT and prune.end is not None]
        packs = {f"packs/{name[:2]}/{name}" for end in ends for name in end.gone}
        return frozenset(packs.union(name for end in ends for name in end.segments))

    @property
    def open(self) -> Prune | None:
        """The one that has not ended."""
        return next((prune for prune in self.all if not prune.ended), None)


def object_name(number: int, what: str) -> str:
    """Where an object of prune ``number`` is stored."""
    return f"{PREFIX}{number:08d}/{what}"


def plan_subject(number: int) -> str:
    """The name of a plan as a record's subject."""
    return f"{PREFIX}{number:08d}"


class PruneReader:
    """Reads the prunes of one vault again and again; what has ended is read once."""

    def __init__(self, store: Store, vault: bytes) -> None:
        self._store, self._vault = store, vault
        self._ended: dict[int, Prune] = {}

    def read(self, roles: RoleTable, told: Callable[[Entry], Entry] = lambda entry: entry) -> Prunes:
        """All prunes as they stand now; ``told`` gives an object the time at which its original was received. Raises NewerFormat,
        Unreachable."""
        folders: dict[int, dict[str, Entry]] = {}
        for entry in self._store.list(PREFIX):
            folder, _, what = entry.name.removeprefix(PREFIX).partition("/")
            if len(folder) == 8 and folder.isdecimal():
                folders.setdefault(int(folder), {})[what] = told(entry)
        found = []
        for number, prune in each(self._store, lambda one: self._known_or_read(*one, roles), sorted(folders.items())):
            if prune is not None:
                found.append(prune)
                if prune.ended and not prune.broken:
                    self._ended[number] = prune
        return Prunes(tuple(found), _last(found, folders))

    def _known_or_read(self, number: int, objects: dict[str, Entry], roles: RoleTable) -> tuple[int, Prune | None]:
        return number, self._ended.get(number) or self._prune(number, objects, roles)

    def _prune(self, number: int, objects: dict[str, Entry], roles: RoleTable) -> Prune | None:
        try:
            record = self._record(number, objects["plan"], RecordType.PRUNE, roles)
            plan = versioned(record.body, PrunePlan, FORMAT, what=objects["plan"].name)
        except (KeyError, IntegrityError):
            return None
        if plan.number != number:
            return None
        prune = Prune(plan=plan, subject=record.subject, made=record.made, signer=record.signer, stage=Stage.PLANNED)
        for step in (self._begun, self._waiting, self._ending):
            try:
                prune = step(prune, objects, roles)
            except IntegrityError as error:
                return msgspec.structs.replace(prune, broken=error.message)
        return prune

    def _begun(self, prune: Prune, objects: dict[str, Entry], roles: RoleTable) -> Prune:
        if "tombstones" not in objects:
            return prune
        self._record(prune.number, objects["tombstones"], RecordType.TOMBSTONES, roles, prune.subject)
        return msgspec.structs.replace(prune, stage=Stage.BEGUN)

    def _waiting(self, prune: Prune, objects: dict[str, Entry], roles: RoleTable) -> Prune:
        if "awaited" not in objects:
            return prune
        record = self._record(prune.number, objects["awaited"], RecordType.AWAITED, roles, prune.subject)
        return msgspec.structs.replace(prune, awaited=record.read(Awaited).leases)

    def _ending(self, prune: Prune, objects: dict[str, Entry], roles: RoleTable) -> Prune:
        if "end" not in objects:
            return prune
        end = self._record(prune.number, objects["end"], RecordType.PRUNED, roles, prune.subject).read(PruneEnd)
        stage = Stage.SWEPT if end.swept and prune.stage is Stage.BEGUN else Stage.UNDONE
        return msgspec.structs.replace(prune, stage=stage, end=_within(end, prune.plan, stage))

    def _record(
        self, number: int, entry: Entry, type: RecordType, roles: RoleTable, subject: Subject | None = None
    ) -> Record:
        record = read_record(
            self._store.get(entry.name),
            roles,
            self._vault,
            {type},
            about=plan_subject(number),
            what=entry.name,
            received=entry.received,
        )
        if subject is not None and record.subject != subject:
            raise IntegrityError(
                f"{entry.name} is about another plan of that number.",
                untouched="Nothing was changed.",
                next_step="Find out who can write there, and have whoever keeps the store move it away.",
            )
        return record


def _last(found: Sequence[Prune], folders: Collection[int]) -> int:
    """The number after which the next one comes. What lies beyond a gap is rubbish: nobody who prunes leaves a number out, and one
    that anybody may write would leave none to take."""
    last = found[-1].number if found else 0
    while last + 1 in folders:
        last += 1
    return last


def _within(end: PruneEnd, plan: PrunePlan, stage: Stage) -> PruneEnd:
    """P10: nothing is gone that the plan does not name, whatever its end says."""
    gone = tuple(name for name in end.gone if name in plan.packs) if stage is Stage.SWEPT else ()
    segments = tuple(name for name in end.segments if name.startswith("index/")) if stage is Stage.SWEPT else ()
    return msgspec.structs.replace(end, gone=gone, segments=segments)
