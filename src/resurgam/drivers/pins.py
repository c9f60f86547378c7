"""The pinned states of a driver, by position: freezes of the same state share one pin, which is closed with its last holder."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from resurgam.errors import NotFound
from resurgam.model.point import Position
from resurgam.model.system import Consistency


class Shared(Protocol):
    """A state that stays readable until ``close``. ``identity`` differs where the state does; ``holders`` counts its freezes."""

    identity: bytes
    holders: int

    def close(self) -> None:
        """Let the state go."""
        ...


P = TypeVar("P", bound=Shared)


class Pins(Generic[P]):
    """They live in this object and die with the process. ``of`` names the store in the error for a position that is gone."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._pins: dict[str, P] = {}
        self._lock = threading.Lock()

    def keep(self, pin: P) -> Position:
        """The position of a new pin. The token says which state it is, nothing else."""
        token = pin.identity.hex()
        with self._lock:
            known = self._pins.get(token)
            if known is None:
                self._pins[token] = pin
            else:
                known.holders += 1
                pin.close()
        return Position(token=token, earned=Consistency.TRANSACTION)

    def at(self, position: Position) -> P:
        """The pin at ``position``. Raises NotFound once it was released."""
        with self._lock:
            pin = self._pins.get(position.token)
        if pin is None:
            raise NotFound(
                f"This position of the {self._of} is not pinned any more.",
                untouched="Nothing was changed.",
                next_step="Capture again: pins end with their release and with the process.",
            )
        return pin

    def release(self, position: Position) -> None:
        """One holder less; repeatable after the last one, and harmless for an unknown position."""
        with self._lock:
            pin = self._pins.get(position.token)
            if pin is None:
                return
            pin.holders -= 1
            if not pin.holders:
                del self._pins[position.token]
                pin.close()
