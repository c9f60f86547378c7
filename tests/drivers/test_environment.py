"""What the driver environment says of real environments: made by venv and pip, edited, half removed, beside a git working tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resurgam.drivers import environment_code
from resurgam.drivers.base import Blob
from resurgam.drivers.environment import EnvironmentDriver
from resurgam.drivers.environment_form import scrubbed, without_secrets
from resurgam.errors import IntegrityError, LimitExceeded, ManifestError, NotFound
from resurgam.model.point import Finding, Severity
from resurgam.model.system import Component, Consistency
from resurgam.testing.carrying import Taken, take

SECRET = "sk-live-correct-horse-battery-staple"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real environment with the pip that comes with the interpreter; copied for each test."""
    place = tmp_path_factory.mktemp("made") / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    return place


@pytest.fixture
def venv(made: Path, tmp_path: Path) -> Path:
    """A private copy."""
    return Path(shutil.copytree(made, tmp_path / "app" / "venv", symlinks=True))


def component(venv: Path, **options: Any) -> Component:
    return Component(name="runtime", driver="environment", location=str(venv), options=options)


def document(taken: Taken) -> Any:
    return json.loads(taken.blobs[b"environment.json"])


def site(venv: Path) -> Path:
    return next(venv.glob("lib/python3.*/site-packages"))


def weighty(taken: Taken) -> list[Finding]:
    return [finding for finding in taken.findings if finding.severity is not Severity.NOTE]


def add_package(venv: Path, name: str, direct_url: object = None, **fields: str) -> Path:
    """A package as an installer lays it, with one module."""
    folder = site(venv) / f"{name}-{fields.get('Version', '1.0')}.dist-info"
    folder.mkdir()
    told = {"Name": name, "Version": "1.0"} | fields
    (folder / "METADATA").write_text("".join(f"{key}: {value}\n" for key, value in told.items()))
    (folder / "RECORD").write_text(f"{folder.name}/METADATA,,\n")
    if direct_url is not None:
        (folder / "direct_url.json").write_text(json.dumps(direct_url))
    return folder


