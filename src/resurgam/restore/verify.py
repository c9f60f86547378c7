"""Proof: restore into isolation, ask the probes, judge, and sign what was seen (P4).

    restore --> sandbox --> observe (twice where it is a first proof) --> is it still what was restored?
            --> judge by witness, baseline, reference --> record

The signed verdict holds digests and counts; what was asked and answered lies in an encrypted document beside it. A first proof
leaves the baseline by which later restores of the same point are judged, unless it showed the copy to be different or
could not keep it apart from the live system.

The point says how the system was, and a capture host wrote it; what is live *now*, and what this host accepts, is said by
this host's own manifest. So the sandbox hides what either names, and runs without isolation only where both accept it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import msgspec

from resurgam.clock import Clock
from resurgam.drivers.base import Drivers
from resurgam.errors import NotFound, ResurgamError
from resurgam.model.point import Particulars
from resurgam.model.system import Hosted, Isolation, Json, System
from resurgam.model.verdict import Baseline, IsolationReport, Judgement, Verdict
from resurgam.probes.base import Runner
from resurgam.probes.replay import ANSWERED_BY, HostedRunner
from resurgam.proof.judge import AA_RUNS, Run, Yardsticks, judge
from resurgam.proof.observe import observe_repeatedly
from resurgam.restore.plan import replaceable
from resurgam.restore.run import Progress, copies_of, require_target, restore
from resurgam.restore.sandbox import Sandbox
from resurgam.restore.state import Restored, State, load, save
from resurgam.vault.copies import require_recordable
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.leases import put_leased
from resurgam.vault.records import RecordType
from resurgam.vault.references import references_of
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.scratch import scratch
from resurgam.vault.signing import Role

REPEATS = 1  # of a later restore: its baseline knows the noise


class VerdictBody(msgspec.Struct, frozen=True, kw_only=True):
    """The signed part of a verdict: no answer's text, but ids of chunks in the shred domain ``evidence``. ``document`` is the chunk
    with the whole of the verdict, ``fingerprints`` what was judged. What the
    copy answered is in the chunk ``observed``, by what it was judged in ``baseline`` and ``reference``, beside the point's own
    witness; all are a :class:`Baseline`, and empty where there was none, or where an older release judged. ``exchanges`` is of
    :class:`Exchanges`, where there were any."""

    judgement: int
    word: str
    restore: str
    document: str
    fingerprints: dict[str, str]
    isolation: str
    first_proof: bool
    seconds: float
    observed: str = ""
    baseline: str = ""
    reference: str = ""
    evidence: str = DEFAULT_DOMAIN
    exchanges: str = ""


class Exchanges(msgspec.Struct, frozen=True, kw_only=True):
    """What was said to hosted models through the proxy while a point was judged, by name, in the form of recordings and masked."""

    point: str
    said: dict[str, list[Json]]


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """The body of baseline and reference records: ``document`` is the chunk that holds the :class:`Baseline`, in the shred domain
    ``evidence``."""

    document: str
    evidence: str = DEFAULT_DOMAIN


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
    own: System | None = None,
    hide: Sequence[str] = (),
    into: str | None = None,
    resume: bool = False,
    record: bool = True,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Restore ``sealed`` into ``into`` (or a place that is removed again), judge how it behaves, record the verdict.

    ``own`` is the system by this host's own manifest, None where it has none; ``hide`` are more paths that a restored
    system must not see: a vault and keys that are in use and that no manifest names. With ``resume`` the folder ``into`` is
    the caller's own for this: whole copies of the point that it holds already, unjudged and unchanged, are asked as they are,
    anything else in it is removed, and what is there stays if this is cut off. Without ``record`` nothing is signed, and nothing
    written to the vault: then the verdict is for whoever asked, and leaves no baseline.
    Raises Denied without a reader's and a verifier's key, TargetRefused, IntegrityError, StoreFull.
    """
    body = sealed.body
    particulars = repository.particulars(body)
    system = as_accepted_here(particulars.system, own)
    live = [*replaceable(own, drivers).locations().values(), *own.vault.folders] if own else []
    hidden = [os.path.abspath(path) for path in (*live, *hide)]
    if record:  # what is missing is told before the work, not after it
        _ = repository.keyring.signer(Role.VERIFIER)
        require_recordable(repository, body)
    yardsticks = yardsticks_of(repository, sealed, particulars)
    first_proof = yardsticks.baseline is None
    began = clock.monotonic()
    with _place(into) as directory:
        restored = unjudged_copies(directory, body.id, particulars.system, drivers) if resume else None
        if restored is None:
            if resume:
                shutil.rmtree(directory, ignore_errors=True)
            if own is not None:
                require_target(directory, own)
            tell(f"restoring {body.id} into {directory}")
            restored = restore(repository, body, particulars, directory, drivers, clock, progress=progress)
        else:
            began -= restored.seconds  # which an earlier run took
        copies = msgspec.structs.replace(copies_of(system, directory, restored), at=particulars.cut.at)
        walled = replaceable(system, drivers)
        with (
            nullcontext() if resume else _removed_unless_judged(directory),
            Sandbox(directory, walled, hide=hidden) as box,
        ):
            tell(f"asking {len(copies.probes)} probes, {'isolated' if box.isolation.isolated else 'NOT isolated'}")
            rounds = AA_RUNS if first_proof else REPEATS
            through = let_through(copies, own) if box.isolation.isolated else ()
            runner = HostedRunner(box, copies, through=through)
            runs = observe_repeatedly(copies, copies.probes, runner, rounds) if box.runs else ()
            changed = _changed(copies, restored, drivers) if runs else {}
            verdict = judge(
                body.id,
                system,
                runs,
                yardsticks,
                isolation=_told_why(box.isolation, particulars.system, system),
                first_proof=first_proof,
                seconds=clock.monotonic() - began,
                changed=changed,
            )
            restored = msgspec.structs.replace(restored.judged(verdict), seconds=verdict.seconds)
            kept = box.isolation.isolated and not changed and _is_yardstick(verdict) and not _in_vain(runs, through)
            observed = Baseline(point=body.id, runs=runs, probes=system.probes)
            said = Exchanges(point=body.id, said=runner.recorded) if runner.recorded else None
            if record:
                _record(repository, sealed, restored, verdict, observed, yardsticks, said, clock, is_yardstick=kept)
            save(directory, restored)
    return Proof(verdict, restored, into)


