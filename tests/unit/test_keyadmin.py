"""Keys are added, removed and rotated by role tables; what a key signs counts as far as the table says, and no further (P9).

Each attack here was seen to succeed with its defence taken away.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from resurgam.capture.run import capture
from resurgam.errors import Ambiguous, Busy, Denied, NewerFormat, NotFound, TargetRefused
from resurgam.model.verdict import Judgement
from resurgam.testing.faults import Crash, CrashStore, ManualClock, MemoryStore
from resurgam.vault import keyadmin
from resurgam.vault.approvals import Approval, approve, approvers, plan_digest, require_approvals
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.records import RecordType, Subject, make_record, sign_roles
from resurgam.vault.repository import Repository
from resurgam.vault.roles import Disowned, next_table
from resurgam.vault.shred import plan as plan_shred
from resurgam.vault.shred import shred
from resurgam.vault.signing import Role, SigningKey
from tests.support import World, no_witness, stored_bytes

PLAN = "ab" * 32


class KeysWorld(World):
    """A world whose store goes by the same clock as its hosts: when something was received matters here."""

    def __init__(self, folder: str) -> None:
        clock = ManualClock()
        super().__init__(folder, store=MemoryStore(clock))
        self.clock = clock
        self.live.files = {b"a": os.urandom(300_000), b"b": b"prompt"}

    def holder(self, **files: str) -> str:
        """A keys folder of somebody who was given these files, by the names that they have there: ``approver="approver.bob"``."""
        folder = self.keys_with("trust.json")
        for there, here in files.items():
            kind = "agekey" if os.path.exists(f"{self.keys}/{here}.agekey") else "json"
            shutil.copy(f"{self.keys}/{here}.{kind}", f"{folder}/{there}.{kind}")
        return folder

    def later(self) -> None:
        """Let a minute pass."""
        self.clock.advance(60)

    def judge(self, point: str, judgement: Judgement = Judgement.IDENTICAL) -> None:
        """A verdict, signed by the verifier's key that is here."""
        body = {"judgement": judgement}
        self.repository().put_record(RecordType.VERDICT, point, body, Role.VERIFIER, self.clock)


@pytest.fixture
def world(tmp_path: Path) -> KeysWorld:
    return KeysWorld(str(tmp_path))


def ids(repository: Repository) -> list[str]:
    return [sealed.body.id for sealed in repository.points()]


# Removing -----------------------------------------------------------------------------------------------------------


def test_the_points_of_a_removed_key_are_points_no_more(world: KeysWorld) -> None:
    """P9, P10: the plan names them, and nothing else is lost: `latest` is the newest of those that are left."""
    other = world.capture()
    keyadmin.add(world.repository(), "capture", "second", world.clock)
    second = world.holder(capture="capture.second", reader="reader")
    stolen = world.capture(keys=second)
    key = world.repository(keys=second).keyring.signer(Role.CAPTURE).key_id

    before = stored_bytes(world.store)
    plan = keyadmin.plan_remove(world.repository(), "second")
    assert stored_bytes(world.store) == before, "a plan changes nothing"
    assert f"1 point: {stolen.body.id}" in [step.what for step in plan.steps if step.verb == "believed no more"]

    keyadmin.remove(world.repository(), key[:6], world.clock, "laptop stolen")
    repository = world.repository()
    assert ids(repository) == [other.body.id]
    assert repository.resolve("latest").body.id == other.body.id
    assert (repository.refused_points, len(repository.disowned)) == ([], 1)
    assert list(repository.index.packs)
    assert repository.places.refused == [], "what is disowned is no damage"
    assert world.restored(other) == world.contents()
    with pytest.raises(Disowned, match="was removed"):
        repository.sealed(stolen.body.id)
    with pytest.raises(Denied, match="does not count"):
        world.capture(keys=second)


