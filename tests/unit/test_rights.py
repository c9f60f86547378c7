"""The table of rights: complete for every name of the format, and in step with who may sign what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resurgam.vault.records import SIGNERS, RecordType
from resurgam.vault.rights import READER, RIGHTS, ROLES, Operation, may, namespace
from resurgam.vault.signing import Role

FORMAT = Path(__file__).parents[2] / "docs/format.md"
PLACES = {  # where the records of a type lie; all others lie under records/
    RecordType.POINT: "points/",
    RecordType.LEASE: "leases/",
    RecordType.REVOCATION: "",
    RecordType.RETENTION: "retention/",
    RecordType.CHECKED: "checks/",
    RecordType.ROLES: "roles/",
    RecordType.LOG: "log/",
    RecordType.APPROVAL: "approvals/",
    RecordType.PRUNE: "prune/",
    RecordType.TOMBSTONES: "prune/",
    RecordType.AWAITED: "prune/",
    RecordType.PRUNED: "prune/",
}


def names_of_the_format() -> list[str]:
    """One name for each of the first table of docs/format.md."""
    table = FORMAT.read_text(encoding="utf-8").partition("## 1. Objects")[2].partition("## 2.")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    found = [name for row in rows for name in re.findall(r"`([^`]+)`", row) if "/" in name or name == "vault.json"]
    return [re.sub(r"<[^>]*>", "0", name).replace("…", "0") for name in found]


def test_every_name_of_the_format_has_its_rights() -> None:
    """A new namespace without rights, or rights of none, are told here."""
    names = names_of_the_format()
    assert len(names) > 15
    assert [name for name in names if namespace(name) is None] == []
    assert {namespace(name) for name in names} | {"replicas/"} == set(RIGHTS)


@pytest.mark.parametrize("kind", RecordType)
def test_who_may_sign_may_create(kind: RecordType) -> None:
    """A role whose key may sign a type can also put it where it lies, and where its revocation would."""
    place = PLACES.get(kind, "records/")
    for role in SIGNERS[kind] if place else ():
        assert may(role, Operation.CREATE, f"{place}0"), (role, kind)


def test_a_capture_host_adds_and_nothing_else() -> None:
    """P9: it reads no pack, deletes nothing, and creates nothing that vouches."""
    assert not may(Role.CAPTURE, Operation.READ, "packs/00/0")
    assert not any(may(Role.CAPTURE, Operation.DELETE, name) for name in names_of_the_format())
    created = {own for own in RIGHTS if may(Role.CAPTURE, Operation.CREATE, own)}
    assert created == {"keys/session-", "packs/", "index/", "leases/", "points/", "log/"}


def test_only_the_pruner_deletes_and_only_what_a_prune_frees() -> None:
    """P10: points, records, role tables and the log are nobody's to delete."""
    deleted = {(role, own) for role in ROLES for own in RIGHTS if may(role, Operation.DELETE, own)}
    assert deleted == {(Role.PRUNER, "packs/"), (Role.PRUNER, "index/"), (Role.ROOT, "probe/")}


def test_a_reader_creates_nothing() -> None:
    """Who restores leaves no trace, and needs every object."""
    changes = (Operation.CREATE, Operation.LOCK, Operation.DELETE)
    assert not any(may(READER, operation, own) for operation in changes for own in RIGHTS)
    assert all(may(READER, Operation.READ, own) for own in RIGHTS)


def test_what_is_not_known_may_nothing() -> None:
    """P12: a role of a later release, a name outside of every namespace."""
    assert not any(may("oracle", operation, "points/0") for operation in Operation)
    for name in ("elsewhere/0", "keys/other", "points", "tmp/0", "vault.json5", ""):
        assert not any(may(Role.ROOT, operation, name) for operation in set(Operation) - {Operation.LIST}), name
