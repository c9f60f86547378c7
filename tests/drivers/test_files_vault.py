"""``files`` through a real vault: what its items carry survives the vault's pages, and unchanged files are not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers import files_reading
from resurgam.drivers.files import FilesDriver
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault.host import HostState
from resurgam.vault.repository import Repository
from tests.drivers.files_tree import census, make_tree


@pytest.fixture
def system(tmp_path: Path) -> System:
    """One folder as a system, with a vault beside it."""
    make_tree(os.fsencode(tmp_path / "tree"))
    with open(tmp_path / "tree/large", "wb") as file:
        file.write(os.urandom(3 << 20))
        file.truncate(5 << 20)
    return System(
        name="tree",
        vault=VaultPlace(path=str(tmp_path / "vault"), keys=str(tmp_path / "keys")),
        components=(
            Component(name="data", driver="files", location=str(tmp_path / "tree"), options={"pin": "never"}),
            Component(name="one", driver="files", location=str(tmp_path / "tree/large")),
        ),
    )


def test_everything_comes_back_from_a_vault(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4, P11: a census finds no difference; the second capture of the same opens no file that has bytes."""
    os.mkdir(system.vault.path)
    repository, _ = Repository.create(LocalStore(system.vault.path), system.vault.keys, "tests", SystemClock())
    host = HostState(repository.identity.vault, system.name, str(tmp_path / "state"))
    monkeypatch.setattr(files_reading, "SAFE_AGE", -(10**15))  # as if all files were old

    def captured() -> str:
        return capture(system, driver_for, lambda _: (), repository, host, SystemClock()).body.id

    opened = files_reading.LiveSource.open

    def only_empty_ones(source: files_reading.LiveSource) -> None:
        assert source._listed[0] == 0, "an unchanged file was opened"
        opened(source)

    first = captured()
    monkeypatch.setattr(files_reading.LiveSource, "open", only_empty_ones)
    single = system.component("one")
    system = System(name=system.name, vault=system.vault, components=system.components[:1])
    second = captured()
    monkeypatch.undo()

    driver = FilesDriver()
    for point in (first, second):
        body = repository.sealed(point).body
        for component in (*system.components, single)[: len(body.snapshots)]:
            target = component.bound_to(str(tmp_path / f"restored-{point}-{component.name}"))
            driver.write(repository.snapshot(body, component.name).items(), target)
            assert driver.fingerprint(target) == driver.fingerprint(component)
        restored = os.fsencode(tmp_path / f"restored-{point}-data")
        assert census(restored) == census(os.fsencode(system.component("data").location))
        assert os.stat(restored + b"/large").st_blocks * 512 < 5 << 20
