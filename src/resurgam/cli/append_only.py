"""vault append-only: mark a vault's folder so that nobody but the machine's administrator can take anything away."""

from __future__ import annotations

from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, ManifestOption
from resurgam.errors import EXIT_STALE, UsageError
from resurgam.stores.appendonly import lift, mark, marks
from resurgam.stores.location import Location, parse
from resurgam.stores.registry import open_store
from resurgam.vault.identity import identity_of

_SHOWN = 20


def append_only(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says.")] = False,
    lifted: Annotated[bool, typer.Option("--lift", help="Take the marks away, for a prune; then mark again.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: Annotated[str | None, typer.Option("--vault", help="The vault's folder, where no manifest is.")] = None,
    json: JsonOption = False,
) -> int:
    """Mark a vault's folder append-only: what is in it cannot be removed, renamed or changed.

    For a vault in a folder, on file systems that have the attribute (ext4, XFS, Btrfs). Run it as root, best on a timer: what came
    since the last run is not marked yet, and exit code 23 says so. Captures go on as before; a prune is refused until --lift.
    Whoever can become root can lift the marks too. Needs no keys.

    Examples:

        resurgam vault append-only --vault /mnt/vault

        resurgam vault append-only --vault /mnt/vault --yes

        resurgam vault append-only --vault /mnt/vault --lift --yes
    """
    path = vault or Context(manifest).system.vault.path
    place = parse(path)
    if isinstance(place, Location):
        raise UsageError(
            f"{place} is no folder.",
            untouched="Nothing was changed.",
            next_step="In a bucket object lock does this: vault.lock in the manifest, and `resurgam vault renew`.",
        )
    identity = identity_of(open_store(place))  # nothing but a vault is marked
    before = marks(place)
    done = (lift if lifted else mark)(place) if yes else 0
    if json:
        output.as_json({"vault": identity.vault, "before": before._asdict(), "done": done})
        return EXIT_STALE if before.bare and not yes and not lifted else 0
    output.line(f"{identity.name} in {place}", style="bold")
    output.line(f"  marked: {before.marked} objects and folders")
    for name in () if lifted else before.bare[:_SHOWN]:
        output.line(f"  {'marked now' if yes else 'not marked'}: {name}")
    if len(before.bare) > _SHOWN and not lifted:
        output.line(f"  and {len(before.bare) - _SHOWN} more")
    for name in before.strange:
        output.line(f"  left alone: {name}: the file has another name somewhere", style="bold red")
    if yes:
        output.line(f"{'lifted' if lifted else 'marked'}: {done}")
    elif before.marked if lifted else before.bare:
        output.line("nothing was changed: --yes does it")
    else:
        output.line("nothing to do")
    return EXIT_STALE if before.bare and not yes and not lifted else 0
