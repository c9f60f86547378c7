"""Bad input, by the real command line: a clear error that says what to do next, nothing lost, nothing left behind (P12).

``refused`` is the one judge of all of them: it runs each command twice, for people and with ``--json``, and looks at the exit
code, the three sentences, the live system, the points, and at what a half-done restore would be called.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import resurgam.restore.verify as verifying
from resurgam.restore import sandbox
from resurgam.restore.state import load
from tests.journeys.world import MANIFEST, World, partial_folders, remove, tree

needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may do this")
BEST_EFFORT = ("isolation: required", "isolation: best-effort")
QUICK = ("objectives:", "limits: {freeze: 250ms}\nobjectives:")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(os.fspath(tmp_path)).ready()


def sealed(world: World) -> list[str]:
    """What the vault lists, whatever the manifest says; nothing where it cannot be opened."""
    place = ("--vault", world.path("vault"), "--keys", world.path("keys"))
    listed = world.run("points", "--manifest", "none.yaml", *place, "--json")
    return [point["id"] for point in listed.json] if listed.code == 0 else []


def refused(
    world: World, code: int, *words: str, says: str = "", run: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """The command is refused with ``code``, in words and in JSON, and nothing has changed; the error as JSON tells it."""
    before, points = tree(world.system.root), sealed(world)
    run = run or world.run
    told = run(*words)
    assert told.code == code, told
    assert told.out == "", told
    first, *rest = told.err.splitlines()
    assert first.startswith("error: "), told
    assert any(line.startswith("  next: ") and len(line) > 12 for line in rest), told
    assert "Traceback" not in told.err
    assert says in told.err, told
    as_json = run(*words, "--json")
    assert as_json.code == code, as_json
    error: dict[str, Any] = as_json.json["error"]
    assert error["exit_code"] == code
    assert error["message"]
    assert error["untouched"]
    assert error["next_step"]
    assert "AGE-SECRET-KEY" not in told.err + as_json.out
    assert tree(world.system.root) == before
    assert sealed(world) == points
    assert partial_folders(world.home) == []
    return error


def goes_on(world: World, points: int = 1) -> None:
    """The next run works, and there are so many points now."""
    assert world.run("capture").code == 0
    assert len(world.points()) == points
    assert world.run("vault", "check", "--read").code == 0


# The manifest ---------------------------------------------------------------------------------------------------------


def test_unknown_driver(world: World) -> None:
    world.manifest(("driver: sqlite", "driver: sqlight"))
    error = refused(world, 3, "capture", says="sqlite")
    assert "resurgam.yaml:5" in error["message"]
    assert "Did you mean 'sqlite'" in error["message"] + error["next_step"]


def test_missing_library_of_a_driver(world: World) -> None:
    """A driver from another package, whose own library is not installed."""
    plug = world.path("plug")
    os.makedirs(os.path.join(plug, "plug-1.0.dist-info"))
    for name, text in (
        ("plug.py", "import a_library_that_is_not_there\n"),
        ("plug-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n"),
        ("plug-1.0.dist-info/entry_points.txt", "[resurgam.drivers]\nplugged = plug:Driver\n"),
    ):
        Path(plug, name).write_text(text, encoding="utf-8")
    world.env["PYTHONPATH"] = plug
    world.manifest(("driver: files, location: config", "driver: plugged, location: config"))
    refused(world, 14, "capture", says="pip install 'plug'", run=world.process)


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 3), (b"", 3), (b"\x00\xff\xfe\x93" * 50, 3), (b"[1, 2]", 3), (b"resurgam: 2\nsystem: x\n", 9)],
    ids=["missing", "empty", "binary", "a list", "newer"],
)
def test_a_manifest_that_is_none(world: World, content: bytes | None, code: int) -> None:
    path = world.system.path("resurgam.yaml")
    remove(path)
    if content is not None:
        Path(path).write_bytes(content)
    refused(world, code, "capture", says="resurgam.yaml")


def test_a_manifest_that_has_no_folder_to_go_to(world: World) -> None:
    """P12: `init` says which path it is, and no traceback."""
    refused(world, 6, "init", ".", "-m", "none/resurgam.yaml", says="none/resurgam.yaml")


def test_init_as_json(world: World) -> None:
    """One value: where it was written, and what; nowhere with `--stdout`."""
    told = world.run("init", "--json", "-m", "new.yaml")
    assert told.code == 0, told
    assert Path(told.json["path"]).read_text(encoding="utf-8") == told.json["manifest"]
    shown = world.run("init", "--json", "--stdout").json
    assert shown["path"] is None
    assert "resurgam: 1" in shown["manifest"]


def test_cyclic_dependency(world: World) -> None:
    world.manifest(("location: prompts", "location: prompts, derived_from: [router]"), ("[documents]}", "[prompts]}"))
    refused(world, 3, "capture", says="a cycle: ")


def test_duplicate_names(world: World) -> None:
    world.manifest(("  config: {", "  prompts: {"))
    refused(world, 3, "capture", says="prompts")


# The sources ----------------------------------------------------------------------------------------------------------


def test_locked_database(world: World) -> None:
    """Somebody holds it exclusively: the capture gives up within the limit, and the holder does not notice."""
    world.manifest(QUICK)
    holder = sqlite3.connect(world.system.database)
    try:
        holder.execute("PRAGMA locking_mode=exclusive")
        holder.execute("BEGIN EXCLUSIVE")
        holder.execute("INSERT INTO tickets (doc, words) VALUES (2, 'mine')")
        error = refused(world, 10, "capture", says="handbook.db")
        assert error["transient"]
        holder.commit()
    finally:
        holder.close()
    assert world.system.sql("SELECT count(*) FROM tickets WHERE words = 'mine'") == [(1,)]
    goes_on(world)


def damage(world: World, how: str) -> None:
    with contextlib.closing(sqlite3.connect(world.system.database)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = os.path.getsize(world.system.database)
    with open(world.system.database, "r+b") as file:
        match how:
            case "a page":
                file.seek(4096)
                file.write(b"\xff" * 4096)
            case "truncated":
                file.truncate(size // 2 // 4096 * 4096)
            case "no database":
                file.write(b"This is a letter to the editor. ")
            case "empty":
                file.truncate(0)


@pytest.mark.parametrize("how", ["truncated", "no database"])
def test_corrupt_database(world: World, how: str) -> None:
    """A capture of it is refused, and the good point from before stays."""
    world.capture()
    damage(world, how)
    refused(world, 8, "capture", says="handbook.db")
    assert "stopped before its end" in world.run("status").out


def test_a_database_with_a_damaged_page_is_kept_as_it_is_and_called_broken(world: World) -> None:
    """Its other pages may be all that is left; `broken` keeps it from ever being chosen as clean."""
    good = world.capture()
    damage(world, "a page")
    captured = world.run("capture", "--json")
    assert captured.code == 22, captured
    assert captured.json["findings"]["broken"] >= 1
    assert captured.json["id"] != good
    assert "quick_check" in world.run("show", "latest").out
    assert "broken" in world.run("status").out


@pytest.mark.parametrize("name", ["data/handbook.db", "prompts"])
def test_a_source_that_is_gone(world: World, name: str) -> None:
    os.rename(world.system.path(name), world.path("elsewhere"))
    refused(world, 4, "capture", says=name)
    os.rename(world.path("elsewhere"), world.system.path(name))
    goes_on(world)


def test_a_folder_that_is_a_circle_of_links(world: World) -> None:
    """As a place it leads nowhere; among the files it is captured as the link that it is."""
    os.symlink("second", world.system.path("first"))
    os.symlink("first", world.system.path("second"))
    world.manifest(("location: prompts", "location: first"))
    refused(world, 1, "capture", says="symbolic links")
    world.manifest()
    os.symlink("again", world.system.path("prompts/again"))
    goes_on(world)
    assert world.run("restore", "latest", "--into", world.place("out")).code == 0
    assert os.readlink(world.place("out/prompts/prompts/again")) == "again"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, of util-linux")
@needs_root
def test_an_unreadable_file_and_an_unreadable_key(world: World) -> None:
    """As a user to whom permissions mean something: root without the capability to pass over them."""

    def run(*words: str) -> Any:
        return world.process(*words, through=["setpriv", "--bounding-set=-dac_override,-dac_read_search"])

    secret = world.system.path("prompts/answer.txt")
    os.chown(secret, 65534, 65534)
    os.chmod(secret, 0o600)
    ahead = run("preflight")
    assert ahead.code == 6, ahead
    assert secret in ahead.out
    assert "setfacl" in ahead.out or "chmod" in ahead.out
    without = run("capture", "--json")  # the rest is worth having, and the owner is told
    assert without.code == 22, without
    findings = world.run("show", "latest", "--json").json["particulars"]["findings"]
    assert [finding["keys"] for finding in findings] == [["answer.txt"]]
    os.chmod(secret, 0o644)
    os.chown(world.path("keys/capture.json"), 65534, 65534)
    refused(world, 6, "capture", says="capture.json", run=run)
    os.chown(world.path("keys/capture.json"), 0, 0)
    captured = run("capture")
    assert captured.code == 0, captured


# Space ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(place: str, size: str) -> Iterator[None]:
    """A file system of its own at ``place``."""
    os.makedirs(place, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@needs_root
def test_disk_full_at_the_vault(tmp_path: Path) -> None:
    world = World(os.fspath(tmp_path)).build()
    with small_disk(world.path("vault"), "1m"):
        assert world.run("vault", "init").code == 0
        first = world.capture()
        Path(world.system.path("models/big.bin")).write_bytes(random.Random(1).randbytes(3_000_000))
        refused(world, 12, "capture", says="vault")
        assert world.points() == [first]
        assert world.run("restore", first, "--into", world.place("out")).code == 0
        remove(world.system.path("models/big.bin"))
        goes_on(world, 2)


@needs_root
def test_disk_full_at_the_target(world: World) -> None:
    Path(world.system.path("models/big.bin")).write_bytes(random.Random(1).randbytes(3_000_000))
    world.capture()
    with small_disk(world.path("small"), "1m"):
        for verb in (("restore", "latest"), ("verify", "latest")):
            refused(world, 12, *verb, "--into", world.path("small/out"))
            assert os.listdir(world.path("small")) == []
    assert world.run("restore", "latest", "--into", world.place("out")).code == 0


# The vault ------------------------------------------------------------------------------------------------------------


def packs(world: World) -> list[str]:
    return sorted(glob.glob(world.path("vault/packs/*/*")))


def flip(path: str, offset: int) -> None:
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_pack(world: World, how: str) -> None:
    """Never answered by guessing: no restore, and `vault check --read` names what is wrong and which point it hits."""
    point = world.capture()
    for pack in packs(world):
        if how == "flipped":
            flip(pack, os.path.getsize(pack) // 3)
        elif how == "truncated":
            os.chmod(pack, 0o600)
            os.truncate(pack, 40)
        else:
            os.unlink(pack)
    for verb in ("restore", "verify"):
        refused(world, 8, verb, "latest", "--into", world.place("out"))
        assert not os.path.lexists(world.place("out"))
    checked = world.run("vault", "check", "--read")
    assert checked.code == 8, checked
    assert "damaged" in checked.out
    assert point in checked.out


@pytest.mark.parametrize("name", ["points", "roles", "keys"])
def test_a_flipped_byte_in_a_small_object(world: World, name: str) -> None:
    world.capture()
    for each in glob.glob(world.path(f"vault/{name}/*")):
        flip(each, os.path.getsize(each) // 2)
    refused(world, 8, "restore", "latest", "--into", world.place("out"))
    assert not os.path.lexists(world.place("out"))


def test_the_newest_point_is_damaged_and_latest_does_not_quietly_mean_an_older_one(world: World) -> None:
    older = world.capture()
    world.system.change_prompt()
    newest = world.capture()
    flip(world.path(f"vault/points/{newest}"), 400)
    error = refused(world, 8, "restore", "latest", "--into", world.place("out"), says=newest)
    assert older in error["next_step"]
    assert world.run("restore", older, "--into", world.place("out")).code == 0
    listed = world.run("points")
    assert older in listed.out
    assert newest in listed.err
    assert newest in world.run("status").out


def test_a_bad_record_of_one_point_leaves_the_others_alone(world: World) -> None:
    """P12: found by `points`, `show`, `status` and `vault check`; only its own point is judged no more."""
    older = world.capture()
    world.system.change_prompt()
    newer = world.capture()
    stray = f"records/{older}/verdict-0000000000000000"
    os.makedirs(os.path.dirname(world.path(f"vault/{stray}")), exist_ok=True)
    Path(world.path(f"vault/{stray}")).write_text("junk", encoding="utf-8")
    listed = world.run("points")
    assert (listed.code, older in listed.out, newer in listed.out, stray in listed.err) == (0, True, True, True)
    shown = world.run("show", older)
    assert (shown.code, stray in shown.err) == (0, True)
    assert world.run("verify", newer).code == 0
    assert world.run("status").code == 0
    refused(world, 8, "verify", older, says=stray)
    assert stray in world.run("vault", "check").out


def test_a_flipped_byte_anywhere_in_the_identity_of_the_vault(world: World) -> None:
    """Its name for people is the only part of which the tool does not know better."""
    world.capture()
    path = world.path("vault/vault.json")
    whole = Path(path).read_bytes()
    for offset in range(len(whole)):
        flip(path, offset)
        told = world.run("points")
        assert told.code in (0, 3, 4, 6, 8, 9), (offset, told)
        assert "Traceback" not in told.err
        os.chmod(path, 0o600)
        Path(path).write_bytes(whole)
    goes_on(world, 2)


@pytest.mark.parametrize("lost", ["vault", "vault/vault.json", "vault/roles"])
def test_a_vault_that_is_gone(world: World, lost: str) -> None:
    world.capture()
    os.rename(world.path(lost), world.path("gone"))
    says = "There is no vault" if lost != "vault/roles" else ""
    refused(world, 8 if lost.endswith("roles") else 4, "restore", "latest", "--into", world.place("out"), says=says)
    os.rename(world.path("gone"), world.path(lost))
    goes_on(world, 2)


def test_a_newer_format(world: World) -> None:
    path = world.path("vault/vault.json")
    os.chmod(path, 0o600)
    identity = json.loads(Path(path).read_bytes())
    Path(path).write_text(json.dumps(identity | {"format": identity["format"] + 1}), encoding="utf-8")
    refused(world, 9, "capture", says="this release reads up to 1")


def test_a_second_vault_over_the_first(world: World) -> None:
    world.capture()
    before = tree(world.path("vault")), tree(world.path("keys"))
    refused(world, 13, "vault", "init")
    assert (tree(world.path("vault")), tree(world.path("keys"))) == before
    goes_on(world, 2)


def test_the_vault_of_another_system(world: World) -> None:
    """Its points are not this system's: not listed, not `latest`, and not taken by their id."""
    point = world.capture()
    world.name = "other"
    world.manifest()
    assert world.points() == []
    for words in ("latest", point):
        refused(world, 4, "restore", words, "--into", world.place("out"))


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["capture.json", "trust.json", "reader.agekey"])
def test_a_missing_key(world: World, name: str) -> None:
    world.capture()
    os.rename(world.path(f"keys/{name}"), world.path("kept"))
    os.unlink(world.path("keys/recovery.agekey"))  # where its owner has put it
    verb = ("capture",) if name != "reader.agekey" else ("restore", "latest", "--into", world.place("out"))
    refused(world, 6, *verb, says=name)
    os.rename(world.path("kept"), world.path(f"keys/{name}"))
    goes_on(world, 2)


