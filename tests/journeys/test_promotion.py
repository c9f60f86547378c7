"""Promotion with real files, databases, commands and processes: what it switches, what it refuses, and how it is undone."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from resurgam.errors import Busy, NotFound, NotProven, ResurgamError, StoreFull, TargetRefused, UsageError
from resurgam.model.system import Promotion
from resurgam.model.verdict import Judgement
from resurgam.restore import stage
from resurgam.restore.intent import undoable
from resurgam.restore.promote import pending
from resurgam.restore.state import State, load, save
from tests.crash.promotion_world import ID, World, read, rows, without


@pytest.fixture
def world(tmp_path: os.PathLike[str]) -> World:
    return World(os.fspath(tmp_path))


@contextlib.contextmanager
def another_file_system(beside: str) -> Iterator[str]:
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(beside).st_dev:
        pytest.skip("there is no second file system to try")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield folder


def refused(world: World, error: type[ResurgamError], match: str, **changes: Any) -> ResurgamError:
    """Promote must raise ``error`` and change nothing at all."""
    live, copies, state = world.live(), world.restore(), world.state()
    with pytest.raises(error, match=match) as caught:
        world.promoter(**changes).promote(world.directory)
    assert (world.live(), world.restore(), world.state()) == (live, copies, state)
    assert pending(world.journals) == []
    assert world.records == []
    assert caught.value.next_step  # P12
    return caught.value


def test_what_was_restored_becomes_live_and_what_was_live_is_kept(world: World) -> None:
    before, copies = world.live(), world.restore()
    said: list[str] = []
    outcome = world.promoter(said.append).promote(world.directory)

    assert world.is_of_the_point() == [True] * 3
    now = world.live()
    for name, place in world.places.items():
        was = os.path.relpath(world.copy(name), world.directory)
        assert now[os.path.relpath(place, world.root)][0] == copies[was][0]  # renamed: no byte was copied
        assert outcome.kept[name] == f"{place}.before-{ID}"
    assert rows(outcome.kept["documents"], world.folder) == ["older", "later"]  # its WAL went with it
    assert not os.path.exists(world.places["documents"] + "-wal")
    assert now[f"data/handbook.db.before-{ID}-wal"] == before["data/handbook.db-wal"]
    assert (world.said(), world.state()) == (["fence", "reload"], State.PROMOTED)
    assert [word for word, _ in world.records] == ["promoted"]
    assert world.records[0][1]["point"] == world.point
    assert pending(world.journals) == []
    switched = [step.split()[1] for step in said if step.startswith("exchange")]
    assert switched == [
        world.places[name] for name in ("prompts", "documents", "models")
    ]  # what others need comes first
    assert said.index("fence") < said.index("idle") < said.index(next(s for s in said if s.startswith("exchange")))


def test_p10_the_plan_tells_all_and_changes_nothing(world: World) -> None:
    live, copies = world.live(), world.restore()
    plan = world.promoter().plan(world.directory)
    verbs = [step.verb for step in plan.steps]
    assert verbs == ["check", *["stage"] * 3, "fence", "idle", "carry", *["switch"] * 3, "reload", "record"]
    assert f"{world.places['documents']}.before-{ID}" in plan.steps[8].what
    assert (world.live(), world.restore()) == (live, copies)
    assert not os.path.exists(world.journals)


def test_p10_another_plan_than_the_agreed_one_is_refused(world: World) -> None:
    agreed = world.promoter().plan(world.directory)
    os.unlink(world.places["prompts"])
    with pytest.raises(UsageError, match="another one now"):
        world.promoter().promote(world.directory, agreed=agreed)
    again = world.promoter().plan(world.directory)
    world.promoter().promote(world.directory, agreed=again)
    assert world.is_of_the_point() == [True] * 3


def test_undo_brings_back_the_very_same_files(world: World) -> None:
    before = world.live()
    world.promoter().promote(world.directory)
    with contextlib.closing(sqlite3.connect(world.places["documents"])) as connection, connection:
        connection.execute("insert into facts(value) values ('written since')")
    outcome = world.promoter().undo(ID)
    assert without(world.live(), ".undone-") == before  # bytes, inodes, modes and times
    assert rows(outcome.kept["documents"], world.folder) == ["point", "written since"]
    assert (world.state(), world.said()) == (State.UNDONE, ["fence", "reload"] * 2)
    assert [word for word, _ in world.records] == ["promoted", "undone"]


def test_p10_the_plan_of_an_undo_tells_all_and_changes_nothing(world: World) -> None:
    with pytest.raises(NotFound):
        world.promoter().undo_plan("latest")
    world.promoter().promote(world.directory)
    live, said = world.live(), world.said()
    plan = world.promoter().undo_plan("latest")
    assert [step.verb for step in plan.steps] == ["fence", "idle", *["switch"] * 3, "reload", "record"]
    first = world.places["models"]  # what others need goes last
    assert f"{first}.before-{ID} becomes {first} (what is live stays as {first}.undone-{ID})" == plan.steps[2].what
    assert (world.live(), world.said(), len(undoable(world.journals, "handbook"))) == (live, said, 1)
    world.promoter().undo("latest")
    with pytest.raises(UsageError, match="undone already"):
        world.promoter().undo_plan(ID)


def test_undo_takes_the_wal_of_the_promoted_database_away(world: World) -> None:
    """An old image under a new WAL would be recovered into something that never was."""
    before = world.live()
    world.promoter().promote(world.directory)
    database = world.places["documents"]
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("insert into facts(value) values ('in the wal')")
        connection.commit()
        for suffix in ("-wal", "-shm"):
            shutil.copyfile(database + suffix, f"{world.folder}/kept{suffix}")
    for suffix in ("-wal", "-shm"):
        os.replace(f"{world.folder}/kept{suffix}", database + suffix)  # as a service that was killed leaves it
    world.promoter().undo(ID)
    assert without(world.live(), ".undone-") == before
    assert os.path.exists(f"{database}.undone-{ID}-wal")


def test_neither_promoted_twice_nor_undone_twice(world: World) -> None:
    promoter = world.promoter()
    with pytest.raises(NotFound):
        promoter.undo(ID)
    promoter.promote(world.directory)
    with pytest.raises(UsageError, match="promoted"):
        promoter.promote(world.directory)
    promoter.undo(ID)
    live = world.live()
    with pytest.raises(UsageError, match="undone"):
        promoter.promote(world.directory)
    with pytest.raises(UsageError, match="undone already"):
        promoter.undo(ID)
    assert world.live() == live


def test_promotions_are_undone_last_first(world: World) -> None:
    before = world.live()
    promoter = world.promoter()
    promoter.promote(world.directory)
    second = World(f"{world.folder}/second-world")  # another restore of the same system
    restored = msgspec.structs.replace(load(second.directory), id="ffff", point=world.point)
    save(second.directory, restored)
    world.sign(restored, Judgement.IDENTICAL)
    os.rename(second.directory, f"{world.folder}/second")
    promoter.promote(f"{world.folder}/second")
    with pytest.raises(UsageError, match="came after"):
        promoter.undo(ID)
    with pytest.raises(NotFound, match="'0a1x'"):
        promoter.undo("0a1x")
    assert [intent.id for intent in undoable(world.journals, "handbook")] == ["ffff", ID]
    promoter.undo("latest")
    assert [intent.id for intent in undoable(world.journals, "handbook")] == [ID]
    promoter.undo(ID[:3])
    assert undoable(world.journals, "handbook") == []
    assert without(world.live(), ".undone-") == before


# ---- what is refused


@pytest.mark.parametrize("judgement", [None, Judgement.INCONCLUSIVE, Judgement.DIFFERENT])
def test_p4_without_a_passing_verdict_nothing_is_promoted(world: World, judgement: Judgement | None) -> None:
    world.save_restore(judgement)
    refused(world, NotProven, judgement.word if judgement else "missing")


def test_p4_an_equivalent_verdict_is_a_passing_one(world: World) -> None:
    world.save_restore(Judgement.EQUIVALENT)
    assert world.promoter().promote(world.directory).id == ID


def test_p4_the_folders_own_word_promotes_nothing(world: World) -> None:
    """Its state file is signed by nobody: without a verdict in the vault over these copies, under this id, it is only a claim."""
    for changes in ({"id": "abcd"}, {"point": world.capture("handbook")}):
        save(world.directory, msgspec.structs.replace(load(world.directory), **changes))
        refused(world, NotProven, "holds no passing verdict")
        world.save_restore()


def test_p4_a_forged_system_does_not_promote_a_point_of_another_one(world: World) -> None:
    """The verdict is real and passes, over exactly these copies; only the state file says that they are of this system."""
    point = world.capture("payroll")
    forged = msgspec.structs.replace(load(world.directory), point=point)
    save(world.directory, forged)
    world.sign(forged, Judgement.IDENTICAL)
    refused(world, TargetRefused, f"point {point} is of system payroll, this is handbook")


def test_p4_a_quarantined_point_is_not_promoted(world: World) -> None:
    world.quarantine()
    refused(world, NotProven, "is quarantined")
    world.quarantine(lifted=True)
    assert world.promoter().promote(world.directory).id == ID


def test_p4_a_later_verdict_that_the_point_is_different_counts(world: World) -> None:
    """It may come from another restore of the same point, such as one judged by a reference approved since."""
    world.sign(msgspec.structs.replace(load(world.directory), id="ffff"), Judgement.DIFFERENT)
    refused(world, NotProven, "found to be different after this restore passed")


def test_p4_a_copy_that_changed_since_it_was_judged_is_refused(world: World) -> None:
    with contextlib.closing(sqlite3.connect(world.copy("documents"))) as connection, connection:
        connection.execute("update facts set value = 'poisoned'")
    refused(world, NotProven, "documents has changed")


def test_p6_a_copy_that_was_replaced_by_a_link_is_refused(world: World) -> None:
    """The commands that judged it could write there."""
    os.rename(world.copy("models"), f"{world.folder}/elsewhere")
    os.symlink(f"{world.folder}/elsewhere", world.copy("models"))
    refused(world, NotProven, "is a link")


def test_p1_a_restore_that_does_not_fit_the_system_is_refused(world: World) -> None:
    parts = world.system.components
    other = msgspec.structs.replace(parts[0], driver="sqlite")
    refused(
        world, TargetRefused, "is of system handbook, this is x", system=msgspec.structs.replace(world.system, name="x")
    )
    for components in (parts[:2], (other, *parts[1:])):
        refused(
            world,
            TargetRefused,
            "models|documents",
            system=msgspec.structs.replace(world.system, components=components),
        )


def test_a_live_place_inside_the_restore_is_refused(world: World) -> None:
    inside = tuple(component.bound_to(f"{world.directory}/{component.name}") for component in world.system.components)
    refused(world, TargetRefused, "within each other", system=msgspec.structs.replace(world.system, components=inside))


def test_a_mount_point_is_refused(world: World) -> None:
    parts = world.system.components
    mounted = msgspec.structs.replace(world.system, components=(parts[0].bound_to("/proc"), *parts[1:]))
    refused(world, TargetRefused, "mount point", system=mounted)


@contextlib.contextmanager
def holding(path: str) -> Iterator[int]:
    code = "import sys; f = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 20)[0]
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("part", ["data/handbook.db", "data/handbook.db-wal", "models/weights", "prompt.txt"])
def test_a_live_file_in_use_refuses_and_lets_clients_in_again(world: World, part: str) -> None:
    with holding(f"{world.root}/{part}") as pid:
        error = refused(world, Busy, rf"pid {pid}\) holds .*{os.path.basename(part)}")
    assert "All was taken back" in error.untouched
    assert world.said() == ["fence", "reload"]
    assert world.promoter().promote(world.directory).id == ID  # once it is let go, it works


def test_a_copy_in_use_refuses_too(world: World) -> None:
    with holding(world.copy("models") + "/weights"):
        refused(world, Busy, "partial-")


def test_two_promotions_at_once_are_refused(world: World) -> None:
    with stage.locked(world.journals), pytest.raises(Busy, match="at work on this host"):
        world.promoter().promote(world.directory)


# ---- what a component's options leave out


def test_what_is_left_out_goes_along_and_an_undo_is_exact(world: World) -> None:
    """P10: the plan names it. Its bytes, mode and times are kept, and what was live keeps its own."""
    odd = os.fsdecode(b"\xff.log")
    world.leave_out(odd)
    before, models = world.live(), world.places["models"]
    [step] = [step for step in world.promoter().plan(world.directory).steps if step.verb == "carry"]
    assert step.what.endswith(".env, empty/run.log, \\xff.log")
    world.promoter().promote(world.directory)
    now = world.live()
    for name in (".env", "empty/run.log", odd):
        assert now[f"models/{name}"][1:] == before[f"models/{name}"][1:]
        assert now[f"models/{name}"][0] != before[f"models/{name}"][0]
    assert read(f"{models}/weights") == "point"
    with open(f"{models}/.env", "w") as file:
        file.write("changed since")
    world.promoter().undo(ID)
    assert without(world.live(), ".undone-") == before


def test_p10_what_is_left_out_of_a_folder_that_the_point_lacks_is_told(world: World) -> None:
    os.mkdir(f"{world.places['models']}/newer")
    world.leave_out("newer/run.log")
    plan = world.promoter().plan(world.directory)
    assert [step.what.rpartition(": ")[2] for step in plan.steps if step.verb == "leave"] == ["newer/run.log"]
    world.promoter().promote(world.directory)
    assert not os.path.exists(f"{world.places['models']}/newer")
    assert read(f"{world.places['models']}.before-{ID}/newer/run.log") == "live newer/run.log"


def test_p6_what_is_left_out_does_not_follow_a_link_of_the_copy(world: World) -> None:
    """The point may hold a link where a folder is live now: a secret would be written wherever it leads."""
    os.mkdir(f"{world.folder}/elsewhere")
    os.rmdir(f"{world.copy('models')}/empty")
    os.symlink(f"{world.folder}/elsewhere", f"{world.copy('models')}/empty")
    world.save_restore()
    world.promoter().promote(world.directory)
    assert os.listdir(f"{world.folder}/elsewhere") == []


@pytest.mark.parametrize("name", [".env", "empty/run.log"])
def test_p4_a_copy_with_what_nobody_judged_is_refused(world: World, name: str) -> None:
    """The fingerprint does not see it; live, it would be the system's own."""
    with open(f"{world.copy('models')}/{name}", "w") as file:
        file.write("evil")
    error = refused(world, NotProven, f"models holds what its options leave out.*{name}")
    assert world.copy("models") in error.next_step


