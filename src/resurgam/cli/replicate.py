"""replicate add, remove, run, status, promote: the same vault at other places."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from resurgam import priority
from resurgam.cli import carry, output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    duration,
)
from resurgam.cli.gentle import GentleOption, finite, gentle
from resurgam.cli.replicate_open import OneVaultOption, at, replica_store
from resurgam.errors import EXIT_STALE, IntegrityError, NotFound, ResurgamError, TargetRefused, UsageError
from resurgam.model.placement import WORD
from resurgam.restore.state import write_atomically
from resurgam.stores.location import is_url
from resurgam.vault.replicalag import Lag, lag, metrics, unknown
from resurgam.vault.replicas import LAG, NAME, ORIGIN, Place, Places, next_list, put_list, require_primary
from resurgam.vault.replicate import Copied, Run, left_to_sweep
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.signing import Role

app = typer.Typer(no_args_is_help=True, help="The same vault at other places.", rich_markup_mode=None)
app.command("export")(carry.export)
app.command("import")(carry.import_)
NamesArgument = Annotated[list[str] | None, typer.Argument(help="Replicas; all where none is named.")]
LimitOption = Annotated[
    float | None,
    typer.Option("--limit-mb-s", min=0.001, callback=finite, help="The fastest to send, in 10^6 bytes a second."),
]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What the replica is called.")],
    location: Annotated[str, typer.Argument(help="A folder that is empty or not there yet, or a bucket's URL.")],
    region: Annotated[str, typer.Option("--region", help="Its region's word; residencies are compared with it.")] = "",
    home_region: Annotated[
        str, typer.Option("--home-region", help="The region of the vault itself; said with its first replica.")
    ] = "",
    lag_: Annotated[str, typer.Option("--lag", help="How far it may be behind: its RPO.")] = "1h",
    why: Annotated[str, typer.Option("--why", help="The reason; signed, in the clear.")] = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: OneVaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """List a place where a copy of the vault is to be kept.

    A bucket is asked what it promises, and refused where a vault would not be safe in it; so is a place that holds something
    else. Signed with the approver's key. Nothing is copied yet: `resurgam replicate run` does that. Contents of a component with a
    `residency` go to replicas of that region only.

    Examples:

        resurgam replicate add ohio "s3://copies/handbook?region=us-east-2" --region us --lag 15m

        resurgam replicate add disk /mnt/disk/handbook --region eu --lag 7d
    """
    context = Context(manifest, vault, keys)
    repository, place = context.repository, _place(name, location, region, duration(lag_))
    require_primary(repository)
    before = repository.here.listed
    taken = before.named(name) if before is not None else Place(name=ORIGIN, location=_here(context))
    if taken is not None and taken.name == name:
        raise TargetRefused(
            f"There is a place {name} already: {taken.location}.",
            untouched="Nothing was changed.",
            next_step=f"Give another name, or take that one out first: `resurgam replicate remove {name} --yes`.",
        )
    repository.require_believed(repository.keyring.signer(Role.APPROVER))  # before a folder is made
    promises = replica_store(place, context.clock, repository, json)
    listed = before.places if before is not None else (_place(ORIGIN, _here(context), home_region, LAG),)
    put_list(repository, next_list(before, (*listed, place), output.on_one_line(why)), context.clock)
    if json:
        output.as_json({"place": place, "promises": promises})
        return 0
    output.line(f"{name} is a replica of {repository.identity.name}: {place.location}", style="bold")
    output.line(f"  region {region or 'not said: nothing that has a residency goes there'}; may lag by {lag_}")
    output.line(f"  nothing is there yet: resurgam replicate run {name}")
    return 0


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="The replica.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it. Without, only the plan is printed.")] = False,
    why: Annotated[str, typer.Option("--why", help="The reason; signed, in the clear.")] = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: OneVaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Take a replica out of the list. What lies there stays there, and is nobody's to write to.

    Signed with the approver's key; prints the plan, and acts with --yes only.

    Examples:

        resurgam replicate remove ohio --yes --why "the contract ended"
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    require_primary(repository)
    (place,) = _chosen(repository, [name])
    before = repository.here.listed
    assert before is not None
    if yes:
        left = [one for one in before.places if one.name != name]
        put_list(repository, next_list(before, left, output.on_one_line(why)), context.clock)
    if json:
        output.as_json({"place": place, "done": yes})
        return 0
    output.line(f"{name} ({place.location}) {'is' if yes else 'would be'} no replica any more; what lies there stays")
    if not yes:
        output.line("nothing was changed: --yes does it")
    return 0


@app.command("run")
def run(
    names: NamesArgument = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read back everything that lies there.")] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Show what swept prunes of the primary have left there; --yes removes it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove what --sweep shows.")] = False,
    limit: LimitOption = None,
    gently: GentleOption = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: OneVaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Copy to replicas what they lack.

    Byte for byte, and nothing twice: a run that was stopped goes on when it is given again. At every moment a replica is a
    sound vault for the points that it shows. Damage is told, and not copied. Needs no key, but for trust.json. By what is missing
    here nothing is ever removed there: only what a pruner has signed may go, with --sweep.

    Exit code 7 when a replica does not answer (the others were run), 8 when something is damaged here or there.

    Examples:

        resurgam replicate run

        resurgam replicate run ohio --limit-mb-s 20 --gentle

        resurgam replicate run ohio --sweep --yes
    """
    context = Context(manifest, vault, keys)
    repository, clock = context.repository, context.clock
    require_primary(repository)
    if gentle(gently):
        priority.lower()
    done: dict[str, Copied] = {}
    silent: dict[str, ResurgamError] = {}
    swept: dict[str, list[str]] = {}
    rate = limit * 1e6 if limit is not None else None
    for place in _chosen(repository, names):
        try:
            far = at(place.location, clock)
            with output.progress(place.name, None, json) as advance:
                made = Run(repository, far, place, clock, bytes_per_second=rate, progress=advance)
                done[place.name] = made.run(verify=verify)
            if sweep and done[place.name].ok:
                swept[place.name] = _sweep(Repository(far, repository.keyring), yes=yes)
        except ResurgamError as error:
            silent[place.name] = error
    if json:
        output.as_json({"done": done, "failed": {n: e.message for n, e in silent.items()}, "swept": swept})
    else:
        for name, copied in done.items():
            _tell(name, copied)
        for name, gone in swept.items():
            output.line(
                f"{name}: {counted(len(gone), 'object')} {'removed' if yes else 'would go: --yes removes them'}"
            )
            for what in () if yes else gone:
                output.line(f"  {what}")
        for name, why in silent.items():
            output.warning(f"{name}: {why.message} {why.next_step}")
    codes = [why.exit_code for why in silent.values()]
    codes += [IntegrityError.exit_code for copied in done.values() if not copied.ok]
    return max(codes, default=0)


