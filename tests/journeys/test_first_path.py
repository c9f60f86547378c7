"""The first path, by the real command line: a system is captured, hurt, proven, promoted, and answers right again."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import resurgam.restore.run as restoring
from resurgam.model.verdict import IsolationReport
from resurgam.restore import sandbox
from tests.journeys.world import Handbook, Result, World, partial_folders, remove, rows, tree

needs_isolation = pytest.mark.skipif(
    not sandbox.isolation().isolated, reason="this host has no namespaces to isolate in"
)
INCIDENTS = [Handbook.change_rows, Handbook.change_prompt, Handbook.swap_model, Handbook.encrypt_database]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(os.fspath(tmp_path)).ready()


def parts(result: Result) -> dict[tuple[str, str], dict[str, Any]]:
    """The parts of a verdict in JSON, by probe and yardstick."""
    return {(part["name"], part["yardstick"]): part for part in result.json["verdict"]["parts"]}


def judgement(result: Result) -> int:
    """The whole verdict in JSON: 1 identical, 2 equivalent, 3 inconclusive, 4 different."""
    return int(result.json["verdict"]["judgement"])


def without_cuts(found: dict[str, str]) -> dict[str, str]:
    """A tree without what a promotion keeps beside the live places, and without SQLite's journals."""
    return {
        name: digest
        for name, digest in found.items()
        if ".before-" not in name and ".undone-" not in name and not name.endswith(("-wal", "-shm"))
    }


@needs_isolation
@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.__name__)
def test_a_hurt_system_answers_right_again(world: World, incident: Callable[[Handbook], None]) -> None:
    """P1 P4 P5 P6: captured while it is written to, hurt, proven on a copy, promoted, undone: at each step the very same."""
    right = world.system.ask()
    with world.system.writing():
        world.capture()
    point = world.capture()
    incident(world.system)
    hurt = tree(world.system.root)
    if incident is Handbook.encrypt_database:
        refused = world.run("capture")
        assert refused.code == 8, refused
        assert "handbook.db" in refused.err
    else:
        assert world.system.ask() != right  # the probes' program shows it
        wrong = world.capture()
        different = world.run("diff", point, wrong, "--json").json
        assert {d["component"] for d in different} <= {"documents", "prompts", "router"}
        assert len({d["component"] for d in different}) == 1
    assert tree(world.system.root) == hurt

    into = world.place("recovered")
    verified = world.run("verify", point, "--into", into)
    assert (verified.code, verified.err) == (0, "")
    assert verified.out.startswith(f"identical: point {point}, first proof, isolated")
    unasked = world.run("promote", into, "--json")  # P10: nobody is asked to agree to what was not shown
    assert unasked.code == 2
    assert "--dry-run" in unasked.json["error"]["next_step"]
    promoted = world.run("promote", into, "--yes", "--json")
    assert promoted.code == 0, promoted
    assert world.system.ask() == right
    if incident is not Handbook.encrypt_database:
        assert len(world.points()) == 3

    identity = promoted.json[0]["id"]
    assert f"promote --undo {identity}" in world.run("status").out
    undone = world.run("promote", "--undo", identity[:6])
    assert undone.code == 0, undone
    assert without_cuts(tree(world.system.root)) == without_cuts(hurt)
    assert partial_folders(world.home) == []


def test_what_init_proposes_is_captured_and_verified_after_one_edit(tmp_path: Path) -> None:
    """The first five commands of the documentation, on a system that nobody has described yet."""
    world = World(os.fspath(tmp_path)).build()
    remove(world.system.path("resurgam.yaml"))
    assert world.run("init").code == 0
    again = world.run("init")
    assert again.code == 13
    assert "Edit it" in again.err
    text = Path(world.system.path("resurgam.yaml")).read_text(encoding="utf-8")
    assert "handbook.db" in text
    Path(world.system.path("resurgam.yaml")).write_text(
        text.replace("~/.config/resurgam/system", world.path("keys")), encoding="utf-8"
    )
    assert world.run("vault", "init").code == 0
    ready = world.run("preflight", "--json")
    assert (ready.code, ready.json["ok"]) == (0, True)
    assert world.run("capture").code == 0
    verified = world.run("verify", "latest")
    assert verified.code == 21  # P4: counts are necessary, and nothing asks the model, the prompts, the configuration
    assert "unprobed: no probe reads it" in verified.out


