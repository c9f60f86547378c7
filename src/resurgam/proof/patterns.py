"""Regular expressions that cannot run away.

Python's engine backtracks: a pattern such as ``(a+)+b`` takes time exponential in the length of an answer that nearly
matches it, and a judge must not hang on the answers of a damaged system. So a pattern is refused when a repeated group
holds a repeat, an option or an alternative, or when it looks back or around. What is left takes at most about
``length^repeats / repeats! * 2^(options + alternatives)`` steps; ``longest`` is the longest answer for which that stays
within ``MAX_STEPS`` (a few seconds at the very worst), and a longer answer is not matched.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from resurgam.errors import ManifestError

MAX_STEPS = 10**9
MAX_TEXT = 1 << 16  # characters

_TOKEN = re.compile(
    r"""(?P<escape>\\.) | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
      | (?P<look>\(\?(?:<?[=!]|P=|\(|\#|[a-z-]*x)) | (?P<flags>\(\?[aiLmsu]+\)) | (?P<open>\((?:\?(?:[aimsuL-]*:|P<\w+>|>))?)
      | (?P<close>\)) | (?P<repeat>(?:[*+]|\{\d*,\d*\})[?+]?) | (?P<option>\?[?+]?) | (?P<times>\{\d+\}) | (?P<either>\|)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class SafePattern:
    """A pattern, and the longest text that it may be tried on."""

    regex: re.Pattern[str]
    longest: int


def safe_pattern(pattern: str) -> SafePattern:
    """The compiled pattern. Raises ManifestError where it is no pattern, or one that could run away."""
    try:
        regex = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise _refused(pattern, f"is no regular expression ({error})", "Correct it.") from error
    repeats = choices = 0
    loose = [False]  # per open group: whether it can match one text in more than one way
    closed_at = -1  # where a group that can was closed just now
    for token in _TOKEN.finditer(pattern):
        kind, text = token.lastgroup, token[0]
        if kind == "look" or (kind == "escape" and text[1] in "123456789"):
            raise _refused(pattern, f"looks back or around ({text!r}), which can take very long", "Write it without.")
        if kind in ("repeat", "times") and token.start() == closed_at:
            reason = "could take very long: a repeated group holds a repeat, an option or an alternative"
            raise _refused(pattern, reason, "Repeat a set such as [a-z ] instead, or bound what the path compares.")
        if kind == "open":
            loose.append(False)
        elif kind == "close":
            group = loose.pop()
            closed_at = token.end() if group else -1
            loose[-1] = loose[-1] or group
        elif kind in ("repeat", "option", "either"):
            loose[-1] = True
            repeats += kind == "repeat"
            choices += kind != "repeat"
    return SafePattern(regex, _longest(repeats, choices))


def _longest(repeats: int, choices: int) -> int:
    steps = MAX_STEPS * math.factorial(min(repeats, 20)) / 2.0 ** min(choices, 1000)
    return min(MAX_TEXT, int(steps ** (1 / max(repeats, 1))))


def _refused(pattern: str, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"The pattern {pattern!r} {what}.", next_step=next_step)
