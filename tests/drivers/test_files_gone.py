"""A file that goes away between being listed and being read is left out with a finding, and the capture goes on (P12)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from resurgam.capture.run import capture
from resurgam.drivers import files_reading
from resurgam.drivers.base import Blob, Item, K
from resurgam.drivers.files import FilesDriver
from resurgam.model.point import Finding, Position, Severity
from resurgam.model.system import Component, System, VaultPlace
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository
from tests.support import no_witness


class GoingAway(FilesDriver):
    """The real driver over a folder in which somebody removes ``b`` just before it would be read."""

    def read_unknown(
        self, component: Component, at: Position, known: Callable[[Sequence[bytes]], Sequence[K | None]]
    ) -> Iterator[Item | Finding | K]:
        for item in super().read_unknown(component, at, known):
            if isinstance(item, Blob) and item.path == b"b":
                os.unlink(os.path.join(component.location, "b"))
            yield item


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_file_that_vanishes_before_it_is_read_is_a_finding(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_reading, "SAFE_AGE", -(1 << 60))  # as if the files were old
    live = tmp_path / "live"
    live.mkdir()
    for name in "abc":
        (live / name).write_bytes(name.encode() * size)
    os.link(live / "b", tmp_path / "b again")  # what has several names is opened late
    clock, store, driver = ManualClock(), MemoryStore(), GoingAway()
    Repository.create(store, str(tmp_path / "keys"), "test", clock)
    repository = Repository(store, Keyring(str(tmp_path / "keys")))
    options = {"pin": "never"}
    component = Component(name="c", driver="files", location=str(live), options=options)
    system = System(name="s", vault=VaultPlace(path="/none", keys="/none"), components=(component,))
    host = HostState(repository.vault.hex(), "s", str(tmp_path / "state"))
    sealed = capture(system, lambda _kind: driver, no_witness, repository, host, clock)
    found = {entry.path: entry.size for entry in repository.snapshot(sealed.body, "c").entries()}
    assert found == {b".": 0, b"a": size, b"c": size}
    (finding,) = repository.particulars(sealed.body).findings
    assert (finding.severity, finding.keys) == (Severity.WARNING, ("b",))
