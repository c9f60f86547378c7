"""Baselines that the owner approved as right: the yardsticks of a system, at whichever of its points they stand."""

from __future__ import annotations

from contextlib import suppress

from resurgam.errors import NotFound
from resurgam.vault.records import Record, RecordType
from resurgam.vault.repository import Repository
from resurgam.vault.roles import Disowned


def references_of(repository: Repository, system: str) -> list[Record]:
    """Every reference that was approved for ``system``, at whichever of its points, oldest first.

    Only objects that are named as references are read: damage elsewhere is the concern of its own point. Raises
    IntegrityError when one of those cannot be believed: it may be the yardstick itself, and its absence no pass (P4).
    """
    found = []
    for entry in repository.store.list("records/"):
        point, _, name = entry.name.removeprefix("records/").partition("/")
        if not name.startswith(f"{RecordType.REFERENCE}-"):
            continue
        try:
            sealed = repository.sealed(point)
        except (NotFound, Disowned):
            continue  # a stray: what it claims to be about is no point
        if sealed.body.system == system:
            with suppress(Disowned):
                found.append(repository.about(sealed, entry, {RecordType.REFERENCE, RecordType.REVOCATION}))
    return sorted((r for r in found if r.type is RecordType.REFERENCE), key=lambda record: record.made)
