"""audit log, verify, checkpoint, timestamp, receipt, export: what the vault says happened, and whether that can be believed."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
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
from resurgam.errors import IntegrityError, NotFound, UsageError
from resurgam.vault import heads, log, receipts, timestamps
from resurgam.vault.audit import Report
from resurgam.vault.audit import audit as run_audit
from resurgam.vault.auditexport import INDEX, SCRIPT
from resurgam.vault.auditexport import export as write_export
from resurgam.vault.checkpoints import MAX_NOTE
from resurgam.vault.logmemory import LogMemory
from resurgam.vault.records import timestamp
from resurgam.vault.retention_words import counted
from resurgam.vault.trail import Finding, Head

app = typer.Typer(
    no_args_is_help=True,
    help="See what was written to a vault, and verify it.",
    rich_markup_mode=None,
)

_MAX_PEM = 1 << 20
AgainstOption = Annotated[
    list[str] | None,
    typer.Option("--against", help="A checkpoint that somebody else kept; may be given again."),
]


@app.command("log")
def show_log(
    point: Annotated[
        str | None, typer.Option("--point", help="Only what is about this point (the beginning of its id).")
    ] = None,
    type: Annotated[
        list[str] | None, typer.Option("--type", help="Only this type of record; may be given again.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Only from this time on, or as long ago as 7d.")] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """List the log: what was written to the vault, when, and by whom.

    Times are those of the writers' clocks, in UTC. The order is that of the log. Needs trust.json only.

    Examples:

        resurgam audit log

        resurgam audit log --point 3fa9 --type verdict

        resurgam audit log --since 7d --json
    """
    context = Context(manifest, vault, keys)
    after = _moment(since, context) if since else ""
    rows = [row for row in _entries(context) if _wanted(row, point, type, after)]
    if json:
        output.as_json(rows)
        return 0
    if not rows:
        output.line("no entry of the log is so")
        return 0
    output.table(
        ["entry", "time (UTC)", "role", "key", "type", "object"],
        [
            [row["entry"], row["made"][:19].replace("T", " "), row["by"], row["signer"], row["type"], row["object"]]
            for row in rows
        ],
        ["entry"],
    )
    for row in rows:
        if row["refused"]:
            output.warning(f"entry {row['entry']} is not believed: {row['refused']}")
    return 0


@app.command("verify")
def verify(
    against: AgainstOption = None,
    tsa_ca: Annotated[
        str | None, typer.Option("--tsa-ca", help="Certificates of a time-stamping authority, to verify timestamps by.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Look only at what came after this host's last look.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Verify the log, its checkpoints, and every record.

    Every signature, by the role that may give it; the log whole, in order, and the same as this host saw before, as its
    checkpoints say, and as those say that others kept; what it announces is there with the same bytes. Exit code 8 when
    something is wrong; each is named. Needs trust.json only, and opens nothing.

    Examples:

        resurgam audit verify

        resurgam audit verify --against /mnt/elsewhere/checkpoint.txt

        resurgam audit verify --new
    """
    context = Context(manifest, vault, keys)
    report = _audited(context, json, new=new, witnessed=[_kept(context, path) for path in against or ()])
    if report.whole:
        LogMemory(context.vault_host).remember(report.seen)
    stamps, bad = timestamps.verify(context.repository, _read(tsa_ca, _MAX_PEM)) if tsa_ca else ([], [])
    report = msgspec.structs.replace(report, findings=(*report.findings, *bad))
    if json:
        output.as_json(_plain(report) | {"timestamps": stamps})
    else:
        for one in stamps:
            output.line(f"{one.checkpoint} was there at {one.time}")
        _show(report)
    return 0 if report.ok else IntegrityError.exit_code


