"""The audit: each attack on a vault's log and records is found and named, and a sound vault is found sound.

Whoever attacks here can do what no client of a vault can: remove and replace objects in the store. Some hold a key as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from resurgam.errors import Denied, IntegrityError, NotFound
from resurgam.testing.faults import CrashStore
from resurgam.vault import heads
from resurgam.vault.audit import audit
from resurgam.vault.checkpoints import make_checkpoint
from resurgam.vault.keyring import Keyring
from resurgam.vault.log import Announcement, object_name
from resurgam.vault.logmemory import LogMemory, Seen
from resurgam.vault.records import RecordType, itself, make_record, sign_roles
from resurgam.vault.repository import Repository
from resurgam.vault.roles import next_table
from resurgam.vault.signing import Role, SigningKey
from resurgam.vault.trail import Kind
from tests.audited import Audited, forged_verdict, found, noted, put_entry, withdraw
from tests.support import copied, replaced


@pytest.fixture
def world(tmp_path: Path) -> Audited:
    return Audited(str(tmp_path))


# What is sound --------------------------------------------------------------------------------------------------------


def test_a_sound_vault_is_found_sound_by_who_can_open_nothing(world: Audited) -> None:
    """P9: with ``trust.json`` and ``auditor.json`` alone; what was signed is then covered."""
    report = world.audit()
    assert found(report) == set()
    assert noted(report) == {(Kind.NOT_COVERED, "log")}
    assert (report.entries, report.checkpoints, report.covered) == (5, 0, 0)
    name, data = world.sign()
    assert name == "checkpoints/0000000005"
    assert world.store.get(name) == data
    report = world.audit()
    assert (found(report), noted(report)) == (set(), set())
    assert (report.checkpoints, report.covered, report.ok) == (1, 5, True)


def test_later_looks_read_what_is_new(world: Audited) -> None:
    """P11: with what the host remembers, a look at a log that grew by one entry reads one entry and its object."""
    memory = LogMemory(world.host())
    assert memory.seen() is None
    memory.remember(world.audit().seen)
    world.judge(world.two)
    repository = world.repository(counted := CrashStore(world.store), world.auditor)
    before = counted.calls
    report = audit(repository, seen=memory.seen(), new=True)
    read = [call for call in counted.history[before:] if call.startswith("get ")]
    assert len(read) == 4, (
        read
    )  # the last entry that was seen, the new one, the record that it announces, and its point
    assert (report.ok, report.entries) == (True, 6)
    assert report.seen == world.audit().seen


def test_the_memory_can_be_deleted_and_a_torn_one_is_none(world: Audited) -> None:
    """P3: what is remembered is no truth of its own."""
    memory = LogMemory(world.host())
    memory.remember(world.audit().seen)
    kept = memory.seen()
    assert kept is not None
    assert kept.size == 5
    Path(memory.path).write_bytes(b'{"size": 5, "peaks": [], "digest": ""}')
    assert memory.seen() is None
    Path(memory.path).write_bytes(b"{")
    assert memory.seen() is None


def test_entries_of_before_are_believed_as_they_are(world: Audited) -> None:
    """Old vaults still open: neither a digest nor the entry before is missed where it was not written yet."""
    store = world.truncated(0)
    for number, name in enumerate([f"points/{world.one.body.id}", world.verdict_of(world.one)], 1):
        body = {"type": name.split("-")[0].split("/")[-1] if "-" in name else "point", "object": name}
        put_entry(world, store, number, body)
    report = world.audit(store)
    assert found(report) == set()
    assert {kind for kind, _ in noted(report)} == {Kind.UNLOGGED, Kind.NOT_COVERED}


# The log --------------------------------------------------------------------------------------------------------------


def test_a_log_that_was_cut_off_is_rolled_back(world: Audited) -> None:
    """Truncation: against a checkpoint in the vault, one that was kept elsewhere, and this host's memory."""
    seen = world.audit().seen
    name, data = world.sign()
    store = world.truncated(3)
    assert found(world.audit(store)) == {(Kind.ROLLED_BACK, name)}
    store.delete(name)  # whoever removes entries removes what was signed of them as well
    assert found(world.audit(store)) == set(), "nobody is left who remembers"
    assert found(world.audit(store, witnessed=[world.witnessed(data)])) == {(Kind.ROLLED_BACK, "kept.txt")}
    assert found(world.audit(store, seen=seen)) == {(Kind.ROLLED_BACK, "this host")}
    report = world.audit(store, seen=seen, new=True)
    assert found(report) == {(Kind.ROLLED_BACK, "this host")}
    assert not report.whole


