"""How the command line itself behaves: help, JSON, pipes, exit codes, freshness. What a script may rely on."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import resurgam.errors as errors
from resurgam import __version__
from resurgam.cli import output
from resurgam.cli.main import EPILOG, command_line
from tests.journeys.world import World

ESCAPE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # anything but text and line ends


def verbs(group: Any = None, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every verb there is, as the command line itself knows them."""
    group = group or typer.main.get_command(command_line())
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, (*above, name))
        else:
            yield (*above, name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(os.fspath(tmp_path)).ready()
    world.manifest(("isolation: required", "isolation: best-effort"))
    return world


def test_the_verbs_of_the_first_release() -> None:
    wanted = {
        "init",
        "preflight",
        "capture",
        "points",
        "show",
        "diff",
        "restore",
        "verify",
        "promote",
        "status",
        "demo",
    }
    assert {words[0] for words in verbs() if len(words) == 1} >= wanted
    assert {words for words in verbs() if len(words) == 2} >= {
        ("vault", "init"),
        ("vault", "check"),
        ("vault", "stats"),
        ("reference", "approve"),
    }


@pytest.mark.parametrize("words", list(verbs()), ids=" ".join)
def test_every_verb_has_help_with_an_example(tmp_path: Path, words: tuple[str, ...]) -> None:
    """And the example is a call of that very verb, with options that it has."""
    told = World(os.fspath(tmp_path)).run(*words, "--help")
    assert (told.code, told.err) == (0, "")
    assert "Examples:" in told.out
    examples = re.findall(rf"^\s+resurgam {' '.join(words)}(.*)$", told.out, re.MULTILINE)
    assert examples
    for option in re.findall(r"(?<!\S)--[a-z0-9-]+", " ".join(examples)):
        assert len(re.findall(rf"{option}\b", told.out)) > 1, option  # in the example, and in the list


def test_help_in_eighty_columns_is_not_cut_off(world: World) -> None:
    told = world.process("--help")
    assert told.code == 0
    assert max(map(len, told.out.splitlines())) <= 80
    assert not re.search(r"\w\.\.\.$", told.out, re.MULTILINE)  # as click ends what does not fit


def test_the_exit_codes_in_the_help_are_those_of_the_errors(world: World) -> None:
    classes = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.ResurgamError)]
    codes = {each.exit_code for each in classes if each.exit_code != 1}
    codes |= {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(code) for code in re.findall(r"\d+", EPILOG)} - {0} == codes


def test_version(world: World) -> None:
    assert world.run("--version").out == f"resurgam {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["capture", "--nonsense"],
        ["captur"],
        ["restore"],
        ["restore", "a", "b", "--into", "x"],
        ["status", "--max-age", "9"],
    ],
    ids=" ".join,
)
def test_wrong_words_are_exit_code_2(world: World, words: list[str]) -> None:
    """P12, also for programs: with --json there is one value that says what was wrong."""
    told = world.run(*words)
    assert (told.code, told.out) == (2, "")
    assert told.err
    as_json = world.run(*words, "--json")
    assert as_json.code == 2
    error = as_json.json["error"]
    assert (error["kind"], error["exit_code"]) == ("UsageError", 2)
    assert error["message"]
    assert error["next_step"]


def test_nothing_at_all_shows_the_help(world: World) -> None:
    told = world.run()
    assert "capture" in told.out + told.err


# Pipes and terminals --------------------------------------------------------------------------------------------------


def whole_way(world: World) -> Iterator[tuple[list[str], int]]:
    """Each verb in an order in which it has something to say, with the exit code that it must have."""
    into = world.place("out")
    yield ["preflight"], 0
    yield ["capture"], 0
    yield ["points"], 0
    yield ["show", "latest"], 0
    yield ["diff", "latest", "latest"], 0
    yield ["restore", "latest", "--into", world.place("look"), "--dry-run"], 0
    yield ["restore", "latest", "--into", world.place("look")], 0
    yield ["verify", "latest", "--into", into], 0
    yield ["reference", "approve", "latest"], 0
    yield ["promote", into, "--dry-run"], 0
    yield ["promote", into, "--yes"], 0
    yield ["status"], 0
    yield ["status", "--max-age", "1ms"], 23
    yield ["vault", "stats"], 0
    yield ["vault", "check", "--read"], 0
    yield ["show", "no-such-point"], 4


def test_in_a_pipe_there_are_words_and_nothing_else(world: World) -> None:
    """No colour, no bar, nothing that steers a terminal, no line with blanks at its end; answers on standard output."""
    world.env |= {"FORCE_COLOR": "", "TERM": "xterm-256color", "COLUMNS": "40"}
    for words, code in whole_way(world):
        told = world.process(*words)
        assert told.code == code, told
        assert not ESCAPE.search(told.out + told.err), (words, told)
        assert not re.search(r" $", told.out, re.MULTILINE), (words, told.out)
        assert bool(told.out) == (code in (0, 23)), (words, told)
        assert bool(told.err) == (code == 4), (words, told)


def test_json_is_one_value_on_standard_output(world: World) -> None:
    """For every verb, also where the answer is a refusal; nothing beside it."""
    for words, code in whole_way(world):
        told = world.process(*words, "--json")
        assert told.code == code, told
        value = json.loads(told.out)
        assert isinstance(value, dict | list)
        assert ("error" in value) == (code == 4)
        assert told.out.count("\n") == 1
        assert bool(told.err) == (code == 4)