@app.command("checkpoint")
def checkpoint(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Sign how long the log is and what it holds.

    With the auditor's key. Keep a copy of what is printed where nobody who can write to the vault can: with it, `audit verify
    --against` finds a log that was cut off, forked or rewritten since. Looks first at what came after this host's last look,
    and signs nothing that contradicts what was seen or signed before (exit code 8).

    Examples:

        resurgam audit checkpoint

        resurgam audit checkpoint > /mnt/elsewhere/checkpoint.txt
    """
    context = Context(manifest, vault, keys)
    memory = LogMemory(context.vault_host)
    report = _audited(context, json, new=memory.seen() is not None)
    if not report.whole:
        if json:
            output.as_json(_plain(report))
        else:
            _show(report)
        return IntegrityError.exit_code
    name, data = heads.sign(context.repository, report.seen)
    memory.remember(report.seen)
    if json:
        said = {"checkpoint": data.decode(), "object": name, "entries": report.entries, "root": report.root}
        output.as_json(said | {"findings": report.findings})
        return 0
    output.line(data.decode().rstrip("\n"))
    output.note(f"stored as {name}: the first {report.entries} entries; keep a copy elsewhere")
    for finding in report.findings:
        output.warning(f"{_words(finding)}: `resurgam audit verify` tells all")
    return 0


@app.command("timestamp")
def stamp(
    tsa: Annotated[str, typer.Option("--tsa", help="The address of a time-stamping authority (RFC 3161).")],
    tsa_ca: Annotated[str, typer.Option("--tsa-ca", help="Its certificates, in PEM.")],
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Have a third party say when the newest checkpoint was there.

    Sends its digest and nothing else, verifies the answer, and stores it beside the checkpoint. Needs no key of the vault's;
    anybody can check it with openssl. Given again for the same checkpoint, nobody is asked.

    Examples:

        resurgam audit timestamp --tsa https://tsa.example --tsa-ca tsa.pem
    """
    context = Context(manifest, vault, keys)
    stamped = timestamps.stamp(context.repository, tsa, _read(tsa_ca, _MAX_PEM))
    if json:
        output.as_json(stamped)
    else:
        output.line(f"{stamped.checkpoint} was there at {stamped.time}, says {tsa}")
    return 0


@app.command("receipt")
def receipt(
    entry: Annotated[
        str | None,
        typer.Argument(help="An entry's number, an object that it announces, or the beginning of a point's id."),
    ] = None,
    check: Annotated[
        str | None, typer.Option("--check", help="A receipt in a file: verify it, and tell what it says.")
    ] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Make a receipt: proof that one record was logged.

    To hand out: an entry of the log, the checkpoint that covers it, and the hashes between the two. Whoever has it can show that
    the record was announced before the checkpoint was signed, even if the vault denies it. Made and checked without any key.

    Examples:

        resurgam audit receipt 3fa9 > receipt.txt

        resurgam audit receipt --check receipt.txt
    """
    if (entry is None) == (check is None):
        raise UsageError(
            "Name an entry, or a receipt to check.",
            untouched="Nothing was done.",
            next_step="Give ENTRY, or --check FILE.",
        )
    context = Context(manifest, vault, keys)
    if entry is not None:
        data = receipts.make_receipt(context.repository, receipts.find(context.repository, entry)).decode()
        if json:
            output.as_json({"receipt": data})
        else:
            output.line(data.rstrip("\n"))
        return 0
    proof = receipts.read_receipt(context.repository, _read(check or "", receipts.MAX_RECEIPT), check or "")
    said, record = proof.said, proof.record
    if json:
        told = {"entry": proof.number, "made": record.made, "by": record.by, "signer": record.signer}
        output.as_json(told | {"type": said.type, "object": said.object, "entries": proof.checkpoint.size})
        return 0
    output.line(f"entry {proof.number} announces the {said.type} {said.object}", style="bold")
    output.line(f"  with the bytes {said.digest or 'that it did not name'}")
    output.line(f"  signed {record.made[:19]} by {record.by} ({record.signer})")
    output.line(f"  in the log of {proof.checkpoint.size} entries that the auditor {proof.checkpoint.signer} signed")
    return 0


@app.command("export")
def export(
    into: Annotated[str, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
    against: AgainstOption = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Write one folder for an auditor, who needs no Resurgam to verify it.

    The log, its checkpoints, every record and role table as they lie in the vault, a page to begin with, and a script that
    verifies them with two public libraries. Nothing in it is secret to who sees the vault, and nothing of it opens anything.

    Examples:

        resurgam audit export /mnt/usb/audit-2026
    """
    context = Context(manifest, vault, keys)
    report = _audited(context, json, witnessed=[_kept(context, path) for path in against or ()])
    with output.progress("export", None, json) as advance:
        objects = write_export(context.repository, report, into, context.clock, advance)
    if json:
        output.as_json({"directory": os.path.abspath(into), "objects": objects, "report": _plain(report)})
    else:
        output.line(f"exported {counted(objects, 'object')} into {into}", style="bold")
        output.line(f"  {INDEX} says what is where; `python {SCRIPT} . FINGERPRINT` in it verifies them")
        _show(report)
    return 0 if report.ok else IntegrityError.exit_code


def _audited(context: Context, json: bool, *, new: bool = False, witnessed: list[Head] | None = None) -> Report:
    seen = LogMemory(context.vault_host).seen()
    with output.progress("audit", None, json) as advance:
        return run_audit(
            context.repository,
            seen=seen,
            witnessed=witnessed or (),
            new=new and seen is not None,
            progress=advance,
        )


def _kept(context: Context, path: str) -> Head:
    """What a checkpoint in a file says."""
    return heads.witnessed(context.repository, _read(path, MAX_NOTE), path)


def _read(path: str, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise NotFound(
            f"{path} cannot be read: {error.strerror}.",
            untouched="Nothing was changed.",
            next_step="Name a file that holds what `resurgam audit checkpoint` or `receipt` printed.",
        ) from error


def _entries(context: Context) -> list[dict[str, Any]]:
    repository, rows = context.repository, []
    for number, entry in log.entries(repository.store):
        row = {
            "entry": number or entry.name,
            "made": "",
            "by": "",
            "signer": "",
            "type": "",
            "object": "",
            "refused": "",
        }
        try:
            record, said = log.read_entry(repository.store.get(entry.name), entry, repository.roles, repository.vault)
            row |= {"made": record.made, "by": record.by, "signer": record.signer}
            row |= {"type": said.type, "object": said.object}
        except IntegrityError as error:
            row["refused"] = error.message
        rows.append(row)
    return rows


def _wanted(row: dict[str, Any], point: str | None, types: list[str] | None, after: str) -> bool:
    """What is not believed is shown whatever is asked for: it may be what was meant."""
    if row["refused"]:
        return True
    about = row["object"].partition("/")[2]
    return (
        (point is None or about.startswith(point)) and row["type"] in (types or [row["type"]]) and row["made"] >= after
    )


def _moment(words: str, context: Context) -> str:
    """A time in ISO 8601, UTC where it says no offset, or so long ago. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(words)
    except ValueError:
        try:
            return timestamp(context.clock.now() - timedelta(seconds=duration(words)))
        except UsageError as error:
            raise UsageError(
                f"{words!r} is neither a time nor a duration.",
                untouched="Nothing was done.",
                next_step="Write 2026-11-21, 2026-11-21T04:00, 12h or 7d.",
            ) from error
    return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _plain(report: Report) -> dict[str, object]:
    found = {"findings": report.findings, "notes": report.notes}
    head = {"entries": report.entries, "root": report.root}
    return head | {"objects": report.objects, "checkpoints": report.checkpoints, "covered": report.covered} | found


def _show(report: Report) -> None:
    output.line(f"{report.entries} entries of the log and {report.objects} records looked at")
    output.line(f"  Merkle root {report.root}")
    agreed = f", of {report.covered} entries the largest that agrees" if report.covered else ""
    output.line(f"  checkpoints: {report.checkpoints or 'none'}{agreed}")
    for finding in report.findings:
        output.line(f"  {_words(finding)}", style="bold red")
    for note in report.notes:
        output.line(f"  {_words(note)}")
    if report.ok:
        output.line("  nothing is wrong")
        return
    output.line(f"  findings: {len(report.findings)}")
    output.line(
        "  next: copy the vault as it is, find out who can write to its store, and bring back what is missing", "bold"
    )


def _words(finding: Finding) -> str:
    return f"{finding.kind}: {finding.object}: {finding.what}"
