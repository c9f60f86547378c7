"""The system manifest: ``resurgam.yaml`` to a :class:`System`, or every reason why not, each with file, line and column.

    file -> tree with places (manifest_yaml) -> format known? -> no secret written out? -> every field in its form
    (manifest_form, manifest_references) -> the parts fit together -> System

The definitions below are the whole form of the file: the reader and the published JSON Schema (``docs/resurgam.schema.json``)
both come from them. Locations come out absolute, durations in seconds; references in options and in a probe's environment
stay references. Loading looks at no component: a manifest can be read when everything it names is lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from resurgam.capture.manifest_form import (
    NAME,
    ByKind,
    Choice,
    Duration,
    Field,
    Flag,
    ListOf,
    Named,
    Number,
    OneWay,
    Reading,
    Record,
    Text,
)
from resurgam.capture.manifest_parts import HOLE, Query, Template, Tolerance
from resurgam.capture.manifest_references import Anything, Path, StoreLocation
from resurgam.capture.manifest_yaml import Node, Place, Problems, bytes_of, read_tree
from resurgam.drivers import registry as drivers
from resurgam.errors import ManifestError
from resurgam.model.codec import require_format
from resurgam.model.placement import WORD, misplaced
from resurgam.model.point import TAG
from resurgam.model.secrets import found_in_arguments, found_in_text, is_literal, says_secret
from resurgam.model.system import (
    REFERENCE,
    Barrier,
    Budget,
    Component,
    Compression,
    Consistency,
    Hosted,
    Invariant,
    Isolation,
    Limits,
    LockMode,
    Objectives,
    Probe,
    Promotion,
    Retention,
    System,
    VaultLock,
    VaultPlace,
)
from resurgam.probes import registry as probes
from resurgam.probes.predict import LOADERS
from resurgam.probes.replay import ALLOWED, HOSTED_MODES
from resurgam.probes.replay import check as check_hosted
from resurgam.probes.retrieval import MODES
from resurgam.stores.archive import COLD as COLDER

FORMAT = 1

_name = Text("a name of at most 63 characters a-z, 0-9, '-' and '_', beginning with a letter or digit", NAME)
_component = Choice("a component", among="components")
_components = ListOf(_component, distinct=True)
_select = Text("a query, SELECT …", r"\s*([sS][eE][lL][eE][cC][tT]|[wW][iI][tT][hH])\b.*")
_kept = Number("a whole number, 0 or more", whole=True)
_argument = Text("an argument")
_many = Number("a whole number, 1 or more", whole=True, least=1)

COMPONENT = Record("a component", {
    "driver": Field(Choice("a kind of driver", among="drivers"), "The kind of store it is.", required=True),
    "location": Field(Path("a location", or_url=True), "Where it is: a path, relative to this file.", required=True),
    "owner": Field(Text(), "Who answers for it; shown in reports."),
    "tier": Field(_name, "How much it matters, in the owner's word; `standard` unless said. `cold` asks for `vault.cold`."),
    "derived_from": Field(_components, "The components it is computed from. Restored after them. No cycles."),
    "reads": Field(_components, "The components whose state it reads as it works."),
    "writes": Field(_components, "The components that it writes to."),
    "serves": Field(_components, "The components that it serves (a model and its router)."),
    "consistency": Field(Choice("a consistency", tuple(level.word for level in Consistency)),
                         "What is asked of its snapshots; less earned is a finding. `crash` unless said."),
    "shred_domain": Field(_name, "Components of one domain share chunks, and are destroyed together by destroying its key."),
    "residency": Field(Text("a region: at most 31 characters a-z, 0-9 and '-'", WORD),
                       "The region that its contents never leave; it needs a `shred_domain` of that residency."),
    "options": Field(Named("options", Anything(), name=r"[A-Za-z_][A-Za-z0-9_-]*"), "Settings of the driver; see its page."),
})  # fmt: skip

INVARIANT = Record("an invariant", {
    "every": Field(Query(), "The keys that must exist."),
    "exists_in": Field(Query(), "The keys that there are."),
    "equal": Field(ListOf(Query(), exactly=2), "Two queries that have the same keys, each on its own side."),
    "component": Field(_component, "The component that is asked."),
    "sql": Field(_select, "The question; its first value is compared."),
    "expect": Field(Anything(), "The value that the question must have."),
    "run": Field(ListOf(Template("an argument"), filled=True),
                 "A command that ends with 0 where it holds, and else prints the keys; {name} is the location of a private copy."),
    "reads": Field(ListOf(_component, distinct=True, filled=True), "The components that the command gets private copies of."),
    "timeout": Field(Duration(), "After this long the command is killed with all its children; `60s` unless said."),
}, rule=OneWay((("every", "exists_in"), ("equal",), ("component", "sql", "expect"), ("run", "reads")),
               may={"run": ("timeout",)}))  # fmt: skip

BARRIER = Record("the barrier", {
    "file": Field(Path("the path of a lock file"), "The lock that the application takes by `resurgam.sdk.barrier()`."),
    "hold": Field(ListOf(_argument, filled=True), "The command that returns when no write is between two stores."),
    "release": Field(ListOf(_argument, filled=True), "The command that lets writers go on; run on every way out."),
    "timeout": Field(Duration(), "The longest that a capture waits for it; `2s` unless said."),
}, rule=OneWay((("file",), ("hold", "release")), may={"file": ("timeout",), "hold": ("timeout",)}))  # fmt: skip

PROBE = Record("a probe", {
    "kind": Field(Choice("a kind of probe", among="probes"), "How it asks.", required=True),
    "reads": Field(_components, "The components that its answers depend on; what no probe reads is unprobed."),
    "witness": Field(Flag(), "Cheap and read-only: also asked of the live system just before and after the cut."),
    "timeout": Field(Duration(), "After this long the command is killed with all its children; `60s` unless said."),
    "tolerance": Field(Tolerance(), "What makes two answers the same; `exact` unless said."),
    "component": Field(_component, "The component that is asked (sql, retrieval, predict)."),
    "sql": Field(_select, "The question (sql)."),
    "run": Field(ListOf(Template("an argument"), filled=True),
                 "The command, an argument a part, run in this file's folder; {name} is a component's location (command, agent)."),
    "ask": Field(Anything(from_file=True), "What is asked: JSON, or {file: path} of JSON, .jsonl or .npy."),
    "env": Field(Named("variables", Template("the value of a variable", or_reference=True), name=r"[A-Za-z_][A-Za-z0-9_]*"),
                 "Variables added to the environment of its command."),
    "collection": Field(Text("the name of a collection"), "The collection that is searched (retrieval)."),
    "k": Field(Number("a whole number from 1 to 1000", whole=True, least=1, most=1000),
               "How many neighbours are asked for; 10 unless said (retrieval)."),
    "mode": Field(Choice("a mode", MODES),
                  "`exact`: our own search; `approximate`: the store's; `recall`: what that finds of the exact (retrieval)."),
    "canaries": Field(Flag(), "Also search for each record whose id begins with `canary:` (retrieval)."),
    "loader": Field(Choice("a loader", LOADERS), "How the model is loaded (predict)."),
    "model": Field(Text("a path in the component"), "The model's file, where the component is a folder (predict)."),
    "trusted": Field(ListOf(Text("the name of a type"), distinct=True), "Types that a skops file may hold too (predict)."),
    "encode": Field(ListOf(Template("an argument"), filled=True),
                    "The command that turns texts into numbers; like `run`, it answers {case: numbers} (retrieval, predict)."),
    "serve": Field(ListOf(Template("an argument", also=("port",)), filled=True),
                   "The command that serves the system on the loopback; {port} is the port to listen on (http)."),
    "ready": Field(Text("a path, beginning with '/'", r"/\S*"), "The path that answers once the server is ready (http)."),
    "url": Field(Template("an address"),
                 "The address of the running system, which a copy is never asked at; or {hosted:name} (http)."),
    "tools": Field(ListOf(Template("an argument"), filled=True),
                   "The command that really runs the tools (MCP over stdio); run by `probes record` alone (agent)."),
    "of": Field(Choice("a probe", among="asked"), "The probe whose question is timed (latency)."),
    "repeat": Field(_many, "How often it is asked; 20 unless said (latency)."),
    "warm_up": Field(Number("a whole number, 0 or more", whole=True), "How often before that; 3 unless said (latency)."),
}, rule=ByKind(
    {"command": ("run",), "sql": ("component", "sql"), "retrieval": ("component", "collection"),
     "predict": ("component", "loader", "ask"), "http": ("ask",), "agent": ("run", "ask"), "latency": ("of",), "freshness": ()},
    may={"command": ("ask", "env"), "retrieval": ("ask", "env", "k", "mode", "canaries", "encode"),
         "predict": ("env", "model", "trusted", "encode", "run"), "http": ("serve", "ready", "url", "env"),
         "agent": ("tools", "env"), "latency": ("repeat", "warm_up"), "freshness": ("component", "sql", "run", "ask", "env")},
))  # fmt: skip

_header = Text("the name of a header", r"[A-Za-z][A-Za-z0-9-]{0,63}")

HOSTED = Record("a hosted model", {
    "url": Field(Text("an address, https://… or http://…", r"https?://[^\s?#]+"),
                 "The one address that may be asked.", required=True),
    "provider": Field(Text(), "Who runs it."),
    "model": Field(Text(), "What is expected to answer."),
    "revision": Field(Text(), "Its revision, as far as the provider lets it be pinned."),
    "mode": Field(Choice("a mode", HOSTED_MODES), "What a copy gets in its place: `refuse` (unless said), `replay` or `proxy`."),
    "recording": Field(Anything(from_file=True), "What `probes record --hosted` wrote: {file: path} of .jsonl."),
    "allow": Field(ListOf(Text("a method and a path, such as POST /v1/chat", ALLOWED), distinct=True, filled=True),
                   "What the proxy lets through; `/*` at the end stands for all below."),
    "headers": Field(ListOf(_header, distinct=True, filled=True),
                     "Headers of a request that the proxy lets through beside Accept, Accept-Language, Content-Type, User-Agent."),
    "key": Field(Text("a reference to the credential, ${NAME}", REFERENCE.pattern),
                 "The credential that the proxy puts in; looked up when it asks, never given to a copy."),
    "header": Field(_header, "The header that carries the key alone; `Authorization: Bearer` unless said."),
    "budget": Field(Record("a budget", {
        "requests": Field(_many, "Requests; 1000 unless said."),
        "bytes": Field(_many, "Bytes, both ways; 64000000 unless said."),
        "seconds": Field(Duration(), "Time spent answering; `600s` unless said."),
    }), "The most that one verification through the proxy, or one recording, may ask of it."),
})  # fmt: skip

SYSTEM = Record("the manifest", {
    "resurgam": Field(Number(f"the manifest's format, {FORMAT}", whole=True, least=1, most=FORMAT),
                      "The format of this file.", required=True),
    "system": Field(_name, "The name of the system.", required=True),
    "description": Field(Text(), "What it is, in a line for people."),
    "vault": Field(Record("the vault's place", {
        "path": Field(StoreLocation(), "The folder of the vault, or a bucket: `s3://bucket/prefix?region=…&endpoint=…`, `gs://`, `az://`.",
                      required=True),
        "keys": Field(Path(), "The path of this host's keys, never a key itself.", required=True),
        "lock": Field(Record("the vault's lock", {
            "mode": Field(Choice("a mode", tuple(LockMode)), "Who can delete before its time: who is permitted to, or nobody.",
                          required=True),
            "for": Field(Duration(), "How long each object stays locked after it was written.", required=True),
        }), "Objects are locked as they are written; for S3 buckets made with object lock."),
        "cold": Field(Choice("a colder class", COLDER),
                      "The storage class of the contents of components with `tier: cold`; for S3 buckets. See docs/cost.md."),
        "compression": Field(Choice("a compression", tuple(Compression)),
                             "What new chunks are compressed for: `fast` captures, `small` vaults, or `balanced` (the default)."),
    }), "Where recovery points are kept.", required=True),
    "components": Field(Named("components", COMPONENT, filled=True), "The parts of the system, by name.", required=True),
    "invariants": Field(Named("invariants", INVARIANT), "What must hold across components at every cut."),
    "probes": Field(Named("probes", PROBE), "The questions that tell whether it behaves the same."),
    "hosted": Field(Named("hosted models", HOSTED), "Models and tools that others run; no restore brings them back."),
    "objectives": Field(Record("the objectives", {
        "rpo": Field(Duration(), "How much time's work may be lost."),
        "rto": Field(Duration(), "How long a recovery may take."),
    }), "What is promised; shown beside what is measured."),
    "retention": Field(Record("the retention", {
        "last": Field(_kept, "Keep this many of the newest points."),
        "hourly": Field(_kept, "Keep the first of each of this many hours that have one."),
        "daily": Field(_kept, "… of this many days."),
        "weekly": Field(_kept, "… of this many weeks."),
        "monthly": Field(_kept, "… of this many months."),
        "yearly": Field(_kept, "… of this many years."),
        "window": Field(Duration(), "Keep every point younger than this."),
        "at_least": Field(_many, "Never keep fewer than this many of the newest; 1 unless said."),
        "keep_tags": Field(ListOf(Text("a tag: at most 63 characters a-z, 0-9, '.', '-' and '_'", TAG), distinct=True),
                           "Keep every point with one of these tags."),
        "never": Field(Flag(), "Nothing expires."),
        "cooling": Field(Duration(), "How long this still keeps what it kept after another policy replaced it; `14d` unless said."),
    }), "How long points stay. In force is what `resurgam retention set` signed into the vault."),
    "limits": Field(Record("the limits", {
        "freeze": Field(Duration(), "The longest that writers may be held; `5s` unless said."),
        "read_mb_s": Field(Number("a number above 0", above=True), "The fastest that sources are read, in 10^6 bytes a second."),
        "cpu": Field(Number("a number above 0", above=True), "The most processor time, in seconds a second: 0.5 is half a core."),
    }), "What a capture may cost its sources; it stops before it costs more."),
    "barrier": Field(BARRIER, "What keeps a freeze from falling between two writes of the application."),
    "promotion": Field(Record("the promotion", {
        "fence": Field(ListOf(_argument, filled=True), "The command that keeps clients out."),
        "reload": Field(ListOf(_argument, filled=True), "The command that lets them in to the new state."),
        "timeout": Field(Duration(), "How long each may take; `60s` unless said."),
        "watch": Field(Duration(), "How long live is asked its probes afterwards; where it deviates, what was live comes back."),
        "watch_probes": Field(ListOf(Choice("a probe", among="asked"), distinct=True, filled=True),
                              "The probes asked then: those whose answers clients do not change by working. All unless said."),
    }), "The owner's commands around a switch of the live system."),
    "isolation": Field(Choice("an isolation", tuple(Isolation)),
                       "`required` (the default): what was not isolated is inconclusive. `best-effort` accepts it by name."),
})  # fmt: skip


def load_manifest(path: str, *, environ: Mapping[str, str] | None = None) -> System:
    """The system that the file at ``path`` declares. ``environ`` is what ``${NAME}`` is looked up in (the process's own).

    Raises ManifestError, whose message has a line ``file:line:column: …`` for each problem found, and NewerFormat.
    """
    problems = Problems(path)
    missing = "Write one with `resurgam init`, or name the right file with --manifest."
    root = read_tree(bytes_of(problems, missing), problems)
    _require_known_format(root, path)
    _refuse_secrets(root, problems)
    folder = os.path.dirname(os.path.abspath(path))
    components = _declared(root)
    named = {str(kind.value) for node in components.values() if (kind := node.child("driver"))}
    words = {
        "components": list(components),
        "asked": list(_declared(root, "probes")),
        "hosted": list(_declared(root, "hosted")),
        "drivers": sorted(drivers.kinds(named)),
        "probes": sorted(probes.kinds()),
    }
    values = SYSTEM.read(root, Reading(problems, folder, os.environ if environ is None else environ, words))
    _refuse_cycles(root, problems)
    _refuse_overlaps(root, values, problems)
    _refuse_unread(values, root, problems)
    problems.raise_if_any()
    system = _system(values, folder)
    _refuse_misplaced(root, system, problems)
    _refuse_impossible_probes(root, system, problems)
    _refuse_unreplayable(root, system, problems)
    problems.raise_if_any()
    return system


def schema() -> dict[str, Any]:
    """The form of the file as JSON Schema (draft 2020-12), for editors and for other tools."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:resurgam:system-manifest:{FORMAT}",
        "title": "System manifest of Resurgam (resurgam.yaml)",
    } | SYSTEM.schema()