def on_a_terminal(world: World, *words: str, columns: int = 80) -> str:
    """What the command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "resurgam", *words],
        cwd=world.system.root,
        env=os.environ | world.env | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "50"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    with process:
        while select.select([ours], [], [], 60)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the terminal's other end is closed: the command has ended
                break
            if not piece:
                break
            seen += piece
    os.close(ours)
    assert process.returncode == 0, seen
    return seen.decode()


def test_a_list_of_points_is_readable_in_eighty_columns(world: World) -> None:
    """One line per point, nothing cut off, not wrapped."""
    points = [world.capture(), world.capture()]
    shown = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(world, "points")).replace("\r\n", "\n")
    lines = shown.splitlines()
    assert len(lines) == 3, shown
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["point", "sealed", "(UTC)", "size", "new", "verdict", "findings"]
    assert [line.split()[0] for line in lines[1:]] == points
    assert all(line.endswith("none") for line in lines[1:])


def test_progress_is_for_terminals(world: World) -> None:
    """And is gone when the command has ended: what stays is the answer."""
    Path(world.system.path("models/big.bin")).write_bytes(os.urandom(30_000_000))
    seen = on_a_terminal(world, "capture", columns=100)
    assert "\x1b[" in seen
    assert "capture handbook" in seen
    assert "sealed" in seen[seen.rindex("capture handbook") :]


# What cron and monitoring read ----------------------------------------------------------------------------------------


def test_a_vault_that_was_rolled_back_is_told_by_status_and_capture_and_check(world: World) -> None:
    """P12: in words, by the host that remembers; captures go on, and from then on the vault itself tells."""
    world.capture()
    shutil.copytree(world.path("vault"), world.path("older"))
    point = world.capture()
    assert "rolled back" not in world.run("status").out
    shutil.rmtree(world.path("vault"))
    os.rename(world.path("older"), world.path("vault"))
    assert f"The point {point} of " in world.run("status").out
    taken = world.run("capture")
    assert (taken.code, "1 finding, warning" in taken.out) == (22, True), taken
    shown = world.run("show", "latest")
    assert f"the point {point} of " in shown.out, shown
    assert "rolled back" not in world.run("status").out
    checked = world.run("vault", "check")
    assert (checked.code, f"points/{point}: is gone, which " in checked.out) == (8, True), checked
    audited = world.run("audit", "verify")
    assert (audited.code, f"gone: points/{point}: " in audited.out) == (8, True), audited


def test_status_says_when_the_newest_point_is_too_old(world: World) -> None:
    """23, against --max-age, else against the manifest's rpo; the words say it too."""
    world.capture()
    assert world.run("status").code == 0
    stale = world.run("status", "--max-age", "1ms")
    assert stale.code == 23
    assert "NOT FRESH" in stale.out
    assert world.run("status", "--max-age", "1h", "--json").json["fresh"]
    world.manifest(("rpo: 1h", "rpo: 1ms"))
    assert world.run("status").code == 23
    wrong = world.run("status", "--max-age", "soon")
    assert wrong.code == 2
    assert "2h" in wrong.err


SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)\{system="((?:[^"\\\n]|\\.)*)"\} (-?\d+(?:\.\d+)?)$')


def test_metrics_are_in_the_prometheus_text_format(world: World) -> None:
    """https://prometheus.io/docs/instrumenting/exposition_formats/: HELP and TYPE once before each sample, a last line end."""
    place = world.path("resurgam.prom")
    world.capture()
    assert world.run("verify", "latest").code == 0
    assert world.run("status", "--metrics", place).code == 0
    text = Path(place).read_text(encoding="utf-8")
    assert text.endswith("\n")
    lines = iter(text.splitlines())
    found = {}
    for line in lines:
        name = line.split()[2]
        assert line.startswith(f"# HELP {name} ")
        assert next(lines) == f"# TYPE {name} gauge"
        sample = SAMPLE.match(next(lines))
        assert sample
        assert sample[1] == name
        assert sample[2] == "handbook"
        assert name not in found
        found[name] = float(sample[3])
    assert found["resurgam_points"] == 1
    assert found["resurgam_fresh"] == 1
    assert 0 <= found["resurgam_newest_proven_age_seconds"] < 600
    assert found["resurgam_damaged_points"] == 0


def test_metrics_that_cannot_be_written_are_an_error_and_not_a_traceback(world: World) -> None:
    world.capture()
    told = world.run("status", "--metrics", world.path("nowhere/resurgam.prom"), "--json")
    assert told.code in (4, 6), told
    assert told.json["error"]["next_step"]


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 ms"), (0.25, "250 ms"), (1, "1.0 s"), (119, "119.0 s"), (600, "10 min"), (7200, "2.0 h"), (-90, "-90.0 s")],
)
def test_durations_for_people(number: float, words: str) -> None:
    assert output.seconds(number) == words


def test_a_table_is_as_wide_as_what_stands_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Wide letters count double, brackets are not markup, and nothing is cut off."""
    output.table(["name", "size"], [["漢字", 5], ["[bold]a[/]", 1234], ["x" * 40, 1]], ["size"])
    assert capsys.readouterr().out.splitlines() == [
        f"{'name':40}  size",
        f"漢字{' ' * 36}     5",
        f"{'[bold]a[/]':40}  1234",
        f"{'x' * 40}     1",
    ]
