"""The sorts of question that a probe can put to one component. Probes and drivers do not know each other; both know these.

A driver does not list them: what it has says which ones a component of its kind answers (``drivers.registry.answers``). So one of
another package is asked like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Question(StrEnum):
    """A statement over its tables, neighbours among its vectors, or the load of its files by another program."""

    SQL = "asked SQL"
    NEIGHBOURS = "searched"
    FILES = "loaded as files"


Answers = Callable[[str], frozenset[Question]]  # by kind of driver
