"""report: a verdict with its evidence, for people and for systems of continuous integration."""

from __future__ import annotations

import errno
import json as jsons
import os
import tempfile
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import (
    DEFAULT_MANIFEST,
    LATEST,
    AsOfOption,
    Context,
    JsonOption,
    KeysOption,
    ManifestOption,
    PointArgument,
    VaultsOption,
)
from resurgam.errors import Denied, NotFound, ResurgamError, StoreFull, UsageError
from resurgam.proof.report import redacted
from resurgam.proof.report_values import ProbeReport, Report
from resurgam.restore.evidence import exchanges_of, report_of

HtmlOption = Annotated[
    str | None,
    typer.Option("--html", metavar="FILE", help="Write the report as one page; it holds answers in the clear."),
]
JunitOption = Annotated[
    str | None,
    typer.Option("--junit", metavar="FILE", help="Write the report as JUnit XML, for continuous integration."),
]


def report(
    point: PointArgument = LATEST,
    html: HtmlOption = None,
    junit: JunitOption = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave out answers, names of cases, and keys; counts and measures stay.")
    ] = False,
    hosted: Annotated[
        str | None,
        typer.Option("--hosted", help="In its place print what was said to this hosted model through the proxy."),
    ] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultsOption = None,
    keys: KeysOption = None,
    as_of: AsOfOption = None,
    json: JsonOption = False,
) -> int:
    """Show the newest verdict on a point with its evidence.

    Says how each answer changed, how each component stands, what was not judged and why, and who signed. The files are
    readable by you alone: they hold what the system answered. With --hosted: lines of JSON, a recording.

    Examples:

        resurgam report latest

        resurgam report latest --html verdict.html

        resurgam report 3fa9 --redact --html for-the-auditor.html --junit verdict.xml

        resurgam report latest --hosted llm > probes/llm.jsonl
    """
    context = Context(manifest, vault, keys, as_of=as_of)
    if hosted is not None:
        return _said(context, point, hosted, redact or html is not None or junit is not None)
    found = report_of(context.repository, context.point(point))
    if redact:
        found = redacted(found)
    written = write(found, html, junit)
    if json:
        output.as_json(found)
        return 0
    _show(found)
    for path in written:
        output.line(f"  written: {path}")
    return 0


def _said(context: Context, point: str, hosted: str, more: bool) -> int:
    """Print what was said to ``hosted`` as a recording."""
    if more:
        raise UsageError(
            "--hosted prints a recording, which is no report to be written or redacted.",
            untouched="Nothing was read.",
            next_step="Give it alone.",
        )
    for line in exchanges_of(context.repository, context.point(point), hosted):
        output.line(jsons.dumps(line))  # in ASCII: what a hosted model said steers no terminal
    return 0


def write(found: Report, html: str | None, junit: str | None) -> list[str]:
    """Write what was asked for, and say which files. Raises MissingExtra, NotFound, Denied, StoreFull."""
    from resurgam.proof.report_junit import junit as junit_of  # both load what no other verb needs
    from resurgam.proof.report_page import page

    made = {}
    if html is not None:
        made[os.path.abspath(html)] = page(found).encode()
    if junit is not None:
        made[os.path.abspath(junit)] = junit_of(found)
    for path, data in made.items():
        _replace(path, data)
    return list(made)


def _show(found: Report) -> None:
    output.line(f"{found.judgement}: point {found.point} of {found.system}", style="bold")
    output.line(f"  {found.conclusion}")
    if found.suspects:
        output.line(f"  every probe that differs reads: {', '.join(found.suspects)}")
    output.line(f"  {found.isolation}, {output.seconds(found.seconds)}")
    rows = [(c.name, c.state, c.driver, ", ".join(c.probes) or "none", output.size(c.bytes)) for c in found.components]
    output.table(["component", "state", "driver", "read by", "size"], rows, ["size"])
    for probe in found.probes:
        _show_probe(probe)
    for name, why in found.unjudged:
        output.line(f"not judged: {name}: {why}", style="yellow")
    for finding in found.findings:
        output.line(f"{finding.severity}: {finding.component or 'the system'}: {finding.what}")


def _show_probe(probe: ProbeReport) -> None:
    for judged in probe.judged:
        by = "" if judged.yardstick == "none" else f" by {judged.yardstick}"
        style = "red" if judged.judgement == "different" else None
        output.line(f"{probe.name}{by}: {judged.judgement}: {judged.reason}", style=style)
        for change in judged.changes:
            output.line(f"  {change.case}: {change.sentence}")


def _replace(path: str, data: bytes) -> None:
    """Put a file that only its owner may read under ``path``, whole or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".report-", delete=False) as file:  # made with mode 0600
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: str, error: OSError) -> ResurgamError:
    told = f"{path} cannot be written: {error.strerror}."
    untouched = "The verdict stands in the vault; no report was written there."
    next_step = "Name a file in a folder that exists and that you may write to, and run `resurgam report` again."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(told, untouched=untouched, next_step="Free some space and run `resurgam report` again.")
    kind = Denied if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else NotFound
    return kind(told, untouched=untouched, next_step=next_step)
