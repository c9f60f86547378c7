"""An auditor needs no Resurgam: ``docs/verify.py`` finds in an exported folder what the audit finds in the vault."""

from __future__ import annotations

import ast
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resurgam.errors import TargetRefused
from resurgam.stores.base import Store
from resurgam.stores.local import LocalStore
from resurgam.testing.faults import MemoryStore, ReadOnlyStore
from resurgam.vault.audit import audit
from resurgam.vault.auditexport import export
from resurgam.vault.keyring import Keyring
from resurgam.vault.log import object_name
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository
from resurgam.vault.signing import Role
from tests.audited import Audited, forged_verdict, found, noted, put_entry, withdraw
from tests.support import copied, copy_keys, replaced

SCRIPT = Path(__file__).parents[2] / "docs" / "verify.py"
LINES = 220
ALONE = "import runpy, sys; sys.modules['resurgam'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
Attack = Callable[[Audited], Store]


@pytest.fixture
def world(tmp_path: Path) -> Audited:
    return Audited(str(tmp_path))


def nothing(world: Audited) -> Store:
    return world.store


def cut_off(world: Audited) -> Store:
    world.sign()
    return world.truncated(3)


def forked(world: Audited) -> Store:
    name, data = world.sign()
    store = world.truncated(4)
    store.delete(name)
    world.repository(store).put_record(
        RecordType.QUARANTINE, world.two.body.id, {"reason": "x"}, Role.APPROVER, world.clock
    )
    store.put(name, data)
    return store


def a_gap(world: Audited) -> Store:
    return replaced(world.store, object_name(3), None)


def the_first_missing(world: Audited) -> Store:
    return replaced(replaced(world.store, object_name(1), None), object_name(2), None)


def a_gap_filled(world: Audited) -> Store:
    store = replaced(world.store, object_name(3), None)
    world.repository(store).put_record(
        RecordType.QUARANTINE, world.one.body.id, {"reason": "x"}, Role.APPROVER, world.clock
    )
    return store


def renumbered(world: Audited) -> Store:
    store = copied(world.store)
    store.put(object_name(6), world.store.get(object_name(2)))
    store.put("log/notes.txt", b"hello")
    return store


def lying(world: Audited) -> Store:
    put_entry(world, world.store, 6, {"type": "verdict", "object": f"points/{world.one.body.id}"})
    put_entry(world, world.store, 7, {"type": "point", "object": "packs/00/00"})
    return world.store


def forged(world: Audited) -> Store:
    for number, by in enumerate((Role.CAPTURE, Role.VERIFIER)):
        world.store.put(f"records/{world.two.body.id}/verdict-{number:016x}", forged_verdict(world, by))
    return world.store


def of_another_point(world: Audited) -> Store:
    old = world.store.get(world.verdict_of(world.one))
    world.store.put(f"records/{world.one.body.id}/verdict-0000000000000000", old)
    world.store.put(f"records/{world.two.body.id}/verdict-0000000000000000", old)
    world.store.put(f"records/{world.one.body.id}/reference-0000000000000000", old)
    return world.store


def gone(world: Audited) -> Store:
    return replaced(world.store, world.verdict_of(world.two), None)


def altered(world: Audited) -> Store:
    name = world.verdict_of(world.two)
    return replaced(world.store, name, world.store.get(name) + b"\n")


def tampered(world: Audited) -> Store:
    """Other words under the signature of the right key."""
    name = world.verdict_of(world.two)
    envelope = json.loads(world.store.get(name))
    said = base64.b64decode(envelope["payload"]).replace(b'"judgement":1', b'"judgement":4')
    envelope["payload"] = base64.b64encode(said).decode()
    return replaced(world.store, name, json.dumps(envelope).encode())


def rubbish(world: Audited) -> Store:
    store = copied(world.store)
    for name in ("points/0000000000000000", "roles/00000002", "checkpoints/0000000005", "prune/x/plan", "leases/x"):
        store.put(name, b"rubbish")
    store.put("retention/00000001", b'{"payloadType": "x", "payload": "", "payload": "", "signatures": []}')
    return store


def unlogged(world: Audited) -> Store:
    return world.truncated(3)


def removed(world: Audited) -> Store:
    withdraw(world, Role.VERIFIER, removed="2026-01-01T00:00:00.000000Z")
    return world.store


def retired_before(world: Audited) -> Store:
    withdraw(world, Role.VERIFIER, retired="2001-01-01T00:00:00.000000Z")
    return world.store


def retired_afterwards(world: Audited) -> Store:
    world.sign()
    withdraw(world, Role.VERIFIER, retired="2999-01-01T00:00:00.000000Z")
    return world.store


def auditor_removed(world: Audited) -> Store:
    world.sign()
    withdraw(world, Role.AUDITOR, removed="2026-01-01T00:00:00.000000Z")
    return world.store


