"""Holds conversations with an application, whose tool calls it answers. A program of its own: see ``probes.agent``.

Standard input: ``{"argv", "conversations": [{"name", "turns"}], "offered", "tools"}``. Standard output: ``{"answers": …}``, by
turn, or the lines of a recording where ``tools`` (a command, or [] for none) says that tools are really run; exit code 1 with a
sentence on standard error where there is no answer.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from resurgam.probes.recording import parted

MAX_LINE = 16 << 20
GRACE = 3.0  # seconds for a process to end once its input is closed
NOT_RECORDED, NO_SUCH_METHOD = -32001, -32601  # JSON-RPC 2.0, section 5.1
PROTOCOL = "2025-06-18"  # of the Model Context Protocol

Json = Any


class Refused(Exception):
    """There is no answer, and why."""


class Peer:
    """A process that speaks JSON-RPC in lines."""

    def __init__(self, who: str, process: subprocess.Popen[bytes]) -> None:
        self._who = who
        self._process = process

    def say(self, **message: Json) -> None:
        """One message."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Refused(f"{self._who} ended with exit code {self._process.wait()}") from error

    def hear(self) -> dict[str, Json]:
        """The next message."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline(MAX_LINE)
        if not line:
            raise Refused(f"{self._who} ended with exit code {self._process.wait()} in the middle of a turn")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise Refused(f"{self._who} printed what is no message: {line[:200]!r}") from error
        if not isinstance(message, dict):
            raise Refused(f"{self._who} printed what is no message: {line[:200]!r}")
        return message

    def asked(self, identity: str, method: str, params: Json) -> dict[str, Json]:
        """The response to one request; other messages in between are passed over."""
        self.say(id=identity, method=method, params=params)
        while (message := self.hear()).get("id") != identity or "method" in message:
            pass
        return message


class Tools(Protocol):
    """What answers tool calls during one turn."""

    diverges: dict[str, Json] | None
    calls: list[dict[str, Json]]

    def offer(self) -> list[Json]:
        """The tools there are."""
        ...

    def call(self, name: str, arguments: Json) -> dict[str, Json]:
        """``{"result": …}`` or ``{"error": …}``."""
        ...


class Played:
    """Tools that are played back: nothing is run (P6)."""

    def __init__(self, offered: list[Json], expected: list[dict[str, Json]]) -> None:
        self._offered = offered
        self._expected = expected
        self.calls: list[dict[str, Json]] = []
        self.diverges: dict[str, Json] | None = None

    def offer(self) -> list[Json]:
        return self._offered

    def call(self, name: str, arguments: Json) -> dict[str, Json]:
        self.diverges = self.diverges or self._held_against(name, arguments)
        if self.diverges:
            what = f"{name} as it was called here is not in the recording"
            return {"error": {"code": NOT_RECORDED, "message": what}}
        recorded = self._expected[len(self.calls)]
        self.calls.append(recorded)
        return {word: recorded[word] for word in ("result", "error") if word in recorded}

    def ended(self) -> None:
        """The turn is over: what should have been called and was not?"""
        if not self.diverges and len(self.calls) < len(self._expected):
            self.diverges = self._step("missing", expected=self._expected[len(self.calls)]["name"], got=None)

    def _held_against(self, name: str, arguments: Json) -> dict[str, Json] | None:
        left = self._expected[len(self.calls) :]
        if not left:
            return self._step("extra", expected=None, got=name)
        found = parted(left[0]["arguments"], arguments) if left[0]["name"] == name else None
        if left[0]["name"] == name and found is None:
            return None
        if any(later["name"] == name and parted(later["arguments"], arguments) is None for later in left[1:]):
            return self._step("order", expected=left[0]["name"], got=name)
        if found is None:
            return self._step("name", expected=left[0]["name"], got=name)
        path, wanted, got = found
        return self._step("arguments", tool=name, path=path, expected=wanted, got=got)

    def _step(self, by: str, **more: Json) -> dict[str, Json]:
        return {"step": len(self.calls) + 1, "by": by, **more}


class Run:
    """Tools that are run, by a server of the Model Context Protocol, and recorded."""

    def __init__(self, server: Peer | None) -> None:
        self._server = server
        self.calls: list[dict[str, Json]] = []
        self.diverges: dict[str, Json] | None = None
        if server:
            about = {"name": "resurgam", "version": "1"}
            server.asked(
                "initialize", "initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": about}
            )
            server.say(method="notifications/initialized")

    def offer(self) -> list[Json]:
        if self._server is None:
            return []
        result: dict[str, Json] = self._server.asked("list", "tools/list", {}).get("result") or {}
        return list(result.get("tools") or [])

    def call(self, name: str, arguments: Json) -> dict[str, Json]:
        if self._server is None:
            raise Refused(f"the application calls {name}, and the probe has no `tools` to run it")
        said = self._server.asked(f"call {len(self.calls) + 1}", "tools/call", {"name": name, "arguments": arguments})
        reply: dict[str, Json] = {word: said[word] for word in ("result", "error") if word in said}
        self.calls.append({"name": name, "arguments": arguments, **reply})
        return reply


def main() -> int:
    """Answer the request on standard input; returns the exit code."""
    request = json.load(sys.stdin)
    try:
        answers = _played(request) if request["tools"] is None else {"recorded": _recorded(request)}
    except (Refused, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    json.dump({"answers": answers}, sys.stdout)
    return 0


def _played(request: dict[str, Json]) -> dict[str, Json]:
    """Every turn against its recording; a conversation ends with the first step that is not as recorded."""
    answers: dict[str, Json] = {}
    for conversation in request["conversations"]:
        name, diverged = conversation["name"], False
        with _started("the application", request["argv"]) as application:
            for number, turn in enumerate(conversation["turns"], 1):
                if diverged:
                    answers[f"{name} {number}"] = {"reached": False}
                    continue
                tools = Played(request["offered"], turn["calls"])
                answer = _turn(application, tools, number, name, turn["user"])
                tools.ended()
                diverged = tools.diverges is not None
                answers[f"{name} {number}"] = {"answer": answer, "steps": len(tools.calls), "diverges": tools.diverges}
    return answers


def _recorded(request: dict[str, Json]) -> list[Json]:
    with contextlib.ExitStack() as held:
        server = held.enter_context(_started("the tools' server", request["tools"])) if request["tools"] else None
        tools = Run(server)
        lines: list[Json] = [{"tools": tools.offer()}]
        for conversation in request["conversations"]:
            with _started("the application", request["argv"]) as application:
                for number, turn in enumerate(conversation["turns"], 1):
                    tools.calls = []
                    answer = _turn(application, tools, number, conversation["name"], turn["user"])
                    lines.append({
                        "conversation": conversation["name"], "user": turn["user"], "calls": tools.calls, "answer": answer,
                    })  # fmt: skip
    return lines


def _turn(application: Peer, tools: Tools, number: int, conversation: str, user: str) -> Json:
    """The final answer to one turn; None where the tools diverged before there was one."""
    identity = f"turn {number}"
    application.say(id=identity, method="turn", params={"user": user, "conversation": conversation})
    while True:
        message = application.hear()
        if "method" not in message:
            if message.get("id") != identity:
                continue
            if "error" in message:
                raise Refused(f"{conversation} {number}: {json.dumps(message['error'])[:300]}")
            return message.get("result")
        if "id" not in message:  # a notification
            continue
        application.say(id=message["id"], **_reply(tools, message))
        if tools.diverges:
            return None


def _reply(tools: Tools, message: dict[str, Json]) -> dict[str, Json]:
    params = message.get("params") or {}
    if message["method"] == "tools/call":
        return tools.call(str(params.get("name")), params.get("arguments") or {})
    if message["method"] == "tools/list":
        return {"result": {"tools": tools.offer()}}
    if message["method"] == "initialize":
        about = {"name": "resurgam", "version": "1"}
        return {"result": {"protocolVersion": PROTOCOL, "capabilities": {"tools": {}}, "serverInfo": about}}
    return {"error": {"code": NO_SUCH_METHOD, "message": f"no method {message['method']}"}}


@contextlib.contextmanager
def _started(who: str, argv: list[str]) -> Iterator[Peer]:
    """``argv``, running; it ends with the context, and with our group whatever happens."""
    try:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except (OSError, ValueError) as error:
        raise Refused(f"{who} cannot be run: {error}") from error
    try:
        yield Peer(who, process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            process.stdin.close()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
