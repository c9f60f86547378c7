"""restore, promote, reference: the way back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    LATEST,
    AsOfOption,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    PointArgument,
    VaultsOption,
)
from resurgam.cli.warmup import DaysOption, PricesOption, SpeedOption, WaitOption, WarmUpOption
from resurgam.cli.warmup import warm_up as warm
from resurgam.drivers.base import Facts
from resurgam.drivers.registry import driver_for
from resurgam.errors import EXIT_DIFFERENT, UsageError
from resurgam.model.plan import Plan
from resurgam.model.system import System
from resurgam.model.verdict import Verdict
from resurgam.probes.runner import LiveRunner
from resurgam.proof.judge import explain
from resurgam.restore.adding import add as run_add
from resurgam.restore.intent import Kind
from resurgam.restore.plan import plan_restore
from resurgam.restore.promote import Outcome, Promoter
from resurgam.restore.run import require_target
from resurgam.restore.run import restore as run_restore
from resurgam.restore.stages import of_stages, seconds_of
from resurgam.restore.state import Restored
from resurgam.restore.verify import approve_reference
from resurgam.restore.watch import Watcher
from resurgam.stores.archive import Speed
from resurgam.vault.records import RecordType
from resurgam.vault.signing import Role
from resurgam.vault.warmup import DAYS

reference_app = typer.Typer(
    no_args_is_help=True, help="The owner's word on which answers are right.", rich_markup_mode=None
)


def restore(
    into: Annotated[str, typer.Option("--into", help="A folder that does not exist yet.")],
    point: PointArgument = LATEST,
    component: Annotated[list[str] | None, typer.Option(help="Only this component; may be given again.")] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(help="Only these: hot, standard or cold, with what they need; may be given again."),
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Add to the folder, an earlier restore of the same point, what it lacks.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    warm_up: WarmUpOption = False,
    speed: SpeedOption = Speed.STANDARD,
    days: DaysOption = DAYS,
    wait: WaitOption = None,
    cost: PricesOption = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> int:
    """Build copies of a point in a folder.

    The folder appears under its name when it is whole, not before. Nothing is judged: `resurgam verify` does both.

    The hot components come first (`tier: hot` or `critical` in the manifest), with what they need. To use them before the rest is
    there, restore them alone with --tier, and --add the others.

    What lies in a class that sleeps is woken with --warm-up: it prints what to wake, by when that will be there and what it costs,
    asks for it, and ends with exit code 16 and the time to come back. Given again then, it restores. docs/cost.md tells more.

    Examples:

        resurgam restore --into /srv/look

        resurgam restore 3fa9 --into out --component documents

        resurgam restore latest --into out --vault /mnt/vault --keys recovery.agekey

        resurgam restore latest --into out --tier hot && resurgam restore latest --into out --add

        resurgam restore latest --into out --warm-up --speed bulk --cost prices.yaml
    """
    if warm_up and as_of is not None:  # P10: nothing is asked of the store through a view of its past
        raise _wrong("--warm-up acts on the vault as it is, and --as-of does not.", "Leave one of the two out.")
    context = Context(manifest, vault, keys, as_of=as_of)
    repository = context.repository
    body = context.point(point, to_read=True).body
    particulars = repository.particulars(body)
    only = _only(particulars.system, component, tier)
    if warm_up:
        warm(context, body, only, speed=speed, days=days, wait=wait, prices=cost, dry_run=dry_run, json=json)
        if dry_run:
            return 0
    if dry_run:
        if not add:
            require_target(os.path.abspath(into), particulars.system)
        _show_plan(plan_restore(body, particulars, os.path.abspath(into), only=only), json)
        return 0
    wanted = sum(s.bytes for s in body.snapshots if not only or s.component in only)
    with output.progress(f"restore {body.id}", wanted, json) as advance:
        progress = (lambda _component, size: advance(size)) if advance else None
        there = (repository, body, particulars, into, driver_for, context.clock)
        if add:
            restored, names = run_add(*there, components=only, progress=progress)
        else:
            restored = run_restore(*there, components=only, progress=progress)
            names = tuple(restored.copies)
    if json:
        output.as_json(restored)
        return 0
    _show_restored(restored, names, particulars.system, into)
    return 0


def _only(system: System, component: Sequence[str] | None, tier: Sequence[str] | None) -> tuple[str, ...]:
    """The components that are meant, none for all. Raises UsageError."""
    if component and tier:
        raise _wrong("--component and --tier both say what is restored.", "Give one of the two.")
    found = of_stages(system, tier) if tier else tuple(component or ())
    if tier and not found:
        raise _wrong(f"No component is of the tier {', '.join(tier)}.", "Leave --tier out: all are restored.")
    return found


def _show_restored(restored: Restored, names: Sequence[str], system: System, into: str) -> None:
    copies = {name: restored.copies[name] for name in restored.copies if name in names}
    took = seconds_of(system, {name: copy.seconds for name, copy in copies.items()})
    output.line(f"restored point {restored.point} into {into} in {output.seconds(restored.seconds)}", style="bold")
    for stage, (members, seconds) in took.items():
        if len(took) > 1:
            output.line(f"  {stage}: there after {output.seconds(seconds)} more")
        for name in members:
            output.line(f"  {name}: {os.path.join(into, copies[name].place)}  {output.size(copies[name].bytes)}")
    lacking = [component.name for component in system.components if component.name not in restored.copies]
    if not names:
        output.line("  nothing was missing there")
    if lacking:
        output.line(f"  not restored: {', '.join(lacking)}; the same command with --add adds them")
    output.line("  restored is not recovered: `resurgam verify` judges how a point behaves")


def promote(
    directory: Annotated[str | None, typer.Argument(help="The folder that `resurgam verify --into` made.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before doing what the plan says.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    undo: Annotated[
        str | None,
        typer.Option(
            "--undo", help="Bring back what was live before this promotion: the beginning of its id, or `latest`."
        ),
    ] = None,
    component: Annotated[list[str] | None, typer.Option(help="Switch only this component; may be given again.")] = None,
    unverified: Annotated[
        bool,
        typer.Option(
            "--promote-unverified",
            help="Ask for no passing verdict. It is recorded, and shown ever after with the point.",
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="End what was cut off: finish it, or take it back.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Make judged copies live.

    What was live before is kept beside it.

    Needs a passing verdict over exactly these copies. Runs the manifest's fence, refuses while any process holds the live
    paths open, exchanges every component by one rename each, runs reload. For `promotion: watch` live is then asked the probes;
    where it deviates, what was live comes back, and the exit code is 20. `--undo` swaps back.

    Examples:

        resurgam promote /srv/recovered --dry-run

        resurgam promote /srv/recovered --yes

        resurgam promote --undo latest
    """
    if (directory is not None) + (undo is not None) + resume != 1:
        raise _wrong("Give one of: a folder, --undo ID, --resume.", "See `resurgam promote --help`.")
    if directory is None and (component or unverified):
        raise _wrong("--component and --promote-unverified say how a folder is promoted.", "Name the folder too.")
    if resume and dry_run:
        raise _wrong("--resume has no plan to print.", "`resurgam status` says what was cut off, and how far it was.")
    if directory is not None and json and not (yes or dry_run):  # P10: nobody agrees to a plan that was not shown
        raise _wrong("--json asks nothing.", "Give --dry-run to get the plan, or --yes to agree to it.")
    context = Context(manifest, keys=keys)
    promoter = promoter_of(context, json)
    if undo is not None and dry_run:
        _show_plan(promoter.undo_plan(undo), json)
        return 0
    if undo is not None:
        outcomes = [promoter.undo(undo)]
    elif resume:
        outcomes = promoter.resume_or_undo()
    else:
        assert directory is not None
        only = tuple(component or ())
        plan = promoter.plan(directory, only=only, unverified=unverified)
        if dry_run or not yes:
            _show_plan(plan, json)
        if dry_run:
            return 0
        if not yes and not agreed():
            output.line("nothing was changed")
            return UsageError.exit_code
        outcomes = [promoter.promote(directory, agreed=plan, only=only, unverified=unverified)]
    show_outcomes(outcomes, json)
    return EXIT_DIFFERENT if any(outcome.withdrawn for outcome in outcomes) else 0


