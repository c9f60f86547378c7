"""capture: the way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from resurgam.capture.run import capture as run_capture
from resurgam.cli import output, protection
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption
from resurgam.cli.gentle import GentleOption, LimitCpuOption, LimitReadOption, gentle, limited
from resurgam.cli.points import cut as show_cut
from resurgam.drivers.registry import driver_for
from resurgam.errors import EXIT_FINDINGS
from resurgam.model.codec import to_plain
from resurgam.model.point import Observation, Severity
from resurgam.model.system import System
from resurgam.probes.answers import printable
from resurgam.probes.runner import LiveRunner
from resurgam.proof.observe import observe_witness
from resurgam.vault.keys import DEFAULT_DOMAIN


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