def test_what_is_left_out_is_listed_afresh_behind_the_fence(world: World) -> None:
    """A service that ends removes its pid file and writes its last log."""
    models = world.places["models"]
    ending = commands(world, fence=("sh", "-c", f"rm {models}/.env; echo bye > {models}/last.log"))
    world.promoter(system=ending).promote(world.directory)
    assert read(f"{models}/last.log") == "bye\n"
    assert not os.path.exists(f"{models}/.env")


def test_a_switch_that_fails_after_carrying_takes_the_copies_back(world: World) -> None:
    def tell(step: str) -> None:
        if step.startswith("exchange"):
            raise StoreFull("The disk is full.", untouched="", next_step="Free some space.")

    live, copies = world.live(), world.restore()
    with pytest.raises(StoreFull):
        world.promoter(tell).promote(world.directory)
    assert (world.live(), world.restore()) == (live, copies)


# ---- the owner's commands


def commands(world: World, **words: tuple[str, ...]) -> Any:
    plain = {"fence": world.logs("fence"), "reload": world.logs("reload")}
    promotion = msgspec.structs.replace(Promotion(timeout=5.0), **(plain | words))
    return msgspec.structs.replace(world.system, promotion=promotion)


def test_a_fence_that_fails_switches_nothing(world: World) -> None:
    failing = commands(world, fence=("sh", "-c", "echo no way >&2; exit 3"))
    error = refused(world, ResurgamError, "fence command ended with code 3: no way", system=failing)
    assert "All was taken back" in error.untouched
    assert world.said() == ["reload"]  # half a fence must not stay


