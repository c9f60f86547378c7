"""Leases: what a session has reserved, a prune waits for; seal or revoke, the first put wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from resurgam.errors import Busy, Denied, IntegrityError, NotFound
from resurgam.testing.faults import CrashStore
from resurgam.vault.leases import LeaseBody, open_leases, put_leased, revoke, revoke_name, role_to_revoke
from resurgam.vault.prunes import Stage
from resurgam.vault.pruning import begin, draft, propose, sweep, waits_for
from resurgam.vault.records import RecordType, itself
from resurgam.vault.signing import Role
from tests.support import World
from tests.unit.test_prune import EAGER, LARGE, Before, a_world, all_stand, expire, pruner, told

BOTH = (RecordType.BASELINE, RecordType.VERDICT)


def test_a_session_reads_nothing_before_its_lease_is_put(tmp_path: Path) -> None:
    """P1: what it would build on, a prune could take away, and not know that anybody is there to wait for."""
    world, (sealed,) = a_world(tmp_path, 1)
    for act in (
        lambda store: world.capture(store),
        lambda store: world.repository(store).evidence_writer(sealed.body.id, world.clock, *BOTH).__enter__(),
    ):
        store = CrashStore(world.store)
        act(store)
        lease = next(number for number, call in enumerate(store.history) if call.startswith("put leases/"))
        reads = [number for number, call in enumerate(store.history) if call.startswith(("list index/", "list packs/"))]
        tombstones = max(number for number, call in enumerate(store.history) if call == "list prune/")
        assert lease < min(reads)
        assert lease < tombstones


def test_a_revoked_capture_that_wakes_up_does_no_harm(tmp_path: Path) -> None:
    """P1: it slept for a week, before its seal; meanwhile it was revoked, and what it had built on was swept. Its seal fails, and
    it starts over."""
    world, sealed = a_world(tmp_path)
    world.live.files = dict(told(world, sealed[0])["files"])

    def meanwhile() -> None:
        repository = pruner(world)
        prune = propose(repository, draft(repository, expire(sealed[:1]), EAGER).plan, world.clock)
        prune = begin(repository, prune, world.clock)
        (lease,) = waits_for(repository, prune)
        world.clock.advance(7 * 86400)
        assert role_to_revoke(repository, lease) is Role.PRUNER
        assert revoke(repository, lease, Role.PRUNER, "a week old", world.clock) == lease.names
        assert waits_for(repository, prune) == []
        assert sweep(repository, prune, world.clock).stage is Stage.SWEPT

    with pytest.raises(Busy, match="was revoked"):
        world.capture(Before(world.store, "put points/", meanwhile))
    all_stand(world, sealed[1:])
    again = world.capture()
    assert again.body.snapshots[0].stored > LARGE  # what it reused before is gone, and stored anew
    world.told[again.body.id] = world.contents()  # type: ignore[attr-defined]
    all_stand(world, [*sealed[1:], again])


def test_a_revoked_verification_that_wakes_up_says_nothing(tmp_path: Path) -> None:
    """P4: neither a verdict nor a baseline of it stands, though each is a put of its own; readers pass its revocations over."""
    world, sealed = a_world(tmp_path, 1)

    def verification(asleep_before: RecordType) -> None:
        with world.repository().evidence_writer(sealed[0].body.id, world.clock, *BOTH) as writer:
            document = writer.document({"seen": "this"})
            writer.flush()
            for kind in BOTH:
                if kind is asleep_before:
                    (lease,) = open_leases(world.repository())
                    revoke(world.repository(), lease, Role.APPROVER, "it slept", world.clock)
                writer.put(kind, {"document": document, "judgement": 1})

    for asleep_before, records in ((RecordType.BASELINE, 0), (RecordType.VERDICT, 1)):
        with pytest.raises(Busy, match="was revoked"):
            verification(asleep_before)
        assert open_leases(world.repository()) == []
        assert len(world.repository().records(sealed[0].body.id)) == records
        assert not world.repository().state(sealed[0]).proven


def test_a_verification_gives_up_what_it_does_not_put(tmp_path: Path) -> None:
    """No lease is left by a session that ends, in whichever way; only by one that dies."""
    world, sealed = a_world(tmp_path, 1)
    with world.repository().evidence_writer(sealed[0].body.id, world.clock, *BOTH) as writer:
        writer.put(RecordType.VERDICT, {"judgement": 1})
        (lease,) = open_leases(world.repository())
        assert lease.point == sealed[0].body.id
        assert lease.by == Role.VERIFIER
    assert open_leases(world.repository()) == []
    with (
        pytest.raises(RuntimeError),
        world.repository().evidence_writer(sealed[0].body.id, world.clock, *BOTH),
    ):
        raise RuntimeError
    assert open_leases(world.repository()) == []
    assert [record.type for record in world.repository().records(sealed[0].body.id)] == [RecordType.VERDICT]


def test_nobody_judges_a_point_that_expired(tmp_path: Path) -> None:
    """Under its lease a session sees what expired: what it would rest on is not kept for it any more."""
    world, sealed = a_world(tmp_path)
    repository = pruner(world)
    begin(repository, propose(repository, draft(repository, expire(sealed[:1])).plan, world.clock), world.clock)
    with pytest.raises(NotFound, match="expired with prune 1"):
        world.repository().evidence_writer(sealed[0].body.id, world.clock, *BOTH)
    with pytest.raises(NotFound, match="expired with prune 1"):
        put_leased(
            world.repository(), RecordType.REFERENCE, sealed[0].body.id, {"document": ""}, Role.APPROVER, world.clock
        )
    assert open_leases(world.repository()) == []


def test_leases_of_before_are_waited_for(tmp_path: Path) -> None:
    """A lease of the first release says only which point; a damaged one of a capture reserves what its name says."""
    world, _ = a_world(tmp_path, 1)
    repository = world.repository()
    signer = repository.keyring.signer(Role.CAPTURE)
    body = {"point": "a" * 16, "system": "test", "started": ""}
    repository.put_signed(
        f"leases/{'a' * 16}", RecordType.LEASE, itself(f"lease/{'a' * 16}", body), body, signer, world.clock
    )
    world.store.put(f"leases/{'b' * 16}", b"rubbish")
    found = {lease.id: lease for lease in open_leases(repository)}
    assert found["a" * 16].names == (f"points/{'a' * 16}",)
    assert found["b" * 16].names == (f"points/{'b' * 16}",)
    assert found["b" * 16].refused
    for lease in found.values():
        revoke(pruner(world), lease, Role.PRUNER, "dead", world.clock)
    assert open_leases(repository) == []
    assert len(repository.points()) == 1


def test_a_lying_lease_has_nothing_put_elsewhere(tmp_path: Path) -> None:
    """P9: who revokes it would put something under a name of the liar's choice. It is waited for, and named."""
    world, sealed = a_world(tmp_path, 1)
    repository = world.repository()
    signer = repository.keyring.signer(Role.CAPTURE)
    for number, name in enumerate(("roles/00000002", f"points/{'c' * 16}", f"records/{'d' * 16}/verdict-{'e' * 16}")):
        body, lie = LeaseBody(seals=(name,)), f"evidence-{number:016}"
        repository.put_signed(
            f"leases/{lie}", RecordType.LEASE, itself(f"lease/{lie}", body), body, signer, world.clock
        )
    found = open_leases(repository)
    assert len(found) == 3
    for lease in found:
        assert "no record of its own" in lease.refused
        with pytest.raises(NotFound, match="cannot be believed"):
            revoke(pruner(world), lease, Role.PRUNER, "dead", world.clock)
    all_stand(world, sealed)


