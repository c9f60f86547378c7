"""Every error that Resurgam raises on purpose, each with the exit code of the command line.

    ResurgamError                1   something failed that has no decision of its own
    ├── UsageError               2   the call's words are off: call again, corrected
    ├── ManifestError            3   resurgam.yaml is wrong: line, column, what was expected
    ├── NotFound                 4   no such point, component, vault or file
    │   └── Ambiguous            5   more than one point matches: give more of the id
    ├── Denied                   6   a key or a permission is missing or wrong
    ├── Unreachable              7   the outside did not answer: try again later (transient)
    ├── IntegrityError           8   bytes are not what was promised: stop, and check the vault
    ├── NewerFormat              9   written by a newer release: upgrade
    ├── Busy                    10   somebody else is at work there: wait (transient)
    ├── LimitExceeded           11   a limit of the manifest would be, or was, broken; the source was let go
    ├── StoreFull               12   no space left: free some and run again; nothing that was sealed is touched
    ├── TargetRefused           13   the target is not empty, or is the live system
    ├── MissingExtra            14   an optional library is not installed
    ├── Archived                16   it sleeps in a cold class: have it woken, and come back when it is there
    └── NotProven               20   no passing verdict for what was to be promoted

Codes that are answers and not errors: 20 the verdict is *different*, 21 the verdict is *inconclusive*, 22 a point was
sealed with findings, 23 a freshness objective is not met, or locks are about to end, 130 interrupted.

The rules: an error says what was wrong (``message``), what was left untouched (``untouched``) and what to do next
(``next_step``) (P12). No secret goes into any of the three. A driver, a store and a probe raise these and nothing else
for what the world does to them; a programmer's mistake stays a plain ``AssertionError`` or ``TypeError``.
"""

from __future__ import annotations

EXIT_DIFFERENT = 20
EXIT_INCONCLUSIVE = 21
EXIT_FINDINGS = 22
EXIT_STALE = 23
EXIT_INTERRUPTED = 130


class ResurgamError(Exception):
    """The root. ``transient`` says whether the same call may succeed later without anybody changing anything."""

    exit_code = 1
    transient = False

    def __init__(self, message: str, *, untouched: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.untouched = untouched
        self.next_step = next_step

    def __str__(self) -> str:
        return " ".join(part for part in (self.message, self.untouched, self.next_step) if part)


class UsageError(ResurgamError):
    """The caller's words cannot be carried out as given."""

    exit_code = 2


class ManifestError(ResurgamError):
    """The system manifest is wrong; the message begins with ``file:line:column``."""

    exit_code = 3


class NotFound(ResurgamError):
    """What was named does not exist."""

    exit_code = 4


class Ambiguous(NotFound):
    """What was named exists more than once."""

    exit_code = 5


class Denied(ResurgamError):
    """A key or a permission is missing or wrong."""

    exit_code = 6


class Unreachable(ResurgamError):
    """A store or a service did not answer."""

    exit_code = 7
    transient = True


class IntegrityError(ResurgamError):
    """Bytes are missing, changed, or do not mean what they claim to mean. Never answered by guessing (P12)."""

    exit_code = 8


class NewerFormat(ResurgamError):
    """Written in a format that this release does not know."""

    exit_code = 9


class Busy(ResurgamError):
    """Somebody else is at work on the same thing."""

    exit_code = 10
    transient = True


class LimitExceeded(ResurgamError):
    """A limit of the manifest was reached; the source was let go before it was hurt."""

    exit_code = 11


class StoreFull(ResurgamError):
    """No space is left, in the vault or at a target."""

    exit_code = 12


class TargetRefused(ResurgamError):
    """A target is not empty, or is the live system itself."""

    exit_code = 13


class MissingExtra(ResurgamError):
    """An optional library is not installed; the next step is the command that installs it."""

    exit_code = 14


class Archived(ResurgamError):
    """An object lies in a class that sleeps, and no copy of it is awake yet. ``transient`` once one was asked for."""

    exit_code = 16


class NotProven(ResurgamError):
    """Promotion was asked for without a passing verdict (P4)."""

    exit_code = 20