def test_an_older_vault_in_place_of_the_present_one_is_rolled_back(world: Audited) -> None:
    """Rollback: all that lay there before, without a flaw in itself."""
    older = copied(world.store)
    world.sign(older)
    world.judge(world.two)
    seen, (_, data) = world.audit().seen, world.sign()
    assert world.audit(older).ok
    assert found(world.audit(older, seen=seen)) == {(Kind.ROLLED_BACK, "this host")}
    assert found(world.audit(older, witnessed=[world.witnessed(data)])) == {(Kind.ROLLED_BACK, "kept.txt")}


@pytest.mark.parametrize("new", [False, True])
def test_two_logs_of_one_size_are_a_fork(world: Audited, new: bool) -> None:
    """Fork: the store shows one log to one, another to another. Each is sound in itself; who remembers finds out."""
    other = world.truncated(4)
    Repository(other, Keyring(world.keys)).put_record(
        RecordType.QUARANTINE, world.two.body.id, {"reason": "x"}, Role.APPROVER, world.clock
    )
    assert world.audit(other).ok
    seen, (name, data) = world.audit().seen, world.sign()
    assert found(world.audit(other, witnessed=[world.witnessed(data)])) == {(Kind.FORKED, "kept.txt")}
    other.put(name, data)
    assert found(world.audit(other)) == {(Kind.FORKED, name)}
    other.delete(name)
    place = object_name(5) if new else "this host"
    assert found(world.audit(other, seen=seen, new=new)) == {(Kind.FORKED, place)}
    world.judge(world.two)  # nor does it help to let both grow
    assert (Kind.FORKED, "kept.txt") in found(world.audit(other, witnessed=[world.witnessed(data)]))


def test_a_gap_is_named(world: Audited) -> None:
    """An entry that is missing among others, also for who has seen the log before."""
    seen = world.audit().seen
    name, _ = world.sign()
    store = replaced(world.store, object_name(3), None)
    assert found(world.audit(store)) == {(Kind.GAP, object_name(3)), (Kind.ROLLED_BACK, name)}
    assert found(world.audit(store, seen=seen, new=True)) == {(Kind.GAP, object_name(3))}
    assert (Kind.GAP, object_name(1)) in found(world.audit(replaced(store, object_name(1), None)))


def test_a_gap_that_is_filled_again_is_told_by_the_entry_after_it(world: Audited) -> None:
    """P12: a writer that finds room where it looks for the log's end (1, 2, 4, ...) takes it; no checkpoint is needed to see that
    something else stood there."""
    store = replaced(world.store, object_name(2), None)
    repository = world.repository(store)
    repository.put_record(RecordType.QUARANTINE, world.one.body.id, {"reason": "x"}, Role.APPROVER, world.clock)
    assert {entry.name for entry in store.list("log/")} == set(world.names("log/"))
    assert found(world.audit(store)) == {(Kind.EXCHANGED, object_name(3))}


def test_an_entry_that_was_replaced_is_told(world: Audited) -> None:
    """By who holds a capture key and the store: the entry is signed, and the chain, a checkpoint and the host say no."""
    seen, (name, _) = world.audit().seen, world.sign()
    store = replaced(world.store, object_name(2), None)

    body = Announcement(
        type="point",
        object=f"points/{world.one.body.id}",
        digest=blake3(store.get(f"points/{world.one.body.id}")).hexdigest(),
        previous=blake3(store.get(object_name(1))).hexdigest(),
    )
    put_entry(world, store, 2, body)
    report = world.audit(store, seen=seen)
    assert found(report) == {(Kind.EXCHANGED, object_name(3)), (Kind.FORKED, name), (Kind.FORKED, "this host")}
    assert (Kind.UNLOGGED, world.verdict_of(world.one)) in noted(report)


def test_the_last_entry_that_was_replaced_is_told_at_the_next_look(world: Audited) -> None:
    """The host reads the last entry that it saw once more."""
    seen = world.audit().seen
    store = replaced(world.store, object_name(5), world.store.get(object_name(4)))
    assert (Kind.FORKED, object_name(5)) in found(world.audit(store, seen=seen, new=True))


