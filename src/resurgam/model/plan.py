"""A plan says what is about to happen before it happens (P10): a value that can be printed, signed and refused."""

from __future__ import annotations

import msgspec


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One effect in the world: ``verb`` acts on ``what``; ``undo`` tells how it is taken back, or that it cannot be."""

    verb: str
    what: str
    undo: str = ""
    bytes: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Steps in order. ``seconds`` is an estimate, None where nothing was measured yet. ``pending`` tells, by component, what would
    go on or end by itself afterwards: an agent's waiting threads, memories that expire."""

    title: str
    steps: tuple[Step, ...]
    seconds: float | None = None
    pending: dict[str, tuple[str, ...]] = {}
