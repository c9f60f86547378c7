"""Point 19 of the drivers' exam: any sequence of puts, deletes, captures and restores agrees with a dict.

The machine works on one live store and one target, both through the exam's hooks; captures are kept beside copies of the dict.
"""

from __future__ import annotations

from typing import Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from resurgam.drivers.base import Driver
from resurgam.model.system import Component
from resurgam.testing.carrying import Taken, take

Data = dict[str, bytes]


class Hooks(Protocol):
    """The exam's hooks around the driver."""

    def seed(self, component: Component, data: Data) -> None: ...
    def peek(self, component: Component) -> Data: ...
    def change(self, component: Component, key: str, value: bytes | None) -> None: ...


_KEYS = st.sampled_from(["a", "b", "c", "d e", "ü"])
_VALUES = st.one_of(st.binary(max_size=40), st.integers(0, 200_000).map(lambda size: b"\x00v" * (size // 2)))


def machine(hooks: Hooks, driver: Driver, live: Component, target: Component) -> type[RuleBasedStateMachine]:
    """The machine over these stores, for ``run_state_machine_as_test``."""

    class OverTheseStores(_Machine):
        def __init__(self) -> None:
            super().__init__(hooks, driver, live, target)

    return OverTheseStores


class _Machine(RuleBasedStateMachine):
    """The store beside a dict."""

    def __init__(self, hooks: Hooks, driver: Driver, live: Component, target: Component) -> None:
        super().__init__()
        self.hooks, self.driver, self.live, self.target = hooks, driver, live, target
        self.model: Data = {}
        self.captures: list[tuple[Taken, Data, str]] = []

    @initialize(data=st.dictionaries(_KEYS, _VALUES))
    def begin(self, data: Data) -> None:
        """A store that holds anything."""
        self.hooks.seed(self.live, data)
        self.model = dict(data)

    @rule(key=_KEYS, value=_VALUES)
    def put(self, key: str, value: bytes) -> None:
        """A client writes."""
        self.hooks.change(self.live, key, value)
        self.model[key] = value

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """A client deletes."""
        key = data.draw(st.sampled_from(sorted(self.model)))
        self.hooks.change(self.live, key, None)
        del self.model[key]

    @rule()
    def capture(self) -> None:
        """Everything is read, with no writer at work: the capture is the model."""
        taken = take(self.driver, self.live)
        assert not taken.restless
        self.captures.append((taken, dict(self.model), self.driver.fingerprint(self.live)))

    @precondition(lambda self: self.captures)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Any capture comes back as it was, whatever happened since."""
        taken, model, fingerprint = self.captures[data.draw(st.integers(0, len(self.captures) - 1))]
        self.driver.erase(self.target)
        restored = self.driver.write(taken.through_memory(), self.target)
        assert self.hooks.peek(restored) == model
        assert self.driver.fingerprint(restored) == fingerprint
        assert self.hooks.peek(self.live) == self.model

    def teardown(self) -> None:
        """An empty target for the next run."""
        self.driver.erase(self.target)
