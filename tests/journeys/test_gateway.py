"""A vault behind a gateway, by the real command line: each role with its own token, to a forbidden delete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def _files(served: Served) -> list[str]:
    return sorted(str(path) for path in Path(served.folder).rglob("*") if path.is_file())
