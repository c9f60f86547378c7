"""``git`` through a real vault: an unchanged repository is not looked into again, and a diff tells what was committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers import files_reading, git_history
from resurgam.drivers.git_repository import Repository as GitRepository
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault.compare import compare_points
from resurgam.vault.host import HostState
from resurgam.vault.repository import Repository
from tests.drivers.git_tree import git, make, state


def test_unchanged_is_not_decoded_and_a_commit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4, P11: what comes back from the vault is the same to git."""
    place = tmp_path / "prompts"
    make(place)
    (place / "system.md").write_text("Be kind.\n")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "first")
    system = System(
        name="tests",
        vault=VaultPlace(path=str(tmp_path / "vault"), keys=str(tmp_path / "keys")),
        components=(Component(name="prompts", driver="git", location=str(place), consistency="snapshot"),),
    )
    (tmp_path / "vault").mkdir()
    repository, _ = Repository.create(LocalStore(system.vault.path), system.vault.keys, "tests", SystemClock())
    host = HostState(repository.identity.vault, system.name, str(tmp_path / "state"))
    monkeypatch.setattr(files_reading, "SAFE_AGE", -(10**15))  # as if all files were old
    walks: list[int] = []

    def watched(of: GitRepository) -> git_history.History:
        walks.append(1)
        return git_history.walk(of)

    monkeypatch.setattr("resurgam.drivers.git.walk", watched)

    def captured() -> str:
        return capture(system, driver_for, lambda _: (), repository, host, SystemClock()).body.id

    first, second = captured(), captured()
    assert len(walks) == 1
    (place / "system.md").write_text("Be brief.\n")
    git(place, "commit", "-qam", "second")
    head = git(place, "rev-parse", "HEAD").strip()
    third = captured()
    assert len(walks) == 2
    one, two, three = (repository.sealed(point).body for point in (first, second, third))
    assert not list(compare_points(one, two, repository))
    told = {(d.where, d.sign, d.key) for d in compare_points(two, three, repository) if not d.key.startswith(".git")}
    assert told == {
        ("", "~", "system.md"),
        ("commits", "+", head),
        ("refs", "~", "refs/heads/main"),
        ("tracked", "~", "system.md"),
    }
    target = system.components[0].bound_to(str(tmp_path / "restored"))
    driver_for("git").write(repository.snapshot(three, "prompts").items(), target)
    assert state(target.location) == state(place)
    assert [body.findings for body in (one, two, three)] == [{"note": 0, "warning": 0, "broken": 0}] * 3
