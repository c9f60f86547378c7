"""Where in a JSON value something stands, and where two values first part.

A place is a path from the root: member names and list indexes. It is written, and selected, in a subset of JSONPath (RFC
9535): ``$``, ``.name``, ``['any name']``, ``[0]``, and the wildcards ``.*`` and ``[*]``. Filters, slices, descendants and
indexes from the end are left out: what they select moves with the data, and a tolerance should not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from resurgam.errors import ManifestError
from resurgam.model.system import Json
from resurgam.probes.answers import printable

Place = tuple[str | int, ...]
Step = str | int | None  # None is the wildcard

SHOWN = 160  # characters of a value in a sentence
_STEP = re.compile(
    r"""\.(?P<name>[^\W\d]\w*) | (?P<any>\.\*|\[\*\]) | \[(?P<index>0|[1-9]\d{0,9})\]
      | \['(?P<single>(?:[^'\\]|\\['\\])*)'\] | \["(?P<double>(?:[^"\\]|\\["\\])*)"\]""",
    re.VERBOSE,
)


def parse_path(path: str) -> tuple[Step, ...]:
    """The steps of a JSONPath. Raises ManifestError outside the subset above."""
    steps: list[Step] = []
    at = 1
    while path.startswith("$") and at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            break
        kind, text = match.lastgroup, match[match.lastgroup or 0]
        if kind == "any":
            steps.append(None)
        else:
            steps.append(int(text) if kind == "index" else text if kind == "name" else re.sub(r"\\(.)", r"\1", text))
        at = match.end()
    if not path.startswith("$") or at < len(path):
        raise ManifestError(
            f"{path!r} is no path that tolerances know (at character {at}).",
            next_step="Write it with $, .name, ['name'], [0], .* and [*] only.",
        )
    return tuple(steps)


def select(steps: tuple[Step, ...], value: Json) -> dict[Place, Json]:
    """What the path finds in ``value``, by place."""
    found: dict[Place, Json] = {(): value}
    for step in steps:
        found = {
            (*place, name): member
            for place, node in found.items()
            for name, member in _members(node).items()
            if step is None or (type(step) is type(name) and step == name)
        }
    return found


def show_place(place: Place) -> str:
    """A place as a JSONPath."""
    return "$" + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" if step.isidentifier() else f"[{step!r}]" for step in place
    )


def canonical(value: Json) -> str:
    """The one text of a value: names sorted, no spaces. 1 and 1.0, 0.0 and -0.0 differ in it; NaN equals itself."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def show_value(value: Json, limit: int = SHOWN) -> str:
    """A value as JSON for people, cut after ``limit`` characters, without what could steer a terminal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return printable(text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)")


def first_difference(
    expected: Json, got: Json, close: Callable[[float, float], bool] | None = None, place: Place = ()
) -> str | None:
    """A sentence on the first place where two values part, or None. ``close`` says which numbers count as the same."""
    if any(isinstance(expected, kind) and isinstance(got, kind) for kind in (dict, list)):
        ours, theirs = _members(expected), _members(got)
        for step in sorted(ours.keys() & theirs.keys()):
            if difference := first_difference(ours[step], theirs[step], close, (*place, step)):
                return difference
        for step in sorted(ours.keys() ^ theirs.keys()):
            at = f"at {show_place((*place, step))}"
            side = f"is missing: {show_value(ours[step])}" if step in ours else f"is new: {show_value(theirs[step])}"
            return f"{at} {side}"
        return None
    if is_number(expected) and is_number(got) and close is not None:
        same = close(expected, got)
    else:
        same = canonical(expected) == canonical(got)
    if same:
        return None
    parted = _parted(expected, got)
    return f"at {show_place(place)}: {parted}" if place else parted


def is_number(value: Json) -> bool:
    """Whether ``value`` is a JSON number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _members(node: Json) -> dict[str | int, Json]:
    if isinstance(node, dict):
        return dict(sorted(node.items()))
    return dict(enumerate(node)) if isinstance(node, list) else {}


def _parted(expected: Json, got: Json) -> str:
    """Both values; of two long strings, the stretch where they part."""
    if isinstance(expected, str) and isinstance(got, str) and max(len(expected), len(got)) > SHOWN:
        common = next(
            (i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(len(expected), len(got))
        )
        start = max(0, common - 30)
        window = slice(start, start + SHOWN)
        return f"from character {start}: expected {show_value(expected[window])}, got {show_value(got[window])}"
    return f"expected {show_value(expected)}, got {show_value(got)}"
