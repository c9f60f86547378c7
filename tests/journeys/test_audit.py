"""An auditor's days, by the command line: what docs/audit.md says to type, and what is said after an attack."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from resurgam.vault.trail import Kind
from tests.house.test_code import ROOT
from tests.journeys.world import World
from tests.support import copy_keys

PAGE = (ROOT / "docs/audit.md").read_text(encoding="utf-8")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two points, and an auditor's host: its own keys, its own memory, no manifest."""
    made = World(str(tmp_path)).ready()
    made.capture()
    made.system.change_rows()
    made.capture()
    copy_keys(made.path("keys"), f"{tmp_path}/auditor", ("trust.json", "auditor.json"))
    return made


def audit(world: World, *words: str, vault: str = "vault") -> tuple[int, str]:
    """As the auditor runs it."""
    place = ("--vault", world.path(vault), "--keys", f"{world.home}/auditor", "--manifest", "/none")
    done = world.run("audit", *words, *place)
    return done.code, done.out


def damaged(world: World, *names: str) -> str:
    """A copy of the vault without these objects, under a new name."""
    subprocess.run(["cp", "-r", world.path("vault"), world.path("attacked")], check=True)
    for name in names:
        os.unlink(f"{world.path('attacked')}/{name}")
    return "attacked"


def test_what_the_page_says_to_type_works(world: World, tmp_path: Path) -> None:
    """Every command of docs/audit.md, in its order; its files are in this test's folder."""
    commands = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line
    ]
    assert len(commands) >= 6
    for command in commands:
        placed = re.sub(r"(?<!\S)\S*(receipt\.txt|checkpoint\.txt|audit-2026)", rf"{tmp_path}/\1", command)
        line, _, target = placed.partition(" > ")
        code, out = audit(world, *shlex.split(line)[2:])
        assert code == 0, (command, out)
        if target:
            Path(target).write_text(out, encoding="utf-8")
    (line,) = re.findall(r"```text\npython (.*?)\n```", PAGE)
    root = json.loads(Path(world.path("keys"), "trust.json").read_bytes())["root"]
    script, folder, _, kept = line.split()
    done = subprocess.run(
        [sys.executable, "-I", script, folder, root, f"{tmp_path}/{kept}"],
        cwd=tmp_path / "audit-2026",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_finding_is_explained_on_the_page() -> None:
    """Who reads a word at night finds it in the table."""
    assert [kind for kind in Kind if kind not in PAGE] == []


def test_a_log_that_was_cut_off_is_told_with_exit_code_8(world: World, tmp_path: Path) -> None:
    """By what was kept elsewhere, and by what this host remembers; nothing is signed after that (P12)."""
    code, text = audit(world, "checkpoint")
    assert code == 0
    kept = tmp_path / "kept.txt"
    kept.write_text(text, encoding="utf-8")
    vault = damaged(world, "log/0000000002", "checkpoints/0000000002")
    for words in (["verify"], ["verify", "--new"], ["verify", "--against", str(kept)], ["checkpoint"]):
        code, said = audit(world, *words, vault=vault)
        assert code == 8, words
        assert "rolled back" in said
        assert "next:" in said
    assert not [name for name in os.listdir(f"{world.path(vault)}/checkpoints") if name]
    assert audit(world, "verify")[0] == 0, "the true vault is still the one that is remembered"


def test_a_verdict_that_a_capture_key_signed_is_told(world: World) -> None:
    """P9: with the file's name and the reason, also in JSON."""
    point = world.points()[0]
    source = next(Path(world.path("vault"), "points").iterdir())
    forged = Path(world.path("vault"), "records", point)
    forged.mkdir(parents=True)
    (forged / "verdict-0123456789abcdef").write_bytes(source.read_bytes())
    code, out = audit(world, "verify")
    assert code == 8
    assert f"not believed: records/{point}/verdict-0123456789abcdef" in out
    place = ("--vault", world.path("vault"), "--keys", f"{world.home}/auditor", "--manifest", "/none", "--json")
    told = world.run("audit", "verify", *place).json
    assert {finding["kind"] for finding in told["findings"]} == {"not believed", "replayed"}
    code, out = audit(world, "export", world.path("exported"))
    assert code == 8
    assert "not believed" in Path(world.path("exported"), "INDEX.txt").read_text(encoding="utf-8")


def test_the_log_is_listed_by_point_type_and_time(world: World) -> None:
    """In its order, with who wrote what."""
    one, two = world.points()
    assert world.run("verify", one, "--into", world.place("judged")).code == 0
    rows = world.run("audit", "log", "--json").json
    assert [row["object"] for row in rows[:2]] == [f"points/{one}", f"points/{two}"]
    assert {row["by"] for row in rows} == {"capture", "verifier"}
    about_one = world.run("audit", "log", "--point", one[:6], "--json").json
    assert {row["type"] for row in about_one} == {"point", "baseline", "verdict"}
    assert [row["entry"] for row in world.run("audit", "log", "--type", "verdict", "--json").json] == [
        rows[-1]["entry"]
    ]
    assert world.run("audit", "log", "--since", rows[-1]["made"], "--json").json == rows[-1:]
    assert len(world.run("audit", "log", "--since", "1h", "--json").json) == len(rows)
    assert world.run("audit", "log", "--since", "2999-01-01").out == "no entry of the log is so\n"
    assert world.run("audit", "log", "--since", "yesterday").code == 2


def test_who_has_no_auditors_key_signs_nothing(world: World) -> None:
    """P9, P12: the file is named."""
    os.unlink(f"{world.home}/auditor/auditor.json")
    assert audit(world, "verify")[0] == 0
    assert audit(world, "checkpoint")[0] == 6
    assert audit(world, "verify", "--against", "/none")[0] == 4


def test_points_tell_all_that_they_are(world: World) -> None:
    """One line a point, and one in what is shown of one."""
    one = world.points()[0]
    assert world.run("verify", one, "--into", world.place("judged")).code == 0
    listed = world.run("points", "--long").out.splitlines()
    assert re.search(r"sealed \d{4}-\d\d-\d\d, proven \d{4}-\d\d-\d\d$", listed[1])
    assert re.search(r"sealed \d{4}-\d\d-\d\d$", listed[2])
    assert "states: sealed" in world.run("show", one).out
