"""The audit: does the vault hold what its log says, by those who may say it, and is the log the one that it was?

Needs no key: ``trust.json`` pins the root key, whose role table says whose signatures count. Nothing is opened.

* **The objects** (``PLACES``): each record is signed by a key of a role that may write it, stands under the name that is its own,
  and is about the point under which it lies. So a verdict that a stolen capture key signs is found (P9), and so is an old record
  that lies somewhere again.
* **The log** (``vault.trail``): whole, in order, and the one that checkpoints, witnesses and this host's memory know.
* **The points** that others name as the one before them are there (``vault.lineage``).
* **What the log announces** is there, with the same bytes. What nobody announced is said, and is no error (P1).

A full audit reads every record and every entry: O(n), and it holds a digest and a name for each. ``new`` looks at what came after
this host's last look (P11) and trusts that one for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from blake3 import blake3

from resurgam.errors import IntegrityError, NotFound
from resurgam.stores.base import Entry
from resurgam.vault.heads import stored
from resurgam.vault.lineage import PLACE, Follows, is_there, missing
from resurgam.vault.log import read_entry
from resurgam.vault.logmemory import Seen
from resurgam.vault.records import Record, RecordType, read_record, read_roles
from resurgam.vault.repository import Repository
from resurgam.vault.roles import Disowned
from resurgam.vault.signing import broken, open_envelope
from resurgam.vault.trail import NOT_TO_BE_SIGNED, THIS_HOST, Finding, Head, Kind, Trail

FIRST_TABLE: Final = "roles/00000001"  # begins the vault; nobody is there yet to announce it
# Where records lie, and what a record there is about: {} is the last part of its name.
PLACES: Final = {
    "roles/": "roles/{}",
    "points/": "point/{}",
    "records/": "",
    "leases/": "lease/{}",
    "retention/": "retention/{}",
    "approvals/": "",
    "prune/": "",
    "checks/": "check/{}",
    "replicas/": "replicas/{}",
}
_UNANNOUNCED: Final = ("leases/",)  # a lease says only that somebody is at work
_EXPECTED: Final = {
    "points/": {RecordType.POINT, RecordType.REVOCATION},
    "leases/": {RecordType.LEASE},
    "retention/": {RecordType.RETENTION},
    "approvals/": {RecordType.APPROVAL},
    "prune/": {RecordType.PRUNE, RecordType.TOMBSTONES, RecordType.AWAITED, RecordType.PRUNED},
    "checks/": {RecordType.CHECKED},
    "replicas/": {RecordType.REPLICAS},
}

Progress = Callable[[int], None]  # bytes read since the last call


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit looked at and found. ``entries`` is the length of the log up to its first gap, ``root`` the hex root of its
    Merkle tree, ``covered`` the largest checkpoint that agrees; ``notes`` are worth knowing and no error."""

    entries: int
    objects: int
    checkpoints: int
    covered: int
    root: str
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    seen: Seen

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def whole(self) -> bool:
        """Whether the log itself is the one that it was: one to be signed, and to be remembered."""
        return not any(finding.kind in NOT_TO_BE_SIGNED for finding in self.findings)