def test_who_may_revoke_what(tmp_path: Path) -> None:
    """P9: pruner and approver any lease; captures and verifiers their own; and no capture takes back what is said of its points."""
    world, sealed = a_world(tmp_path, 1)
    repository = world.repository()
    writer = repository.evidence_writer(sealed[0].body.id, world.clock, RecordType.VERDICT)
    (lease,) = open_leases(repository)
    for file, role in (("pruner", Role.PRUNER), ("approver", Role.APPROVER), ("verifier", Role.VERIFIER)):
        held = world.repository(keys=world.keys_with("trust.json", f"{file}.json"))
        assert role_to_revoke(held, lease) is role
    with pytest.raises(Denied, match="another's"):
        role_to_revoke(world.repository(keys=world.keys_with("trust.json", "capture.json")), lease)
    assert revoke_name(repository, lease.names[0], "mine", repository.keyring.signer(Role.CAPTURE), world.clock)
    with pytest.raises(IntegrityError, match="may not take back"):
        repository.records(sealed[0].body.id)
    with pytest.raises(Busy), writer:
        writer.put(RecordType.VERDICT, {"judgement": 1})


def test_a_sessions_name_is_sealed_once(tmp_path: Path) -> None:
    """P2: revoking what was sealed meanwhile changes nothing, and says so."""
    world = World(str(tmp_path))
    world.live.files = {b"a": b"b"}
    leases = []
    world.capture(Before(world.store, "put points/", lambda: leases.extend(open_leases(world.repository()))))
    assert revoke(pruner(world), leases[0], Role.PRUNER, "late", world.clock) == ()
    assert len(world.repository().points()) == 1
