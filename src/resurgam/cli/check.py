"""vault check: whether all bytes are there, and when they were last read. What can be done where they are not: ``cli.repair``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from resurgam import priority
from resurgam.capture.prices import load_prices
from resurgam.cli import output
from resurgam.cli.check_words import told_coverage
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    AsOfOption,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    VaultsOption,
    duration,
)
from resurgam.cli.gentle import GentleOption, LimitReadOption, gentle
from resurgam.errors import IntegrityError, UsageError
from resurgam.model.codec import to_plain
from resurgam.stores.together import Together
from resurgam.vault.check import Check, Damage, Report
from resurgam.vault.checked import Depth
from resurgam.vault.checkorder import Wish
from resurgam.vault.copies import CopyState, survey
from resurgam.vault.cost import reading
from resurgam.vault.pace import Pace
from resurgam.vault.prices import Prices
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted

_NAMED = 5  # objects of one copy
_SHOWN = 50  # lines of damage, of points that it affects


def check(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    read: Annotated[bool, typer.Option("--read", "--full", help="Read every pack, not only what is where.")] = False,
    max_age: Annotated[
        str | None, typer.Option("--max-age", help="Read the packs that nobody has read for so long, such as 30d.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option("--sample", help="Read packs drawn by chance, until this share of all bytes: 5%.")
    ] = None,
    max_duration: Annotated[
        str | None,
        typer.Option("--max-duration", help="Stop reading after so long, such as 30m; the next check goes on."),
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="Read also what lies in cold classes: that is paid for by the byte.")
    ] = False,
    cost: Annotated[
        str | None, typer.Option("--cost", metavar="PRICES", help="Say what --cold would cost, by this price list.")
    ] = None,
    depth: Annotated[
        Depth | None, typer.Option(help="How packs are read; as deep as the keys here allow, unless given.")
    ] = None,
    as_of: AsOfOption = None,
    limit_read: LimitReadOption = None,
    gently: GentleOption = None,
    json: JsonOption = False,
) -> int:
    """Check that everything that was promised is there. About bytes; `resurgam verify` is about behaviour.

    Without an option points and their records are verified and every chunk looked up, and no pack is read. `resurgam audit verify`
    verifies all other records, and misses points that were taken away. --read reads all packs; the others read some: those that
    were found damaged first, then those that points need and that waited longest. With a reader's key every chunk in them is
    decrypted and compared with its id, and so is what is laid out from several (patches, differences): each file that does not
    come back is named.

    What was read is remembered in the vault, signed by a verifier's, pruner's or auditor's key, so that checks with little time
    read everything in turn. Given several copies it checks what they hold together, says what each of them has not, and remembers
    nothing. Exit code 8 when something is damaged; it is named, with the points that it affects, and
    `resurgam vault repair` says what can be done.

    Examples:

        resurgam vault check

        resurgam vault check --read

        resurgam vault check --max-age 30d --max-duration 30m

        resurgam vault check --sample 5% --limit-read 50 --json

        resurgam vault check --read --vault /mnt/vault --vault "s3://replica/handbook?region=eu-north-1"
    """
    context = Context(manifest, vault, keys, as_of=as_of)
    wish = Wish(
        everything=read,
        max_age=duration(max_age) if max_age else None,
        sample=_share(sample) if sample else None,
        max_duration=duration(max_duration) if max_duration else None,
        depth=depth,
        cold=cold,
    )
    if limit_read is not None and not wish.reads:
        raise UsageError(
            "--limit-read bounds how fast packs are read, and none is to be read.",
            untouched="Nothing was done.",
            next_step="Give --read, --max-age, --sample or --max-duration with it, or leave it out.",
        )
    repository = Repository(
        context.store, context.keyring
    )  # the index from the vault itself, not from this host's memory
    several = repository.store if isinstance(repository.store, Together) else None
    remembers = wish.reads and as_of is None and several is None  # a record says nothing of which copy was read
    checking = Check(repository, wish, context.clock, remember=remembers)
    if wish.reads and gentle(gently):
        priority.lower()
    pace = Pace(limit_read * 1e6 if limit_read is not None else None)
    with output.progress("check", checking.bytes_due, json) as advance:

        def read_so_far(size: int) -> None:
            pace.spend(size)
            if advance is not None:
                advance(size)

        report = checking.run(read_so_far)
    copies = survey(several, read=read, spend=pace.spend) if several is not None else ()
    if json:
        plain: dict[str, object] = to_plain(report)
        told = {"copies": to_plain(copies)} if copies else {}
        output.as_json(plain | {"ok": report.ok, "share": report.coverage.share} | told)
    else:
        _show(report, wish, load_prices(cost) if cost is not None else None)
        _show_copies(copies)
        for stray in context.strays:
            output.line(f"  not ours: {stray}; nothing of a vault has such a name")
        output.line("  no damage found" if report.ok else "  `resurgam vault repair` says what can be done")
    return 0 if report.ok else IntegrityError.exit_code


def _show_copies(copies: Sequence[CopyState]) -> None:
    """What each of several copies has not, or has otherwise: together they may be whole all the same."""
    for copy in copies:
        if copy.silent:
            output.line(f"  {copy.copy} does not answer: {copy.silent}", style="bold red")
            continue
        output.line(
            f"  {copy.copy}: {counted(copy.objects, 'object')}, {len(copy.missing)} missing, {len(copy.damaged)} damaged"
        )
        for what, names in (("missing", copy.missing), ("damaged", copy.damaged)):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            if names:
                output.line(f"    {what}: {', '.join(names[:_NAMED])}{more}", style="yellow")


def _show(report: Report, wish: Wish, prices: Prices | None) -> None:
    output.line(
        f"{counted(report.points, 'point')}, {counted(report.chunks, 'chunk')} in {counted(report.packs, 'pack')}"
    )
    if not report.located:
        output.line("  chunks were not looked up: no key that opens the index is here")
    if not wish.reads:
        output.line("  looked up, no pack was read")
    else:
        output.line(f"  {counted(report.packs_read, 'pack')} read, {output.size(report.bytes_read)}")
        if report.left:
            output.line(f"  {report.left} more to be read; the next check goes on with them")
        if report.asleep:
            output.line(
                f"  {counted(report.asleep, 'pack')} asleep: `resurgam restore --warm-up` wakes those of a point"
            )
        elif report.cold and not wish.cold:
            _show_cold(report, prices)
        if not report.contents:
            output.line("  packs have their digests; contents were not decrypted")
        elif report.walked < report.points:
            output.line(f"  of {counted(report.walked, 'point')} the trees were walked, the newest first")
    if report.unremembered:
        output.line(f"  what was read is not remembered: {report.unremembered}")
    for domain in report.closed:
        output.line(
            f"  contents of the domain {domain} were not decrypted: it was shredded, or {domain}.agekey is not here"
        )
    if report.withheld:
        output.line(f"  withheld from this replica by their residency, and not missed: {', '.join(report.withheld)}")
    output.line(f"  {told_coverage(report.coverage)}")
    lines = list(_damage(report.damage))
    for line in lines[:_SHOWN]:
        output.line(f"  damaged: {line}", style="bold red")
    if len(lines) > _SHOWN:
        output.line(f"  and {len(lines) - _SHOWN} more; --json names them all", style="bold red")


def _show_cold(report: Report, prices: Prices | None) -> None:
    """What was not read since it is dear to read, and what reading it would cost."""
    packs, size = (sum(of) for of in zip(*((h.objects, h.bytes) for h in report.cold.values()), strict=True))
    output.line(f"  {counted(packs, 'pack')} of {output.size(size)} in cold classes not read: --cold reads them")
    if prices is not None:
        read = reading("reading them", report.cold, prices)
        output.line(f"  that would cost {read.each['reading them']:.4f} {read.currency}, by prices of {read.as_of}")


def _damage(found: Sequence[Damage]) -> Iterator[str]:
    """Damage for people: many chunks of which the same is wrong, for the same points, in one line."""
    alike: dict[tuple[str, tuple[str, ...]], list[Damage]] = {}
    for damage in found:
        kind = damage.what if damage.object.startswith("chunk ") else f"{damage.object}: {damage.what}"
        alike.setdefault((kind, damage.points), []).append(damage)
    for (_, points), those in alike.items():
        more = len(points) - _SHOWN
        named = ", ".join(points[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        name = those[0].object if len(those) == 1 else f"{len(those)} chunks"
        yield f"{name}: {those[0].what}" + (f" (points {named})" if points else "")


def _share(words: str) -> float:
    """A share such as ``5%`` or ``0.05``. Raises UsageError."""
    number = words.strip().removesuffix("%")
    try:
        share = float(number) / (100 if number != words.strip() else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UsageError(f"{words!r} is no share.", untouched="Nothing was done.", next_step="Write 5% or 0.05.")
    return share
