"""Receipts: what is handed out proves one entry, and nothing that was changed in it does (P12)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from resurgam.errors import IntegrityError, NotFound
from resurgam.vault.log import object_name
from resurgam.vault.receipts import FORM, find, make_receipt, read_receipt
from resurgam.vault.signing import Role
from tests.audited import Audited, withdraw
from tests.support import copied, replaced


@pytest.fixture
def world(tmp_path: Path) -> Audited:
    """A log of five entries under one checkpoint, and one entry more."""
    made = Audited(str(tmp_path))
    made.sign()
    made.judge(made.two)
    return made


def test_a_receipt_proves_each_entry_that_a_checkpoint_covers(world: Audited) -> None:
    """For who has the role table and nothing else of the vault."""
    for number in range(1, 6):
        receipt = make_receipt(world.repository(keys=world.auditor), number)
        assert receipt.startswith(FORM.encode())
        bare = replaced(world.store, object_name(number), None)
        found = read_receipt(world.repository(bare, world.auditor), receipt, "it")
        assert (found.number, found.checkpoint.size) == (number, 5)
        assert found.record.subject.name == object_name(number)
    assert found.said.type == "quarantine"


def test_an_entry_is_named_by_number_object_or_point(world: Audited) -> None:
    repository = world.repository()
    assert find(repository, "4") == 4
    assert find(repository, world.two.body.id) == 3
    assert find(repository, world.verdict_of(world.one)) == 2
    with pytest.raises(NotFound, match="announces 'points/none'"):
        find(repository, "points/none")


def test_what_no_checkpoint_covers_has_no_receipt(world: Audited) -> None:
    for number in (0, 6, 7):
        with pytest.raises(NotFound, match="No checkpoint covers"):
            make_receipt(world.repository(), number)


def test_a_log_that_is_not_the_signed_one_gives_no_receipt(world: Audited) -> None:
    """Whoever is asked for a receipt finds out too."""
    store = replaced(world.store, object_name(2), world.store.get(object_name(1)))
    with pytest.raises(IntegrityError, match="not the one of which"):
        make_receipt(world.repository(store), 3)


def entry_of(receipt: bytes) -> bytes:
    return receipt.split(b"\n")[1].removeprefix(b"extra ")


FORGED: dict[str, Callable[[bytes, Audited], bytes]] = {
    "another entry": lambda r, w: r.replace(entry_of(r), base64.b64encode(w.store.get(object_name(1)))),
    "another number": lambda r, w: r.replace(b"index 2\n", b"index 1\n"),
    "a hash less": lambda r, w: b"\n".join(r.split(b"\n")[:3] + r.split(b"\n")[4:]),
    "another hash": lambda r, w: b"\n".join([*r.split(b"\n")[:3], base64.b64encode(bytes(32)), *r.split(b"\n")[4:]]),
    "a short hash": lambda r, w: b"\n".join([*r.split(b"\n")[:3], b"AAAA", *r.split(b"\n")[4:]]),
    "no hash": lambda r, w: b"\n".join([*r.split(b"\n")[:3], b"A", *r.split(b"\n")[4:]]),
    "another checkpoint": lambda r, w: r.replace(b"\n5\n", b"\n4\n"),
    "no receipt": lambda r, w: b"hello",
    "the checkpoint alone": lambda r, w: w.store.get("checkpoints/0000000005"),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_receipt_that_was_changed_proves_nothing(world: Audited, how: str) -> None:
    receipt = make_receipt(world.repository(), 3)
    forged = FORGED[how](receipt, world)
    assert forged != receipt
    with pytest.raises(IntegrityError, match="it is not to be trusted"):
        read_receipt(world.repository(), forged, "it")


def test_a_receipt_of_another_vault_proves_nothing(world: Audited, tmp_path: Path) -> None:
    other = Audited(str(tmp_path / "other"))
    with pytest.raises(IntegrityError, match="no key that the role table"):
        read_receipt(other.repository(), make_receipt(world.repository(), 3), "it")


@pytest.mark.parametrize("role", [Role.CAPTURE, Role.AUDITOR])
def test_of_a_retired_key_a_receipt_counts_where_the_vault_says_when(world: Audited, role: Role) -> None:
    """P9: a worn-out key that was stolen signs no receipt for a past that never was."""
    receipt = make_receipt(world.repository(), 3)
    withdraw(world, role, retired="2999-01-01T00:00:00.000000Z")
    assert read_receipt(world.repository(), receipt, "it").number == 3
    bare = copied(world.store)
    for name in (object_name(3), "checkpoints/0000000005"):
        bare.delete(name)
    with pytest.raises(IntegrityError, match=r"retired|no key"):
        read_receipt(world.repository(bare), receipt, "it")
