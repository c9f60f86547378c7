"""Cold classes by the real command line, on servers that speak S3: capture, refusal, warm-up, restore, and what all of it costs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.errors import Archived
from resurgam.stores.archive import Archives, Speed, Wakefulness
from resurgam.stores.registry import open_store
from tests.house.test_code import ROOT
from tests.journeys.world import World, tree
from tests.stores.archives import Sleepy, environment

BUCKET = "vaults"
PRICES = os.fspath(ROOT / "examples/prices/example.yaml")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sleepy]:
    server = Sleepy(str(tmp_path_factory.mktemp("moto")))
    try:
        server.start()
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.stop()


def test_the_store_speaks_of_classes_as_s3_does(server: Sleepy, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2 P12: an object is created in its class once; a read of what sleeps is Archived; asked for twice it is asked for once."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    store = open_store(server.url(BUCKET, "words"))
    assert isinstance(store, Archives)
    server.patience(2)
    store.put("warm", b"warm")
    store.put_as("packs/a", b"bytes", "DEEP_ARCHIVE")
    store.put_as("packs/b", b"more", "GLACIER_IR")
    assert [(entry.name, entry.size, c) for entry, c in store.classes()] == [
        ("packs/a", 5, "DEEP_ARCHIVE"),
        ("packs/b", 4, "GLACIER_IR"),
        ("warm", 4, "STANDARD"),
    ]
    assert store.get("packs/b") == b"more"
    for read in (lambda: store.get("packs/a"), lambda: store.read_into("packs/a", 1, memoryview(bytearray(2)))):
        with pytest.raises(Archived, match="packs/a lies in a class"):
            read()
    assert store.state("packs/a").state is Wakefulness.ASLEEP
    store.warm("packs/a", 3, Speed.BULK)
    assert store.state("packs/a").state is Wakefulness.WAKING
    store.warm("packs/a", 3, Speed.BULK)
    while (found := store.state("packs/a")).state is Wakefulness.WAKING:
        pass  # moto counts looks
    assert (found.state, found.until is not None) == (Wakefulness.READY, True)
    assert store.get("packs/a") == b"bytes"


def test_a_cold_component_is_woken_and_restored(server: Sleepy, tmp_path: Path) -> None:
    """P5 P10 P12: refused with the command that wakes it; a plan; exit code 16 until it is there; then the same bytes."""
    server.patience(0)
    world = World(os.fspath(tmp_path / "world")).build()
    world.env |= environment()
    world.manifest(
        (world.path("vault"), f'"{server.url(BUCKET, "handbook")}", cold: GLACIER'),
        ("prompts: {driver: files,", "prompts: {tier: cold, shred_domain: prompts, driver: files,"),
    )
    assert world.run("vault", "init").code == 0
    assert world.run("vault", "add-domain", "prompts").code == 0
    point = world.capture()
    found = server.client().list_objects_v2(Bucket=BUCKET, Prefix="handbook/")["Contents"]
    cold = [one["Key"] for one in found if one["StorageClass"] == "GLACIER"]
    assert len(cold) == 1
    assert "/packs/" in cold[0]

    into = world.place("out")
    refused = world.run("restore", point, "--into", into)
    assert (refused.code, os.path.exists(into)) == (Archived.exit_code, False)
    assert "--warm-up" in refused.err
    checked = world.run("vault", "check", "--read", "--cost", PRICES)
    assert (checked.code, "1 pack of" in checked.out, "that would cost 0.0" in checked.out) == (0, True, True)

    planned = world.run("restore", point, "--into", into, "--warm-up", "--dry-run", "--cost", PRICES, "--speed", "bulk")
    assert planned.code == 0, planned
    for words in ("asleep: 1 pack of", "in GLACIER", "at bulk speed, for 7 days", "warm-up: egress"):
        assert words in planned.out
    assert "Restore" not in server.client().head_object(Bucket=BUCKET, Key=cold[0])

    server.patience(2)
    asked = world.run("restore", point, "--into", into, "--warm-up", "--json")
    assert asked.code == Archived.exit_code
    assert asked.json["error"]["transient"] is True
    assert "will be awake by 20" in asked.json["error"]["message"]
    for _ in range(5):  # moto counts looks, not hours
        done = world.run("restore", point, "--into", into, "--warm-up", "--wait", "50ms")
        if done.code != Archived.exit_code:
            break
    assert done.code == 0, done
    assert tree(os.path.join(into, "prompts/prompts")) == tree(world.system.path("prompts"))

    told = world.run("vault", "stats", "--cost", PRICES, "--every", "1h", "--drills", "1", "--json").json["cost"]
    classes = {line["what"]: line["storage_class"] for line in told["lines"] if line["storage_class"] == "GLACIER"}
    assert {"storage", "a drill: warm-up", "a drill: get"} <= classes.keys()
    assert world.run("status").code == 0


def test_a_folder_has_no_cold_class(tmp_path: Path) -> None:
    """P12: what should lie cold is not put elsewhere in silence."""
    world = World(os.fspath(tmp_path / "world")).build()
    world.manifest(
        (world.path("vault"), f"{world.path('vault')}, cold: DEEP_ARCHIVE"),
        ("prompts: {driver: files,", "prompts: {tier: cold, shred_domain: prompts, driver: files,"),
    )
    assert world.run("vault", "init").code == 0
    assert world.run("vault", "add-domain", "prompts").code == 0
    refused = world.run("capture")
    assert (refused.code, "has no storage classes" in refused.err) == (6, True)


def test_costs_are_told_before_and_after(tmp_path: Path) -> None:
    """preflight by the manifest's rpo or --every; stats by use; the errors of a price list."""
    world = World(os.fspath(tmp_path / "world")).build()
    assert world.run("vault", "init").code == 0
    told = world.run("preflight", "--cost", PRICES, "--every", "1h", "--change", "5%")
    assert told.code == 0, told
    for words in (
        "By prices of 2026-01-01, in EUR",
        "a capture: put",
        "a drill: egress",
        "EUR a month",
        "assumed: a capture every",
    ):
        assert words in told.out
    assert "example figures" in told.out
    assert "NOT KNOWN" not in told.out
    os.rename(world.system.path("prompts"), world.system.path("elsewhere"))
    unknown = world.run("preflight", "--cost", PRICES, "--every", "1h").out
    assert "NOT KNOWN is the size of prompts, and none of it is in these sums" in unknown  # P12
    os.rename(world.system.path("elsewhere"), world.system.path("prompts"))
    world.capture()
    os.rename(world.system.path("prompts"), world.system.path("elsewhere"))
    unknown = world.run("preflight", "--cost", PRICES, "--every", "1h").out
    assert "the size of prompts is that of the newest point" in unknown
    os.rename(world.system.path("elsewhere"), world.system.path("prompts"))
    world.system.change_prompt()
    world.capture()
    cost = world.run("vault", "stats", "--cost", PRICES, "--json").json["cost"]
    assert float(cost["month"]) > 0
    assert "a restore" in cost["each"]
    lines = [line for line in cost["lines"] if line["monthly"]]
    assert sum(float(line["amount"]) for line in lines) == pytest.approx(float(cost["month"]))
    dearer = world.run("vault", "stats", "--cost", PRICES, "--every", "1m", "--json").json["cost"]
    endless = world.run("vault", "stats", "--cost", PRICES, "--every", "0s")
    assert (endless.code, "without end" in endless.err) == (2, True)
    assert float(dearer["month"]) > float(cost["month"])
    bad = tmp_path / "bad.yaml"
    bad.write_text("resurgam_prices: 1\ncurency: EUR\n", encoding="utf-8")
    wrong = world.run("vault", "stats", "--cost", str(bad))
    assert (wrong.code, "Did you mean 'currency'" in wrong.err) == (3, True)
