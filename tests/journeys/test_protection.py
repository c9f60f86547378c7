"""Locks that last, and the vault as it was, by the real command line on a real S3 server."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from tests.journeys.world import World, tree
from tests.stores.seaweed import Seaweed, environment

BUCKET = "locked"
HOUR = 3600.0
_numbers = count()


class Vault(World):
    """A system whose vault locks for two hours, and what somebody with all rights can do past Resurgam."""

    def __init__(self, server: Seaweed, folder: Path, mode: str = "compliance", bucket: str = BUCKET) -> None:
        super().__init__(os.fspath(folder / "world"))
        self.build()
        self.server, self.bucket, self.prefix = server, bucket, f"handbook-{next(_numbers)}"
        self.env |= environment("admin")
        lock = f", lock: {{mode: {mode}, for: 2h}}" if mode else ""
        self.manifest((self.path("vault"), f'"{server.url(bucket, self.prefix)}"{lock}'))
        made = self.run("vault", "init")
        assert made.code == 0, made

    def versions(self) -> list[tuple[str, str]]:
        """Every version and every marker below the vault's prefix."""
        pages = self.server.client().get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix=self.prefix)
        return sorted(
            (one["Key"], one["VersionId"])
            for page in pages
            for kind in ("Versions", "DeleteMarkers")
            for one in page.get(kind, ())
        )

    def names(self, kind: str) -> list[str]:
        found = self.server.client().list_objects_v2(Bucket=self.bucket, Prefix=f"{self.prefix}/{kind}")
        return [one["Key"] for one in found.get("Contents", ())]

    def locked_until(self, key: str, version: str = "") -> float:
        at = {"VersionId": version} if version else {}
        found = self.server.client().get_object_retention(Bucket=BUCKET, Key=key, **at)
        until: datetime = found["Retention"]["RetainUntilDate"]
        return until.timestamp()

    def overwrite(self, key: str) -> None:
        self.server.client().put_object(Bucket=BUCKET, Key=key, Body=b"pay us")

    def hide(self, key: str) -> None:
        self.server.client().delete_object(Bucket=BUCKET, Key=key)

    def a_second_later(self) -> str:
        """A time after all that is there: the server's are whole seconds."""
        listed = self.server.client().list_objects_v2(Bucket=BUCKET, Prefix=self.prefix)["Contents"]
        newest = max(one["LastModified"].timestamp() for one in listed)
        deadline = time.monotonic() + 30
        while time.time() < newest + 1.0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def test_a_lock_that_would_lapse_is_renewed_and_garbage_is_not(seaweed: Seaweed, tmp_path: Path) -> None:
    """P10: each verb tells until when; a plan changes nothing; `--yes` lengthens what points need, and nothing else."""
    world = Vault(seaweed, tmp_path)
    captured = world.run("capture")
    assert "protected until" in captured.out
    (pack, *_) = world.names("packs/")
    garbage = f"{world.prefix}/packs/ab/{'ab' * 32}"
    until = datetime.fromtimestamp(time.time() + HOUR, UTC)
    seaweed.client().put_object(
        Bucket=BUCKET, Key=garbage, Body=b"x" * 5000, ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until
    )
    world.system.change_prompt()
    newest = world.capture()
    shown = world.run("show", "--json").json["protected"]
    assert shown["point"] == newest
    assert time.time() + HOUR < shown["until"] <= time.time() + 2 * HOUR
    assert [one["protected"]["until"] for one in world.run("points", "--long", "--json").json] == [shown["until"]] * 2
    assert "protected until (UTC)" in world.run("points", "--long").out
    assert world.run("vault", "renew").code == 0
    planned = world.run("vault", "renew", "--for", "6h", "--json")
    assert planned.code == 0
    assert f"packs/{pack.rpartition('/packs/')[2]}" in planned.json["names"]
    assert world.locked_until(pack) < time.time() + 2 * HOUR
    done = world.run("vault", "renew", "--for", "6h", "--yes", "--json")
    assert (done.code, done.json["trouble"], done.json["covered"]) == (0, {}, {})
    assert world.locked_until(pack) > time.time() + 5.9 * HOUR
    assert world.locked_until(garbage) <= until.timestamp() + 1
    assert world.run("show", "--json").json["protected"]["until"] > time.time() + 5.9 * HOUR
    assert world.run("vault", "renew", "--for", "6h").out.endswith("nothing is due\n")
    for words in ("0s", "9999999d"):
        refused = world.run("vault", "renew", "--for", words, "--yes")
        assert (refused.code, "cannot be made to hold" in refused.err) == (2, True)


