"""A first manifest for a folder: the text of a ``resurgam.yaml`` that loads as it is, made from what lies there.

    survey -> parts -> links -> components, barrier, invariants, probes -> text

The owner's knowledge is not guessed. A relation between components is proposed where a file says so or the data of two stores
show it, and a comment says why; keys that must exist are the foreign keys that a database declares, and inclusions that were
checked on the data before they were proposed. What was inferred is called so. The only probes are counts and rows that should
stay, which are necessary and never sufficient (P4), so a comment says what is still unprobed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from resurgam.capture.discover_kinds import DRIVERS, STORES, Kind
from resurgam.capture.discover_links import Builder, Link, builders, links_between
from resurgam.capture.discover_parts import LOOKED, Part, Role, parts_of
from resurgam.capture.discover_probes import probes
from resurgam.capture.discover_sqlite import ForeignKey, quoted
from resurgam.capture.discover_text import Names, in_brackets, listed, scalar, shown, size
from resurgam.capture.manifest import FORMAT
from resurgam.capture.survey import Survey, survey, writable

_COMPUTED = {Kind.MODEL, Kind.DATASET, Kind.VECTORS}
_CONSISTENCY = {Kind.DATABASE: "transaction", Kind.AGENT: "transaction", Kind.VECTORS: "snapshot"}


def propose(folder: str) -> str:
    """The text of a commented manifest for ``folder``; it loads as it is when it stands there as ``resurgam.yaml``.

    Nothing is written, also not by SQLite. Raises UsageError where ``folder`` is none, NotFound where nothing fits.
    """
    seen = survey(folder)
    parts = parts_of(seen)
    links, built = links_between(parts), builders(parts)
    _relate(seen, parts, links, built)
    system = Names().give(os.path.basename(seen.root))
    lines = [
        "# Proposed by `resurgam init` from what lies in this folder. Read it, correct it, and run `resurgam preflight`.",
        "# Every field is explained in docs/manifest.md.",
        f"resurgam: {FORMAT}",
        f"system: {scalar(system)}",
        "",
        "# Where recovery points go (better on another disk), and where this host's keys are. No secret stands in this file.",
        "vault:",
        f"  path: {scalar(f'../{system}-vault')}",
        f"  keys: {scalar(f'~/.config/resurgam/{system}')}",
        "",
        "components:",
        *(line for part in parts for line in _component(part)),
        *_environment(seen, parts),
        *_barrier(parts),
        *_invariants(parts, links, built),
        *probes(parts, links, seen.questions),
        *_rest(seen),
    ]
    return "\n".join(lines) + "\n"


def _relate(seen: Survey, parts: list[Part], links: list[Link], built: list[Builder]) -> None:
    """Fill in what each part is derived from, or reads: databases come first, then models, then indexes, so there are no cycles."""
    by_name = {part.name: part for part in parts}
    for part in parts:
        word = "derived_from" if part.kind in _COMPUTED else "reads"
        for store in parts:
            name = os.path.basename(store.found.path)
            if (
                store.kind in {Kind.DATABASE, Kind.AGENT}
                and part is not store
                and (said := seen.mentions(part.found, name))
            ):
                part.relations.append((word, store.name, f"{said} names the file of {store.name}"))
    for link in links:
        if link.there != link.field.component:
            part = by_name[link.field.component]
            word = "derived_from" if link.field.role in {Role.IDS, Role.METADATA} else "reads"
            part.relations.append((word, link.there, _reason(link)))
    for made in built:
        why = f"the {'digest' if made.path else 'name'} of {made.model} stands in the metadata of collection {made.collection}"
        by_name[made.vectors].relations.append(("derived_from", made.model, why))


def _component(part: Part) -> list[str]:
    found = part.found
    inside = f", tables: {len(part.database.tables)}" if part.database else ""
    inside += f", collections: {len(part.collections)}" if part.collections else ""
    lines = [f"  # {found.kind.value}, {size(found.size)}{inside}", *(f"  # {note}" for note in part.notes)]
    lines += [
        f"  {scalar(part.name)}:",
        f"    driver: {DRIVERS.get(part.kind, 'files')}",
        f"    location: {scalar(found.path)}",
    ]
    if part.kind in _CONSISTENCY:
        lines.append(f"    consistency: {_CONSISTENCY[part.kind]}")
    for word in ("derived_from", "reads"):
        relations = [(name, why) for said, name, why in part.relations if said == word]
        if relations:
            lines += [f"    # inferred: {shown(why)}" for _, why in relations]
            lines.append(f"    {word}: {listed(list(dict.fromkeys(name for name, _ in relations)))}")
    if left_out := [path for path in found.left_out if writable(path)]:
        lines.append(f"    options: {{exclude: [{', '.join(in_brackets(f'/{path}') for path in left_out)}]}}")
    return lines


def _environment(seen: Survey, parts: list[Part]) -> Iterator[str]:
    """How to have the environment captured, where what the application needs was seen, and no environment."""
    if any(part.kind is Kind.ENVIRONMENT for part in parts) or not (seen.requirements or seen.code):
        return
    why = f"{seen.requirements[0]} says what the application needs" if seen.requirements else "there is code to run"
    yield f"  # No Python environment lies here, though {shown(why)}. To capture which versions answer:"
    yield "  # environment: {driver: environment, location: /path/of/the/venv}"


def _barrier(parts: list[Part]) -> list[str]:
    stores = [part.name for part in parts if part.kind in STORES]
    if len(stores) < 2:
        return []
    return [
        "",
        f"# Are {', '.join(stores)} written together? Then a freeze may fall between two writes, unless your application",
        "# puts `with resurgam.sdk.barrier():` around them (docs/sdk.md; the folder of this file must exist). Or two commands:",
        "# barrier: {file: run/barrier.lock, timeout: 2s}",
        "# barrier: {hold: [./pause.sh], release: [./resume.sh], timeout: 10s}",
    ]


def _invariants(parts: list[Part], links: list[Link], built: list[Builder]) -> list[str]:
    names = Names()
    lines: list[str] = []
    for part in parts:
        for key in part.database.foreign_keys if part.database else ():
            if "".join((key.table, *key.columns, key.parent, *key.parent_columns)).isprintable():
                lines += [f"  {names.give(part.name, key.table, *key.columns)}:"]
                lines += [f"    {word}: {scalar(f'{part.name}: {query}')}" for word, query in _inclusion(key)]
    declared = ["", "# Foreign keys as declared, checked at every cut.", "invariants:", *lines] if lines else []
    lines = [line for link in links for line in _linked(link, names)]
    lines += [line for made in built if made.path for line in _built(made, names)]
    if not lines:
        return declared
    head = ["  # Inferred from the data, and true when this was proposed. Keep those that are meant to be true."]
    return [*(declared or ["", "invariants:"]), *head, *lines]


def _linked(link: Link, names: Names) -> list[str]:
    there = f"{link.there}: {link.exists_in}"
    here = f"{link.field.component}: {link.field.query}"
    lines = [
        f"  # {shown(_reason(link))}",
        f"  {names.give(link.field.component, link.field.name, 'in', link.column.table)}:",
        f"    every: {scalar(here)}",
        f"    exists_in: {scalar(there)}",
    ]
    if link.same:
        lines.append(
            f"    # Both have the same keys now. If they always must: equal: [{in_brackets(here)}, {in_brackets(there)}]"
        )
    return lines


def _reason(link: Link) -> str:
    count = f"all {len(link.field.values):,}" if link.field.whole else f"the first {LOOKED:,}"
    return f"{count} {link.field.what} are keys of {link.column.table} in {link.there}"


def _built(made: Builder, names: Names) -> list[str]:
    collection, path = made.collection.replace("'", "''"), made.path.replace("'", "''")
    here = f"{made.vectors}: SELECT json_extract(metadata, '$.{made.key}') FROM collections WHERE name = '{collection}'"  # noqa: S608
    there = f"{made.model}: SELECT sha256 FROM files WHERE path = '{path}'"  # noqa: S608 - quoted; for the owner to read
    return [
        f"  # {shown(made.collection)} names the model that built it by the digest of its file.",
        f"  {names.give(made.vectors, 'built-by', made.model)}:",
        f"    equal: [{in_brackets(here)}, {in_brackets(there)}]",
    ]


def _inclusion(key: ForeignKey) -> tuple[tuple[str, str], tuple[str, str]]:
    columns = ", ".join(map(quoted, key.columns))
    present = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in key.columns)
    there = ", ".join(map(quoted, key.parent_columns))
    return (
        ("every", f"SELECT {columns} FROM {quoted(key.table)} WHERE {present}"),  # noqa: S608 - identifiers are quoted
        ("exists_in", f"SELECT {there} FROM {quoted(key.parent)}"),  # noqa: S608 - identifiers are quoted
    )


def _rest(seen: Survey) -> list[str]:
    lines = [
        "",
        "retention: {last: 10, daily: 7, weekly: 4, at_least: 3}",
        "limits: {freeze: 5s}",
        "isolation: required",
        "# What is promised is yours to say:",
        "# objectives: {rpo: 15m, rto: 10m}",
    ]
    if seen.secrets:
        lines += [
            "",
            "# WARNING: these hold secrets and are NOT captured. Keep them in a secret store and refer to them (${NAME}):",
        ]
        lines += [f"#   {shown(path)}: {shown(why)}" for path, why in seen.secrets.items()]
    if seen.notes:
        lines += ["", "# Seen, and not proposed:", *(f"#   {shown(note)}" for note in seen.notes)]
    return lines