def test_it_says_what_pip_says(venv: Path) -> None:
    """Names, versions and the interpreter, by the word of the environment's own programs; nothing is found wrong."""
    taken = take(EnvironmentDriver(), component(venv))
    listed = subprocess.run(
        [venv / "bin/python", "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    )
    found = document(taken)
    assert [(p["name"], p["version"]) for p in found["packages"]] == [
        (p["name"], p["version"]) for p in json.loads(listed.stdout)
    ]
    said = subprocess.run(
        [venv / "bin/python", "-c", "import sys; print(sys.version)"], capture_output=True, check=True
    )
    assert found["interpreter"]["build"] == said.stdout.decode().strip()
    assert found["machine"]["kernel"] == os.uname().release
    assert taken.findings == []
    assert taken.position.earned is Consistency.SNAPSHOT


def test_reading_runs_no_code_of_the_environment(venv: Path, tmp_path: Path) -> None:
    """A .pth file and a sitecustomize of an enemy stay what they are: text."""
    mark = tmp_path / "ran"
    for name in ("evil.pth", "sitecustomize.py"):
        (site(venv) / name).write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n")
    take(EnvironmentDriver(), component(venv))
    assert not mark.exists()


def test_a_file_edited_in_place_is_told_and_changes_the_fingerprint(venv: Path) -> None:
    """The version says nothing of it: only the bytes do."""
    driver, where = EnvironmentDriver(), component(venv)
    before = driver.fingerprint(where)
    edited = site(venv) / "pip" / "__init__.py"
    edited.write_text(edited.read_text() + "# patched at night\n")
    taken = take(driver, where)
    (finding,) = weighty(taken)
    assert finding.keys == ("pip: pip/__init__.py",)
    assert "edits in pip" in document(taken)["cannot_be_restored"][0]["what"]
    assert driver.fingerprint(where) != before
    edited.unlink()
    assert weighty(take(driver, where))[0].keys == ("pip: pip/__init__.py",)
    assert weighty(take(driver, component(venv, check="none"))) == []


def test_a_digest_is_of_the_wheel_and_not_of_its_place(venv: Path, tmp_path: Path) -> None:
    """The same packages elsewhere, installed by the same interpreter, have the same digests though their programs differ."""
    other = tmp_path / "elsewhere" / "and-longer" / "venv"
    subprocess.run([sys.executable, "-m", "venv", other], check=True)
    driver = EnvironmentDriver()
    here, there = (document(take(driver, component(place)))["packages"] for place in (venv, other))
    assert [p["digest"] for p in here] == [p["digest"] for p in there]


def test_half_installed_and_doubled_packages_are_findings(venv: Path) -> None:
    """What a killed installer leaves."""
    (add_package(venv, "torn") / "RECORD").unlink()
    add_package(venv, "twice")
    add_package(venv, "twice", Version="2.0")
    told = {finding.keys for finding in weighty(take(EnvironmentDriver(), component(venv)))}
    assert told == {("torn-1.0.dist-info",), ("twice",)}


def test_what_cannot_be_fetched_is_listed_without_credentials(venv: Path, tmp_path: Path) -> None:
    """Editable, local and hosted things; P12: no secret in any of it."""
    add_package(venv, "ours", {"url": f"file://{tmp_path}/app/src", "dir_info": {"editable": True}})
    add_package(venv, "shared", {"url": "file:///mnt/shared", "dir_info": {}})
    vcs = {"vcs": "git", "commit_id": "abc123"}
    add_package(venv, "forked", {"url": f"https://bot:{SECRET}@git.example/forked.git", "vcs_info": vcs})
    hosted = [{"provider": "acme", "model": "large"}, {"provider": "acme", "model": "small", "revision": "2026-01"}]
    where = component(venv, covered=["src"], hosted=hosted)
    driver = EnvironmentDriver()
    taken = take(driver, where)
    lost = [each["what"] for each in document(taken)["cannot_be_restored"]]
    assert lost == ["package shared 1.0", "hosted model acme large", "hosted model acme small"]
    restored = driver.write(taken.through_memory(), component(tmp_path / "restored"))
    listed = Path(restored.location, "requirements.txt").read_text()
    assert "forked @ git+https://git.example/forked.git@abc123\n" in listed
    assert "# ours==1.0: editable" in listed
    assert SECRET not in listed + repr(taken) + repr(taken.blobs) + repr(driver.inspect(where))


def test_variables_come_by_name_and_values_by_allow_list(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: a value that nobody listed, or that looks like a key, is nowhere."""
    monkeypatch.setenv("HELPDESK_KEY", SECRET)
    monkeypatch.setenv("HELPDESK_MODE", "strict")
    monkeypatch.setenv("HELPDESK_URL", f"https://u:{SECRET}@host/")
    where = component(venv, env=["HELPDESK_*", "NOT_SET"], env_values=["HELPDESK_MODE", "HELPDESK_URL"])
    taken = take(EnvironmentDriver(), where)
    found = document(taken)
    assert found["variables"] == {"HELPDESK_KEY": True, "HELPDESK_MODE": True, "HELPDESK_URL": True, "NOT_SET": False}
    assert found["values"] == {"HELPDESK_MODE": "strict"}
    assert "value of HELPDESK_URL" in found["cannot_be_restored"][0]["what"]
    assert SECRET not in repr(taken) + repr(taken.blobs)
    with pytest.raises(ManifestError, match="HELPDESK_KEY"):
        EnvironmentDriver().inspect(component(venv, env_values=["HELPDESK_KEY"]))


def test_a_running_application_is_asked_by_its_id(venv: Path) -> None:
    """Its command line without the secrets in it, its variables, and an error once it has ended."""
    words = [sys.executable, "-c", "import sys; sys.stdin.read()", "--api-key", SECRET, "--port", "8080"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, env={"MODE": "served"}) as process:
        (venv.parent / "app.pid").write_text(f"{process.pid}\n")
        where = component(venv, pid="app.pid", env=["MODE"], env_values=["MODE"])
        found = document(take(EnvironmentDriver(), where))
    assert found["values"] == {"MODE": "served"}
    assert found["flags"][-4:] == ["--api-key", "(left out)", "--port", "8080"]
    with pytest.raises(NotFound):
        EnvironmentDriver().inspect(where)


def test_code_is_a_revision_with_what_differs_from_it(venv: Path) -> None:
    """Clean, dirty, untracked, and not in git at all; each state has a fingerprint of its own."""
    code = venv.parent / "src"
    code.mkdir()
    (code / "app.py").write_text("print(1)\n")
    driver, where = EnvironmentDriver(), component(venv, code=["src"])
    plain = driver.fingerprint(where)
    git = ["git", "-C", str(code), "-c", "user.name=t", "-c", "user.email=t@example"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = document(take(driver, where))["code"][0]
    assert len(clean["revision"]) == 40
    assert clean["changes"] == []
    assert clean["digest"] == ""
    seen = [plain, driver.fingerprint(where)]
    (code / "app.py").write_text("print(2)\n")
    seen.append(driver.fingerprint(where))
    (code / "app.py").write_text("print(3)\n")
    (code / "new.py").write_text("")
    dirty = document(take(driver, where))["code"][0]
    assert (dirty["revision"], dirty["changes"]) == (clean["revision"], [" M app.py", "?? new.py"])
    seen.append(driver.fingerprint(where))
    assert len(set(seen)) == len(seen)
    assert take(driver, where).position.earned is Consistency.CRASH


def test_tables_can_be_asked(venv: Path) -> None:
    """Invariants over packages, in SQL."""
    driver, where = EnvironmentDriver(), component(venv)
    with driver.freeze(where) as position:
        rows = driver.query(where, position, "SELECT count(*) FROM packages WHERE name = 'pip' AND changed = 0")
        assert list(rows.batches) == [[(1,)]]
        with pytest.raises(ManifestError):
            driver.query(where, position, "DELETE FROM packages")
    driver.release(where, position)


def test_options_are_checked(venv: Path, tmp_path: Path) -> None:
    """P12: a wrong word is told with the nearest right one; a place without an environment is none."""
    with pytest.raises(ManifestError) as wrong:
        EnvironmentDriver().inspect(component(venv, cod=["src"]))
    assert "code" in wrong.value.next_step
    with pytest.raises(NotFound):
        EnvironmentDriver().inspect(component(venv, code=["gone"]))
    with pytest.raises(NotFound, match="no Python environment"):
        EnvironmentDriver().inspect(component(tmp_path))
    with pytest.raises(LimitExceeded), EnvironmentDriver().freeze(component(venv), 0.0):
        pass


def test_a_damaged_description_is_refused(venv: Path, tmp_path: Path) -> None:
    """Also where a description is read in place of an environment."""
    driver = EnvironmentDriver()
    restored = driver.write(take(driver, component(venv)).through_memory(), component(tmp_path / "restored"))
    place = Path(restored.location, "environment.json")
    place.write_bytes(place.read_bytes()[:-5])
    with pytest.raises(IntegrityError):
        driver.fingerprint(restored)
    assert not [item for item in tmp_path.iterdir() if "partial" in item.name]


def test_the_freeze_is_short(venv: Path) -> None:
    """Writers of other components wait as long as it lasts: installed files are read after it."""
    driver, where = EnvironmentDriver(), component(venv)
    began = time.monotonic()
    with driver.freeze(where) as position:
        held = time.monotonic() - began
    began = time.monotonic()
    assert isinstance(next(iter(driver.read(where, position))), Blob)
    assert held < time.monotonic() - began


def test_secrets_are_found_in_words_and_addresses() -> None:
    """By the option's name, in an address, and by the beginning of a key."""
    words = ["--token", "abc", "--db-password=abc", "PGPASSWORD=abc", f"x{SECRET}", SECRET, "--max-tokens", "512"]
    told = "--token (left out) --db-password=(left out) PGPASSWORD=(left out)"
    assert " ".join(without_secrets(words)) == f"{told} x{SECRET} (left out) --max-tokens 512"
    assert scrubbed("https://me:pw@host/x") == ("https://host/x", True)
    assert scrubbed("https://host/me@x") == ("https://host/me@x", False)


@pytest.mark.parametrize("word", ["clean", "process"])
def test_no_command_of_a_repositorys_configuration_is_run(tmp_path: Path, word: str) -> None:
    """Whoever may write the configuration of the code must not thereby run programs as the capture."""
    code, ran = tmp_path / "code", tmp_path / "ran"
    code.mkdir()
    git = ["git", "-C", str(code), "-c", "user.name=t", "-c", "user.email=t@example"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (code / "app.py").write_text("one = 1\n")
    (code / ".gitattributes").write_text("*.py filter=trap.with.dots\n")
    for words in (["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    for name, value in ((f"filter.trap.with.dots.{word}", f"touch {ran}; cat"), ("core.fsmonitor", f"touch {ran}")):
        subprocess.run([*git, "config", name, value], check=True)
    subprocess.run([*git, "config", "filter.trap.with.dots.required", "true"], check=True)
    (code / "app.py").write_text("one = 2\n")
    assert environment_code.describe(str(code)).changes == (" M app.py",)
    assert not ran.exists()
    subprocess.run([*git, "status"], capture_output=True, check=False)
    assert ran.exists(), "the trap would not have sprung"