def _system(values: dict[str, Any], folder: str) -> System:
    """The values of a manifest without problems as a System."""
    components = tuple(Component(name=name, **of) for name, of in values.pop("components").items())
    invariants = tuple(Invariant(name=name, **of) for name, of in values.pop("invariants", {}).items())
    asked = tuple(_probe(name, of) for name, of in values.pop("probes", {}).items())
    hosted = tuple(_hosted(name, of) for name, of in values.pop("hosted", {}).items())
    del values["resurgam"]
    if lock := values["vault"].get("lock"):
        values["vault"]["lock"] = VaultLock(mode=LockMode(lock["mode"]), period=lock["for"])
    parts = {
        "objectives": Objectives,
        "retention": Retention,
        "limits": Limits,
        "barrier": Barrier,
        "promotion": Promotion,
        "vault": VaultPlace,
    }
    made = {key: kind(**values.pop(key)) for key, kind in parts.items() if key in values}
    isolation = Isolation(values.pop("isolation", Isolation.REQUIRED))
    return System(
        name=values.pop("system"), components=components, invariants=invariants, probes=asked, isolation=isolation,
        hosted=hosted, root=folder, **made, **values,
    )  # fmt: skip


def _probe(name: str, values: dict[str, Any]) -> Probe:
    """A probe that asks one component also reads it, whether or not its list says so."""
    reads = values.pop("reads", ())
    asked = values.get("component")
    return Probe(name=name, reads=reads if asked is None or asked in reads else (asked, *reads), **values)


