"""The recovery point: one snapshot per component under one cut. Values only.

Times are RFC 3339 strings in UTC, durations seconds, ids lower-case hex. What may hold personal data or the system's
own words (the manifest, witness answers, keys named by findings) is not here but in an encrypted document of the vault,
:class:`Particulars`, which the record names by its chunk id.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec

from resurgam.errors import UsageError
from resurgam.model.system import Consistency, Json, System

POINT_FORMAT = 1
TAG = r"[a-z0-9][a-z0-9._-]{0,62}"  # a tag: so that it can stand in a command, in a manifest and in a table


def require_tags(tags: tuple[str, ...]) -> None:
    """Raises UsageError for words that are no tags, or stand twice."""
    wrong = [tag for tag in tags if not re.fullmatch(TAG, tag)]
    if wrong or len({*tags}) != len(tags):
        raise UsageError(
            f"{wrong[0][:80]!r} is not a tag." if wrong else "A tag is given twice.",
            untouched="Nothing was captured.",
            next_step="Give each once: at most 63 characters a-z, 0-9, '.', '-' and '_', beginning with a letter or digit.",
        )


class Severity(StrEnum):
    """How much a finding weighs: a NOTE is for reading, a WARNING is shown, a BROKEN point is never chosen as clean."""

    NOTE = "note"
    WARNING = "warning"
    BROKEN = "broken"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a capture saw and that the owner should know. ``keys`` are examples, at most 20."""

    severity: Severity
    what: str
    component: str | None = None
    keys: tuple[str, ...] = ()


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A driver's own word for "here". The core compares ``token`` for equality only. ``earned`` is the consistency that
    this freeze really gives."""

    token: str
    earned: Consistency


class CutPart(msgspec.Struct, frozen=True, kw_only=True):
    """One component in the cut: ``frozen_at`` and ``thawed_at`` are seconds after the cut began, ``freeze`` the seconds from
    asking for its freeze to its thaw. No writer was held for longer."""

    component: str
    position: Position
    frozen_at: float
    thawed_at: float
    freeze: float = 0.0


class BarrierHeld(msgspec.Struct, frozen=True, kw_only=True):
    """The barrier around a cut: ``kind`` is file or command; seconds ``waited`` for it, and ``held``. Where it was ``passed``, a
    writer went on without it, so truths across components are not sure to hold."""

    kind: str
    waited: float
    held: float
    passed: bool = False


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """All positions, noted while all were frozen. ``skew`` is 0 where all were held together at one moment, else the
    seconds between the first and the last note. ``barrier`` is None where none is declared; ``trouble`` tells what went wrong
    in letting it go."""

    at: str
    skew: float
    freeze: float
    parts: tuple[CutPart, ...]
    barrier: BarrierHeld | None = None
    trouble: str = ""

    def position(self, component: str) -> Position:
        """The position of ``component``; KeyError when it is not in the cut."""
        for part in self.parts:
            if part.component == component:
                return part.position
        raise KeyError(component)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One component as read at its position. ``tree`` is the id of the root page, ``chunks`` of the list of all chunk
    ids (open with the index key); ``bytes`` are logical, ``stored`` what this capture added to the vault. ``residency`` is the
    region that its contents never leave, empty where they may go anywhere."""

    component: str
    driver: str
    domain: str
    tree: str
    chunks: str
    items: int
    bytes: int
    stored: int
    asked: str
    earned: str
    residency: str = ""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What one probe answered: ``answers`` maps a case to its answer; ``error`` tells why there is none. Where ``asked`` is
    false the question could not be put at all, so the error says nothing about the system. ``by`` says what answered, as far
    as the probe tells: libraries with their versions, settings."""

    probe: str
    answers: dict[str, Json] = {}
    error: str | None = None
    asked: bool = True
    seconds: float = 0.0
    by: dict[str, str] = {}


class Witness(msgspec.Struct, frozen=True, kw_only=True):
    """The live system just before and just after the cut; valid per case where both agree."""

    before: tuple[Observation, ...] = ()
    after: tuple[Observation, ...] = ()


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What a point keeps of what was answered, apart from all that a restore needs, so that it can be shredded alone: the
    witness, and the keys that its findings name, in their order."""

    witness: Witness = Witness()
    keys: tuple[tuple[str, ...], ...] = ()

    @property
    def any(self) -> bool:
        """Whether there is anything to keep."""
        return self.witness != Witness() or any(self.keys)


class Particulars(msgspec.Struct, frozen=True, kw_only=True):
    """The encrypted part of a recovery point."""

    system: System
    facts: dict[str, dict[str, Json]]
    findings: tuple[Finding, ...]
    witness: Witness
    cut: Cut

    def parted(self) -> tuple[Particulars, Answers]:
        """What a restore needs, and what was answered."""
        silent = tuple(msgspec.structs.replace(finding, keys=()) for finding in self.findings)
        rest = msgspec.structs.replace(self, findings=silent, witness=Witness())
        return rest, Answers(witness=self.witness, keys=tuple(finding.keys for finding in self.findings))

    def with_answers(self, answers: Answers) -> Particulars:
        """The whole again, of the two that :meth:`parted` gave."""
        told = tuple(
            msgspec.structs.replace(finding, keys=keys)
            for finding, keys in zip(self.findings, answers.keys, strict=True)
        )
        return msgspec.structs.replace(self, findings=told, witness=answers.witness)


class PointBody(msgspec.Struct, frozen=True, kw_only=True):
    """The signed, clear part of a recovery point: digests, counts, times. ``freezes`` are those of each component; ``answers``
    is the chunk of its :class:`Answers` in the shred domain ``evidence``, empty where there are none, or where they lie in its
    ``particulars``, as older releases wrote them. ``tags`` are words that its owner gave it, in the clear."""

    format: int
    id: str
    system: str
    started: str
    sealed: str
    skew: float
    freeze: float
    snapshots: tuple[Snapshot, ...]
    particulars: str
    findings: dict[str, int]
    host_can_read: bool
    resurgam: str
    previous: str | None = None
    freezes: dict[str, float] = {}
    barrier: BarrierHeld | None = None
    answers: str = ""
    evidence: str = "default"
    tags: tuple[str, ...] = ()


def body_to_plain(body: PointBody) -> dict[str, Any]:
    """The body as plain values for ``--json``."""
    plain: dict[str, Any] = msgspec.to_builtins(body)
    return plain
