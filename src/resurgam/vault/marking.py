"""Marking: which copies of which chunks the promised points need, found with the index key alone.

    points          all that did not expire (the plan's own among them, while it is only a plan)
    records         of those points, and the newest reference of each system, whichever point it rests on
    inventory       read after both: what a listed point needs was durable and could be found before its record was put (P1)
    lists           page by page, each once: every chunk of a snapshot, the pages themselves too

What a point or record names is looked for among the chunks of its own key's line. What is not found there is looked for in all
others, and every copy found is kept; what is in none is trouble. So is whatever cannot be believed or read, since it may need what
nothing else does: a prune refuses while there is trouble that nobody accepted by name (P12).

A record is searched for whatever looks like a chunk id, so that what a newer release makes it name stays too.

Where it is asked for, the way is noted too: which packs a page or a point names itself, and which pages lie below it. From that
follows what *one* point needs, without walking again (``vault.protection``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from resurgam.errors import IntegrityError
from resurgam.stores.archive import COLD, classes_of
from resurgam.vault.index import Place
from resurgam.vault.inventory import Copies, Ids, Inventory, PackEntry
from resurgam.vault.needs import as_ids, documents_in, documents_of, read_list
from resurgam.vault.reader import ChunkReader
from resurgam.vault.records import Record, RecordType
from resurgam.vault.references import references_of
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.roles import Disowned
from resurgam.vault.signing import Role
from resurgam.vault.sink import ChunkKeys

_CHUNK = re.compile(rb'"([0-9a-f]{64})"')
_SHOWN = 5
_DOCUMENTED = (RecordType.VERDICT, RecordType.BASELINE, RecordType.REFERENCE)


Node = str | tuple[str, bytes]  # a point by its id, or a page by its line and chunk id


@dataclass
class Step:
    """What one page or point names itself: ordinals of ``packs``, each array without repetition, and the pages ``below`` it."""

    packs: list[NDArray[np.uint32]] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)


@dataclass
class Survey:
    """What is needed, and where: ``points`` are the promised ones. Packs that are ``cold`` lie in a class
    that is slow or dear to read. ``trouble`` tells by object what may be needed and is not known. ``way`` is empty
    unless it was asked for."""

    points: list[Sealed]
    inventory: Inventory
    sizes: dict[str, int]
    cold: frozenset[str] = frozenset()
    trouble: dict[str, str] = field(default_factory=dict)
    way: dict[Node, Step] = field(default_factory=dict)

    def require_sound(self, accept: Collection[str] = ()) -> None:
        """Raises IntegrityError where there is trouble that ``accept`` does not name."""
        left = {name: why for name, why in self.trouble.items() if name not in accept}
        if not left:
            return
        shown = " ".join(f"{name}: {why}" for name, why in list(left.items())[:_SHOWN])
        more = f" And {len(left) - _SHOWN} more." if len(left) > _SHOWN else ""
        names = " ".join(f"--accept {name}" for name in list(left)[:_SHOWN])
        raise IntegrityError(
            f"What these need is not known, so nothing can be let go: {shown}{more}",
            untouched="Nothing was pruned.",
            next_step=f"Run `resurgam vault check`, then `resurgam vault repair`. To give up what they alone need: {names}.",
        )


def survey(
    repository: Repository, without: Collection[str] = (), *, only: str | None = None, way: bool = False
) -> Survey:
    """Mark what every promised point needs, but those ``without``, which are about to expire; or what the one point ``only`` needs.
    With ``way`` note how. Raises Denied without the index key, NewerFormat, Unreachable."""
    while True:
        before = repository.prunes()
        found = _survey(repository, without, only, way)
        if not found.trouble or repository.prunes().all == before.all:
            return found
        # another pruner swept meanwhile: what is missing lies elsewhere by now


def _survey(repository: Repository, without: Collection[str], only: str | None, way: bool) -> Survey:
    promised = repository.points() if only is None else [repository.sealed(only)]
    points = [sealed for sealed in promised if sealed.body.id not in without]
    trouble = {why.split()[0]: why for why in repository.refused_points}  # an error of a record begins with its name
    trouble = {name: why for name, why in trouble.items() if name.removeprefix("points/") not in without}
    prefix = "records/" if only is None else f"records/{only}/"
    records = list(_records(repository, prefix, {sealed.body.id: sealed for sealed in points}, trouble))
    for system in sorted({sealed.body.system for sealed in points}):
        records += _newest_reference(repository, system, trouble)
    there, cold = _packs(repository)
    inventory = Inventory(repository.places, there, lambda key: line_of(repository, key))
    steps: dict[Node, Step] = {}
    marker = _Marker(repository, inventory, trouble, steps if way else None)
    for sealed in points:
        marker.point(sealed)
    for record in records:
        marker.record(record)
    return Survey(points, inventory, {name: entry.size for name, entry in there.items()}, cold, trouble, steps)


def line_of(repository: Repository, key_id: str) -> str:
    """The oldest key in whose place the one with this id came: its own, where it came in nobody's."""
    line = repository.roles.line(key_id)
    return line[-1].key_id if line else key_id


def _packs(repository: Repository) -> tuple[dict[str, PackEntry], frozenset[str]]:
    """The packs that are there, and that no sweep is removing; and which of them lie in a cold class."""
    listed = [
        (PackEntry(entry.name.rpartition("/")[2], entry.size, entry.received), storage_class in COLD)
        for entry, storage_class in classes_of(repository.store, "packs/")
    ]
    gone = repository.prunes().gone
    cold = frozenset(pack.name for pack, is_cold in listed if is_cold)
    return {pack.name: pack for pack, _ in listed if pack.name not in gone}, cold


