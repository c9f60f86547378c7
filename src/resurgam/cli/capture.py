"""init, preflight, capture: the way in."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
import yaml

from resurgam.capture.preflight import ComponentReport, Report, Trouble
from resurgam.capture.preflight import preflight as run_preflight
from resurgam.capture.run import capture as run_capture
from resurgam.cli import cost as costs
from resurgam.cli import output, protection
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption
from resurgam.cli.cost import CHANGE, ChangeOption, CostOption, DrillsOption, EveryOption
from resurgam.cli.gentle import GentleOption, LimitCpuOption, LimitReadOption, gentle, limited
from resurgam.cli.points import cut as show_cut
from resurgam.drivers.registry import driver_for
from resurgam.errors import EXIT_FINDINGS, Denied, StoreFull, TargetRefused
from resurgam.model.codec import to_plain
from resurgam.model.point import Observation, Severity
from resurgam.model.system import System
from resurgam.probes.answers import printable
from resurgam.probes.runner import LiveRunner
from resurgam.proof.observe import observe_witness
from resurgam.restore.sandbox import available
from resurgam.vault.keys import DEFAULT_DOMAIN


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


def capture(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    keys: KeysOption = None,
    paranoid: Annotated[bool, typer.Option("--paranoid", help="Read every byte, also of unchanged files.")] = False,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="A word for the point, in the clear; may be given again.")
    ] = None,
    limit_read: LimitReadOption = None,
    limit_cpu: LimitCpuOption = None,
    gently: GentleOption = None,
    json: JsonOption = False,
) -> int:
    """Take a recovery point of the whole system.

    The point exists when its record is written, last of all; stopped before that, a capture leaves nothing listed, and
    the next one reuses what was stored. Exit code 22 when the point was sealed with findings that need the owner.

    Limits hold on average, over all threads and child processes, and stand in place of those of the manifest; a freeze is never
    slowed, since writers wait for it. --limit-cpu counts user and system time from the first read on.

    Examples:

        resurgam capture

        resurgam capture --gentle --limit-read 50 --limit-cpu 50%

        resurgam capture --paranoid --json

        resurgam capture --tag release-7
    """
    context = Context(manifest, keys=keys)
    system, unanswered = limited(context.system, limit_read, limit_cpu), dict[str, str]()
    with output.progress(f"capture {system.name}", None, json) as advance:
        sealed = run_capture(
            system,
            driver_for,
            _witness(unanswered),
            context.repository,
            context.host,
            context.clock,
            paranoid=paranoid,
            progress=(lambda _component, size: advance(size)) if advance else None,
            tell=output.warning,
            tags=tuple(tag or ()),
            gentle=gentle(gently),
        )
    body = sealed.body
    for probe, why in unanswered.items():  # of a point that exists: where none does, the error says what matters
        output.warning(f"probe {probe} could not be answered by the live system: {printable(why)}")
    guarded = protection.of_point(context, body.id) if system.vault.lock is not None else None
    if json:
        plain: dict[str, object] = to_plain(body)
        output.as_json(plain | {"protected": to_plain(guarded)})
    else:
        stored = sum(s.stored for s in body.snapshots)
        total = sum(s.bytes for s in body.snapshots)
        output.line(f"point {body.id} sealed", style="bold")
        parts = f"{len(body.snapshots)} component{'' if len(body.snapshots) == 1 else 's'}"
        output.line(f"  {parts} of {output.size(total)}, {output.size(stored)} new in the vault")
        show_cut(body)
        if guarded is not None and system.vault.lock is not None:
            output.line(f"  {protection.told(guarded)}")
            protection.advise(guarded, context.clock.now().timestamp(), system.vault.lock.period)
        if body.host_can_read:
            answers = f"{context.repository.roles.evidence}.agekey"
            also = f", {answers}" if answers != f"{DEFAULT_DOMAIN}.agekey" else ""
            output.line(f"  this host can also read the vault: keep reader.agekey{also} and recovery.agekey elsewhere")
        for severity in (Severity.BROKEN, Severity.WARNING):
            if count := body.findings.get(severity, 0):
                found = f"{count} finding{'' if count == 1 else 's'}"
                output.line(f"  {found}, {severity}: `resurgam show {body.id}` tells more", style="yellow")
    weighty = body.findings.get(Severity.BROKEN, 0) + body.findings.get(Severity.WARNING, 0)
    return EXIT_FINDINGS if weighty else 0


def _witness(unanswered: dict[str, str]) -> Callable[[System], tuple[Observation, ...]]:
    """Asks live, before and after the cut, and notes which question it could not answer, and why: that point would be judged
    *inconclusive* (P12)."""

    def ask(live: System) -> tuple[Observation, ...]:
        seen = observe_witness(live, LiveRunner(live.root))
        for one in seen:
            if one.error is not None:
                unanswered.setdefault(one.probe, one.error)
        return seen

    return ask


def _show_preflight(report: Report) -> None:
    output.line(f"{report.system}: {'ready' if report.ok else 'NOT ready'}", style="bold" if report.ok else "bold red")
    for component in report.components:
        _show_component(component)
    for what, part in (("vault", report.vault), ("keys", report.keys)):
        output.line(f"  {what}: {part.path}")
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
