"""`resurgam preflight` tells what a capture will need and cause, and changes nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resurgam.capture.permissions import User, grant, missing
from resurgam.capture.preflight import (
    ASSUMED_BYTES_PER_PROCESSOR_SECOND,
    ASSUMED_BYTES_PER_SECOND,
    ComponentReport,
    Report,
    preflight,
)
from resurgam.cli.preflight import _show_preflight
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Barrier, Component, Invariant, Isolation, Limits, Probe, System, VaultPlace
from resurgam.vault.keyring import Keyring

NOBODY = 65534


def trace(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything under the folder with its size, time of change and inode."""
    paths = [folder, *folder.rglob("*")]
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns, p.lstat().st_ino) for p in paths}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A system's files, a vault's folder and keys."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/answer.md").write_text("Answer from the documents.\n")
    with closing(sqlite3.connect(tmp_path / "notes.db")) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT)")
        db.executemany("INSERT INTO notes(body) VALUES (?)", [("x" * 1000,)] * 100)
        db.commit()
    (tmp_path / "vault/roles").mkdir(parents=True)
    Keyring.create(str(tmp_path / "keys"), bytes(16), "house", datetime.now(UTC))
    return tmp_path


def system_at(place: Path, **changes: object) -> System:
    """The system of those files; ``changes`` are fields of System."""
    fields: dict[str, object] = {
        "name": "house",
        "vault": VaultPlace(path=str(place / "vault"), keys=str(place / "keys")),
        "components": (
            Component(name="notes", driver="sqlite", location=str(place / "notes.db"), consistency="transaction"),
            Component(name="prompts", driver="files", location=str(place / "prompts")),
        ),
        "probes": (
            Probe(
                name="count", kind="sql", component="notes", sql="SELECT 1", reads=("notes", "prompts"), witness=True
            ),
        ),
    }
    return System(**(fields | changes))  # type: ignore[arg-type]


def part(report: Report, name: str) -> ComponentReport:
    """The report on one component."""
    return next(c for c in report.components if c.name == name)


def test_a_system_in_order_is_ok_with_its_bytes_time_and_locks(place: Path) -> None:
    report = preflight(system_at(place), driver_for, vault_bytes_per_second=1e6)
    notes, prompts = report.components
    assert report.ok, report
    assert notes.bytes == (place / "notes.db").stat().st_size
    assert prompts.bytes == len("Answer from the documents.\n")
    assert report.bytes == (notes.bytes or 0) + (prompts.bytes or 0)
    assert report.seconds == pytest.approx(report.bytes / 1e6)
    assert report.rate_is_measured
    assert "Writers wait" in notes.effect
    assert "5 s at most" in notes.effect
    assert any("busy timeout" in warning for warning in notes.warnings)
    assert not any("busy timeout" in warning for warning in prompts.warnings)
    assert report.keys.can_capture
    assert report.keys.can_read  # P9: this host could read what it captures, and is told so


def test_a_compression_that_is_not_the_default_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, said in (("balanced", ""), ("small", ", compression small")):
        vault = VaultPlace(path=str(place / "vault"), keys=str(place / "keys"), compression=word)
        report = preflight(system_at(place, vault=vault), driver_for)
        assert report.vault.compression == word
        _show_preflight(report)
        assert f"  vault: {place}/vault{said}\n" in capsys.readouterr().out.replace("\n/", "/")


def test_nothing_is_changed_not_even_beside_a_database_that_is_being_written(place: Path) -> None:
    with closing(sqlite3.connect(place / "notes.db")) as db:
        db.execute("INSERT INTO notes(body) VALUES ('open')")
        db.commit()
        before = trace(place)
        preflight(system_at(place), driver_for)
        assert trace(place) == before


def test_nothing_is_changed_beside_a_database_at_rest(place: Path) -> None:
    before = trace(place)
    preflight(system_at(place), driver_for)
    assert trace(place) == before