def test_keys_of_another_vault(world: World, tmp_path: Path) -> None:
    world.capture()
    assert world.run("vault", "init", "--vault", world.path("vault2"), "--keys", world.path("keys2")).code == 0
    refused(
        world, 6, "restore", "latest", "--into", world.place("out"), "--keys", world.path("keys2"), says="the keys are"
    )
    recovery = world.path("keys2/recovery.agekey")
    refused(world, 6, "restore", "latest", "--into", world.place("out"), "--keys", recovery)
    for name in ("reader.agekey", "capture.json"):  # one key of another vault among the right ones
        os.rename(world.path(f"keys/{name}"), world.path("kept"))
        shutil.copy2(world.path(f"keys2/{name}"), world.path(f"keys/{name}"))
        refused(world, 6, "restore", "latest", "--into", world.place("out"), says=name)
        os.replace(world.path("kept"), world.path(f"keys/{name}"))
    goes_on(world, 2)


def test_a_key_that_others_can_read(world: World) -> None:
    os.chmod(world.path("keys/capture.json"), 0o644)
    refused(world, 6, "capture", says="chmod 600")


# Points and targets ---------------------------------------------------------------------------------------------------


def test_a_target_that_is_not_empty(world: World) -> None:
    world.capture()
    os.makedirs(world.place("out"))
    Path(world.place("out/mine")).write_text("mine", encoding="utf-8")
    for verb in ("restore", "verify"):
        refused(world, 13, verb, "latest", "--into", world.place("out"), says="not empty")
    assert os.listdir(world.place("out")) == ["mine"]