def test_a_diff_tells_rows_by_key_and_files_by_path(world: World) -> None:
    """Never chunks: what a person changed is what a person reads."""
    a = world.capture()
    world.system.sql("UPDATE docs SET body = 'new' WHERE id = 7")
    world.system.sql("DELETE FROM docs WHERE id = 9")
    world.system.sql("INSERT INTO docs VALUES (900, 'people', 't', 'b')")
    world.system.sql("DELETE FROM tickets")
    world.system.write("prompts/second.txt", "more")
    world.system.write("config/app.json", '{"letters": 201}')
    b = world.capture()
    found = {(d["component"], d["where"], d["sign"], d["key"]) for d in world.run("diff", a, b, "--json").json}
    assert found == {
        ("documents", "docs", "~", "7"),
        ("documents", "docs", "-", "9"),
        ("documents", "docs", "+", "900"),
        ("documents", "tickets", "-", "1"),
        ("prompts", "", "+", "second.txt"),
        ("config", "", "~", "app.json"),
    }
    shown = world.run("diff", a, b, "--stat")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines() == [
        "config",
        "  ~ app.json",
        "documents / docs (rows)",
        "  - 9",
        "  + 900",
        "  ~ 7",
        "documents / tickets (rows)",
        "  - 1",
        "prompts",
        "  + second.txt",
        f"6 differences between {a} and {b}",
    ]
    assert world.run("diff", a, a).out == "no difference\n"


def test_p11_a_second_capture_stores_what_changed_and_no_more(world: World) -> None:
    world.capture()
    again = world.run("capture", "--json").json
    assert {s["component"]: s["stored"] for s in again["snapshots"]} == dict.fromkeys(
        ("documents", "router", "prompts", "config"), 0
    )


@needs_isolation
def test_a_later_restore_is_judged_by_the_baseline_that_the_first_proof_left(world: World) -> None:
    """P4: a baseline never judges the restore that made it."""
    point = world.capture()
    first = world.run("verify", point, "--json")
    second = world.run("verify", point, "--json")
    assert (first.code, second.code) == (0, 0)
    assert first.json["verdict"]["first_proof"]
    assert set(parts(first)) == {("golden", "witness"), ("counts", "witness")}
    assert not second.json["verdict"]["first_proof"]
    assert ("golden", "baseline") in parts(second)
    state = world.run("show", point, "--json").json["state"]
    assert state["proven"]
    assert state["baseline"]


@needs_isolation
def test_a_reference_tells_what_was_wrong_already_when_it_was_captured(world: World) -> None:
    """The witness agrees with a system that was corrupted before the capture; the owner's reference does not."""
    good = world.capture()
    early = world.run("reference", "approve", good)
    assert early.code == 4
    assert "no baseline yet" in early.err
    assert world.run("verify", good).code == 0
    assert world.run("reference", "approve", good).code == 0

    world.system.change_rows()
    bad = world.capture()
    verified = world.run("verify", bad, "--json")
    assert verified.code == 20
    assert parts(verified)["golden", "witness"]["judgement"] == 1
    by_reference = parts(verified)["golden", "reference"]
    assert by_reference["judgement"] == 4
    assert [d["case"] for d in by_reference["deviations"]]
    into = world.place("bad")
    assert world.run("verify", bad, "--into", into).code == 20
    live = tree(world.system.root)
    refused = world.run("promote", into, "--yes")
    assert refused.code == 20
    assert "Nothing was changed" in refused.err
    assert tree(world.system.root) == live


@needs_isolation
def test_a_busy_system_can_be_proven(world: World) -> None:
    """What moved between the witness's two looks is said and judges nothing; from the second restore on the baseline does."""
    with world.system.writing():
        point = world.capture()
    first = world.run("verify", point, "--json")
    moved = parts(first)["counts", "witness"]
    assert "moved with the live system" in moved["reason"]
    assert (first.code, moved["judgement"]) == (21, 3)
    assert parts(first)["golden", "witness"]["judgement"] == 1
    second = world.run("verify", point)
    assert second.code == 0, second


def test_p4_what_no_probe_reads_is_inconclusive(world: World) -> None:
    world.manifest(("reads: [documents, router, prompts, config]", "reads: [documents, router, prompts]"))
    world.capture()
    verified = world.run("verify", "latest")
    assert verified.code == 21
    assert "config: inconclusive: unprobed: no probe reads it" in verified.out


def test_p4_what_has_no_yardstick_is_inconclusive(world: World) -> None:
    world.manifest(("witness: true", "witness: false"))
    world.capture()
    verified = world.run("verify", "latest")
    assert verified.code == 21
    assert "golden: inconclusive: no yardstick" in verified.out