def _hosted(name: str, values: dict[str, Any]) -> Hosted:
    budget = Budget(**values.pop("budget", {}))
    return Hosted(name=name, budget=budget, **values)


def _declared(root: Node, what: str = "components") -> dict[str, Node]:
    named = root.child(what)
    return named.entries() if named else {}


def _require_known_format(root: Node, path: str) -> None:
    """A newer format is told first: whatever else looks wrong may be right there."""
    node = root.child("resurgam")
    if node and isinstance(node.value, int):
        require_format(node.value, FORMAT, what=f"{path}:{node.at.line}:{node.at.column}: the system manifest")


def _refuse_secrets(root: Node, problems: Problems) -> None:
    """A System becomes part of every recovery point, so no secret may stand in the file. The value is never repeated."""
    advice = "Use ${NAME} from the environment or {file: path} instead, and change the secret if this file was shared."
    for key, node in root.walk():
        if isinstance(node.value, str) and (why := found_in_text(node.value)):
            problems.add(node.at, f"a secret is written out here: {why}. {advice}")
        elif says_secret(key) and is_literal(node.value):
            problems.add(node.at, f"a secret is written out here, under '{key}'. {advice}")
        arguments = [str(part.value) for part in node.parts()]
        if (index := found_in_arguments(arguments)) is not None:
            problems.add(node.parts()[index].at, f"a secret is written out here, as an argument. {advice}")