@app.command("status")
def status(
    names: NamesArgument = None,
    metrics_: Annotated[str | None, typer.Option("--metrics", help="Write this file for Prometheus.")] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: OneVaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Show how far each replica is behind: what would be lost if the primary were gone now.

    Exit code 23 when one lags by more than it may, has lost something, has what the primary lacks, or does not answer.

    Examples:

        resurgam replicate status

        resurgam replicate status --metrics /var/lib/node_exporter/resurgam-replicas.prom
    """
    context = Context(manifest, vault, keys)
    repository, now = context.repository, context.clock.now().timestamp()
    found: list[Lag] = []
    for place in _chosen(repository, names):
        try:
            found.append(lag(repository, at(place.location, context.clock), place, now))
        except ResurgamError as error:
            found.append(unknown(place, error.message))
    if metrics_:
        write_atomically(os.path.abspath(metrics_), metrics(found, repository.identity.name).encode())
    if json:
        output.as_json({"here": repository.here.place, "primary": repository.here.primary, "replicas": found})
    else:
        for line in _lines(repository, found):
            output.line(line)
    return EXIT_STALE if any(one.behind for one in found) else 0


@app.command("promote")
def promote(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do what the plan says.")] = False,
    why: Annotated[str, typer.Option("--why", help="The reason; signed, in the clear.")] = "",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: OneVaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Make this replica the primary, which is written to from then on.

    For when the primary is lost for good: what was sealed there and had not come here is lost with it. Signed with the
    approver's key; prints the plan, and acts with --yes only. The place that was the primary becomes a replica: it learns that at
    once where it answers, else from the first `resurgam replicate run` that reaches it; nobody captures into it from then on.
    Afterwards, name this place as `vault.path` in the manifests.

    Examples:

        resurgam replicate promote --vault /mnt/replica --keys /etc/resurgam/keys

        resurgam replicate promote --vault /mnt/replica --keys /etc/resurgam/keys --yes --why "region lost on 2026-03-01"
    """
    context = Context(manifest, vault, keys)
    repository = context.repository
    here = repository.here
    if here.listed is None or here.primary or here.listed.named(here.place) is None:
        raise TargetRefused(
            f"{repository.store.describe()} is {'the primary already' if here.primary else 'no replica that is listed'}.",
            untouched="Nothing was changed.",
            next_step="Name the replica that is to take its place with --vault.",
        )
    before = here.listed.named(here.listed.primary) or Place(name=here.listed.primary, location="")
    body = next_list(here.listed, here.listed.places, output.on_one_line(why), here.place)
    newest = [sealed.body for sealed in repository.points()][-1:]
    fenced = ""
    if yes:
        put_list(repository, body, context.clock)
        fenced = _fence(context, before)
    if json:
        output.as_json({"primary": here.place, "before": before.name, "list": body, "done": yes, "not_fenced": fenced})
        return 0
    output.line(f"Make {here.place} the primary of {repository.identity.name}", style="bold")
    output.line(f"  sign: list of places {body.serial}; {before.name} ({before.location}) becomes a replica")
    output.line(f"  keep: what came here; the newest point is {newest[0].id if newest else 'none'}")
    output.line(f"  lose: what was sealed at {before.name} after that, unless it comes back")
    if not yes:
        output.line("nothing was changed: --yes does it")
        return 0
    output.line(f"{here.place} is the primary: name it as `vault.path` in the manifests", style="bold")
    if fenced:
        output.warning(
            f"{before.name} does not know it yet ({fenced}); `resurgam replicate run` tells it when it is back"
        )
    return 0


def _fence(context: Context, place: Place) -> str:
    """Tell the place that was the primary what it is now; why that failed, empty where it did not."""
    try:
        far = at(place.location, context.clock)
        Run(context.repository, far, place, context.clock).mark()
    except ResurgamError as error:
        return error.message
    return ""


def _sweep(far: Repository, *, yes: bool) -> list[str]:
    """P10: what would go, or has gone."""
    left = left_to_sweep(far)
    for entry in left if yes else ():
        far.store.delete(entry.name)
    return [entry.name for entry in left]


def _chosen(repository: Repository, names: Sequence[str] | None) -> tuple[Place, ...]:
    """The replicas of those names; all where none is given. Raises NotFound."""
    listed = repository.here.listed or Places(format=1, serial=0)
    unknown_names = [name for name in names or () if name not in {place.name for place in listed.replicas}]
    if unknown_names or not listed.replicas:
        known = ", ".join(place.name for place in listed.replicas)
        raise NotFound(
            f"There is no replica {unknown_names[0]}." if unknown_names else "The vault has no replicas.",
            untouched="Nothing was done.",
            next_step=f"It has: {known}." if known else "`resurgam replicate add NAME LOCATION` lists one.",
        )
    return tuple(place for place in listed.replicas if not names or place.name in names)


def _place(name: str, location: str, region: str, may_lag: float) -> Place:
    if not re.fullmatch(NAME, name) or (region and not re.fullmatch(WORD, region)):
        raise UsageError(
            f"{name[:40]!r} is not a name, or {region[:40]!r} not a region.",
            untouched="Nothing was done.",
            next_step="Give at most 31 characters a-z, 0-9 and '-', beginning with a letter or digit.",
        )
    where = location if is_url(location) else os.path.abspath(location)
    return Place(name=name, location=where, region=region, lag=may_lag)


def _here(context: Context) -> str:
    """Where the vault is, as others may be told."""
    location = context.vaults[0] if context.vaults else context.system.vault.path
    return location if is_url(location) else os.path.abspath(location)


def _tell(name: str, copied: Copied) -> None:
    sent = f"{counted(copied.objects, 'object')} of {output.size(copied.bytes)} copied"
    points = f", {counted(copied.points, 'point')} more there" if copied.points else ""
    output.line(f"{name}: {sent}{points}", style="bold")
    if copied.withheld:
        output.line(
            f"  {counted(copied.withheld, 'pack')} of {output.size(copied.withheld_bytes)} may not lie in that region"
        )
    if copied.verified:
        output.line(f"  {counted(copied.verified, 'object')} read back")
    for what in copied.mended:
        output.line(f"  mended: {what} was damaged; when originals were received is told anew there")
    for what, why in copied.damaged.items():
        output.line(f"  damaged: {what}: {why}", style="bold red")
    for what in copied.differing:
        output.line(f"  damaged: {what} has other bytes there", style="bold red")
    if copied.held:
        output.line(
            f"  {counted(copied.held, 'point')} not shown there until `resurgam vault repair` has mended this",
            style="bold red",
        )


def _lines(repository: Repository, found: Sequence[Lag]) -> Iterator[str]:
    here = repository.here
    yield f"{repository.identity.name} here is {here.place}{', the primary' if here.primary else ''}"
    for one in found:
        region = f" ({one.region})" if one.region else ""
        if one.seconds is None:
            yield f"  {one.place}{region}  NOT KNOWN: {one.silent}"
            continue
        word = "BEHIND" if one.behind else "as it should be"
        lags = f"lags by {output.seconds(one.seconds)} of {output.seconds(one.objective)}"
        missing = f"{counted(one.points, 'point')} there, {len(one.missing)} missing, {output.size(one.bytes)} to send"
        yield f"  {one.place}{region}  {word}: {lags}; {missing}"
        if one.withheld:
            yield f"      {counted(one.withheld, 'pack')} may not lie in that region"
        if one.lost:
            yield f"      its points may need what it lost or cut off: {counted(len(one.lost), 'object')}, {one.lost[0]} among them"
        if one.ahead:
            yield f"      the primary lacks what it has: {counted(len(one.ahead), 'object')}, {one.ahead[0]} among them"
