"""The system manifest: what it means when it is right, and where and how it is wrong when it is not (P12)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples.handbook.building import build
from resurgam.capture import manifest
from resurgam.capture.manifest import load_manifest, schema
from resurgam.errors import ManifestError, NewerFormat
from resurgam.model import system as model
from resurgam.model.system import Isolation, System

ROOT = Path(__file__).parents[2]

GOOD = """\
resurgam: 1
system: handbook
description: A question-answering service over technical documents
vault: {path: ../vault, keys: "${KEYS}", compression: small}
components:
  documents: {driver: sqlite, location: data/handbook.db, owner: docs-team, tier: critical, consistency: transaction,
              options: {rows: true}}
  router:    {driver: files, location: models, derived_from: [documents]}
  prompts:   {driver: files, location: prompts}
invariants:
  tickets-cite-chunks: {every: "documents: SELECT chunk_id FROM tickets", exists_in: "documents: SELECT id FROM chunks"}
  chunks-complete: {component: documents, sql: "SELECT count(*) FROM chunks", expect: 2000}
  same: {equal: ["documents: SELECT a FROM b", "documents: SELECT c FROM d"]}
  rendered: {run: [./check, "{prompts}"], reads: [prompts], timeout: 5s}
probes:
  golden: {kind: command, run: [python, -m, handbook, --database, "{documents}", "{{literal}}"], ask: {file: golden.json},
           reads: [documents, router, prompts], witness: true, tolerance: exact, timeout: 1.5s,
           env: {TOKEN: "${TOKEN}", DB: "{documents}"}}
  counts: {kind: sql, component: documents, sql: "SELECT count(*) FROM chunks"}
objectives: {rpo: 15m, rto: 10m}
retention: {last: 10, daily: 7, window: 30d, at_least: 3}
limits: {freeze: 250ms, read_mb_s: 200, cpu: 0.5}
barrier: {file: /run/handbook.lock, timeout: 3s}
promotion: {fence: [./fence.sh, "on"], reload: [./reload.sh]}
isolation: best-effort
"""
SMALL = """\
resurgam: 1
system: small
vault: {path: ../vault, keys: ../keys}
components:
  a: {driver: files, location: a}
"""


def load(folder: Path, text: str | bytes, **environ: str) -> System:
    """The system of a manifest with this text, in a folder with a golden set."""
    (folder / "golden.json").write_text('{"first": "What is a chunk?"}')
    path = folder / "resurgam.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_manifest(str(path), environ={"KEYS": "/etc/resurgam/keys", **environ})


def problems(folder: Path, text: str | bytes, **environ: str) -> list[str]:
    """The problems found, each without the file's name: ``line:column: what``."""
    with pytest.raises(ManifestError) as caught:
        load(folder, text, **environ)
    assert caught.value.next_step
    assert caught.value.untouched
    name = f"{folder}/resurgam.yaml:"
    return [line.removeprefix(name) for line in caught.value.message.split("\n") if line.startswith(name)]


def place(text: str, part: str) -> str:
    """``line:column:`` of the only place where ``part`` stands in ``text``; a ``|`` in ``part`` marks it more exactly."""
    head, _, tail = part.rpartition("|")
    assert text.count(head + tail) == 1
    before = text[: text.index(head + tail) + len(head)].split("\n")
    return f"{len(before)}:{len(before[-1]) + 1}:"


