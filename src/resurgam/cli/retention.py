"""retention show, set, explain: how long points stay, who says so, and why each one stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    PointArgument,
    VaultOption,
)
from resurgam.vault.approvals import plan_digest
from resurgam.vault.policies import (
    ACT,
    PolicyBody,
    Signed,
    facts,
    from_the_future,
    in_force,
    next_policy,
    policies,
    put_policy,
    require_newest_policy,
    said_before,
    store_time,
    weaker,
)
from resurgam.vault.retention import Decision, PointFacts, PolicyInForce, decide
from resurgam.vault.retention_words import at, changes, counted, told

app = typer.Typer(no_args_is_help=True, help="How long points stay, and why.", rich_markup_mode=None)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided now, and by what. ``now`` is the store's time."""

    now: float
    signed: tuple[Signed, ...]
    policies: tuple[PolicyInForce, ...]
    points: tuple[PointFacts, ...]
    decisions: tuple[Decision, ...]


def view(context: Context, system: str | None) -> View:
    """Decide about the points of ``system``, or of all. Warns where the store's time is of the future. Raises IntegrityError
    where policies were taken away."""
    repository = context.repository
    signed = policies(repository)
    require_newest_policy(signed, context.vault_host)
    if wrong := from_the_future(repository.store, context.clock):
        output.warning(f"what follows is decided by a time of the future, and no prune acts on it: {wrong}")
    now, rules, points = store_time(repository.store), in_force(signed), facts(repository, system)
    return View(now=now, signed=signed, policies=rules, points=points, decisions=decide(rules, points, now))


