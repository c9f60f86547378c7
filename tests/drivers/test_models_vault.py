"""``models`` through a real vault: an unchanged file is not decoded again, and a diff names the tensors that changed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers import files_reading
from resurgam.drivers.models import ModelsDriver
from resurgam.drivers.registry import driver_for
from resurgam.drivers.tensor import Model, Window
from resurgam.drivers.tensor_formats import read_model
from resurgam.model.system import Component, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault.compare import compare_points
from resurgam.vault.host import HostState
from resurgam.vault.repository import Repository


def test_unchanged_files_are_not_decoded_and_changed_tensors_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P11: the second capture decodes only what changed; its findings and rows are whole all the same."""
    folder = tmp_path / "weights"
    folder.mkdir()
    numbers = {name: np.full((64, 1024), number, np.float32) for number, name in enumerate("abc")}
    save_file(numbers, folder / "embedder.safetensors")
    save_file(numbers, folder / "router.safetensors")
    (folder / "broken.safetensors").write_bytes(b"no model")
    os.mkfifo(folder / "a pipe")  # told at the end, and not part of what is remembered of the last model
    system = System(
        name="tests",
        vault=VaultPlace(path=str(tmp_path / "vault"), keys=str(tmp_path / "keys")),
        components=(Component(name="weights", driver="models", location=str(folder), options={"pin": "never"}),),
    )
    (tmp_path / "vault").mkdir()
    repository, _ = Repository.create(LocalStore(system.vault.path), system.vault.keys, "tests", SystemClock())
    host = HostState(repository.identity.vault, system.name, str(tmp_path / "state"))
    monkeypatch.setattr(files_reading, "SAFE_AGE", -(10**15))  # as if all files were old
    decoded: list[bytes] = []

    def watched(name: bytes, window: Window) -> Model | None:
        decoded.append(name)
        return read_model(name, window)

    monkeypatch.setattr("resurgam.drivers.models.read_model", watched)
    monkeypatch.setattr(ModelsDriver, "inspect", lambda *_: {})  # looks at every header, by design

    def captured() -> str:
        return capture(system, driver_for, lambda _: (), repository, host, SystemClock()).body.id

    first = captured()
    numbers["b"] = numbers["b"] + 1
    save_file(numbers, folder / "router.safetensors")
    decoded.clear()
    second, third = captured(), captured()
    assert decoded == [b"router.safetensors"]
    one, two, three = (repository.sealed(point).body for point in (first, second, third))
    told = {(d.kind, d.where, d.sign, d.key) for d in compare_points(one, two, repository)}
    assert told == {
        ("row", "tensors of router.safetensors", "~", "b"),
        ("row", "header of router.safetensors", "~", "file.digest"),
    }
    assert not list(compare_points(two, three, repository))
    assert [body.findings for body in (one, two, three)] == [{"note": 1, "warning": 1, "broken": 0}] * 3
    target = system.components[0].bound_to(str(tmp_path / "restored"))
    driver = driver_for("models")
    driver.write(repository.snapshot(three, "weights").items(), target)
    assert driver.fingerprint(target) == driver.fingerprint(system.components[0])