def test_p12_a_question_that_live_cannot_answer_is_told_at_the_capture(world: World) -> None:
    """Not only when the point is judged; once, though it is asked before and after the cut, and nothing in it steers a terminal."""
    world.system.write("bin/answer.py", "import sys; sys.exit('no \\x1b[31mmodel')")
    taken = world.run("capture")
    assert taken.code == 0
    told = [line for line in taken.err.splitlines() if "golden" in line]
    assert len(told) == 1, taken.err
    assert "could not be answered by the live system" in told[0]
    assert "model" in told[0]
    assert "\x1b" not in taken.err


def test_p4_what_was_not_isolated_is_inconclusive_unless_the_manifest_accepts_it_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing was asked where it was required: the copy could have reached the live system (P6)."""
    no = IsolationReport(isolated=False, reason="no user namespaces here")
    monkeypatch.setattr(sandbox, "isolation", lambda: no)
    world.capture()
    required = world.run("verify", "latest")
    assert required.code == 21
    assert "not isolated: no user namespaces here" in required.out
    world.manifest(("isolation: required", "isolation: best-effort"))
    world.capture()
    accepted = world.run("verify", "latest")
    assert accepted.code == 0, accepted
    assert "not isolated: no user namespaces here; the manifest accepts that" in accepted.out


@needs_isolation
def test_hurting_the_live_system_during_a_proof_changes_no_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P6: after the restore and before the first question everything live is gone or wrong, and the copies do not notice."""
    point = world.capture()

    def hurt(_: str) -> None:
        world.system.change_prompt()
        world.system.swap_model()
        world.system.encrypt_database()

    between(monkeypatch, hurt)
    verified = world.run("verify", point)
    assert verified.code == 0, verified
    with pytest.raises(Exception, match="exit status"):
        world.system.ask()  # it was hurt indeed


@needs_isolation
@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.__name__)
def test_hurting_the_copy_during_a_proof_changes_the_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch, incident: Callable[[Handbook], None]
) -> None:
    """The other half of it: what is asked is the copy, and a wrong copy is told from a right one."""
    point = world.capture()

    def hurt(copies: str) -> None:
        copied = Handbook(os.path.join(os.path.dirname(copies), "as-live"))
        os.makedirs(copied.root)
        for component, live in {"documents": "data", "router": "models", "prompts": "prompts"}.items():
            source = os.path.join(copies, component)
            os.symlink(source if component == "documents" else os.path.join(source, live), copied.path(live))
        incident(copied)
        shutil.rmtree(copied.root)

    between(monkeypatch, hurt)
    verified = world.run("verify", point)
    assert verified.code == 20, verified
    assert "golden by witness: different: different from live, a capture fault" in verified.out
    assert world.run("show", point, "--json").json["state"]["proven"] is None


def between(monkeypatch: pytest.MonkeyPatch, hurt: Callable[[str], None]) -> None:
    """Do ``hurt`` to the folder of copies after the restore and before the first question."""
    import resurgam.restore.verify as verifying

    def restore_and_hurt(*args: Any, **options: Any) -> Any:
        restored = restoring.restore(*args, **options)
        hurt(args[3])
        return restored

    monkeypatch.setattr(verifying, "restore", restore_and_hurt)


# Roles (P9) and the disaster (P3) -------------------------------------------------------------------------------------


def keys_with(world: World, name: str, *files: str) -> str:
    """A keys folder of another host, that holds only ``files``."""
    folder = world.path(name)
    os.mkdir(folder, 0o700)
    for file in files:
        shutil.copy2(os.path.join(world.path("keys"), file), folder)
    return folder


@needs_isolation
def test_p9_capturing_judging_and_approving_are_three_hosts(world: World) -> None:
    """Each with the keys of its role, and a refusal that names the key which it lacks."""
    capture = keys_with(world, "keys-capture", "trust.json", "capture.json")
    verifier = keys_with(world, "keys-verifier", "trust.json", "reader.agekey", "evidence.agekey", "verifier.json")
    approver = keys_with(world, "keys-approver", "trust.json", "capture.json", "approver.json", "reader.agekey")

    taken = world.run("capture", "--keys", capture, "--json")
    assert (taken.code, taken.json["host_can_read"]) == (0, False)
    point = taken.json["id"]
    for verb in (("verify", point), ("restore", point, "--into", world.place("no")), ("diff", point, point)):
        refused = world.run(*verb, "--keys", capture)
        assert refused.code == 6, refused
        assert "reader.agekey" in refused.err
    assert world.run("points", "--keys", capture, "--json").json[0]["id"] == point
    assert "opens with a reader's key" in world.run("show", point, "--keys", capture).out

    into = world.place("judged")
    assert world.run("verify", point, "--keys", verifier, "--into", into).code == 0
    refused = world.run("capture", "--keys", verifier)
    assert refused.code == 6
    assert "capture.json" in refused.err
    refused = world.run("promote", into, "--yes", "--keys", verifier)
    assert refused.code == 6
    assert "approver.json" in refused.err
    promoted = world.run("promote", into, "--yes", "--keys", approver)
    assert promoted.code == 0, promoted


