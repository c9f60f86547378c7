"""vault init, check, stats."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption, VaultOption
from resurgam.errors import IntegrityError
from resurgam.stores.local import LocalStore
from resurgam.vault.check import check as run_check
from resurgam.vault.repository import Repository

app = typer.Typer(no_args_is_help=True, help="Make a vault, check its bytes, see its size.", rich_markup_mode=None)


@app.command("init")
def init(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    json: JsonOption = False,
) -> int:
    """Make an empty vault and its keys.

    The vault's folder and the keys' folder are those of the manifest, or --vault and --keys. Read what is said about each
    key file: two of them belong off this machine.

    Examples:

        resurgam vault init

        resurgam vault init --vault /mnt/vault --keys ~/.config/resurgam/handbook --name handbook
    """
    context = Context(manifest, vault, keys)
    path, folder = vault or context.system.vault.path, keys or context.system.vault.keys
    store = LocalStore.create(path)
    repository, new = Repository.create(store, os.path.abspath(folder), name or os.path.basename(path), context.clock)
    if json:
        output.as_json({"vault": repository.identity, "path": path, "keys": new.files})
        return 0
    output.line(f"Made the vault {repository.identity.name} in {path}.", style="bold")
    output.line(f"Its keys are in {folder}, readable by you only:")
    for file in new.files:
        output.line(f"  {os.path.basename(file.path)}: {file.purpose}")
        output.line(f"      {file.advice}")
    output.line("  trust.json: says which vault they are for; copy it along with every key that you move")
    return 0


@app.command("check")
def check(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    read: Annotated[bool, typer.Option("--read", help="Read every byte, not only what is where.")] = False,
    json: JsonOption = False,
) -> int:
    """Check that everything that was promised is there. About bytes; `resurgam verify` is about behaviour.

    With --read every pack is read, and with a reader's key every chunk is decrypted and compared with its id. Exit code 8
    when something is damaged; it is named, with the points that it affects.

    Examples:

        resurgam vault check

        resurgam vault check --read
    """
    context = Context(manifest, vault, keys)
    with output.progress("check", None, json) as advance:
        report = run_check(context.repository, read=read, progress=advance)
    if json:
        output.as_json(report)
    else:
        what = "read" if read else "looked up, not read"
        output.line(f"{report.points} points, {report.chunks} chunks in {report.packs} packs {what}")
        if read and not report.contents:
            output.line("  packs have their digests; contents were not decrypted: there is no reader's key here")
        for damage in report.damage:
            affected = f" (points {', '.join(damage.points)})" if damage.points else ""
            output.line(f"  damaged: {damage.object}: {damage.what}{affected}", style="bold red")
        for stray in context.store.strays():
            output.line(f"  not ours: {stray}; nothing of a vault has such a name")
        if report.ok:
            output.line("  no damage found")
    return 0 if report.ok else IntegrityError.exit_code


@app.command("stats")
def stats(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Show how much the vault holds, and what deduplication and compression save.

    Examples:

        resurgam vault stats
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    chunks, raw, stored = repository.index.totals()
    points = repository.points()
    logical = sum(s.bytes for sealed in points for s in sealed.body.snapshots)
    objects = list(repository.store.list())
    on_disk = sum(entry.size for entry in objects)
    found = {
        "points": len(points),
        "logical_bytes": logical,
        "chunks": chunks,
        "unique_bytes": raw,
        "chunk_bytes": stored,
        "objects": len(objects),
        "vault_bytes": on_disk,
    }
    if json:
        output.as_json(found)
        return 0
    output.line(f"{repository.identity.name} in {repository.store.describe()}", style="bold")
    output.line(f"  {len(points)} points of {output.size(logical)} together")
    output.line(f"  {output.size(raw)} of them unique, in {chunks} chunks")
    output.line(f"  {output.size(on_disk)} in the vault, in {len(objects)} objects")
    if on_disk:
        output.line(f"  {logical / on_disk:.1f} bytes of systems per byte of vault")
    return 0
