"""What a command loads before it answers. Counted, not timed: each of these libraries costs more than a small command does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resurgam.cli.main import command_line
from tests.journeys.world import World

_HEAVY = {
    *("asyncio", "boto3", "cryptography.x509", "email", "http.client", "importlib.metadata", "numpy", "obstore"),
    *("pyfastcdc", "rich.console", "scipy", "sqlite3", "ssl", "zstandard"),
}
_ASK = """
import contextlib, io, json, sys
sys.argv = ["resurgam", *sys.argv[1:]]
from resurgam.__main__ import main
with contextlib.redirect_stdout(io.StringIO()) as said:
    code = main()
print(json.dumps([code, said.getvalue(), sorted(sys.modules)]))
"""


def loaded(*words: str, world: World | None = None) -> tuple[int, str, set[str]]:
    """The exit code of a command, what it said, and all modules that its process had loaded by its end."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=world.system.root if world else None,
        env=os.environ | (world.env if world else {}),
        timeout=60,
    )
    code, said, modules = json.loads(done.stdout.splitlines()[-1])
    return code, said, set(modules)


def test_the_version_needs_no_verb() -> None:
    """No verb's module is loaded, and nothing of the vault."""
    code, said, modules = loaded("--version")
    assert code == 0
    assert said.startswith("resurgam ")
    assert not _HEAVY & modules
    assert {name for name in modules if name.startswith("resurgam.cli.")} == {
        "resurgam.cli.main",
        "resurgam.cli.output",
    }
    assert not any(name.startswith(("resurgam.vault", "resurgam.capture")) for name in modules)


@pytest.mark.parametrize("words", [("points",), ("points", "--json"), ("points", "--long"), ("status",)])
def test_what_is_told_by_records_loads_nothing_that_reads_chunks(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Reading a manifest, checking signatures and folding records need no arrays, no codecs, no network and no database."""
    world = World(os.fspath(tmp_path)).ready()
    assert world.run("capture").code == 0
    assert world.run("vault", "check", "--read").code == 0, "what was read is remembered, and status tells it"
    code, said, modules = loaded(*words, world=world)
    assert code == 0
    assert said
    assert not _HEAVY & modules, "a library was loaded that this command has no use for"
    assert not {"resurgam.vault.reader", "resurgam.vault.writer", "resurgam.vault.copies"} & modules


@pytest.mark.parametrize("words", [["show"], ["--passphrase-file", "points", "show"], ["--passphrase-file=x", "show"]])
def test_the_verb_stands_behind_the_options_that_all_verbs_share(words: list[str]) -> None:
    """A file that is called as a verb is none."""
    assert [command.name for command in command_line(words).registered_commands] == ["show"]


def test_help_knows_all_verbs() -> None:
    """Whatever is shown to people is whole."""
    for words in ((), ("--help",), ("no-verb",)):
        app = command_line(words)
        assert len(app.registered_commands) + len(app.registered_groups) > 20


def test_a_capture_loads_nothing_that_only_its_preview_asks_for(tmp_path: Path) -> None:
    """What it costs in a month, and whether a sandbox can be had, take longer to load than an unchanged system to capture."""
    world = World(os.fspath(tmp_path)).ready()
    code, _, modules = loaded("capture", world=world)
    assert code == 0
    assert (
        not {f"resurgam.{name}" for name in ("capture.preflight", "cli.cost", "vault.usage", "restore.sandbox")}
        & modules
    )
