"""The probe ``agent``: recorded conversations, held again with the application as it is now, and with its tools only played back.

``run`` is the application's own command. It speaks JSON-RPC 2.0 in lines on standard input and output, as the Model Context
Protocol does over stdio, and is the tools' client::

    -> {"jsonrpc": "2.0", "id": "turn 1", "method": "turn", "params": {"user": "…", "conversation": "…"}}
    <- {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "refund", "arguments": {…}}}
    -> {"jsonrpc": "2.0", "id": 1, "result": {"content": […]}}
    <- {"jsonrpc": "2.0", "id": "turn 1", "result": <the final answer>}

It gets the locations as a probe ``command`` does, in its arguments and in ``RESURGAM_COMPONENTS``. ``tools/list`` is answered too.

``ask`` is the recording, a file of JSON lines (``probes.recording``), which ``resurgam probes record`` makes from a script:
``{ask: {conversation: [what the user says, …]}}``. Each turn is a case and answers ``{"answer", "steps", "diverges"}``:
``diverges`` is null, or the first tool call that is not as recorded, and by what (``name``, ``arguments`` with their path,
``order``, ``missing``, ``extra``). No tool is run (P6): what was not recorded is answered with an error, and the conversation
ends there, since nothing after it could be held against the recording; turns that were not reached answer ``{"reached": false}``.

Recording runs ``tools``, a server of the Model Context Protocol over stdio that does run them, and nothing else ever does.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby

from resurgam.clock import Clock, SystemClock
from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Json, System
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.answers import observation_of
from resurgam.probes.base import Runner
from resurgam.probes.command import COMPONENTS, fill, filled

PROGRAM = "resurgam.probes.agent_child"
RECORDED = "recorded"
_TURN = {"conversation", "user", "calls", "answer"}


class AgentProbe:
    """See the module's docstring."""

    kind = "agent"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError where there is no application, or ``ask`` is neither a recording nor a script."""
        if not spec.run or not spec.run[0]:
            raise _wrong(spec, "`run` is empty", "Give the argument list of the application.")
        filled(spec, system)
        _tools(spec, system)
        _conversations(spec)

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Hold every conversation again. Raises ManifestError as ``check`` does."""
        self.check(spec, system)
        if not isinstance(spec.ask, list):
            why = f"it is not recorded yet: run `resurgam probes record {spec.name}`"
            return Observation(probe=spec.name, error=why, asked=False)
        return self._held(spec, system, runner, tools=None)

    def record(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Hold every conversation with the real tools; the one answer, ``recorded``, is the lines of a recording. Raises
        ManifestError as ``check`` does, and where the system is a copy: tools act on what is live."""
        self.check(spec, system)
        if system.apart:
            raise _wrong(spec, "a copy's tools are not run", "Record the live system.")
        return self._held(spec, system, runner, tools=_tools(spec, system))

    def _held(self, spec: ProbeSpec, system: System, runner: Runner, tools: list[str] | None) -> Observation:
        argv, env = filled(spec, system)
        lines = spec.ask if isinstance(spec.ask, list) else []
        offered: Json = next((line["tools"] for line in lines if "tools" in line), [])
        request = {"argv": argv, "conversations": _conversations(spec), "offered": offered, "tools": tools}
        started = self._clock.monotonic()
        # -I: neither the environment nor the folder that it is started in has a say in what is imported.
        done = runner.run(
            [sys.executable, "-I", "-m", PROGRAM],
            input=json.dumps(request).encode(),
            env=env | {COMPONENTS: json.dumps(system.locations())},
            timeout=spec.timeout,
        )
        return observation_of(spec, done, self._clock.monotonic() - started)


def _conversations(spec: ProbeSpec) -> list[Json]:
    """Each conversation as ``{"name", "turns": [{"user", "calls", "answer"}, …]}``, of a recording or a script."""
    if isinstance(spec.ask, dict):
        held = spec.ask.items()
        if not held or not all(isinstance(said, list) and said and all(map(_is_text, said)) for _, said in held):
            raise _wrong(spec, "its script is none", "Give {conversation: [what the user says, …]}.")
        return [{"name": name, "turns": [{"user": text, "calls": []} for text in said]} for name, said in held]
    lines = spec.ask if isinstance(spec.ask, list) else []
    turns = [line for line in lines if not (isinstance(line, dict) and set(line) == {"tools"})]
    if not turns or not all(isinstance(line, dict) and set(line) == _TURN for line in turns):
        raise _wrong(spec, "`ask` is neither a script nor a recording", "Make one with `resurgam probes record`.")
    for line in turns:
        calls = line["calls"]
        if not (
            isinstance(calls, list)
            and all(isinstance(call, dict) and {"name", "arguments"} <= set(call) for call in calls)
        ):
            raise _wrong(spec, "its recording holds a call that is none", "A call has name, arguments and result.")
    return [
        {"name": name, "turns": list(of)} for name, of in groupby(turns, key=lambda line: str(line["conversation"]))
    ]


def _tools(spec: ProbeSpec, system: System) -> list[str]:
    return [fill(f"Probe {spec.name}", argument, system.places()) for argument in spec.tools]


def _is_text(value: Json) -> bool:
    return isinstance(value, str) and bool(value)


def _wrong(spec: ProbeSpec, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"Probe {spec.name}: {what}.", untouched="Nothing was asked.", next_step=next_step)
