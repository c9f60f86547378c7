"""Proof: restore into isolation, ask the probes, judge, and sign what was seen (P4).

    restore --> sandbox --> observe (twice where it is a first proof) --> judge by witness, baseline, reference --> record

The signed verdict holds digests and counts; what was asked and answered lies in an encrypted document beside it. A first proof
leaves the baseline by which later restores of the same point are judged, unless it showed the copy to be different or
could not keep it apart from the live system.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from resurgam.clock import Clock
from resurgam.errors import NotFound
from resurgam.model.point import Particulars
from resurgam.model.system import System
from resurgam.model.verdict import Baseline, Judgement, Verdict
from resurgam.probes.base import Runner
from resurgam.proof.judge import AA_RUNS, IsolationReport, Yardsticks, judge
from resurgam.proof.observe import observe_repeatedly
from resurgam.restore.run import Drivers, Progress, copies_of, restore
from resurgam.restore.sandbox import Sandbox
from resurgam.restore.state import Restored, save
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.signing import Role

REPEATS = 1  # of a later restore: its baseline knows the noise


class VerdictBody(msgspec.Struct, frozen=True, kw_only=True):
    """The signed part of a verdict. ``document`` is the chunk with the whole of it, ``fingerprints`` what was judged."""

    judgement: int
    word: str
    restore: str
    document: str
    fingerprints: dict[str, str]
    isolation: str
    first_proof: bool
    seconds: float


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """The body of baseline and reference records: ``document`` is the chunk that holds the :class:`Baseline`."""

    document: str


@dataclass(frozen=True)
class Proof:
    """A judged restore. ``directory`` is where the copies are, None when they were not kept."""

    verdict: Verdict
    restored: Restored
    directory: str | None


def verify(
    repository: Repository,
    sealed: Sealed,
    drivers: Drivers,
    clock: Clock,
    *,
    into: str | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Restore ``sealed`` into ``into`` (or a place that is removed again), judge how it behaves, record the verdict.

    Raises Denied without a reader's and a verifier's key, TargetRefused, IntegrityError, StoreFull.
    """
    body = sealed.body
    particulars = repository.particulars(body)
    _ = repository.keyring.signer(Role.VERIFIER)  # a missing key is told before the work, not after it
    yardsticks = yardsticks_of(repository, sealed, particulars)
    first_proof = yardsticks.baseline is None
    began = clock.monotonic()
    with _place(into) as directory:
        tell(f"restoring {body.id} into {directory}")
        restored = restore(repository, body, particulars, directory, drivers, clock, progress=progress)
        copies = copies_of(particulars.system, directory, restored)
        with _removed_unless_judged(directory), Sandbox(directory, particulars.system) as box:
            tell(f"asking {len(copies.probes)} probes, {'isolated' if box.isolation.isolated else 'NOT isolated'}")
            rounds = AA_RUNS if first_proof else REPEATS
            runs = observe_repeatedly(copies, copies.probes, box, rounds) if box.runs else ()
            isolation = IsolationReport(isolated=box.isolation.isolated, reason=box.isolation.reason)
            verdict = judge(
                body.id,
                particulars.system,
                runs,
                yardsticks,
                isolation=isolation,
                first_proof=first_proof,
                seconds=clock.monotonic() - began,
            )
            restored = msgspec.structs.replace(restored.judged(verdict), seconds=verdict.seconds)
            baseline = Baseline(point=body.id, runs=runs) if _is_yardstick(verdict, isolation) else None
            _record(repository, sealed, restored, verdict, baseline, clock)
            save(directory, restored)
    return Proof(verdict, restored, into)


def yardsticks_of(repository: Repository, sealed: Sealed, particulars: Particulars) -> Yardsticks:
    """What this point is judged by: its own witness and baseline, and the newest reference that the system's owner
    approved, whichever point that was taken from."""
    baselines = [r for r in repository.records(sealed.body.id) if r.type is RecordType.BASELINE]
    references = repository.references(sealed.body.system)
    newest = references[-1] if references else None
    return Yardsticks(
        witness=particulars.witness,
        baseline=_baseline(repository, baselines[0].read(Observed)) if baselines else None,
        reference=_baseline(repository, newest.read(Observed)) if newest else None,
    )


def judge_live(repository: Repository, sealed: Sealed, system: System, runner: Runner, clock: Clock) -> Verdict:
    """How the live ``system`` behaves now, by the yardsticks of ``sealed``. Nothing is restored, and nothing is recorded: it is
    no statement about the point. Raises Denied without a reader's key."""
    began = clock.monotonic()
    yardsticks = yardsticks_of(repository, sealed, repository.particulars(sealed.body))
    # A host that cannot isolate leaves no baselines (P4); then the witness judges, which wants two rounds.
    by_witness = yardsticks.baseline is None
    runs = observe_repeatedly(system, system.probes, runner, AA_RUNS if by_witness else REPEATS)
    verdict = judge(
        sealed.body.id,
        system,
        runs,
        yardsticks,
        isolation=IsolationReport(isolated=True),  # there is nothing to keep the live system apart from
        first_proof=by_witness,
        seconds=clock.monotonic() - began,
    )
    return msgspec.structs.replace(verdict, isolation="live")


def approve_reference(repository: Repository, sealed: Sealed, clock: Clock) -> str:
    """The owner's word that a point's baseline is right: it judges every point of the system from now on.

    Returns the record's name. Raises NotFound where the point has no baseline yet, Denied without an approver's key.
    """
    baselines = [r for r in repository.records(sealed.body.id) if r.type is RecordType.BASELINE]
    if not baselines:
        raise NotFound(
            f"Point {sealed.body.id} has no baseline yet.",
            untouched="Nothing was approved.",
            next_step=f"Make one with `resurgam verify {sealed.body.id}`, look at the answers, then approve.",
        )
    return repository.put_record(
        RecordType.REFERENCE, sealed.body.id, baselines[0].read(Observed), Role.APPROVER, clock
    )


def _record(
    repository: Repository,
    sealed: Sealed,
    restored: Restored,
    verdict: Verdict,
    baseline: Baseline | None,
    clock: Clock,
) -> None:
    with repository.evidence_writer() as writer:
        document = writer.document(verdict)
        observed = Observed(document=writer.document(baseline)) if baseline else None
        writer.flush()
    body = VerdictBody(
        judgement=verdict.judgement,
        word=verdict.judgement.word,
        restore=restored.id,
        document=document,
        fingerprints={name: copy.fingerprint for name, copy in restored.copies.items()},
        isolation=verdict.isolation,
        first_proof=verdict.first_proof,
        seconds=verdict.seconds,
    )
    if observed is not None:
        repository.put_record(RecordType.BASELINE, sealed.body.id, observed, Role.VERIFIER, clock)
    repository.put_record(RecordType.VERDICT, sealed.body.id, body, Role.VERIFIER, clock)


def _is_yardstick(verdict: Verdict, isolation: IsolationReport) -> bool:
    return verdict.first_proof and isolation.isolated and verdict.judgement is not Judgement.DIFFERENT


def _baseline(repository: Repository, observed: Observed) -> Baseline:
    return repository.document(observed.document, Baseline, what="a baseline")


@contextmanager
def _place(into: str | None) -> Iterator[str]:
    if into is not None:
        yield os.path.abspath(into)
        return
    home = tempfile.mkdtemp(prefix="resurgam-")
    try:
        yield os.path.join(home, "restored")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _removed_unless_judged(directory: str) -> Iterator[None]:
    """What was restored to be judged, and could not be, goes away again: the same command can be given once more."""
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
