"""vault keys: list, add, remove, rotate, test, export, import."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption, VaultOption
from resurgam.errors import Denied, IntegrityError, NotFound, UsageError
from resurgam.model.plan import Plan
from resurgam.vault import keyadmin, keylist, keytest, passphrase, readers
from resurgam.vault.approvals import plan_digest, required
from resurgam.vault.keyfiles import MAX_FILE, write_private
from resurgam.vault.keyformat import IDENTITY, SIGNING
from resurgam.vault.keypaper import from_paper, paper
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.rewrap import Rewrapped
from resurgam.vault.rolechange import KEYS
from resurgam.vault.signing import Role

app = typer.Typer(no_args_is_help=True, help="The keys of a vault: who signs, who reads.", rich_markup_mode=None)

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason; signed, in the clear, and shown ever after.")]
NameOption = Annotated[str, typer.Option("--name", help="Whose it is: lower-case letters, digits and -.")]
_READER = "reader"


@app.command("list")
def list_(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """List all keys of the vault, and which of them lie here.

    Signing keys by role, readers by shred domain; those that were retired or removed too, with the day and the reason.

    Examples:

        resurgam vault keys list
    """
    context = Context(manifest, vault, keys)
    found, closed = keylist.keys(context.repository)
    if json:
        output.as_json({"keys": found, "closed": closed})
        return 0
    rows = [
        (
            "signs" if k.signs else "reads",
            k.of,
            k.id,
            k.name,
            f"{k.state} {k.since[:10]}".strip(),
            " ".join(k.here),
            k.why,
        )
        for k in found
    ]
    output.table(("", "what", "key", "name", "state", "here", "why"), rows)
    for file in closed:
        output.line(f"  {file} is here, under a passphrase or unreadable: `keys test` opens it")
    return 0


@app.command("add")
def add(
    role: Annotated[str, typer.Argument(help="capture, verifier, approver, pruner, auditor; or reader.")],
    name: NameOption = "",
    domain: Annotated[str, typer.Option("--domain", help="Of a reader: the shred domain.")] = DEFAULT_DOMAIN,
    recipient: Annotated[
        str, typer.Option("--recipient", help="Of a reader who has an identity: its age recipient, a plugin's too.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Add a key for a role, or a reader.

    Makes a key file to be moved to its holder, and signs a role table with the root key. For a reader, the keys of what was stored
    before are wrapped anew, which touches no data; cut off, the same command goes on.

    Examples:

        resurgam vault keys add approver --name alice

        resurgam vault keys add reader --name dr-site

        resurgam vault keys add reader --name bob --recipient age1yubikey1qv
    """
    context = Context(manifest, vault, keys)
    repository = _current(context)
    if role == _READER:
        return _act(
            repository,
            readers.plan_add(repository, name, domain, recipient),
            not dry_run,
            json,
            lambda: _wrapped({domain: _add_reader(context, name, domain, recipient, json)}, json),
        )
    plan = keyadmin.plan_add(repository, role, name)
    file = repository.keyring.path(keyadmin.file_of(role, name))
    return _act(
        repository,
        plan,
        not dry_run,
        json,
        lambda: f"{keyadmin.add(repository, role, name, context.clock).key_id} in {file}",
    )