def audit(
    repository: Repository,
    *,
    seen: Seen | None = None,
    witnessed: Sequence[Head] = (),
    new: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Audit the vault; what is wrong is in the report, not raised. ``seen`` is what this host remembers, ``witnessed`` what others
    do; with ``new`` only what came after ``seen`` is looked at. Raises Denied, Unreachable, NewerFormat."""
    look = _Look(repository, progress)
    if not new:
        look.at_objects()
    signed, refused = stored(repository)
    kept = () if seen is None or new else (Head(size=seen.size, root=seen.root, whose=THIS_HOST),)
    trail = Trail(repository.store, (*signed, *witnessed, *kept), seen if new else None)
    for number, entry, data, previous in trail.follow():
        look.at_entry(number, entry, data, previous)
    if not new:
        look.unlogged()
    look.points_follow()
    look.replays()
    if seen is not None:
        look.roles_go_on(seen.roles)
    covered = max((head.size for head in signed if head in trail.agreed or head.size < trail.began), default=0)
    look.not_covered(covered, trail.seen.size)
    return Report(
        entries=trail.seen.size,
        objects=len(look.digests),
        checkpoints=len(signed),
        covered=covered,
        root=trail.seen.root.hex(),
        findings=(*(one for one in refused if one.kind != Kind.DISOWNED), *trail.findings, *look.findings),
        notes=(*(one for one in refused if one.kind == Kind.DISOWNED), *look.notes),
        seen=msgspec.structs.replace(trail.seen, roles=repository.roles.serial),
    )


class _Look:
    """What one audit knows so far."""

    def __init__(self, repository: Repository, progress: Progress | None) -> None:
        self._repository = repository
        self._store = repository.store
        self._progress = progress or (lambda _size: None)
        self.digests: dict[str, bytes] = {}  # of each object that was read
        self._types: dict[str, RecordType] = {}  # of each that was believed
        self._points: dict[str, str] = {}  # the digest that names each point
        self._before: dict[str, str | None] = {}  # which point each names as the one before it
        self._announced: set[str] = set()
        self.findings: list[Finding] = []
        self.notes: list[Finding] = []

    def at_objects(self) -> None:
        """Read every record where it lies."""
        for place in PLACES:
            for entry in self._store.list(place):
                self._read(entry)
        self._tables_in_a_row()

    def at_entry(self, number: int, entry: Entry, data: bytes, previous: str) -> None:
        """Believe an entry or not, and compare what it announces with what is there."""
        self._progress(len(data))
        try:
            _, said = read_entry(data, self._repository.as_told(entry), self._repository.roles, self._repository.vault)
        except Disowned as error:
            return self._disowned(entry.name, data, error)
        except IntegrityError as error:
            return self._find(Kind.NOT_BELIEVED, entry.name, error.message)
        if said.previous is not None and said.previous != previous and (previous or number == 1):
            what = "it follows another entry than the one that stands before it"
            self._find(Kind.EXCHANGED, entry.name, what)
        return self._announces(entry.name, said.type, said.object, said.digest)

    def unlogged(self) -> None:
        """What lies there and nobody announced."""
        for name in self.digests.keys() - self._announced - {FIRST_TABLE}:
            if not name.startswith(_UNANNOUNCED):
                self._note(Kind.UNLOGGED, name, f"a {self._types.get(name, 'record')} that nobody announced")

    def replays(self) -> None:
        """Every record is made once: equal bytes in two places are one that somebody has put there again."""
        places: dict[bytes, list[str]] = {}
        for name, digest in self.digests.items():
            places.setdefault(digest, []).append(name)
        for names in places.values():
            first, *others = sorted(names, key=lambda name: (name not in self._announced, name))
            for name in others:
                self._find(Kind.REPLAYED, name, f"it holds the record that lies in {first}")

    def points_follow(self) -> None:
        """The point that another names as the one before it is there: also where the log was cut off that announced it."""
        store, told = self._store, {finding.object for finding in self.findings if finding.kind is Kind.GONE}
        gone = missing(self._before.items(), lambda point: PLACE + point in self.digests or is_there(store, point))
        for point, after in gone.items():
            if PLACE + point not in told:
                self._find(Kind.GONE, PLACE + point, f"{PLACE}{after} says that it came before it")

    def roles_go_on(self, serial: int) -> None:
        """The role table in force is none of before: a key that was disowned since would count again."""
        if self._repository.roles.serial < serial:
            name = self._repository.roles.object_name
            self._find(Kind.ROLLED_BACK, name, f"it is the newest role table there, and this host saw {serial}")

    def not_covered(self, covered: int, entries: int) -> None:
        """From where on nobody would notice that the log was cut off."""
        if covered < entries:
            what = f"no checkpoint covers the last {entries - covered} of {entries} entries"
            self._note(Kind.NOT_COVERED, "log", what)

    # Records --------------------------------------------------------------------------------------------------------

    def _read(self, entry: Entry) -> None:
        if entry.name in self.digests:
            return
        data = self._get(entry.name)
        self.digests[entry.name] = blake3(data).digest()
        try:
            self._types[entry.name] = self._believed(entry, data)
        except Disowned as error:
            self._disowned(entry.name, data, error)
        except IntegrityError as error:
            self._find(Kind.NOT_BELIEVED, entry.name, error.message)

    def _believed(self, entry: Entry, data: bytes) -> RecordType:
        """The type of the record ``entry``, when it is one and belongs there. Raises IntegrityError, Disowned."""
        place = next(place for place in PLACES if entry.name.startswith(place))
        last = entry.name.rpartition("/")[2]
        if place == "roles/":
            read_roles(data, self._repository.vault, self._repository.keyring.trust.root, name=entry.name)
            return RecordType.ROLES
        if place == "records/":
            return self._about_a_point(entry, data, entry.name.split("/")[1], last.rpartition("-")[0])
        about = PLACES[place].format(last) or None
        record = self._record(entry, data, _EXPECTED[place], about)
        if place == "points/" and record.type is RecordType.POINT:
            self._points[last] = record.subject.digest
            self._before[last] = record.read(Follows).previous
        folder = entry.name.split("/")[1]
        if place == "approvals/" and not record.subject.digest.startswith(folder):
            raise broken(entry.name, f"it approves the plan {record.subject.digest[:16]}")
        return record.type

    def _about_a_point(self, entry: Entry, data: bytes, point: str, type: str) -> RecordType:
        if type not in tuple(RecordType):
            raise broken(entry.name, "its name is not that of a record")
        record = self._record(entry, data, {RecordType(type), RecordType.REVOCATION}, f"point/{point}")
        if point not in self._points:
            for sealed in self._store.list(f"points/{point}"):
                self._read(sealed)
        if record.subject.digest != self._points.get(point):
            raise broken(entry.name, f"it is about another point under the id {point}, or about none that is there")
        return record.type

    def _record(self, entry: Entry, data: bytes, expect: set[RecordType], about: str | None) -> Record:
        return read_record(
            data,
            self._repository.roles,
            self._repository.vault,
            expect,
            about=about,
            what=entry.name,
            received=self._repository.as_told(entry).received,
        )

    def _announces(self, entry: str, type: str, name: str, digest: str) -> None:
        """What the log says of the object ``name`` is so."""
        if not name.startswith(tuple(PLACES)):
            return self._find(Kind.NOT_BELIEVED, entry, f"it announces {name[:80]!r}, which is no record")
        self._announced.add(name)
        if name not in self.digests:
            for found in self._store.list(name):
                if found.name == name:
                    self._read(found)
        if name not in self.digests:
            return self._find(Kind.GONE, name, f"{entry} announced it")
        if digest and self.digests[name].hex() != digest:
            return self._find(Kind.ALTERED, name, f"{entry} announced it with other bytes")
        if self._types.get(name, type) != type:
            return self._find(
                Kind.NOT_BELIEVED, entry, f"it announces a {type[:20]}, and {name} is a {self._types[name]}"
            )
        return None

    def _tables_in_a_row(self) -> None:
        """Serials go up by one, so a role table that was taken away leaves a gap."""
        serials = sorted(int(name.rpartition("/")[2]) for name, kind in self._types.items() if kind == RecordType.ROLES)
        for serial in sorted(set(range(1, max(serials, default=0))) - set(serials)):
            self._find(Kind.GAP, f"roles/{serial:08d}", f"missing, while roles/{serials[-1]:08d} is there")

    def _get(self, name: str) -> bytes:
        try:
            data = self._store.get(name)
        except NotFound:
            return b""  # removed since it was listed: nothing is believed of it
        self._progress(len(data))
        return data

    def _disowned(self, name: str, data: bytes, error: Disowned) -> None:
        """What a removed key signed is known to be nobody's word; what a retired one signed too late is news."""
        hints = (self._repository.roles.entry(key) for key, _ in open_envelope(data, name).signatures)
        if any(hint is not None and hint[1].removed for hint in hints):
            self._note(Kind.DISOWNED, name, error.message)
        else:
            self._find(Kind.NOT_BELIEVED, name, error.message)

    def _find(self, kind: Kind, name: str, what: str) -> None:
        self.findings.append(Finding(kind=kind, object=name, what=what))

    def _note(self, kind: Kind, name: str, what: str) -> None:
        self.notes.append(Finding(kind=kind, object=name, what=what))