def test_a_rollback_journal_makes_writers_wait_for_a_copy(place: Path) -> None:
    with closing(sqlite3.connect(place / "notes.db")) as db:
        db.execute("PRAGMA journal_mode=delete")
    effect = part(preflight(system_at(place), driver_for), "notes").effect
    assert f"while a private copy of the {(place / 'notes.db').stat().st_size:,} bytes is made" in effect


def test_a_copy_that_nobody_waits_for_is_not_called_a_lock(place: Path) -> None:
    """A working tree is copied while its writers go on, and so is what an environment is read from."""
    subprocess.run(["git", "init", "-q", place / "prompts"], check=True)
    tree = Component(name="tree", driver="git", location=str(place / "prompts"))
    effect = part(preflight(system_at(place, components=(tree,), probes=()), driver_for), "tree").effect
    assert effect.startswith("Nothing is locked")
    assert not driver_for("environment").traits.writers_wait


def test_an_unknown_speed_is_assumed_and_said_to_be(place: Path) -> None:
    report = preflight(system_at(place), driver_for)
    assert (report.bytes_per_second, report.rate_is_measured) == (ASSUMED_BYTES_PER_SECOND, False)


def test_the_manifests_limits_bound_the_pace_and_the_freeze(place: Path) -> None:
    report = preflight(system_at(place, limits=Limits(freeze=0.5, read_mb_s=2)), driver_for, vault_bytes_per_second=1e9)
    assert report.bytes_per_second == 2e6
    assert "0.5 s at most" in part(report, "notes").effect
    assert "at 2 MB/s at most" in part(report, "notes").effect


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(cpu=0.1), 0.1 * ASSUMED_BYTES_PER_PROCESSOR_SECOND),
        (Limits(cpu=0.1, read_mb_s=2), 2e6),
        (Limits(cpu=0.01, read_mb_s=2), 0.01 * ASSUMED_BYTES_PER_PROCESSOR_SECOND),
        (Limits(cpu=64.0), ASSUMED_BYTES_PER_SECOND),
    ],
    ids=["processors", "reading is slower", "processors are slower", "no limit that tells"],
)
def test_the_time_that_is_expected_is_that_of_the_narrowest_limit(place: Path, limits: Limits, expected: float) -> None:
    """P12: a capture that may use a tenth of a processor is not promised for in a tenth of its time."""
    report = preflight(system_at(place, limits=limits), driver_for)
    assert report.bytes_per_second == pytest.approx(expected)
    assert report.seconds == pytest.approx(report.bytes / expected)


def test_what_is_lost_is_told_with_the_next_step_and_the_rest_goes_on(place: Path) -> None:
    (place / "notes.db").unlink()
    report = preflight(system_at(place), driver_for)
    assert not report.ok
    assert not part(report, "notes").reachable
    assert part(report, "notes").troubles[0].next_step
    assert part(report, "prompts").reachable


def test_an_unknown_driver_is_a_trouble_of_its_component(place: Path) -> None:
    lost = Component(name="lost", driver="sqlit", location=str(place / "prompts"))
    report = preflight(system_at(place, components=(lost,)), driver_for)
    assert not report.ok
    assert "sqlit" in part(report, "lost").troubles[0].what


def test_a_missing_vault_missing_keys_and_a_full_disk_stop_a_capture(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = VaultPlace(path=str(place / "none/vault"), keys=str(place / "none/keys"))
    report = preflight(system_at(place, vault=elsewhere), driver_for)
    assert not report.ok
    assert not report.vault.reachable
    assert report.vault.troubles[0].next_step.startswith("Make one: resurgam vault init")
    assert report.keys.troubles
    assert not report.keys.can_capture

    real = os.statvfs
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: type("Usage", (), {"free": 10, "total": real(path).f_bfree, "used": 0})
    )
    full = preflight(system_at(place), driver_for)
    assert not full.ok
    assert "10 bytes are free" in full.vault.troubles[0].what


