"""vault repair: what can be done where bytes are missing or damaged, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption, VaultOption
from resurgam.errors import Denied, IntegrityError, NotFound
from resurgam.model.codec import to_plain
from resurgam.stores.base import Store
from resurgam.stores.registry import open_store
from resurgam.vault.losses import ComponentLoss, PointLoss
from resurgam.vault.othercopy import door, reopen
from resurgam.vault.repair import Planner, Repairs
from resurgam.vault.repairing import carry_out
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted

_SHOWN = 20  # lines of one kind, and items of one component


def repair(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says.")] = False,
    other: Annotated[
        str | None, typer.Option("--from", help="Another copy of the same vault, to take from it what is missing here.")
    ] = None,
    read: Annotated[
        bool, typer.Option("--read", help="Read every pack, not only those that are known or likely to be damaged.")
    ] = False,
    forsake: Annotated[
        bool,
        typer.Option(
            "--forsake", help="Let go of chunks whose session's key is gone, so that captures store them again."
        ),
    ] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Bring back what can be brought back, and say exactly what is lost.

    Prints the plan; with --yes it is carried out. Rebuilds the index from packs, announces what nobody announced, takes from
    another copy of the vault what is missing here (every object is verified first), writes anew what is sound in a damaged
    pack, and quarantines points that lost what a restore needs. Names what is lost by point, component and item.

    Nothing that can be believed is replaced. What is damaged is removed only with pruner.json, and only when what takes its
    place is at hand. Stopped anywhere, the same command goes on. Exit code 8 while something is lost, or waits for a key or
    a copy that is not here.

    Examples:

        resurgam vault repair

        resurgam vault repair --read --yes

        resurgam vault repair --from /mnt/replica --yes
    """
    context = Context(manifest, vault, keys)
    source = open_store(other) if other is not None else None
    opened, taken = _opened(context, source, yes)
    if opened is None:
        return _only_the_door(taken, json)
    opened.require_newest_roles(context.vault_host)
    planner = Planner(opened, context.clock, source, read=read, forsake=forsake)
    with output.progress("look", None, json) as advance:
        plan = planner.plan(advance)
    if not json:
        _show(plan, taken)
    left = plan
    if yes and not plan.empty:
        with output.progress("repair", None, json) as advance:
            left = carry_out(planner, context.clock, lambda _line: None if json else output.note(_line), advance)
    if json:
        output.as_json({"taken": taken, "plan": _plain(plan), "done": yes, "left": _plain(left) if yes else None})
    elif yes and not plan.empty:
        output.line("done; what is left:", style="bold")
        _show(left, [])
    elif not plan.empty:
        output.line("nothing was changed: --yes does it")
    return IntegrityError.exit_code if left.lost or left.waits or (yes and not left.empty) else 0


def _opened(context: Context, source: Store | None, yes: bool) -> tuple[Repository | None, list[str]]:
    """The vault, brought back so far that it opens where ``yes``; else the names of what that takes."""
    taken: list[str] = []
    if source is not None:
        taken = [name for name, _, _ in door(context.store, source, context.keyring)]
        if yes:
            reopen(context.store, source, context.keyring)
    try:
        return Repository(context.store, context.keyring), taken
    except (Denied, IntegrityError, NotFound):
        if taken and not yes:
            return None, taken
        raise


def _only_the_door(taken: list[str], json: bool) -> int:
    if json:
        output.as_json({"taken": taken, "plan": None, "done": False, "left": None})
    else:
        for name in taken:
            output.line(f"  take         {name}")
        output.line("without these the vault does not open; what else is to be done shows then. --yes takes them")
    return IntegrityError.exit_code


def _plain(plan: Repairs) -> dict[str, object]:
    """A plan as JSON: chunks as counts."""
    plain: dict[str, object] = to_plain(plan)
    salvage = [{"pack": s.pack, "what": s.what, "chunks": len(s.chunks), "bytes": s.bytes} for s in plan.salvage]
    return plain | {"salvage": salvage, "empty": plan.empty}


def _show(plan: Repairs, taken: list[str]) -> None:
    for name in taken:
        output.line(f"  take         {name}")
    steps = list(_steps(plan))
    for step in steps[:_SHOWN]:
        output.line(f"  {step}")
    if len(steps) > _SHOWN:
        output.line(f"  and {len(steps) - _SHOWN} steps more; --json names them all")
    for why in plan.waits[:_SHOWN]:
        output.line(f"  not here: {why}", style="yellow")
    for why in plan.refused[:_SHOWN]:
        output.line(f"  not taken: {why}", style="yellow")
    for lost in plan.lost:
        _show_loss(lost)
    if plan.garbage:
        output.line(
            f"  needed by nobody, and left to `resurgam vault prune`: "
            f"{counted(plan.garbage, 'pack')}, {output.size(plan.garbage_bytes)}"
        )
    if plan.empty and not (plan.waits or plan.lost):
        output.line("  nothing is to be done")


def _steps(plan: Repairs) -> Iterator[str]:
    for one in plan.take:
        verb = "replace" if one.replaces else "take"
        name = f"pack {one.name[-64:][:16]}" if one.name.startswith("packs/") else one.name
        yield f"{verb:12} {name}, {output.size(one.bytes)}, as the other copy has it"
    for pack in plan.salvage:
        kept = f"{counted(len(pack.chunks), 'chunk')}, {output.size(pack.bytes)}"
        if pack.what:
            yield f"write anew   {kept}: what is sound in pack {pack.pack[:16]}, which goes: {pack.what}"
        else:
            yield f"write anew   {kept} of pack {pack.pack[:16]}, for which nobody vouches"
    for origin, packs in plan.name.items():
        yield f"name         {counted(len(packs), 'pack')} in a new segment of the index, for the key {origin}"
    if plan.merge:
        yield f"merge        segments of the index, without {counted(len(plan.merge), 'pack')} that they name and that are gone"
    for name in plan.clear:
        yield f"remove       {name}, which cannot be believed"
    for kind, name in plan.announce:
        yield f"announce     {name}, a {kind} that nobody announced"
    for point in plan.quarantine:
        yield f"quarantine   {point}"


def _show_loss(lost: PointLoss) -> None:
    what = "lost" if not lost.restores else "lost evidence or lists only, and restores"
    output.line(f"  {what}: point {lost.point} of {lost.system}", style="bold red")
    if lost.particulars:
        output.line("    its particulars: no command restores it; its parts may still be found by a copy of them")
    if lost.evidence:
        output.line(f"    {counted(lost.evidence, 'document')} of what was answered or judged")
    for component in lost.components:
        _show_component(component)
    if lost.intact and lost.components and not lost.particulars:
        words = " ".join(f"--component {name}" for name in lost.intact)
        output.line(f"    whole: {', '.join(lost.intact)}; `resurgam restore {lost.point} --into DIR {words}`")


def _show_component(lost: ComponentLoss) -> None:
    if lost.items is None:
        output.line(f"    {lost.component}: {counted(lost.chunks, 'chunk')}; a reader's key names the items")
        return
    if lost.restores:
        output.line(f"    {lost.component}: lists of chunks or views of tables only; every item is whole")
        return
    named = ", ".join(lost.items[:_SHOWN])
    more = f" and {len(lost.items) - _SHOWN} more" if len(lost.items) > _SHOWN else ""
    output.line(f"    {lost.component}: {named}{more}")
    output.line(f"      whole in it: {counted(lost.whole or 0, 'item')}, {output.size(lost.whole_bytes or 0)}")