@app.command("show")
def show(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Show the policy that is in force, and what becomes of each point by it.

    A policy that was replaced still keeps what it kept until its cooling period is over. Nothing is removed here:
    `resurgam vault prune` does that. Time is the store's: when it received what it received last.

    Examples:

        resurgam retention show

        resurgam retention show --vault /mnt/vault --keys /etc/resurgam/keys
    """
    context = Context(manifest, vault, keys)
    seen = view(context, context.system_name)
    if json:
        output.as_json(_as_json(seen))
        return 0
    systems = {context.system_name} if context.system_name else {point.system for point in seen.points}
    for system in sorted(systems | ({p.system for p in seen.policies} if not context.system_name else set())):
        _show_policies(system, seen)
        decisions = [decision for decision in seen.decisions if decision.system == system]
        _show_points(decisions)
    for signed in seen.signed:
        if signed.refused:
            output.warning(f"policy {signed.serial} counts as one that keeps everything: {signed.refused}")
    for why in (*context.repository.refused_points, *context.repository.refused_records):
        output.warning(f"nothing is decided on what cannot be believed: {why} Run `resurgam vault check`.")
    return 0


@app.command("set")
def set_(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Sign it. Without, only the plan is printed.")] = False,
    why: Annotated[str, typer.Option("--why", help="The reason; signed, in the clear, and shown ever after.")] = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Put the manifest's `retention` in force for its system.

    Prints what is otherwise than before and which points would expire, and acts with --yes only. Signed with the approver's key.
    What keeps more holds at once. What keeps less waits until the cooling period of the policy before it is over, by the store's
    clock; the first policy of a system waits 14 days.

    Examples:

        resurgam retention set

        resurgam retention set --why "decided by the board on 2026-03-01" --yes
    """
    context = Context(manifest, vault, keys)
    system = context.system
    before = view(context, system.name)
    body = next_policy(before.signed, system.name, system.retention, output.on_one_line(why))
    same = said_before(before.signed).of(system.name) == (system.retention, "")
    plan = plan_digest(context.repository, ACT, body)
    if not json:
        _show_plan(system.name, before, body, plan)
    if yes and not same:
        put_policy(context.repository, body, context.clock)
    if json:
        changed = changes(said_before(before.signed).of(system.name)[0], system.retention)
        output.as_json({"policy": body, "changes": changed, "set": yes and not same, "plan": plan})
    elif same:
        output.line("it is in force already")
    elif yes:
        output.line(f"policy {body.serial} is in force", style="bold")
    else:
        output.line("nothing was changed: --yes does it")
    return 0


@app.command("explain")
def explain(
    point: PointArgument,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Tell every reason why a point stays, what ends each, and when the point may expire at the earliest.

    Examples:

        resurgam retention explain latest

        resurgam retention explain 3fa9 --json
    """
    context = Context(manifest, vault, keys)
    sealed = context.point(point)
    seen = view(context, sealed.body.system)
    decision = next(found for found in seen.decisions if found.point == sealed.body.id)
    if json:
        output.as_json(_decision(decision, seen))
        return 0
    word = "stays" if decision.keep else "expires with the next prune"
    output.line(f"point {decision.point} of {decision.system} {word}", style="bold")
    output.line(f"  received {at(sealed.received)}; the store's time is {at(seen.now)}")
    for reason in decision.reasons:
        output.line(f"  {reason.words}")
        output.line(f"      ends {reason.ends}")
    if not decision.reasons:
        output.line("  no hold, no rule and no policy that is still cooling keeps it")
    output.line(f"  {_earliest(decision, seen)}")
    _show_policies(decision.system, seen)
    return 0


def _show_policies(system: str, seen: View) -> None:
    newest = said_before(seen.signed)
    retention, lacking = newest.of(system)
    if lacking:
        output.line(f"{system}: {lacking}, so nothing expires; `resurgam retention set` sets one", style="bold")
    else:
        output.line(f"{system}: policy {newest.serial}, signed {newest.made[:10]} by {newest.signer}", style="bold")
        output.line(f"  {told(retention)}")
        if newest.body is not None and newest.body.why:
            output.line(f"  why: {newest.body.why}")
    for policy in seen.policies:
        if policy.system == system and policy.until is not None and seen.now < policy.until:
            what = policy.lacking or f"policy {policy.serial}: {told(policy.retention)}"
            output.line(f"  until {at(policy.until)} also: {what}")


def _show_points(decisions: Sequence[Decision]) -> None:
    kept = sum(decision.keep for decision in decisions)
    output.line(f"  {kept} of {counted(len(decisions), 'point')} kept, {len(decisions) - kept} would expire")
    if decisions:
        rows = [[d.point, "stays" if d.keep else "expires", d.why] for d in decisions]
        output.table(["point", "", "why"], rows)


def _show_plan(system: str, seen: View, body: PolicyBody, plan: str) -> None:
    """What would be otherwise, and what becomes of the points once nothing that was before keeps them."""
    old, lacking = said_before(seen.signed).of(system)
    output.line(f"Set retention policy {body.serial} for {system} (plan {plan})", style="bold")
    for change in changes(old, body.systems[system]):
        keeps_less = "  (weaker)" if change.weaker else ""
        output.line(f"  {change.rule}: {change.before} -> {change.after}{keeps_less}")
    alone = [PolicyInForce(serial=body.serial, system=system, retention=body.systems[system])]
    expiring = [decision for decision in decide(alone, seen.points, seen.now) if not decision.keep]
    when = "at once" if not weaker(said_before(seen.signed), body) else f"not before {at(seen.now + old.cooling)}"
    if lacking:
        output.line(f"  before: {lacking}")
    output.line(f"  by it alone {len(expiring)} of {counted(len(seen.points), 'point')} would expire, {when}")
    for decision in expiring:
        output.line(f"    {decision.point}")


def _earliest(decision: Decision, seen: View) -> str:
    if not decision.keep:
        return "nothing was removed yet: `resurgam vault prune` shows what it would do"
    if decision.not_before is None:
        return "it does not expire unless somebody decides so"
    if decision.not_before <= seen.now:
        return "it may expire as soon as all of that has ended"
    return f"it may expire on {at(decision.not_before)} at the earliest"


def _decision(decision: Decision, seen: View) -> dict[str, object]:
    found: dict[str, object] = {"point": decision.point, "system": decision.system, "keep": decision.keep}
    return found | {"reasons": decision.reasons, "not_before": decision.not_before, "store_time": seen.now}


def _as_json(seen: View) -> dict[str, object]:
    decisions = [_decision(decision, seen) for decision in seen.decisions]
    return {"store_time": seen.now, "policies": seen.signed, "in_force": seen.policies, "points": decisions}