def test_what_cannot_be_judged_is_warned_of(place: Path) -> None:
    """P4: unprobed components and missing isolation make verdicts inconclusive; preflight says so before."""
    report = preflight(system_at(place, probes=()), driver_for, isolation=lambda: (False, "no user namespaces"))
    assert any("No probe reads notes, prompts" in warning for warning in report.warnings)
    assert any("no user namespaces" in w and "every verdict will be inconclusive" in w for w in report.warnings)
    accepted = preflight(
        system_at(place, isolation=Isolation.BEST_EFFORT), driver_for, isolation=lambda: (False, "none")
    )
    assert any("as the manifest accepts" in warning for warning in accepted.warnings)
    assert preflight(system_at(place), driver_for, isolation=lambda: (True, "")).isolated


def test_more_consistency_than_a_driver_earns_is_warned_of(place: Path) -> None:
    asked = Component(name="prompts", driver="files", location=str(place / "prompts"), consistency="transaction")
    (report,) = preflight(system_at(place, components=(asked,)), driver_for).components
    assert any("transaction is asked for" in warning for warning in report.warnings)


def test_an_invariant_that_no_driver_can_answer_stops_a_capture(place: Path) -> None:
    invariant = Invariant(name="odd", every="notes: SELECT id FROM notes", exists_in="prompts: SELECT 1")
    report = preflight(system_at(place, invariants=(invariant,)), driver_for)
    assert not report.ok
    assert "invariant 'odd' asks 'prompts'" in part(report, "prompts").troubles[0].what
    assert not part(report, "notes").troubles


def test_a_barrier_that_is_not_there_stops_a_capture(place: Path) -> None:
    """P12: the folder of a lock file, and commands, in the manifest's folder or on the path."""
    lock = str(place / "run/barrier.lock")
    report = preflight(system_at(place, barrier=Barrier(file=lock)), driver_for)
    assert not report.ok
    assert report.barrier[0].next_step == f"Make it: mkdir -p {place}/run"
    (place / "run").mkdir()
    assert preflight(system_at(place, barrier=Barrier(file=lock)), driver_for).ok
    assert list((place / "run").iterdir()) == [], "preflight changes nothing"
    commands = Barrier(hold=("no-such-command",), release=("./release",))
    report = preflight(system_at(place, root=str(place), barrier=commands), driver_for)
    assert [trouble.what.split()[3] for trouble in report.barrier] == ["no-such-command", "./release"]
    assert preflight(system_at(place, barrier=Barrier(hold=("true",), release=("true",))), driver_for).ok


def test_invariants_across_components_want_a_barrier(place: Path) -> None:
    both = Invariant(name="both", equal=("notes: SELECT 1", "notes: SELECT 1"))
    across = Invariant(name="across", run=("true",), reads=("notes", "prompts"))

    def told(*invariants: Invariant) -> list[str]:
        warnings = preflight(system_at(place, invariants=invariants), driver_for).warnings
        return [warning for warning in warnings if "No barrier" in warning]

    assert len(told(both, across)) == 1
    assert "that across want" in told(both, across)[0]
    assert told(both) == []


def test_references_that_are_not_set_are_warned_of_by_name_only(place: Path) -> None:
    probe = Probe(name="p", kind="command", run=("x",), env={"A": "${GOLDEN_KEY}", "B": "${OTHER_KEY}"})
    report = preflight(system_at(place, probes=(probe,)), driver_for, environ={"OTHER_KEY": "hunter2"})
    assert any("${GOLDEN_KEY} is referred to and not set" in warning for warning in report.warnings)
    assert not any("OTHER_KEY" in warning or "hunter2" in warning for warning in report.warnings)


