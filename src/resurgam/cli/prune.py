"""vault prune, vault leases: give back the room of what expired; see and end what a prune waits for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    VaultOption,
    duration,
)
from resurgam.errors import Busy, NotFound, UsageError
from resurgam.model.codec import to_plain
from resurgam.vault import pruning
from resurgam.vault.approvals import plan_digest, required
from resurgam.vault.leases import Lease, open_leases, revoke, role_to_revoke
from resurgam.vault.policies import from_the_future, policies, require_newest_policy, require_present, store_time
from resurgam.vault.prune import MAX_REPACK, MAX_UNUSED, Economics
from resurgam.vault.prunes import Prune, PrunePlan, Stage
from resurgam.vault.pruning import Draft
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says.")]
_SHOWN = 20


def prune(
    yes: YesOption = False,
    undo: Annotated[int | None, typer.Option("--undo", help="Take back this prune, which is not swept yet.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the prunes that there were.")] = False,
    why: Annotated[str, typer.Option("--why", help="The reason for --undo; signed, and kept.")] = "",
    max_unused: Annotated[
        str, typer.Option("--max-unused", help="How much may stay unneeded, as a share of what stays.")
    ] = f"{MAX_UNUSED:.0%}",
    max_repack: Annotated[
        str, typer.Option("--max-repack", help="How much may be copied out of packs that are needed in part.")
    ] = f"{MAX_REPACK // 10**9}GB",
    revoke_older: Annotated[
        str | None, typer.Option("--revoke-older", help="Revoke leases that are older than this, by the store's clock.")
    ] = None,
    accept: Annotated[
        list[str] | None, typer.Option("--accept", help="Give up what this object alone needs; as an error named it.")
    ] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Let points go that no rule keeps, and give back the room that they alone needed.

    Prints the plan; with --yes it is signed and begun: its points are expired, and its packs are marked. When the sessions have
    ended that were at work then, the same command marks anew what is needed, copies that out of packs that go, and removes them.
    Until then --undo brings everything back. Stopped anywhere, it goes on when it is given again. Exit code 10 while it waits.

    Where the vault asks for approvers, give --yes first: it puts the plan, and is refused with exit code 6. Have that plan approved
    (`resurgam vault prune --json > plan.json`, then `resurgam vault approve plan.json`), and give --yes again.

    Needs pruner.json, and no key that opens contents.

    Examples:

        resurgam vault prune

        resurgam vault prune --yes --revoke-older 7d

        resurgam vault prune --undo 3 --yes --why "the policy was wrong"
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    repository.require_newest_roles(context.vault_host)
    require_newest_policy(policies(repository), context.vault_host)
    if listed:
        return _list(repository, json)
    if undo is not None:
        return _undo(context, undo, why, yes, json)
    if yes:
        require_present(repository.store, context.clock)  # before a plan is put that rests on a time of the future
    elif wrong := from_the_future(repository.store, context.clock):
        output.warning(f"--yes would be refused, for nothing can expire by a time of the future: {wrong}")
    economics = Economics(max_unused=_share(max_unused), max_repack=_amount(max_repack))
    older = duration(revoke_older) if revoke_older is not None else None
    open_one = repository.prunes().open
    if open_one is None:
        drafted = pruning.draft(repository, pruning.expiring(repository), economics, accept or ())
        if not json:
            _tell_draft(context, drafted)
        if not yes or drafted.plan.empty:
            if yes:
                pruning.announce_rest(repository, context.clock)
            cleared = pruning.clear_away(repository) if yes else 0
            return _nothing_more(repository, drafted, cleared, json)
        open_one = pruning.propose(repository, drafted.plan, context.clock)
    elif not json:
        _tell_open(repository, open_one)
    if yes:
        return _go_on(context, open_one, older, accept or (), json)
    if json:
        output.as_json(_of(repository, open_one))
    else:
        output.line(f"nothing was changed: --yes goes on with it, --undo {open_one.number} ends it")
    return 0


def leases(
    ended: Annotated[str | None, typer.Option("--revoke", help="Revoke this lease: its session is dead.")] = None,
    yes: YesOption = False,
    why: Annotated[str, typer.Option("--why", help="The reason; signed, and kept.")] = "it was revoked by hand",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """List what sessions have reserved and not sealed; a prune waits for those that were there when it began.

    A capture and a verification each reserve the names that they will seal. One that died leaves its lease: the next capture of the
    same host ends its own, any other is ended with --revoke. A session that wakes up revoked can seal nothing, and starts over.

    Examples:

        resurgam vault leases

        resurgam vault leases --revoke 3fa9c1d2e4b5a697 --yes
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    found = open_leases(repository)
    if ended is not None:
        return _revoke(context, _named(found, ended), why, yes, json)
    now = store_time(repository.store)
    if json:
        output.as_json([to_plain(lease) | {"age": max(now - lease.received, 0.0)} for lease in found])
        return 0
    for lease in found:
        output.line(f"{lease.id}  {_described(lease, now)}")
        for name in lease.names:
            output.line(f"    reserves {name}")
    if not found:
        output.line("no lease is open")
    return 0