def test_every_field_arrives_in_the_system(tmp_path: Path) -> None:
    system = load(tmp_path, GOOD)
    documents, router, _ = system.components
    golden, counts = system.probes
    assert (system.name, system.root, system.isolation) == ("handbook", str(tmp_path), Isolation.BEST_EFFORT)
    assert system.vault == model.VaultPlace(
        path=str(tmp_path.parent / "vault"), keys="/etc/resurgam/keys", compression="small"
    )
    assert documents.location == str(tmp_path / "data/handbook.db")
    assert (documents.owner, documents.tier, documents.consistency) == ("docs-team", "critical", "transaction")
    assert documents.options == {"rows": True}
    assert router.derived_from == ("documents",)
    assert system.invariants[1].expect == 2000
    assert system.invariants[2].equal == ("documents: SELECT a FROM b", "documents: SELECT c FROM d")
    assert system.invariants[3] == model.Invariant(
        name="rendered", run=("./check", "{prompts}"), reads=("prompts",), timeout=5.0
    )
    assert system.barrier == model.Barrier(file="/run/handbook.lock", timeout=3.0)
    assert golden.ask == {"first": "What is a chunk?"}
    assert golden.run[-2:] == ("{documents}", "{{literal}}")
    assert (golden.timeout, golden.witness, golden.reads) == (1.5, True, ("documents", "router", "prompts"))
    assert system.objectives == model.Objectives(rpo=900.0, rto=600.0)
    assert system.retention == model.Retention(last=10, daily=7, window=30 * 86400.0, at_least=3)
    assert system.limits == model.Limits(freeze=0.25, read_mb_s=200.0, cpu=0.5)
    assert system.promotion == model.Promotion(fence=("./fence.sh", "on"), reload=("./reload.sh",))
    assert counts.reads == ("documents",), "a probe that asks a component reads it, said or not"


def test_a_small_manifest_has_the_models_defaults(tmp_path: Path) -> None:
    system = load(tmp_path, SMALL)
    assert system == System(
        name="small",
        vault=model.VaultPlace(path=str(tmp_path.parent / "vault"), keys=str(tmp_path.parent / "keys")),
        components=(model.Component(name="a", driver="files", location=str(tmp_path / "a")),),
        root=str(tmp_path),
    )


def test_references_to_secrets_stay_references(tmp_path: Path) -> None:
    """A System goes into every point, so only paths are looked up."""
    system = load(tmp_path, GOOD, TOKEN="hunter2-hunter2")
    assert system.probes[0].env == {"TOKEN": "${TOKEN}", "DB": "{documents}"}
    assert "hunter2" not in repr(system)


def test_home_and_files_are_looked_up_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    (tmp_path / "where").write_text("/mnt/vault\n")
    text = (
        SMALL.replace("../vault", "{file: where}")
        .replace("../keys", "~/keys")
        .replace("location: a", 'location: "${DATA}/a"')
    )
    system = load(tmp_path, text, DATA="/srv")
    assert (system.vault.path, system.vault.keys, system.components[0].location) == (
        "/mnt/vault",
        "/home/ada/keys",
        "/srv/a",
    )