def yardsticks_of(repository: Repository, sealed: Sealed, particulars: Particulars) -> Yardsticks:
    """What this point is judged by: its own witness and its oldest baseline that was not shredded, and the newest reference that
    the system's owner approved, whichever point that was taken from. Raises Denied without the key of answers."""
    baselines = _baselines(repository, sealed)
    left = [found for found in baselines if not repository.shredded(found.evidence)]
    references = references_of(repository, sealed.body.system)
    reference = references[-1].read(Observed) if references else None
    shredded = {
        "witness": repository.shredded(sealed.body.evidence) if sealed.body.answers else "",
        "baseline": repository.shredded(baselines[0].evidence) if baselines and not left else "",
        "reference": repository.shredded(reference.evidence) if reference else "",
    }
    if sealed.body.answers and not shredded["witness"]:
        repository.require_open(sealed.body.evidence)  # P12: a missing key is no missing witness
    return Yardsticks(
        witness=particulars.witness,
        baseline=_baseline(repository, left[0]) if left else None,
        reference=_baseline(repository, reference) if reference and not shredded["reference"] else None,
        shredded={name: when[:10] for name, when in shredded.items() if when},
    )


def _baselines(repository: Repository, sealed: Sealed) -> list[Observed]:
    """Where the answers of each baseline of a point lie, oldest first."""
    return [r.read(Observed) for r in repository.records(sealed.body.id) if r.type is RecordType.BASELINE]


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
    left = [found for found in _baselines(repository, sealed) if not repository.shredded(found.evidence)]
    if not left:
        raise NotFound(
            f"Point {sealed.body.id} has no baseline yet, or none whose answers were not shredded.",
            untouched="Nothing was approved.",
            next_step=f"Make one with `resurgam verify {sealed.body.id}`, look at the answers, then approve.",
        )
    return put_leased(repository, RecordType.REFERENCE, sealed.body.id, left[0], Role.APPROVER, clock)