def _go_on(context: Context, prune: Prune, older: float | None, accept: Sequence[str], json: bool) -> int:
    """Begin, and sweep when nothing is waited for any more."""
    repository, clock = context.repository, context.clock
    begun = pruning.begin(repository, prune, clock)
    if older is not None:
        _revoke_older(context, older, json)
    waiting = pruning.waits_for(repository, begun)
    if not waiting:
        with output.progress("prune", None, json) as advance:
            begun = pruning.sweep(repository, begun, clock, accept, advance)
    if json:
        output.as_json(_of(repository, begun))
    elif waiting:
        now = store_time(repository.store)
        output.line(
            f"prune {begun.number} has begun: expired: {counted(len(begun.plan.expire), 'point')}; it waits for"
        )
        for lease in waiting[:_SHOWN]:
            output.line(f"  {lease.id}  {_described(lease, now)}")
        output.line(f"give the same command again when they have ended; --undo {begun.number} takes all of it back")
    else:
        _tell_swept(begun)
    return Busy.exit_code if waiting else 0


def _undo(context: Context, number: int, why: str, yes: bool, json: bool) -> int:
    repository = context.repository
    prune = pruning.require(repository, number)
    if yes:
        prune = pruning.undo(repository, number, why, context.clock)
    if json:
        output.as_json(_of(repository, prune))
        return 0
    if not yes:
        _tell_open(repository, prune)
    done = "was undone: its points are promised again" if yes else "would be undone: --yes does it"
    output.line(f"prune {number} {done}")
    return 0


def _revoke(context: Context, lease: Lease, why: str, yes: bool, json: bool) -> int:
    repository = context.repository
    role = role_to_revoke(repository, lease)
    names = revoke(repository, lease, role, why, context.clock) if yes else ()
    if json:
        output.as_json({"lease": to_plain(lease), "by": role, "done": yes, "revoked": names})
        return 0
    output.line(f"{lease.id}  {_described(lease, store_time(repository.store))}")
    for name in lease.names:
        output.line(f"  {'revoked' if name in names else 'revoke' if not yes else 'sealed meanwhile'}: {name}")
    if not yes:
        output.line("nothing was changed: --yes does it")
    return 0


def _revoke_older(context: Context, older: float, json: bool) -> None:
    repository = context.repository
    now = store_time(repository.store)
    for lease in open_leases(repository):
        if lease.names and now - lease.received > older:
            why = f"older than {output.seconds(older)}, and a prune waits for it"
            revoke(repository, lease, role_to_revoke(repository, lease), why, context.clock)
            if not json:
                output.line(f"revoked {lease.id}  {_described(lease, now)}")


def _named(found: Sequence[Lease], beginning: str) -> Lease:
    matching = [lease for lease in found if lease.id.startswith(beginning)]
    if len(matching) != 1:
        raise NotFound(
            f"{len(matching)} open leases begin with {beginning!r}.",
            untouched="Nothing was changed.",
            next_step="`resurgam vault leases` lists them; give one whole id.",
        )
    return matching[0]


def _described(lease: Lease, now: float) -> str:
    if lease.refused:
        return f"not to be believed: {lease.refused}"
    what = f"a capture of {lease.system}" if lease.system else f"evidence about point {lease.point}"
    age = output.seconds(max(now - lease.received, 0.0))
    return f"{what}, begun {lease.started[:19].replace('T', ' ')} by the {lease.by} key {lease.signer}, {age} old"