def _wrong(what: str, next_step: str) -> UsageError:
    return UsageError(what, untouched="Nothing was changed.", next_step=next_step)


@reference_app.command("approve")
def approve(
    point: PointArgument, manifest: ManifestOption = DEFAULT_MANIFEST, keys: KeysOption = None, json: JsonOption = False
) -> int:
    """Say that a point's recorded answers are right.

    From now on every point of the system is also judged by them: this is what finds a system that was already wrong when it
    was captured. Signed with the approver's key.

    Examples:

        resurgam reference approve latest
    """
    context = Context(manifest, keys=keys)
    sealed = context.point(point)
    name = approve_reference(context.repository, sealed, context.clock)
    if json:
        output.as_json({"point": sealed.body.id, "record": name})
    else:
        output.line(f"the answers of point {sealed.body.id} are the reference of {sealed.body.system} from now on")
    return 0


def promoter_of(context: Context, json: bool, *, recorded: bool = True) -> Promoter:
    """Who promotes into the manifest's system. Raises Denied without an approver's key, unless nothing is to be ``recorded``."""
    repository = context.repository
    role = repository.keyring.signer(Role.APPROVER).role if recorded else ""  # told before anything is switched

    def record(word: str, facts: Facts) -> None:
        if not recorded:
            return
        kind = RecordType.UNDO if word == "undone" else RecordType.PROMOTION
        repository.put_record(kind, str(facts["point"]), facts, Role(role), context.clock)

    runner = LiveRunner(context.system.root)
    tell = output.note if output.watched() and not json else (lambda _step: None)
    return Promoter(
        system=context.system,
        repository=repository,
        folder=context.host.folder,
        driver_for=driver_for,
        runner=runner,
        record=record,
        tell=tell,
        clock=context.clock,
        watcher=Watcher(context.system, repository, runner, context.clock, tell),
    )


