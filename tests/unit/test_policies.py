"""Policies and holds in a vault: what is in force, by whose word, by whose clock, and what an attacker makes of it (P9, P10, P12).

The store has a clock of its own, as a bucket has; the host's is another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from resurgam.errors import Ambiguous, Busy, Denied, IntegrityError, NewerFormat, NotFound, UsageError
from resurgam.model.system import Retention
from resurgam.model.verdict import Judgement
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault import holds, keyadmin
from resurgam.vault.approvals import Approval, approve, plan_digest
from resurgam.vault.history import Hold, Quarantined
from resurgam.vault.host import VAULT_NOTES, HostState
from resurgam.vault.policies import (
    ACT,
    FORMAT,
    PolicyBody,
    Signed,
    facts,
    in_force,
    next_policy,
    policies,
    put_policy,
    require_newest_policy,
    store_time,
)
from resurgam.vault.prunes import Stage
from resurgam.vault.pruning import begin, draft, expiring, propose, sweep
from resurgam.vault.records import RecordType, itself, make_record
from resurgam.vault.repository import Repository
from resurgam.vault.retention import Standing, decide
from resurgam.vault.signing import Role, SigningKey
from tests.support import World, copied, copy_keys, replaced

DAY = 86400.0
STRICT = Retention(daily=30)
WEAK = Retention(last=1)
FIRST = "retention/00000001"


class Vault:
    """A world whose store has a clock, with a point for each of ten days, and the words of this file."""

    def __init__(self, folder: str) -> None:
        self.clock = ManualClock()  # the store's
        self.store = MemoryStore(self.clock)
        self.world = World(folder, store=self.store)
        self.points = [self.capture() for _ in range(10)]

    def capture(self) -> str:
        self.clock.advance(DAY)
        return self.world.capture().body.id

    @property
    def repository(self) -> Repository:
        return self.world.repository(self.store)

    def set(self, retention: Retention, repository: Repository | None = None) -> Signed:
        repository = repository or self.repository
        body = next_policy(policies(repository), "test", retention)
        return put_policy(repository, body, self.world.clock)

    def forge(self, key: SigningKey, serial: int, retention: Retention, name: str = "") -> None:
        """What whoever holds ``key`` and the store's credential can put."""
        body = PolicyBody(format=FORMAT, serial=serial, systems={"test": retention})
        name = name or f"retention/{serial:08d}"
        subject, vault = itself(name, body), self.repository.vault
        with _as_if(RecordType.RETENTION, key):
            data = make_record(RecordType.RETENTION, subject, body, key, vault=vault, made=self.world.clock.now())
        self.store.put(name, data)

    def kept(self, store: MemoryStore | None = None) -> list[str]:
        """What a pruner keeps now, who knows the vault and nothing else."""
        repository = self.world.repository(store or self.store)
        now = store_time(repository.store)
        return [d.point for d in decide(in_force(policies(repository)), facts(repository), now) if d.keep]

    def verdict(self, point: str, judgement: Judgement) -> None:
        self.world.clock.advance(1)
        self.repository.put_record(RecordType.VERDICT, point, {"judgement": judgement}, Role.VERIFIER, self.world.clock)


