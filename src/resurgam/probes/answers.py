"""What a probe's command must print, and what is said when it does not.

One JSON object in UTF-8 on standard output: ``{"answers": {case: value, ...}}``. A member ``by``, an object of texts, says what
answered (libraries and their versions) and is not judged; other members are ignored. Anything else is an error of the
probe, told in one sentence with the command's own last words, and never an exception: a copy that cannot answer is a finding
about the copy (P4).

Values are JSON (RFC 8259), a little narrower so that equal answers have one form: no duplicate names, at most
``MAX_DEPTH`` deep, integers of at most 64 bits, no unpaired surrogates. NaN and the infinities, which some encoders write
as bare words, are read as the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Sequence

from resurgam.model.point import Observation
from resurgam.model.system import Json
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.base import MAX_OUTPUT, Completed
from resurgam.probes.runner import CANNOT_RUN, NOT_FOUND

MAX_DEPTH = 64
LAST_LINES, LAST_WIDTH = 5, 300  # of standard error, shown with a failure


def observation_of(spec: ProbeSpec, done: Completed, seconds: float) -> Observation:
    """The answers that the finished command printed, or the error that says why there are none."""
    by = dict(done.by)
    if done.withheld:  # what it answered without it says nothing about the system (P4)
        return Observation(probe=spec.name, error=done.withheld, asked=False, seconds=seconds, by=by)
    error = _failure(spec, done)
    if error is None:
        try:
            printed = _printed(done.output)
            return Observation(probe=spec.name, answers=_answers(printed), seconds=seconds, by=_by(printed) | by)
        except ValueError as rubbish:
            error = f"its output is no answer: {rubbish}"
    return Observation(probe=spec.name, error=error + _last_words(done.errors), seconds=seconds, by=by)


def observations_of(specs: Sequence[ProbeSpec], done: Completed, seconds: float) -> list[Observation]:
    """The answers to several probes that one command printed: ``{"together": {probe: {"answers": …} or {"error": sentence}}}``.
    What went wrong with the command went wrong with all of them."""
    together: Json = None
    if not done.withheld and _failure(specs[0], done) is None:
        try:
            printed = _printed(done.output)
            together = printed.get("together") if isinstance(printed, dict) else None
        except ValueError:
            pass  # told below, as of a command that answers one probe
    if not isinstance(together, dict):
        return [observation_of(spec, done, seconds) for spec in specs]
    return [_one_of(spec, together.get(spec.name), seconds, dict(done.by)) for spec in specs]


def _one_of(spec: ProbeSpec, printed: Json, seconds: float, by: dict[str, str]) -> Observation:
    by = _by(printed) | by
    error = printed.get("error") if isinstance(printed, dict) else None
    if isinstance(error, str):
        return Observation(probe=spec.name, error=printable(error), seconds=seconds, by=by)
    try:
        return Observation(probe=spec.name, answers=_answers(printed), seconds=seconds, by=by)
    except ValueError as rubbish:
        return Observation(probe=spec.name, error=f"its output is no answer: {rubbish}", seconds=seconds, by=by)


def read_answers(output: bytes) -> dict[str, Json]:
    """The answers in ``output``. Raises ValueError where it is not of the form above."""
    return _answers(_printed(output))


def printable(text: str) -> str:
    """``text`` without what could steer a terminal: words of a probed system are shown to people."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printed(output: bytes) -> Json:
    try:
        text = output.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    if not text.strip():
        raise ValueError("nothing was printed")
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ValueError(f"not one JSON object: {error}") from error
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from error


def _answers(printed: Json) -> dict[str, Json]:
    answers = printed.get("answers") if isinstance(printed, dict) else None
    if not isinstance(answers, dict):
        raise ValueError('expected an object {"answers": {case: value, ...}}')  # noqa: TRY004 - a wrong value, not a wrong call
    narrow: dict[str, Json] = narrowed(answers)
    return narrow


def _by(printed: Json) -> dict[str, str]:
    by = printed.get("by")
    return {name: printable(text) for name, text in by.items() if isinstance(text, str)} if isinstance(by, dict) else {}


def _failure(spec: ProbeSpec, done: Completed) -> str | None:
    if done.timed_out:
        return f"it did not end within {spec.timeout:g} s and was killed with its children"
    if done.overflowed or len(done.output) > MAX_OUTPUT:
        return f"it printed more than {MAX_OUTPUT >> 20} MiB and was stopped"
    if done.code in (CANNOT_RUN, NOT_FOUND):
        return f"its command could not be run (exit code {done.code})"
    if done.code < 0:
        return f"it was killed by signal {-done.code} ({signal.strsignal(-done.code) or 'unknown'})"
    if done.code:
        return f"it ended with exit code {done.code}"
    return None


def _last_words(errors: bytes) -> str:
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines() if line.strip()]
    shown = [printable(line[:LAST_WIDTH]) for line in lines[-LAST_LINES:]]
    return f"; it said: {' | '.join(shown)}" if shown else ""


def _without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {printable(twice)!r} stands twice in one object")
    return members


def narrowed(value: Json, depth: int = MAX_DEPTH) -> Json:
    """``value`` in its one form; see the module's docstring. Raises ValueError where it has none."""
    if depth < 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {narrowed(name, 0): narrowed(member, depth - 1) for name, member in value.items()}
    if isinstance(value, list):
        return [narrowed(member, depth - 1) for member in value]
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError("a string holds an unpaired surrogate")
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise ValueError("an integer has more than 64 bits; print it as a string")
    return value