def _refuse_cycles(root: Node, problems: Problems) -> None:
    """``derived_from`` orders restores, so it must not lead back to where it began."""
    graph: dict[str, list[str]] = {}
    for name, of in _declared(root).items():
        if sources := of.child("derived_from"):
            graph[name] = [part.value for part in sources.parts() if isinstance(part.value, str)]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = list(reversed(error.args[1]))
        node = root.child("components", cycle[0], "derived_from")
        assert node is not None
        problems.add(
            node.at, f"a cycle: {' is derived from '.join(cycle)}. Expected each to come from what stood before it."
        )


def _refuse_unread(values: dict[str, Any], root: Node, problems: Problems) -> None:
    """An invariant's command gets copies of what it reads, and must never be led to the live place instead."""
    for name, of in values.get("invariants", {}).items():
        node = root.child("invariants", name, "run")
        for part in node.parts() if node else ():
            for hole in HOLE.finditer(str(part.value)):
                if hole[1] and hole[1] in _declared(root) and hole[1] not in of.get("reads", hole[1]):
                    problems.add(part.at, f"'{hole[0]}' names a component that is not under 'reads'. Add it there.")


def _refuse_impossible_probes(root: Node, system: System, problems: Problems) -> None:
    """Each kind of probe knows best what it can be asked."""
    for probe in system.probes:
        try:
            probes.check_probe(probe, system, drivers.answers)
        except ManifestError as error:
            node = root.child("probes", probe.name)
            assert node is not None
            problems.add(node.at, f"{error.message} {error.next_step}".strip())