@contextmanager
def _as_if(type: RecordType, key: SigningKey) -> Iterator[None]:
    """Let ``make_record`` sign what its role may not write, as an attacker's own program does."""
    from resurgam.vault import records

    allowed = {**records.SIGNERS, type: records.SIGNERS[type] | {Role(key.role)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "SIGNERS", allowed)
        yield


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(str(tmp_path))


def test_without_a_policy_everything_stays(vault: Vault) -> None:
    assert vault.kept() == vault.points


def test_the_first_policy_waits_as_one_that_weakens(vault: Vault) -> None:
    """Before it nothing expired: a stolen approver's key cannot make points expire today."""
    vault.set(WEAK)
    vault.clock.advance(13.9 * DAY)
    vault.points.append(vault.world.capture().body.id)
    assert vault.kept() == vault.points
    vault.clock.advance(0.1 * DAY + 1)
    vault.points.append(vault.world.capture().body.id)
    assert vault.kept() == vault.points[-1:]


def cooled(vault: Vault, retention: Retention) -> None:
    """``retention`` is in force, and nothing from before it is."""
    vault.set(retention)
    vault.clock.advance(15 * DAY)
    vault.points.append(vault.capture())


def test_weakening_waits_for_the_cooling_period_of_what_it_weakens(vault: Vault) -> None:
    """A weaker policy set today expires nothing until the cooling is over, by the store's clock, whatever its own cooling says."""
    cooled(vault, STRICT)
    assert vault.kept() == vault.points
    vault.set(msgspec.structs.replace(WEAK, cooling=1.0))
    vault.set(msgspec.structs.replace(WEAK, cooling=1.0))
    vault.clock.advance(13 * DAY)
    vault.points.append(vault.world.capture().body.id)
    assert vault.kept() == vault.points
    vault.clock.advance(1 * DAY + 1)
    vault.points.append(vault.world.capture().body.id)
    assert vault.kept() == vault.points[-1:]


def test_the_host_s_clock_ends_no_cooling(vault: Vault) -> None:
    """P9: whoever sets the clock of the pruning host, or of the approver's, a hundred years ahead wins nothing."""
    cooled(vault, STRICT)
    vault.world.clock.advance(36_500 * DAY)
    vault.set(WEAK)
    vault.world.clock.advance(36_500 * DAY)
    vault.clock.advance(1)
    vault.points.append(vault.world.capture().body.id)
    assert vault.kept() == vault.points


def test_strengthening_holds_at_once(vault: Vault) -> None:
    cooled(vault, WEAK)
    assert vault.kept() == vault.points[-1:]
    vault.set(STRICT)
    assert vault.kept() == vault.points


def test_the_store_s_time_is_that_of_what_it_received_last(vault: Vault) -> None:
    """Never ahead of the store; exact after a put."""
    before = store_time(vault.store)
    vault.clock.advance(DAY)
    assert store_time(vault.store) == before <= vault.clock.now().timestamp()
    vault.set(STRICT)
    assert store_time(vault.store) == vault.clock.now().timestamp()
    assert store_time(MemoryStore()) == 0.0


def test_a_policy_that_was_taken_away_is_missed_by_who_has_seen_it(vault: Vault) -> None:
    """A rollback to a weaker policy is said, by the memory of the host; the vault alone cannot tell (P3)."""
    cooled(vault, WEAK)
    vault.set(STRICT)
    host = HostState(vault.repository.vault.hex(), VAULT_NOTES, vault.world.state)
    require_newest_policy(policies(vault.repository), host)
    rolled_back = replaced(vault.store, "retention/00000002", None)
    with pytest.raises(IntegrityError, match="policy 1, and this host has seen 2"):
        require_newest_policy(policies(vault.world.repository(rolled_back)), host)
    with pytest.raises(IntegrityError, match="policy 0, and this host has seen 2"):
        require_newest_policy((), host)
    require_newest_policy(policies(vault.repository), host)


def test_a_policy_missing_in_the_row_keeps_everything(vault: Vault) -> None:
    """P12: somebody took away the one that was strict; what replaced it counts from then on, and cools."""
    cooled(vault, STRICT)
    vault.set(Retention(never=True))
    cooled(vault, WEAK)
    assert len(vault.kept()) == 1
    vault.store.delete("retention/00000002")
    assert len(vault.kept()) == 1, "long cooled, and of no account"
    vault.set(STRICT)
    vault.set(WEAK)
    vault.store.delete("retention/00000004")
    assert [one.serial for one in policies(vault.repository) if one.refused] == [2, 4]
    assert vault.kept() == vault.points


@pytest.mark.parametrize("junk", [b"", b"junk", b"{}"])
def test_rubbish_in_place_of_a_policy_keeps_everything(vault: Vault, junk: bytes) -> None:
    """P12: whoever may put objects can stop points from expiring, and never make them; a new policy ends that."""
    cooled(vault, WEAK)
    assert len(vault.kept()) == 1
    vault.store.put("retention/00000002", junk)
    assert vault.kept() == vault.points
    assert policies(vault.repository)[-1].refused
    assert vault.set(WEAK).serial == 3
    assert vault.kept() == vault.points
    vault.clock.advance(15 * DAY)
    vault.points.append(vault.world.capture().body.id)
    assert len(vault.kept()) == 1


def test_rubbish_far_away_is_no_policy(vault: Vault) -> None:
    """A number that nobody has come to costs nothing, and takes no number from whoever sets the next."""
    cooled(vault, WEAK)
    for name in ("retention/99999999", "retention/readme", "retention/123456789", "retention/00000003"):
        vault.store.put(name, b"junk")
    assert len(vault.kept()) == 1
    assert vault.set(STRICT).serial == 2
    assert [one.serial for one in policies(vault.repository)] == [1, 2, 3]


@pytest.mark.parametrize("role", [Role.CAPTURE, Role.VERIFIER, Role.PRUNER, Role.AUDITOR])
def test_no_other_role_sets_a_policy(vault: Vault, role: Role) -> None:
    """P9: not the capture host, nor who prunes."""
    cooled(vault, STRICT)
    vault.forge(vault.repository.keyring.signer(role), 2, WEAK)
    assert "may not write retention" in policies(vault.repository)[-1].refused
    vault.clock.advance(100 * DAY)
    vault.points.append(vault.world.capture().body.id)
    assert vault.kept() == vault.points


def test_an_old_policy_under_a_new_number_is_refused(vault: Vault) -> None:
    """A replay: each policy says which it is."""
    cooled(vault, WEAK)
    vault.set(STRICT)
    vault.store.put("retention/00000003", vault.store.get(FIRST))
    assert "is about" in policies(vault.repository)[-1].refused
    vault.forge(vault.repository.keyring.signer(Role.APPROVER), 1, WEAK, "retention/00000004")
    assert "holds policy 1" in policies(vault.repository)[-1].refused
    vault.clock.advance(100 * DAY)
    vault.points.append(vault.world.capture().body.id)
    assert vault.kept() == vault.points


def test_a_newer_format_is_refused_and_not_guessed_at(vault: Vault) -> None:
    """It may keep by a rule that this release does not know."""
    body = {"format": FORMAT + 1, "serial": 1, "systems": {"test": {"every_full_moon": 3}}}
    key = vault.repository.keyring.signer(Role.APPROVER)
    vault.repository.put_signed(FIRST, RecordType.RETENTION, itself(FIRST, body), body, key, vault.world.clock)
    with pytest.raises(NewerFormat):
        policies(vault.repository)


def test_two_who_set_a_policy_at_once(vault: Vault) -> None:
    """One of them is told, and nothing of it holds."""
    first = next_policy(policies(vault.repository), "test", STRICT)
    second = next_policy(policies(vault.repository), "test", WEAK)
    put_policy(vault.repository, first, vault.world.clock)
    with pytest.raises(Busy, match="set meanwhile"):
        put_policy(vault.repository, second, vault.world.clock)
    assert [one.body for one in policies(vault.repository)] == [first]


def test_a_policy_says_again_what_was_said_of_other_systems(vault: Vault) -> None:
    vault.set(STRICT)
    put_policy(vault.repository, next_policy(policies(vault.repository), "mill", WEAK), vault.world.clock)
    newest = policies(vault.repository)[-1]
    assert newest.body is not None
    assert newest.body.systems == {"mill": WEAK, "test": STRICT}


def test_who_has_no_approver_s_key_sets_none(vault: Vault) -> None:
    """P9: a capture host's keys are not enough."""
    confined = vault.world.repository(keys=vault.world.keys_with("capture.json", "trust.json"))
    with pytest.raises(Denied, match=r"approver\.json"):
        vault.set(WEAK, confined)
    assert policies(confined) == ()


# Four eyes and keys --------------------------------------------------------------------------------------------------


def second_approver(vault: Vault, needed: int = 2) -> Repository:
    """The vault as somebody else opens it, who is an approver too; so many are ``needed`` from then on."""
    keyadmin.add(vault.repository, "approver", "bo", vault.world.clock)
    theirs = keyadmin.file_of("approver", "bo")
    keys = copy_keys(vault.world.keys, f"{vault.world.folder}/bo", ["trust.json", theirs])
    shutil.move(f"{keys}/{theirs}", f"{keys}/approver.json")
    if needed:
        keyadmin.require(vault.repository, {ACT: needed}, vault.world.clock)
    return vault.world.repository(keys=keys)


def test_one_stolen_approver_s_key_weakens_nothing_where_two_are_asked_for(vault: Vault) -> None:
    """Neither by the command, nor by a program of the thief's own: who reads counts the approvals too."""
    bo = second_approver(vault)
    vault.set(Retention(never=True))
    with pytest.raises(Denied, match="needs 2 approvers"):
        vault.set(WEAK)
    vault.forge(vault.repository.keyring.signer(Role.APPROVER), 2, WEAK)
    vault.clock.advance(100 * DAY)
    vault.points.append(vault.world.capture().body.id)
    assert "0 of 2 approvers said yes" in policies(vault.repository)[-1].refused
    assert vault.kept() == vault.points
    body = next_policy(policies(vault.repository), "test", WEAK)
    digest = plan_digest(vault.repository, ACT, body)
    approve(vault.repository, Approval(plan=digest), vault.world.clock)
    with pytest.raises(Denied, match="needs 2 approvers"):
        put_policy(vault.repository, body, vault.world.clock)
    approve(bo, Approval(plan=digest), vault.world.clock)
    assert not put_policy(vault.repository, body, vault.world.clock).refused
    vault.clock.advance(15 * DAY)
    vault.points.append(vault.world.capture().body.id)
    assert len(vault.kept()) == 1


def test_strengthening_needs_nobody_else(vault: Vault) -> None:
    """Whoever sees that something is wrong can stop points from expiring alone."""
    second_approver(vault)
    assert not vault.set(Retention(never=True)).refused


def test_what_a_removed_key_has_set_keeps_everything(vault: Vault) -> None:
    """A thief's policy falls with the key, and what comes in its place waits."""
    vault.set(STRICT)
    bo = second_approver(vault, needed=0)
    thief = vault.repository.keyring.signer(Role.APPROVER).key_id
    keyadmin.remove(vault.repository, thief, vault.world.clock, why="stolen")
    vault.clock.advance(100 * DAY)
    vault.points.append(vault.world.capture().body.id)
    assert vault.kept() == vault.points
    assert "removed" in policies(vault.repository)[-1].refused
    again = vault.world.repository(keys=os.path.dirname(bo.keyring.path("x")))
    put_policy(again, next_policy(policies(again), "test", WEAK), vault.world.clock)
    assert vault.kept() == vault.points


# Holds ---------------------------------------------------------------------------------------------------------------


def hold(vault: Vault, point: str, **more: object) -> Hold:
    asked = msgspec.structs.replace(Hold(id="", reason="case 118", owner="legal"), **more)
    return holds.add(vault.repository, vault.repository.sealed(point), asked, vault.world.clock)


def lift(vault: Vault, made: Hold) -> None:
    found = holds.find(vault.repository, made.id)
    holds.lift(vault.repository, found, holds.lifting(found.hold, "closed"), vault.world.clock)


def test_a_legal_hold_survives_policies_and_time(vault: Vault) -> None:
    """A held point stays by any policy, however old it is; others do not."""
    held = vault.points[2]
    hold(vault, held)
    cooled(vault, WEAK)
    cooled(vault, WEAK)
    vault.clock.advance(5000 * DAY)
    newest = vault.world.capture().body.id
    assert vault.kept() == [held, newest]


def test_holds_stand_side_by_side_and_each_is_lifted_by_its_own_id(vault: Vault) -> None:
    held = vault.points[2]
    cooled(vault, WEAK)
    first, second = hold(vault, held), hold(vault, held, reason="audit", owner="finance")
    assert [h.hold.id for h in holds.standing(vault.repository)] == sorted([first.id, second.id])
    lift(vault, first)
    assert held in vault.kept()
    with pytest.raises(NotFound):
        holds.find(vault.repository, first.id)
    lift(vault, second)
    assert held not in vault.kept()
    digits = [hold(vault, vault.points[0]).id[0] for _ in range(17)]
    shared = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(Ambiguous):
        holds.find(vault.repository, shared)


def test_a_hold_ends_by_the_store_s_time_and_not_by_the_host_s(vault: Vault) -> None:
    held = vault.points[2]
    cooled(vault, WEAK)
    hold(vault, held, until=store_time(vault.store) + DAY)
    vault.world.clock.advance(1000 * DAY)
    vault.world.capture()
    assert held in vault.kept()
    vault.clock.advance(DAY)
    vault.world.capture()
    assert held not in vault.kept()


def test_a_hold_that_says_nothing_or_is_over_is_none(vault: Vault) -> None:
    for wrong in ({"reason": ""}, {"owner": ""}, {"until": store_time(vault.store)}):
        with pytest.raises(UsageError):
            hold(vault, vault.points[0], **wrong)
    assert holds.standing(vault.repository) == []


def test_no_other_role_lifts_a_hold(vault: Vault) -> None:
    """P9: a lift by the pruner's or the verifier's key makes the point unbelievable, so it stays; and is said."""
    held = vault.points[2]
    made = hold(vault, held)
    cooled(vault, WEAK)
    subject = vault.repository.sealed(held).record.subject
    for role in (Role.PRUNER, Role.VERIFIER, Role.CAPTURE):
        key, body = vault.repository.keyring.signer(role), Hold(id=made.id, lifted=True)
        with _as_if(RecordType.HOLD, key):
            data = make_record(
                RecordType.HOLD, subject, body, key, vault=vault.repository.vault, made=vault.world.clock.now()
            )
        twin = copied(vault.store)
        twin.put(f"records/{held}/hold-{'0' * 16}", data)
        repository = vault.world.repository(twin)
        assert held in vault.kept(twin), role
        assert "may not write hold" in (repository.state(repository.sealed(held)).damaged or "")


def test_lifting_needs_the_approvals_that_the_vault_asks_for(vault: Vault) -> None:
    """Also for who reads: a thief with one approver's key writes the record, and the hold stands."""
    held = vault.points[2]
    made = hold(vault, held)
    cooled(vault, WEAK)
    policy = policies(vault.repository)[0].body
    bo = second_approver(vault)
    assert set(vault.kept()) == {*vault.points}, "what was set before is to be approved, too"
    for repository in (vault.repository, bo):
        approve(repository, Approval(plan=plan_digest(repository, ACT, policy)), vault.world.clock)
    assert len(vault.kept()) == 2
    with pytest.raises(Denied, match="needs 2 approvers"):
        lift(vault, made)
    lifted = holds.lifting(made, "closed")
    vault.repository.put_record(RecordType.HOLD, held, lifted, Role.APPROVER, vault.world.clock)
    assert held in vault.kept()
    for repository in (vault.repository, bo):
        approve(repository, Approval(plan=plan_digest(repository, ACT, lifted)), vault.world.clock)
    assert held not in vault.kept()


def test_who_has_no_approver_s_key_holds_nothing(vault: Vault) -> None:
    confined = vault.world.repository(keys=vault.world.keys_with("capture.json", "trust.json"))
    with pytest.raises(Denied, match=r"approver\.json"):
        holds.add(confined, confined.sealed(vault.points[0]), Hold(id="", reason="r", owner="o"), vault.world.clock)


# What a decision is told of a point ----------------------------------------------------------------------------------


def test_how_a_point_stands(vault: Vault) -> None:
    """Proven; proven once, since it was found different or quarantined later; the reference; live."""
    vault.verdict(vault.points[0], Judgement.IDENTICAL)
    vault.verdict(vault.points[1], Judgement.IDENTICAL)
    vault.verdict(vault.points[1], Judgement.DIFFERENT)
    vault.verdict(vault.points[2], Judgement.EQUIVALENT)
    vault.verdict(vault.points[3], Judgement.DIFFERENT)
    put, clock = vault.repository.put_record, vault.world.clock
    put(RecordType.QUARANTINE, vault.points[2], Quarantined(reason="poisoned"), Role.APPROVER, clock)
    for point in vault.points[4:6]:
        clock.advance(1)
        put(RecordType.REFERENCE, point, {}, Role.APPROVER, clock)
        put(RecordType.PROMOTION, point, {}, Role.APPROVER, clock)
    put(RecordType.UNDO, vault.points[5], {}, Role.APPROVER, clock)
    found = facts(vault.repository)
    assert [p.point for p in found] == vault.points
    assert [p.standing for p in found[:4]] == [
        Standing.PROVEN,
        Standing.ONCE_PROVEN,
        Standing.ONCE_PROVEN,
        Standing.SEALED,
    ]
    assert [p.reference for p in found[4:6]] == [False, True], "the newest is in force"
    assert [bool(p.promoted) for p in found[3:6]] == [False, True, False]
    assert [p.received for p in found] == sorted(p.received for p in found)


def test_a_damaged_history_keeps_its_point(vault: Vault) -> None:
    """P12: what cannot be believed may be the hold."""
    cooled(vault, WEAK)
    vault.store.put(f"records/{vault.points[2]}/verdict-{'0' * 16}", b"junk")
    assert vault.points[2] in vault.kept()


def test_a_tag_is_of_the_point_for_good(vault: Vault) -> None:
    """Words that are no tags are refused before anything is read."""
    from resurgam.capture.run import capture
    from tests.support import no_witness

    world = vault.world

    def tagged(*tags: str) -> str:
        return capture(
            world.system, lambda _: world.driver, no_witness, world.repository(), world.host(), world.clock, tags=tags
        ).body.id

    point = tagged("release-7", "v1.2")
    assert vault.repository.sealed(point).body.tags == ("release-7", "v1.2")
    for wrong in (("Release",), ("a b",), ("",), ("a" * 64,), ("-a",), ("a", "a"), ("a\n",)):
        objects = [entry.name for entry in vault.store.list()]
        with pytest.raises(UsageError):
            tagged(*wrong)
        assert [entry.name for entry in vault.store.list()] == objects
    cooled(vault, Retention(last=1, keep_tags=("release-7",)))
    assert vault.kept() == [point, vault.points[-1]]


def test_nothing_ends_by_a_time_of_the_future(vault: Vault) -> None:
    """P12: where the store's time is more than a day ahead of the host's, nothing is begun or swept; else it goes on."""
    cooled(vault, WEAK)
    pruner, now = vault.repository, ManualClock(vault.clock.now())
    prune = propose(pruner, draft(pruner, expiring(pruner)).plan, now)
    vault.clock.advance(DAY + 2)
    for step, stage in ((begin, Stage.PLANNED), (sweep, Stage.BEGUN)):
        vault.repository.announce(RecordType.RETENTION, FIRST, pruner.keyring.signer(Role.APPROVER), vault.clock)
        with pytest.raises(IntegrityError) as caught:
            step(pruner, prune, now)
        assert "log/" in caught.value.message
        assert caught.value.untouched
        assert "whichever clock is wrong" in caught.value.next_step
        assert [one.stage for one in vault.repository.prunes().all] == [stage]
        now.advance(DAY)
        prune = step(pruner, prune, now)
        now.advance(-DAY)
    assert prune.stage is Stage.SWEPT


def test_a_legal_hold_survives_prune(vault: Vault) -> None:
    """Of all that a weak policy lets go, prune frees the rest: what is held restores to the byte, and so does the newest."""
    world = vault.world
    told = {}
    for number in range(4):
        world.live.files = {b"one": b"%d" % number * 50_000}
        told[vault.capture()] = world.contents()
    held = list(told)[1]
    made = hold(vault, held)
    cooled(vault, WEAK)
    told[vault.points[-1]] = world.contents()
    pruner = world.repository(keys=world.keys_with("trust.json", "pruner.json"))
    plan = draft(pruner, expiring(pruner)).plan
    assert held not in plan.expire
    assert len(plan.expire) == 13
    sweep(pruner, begin(pruner, propose(pruner, plan, vault.clock), vault.clock), vault.clock)
    assert [sealed.body.id for sealed in vault.repository.points()] == [held, vault.points[-1]]
    for sealed in vault.repository.points():
        assert world.restored(sealed, vault.repository) == told[sealed.body.id]
    lift(vault, made)
    assert set(expiring(vault.repository)) == {held}, "and goes with the next, once nobody holds it"