@pytest.mark.parametrize("where", ["system/prompts", "system/prompts/inside", "system", "link", "vault/inside", "keys"])
def test_a_target_that_is_the_live_system(world: World, where: str) -> None:
    """Or lies in it, or holds it, by whatever name; or in the vault or among the keys."""
    world.capture()
    os.symlink(world.system.root, world.path("link"))
    vault, keys = tree(world.path("vault")), tree(world.path("keys"))
    for verb in ("restore", "verify"):
        refused(world, 13, verb, "latest", "--into", world.path(where))
    assert (tree(world.path("vault")), tree(world.path("keys"))) == (vault, keys)


def test_ambiguous_id(world: World) -> None:
    first: dict[str, str] = {}
    while (point := world.capture())[0] not in first:  # 17 captures at most: an id begins with one of 16 letters
        first[point[0]] = point
    error = refused(world, 5, "restore", point[0], "--into", world.place("out"))
    assert point in error["message"]
    assert first[point[0]] in error["message"]


@pytest.mark.parametrize("words", ["zzzz", "", "1999-01-01", "latest~1"])
def test_unknown_point(world: World, words: str) -> None:
    """An empty word, as an unset variable of a script leaves it, is no point either."""
    world.capture()
    refused(world, 4, "restore", words, "--into", world.place("out"), says="no recovery point")
    refused(world, 4, "show", words)