def show_pending(pending: Mapping[str, Sequence[str]]) -> None:
    """What goes on, or ends, by itself once a point is live."""
    for name, lines in pending.items():
        for text in lines:
            output.line(f"  pending in {name}: {text}", style="yellow")


def show_verdict(verdict: Verdict, json: bool) -> None:
    """A verdict with its reasons."""
    if json:
        output.as_json({"verdict": verdict})
        return
    first, *rest = explain(verdict)
    output.line(first, style="bold")
    for text in rest:
        output.line(f"  {text}")


def _show_plan(plan: Plan, json: bool) -> None:
    if json:
        output.as_json(plan)
        return
    output.line(plan.title, style="bold")
    for number, step in enumerate(plan.steps, 1):
        size = f"  {output.size(step.bytes)}" if step.bytes else ""
        output.line(f"  {number}. {step.verb}: {step.what}{size}")
    show_pending(plan.pending)
    if plan.seconds is not None:
        output.line(f"  about {output.seconds(plan.seconds)}")


def show_outcomes(outcomes: list[Outcome], json: bool) -> None:
    """What promotions and undos did."""
    if json:
        output.as_json(outcomes)
        return
    for outcome in outcomes:
        if outcome.withdrawn:
            output.line(f"WITHDRAWN: live deviated: {outcome.withdrawn}", style="bold red")
        output.line(f"live: {outcome.live}; clients waited {output.seconds(outcome.outage)}", style="bold")
        show_pending(outcome.pending)
        for name, path in outcome.kept.items():
            output.line(f"  {name}: the other one is kept at {path}")
        if outcome.kind is Kind.PROMOTE:
            output.line(f"  to take it back: resurgam promote --undo {outcome.id}")
    if not outcomes:
        output.line("nothing was left to finish; what was begun has been taken back")


def agreed() -> bool:
    """The one question before what a plan says is done. Raises UsageError where nobody is there to answer it."""
    try:
        return typer.confirm("Do this now?", default=False, err=True)
    except typer.Abort as ended:
        if not isinstance(ended.__context__, EOFError):
            raise
        raise _wrong(
            "Nobody is there to answer: standard input has ended.", "Give --yes to agree to the plan."
        ) from ended