# --- permissions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that another user can reach (pytest's own temporary folders are closed to others), with a file that is shut."""
    with tempfile.TemporaryDirectory(prefix="closed-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "open.txt").write_text("x")
        (folder / "it's shut.txt").write_text("x")
        (folder / "it's shut.txt").chmod(0o600)
        yield folder


def grants_for_nobody(path: Path, script: str = "print(m.grant)", *, more: str = "") -> list[str]:
    """What ``missing`` tells another user about ``path``: a line for each permission."""
    code = (
        "import grp, os, pwd, sys; from resurgam.capture.permissions import missing\n"  # while this Python can still be read
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"for m in missing(sys.argv[1], {more}): {script}"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.splitlines()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
def test_the_command_that_is_told_grants_the_permission(closed: Path) -> None:
    """The command is run as it stands (without sudo), and afterwards nothing is missing."""
    (command,) = grants_for_nobody(closed)
    assert "it'\"'\"'s shut.txt" in command
    subprocess.run(["sh", "-c", command.replace("sudo ", "")], check=True)
    assert grants_for_nobody(closed) == []


@needs_root
def test_a_store_that_is_locked_by_its_file_needs_the_right_to_write_it(closed: Path) -> None:
    """Holding SQLite's writers takes its write lock, which a user who may only read cannot take."""
    with closing(sqlite3.connect(closed / "notes.db")) as db:
        db.execute("CREATE TABLE notes(id)")
    script = (
        "import grp, os, pwd, sys; from resurgam.capture.preflight import preflight\n"
        "from resurgam.drivers.registry import driver_for; from resurgam.model.system import Component, System, VaultPlace\n"
        "driver_for('sqlite').inspect(notes := Component(name='notes', driver='sqlite', location=sys.argv[1]))\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "system = System(name='s', vault=VaultPlace(path='/none', keys='/none'), components=(notes,))\n"
        "print([m.need for m in preflight(system, driver_for).components[0].missing])"
    )
    command = [sys.executable, "-c", script, str(closed / "notes.db")]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout == "['write']\n"


@needs_root
def test_what_is_left_out_needs_no_permission(closed: Path) -> None:
    script = "print(m.path)"
    assert grants_for_nobody(closed, script, more="excluded=lambda path: path.endswith(b'shut.txt')") == []


@needs_root
def test_many_closed_files_get_one_command_for_their_folder(closed: Path) -> None:
    for number in range(10):
        (closed / f"{number}").write_text("x")
        (closed / f"{number}").chmod(0o600)
    (command,) = grants_for_nobody(closed)
    subprocess.run(["sh", "-c", command.replace("sudo ", "")], check=True)
    assert grants_for_nobody(closed) == []


@needs_root
def test_the_right_to_write_is_asked_for_where_the_lock_needs_it(closed: Path) -> None:
    told = grants_for_nobody(closed / "open.txt", "print(m.need, m.grant)", more="write=True")
    assert len(told) == 1
    assert told[0].startswith("write sudo ")
    subprocess.run(["sh", "-c", told[0].removeprefix("write sudo ").replace("sudo ", "")], check=True)
    assert grants_for_nobody(closed / "open.txt", more="write=True") == []


@needs_root
def test_a_closed_parent_is_told_and_nothing_is_guessed_below_it(closed: Path) -> None:
    closed.chmod(0o700)
    assert grants_for_nobody(closed / "open.txt", "print(m.need, m.path)") == [f"search {closed}"]
    closed.chmod(0o755)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (User(uid=os.geteuid(), name="me", group="us", lists=True), "chmod u+r"),
        (User(uid=4242, name="backup", group="us", lists=True), "sudo setfacl -m u:backup:r"),
    ],
)
def test_the_narrowest_command_is_chosen(tmp_path: Path, user: User, expected: str) -> None:
    assert grant(str(tmp_path), "r", user) == f"{expected} {tmp_path}"


def test_without_access_lists_the_group_is_the_way(tmp_path: Path) -> None:
    command = grant(str(tmp_path), "r", User(uid=4242, name="backup", group="backup", lists=False))
    assert command.endswith(f"sudo chmod g+r {tmp_path}")


def test_a_path_that_does_not_exist_misses_no_permission(tmp_path: Path) -> None:
    assert missing(str(tmp_path / "none")) == []


def test_a_folder_that_is_closed_although_its_mode_is_not() -> None:
    """Capabilities, security modules and servers decide too: what cannot be listed is told, and is no crash (P12)."""
    place = "/proc/1/map_files"
    try:
        os.listdir(place)
    except PermissionError:
        assert [found.need for found in missing(place)] == ["read"]
    except FileNotFoundError:
        pytest.skip("this system has no such folder")
    else:
        pytest.skip("this user may list everything")
