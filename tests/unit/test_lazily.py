"""What is computed once, when first asked."""

from __future__ import annotations

import threading

from resurgam.model.lazily import cached_property


class Asked:
    """Computes ``answer`` when ``let_go`` is set."""

    def __init__(self) -> None:
        self.began, self.let_go, self.times = threading.Event(), threading.Event(), 0

    @cached_property
    def answer(self) -> int:
        """How often it was computed."""
        self.began.set()
        assert self.let_go.wait(30)
        self.times += 1
        return self.times


def test_computed_once() -> None:
    """And kept until it is taken out."""
    asked = Asked()
    asked.let_go.set()
    assert (asked.answer, asked.answer, asked.times) == (1, 1, 1)
    del asked.__dict__["answer"]
    assert asked.answer == 2
    assert Asked.answer.__doc__ == "How often it was computed."


def test_one_that_waits_holds_up_no_other() -> None:
    """With the lock of Python 3.11's own, the second would wait for the first."""
    slow, quick = Asked(), Asked()
    waiting = threading.Thread(target=lambda: slow.answer, daemon=True)
    waiting.start()
    assert slow.began.wait(30)
    quick.let_go.set()
    asking = threading.Thread(target=lambda: quick.answer, daemon=True)
    asking.start()
    asking.join(10)
    assert quick.times == 1
    slow.let_go.set()
    waiting.join(30)
    assert slow.times == 1