def test_a_fence_that_hangs_switches_nothing(world: World) -> None:
    refused(world, ResurgamError, "did not end in time", system=commands(world, fence=("sleep", "600")))


def test_a_reload_that_fails_is_told_and_can_be_undone(world: World) -> None:
    before = world.live()
    failing = commands(world, reload=("false",))
    with pytest.raises(ResurgamError, match="reload command ended with code 1") as caught:
        world.promoter(system=failing).promote(world.directory)
    assert f"--undo {ID}`" in caught.value.next_step  # P12
    assert world.is_of_the_point() == [True] * 3
    assert [intent.phase.value for intent in pending(world.journals)] == ["reloading"]
    world.promoter().undo(ID)
    assert without(world.live(), ".undone-") == before
    assert [word for word, _ in world.records] == ["promoted", "undone"]  # it was live for a while (P8)
    assert pending(world.journals) == []


def test_a_reload_that_failed_can_be_tried_again(world: World) -> None:
    with pytest.raises(ResurgamError):
        world.promoter(system=commands(world, reload=("false",))).promote(world.directory)
    [outcome] = world.promoter().resume_or_undo()
    assert (outcome.id, world.state()) == (ID, State.PROMOTED)
    assert world.said() == ["fence", "reload"]
    assert world.promoter().resume_or_undo() == []


