"""A writing session: from the lease to the seal.

The order of writes is the format's first rule (``docs/format.md`` section 2): lease, session keys, packs, index
segment, point, log. The lease comes before the first read, too: what a session builds on, no prune takes away that sees the
lease, and what a prune had marked before is left out of the session's index (``vault.leases``). Whatever stops in between leaves
objects that nothing names; the next session of the same key takes the packs into its index and goes on from there, and revokes
the lease.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from resurgam import __version__
from resurgam.clock import Clock
from resurgam.drivers.base import Driver, Item, Reopens, SkipsKnown
from resurgam.errors import ResurgamError, TargetRefused
from resurgam.model.codec import to_json
from resurgam.model.placement import ANYWHERE, Placement, of_all
from resurgam.model.point import POINT_FORMAT, Finding, Particulars, PointBody, Position, Severity, Snapshot
from resurgam.model.system import Component, System
from resurgam.stores.abreast import is_far
from resurgam.stores.archive import put_cold, with_classes
from resurgam.stores.base import AlreadyThere, put_once
from resurgam.vault.bases import Bases, Reopen
from resurgam.vault.blockmemory import BlockMemory
from resurgam.vault.buffers import Buffers
from resurgam.vault.codecs import BALANCED, LEVELS, Levels
from resurgam.vault.filescache import FilesCache, Known
from resurgam.vault.host import HostState, LastPoint, UnderWay
from resurgam.vault.index import Index, encode_segment
from resurgam.vault.intake import Intake
from resurgam.vault.keys import DEFAULT_DOMAIN, new_session, session_object
from resurgam.vault.leases import Lease, require_promised, reserve_point, reserve_records, revoke_name, revoked
from resurgam.vault.lineage import forgotten
from resurgam.vault.pace import Pace
from resurgam.vault.pack import Kind
from resurgam.vault.records import RecordType, itself, timestamp
from resurgam.vault.replicas import quoting, require_newest_list, require_takes_evidence
from resurgam.vault.rowmemory import RowMemory
from resurgam.vault.signing import Role, SigningKey
from resurgam.vault.sink import IN_FLIGHT, DomainKeys, Sink
from resurgam.vault.threads import Threads
from resurgam.vault.zones import Reading

if TYPE_CHECKING:
    from resurgam.vault.repository import Repository, Sealed

THREADS = 2  # more gain nothing: two fill two cores, and each holds a pack of 32 MiB
_WINDOWS = 4

Progress = Callable[[str, int], None]  # component, bytes taken in since the last call


class Writer:
    """Adds to a vault. ``Repository.writer`` makes one; it is of use within its ``with`` only."""

    def __init__(self, repository: Repository, signer: SigningKey, lease: Lease, levels: Levels = BALANCED) -> None:
        """``lease`` was put before anything is read here: from now on no prune takes away what this session builds on.
        ``levels`` are how hard what is new is compressed."""
        self._repository = repository
        self._signer = signer
        self._lease = lease
        self._keys: dict[tuple[str, Placement], DomainKeys] = {}
        self.quoting = ANYWHERE  # where what quotes the system's contents may lie
        self.cold = ""  # the storage class of contents that are placed cold; empty for that of all else
        self._index = _own_index(repository, signer)
        self._sink = Sink(
            repository.vault,
            self._index,
            self._put_pack,
            lambda entries: repository.places.seal("trailer", entries, signer),
            THREADS,
            IN_FLIGHT if is_far(repository.store) else 1,
            levels,
        )
        self._pool = Threads(THREADS, "take")
        self._buffers = Buffers(_WINDOWS)

    def __enter__(self) -> Self:
        return self

    def _put_pack(self, name: str, data: memoryview, placement: Placement) -> None:
        store = self._repository.store
        put_cold(store, f"packs/{name[:2]}/{name}", data, self.cold if placement.cold else "")

    def document(self, value: object, domain: str = DEFAULT_DOMAIN) -> str:
        """Store ``value`` as encrypted JSON, where what quotes the system may lie; returns its chunk id in hex. Durable after
        ``flush``."""
        return self._document(value, domain, self.quoting)

    def _document(self, value: object, domain: str, placement: Placement) -> str:
        return self._sink.put(self._domain(domain, placement), Kind.DOCUMENT, to_json(value)).hex()

    def flush(self) -> None:
        """Everything stored so far is durable, and can be found, when this returns."""
        self._sink.flush()
        finished, self._sink.finished = self._sink.finished, []
        if finished:
            self._repository.places.put_segment(encode_segment(finished), self._signer)

    @property
    def stored(self) -> int:
        """Bytes that this session has put into packs so far."""
        return self._sink.stored

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.stopping = error is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._sink.close()

    def _domain(self, domain: str, placement: Placement) -> DomainKeys:
        """The keys of a domain. Each placement has a session of its own, so that also its key may stay in one region."""
        if (domain, placement) not in self._keys:
            session, wrapped = new_session(self._repository.vault, domain, self._repository.roles.recipients(domain))
            put_once(self._repository.store, session_object(session.id), wrapped)
            self._keys[domain, placement] = DomainKeys(self._repository.secret, domain, session, placement)
        return self._keys[domain, placement]


class PointWriter(Writer):
    """The writing session of one recovery point."""

    def __init__(
        self,
        repository: Repository,
        system: System,
        host: HostState,
        clock: Clock,
        paranoid: bool,
        progress: Progress | None,
    ) -> None:
        repository.require_newest_roles(host)  # P12: before anything is wrapped to keys that may be disowned
        require_newest_list(repository, host)
        require_residency(repository, system)
        if system.vault.cold and any(component.placement.cold for component in system.components):
            with_classes(repository.store, system.vault.cold)  # P12: before anything is read
        signer = repository.keyring.signer(Role.CAPTURE)
        started = timestamp(clock.now())
        _revoke_own(repository, host, signer, clock)
        self.point = secrets.token_hex(8)
        host.begin(UnderWay(self.point, started, os.getpid()))
        lease = reserve_point(repository, system.name, signer, clock, self.point)
        super().__init__(repository, signer, lease, LEVELS[system.vault.compression])
        self._system, self._host, self._clock, self._paranoid = system, host, clock, paranoid
        self.quoting = of_all(component.residency for component in system.components)
        self.cold = system.vault.cold
        self._progress = progress or (lambda _component, _bytes: None)
        limit = system.limits.read_mb_s
        self._pace = Pace(limit * 1e6 if limit else None, system.limits.cpu)
        self._caches: list[FilesCache | RowMemory | BlockMemory | Bases] = []
        self._started = started
        self.findings: list[Finding] = []
        self.notices: list[str] = []  # what failed after the point was sealed, and takes nothing from it
        self._miscoded_told = False
        self._last = host.last()
        if self._last is not None and self._started < self._last.sealed:
            what = (
                f"this host's clock stands at {self._started}, and stood at {self._last.sealed} when it sealed its last point: "
                "set it right; times and ages are wrong until then, the order of points is kept"
            )
            self.findings.append(Finding(severity=Severity.WARNING, what=what))
        if what := forgotten(repository.store, host):  # P12: said in the point itself, which is taken all the same
            self.findings.append(Finding(severity=Severity.WARNING, what=what))

    def snapshot(self, component: Component, driver: Driver, at: Position) -> Snapshot:
        """Read ``component`` at its position into the vault."""
        place, vault = self._host.path(component.name), self._repository.vault.hex()
        cache = FilesCache(f"{place}.files", vault, component.shred_domain)
        rows = RowMemory(f"{place}.rows", vault, believe=not self._paranoid)
        blocks = BlockMemory(f"{place}.blocks", vault, component.shred_domain, believe=not self._paranoid)
        bases = Bases(
            f"{place}.bases", f"{vault} {component.shred_domain}", blocks, _reopen(driver, component, at), self._pace
        )
        self._caches += (cache, rows, bases, blocks)
        keys = self._domain(component.shred_domain, component.placement)
        before = self._sink.stored
        intake = Intake(
            self._sink,
            self._index,
            keys,
            self._pool,
            self._buffers,
            cache,
            rows,
            blocks,
            bases,
            self._paranoid,
            self._pace,
            lambda size: self._progress(component.name, size),
        )
        taken = intake.take(component.name, component.driver, self._pace.each(_items(driver, component, at, intake)))
        self.findings += taken.findings
        if self._sink.miscoded and not self._miscoded_told:
            self._miscoded_told = True
            what = "a codec did not give back what it was given, and the chunk was stored as it was: test this host's memory"
            self.findings.append(Finding(severity=Severity.WARNING, what=what, component=component.name))
        return Snapshot(
            component=component.name,
            driver=component.driver,
            domain=component.shred_domain,
            tree=taken.tree.hex(),
            chunks=taken.chunks.hex(),
            items=taken.items,
            bytes=taken.bytes,
            stored=self._sink.stored - before,
            asked=component.consistency,
            earned=at.earned.word,
            residency=component.residency,
        )

    def seal(self, particulars: Particulars, snapshots: tuple[Snapshot, ...], tags: tuple[str, ...] = ()) -> Sealed:
        """Make the point exist. Raises Busy when its lease was revoked meanwhile; see ``notices`` for what failed later."""
        repository = self._repository
        counts = {severity.value: 0 for severity in Severity}
        for finding in particulars.findings:
            counts[finding.severity.value] += 1
        rest, answers = particulars.parted()
        # What a restore needs goes wherever the point goes: no answers are in it, and no keys of rows.
        document, evidence = self._document(rest, DEFAULT_DOMAIN, ANYWHERE), repository.roles.evidence
        answered = self.document(answers, evidence) if answers.any else ""
        self.flush()
        body = PointBody(
            format=POINT_FORMAT,
            id=self.point,
            system=self._system.name,
            started=self._started,
            sealed=timestamp(self._clock.now()),
            skew=particulars.cut.skew,
            freeze=particulars.cut.freeze,
            freezes={part.component: part.freeze for part in particulars.cut.parts},
            barrier=particulars.cut.barrier,
            snapshots=snapshots,
            particulars=document,
            findings=counts,
            host_can_read=repository.keyring.can_read or repository.opens(evidence),
            resurgam=__version__,
            previous=self._last.point if self._last else None,
            answers=answered,
            evidence=evidence,
            tags=tags,
        )
        repository.look_at_roles()  # P12: a key that was retired meanwhile would seal in vain
        try:
            # P1: the record is the last thing written.
            subject = itself(f"point/{self.point}", body)
            name = f"points/{self.point}"
            data = repository.put_signed(name, RecordType.POINT, subject, body, self._signer, self._clock)
        except AlreadyThere as error:
            raise revoked(f"The lease of point {self.point}") from error
        self._tell_of(body, data)
        return repository.sealed(self.point)

    def _tell_of(self, body: PointBody, data: bytes) -> None:
        """Announce the point and note it on this host. It exists (P1): what fails here is told, each step apart."""
        steps = (
            lambda: self._repository.announce(RecordType.POINT, f"points/{body.id}", self._signer, self._clock, data),
            *(cache.commit for cache in self._caches),
            lambda: self._host.sealed(LastPoint(body.id, body.sealed)),
            self._host.end,
        )
        for step in steps:
            try:
                step()
            except ResurgamError as error:
                self.notices.append(f"point {body.id} is sealed and whole, but: {error.message} {error.next_step}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for cache in self._caches:
            cache.close()


class EvidenceWriter(Writer):
    """The writing session of what becomes known of a point: documents, and the records that rest on them. What it has reserved
    and not put when it ends, it revokes itself."""

    def __init__(
        self, repository: Repository, point: str, types: Sequence[RecordType], role: Role, clock: Clock
    ) -> None:
        self._clock = clock
        sealed = repository.sealed(point)
        self._about = sealed.record.subject
        require_takes_evidence(repository, sealed.body)
        signer = repository.keyring.signer(role)
        lease = reserve_records(repository, point, types, signer, clock)
        self._free = dict(zip(types, lease.names, strict=True))
        try:
            require_promised(repository, point)
            super().__init__(repository, signer, lease)
            self.quoting = quoting(sealed.body)
        except BaseException as error:
            self._give_up(error, repository, signer)
            raise

    def put(self, type: RecordType, body: object) -> str:
        """Sign and store the one record of ``type`` that this session has reserved, and announce it; returns its name. What it
        rests on must have been flushed (P1). Raises Busy where the lease was revoked meanwhile."""
        name, repository = self._free[type], self._repository
        try:
            data = repository.put_signed(name, type, self._about, body, self._signer, self._clock)
        except AlreadyThere as error:
            raise revoked(f"The lease of {name}") from error
        del self._free[type]
        repository.announce(type, name, self._signer, self._clock, data)
        return name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._give_up(error, self._repository, self._signer)

    def _give_up(self, error: BaseException | None, repository: Repository, signer: SigningKey) -> None:
        """Revoke what was reserved and not put. Where that fails too, after ``error``, the lease stays open, as ``error`` says."""
        try:
            for name in self._free.values():
                revoke_name(repository, name, "its session ended without it", signer, self._clock)
        except ResurgamError as open_still:
            if error is None:
                raise
            error.add_note(f"Its lease stays open: {open_still}")


def require_residency(repository: Repository, system: System) -> None:
    """Raises TargetRefused where a component's domain has another residency than the component: chunks that were stored in it
    before may be anywhere, and chunks stored now may be taken for ones that may go anywhere. Also where this place, a replica that
    was made the primary, lies in a region in which the component's contents may not lie."""
    for component in system.components:
        if not repository.here.takes(Placement(component.residency)):
            raise TargetRefused(
                f"{component.name} has residency {component.residency}, and the primary {repository.here.place} lies elsewhere.",
                untouched="Nothing was read or written.",
                next_step="Keep a vault of that region for this component, or take it out of this manifest.",
            )
        stays = repository.roles.residency.get(component.shred_domain, "")
        if component.residency != stays:
            said = [f"residency {word}" if word else "no residency" for word in (component.residency, stays)]
            raise TargetRefused(
                f"{component.name} has {said[0]} in the manifest, and its shred domain {component.shred_domain} has {said[1]}.",
                untouched="Nothing was read or written.",
                next_step="A domain keeps its residency for ever: name another `shred_domain`, which "
                "`resurgam vault add-domain NAME --residency REGION` makes, or correct `residency` in the manifest.",
            )


