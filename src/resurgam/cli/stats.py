"""vault stats: how much a vault holds, and what that costs."""

from __future__ import annotations

from resurgam.cli import cost as costs
from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, KeysOption, ManifestOption, VaultOption
from resurgam.cli.cost import CostOption, DrillsOption, EveryOption
from resurgam.vault.retention_words import counted


def stats(
    manifest: ManifestOption = DEFAULT_MANIFEST,
    vault: VaultOption = None,
    keys: KeysOption = None,
    cost: CostOption = None,
    every: EveryOption = None,
    drills: DrillsOption = None,
    json: JsonOption = False,
) -> int:
    """Show how much the vault holds, and what deduplication and compression save.

    With --cost also what storage, requests and egress cost in a month, by a price list of your own (docs/cost.md), as the vault was
    used in the last 30 days or as --every and --drills say; and what one restore costs.

    Examples:

        resurgam vault stats

        resurgam vault stats --cost prices.yaml

        resurgam vault stats --cost prices.yaml --every 15m --drills 4 --json
    """
    context = Context(manifest, vault, keys)
    prices = costs.prices_of(cost) if cost is not None else None
    repository = context.repository
    chunks, raw, stored = repository.index.totals()
    points = repository.points()
    logical = sum(s.bytes for sealed in points for s in sealed.body.snapshots)
    objects = list(repository.store.list())
    on_disk = sum(entry.size for entry in objects)
    found: dict[str, object] = {
        "points": len(points),
        "logical_bytes": logical,
        "chunks": chunks,
        "unique_bytes": raw,
        "chunk_bytes": stored,
        "objects": len(objects),
        "vault_bytes": on_disk,
    }
    estimate = costs.of_a_vault(context, prices, every, drills) if prices is not None else None
    if json:
        output.as_json(found | ({"cost": estimate} if estimate is not None else {}))
        return 0
    output.line(f"{repository.identity.name} in {repository.store.describe()}", style="bold")
    output.line(f"  {counted(len(points), 'point')} of {output.size(logical)} together")
    output.line(f"  {output.size(raw)} of them unique, in {counted(chunks, 'chunk')}")
    output.line(f"  {output.size(on_disk)} in the vault, in {counted(len(objects), 'object')}")
    if on_disk:
        output.line(f"  {logical / on_disk:.1f} bytes of systems per byte of vault")
    if estimate is not None and prices is not None:
        costs.show(estimate, prices.note)
    return 0
