"""The story on the README's screen: run for real, so that what is shown is what happens.

A story is a ```` ```console ```` block: lines that begin with ``$ `` are commands, the lines after each are what it printed, and
``[exit 20]`` its exit code where that is not 0. Lines are cut at WIDTH, and of several deviations of a probe the first is shown.
:func:`tell` runs the commands on a fresh copy of the handbook and gives the
block with what they print now; :func:`shape` is what two tellings have in common. ``docs.generate`` writes the block anew, and a
test holds the README to it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHOWN = "/srv"  # stands for the temporary folder
WIDTH = 120
# What begins so depends on the texts in the handbook, which are those of the Python at hand; lines of a text diff do not.
_DETAIL = re.compile(r"    (?! *[-+@])")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ID = re.compile(r"\b[0-9a-f]{16}\b")
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_VARIES = (
    (_ID, "<id>"),
    (_DIGEST, "<digest>"),
    (re.compile(r"[0-9][0-9.,:-]*( (ms|s|min|B|kB|MB|GB))?"), "<n>"),
    (re.compile(r" +"), " "),
)


def blocks(text: str) -> list[str]:
    """The console blocks of a page."""
    return _BLOCK.findall(text)


def rewritten(text: str) -> str:
    """The page ``text`` with its console blocks told anew, all on one handbook."""
    told = iter(tell(blocks(text)))
    return _BLOCK.sub(lambda _: f"```console\n{next(told)}```", text)


def tell(stories: list[str]) -> list[str]:
    """Each of ``stories`` as it goes now. The vault is made before, by ``vault init``."""
    with tempfile.TemporaryDirectory(prefix="story-") as folder:
        folder = os.path.realpath(folder)
        home = os.path.join(folder, "handbook")
        environment = os.environ | {
            "RESURGAM_STATE": os.path.join(folder, "state"),
            "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
            "COLUMNS": "120",
        }
        setup = [sys.executable, "-m", "examples.handbook", "setup", home]
        subprocess.run(setup, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["resurgam", "vault", "init"], cwd=home, env=environment, check=True, stdout=subprocess.DEVNULL)
        ids: dict[str, str] = {}
        return [_told(story, home, environment, ids).replace(folder, SHOWN) for story in stories]


def shape(story: str) -> list[str]:
    """The lines of ``story`` without what differs from run to run: ids, numbers, times, widths and details."""
    lines = [line for line in story.splitlines() if not _DETAIL.match(line)]
    for pattern, stands in _VARIES:
        lines = [pattern.sub(stands, line) for line in lines]
    return [line.rstrip() for line in lines]


def _told(story: str, home: str, environment: dict[str, str], ids: dict[str, str]) -> str:
    """Run the commands of ``story``. ``ids`` maps the ids that it shows to those of this run, as they come up."""
    text = ""
    for command, shown in _commands(story):
        now = _ID.sub(lambda found: ids.get(found[0], found[0]), command)
        done = subprocess.run(shlex.split(now), cwd=home, env=environment, capture_output=True, text=True, check=False)
        printed = done.stdout or done.stderr
        ids.update(zip(_ID.findall(shown), _ID.findall(printed), strict=False))
        text += f"$ {now}\n{_shortened(printed)}" + (f"[exit {done.returncode}]\n" if done.returncode else "")
    return text


def _shortened(printed: str) -> str:
    """Long lines cut, and a run of details down to its first."""
    lines: list[str] = []
    for line in printed.splitlines():
        if _DETAIL.match(line) and lines and _DETAIL.match(lines[-1]):
            continue
        lines.append(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…")
    return "".join(f"{line}\n" for line in lines)


def _commands(story: str) -> list[tuple[str, str]]:
    """Commands with what is shown after each."""
    parts = re.split(r"^\$ (.*)\n", story, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))
