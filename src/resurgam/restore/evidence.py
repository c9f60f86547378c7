"""What the vault keeps of a judgement, read again: the verdict, what the copy answered, and by what it was judged.

A verdict's record names its documents; they lie encrypted in a shred domain of their own. Verdicts made before answers were kept
with them have none, and the report then shows the deviations that the verdict itself holds. Where the domain was shredded, the
report is what the signed record says, and says that there is no more. Needs a reader's key, and that of answers.
"""

from __future__ import annotations

import msgspec

from resurgam.errors import NotFound
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Particulars, PointBody
from resurgam.model.system import Json, System
from resurgam.model.verdict import Baseline, Judgement, Part, Verdict
from resurgam.proof.judge import Yardsticks
from resurgam.proof.report import Evidence, make_report
from resurgam.proof.report_values import Report, Signed
from resurgam.restore.verify import Exchanges, VerdictBody, yardsticks_of
from resurgam.vault.records import Record, RecordType
from resurgam.vault.repository import Repository, Sealed


def report_of(repository: Repository, sealed: Sealed) -> Report:
    """The report on the newest verdict over ``sealed``.

    Raises NotFound where the point was never judged, Denied without a reader's key, IntegrityError.
    """
    records = repository.records(sealed.body.id)
    judged = [record for record in records if record.type is RecordType.VERDICT]
    if not judged:
        raise NotFound(
            f"Point {sealed.body.id} was never judged, so there is nothing to report.",
            untouched="Nothing was written.",
            next_step=f"Judge it with `resurgam verify {sealed.body.id}`.",
        )
    newest = judged[-1]
    body = newest.read(VerdictBody)
    particulars = repository.particulars(sealed.body)
    signed = tuple(_signed(record, newest) for record in (sealed.record, *records))
    if when := repository.shredded(body.evidence):
        return _without_answers(sealed, particulars, body, Evidence(made=newest.made, signed=signed), when[:10])
    reference = _observations(repository, body.reference, body.evidence)
    evidence = Evidence(
        observed=_observations(repository, body.observed, body.evidence),
        yardsticks=Yardsticks(
            witness=particulars.witness,
            baseline=_observations(repository, body.baseline, body.evidence),
            reference=reference,
        ),
        approved=_point(repository, reference),
        made=newest.made,
        signed=signed,
    )
    what = f"the verdict on point {sealed.body.id}"
    verdict = repository.document(body.document, Verdict, what=what, domain=body.evidence)
    return make_report(sealed.body, particulars, verdict, evidence)


def exchanges_of(repository: Repository, sealed: Sealed, name: str) -> list[Json]:
    """What was said to the hosted model ``name`` through the proxy while ``sealed`` was judged last, in the form of a recording.

    Raises NotFound where nothing was, Denied without a reader's key, IntegrityError.
    """
    judged = [record for record in repository.records(sealed.body.id) if record.type is RecordType.VERDICT]
    body = judged[-1].read(VerdictBody) if judged else None
    what = "what was said through the proxy"
    said = (
        repository.document(body.exchanges, Exchanges, what=what, domain=body.evidence).said
        if body is not None and body.exchanges
        else {}
    )
    if name not in said:
        raise NotFound(
            f"Nothing was said to {name!r} through the proxy when point {sealed.body.id} was judged last.",
            untouched="Nothing was written.",
            next_step=did_you_mean(name, list(said)) if said else "Declare it `mode: proxy`, and verify.",
        )
    return said[name]


def report_on_live(repository: Repository, sealed: Sealed, system: System, verdict: Verdict, made: str) -> Report:
    """The report on a judgement of the live ``system`` by ``sealed``, of which nothing is recorded; ``made`` is when."""
    particulars = repository.particulars(sealed.body)
    yardsticks = yardsticks_of(repository, sealed, particulars)
    signed = tuple(_signed(record, None) for record in (sealed.record, *repository.records(sealed.body.id)))
    evidence = Evidence(yardsticks=yardsticks, made=made, signed=signed)
    return make_report(sealed.body, msgspec.structs.replace(particulars, system=system), verdict, evidence)


def _without_answers(
    sealed: Sealed, particulars: Particulars, body: VerdictBody, evidence: Evidence, day: str
) -> Report:
    """What the signed record of a verdict says, whose evidence was shredded on ``day``."""
    reason = f"what was asked and answered was shredded on {day}"
    verdict = Verdict(
        point=sealed.body.id,
        judgement=Judgement(body.judgement),
        parts=(Part(name="answers", yardstick="none", judgement=Judgement.INCONCLUSIVE, reason=reason),),
        isolation=body.isolation,
        first_proof=body.first_proof,
        seconds=body.seconds,
    )
    said = f"The signed record says: {body.word}. The answers were shredded on {day}, so no more can be shown of it."
    return msgspec.structs.replace(make_report(sealed.body, particulars, verdict, evidence), conclusion=said)


def _observations(repository: Repository, chunk: str, domain: str) -> Baseline | None:
    return repository.document(chunk, Baseline, what="what was observed", domain=domain) if chunk else None


def _point(repository: Repository, reference: Baseline | None) -> PointBody | None:
    """The point at which a reference was taken; None where it has gone."""
    try:
        return repository.sealed(reference.point).body if reference is not None else None
    except NotFound:
        return None


def _signed(record: Record, shown: Record | None) -> Signed:
    what = f"{record.type}, this one" if record is shown else str(record.type)
    return Signed(made=record.made, what=what, role=str(record.by), key=record.signer, resurgam=record.resurgam)
