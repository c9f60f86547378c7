"""Retention, holds, quarantine and tags, as a person or a script meets them.

The vault is a folder of this host, so the store's clock is the kernel's: what a bucket's owner would wait for, these tests set as
times of files. Whoever can do that can delete as well (docs/threat-model.md).
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resurgam.model.codec import from_json
from resurgam.stores.local import LocalStore
from resurgam.vault.keyring import Keyring
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository
from resurgam.vault.signing import open_envelope
from tests.journeys.world import World, tree

DAY = 86400
RULES = "retention: {last: 1, at_least: 1, keep_tags: [release-7]}\nobjectives"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(os.fspath(tmp_path)).ready()
    world.manifest(("objectives", RULES))
    return world


def age(world: World, name: str, days: float) -> None:
    """Let the store have received ``name`` so long ago."""
    then = time.time() - days * DAY
    os.utime(world.path(f"vault/{name}"), (then, then))


def kept(world: World) -> dict[str, bool]:
    told = world.run("retention", "show", "--json")
    assert told.code == 0, told
    return {point["point"]: point["keep"] for point in told.json["points"]}


def test_from_manifest_to_policy_to_decision(world: World) -> None:
    """P10: the plan changes nothing; set, a policy waits for what was before it; then it lets go of what nothing keeps."""
    tagged = json.loads(world.run("capture", "--tag", "release-7", "--json").out)["id"]
    first, second = world.capture(), world.capture()
    for n, point in enumerate((tagged, first, second)):
        age(world, f"points/{point}", 40 - n)
    before = tree(world.path("vault"))
    planned = world.run("retention", "set")
    assert planned.code == 0, planned
    assert "expires: nothing -> what no rule keeps  (weaker)" in planned.out
    assert "by it alone 1 of 3 points would expire, not before" in planned.out
    assert f"    {first}" in planned.out
    assert "nothing was changed: --yes does it" in planned.out
    assert tree(world.path("vault")) == before

    done = world.run("retention", "set", "--yes", "--why", "the board\x1b[2J\nsaid so")
    assert "policy 1 is in force" in done.out
    assert "it is in force already" in world.run("retention", "set", "--yes").out
    assert kept(world) == {tagged: True, first: True, second: True}
    told = world.run("retention", "explain", first)
    assert "policy being weakened: still kept by what was before until" in told.out
    assert "it may expire on" in told.out
    assert "why: the board [2J said so" in told.out, "nothing that moves a cursor"

    age(world, "retention/00000001", 14.1)
    assert kept(world) == {tagged: True, first: False, second: True}
    shown = world.run("retention", "show").out
    assert "2 of 3 points kept, 1 would expire" in shown
    assert "tag release-7" in shown
    told = world.run("retention", "explain", first)
    assert (told.code, "expires with the next prune" in told.out) == (0, True)
    assert "it does not expire unless somebody decides so" in world.run("retention", "explain", tagged).out


def test_holds_from_the_command_line(world: World) -> None:
    """Held, listed, shown, lifted after a plan; each by its own id."""
    held, _ = world.capture(), world.capture()
    world.run("retention", "set", "--yes")
    age(world, "retention/00000001", 20)
    assert not kept(world)[held]
    first = world.run("hold", "add", held, "--reason", "case 118", "--owner", "legal", "--json").json["hold"]
    again = world.run("hold", "add", held, "--reason", "audit", "--owner", "finance", "--until", "2999-01-31", "--json")
    assert again.json["hold"]["until"] == datetime(2999, 2, 1, tzinfo=UTC).timestamp(), (
        "a day is over with its last second: 2999-02-01T00:00Z"
    )
    assert kept(world)[held]
    listed = world.run("hold", "list").out
    assert "it is lifted" in listed, "the end of a hold that stands, told as such"
    assert listed.count(held) == 2
    assert "2999-02-01" in listed
    assert f"hold {first['id']} by legal: case 118" in world.run("show", held).out

    planned = world.run("hold", "lift", first["id"][:6], "--reason", "closed")
    assert "still held by finance: audit" in planned.out
    assert "nothing was changed: --yes does it" in planned.out
    assert world.run("hold", "list").out == listed
    assert world.run("hold", "lift", first["id"], "--reason", "closed", "--yes").code == 0
    assert kept(world)[held]
    assert world.run("hold", "lift", again.json["hold"]["id"], "--reason", "closed", "--yes").code == 0
    assert not kept(world)[held]
    assert world.run("hold", "list").out == "nothing is held\n"
    assert world.run("hold", "lift", first["id"], "--reason", "x", "--yes").code == 4
    for wrong in (["--until", "tomorrow"], ["--until", "2001-01-01"], ["--reason", " "]):
        said = world.run(
            "hold", "add", held, "--owner", "o", *(["--reason", "r"] if wrong[0] != "--reason" else []), *wrong
        )
        assert said.code == 2, said


def test_quarantine_from_the_command_line(world: World) -> None:
    """In quarantine a proven point is not promoted; lifted, it can be. It stays in the vault as long as any that was proven."""
    point = world.capture()
    assert world.run("verify", point, "--into", world.place("copy")).code == 0
    assert world.run("quarantine", point, "--lift", "--reason", "none").code == 13
    assert world.run("quarantine", point, "--reason", "poisoned").code == 0
    state = world.run("show", point, "--json").json["state"]
    assert state["quarantined"]
    assert world.run("promote", world.place("copy"), "--yes").code != 0
    assert world.run("quarantine", point, "--lift", "--reason", "false alarm").code == 0
    assert world.run("show", point, "--json").json["state"]["quarantined"] is None
    assert world.run("promote", world.place("copy"), "--yes").code == 0


def test_tags_are_listed_and_asked_for(world: World) -> None:
    assert world.run("capture", "--tag", "Not A Tag").code == 2
    assert world.run("points", "--json").json == []
    both = json.loads(world.run("capture", "--tag", "release-7", "--tag", "nightly", "--json").out)["id"]
    one, none = json.loads(world.run("capture", "--tag", "nightly", "--json").out)["id"], world.capture()
    assert [p["id"] for p in world.run("points", "--tag", "nightly", "--json").json] == [both, one]
    assert [p["id"] for p in world.run("points", "--tag", "nightly", "--tag", "release-7", "--json").json] == [both]
    assert "release-7 nightly" in world.run("points").out
    assert "no point has these tags" in world.run("points", "--tag", "other").out
    assert "tags: release-7 nightly" in world.run("show", both).out
    assert "tags" not in world.run("show", none).out


def test_a_policy_that_was_rolled_back_is_said(world: World) -> None:
    """This host has seen a newer one: nothing is decided, and the exit code is that of damage (P12)."""
    world.capture()
    world.run("retention", "set", "--yes")
    world.run("retention", "show")
    os.unlink(world.path("vault/retention/00000001"))
    for words in (["show"], ["set", "--yes"], ["explain", "latest"]):
        told = world.run("retention", *words)
        assert (told.code, "has seen 1: it was rolled back" in told.err) == (8, True), told
    assert "has seen 1: it was rolled back" in world.run("status").out


def test_it_is_shown_without_manifest_and_without_any_key_but_trust(world: World) -> None:
    """P3, P9: what stays, and why, is in the clear part of records; who sets a policy is an approver."""
    point = world.capture()
    world.run("retention", "set", "--yes")
    keys = world.place("auditor")
    os.makedirs(keys, mode=0o700)
    Path(keys, "trust.json").write_bytes(Path(world.path("keys/trust.json")).read_bytes())
    os.chmod(f"{keys}/trust.json", 0o600)
    where = ["--vault", world.path("vault"), "--keys", keys]
    told = world.run("retention", "show", *where, "--manifest", "/nowhere")
    assert (told.code, point in told.out) == (0, True), told
    assert world.run("hold", "list", *where).code == 0
    denied = world.run("hold", "add", point, "--reason", "r", "--owner", "o", *where)
    assert (denied.code, "approver.json" in denied.err) == (6, True)


def test_what_is_signed_is_in_the_log(world: World) -> None:
    """P2: the policy, the hold and its lifting are each announced, and none of them was written over another."""
    point = world.capture()
    world.run("retention", "set", "--yes")
    hold = world.run("hold", "add", point, "--reason", "r", "--owner", "o", "--json").json["hold"]["id"]
    world.run("hold", "lift", hold, "--reason", "done", "--yes")
    repository = Repository(LocalStore(world.path("vault")), Keyring(world.path("keys")))
    types = []
    for entry in repository.store.list("log/"):
        envelope = open_envelope(repository.store.get(entry.name), entry.name)
        types.append(from_json(envelope.payload, dict, what="log")["predicate"]["body"]["type"])
    assert types == [RecordType.POINT, RecordType.RETENTION, RecordType.HOLD, RecordType.HOLD]
