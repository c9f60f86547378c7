"""init, preflight: what comes before the first capture. Apart from it, since a capture loads nothing of what they need."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer
import yaml

from resurgam.capture.preflight import ComponentReport, Report, Trouble
from resurgam.capture.preflight import preflight as run_preflight
from resurgam.cli import cost as costs
from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, ManifestOption
from resurgam.cli.cost import CHANGE, ChangeOption, CostOption, DrillsOption, EveryOption
from resurgam.drivers.registry import driver_for
from resurgam.errors import Denied, StoreFull, TargetRefused
from resurgam.model.codec import to_plain
from resurgam.model.system import Compression
from resurgam.restore.sandbox import available


def init(
    folder: Annotated[str, typer.Argument(help="The folder of the system.")] = ".",
    manifest: Annotated[str, typer.Option("--manifest", "-m", help="Where to write it.")] = DEFAULT_MANIFEST,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print it instead of writing a file.")] = False,
    json: JsonOption = False,
) -> int:
    """Write a manifest for what is found in a folder.

    Finds databases, Chroma folders, LangGraph's threads and memories, models, prompts, tools, git working trees and
    environments. Looks at files only by reading; databases are opened read-only. What is inferred from the data was
    checked on it, and is called inferred; what was seen and not understood is listed. Edit the result: owners,
    objectives and probes are yours to name.

    Examples:

        resurgam init

        resurgam init /srv/handbook --stdout
    """
    from resurgam.capture.discover import propose  # looks into every kind of store: loaded for this verb only

    text = propose(folder)
    path = os.path.join(folder, manifest)
    if not stdout:
        _write_new(path, text)
    if json:
        output.as_json({"path": None if stdout else os.path.abspath(path), "manifest": text})
    elif stdout:
        sys.stdout.write(text)
    else:
        for name, component in yaml.safe_load(text)["components"].items():
            output.line(f"{name}: {component['driver']} at {component['location']}")
        output.line(f"Wrote {path}. Next: read it, then `resurgam vault init` and `resurgam preflight`.")
    return 0


def _write_new(path: str, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise TargetRefused(
            f"{path} exists.",
            untouched="It was not changed.",
            next_step="Edit it, or see a new proposal with `resurgam init --stdout`.",
        ) from error
    except OSError as error:
        raise (StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else Denied)(
            f"{path} cannot be written: {error.strerror}.",
            untouched="Nothing else was changed.",
            next_step="Name a place in a folder that exists and can be written, or use `resurgam init --stdout`.",
        ) from error


def preflight(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    cost: CostOption = None,
    every: EveryOption = None,
    drills: DrillsOption = None,
    change: ChangeOption = CHANGE,
    json: JsonOption = False,
) -> int:
    """Say what a capture would need and cost.

    Changes nothing.

    What is reachable, which permission is missing and the command that grants it, bytes and time expected, locks and load
    on the source. With --cost also what a month of captures, drills and storage costs by a price list of your own (docs/cost.md).
    Exit code 0 when a capture can run, 6 when something is missing.

    Examples:

        resurgam preflight

        resurgam preflight --json

        resurgam preflight --cost prices.yaml --every 1h --change 2%
    """
    context = Context(manifest)
    prices = costs.prices_of(cost) if cost is not None else None
    report = run_preflight(context.system, driver_for, isolation=available)
    estimate = costs.of_a_system(context, report, prices, every, drills, change) if prices is not None else None
    if json:
        found: dict[str, object] = to_plain(report)
        output.as_json(found | ({"cost": estimate} if estimate is not None else {}))
    else:
        _show_preflight(report)
        if estimate is not None and prices is not None:
            costs.show(estimate, prices.note)
    return 0 if report.ok else Denied.exit_code


def _show_preflight(report: Report) -> None:
    output.line(f"{report.system}: {'ready' if report.ok else 'NOT ready'}", style="bold" if report.ok else "bold red")
    for component in report.components:
        _show_component(component)
    word = report.vault.compression
    said = "" if word == Compression.BALANCED else f", compression {word}"
    for what, part, more in (("vault", report.vault, said), ("keys", report.keys, "")):
        output.line(f"  {what}: {part.path}{more}")
        _show_troubles(part.troubles)
    _show_troubles(report.barrier)
    for missing in report.vault.missing:
        output.line(f"    may not {missing.need} {missing.path}. Next: {missing.grant}", style="red")
    measured = "as measured here" if report.rate_is_measured else "assumed; the first capture will measure it"
    output.line(
        f"  expected: {output.size(report.bytes)} to read, about {output.seconds(report.seconds)} "
        f"at {output.size(report.bytes_per_second)}/s ({measured})"
    )
    if report.isolated is not None:
        output.line(f"  sandbox: {'isolated' if report.isolated else 'not isolated on this host'}")
    for warning in report.warnings:
        output.line(f"  note: {warning}", style="yellow")


def _show_component(component: ComponentReport) -> None:
    size = output.size(component.bytes) if component.bytes is not None else "size unknown"
    reach = "" if component.reachable else ", NOT reachable"
    output.line(f"  {component.name}: {component.driver} at {component.location}, {size}{reach}")
    if component.effect:
        output.line(f"    {component.effect}")
    _show_troubles(component.troubles)
    for missing in component.missing:
        output.line(f"    may not {missing.need} {missing.path}. Next: {missing.grant}", style="red")
    for warning in component.warnings:
        output.line(f"    note: {warning}", style="yellow")


def _show_troubles(troubles: tuple[Trouble, ...]) -> None:
    for trouble in troubles:
        output.line(f"    {trouble.what.removesuffix('.')}. Next: {trouble.next_step}", style="red")