def test_a_record_that_cannot_be_written_is_written_later(world: World) -> None:
    def unable(word: str, facts: dict[str, Any]) -> None:
        raise StoreFull("The vault is full.", untouched="Nothing.", next_step="Free some space.")

    with pytest.raises(StoreFull):
        world.promoter(record=unable).promote(world.directory)
    assert [intent.phase.value for intent in pending(world.journals)] == ["recording"]
    world.promoter().resume_or_undo()
    assert [word for word, _ in world.records] == ["promoted"]


def test_without_commands_it_switches_all_the_same(world: World) -> None:
    world.promoter(system=msgspec.structs.replace(world.system, promotion=Promotion())).promote(world.directory)
    assert world.is_of_the_point() == [True] * 3


# ---- places


def test_from_another_file_system_copies_are_made_and_fingerprinted(tmp_path: os.PathLike[str]) -> None:
    with another_file_system(os.fspath(tmp_path)) as other:
        world = World(os.fspath(tmp_path), restore=f"{other}/restore")
        before, copies = world.live(), world.restore()
        said: list[str] = []
        world.promoter(said.append).promote(world.directory)
        assert len([step for step in said if step.startswith("stage: copy")]) == 3
        assert world.is_of_the_point() == [True] * 3
        assert os.readlink(f"{world.places['models']}/current") == "weights"
        assert world.restore() == copies
        world.promoter().undo(ID)
        assert without(world.live(), ".undone-") == before


