"""A vault behind a gateway, by the real command line: each role with its own token, to a forbidden delete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.journeys.test_prune import DAY, MANIFEST, Host, held
from tests.journeys.world import World, tree
from tests.stores.gateways import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(str(tmp_path / "vault"), "--access-log")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def test_each_role_with_its_own_token(served: Served, tmp_path: Path) -> None:
    """P1 P9: made by the root, captured into by a host that can read no pack, verified, restored by a reader, pruned by nobody
    else than the pruner: a forbidden act ends with code 6 and changes nothing."""
    world = World(os.fspath(tmp_path / "world")).build()
    world.manifest((world.path("vault"), f'"{served.url}"'))
    without = world.run("vault", "init")
    assert (without.code, "There is no token" in without.err) == (6, True)

    def has(role: str) -> None:
        world.env["RESURGAM_VAULT_TOKEN"] = served.token(role)

    has("root")
    made = world.run("vault", "init")
    assert (made.code, made.err) == (0, "")
    has("reader")
    lacking = world.run("preflight")
    assert lacking.code != 0
    assert "packs/" in lacking.out + lacking.err
    assert "this one is for reader" in lacking.out + lacking.err
    refused = world.run("capture")
    assert refused.code == 6, refused
    assert "may not create" in refused.err
    has("capture")
    assert world.run("preflight").code == 0
    first = world.capture()
    world.system.change_prompt()
    second = world.capture()
    into = world.place("restored")
    unread = world.run("restore", second, "--into", into)
    assert (unread.code, os.path.exists(into)) == (6, False), unread
    has("reader")
    restored = world.run("restore", second, "--into", into)
    assert restored.code == 0, restored
    assert tree(os.path.join(into, "prompts/prompts")) == tree(world.system.path("prompts"))
    assert world.run("vault", "check", "--read", "--json").json["ok"]
    has("capture")
    before = _files(served)
    prune = world.run("vault", "prune", "--yes")
    assert prune.code == 6, prune
    assert "may not" in prune.err
    assert _files(served) == before
    assert world.points() == [first, second]


def test_the_token_in_the_keys_folder(served: Served, tmp_path: Path) -> None:
    """A file beside the keys holds it, if it is for its owner alone; else it is refused, and its text is shown nowhere (P12)."""
    world = World(os.fspath(tmp_path / "world")).build()
    world.manifest((world.path("vault"), f'"{served.url}"'))
    world.env["RESURGAM_VAULT_TOKEN"] = served.token("root")
    assert world.run("vault", "init").code == 0
    del world.env["RESURGAM_VAULT_TOKEN"]
    text = served.token("capture")
    file = os.path.join(world.path("keys"), "gateway.token")
    with open(file, "w", encoding="utf-8") as made:
        made.write(f"{text}\n")
    os.chmod(file, 0o644)
    open_to_others = world.run("capture")
    assert (open_to_others.code, "mode 644" in open_to_others.err) == (6, True)
    os.chmod(file, 0o600)
    world.capture()
    assert text not in open_to_others.err + open_to_others.out


class HostElsewhere(Host):
    """A system whose vault is behind a gateway; each act with the token of its role."""

    def __init__(self, folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.rng, self.served, self.monkeypatch = folder, Random(4), served, monkeypatch
        self.vault, self.keys, self.live = Path(served.folder), folder / "keys", folder / "live"
        self.live.mkdir(parents=True)
        self.manifest = folder / "resurgam.yaml"
        self.manifest.write_text(MANIFEST % {"vault": f'"{served.url}"', "keys": self.keys}, encoding="utf-8")
        for number in range(6):
            self.change(number)
        assert self.has("root").run("vault", "init")[0] == 0

    def has(self, role: str) -> HostElsewhere:
        """From now on with that role's token."""
        self.monkeypatch.setenv("RESURGAM_VAULT_TOKEN", self.served.token(role))
        return self

    def age(self, days: float) -> None:
        """The gateway received everything so much earlier."""
        for path in self.vault.rglob("*"):
            if path.is_file():
                status = path.stat()
                os.utime(path, (status.st_atime, status.st_mtime - days * DAY))


def test_a_prune_waits_for_what_the_gateway_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P10: what expired while the gateway still keeps it stays, with code 6; the same command goes on when its time has come."""
    monkeypatch.setenv("RESURGAM_STATE", str(tmp_path / "state"))
    server = Served(str(tmp_path / "vault"), "--keep", "365d")
    server.start()
    try:
        host = HostElsewhere(tmp_path, server, monkeypatch)
        host.has("capture").captured()
        assert host.has("approver").run("retention", "set", "--yes")[0] == 0
        host.change(0)
        host.age(20)
        last = host.has("capture").captured()
        before = held(host)
        code, said = host.has("pruner").run("vault", "prune", "--yes")
        assert (code, "is kept until" in said["error"]["message"]) == (6, True), said
        assert held(host) >= before
        assert [point["id"] for point in host.has("reader").run("points")[1]] == [last]
        host.age(366)
        code, said = host.has("pruner").run("vault", "prune", "--yes")
        assert code == 0, said
        assert held(host) < before
        assert host.has("reader").restored(last)
    finally:
        server.kill()


def _files(served: Served) -> list[str]:
    return sorted(str(path) for path in Path(served.folder).rglob("*") if path.is_file())
