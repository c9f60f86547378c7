"""What `--cost prices.yaml` adds to `vault stats` and `preflight`: what it costs in a month, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated

import typer

from resurgam.capture.preflight import Report
from resurgam.capture.prices import load_prices
from resurgam.cli import output
from resurgam.cli.context import Context, duration
from resurgam.errors import ResurgamError, UsageError
from resurgam.model.placement import COLD
from resurgam.model.system import System
from resurgam.stores.location import is_url
from resurgam.vault.cost import STANDARD, Estimate, estimate
from resurgam.vault.prices import Prices
from resurgam.vault.repository import Sealed
from resurgam.vault.usage import Habits, every_word, of_plan, of_vault

CostOption = Annotated[
    str | None, typer.Option("--cost", metavar="PRICES", help="Also what it costs in a month, by this price list.")
]
EveryOption = Annotated[
    str | None, typer.Option("--every", help="With --cost: as if a capture were made so often, such as 1h.")
]
DrillsOption = Annotated[
    float | None, typer.Option("--drills", min=0, help="With --cost: so many verified restores a month.")
]
ChangeOption = Annotated[
    str, typer.Option("--change", help="With --cost: how much changes in a day, as a share of the whole.")
]
CHANGE = "1%"
_DAY = 86_400.0


def of_a_vault(context: Context, prices: Prices, every: str | None, drills: float | None) -> Estimate:
    """What the open vault costs as it is used, or as it would be with ``every`` and ``drills``."""
    habits = Habits(every=_seconds(every), drills=_decimal(drills))
    return estimate(of_vault(context.repository, habits, context.clock.now().timestamp()), prices)


def of_a_system(
    context: Context, report: Report, prices: Prices, every: str | None, drills: float | None, change: str
) -> Estimate:
    """What captures of a system will cost, by its size now and by what earlier ones added where there were any."""
    system = context.system
    seconds, said = every_word(_seconds(every), system.objectives.rpo or None, output.seconds)
    if seconds is None:
        raise UsageError(
            "How often captures are made is not said.",
            untouched="Nothing was changed.",
            next_step="Give --every 1h, or write objectives: {rpo: 1h} into the manifest.",
        )
    classes = {c.name: _class_of(system, c.tier) for c in system.components}
    points = _points(context)
    sizes, sized = _sizes(report, classes, points)
    added, why = _added(points[1:], sizes, classes, seconds, change)
    assumed = (*sized, said, why, "nothing is pruned in the first month", "what is captured does not compress")
    if drills is None:
        assumed = (*assumed, "one drill a month; --drills says otherwise")
    habits = Habits(every=seconds, drills=_decimal(drills))
    return estimate(
        of_plan(sizes, added, habits, context.clock.now().timestamp(), assumed, is_url(system.vault.path)), prices
    )


def _points(context: Context) -> list[Sealed]:
    try:
        return context.repository.points(context.system.name)
    except ResurgamError:  # no vault yet, or no key for it: preflight itself has told
        return []


def _sizes(report: Report, classes: dict[str, str], points: Sequence[Sealed]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Bytes by class, and what of them is not as large as it is now: as captured last, or unknown and in no sum (P12)."""
    captured = {s.component: s.bytes for sealed in points[-1:] for s in sealed.body.snapshots}
    sizes: dict[str, int] = {}
    older: list[str] = []
    unknown: list[str] = []
    for component in report.components:
        size = component.bytes
        if size is None:
            size = captured.get(component.name)
            (older if size is not None else unknown).append(component.name)
        sizes[classes[component.name]] = sizes.get(classes[component.name], 0) + (size or 0)
    said = [f"the size of {', '.join(older)} is that of the newest point"] * bool(older)
    said += [
        f"NOT KNOWN is the size of {', '.join(unknown)}, and none of it is in these sums: they are too low"
    ] * bool(unknown)
    return sizes, tuple(said)


def _added(
    points: Sequence[Sealed], sizes: dict[str, int], classes: dict[str, str], every: float, change: str
) -> tuple[dict[str, int], str]:
    """What one capture adds, by class: the mean of earlier ``points``, else a share of the whole."""
    if points:
        added: dict[str, int] = {}
        for snapshot in (s for sealed in points for s in sealed.body.snapshots):
            name = classes.get(snapshot.component, STANDARD)
            added[name] = added.get(name, 0) + snapshot.stored
        return {name: total // len(points) for name, total in added.items()}, (
            f"each capture adds what {len(points)} earlier ones added on the average"
        )
    share = _share(change)
    return {name: int(size * share * every / _DAY) for name, size in sizes.items()}, (
        f"{share:.3g} of the whole changes in a day (--change); no earlier capture tells better"
    )


def _class_of(system: System, tier: str) -> str:
    return system.vault.cold if system.vault.cold and tier == COLD else STANDARD


def prices_of(path: str) -> Prices:
    """The price list. Raises ManifestError."""
    return load_prices(path)


def show(found: Estimate, note: str = "") -> None:
    """An estimate for people: a table, the sums, and what was assumed."""
    output.line()
    output.line(f"By prices of {found.as_of}, in {found.currency}:{f' {note}' if note else ''}", style="bold")
    rows = [
        (
            line.what,
            line.storage_class,
            _money(line.quantity),
            line.unit,
            _money(line.price),
            _money(line.amount),
            line.how,
        )
        for line in found.lines
        if line.amount
    ]
    columns = ("what", "class", "quantity", "unit", "price", "amount", "how")
    if rows:
        output.table(columns, rows, right=("quantity", "price", "amount"))
    output.line(f"  {_money(found.month)} {found.currency} a month", style="bold")
    for what, amount in found.each.items():
        output.line(f"  {_money(amount)} {found.currency} for {what}, once")
    for assumption in found.assumptions:
        output.line(f"  assumed: {assumption}")
    output.line("  an estimate: taxes, discounts, free amounts and minimum object sizes are not in it")


def _money(amount: Decimal) -> str:
    """Two digits after the point, or as many as the first two that say something."""
    digits = 2 if not amount or amount >= 1 else min(max(1 - amount.adjusted(), 2), 8)
    return f"{amount:,.{digits}f}"


def _seconds(every: str | None) -> float | None:
    """Those between two captures. Raises UsageError."""
    seconds = None if every is None else duration(every)
    if seconds == 0:
        raise UsageError(
            "Captures cannot be made without end.", untouched="Nothing was done.", next_step="Give --every 15m or more."
        )
    return seconds


def _decimal(number: float | None) -> Decimal | None:
    return None if number is None else Decimal(repr(number))


def _share(words: str) -> float:
    try:
        share = float(words.strip().removesuffix("%")) / (100 if words.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"{words!r} is no share.", untouched="Nothing was done.", next_step="Write 1% or 0.01.")
    return share
