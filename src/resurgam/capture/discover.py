"""A first manifest for a folder: the text of a ``resurgam.yaml`` that loads as it is, made from what lies there.

    survey -> names -> relations, invariants, probes -> text

The owner's knowledge is not guessed. A relation between components is proposed only where a file says so, and a comment names
the file; keys that must exist are the foreign keys that a database declares; the only probes are counts, which are necessary and
never sufficient (P4), so a comment says what is still unprobed.
"""

from __future__ import annotations

import os
import re
import sqlite3
from dataclasses import dataclass, field

import yaml

from resurgam.capture.discover_sqlite import Database, ForeignKey, look_into, quoted
from resurgam.capture.manifest import FORMAT
from resurgam.capture.survey import Found, Kind, Survey, survey, writable

MAX_COUNTS = 12  # probes of counts per database; more tables share them, since each probe costs a process

_NOT_NAME = re.compile(r"[^a-z0-9_]+")


@dataclass(slots=True)
class _Part:
    """A component to be: what was found, under which name, and what is known of it."""

    name: str
    found: Found
    database: Database | None = None
    relations: list[tuple[str, str, str]] = field(default_factory=list)  # word, component, the file that says so
    notes: list[str] = field(default_factory=list)


class _Names:
    """Names of the manifest, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def give(self, *words: str) -> str:
        """``words`` as one name that was not given before."""
        base = _NOT_NAME.sub("-", "-".join(words).lower()).strip("-_")[:56] or "part"
        name = next(
            name
            for number in range(1, 10_000)
            if (name := base if number == 1 else f"{base}-{number}") not in self._given
        )
        self._given.add(name)
        return name


def propose(folder: str) -> str:
    """The text of a commented manifest for ``folder``; it loads as it is when it stands there as ``resurgam.yaml``.

    Nothing is written, also not by SQLite. Raises UsageError where ``folder`` is none, NotFound where nothing fits.
    """
    seen = survey(folder)
    parts = _parts(seen)
    system = _Names().give(os.path.basename(seen.root))
    lines = [
        "# Proposed by `resurgam init` from what lies in this folder. Read it, correct it, and run `resurgam preflight`.",
        "# Every field is explained in docs/manifest.md.",
        f"resurgam: {FORMAT}",
        f"system: {_yaml(system)}",
        "",
        "# Where recovery points go (better on another disk), and where this host's keys are. No secret stands in this file.",
        "vault:",
        f"  path: {_yaml(f'../{system}-vault')}",
        f"  keys: {_yaml(f'~/.config/resurgam/{system}')}",
        "",
        "components:",
        *(line for part in parts for line in _component(part)),
        *_invariants(parts),
        *_probes(parts),
        *_rest(seen),
    ]
    return "\n".join(lines) + "\n"


def _parts(seen: Survey) -> list[_Part]:
    names = _Names()
    parts = [_Part(names.give(_stem(found)), found) for found in seen.found]
    databases = [part for part in parts if part.found.kind is Kind.DATABASE]
    for part in databases:
        try:
            part.database = look_into(os.path.join(seen.root, part.found.path))
        except (sqlite3.Error, OSError) as error:
            part.notes.append(f"could not be looked into: {_shown(str(error))}")
    for part in parts:
        word = "derived_from" if part.found.kind in {Kind.MODEL, Kind.DATASET} else "reads"
        for database in databases:
            if part is not database and (said := seen.mentions(part.found, os.path.basename(database.found.path))):
                part.relations.append((word, database.name, said))
    return parts


def _component(part: _Part) -> list[str]:
    found = part.found
    is_database = found.kind is Kind.DATABASE
    tables = f", tables: {len(part.database.tables)}" if part.database else ""
    lines = [f"  # {found.kind.value}, {_size(found.size)}{tables}", *(f"  # {note}" for note in part.notes)]
    lines += [
        f"  {_yaml(part.name)}:",
        f"    driver: {'sqlite' if is_database else 'files'}",
        f"    location: {_yaml(found.path)}",
    ]
    if is_database:
        lines.append("    consistency: transaction")
    for word in ("derived_from", "reads"):
        if relations := [relation for relation in part.relations if relation[0] == word]:
            lines += [f"    # inferred: {_shown(said)} names the file of {name}" for _, name, said in relations]
            lines.append(f"    {word}: [{', '.join(_yaml(name) for _, name, _ in relations)}]")
    if left_out := [path for path in found.left_out if writable(path)]:
        lines.append(f"    options: {{exclude: [{', '.join(_flow(f'/{path}') for path in left_out)}]}}")
    return lines


def _invariants(parts: list[_Part]) -> list[str]:
    names = _Names()
    lines: list[str] = []
    for part in parts:
        for key in part.database.foreign_keys if part.database else ():
            if "".join((key.table, *key.columns, key.parent, *key.parent_columns)).isprintable():
                lines += [f"  {names.give(part.name, key.table, *key.columns)}:"]
                lines += [f"    {word}: {_yaml(f'{part.name}: {query}')}" for word, query in _inclusion(key)]
    return ["", "# Declared foreign keys, checked at every cut.", "invariants:", *lines] if lines else []


def _inclusion(key: ForeignKey) -> tuple[tuple[str, str], tuple[str, str]]:
    columns = ", ".join(map(quoted, key.columns))
    present = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in key.columns)
    there = ", ".join(map(quoted, key.parent_columns))
    return (
        ("every", f"SELECT {columns} FROM {quoted(key.table)} WHERE {present}"),  # noqa: S608 - identifiers are quoted
        ("exists_in", f"SELECT {there} FROM {quoted(key.parent)}"),  # noqa: S608 - identifiers are quoted
    )


def _probes(parts: list[_Part]) -> list[str]:
    names = _Names()
    lines: list[str] = []
    for part in parts:
        tables = [table for table in (part.database.tables if part.database else ()) if table.isprintable()]
        for group in (tables[first::MAX_COUNTS] for first in range(min(MAX_COUNTS, len(tables)))):
            query = " UNION ALL ".join(_count(table) for table in group)
            name = names.give("count", part.name, group[0])
            lines += [f"  {name}:", "    kind: sql", f"    component: {_yaml(part.name)}", f"    sql: {_yaml(query)}"]
            lines += [f"    reads: [{_yaml(part.name)}]", "    witness: true"]
    probed = {part.name for part in parts if part.database and part.database.tables}
    unprobed = [part.name for part in parts if part.name not in probed]
    advice = [
        "",
        "# Counts tell little: add a command that asks the system itself, so that a restore is judged by how it behaves.",
        "#   golden:",
        "#     kind: command",
        f'#     run: [python, -m, my_system, answer, --data, "{{{parts[0].name}}}"]',
        "#     ask: {file: golden.json}",
        f"#     reads: [{', '.join(part.name for part in parts)}]",
    ]
    if unprobed:
        advice.append(
            f"# Until then nothing asks {', '.join(unprobed)}: a restore of it is judged inconclusive (unprobed)."
        )
    return [*advice, *(["probes:", *lines] if lines else [])]


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
        lines += [f"#   {_shown(path)}: {_shown(why)}" for path, why in seen.secrets.items()]
    if seen.notes:
        lines += ["", "# Seen, and not proposed:", *(f"#   {_shown(note)}" for note in seen.notes)]
    return lines


def _stem(found: Found) -> str:
    name = os.path.basename(found.path)
    return os.path.splitext(name)[0] if found.kind is Kind.DATABASE or "." in name else name


def _yaml(text: str) -> str:
    """``text`` as a YAML scalar, in quotes where it needs them."""
    dumped: str = yaml.safe_dump(text, allow_unicode=True, width=float("inf"))
    return dumped.removesuffix("\n").removesuffix("\n...")


def _flow(text: str) -> str:
    """``text`` as a scalar inside brackets, always in quotes."""
    dumped: str = yaml.safe_dump(text, allow_unicode=True, width=float("inf"), default_style="'")
    return dumped.removesuffix("\n")


def _count(table: str) -> str:
    name = table.replace("'", "''")
    return f"SELECT '{name}', count(*) FROM {quoted(table)}"  # noqa: S608 - both are quoted


def _shown(text: str) -> str:
    """``text`` for a comment: one line, and nothing that could end it."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