def _refuse_misplaced(root: Node, system: System, problems: Problems) -> None:
    """A shred domain shares chunks, so all of it has one place."""
    for component, why in misplaced(system.components):
        of = root.child("components", component.name)
        assert of is not None
        node = of.child("residency") or of.child("tier") or of.child("shred_domain") or of
        problems.add(node.at, f"component '{component.name}': {why}")


def _refuse_unreplayable(root: Node, system: System, problems: Problems) -> None:
    for hosted in system.hosted:
        try:
            check_hosted(hosted)
        except ManifestError as error:
            node = root.child("hosted", hosted.name)
            assert node is not None
            problems.add(node.at, f"{error.message} {error.next_step}".strip())


def _refuse_overlaps(root: Node, values: dict[str, Any], problems: Problems) -> None:
    """Two things in one place would be captured twice and could not be restored side by side; a captured vault would hold
    itself, and a captured key would lie beside what it opens."""
    places: dict[str, tuple[str, Place]] = {}
    vault = values.get("vault", {})
    named: list[tuple[str, str, tuple[str, ...]]] = [
        (f"the vault's {key}", vault[key], ("vault", key))
        for key in ("path", "keys")
        if str(vault.get(key, "")).startswith("/")
    ]
    for name, of in values.get("components", {}).items():
        if str(of.get("location", "")).startswith("/"):
            named.append((f"component '{name}'", of["location"], ("components", name, "location")))
    if file := values.get("barrier", {}).get("file"):
        named.append(("the barrier's file", file, ("barrier", "file")))
    for who, location, way in named:
        real = os.path.realpath(location)
        node = root.child(*way)
        assert node is not None
        if other := next((other for other in places if os.path.commonpath([real, other]) in {real, other}), None):
            how = "the same place as" if real == other else "inside" if real.startswith(other) else "around"
            taken, at = places[other]
            problems.add(node.at, f"{who} is {how} {taken} (line {at.line}). Expected places apart from each other.")
        places.setdefault(real, (who, node.at))