def test_an_entry_under_another_number_is_not_believed(world: Audited) -> None:
    """Replay within the log: an entry is about its own number."""
    store = copied(world.store)
    store.put(object_name(6), world.store.get(object_name(2)))
    assert found(world.audit(store)) == {(Kind.NOT_BELIEVED, object_name(6))}
    store.put("log/notes.txt", b"hello")
    assert (Kind.NOT_BELIEVED, "log/notes.txt") in found(world.audit(store))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"type": "point", "object": "packs/00/00"}, "no record"),
        ({"type": "verdict", "object": "points/{one}"}, "announces a verdict"),
        ({"type": "point"}, "cannot be read"),
    ],
)
def test_an_entry_that_lies_is_not_believed(world: Audited, body: dict[str, str], kind: str) -> None:
    """Announcements make nothing true, whoever signs them."""
    said = {key: value.replace("{one}", world.one.body.id) for key, value in body.items()}
    put_entry(world, world.store, 6, said)
    report = world.audit()
    assert found(report) == {(Kind.NOT_BELIEVED, object_name(6))}
    assert kind in report.findings[0].what


# Records --------------------------------------------------------------------------------------------------------------


def test_a_verdict_forged_with_a_stolen_capture_key_is_found(world: Audited) -> None:
    """P9: in the capture role, or in a verifier's that the key does not have; also where the thief announces it."""
    for by in (Role.CAPTURE, Role.VERIFIER):
        name = f"records/{world.two.body.id}/verdict-{'c' if by is Role.CAPTURE else 'f'}000000000000000"
        forged = forged_verdict(world, by)
        world.store.put(name, forged)
        assert found(world.audit()) == {(Kind.NOT_BELIEVED, name)}
        world.repository().announce(RecordType.VERDICT, name, world.key(Role.CAPTURE), world.clock)
        report = world.audit()
        assert found(report) == {(Kind.NOT_BELIEVED, name)}
        assert "role" in report.findings[0].what
        world.store.delete(name)
        world.store = world.truncated(5)


def test_an_old_record_under_a_new_name_is_a_replay(world: Audited) -> None:
    """The very bytes of an earlier verdict, put there again."""
    old = world.verdict_of(world.one)
    again = f"records/{world.one.body.id}/verdict-0000000000000000"
    world.store.put(again, world.store.get(old))
    assert found(world.audit()) == {(Kind.REPLAYED, again)}
    assert (Kind.UNLOGGED, again) in noted(world.audit())


def test_a_record_of_one_point_is_none_of_another(world: Audited) -> None:
    """Replay for another point, and under the name of another type."""
    other = f"records/{world.two.body.id}/verdict-0000000000000000"
    world.store.put(other, world.store.get(world.verdict_of(world.one)))
    assert found(world.audit()) == {(Kind.NOT_BELIEVED, other), (Kind.REPLAYED, other)}
    world.store.delete(other)
    reference = f"records/{world.one.body.id}/reference-0000000000000000"
    world.store.put(reference, world.store.get(world.verdict_of(world.one)))
    assert found(world.audit()) == {(Kind.NOT_BELIEVED, reference), (Kind.REPLAYED, reference)}


def test_a_record_of_a_point_that_was_exchanged_is_told(world: Audited) -> None:
    """A capture key can make another point of the same name where the store lets it; what was said of the first is not of it."""
    name = f"points/{world.one.body.id}"
    body = dict(world.one.record.read(dict[str, Any]), system="another")
    subject = itself(f"point/{world.one.body.id}", body)
    forged = make_record(
        RecordType.POINT, subject, body, world.key(Role.CAPTURE), vault=world.repository().vault, made=world.clock.now()
    )
    report = world.audit(replaced(world.store, name, forged))
    about = set(world.names(f"records/{world.one.body.id}/"))
    assert found(report) == {(Kind.ALTERED, name), *((Kind.NOT_BELIEVED, record) for record in about)}


def test_what_was_announced_and_is_gone_or_another_is_named(world: Audited) -> None:
    """The log holds each object's digest."""
    name = world.verdict_of(world.two)
    assert found(world.audit(replaced(world.store, name, None))) == {(Kind.GONE, name)}
    altered = world.audit(replaced(world.store, name, world.store.get(name).replace(b" ", b"") + b"\n"))
    assert found(altered) == {(Kind.ALTERED, name)}, "sound in itself, and not what was announced"
    seen = Seen()
    assert found(world.audit(replaced(world.store, name, None), seen=seen, new=True)) == {(Kind.GONE, name)}


