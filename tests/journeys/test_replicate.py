"""Replicas by the real command line: folders, two buckets of a real S3 server, a process that is killed, a disk that is carried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.journeys.world import World, remove, tree
from tests.stores.seaweed import Seaweed, environment

PROMPTS = "prompts: {driver: files, location: prompts"
EU = (f"{PROMPTS}}}", f"{PROMPTS}, shred_domain: people, residency: eu}}")  # what the manifest says, and is to say
MEMORY = 256_000_000  # bytes that an edge device has


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A system whose prompts may not leave the EU, and a point of it."""
    made = World(os.fspath(tmp_path / "world")).ready()
    assert made.run("vault", "add-domain", "people", "--residency", "eu").code == 0
    made.manifest(EU)
    made.capture()
    return made


@pytest.fixture
def plain(tmp_path: Path) -> World:
    """A system of which everything may go anywhere."""
    return World(os.fspath(tmp_path / "world")).ready()


def listed(world: World, name: str, region: str, *more: str) -> str:
    """List a folder as a replica; its path."""
    path = world.path(name)
    done = world.run("replicate", "add", name, path, "--region", region, "--home-region", "eu", *more)
    assert done.code == 0, done
    return path


def objects(folder: str) -> dict[str, str]:
    """What a vault's folder holds, but what a replica has for itself."""
    own = ("replica", "replica/", "tmp")
    return {
        name: what
        for name, what in tree(folder).items()
        if name not in own and not name.startswith(("replica/", "tmp/"))
    }


def test_from_the_first_run_to_a_restore_elsewhere(world: World) -> None:
    """P1 P3: two regions; what may not leave does not; all else restores from a replica alone, without a manifest."""
    frankfurt, ohio = listed(world, "frankfurt", "eu"), listed(world, "ohio", "us")
    assert "0 points there, 1 missing" in world.run("replicate", "status").out
    ran = world.run("replicate", "run", "--json")
    assert ran.code == 0, ran
    assert (ran.json["done"]["frankfurt"]["withheld"], ran.json["done"]["ohio"]["withheld"] > 0) == (0, True)
    assert objects(frankfurt) == objects(world.path("vault"))
    stands = world.run("replicate", "status", "--metrics", world.path("replicas.prom"))
    assert (stands.code, stands.out.count("as it should be")) == (0, 2)
    with open(world.path("replicas.prom"), encoding="utf-8") as file:
        assert 'resurgam_replica_behind{vault="vault",replica="ohio"} 0' in file.read()
    there = ("--vault", ohio, "--keys", world.path("keys"))
    checked = world.run("vault", "check", "--read", *there)
    assert (checked.code, "withheld from this replica by their residency, and not missed: prompts" in checked.out) == (
        0,
        True,
    )
    whole = world.run("restore", "latest", "--into", world.place("whole"), *there)
    assert whole.code == 4
    assert "prompts is not here: residency eu, and this is the replica ohio" in whole.err
    assert f"Restore from origin ({world.path('vault')}) or frankfurt ({frankfurt})" in whole.err
    part = world.run("restore", "latest", "--into", world.place("part"), "--component", "config", *there)
    assert part.code == 0, part
    remove(world.path("vault"))
    again = world.run(
        "restore", "latest", "--into", world.place("again"), "--vault", frankfurt, "--keys", world.path("keys")
    )
    assert again.code == 0, again
    assert tree(world.place("again/prompts/prompts")) == tree(world.system.path("prompts"))


def test_nothing_is_captured_into_a_replica(world: World) -> None:
    """Exit code 13, and where to write instead."""
    frankfurt = listed(world, "frankfurt", "eu")
    assert world.run("replicate", "run").code == 0
    before = objects(frankfurt)
    world.manifest(EU, (world.path("vault"), frankfurt))
    refused = world.run("capture")
    assert (refused.code, f"written to is origin ({world.path('vault')})" in refused.err) == (13, True)
    assert objects(frankfurt) == before


def test_a_lost_region_and_what_comes_back(world: World) -> None:
    """P10: promoted by one explicit act, shown first; captures go on; what was the primary comes back as a replica."""
    frankfurt = listed(world, "frankfurt", "eu")
    assert world.run("replicate", "run").code == 0
    os.rename(world.path("vault"), world.path("gone"))
    there = ("--vault", frankfurt, "--keys", world.path("keys"))
    shown = world.run("replicate", "promote", *there)
    assert (shown.code, "nothing was changed: --yes does it" in shown.out) == (0, True)
    done = world.run("replicate", "promote", *there, "--yes", "--why", "region lost")
    assert (done.code, "origin does not know it yet" in done.err) == (0, True)
    world.manifest(EU, (world.path("vault"), frankfurt))
    world.system.change_prompt()
    newest = world.capture()
    restored = world.run("restore", newest, "--into", world.place("new"))
    assert restored.code == 0, restored
    os.rename(world.path("gone"), world.path("vault"))
    world.manifest(EU)
    assert world.run("capture").code == 13  # this host has seen a newer list
    world.manifest(EU, (world.path("vault"), frankfurt))
    assert world.run("replicate", "run").code == 0
    world.manifest(EU)
    remove(world.path("state"))
    refused = world.run("capture")
    assert (refused.code, f"written to is frankfurt ({frankfurt})" in refused.err) == (13, True)
    assert objects(world.path("vault")) == objects(frankfurt)
    assert world.run("audit", "verify", *there).code == 0


