"""The driver mbox sits the exam of all drivers: messages put and read by Python's own mailbox module.

python -m pytest test_exam.py          once resurgam, resurgam-mbox and the exam's own needs are installed
"""

from __future__ import annotations

import base64
import mailbox
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resurgam.drivers.base import Driver, Rows
from resurgam.drivers.registry import driver_for
from resurgam.errors import LimitExceeded
from resurgam.model.system import Component
from resurgam.testing.carrying import take
from resurgam.testing.driver_kit import Data, DriverExam

PAIR_WRITER = """
import base64, mailbox, select, sys, time
box = mailbox.mbox(sys.argv[1])
places = {bytes.fromhex(box[key]["X-Key"]).decode(): key for key in box.keys()}
number = 0
while True:
    number += 1
    while True:  # a mailbox that is locked is waited for
        try:
            box.lock()
            break
        except mailbox.ExternalClashError:
            time.sleep(0.0005)
    for name in ("left", "right"):
        message = mailbox.mboxMessage()
        message["X-Key"] = name.encode().hex()
        message.set_payload(base64.encodebytes(b"%08d" % number * 4096))
        box[places[name]] = message
    box.flush()
    box.unlock()
    time.sleep(0.002)  # who never lets go for a moment cannot be captured: the page says so
    if number == 1:
        print("writing", flush=True)
    if select.select([sys.stdin], [], [], 0)[0]:
        break
box.close()
"""


@contextmanager
def opened(component: Component) -> Iterator[mailbox.mbox]:
    """The mailbox under its writers' lock, written when it is closed."""
    box = mailbox.mbox(component.location)
    try:
        box.lock()
        yield box
        box.flush()
        box.unlock()
    finally:
        box.close()


def key_of(message: mailbox.mboxMessage) -> str:
    """The exam's key, which may be any text, from a header, which may not."""
    return bytes.fromhex(str(message["X-Key"])).decode()


def message_of(key: str, value: bytes) -> mailbox.mboxMessage:
    """One message for one key."""
    message = mailbox.mboxMessage()
    message["X-Key"] = key.encode().hex()
    message["Message-ID"] = f"<{key.encode().hex()[:40]}@exam>"
    message.set_payload(base64.encodebytes(value))
    return message


class TestMbox(DriverExam):
    """Messages as the exam's data."""

    @pytest.fixture
    def driver(self) -> Driver:
        """As an installed package brings it: by its entry point."""
        return driver_for("mbox")

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        """Where the exam seeds its source."""
        return Component(name="inbox", driver="mbox", location=str(tmp_path / "inbox"))

    @pytest.fixture
    def target(self, tmp_path: Path) -> Component:
        """Where it restores to."""
        return Component(name="inbox", driver="mbox", location=str(tmp_path / "restored" / "inbox"))

    def seed(self, component: Component, data: Data) -> None:
        """One message for each key."""
        os.makedirs(os.path.dirname(component.location), exist_ok=True)
        with opened(component) as box:
            box.clear()
            for key, value in data.items():
                box.add(message_of(key, value))

    def peek(self, component: Component) -> Data:
        """What Python's mailbox finds."""
        with opened(component) as box:
            return {key_of(message): base64.b64decode(str(message.get_payload())) for message in box}

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        """What a mail client does."""
        with opened(component) as box:
            for place in [place for place, message in box.items() if key_of(message) == key]:
                box.remove(place)
            if value is not None:
                box.add(message_of(key, value))

    def pair_writer(self, component: Component) -> list[str]:
        """Both messages under one lock, and in one rename."""
        return [sys.executable, "-c", PAIR_WRITER, component.location]


def test_who_has_only_the_dot_lock_is_waited_for_and_the_limit_is_kept(tmp_path: Path) -> None:
    """A mailbox whose writer never lets go costs the limit, and no more."""
    live = Component(name="inbox", driver="mbox", location=str(tmp_path / "inbox"))
    TestMbox().seed(live, {"a": b"1"})
    (tmp_path / "inbox.lock").touch()
    began = time.monotonic()
    with pytest.raises(LimitExceeded), driver_for("mbox").freeze(live, 0.2):
        pass
    assert 0.2 <= time.monotonic() - began < 2
    (tmp_path / "inbox.lock").unlink()
    assert take(driver_for("mbox"), live).items


def test_messages_are_told_by_header_and_digest(tmp_path: Path) -> None:
    """A row a message, without its text; a subject that is no UTF-8 stops nothing."""
    box = tmp_path / "inbox"
    box.write_bytes(
        b"From a Mon Jan  5 10:00:00 2026\nMessage-ID: <1@x>\nFrom: ann@example.org\nSubject: caf\xe9\n\nhello\n\n"
        b"From b Mon Jan  5 10:00:01 2026\nMessage-ID: <1@x>\nFrom: bob@example.org\n\nFromage is no new message\n\n"
    )
    taken = take(driver_for("mbox"), Component(name="inbox", driver="mbox", location=str(box)))
    (rows,) = [item for item in taken.items if isinstance(item, Rows)]
    told = [row for batch in rows.batches for row in batch]
    assert [row[:2] for row in told] == [("<1@x>", "ann@example.org"), ("<1@x>", "bob@example.org")]
    assert sum(row[4] for row in told) == box.stat().st_size
    assert "hello" not in repr(told)