WRONG_TEXT = [
    # what to replace, with what, where the problem must be told (a part of the new text), what must be said
    ("driver: sqlite", "drivr: sqlite", "drivr", "'drivr' is not a field of a component. Did you mean 'driver'?"),
    ("isolation: best-effort", "isolatoin: required", "isolatoin", "Did you mean 'isolation'?"),
    ("driver: sqlite", "driver: sqlit", "sqlit,", "'sqlit' is not a kind of driver. Did you mean 'sqlite'?"),
    ("kind: command", "kind: comand", "comand", "'comand' is not a kind of probe. Did you mean 'command'?"),
    ("[documents, router, prompts]", "[documents, rooter]", "rooter", "'rooter' is not a component. Did you mean 'router'?"),
    ("derived_from: [documents]", "derived_from: [docs]", "docs]", "'docs' is not a component. Did you mean 'documents'?"),
    ("derived_from: [documents]", "derived_from: [router]", "[router]", "a cycle: router is derived from router"),
    ("derived_from: [documents]", "derived_from: documents", "derived_from: |documents}", "expected a list"),
    ("reads: [documents, router, prompts]", "reads: [router, router]", "router]", "stands here twice"),
    ("tier: critical", "tier: critical, residency: eu", "residency: |eu, cons", "residency: eu needs a shred_domain of its own"),
    ("tier: critical", "tier: cold", "cold, cons", "tier: cold needs a shred_domain of its own"),
    ("tier: critical", "residency: EU", "EU, cons", "expected a region"),
    ("compression: small", "compression: smal", "smal}", "Did you mean 'small'? Expected one of: fast, balanced, small."),
    ("compression: small", "compression: 9", "9}\ncomp", "expected a compression, found a number"),
    ("tier: critical", "tier: on", "tier: |on,", "found true or false; put it in quotes"),
    ("consistency: transaction", "consistency: transactional", "transactional", "Did you mean 'transaction'?"),
    ("best-effort", "besteffort", "besteffort", "Did you mean 'best-effort'? Expected one of: required, best-effort."),
    ("rpo: 15m", "rpo: 15", "15,", "expected a duration with its unit"),
    ("rpo: 15m", "rpo: 15 minutes", "15 minutes", "expected a duration with its unit"),
    ("rpo: 15m", "rpo: 1:30", "1:30", "a number that YAML 1.1 reads in a way of its own"),
    ("250ms", "0s", "0s", "longer than nothing"),
    ("250ms", "40000d", "40000d", "not longer than a hundred years"),
    ("daily: 7", "daily: 7.5", "7.5", "expected a whole number"),
    ("daily: 7", "daily: -1", "-1", "expected a whole number, 0 or more, found -1"),
    ("daily: 7", "daily: 017", "017", "a number that YAML 1.1 reads in a way of its own"),
    ("at_least: 3", "at_least: 0", "at_least: |0}", "1 or more"),
    ("read_mb_s: 200", "read_mb_s: 0", "read_mb_s: |0,", "a number above 0"),
    ("cpu: 0.5", "cpu: 0", "cpu: |0}", "a number above 0"),
    ("read_mb_s: 200", "read_mb_s: .inf", ".inf", "a number that YAML 1.1 reads in a way of its own"),
    ("witness: true", "witness: 1", "1, tol", "expected true or false, found a number"),
    ("timeout: 1.5s", "timeout: [1]", "[1]", "found a list"),
    ("handbook\ndesc", "Hand Book\ndesc", "Hand Book", "expected a name"),
    ("  counts: {", "  Counts: {", "Counts", "expected a name"),
    ("  prompts:   {driver: files, location: prompts}", "  prompts: files", "files\n", "expected a component (a mapping"),
    ("location: prompts", "location: models/prompts", "models/prompts", "'prompts' is inside component 'router' (line 8)"),
    ("location: prompts", "location: ./models/", "./models/", "is the same place as component 'router'"),
    ("location: prompts", "location: .", ".}", "is around component 'documents' (line 6)"),
    ("location: prompts", "location: ../vault/x", "../vault/x", "is inside the vault's path"),
    ('"${KEYS}"', "prompts/keys", "prompts}\ninv", "is around the vault's keys"),
    ('"${KEYS}"', '"${NONE}"', '"${NONE}"', "the environment has no NONE"),
    ('"${KEYS}"', "$KEYS", "$KEYS", "Write ${NAME}"),
    ('"${KEYS}"', "{file: nowhere}", "nowhere", "the file cannot be read (No such file or directory)"),
    ('"${KEYS}"', "{fiel: x}", "fiel", "Did you mean 'file'?"),
    ("{file: golden.json}", "{file: golden.jsn}", "golden.jsn", "the file cannot be read"),
    ("{file: golden.json}", "{file: resurgam.yaml}", "resurgam.yaml", "expected a file of JSON"),
    ('{documents}"', '{docments}"', '"{docments}"', "'{docments}' names no component"),
    ('"{{literal}}"', "'{\"a\": 1}'", "'{\"a\"", "a literal brace is written twice"),
    (", exists_in:", ", expect:", '{every: "doc', "parts of both"),
    (', exists_in: "documents: SELECT id FROM chunks"', "", '{every: "doc', "lacks 'exists_in'"),
    (", expect: 2000", "", '{component: documents, sql: "SELECT count(*) FROM chunks"}\n  same', "lacks 'expect'"),
    (', "documents: SELECT c FROM d"]', "]", '["documents: SELECT a', "expected a list of 2"),
    ("documents: SELECT c", "docments: SELECT c", '"docments', "'docments' is not a component."),
    ("reads: [prompts], timeout: 5s", "timeout: 5s", '{run: [./check', "lacks 'reads'"),
    ("reads: [prompts], timeout: 5s", "reads: [router]", '"{prompts}"], reads: [router', "not under 'reads'"),
    ("expect: 2000", "expect: 2000, timeout: 5s", "timeout: 5s}\n  same", "is not a field of an invariant with 'component'"),
    ("/run/handbook.lock", "models/barrier.lock", "models/barrier.lock", "the barrier's file is inside component 'router'"),
    ("{file: /run/handbook.lock, timeout: 3s}", "{hold: [a], timeout: 3s}", "{hold: [a]", "lacks 'release'"),
    ("{file: /run/handbook.lock, timeout: 3s}", "{timeout: 3s}", "{timeout: 3s", "found none of them"),
    ("{file: /run/handbook.lock, ", "{file: /run/handbook.lock, hold: [a], ", "{file: /run/handbook.lock, hold", "parts of both"),
    ("documents: SELECT id", "docments: SELECT id", '"docments', "'docments' is not a component. Did you mean 'documents'?"),
    ("documents: SELECT id", "documents: DELETE id", '"documents: DELETE', "expected a query"),
    ("counts: {kind: sql, component: documents, sql", "counts: {kind: sql, sql", "{kind: sql, sql", "lacks 'component'"),
    ("kind: sql, ", "kind: sql, run: [x], ", "run: [x]", "'run' is not a field of a probe of kind 'sql'"),
    ("tolerance: exact", "tolerance: exakt", "exakt", "toleranc"),
    ("system: handbook\n", "system: handbook\nsystem: other\n", "system: other", "twice; the first is in line 2"),
    ("  router:    {", "  documents: {x: 1}\n  router:    {", "documents: {x", "'documents' stands here twice"),
    ("system: handbook", "system:", "\ndescr", "found nothing"),
    ("description: A", "description: !!python/name:os.system A", "!!python", "a YAML tag"),
    ("location: prompts}", "location: prompts, <<: *x}", "*x", "not YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "at", "said"), WRONG_TEXT, ids=[f"{case[1]}" for case in WRONG_TEXT])
def test_every_problem_names_its_place_and_the_way_out(tmp_path: Path, old: str, new: str, at: str, said: str) -> None:
    """P12: file, line, column, what was expected, the nearest valid word; and the rest of the file is not blamed."""
    assert GOOD.count(old) >= 1
    text = GOOD.replace(old, new, 1)
    found = problems(tmp_path, text)
    assert len(found) == 1, found
    if at != "\ndescr":  # nothing stands where the value should be: YAML places it after the colon
        assert found[0].startswith(place(text, at)), found
    assert said in found[0]


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        SMALL.replace("system: small", "sistem: small").replace("driver: files", "driver: fiels")
        + "isolation: on\nprobes: []\n"
    )
    lines = [line.split(":")[0] for line in problems(tmp_path, text)]
    assert lines == ["2", "5", "6", "7"]


@pytest.mark.parametrize("key", ["resurgam", "system", "vault", "components"])
def test_each_required_field_is_missed_by_name(tmp_path: Path, key: str) -> None:
    values = yaml.safe_load(SMALL)
    del values[key]
    assert [p for p in problems(tmp_path, yaml.safe_dump(values)) if f"lacks '{key}'" in p]


@pytest.mark.parametrize(
    ("data", "at", "said"),
    [
        (b"", "1:1:", "the file is empty"),
        (b"# only a comment\n", "1:1:", "the file is empty"),
        (b"- a\n", "1:1:", "found a list"),
        (b"resurgam: 1\nsystem: caf\xe9\n", "2:12:", "not UTF-8"),
        (b"resurgam: 1\nvault:\n\tpath: x\n", "3:1:", "A tab stands in the margin"),
        (b"a: \x01\n", "1:4:", "control character"),
        (b"a: 1\n---\nb: 1\n", "2:1:", "another document"),
        (b"a: [1\nb: 2\n", "2:2:", "not YAML"),
        (b"vault: {path: ${HOME}}\n", "1:16:", 'Between braces or brackets a reference stands in quotes: "${NAME}"'),
        (b"a: " + b"[" * 5000, "1:35:", "nested deeper than 32 levels"),
        (b"a: &x [*x]\n", "1:4:", "an alias (*) inside what it stands for"),
        (b"a: *hunter2\n", "1:4:", "found undefined alias"),
        (b"a: x\n" * 100_000, "1:1:", "more than 256 KiB"),
        (
            b"\n".join([b"a0: &a0 [x, x]", *(b"a%d: &a%d [*a%d, *a%d]" % (n, n, n - 1, n - 1) for n in range(1, 30))]),
            "1:",
            "20000",
        ),
    ],
)
def test_what_is_no_manifest_at_all_is_told_so(tmp_path: Path, data: bytes, at: str, said: str) -> None:
    """Hostile and broken files end in a ManifestError: no crash, no hang, no flood of memory."""
    found = problems(tmp_path, data)
    assert found[0].startswith(at), found
    assert said in found[0]
    assert "hunter2" not in found[0]


def test_a_missing_file_is_a_manifest_error_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"resurgam.yaml:1:1: .*No such file") as caught:
        load_manifest(str(tmp_path / "resurgam.yaml"))
    assert "resurgam init" in caught.value.next_step