def test_p9_a_verdict_that_is_not_signed_in_the_vault_promotes_nothing(world: World) -> None:
    """The folder's own state says it passed; the vault says otherwise."""
    world.manifest(("isolation: required", "isolation: best-effort"))
    world.capture()
    into = world.place("judged")
    assert world.run("verify", "latest", "--into", into).code == 0
    for record in Path(world.path("vault")).glob("records/*/verdict-*"):
        record.unlink()
    live = tree(world.system.root)
    refused = world.run("promote", into, "--yes")
    assert refused.code == 20
    assert "holds no passing verdict" in refused.err
    assert tree(world.system.root) == live


def test_p3_the_vault_and_the_recovery_key_are_enough(world: World) -> None:
    """Manifest, system, keys and this host's notes are lost: everything comes back, byte for byte."""
    point = world.capture()
    expected = {name: tree(world.system.path(name)) for name in ("models", "prompts", "config")}
    held = rows(world.system.database)
    recovery = world.path("recovery.agekey")
    shutil.copy2(os.path.join(world.path("keys"), "recovery.agekey"), recovery)
    for lost in ("keys", "state", "system"):
        remove(world.path(lost))

    place = ("--vault", world.path("vault"), "--keys", recovery)
    assert [p["id"] for p in world.run("points", *place, "--json").json] == [point]
    into = world.place("risen")
    restored = world.run("restore", "latest", "--into", into, *place)
    assert restored.code == 0, restored
    for component, name in (("router", "models"), ("prompts", "prompts"), ("config", "config")):
        assert tree(os.path.join(into, component, name)) == expected[name]
    assert rows(os.path.join(into, "documents", "handbook.db")) == held
    assert world.run("vault", "check", "--read", *place).code == 0


def test_p3_a_host_that_forgot_everything_captures_on(world: World) -> None:
    """Its notes only save work: what is stored is found again in the vault."""
    world.capture()
    remove(world.path("state"))
    again = world.run("capture", "--json")
    assert again.code == 0
    assert sum(s["stored"] for s in again.json["snapshots"]) == 0
    assert len(world.points()) == 2


@needs_isolation
def test_where_no_point_is_named_the_latest_is_meant(world: World) -> None:
    world.capture()
    latest = world.capture()
    assert world.run("show", "--json").json["id"] == latest
    assert world.run("restore", "--into", world.place("out"), "--json").json["point"] == latest
    assert world.run("verify", "--json").json["verdict"]["point"] == latest
    assert world.run("report", "--json").json["point"] == latest
    assert world.run("export", "--native", "--into", world.place("plain"), "--json").json["point"] == latest


def test_status_points_and_show_tell_the_same_story(world: World) -> None:
    empty = world.run("status")
    assert empty.code == 23  # rpo is promised, and there is nothing
    assert "no recovery point yet" in empty.out
    point = world.capture()
    assert world.run("verify", point).code == 0
    status = world.run("status", "--json")
    assert status.code == 0
    assert status.json["newest"]["id"] == status.json["newest_proven"]["id"] == point
    assert status.json["capture"] == "none under way"
    listed = world.run("points", "--json").json[0]
    shown = world.run("show", "latest", "--json").json
    assert listed == shown | {"particulars": listed["particulars"]}  # there the id of what is opened here
    assert shown["particulars"]["system"]["name"] == "handbook"
    assert json.dumps(shown).count("AGE-SECRET-KEY") == 0


def test_a_restored_database_is_whole_and_searchable(world: World) -> None:
    """The database as SQLite itself judges it, its full-text index with it."""
    with world.system.writing():
        world.capture()
    into = world.place("out")
    assert world.run("restore", "latest", "--into", into).code == 0
    connection = sqlite3.connect(os.path.join(into, "documents", "handbook.db"))
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO search(search) VALUES ('integrity-check')")
        found = connection.execute("SELECT count(*) FROM search WHERE search MATCH 'vault'").fetchone()
        assert found == (20,)
    finally:
        connection.close()
