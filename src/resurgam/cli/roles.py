"""vault roles, vault approve: who may do what, and how many must agree."""

from __future__ import annotations

import os
import re
from typing import Annotated

import msgspec
import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption, VaultOption
from resurgam.cli.keys import YesOption, show_plan
from resurgam.errors import IntegrityError, NotFound, UsageError
from resurgam.vault import approvals, keyadmin
from resurgam.vault.approvals import ACTS, DIGEST, Approval, plan_digest
from resurgam.vault.keyfiles import MAX_FILE
from resurgam.vault.records import SIGNERS
from resurgam.vault.repository import Repository
from resurgam.vault.rolechange import KEYS
from resurgam.vault.signing import Role


def roles(
    require: Annotated[
        list[str] | None,
        typer.Option("--require", help=f"How many approvers an act needs, as ACT=NUMBER; acts: {', '.join(ACTS)}."),
    ] = None,
    yes: YesOption = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Show who may sign what, and how many approvers an act needs; or say how many.

    With --require the plan is printed, and with --yes signed with the root key. To need fewer for an act takes as many approvals as
    it needed. The quorum binds whoever acts by the rules and whoever reads; the root key's holder can name other approvers.

    Examples:

        resurgam vault roles

        resurgam vault roles --require prune=2 --require shred=2 --yes
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    if require:
        return _require(context, _quorum(require), yes, json)
    table = repository.roles
    may = {role: sorted(kind for kind, signers in SIGNERS.items() if role in signers) for role in Role}
    if json:
        output.as_json({"serial": table.serial, "roles": table.roles, "may_sign": may, "quorum": table.quorum})
        return 0
    output.line(f"role table {table.serial} of {repository.identity.name}", style="bold")
    for role in Role:
        held = ", ".join(f"{key.name} ({key.key_id})" if key.name else key.key_id for key in table.active(role))
        output.line(f"  {role}: {held or 'nobody'}")
        output.line(f"      signs {', '.join(may[role])}")
    for act in ACTS:
        output.line(f"  {act}: {_counted(table.quorum.get(act, 0))}")
    return 0


def approve(
    plan: Annotated[
        str, typer.Argument(metavar="PLANFILE|DIGEST", help="What --json of the act printed; or a digest.")
    ],
    why: Annotated[str, typer.Option("--why", help="The reason; signed, and in the clear.")] = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Say yes to a plan, with the approver's key that is here.

    To exactly this plan, of this vault: a plan that would come out otherwise by now needs another yes. From a file, the digest is
    made anew from the plan that is shown: `vault shred evidence --json > plan.json` makes one. Whoever approves a bare digest
    believes whoever gave it to them.

    Examples:

        resurgam vault approve plan.json --why "request 2026-118"
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    repository.require_newest_roles(context.vault_host)
    if re.fullmatch(f"[0-9a-f]{{{DIGEST}}}", plan):
        approval = Approval(plan=plan, why=output.on_one_line(why))
    else:
        approval = _from_file(repository, plan, output.on_one_line(why), json)
    name = approvals.approve(repository, approval, context.clock)
    given = approvals.approvers(repository, approval.plan)
    if json:
        output.as_json({"digest": approval.plan, "act": approval.act, "record": name, "approvers": given})
        return 0
    output.line(f"approved {approval.plan}")
    output.line(f"  by now: {', '.join(key.name or key.key_id for key in given)}")
    return 0


def _require(context: Context, quorum: dict[str, int], yes: bool, json: bool) -> int:
    repository = context.repository
    repository.require_newest_roles(context.vault_host)
    plan = keyadmin.plan_require(repository, quorum)
    digest = plan_digest(repository, KEYS, plan)
    if not json:
        show_plan(plan)
    if yes:
        keyadmin.require(repository, quorum, context.clock)
    if json:
        output.as_json({"act": KEYS, "plan": plan, "digest": digest, "done": yes, "quorum": repository.roles.quorum})
    elif not yes:
        output.line("nothing was changed: --yes does it")
    return 0


def _quorum(words: list[str]) -> dict[str, int]:
    found = {}
    for word in words:
        act, _, count = word.partition("=")
        if not count.isdecimal():
            raise UsageError(
                f"{word!r} is not ACT=NUMBER.",
                untouched="Nothing was changed.",
                next_step="Write prune=2, for example.",
            )
        found[act] = int(count)
    return found


def _from_file(repository: Repository, path: str, why: str, json: bool) -> Approval:
    """The approval of the plan in a file, whose digest must be what the file says."""
    try:
        with open(path, "rb") as file:
            said = msgspec.json.decode(file.read(MAX_FILE * 16))
        digest, plan = said["digest"], said["plan"]
    except OSError as error:
        raise NotFound(
            f"{path} cannot be read: {error.strerror}.",
            untouched="Nothing was approved.",
            next_step="Name a file with what --json of the act printed, or give the plan's digest.",
        ) from error
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{os.path.basename(path)} holds no plan with its digest.",
            untouched="Nothing was approved.",
            next_step="Give what --json of the act printed, or the digest that it shows.",
        ) from error
    act = next((act for act in ACTS if plan_digest(repository, act, plan) == digest), None)
    if act is None:
        raise IntegrityError(
            f"{os.path.basename(path)} holds a plan that does not have the digest it says, in this vault.",
            untouched="Nothing was approved.",
            next_step="Have the plan printed again, by whoever will do it, and compare.",
        )
    title = plan.get("title", "") if isinstance(plan, dict) else ""
    if not json:
        output.line(f"{act}: {output.on_one_line(str(title)) or path}", style="bold")
        for step in plan.get("steps", ()) if isinstance(plan, dict) else ():
            output.line(f"  {output.on_one_line(str(step.get('verb')))}: {output.on_one_line(str(step.get('what')))}")
    return Approval(plan=str(digest), act=act, title=output.on_one_line(str(title)), why=why)


def _counted(count: int) -> str:
    return f"needs {count} approver{'s' * (count != 1)}" if count else "whoever may do it may do it alone"