def _record(
    repository: Repository,
    sealed: Sealed,
    restored: Restored,
    verdict: Verdict,
    observed: Baseline,
    yardsticks: Yardsticks,
    said: Exchanges | None,
    clock: Clock,
    *,
    is_yardstick: bool,
) -> None:
    """The verdict is signed with what it rests on: what was answered, and by what that was judged."""
    evidence = repository.roles.evidence
    types = (RecordType.BASELINE, RecordType.VERDICT) if is_yardstick else (RecordType.VERDICT,)
    with repository.evidence_writer(sealed.body.id, clock, *types) as writer:
        document = writer.document(verdict, evidence)
        answers = writer.document(observed, evidence)
        by = {
            name: writer.document(found, evidence)  # equal documents are one chunk: this names what the vault holds
            for name, found in (
                ("baseline", yardsticks.baseline),
                ("reference", yardsticks.reference),
                ("exchanges", said),
            )
            if found is not None
        }
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
            observed=answers,
            evidence=evidence,
            **by,
        )
        if is_yardstick:
            writer.put(RecordType.BASELINE, Observed(document=answers, evidence=evidence))
        writer.put(RecordType.VERDICT, body)


def _is_yardstick(verdict: Verdict) -> bool:
    return verdict.first_proof and verdict.judgement is not Judgement.DIFFERENT


def _in_vain(runs: Sequence[Run], through: Sequence[Hosted]) -> bool:
    """Whether a hosted model was asked through the proxy and did not answer, or was beyond its budget. That passes; a baseline
    that lacks those answers would stay."""
    names = {ANSWERED_BY + hosted.name for hosted in through}
    return any(not seen.asked and names & seen.by.keys() for run in runs for seen in run)


def as_accepted_here(system: System, own: System | None) -> System:
    """P6, P9: a point that says ``best-effort`` does not decide what its commands may do here; this host's manifest must too."""
    accepted = own is not None and own.isolation is Isolation.BEST_EFFORT
    return system if accepted else msgspec.structs.replace(system, isolation=Isolation.REQUIRED)


def let_through(system: System, own: System | None) -> tuple[Hosted, ...]:
    """P6, P9: the hosted models that a copy of ``system`` may ask through the proxy, as this host's manifest declares them today. A
    point cannot have this host's keys sent to an address of its own choice."""
    if own is None or own.name != system.name:
        return ()
    wanted = {hosted.name for hosted in system.hosted if hosted.mode == "proxy"}
    return tuple(hosted for hosted in own.hosted if hosted.mode == "proxy" and hosted.name in wanted)


def unjudged_copies(directory: str, point: str, system: System, drivers: Drivers) -> Restored | None:
    """What an earlier verification of ``point`` restored into ``directory`` and could not judge; None where that is not there, or
    not any more what was restored (P4)."""
    try:
        restored = load(directory)
    except ResurgamError:
        return None
    whole = restored.point == point and restored.state is State.BUILT
    return restored if whole and not _changed(copies_of(system, directory, restored), restored, drivers) else None


def _told_why(isolation: IsolationReport, asked: System, system: System) -> IsolationReport:
    if isolation.isolated or asked.isolation is system.isolation:
        return isolation
    reason = f"{isolation.reason}; the point accepts that (isolation: best-effort), this host's own manifest does not"
    return msgspec.structs.replace(isolation, reason=reason)


def _changed(copies: System, restored: Restored, drivers: Drivers) -> dict[str, str]:
    """P4: the components whose copies are no more what was restored, so that the verdict would stand on something else."""
    changed = {}
    for name, copy in restored.copies.items():
        try:
            if drivers(copy.driver).fingerprint(copies.component(name)) != copy.fingerprint:
                changed[name] = "its copy was changed while it was asked: a probe must not write to what it asks"
        except ResurgamError as error:
            changed[name] = f"its copy cannot be read any more after it was asked: {error}"
    return changed


def _baseline(repository: Repository, observed: Observed) -> Baseline:
    return repository.document(observed.document, Baseline, what="a baseline", domain=observed.evidence)


def _place(into: str | None) -> AbstractContextManager[str]:
    return _passing() if into is None else nullcontext(os.path.abspath(into))


@contextmanager
def _passing() -> Iterator[str]:
    with scratch("verify") as folder:  # a killed verification's is swept by the next
        yield os.path.join(folder, "restored")


@contextmanager
def _removed_unless_judged(directory: str) -> Iterator[None]:
    """What was restored to be judged, and could not be, goes away again: the same command can be given once more."""
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