def test_a_run_that_is_killed_goes_on(plain: World) -> None:
    """kill -9, several times: what is there is not sent again, not by a byte, and the rest comes (P1)."""
    world = plain
    with open(world.system.path("config/large"), "wb") as file:
        file.write(os.urandom(6_000_000))
    world.capture()
    frankfurt = listed(world, "frankfurt", "eu")
    seen: dict[str, int] = {}
    for _ in range(3):
        process = world.start("replicate", "run", "--limit-mb-s", "1.5")
        known, deadline = set(seen), time.monotonic() + 60
        while set(files(frankfurt)) <= known and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        now = files(frankfurt)
        assert {name: now[name] for name in seen} == seen
        seen = now
    assert world.run("replicate", "run").code == 0
    now = files(frankfurt)
    assert {name: now[name] for name in seen} == seen
    assert objects(frankfurt) == objects(world.path("vault"))


def files(folder: str) -> dict[str, int]:
    """The objects that are there, and when each was written, to the nanosecond."""
    paths = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    return {path: os.stat(path).st_mtime_ns for path in paths if "/tmp/" not in path.removeprefix(folder)}


def test_a_disk_that_is_carried(world: World, tmp_path: Path) -> None:
    """Behind the gap there is nothing but what pins the vault: trust.json. A second disk carries what is new."""
    listed(world, "bunker", "eu")
    remove(world.path("bunker"))  # it is not reachable from here
    (tmp_path / "pin").mkdir(mode=0o700)
    shutil.copy(world.path("keys/trust.json"), tmp_path / "pin/trust.json")
    inside = ("--vault", world.path("inside"), "--keys", os.fspath(tmp_path / "pin"))
    made = world.run("replicate", "export", world.path("disk"), "--for", "bunker", "--json")
    assert (made.code, "everything is written" in made.err) == (0, True)
    brought = world.run("replicate", "import", world.path("disk"), *inside)
    assert (brought.code, "1 point more there" in brought.out) == (0, True)
    assert objects(world.path("inside")) == objects(world.path("vault"))
    time.sleep(0.01)
    since = time.time()
    world.system.change_prompt()
    world.capture()
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since)) + f"{since % 1:.6f}"[1:]
    second = world.run("replicate", "export", world.path("second"), "--for", "bunker", "--since", when, "--json")
    assert second.code == 0, second
    assert second.json["bytes"] < made.json["bytes"]
    assert world.run("replicate", "import", world.path("second"), *inside).code == 0
    assert objects(world.path("inside")) == objects(world.path("vault"))


def test_an_edge_device_replicates_in_256_mb(plain: World) -> None:
    """Packs of 32 MiB, several under way: the whole process stays within what the device has, measured at its peak."""
    world = plain
    with open(world.system.path("config/large"), "wb") as file:
        file.write(os.urandom(200_000_000))
    world.capture()
    frankfurt = listed(world, "frankfurt", "eu")
    script = (
        "import sys; from resurgam.cli.main import main; code = main(sys.argv[1:]);"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'));"
        "print(peak.split()[1], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "replicate", "run", "--verify"],
        cwd=world.system.root, env=os.environ | world.env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) * 1024 < MEMORY
    assert objects(frankfurt) == objects(world.path("vault"))


def test_from_bucket_to_bucket(seaweed: Seaweed, tmp_path: Path) -> None:
    """On a real S3 server: byte for byte, what is withheld is not there, and the other bucket alone restores the rest."""
    for bucket in ("frankfurt", "ohio"):
        seaweed.client().create_bucket(Bucket=bucket)
    world = World(os.fspath(tmp_path / "world")).build()
    world.env |= environment("admin")
    change = (world.path("vault"), f'"{seaweed.url("frankfurt", "handbook")}"')
    world.manifest(change)
    assert world.run("vault", "init").code == 0
    assert world.run("vault", "add-domain", "people", "--residency", "eu").code == 0
    world.manifest(change, EU)
    world.capture()
    added = world.run("replicate", "add", "ohio", seaweed.url("ohio", "copy"), "--region", "us")
    assert (added.code, "exactly one wins" in added.out) == (0, True)
    assert world.run("replicate", "run", "--verify").code == 0
    ours, theirs = (bucket_objects(seaweed, *place) for place in (("frankfurt", "handbook"), ("ohio", "copy")))
    missing = {name for name in ours if name not in theirs}
    assert missing
    assert all(name.startswith(("packs/", "keys/session-")) for name in missing)
    assert all(data == ours[name] for name, data in theirs.items() if not name.startswith("replica/"))
    assert world.run("replicate", "run", "--json").json["done"]["ohio"]["objects"] == 0
    part = world.run(
        "restore", "latest", "--into", world.place("part"), "--component", "config", "--vault", seaweed.url("ohio", "copy"),
        "--keys", world.path("keys"),
    )  # fmt: skip
    assert part.code == 0, part
    assert tree(world.place("part/config/config")) == tree(world.system.path("config"))


def bucket_objects(server: Seaweed, bucket: str, prefix: str) -> dict[str, bytes]:
    """What lies in a bucket, seen past any store."""
    client = server.client()
    found = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", ())
    names = [entry["Key"] for entry in found]
    read = {name: client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}
    return {name.removeprefix(f"{prefix}/"): data for name, data in read.items() if "/probe/" not in name}