def test_what_nobody_announced_is_named_and_no_error(world: Audited) -> None:
    """P1: a point exists by its own put. Points, records and role tables alike."""

    table = next_table(world.repository().roles)
    world.store.put(table.object_name, sign_roles(table, world.key(Role.ROOT), world.clock.now()))
    store = world.truncated(3)
    report = world.audit(store)
    assert report.ok
    expected = {
        world.verdict_of(world.two),
        next(name for name in world.names(f"records/{world.one.body.id}/") if "quarantine" in name),
        table.object_name,
    }
    assert {name for kind, name in noted(report) if kind == Kind.UNLOGGED} == expected


def test_a_role_table_that_was_taken_away_leaves_a_gap(world: Audited) -> None:
    """Whoever takes one away makes keys believed again that it disowned."""

    two = next_table(world.repository().roles)
    three = next_table(two)
    world.store.put(three.object_name, sign_roles(three, world.key(Role.ROOT), world.clock.now()))
    assert found(world.audit()) == {(Kind.GAP, two.object_name)}


def test_an_older_role_table_is_noticed_by_who_saw_a_newer_one(world: Audited) -> None:
    """Taken from the end of the row there is no gap; the host remembers."""
    withdraw(world, Role.VERIFIER, removed="2026-01-01T00:00:00.000000Z")
    seen = world.audit().seen
    assert found(world.audit(replaced(world.truncated(5), "roles/00000002", None))) == set()
    older = replaced(world.store, "roles/00000002", None)
    report = world.audit(older, seen=seen)
    assert found(report) == {(Kind.ROLLED_BACK, "roles/00000001"), (Kind.GONE, "roles/00000002")}


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_by_no_auditor_is_not_believed(world: Audited) -> None:
    """P9: whoever holds another role's key, or none of this vault, covers nothing."""
    seen, vault = world.audit().seen, world.repository().vault
    for key in (world.key(Role.VERIFIER), SigningKey.generate(Role.AUDITOR)):
        store = copied(world.store)
        store.put("checkpoints/0000000005", make_checkpoint(5, seen.root, vault, key))
        report = world.audit(store)
        assert found(report) == {(Kind.NOT_BELIEVED, "checkpoints/0000000005")}
        assert report.covered == 0
    store = copied(world.store)
    store.put("checkpoints/0000000004", make_checkpoint(5, seen.root, vault, world.key(Role.AUDITOR)))
    assert found(world.audit(store)) == {(Kind.NOT_BELIEVED, "checkpoints/0000000004")}


def test_nobody_signs_what_others_cannot_agree_to(world: Audited, tmp_path: Path) -> None:
    """P12: no key, a key that does not count, nothing to sign, another log signed before."""
    with pytest.raises(Denied, match=r"auditor\.json"):
        heads.sign(world.repository(keys=world.keys_with("trust.json")), world.audit().seen)
    with pytest.raises(NotFound, match="empty"):
        heads.sign(world.repository(keys=world.auditor), Seen())
    world.store.put(
        "checkpoints/0000000005", make_checkpoint(5, bytes(32), world.repository().vault, world.key(Role.AUDITOR))
    )
    with pytest.raises(IntegrityError, match="another log"):
        heads.sign(world.repository(keys=world.auditor), world.audit().seen)


def test_signing_again_changes_nothing(world: Audited) -> None:
    """P2: the same log, the same bytes."""
    assert world.sign() == world.sign()
    assert world.names("checkpoints/") == ["checkpoints/0000000005"]


def test_what_a_removed_key_signed_is_known_and_no_news(world: Audited) -> None:
    """The root key's holder has said so: noted, believed by nobody, and no finding for ever."""
    name = world.verdict_of(world.one)
    withdraw(world, Role.VERIFIER, removed="2026-01-01T00:00:00.000000Z")
    report = world.audit()
    assert report.ok
    assert (Kind.DISOWNED, name) in noted(report)


def test_what_a_retired_key_signs_afterwards_is_found(world: Audited) -> None:
    """A worn-out key that was stolen: what the store received before it was retired stands, what came later does not."""
    withdraw(world, Role.VERIFIER, retired="2999-01-01T00:00:00.000000Z")
    assert world.audit().ok
    world.store.delete("roles/00000002")
    world.store = world.truncated(5)
    withdraw(world, Role.VERIFIER, retired="2001-01-01T00:00:00.000000Z")
    late = {name for name in world.names("records/") if "verdict" in name}
    assert {(Kind.NOT_BELIEVED, name) for name in late} <= found(world.audit())