def test_status_warns_before_protection_lapses(seaweed: Seaweed, tmp_path: Path) -> None:
    """P12: the exit code, a line and two metrics; from what this host remembers where that is enough, else as the store says."""
    world = Vault(seaweed, tmp_path)
    world.capture()
    metrics = world.place("metrics.prom")
    well = world.run("status", "--json", "--metrics", metrics)
    assert (well.code, well.json["protection"]["lasts"], well.json["covered"]) == (0, True, {})
    assert world.run("points").err == ""
    with open(metrics, encoding="utf-8") as file:
        text = file.read()
    assert 'resurgam_protection_lapsing{system="test"} 0.000' in text.replace('"handbook"', '"test"')
    assert "resurgam_protected_seconds" in text
    ill = world.run("status", "--lock-warning", "3h", "--metrics", metrics)
    assert ill.code == 23
    assert "vault renew --yes" in ill.out
    with open(metrics, encoding="utf-8") as file:
        assert "} 1.000" in file.read().partition("# TYPE resurgam_protection_lapsing")[2].partition("#")[0]
    state = world.env["RESURGAM_STATE"]
    world.env["RESURGAM_STATE"] = world.path("another-host")
    assert world.run("vault", "renew", "--yes", "--for", "8h").code == 0
    world.env["RESURGAM_STATE"] = state
    assert world.run("status", "--lock-warning", "3h").code == 0  # looked anew: what this host remembers was too little


def test_the_vault_before_somebody_harmed_it(seaweed: Seaweed, tmp_path: Path) -> None:
    """P2 P12: points overwritten and hidden, packs overwritten: `--as-of` shows them, checks them, and restores them to the byte;
    nothing is written anywhere by that, and `vault renew` keeps what lies beneath."""
    world = Vault(seaweed, tmp_path)
    first = world.capture()
    before = tree(world.system.path("prompts"))
    world.system.change_prompt()
    second = world.capture()
    well = world.a_second_later()
    hidden, overwritten = f"{world.prefix}/points/{first}", f"{world.prefix}/points/{second}"
    world.hide(hidden)
    world.overwrite(overwritten)
    packs = world.names("packs/")
    for pack in packs:
        world.overwrite(pack)
    assert world.run("restore", first, "--into", world.place("in-vain")).code != 0
    assert world.points() == []
    told = world.run("points")
    assert f": points/{first}; its first version is kept" in told.err
    assert f": points/{second}; its first version is kept" in told.err
    ill = world.run("status", "--json")
    assert (ill.code, set(ill.json["covered"])) == (8, {f"points/{first}", f"points/{second}"})
    assert "its first version is kept" in world.run("status").out
    untouched, notes = world.versions(), tree(world.path("state"))
    for when in (well, "first"):
        listed = world.run("points", "--as-of", when, "--json")
        assert [point["id"] for point in listed.json] == [first, second]
        into = world.place(f"restored-{when[:5]}")
        restored = world.run("restore", first, "--into", into, "--as-of", when)
        assert restored.code == 0, restored
        assert tree(os.path.join(into, "prompts/prompts")) == before
        checked = world.run("vault", "check", "--read", "--as-of", when, "--json")
        assert (checked.code, checked.json["points"], checked.json["packs_read"]) == (0, 2, len(packs))
        assert world.run("diff", first, second, "--stat", "--as-of", when).code == 0
        assert world.run("show", first, "--as-of", when).code == 0
    asleep = world.run("restore", first, "--into", world.place("never"), "--as-of", "first", "--warm-up")
    assert (asleep.code, "acts on the vault as it is" in asleep.err) == (
        2,
        True,
    )  # and does not say that nothing sleeps
    assert (world.versions(), tree(world.path("state"))) == (untouched, notes)
    told = world.run("vault", "renew", "--for", "6h", "--yes", "--json")
    assert told.code == 8
    assert set(told.json["covered"]) == {f"points/{first}", f"points/{second}"} | {
        pack.removeprefix(f"{world.prefix}/") for pack in packs
    }
    assert (
        world.run("status", "--json").json["covered"] == told.json["covered"]
    )  # this host has seen the packs too by now
    assert {point["point"] for point in told.json["points"]} == {first, second}
    for key in (hidden, overwritten, *packs):
        oldest = min(
            (one for one in seaweed.client().list_object_versions(Bucket=BUCKET, Prefix=key)["Versions"]),
            key=lambda one: (one["IsLatest"], one["LastModified"]),
        )
        assert world.locked_until(key, oldest["VersionId"]) > time.time() + 5.9 * HOUR


def test_no_versions_no_past_and_no_locks(seaweed: Seaweed, tmp_path: Path) -> None:
    """P12: a bucket that keeps no versions, and a folder, say so; nothing is promised there by any verb."""
    world = Vault(seaweed, tmp_path, mode="", bucket="plain")
    world.capture()
    refused = world.run("points", "--as-of", "2026-01-01T00:00")
    assert (refused.code, "keeps no versions" in refused.err) == (2, True)
    assert "protected" not in world.run("show").out
    assert "protected until" not in world.run("points", "--long").out
    assert world.run("status", "--json").json["protection"] is None
    folder = World(os.fspath(tmp_path / "folder")).ready()
    folder.capture()
    refused = folder.run("show", "--as-of", "first")
    assert (refused.code, "keeps no versions" in refused.err) == (2, True)
    refused = folder.run("vault", "renew", "--for", "1h")
    assert (refused.code, "locks no objects" in refused.err) == (2, True)
    assert folder.run("vault", "renew").code == 2
