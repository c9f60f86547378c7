"""Each role does its work with no more rights than the table gives it; and what is written lies where the table knows of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resurgam.cli import context
from resurgam.cli import vault as vault_verbs
from resurgam.stores.base import Store
from resurgam.stores.registry import create_store, open_store
from resurgam.vault.rights import READER, RIGHTS, ROLES, Operation, namespace
from resurgam.vault.signing import Role
from tests.enforced import EnforcedStore
from tests.journeys.world import Result, World, tree
from tests.role_keys import only_keys_of


class House:
    """A world whose verbs are run with the keys of one role each, on a store that allows what the role may."""

    def __init__(self, world: World) -> None:
        self.world, self.role = world, ""
        self.stores: list[EnforcedStore] = []

    def act(self, role: str, *words: str) -> Result:
        """One verb; its stores are kept until the next."""
        self.role, self.stores = role, []
        with only_keys_of(role, self.world.path("keys")):
            return self.world.run(*words)

    def enforced(self, open_it: Callable[..., Store]) -> Callable[..., Store]:
        """What opens a store as the role that acts."""

        def opened(*words: Any, **options: Any) -> Store:
            self.stores.append(EnforcedStore(open_it(*words, **options), (self.role,)))
            return self.stores[-1]

        return opened

    @property
    def refused(self) -> set[tuple[Operation, str | None]]:
        """What was asked of the store and not allowed, in the last act."""
        return {(operation, namespace(name)) for store in self.stores for operation, name in store.refused}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A system whose vault is not made yet."""
    return World(os.fspath(tmp_path)).build()


@pytest.fixture
def house(world: World, monkeypatch: pytest.MonkeyPatch) -> House:
    """The same, by roles."""
    made = House(world)
    monkeypatch.setattr(context, "open_store", made.enforced(open_store))
    monkeypatch.setattr(vault_verbs, "create_store", made.enforced(create_store))
    return made


def test_each_role_needs_no_more(house: House) -> None:
    """P9: the whole life of a vault, each verb with the keys and the rights of one role; nobody asks for more than they have."""
    place = house.world.place("restored")
    steps: list[tuple[str, tuple[str, ...]]] = [
        (Role.ROOT, ("vault", "init")),
        (Role.CAPTURE, ("capture",)),
        (Role.CAPTURE, ("capture",)),
        (Role.CAPTURE, ("points",)),
        (Role.CAPTURE, ("status",)),
        (Role.VERIFIER, ("verify",)),
        (Role.VERIFIER, ("vault", "check", "--read")),
        (Role.APPROVER, ("reference", "approve", "latest")),
        (Role.APPROVER, ("hold", "add", "latest", "--reason", "a case", "--owner", "legal")),
        (Role.APPROVER, ("retention", "set", "--yes")),
        (Role.PRUNER, ("vault", "prune", "--yes")),
        (Role.PRUNER, ("vault", "check")),
        (Role.AUDITOR, ("audit", "checkpoint")),
        (Role.AUDITOR, ("audit", "verify")),
        (READER, ("restore", "latest", "--into", place)),
        (READER, ("vault", "check", "--read")),
        (READER, ("diff", "latest", "latest")),
        (Role.ROOT, ("vault", "add-domain", "customers")),
        (Role.CAPTURE, ("capture",)),
    ]
    for role, words in steps:
        result = house.act(role, *words)
        assert (result.code, house.refused) == (0, set()), (role, words, result)
    assert tree(os.path.join(place, "prompts/prompts")) == tree(house.world.system.path("prompts"))
    written = [
        path.relative_to(house.world.path("vault"))
        for path in Path(house.world.path("vault")).rglob("*")
        if path.is_file()
    ]
    assert {namespace(os.fspath(name)) for name in written} >= {
        "points/",
        "packs/",
        "retention/",
        "checkpoints/",
        "log/",
    }
    assert [name for name in written if namespace(os.fspath(name)) is None] == []
    assert len(RIGHTS) > 10


def test_a_capture_host_cannot_read_its_own_points(house: House) -> None:
    """P9: with every key of the vault in its hands, the capture host's store rights restore nothing: exit code 6."""
    assert house.act(Role.ROOT, "vault", "init").code == 0
    assert house.act(Role.CAPTURE, "capture").code == 0
    shutil.copytree(house.world.path("keys"), house.world.path("stolen"))
    stolen = house.act(
        Role.CAPTURE, "restore", "latest", "--into", house.world.place("loot"), "--keys", house.world.path("stolen")
    )
    assert stolen.code == 6, stolen
    assert house.refused == {(Operation.READ, "packs/")}
    assert not os.path.exists(house.world.place("loot"))


def test_what_an_interrupted_capture_stored_is_stored_again(house: House) -> None:
    """P1 P9: packs that no segment names are passed over where they may not be read, and the next point is whole."""
    assert house.act(Role.ROOT, "vault", "init").code == 0
    assert house.act(Role.CAPTURE, "capture").code == 0
    segments = Path(house.world.path("vault/index"))
    shutil.rmtree(segments)
    again = house.act(Role.CAPTURE, "capture", "--json")
    assert again.code == 0, again
    assert house.refused == {(Operation.READ, "packs/")}
    assert any(segments.iterdir())
    place = house.world.place("restored")
    assert house.act(READER, "restore", "latest", "--into", place).code == 0
    assert tree(os.path.join(place, "prompts/prompts")) == tree(house.world.system.path("prompts"))


def test_policies_are_printed_for_the_manifests_place(world: World) -> None:
    """P12: of one role, of several together, of all, or for the bucket; what names no place in S3, or nobody, is refused."""
    table = world.run("vault", "policy")
    assert (table.code, "packs/" in table.out, "-cl-" in table.out) == (0, True, True)
    assert world.run("vault", "policy", "--json").json["packs/"]["capture"] == ["list", "create", "lock"]
    assert world.run("vault", "policy", "--s3").code == 2  # the vault is a folder
    place = '"s3://vaults/handbook?region=eu-north-1", lock: {mode: compliance, for: 30d}'
    world.manifest((world.path("vault"), place))
    whole = world.run("vault", "policy", "--s3")
    assert sorted(whole.json) == sorted(ROLES)
    (remaining,) = [one for one in whole.json["capture"]["Statement"] if one["Sid"] == "LockForeverNot"]
    assert remaining["Condition"]["NumericGreaterThan"] == {"s3:object-lock-remaining-retention-days": "31"}
    assert world.run("vault", "policy", "--s3", "--role", "capture").json == whole.json["capture"]
    both = world.run("vault", "policy", "--s3", "--role", "root", "--role", "pruner", "--portable").json
    assert "if-none-match" not in str(both)
    elsewhere = world.run("vault", "policy", "--s3", "--role", "reader", "--bucket", "other", "--prefix", "a/b")
    assert "arn:aws:s3:::other/a/b/*" in str(elsewhere.json)
    arn = "arn:aws:iam::111122223333:role/host"
    assert arn in world.run("vault", "policy", "--s3", "--principal", f"capture={arn}").out
    for wrong in (
        ("--role", "king"), ("--principal", f"king={arn}"), ("--principal", "capture"), ("--principal", "capture=*"),
        ("--principal", "capture=arn:aws:iam::*:root"), ("--bucket", "other", "--prefix", "a/*"), ("--bucket", "o*"),
        ("--bucket", "other", "--locked", "long"),
    ):  # fmt: skip
        refused = world.run("vault", "policy", "--s3", *wrong)
        assert (refused.code, refused.out) == (2, ""), (wrong, refused)
