"""probes record: a conversation with its tool traffic, or what a hosted model said, for copies to be answered with."""

from __future__ import annotations

import json as jsons
import os
from typing import Annotated

import msgspec
import typer

from resurgam.cli import output
from resurgam.cli.context import DEFAULT_MANIFEST, Context, JsonOption, ManifestOption
from resurgam.errors import NotFound, ResurgamError, TargetRefused, UsageError
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Observation
from resurgam.model.secrets import masking
from resurgam.model.system import REFERENCE, Json, Probe, System
from resurgam.probes.agent import RECORDED, AgentProbe
from resurgam.probes.registry import probe_for
from resurgam.probes.replay import HostedRunner
from resurgam.probes.runner import LiveRunner
from resurgam.vault.retention_words import counted

SHORTEST = 4  # characters of a variable's value that is looked for; a shorter one would mask half the text


def record(
    probe: Annotated[str, typer.Argument(help="The probe that is asked of the live system.")],
    into: Annotated[str, typer.Option("--into", help="The file of JSON lines to write.")],
    hosted: Annotated[
        str | None, typer.Option("--hosted", help="Record what this hosted model says while the probe is asked.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace FILE where it is there.")] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    json: JsonOption = False,
) -> int:
    """Ask a probe of the live system once, and keep what its tools or a hosted model answered.

    Of a probe of kind `agent`: the conversation, every tool call and its result. The tools are really run by the probe's
    `tools`, once. With --hosted: requests to that model and its answers, within its budget; an agent's tools are then played
    back. Secrets are masked, headers are not kept. Name the file under the probe's `ask`, or the hosted model's `recording`.

    Examples:

        resurgam probes record refund --into probes/refund.jsonl

        resurgam probes record answers --hosted llm --into probes/llm.jsonl
    """
    system = Context(manifest).system
    spec = next((one for one in system.probes if one.name == probe), None)
    if spec is None:
        raise _missing(f"{probe!r} is no probe of this system.", probe, [one.name for one in system.probes])
    if os.path.lexists(into) and not replace:
        raise TargetRefused(
            f"{into} is there already.", untouched="Nothing was asked.", next_step="Give --replace, or another name."
        )
    lines = _of_hosted(spec, system, hosted) if hosted else _of_tools(spec, system)
    hidden = [masking(line, secrets_of(spec)) for line in lines]
    _write(into, "".join(jsons.dumps(line, ensure_ascii=False) + "\n" for line in hidden))
    if json:
        output.as_json({"into": into, "lines": len(hidden)})
        return 0
    output.line(f"{counted(len(hidden), 'line')} in {into}")
    return 0


def secrets_of(spec: Probe) -> list[str]:
    """The values of the variables that the probe refers to, longest first."""
    headers = [
        value
        for case in (spec.ask.values() if isinstance(spec.ask, dict) else ())
        if isinstance(case, dict)
        for value in (case.get("headers") or {}).values()
    ]
    found = [REFERENCE.fullmatch(value) for value in [*spec.env.values(), *map(str, headers)]]
    values = {os.environ.get(match[1], "") for match in found if match}
    return sorted((value for value in values if len(value) >= SHORTEST), key=len, reverse=True)


def _of_tools(spec: Probe, system: System) -> list[Json]:
    if spec.kind != AgentProbe.kind:
        raise UsageError(
            f"Probe {spec.name} is of kind {spec.kind} and calls no tools.",
            untouched="Nothing was asked.",
            next_step="Name a probe of kind agent, or give --hosted.",
        )
    seen = _answered(AgentProbe().record(spec, system, LiveRunner(system.root)))
    lines: list[Json] = seen.answers[RECORDED]
    return lines


def _of_hosted(spec: Probe, system: System, name: str) -> list[Json]:
    one = next((hosted for hosted in system.hosted if hosted.name == name), None)
    if one is None:
        raise _missing(f"{name!r} is no hosted model of this system.", name, [h.name for h in system.hosted])
    runner = HostedRunner(
        LiveRunner(system.root), msgspec.structs.replace(system, hosted=(one,)), through=(one,), recording=True
    )
    # Its stand-in is asked in its place, so that the recording is made on the way.
    asked = tuple(msgspec.structs.replace(h, url=h.stand_in) if h is one else h for h in system.hosted)
    _answered(probe_for(spec.kind).ask(spec, msgspec.structs.replace(system, hosted=asked), runner))
    lines = runner.recorded.get(name, [])
    if not lines:
        raise ResurgamError(
            f"Probe {spec.name} did not ask the hosted model {name}.",
            untouched="Nothing was written.",
            next_step=f"Give the probe its address by {{hosted:{name}}}, in `run` or `env`.",
        )
    return lines


def _answered(seen: Observation) -> Observation:
    if seen.error is not None:
        raise ResurgamError(
            f"Probe {seen.probe} could not be recorded: {seen.error}.",
            untouched="Nothing was written.",
            next_step="Mend what it says and record again. Tools that were run until then have been run.",
        )
    return seen


def _write(path: str, text: str) -> None:
    """Whole or not at all, and for its owner alone: what was said may be personal."""
    partial = f"{path}.partial"
    try:
        opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(opened, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
    except OSError as error:
        raise TargetRefused(
            f"{path} cannot be written: {error.strerror}.",
            untouched="Nothing was replaced.",
            next_step="Name a file in a folder that can be written to.",
        ) from error


def _missing(what: str, given: str, known: list[str]) -> NotFound:
    return NotFound(what, untouched="Nothing was asked.", next_step=did_you_mean(given, known))
