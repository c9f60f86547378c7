"""The registry of drivers: lazy, closed against look-alikes, and clear about what is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from resurgam.drivers import registry
from resurgam.drivers.base import Driver
from resurgam.errors import ManifestError, MissingExtra


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drivers that other packages bring: a good one, one that is none, one without its library, and a look-alike."""
    (tmp_path / "outside_drivers.py").write_text(
        "from resurgam.drivers.files import FilesDriver\n"
        "class Good(FilesDriver):\n    kind = 'good'\n"
        "class Empty:\n    kind = 'empty'\n"
    )
    (tmp_path / "outside_needy.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint(name, value, registry.GROUP)
        for name, value in {
            "good": "outside_drivers:Good",
            "empty": "outside_drivers:Empty",
            "needy": "outside_needy:Needy",
            "files": "outside_drivers:Empty",
        }.items()
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == registry.GROUP else [])
    _forget()
    yield
    _forget()


def _forget() -> None:
    registry.driver_for.cache_clear()
    registry._others.cache_clear()


def test_our_kinds_are_drivers_of_that_kind() -> None:
    """Each of our own kinds can be made, and says its own name."""
    assert {"files", "sqlite"} <= set(registry.kinds())
    for kind in ("files", "sqlite"):
        driver = registry.driver_for(kind)
        assert isinstance(driver, Driver)
        assert driver.kind == kind


def test_one_instance_per_process() -> None:
    """A position given by freeze is known to whoever asks for the driver later."""
    assert registry.driver_for("files") is registry.driver_for("files")


def test_unknown_kind_names_the_nearest_word() -> None:
    """P12: a misspelt kind is answered with the word that was meant."""
    with pytest.raises(ManifestError) as error:
        registry.driver_for("sqlight")
    assert "'sqlite'" in error.value.next_step
    assert error.value.untouched


def test_listing_kinds_imports_no_driver() -> None:
    """A command that needs no driver does not pay for any."""
    code = (
        "import sys; from resurgam.drivers.registry import kinds; kinds();"
        "sys.exit(any(m.startswith('resurgam.drivers.files') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("outside")
def test_a_package_can_bring_a_driver() -> None:
    """An entry point is all it takes."""
    assert "good" in registry.kinds()
    assert registry.driver_for("good").kind == "good"


@pytest.mark.usefixtures("outside")
def test_a_package_cannot_take_our_place() -> None:
    """P12: what answers to one of our own words is ours."""
    assert registry.kinds().count("files") == 1
    assert type(registry.driver_for("files")).__module__ == "resurgam.drivers.files"


@pytest.mark.usefixtures("outside")
def test_what_is_no_driver_is_refused() -> None:
    """P12: a class without the verbs is found when it is asked for, not in the middle of a capture."""
    with pytest.raises(ManifestError, match="does not have the verbs"):
        registry.driver_for("empty")


@pytest.mark.usefixtures("outside")
def test_missing_library_names_the_command() -> None:
    """P12: the error is the command that mends it."""
    with pytest.raises(MissingExtra, match="a_library_that_nobody_has") as error:
        registry.driver_for("needy")
    assert error.value.next_step == "Run: python -m pip install 'outside_needy'"