def test_the_verdicts_of_a_removed_key_prove_nothing(world: KeysWorld) -> None:
    """P4, P9: and the point itself, and what others said of it, stand."""
    point = world.capture().body.id
    world.judge(point)
    assert world.repository().state(world.repository().sealed(point)).may_be_promoted
    keyadmin.remove(world.repository(), world.repository().roles.active("verifier")[0].key_id, world.clock)
    repository = world.repository()
    state = repository.state(repository.sealed(point))
    assert (state.proven, state.damaged, state.may_be_promoted) == (None, None, False)
    assert [record.type for record in repository.records(point)] == []


def test_a_key_that_was_removed_is_not_taken_back(world: KeysWorld) -> None:
    """Neither by adding the file it is in, nor by removing it again."""
    key = keyadmin.add(world.repository(), "approver", "bob", world.clock)
    keyadmin.remove(world.repository(), "bob", world.clock)
    with pytest.raises(TargetRefused, match="knows"):
        keyadmin.add(world.repository(), "approver", "bob", world.clock)
    with pytest.raises(TargetRefused, match="was removed"):
        keyadmin.plan_remove(world.repository(), key.key_id)


def test_the_plan_to_remove_says_how_the_role_gets_another_key(world: KeysWorld) -> None:
    """P12: both steps, in their order; the file that lies there would be in the way of the new key."""
    auditor = world.repository().keyring.signer("auditor").key_id
    plan = keyadmin.plan_remove(world.repository(), auditor)
    (said,) = (step.what for step in plan.steps if step.verb == "nobody left")
    assert said.index("move auditor.json out") < said.index("`resurgam vault keys add auditor`")
    keyadmin.remove(world.repository(), auditor, world.clock)
    with pytest.raises(TargetRefused, match="knows") as refused:
        keyadmin.add(world.repository(), "auditor", "", world.clock)
    assert refused.value.next_step == "Move it away, then give the same command again."
    os.rename(f"{world.keys}/auditor.json", f"{world.keys}/elsewhere")
    assert keyadmin.add(world.repository(), "auditor", "", world.clock).key_id != auditor


# Rotating -----------------------------------------------------------------------------------------------------------