@app.command("remove")
def remove(
    key: Annotated[str, typer.Argument(help="The beginning of a key id, a name, or a reader's whole recipient.")],
    yes: YesOption = False,
    why: WhyOption = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Disown a key: for one that was stolen.

    Nothing it ever signed is believed any more; the plan lists what is lost by that. Where what it signed so far is wanted, `keys
    rotate` it instead. A reader that is removed opens nothing that is stored from then on, and all that was stored before.

    Examples:

        resurgam vault keys remove 4f2c9a

        resurgam vault keys remove 4f2c9a --yes --why "laptop stolen"
    """
    context = Context(manifest, vault, keys)
    repository, because = _current(context), output.on_one_line(why)
    if key.startswith("age1"):
        plan = readers.plan_remove(repository, key)
        return _act(repository, plan, yes, json, lambda: f"took out {readers.remove(repository, key, context.clock)}")
    plan = keyadmin.plan_remove(repository, key)
    return _act(
        repository,
        plan,
        yes,
        json,
        lambda: f"removed {keyadmin.remove(repository, key, context.clock, because).key_id}",
    )


@app.command("rotate")
def rotate(
    role: Annotated[str, typer.Argument(help="A role; or reader, recovery, or a domain that has a key of its own.")],
    key: Annotated[str, typer.Option("--key", help="Which key, where the role has several: its id or name.")] = "",
    yes: YesOption = False,
    why: WhyOption = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Put a new key in the place of one that is worn out.

    A signing key is retired: what the store received until now stands, what comes later is refused. A reader's identity is
    replaced, and the keys of what was stored are wrapped anew; whoever has the old identity can still read what was stored until
    now, and no rotation can change that. Where a key was stolen and used, `keys remove` it.

    Examples:

        resurgam vault keys rotate capture

        resurgam vault keys rotate reader --yes
    """
    context = Context(manifest, vault, keys)
    repository, because = _current(context), output.on_one_line(why)
    if role not in list(Role):
        with output.progress("wrap", None, json) as advance:
            return _act(
                repository,
                readers.plan_rotate(repository, role),
                yes,
                json,
                lambda: _wrapped(readers.rotate(repository, context.clock, role, advance or _nobody), json),
            )
    plan = keyadmin.plan_rotate(repository, role, key)
    return _act(
        repository,
        plan,
        yes,
        json,
        lambda: f"the new key is {keyadmin.rotate(repository, role, context.clock, key, because).key_id}",
    )


@app.command("test")
def try_(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Try every key that is here: what does it open, and does it count?

    Opens every wrapped key of the vault with every identity. Exit code 6 where one does not do what the role table says, or where a
    session opens to none; 8 where a wrapped key is damaged. Run it wherever keys are kept, with the recovery key too.

    Examples:

        resurgam vault keys test

        resurgam vault keys test --vault /mnt/vault --keys /media/stick/recovery.agekey
    """
    context = Context(manifest, vault, keys)
    with output.progress("open", None, json) as advance:
        tested = keytest.run(context.repository, advance or _nobody)
    if json:
        output.as_json(tested)
    else:
        _show(tested)
    return 0 if tested.ok else IntegrityError.exit_code if tested.damage else Denied.exit_code


@app.command("export")
def export(
    key: Annotated[
        str, typer.Argument(help="recovery, reader, root, or what else stands before the dot of a key file.")
    ],
    to: Annotated[
        str | None, typer.Option("--output", "-o", help="Where to write it; standard output unless said.")
    ] = None,
    protect: Annotated[bool, typer.Option("--passphrase", help="Under a passphrase, which is asked for.")] = False,
    on_paper: Annotated[
        bool, typer.Option("--paper", help="As a page to be printed, with a check for every line.")
    ] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Copy a key file, under a passphrase or as a page for the safe.

    What is under a passphrase is an age file: any age tool opens it, and so does every command here that is given it. The page says
    what the key is for and how to type it back.

    Examples:

        resurgam vault keys export recovery --passphrase --output recovery.agekey

        resurgam vault keys export recovery --paper | lpr
    """
    keyring = Context(manifest, vault, keys).keyring
    file = next((name for name in (f"{key}{IDENTITY}", f"{key}{SIGNING}", key) if keyring.has(name)), "")
    if not file or protect == on_paper:
        raise UsageError(
            "Say one of --passphrase and --paper." if file else f"There is no key file {key} here.",
            untouched="Nothing was written.",
            next_step="`resurgam vault keys list` shows which files are here.",
        )
    plain = keyring.contents(file)
    page = paper(file, plain, keyring.trust.name).encode()
    copy = passphrase.protect(plain, passphrase.chosen(to or file)) if protect else page
    if to is not None:
        write_private(os.path.abspath(to), copy)
    if json:
        output.as_json({"key": file, "output": to, "copy": copy.decode() if to is None else None})
    elif to is None:
        sys.stdout.write(copy.decode())
    else:
        output.note(f"wrote {to}")
    return 0


@app.command("import")
def import_(
    typed: Annotated[str, typer.Argument(help="The file into which the page was typed.")],
    to: Annotated[str, typer.Option("--output", "-o", help="The key file to be made.")],
    json: JsonOption = False,
) -> int:
    """Make a key file from a page that was typed in.

    Names the line in which something was typed wrongly. Needs neither the vault nor any other key.

    Examples:

        resurgam vault keys import typed.txt --output recovery.agekey
    """
    try:
        with open(typed, encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_FILE)
    except OSError as error:
        raise NotFound(
            f"{typed} cannot be read: {error.strerror}.", untouched="Nothing was written.", next_step="Name another."
        ) from error
    write_private(os.path.abspath(to), from_paper(text))
    if json:
        output.as_json({"made": to})
    else:
        output.line(f"made {to}")
    return 0


def _current(context: Context) -> Repository:
    """The vault, with no older role table than this host has seen."""
    context.repository.require_newest_roles(context.vault_host)
    return context.repository


def _act(repository: Repository, plan: Plan, yes: bool, json: bool, do: Callable[[], str]) -> int:
    """Show the plan, and do it where that was asked for (P10)."""
    digest = plan_digest(repository, KEYS, plan)
    if not json:
        show_plan(plan)
        if required(repository, KEYS):
            output.line(f"  approve: {digest}")
    said = do() if yes else ""
    if json:
        output.as_json({"act": KEYS, "plan": plan, "digest": digest, "done": yes, "said": said})
    else:
        output.line(said if yes else "nothing was changed: --yes does it")
    return 0


def show_plan(plan: Plan) -> None:
    """A plan for people."""
    output.line(plan.title, style="bold")
    for step in plan.steps:
        output.line(f"  {step.verb}: {step.what}")


def _add_reader(context: Context, name: str, domain: str, recipient: str, json: bool) -> Rewrapped:
    with output.progress("wrap", None, json) as advance:
        return readers.add(context.repository, name, context.clock, domain, recipient, advance or _nobody)


def _wrapped(done: dict[str, Rewrapped], _json: bool) -> str:
    return "; ".join(
        f"{domain}: {counted(each.wrapped, 'key')} wrapped anew, {each.already} already there"
        for domain, each in done.items()
    )


def _show(tested: keytest.Tested) -> None:
    for opening in tested.opening:
        reads = ", ".join(opening.domains) or "nothing by the role table"
        output.line(f"{opening.file} reads {reads}: opens {opening.opens} of {counted(tested.sessions, 'session')}")
        if opening.shut_out:
            what = f"does not open {len(opening.shut_out)} that it should: {', '.join(opening.shut_out[:4])}"
            output.line(f"  {what}; add its reader again, which goes on wrapping", style="bold red")
        if DEFAULT_DOMAIN in opening.domains and not opening.index:
            output.line("  does not open the index, and without it nothing", style="bold red")
    for signing in tested.signing:
        output.line(
            f"{signing.file} signs as {signing.role}: {signing.state}", style=None if signing.ok else "bold red"
        )
    if tested.opening and tested.unopened:
        why = ", ".join(
            (*(f"{d} (key elsewhere)" for d in tested.elsewhere), *(f"{d} (shredded)" for d in tested.shredded))
        )
        output.line(
            f"what opens to no key here: {counted(len(tested.unopened), 'session')}, perhaps of: {why or 'nothing that is known'}"
        )
    for what in tested.damage:
        output.line(f"damaged: {what}", style="bold red")
    if not tested.opening:
        output.line("no identity is here: nothing was opened")


def _nobody(_count: int) -> None:
    return None
