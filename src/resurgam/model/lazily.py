"""``cached_property`` without a lock: what an object computes once, when first asked.

Python 3.11 computes a ``functools.cached_property`` under a lock that all objects of the class share, so that one vault's answer
that is waited for holds up every other vault of the process; Python 3.12 took that lock away, and so does this. Two threads that
ask one object at once may both compute, and one value stays: what is cached here has to be a fact, and no act.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T", covariant=True)


class cached_property(Generic[T]):  # noqa: N801 (it is used as what it stands in for)
    """As ``functools.cached_property`` of Python 3.12."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Self | T:
        """The value, kept among the instance's own attributes, which are looked at before this is asked again."""
        if instance is None:
            return self
        value: T = instance.__dict__.setdefault(self._name, self._compute(instance))
        return value