def _records(
    repository: Repository, prefix: str, about: Mapping[str, Sealed], trouble: dict[str, str]
) -> Iterator[Record]:
    """What became known of each point in ``about``; what cannot be believed is ``trouble``."""
    for entry in repository.store.list(prefix):
        sealed = about.get(entry.name.split("/")[1])
        if sealed is None:
            continue
        try:
            yield repository.about(sealed, entry)
        except Disowned:
            continue  # it was never said
        except IntegrityError as error:
            trouble[entry.name] = error.message


def _newest_reference(repository: Repository, system: str, trouble: dict[str, str]) -> list[Record]:
    """The yardstick of every point of ``system``, whichever it rests on: also one that expired."""
    try:
        return references_of(repository, system)[-1:]
    except IntegrityError as error:
        trouble[error.message.split()[0]] = error.message
        return []


class _Finder:
    """Chunks by line: its own copy first, then any other's."""

    def __init__(self, inventory: Inventory, line: str) -> None:
        self._lines = [inventory.copies(line), *(c for name, c in inventory.lines.items() if name != line)]

    def find(self, chunk: bytes) -> Place | None:
        """See ``reader.Finder``."""
        return next(iter(self.places(chunk)), None)

    def places(self, chunk: bytes) -> list[Place]:
        """See ``reader.Finder``."""
        return [place for line in self._lines if (place := line.place(chunk)) is not None]


class _Marker:
    """Marks what points and records need, and notes the ``way`` where that is wanted."""

    def __init__(
        self, repository: Repository, inventory: Inventory, trouble: dict[str, str], way: dict[Node, Step] | None
    ) -> None:
        self._repository, self._inventory, self._trouble, self._way = repository, inventory, trouble, way
        self._readers: dict[tuple[str, str], ChunkReader] = {}
        self._walked: dict[tuple[str, bytes], str] = {}  # a page of a line's lists, and what is wrong at or below it

    def point(self, sealed: Sealed) -> None:
        """Mark what the point itself needs."""
        point, line = sealed.body.id, line_of(self._repository, sealed.record.signer)
        tell = partial(self._tell, f"points/{point}")
        for _, chunk in documents_of(sealed):
            tell(self._mark(point, line, as_ids(chunk)))
        for snapshot in sealed.body.snapshots:
            root = bytes.fromhex(snapshot.chunks)
            tell(self._walk(line, snapshot.domain, root, -1))
            self._step(point).below.append((line, root))
        self._guess(point, line, sealed.record)

    def record(self, record: Record) -> None:
        """Mark the documents that a record rests on. An approver's rests on what a verifier stored."""
        line = line_of(self._repository, record.signer) if record.by is Role.VERIFIER else ""
        point = record.subject.name.removeprefix("point/")
        if record.type in _DOCUMENTED:
            for _, chunk in documents_in(record):
                self._tell(f"points/{point}", self._mark(point, line, as_ids(chunk)))
        self._guess(point, line, record)

    def _tell(self, owner: str, why: str) -> None:
        if why:
            self._trouble.setdefault(owner, why)

    def _guess(self, point: str, line: str, record: Record) -> None:
        """Mark whatever else the body may mean by a chunk id; most are none, and nothing is wrong with that."""
        for found in _CHUNK.findall(record.body):
            self._mark(point, line, as_ids(bytes.fromhex(found.decode())))

    def _mark(self, node: Node, line: str, ids: Ids) -> str:
        """Mark ``ids``, which ``node`` names; returns what is wrong: which of them no pack is known to hold."""
        own = self._inventory.copies(line)
        missing = ids[~self._marked(node, own, ids)]
        if not len(missing):
            return ""
        found = np.zeros(len(missing), np.bool_)
        for copies in self._inventory.lines.values():
            found |= self._marked(node, copies, missing)
        lost = missing[~found]
        return f"it needs chunk {lost[0].tobytes().hex()[:16]}, which no pack is known to hold." if len(lost) else ""

    def _marked(self, node: Node, copies: Copies, ids: Ids) -> NDArray[np.bool_]:
        """Which of ``ids`` are among ``copies``; these are marked."""
        rows = copies.rows(ids)
        found = rows[rows >= 0]
        copies.needed[found] = True
        if self._way is not None and len(found):
            self._step(node).packs.append(np.unique(copies.entries["pack"][found]))
        return rows >= 0

    def _step(self, node: Node) -> Step:
        return Step() if self._way is None else self._way.setdefault(node, Step())

    def _walk(self, line: str, domain: str, page: bytes, level: int) -> str:
        node = (line, page)
        if node not in self._walked:
            why = self._mark(node, line, as_ids(page))
            try:
                children, ids = read_list(page, level, self._reader(line, domain).get)
            except IntegrityError as error:
                self._walked[node] = error.message
                return error.message
            why = (self._mark(node, line, as_ids(ids)) if ids else "") or why
            for child, deeper in children:
                why = self._walk(line, domain, child, deeper) or why
                self._step(node).below.append((line, child))
            self._walked[node] = why
        return self._walked[node]

    def _reader(self, line: str, domain: str) -> ChunkReader:
        if (line, domain) not in self._readers:
            repository, finder = self._repository, _Finder(self._inventory, line)
            keys = ChunkKeys(repository.secret, domain)
            self._readers[line, domain] = ChunkReader(repository.vault, repository.store, finder, keys, _no_session)
        return self._readers[line, domain]


def _no_session(session: bytes) -> AESGCM:
    raise IntegrityError(
        f"A chunk list is encrypted for session {session.hex()[:16]}, not with the index key.",
        untouched="Nothing was changed.",
        next_step="Run `resurgam vault check` to see which points are affected.",
    )