def _revoke_own(repository: Repository, host: HostState, signer: SigningKey, clock: Clock) -> None:
    """Give up the name that an interrupted capture of this host had reserved. Where it was sealed just before its process died, the
    point stands."""
    note = host.under_way()
    if note is not None:
        why = "the capture was interrupted; the next one on the same host began"
        revoke_name(repository, f"points/{note.point}", why, signer, clock)
        host.end()


def _items(driver: Driver, component: Component, at: Position, intake: Intake) -> Iterator[Item | Finding | Known]:
    """What the driver reads, without what the host knows already where the driver can leave that out."""
    if isinstance(driver, SkipsKnown):
        return intake.items(Reading(driver, component, at))
    return driver.read(component, at)


def _reopen(driver: Driver, component: Component, at: Position) -> Reopen | None:
    """How what the driver gave can be read once more, where it can."""
    return partial(driver.reopen, component, at) if isinstance(driver, Reopens) else None


def _own_index(repository: Repository, signer: SigningKey) -> Index:
    """What this key has stored itself, or one in whose place it came, packs of interrupted sessions included: those get their
    segment now.

    Chunks of other writers are not reused: a stolen host could have published garbage under a known id (design 4).
    """
    index, orphans = repository.places.index(signer.key_id)
    if orphans:
        repository.places.put_segment(encode_segment(orphans), signer)
    return index
