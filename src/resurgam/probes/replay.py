"""Hosted models and tools, for a copy: answered from a recording, or refused. Never asked (P6).

On the live system ``{hosted:name}`` in a probe's command is the address that the manifest gives. For a copy it is a name that
resolves nowhere, and a runner of this module stands between the probe and the sandbox's::

    probe -> HostedRunner -> the sandbox's runner -> replay_child -> the probe's own command
                                                     answers on the loopback of the same namespace

``replay_child`` starts one small server for each hosted model, puts its address in the place of the name (in arguments, variables
and standard input), runs the command, and reports at the end of the output what was asked; the report is taken off again here.
A command that names no hosted model is run as it is.

What was refused, or asked and not found in the recording, makes the observation *not asked*: whether the system changed or only
the recording falls short is not known then, and a verdict is inconclusive (P4).

The same runner, ``recording`` the live system, lets requests through to the one declared address within the budget, and keeps
what was said: no header of a request is kept, and of a response only its content type.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import secrets
import sys
from collections.abc import Mapping, Sequence

from resurgam.errors import ManifestError
from resurgam.model.codec import to_plain
from resurgam.model.system import Hosted, Json, System
from resurgam.probes.answers import printable
from resurgam.probes.base import Completed, Runner

HOSTED_MODES = ("refuse", "replay")
ANSWERED_BY = "hosted "  # in front of a hosted model's name, in what an observation says it was answered by
PROGRAM = "resurgam.probes.replay_child"
_EXCHANGE = {"method", "path", "request", "status", "type", "response"}


class HostedRunner:
    """A ``Runner`` in which hosted models are answered for; see the module's docstring. ``recorded`` has, by name, the exchanges
    of all commands so far where it is ``recording``."""

    def __init__(self, inner: Runner, system: System, *, recording: bool = False) -> None:
        self._inner = inner
        self._hosted = system.hosted
        self._recording = recording
        self.recorded: dict[str, list[Json]] = {}

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> Completed:
        """Run ``argv`` to its end, its hosted models answered for. What goes wrong is in Completed."""
        said = b"\0".join([input, *map(str.encode, argv), *(value.encode() for value in (env or {}).values())])
        named = [hosted for hosted in self._hosted if hosted.stand_in.encode() in said]
        if not named:
            return self._inner.run(argv, input=input, env=env, timeout=timeout)
        mark = f"\x1e{secrets.token_hex(16)}\n"
        request = {
            "argv": list(argv),
            "input": base64.b64encode(input).decode(),
            "mark": mark,
            "hosted": [self._told(hosted) for hosted in named],
            "variables": sorted(env or {}),
        }
        # -I: neither the environment nor the folder that it is started in has a say in what is imported.
        child = [sys.executable, "-I", "-m", PROGRAM]
        done = self._inner.run(child, input=json.dumps(request).encode(), env=env, timeout=timeout)
        output, _, after = done.output.rpartition(mark.encode())
        if not after:  # it was killed, or could not be run: what it had said stands
            return done
        try:
            report = json.loads(after.partition(b"\n")[0])
        except ValueError:  # a child that was left behind has written into it
            return dataclasses.replace(done, output=output, withheld="what it asked of hosted models is not known")
        return self._reported(dataclasses.replace(done, output=output), report)

    def _told(self, hosted: Hosted) -> dict[str, Json]:
        plain: dict[str, Json] = to_plain(hosted)
        return plain | {"stand_in": hosted.stand_in, "mode": "record" if self._recording else hosted.mode}

    def _reported(self, done: Completed, report: dict[str, Json]) -> Completed:
        by, withheld = {}, []
        for name, seen in report.items():
            self.recorded.setdefault(name, []).extend(seen["recorded"])
            counts = {word: seen[word] for word in ("replayed", "forwarded", "missing", "refused") if seen[word]}
            words = ", ".join(f"{word}: {n} request{'' if n == 1 else 's'}" for word, n in counts.items())
            by[ANSWERED_BY + name] = words or "not asked"
            if seen["missing"] or seen["refused"]:
                withheld.append(f"hosted {name} {words}; first: {printable(seen['first'])}")
        return dataclasses.replace(done, by=by, withheld="; ".join(withheld))


def check(hosted: Hosted) -> None:
    """Raises ManifestError where ``hosted`` cannot be replayed as it says."""
    who = f"Hosted {hosted.name}"
    if hosted.mode not in HOSTED_MODES:
        raise _wrong(who, f"{hosted.mode!r} is no mode", f"Modes are {', '.join(HOSTED_MODES)}.")
    if hosted.mode == "replay" and not hosted.recording:
        raise _wrong(who, "`replay` lacks a recording", "Make one with `resurgam probes record PROBE --hosted`.")
    if hosted.recording is None:
        return
    lines = hosted.recording if isinstance(hosted.recording, list) else [None]
    if any(not isinstance(line, dict) or set(line) != _EXCHANGE for line in lines):
        fields = ", ".join(sorted(_EXCHANGE))
        raise _wrong(who, "its recording is none", f"Expected lines of JSON, each with {fields}.")


def hosted_words(by: Mapping[str, str]) -> str:
    """What an observation's ``by`` says of hosted models, for a verdict: "hosted llm replayed: 3 requests"; else empty."""
    return "; ".join(f"{name} {how}" for name, how in sorted(by.items()) if name.startswith(ANSWERED_BY))


def _wrong(who: str, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"{who}: {what}.", untouched="Nothing was asked.", next_step=next_step)
