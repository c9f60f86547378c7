"""Where the demo plays: one folder, the commands that run in it, and the lines that tell of them.

Commands are real processes, and a person could type each of them in the folder that it runs in. Those of Resurgam are asked
for JSON, so that every figure told is one that a program could read too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST
from resurgam.errors import EXIT_DIFFERENT, EXIT_FINDINGS, EXIT_INCONCLUSIVE, NotFound, ResurgamError, TargetRefused
from resurgam.model.system import Json

MARK = ".resurgam-demo"  # in a folder that a demo made, and that the next one may therefore remove
PATIENCE = 120.0  # seconds for one command
LAUNCHER = os.path.join("bin", "handbook")

_ANSWERS = {
    "verify": (EXIT_DIFFERENT, EXIT_INCONCLUSIVE),
    "capture": (EXIT_FINDINGS,),
}  # exit codes that are no failure


@dataclass
class Stage:
    """The demo's folder. ``quiet`` tells nothing; ``wrong`` gathers what went otherwise than the story says."""

    folder: str
    quiet: bool = False
    wrong: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Begin a part of the story."""
        self.say("", text, style="bold cyan", indent="")

    def say(self, *lines: str, style: str | None = None, indent: str = "   ") -> None:
        """Tell something."""
        if not self.quiet:
            for text in lines:
                output.line(f"{indent}{text}" if text else "", style=style)

    def expect(self, held: bool, what: str) -> None:
        """The story says that ``what``; when it is not so, that is told, and kept."""
        if not held:
            self.wrong.append(what)
            self.say(f"NOT AS TOLD: {what}", style="bold red")

    def setup(self, home: str, isolation: str) -> Json:
        """Build the handbook in ``home``; what it says of itself."""
        command = [sys.executable, "-m", "handbook", "setup", home, "--isolation", isolation, "--json"]
        return json.loads(self._run(command, self.folder, {"PYTHONPATH": _application()}))

    def ask(self, home: str, question: str) -> str:
        """Ask the handbook in ``home``, as its users do."""
        self.say(f'$ {LAUNCHER} ask "{question}"', style="bold")
        return self._run([sys.executable, LAUNCHER, "ask", question], home).rstrip("\n")

    @contextmanager
    def writer(self, home: str, rate: int, begun: Callable[[], bool]) -> Iterator[subprocess.Popen[str]]:
        """Customers at work in a process of their own, once they have ``begun``. SIGTERM lets it end and tell what it did."""
        self.say(f"$ {LAUNCHER} write --rate {rate} &", style="bold")
        command = [sys.executable, LAUNCHER, "write", "--rate", str(rate), "--seconds", str(PATIENCE)]
        with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True) as writer:
            try:
                until = time.monotonic() + PATIENCE
                while not begun() and writer.poll() is None and time.monotonic() < until:
                    time.sleep(0.02)
                yield writer
            finally:
                writer.kill()  # where the block did not come to its end

    def resurgam(self, home: str, *words: str, tell: bool = True) -> Json:
        """Run a command of Resurgam in ``home``; its answer."""
        if tell:
            self.say(f"$ resurgam {' '.join(words)}", style="bold")
        return json.loads(self._resurgam(home, *words, "--json"))

    def resurgam_shown(self, home: str, *words: str) -> str:
        """Run a command of Resurgam in ``home`` and show what it prints for people."""
        self.say(f"$ resurgam {' '.join(words)}", style="bold")
        shown = self._resurgam(home, *words)
        self.say(*shown.splitlines())
        return shown

    def _resurgam(self, home: str, *words: str) -> str:
        env = {"RESURGAM_STATE": os.path.join(self.folder, "state"), "RESURGAM_MANIFEST": DEFAULT_MANIFEST}
        return self._run([sys.executable, "-m", "resurgam", *words], home, env, _ANSWERS.get(words[0], ()))

    def _run(
        self, command: list[str], cwd: str, env: dict[str, str] | None = None, answers: tuple[int, ...] = ()
    ) -> str:
        """The output of ``command``. Raises ResurgamError where it fails, in its own words."""
        environment = os.environ | {"PYTHONSAFEPATH": "1"} | (env or {})
        try:
            done = subprocess.run(
                command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise self._failed(command, cwd, f"did not end within {PATIENCE:g} s") from late
        if done.returncode not in (0, *answers):
            raise self._failed(command, cwd, f"ended with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _failed(self, command: list[str], cwd: str, how: str) -> ResurgamError:
        return ResurgamError(
            f"`{' '.join(command)}` {how}",
            untouched=f"Nothing outside of {self.folder} was changed.",
            next_step=f"Run it by hand in {cwd}.",
        )


def empty_folder(into: str) -> str:
    """The folder ``into``, empty and marked as a demo's. Raises TargetRefused where it is somebody else's."""
    folder = os.path.realpath(into)
    try:
        taken = os.path.lexists(folder) and bool(os.listdir(folder))
    except NotADirectoryError:
        taken = True
    if taken and not os.path.isfile(os.path.join(folder, MARK)):
        raise TargetRefused(
            f"{into} is not empty, and no earlier demo made it.",
            untouched="Nothing in it was changed.",
            next_step="Name another folder: `resurgam demo --into FOLDER`.",
        )
    if taken:
        shutil.rmtree(folder)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, MARK), "x", encoding="ascii"):
        return folder


def _application() -> str:
    """The folder that holds the package ``handbook``: inside an installed Resurgam, or in its repository."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    candidates = [os.path.join(package, "examples"), os.path.join(package, os.pardir, os.pardir, "examples")]
    for folder in map(os.path.abspath, candidates):
        if os.path.isfile(os.path.join(folder, "handbook", "__main__.py")):
            return folder
    raise NotFound(
        "The example system is not part of this installation.",
        untouched="Nothing was built.",
        next_step="Install the released package, or run from the repository: `make demo`.",
    )
