"""verify: a point restored in isolation, asked, and judged; by hand, of the live system, or on a schedule."""

from __future__ import annotations

from typing import Annotated

import typer

from resurgam import priority
from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    LATEST,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    UnrecordedOption,
    VaultsOption,
    duration,
)
from resurgam.cli.gentle import GentleOption, gentle
from resurgam.cli.report import HtmlOption, JunitOption, write
from resurgam.cli.restore import show_verdict
from resurgam.drivers.registry import driver_for
from resurgam.errors import EXIT_DIFFERENT, EXIT_INCONCLUSIVE, UsageError
from resurgam.model.verdict import Judgement, Verdict
from resurgam.probes.runner import LiveRunner
from resurgam.proof.report_values import Report
from resurgam.restore import unattended
from resurgam.restore.evidence import report_of, report_on_live
from resurgam.restore.recover_estimate import remember, run_of
from resurgam.restore.verify import Proof, judge_live
from resurgam.restore.verify import verify as run_verify
from resurgam.vault.host import HostState
from resurgam.vault.records import timestamp
from resurgam.vault.repository import Sealed

_EXIT = {Judgement.DIFFERENT: EXIT_DIFFERENT, Judgement.INCONCLUSIVE: EXIT_INCONCLUSIVE}


def verify(
    point: Annotated[
        str | None,
        typer.Argument(
            help="The beginning of a point's id, `latest` (meant where none is named), or a time such as 2026-11-21T04:00."
        ),
    ] = None,
    into: Annotated[
        str | None, typer.Option("--into", help="Keep the judged copies in this folder, to promote them.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Restore nothing: ask the live system, and judge it by the point.")
    ] = False,
    latest_unproven: Annotated[
        bool, typer.Option("--latest-unproven", help="In place of POINT: the newest point that nobody judged yet.")
    ] = False,
    within: Annotated[
        str | None, typer.Option("--within", help="With --latest-unproven: stop after so long, such as 10m.")
    ] = None,
    gently: GentleOption = None,
    unrecorded: UnrecordedOption = False,
    html: HtmlOption = None,
    junit: JunitOption = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Restore in isolation, ask, and judge.

    Asks the copies the manifest's probes, behind walls that hide the live system.

    The first proof of a point is judged by the witness taken at its capture (and by the owner's reference, if there is one)
    and leaves the baseline by which later restores are judged. Exit code 0 for identical or equivalent, 20 for
    different, 21 for inconclusive.

    On a schedule: `--latest-unproven` asks nobody anything, and ends with 0 where nothing is left to prove. Cut off by `--within`
    (exit code 11) no verdict is recorded, and the next run goes on with the copies that were whole. --gentle lets others go first
    on the disks alone: on the processors it would change what a probe of latency measures.

    Examples:

        resurgam verify

        resurgam verify 3fa9

        resurgam verify latest --into /srv/recovered && resurgam promote /srv/recovered

        resurgam verify latest --html verdict.html --junit verdict.xml

        resurgam verify latest --live

        resurgam verify --latest-unproven --within 10m

        resurgam verify latest --into /srv/risen --vault /mnt/replica --keys recovery.agekey --unrecorded
    """
    seconds = duration(within) if within is not None else None
    _require_one_meaning(point, into, live, latest_unproven, seconds)
    _require_recorded_where_it_counts(unrecorded, html is not None or junit is not None, latest_unproven)
    if not live and gentle(gently):
        priority.lower(processor=False)
    context = Context(manifest, vault, keys)
    chosen = (
        unattended.newest_unproven(context.repository, context.system_name)
        if latest_unproven
        else context.point(point or LATEST)
    )
    if chosen is None:
        return _nothing_to_prove(context, json)
    if live:
        verdict, found = _judged_live(context, chosen, report=html is not None or junit is not None)
        show_verdict(verdict, json)
    else:
        proof = _proven(
            context, chosen, into, seconds, unattended_run=latest_unproven, record=not unrecorded, json=json
        )
        verdict = proof.verdict
        _show(context, chosen, proof, json, record=not unrecorded)
        wanted = html is not None or junit is not None
        found = report_of(Context(manifest, vault, keys).repository, chosen) if wanted else None  # finds what is new
    for path in write(found, html, junit) if found is not None else ():
        if not json:
            output.line(f"  written: {path}")
    return _EXIT.get(verdict.judgement, 0)


def _require_one_meaning(
    point: str | None, into: str | None, live: bool, latest_unproven: bool, within: float | None
) -> None:
    """Raises UsageError where the words do not go together."""
    if point is not None and latest_unproven:
        wrong, next_step = "A point and --latest-unproven name two points.", "Give one of the two."
    elif live and into is not None:
        wrong, next_step = (
            "--live restores nothing, so there is nothing to put --into a folder.",
            "Give one of the two.",
        )
    elif latest_unproven and (live or into is not None):
        wrong, next_step = "--latest-unproven keeps no copies and asks none that live.", "Name the point for that."
    elif within is not None and not latest_unproven:
        wrong, next_step = "--within is for --latest-unproven, whose next run goes on.", "Leave it out, or the point."
    elif within == 0:
        wrong, next_step = "Nothing can be judged within no time.", "Give a time such as `--within 10m`."
    else:
        return
    raise UsageError(wrong, untouched="Nothing was asked or restored.", next_step=next_step)


def _require_recorded_where_it_counts(unrecorded: bool, report: bool, latest_unproven: bool) -> None:
    """Raises UsageError: a report is of what was recorded, and a point that nobody signed for would be proven for ever."""
    if unrecorded and (report or latest_unproven):
        raise UsageError(
            "--unrecorded leaves nothing that a report could show, or that would tell the next run of this one.",
            untouched="Nothing was asked or restored.",
            next_step="Leave out --html, --junit and --latest-unproven.",
        )


def _proven(
    context: Context,
    sealed: Sealed,
    into: str | None,
    within: float | None,
    *,
    unattended_run: bool,
    record: bool,
    json: bool,
) -> Proof:
    repository, body = context.repository, sealed.body
    with output.progress(f"verify {body.id}", sum(s.bytes for s in body.snapshots), json) as advance:

        def run(directory: str | None) -> Proof:
            return run_verify(
                repository,
                sealed,
                driver_for,
                context.clock,
                own=context.system if context.system_name else None,
                hide=context.named,
                into=directory,
                resume=unattended_run,
                record=record,
                progress=(lambda _component, size: advance(size)) if advance else None,
            )

        if not unattended_run:
            proof = run(into)
        else:
            notes = HostState(repository.vault.hex(), body.system).folder
            proof = unattended.prove(sealed, notes, within, run)
    if context.system_name:
        remember(context.host.folder, run_of(proof.restored))  # for the next recovery's estimate
    return proof


def _judged_live(context: Context, sealed: Sealed, *, report: bool) -> tuple[Verdict, Report | None]:
    system, repository = context.system, context.repository
    verdict = judge_live(repository, sealed, system, LiveRunner(system.root), context.clock)
    made = timestamp(context.clock.now())
    return verdict, report_on_live(repository, sealed, system, verdict, made) if report else None


def _show(context: Context, sealed: Sealed, proof: Proof, json: bool, *, record: bool) -> None:
    kept = proof.directory
    if json:
        output.as_json({"verdict": proof.verdict, "restored": proof.restored, "directory": kept})
        return
    show_verdict(proof.verdict, json)
    if not record:
        output.line(f"  NOT RECORDED: nobody signed this; `resurgam verify {sealed.body.id}` does, where its keys are")
        if kept:
            output.line(f"  the copies are in {kept}")
        return
    if proof.verdict.judgement is Judgement.INCONCLUSIVE and context.repository.state(sealed).baseline:
        output.line(
            f"  its answers were kept as a baseline: another `resurgam verify {sealed.body.id}` is judged by it"
        )
    if kept and proof.verdict.judgement.passes:
        output.line(f"  the copies are in {kept}; `resurgam promote {kept}` brings them live")


def _nothing_to_prove(context: Context, json: bool) -> int:
    if context.system_name:
        unattended.clear(context.host.folder)
    if json:
        output.as_json({"verdict": None, "restored": None, "directory": None})
    else:
        output.line("nothing to prove: each point was judged")
    return 0