ATTACKS: list[Attack] = [
    nothing,
    cut_off,
    forked,
    a_gap,
    the_first_missing,
    a_gap_filled,
    renumbered,
    lying,
    forged,
    of_another_point,
    gone,
    altered,
    tampered,
    rubbish,
    unlogged,
    removed,
    retired_before,
    retired_afterwards,
    auditor_removed,
]


def run(folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own in which nothing of Resurgam can be imported."""
    command = [sys.executable, "-I", "-c", ALONE, str(SCRIPT), folder, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def exported(world: Audited, store: Store) -> str:
    into = f"{world.folder}/for the auditor"
    repository = world.repository(store, world.auditor)
    export(repository, world.audit(store), into, world.clock)
    return into


def told(lines: list[str]) -> set[tuple[str, str]]:
    return {(line.split(": ")[0], line.split(": ")[1]) for line in lines}


def test_the_script_is_short_and_imports_nothing_of_ours() -> None:
    """Else it would prove nothing about the document."""
    source = SCRIPT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LINES
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    ours = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert ours == {"blake3", "cryptography"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_script_finds_what_the_audit_finds(world: Audited, attack: Attack) -> None:
    """The same findings at the same objects, by an independent reader of the format; P9: with the root's fingerprint alone."""
    store = attack(world)
    report = world.audit(store)
    done = run(exported(world, store), world.repository().keyring.trust.root)
    _, *lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert told([line for line in lines if not line.startswith("- ")]) == found(report)
    assert done.returncode == (0 if report.ok else 8)
    notes = {note for note in noted(report) if note[0] != "not covered"}
    assert told([line[2:] for line in lines if line.startswith("- ")]) == notes
    assert f"Merkle root {report.root}" in done.stdout


def test_what_somebody_kept_is_compared(world: Audited, tmp_path: Path) -> None:
    """A checkpoint that a witness kept shows a log that was cut off, in the script as in the audit."""
    _, data = world.sign()
    kept = tmp_path / "kept.txt"
    kept.write_bytes(data)
    store = world.truncated(3)
    store.delete("checkpoints/0000000005")
    folder = exported(world, store)
    assert run(folder, "").returncode == 0
    done = run(folder, "", str(kept))
    assert (done.returncode, told(done.stdout.splitlines()[1:2])) == (8, {("rolled back", str(kept))})


def test_a_vault_of_the_first_release_is_sound(tmp_path: Path) -> None:
    """Its entries name neither digests nor each other, its role table no auditor; both readers know that."""
    kept = SCRIPT.parents[1] / "tests/format/kept"
    keys = copy_keys(str(kept / "keys"), str(tmp_path / "keys"), ["trust.json"])
    repository = Repository(ReadOnlyStore(LocalStore(str(kept / "vault"))), Keyring(keys))
    report = audit(repository)
    assert (report.ok, report.covered) == (True, 0)
    assert report.entries == len(list((kept / "vault/log").iterdir())) > 0
    done = run(str(kept / "vault"), repository.keyring.trust.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Merkle root {report.root}" in done.stdout


def test_another_root_key_is_believed_in_nothing(world: Audited, tmp_path: Path) -> None:
    """The fingerprint is the one thing that must come by another way."""
    other = Audited(str(tmp_path / "other"))
    done = run(exported(world, world.store), other.repository().keyring.trust.root)
    assert done.returncode != 0
    assert "entries" not in done.stdout


def test_a_folder_is_whole_or_not_there(world: Audited) -> None:
    """P5; and it says what it holds to who reads it without any tool."""
    folder = exported(world, world.store)
    assert {"INDEX.txt", "LOG.txt", "verify.py", "received.json", "vault.json", "log", "points"} <= set(
        os.listdir(folder)
    )
    index = Path(folder, "INDEX.txt").read_text(encoding="utf-8")
    assert world.repository().keyring.trust.root in index
    assert all(sealed.body.id in index for sealed in (world.one, world.two))
    assert len(Path(folder, "LOG.txt").read_text(encoding="utf-8").splitlines()) == 5
    received = json.loads(Path(folder, "received.json").read_bytes())
    assert received.keys() == {
        entry.name for entry in world.store.list() if not entry.name.startswith(("packs/", "keys/", "index/"))
    }
    assert Path(folder, "verify.py").read_bytes() == SCRIPT.read_bytes()
    with pytest.raises(TargetRefused):
        export(world.repository(), world.audit(), folder, world.clock)
    assert not [name for name in os.listdir(world.folder) if "partial" in name]


def test_what_cannot_be_believed_is_exported_all_the_same(world: Audited) -> None:
    """An auditor sees what is there, not what somebody thinks is right."""
    store: MemoryStore = copied(world.store)
    store.put("log/0000000006", b"rubbish")
    folder = exported(world, store)
    assert Path(folder, "log/0000000006").read_bytes() == b"rubbish"
    assert "NOT BELIEVED" in Path(folder, "LOG.txt").read_text(encoding="utf-8")
    assert "not believed: log/0000000006" in Path(folder, "INDEX.txt").read_text(encoding="utf-8")
