"""One folder for an auditor: the log, its checkpoints, every record, and a script that verifies them without Resurgam.

    vault.json  roles/  log/  checkpoints/  points/  records/  ...      the objects, byte for byte, under their names
    received.json       when the store received each, by its clock: what decides about retired keys
    INDEX.txt           what this is, what was found, every point with its records, and how to verify it
    LOG.txt             the log, one line an entry
    verify.py           standard library, cryptography and blake3 only (``docs/verify.py``)

Nothing in it was encrypted and nothing opens anything: it holds what whoever sees the store sees (``docs/threat-model.md``). The
folder appears under its name when it is whole (P5).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import resources

from resurgam.clock import Clock
from resurgam.errors import Denied, IntegrityError, NotFound, StoreFull, TargetRefused
from resurgam.model.codec import to_json
from resurgam.stores.base import Entry
from resurgam.vault import checkpoints, log
from resurgam.vault.audit import PLACES, Report
from resurgam.vault.lives import lives, words
from resurgam.vault.records import timestamp
from resurgam.vault.repository import IDENTITY, Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.roles import Disowned

SCRIPT = "verify.py"
INDEX = "INDEX.txt"
LOG = "LOG.txt"
RECEIVED = "received.json"

Progress = Callable[[int], None]  # bytes written since the last call


def export(repository: Repository, report: Report, into: str, clock: Clock, progress: Progress | None = None) -> int:
    """Write the folder ``into``, which is not there yet; returns the number of objects in it. Raises TargetRefused, Denied,
    StoreFull."""
    into = os.path.abspath(into)
    if os.path.lexists(into):
        raise TargetRefused(
            f"{into} is there already.", untouched="Nothing was written.", next_step="Name a folder that is not."
        )
    building = f"{into}.partial-{os.getpid()}"
    try:
        os.makedirs(building, mode=0o700)
        received = {entry.name: entry.received for entry in _copied(repository, building, progress)}
        _write(building, RECEIVED, to_json(received))
        _write(building, LOG, "".join(_log_lines(repository)).encode())
        _write(building, INDEX, "".join(_index(repository, report, clock)).encode())
        _write(building, SCRIPT, script())
        os.rename(building, into)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (StoreFull if full else Denied)(
            f"The export could not be written to {into}: {error.strerror}.",
            untouched="What was written of it is removed.",
            next_step="Free some space there." if full else "Name a folder that you can write to.",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return len(received)


def script() -> bytes:
    """The script that verifies an export: of an installed Resurgam, or of its repository."""
    package = resources.files("resurgam")
    for place in (package / "shipped" / "docs" / SCRIPT, package / ".." / ".." / "docs" / SCRIPT):
        if place.is_file():
            return place.read_bytes()
    raise NotFound(
        f"The script {SCRIPT} is not part of this installation.",
        untouched="Nothing was exported.",
        next_step="Install the released package, or run from the repository.",
    )


def _copied(repository: Repository, folder: str, progress: Progress | None) -> Iterator[Entry]:
    for place in (IDENTITY, log.PREFIX, checkpoints.PREFIX, *PLACES):
        for entry in repository.store.list(place):
            try:
                data = repository.store.get(entry.name)
            except NotFound:
                continue  # removed since it was listed: the verification will say so
            _write(folder, entry.name, data)
            if progress is not None:
                progress(len(data))
            yield entry


def _write(folder: str, name: str, data: bytes) -> None:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)


def _log_lines(repository: Repository) -> Iterator[str]:
    """Number, time by the writer's clock, role, key, type and object of each entry."""
    for number, entry in log.entries(repository.store):
        try:
            record, said = log.read_entry(repository.store.get(entry.name), entry, repository.roles, repository.vault)
        except (IntegrityError, NotFound) as error:
            yield f"{entry.name}  NOT BELIEVED: {error.message}\n"
        else:
            yield f"{number:10d}  {record.made}  {record.by:8}  {record.signer}  {said.type:11}  {said.object}\n"


def _index(repository: Repository, report: Report, clock: Clock) -> Iterator[str]:
    """The page to begin with."""
    identity = repository.identity
    yield f"The records of the vault {identity.name} ({identity.vault})\n"
    yield f"exported {timestamp(clock.now())} by the host's clock, from {repository.store.describe()}\n\n"
    yield f"root key    {identity.root}\n"
    yield "            compare this with the trust.json that you were given by another way\n"
    yield f"role table  {repository.roles.serial}\n"
    yield f"log         {report.entries} entries, Merkle root {report.root}\n"
    yield f"checkpoints {report.checkpoints}, of {report.covered} entries the largest that agrees\n\n"
    yield f"To verify: python {SCRIPT} . FINGERPRINT [CHECKPOINT...] (needs the libraries cryptography and blake3).\n"
    yield "FINGERPRINT is the root key's; each CHECKPOINT is a file that you or a witness kept from an earlier time.\n"
    yield f"Exit code 0: nothing was found; 8: something was. {LOG} lists the log.\n\n"
    yield f"What Resurgam found: {counted(len(report.findings), 'finding')}\n"
    yield from (f"  {finding.kind}: {finding.object}: {finding.what}\n" for finding in report.findings)
    yield f"and noted: {len(report.notes)}\n"
    yield from (f"  {note.kind}: {note.object}: {note.what}\n" for note in report.notes)
    yield "\nPoints, each with what became known of it\n"
    for expired in (False, True):
        for sealed in repository.points(expired=expired):
            yield f"\n  {sealed.body.id} of {sealed.body.system}: {words(lives(repository, sealed))}\n"
            yield from _history(repository, sealed.body.id)


def _history(repository: Repository, point: str) -> Iterator[str]:
    try:
        for record in repository.records(point):
            yield f"    {record.made}  {record.type} by {record.by} ({record.signer})\n"
    except (IntegrityError, Disowned) as error:
        yield f"    its history cannot be believed: {error.message}\n"
