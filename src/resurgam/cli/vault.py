"""vault init, check, stats, shred, add-domain; prune and leases are in ``cli.prune``, policy in ``cli.policy``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from resurgam.cli import append_only, output, roles, stats
from resurgam.cli import check as checking
from resurgam.cli import keys as key_verbs
from resurgam.cli import policy as policies
from resurgam.cli import prune as pruning
from resurgam.cli import renew as renewing
from resurgam.cli import repair as repairing
from resurgam.cli import serve as serving
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption, VaultOption
from resurgam.clock import Clock
from resurgam.model.system import VaultLock
from resurgam.stores.location import Location, label, parse
from resurgam.stores.promises import Promise, examine, is_empty, require
from resurgam.stores.registry import create_store
from resurgam.vault import shred as shredding
from resurgam.vault.approvals import plan_digest
from resurgam.vault.repository import Repository

app = typer.Typer(no_args_is_help=True, help="Make a vault, check its bytes, see its size.", rich_markup_mode=None)
app.add_typer(key_verbs.app, name="keys")
app.command("roles")(roles.roles)
app.command("approve")(roles.approve)
app.command("prune")(pruning.prune)
app.command("leases")(pruning.leases)
app.command("renew")(renewing.renew)
app.command("append-only")(append_only.append_only)
app.command("serve")(serving.serve)
app.add_typer(serving.tokens, name="tokens")
app.command("policy")(policies.policy)


@app.command("init")
def init(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    json: JsonOption = False,
) -> int:
    """Make an empty vault and its keys.

    The vault's place and the keys' folder are those of the manifest, or --vault and --keys. A bucket (s3://, gs://, az://) has to
    be there; it is first asked what it promises, and refused where a vault would not be safe in it. Read what is said about
    each key file: two of them belong off this machine.

    Examples:

        resurgam vault init

        resurgam vault init --vault /mnt/vault --keys ~/.config/resurgam/handbook --name handbook

        resurgam vault init --vault "s3://vaults/handbook?region=eu-north-1" --keys ~/.config/resurgam/handbook
    """
    context = Context(manifest, vault, keys)
    path, folder = vault or context.system.vault.path, keys or context.system.vault.keys
    lock = context.system.vault.lock if vault is None else None
    promises = _examined(path, folder, lock, context.clock, json)
    store = create_store(path, lock, context.clock, keys=folder)
    repository, new = Repository.create(store, os.path.abspath(folder), name or label(path), context.clock)
    if json:
        output.as_json({"vault": repository.identity, "path": path, "keys": new.files, "promises": promises})
        return 0
    output.line(f"Made the vault {repository.identity.name} in {path}.", style="bold")
    output.line(f"Its keys are in {folder}, readable by you only:")
    for file in new.files:
        output.line(f"  {os.path.basename(file.path)}: {file.purpose}")
        output.line(f"      {file.advice}")
    output.line("  trust.json: says which vault they are for; copy it along with every key that you move")
    return 0


def _examined(path: str, keys: str, lock: VaultLock | None, clock: Clock, json: bool) -> tuple[Promise, ...]:
    """What the bucket promises, told to people; nothing of a folder, nor where there is a vault already. Raises Denied where it
    does not promise what a vault needs."""
    if not isinstance(parse(path), Location):
        return ()
    store = create_store(path, clock=clock, keys=keys)
    if not is_empty(store):
        return ()
    promises = examine(store, lock, clock)
    if not json:
        output.line(f"Asked {store.describe()} what it promises:", style="bold")
        for promise in promises:
            output.line(f"  {promise.name:11}  {promise.words}", style=None if promise.kept else "bold")
    require(promises, store.describe())
    return promises


app.command("check")(checking.check)
app.command("repair")(repairing.repair)
app.command("stats")(stats.stats)


@app.command("shred")
def shred(
    domain: Annotated[str, typer.Argument(help="The shred domain; `evidence` holds what systems answered.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says. Nothing brings it back.")] = False,
    why: Annotated[str, typer.Option("--why", help="The reason; signed, in the clear, and shown ever after.")] = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Make what lies in one shred domain unreadable for ever.

    In every point and every copy of the vault, by destroying the domain's key: every copy of DOMAIN.agekey, of which this command
    can reach one. Prints the plan, and acts with --yes only. Signed with the root key as a new role table. Points still restore
    what lies in other domains, and records still verify.

    Examples:

        resurgam vault shred evidence

        resurgam vault shred evidence --yes --why "request 2026-118"
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    ending, here = shredding.unfinished(repository, domain), repository.keyring.has(f"{domain}.agekey")
    plan = None if ending else shredding.plan(repository, domain)
    if not json and plan is not None:
        output.line(plan.title, style="bold")
        for step in plan.steps:
            output.line(f"  {step.verb}: {step.what}")
    if yes:
        shredding.shred(repository, domain, context.clock, why)
    if json:
        digest = plan_digest(repository, shredding.ACT, plan) if plan is not None else ""
        shredded = repository.shredded(domain)
        output.as_json({"act": shredding.ACT, "plan": plan, "digest": digest, "done": yes, "shredded": shredded})
    elif yes:
        what = "is destroyed here" if here else "was not here"
        output.line(f"{domain} is shredded; {domain}.agekey {what}, and every other copy is yours to destroy")
    else:
        what = f"{domain}.agekey is still here, though {domain} was shredded" if ending else "nothing was changed"
        output.line(f"{what}: --yes does it")
    return 0


@app.command("add-domain")
def add_domain(
    domain: Annotated[str, typer.Argument(help="A name, to be given as `shred_domain` in the manifest.")],
    residency: Annotated[
        str, typer.Option("--residency", help="A region's word: what lies in the domain never leaves it.")
    ] = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Make a shred domain with a key of its own.

    What lies in it opens with DOMAIN.agekey and with nothing else, the recovery key included: keep a copy where that is. Signed
    with the root key. In a vault of before 0.1.0, `evidence` takes answers of systems from then on.

    Examples:

        resurgam vault add-domain customers

        resurgam vault add-domain customers-eu --residency eu
    """
    context = Context(manifest, vault, keys)
    path = shredding.add_domain(context.repository, domain, context.clock, residency)
    if json:
        output.as_json({"domain": domain, "identity": path, "residency": residency})
        return 0
    output.line(f"made the shred domain {domain}; its key is {path}")
    if residency:
        output.line(f"  what lies in it goes to replicas of the region {residency} only, now and ever after")
    output.line(
        "  nothing else opens what lies in it: keep a copy with recovery.agekey, and destroy every copy to shred it"
    )
    return 0
