"""Where the demo plays: one folder, the commands that run in it, and the lines that tell of them.

Commands are real processes, and a person could type each of them in the folder that it runs in. Those of Resurgam are asked
for JSON, so that every figure told is one that a program could read too.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST
from resurgam.errors import EXIT_DIFFERENT, EXIT_FINDINGS, EXIT_INCONCLUSIVE, NotFound, ResurgamError, TargetRefused
from resurgam.model.system import Json

MARK = ".resurgam-demo"  # in a folder that a demo made, and that the next one may therefore remove
PATIENCE = 240.0  # seconds for one command

_ANSWERS = {
    "verify": (EXIT_DIFFERENT, EXIT_INCONCLUSIVE),
    "recover": (EXIT_DIFFERENT, EXIT_INCONCLUSIVE),
    "capture": (EXIT_FINDINGS,),
}  # exit codes that are no failure


@dataclass
class Stage:
    """The demo's folder, and the name of the system that plays. ``quiet`` tells nothing; ``wrong`` gathers what went otherwise
    than the story says. ``host`` names the host whose notes Resurgam keeps: each copy is as on a machine of its own. ``held`` are
    lines that wait to be told, None where nothing waits."""

    folder: str
    system: str = ""
    quiet: bool = False
    wrong: list[str] = field(default_factory=list)
    host: str = "host"
    held: list[tuple[str, str | None]] | None = None

    def heading(self, text: str) -> None:
        """Begin a part of the story."""
        self.say("", text, style="bold cyan", indent="")

    def say(self, *lines: str, style: str | None = None, indent: str = "   ") -> None:
        """Tell something."""
        told = [(f"{indent}{text}" if text else "", style) for text in lines]
        if self.held is not None:
            self.held += told
        elif not self.quiet:
            for text, its_style in told:
                output.line(text, style=its_style)

    def aside(self, host: str) -> Self:
        """A stage for what is played beside other things, on a host of its own: what it tells waits for ``join``."""
        return replace(self, wrong=[], host=host, held=[])

    def join(self, aside: Stage) -> None:
        """Tell what ``aside`` held, and keep what went wrong there."""
        self.wrong += aside.wrong
        for text, style in aside.held or ():
            self.say(text, style=style, indent="")

    def expect(self, held: bool, what: str) -> None:
        """The story says that ``what``; when it is not so, that is told, and kept."""
        if not held:
            self.wrong.append(what)
            self.say(f"NOT AS TOLD: {what}", style="bold red")

    def build(self, word: str, home: str, isolation: str) -> Json:
        """Build the system in ``home``; what it says of itself."""
        command = [sys.executable, "-m", f"examples.{self.system}", word, home, "--isolation", isolation, "--json"]
        return json.loads(self._run(command, self.folder, {"PYTHONPATH": _examples(self.system)}))

    def application(self, home: str, *words: str, tell: bool = False) -> str:
        """Run a command of the system in ``home``, as its users do; what it printed."""
        launcher = os.path.join("bin", self.system)
        if tell:
            self.say(f"$ python {launcher} {shlex.join(words)}", style="bold")
        return self._run([sys.executable, launcher, *words], home).rstrip("\n")

    @contextmanager
    def writers(self, home: str, words: tuple[str, ...], begun: Callable[[], bool]) -> Iterator[subprocess.Popen[str]]:
        """Customers at work in processes of their own, once they have ``begun``. What they were told to do ends by itself when
        PATIENCE is over, or when its standard input does."""
        launcher = os.path.join("bin", self.system)
        self.say(f"$ python {launcher} {shlex.join(words)} &", style="bold")
        command = [sys.executable, launcher, *words, "--seconds", str(PATIENCE)]
        pipe = subprocess.PIPE
        with (
            open(os.path.join(self.folder, "writers.log"), "wb") as log,
            subprocess.Popen(command, cwd=home, stdin=pipe, stdout=pipe, stderr=log, text=True) as writers,
        ):
            try:
                until = time.monotonic() + PATIENCE
                while not begun() and writers.poll() is None and time.monotonic() < until:
                    time.sleep(0.02)
                yield writers
            finally:
                writers.kill()  # where the block did not come to its end

    def resurgam(self, home: str, *words: str, tell: bool = True, shown: str = "", indent: str = "   ") -> Json:
        """Run a command of Resurgam in ``home``; its answer. It is told as ``shown``, which says less of where things are."""
        if tell:
            self.say(f"$ resurgam {shown or ' '.join(words)}", style="bold", indent=indent)
        return json.loads(self._resurgam(home, *words, "--json"))

    def resurgam_shown(self, home: str, *words: str) -> str:
        """Run a command of Resurgam in ``home``, untold; what it prints for people."""
        return self._resurgam(home, *words)

    def _resurgam(self, home: str, *words: str) -> str:
        state = os.path.join(self.folder, "state", self.host)
        env = {"RESURGAM_STATE": state, "RESURGAM_MANIFEST": DEFAULT_MANIFEST}
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
    try:
        if taken:
            shutil.rmtree(folder)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, MARK), "x", encoding="ascii"):
            return folder
    except OSError as error:
        raise TargetRefused(
            f"The demo's folder {folder} cannot be made anew: {error.strerror}.",
            untouched="Nothing outside of it was changed.",
            next_step="Name a folder that you can write to: `resurgam demo --into FOLDER`.",
        ) from error


def _examples(system: str) -> str:
    """The folder that holds the package ``examples``: inside an installed Resurgam, or its repository."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (os.path.join(package, "shipped"), os.path.dirname(os.path.dirname(package))):
        if os.path.isfile(os.path.join(folder, "examples", system, "__main__.py")):
            return folder
    raise NotFound(
        "The example system is not part of this installation.",
        untouched="Nothing was built.",
        next_step="Install the released package, or run from the repository: `make demo`.",
    )
