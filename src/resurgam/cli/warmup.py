"""restore --warm-up: have what sleeps woken before it is restored, and say when to come back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from resurgam.capture.prices import load_prices
from resurgam.cli import output
from resurgam.cli.context import Context, duration
from resurgam.errors import IntegrityError
from resurgam.model.codec import from_json, to_json
from resurgam.model.point import PointBody
from resurgam.restore.state import write_atomically
from resurgam.stores.archive import Speed
from resurgam.vault import warmup
from resurgam.vault.retention_words import counted
from resurgam.vault.warmup import DAYS, Asked, WarmUp

WarmUpOption = Annotated[
    bool, typer.Option("--warm-up", help="Have what sleeps in cold classes woken; exit code 16 until it is there.")
]
SpeedOption = Annotated[Speed, typer.Option("--speed", help="With --warm-up: the faster, the dearer.")]
DaysOption = Annotated[int, typer.Option("--days", min=1, help="With --warm-up: how long what is woken stays awake.")]
WaitOption = Annotated[
    str | None, typer.Option("--wait", help="With --warm-up: wait so long for it, such as 6h, then restore.")
]
PricesOption = Annotated[
    str | None, typer.Option("--cost", metavar="PRICES", help="With --warm-up: what waking costs, by this price list.")
]
POLL = 60.0  # seconds between two looks
NOTES = "warm-up.json"  # when this host asked for which pack, and how; may be deleted (P3), and times are then told from now on


def warm_up(
    context: Context,
    body: PointBody,
    components: Sequence[str],
    *,
    speed: Speed = Speed.STANDARD,
    days: int = DAYS,
    wait: str | None = None,
    prices: str | None = None,
    dry_run: bool = False,
    json: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> WarmUp:
    """Print the plan and do it: returns when everything that ``components`` need is awake, or with ``dry_run`` the plan alone.

    Raises Archived, with the time to come back, where it is not there (by the end of ``wait``).
    """
    repository, clock = context.repository, context.clock
    until = clock.monotonic() + (duration(wait) if wait is not None else 0.0)
    packs = warmup.needed(repository, body, components)
    told = load_prices(prices) if prices is not None else None

    def look() -> WarmUp:
        now = clock.now().timestamp()
        return warmup.plan(
            body.id, warmup.look(repository.store, packs), speed, days, now, _asked(context), prices=told
        )

    wanted = look()
    if not json:
        _show(wanted)
    if dry_run:
        if json:
            output.as_json(wanted)
        return wanted
    if wanted.ask:
        warmup.ask(repository.store, wanted)
        _note(context, wanted)
    while not wanted.ready:
        left = until - clock.monotonic()
        if left <= 0:
            raise warmup.not_yet(wanted)
        sleep(min(POLL, left))
        wanted = look()
        if wanted.ask:  # what was awake has gone back to sleep meanwhile
            warmup.ask(repository.store, wanted)
            _note(context, wanted)
    return wanted


def _show(wanted: WarmUp) -> None:
    output.line(f"To restore point {wanted.point}:", style="bold")
    for word, counts in (("awake", wanted.awake), ("waking", wanted.waking), ("asleep", wanted.asleep)):
        for name, held in sorted(counts.items()):
            output.line(f"  {word}: {counted(held.objects, 'pack')} of {output.size(held.bytes)} in {name}")
    if wanted.ask:
        output.line(
            f"  ask for copies of {counted(len(wanted.ask), 'pack')} at {wanted.speed} speed, for {counted(wanted.days, 'day')}"
        )
    if wanted.by is not None:
        output.line(f"  all of it is there by {warmup.at(wanted.by)} at the latest")
    if wanted.cost is not None:
        for line in wanted.cost.lines:
            output.line(f"  {line.what} {line.storage_class}: {line.amount:.4f} {wanted.cost.currency} ({line.how})")
    if not (wanted.awake or wanted.waking or wanted.asleep):
        output.line("  nothing that it needs lies in a class that sleeps")


def _asked(context: Context) -> dict[str, Asked]:
    """When this host asked for packs, and how. Notes of before that had a time and no speed."""
    try:
        with open(context.vault_host.path(NOTES), "rb") as file:
            noted = from_json(file.read(), dict[str, Asked | float], what=NOTES)
            return {pack: asked for pack, asked in noted.items() if isinstance(asked, Asked)}
    except (OSError, IntegrityError):  # P3: notes can be gone, or spoilt
        return {}


def _note(context: Context, wanted: WarmUp) -> None:
    now = context.clock.now().timestamp()
    asked = _asked(context) | {os.path.basename(name): Asked(now, wanted.speed) for name in wanted.ask}
    recent = {pack: one for pack, one in asked.items() if now - one.at < 30 * 86_400.0}
    write_atomically(context.vault_host.path(NOTES), to_json(recent))