def test_the_clock_goes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The point is sealed and says so, and `latest` is what was captured last."""
    from datetime import timedelta

    from resurgam.clock import SystemClock

    right = SystemClock.now
    world.capture()
    world.system.change_prompt()
    monkeypatch.setattr(SystemClock, "now", lambda self: right(self) - timedelta(days=2))
    late = world.run("capture", "--json")
    assert late.code == 22, late
    assert "clock" in json.dumps(world.run("show", "latest", "--json").json["particulars"]["findings"])
    assert world.run("show", "latest", "--json").json["id"] == late.json["id"]
    assert world.points()[-1] == late.json["id"]


# Probes ---------------------------------------------------------------------------------------------------------------

PROBES = {
    "crashes": ("raise SystemExit('my own reason')", "my own reason"),
    "hangs": ("import time; time.sleep(600)", "did not end within"),
    "prints rubbish": ("print('\\x1b[31m' + chr(0) + '{]')", "no answer"),
    "prints nothing": ("pass", "nothing was printed"),
    "is not there": ("", "cannot be run"),
}


@pytest.mark.parametrize("how", PROBES)
def test_a_probe_that(world: World, how: str) -> None:
    """It cannot stop a capture, and nothing passes by it (P4): the verdict says what it did."""
    script, says = PROBES[how]
    world.system.write("bin/bad.py", script)
    run = f"[{json.dumps(sys.executable)}, bin/bad.py]" if script else "[./nowhere]"
    limit = "1s" if how == "hangs" else "60s"
    world.manifest(
        BEST_EFFORT,
        (
            "probes:\n",
            f"probes:\n  bad: {{kind: command, run: {run}, reads: [config], witness: true, timeout: {limit}}}\n",
        ),
    )
    world.capture()
    verified = world.run("verify", "latest")
    assert verified.code == 21, verified
    assert "bad by witness: inconclusive" in verified.out
    assert says in verified.out
    assert "\x1b" not in verified.out


@pytest.mark.skipif(not sandbox.isolation().isolated, reason="this host has no namespaces to isolate in")
def test_a_probe_that_writes_to_what_it_reads(world: World) -> None:
    """What was judged is not there any more: that is said, nothing is proven by it, and it is not promoted."""
    world.system.write(
        "bin/bad.py",
        "import json, sys\nplaces = json.load(sys.stdin)['components']\n"
        "if not places['config'].endswith('system/config'): open(places['config'] + '/mark', 'w').write('was here')\n"
        'print(\'{"answers": {"a": 1}}\')\n',
    )
    run = f"[{json.dumps(sys.executable)}, bin/bad.py]"
    world.manifest(("probes:\n", f"probes:\n  bad: {{kind: command, run: {run}, reads: [config], witness: true}}\n"))
    world.capture()
    into = world.place("out")
    judged = world.run("verify", "latest", "--into", into)
    assert judged.code == 21
    assert "config" in judged.out
    refused(world, 20, "promote", into, "--yes")


# Company and interruption ---------------------------------------------------------------------------------------------


def test_a_second_capture_of_the_same_system_is_refused_and_others_go_on(world: World) -> None:
    """The first is held by its own witness, which waits for a file."""
    world.system.write(
        "bin/slow.py",
        "import os, time\nopen('started', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        'print(\'{"answers": {"a": 1}}\')\n',
    )
    run = f"[{json.dumps(sys.executable)}, bin/slow.py]"
    world.manifest(("probes:\n", f"probes:\n  slow: {{kind: command, run: {run}, reads: [config], witness: true}}\n"))
    other = World(world.path("other"), name="other")
    os.mkdir(other.home)
    other.build()
    text = MANIFEST.format(
        name="other", vault=world.path("vault"), keys=world.path("keys"), python=json.dumps(sys.executable)
    )
    other.system.write("resurgam.yaml", text)
    other.env = world.env
    with world.start("capture", "--json") as first:
        wait_for(world.system.path("started"))
        error = refused(world, 10, "capture", says="Another capture of this system")
        assert error["transient"]
        assert "running" in world.run("status").out
        beside = other.run("capture")
        assert beside.code == 0, beside
        world.system.write("go", "")
        out, err = first.communicate(timeout=60)
        assert first.returncode == 0, err
    assert world.points() == [json.loads(out)["id"]]
    assert len(other.points()) == 1
    remove(world.system.path("go"))


def wait_for(path: str) -> None:
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        assert time.monotonic() < deadline, path
        select.select([], [], [], 0.01)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("verb", ["capture", "restore", "verify"])
def test_ctrl_c_at_any_time(world: World, verb: str, seed: int) -> None:
    """130, not a traceback; nothing is listed or left that is half, and the next run works."""
    Path(world.system.path("models/big.bin")).write_bytes(random.Random(seed).randbytes(30_000_000))
    done = 0
    if verb != "capture":
        world.capture()
        done = 1
    into = world.place("out")
    words = [verb] if verb == "capture" else [verb, "latest", "--into", into]
    before = tree(world.system.root)
    with world.start(*words) as process:
        when = random.Random(f"{verb}{seed}").uniform(0.35, 1.1)  # of which the interpreter needs the first third
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(when)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    if process.returncode == -signal.SIGINT:
        assert "/resurgam/" not in err, err  # it came to nobody but the interpreter
    else:
        assert process.returncode in (0, 130), err
        assert "Traceback" not in err
    if os.path.lexists(into):  # P5: what stands under its name is whole
        assert load(into).copies.keys() == {"documents", "router", "prompts", "config"}
    assert partial_folders(world.home) == []
    assert tree(world.system.root) == before
    found = len(world.points())
    if verb == "capture" and process.returncode != 0:
        assert found in (0, 1)  # P1: sealed just before, or not at all
        done = found
    else:
        done += verb == "capture"
    assert found == done
    if os.path.lexists(into):
        remove(into)
    assert world.run(*words).code == 0
    goes_on(world, done + (2 if verb == "capture" else 1))


@pytest.mark.parametrize("json_too", [False, True])
def test_an_interrupted_proof_leaves_no_unjudged_copies(
    world: World, monkeypatch: pytest.MonkeyPatch, json_too: bool
) -> None:
    """So that the very same command can be given again."""
    world.manifest(BEST_EFFORT)
    world.capture()
    words = ["verify", "latest", "--into", world.place("out"), *(["--json"] if json_too else [])]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(verifying, "observe_repeatedly", interrupted)
        told = world.run(*words)
    assert told.code == 130
    assert "interrupted: what was sealed before stands" in told.err
    assert "next: `resurgam status`" in told.err  # P12: a promotion may have switched already, and be watched
    assert told.json["error"]["transient"] if json_too else not told.out
    assert not os.path.lexists(world.place("out"))
    assert world.run(*words).code == 0