def _of(repository: Repository, prune: Prune) -> dict[str, Any]:
    """A prune for ``--json``."""
    waiting = pruning.waits_for(repository, prune) if prune.stage is Stage.BEGUN else []
    said = {"prune": prune.number, "stage": prune.stage.value, "plan": to_plain(prune.plan)}
    return said | {
        "digest": pruning.digest(repository, prune),
        "approvers": required(repository, pruning.ACT),
        "waits_for": [to_plain(lease) for lease in waiting],
        "end": to_plain(prune.end),
    }


def _list(repository: Repository, json: bool) -> int:
    found = repository.prunes().all
    if json:
        output.as_json([_of(repository, prune) for prune in found])
        return 0
    for prune in found:
        frees = output.size(prune.plan.frees)
        broken = f"; {prune.broken}" if prune.broken else ""
        output.line(
            f"{prune.number}  {prune.made[:10]}  {prune.stage.value}: {counted(len(prune.plan.expire), 'point')}, {frees}{broken}"
        )
    if not found:
        output.line("nothing was ever pruned")
    return 0


def _tell_draft(context: Context, drafted: Draft) -> None:
    repository, plan = context.repository, drafted.plan
    output.line(f"Prune {plan.number} of {repository.identity.name} in {repository.store.describe()}", style="bold")
    _tell_plan(plan)
    share_left = f" ({plan.unused / drafted.needed:.1%} of what is needed)" if drafted.needed else ""
    output.line(f"  keep: {counted(drafted.points, 'point')}, {output.size(drafted.packs - plan.frees)} in packs")
    if plan.unused:
        output.line(f"  leave: {output.size(plan.unused)} unneeded in packs that stay{share_left}")
    for pack in drafted.strange:
        output.line(f"  leave alone: pack {pack[:16]}, of which no key that counts says what it holds")
    now = store_time(repository.store)
    for lease in drafted.leases:
        output.line(f"  wait for: {lease.id}  {_described(lease, now)}")


def _tell_open(repository: Repository, prune: Prune) -> None:
    output.line(f"Prune {prune.number} of {prune.made[:10]} is {prune.stage.value}", style="bold")
    _tell_plan(prune.plan)
    if prune.stage is Stage.PLANNED and required(repository, pruning.ACT):
        output.line(f"  approve: {pruning.digest(repository, prune)}")


def _tell_plan(plan: PrunePlan) -> None:
    for point, reason in plan.expire.items():
        output.line(f"  expire: {point}: {reason}")
    output.line(f"  remove: {counted(len(plan.remove), 'pack')} of which nothing is needed")
    output.line(f"  repack: {counted(len(plan.repack), 'pack')}, copying {output.size(plan.copies)} that is needed")
    output.line(f"  free: {output.size(plan.frees)}")


def _tell_swept(prune: Prune) -> None:
    assert prune.end is not None
    output.line(
        f"prune {prune.number} is swept: {counted(len(prune.plan.expire), 'point')} expired, "
        f"{counted(len(prune.end.gone), 'pack')} gone"
    )
    for pack, reason in prune.end.spared.items():
        output.line(f"  spared: pack {pack[:16]}: {reason}")


def _nothing_more(repository: Repository, drafted: Draft, cleared: int, json: bool) -> int:
    if json:
        digest = plan_digest(repository, pruning.ACT, drafted.plan)
        said = {"act": pruning.ACT, "plan": to_plain(drafted.plan), "digest": digest}
        output.as_json(said | {"waits_for": to_plain(drafted.leases), "cleared": cleared})
    elif drafted.plan.empty:
        left = f"; removed {counted(cleared, 'object')} that an earlier prune had left" if cleared else ""
        output.line(f"nothing to prune{left}")
    else:
        output.line("nothing was changed: --yes does it")
    return 0


def _amount(words: str) -> int:
    """Bytes in words such as ``500MB``. Raises UsageError."""
    match = re.fullmatch(r"([0-9]+) ?(B|kB|MB|GB|TB)", words.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(
            f"{words!r} is no amount.", untouched="Nothing was done.", next_step="Write 500MB, 2GB or 1TB."
        )
    zeros = 3 * ("b", "kb", "mb", "gb", "tb").index(match[2].lower())
    return int(match[1] + "0" * zeros)


def _share(words: str) -> float:
    """The number in words such as ``5%``. Raises UsageError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", words.strip())
    if match is None or float(match[1]) > 100:
        raise UsageError(f"{words!r} is no share.", untouched="Nothing was done.", next_step="Write 5%, or 0%.")
    return float(match[1]) / 100
