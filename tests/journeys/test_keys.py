"""Keys by the command line: over a real system, with real files, as those who hold them would do it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resurgam.vault.passphrase import FILE_VARIABLE
from tests.journeys.world import World, tree
from tests.support import copy_keys
from tests.support import tree as files_in

WORDS = "six words taken by chance"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path)).ready()


def keys_of(world: World, *files: str) -> str:
    """A keys folder with only these files; ``approver.bob.json>approver.json`` under the name that it has there."""
    folder = copy_keys(world.path("keys"), world.place("folder"), ["trust.json"])
    for file in files:
        here, _, there = file.partition(">")
        shutil.copy(world.path(f"keys/{here}"), f"{folder}/{there or here}")
    return folder


def test_a_worn_out_capture_key_is_rotated_and_everything_goes_on(world: World) -> None:
    """P10, P11: the dry run changes nothing; then old points restore, new ones are captured, judged and checked."""
    first = world.capture()
    before = tree(world.path("vault")) | tree(world.path("keys"))
    planned = world.run("vault", "keys", "rotate", "capture")
    assert (planned.code, "nothing was changed" in planned.out) == (0, True), planned
    assert tree(world.path("vault")) | tree(world.path("keys")) == before
    assert world.run("vault", "keys", "rotate", "capture", "--yes", "--why", "yearly").code == 0
    second = world.capture()
    assert world.points() == [first, second]
    assert world.run("verify").code == 0
    for point in (first, second):
        assert world.run("restore", point, "--into", world.place(f"out-{point}")).code == 0
    checked = world.run("vault", "check", "--read")
    assert checked.code == 0, checked
    listed = world.run("vault", "keys", "list", "--json").json["keys"]
    states = sorted((key["state"], key["why"]) for key in listed if key["of"] == "capture")
    assert states == [("active", ""), ("retired", "yearly")]


def test_every_role_is_rotated_and_the_whole_way_still_works(world: World) -> None:
    """What was signed by keys that are retired now stands: points, verdicts, references, leases and the log."""
    point = world.capture()
    assert world.run("verify").code == 0
    assert world.run("reference", "approve", point).code == 0
    for role in ("capture", "verifier", "approver", "pruner", "auditor", "reader", "recovery", "evidence"):
        rotated = world.run("vault", "keys", "rotate", role, "--yes")
        assert rotated.code == 0, rotated
    tested = world.run("vault", "keys", "test")
    assert tested.code == 0, tested
    shown = world.run("show", point, "--json").json
    assert shown["state"]["proven"], "the verdict of the retired key proves"
    world.capture()
    judged = world.run("verify")
    assert judged.code == 0, judged
    assert "reference" in world.run("show", point).out
    for verb in (("vault", "check", "--read"), ("vault", "prune"), ("status",), ("audit", "verify")):
        done = world.run(*verb)
        assert done.code == 0, (verb, done)


def test_four_eyes_from_plan_to_act(world: World) -> None:
    """P10: two people say yes to the plan that is shown to them; a file that was changed on the way is refused."""
    world.capture()
    assert world.run("vault", "keys", "add", "approver", "--name", "bob").code == 0
    assert world.run("vault", "roles", "--require", "shred=2", "--yes").code == 0
    plan = world.run("vault", "shred", "evidence", "--json")
    assert plan.code == 0, plan
    path = world.place("plan.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(plan.out)
    assert world.run("vault", "shred", "evidence", "--yes").code == 6

    changed = plan.json
    changed["plan"]["title"] = "Shred nothing"
    with open(world.place("changed.json"), "w", encoding="utf-8") as file:
        json.dump(changed, file)
    assert world.run("vault", "approve", world.place("changed.json")).code == 8
    assert world.run("vault", "approve", world.place("none.json")).code == 4
    assert world.run("vault", "approve", world.system.path("resurgam.yaml")).code == 2

    bob = keys_of(world, "approver.bob.json>approver.json")
    said = world.run("vault", "approve", path, "--keys", bob, "--why", "request 118")
    assert said.code == 0, said
    assert "Shred the domain evidence" in said.out
    refused = world.run("vault", "shred", "evidence", "--yes")
    assert (refused.code, "bob" in refused.err) == (6, True), refused
    assert world.run("vault", "approve", plan.json["digest"]).code == 0
    assert world.run("vault", "shred", "evidence", "--yes").code == 0


def test_a_table_that_was_taken_away_is_missed_before_anything_is_signed(world: World) -> None:
    """P12: rolled back, a key that was removed would be believed again, and the next table would take the place of the lost one."""
    world.capture()
    assert world.run("vault", "keys", "add", "approver", "--name", "bob").code == 0
    assert world.run("vault", "keys", "remove", "bob", "--yes").code == 0
    assert world.run("vault", "keys", "add", "approver", "--name", "carol").code == 0
    for serial in (4, 3):
        os.unlink(world.path(f"vault/roles/{serial:08d}"))
    bob = keys_of(world, "approver.bob.json>approver.json")
    for words in (
        ("vault", "keys", "add", "auditor", "--name", "x"),
        ("vault", "keys", "rotate", "capture", "--yes"),
        ("vault", "roles", "--require", "prune=1", "--yes"),
        ("vault", "approve", "ab" * 32, "--keys", bob),
    ):
        refused = world.run(*words)
        assert (refused.code, "rolled back" in refused.err) == (8, True), (words, refused)
    assert sorted(os.listdir(world.path("vault/roles"))) == ["00000001", "00000002"]


def test_export_and_import_speak_json(world: World) -> None:
    """P12: one value, with the copy in it only where it was written nowhere else; the page gives the key back."""
    asked = ("vault", "keys", "export", "recovery", "--paper", "--json")
    told = json.loads(world.run(*asked).out)
    assert (told["key"], told["output"]) == ("recovery.agekey", None)
    written = json.loads(world.run(*asked, "--output", world.place("page.txt")).out)
    assert written == {"key": "recovery.agekey", "output": world.place("page.txt"), "copy": None}
    assert Path(world.place("page.txt")).read_text() == told["copy"]
    made = world.run("vault", "keys", "import", world.place("page.txt"), "--output", world.place("r.agekey"), "--json")
    assert json.loads(made.out) == {"made": world.place("r.agekey")}


def test_the_recovery_key_comes_back_from_the_safe(world: World) -> None:
    """P3: from the page that was typed in, and from a file under a passphrase, with the vault alone."""
    point = world.capture()
    page = world.run("vault", "keys", "export", "recovery", "--paper")
    assert page.code == 0, page
    with open(world.place("typed.txt"), "w", encoding="utf-8") as file:
        file.write(page.out)
    typed = world.place("recovery.agekey")
    assert world.run("vault", "keys", "import", world.place("typed.txt"), "--output", typed).code == 0
    assert world.run("vault", "keys", "import", world.place("typed.txt"), "--output", typed).code == 13, (
        "never over a key"
    )

    secret = world.place("passphrase")
    with open(os.open(secret, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(WORDS + "\n")
    locked = world.place("locked.agekey")
    world.env[FILE_VARIABLE] = secret
    assert world.run("vault", "keys", "export", "recovery", "--passphrase", "--output", locked).code == 0
    assert "AGE-SECRET" not in Path(locked).read_text()
    for folder in ("keys", "system", "state"):
        shutil.move(world.path(folder), world.path(f"lost-{folder}"))
    for number, key in enumerate((typed, locked)):
        place = ("--vault", world.path("vault"), "--keys", key)
        out = world.run("restore", point, "--into", world.place(f"out-{number}"), *place)
        assert out.code == 0, out
    tested = world.run("vault", "keys", "test", "--vault", world.path("vault"), "--keys", typed)
    assert tested.code == 6, "the domain of answers has a key of its own, which is elsewhere"
    assert "evidence (key elsewhere)" in tested.out
    del world.env[FILE_VARIABLE]
    denied = world.run(
        "restore", point, "--into", world.place("none"), "--vault", world.path("vault"), "--keys", locked
    )
    assert denied.code == 6, denied


def test_no_key_is_in_anything_that_is_said_or_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: not in answers, errors, notes of the host, temporary files or the vault, whatever is done with keys and goes wrong."""
    temporary = world.place("tmp")
    os.mkdir(temporary)
    monkeypatch.setattr("tempfile.tempdir", temporary)
    point = world.capture()
    said = []
    for words in (
        ("vault", "keys", "add", "approver", "--name", "bob"),
        ("vault", "keys", "add", "reader", "--name", "bob"),
        ("vault", "keys", "rotate", "verifier", "--yes"),
        ("vault", "keys", "rotate", "reader", "--yes"),
        ("vault", "keys", "list", "--json"),
        ("vault", "keys", "test", "--json"),
        ("vault", "roles", "--json"),
        ("vault", "keys", "remove", "bob"),
        ("verify",),
        ("restore", point, "--into", world.place("out")),
    ):
        done = world.run(*words)
        said.append(done.out + done.err)
    secrets = material(world.path("keys"))
    assert len(secrets) > 40
    for file in os.listdir(world.path("keys")):
        whole = Path(world.path(f"keys/{file}")).read_bytes()
        for damaged in (whole[:-20], whole.replace(b"A", b"B")):
            Path(world.path(f"keys/{file}")).write_bytes(damaged)
            for words in (("vault", "keys", "test"), ("capture",)):
                done = world.run(*words)
                said.append(done.out + done.err)
        Path(world.path(f"keys/{file}")).write_bytes(whole)
    everything = "\n".join(said)
    left = b"".join(data for place in ("vault", "state", "tmp") for data in files_in(world.path(place)).values())
    assert [secret for secret in secrets if secret in everything] == []
    assert [secret for secret in secrets if secret.encode() in left] == []
    assert not [name for name in os.listdir(world.path("keys")) if "partial" in name]


def material(folder: str) -> list[str]:
    """Pieces of every secret in a keys folder, as text in each form in which it might be printed."""
    found = []
    for name in os.listdir(folder):
        text = Path(folder, name).read_text()
        if name.endswith(".agekey"):
            found += [line[16:40] for line in text.splitlines() if line.startswith("AGE-SECRET-KEY-1")]
        elif name != "trust.json":
            for value in (value for word, value in json.loads(text).items() if word in ("key", "index")):
                raw = base64.b64decode(value)
                found += [value[:20], raw.hex()[:20], raw[:16].decode("latin-1"), repr(raw)[2:20]]
    return found


def test_a_process_that_holds_keys_leaves_no_core_dump(world: World) -> None:
    """Neither by its limit, nor because another process of the same user attaches to it; what it forks inherits both."""
    script = (
        "import ctypes, json, resource, sys\n"
        "from resurgam.cli.main import main\n"
        f"sys.argv = ['resurgam', 'vault', 'keys', 'list', '--json', '--manifest', {world.system.path('resurgam.yaml')!r}]\n"
        "code = main()\n"
        "print(json.dumps([code, resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, **world.env}
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, [0, 0], 0]