def test_a_newer_format_is_told_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(NewerFormat, match=r"resurgam.yaml:1:11: the system manifest has format 2"):
        load(tmp_path, "resurgam: 2\nworld: {}\n")


def test_a_longer_cycle_is_told_as_a_path(tmp_path: Path) -> None:
    text = SMALL.replace("location: a}", "location: a, derived_from: [b]}") + (
        "  b: {driver: files, location: b, derived_from: [c]}\n  c: {driver: files, location: c, derived_from: [a]}\n"
    )
    (found,) = problems(tmp_path, text)
    assert re.search(r"a cycle: (\w) is derived from (\w) is derived from (\w) is derived from \1\.", found)


def test_places_are_compared_through_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    (found,) = problems(tmp_path, SMALL + "  b: {driver: files, location: b}\n")
    assert "component 'b' is the same place as component 'a'" in found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, len(GOOD)),
    length=st.integers(0, 12),
    put=st.text(alphabet=" \n\t{}[]:,-&*!|>'\"%@#?$0aZ\u00e9\x00", max_size=6),
)
def test_a_damaged_file_is_a_system_or_a_told_problem_and_nothing_else(
    tmp_path: Path, start: int, length: int, put: str
) -> None:
    """Whatever an editor or a bad disk did: no error but ours, and always with a place."""
    told = None
    try:
        load(tmp_path, GOOD[:start] + put + GOOD[start + length :])
    except (ManifestError, NewerFormat) as error:
        told = error.message
    assert told is None or re.match(r".*resurgam\.yaml:[0-9]+:[0-9]+: ", told)


