"""A vault in a bucket, by the real command line, on a real S3 server: the whole way, a server killed midway, locked objects."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.world import World, remove, tree
from tests.stores.seaweed import SECRET, Seaweed, environment

BUCKET = "plain"
LOCKED = "locked"


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Seaweed]:
    """A server of the test's own: it is killed."""
    server = Seaweed(str(tmp_path / "server"))
    try:
        server.start()
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.kill()


def world_on(server: Seaweed, folder: Path, bucket: str = BUCKET, lock: str = "") -> World:
    """A system whose manifest names a prefix of the bucket, called as the test's folder; no vault yet."""
    world = World(os.fspath(folder / "world")).build()
    world.env |= environment("writer" if bucket == BUCKET else "admin")
    world.manifest((world.path("vault"), f'"{server.url(bucket, folder.name)}"{lock}'))
    return world


def packs_of(server: Seaweed, folder: Path) -> list[str]:
    """The packs of the vault, seen past it."""
    found = server.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{folder.name}/packs/")
    return [entry["Key"] for entry in found.get("Contents", ())]


def test_the_whole_way(seaweed: Seaweed, tmp_path: Path) -> None:
    """P1 P3: init says what the bucket promises; two captures; all is read; restored to the byte, also with no manifest."""
    world = world_on(seaweed, tmp_path)
    made = world.run("vault", "init")
    assert (made.code, made.err) == (0, "")
    for words in ("exactly one wins", "listings are whole", "keeps no versions", "lock objects"):
        assert words in made.out
    assert world.run("preflight").code == 0
    first = world.capture()
    before = tree(world.system.path("prompts"))
    world.system.change_prompt()
    second = world.capture()
    checked = world.run("vault", "check", "--read", "--json")
    assert (checked.code, checked.json["ok"]) == (0, True)
    into = world.place("restored")
    restored = world.run("restore", first, "--into", into)
    assert restored.code == 0, restored
    assert tree(os.path.join(into, "prompts/prompts")) == before != tree(world.system.path("prompts"))
    remove(world.path("state"))
    remove(world.system.path("resurgam.yaml"))
    anew = world.place("anew")
    away = ("--vault", seaweed.url(BUCKET, tmp_path.name), "--keys", world.path("keys"))
    found = world.run("restore", second, "--into", anew, *away)
    assert found.code == 0, found
    assert tree(os.path.join(anew, "prompts/prompts")) == tree(world.system.path("prompts"))


def test_no_credential_is_shown_or_kept(seaweed: Seaweed, tmp_path: Path) -> None:
    """P12: neither what is said nor what is written down holds the secret; a manifest that holds one is refused."""
    world = world_on(seaweed, tmp_path)
    said = [world.run("vault", "init"), world.run("capture"), world.run("status"), world.run("show")]
    world.env |= environment("writer", f"{SECRET}-but-wrong")
    said.append(world.run("capture"))
    assert [result.code for result in said] == [0, 0, 0, 0, 6]
    assert not any(SECRET in result.out + result.err for result in said)
    for folder, _, names in os.walk(world.home):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                assert SECRET.encode() not in file.read(), name
    world.manifest((world.path("vault"), f'"s3://writer:{SECRET}@{BUCKET}/handbook"'))
    refused = world.run("capture")
    assert refused.code == 3
    assert SECRET not in refused.out + refused.err


def test_a_server_killed_in_mid_capture(mortal: Seaweed, tmp_path: Path) -> None:
    """P1: the capture says that nobody answers; what was sealed is whole; the next capture goes on and the vault checks."""
    world = world_on(mortal, tmp_path)
    assert world.run("vault", "init").code == 0
    first = world.capture()
    packs = len(packs_of(mortal, tmp_path))
    with open(world.system.path("prompts/large.bin"), "wb") as file:
        file.write(os.urandom(160 << 20))
    with world.start("capture") as capturing:
        deadline = time.monotonic() + 60
        while len(packs_of(mortal, tmp_path)) == packs:
            assert capturing.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        mortal.kill()
        _, err = capturing.communicate(timeout=180)
    assert capturing.returncode == 7, err
    assert "could not be written" in err
    mortal.start()
    assert world.points() == [first]
    assert world.run("vault", "check", "--read").code == 0
    second = world.capture()
    assert world.points() == [first, second]
    assert world.run("vault", "check", "--read").code == 0
    into = world.place("restored")
    assert world.run("restore", second, "--into", into).code == 0
    assert tree(os.path.join(into, "prompts/prompts")) == tree(world.system.path("prompts"))


def test_everything_is_locked_as_it_is_written(seaweed: Seaweed, tmp_path: Path) -> None:
    """P2: with ``vault.lock`` no object of the vault can be deleted by the credentials that wrote it, from its first moment on."""
    lock = ", lock: {mode: compliance, for: 2h}"
    plain = world_on(seaweed, tmp_path, lock=lock)
    refused = plain.run("vault", "init")
    assert refused.code == 6
    assert "locks are refused" in refused.err
    assert not os.path.exists(plain.path("keys"))
    remove(plain.home)
    world = world_on(seaweed, tmp_path, LOCKED, lock)
    made = world.run("vault", "init")
    assert made.code == 0, made
    world.capture()
    assert world.run("vault", "check", "--read").code == 0
    client = seaweed.client()
    versions = client.list_object_versions(Bucket=LOCKED, Prefix=f"{tmp_path.name}/")["Versions"]
    of_vault = [version for version in versions if "/probe/" not in version["Key"]]
    assert len(of_vault) > 10
    for version in of_vault:
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(Bucket=LOCKED, Key=version["Key"], VersionId=version["VersionId"])
