"""recover: from a broken system to one that is live again, in one act."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    UnrecordedOption,
    VaultsOption,
)
from resurgam.cli.restore import agreed, promoter_of, show_outcomes, show_pending, show_verdict
from resurgam.drivers.registry import driver_for
from resurgam.errors import EXIT_DIFFERENT, EXIT_INCONCLUSIVE, UsageError
from resurgam.model.codec import to_plain
from resurgam.model.verdict import Judgement
from resurgam.restore.recover import Recovered, Recovery, RecoveryPlan
from resurgam.restore.recover_estimate import Estimate


def recover(
    to: Annotated[
        str, typer.Option("--to", help="A point, or a time: the newest clean point sealed by then.", show_default=False)
    ] = "",
    component: Annotated[
        list[str] | None, typer.Option(help="Switch only this component; may be given again. All are judged.")
    ] = None,
    into: Annotated[
        str | None, typer.Option("--into", help="Where the copies are built; beside the system unless said.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before doing what the plan says.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    unrecorded: UnrecordedOption = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Bring the newest clean, proven point back to live.

    Shows the plan and asks once.

    Restores beside the system, in isolation; asks and judges; and only a passing verdict is promoted, under the manifest's fence.
    For `promotion: watch` live is asked afterwards, and what was live comes back by itself where it deviates. Cut off anywhere,
    the same command goes on. Exit code 0: live. 20: different, or withdrawn; 21: inconclusive; then what was live is live.

    Examples:

        resurgam recover --dry-run

        resurgam recover --yes

        resurgam recover --to 2026-11-21T02:00

        resurgam recover --component index

        resurgam recover --vault /mnt/replica --keys recovery.agekey --unrecorded
    """
    if json and not (yes or dry_run):
        raise UsageError(  # P10: nobody agrees to a plan that was not shown
            "--json asks nothing.",
            untouched="Nothing was changed.",
            next_step="Give --dry-run to get the plan, or --yes to agree to it.",
        )
    context = Context(manifest, vault, keys)
    recovery = Recovery(
        system=context.system,
        repository=context.repository,
        promoter=promoter_of(context, json, recorded=not unrecorded),
        drivers=driver_for,
        clock=context.clock,
        hide=[os.path.abspath(path) for path in context.named],
        recorded=not unrecorded,
    )
    plan = recovery.plan(to, tuple(component or ()), into)
    if not json:
        _show(plan)
    if dry_run:
        if json:
            output.as_json(_as_json(plan))
        return 0
    if not yes and not agreed():
        output.line("nothing was changed")
        return UsageError.exit_code
    with output.progress(f"recover {plan.point}", sum(part.bytes for part in plan.parts), json) as advance:
        done = recovery.carry_out(plan, (lambda _component, size: advance(size)) if advance else None)
    if json:
        output.as_json({"plan": _as_json(plan), "recovered": done, "live": done.live, "next_step": _next_step(done)})
    else:
        _tell(done)
        if unrecorded:
            output.line("  NOT RECORDED: no verdict and no promotion was signed; the points do not know of this")
    return _exit_code(done)


def _exit_code(done: Recovered) -> int:
    if done.live:
        return 0
    inconclusive = done.outcome is None and done.verdict.judgement is Judgement.INCONCLUSIVE
    return EXIT_INCONCLUSIVE if inconclusive else EXIT_DIFFERENT


def _next_step(done: Recovered) -> str:
    """P12: what to do now."""
    if done.live:
        assert done.outcome is not None
        return f"to take it back: resurgam promote --undo {done.outcome.id}"
    if done.outcome is not None:
        return f"what was live before is live again; `resurgam verify {done.point} --live` asks it, `--to POINT` takes another"
    again = f"`resurgam verify {done.point} --into FOLDER` makes such copies again, to look at"
    return f"nothing live was touched; `resurgam recover` takes the next older clean point; {again}"


def _show(plan: RecoveryPlan) -> None:
    output.line(f"recover to point {plan.point}, taken {plan.taken[:19].replace('T', ' ')} UTC", style="bold")
    if plan.resumes:
        output.line(f"  goes on with a recovery that was cut off: {plan.resumes}", style="yellow")
    promised = f" (promised: {output.seconds(plan.rpo)})" if plan.rpo is not None else ""
    output.line(f"  lost is what was written since: {output.seconds(plan.loses)}{promised}")
    output.line(f"  it is {'proven' if plan.proven else plan.word + ', and will be proven first'}")
    if plan.findings:
        output.line(f"  {plan.findings} of its invariants or items are BROKEN: see resurgam show", style="bold red")
    for over in plan.passed_over:
        output.line(f"  passed over: {over.point}, {over.why}")
    output.line(f"  restore into {plan.directory}, hidden from {len(plan.hidden)} live places, vault and keys")
    for number, part in enumerate(plan.parts, 1):
        what = f"becomes {part.live}" if part.switched else f"is judged with the others; {part.live} stays as it is"
        output.line(f"  {number}. {part.name} ({part.driver}, {output.size(part.bytes)}) {what}")
    output.line(f"  fence: {' '.join(plan.fence) or 'none is declared, so clients must be kept out by hand'}")
    output.line(f"  reload: {' '.join(plan.reload) or 'none is declared'}")
    if plan.estimate.watch:
        output.line(
            f"  watch: live is asked for {output.seconds(plan.estimate.watch)}, and withdrawn where it deviates"
        )
    show_pending(plan.pending)
    promised = f" (promised: {output.seconds(plan.rto)})" if plan.rto is not None else ""
    output.line(f"  about {output.seconds(plan.estimate.total)}{promised}: {_parts_of(plan.estimate)}")


def _parts_of(known: Estimate) -> str:
    told = []
    for name, seconds in (("restore", known.restore), ("judge", known.judge), ("switch", known.switch)):
        assumed = ", ASSUMED: never measured here" if name in known.assumed else ""
        told.append(f"{name} {output.seconds(seconds)}{assumed}")
    return "; ".join(told) + (f"; from {known.runs} measured runs" if known.runs else "")


def _as_json(plan: RecoveryPlan) -> dict[str, object]:
    plain: dict[str, object] = to_plain(plan)
    return plain | {"seconds": plan.estimate.total}


def _tell(done: Recovered) -> None:
    show_verdict(done.verdict, json=False)
    if done.outcome is not None:
        show_outcomes([done.outcome], json=False)
        output.line(f"  after {output.seconds(done.seconds)} in all")
    if not done.live:
        output.line(f"  {_next_step(done)}")