def test_from_another_file_system_a_withdrawal_removes_what_was_copied(tmp_path: os.PathLike[str]) -> None:
    with another_file_system(os.fspath(tmp_path)) as other:
        world = World(os.fspath(tmp_path), restore=f"{other}/restore")
        with holding(world.places["prompts"]):
            refused(world, Busy, "prompt.txt")


def test_without_room_on_the_live_file_system_nothing_is_begun(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_file_system(os.fspath(tmp_path)) as other:
        world = World(os.fspath(tmp_path), restore=f"{other}/restore")
        usage = shutil.disk_usage(world.root)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
        refused(world, StoreFull, "10 bytes free")


def test_a_lost_system_comes_to_its_places(tmp_path: os.PathLike[str]) -> None:
    world = World(os.fspath(tmp_path), lost=True)
    before = world.live()
    outcome = world.promoter().promote(world.directory)
    assert world.is_of_the_point() == [True] * 3
    assert outcome.kept == {}
    world.promoter().undo(ID)
    left = without(world.live(), ".undone-")
    assert {path for path in left if path != "data"} == set(before)  # a folder that had to be made may stay, empty


def test_a_stale_wal_beside_a_lost_database_does_not_meet_the_new_one(tmp_path: os.PathLike[str]) -> None:
    world = World(os.fspath(tmp_path))
    os.unlink(world.places["documents"])
    before = world.live()
    assert "data/handbook.db-wal" in before
    world.promoter().promote(world.directory)
    assert world.is_of_the_point() == [True] * 3
    assert not os.path.exists(world.places["documents"] + "-wal")
    world.promoter().undo(ID)
    assert without(world.live(), ".undone-") == before


def test_a_link_to_the_live_place_stays_a_link(world: World) -> None:
    os.rename(world.places["models"], f"{world.root}/models-7")
    os.symlink("models-7", world.places["models"])
    world.promoter().promote(world.directory)
    assert os.readlink(world.places["models"]) == "models-7"
    assert read(f"{world.root}/models-7/weights") == "point"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_database_keeps_the_owner_and_mode_that_its_service_needs(world: World) -> None:
    os.chown(world.places["documents"], 65534, 65534)
    os.chmod(world.places["documents"], 0o640)
    world.promoter().promote(world.directory)
    status = os.stat(world.places["documents"])
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o640)


def test_an_undo_without_what_was_kept_is_refused(world: World) -> None:
    world.promoter().promote(world.directory)
    shutil.rmtree(f"{world.places['models']}.before-{ID}")
    live = world.live()
    with pytest.raises(ResurgamError, match="not there any more"):
        world.promoter().undo(ID)
    assert world.live() == live
    assert pending(world.journals) == []


def test_the_restores_folder_may_be_erased_before_an_undo(world: World) -> None:
    before = world.live()
    world.promoter().promote(world.directory)
    shutil.rmtree(world.directory)
    world.promoter().undo(ID)
    assert without(world.live(), ".undone-") == before