def test_what_a_stolen_key_signs_after_its_retirement_is_refused(
    world: KeysWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: its points and its places; what it signed before stands, and the new key goes on."""
    before = world.capture()
    stolen = world.keys_with("trust.json", "capture.json")
    thief = world.repository(keys=stolen)
    monkeypatch.setattr(thief, "look_at_roles", lambda: None)  # it goes by the role table of when the key was good
    world.later()
    new = keyadmin.rotate(world.repository(), "capture", world.clock)
    after = world.capture()
    world.later()

    world.live.files[b"a"] = os.urandom(100_000)
    host = HostState(thief.vault.hex(), world.system.name, f"{world.folder}/elsewhere")
    forged = capture(world.system, lambda _kind: world.driver, no_witness, thief, host, world.clock).body.id
    packs = {name for found in thief.places.segments() for name in found.packs}
    repository = world.repository()
    assert ids(repository) == [before.body.id, after.body.id]
    assert repository.resolve("latest").body.id == after.body.id
    with pytest.raises(Disowned, match="retired"):
        repository.sealed(forged)
    assert repository.sealed(after.body.id).record.signer == new.key_id
    known = {name for found in repository.places.segments() for name in found.packs}
    assert packs - known, "places that it names are passed over"
    assert Keyring(world.keys).signer(Role.CAPTURE).key_id == new.key_id


def test_a_capture_whose_key_is_retired_meanwhile_is_not_sealed_in_vain(world: KeysWorld) -> None:
    """P12: nobody would believe its point, so nobody is told that there is one; the next has the new key."""
    with world.repository().writer(world.system, world.host(), world.clock) as writer:
        keyadmin.rotate(world.repository(), "capture", world.clock)
        point = world.capture()
        with pytest.raises(Denied, match="does not count"):
            writer.seal(world.repository().particulars(point.body), ())
    assert ids(world.repository()) == [point.body.id]


def test_what_was_there_when_a_key_was_retired_stands_to_the_last(world: KeysWorld) -> None:
    """A store whose clock is a little ahead loses nothing; one that is far ahead does not put the end off."""
    point = world.capture()
    for number, (ahead, stands) in enumerate(((120.0, True), (100_000.0, False))):
        keys = f"{world.folder}/copy-{number}"
        shutil.copytree(world.keys, keys)
        store = MemoryStore(ManualClock(world.clock.now() + timedelta(seconds=ahead)))
        for entry in world.store.list():
            store.put(entry.name, world.store.get(entry.name))
        keyadmin.rotate(world.repository(store, keys), "capture", world.clock)
        assert ids(world.repository(store, keys)) == [point.body.id] * stands, ahead


def test_without_a_time_nothing_of_a_retired_key_is_believed(world: KeysWorld) -> None:
    """P12: whoever does not say when a record was received gets no benefit of the doubt."""
    world.capture()
    keyadmin.rotate(world.repository(), "capture", world.clock)
    (retired,) = (key for key in world.repository().roles.roles["capture"] if key.retired)
    assert retired.disbelieved(None)
    assert not retired.disbelieved(0.0)


def test_a_new_key_builds_on_what_the_old_one_stored(world: KeysWorld) -> None:
    """P11: rotation costs no second copy; a key that came beside it does not, since it may not trust (design 4)."""
    world.capture()
    keyadmin.rotate(world.repository(), "capture", world.clock)
    world.forget()
    size = stored_bytes(world.store)
    assert world.restored(world.capture()) == world.contents()
    assert stored_bytes(world.store) - size < 50_000

    keyadmin.add(world.repository(), "capture", "beside", world.clock)
    world.forget()
    size = stored_bytes(world.store)
    world.capture(keys=world.holder(capture="capture.beside", reader="reader"))
    assert stored_bytes(world.store) - size > 300_000


@pytest.mark.parametrize("after", [False, True])
def test_a_rotation_that_dies_anywhere_is_ended_by_the_same_command(tmp_path: Path, after: bool) -> None:
    """P1: one key counts, it is the one in the file, and nothing that was sealed is lost."""
    calls = 1
    for number in range(1, 100):
        world = KeysWorld(str(tmp_path / f"{number}"))
        point = world.capture()
        old = Keyring(world.keys).signer(Role.CAPTURE).key_id
        store = CrashStore(world.store, number, after=after)
        try:
            keyadmin.rotate(world.repository(store), "capture", world.clock)
        except Crash:
            calls = number
            keyadmin.rotate(world.repository(), "capture", world.clock)
        repository = world.repository()
        held = repository.keyring.signer(Role.CAPTURE).key_id
        assert [key.key_id for key in repository.roles.active("capture")] == [held] != [old], number
        assert ids(repository) == [point.body.id]
        assert [file for file in repository.keyring.files() if "capture" in file] == ["capture.json"]
        if calls < number:
            break
    assert calls > 5


def test_the_root_key_is_none_of_these(world: KeysWorld) -> None:
    """Every host pins it: another one is another vault."""
    root = world.repository().keyring.signer(Role.ROOT).key_id
    acts: tuple[Callable[[], object], ...] = (
        lambda: keyadmin.plan_add(world.repository(), "root", "x"),
        lambda: keyadmin.plan_remove(world.repository(), root),
        lambda: keyadmin.plan_rotate(world.repository(), "root"),
    )
    for act in acts:
        with pytest.raises(TargetRefused, match="every host pins it"):
            act()


def test_which_key_is_meant_is_never_guessed(world: KeysWorld) -> None:
    """P12."""
    keyadmin.add(world.repository(), "approver", "bob", world.clock)
    keyadmin.add(world.repository(), "auditor", "bob", world.clock)
    elsewhere = world.keys_with("trust.json", "root.json")
    with pytest.raises(Ambiguous):
        keyadmin.plan_rotate(world.repository(keys=elsewhere), "approver")
    with pytest.raises(Ambiguous):
        keyadmin.plan_remove(world.repository(), "bob")
    with pytest.raises(NotFound):
        keyadmin.plan_remove(world.repository(), "nobody")
    with pytest.raises(TargetRefused, match="already"):
        keyadmin.plan_add(world.repository(), "approver", "bob")
    with pytest.raises(TargetRefused, match="names"):
        keyadmin.plan_add(world.repository(), "approver", "")
    for name in ("../x", "next", "retired-1", "Bob", ""):
        with pytest.raises(TargetRefused):
            keyadmin.plan_add(world.repository(), "approver", name)


def test_a_table_that_says_more_is_refused_by_who_would_not_understand(world: KeysWorld) -> None:
    """P12: a release that knows no retirement would believe a stolen key; so the table has a format of its own, and others not."""
    assert world.repository().roles.format == 1
    keyadmin.add(world.repository(), "approver", "bob", world.clock)
    assert world.repository().roles.format == 1
    keyadmin.rotate(world.repository(), "capture", world.clock)
    assert world.repository().roles.format == 2
    table = msgspec.structs.replace(next_table(world.repository().roles), format=4)
    world.store.put(table.object_name, sign_roles(table, Keyring(world.keys).signer(Role.ROOT), world.clock.now()))
    with pytest.raises(NewerFormat):
        world.repository()


def test_two_changes_from_one_table_are_not_both_made(world: KeysWorld) -> None:
    """The put of a serial is create-only."""
    one, two = world.repository(), world.repository()
    keyadmin.add(one, "approver", "one", world.clock)
    with pytest.raises(Busy):
        keyadmin.add(two, "approver", "two", world.clock)
    keyadmin.add(world.repository(), "approver", "two", world.clock)
    assert [key.name for key in world.repository().roles.active("approver")] == ["", "one", "two"]


# Four eyes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(world: KeysWorld) -> KeysWorld:
    """Two approvers more, bob and eve, and two of the three needed."""
    for name in ("bob", "eve"):
        keyadmin.add(world.repository(), "approver", name, world.clock)
    keyadmin.require(world.repository(), {"prune": 2, "shred": 2}, world.clock)
    return world


def say_yes(world: KeysWorld, who: str, plan: str = PLAN) -> str:
    keys = world.holder(approver=who)
    return approve(world.repository(keys=keys), Approval(plan=plan), world.clock)


def yes_by(world: KeysWorld, signer: SigningKey) -> bytes:
    """A record of that form, by whatever key."""
    subject, vault = Subject(f"plan/{PLAN}", PLAN), world.repository().vault
    return make_record(RecordType.APPROVAL, subject, Approval(plan=PLAN), signer, vault=vault, made=world.clock.now())


def test_one_approver_who_signs_twice_has_said_it_once(guarded: KeysWorld) -> None:
    """What counts are keys: neither the name of an object nor the number of objects proves another person."""
    say_yes(guarded, "approver.bob")
    say_yes(guarded, "approver.bob")
    bob, eve = (Keyring(guarded.holder(approver=f"approver.{name}")).signer("approver") for name in ("bob", "eve"))
    repository = guarded.repository()
    guarded.store.put(f"approvals/{PLAN[:32]}/{eve.key_id}", yes_by(guarded, bob))
    assert [key.name for key in approvers(repository, PLAN)] == ["bob"]
    with pytest.raises(Denied, match=r"needs 2 approvers .* bob") as denied:
        require_approvals(repository, "prune", PLAN)
    assert eve.key_id in denied.value.next_step, "it says who could still"
    say_yes(guarded, "approver.eve")  # though something stands where hers would
    require_approvals(repository, "prune", PLAN)


def test_only_approvers_approve(guarded: KeysWorld) -> None:
    """P9: a record of the right form by another role, or by nobody, is no yes."""
    repository = guarded.repository()
    for number, role in enumerate((Role.CAPTURE, Role.VERIFIER, Role.PRUNER, Role.ROOT)):
        posing = SigningKey(Role.APPROVER, repository.keyring.signer(role).secret_bytes())
        guarded.store.put(f"approvals/{PLAN[:32]}/{number:016x}", yes_by(guarded, posing))
    guarded.store.put(f"approvals/{PLAN[:32]}/junk", b"junk")
    assert approvers(repository, PLAN) == ()


def test_a_yes_counts_for_its_plan_alone(guarded: KeysWorld) -> None:
    """P10: not for another plan, also where the names begin alike; not for another act of the same plan."""
    repository = guarded.repository()
    digest = plan_digest(repository, "prune", {"remove": ["x"]})
    assert digest not in (
        plan_digest(repository, "shred", {"remove": ["x"]}),
        plan_digest(repository, "prune", {"remove": ["y"]}),
    )
    alike = digest[:32] + "0" * 32
    for who in ("approver", "approver.bob"):
        say_yes(guarded, who, alike)
    assert approvers(repository, digest) == ()
    with pytest.raises(Denied):
        require_approvals(repository, "prune", digest)


def test_a_yes_of_a_key_that_went_counts_no_more(guarded: KeysWorld) -> None:
    """Retired and removed alike: whoever lost the key may not be who said it."""
    for who in ("approver", "approver.bob", "approver.eve"):
        say_yes(guarded, who)
    assert len(approvers(guarded.repository(), PLAN)) == 3
    guarded.later()
    keyadmin.rotate(guarded.repository(), "approver", guarded.clock, "bob")
    assert [key.name for key in approvers(guarded.repository(), PLAN)] == ["", "eve"]
    keyadmin.remove(guarded.repository(), "eve", guarded.clock)
    with pytest.raises(Denied):
        require_approvals(guarded.repository(), "prune", PLAN)
    with pytest.raises(Denied, match="does not count"):
        say_yes(guarded, "approver.eve")


def test_a_quorum_is_not_lowered_by_fewer_than_it_needs(guarded: KeysWorld) -> None:
    """And cannot be set so high, or approvers taken out, that nobody could ever act again."""
    with pytest.raises(TargetRefused, match="4 approvers"):
        keyadmin.require(guarded.repository(), {"prune": 4}, guarded.clock)
    plan = keyadmin.plan_require(guarded.repository(), {"prune": 0})
    digest = plan_digest(guarded.repository(), "keys", plan)
    say_yes(guarded, "approver", digest)
    with pytest.raises(Denied, match="needs 2"):
        keyadmin.require(guarded.repository(), {"prune": 0}, guarded.clock)
    say_yes(guarded, "approver.eve", digest)
    keyadmin.require(guarded.repository(), {"prune": 0}, guarded.clock)
    assert guarded.repository().roles.quorum == {"shred": 2}
    keyadmin.remove(guarded.repository(), "eve", guarded.clock)
    with pytest.raises(TargetRefused, match="would have 1"):
        keyadmin.remove(guarded.repository(), "bob", guarded.clock)


def test_keys_themselves_may_need_approvals(guarded: KeysWorld) -> None:
    """The plan that was approved is the one that is done: another name is another plan."""
    keyadmin.require(guarded.repository(), {"keys": 1}, guarded.clock)
    before = guarded.repository().roles
    with pytest.raises(Denied, match="needs 1"):
        keyadmin.add(guarded.repository(), "approver", "mallory", guarded.clock)
    digest = plan_digest(guarded.repository(), "keys", keyadmin.plan_add(guarded.repository(), "approver", "carol"))
    say_yes(guarded, "approver.bob", digest)
    with pytest.raises(Denied):
        keyadmin.add(guarded.repository(), "approver", "mallory", guarded.clock)
    assert guarded.repository().roles == before
    assert not os.path.exists(f"{guarded.keys}/approver.mallory.json")
    keyadmin.add(guarded.repository(), "approver", "carol", guarded.clock)


def test_shredding_waits_for_those_who_must_agree(guarded: KeysWorld) -> None:
    """P10: and nothing is destroyed before."""
    digest = plan_digest(guarded.repository(), "shred", plan_shred(guarded.repository(), "evidence"))
    for who in ("approver.bob", "approver.eve"):
        with pytest.raises(Denied, match="needs 2"):
            shred(guarded.repository(), "evidence", guarded.clock)
        say_yes(guarded, who, digest)
    assert guarded.repository().keyring.has("evidence.agekey")
    shred(guarded.repository(), "evidence", guarded.clock)
    assert not guarded.repository().keyring.has("evidence.agekey")