SECRETS = [
    ("options: {rows: true}", "options: {password: correct-horse-7}", "correct-horse-7"),
    ("options: {rows: true}", "options: {deep: [{apiKey: correct-horse-7}]}", "correct-horse-7"),
    ("options: {rows: true}", "options: {url: 'postgres://ada:correct-horse-7@db/x'}", "'postgres:"),
    ('TOKEN: "${TOKEN}"', "GITHUB_TOKEN: correct-horse-7", "correct-horse-7"),
    ("--database,", "--api-key, correct-horse-7,", "correct-horse-7"),
    ("--database,", "--token=correct-horse-7,", "--token="),
    ("[./reload.sh]", "[./reload.sh, ghp_correcthorse7correcthorse7correc]", "ghp_"),
    ("A question-answering", "AGE-SECRET-KEY-1correct-horse-7", "AGE-"),
    ('"${KEYS}"', "AGE-SECRET-KEY-1correct-horse-7", "AGE-"),
    ("vault: {", "vault: {passphrase: 1234567, ", "1234567"),
]


@pytest.mark.parametrize(("old", "new", "at"), SECRETS, ids=[case[1] for case in SECRETS])
def test_a_secret_written_out_is_refused_and_never_repeated(tmp_path: Path, old: str, new: str, at: str) -> None:
    text = GOOD.replace(old, new, 1)
    found = problems(tmp_path, text)
    assert [
        p
        for p in found
        if p.startswith(place(text, at)) and "a secret is written out here" in p and "{file: path}" in p
    ]
    assert "horse" not in "".join(found)
    assert "1234567" not in "".join(found)


def test_a_secret_where_a_path_is_looked_up_is_refused_and_never_repeated(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, GOOD, KEYS="AGE-SECRET-KEY-1HORSE")
    assert "Name the place where it is kept" in found
    (tmp_path / "key").write_text("AGE-SECRET-KEY-1HORSE\n")
    (found_in_file,) = problems(tmp_path, GOOD.replace('"${KEYS}"', "{file: key}"))
    assert "HORSE" not in found + found_in_file


