"""Runs a command with its hosted models answered for, on the loopback. A program of its own: see ``probes.replay``.

Standard input: ``{"argv", "input" (base64), "mark", "variables", "door", "hosted": [{"name", "stand_in", "mode", "recording",
"why"}]}``.
Standard output: what the command prints, the mark, and ``{name: {"counts", "first"}}``. The exit code is the command's.

A request is answered by the recorded exchange of the same method, path and body; where several are recorded, by each in its turn,
and by the last ever after. What is not recorded is answered with 502, what is refused with 403: a client must not take any of them
for the model's word. Of those in mode ``proxy`` only the port is opened here: it is handed out through the descriptor ``door``,
and both are closed before the command begins (P6).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

from resurgam.probes.desk import Answer, Request, Tally, listening, served
from resurgam.probes.recording import body_of, parted, told, without_secrets

Json = Any


class Replay:
    """Answers for one hosted model from its recording, or refuses. A ``desk.Clerk``."""

    def __init__(self, hosted: dict[str, Json]) -> None:
        self.hosted = hosted
        self.tally = Tally()
        self._turns: dict[int, int] = {}  # first of the equal recorded requests: how often it was asked

    def answer(self, request: Request) -> Answer:
        """See desk.Clerk."""
        path = without_secrets(request.path)
        if self.hosted["mode"] != "replay":
            return self.tally.without("refused", 403, request, path, f"was refused: {self.hosted['why']}")
        kind = request.headers.get("content-type", "")
        asked = {"method": request.method, "path": path, "request": told(request.body, kind)}
        same = [
            line for line in self.hosted["recording"]
            if parted({name: line[name] for name in asked}, asked) is None
        ]  # fmt: skip
        if not same:
            return self.tally.without("missing", 502, request, path, "is not in the recording")
        turn = self._turns.get(id(same[0]), 0)
        self._turns[id(same[0])] = turn + 1
        self.tally.count("replayed")
        line = same[min(turn, len(same) - 1)]
        return Answer(line["status"], line["type"], body_of(line["response"], line["type"]))

    def refuse(self, request: Request, why: str) -> Answer:
        """See desk.Clerk."""
        return self.tally.without("refused", 400, request, without_secrets(request.path), why)

    def leave(self) -> None:
        """See desk.Clerk: an answer takes no time here."""


def main() -> int:
    """Run the command of the request on standard input; returns the exit code."""
    request = json.load(sys.stdin)
    clerks = [Replay(hosted) for hosted in request["hosted"] if hosted["mode"] != "proxy"]
    with contextlib.ExitStack() as held:
        places = _handed_out(request)
        places |= {clerk.hosted["stand_in"]: held.enter_context(served(clerk, listening())) for clerk in clerks}
        code = _run(request, places)
    sys.stdout.flush()
    report = {clerk.hosted["name"]: vars(clerk.tally) for clerk in clerks}
    sys.stdout.buffer.write(request["mark"].encode() + json.dumps(report).encode() + b"\n")
    sys.stdout.flush()
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to put back
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)  # as the command ended, so do we
    return code


def _handed_out(request: dict[str, Json]) -> dict[str, str]:
    """Open a port for each hosted model that is answered for outside, and hand them out; their places by what stands for them."""
    names = [hosted["stand_in"] for hosted in request["hosted"] if hosted["mode"] == "proxy"]
    if not names:
        return {}
    with contextlib.ExitStack() as ours, socket.socket(fileno=request["door"]) as door:
        opened = [ours.enter_context(listening()) for _ in names]
        socket.send_fds(door, [b"\n"], [listener.fileno() for listener in opened])
        return {
            name: f"http://127.0.0.1:{listener.getsockname()[1]}" for name, listener in zip(names, opened, strict=True)
        }


def _run(request: dict[str, Json], places: dict[str, str]) -> int:
    """The command in our own group, so that whoever ends us ends it too; its output goes where ours goes."""

    def placed(text: str) -> str:
        for stand_in, place in places.items():
            text = text.replace(stand_in, place)
        return text

    env = {name: placed(value) if name in request["variables"] else value for name, value in os.environ.items()}
    given = base64.b64decode(request["input"])
    for stand_in, place in places.items():
        given = given.replace(stand_in.encode(), place.encode())
    argv = [placed(argument) for argument in request["argv"]]
    try:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, env=env)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot be run: {error}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126
    process.communicate(given)
    return process.returncode


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
