"""probes: what the probes of a system can tell."""

from __future__ import annotations

from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption, VaultOption
from resurgam.cli.record import record
from resurgam.cli.suggest import suggest
from resurgam.proof.foresight import EACH, Foresight, foresee
from resurgam.restore.verify import yardsticks_of

app = typer.Typer(no_args_is_help=True, help="What the probes of a system can tell.", rich_markup_mode=None)

_COLUMNS = ("probe", "tolerance", "n", "margin", "noise", "shown same", "detects", "needed")
_NUMBERS = _COLUMNS[2:]


app.command()(suggest)
app.command()(record)


@app.callback()
def probes() -> None:
    """What the probes of a system can tell."""


@app.command()
def power(
    point: Annotated[str, typer.Argument(help="The beginning of a point's id, `latest`, or a time.")] = "latest",
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    json: JsonOption = False,
) -> int:
    """Show what shift each probe of a point can detect, and how many cases it would need.

    From the noise of the answers already seen: those of the point's baseline, else of its witness. `shown same` is the
    chance that a copy that is the same is shown to be, `detects` the smallest shift that is called different with a
    chance of 0.8, `needed` how many cases make `shown same` 0.8 at the margin that the manifest states. A tolerance that
    judges each case detects any change of a case; what it detects is the share of all questions that a change must touch.

    Examples:

        resurgam probes power

        resurgam probes power latest --json
    """
    context = Context(manifest, vault, keys)
    sealed = context.point(point)
    particulars = context.repository.particulars(sealed.body)
    found = foresee(particulars.system, yardsticks_of(context.repository, sealed, particulars))
    if json:
        output.as_json(found)
        return 0
    if not found:
        output.line("this point asks no probe")
        return 0
    output.table(_COLUMNS, [_row(each) for each in found], _NUMBERS)
    for each in found:
        if each.why:
            output.warning(f"{each.probe}: {each.why}")
    return 0


def _row(each: Foresight) -> list[str]:
    share = each.detects is not None and each.tolerance == EACH
    return [
        each.probe,
        each.tolerance,
        f"{each.n} {each.unit}" if each.n else "-",
        _figure(each.margin),
        _figure(each.noise),
        "-" if each.power is None else f"{each.power:.0%}",
        f"{each.detects:.1%} of questions" if share else _figure(each.detects),
        "-" if each.needed is None else str(each.needed),
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