@pytest.mark.parametrize(
    "options",
    ['{password: "${DB}"}', "{password: {file: /run/secrets/db}}", "{max_tokens: 100}", "{token: true}", "{url: 'http://h:80/a@b'}",
     "{url: 'postgres://u:${DB}@h/d'}", "{tokenizer: bert, keyring: x, secretary: ada}"],
)  # fmt: skip
def test_references_and_innocent_words_are_no_secrets(tmp_path: Path, options: str) -> None:
    load(tmp_path, GOOD.replace("{rows: true}", options))


# --- the published schema --------------------------------------------------------------------------------------------


def test_the_published_schema_is_current() -> None:
    published = json.loads((ROOT / "docs/resurgam.schema.json").read_text())
    assert published == schema(), "make it again with `make docs`"


def test_the_schema_is_a_schema_and_accepts_what_the_reader_accepts() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    for text in (GOOD, SMALL):
        jsonschema.validate(yaml.safe_load(text), schema())


def _sayable(case: tuple[str, str, str, str]) -> bool:
    """Whether JSON Schema can say what is wrong: not names that must exist, files, cycles, places, or YAML itself."""
    unsayable = ("is not a component", "kind of", "cycle", "cannot be read", "names no component", "literal brace", "environment",
                 "${NAME}", "inside", "under 'reads'", "same", "around", "twice", "YAML", "file of JSON", "longer than",
                 "toleranc", "shred_domain of its own")  # fmt: skip
    return not any(word in case[3] for word in unsayable)


@pytest.mark.parametrize("case", [c for c in WRONG_TEXT if _sayable(c)], ids=lambda c: c[1])
def test_the_schema_refuses_what_the_reader_refuses(case: tuple[str, str, str, str]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(GOOD.replace(case[0], case[1], 1)), schema())


def test_the_form_has_exactly_the_fields_of_the_model() -> None:
    """What the file can say and what a System can hold do not drift apart."""

    def fields(kind: type[msgspec.Struct], *other: str) -> set[str]:
        return {field.name for field in msgspec.structs.fields(kind)} - {"name", "root", "apart", "at"} | set(other)

    def part(key: str) -> set[str]:
        return set(schema()["properties"][key]["properties"])

    assert set(manifest.COMPONENT.fields) == fields(model.Component)
    assert set(manifest.INVARIANT.fields) == fields(model.Invariant)
    assert set(manifest.PROBE.fields) == fields(model.Probe)
    assert set(manifest.SYSTEM.fields) == fields(model.System, "resurgam", "system")
    assert part("vault") == fields(model.VaultPlace)
    assert part("objectives") == fields(model.Objectives)
    assert part("retention") == fields(model.Retention)
    assert part("limits") == fields(model.Limits)
    assert part("barrier") == fields(model.Barrier)
    assert part("promotion") == fields(model.Promotion)
    assert set(manifest.HOSTED.fields) == fields(model.Hosted)


# --- examples and documentation --------------------------------------------------------------------------------------


def _doc_examples() -> list[str]:
    return re.findall(r"```yaml\n(resurgam: 1\n.*?)```", (ROOT / "docs/manifest.md").read_text(), re.DOTALL)


def test_the_documentation_explains_every_field_and_its_examples_load(tmp_path: Path) -> None:
    text = (ROOT / "docs/manifest.md").read_text()

    def names(of: dict[str, Any]) -> list[str]:
        return [name for key, value in of.get("properties", {}).items() for name in [key, *names(value)]]

    records = (schema(), manifest.COMPONENT.schema(), manifest.INVARIANT.schema(), manifest.PROBE.schema())
    assert [name for record in records for name in names(record) if f"`{name}`" not in text] == []
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes/golden.json").write_text("{}")
    assert len(_doc_examples()) >= 2
    for example in _doc_examples():
        jsonschema.validate(yaml.safe_load(example), schema())
        load(tmp_path, example, RESURGAM_KEYS="/etc/resurgam")


def test_the_example_s_manifest_fits_the_schema_and_loads(tmp_path: Path) -> None:
    built = tmp_path / "handbook"
    build(str(built))
    text = (built / "resurgam.yaml").read_text()
    jsonschema.validate(yaml.safe_load(text), schema())
    assert load_manifest(str(built / "resurgam.yaml")).name == "handbook"
