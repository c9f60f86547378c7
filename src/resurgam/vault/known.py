"""What became known of points since they were sealed: the records about them, read for one point or for many (P2).

One point's records are one listing. Those of many are one listing too, of all records, and all that it names are read abreast:
what most points have none of is not asked for point by point (P11).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from resurgam.errors import IntegrityError
from resurgam.stores.abreast import each, or_refusal
from resurgam.stores.base import Entry
from resurgam.vault.history import Life, PointState, fold
from resurgam.vault.records import Record, RecordType
from resurgam.vault.roles import Disowned

if TYPE_CHECKING:
    from resurgam.vault.naming import Sealed
    from resurgam.vault.repository import Repository

PREFIX = "records/"


def records_about(
    repository: Repository, points: Sequence[Sealed]
) -> Iterator[tuple[Sealed, list[Record] | IntegrityError]]:
    """Each of ``points`` with what became known of it, oldest first; or with why one of these records cannot be believed: it may be
    the one that takes the others back (P12). What a key said that was removed since, or retired before, is no part of it."""
    if not points:
        return
    listed: dict[str, list[Entry]] = {}
    for entry in repository.store.list(f"{PREFIX}{points[0].body.id}/" if len(points) == 1 else PREFIX):
        listed.setdefault(entry.name.removeprefix(PREFIX).partition("/")[0], []).append(entry)
    wanted = ((sealed, entry) for sealed in points for entry in listed.get(sealed.body.id, ()))
    read = each(repository.store, or_refusal(lambda one: repository.about(*one)), wanted)
    for sealed in points:
        yield sealed, _believed(repository, [next(read) for _ in listed.get(sealed.body.id, ())])


def states(repository: Repository, points: Sequence[Sealed]) -> dict[str, PointState]:
    """How each of ``points`` stands, by its id; as ``each_state``."""
    return {sealed.body.id: state for sealed, state in each_state(repository, points)}


def each_state(repository: Repository, points: Sequence[Sealed]) -> Generator[tuple[Sealed, PointState], None, None]:
    """How each of ``points`` stands: the fold over all records about it (P2). Who has heard enough closes this, and the records of
    the rest are not read.

    Where one of them cannot be believed nothing is known of that point but that, and ``repository.refused_records`` says so too: it
    is neither proven nor to be promoted (P12), and no other point suffers.
    """
    for sealed, records in records_about(repository, points):
        try:
            if isinstance(records, IntegrityError):
                raise records
            state = fold((None, record) for record in (sealed.record, *records))
        except IntegrityError as error:
            if error.message not in repository.refused_records:
                repository.refused_records.append(error.message)
            digest = sealed.record.subject.digest
            state = PointState(life=Life.SEALED, digest=digest, damaged=error.message)
        yield sealed, state


def _believed(repository: Repository, read: Sequence[Record | IntegrityError]) -> list[Record] | IntegrityError:
    found: list[Record] = []
    for record in read:
        if isinstance(record, Disowned):
            repository.disowned |= {record.message: None}
        elif isinstance(record, IntegrityError):
            return record
        elif record.type is not RecordType.REVOCATION:
            found.append(record)
    return sorted(found, key=lambda record: record.made)
